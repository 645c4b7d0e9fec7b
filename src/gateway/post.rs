//! `POST`: one message of a client, checked, recorded and handed to the client's era.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, request::Parts};

use super::{
    Gateway, Message, Place, Reply, entrance::Entrance, held, limit, record, reply, scope,
    stateless,
};
use crate::{
    domain::UnixMs,
    supervisor::access::Secret,
    upstream::{Envelope, Era, Kind},
};

/// A message that was read.
struct Posted<'a> {
    source: &'a Bytes,
    envelope: &'a Envelope<'a>,
    kind: Kind,
    stateless: bool,
    /// The value of the header that names a session.
    session: Option<&'a HeaderValue>,
}

impl Gateway {
    /// Boxed below is what few requests need: the state of a request is moved with each of them.
    pub(super) async fn post<B>(&self, entrance: &Entrance<'_>, parts: &Parts, body: B) -> Reply
    where
        B: hyper::body::Body<Data = Bytes> + Unpin,
    {
        let Entrance {
            place,
            ref secret,
            session,
            arrival,
            ..
        } = *entrance;
        let source = match self.read_json(parts, body).await {
            Ok(source) => source,
            Err(refused) => return *refused,
        };
        if source.trim_ascii_start().first() == Some(&b'[') {
            return Box::pin(self.batch(place, parts, &source, secret, arrival)).await;
        }
        let envelope = match Envelope::parse(&source) {
            Ok(envelope) => envelope,
            Err(error) => return reply::not_a_message(&error),
        };
        let kind = match envelope.kind() {
            Ok(kind) => kind,
            Err(error) => return reply::not_a_message(&error),
        };
        let stateless =
            session.is_none() && stateless::is_stateless(&parts.headers, &source, &envelope);
        let recorder = self.calls.get().and_then(|sink| {
            let one = std::iter::once((&source[..], &envelope));
            record::begin(
                sink,
                place,
                secret,
                (stateless, arrival),
                Some(&parts.headers),
                one,
            )
        });
        let posted = Posted {
            source: &source,
            envelope: &envelope,
            kind,
            stateless,
            session,
        };
        let reply = self
            .post_one(place, parts, &posted, secret, arrival.at)
            .await;
        match recorder {
            Some(recorder) => recorder.watch(reply),
            None => reply,
        }
    }

    async fn post_one(
        &self,
        place: &Arc<Place>,
        parts: &Parts,
        posted: &Posted<'_>,
        secret: &Secret,
        now: UnixMs,
    ) -> Reply {
        let Posted {
            source,
            envelope,
            kind,
            stateless,
            session,
        } = *posted;
        let id = match kind {
            Kind::Request => envelope.id.map_or("null", |id| id.get()),
            Kind::Notification | Kind::Response => "null",
        };
        // A stream of news is no call: it may last for days.
        let is_call = kind == Kind::Request && envelope.method() != "subscriptions/listen";
        let permit = match limit::begin(
            secret,
            is_call.into(),
            self.config.token_concurrency_max,
            id,
        ) {
            Ok(permit) => permit,
            Err(refused) => return *refused,
        };
        let session = place.session_named(session, secret, now);
        let message = Message {
            source,
            envelope,
            kind,
            id,
            secret,
            body: source.clone(),
        };
        let shown = |reply: Reply| {
            let reply = held::counted(reply, permit);
            if envelope.method() == "tools/list" {
                held::seen_through(reply, secret, self.config.line_limit_bytes)
            } else {
                reply
            }
        };
        let upstream = match self.ready_at_once(place, session.as_deref()) {
            Some(ready) => ready,
            None => {
                let shared = session.as_ref();
                let answered = self.in_place(place, Some(parts), &message, stateless, shared);
                if let Some(answered) = Box::pin(answered).await {
                    return shown(Self::reply_in_place(place, parts, answered));
                }
                match Box::pin(self.ready_in(place, session.as_deref())).await {
                    Ok(ready) => ready,
                    Err(unready) => return reply::unready(&place.route, id, &unready),
                }
            }
        };
        if let Err(refused) = scope::check(secret, &upstream, id, source, envelope).await {
            return *refused;
        }
        let era = if stateless { Era::Modern } else { Era::Legacy };
        // A child's own server answers clients of its eras itself; the others meet it as they would meet a pipe.
        if upstream.speaks(era) && session.is_none() {
            let answers = (kind == Kind::Request).then(|| Box::from(id));
            let reply = Box::pin(self.relay(place, parts, source.clone(), answers)).await;
            return shown(reply);
        }
        let reply = if stateless {
            self.post_stateless(place, parts, &message, &upstream).await
        } else {
            self.post_in_session(place, parts, &message, &upstream, session)
                .await
        };
        shown(reply)
    }
}
