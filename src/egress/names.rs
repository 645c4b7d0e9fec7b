//! Synthetic addresses of names. A name's address comes from the name itself, so that a new `serve` understands what a
//! child was told by a former one. Pure.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::domain::egress::{Egress, HostPattern, SYNTHETIC_V4, SYNTHETIC_V6};

/// Most names of one child that have an address at the same time: one that asks for ever more is stopped here.
const NAMES_MAX: usize = 4_096;
/// A name keeps its address for so long after it was last used.
const KEPT: Duration = Duration::from_secs(3_600);
/// There are so many addresses, the first left out.
const SLOTS: u32 = 1 << (32 - SYNTHETIC_V4.1 as u32);

struct Named {
    name: Arc<str>,
    /// `None`: a rule names it, so it stays.
    used_at: Option<Instant>,
}

/// The names of one child.
#[derive(Default)]
pub(super) struct Names {
    by_name: HashMap<Arc<str>, u32>,
    by_slot: HashMap<u32, Named>,
}

impl Names {
    /// With those that rules name, always in the same order.
    pub(super) fn of(egress: &Egress) -> Self {
        let mut names = Self::default();
        let mut exact: Vec<&str> = egress
            .hosts
            .iter()
            .filter_map(|rule| match &rule.host {
                HostPattern::Name(name) => Some(name.as_str()),
                _ => None,
            })
            .collect();
        exact.sort_unstable();
        exact.dedup();
        for name in exact {
            names.give(name, None);
        }
        names
    }

    /// The slot of a name; `None`: too many have one.
    pub(super) fn slot_of(&mut self, name: &str, now: Instant) -> Option<u32> {
        if let Some(slot) = self.by_name.get(name).copied() {
            self.touch(slot, now);
            return Some(slot);
        }
        if self.by_name.len() >= NAMES_MAX {
            self.forget_unused(now);
            if self.by_name.len() >= NAMES_MAX {
                return None;
            }
        }
        Some(self.give(name, Some(now)))
    }

    /// The name that an address stands for.
    pub(super) fn at(&mut self, address: IpAddr, now: Instant) -> Option<Arc<str>> {
        let slot = slot(address)?;
        self.touch(slot, now);
        Some(Arc::clone(&self.by_slot.get(&slot)?.name))
    }

    fn touch(&mut self, slot: u32, now: Instant) {
        if let Some(used_at) = self
            .by_slot
            .get_mut(&slot)
            .and_then(|named| named.used_at.as_mut())
        {
            *used_at = now;
        }
    }

    fn forget_unused(&mut self, now: Instant) {
        self.by_slot.retain(|_, named| {
            named
                .used_at
                .is_none_or(|used_at| now.saturating_duration_since(used_at) < KEPT)
        });
        self.by_name
            .retain(|_, slot| self.by_slot.contains_key(slot));
    }

    /// There are far more slots than names, so one is free.
    fn give(&mut self, name: &str, used_at: Option<Instant>) -> u32 {
        let digest = Sha256::digest(name.as_bytes());
        let first = digest
            .first_chunk()
            .map_or(0, |bytes: &[u8; 4]| u32::from_be_bytes(*bytes));
        let mut slot = first % SLOTS;
        while slot == 0 || self.by_slot.contains_key(&slot) {
            slot = (slot + 1) % SLOTS;
        }
        let name: Arc<str> = name.into();
        self.by_name.insert(Arc::clone(&name), slot);
        self.by_slot.insert(slot, Named { name, used_at });
        slot
    }
}

/// The address of version 4 of a slot.
pub(super) fn v4(slot: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(SYNTHETIC_V4.0.to_bits() | slot)
}

/// The address of version 6 of a slot.
pub(super) fn v6(slot: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(SYNTHETIC_V6.0.to_bits() | u128::from(v4(slot).to_bits()))
}

/// The slot of a synthetic address; `None`: it is none.
pub(super) fn slot(address: IpAddr) -> Option<u32> {
    let bits = match address.to_canonical() {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(address) => {
            let low = address.to_bits() ^ SYNTHETIC_V6.0.to_bits();
            u32::try_from(low).ok()?
        }
    };
    let slot = bits ^ SYNTHETIC_V4.0.to_bits();
    (slot < SLOTS).then_some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_is_that_of_its_name_also_for_the_next_serve() {
        let egress = Egress {
            hosts: [
                "b.example.com:443",
                "a.example.com:443",
                "a.example.com:80",
                "*.x.com:1",
            ]
            .map(|text| text.parse().expect(text))
            .into(),
            ..Egress::default()
        };
        let now = Instant::now();
        let (mut before, mut after) = (Names::of(&egress), Names::of(&egress));
        for name in ["a.example.com", "b.example.com"] {
            let slot = before.slot_of(name, now).expect("there is room");
            for address in [
                IpAddr::V4(v4(slot)),
                IpAddr::V6(v6(slot)),
                v4(slot).to_ipv6_mapped().into(),
            ] {
                assert_eq!(after.at(address, now).as_deref(), Some(name), "{address}");
            }
        }
        let slot = before.slot_of("y.x.com", now).expect("there is room");
        assert_eq!(
            after.at(v4(slot).into(), now),
            None,
            "nobody asked the new one"
        );
        assert_eq!(after.slot_of("y.x.com", now), Some(slot));
        for other in [
            "10.0.0.1",
            "198.20.0.0",
            "198.17.255.255",
            "fd6d:6370::1",
            "::1",
        ] {
            assert_eq!(before.at(other.parse().expect(other), now), None, "{other}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_ever_more_names_gets_no_more() {
        let mut names = Names::default();
        let begun = Instant::now();
        for index in 0..NAMES_MAX {
            assert!(names.slot_of(&format!("n{index}.x"), begun).is_some());
        }
        assert_eq!(names.slot_of("one.more", begun), None);
        assert!(
            names.slot_of("n7.x", begun + KEPT / 2).is_some(),
            "those that have one keep it"
        );
        let later = begun + KEPT;
        assert!(names.slot_of("one.more", later).is_some());
        assert!(names.by_name.contains_key("n7.x"), "it was used");
        assert_eq!(names.by_name.len(), 2);
        assert_eq!(names.by_slot.len(), 2);
    }
}
