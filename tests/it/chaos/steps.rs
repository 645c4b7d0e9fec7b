//! What is done in which order: drawn from a seed alone, so that it can be done again.

use crate::soak::Dice;

/// What one slot is asked for. What does not fit (a create where something is) is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// A new instance.
    Create,
    /// Run.
    Start,
    /// Be down.
    Stop,
    /// Run anew.
    Restart,
    /// A lease that ends at once.
    Expire,
    /// Back after its lease ran out, with a long one.
    Restore,
    /// Gone.
    Delete,
    /// Not a state: the server writes so many numbered lines into its log.
    Write(u32),
    /// The same, and they are read until they are all there.
    WriteAndRead(u32),
}

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9` of the main process of the instance in a slot, and of one of a client session.
    KillChild(usize),
    /// `kill -9` of `serve`; the next one is begun, not waited for.
    KillServe,
    /// `kill -9` of the keeper.
    KillKeeper,
    /// Both at once.
    KillBoth,
    /// An orderly end of `serve`, and the next one.
    RestartServe,
    /// The database is cut off (SQLite: locked by another process).
    Cut,
    /// The database says nothing any more (SQLite: locked by another process).
    Stall,
    /// The database is there again.
    Heal,
    /// Not a fault: `serve` is waited for until it is ready.
    Await,
}

/// One thing after another of a slot or of the breaker, each after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step<T> {
    /// Passes before, in milliseconds.
    pub pause_ms: u64,
    /// What is done.
    pub what: T,
}

/// Draws from a list of weights.
fn draw<T: Copy>(dice: &mut Dice, weighted: &[(u64, T)]) -> T {
    let total = weighted.iter().map(|(weight, _)| weight).sum();
    let mut left = dice.below(total);
    for (weight, what) in weighted {
        if left < *weight {
            return *what;
        }
        left -= weight;
    }
    weighted[0].1
}

/// A generator for one stream of steps: streams of one seed have nothing in common.
fn dice(seed: u64, stream: u64) -> Dice {
    let mut dice = Dice((seed ^ (stream + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1);
    for _ in 0..8 {
        dice.below(1 << 20);
    }
    dice
}

/// The endless list of what a slot is asked for.
pub fn asks(seed: u64, slot: usize) -> impl Iterator<Item = Step<Ask>> + Send {
    let mut dice = dice(seed, slot as u64);
    std::iter::repeat_with(move || {
        let few = 1 + u32::try_from(dice.below(30)).expect("small");
        let many = 500 + u32::try_from(dice.below(2_500)).expect("small");
        let what = draw(
            &mut dice,
            &[
                (6, Ask::Create),
                (5, Ask::Start),
                (3, Ask::Stop),
                (3, Ask::Restart),
                (2, Ask::Expire),
                (3, Ask::Restore),
                (2, Ask::Delete),
                (6, Ask::Write(few)),
                (4, Ask::WriteAndRead(few)),
                (1, Ask::Write(many)),
            ],
        );
        Step {
            pause_ms: dice.below(120),
            what,
        }
    })
}

/// How the breaker is minded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Everything that can break does.
    Everything,
    /// `serve` alone is killed, over and over.
    KillsOfServe,
}

/// The endless list of what breaks. After a database went away at most three other things break before it is back.
pub fn faults(seed: u64, slots: usize, mood: Mood) -> impl Iterator<Item = Step<Fault>> + Send {
    let mut dice = dice(seed, 1 << 32);
    let mut away = 0;
    let mut awaited = true;
    std::iter::repeat_with(move || {
        let child = Fault::KillChild(usize::try_from(dice.below(slots as u64)).expect("small"));
        if mood == Mood::KillsOfServe {
            // In the middle of its start, or a while after it.
            if !awaited && dice.below(3) > 0 {
                awaited = true;
                return Step {
                    pause_ms: 0,
                    what: Fault::Await,
                };
            }
            let longest = if awaited { 700 } else { 200 };
            awaited = false;
            return Step {
                pause_ms: dice.below(longest),
                what: Fault::KillServe,
            };
        }
        let pause_ms = dice.below(900);
        let mut what = draw(
            &mut dice,
            &[
                (8, child),
                (5, Fault::KillServe),
                (2, Fault::KillKeeper),
                (1, Fault::KillBoth),
                (2, Fault::RestartServe),
                (2, Fault::Cut),
                (2, Fault::Stall),
                (1, Fault::Heal),
            ],
        );
        if away > 0 {
            away -= 1;
            if away == 0 || matches!(what, Fault::Cut | Fault::Stall) {
                what = Fault::Heal;
            }
        }
        match what {
            Fault::Cut | Fault::Stall => away = 4,
            Fault::Heal => away = 0,
            _ => {}
        }
        Step { pause_ms, what }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_steps_again_and_another_one_gives_others() {
        let of = |seed, slot| asks(seed, slot).take(50).collect::<Vec<_>>();
        assert_eq!(of(7, 0), of(7, 0));
        assert_ne!(of(7, 0), of(8, 0));
        assert_ne!(of(7, 0), of(7, 1));
        let of = |seed| {
            faults(seed, 4, Mood::Everything)
                .take(50)
                .collect::<Vec<_>>()
        };
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn everything_breaks_and_a_database_comes_back_within_four_steps() {
        let list: Vec<_> = faults(3, 4, Mood::Everything)
            .take(2_000)
            .map(|step| step.what)
            .collect();
        for wanted in [
            Fault::KillChild(3),
            Fault::KillServe,
            Fault::KillKeeper,
            Fault::KillBoth,
            Fault::RestartServe,
            Fault::Cut,
            Fault::Stall,
            Fault::Heal,
        ] {
            assert!(list.contains(&wanted), "{wanted:?}");
        }
        let mut away = None;
        for (index, what) in list.iter().enumerate() {
            match what {
                Fault::Cut | Fault::Stall => {
                    assert_eq!(away, None, "it is away already");
                    away = Some(index);
                }
                Fault::Heal => away = None,
                _ => assert!(away.is_none_or(|since| index - since < 4), "{index}"),
            }
        }
    }

    #[test]
    fn serve_is_killed_at_work_and_in_the_middle_of_its_start() {
        let list: Vec<_> = faults(3, 4, Mood::KillsOfServe)
            .take(1_000)
            .map(|step| step.what)
            .collect();
        let kills = |pair: &&[Fault]| *pair == [Fault::KillServe, Fault::KillServe];
        let at_start = list.windows(2).filter(kills).count();
        let awaited = list.iter().filter(|what| **what == Fault::Await).count();
        assert!(at_start > 100 && awaited > 200, "{at_start}, {awaited}");
        assert!(
            list.windows(2)
                .all(|pair| pair != [Fault::Await, Fault::Await])
        );
    }

    #[test]
    fn every_ask_comes() {
        let list: Vec<_> = asks(3, 0).take(1_000).map(|step| step.what).collect();
        let kinds: std::collections::BTreeSet<_> = list
            .iter()
            .map(|ask| format!("{ask:?}").split('(').next().map(str::to_owned))
            .collect();
        assert_eq!(kinds.len(), 9, "{kinds:?}");
    }
}
