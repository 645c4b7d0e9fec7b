//! Who is awake, of whom, and with how much memory: what a launch is admitted against.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{pressure::MEMINFO_FILE, turns::LaunchTurns};
use crate::domain::{
    budget::{Budgets, Held, Use, held_by_machine, held_by_owner, learned},
    exit::ExitRecord,
    id::{InstanceId, OwnerId, TemplateName},
    instance::InstanceRecord,
    pressure::available_bytes,
};

/// One that was asked to sleep counts as on its way there for so long; then another may be asked.
const LEAVES_WITHIN: Duration = Duration::from_secs(2);

/// Most templates whose needs are written in one go.
const KEPT_AT_ONCE: usize = 64;

/// Why a launch waits, for whoever wants to tell it; `None`: nothing but its turn.
pub(super) type HeldCell = Arc<watch::Sender<Option<Arc<Held>>>>;

/// What is launched, or was.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    pub(super) id: InstanceId,
    pub(super) owner: OwnerId,
    pub(super) template: TemplateName,
}

impl From<&InstanceRecord> for Guest {
    fn from(record: &InstanceRecord) -> Self {
        Self {
            id: record.id,
            owner: record.owner.clone(),
            template: record.template.clone(),
        }
    }
}

/// The place of one that is awake; dropping it gives the place up.
pub(super) struct Seat {
    /// `None`: it was given back already.
    turns: Option<Arc<LaunchTurns>>,
    key: u64,
}

impl Seat {
    pub(super) fn new(turns: Arc<LaunchTurns>, key: u64) -> Self {
        Self {
            turns: Some(turns),
            key,
        }
    }

    /// Somebody else gives the place up.
    pub(super) fn given_back(mut self) {
        self.turns = None;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(turns) = self.turns.take() {
            turns.leave(self.key);
        }
    }
}

struct Taken {
    guest: Guest,
    /// As it was measured last; `None`: not yet.
    rss_bytes: Option<u64>,
    /// Its launch is under way, and so what it needs is not in use yet.
    is_rising: bool,
    asked_to_sleep: Option<Instant>,
}

/// What the machine may be filled up to.
pub(super) struct Floor {
    /// `sleep.memory_floor_bytes`.
    pub(super) bytes: u64,
    /// Looks how much is available; `None`: the kernel does not tell, and nobody is held.
    pub(super) available: Box<dyn Fn() -> Option<u64> + Send + Sync>,
}

impl Floor {
    /// What the kernel says of this machine.
    pub(super) fn of_the_host(bytes: u64) -> Self {
        let available = || available_bytes(&std::fs::read_to_string(MEMINFO_FILE).ok()?);
        Self {
            bytes,
            available: Box::new(available),
        }
    }
}

/// All that are awake.
pub(super) struct Seats {
    budgets: Budgets,
    floor: Option<Floor>,
    taken: BTreeMap<u64, Taken>,
    next: u64,
    /// The last that was measured.
    measured: u64,
    /// What instances of a template are known to need.
    needs: HashMap<TemplateName, u64>,
    /// What the database has of it.
    kept: HashMap<TemplateName, u64>,
}

impl Seats {
    pub(super) fn new(budgets: Budgets, floor: Option<Floor>) -> Self {
        Self {
            budgets,
            floor,
            taken: BTreeMap::new(),
            next: 0,
            measured: 0,
            needs: HashMap::new(),
            kept: HashMap::new(),
        }
    }

    /// What owners may have.
    pub(super) fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// What they may have from now on. Whoever is awake past it stays so.
    pub(super) fn replace_budgets(&mut self, budgets: Budgets) {
        self.budgets = budgets;
    }

    /// Whether anything is ever held.
    pub(super) fn holds(&self) -> bool {
        self.floor.is_some() || self.budgets.bounds_launches()
    }

    /// Whether what is in use must be known.
    pub(super) fn measures(&self) -> bool {
        self.floor.is_some() || self.budgets.bounds_memory()
    }

    /// Takes a place, whoever else is there; `is_rising`: a launch begins with it.
    pub(super) fn take(&mut self, guest: Guest, is_rising: bool) -> u64 {
        self.next += 1;
        let taken = Taken {
            guest,
            rss_bytes: None,
            is_rising,
            asked_to_sleep: None,
        };
        self.taken.insert(self.next, taken);
        self.next
    }

    pub(super) fn leave(&mut self, key: u64) {
        self.taken.remove(&key);
    }

    /// What it needs shows in what is in use from now on.
    pub(super) fn has_risen(&mut self, key: u64) {
        if let Some(taken) = self.taken.get_mut(&key) {
            taken.is_rising = false;
        }
    }

    fn need_of(&self, template: &TemplateName) -> u64 {
        self.needs.get(template).copied().unwrap_or(0)
    }

    /// What an owner has awake. One that is there twice, being handed over, counts once.
    pub(super) fn used_by(&self, owner: &OwnerId) -> Use {
        let own = self
            .taken
            .values()
            .filter(|taken| taken.guest.owner == *owner);
        let mut by_instance: HashMap<InstanceId, u64> = HashMap::new();
        for taken in own {
            let needs = || self.need_of(&taken.guest.template);
            let bytes = taken.rss_bytes.unwrap_or_else(needs);
            let known = by_instance.entry(taken.guest.id).or_default();
            *known = bytes.max(*known);
        }
        Use {
            awake: by_instance.len(),
            memory_bytes: by_instance.values().sum(),
        }
    }

    /// Why the budget of its owner has no room for another guest; `None`: it has, or it is there already.
    pub(super) fn held_by_owner(&self, guest: &Guest) -> Option<Held> {
        if !self.budgets.bounds_launches() || self.is_there(guest.id) {
            return None;
        }
        let (owner, budget) = (&guest.owner, self.budgets.of(&guest.owner));
        held_by_owner(
            owner,
            budget,
            self.used_by(owner),
            self.need_of(&guest.template),
        )
    }

    /// How much memory is available now, where that decides something.
    pub(super) fn available(&self) -> Option<u64> {
        (self.floor.as_ref()?.available)()
    }

    /// Why the machine has no room for the guest while so much is available.
    pub(super) fn held_by_machine(&self, guest: &Guest, available: Option<u64>) -> Option<Held> {
        let floor = self.floor.as_ref()?;
        let rising = self.taken.values().filter(|taken| taken.is_rising);
        let reserved = rising
            .map(|taken| self.need_of(&taken.guest.template))
            .sum();
        held_by_machine(
            floor.bytes,
            available?,
            reserved,
            self.need_of(&guest.template),
        )
    }

    fn is_there(&self, id: InstanceId) -> bool {
        self.taken.values().any(|taken| taken.guest.id == id)
    }

    /// Whether one of `owner`, or of all, is on its way to sleep because it was asked: then nobody else need be.
    pub(super) fn is_some_leaving(&self, owner: Option<&OwnerId>) -> bool {
        self.taken.values().any(|taken| {
            owner.is_none_or(|owner| *owner == taken.guest.owner)
                && taken
                    .asked_to_sleep
                    .is_some_and(|at| at.elapsed() < LEAVES_WITHIN)
        })
    }

    /// It was asked to sleep.
    pub(super) fn asked_to_sleep(&mut self, id: InstanceId) {
        let its = self.taken.values_mut().filter(|taken| taken.guest.id == id);
        its.for_each(|taken| taken.asked_to_sleep = Some(Instant::now()));
    }

    /// So many of those that are awake, others with each call, until all had their turn.
    pub(super) fn due_to_be_measured(&mut self, most: usize) -> Vec<InstanceId> {
        let after = self.taken.range(self.measured + 1..);
        let before = self.taken.range(..=self.measured);
        let found: Vec<_> = after.chain(before).take(most).collect();
        let last = found.last().map_or(0, |(key, _)| **key);
        let found = found.iter().map(|(_, taken)| taken.guest.id).collect();
        self.measured = last;
        found
    }

    /// What was measured of one that is awake. What its like need is told only by one that `is_at_work`: up, and not frozen.
    pub(super) fn measured(&mut self, id: InstanceId, rss_bytes: u64, is_at_work: bool) {
        let mut its = self.taken.values_mut().filter(|taken| taken.guest.id == id);
        let Some(taken) = its.next() else { return };
        taken.rss_bytes = Some(rss_bytes);
        if is_at_work && !taken.is_rising {
            let template = taken.guest.template.clone();
            let known = self.needs.entry(template).or_insert(rss_bytes);
            *known = learned(*known, rss_bytes);
        }
    }

    /// What the kernel told of a former life: its largest process.
    pub(super) fn remember(&mut self, template: &TemplateName, exit: &ExitRecord) {
        let bytes = exit.usage.max_rss_kib.saturating_mul(1_024);
        let known = self.needs.entry(template.clone()).or_insert(bytes);
        *known = bytes.max(*known);
    }

    /// What the database tells of a template: it was measured, which goes before what former ends told.
    pub(super) fn know(&mut self, template: TemplateName, bytes: u64) {
        self.kept.insert(template.clone(), bytes);
        self.needs.insert(template, bytes);
    }

    /// What the database should have and has not: small changes are not worth a write.
    pub(super) fn to_be_kept(&self) -> Vec<(TemplateName, u64)> {
        let is_news = |(template, bytes): &(&TemplateName, &u64)| {
            let kept = self.kept.get(*template);
            kept.is_none_or(|kept| kept.abs_diff(**bytes) > **bytes / 8)
        };
        let news = self.needs.iter().filter(is_news);
        let news = news.map(|(template, bytes)| (template.clone(), *bytes));
        news.take(KEPT_AT_ONCE).collect()
    }

    /// The database has it now.
    pub(super) fn has_kept(&mut self, needs: Vec<(TemplateName, u64)>) {
        self.kept.extend(needs);
    }

    /// What each owner has awake, whoever has something.
    pub(super) fn owners(&self) -> BTreeMap<OwnerId, Use> {
        let owners: std::collections::BTreeSet<_> = self
            .taken
            .values()
            .map(|taken| &taken.guest.owner)
            .collect();
        let each = owners.into_iter();
        each.map(|owner| (owner.clone(), self.used_by(owner)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn guest(owner: &str) -> Guest {
        Guest {
            id: InstanceId(Uuid::now_v7()),
            owner: OwnerId::new(owner).expect("an owner"),
            template: TemplateName::new("x").expect("a template"),
        }
    }

    fn seats() -> Seats {
        let budgets = Budgets {
            memory_bytes_max: Some(100),
            ..Budgets::default()
        };
        Seats::new(budgets, None)
    }

    #[test]
    fn all_are_measured_in_turn() {
        let mut seats = seats();
        let ids: Vec<_> = (0..5)
            .map(|_| {
                let guest = guest("ada");
                seats.take(guest.clone(), false);
                guest.id
            })
            .collect();
        assert_eq!(seats.due_to_be_measured(3), ids[..3]);
        assert_eq!(seats.due_to_be_measured(3), [ids[3], ids[4], ids[0]]);
        assert_eq!(seats.due_to_be_measured(9).len(), 5);
        assert!(
            Seats::new(Budgets::default(), None)
                .due_to_be_measured(9)
                .is_empty()
        );
    }

    #[test]
    fn what_is_measured_counts_and_what_is_not_as_its_template_needs() {
        let mut seats = seats();
        let (one, two) = (guest("ada"), guest("ada"));
        seats.take(one.clone(), false);
        // Handed over from one daemon to the next, it is there twice for a moment.
        let double = seats.take(one.clone(), false);
        assert_eq!(
            seats.used_by(&one.owner),
            Use {
                awake: 1,
                memory_bytes: 0
            }
        );
        seats.measured(one.id, 60, true);
        seats.leave(double);
        assert_eq!(
            seats.used_by(&one.owner),
            Use {
                awake: 1,
                memory_bytes: 60
            }
        );
        assert!(matches!(
            seats.held_by_owner(&two),
            Some(Held::OwnerMemory { need_bytes: 60, .. })
        ));
        assert_eq!(seats.held_by_owner(&one), None, "it is there already");
        assert_eq!(seats.held_by_owner(&guest("bob")), None);
        // On its way up it says nothing of what it will need.
        let key = seats.take(two.clone(), true);
        seats.measured(two.id, 1, true);
        assert_eq!(seats.need_of(&two.template), 60);
        seats.has_risen(key);
        // Nor does one that holds still, of whose memory some is paged out.
        seats.measured(two.id, 1, false);
        assert_eq!(seats.need_of(&two.template), 60);
        seats.measured(two.id, 1, true);
        assert!(seats.need_of(&two.template) < 60);
        assert_eq!(
            seats.used_by(&one.owner),
            Use {
                awake: 2,
                memory_bytes: 61
            }
        );
        assert_eq!(seats.owners().len(), 1);
    }

    #[test]
    fn what_is_known_is_kept_when_it_changed_enough() {
        let mut seats = seats();
        let ada = guest("ada");
        seats.know(ada.template.clone(), 800);
        assert_eq!(seats.to_be_kept(), []);
        seats.take(ada.clone(), false);
        seats.measured(ada.id, 880, true);
        assert_eq!(seats.need_of(&ada.template), 880);
        assert_eq!(seats.to_be_kept(), []);
        seats.measured(ada.id, 1_000, true);
        let news = seats.to_be_kept();
        assert_eq!(news, [(ada.template.clone(), 1_000)]);
        seats.has_kept(news);
        assert_eq!(seats.to_be_kept(), []);
        // What was measured says more than the largest process of a former life.
        let mut next = super::tests::seats();
        next.needs.insert(ada.template.clone(), 5_000);
        next.know(ada.template.clone(), 1_000);
        assert_eq!(next.need_of(&ada.template), 1_000);
    }

    #[test]
    fn other_budgets_are_in_force_at_once_and_end_nobody() {
        let mut seats = seats();
        let (one, two) = (guest("ada"), guest("ada"));
        seats.take(one.clone(), false);
        assert_eq!(seats.held_by_owner(&two), None);
        seats.replace_budgets(Budgets {
            awake_max: Some(1),
            ..Budgets::default()
        });
        assert!(matches!(
            seats.held_by_owner(&two),
            Some(Held::Awake { .. })
        ));
        assert_eq!(seats.held_by_owner(&one), None);
        assert!(!seats.measures() && seats.holds());
        seats.replace_budgets(Budgets::default());
        assert_eq!(seats.held_by_owner(&two), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_asked_to_sleep_is_waited_for_a_while() {
        let mut seats = seats();
        let (ada, bob) = (guest("ada"), guest("bob"));
        seats.take(ada.clone(), false);
        assert!(!seats.is_some_leaving(None));
        seats.asked_to_sleep(ada.id);
        assert!(seats.is_some_leaving(None) && seats.is_some_leaving(Some(&ada.owner)));
        assert!(!seats.is_some_leaving(Some(&bob.owner)));
        tokio::time::sleep(LEAVES_WITHIN).await;
        assert!(!seats.is_some_leaving(None));
    }
}
