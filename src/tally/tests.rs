//! What a count says when its daemon is killed at any point between its memory, store and spool.

use std::fs::File;

use super::{Losses, Lost, SLOTS_KEPT, Tally, Way, former::Former};
use crate::domain::id::Generation;

const GENERATION: Generation = Generation(3);

fn tally() -> (Tally, File) {
    let file = tempfile::tempfile().expect("a file");
    let copy = file.try_clone().expect("a descriptor");
    (
        Tally::begin(file, 99, &Losses::new()).expect("it is writable"),
        copy,
    )
}

fn former(file: &File) -> Former {
    let former = Former::read(file).expect("it is readable");
    former.expect("somebody began it")
}

/// What is lost of each instance.
fn lost(file: &File, stored: i64, spooled: i64) -> Vec<(i64, u64)> {
    let lost = former(file).lost(stored, spooled);
    lost.into_iter()
        .map(|(key, lost)| (key, lost.count))
        .collect()
}

/// Weights of lines of instances, in order.
fn lines(of: &[(i64, usize)]) -> Vec<(i64, u64)> {
    let each = of.iter().map(|(key, lines)| vec![(*key, 1); *lines]);
    each.flatten().collect()
}

#[test]
fn what_entered_and_did_not_arrive_is_lost() {
    let (tally, file) = tally();
    assert_eq!(lost(&file, 0, 0), []);
    tally.enter(7, GENERATION, 1_000, 10);
    tally.enter(8, GENERATION, 2_000, 5);
    assert_eq!(lost(&file, 0, 0), [(7, 10), (8, 5)]);
    tally.settle(Way::Store, lines(&[(7, 4)]).into_iter());
    tally.settle(Way::Spool, lines(&[(7, 3), (8, 5)]).into_iter());
    assert_eq!(lost(&file, 0, 0), [(7, 3)]);
    let lost_of_7 = former(&file).lost(0, 0)[&7];
    assert_eq!((lost_of_7.generation, lost_of_7.at), (GENERATION, 1_000));
    tally.enter(7, GENERATION, 3_000, -3);
    assert_eq!(lost(&file, 0, 0), []);
}

#[test]
fn what_was_on_its_way_counts_as_far_as_it_arrived() {
    let (tally, file) = tally();
    tally.enter(7, GENERATION, 1_000, 10);
    tally.enter(8, GENERATION, 1_000, 10);
    tally.settle(Way::Store, lines(&[(7, 2)]).into_iter());
    // Rows 51 to 59; the first tells of four lost lines.
    let gap = [(8, 4)].into_iter();
    let rows = lines(&[(7, 3), (8, 3), (7, 2)]);
    tally.sets_out(Way::Store, 51, gap.chain(rows.iter().copied()));
    assert_eq!(former(&file).last_sent(), Some(59));
    assert_eq!(
        lost(&file, 0, 0),
        [(7, 8), (8, 10)],
        "nothing was committed"
    );
    assert_eq!(lost(&file, 50, 0), [(7, 8), (8, 10)]);
    assert_eq!(lost(&file, 51, 0), [(7, 8), (8, 6)]);
    assert_eq!(lost(&file, 55, 0), [(7, 5), (8, 5)]);
    assert_eq!(lost(&file, 59, 0), [(7, 3), (8, 3)], "all of it was");
    // Killed between the count and the word that nothing is on its way: counted once.
    let arrived = [(8, 4)].into_iter().chain(rows);
    tally.settle(Way::Store, arrived);
    assert_eq!(lost(&file, 59, 0), [(7, 3), (8, 3)]);
    tally.arrived(Way::Store);
    assert_eq!(former(&file).last_sent(), None);
    assert_eq!(lost(&file, 0, 0), [(7, 3), (8, 3)]);
}

#[test]
fn what_steps_aside_into_the_spool_counts_there_and_once() {
    let (tally, file) = tally();
    tally.enter(7, GENERATION, 1_000, 10);
    let rows = lines(&[(7, 10)]);
    tally.sets_out(Way::Store, 1, rows.iter().copied());
    tally.sets_out(Way::Spool, 1, rows.iter().copied());
    assert_eq!(lost(&file, 0, 4), [(7, 6)], "killed within the fifth row");
    assert_eq!(lost(&file, 10, 4), [], "and the store had all of them");
    // The spool took six; the rest is on its way still.
    tally.sets_out(Way::Store, 7, rows[6..].iter().copied());
    assert_eq!(lost(&file, 0, 6), [(7, 4)]);
    assert_eq!(lost(&file, 10, 6), []);
    tally.settle(Way::Spool, rows[..6].iter().copied());
    assert_eq!(lost(&file, 10, 6), []);
    tally.arrived(Way::Spool);
    assert_eq!(lost(&file, 0, 0), [(7, 4)]);
    assert_eq!(lost(&file, 10, 0), []);
}

#[test]
fn a_file_that_nobody_began_and_a_torn_way_say_nothing() {
    use std::os::unix::fs::FileExt;
    let empty = tempfile::tempfile().expect("a file");
    assert_eq!(Former::read(&empty).expect("readable"), None);
    let (tally, file) = tally();
    tally.enter(7, GENERATION, 1_000, 3);
    tally.sets_out(Way::Store, 1, lines(&[(7, 3)]).into_iter());
    let place = Way::Store.at() + 60;
    file.write_all_at(&[0xff], place).expect("writable");
    assert_eq!(former(&file).last_sent(), None);
    assert_eq!(lost(&file, 3, 0), [(7, 3)]);
}

#[test]
fn what_is_lost_already_begins_the_next_count() {
    let lost = Lost {
        generation: GENERATION,
        at: 1_000,
        count: 12,
    };
    let file = tempfile::tempfile().expect("a file");
    let copy = file.try_clone().expect("a descriptor");
    let told = Losses::from([(7, lost)]);
    Tally::begin(file, 100, &told).expect("writable");
    assert_eq!(former(&copy).lost(0, 0), told);
}

#[test]
fn of_many_instances_those_of_which_nothing_is_in_memory_lose_their_slots() {
    let (tally, file) = tally();
    let most = i64::try_from(SLOTS_KEPT).expect("small") + 2;
    for key in 1..=most {
        tally.enter(key, GENERATION, 1_000, 1);
    }
    // All but two are safe, and one of the two is on its way.
    tally.sets_out(Way::Store, 1, [(most, 1)].into_iter());
    let safe: Vec<_> = (1..most - 1).map(|key| (key, 1)).collect();
    tally.settle(Way::Spool, safe.into_iter());
    tally.arrived(Way::Spool);
    assert_eq!(tally.slots().by_key.len(), SLOTS_KEPT + 2, "rows are out");
    tally.arrived(Way::Store);
    assert_eq!(tally.slots().by_key.len(), 2);
    assert_eq!(lost(&file, 0, 0), [(most - 1, 1), (most, 1)]);
    // Others get their places, and say what they say.
    tally.enter(5_000, GENERATION, 2_000, 3);
    let end = file.metadata().expect("metadata").len();
    tally.enter(5_001, GENERATION, 2_000, 4);
    assert_eq!(file.metadata().expect("metadata").len(), end);
    let all = [(most - 1, 1), (most, 1), (5_000, 3), (5_001, 4)];
    assert_eq!(lost(&file, 0, 0), all);
}
