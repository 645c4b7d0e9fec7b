//! Ports of the HTTP servers among the children.
//!
//! A port that was picked is free for the kernel until its server listens, which may take seconds. If two launches
//! picked the same, one client could reach the server of another instance.

use std::{
    collections::HashSet,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How often a port is picked before there counts as none.
const PICKS_MAX: usize = 64;

/// The ports in use; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct PrivatePorts(Arc<Mutex<HashSet<u16>>>);

impl PrivatePorts {
    /// A free port that no other child has, and that is none of the `access` ports.
    pub(super) fn pick(&self, access: &RangeInclusive<u16>) -> Option<PrivatePort> {
        self.pick_from(access, portpicker::pick_unused_port)
    }

    fn pick_from(
        &self,
        access: &RangeInclusive<u16>,
        mut free: impl FnMut() -> Option<u16>,
    ) -> Option<PrivatePort> {
        (0..PICKS_MAX)
            .map_while(|_| free())
            .filter(|port| !access.contains(port))
            .find_map(|port| self.keep(port))
    }

    /// This port, for a child that has it already; `None` when another child has it.
    pub(super) fn keep(&self, port: u16) -> Option<PrivatePort> {
        self.taken().insert(port).then(|| PrivatePort {
            port,
            all: self.clone(),
        })
    }

    fn taken(&self) -> MutexGuard<'_, HashSet<u16>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A port of one child; dropping it gives it back.
#[derive(Debug)]
pub(super) struct PrivatePort {
    port: u16,
    all: PrivatePorts,
}

impl PrivatePort {
    /// The port.
    pub(super) fn number(&self) -> u16 {
        self.port
    }
}

impl Drop for PrivatePort {
    fn drop(&mut self) {
        self.all.taken().remove(&self.port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_children_have_one_port() {
        let ports = PrivatePorts::default();
        let access = 3_001..=3_999;
        let mut offers = [3_500, 20_000, 20_000, 20_001, 20_000].into_iter();
        let first = ports.pick_from(&access, || offers.next()).expect("one");
        assert_eq!(first.number(), 20_000, "an access port is none");
        let second = ports.pick_from(&access, || offers.next()).expect("another");
        assert_eq!(second.number(), 20_001);
        assert!(ports.keep(20_000).is_none());
        drop(first);
        let third = ports
            .pick_from(&access, || offers.next())
            .expect("given back");
        assert_eq!(third.number(), 20_000);
        assert!(ports.pick_from(&access, || Some(20_001)).is_none());
    }
}
