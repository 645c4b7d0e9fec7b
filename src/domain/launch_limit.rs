//! How many launches go on at the same time: more while the processors have room, fewer when they do not. Pure.
//!
//! A start of a Node or Python server is a second of one processor. Too many at once finish no sooner, each takes the
//! longer for it, and whoever waits for one of them, or for the API, waits for all. So the number of turns follows what
//! is measured, by additive increase and multiplicative decrease, between one and a ceiling.

/// Above this share of the time in which some process waited for a processor, in percent, there are too many.
const STALLED_HIGH_PERCENT: f64 = 80.0;
/// Below it there is room for one more.
const STALLED_LOW_PERCENT: f64 = 50.0;
/// The same for memory, for which nobody should wait for long: above it the host takes pages away that are in use.
const MEMORY_STALLED_HIGH_PERCENT: f64 = 20.0;
/// Below it there is room for one more.
const MEMORY_STALLED_LOW_PERCENT: f64 = 5.0;
/// Starts that take so many times the shortest one of their template are too many, whatever the kernel says.
const SLOWDOWN_HIGH: f64 = 4.0;
/// Without the kernel's word: at most this for one more.
const SLOWDOWN_LOW: f64 = 2.0;
/// What is left of the turns at a decrease.
const DECREASE: f64 = 0.75;

/// What was measured since the last time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LaunchLoad {
    /// Whether every turn was in use and somebody waited for one.
    pub is_full: bool,
    /// The share of the time in which some process of this host waited for a processor (`/proc/pressure/cpu`, `some`);
    /// `None` where the kernel does not tell.
    pub stalled_percent: Option<f64>,
    /// The share in which some process waited for memory (`/proc/pressure/memory`, `some`); `None` as above.
    pub memory_stalled_percent: Option<f64>,
    /// The mean of how many times longer children took to be ready than the quickest of their template; `None` when
    /// none was ready.
    pub slowdown: Option<f64>,
}

/// The number of turns.
#[derive(Debug, Clone, PartialEq)]
pub struct LaunchLimit {
    turns: f64,
    ceiling: f64,
}

impl LaunchLimit {
    /// Begins with one turn for each processor. `ceiling` is at least one.
    #[must_use]
    pub fn new(ceiling: usize, processors: usize) -> Self {
        let ceiling = ceiling.clamp(1, MOST);
        Self {
            turns: whole(processors.clamp(1, ceiling)),
            ceiling: whole(ceiling),
        }
    }

    /// How many launches may go on now.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and MOST"
    )]
    pub fn turns(&self) -> usize {
        self.turns as usize
    }

    /// Takes in what was measured.
    pub fn observe(&mut self, load: LaunchLoad) {
        let stalled = load.stalled_percent;
        let memory = load.memory_stalled_percent.unwrap_or(0.0);
        let crowded = stalled.is_some_and(|percent| percent > STALLED_HIGH_PERCENT)
            || memory > MEMORY_STALLED_HIGH_PERCENT
            || load.slowdown.is_some_and(|times| times > SLOWDOWN_HIGH);
        let room = match (stalled, load.slowdown) {
            (Some(percent), _) => percent < STALLED_LOW_PERCENT,
            (None, Some(times)) => times < SLOWDOWN_LOW,
            (None, None) => false,
        };
        if crowded {
            self.turns = (self.turns * DECREASE).max(1.0);
        } else if room && memory < MEMORY_STALLED_LOW_PERCENT && load.is_full {
            self.turns = (self.turns.floor() + 1.0).min(self.ceiling);
        }
    }
}

/// Most turns that a ceiling may name.
const MOST: usize = 1_024;

fn whole(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FULL: LaunchLoad = LaunchLoad {
        is_full: true,
        stalled_percent: None,
        memory_stalled_percent: None,
        slowdown: None,
    };

    fn stalled(percent: f64) -> LaunchLoad {
        LaunchLoad {
            stalled_percent: Some(percent),
            ..FULL
        }
    }

    fn slower(times: f64) -> LaunchLoad {
        LaunchLoad {
            slowdown: Some(times),
            ..FULL
        }
    }

    #[test]
    fn turns_follow_the_processors() {
        let mut limit = LaunchLimit::new(8, 2);
        assert_eq!(limit.turns(), 2);
        for expected in [3, 4, 5, 6, 7, 8, 8] {
            limit.observe(stalled(10.0));
            assert_eq!(limit.turns(), expected);
        }
        for expected in [6, 4, 3, 2, 1, 1, 1] {
            limit.observe(stalled(95.0));
            assert_eq!(limit.turns(), expected);
        }
        limit.observe(stalled(65.0));
        assert_eq!(limit.turns(), 1, "neither crowded nor roomy");
        limit.observe(LaunchLoad {
            is_full: false,
            ..stalled(0.0)
        });
        assert_eq!(limit.turns(), 1, "nobody waits for a turn");
    }

    #[test]
    fn without_the_kernels_word_ready_times_decide() {
        let mut limit = LaunchLimit::new(4, 1);
        limit.observe(FULL);
        assert_eq!(limit.turns(), 1, "nothing was measured");
        limit.observe(slower(1.2));
        limit.observe(slower(1.2));
        assert_eq!(limit.turns(), 3);
        limit.observe(slower(3.0));
        assert_eq!(limit.turns(), 3);
        limit.observe(slower(9.0));
        assert_eq!(limit.turns(), 2);
        // A host whose processors are idle while starts take long, as with a slow disk.
        limit.observe(LaunchLoad {
            slowdown: Some(9.0),
            ..stalled(0.0)
        });
        assert_eq!(limit.turns(), 1);
    }

    #[test]
    fn a_host_short_of_memory_gets_fewer_turns_however_idle_its_processors_are() {
        let mut limit = LaunchLimit::new(8, 4);
        let memory = |percent| LaunchLoad {
            memory_stalled_percent: Some(percent),
            ..stalled(0.0)
        };
        limit.observe(memory(1.0));
        assert_eq!(limit.turns(), 5);
        limit.observe(memory(10.0));
        assert_eq!(limit.turns(), 5, "neither crowded nor roomy");
        for expected in [3, 2, 2, 1, 1] {
            limit.observe(memory(40.0));
            assert_eq!(limit.turns(), expected);
        }
    }

    proptest! {
        #[test]
        fn there_is_always_a_turn_and_never_more_than_the_ceiling(
            ceiling in 0_usize..2_000,
            processors in 0_usize..64,
            loads in prop::collection::vec(
                (any::<bool>(), prop::option::of(0.0_f64..200.0), prop::option::of(0.0_f64..200.0), prop::option::of(0.0_f64..50.0)),
                0..50,
            ),
        ) {
            let mut limit = LaunchLimit::new(ceiling, processors);
            for (is_full, stalled_percent, memory_stalled_percent, slowdown) in loads {
                let before = limit.turns();
                limit.observe(LaunchLoad { is_full, stalled_percent, memory_stalled_percent, slowdown });
                prop_assert!((1..=ceiling.clamp(1, MOST)).contains(&limit.turns()));
                prop_assert!(limit.turns() <= before + 1);
            }
        }
    }
}
