//! Sessions that outlive a daemon: the file in which they are kept.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    os::unix::fs::FileExt,
};

use proptest::prelude::*;
use uuid::Uuid;

use super::kept_sessions::{Change, KeptMember, KeptSession, KeptSessions};
use crate::{
    domain::id::{Generation, InstanceId},
    upstream::Era,
};

fn file() -> File {
    tempfile::tempfile().expect("a file")
}

fn instance(number: u128) -> InstanceId {
    InstanceId(Uuid::from_u128(number))
}

fn session(id: &str) -> KeptSession {
    KeptSession {
        id: id.to_owned(),
        epoch: 0,
        token: "default".to_owned(),
        token_created_at: 7,
        version: "2025-11-25".to_owned(),
        capabilities: r#"{"sampling":{}}"#.to_owned(),
        client: None,
        log_level: None,
        subscriptions: HashSet::new(),
        member: None,
    }
}

fn again(file: &File) -> KeptSessions {
    KeptSessions::go_on(file.try_clone().expect("a descriptor")).expect("readable")
}

fn begun(file: &File) -> KeptSessions {
    KeptSessions::begin(file.try_clone().expect("a descriptor")).expect("writable")
}

#[test]
fn the_next_daemon_finds_what_this_one_kept_and_each_life_has_its_number() {
    let file = file();
    let kept = begun(&file);
    let (one, two) = (instance(1), instance(2));
    assert!(kept.note(one, "a", &Change::Opened(session("a"))));
    assert!(kept.note(one, "b", &Change::Opened(session("b"))));
    assert!(kept.note(two, "a", &Change::Opened(session("a"))));
    let subscribed = |uri: &'static str| Change::Subscribed { uri: uri.into() };
    let unsubscribed = |uri: &'static str| Change::Unsubscribed { uri: uri.into() };
    kept.note(one, "a", &subscribed("file:///\"x\""));
    kept.note(one, "a", &subscribed("y"));
    kept.note(one, "a", &unsubscribed("y"));
    kept.note(one, "a", &Change::Level { level: 3 });
    kept.note(one, "b", &Change::Closed);
    // It is never told to stop: the process just ends.
    let next = again(&file);
    assert_eq!(next.left(), 2);
    let wanted = KeptSession {
        epoch: 1,
        log_level: Some(3),
        subscriptions: ["file:///\"x\"".to_owned()].into(),
        ..session("a")
    };
    assert_eq!(next.take(one), [wanted]);
    assert_eq!(next.take(one), []);
    assert_eq!(again(&file).take(two)[0].epoch, 2);
}

#[test]
fn a_session_with_a_child_of_its_own_is_kept_with_it() {
    let file = file();
    let kept = begun(&file);
    let member = KeptMember {
        number: 3,
        generation: Generation(2),
        era: Era::Legacy,
        told: r#"{"capabilities":{}}"#.to_owned(),
    };
    let alone = KeptSession {
        member: Some(member.clone()),
        ..session("a")
    };
    let change = alone.clone().opened();
    // A daemon from before there was this word passes it over.
    let text = serde_json::to_value(&change).expect("writable");
    assert_eq!(text["type"], "opened-alone");
    assert!(kept.note(instance(1), "a", &change));
    kept.note(instance(1), "a", &Change::Level { level: 3 });
    let shared = session("b").opened();
    assert!(matches!(shared, Change::Opened(_)));
    // Written anew with every daemon.
    for epoch in 1..3 {
        let taken = again(&file).take(instance(1));
        let wanted = KeptSession {
            epoch,
            log_level: Some(3),
            ..alone.clone()
        };
        assert_eq!(taken, [wanted]);
    }
}

#[test]
fn a_long_handshake_is_kept_and_one_past_the_bound_keeps_no_other_from_being() {
    let file = file();
    let kept = begun(&file);
    let with_icon = |id: &str, bytes: usize| KeptSession {
        client: Some(format!(
            r#"{{"icons":[{{"src":"{}"}}]}}"#,
            "x".repeat(bytes)
        )),
        ..session(id)
    };
    let long = with_icon("long", 900 << 10);
    assert!(kept.note(instance(1), "long", &long.clone().opened()));
    let longer = with_icon("longer", 1 << 20).opened();
    assert!(!kept.note(instance(1), "longer", &longer));
    assert!(kept.note(instance(1), "short", &session("short").opened()));
    let taken = again(&file).take(instance(1));
    let ids: Vec<_> = taken.iter().map(|kept| kept.id.as_str()).collect();
    assert_eq!(ids, ["long", "short"]);
    assert_eq!(taken[0].client, long.client);
}

#[test]
fn what_ends_while_the_daemon_stops_goes_on_under_the_next_one() {
    let file = file();
    let kept = begun(&file);
    kept.note(instance(1), "a", &Change::Opened(session("a")));
    kept.stop();
    assert!(!kept.note(instance(1), "a", &Change::Closed));
    assert_eq!(again(&file).left(), 1);
}

#[test]
fn sessions_that_nobody_takes_back_end_after_a_while() {
    let file = file();
    begun(&file).note(instance(1), "a", &Change::Opened(session("a")));
    let next = again(&file);
    next.drop_left(0);
    assert_eq!(next.left(), 1);
    next.drop_left(crate::domain::UnixMs::MAX);
    assert_eq!((next.left(), again(&file).left()), (0, 0));
}

#[test]
fn a_file_of_another_version_is_refused_in_words() {
    let file = file();
    drop(begun(&file));
    file.write_all_at(&[9], 8).expect("writable");
    let text = KeptSessions::go_on(file.try_clone().expect("a descriptor"));
    let text = text.err().expect("another version");
    assert!(text.contains("version 9"), "{text}");
    assert!(KeptSessions::go_on(self::file()).is_err());
}

#[test]
fn it_stays_small_however_many_sessions_come_and_go() {
    let file = file();
    let kept = begun(&file);
    for number in 0..40_000 {
        let id = format!("{number:032x}");
        assert!(kept.note(instance(1), &id, &Change::Opened(session(&id))));
        if number >= 10 {
            let old = format!("{:032x}", number - 10);
            kept.note(instance(1), &old, &Change::Closed);
        }
    }
    let len = file.metadata().expect("its length").len();
    assert!(len < 2 << 20, "{len} bytes");
    assert_eq!(again(&file).left(), 10);
}

proptest! {
    /// Whatever was written when the process ended: everything before the write that was cut is there.
    #[test]
    fn a_write_that_was_cut_costs_itself_alone(
        count in 1_usize..30,
        cut in 1_u64..200,
        noise in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let file = file();
        let kept = begun(&file);
        let mut ends = BTreeMap::new();
        for number in 0..count {
            let id = format!("{number:032x}");
            kept.note(instance(1), &id, &Change::Opened(session(&id)));
            ends.insert(file.metadata().expect("its length").len(), number + 1);
        }
        let len = file.metadata().expect("its length").len().saturating_sub(cut).max(36);
        file.set_len(len).expect("writable");
        file.write_all_at(&noise, len).expect("writable");
        let whole = ends.range(..=len).next_back().map_or(0, |(_, count)| *count);
        prop_assert_eq!(again(&file).left(), whole);
    }
}
