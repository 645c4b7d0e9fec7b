//! The pool of access ports: leased, resting, free.

use std::collections::{BTreeMap, BTreeSet};

use super::{UnixMs, id::InstanceId};

/// Which ports are whose. One owner: the supervisor; the store keeps the same facts.
#[derive(Debug, Clone)]
pub struct PortPool {
    min: u16,
    max: u16,
    leased: BTreeMap<u16, InstanceId>,
    quarantined: BTreeMap<u16, UnixMs>,
    next: u16,
}

/// No port can be leased now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exhausted {
    /// Held by instances.
    pub leased: usize,
    /// Resting.
    pub quarantined: usize,
    /// Neither, yet in use by other programs.
    pub foreign: usize,
}

impl PortPool {
    /// A pool of `min..=max`, all free.
    #[must_use]
    pub fn new(min: u16, max: u16) -> Self {
        Self {
            min,
            max,
            leased: BTreeMap::new(),
            quarantined: BTreeMap::new(),
            next: min,
        }
    }

    /// First and last port.
    #[must_use]
    pub fn range(&self) -> (u16, u16) {
        (self.min, self.max)
    }

    /// Takes over a lease that the store remembers. Ports outside the range stay leased too: the range may have
    /// been narrowed while the instance lives.
    pub fn restore_lease(&mut self, port: u16, holder: InstanceId) {
        self.quarantined.remove(&port);
        self.leased.insert(port, holder);
    }

    /// Takes over a quarantine that the store remembers.
    pub fn restore_quarantine(&mut self, port: u16, until: UnixMs) {
        if !self.leased.contains_key(&port) {
            self.quarantined.insert(port, until);
        }
    }

    /// Leases a port to `holder`. `is_foreign` tells whether another program holds it; it is asked only for
    /// candidates, each at most once.
    ///
    /// # Errors
    /// [`Exhausted`] with the counts when no port of the range is left.
    pub fn lease(
        &mut self,
        holder: InstanceId,
        now: UnixMs,
        mut is_foreign: impl FnMut(u16) -> bool,
    ) -> Result<u16, Exhausted> {
        self.sweep(now);
        let mut foreign = 0;
        // Round robin, so that a freed port rests longer than the quarantine alone when there is room.
        let order: Vec<u16> = (self.next..=self.max).chain(self.min..self.next).collect();
        for port in order {
            if self.leased.contains_key(&port) || self.quarantined.contains_key(&port) {
                continue;
            }
            if is_foreign(port) {
                foreign += 1;
                continue;
            }
            self.leased.insert(port, holder);
            self.next = if port >= self.max { self.min } else { port + 1 };
            return Ok(port);
        }
        Err(Exhausted {
            leased: self.leased.len(),
            quarantined: self.quarantined.len(),
            foreign,
        })
    }

    /// Gives a port back; it rests until `until`. `false`: `holder` did not hold it, and nothing changed.
    pub fn release(&mut self, port: u16, holder: InstanceId, until: UnixMs) -> bool {
        if self.leased.get(&port) != Some(&holder) {
            return false;
        }
        self.leased.remove(&port);
        self.quarantined.insert(port, until);
        true
    }

    /// Ends every quarantine that is over; answers how many.
    pub fn sweep(&mut self, now: UnixMs) -> usize {
        let before = self.quarantined.len();
        self.quarantined.retain(|_, until| *until > now);
        before - self.quarantined.len()
    }

    /// Ports held, with their holders.
    #[must_use]
    pub fn leased(&self) -> &BTreeMap<u16, InstanceId> {
        &self.leased
    }

    /// Ports resting, with the end of their rest.
    #[must_use]
    pub fn quarantined(&self) -> &BTreeMap<u16, UnixMs> {
        &self.quarantined
    }

    /// How many ports of the range are neither leased nor resting.
    #[must_use]
    pub fn free(&self) -> usize {
        let taken: BTreeSet<u16> = self
            .leased
            .keys()
            .chain(self.quarantined.keys())
            .copied()
            .filter(|port| (self.min..=self.max).contains(port))
            .collect();
        usize::from(self.max - self.min) + 1 - taken.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn id(n: u128) -> InstanceId {
        InstanceId(Uuid::from_u128(n))
    }

    #[test]
    fn exhaustion_tells_the_counts() {
        let mut pool = PortPool::new(10, 13);
        let first = pool.lease(id(1), 0, |_| false).expect("free");
        pool.lease(id(2), 0, |_| false).expect("free");
        assert!(pool.release(first, id(1), 1_000));
        assert_eq!(
            pool.lease(id(3), 0, |_| true),
            Err(Exhausted {
                leased: 1,
                quarantined: 1,
                foreign: 2
            })
        );
    }

    #[test]
    fn a_port_is_released_once_and_only_by_its_holder() {
        let mut pool = PortPool::new(10, 10);
        let port = pool.lease(id(1), 0, |_| false).expect("free");
        assert!(!pool.release(port, id(2), 5));
        assert!(pool.release(port, id(1), 5));
        assert!(!pool.release(port, id(1), 5));
        assert!(pool.lease(id(2), 4, |_| false).is_err(), "it rests");
        assert_eq!(pool.lease(id(2), 5, |_| false), Ok(10));
    }

    proptest! {
        #[test]
        fn no_port_has_two_holders_and_none_is_lost(moves in proptest::collection::vec((0_u128..12, 0_i64..30, any::<bool>()), 0..200)) {
            let mut pool = PortPool::new(100, 107);
            let mut held: BTreeMap<u128, u16> = BTreeMap::new();
            let mut now = 0;
            for (who, pause, give_back) in moves {
                now += pause;
                if give_back {
                    if let Some(port) = held.remove(&who) {
                        prop_assert!(pool.release(port, id(who), now + 20));
                    }
                } else if !held.contains_key(&who) && let Ok(port) = pool.lease(id(who), now, |port| port == 103) {
                    prop_assert!(port != 103);
                    prop_assert!(held.values().all(|other| *other != port));
                    held.insert(who, port);
                }
                prop_assert_eq!(pool.leased().len(), held.len());
                pool.sweep(now);
                prop_assert_eq!(pool.free() + pool.leased().len() + pool.quarantined().len(), 8);
            }
        }
    }
}
