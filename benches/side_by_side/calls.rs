//! Calls of one tool of one server, five ways in turns: its own pipes, the floor, the peer, and our access URL in both
//! eras. All of them in one run, because only then can their figures be divided.

use std::path::Path;

use super::{
    BUSY, Plan,
    daemon::Daemon,
    figures::{Bound, Figures, Summary},
    floor::Floor,
    mcp::{Endpoint, StdioServer},
    peer::{self, Peer},
};

/// A server with a tool `echo`.
pub struct Server<'a> {
    /// Also of its template.
    pub name: &'a str,
    pub command: &'a [String],
    /// Calls are divided by it, for servers that take that much longer.
    pub slowness: usize,
}

/// What was measured with so many calls at a time.
struct Measured {
    direct: Summary,
    floor: Summary,
    peer: Option<Summary>,
    /// Ours, by era.
    session: Summary,
    stateless: Summary,
}

/// Rows of every way with one call and with [`BUSY`] calls at a time, and what they say of the goals.
pub fn compare(
    figures: &mut Figures,
    daemon: &mut Daemon,
    plan: &Plan,
    server: &Server<'_>,
    peer: Option<&Path>,
) {
    let mut direct = StdioServer::start(server.command);
    let (_floor, floor) = Floor::start(server.command);
    let peer = peer.map(|program| Peer::start(program, server.command));
    let peer = peer.as_ref().map(|(_, endpoint)| endpoint);
    let instance = daemon.create(server.name);
    let mut measure = |outstanding, count| {
        let ways = Ways {
            floor: &floor,
            peer,
            session: &instance.endpoint,
            stateless: &instance.endpoint.stateless(),
        };
        let count = count / server.slowness;
        let measured = ways.measure(&mut direct, plan.rounds, count, outstanding);
        let title = format!("calls to {}, {outstanding} at a time", server.name);
        figures.heading(&title, Figures::COMPARED);
        measured.rows(figures);
        measured
    };
    let alone = measure(1, plan.calls_alone);
    let busy = measure(BUSY, plan.calls_busy);
    daemon.delete(&instance);
    figures.heading(&format!("against the goals, {}", server.name), "");
    goals(figures, &alone, &busy);
}

/// The ways over HTTP.
struct Ways<'a> {
    floor: &'a Endpoint,
    peer: Option<&'a Endpoint>,
    session: &'a Endpoint,
    stateless: &'a Endpoint,
}

impl Ways<'_> {
    /// Each way once in every round, so that what else the machine does meets all of them.
    fn measure(
        &self,
        direct: &mut StdioServer,
        rounds: usize,
        count: usize,
        outstanding: usize,
    ) -> Measured {
        let of = |endpoint: &Endpoint| Summary::of_load(endpoint.load(count, outstanding));
        let (mut pipes, mut floor, mut peer) = (Vec::new(), Vec::new(), Vec::new());
        let (mut session, mut stateless) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            pipes.push(Summary::of_load(direct.load(count, outstanding)));
            floor.push(of(self.floor));
            peer.extend(self.peer.map(of));
            session.push(of(self.session));
            stateless.push(of(self.stateless));
        }
        Measured {
            direct: Summary::median(&pipes),
            floor: Summary::median(&floor),
            peer: (!peer.is_empty()).then(|| Summary::median(&peer)),
            session: Summary::median(&session),
            stateless: Summary::median(&stateless),
        }
    }
}

impl Measured {
    fn rows(&self, figures: &mut Figures) {
        let mut row = |name: &str, summary| {
            figures.compared(name, summary, self.direct, self.floor, self.peer);
        };
        row("direct: the server's own pipes", self.direct);
        row("floor: HTTP to pipes, nothing else", self.floor);
        if let Some(peer) = self.peer {
            row("peer: mcp-proxy, the Rust crate", peer);
        }
        row("minimcp: the access URL, with sessions", self.session);
        row("minimcp: the access URL, stateless", self.stateless);
        if self.peer.is_none() {
            figures.missing("peer: mcp-proxy, the Rust crate", peer::INSTALL);
        }
    }
}

/// What the gateway promises, for both eras.
fn goals(figures: &mut Figures, alone: &Measured, busy: &Measured) {
    let rate = |summary: Summary| summary.per_second.unwrap_or(f64::NAN);
    let added = |summary: Summary| summary.p50_us - alone.direct.p50_us;
    let eras = [
        ("with sessions", alone.session, busy.session),
        ("stateless", alone.stateless, busy.stateless),
    ];
    for (era, alone_ours, busy_ours) in eras {
        let mut goal = |what: &str, ours: f64, theirs: f64, bound| {
            figures.goal(&format!("{era}: {what}"), ours / theirs, bound);
        };
        let ours = added(alone_ours);
        if let (Some(alone_peer), Some(busy_peer)) = (alone.peer, busy.peer) {
            let theirs = added(alone_peer);
            goal("added p50 to the peer's, 1", ours, theirs, Bound::Most(0.5));
            let theirs = rate(busy_peer);
            let bound = Bound::Least(2.0);
            goal("calls/s to the peer's, 32", rate(busy_ours), theirs, bound);
            // "Of its order": at most twice.
            let bound = Bound::Most(2.0);
            let theirs = alone_peer.p99_us;
            goal("p99 to the peer's, 1", alone_ours.p99_us, theirs, bound);
            let theirs = busy_peer.p99_us;
            goal("p99 to the peer's, 32", busy_ours.p99_us, theirs, bound);
        }
        let theirs = added(alone.floor);
        goal(
            "added p50 to the floor's, 1",
            ours,
            theirs,
            Bound::Most(1.1),
        );
        let theirs = rate(busy.floor);
        let bound = Bound::Least(0.8);
        goal("calls/s to the floor's, 32", rate(busy_ours), theirs, bound);
    }
    let apart = |a: f64, b: f64| (a / b).max(b / a);
    let mut goal = |what: &str, a: f64, b: f64| {
        figures.goal(
            &format!("eras apart: {what}"),
            apart(a, b),
            Bound::Most(1.15),
        );
    };
    goal("p50, 1", alone.session.p50_us, alone.stateless.p50_us);
    goal("p50, 32", busy.session.p50_us, busy.stateless.p50_us);
    goal("calls/s, 32", rate(busy.session), rate(busy.stateless));
}
