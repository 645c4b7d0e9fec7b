//! The tables of what is under way.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    failure::Failure,
    in_flight::{ASKED_MAX, CALLS_MAX, Caller, Home, InFlight, Origin, Refused, SessionKey, Table},
};
use crate::domain::template::UnclaimedRequests;

fn call(session: u64, id: &str) -> InFlight {
    InFlight {
        caller: Caller::plain(SessionKey(session)),
        client_id: id.into(),
        progress_token: None,
        mailbox: Arc::default(),
        touched: Instant::now(),
        parked: false,
        lacking: None,
        crossing: None,
        completion: None,
        endless: false,
    }
}

#[test]
fn equal_ids_of_two_sessions_stay_apart() {
    let mut table = Table::new(10, UnclaimedRequests::Refuse);
    let a = table.begin(call(1, "1")).expect("there");
    let b = table.begin(call(2, "1")).expect("there");
    assert_ne!(a, b);
    assert_eq!(table.find(SessionKey(2), "1"), Some(b));
    assert_eq!(table.find(SessionKey(2), "\"1\""), None);
    assert_eq!(table.end(a).expect("there").caller.session, SessionKey(1));
    assert!(table.end(a).is_none());
}

#[test]
fn a_message_without_a_call_goes_home_only_when_that_is_certain() {
    let mut table = Table::new(0, UnclaimedRequests::Refuse);
    table.begin(call(0, "probe")).expect("there");
    assert!(matches!(table.home(), Home::Nobody));
    let a = table.begin(call(1, "1")).expect("there");
    table.begin(call(1, "2")).expect("there");
    assert!(matches!(table.home(), Home::Only(_, call) if *call.client_id == *"2"));
    table.begin(call(2, "1")).expect("there");
    assert!(matches!(table.home(), Home::Ambiguous));
    table.end(a);
    assert!(matches!(table.home(), Home::Ambiguous));
    for call in table.calls.values_mut() {
        call.parked = call.caller.session == SessionKey(1);
    }
    assert!(matches!(table.home(), Home::Ambiguous));
    assert!(
        matches!(table.home_of_request("m"), Home::Only(_, call) if call.caller.session == SessionKey(2))
    );
}

#[test]
fn only_the_asked_session_can_answer_and_only_once() {
    let mut table = Table::new(5, UnclaimedRequests::Refuse);
    let id = table
        .ask(Origin::Child("\"c\"".into()), SessionKey(1), Arc::default())
        .expect("there");
    assert_eq!(table.answered(SessionKey(2), id), None);
    let origin = Origin::Child("\"c\"".into());
    assert_eq!(table.answered(SessionKey(1), id), Some(origin));
    assert_eq!(table.answered(SessionKey(1), id), None);
}

#[test]
fn the_tables_are_bounded() {
    let mut table = Table::new(0, UnclaimedRequests::Refuse);
    for n in 0..CALLS_MAX {
        table.begin(call(1, &n.to_string())).expect("there");
    }
    assert_eq!(table.begin(call(1, "x")), Err(Refused::Full));
    let before = Instant::now();
    assert_eq!(table.overdue(before).len(), CALLS_MAX);
    assert!(table.begin(call(1, "x")).is_ok());
    for n in 0..ASKED_MAX {
        table
            .ask(
                Origin::Child(n.to_string().into()),
                SessionKey(1),
                Arc::default(),
            )
            .expect("there");
    }
    assert!(
        table
            .ask(Origin::Child("x".into()), SessionKey(1), Arc::default())
            .is_err()
    );
    assert_eq!(table.forget_session(SessionKey(1)).len(), ASKED_MAX);
}

#[test]
fn a_failure_ends_everything_now_and_later() {
    let mut table = Table::new(0, UnclaimedRequests::Refuse);
    let one = call(1, "9");
    let mailbox = one.mailbox.clone();
    table.begin(one).expect("there");
    let failure = Arc::new(Failure::new("gone", crate::domain::id::Generation(1)));
    table.fail_all(failure.clone());
    assert_eq!(table.begin(call(1, "1")), Err(Refused::Failed(failure)));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let answer = mailbox.poll_next(&mut cx);
    assert!(format!("{answer:?}").contains("gone"), "{answer:?}");
}

#[test]
fn an_unclaimed_request_follows_the_policy() {
    let mut table = Table::new(0, UnclaimedRequests::NewestCall);
    for (session, sampling) in [(1, true), (2, true), (3, false)] {
        let mut call = call(session, "1");
        call.caller.sampling = sampling;
        call.caller.roots = session == 1;
        table.begin(call).expect("room");
    }
    let home = |table: &Table, method: &str| match table.home_of_request(method) {
        Home::Only(_, call) => Some(call.caller.session.0),
        Home::Nobody | Home::Ambiguous => None,
    };
    assert_eq!(home(&table, "sampling/createMessage"), Some(2));
    assert_eq!(home(&table, "roots/list"), Some(1));
    assert_eq!(home(&table, "elicitation/create"), None);
    assert!(matches!(table.home(), Home::Ambiguous), "logs stay private");
}
