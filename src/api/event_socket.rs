//! The events over a WebSocket: each a text of JSON, [`EventMessage`].
//!
//! One task for each socket. An event that the client does not take holds up nobody else: what happens meanwhile is read
//! from the store later ([`Follow`]), and after a while the socket is closed. The client comes back with the greatest `id`
//! that it saw.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};
use tokio_util::sync::CancellationToken;

use super::event_follow::{Follow, Told};
use crate::wire::EventMessage;

/// Between two pings: shorter than the idle timeout of common proxies.
const PING_EVERY: Duration = Duration::from_secs(15);
/// So many pings in a row may stay without any sign of life.
const UNANSWERED_MAX: u32 = 4;
/// How long a client may take to make room for one message.
const SEND_MAX: Duration = Duration::from_secs(30);
/// How long the closing handshake is waited for; the server's own drain takes twice as long.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Why a stream ends; [`Self::frame`] is what the client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client closed it, or its connection broke.
    Gone,
    /// The daemon goes down; the next one goes on.
    Away,
    /// The database went away while the client was brought up.
    NoStore,
    /// The client took no message for [`SEND_MAX`].
    Slow,
    /// No sign of life for [`UNANSWERED_MAX`] pings.
    Silent,
    /// The client sent a message.
    Spoke,
    /// The client broke the protocol, or sent too much.
    Broken(CloseCode),
}

impl End {
    fn of(error: &Error) -> Self {
        match error {
            Error::Capacity(_) => Self::Broken(CloseCode::Size),
            Error::Protocol(_) => Self::Broken(CloseCode::Protocol),
            Error::Utf8(_) => Self::Broken(CloseCode::Invalid),
            _ => Self::Gone,
        }
    }

    fn frame(self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            Self::Gone => return None,
            Self::Away => (CloseCode::Away, "the daemon goes down; come back"),
            Self::NoStore => (CloseCode::Again, "the database is away; come back later"),
            Self::Slow => (
                CloseCode::Policy,
                "events were not read for 30 s; come back",
            ),
            Self::Silent => (CloseCode::Policy, "pings were not answered for a minute"),
            Self::Spoke => (CloseCode::Unsupported, "this stream takes no messages"),
            Self::Broken(code) => (code, "not WebSocket as RFC 6455 has it, or too long"),
        };
        let reason = reason.into();
        Some(CloseFrame { code, reason })
    }
}

/// Sends events until the client, its silence or `shutdown` ends it, and closes the socket.
pub async fn run<S>(mut socket: WebSocketStream<S>, mut follow: Follow, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let end = send_events(&mut socket, &mut follow, &shutdown).await;
    tracing::debug!(?end, "a stream of events over a WebSocket ended");
    let farewell = async {
        let told = match end.frame() {
            Some(frame) => socket.close(Some(frame)).await.is_ok(),
            None => true,
        };
        // What is on its way from the client is read, or the kernel would take back what we sent last.
        while told && matches!(socket.next().await, Some(Ok(_))) {}
    };
    // Who does not close in time is cut off.
    let _ = timeout(CLOSE_MAX, farewell).await;
}

async fn send_events<S>(
    socket: &mut WebSocketStream<S>,
    follow: &mut Follow,
    shutdown: &CancellationToken,
) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut pings = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut unanswered = 0;
    loop {
        let message = tokio::select! {
            biased;
            received = socket.next() => match received {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {
                    unanswered = 0;
                    continue;
                }
                Some(Ok(Message::Close(_))) | None => return End::Gone,
                Some(Ok(_)) => return End::Spoke,
                Some(Err(error)) => return End::of(&error),
            },
            _ = pings.tick() => {
                if unanswered >= UNANSWERED_MAX {
                    return End::Silent;
                }
                unanswered += 1;
                Message::Ping(Bytes::new())
            }
            told = follow.next() => match told {
                Some(told) => text(told),
                None if shutdown.is_cancelled() => return End::Away,
                None => return End::NoStore,
            },
        };
        let sent = tokio::select! {
            biased;
            () = shutdown.cancelled() => return End::Away,
            sent = timeout(SEND_MAX, socket.send(message)) => sent,
        };
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return End::of(&error),
            Err(_) => return End::Slow,
        }
    }
}

fn text(told: Told) -> Message {
    let message = match told {
        Told::Event(event) => EventMessage::Event(event),
        Told::Gap(gap) => EventMessage::Gap(gap),
    };
    Message::text(serde_json::to_string(&message).expect("an event is made of texts and numbers"))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, DuplexStream},
        sync::broadcast,
        task::JoinHandle,
        time::{pause, resume},
    };
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;
    use crate::{
        config::DatabaseConfig,
        domain::id::{Generation, InstanceId},
        store::Store,
        supervisor::InstanceEvent,
    };

    /// A stream with nothing behind it but live events; the clock stands still.
    struct Stage {
        _folder: tempfile::TempDir,
        store: Store,
        live: broadcast::Sender<InstanceEvent>,
        shutdown: CancellationToken,
    }

    impl Stage {
        async fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let config = DatabaseConfig {
                url: format!("sqlite:{}", folder.path().join("test.db").display()),
                ..DatabaseConfig::default()
            };
            let store = Store::connect(&config).await.expect("SQLite opens");
            pause();
            Self {
                _folder: folder,
                store,
                live: broadcast::Sender::new(64),
                shutdown: CancellationToken::new(),
            }
        }

        /// The client's end of a pipe of so many bytes.
        async fn open(&self, pipe_bytes: usize) -> (DuplexStream, JoinHandle<()>) {
            let (client, server) = tokio::io::duplex(pipe_bytes);
            let (store, live) = (self.store.clone(), self.live.subscribe());
            let follow = Follow::new(store, live, self.shutdown.clone(), None, None);
            let socket = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
            let running = tokio::spawn(run(socket, follow, self.shutdown.clone()));
            (client, running)
        }

        fn happens(&self, id: i64) {
            let event = InstanceEvent {
                id,
                instance: InstanceId(uuid::Uuid::from_u128(1)),
                generation: Generation(1),
                at: 0,
                kind: "running".to_owned(),
                message: "x".repeat(1_000),
            };
            self.live.send(event).expect("somebody listens");
        }

        async fn end(self) {
            resume();
            self.store.close().await;
        }
    }

    /// All that comes, up to the code of the close; what the client hears it answers.
    async fn read(client: DuplexStream) -> (Vec<Message>, u16) {
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let mut came = vec![];
        loop {
            match client
                .next()
                .await
                .expect("it is closed first")
                .expect("a message")
            {
                Message::Close(frame) => return (came, frame.expect("a code").code.into()),
                message => came.push(message),
            }
        }
    }

    #[tokio::test]
    async fn who_does_not_read_is_closed_and_finds_the_reason_when_it_comes_back() {
        let stage = Stage::new().await;
        let (client, mut running) = stage.open(512).await;
        stage.happens(1);
        let closing = timeout(SEND_MAX + Duration::from_secs(1), &mut running).await;
        closing.expect_err("the closing handshake is waited for");
        let (came, code) = read(client).await;
        assert_eq!(code, 1008);
        assert!(
            matches!(&came[..], [Message::Text(text)] if text.contains("\"id\":1")),
            "{came:?}"
        );
        running.await.expect("it ends");
        // And one that stays away.
        let (client, running) = stage.open(512).await;
        stage.happens(2);
        running.await.expect("it ends");
        drop(client);
        stage.end().await;
    }

    #[tokio::test]
    async fn who_is_silent_is_closed_and_who_answers_pings_is_not() {
        let stage = Stage::new().await;
        let (mut silent, running) = stage.open(64 << 10).await;
        let (client, _answering) = stage.open(64 << 10).await;
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let began = Instant::now();
        // Pongs go out while this one reads.
        while began.elapsed() < Duration::from_secs(600) {
            let message = client.next().await.expect("it goes on").expect("a message");
            assert_eq!(message, Message::Ping(Bytes::new()));
        }
        running.await.expect("it ended meanwhile");
        let mut came = vec![];
        silent.read_to_end(&mut came).await.expect("it is closed");
        // Four empty pings, then a close with its code in two bytes (RFC 6455, section 5.2).
        assert_eq!(&came[..9], [0x89, 0, 0x89, 0, 0x89, 0, 0x89, 0, 0x88]);
        assert_eq!(came[10..12], 1008_u16.to_be_bytes());
        stage.happens(1);
        let message = client.next().await.expect("it goes on").expect("a message");
        let text = message.to_text().expect("text");
        assert!(text.starts_with("{\"type\":\"event\",\"id\":1,"), "{text}");
        stage.shutdown.cancel();
        assert_eq!(read(client.into_inner()).await.1, 1001);
        stage.end().await;
    }

    #[tokio::test]
    async fn who_missed_something_for_good_is_told() {
        let stage = Stage::new().await;
        let (client, _running) = stage.open(64 << 10).await;
        // The task does not run before the first wait: 64 are held back for it.
        (1..=70).for_each(|id| stage.happens(id));
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let message = client.next().await.expect("it goes on").expect("a message");
        assert_eq!(message, Message::text("{\"type\":\"gap\",\"missed\":6}"));
        let message = client.next().await.expect("it goes on").expect("a message");
        assert!(message.to_text().expect("text").contains("\"id\":7,"));
        stage.end().await;
    }
}
