//! Calls of one tool of one server, in turns: over its own pipes, through the floor, through our access URL in both
//! eras, and through a peer where there is one. All of them in one run, because only then can their figures be divided.

use std::time::Duration;

use super::{
    Bench, Plan,
    daemon::Daemon,
    figures::{Figures, Summary},
    floor::Floor,
    mcp::{Endpoint, StdioServer},
    stop::Stop,
};

/// Concurrent calls of the busy rows.
pub const BUSY: usize = 32;

/// A server with a tool `echo`.
#[derive(Debug, Clone, Copy)]
pub struct Server<'a> {
    /// Also of its template.
    pub name: &'a str,
    /// What starts it.
    pub command: &'a [String],
    /// Calls are divided by it, for servers that take that much longer.
    pub slowness: usize,
}

/// How much longer a way takes that answers so many calls a second, one at a time and [`BUSY`] at a time, than a round of
/// this plan may: what [`Server::slowness`] is to be.
#[must_use]
pub fn slowness(plan: &Plan, alone: f64, busy: f64, round: Duration) -> usize {
    #[expect(clippy::cast_precision_loss, reason = "a count of calls is small")]
    let times = |calls: usize, rate: f64| calls as f64 / rate / round.as_secs_f64();
    let most = times(plan.calls_alone, alone).max(times(plan.calls_busy, busy));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast saturates, and of no number it makes 0"
    )]
    let most = most.ceil() as usize;
    most.max(1)
}

/// What was measured with so many calls at a time.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// The server's own pipes.
    pub direct: Summary,
    /// From HTTP to pipes, nothing else.
    pub floor: Summary,
    /// Another program that does the same job.
    pub peer: Option<Summary>,
    /// Ours, with sessions.
    pub session: Summary,
    /// Ours, without.
    pub stateless: Summary,
}

/// Rows of every way with one call and with [`BUSY`] calls at a time; gives both. `peer` is the name of a peer and where
/// it is.
///
/// # Errors
/// When a call is not answered well, or the run shall end.
pub fn compare(
    bench: &mut Bench,
    daemon: &mut Daemon,
    plan: &Plan,
    server: &Server<'_>,
    peer: Option<(&str, &Endpoint)>,
) -> anyhow::Result<(Measured, Measured)> {
    let mut direct = StdioServer::start(server.command)?;
    let (_floor, floor) = Floor::start(&bench.program, server.command)?;
    let instance = daemon.create(server.name)?;
    let ways = Ways {
        floor: &floor,
        peer: peer.map(|(_, endpoint)| endpoint),
        session: &instance.endpoint,
        stateless: &instance.endpoint.stateless(),
    };
    let mut measure = |outstanding: usize, count: usize| {
        let count = (count / server.slowness).max(outstanding);
        let measured = ways.measure(&mut direct, plan.rounds, count, outstanding, &bench.stop)?;
        let mut title = format!("calls to {}, {outstanding} at a time", server.name);
        let columns = match peer {
            Some((name, _)) => {
                title += &format!(", beside {name}");
                Figures::COMPARED_WITH_PEER
            }
            None => Figures::COMPARED,
        };
        bench.figures.heading(&title, columns)?;
        measured.rows(&mut bench.figures, peer.map(|(name, _)| name))?;
        anyhow::Ok(measured)
    };
    let alone = measure(1, plan.calls_alone)?;
    let busy = measure(BUSY, plan.calls_busy)?;
    daemon.delete(&instance)?;
    Ok((alone, busy))
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
        stop: &Stop,
    ) -> anyhow::Result<Measured> {
        let of = |endpoint: &Endpoint| {
            let load = endpoint.load(count, outstanding, stop)?;
            anyhow::Ok(Summary::of_load(load))
        };
        let (mut pipes, mut floor, mut peer) = (Vec::new(), Vec::new(), Vec::new());
        let (mut session, mut stateless) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            pipes.push(Summary::of_load(direct.load(count, outstanding, stop)?));
            floor.push(of(self.floor)?);
            if let Some(endpoint) = self.peer {
                peer.push(of(endpoint)?);
            }
            session.push(of(self.session)?);
            stateless.push(of(self.stateless)?);
        }
        Ok(Measured {
            direct: Summary::median(&pipes),
            floor: Summary::median(&floor),
            peer: (!peer.is_empty()).then(|| Summary::median(&peer)),
            session: Summary::median(&session),
            stateless: Summary::median(&stateless),
        })
    }
}

impl Measured {
    fn rows(&self, figures: &mut Figures, peer: Option<&str>) -> anyhow::Result<()> {
        let mut row = |name: &str, summary| {
            figures.compared(name, summary, self.direct, self.floor, self.peer)
        };
        row("direct: the server's own pipes", self.direct)?;
        row("floor: HTTP to pipes, nothing else", self.floor)?;
        if let (Some(name), Some(summary)) = (peer, self.peer) {
            row(&format!("peer: {name}"), summary)?;
        }
        row("minimcp: the access URL, with sessions", self.session)?;
        row("minimcp: the access URL, stateless", self.stateless)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_slow_gets_fewer_calls_and_nobody_more() {
        let plan = Plan {
            calls_alone: 10_000,
            calls_busy: 64_000,
            ..Plan::full([1])
        };
        let of = |alone, busy| slowness(&plan, alone, busy, Duration::from_secs(2));
        assert_eq!(of(1e5, 1e5), 1);
        assert_eq!(of(1_000.0, 1e5), 5);
        assert_eq!(of(1e5, 1_000.0), 32);
        assert_eq!(of(f64::NAN, f64::NAN), 1);
    }
}
