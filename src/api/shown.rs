//! How instances are written as JSON: straight from what is known of them, since a list has a thousand.
//!
//! What was written of a published status is kept with it, so it can never be that of an older one; what changes without the
//! actor is written anew each time. [`wire::Instance`] says what the fields mean and is what clients read; what is written here reads as one.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use memchr::memchr_iter;
use serde::Serialize;

use super::view::{Time, time};
use crate::{
    domain::{
        exit::{ExitRecord, ExitStatus},
        id::InstanceId,
    },
    egress::{EgressReport, HostCount},
    supervisor::{DenialReport, Glance, Granted, InstanceStatus, Seen},
    wire,
};

/// About what one instance takes, in bytes.
const BYTES_EACH: usize = 2_560;
/// About what one takes in short.
const SUMMARY_BYTES_EACH: usize = 768;

/// JSON that is ready to be sent.
#[derive(Debug)]
pub struct Shown(Vec<u8>);

impl Shown {
    /// One instance, without its token.
    #[must_use]
    pub fn instance(seen: &Seen) -> Self {
        Self::one(seen, None)
    }

    /// One instance with the token that was just made, shown as `seen` says it is now.
    #[must_use]
    pub fn granted(granted: &Granted, seen: &Seen) -> Self {
        Self::one(seen, Some(granted))
    }

    fn one(seen: &Seen, granted: Option<&Granted>) -> Self {
        let mut text = Vec::with_capacity(BYTES_EACH);
        match seen.known_outline() {
            Some(known) => fill(&mut text, known, seen, granted),
            None => fill(&mut text, &outline(seen), seen, granted),
        }
        Self(text)
    }

    /// A page of a list.
    #[must_use]
    pub fn page(items: &[Seen], next_cursor: Option<InstanceId>) -> Self {
        Self::of(items, next_cursor, BYTES_EACH, |text, seen| {
            fill(text, seen.outline(outline), seen, None);
        })
    }

    /// A page of a list in short: each as [`wire::InstanceSummary`].
    #[must_use]
    pub fn summaries(items: &[Glance], next_cursor: Option<InstanceId>) -> Self {
        Self::of(items, next_cursor, SUMMARY_BYTES_EACH, |text, glance| {
            summarize(text, glance.outline(outline), glance);
        })
    }

    fn of<T>(
        items: &[T],
        next_cursor: Option<InstanceId>,
        bytes_each: usize,
        write: impl Fn(&mut Vec<u8>, &T),
    ) -> Self {
        let mut text = Vec::with_capacity((items.len() + 1) * bytes_each);
        let mut page = Object::begin(&mut text);
        page.put_list("items", items, write);
        page.put("next_cursor", &next_cursor);
        page.end();
        Self(text)
    }

    /// The same as clients read it.
    ///
    /// # Errors
    /// When what is written is no instance, which would be a fault of ours.
    pub fn read(&self) -> serde_json::Result<wire::Instance> {
        serde_json::from_slice(&self.0)
    }
}

impl IntoResponse for Shown {
    fn into_response(self) -> Response {
        let json = HeaderValue::from_static("application/json");
        ([(header::CONTENT_TYPE, json)], self.0).into_response()
    }
}

/// Stands in an outline for a value that changes without the actor, and where a summary ends. No JSON has this byte.
const HOLE: u8 = 0;
/// The hole at which a summary ends.
const SUMMARY_END: usize = 2;

/// What is written of a status for as long as it is the published one: the fields of [`wire::Instance`], those of
/// [`wire::InstanceSummary`] in front, with holes for what [`fill`] writes.
fn outline(status: &InstanceStatus) -> Vec<u8> {
    let record = &status.record;
    let mut text = Vec::with_capacity(BYTES_EACH);
    let mut instance = Object::begin(&mut text);
    instance.put("id", &record.id);
    instance.put("name", record.name.as_str());
    instance.put("owner", record.owner.as_str());
    instance.put("slug", record.slug().as_str());
    instance.put("template", record.template.as_str());
    instance.put("status", status.word.as_str());
    instance.put("since", &Time(status.since));
    instance.put_hole("reason");
    instance.put("next_action_at", &status.next_action_at.map(Time));
    instance.put("health", status.health.as_str());
    instance.put("desired", record.desired.as_str());
    instance.put("port", &record.port);
    instance.put("pid", &status.pid);
    instance.put("access_url", &status.access_url);
    instance.put("path_url", &status.path_url);
    instance.put("created_at", &Time(record.created_at));
    instance.put("expires_at", &record.lease.expires_at.map(Time));
    instance.put_hole("last_accessed_at");
    instance.put("restarts", &record.restarts);
    instance.text.push(HOLE);
    instance.put("generation", &record.generation);
    instance.put("remote", &status.remote);
    instance.put_hole("session_children");
    // The token and what goes with it, or nothing.
    instance.text.push(HOLE);
    instance.put("restore_until", &record.lease.restore_until.map(Time));
    instance.put("freeze_after", &status.freeze_after);
    instance.put("sleep_after", &status.sleep_after);
    instance.put("last_exit", &record.last_exit.as_ref().map(last_exit));
    instance.put("server", &status.server);
    instance.put_hole("isolation");
    instance.put_hole("egress");
    instance.put_hole("denials");
    match status.remote {
        None => instance.put("limits", &status.limits),
        // A server elsewhere has no limits of ours.
        Some(_) => instance.put_object("limits", |_| {}),
    }
    instance.put_object("credentials", |credentials| {
        for (variable, name) in &record.spec.credentials {
            credentials.put(variable.as_str(), name.as_str());
        }
    });
    instance.put("settings", &record.spec.settings);
    instance.put("labels", &record.spec.labels);
    instance.end();
    text
}

/// Writes an outline with its holes filled.
fn fill(text: &mut Vec<u8>, outline: &[u8], seen: &Seen, granted: Option<&Granted>) {
    let mut begin = 0;
    for (index, hole) in memchr_iter(HOLE, outline).enumerate() {
        text.extend_from_slice(&outline[begin..hole]);
        begin = hole + 1;
        match index {
            0 => put(text, &seen.reason()),
            1 => put(text, &seen.last_accessed_at.map(Time)),
            SUMMARY_END => {}
            3 => put(text, &session_children(&seen.members)),
            4 => granted.into_iter().for_each(|granted| {
                text.extend_from_slice(b",\"access_token\":");
                put(text, granted.access_token.as_str());
                text.extend_from_slice(b",\"connect_url\":");
                put(text, granted.connect_url.as_str());
            }),
            // Most of it is the same of all: it would be kept a thousand times.
            5 => isolation(text, seen),
            6 => put(text, &seen.egress.as_ref().map(egress)),
            _ => put(text, &seen.denials.as_ref().map(denials)),
        }
    }
    text.extend_from_slice(&outline[begin..]);
}

/// Writes the part of an outline that is a summary.
fn summarize(text: &mut Vec<u8>, outline: &[u8], glance: &Glance) {
    let mut begin = 0;
    for (index, hole) in memchr_iter(HOLE, outline).take(SUMMARY_END + 1).enumerate() {
        text.extend_from_slice(&outline[begin..hole]);
        begin = hole + 1;
        match index {
            0 => put(text, &glance.reason()),
            1 => put(text, &glance.last_accessed_at.map(Time)),
            _ => text.push(b'}'),
        }
    }
}

fn isolation(text: &mut Vec<u8>, seen: &Seen) {
    let isolation = &seen.isolation;
    let mut object = Object::begin(text);
    object.put_members(isolation.common_members());
    if let Some((layer, state)) = isolation.own_member() {
        object.put(layer, state);
    }
    object.end();
}

fn put<T: Serialize + ?Sized>(text: &mut Vec<u8>, value: &T) {
    let begin = text.len();
    // Memory takes everything, and a value of ours that cannot be written as JSON is a fault that tests find.
    if serde_json::to_writer(&mut *text, value).is_err() {
        text.truncate(begin);
        text.extend_from_slice(b"null");
    }
}

/// A JSON object that is being written. Its keys are words that need no escapes.
struct Object<'a> {
    text: &'a mut Vec<u8>,
    is_empty: bool,
}

impl<'a> Object<'a> {
    fn begin(text: &'a mut Vec<u8>) -> Self {
        text.push(b'{');
        Self {
            text,
            is_empty: true,
        }
    }

    fn end(self) {
        self.text.push(b'}');
    }

    fn next(&mut self) {
        if !std::mem::replace(&mut self.is_empty, false) {
            self.text.push(b',');
        }
    }

    fn key(&mut self, key: &str) {
        self.next();
        self.text.push(b'"');
        self.text.extend_from_slice(key.as_bytes());
        self.text.extend_from_slice(b"\":");
    }

    fn put<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) {
        self.key(key);
        put(self.text, value);
    }

    fn put_hole(&mut self, key: &str) {
        self.key(key);
        self.text.push(HOLE);
    }

    fn put_object(&mut self, key: &str, fill: impl FnOnce(&mut Object<'_>)) {
        self.key(key);
        let mut object = Object::begin(self.text);
        fill(&mut object);
        object.end();
    }

    fn put_list<T>(&mut self, key: &str, items: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
        self.key(key);
        self.text.push(b'[');
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.text.push(b',');
            }
            write(self.text, item);
        }
        self.text.push(b']');
    }

    /// Members that were written before.
    fn put_members(&mut self, members: &str) {
        if !members.is_empty() {
            self.next();
            self.text.extend_from_slice(members.as_bytes());
        }
    }
}

fn session_children(members: &[(u32, Option<u32>)]) -> Vec<wire::SessionChild> {
    let child = |(number, pid): &(u32, Option<u32>)| wire::SessionChild {
        number: *number,
        pid: *pid,
    };
    members.iter().map(child).collect()
}

fn denials(report: &DenialReport) -> wire::Denials {
    let calls = report.calls.iter();
    let calls = calls.map(|(call, count, last_at)| wire::DeniedCall {
        call: call.clone(),
        count: *count,
        last_at: time(*last_at),
    });
    wire::Denials {
        total: report.total,
        last_at: report.last_at.map(time),
        calls: calls.collect(),
    }
}

fn egress(report: &EgressReport) -> wire::Egress {
    let hosts = |hosts: &[HostCount]| {
        let host = |host: &HostCount| wire::EgressHost {
            host: host.host.clone(),
            reason: host.reason.map(str::to_owned),
            count: host.count,
            last_at: time(host.last_at),
        };
        hosts.iter().map(host).collect()
    };
    wire::Egress {
        hosts: report.hosts.clone(),
        learns: report.learns,
        held_keys: report
            .held_keys
            .iter()
            .map(|(variable, upstream)| wire::HeldKey {
                variable: variable.clone(),
                upstream: upstream.clone(),
            })
            .collect(),
        refused: report.refused,
        last_refused_at: report.last_refused_at.map(time),
        refused_hosts: hosts(&report.refused_hosts),
        reached_hosts: hosts(&report.reached_hosts),
        sent_bytes: report.sent_bytes,
        received_bytes: report.received_bytes,
    }
}

fn last_exit(exit: &ExitRecord) -> wire::LastExit {
    let (code, signal) = match exit.status {
        ExitStatus::Exited { code } => (Some(code), None),
        ExitStatus::Signaled { signal } => (None, Some(signal)),
        ExitStatus::OutOfMemory
        | ExitStatus::NotStarted { .. }
        | ExitStatus::KeeperLost
        | ExitStatus::Disconnected { .. } => (None, None),
    };
    wire::LastExit {
        generation: exit.generation.0,
        at: time(exit.at),
        cause: exit.status.to_string(),
        code,
        signal,
        out_of_memory: exit.status == ExitStatus::OutOfMemory,
        cpu_ms: exit
            .usage
            .user_cpu_ms
            .saturating_add(exit.usage.system_cpu_ms),
        max_rss_kib: exit.usage.max_rss_kib,
        last_stderr: exit.last_stderr.clone(),
    }
}

#[cfg(test)]
#[path = "shown_tests.rs"]
mod tests;
