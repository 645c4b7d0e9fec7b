//! What the gateway promises, held against floor and peer.

use minimcp::bench::{
    calls::{BUSY, Measured},
    figures::{Bound, Figures, ReportError, Summary},
};

/// Rows of what was measured of `server` with one call, and with [`BUSY`], at a time.
pub fn compare(
    figures: &mut Figures,
    server: &str,
    alone: &Measured,
    busy: &Measured,
) -> Result<(), ReportError> {
    figures.heading(&format!("against the goals, {server}"), "")?;
    let rate = |summary: Summary| summary.per_second.unwrap_or(f64::NAN);
    let added = |summary: Summary| summary.p50_us - alone.direct.p50_us;
    let eras = [
        ("with sessions", alone.session, busy.session),
        ("stateless", alone.stateless, busy.stateless),
    ];
    for (era, alone_ours, busy_ours) in eras {
        let mut goal = |what: &str, ours: f64, theirs: f64, bound| {
            figures.goal(&format!("{era}: {what}"), ours / theirs, bound)
        };
        let ours = added(alone_ours);
        if let (Some(alone_peer), Some(busy_peer)) = (alone.peer, busy.peer) {
            let theirs = added(alone_peer);
            goal("added p50 to the peer's, 1", ours, theirs, Bound::Most(0.5))?;
            let theirs = rate(busy_peer);
            let what = format!("calls/s to the peer's, {BUSY}");
            goal(&what, rate(busy_ours), theirs, Bound::Least(2.0))?;
            // "Of its order": at most twice.
            let bound = Bound::Most(2.0);
            let theirs = alone_peer.p99_us;
            goal("p99 to the peer's, 1", alone_ours.p99_us, theirs, bound)?;
            let theirs = busy_peer.p99_us;
            let what = format!("p99 to the peer's, {BUSY}");
            goal(&what, busy_ours.p99_us, theirs, bound)?;
        }
        let theirs = added(alone.floor);
        let bound = Bound::Most(1.1);
        goal("added p50 to the floor's, 1", ours, theirs, bound)?;
        let theirs = rate(busy.floor);
        let what = format!("calls/s to the floor's, {BUSY}");
        goal(&what, rate(busy_ours), theirs, Bound::Least(0.8))?;
    }
    let apart = |a: f64, b: f64| (a / b).max(b / a);
    let mut goal = |what: &str, a: f64, b: f64| {
        let name = format!("eras apart: {what}");
        figures.goal(&name, apart(a, b), Bound::Most(1.15))
    };
    goal("p50, 1", alone.session.p50_us, alone.stateless.p50_us)?;
    let what = format!("p50, {BUSY}");
    goal(&what, busy.session.p50_us, busy.stateless.p50_us)?;
    let what = format!("calls/s, {BUSY}");
    goal(&what, rate(busy.session), rate(busy.stateless))
}
