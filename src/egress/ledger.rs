//! What an instance reached and what it was refused: bounded, told by name.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::{
    UnixMs,
    egress::{Egress, Refused},
};

/// Most hosts that are told apart; the others are counted together.
const HOSTS_MAX: usize = 64;
/// Most events in [`EVENTS_MS`]; beyond it refusals are only counted.
const EVENTS_MAX: usize = 20;
/// In milliseconds.
const EVENTS_MS: i64 = 3_600_000;
const HOUR_MS: i64 = 3_600_000;

/// Why something was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// See [`Refused`].
    Rule(Refused),
    /// Its name leads to an address that is not public.
    Private,
    /// TLS asked for another name.
    ServerName,
    /// Too many connections at the same time.
    Connections,
    /// Too many bytes in this hour.
    Volume,
    /// A request with a key of its own, where a broker adds one.
    OtherKey,
}

impl From<Refused> for Why {
    fn from(refused: Refused) -> Self {
        Self::Rule(refused)
    }
}

impl Why {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Rule(Refused::NotAllowed) => "it is not among the allowed hosts",
            Self::Rule(Refused::Denied) => "the operator denies it (sandbox.deny_hosts)",
            Self::Rule(Refused::Port) => "the host is allowed at other ports",
            Self::Rule(Refused::Brokered) => {
                "it is reached through the broker alone, which adds the key"
            }
            Self::OtherKey => "a request names another key than the one that is added outside",
            Self::Private => "it leads to a private address (sandbox.allow_private)",
            Self::ServerName => "its TLS connection asked for another name, or for none",
            Self::Connections => "too many connections at the same time (sandbox.connections_max)",
            Self::Volume => "too many bytes in an hour (sandbox.sent_bytes_per_hour)",
        }
    }
}

/// How often, of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCount {
    /// As `host:port`, or the host alone where only its name was asked for.
    pub host: String,
    /// Why it was refused the last time; `None`: it was reached.
    pub reason: Option<&'static str>,
    /// How often.
    pub count: u64,
    /// The last time.
    pub last_at: UnixMs,
}

/// What is known of an instance's connections since the daemon started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EgressReport {
    /// The rules in force, such as `api.example.com:443`.
    pub hosts: Vec<String>,
    /// Whether every public host is let through, to find the rules.
    pub learns: bool,
    /// Keys that stay outside: the variable of the credential, and the service that its key is added for.
    pub held_keys: Vec<(String, String)>,
    /// Questions and connections that were refused.
    pub refused: u64,
    /// The last time.
    pub last_refused_at: Option<UnixMs>,
    /// By host, the first ones that were refused.
    pub refused_hosts: Vec<HostCount>,
    /// By host, the first ones that were reached.
    pub reached_hosts: Vec<HostCount>,
    /// Bytes sent to hosts.
    pub sent_bytes: u64,
    /// Bytes received from hosts.
    pub received_bytes: u64,
}

type Tell = Box<dyn Fn(String) + Send + Sync>;

#[derive(Default)]
struct Counted {
    report: EgressReport,
    /// A gate was opened.
    is_used: bool,
    /// When events were told lately.
    told: Vec<UnixMs>,
    hour_began: UnixMs,
    hour_bytes: u64,
}

/// The record of one instance, shared by the gates of its children.
#[derive(Default)]
pub struct Ledger {
    counted: Mutex<Counted>,
    tell: Mutex<Option<Tell>>,
}

impl Ledger {
    /// Refusals of hosts that are new go to `tell`, as one sentence each; not more than a few in an hour.
    pub fn tell_to(&self, tell: impl Fn(String) + Send + Sync + 'static) {
        *self.tell.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(tell));
    }

    /// What is known; `None` before a gate was opened.
    #[must_use]
    pub fn report(&self) -> Option<EgressReport> {
        let counted = self.counted();
        counted.is_used.then(|| counted.report.clone())
    }

    /// A gate with these rules was opened.
    pub(super) fn begin(&self, egress: &Egress) {
        let mut counted = self.counted();
        counted.is_used = true;
        counted.report.hosts = egress.hosts.iter().map(ToString::to_string).collect();
        counted.report.learns = egress.learns;
        let brokers = egress.brokers.iter();
        let keys = brokers.flat_map(|broker| {
            let held = broker.variables().into_iter();
            held.map(|variable| (variable.to_string(), broker.upstream.origin()))
        });
        counted.report.held_keys = keys.collect();
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a refusal.
    pub(super) fn refuse(&self, host: &str, why: Why, now: UnixMs) {
        let is_news = {
            let mut counted = self.counted();
            counted.report.refused += 1;
            counted.report.last_refused_at = Some(now);
            let is_new = count(
                &mut counted.report.refused_hosts,
                host,
                Some(why.words()),
                now,
            );
            is_new && counted.may_tell(now)
        };
        if is_news {
            let tell = self.tell.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(tell) = tell.as_ref() {
                tell(format!("blocked: {host}: {}", why.words()));
            }
        }
    }

    /// Counts a connection.
    pub(super) fn reach(&self, host: &str, now: UnixMs) {
        count(&mut self.counted().report.reached_hosts, host, None, now);
    }

    /// Counts bytes that came from a host.
    pub(super) fn receive(&self, bytes: u64) {
        let report = &mut self.counted().report;
        report.received_bytes = report.received_bytes.saturating_add(bytes);
    }

    /// Counts bytes on their way to a host; `false`: they are too many in this hour and must not go.
    pub(super) fn send(&self, bytes: u64, per_hour: u64, now: UnixMs) -> bool {
        let mut counted = self.counted();
        if now.saturating_sub(counted.hour_began).unsigned_abs() >= HOUR_MS.unsigned_abs() {
            counted.hour_began = now;
            counted.hour_bytes = 0;
        }
        let sum = counted.hour_bytes.saturating_add(bytes);
        if sum > per_hour {
            return false;
        }
        counted.hour_bytes = sum;
        counted.report.sent_bytes = counted.report.sent_bytes.saturating_add(bytes);
        true
    }
}

impl Counted {
    fn may_tell(&mut self, now: UnixMs) -> bool {
        self.told.retain(|at| now.saturating_sub(*at) < EVENTS_MS);
        let may = self.told.len() < EVENTS_MAX;
        if may {
            self.told.push(now);
        }
        may
    }
}

/// Adds one to a host; `true`: it is new and told apart.
fn count(
    hosts: &mut Vec<HostCount>,
    host: &str,
    reason: Option<&'static str>,
    now: UnixMs,
) -> bool {
    if let Some(known) = hosts.iter_mut().find(|known| known.host == host) {
        known.count += 1;
        known.reason = reason;
        known.last_at = now;
        return false;
    }
    let has_room = hosts.len() < HOSTS_MAX;
    if has_room {
        hosts.push(HostCount {
            host: host.to_owned(),
            reason,
            count: 1,
            last_at: now,
        });
    }
    has_room
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn each_new_host_is_told_once_and_all_are_counted() {
        let ledger = Ledger::default();
        assert_eq!(ledger.report(), None);
        ledger.begin(&Egress::default());
        let told = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&told);
        ledger.tell_to(move |sentence| sink.lock().expect("not poisoned").push(sentence));
        ledger.refuse("api.x.com:443", Refused::NotAllowed.into(), 1);
        ledger.refuse("api.x.com:443", Why::Private, 2);
        for index in 0..200 {
            ledger.refuse(&format!("n{index}.x.com"), Refused::NotAllowed.into(), 3);
        }
        let report = ledger.report().expect("a gate was opened");
        assert_eq!((report.refused, report.last_refused_at), (202, Some(3)));
        assert_eq!(report.refused_hosts.len(), HOSTS_MAX);
        let first = &report.refused_hosts[0];
        assert_eq!(
            (first.host.as_str(), first.count, first.last_at),
            ("api.x.com:443", 2, 2)
        );
        assert!(
            first
                .reason
                .is_some_and(|reason| reason.contains("private"))
        );
        let told = told.lock().expect("not poisoned");
        assert_eq!(told.len(), EVENTS_MAX);
        assert!(
            told[0].starts_with("blocked: api.x.com:443: "),
            "{}",
            told[0]
        );
    }

    #[test]
    fn an_hour_has_so_many_bytes() {
        let ledger = Ledger::default();
        ledger.begin(&Egress::default());
        assert!(ledger.send(60, 100, 1_000_000_000));
        assert!(!ledger.send(60, 100, 1_000_000_001));
        assert!(ledger.send(40, 100, 1_000_000_002));
        assert!(ledger.send(60, 100, 1_000_000_000 + HOUR_MS));
        assert_eq!(ledger.report().map(|report| report.sent_bytes), Some(160));
    }
}
