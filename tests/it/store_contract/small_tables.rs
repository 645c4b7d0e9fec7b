//! Events and idempotency keys.

use minimcp::{
    domain::id::InstanceId,
    store::{History, NewEvent, StoreError},
};
use uuid::Uuid;

use super::{contract, generation, owner};

fn event(instance: InstanceId, at: i64, kind: &str) -> NewEvent {
    NewEvent {
        instance,
        generation: generation(3),
        at,
        kind: kind.to_owned(),
        message: format!("{kind} happened"),
    }
}

contract! {
    async fn events_are_numbered_paged_and_expire(db: &Database) {
        let (first, second) = (InstanceId(Uuid::now_v7()), InstanceId(Uuid::now_v7()));
        let all = [event(first, 10, "a"), event(second, 20, "b"), event(first, 30, "c"), event(first, 40, "d")];
        let ids = db.store.append_events(&all).await.expect("appended");
        assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
        assert_eq!(db.store.append_events(&[]).await, Ok(vec![]));

        let page = db.store.events_page(None, 0, 3).await.expect("read");
        assert_eq!(page.iter().map(|row| row.id).collect::<Vec<_>>(), ids[..3]);
        assert_eq!((page[1].instance, page[1].generation, page[1].at), (second, generation(3), 20));
        assert_eq!((page[1].kind.as_str(), page[1].message.as_str()), ("b", "b happened"));
        let page = db.store.events_page(None, ids[2], 3).await.expect("read");
        assert_eq!(page.iter().map(|row| row.id).collect::<Vec<_>>(), ids[3..]);
        let page = db.store.events_page(Some(first), ids[0], 9).await.expect("read");
        assert_eq!(page.iter().map(|row| row.kind.as_str()).collect::<Vec<_>>(), ["c", "d"]);

        assert_eq!(db.store.delete_before(History::Events, 40, i64::MAX, 2).await, Ok(2));
        assert_eq!(db.store.delete_before(History::Events, 40, i64::MAX, 9).await, Ok(1));
        let next = db.store.append_events(&[event(first, 50, "e")]).await.expect("appended");
        assert!(next[0] > ids[3]);
    }

    async fn the_first_answer_to_a_key_stays_until_it_is_purged(db: &Database) {
        let ada = owner("ada");
        assert_eq!(db.store.idempotency_get(&ada, "k").await, Ok(None));
        db.store.idempotency_put(&ada, "k", [7; 32], 201, b"\0body\xff", 10).await.expect("kept");
        let again = db.store.idempotency_put(&ada, "k", [8; 32], 500, b"", 11).await;
        assert_eq!(again, Err(StoreError::Conflict("idempotency-key")));
        db.store.idempotency_put(&owner("eve"), "k", [9; 32], 202, b"", 12).await.expect("keys belong to an owner");
        let kept = db.store.idempotency_get(&ada, "k").await.expect("read").expect("there");
        assert_eq!((kept.request_hash, kept.status, kept.created_at), ([7; 32], 201, 10));
        assert_eq!(kept.body, b"\0body\xff");
        assert_eq!(db.store.idempotency_purge(12).await, Ok(1));
        assert_eq!(db.store.idempotency_get(&ada, "k").await, Ok(None));
        assert!(db.store.idempotency_get(&owner("eve"), "k").await.expect("read").is_some());
    }
}
