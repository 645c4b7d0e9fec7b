//! Members: children that serve one client session each, beside the main child of their instance.
//!
//! ```text
//!             TurnCame             Launched            Ready
//!  Waiting ────────────► Launching ────────► Shaking ────────► Serving
//!     │ Unwanted            │ LaunchFailed      │ Unwanted, failed │ Unwanted, Broken
//!     ▼                     ▼                   ▼                  ▼
//!    Gone ◄──────────────────────────── Exited ─┴── Closing ─► Terminating ─► Killing
//! ```
//!
//! A member is never launched again: what its server knew of the session is gone with it, so the session ends too and
//! its client begins a new one.
//!
//! One that serves, or that a former daemon left, outlives its daemon (`Released`). The next one begins with it as `Left`
//! until its session claims it.

use super::{
    UnixMs,
    exit::ExitStatus,
    state::StopReason,
    template::{StopSpec, Template},
};

/// How long to wait before a kill that was not confirmed is sent again.
const KILL_AGAIN_MS: u64 = 1_000;

/// The longest of each grace period when a lease ran out.
const EXPIRY_GRACE_MS: u64 = 80;

/// Something that happened to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberEvent {
    /// It is its turn to be launched.
    TurnCame,
    /// The child exists.
    Launched,
    /// There will be no child.
    LaunchFailed(ExitStatus),
    /// The handshake is done.
    Ready,
    /// It lives but cannot serve: no handshake, or its stdout is closed. The cause.
    Broken(String),
    /// Its session ended, or whoever waited for it left.
    Unwanted,
    /// The instance stops.
    InstanceStops(StopReason),
    /// The daemon ends, and what serves goes on under the next one.
    Released,
    /// The session that a former daemon gave it to goes on.
    Claimed,
    /// The armed timer fired.
    Deadline,
    /// The main process ended and its tree is gone.
    Exited(ExitStatus),
}

/// Something to do, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberEffect {
    /// Launch the child.
    Launch,
    /// Hand it to the session that waits for it.
    Serve,
    /// Close its stdin.
    CloseStdin,
    /// Send SIGTERM.
    Terminate,
    /// Kill the whole tree.
    KillTree,
    /// Set the one timer, in milliseconds from now.
    ArmIn(u64),
    /// Leave the child as it is, to the next daemon.
    LetGo,
    /// It is over: nothing of it is left.
    Over(MemberEnd),
}

/// How a member ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberEnd {
    /// One sentence.
    pub cause: String,
    /// How its process ended, if there was one.
    pub status: Option<ExitStatus>,
    /// Somebody wanted it to end; else it is told as an event.
    pub asked: bool,
}

/// What the template says about its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberPolicy {
    /// From the launch to the handshake, in milliseconds.
    pub start_timeout_ms: u64,
    /// Grace periods.
    pub stop: StopSpec,
}

impl From<&Template> for MemberPolicy {
    fn from(template: &Template) -> Self {
        Self {
            start_timeout_ms: template.health.start_timeout.ms(),
            stop: template.stop,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Launching,
    Shaking,
    Left,
    Serving,
    Closing,
    Terminating,
    Killing,
    Gone,
}

/// The life of one member.
#[derive(Debug, Clone)]
pub struct MemberLife {
    state: State,
    policy: MemberPolicy,
    /// Why somebody wants it to end.
    asked: Option<&'static str>,
    /// Why we end it ourselves.
    broken: Option<String>,
    /// Graces are short.
    hurried: bool,
}

impl MemberLife {
    /// A member that waits for its turn.
    #[must_use]
    pub fn new(policy: MemberPolicy) -> Self {
        Self::begin(State::Waiting, policy)
    }

    /// A member of a former daemon, whose session has not claimed it yet.
    #[must_use]
    pub fn left(policy: MemberPolicy) -> Self {
        Self::begin(State::Left, policy)
    }

    fn begin(state: State, policy: MemberPolicy) -> Self {
        Self {
            state,
            policy,
            asked: None,
            broken: None,
            hurried: false,
        }
    }

    /// Whether it is over, here at least.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.state == State::Gone
    }

    /// Takes an event in; answers what follows. An event that does not fit the state has no effect.
    pub fn step(&mut self, event: MemberEvent) -> Vec<MemberEffect> {
        match event {
            MemberEvent::TurnCame if self.state == State::Waiting => {
                self.state = State::Launching;
                vec![MemberEffect::Launch]
            }
            MemberEvent::Launched if self.state == State::Launching => {
                if self.asked.is_some() {
                    return self.close();
                }
                self.state = State::Shaking;
                vec![MemberEffect::ArmIn(self.policy.start_timeout_ms)]
            }
            MemberEvent::LaunchFailed(status) if self.state == State::Launching => {
                self.over(Some(status))
            }
            MemberEvent::Ready if self.state == State::Shaking => {
                self.state = State::Serving;
                vec![MemberEffect::Serve]
            }
            MemberEvent::Claimed if self.state == State::Left => {
                self.state = State::Serving;
                Vec::new()
            }
            MemberEvent::Broken(cause) => self.give_up(cause),
            MemberEvent::Unwanted if self.state == State::Left => {
                self.broken = Some("its session did not outlive the former daemon".to_owned());
                self.close()
            }
            MemberEvent::Unwanted => self.leave("its session ended"),
            MemberEvent::InstanceStops(reason) => {
                self.hurried |= reason == StopReason::Expired;
                self.leave("its instance was stopped")
            }
            MemberEvent::Released if matches!(self.state, State::Left | State::Serving) => {
                self.state = State::Gone;
                vec![MemberEffect::LetGo]
            }
            MemberEvent::Released => self.leave("the daemon ended"),
            MemberEvent::Deadline => self.deadline(),
            MemberEvent::Exited(status) if self.has_child() => self.over(Some(status)),
            _ => Vec::new(),
        }
    }

    fn has_child(&self) -> bool {
        !matches!(self.state, State::Waiting | State::Launching | State::Gone)
    }

    fn leave(&mut self, why: &'static str) -> Vec<MemberEffect> {
        if self.state != State::Gone && self.broken.is_none() {
            self.asked.get_or_insert(why);
        }
        match self.state {
            State::Waiting => self.over(None),
            State::Shaking | State::Left | State::Serving => self.close(),
            // The keeper is at work, or it is on its way out.
            _ => Vec::new(),
        }
    }

    fn close(&mut self) -> Vec<MemberEffect> {
        self.state = State::Closing;
        vec![
            MemberEffect::CloseStdin,
            MemberEffect::ArmIn(self.grace_ms(self.policy.stop.eof_grace.ms())),
        ]
    }

    fn give_up(&mut self, cause: String) -> Vec<MemberEffect> {
        if !matches!(self.state, State::Shaking | State::Left | State::Serving) {
            return Vec::new();
        }
        self.broken = Some(cause);
        self.kill()
    }

    fn kill(&mut self) -> Vec<MemberEffect> {
        self.state = State::Killing;
        vec![MemberEffect::KillTree, MemberEffect::ArmIn(KILL_AGAIN_MS)]
    }

    fn deadline(&mut self) -> Vec<MemberEffect> {
        match self.state {
            State::Shaking => {
                let seconds = self.policy.start_timeout_ms / 1_000;
                self.give_up(format!(
                    "it did not finish the MCP handshake within {seconds} s"
                ))
            }
            State::Closing => {
                self.state = State::Terminating;
                vec![
                    MemberEffect::Terminate,
                    MemberEffect::ArmIn(self.grace_ms(self.policy.stop.term_grace.ms())),
                ]
            }
            State::Terminating | State::Killing => self.kill(),
            State::Waiting | State::Launching | State::Left | State::Serving | State::Gone => {
                Vec::new()
            }
        }
    }

    fn over(&mut self, status: Option<ExitStatus>) -> Vec<MemberEffect> {
        self.state = State::Gone;
        let how = status.as_ref().map(|status| format!("it {status}"));
        let why = self.asked.map(str::to_owned).or(self.broken.take());
        let cause = match (why, how) {
            (Some(why), Some(how)) => format!("{why}; {how}"),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => "it was never launched".to_owned(),
        };
        vec![MemberEffect::Over(MemberEnd {
            cause,
            status,
            asked: self.asked.is_some(),
        })]
    }

    /// A lease ends when it was said to end; it was announced long before.
    fn grace_ms(&self, grace_ms: u64) -> u64 {
        if self.hurried {
            grace_ms.min(EXPIRY_GRACE_MS)
        } else {
            grace_ms
        }
    }
}

/// Whether one more member may be launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// At once.
    Now,
    /// As soon as one that is on its way out is gone.
    WhenOneIsGone,
    /// Not: all are in use.
    Refused,
}

/// Decides by what there is: `present` members whose processes are not gone, `ending` of them on their way out, and
/// `waiting` ones that were admitted and not begun.
#[must_use]
pub fn admit(present: usize, ending: usize, waiting: usize, members_max: usize) -> Admission {
    if present + waiting < members_max {
        Admission::Now
    } else if present + waiting < members_max + ending {
        Admission::WhenOneIsGone
    } else {
        Admission::Refused
    }
}

/// A client session, as far as it matters for who gives way.
#[derive(Debug, Clone, Copy)]
pub struct Resting<K, B> {
    /// Which.
    pub key: K,
    /// Its last use.
    pub used_at: UnixMs,
    /// Whether it is being opened, has a stream, or has a call under way; asked only when somebody must give way.
    pub busy: B,
    /// A member serves it.
    pub has_member: bool,
}

/// Whether there is room for one more session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room<K> {
    /// There is.
    Free,
    /// There is when this one ends: it rested longest.
    After(K),
    /// All sessions are in use; how many there may be.
    SessionsFull(usize),
    /// All members are in use; how many there may be.
    MembersFull(usize),
}

/// Makes room for a session; one that wants a member (`members_max`) needs room under both limits.
#[must_use]
pub fn room<K, B: Fn() -> bool>(
    sessions: impl Iterator<Item = Resting<K, B>> + Clone,
    sessions_max: usize,
    members_max: Option<usize>,
) -> Room<K> {
    let members = sessions.clone().filter(|session| session.has_member);
    let full = members_max.filter(|max| members.count() >= *max);
    if full.is_none() && sessions.clone().count() < sessions_max {
        return Room::Free;
    }
    let oldest = sessions
        .filter(|session| (session.has_member || full.is_none()) && !(session.busy)())
        .min_by_key(|session| session.used_at);
    match (oldest, full) {
        (Some(oldest), _) => Room::After(oldest.key),
        (None, Some(max)) => Room::MembersFull(max),
        (None, None) => Room::SessionsFull(sessions_max),
    }
}

#[cfg(test)]
#[path = "member_tests.rs"]
mod tests;
