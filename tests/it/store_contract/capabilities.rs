//! What servers offered.

use minimcp::{
    domain::capability::ListKind,
    store::{CapabilityPart, CapabilityRow, StoreError},
};

use super::{contract, new_instance};

fn row(basis: &str, tools: Option<&str>) -> CapabilityRow {
    CapabilityRow {
        basis: basis.to_owned(),
        heard_at: 1_000,
        // What a database would make of it as JSON of its own must not happen to it.
        handshake: r#"{"raw":"{\"b\":1.000,\"a\":\"\\u0000\"}", "a":1}"#.to_owned(),
        lists: [tools.map(str::to_owned), None, Some("{}".to_owned()), None],
    }
}

contract! {
    async fn what_a_server_offered_is_kept_as_it_said_it_and_goes_with_its_instance(db: &Database) {
        let record = db.store.create_instance(new_instance("ada", "first", 3001)).await.expect("created");
        let other = db.store.create_instance(new_instance("ada", "other", 3002)).await.expect("created");
        assert_eq!(db.store.capabilities(record.key).await, Ok(None));
        assert_eq!(db.store.capability(record.key, None).await, Ok(None));
        let tools = r#"{"tools":[{"name":"a","n":1.000,"m":123456789012345678901234567890,"x":1e400,"s":"\u0000"}] }"#;
        let first = row("one", Some(tools));
        db.store.save_capabilities(record.key, &first).await.expect("kept");
        assert_eq!(db.store.capabilities(record.key).await, Ok(Some(first.clone())));
        for (kind, list) in [
            (None, None), (Some(ListKind::Tools), Some(tools)), (Some(ListKind::Prompts), None),
            (Some(ListKind::Resources), Some("{}")), (Some(ListKind::ResourceTemplates), None),
        ] {
            let part = CapabilityPart {
                basis: "one".to_owned(), heard_at: 1_000, handshake: first.handshake.clone(), list: list.map(str::to_owned),
            };
            assert_eq!(db.store.capability(record.key, kind).await, Ok(Some(part)), "{kind:?}");
        }
        let second = CapabilityRow { heard_at: 2_000, ..row("two", None) };
        db.store.save_capabilities(record.key, &second).await.expect("replaced");
        db.store.save_capabilities(other.key, &first).await.expect("kept");
        assert_eq!(db.store.capabilities(record.key).await, Ok(Some(second)));
        assert_eq!(db.count("capability_cache").await, 2);
        db.store.forget_capabilities(other.key).await.expect("forgotten");
        assert_eq!(db.store.capabilities(other.key).await, Ok(None));
        db.store.delete_instance(record.id, 9_000, 3_000).await.expect("deleted");
        assert_eq!(db.count("capability_cache").await, 0);
        let late = db.store.save_capabilities(record.key, &first).await;
        assert_eq!(late, Err(StoreError::NotFound));
    }
}
