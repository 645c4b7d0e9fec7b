//! Access tokens and their secrets.

use minimcp::{
    domain::{
        access::{TOKENS_MAX, TokenScope, TokenSettings},
        id::{InstanceId, TokenName},
    },
    store::{NewToken, SecretRow, StoreError, TokenRow},
};
use serde_json::json;
use uuid::Uuid;

use super::{contract, new_instance, together};

fn name(text: &str) -> TokenName {
    TokenName::new(text).expect("a token name")
}

fn settings(scope: serde_json::Value, expires_at: Option<i64>) -> TokenSettings {
    TokenSettings {
        scope: TokenScope::read(&scope, &mut Vec::new()).expect("a scope"),
        expires_at,
        ..TokenSettings::default()
    }
}

fn new_token(text: &str, number: u8, now: i64) -> NewToken {
    NewToken {
        name: name(text),
        settings: TokenSettings::default(),
        hash: [number; 32],
        now,
    }
}

contract! {
    async fn a_token_is_read_back_as_it_was_made_and_changed(db: &Database) {
        let record = db.store.create_instance(new_instance("ada", "first", 3001)).await.expect("created");
        let mut new = new_token("ci", 7, 2_000);
        new.settings = settings(json!({"tools": ["a", "b*", "ü\"\\"]}), Some(9_000));
        new.settings.rate_limit = Some("100/1m".parse().expect("a rate"));
        new.settings.concurrency_max = Some(4);
        db.store.create_token(record.id, &new).await.expect("made");
        let row = async |store: &minimcp::store::Store| -> TokenRow {
            let tokens = store.access_tokens().await.expect("read");
            assert!(tokens.iter().all(|(id, _)| *id == record.id));
            assert_eq!(tokens[0].1.name, TokenName::first());
            assert_eq!(tokens.len(), 2);
            tokens[1].1.clone()
        };
        let another = db.another().await;
        let secrets = vec![SecretRow { hash: [7; 32], created_at: 2_000, expires_at: None }];
        let expected = TokenRow {
            name: name("ci"), settings: new.settings.clone(), created_at: 2_000, last_used_at: None, secrets,
        };
        assert_eq!(row(&another).await, expected);
        another.close().await;

        let other = settings(json!("read-only"), None);
        db.store.change_token(record.id, &name("ci"), &other).await.expect("changed");
        assert_eq!(row(&db.store).await, TokenRow { settings: other.clone(), ..expected });
        assert_eq!(db.store.change_token(record.id, &name("no"), &other).await, Err(StoreError::NotFound));
    }

    async fn a_name_belongs_to_one_token_of_an_instance(db: &Database) {
        let first = db.store.create_instance(new_instance("ada", "first", 3001)).await.expect("created");
        let second = db.store.create_instance(new_instance("ada", "second", 3002)).await.expect("created");
        db.store.create_token(first.id, &new_token("ci", 7, 1)).await.expect("made");
        let taken = Err(StoreError::Conflict("token-name"));
        assert_eq!(db.store.create_token(first.id, &new_token("ci", 8, 1)).await, taken);
        assert_eq!(db.store.create_token(first.id, &new_token("default", 8, 1)).await, taken);
        let same_secret = db.store.create_token(first.id, &new_token("other", 7, 1)).await;
        assert_eq!(same_secret, Err(StoreError::Conflict("token")));
        assert_eq!(db.count("access_tokens").await, 3, "a refused token leaves nothing behind");
        db.store.create_token(second.id, &new_token("ci", 8, 1)).await.expect("another instance may use the name");
        let nobody = InstanceId(Uuid::now_v7());
        assert_eq!(db.store.create_token(nobody, &new_token("ci", 9, 1)).await, Err(StoreError::NotFound));

        assert_eq!(db.store.delete_token(second.id, &name("other")).await, Err(StoreError::NotFound));
        db.store.delete_token(second.id, &name("ci")).await.expect("deleted");
        assert_eq!(db.count("access_token_secrets").await, 3, "its secret went along");
        db.store.create_token(second.id, &new_token("ci", 8, 1)).await.expect("name and secret are free");
    }

    async fn many_at_once_do_not_pass_the_most(db: &Database) {
        let record = db.store.create_instance(new_instance("ada", "first", 3001)).await.expect("created");
        let stores = [db.store.clone(), db.another().await];
        let new = |place: usize| {
            let number = u8::try_from(place + 1).expect("a small number");
            new_token(&format!("t-{place}"), number, 1)
        };
        for place in 0..TOKENS_MAX - 4 {
            db.store.create_token(record.id, &new(place)).await.expect("there is room");
        }
        let outcomes = together((TOKENS_MAX - 4..TOKENS_MAX + 6).map(|place| {
            let (store, id, new) = (stores[place % 2].clone(), record.id, new(place));
            async move { store.create_token(id, &new).await }
        })).await;
        let refused = outcomes.iter().filter(|one| **one == Err(StoreError::Conflict("tokens-max"))).count();
        assert_eq!(refused, 7, "one place was taken by the first token: {outcomes:?}");
        assert_eq!(outcomes.iter().filter(|one| one.is_ok()).count(), 3);
        assert_eq!(db.count("access_tokens").await, 64);
        assert_eq!(db.count("access_token_secrets").await, 64);
        stores[1].close().await;
    }

    async fn the_last_use_only_moves_forward(db: &Database) {
        let record = db.store.create_instance(new_instance("ada", "first", 3001)).await.expect("created");
        db.store.create_token(record.id, &new_token("ci", 7, 1)).await.expect("made");
        let nobody = InstanceId(Uuid::now_v7());
        let first = TokenName::first();
        db.store.touch_tokens(&[]).await.expect("nothing to do");
        db.store.touch_tokens(&[
            (record.id, name("ci"), 50), (record.id, name("ci"), 40), (nobody, name("ci"), 60),
            (record.id, name("gone"), 70), (record.id, first.clone(), 30),
        ]).await.expect("noted");
        db.store.touch_tokens(&[(record.id, first, 29)]).await.expect("noted");
        let tokens = db.store.access_tokens().await.expect("read");
        let used: Vec<_> = tokens.iter().map(|(_, token)| (token.name.as_str(), token.last_used_at)).collect();
        assert_eq!(used, [("ci", Some(50)), ("default", Some(30))]);
    }

    async fn a_damaged_token_opens_nothing_and_hides_no_other(db: &Database) {
        let record = db.store.create_instance(new_instance("ada", "first", 3001)).await.expect("created");
        db.store.create_token(record.id, &new_token("ci", 7, 1)).await.expect("made");
        db.sabotage("UPDATE access_tokens SET scope = '\"everything\"' WHERE name = 'ci'").await;
        let tokens = db.store.access_tokens().await.expect("read");
        assert_eq!(tokens.len(), 1);
        assert_eq!(tokens[0].1.name, TokenName::first());
    }

    async fn a_replaced_token_overlaps_as_long_as_was_said(db: &Database) {
        let new = new_instance("ada", "first", 3001);
        let first = new.token_hash;
        let record = db.store.create_instance(new).await.expect("created");
        db.store.create_token(record.id, &new_token("ci", 99, 1)).await.expect("made");
        let replace = async |number: u8, until, now| {
            db.store.replace_token(record.id, &TokenName::first(), [number; 32], until, now).await
        };
        replace(2, Some(5_000), 2_000).await.expect("replaced");
        replace(3, Some(9_000), 3_000).await.expect("replaced");
        let read = async || -> Vec<([u8; 32], Option<i64>)> {
            let tokens = db.store.access_tokens().await.expect("read");
            assert_eq!(tokens[0].1.secrets.len(), 1, "the other token is left alone");
            tokens[1].1.secrets.iter().map(|secret| (secret.hash, secret.expires_at)).collect()
        };
        assert_eq!(read().await, [(first, Some(5_000)), ([2; 32], Some(9_000)), ([3; 32], None)]);
        replace(4, None, 5_000).await.expect("replaced");
        assert_eq!(read().await, [([4; 32], None)], "without an overlap the old ones end at once");
        for number in 10..30_u8 {
            let now = 6_000 + i64::from(number);
            replace(number, Some(99_000), now).await.expect("replaced");
        }
        let secrets = read().await;
        assert_eq!(secrets.len(), 8, "the oldest go");
        assert_eq!(secrets.last(), Some(&([29; 32], None)));
        let nobody = InstanceId(Uuid::now_v7());
        let unknown = db.store.replace_token(nobody, &TokenName::first(), [9; 32], None, 1).await;
        assert_eq!(unknown, Err(StoreError::NotFound));
        let unknown = db.store.replace_token(record.id, &name("no"), [9; 32], None, 1).await;
        assert_eq!(unknown, Err(StoreError::NotFound));
        // The first token comes back when it was revoked.
        db.store.delete_token(record.id, &TokenName::first()).await.expect("deleted");
        replace(40, None, 7_000).await.expect("made anew");
        assert_eq!(read().await, [([40; 32], None)]);
    }

    async fn tokens_of_the_first_tables_keep_their_secrets(db: &Database) {
        // As the tables were before tokens had names.
        let record = db.store.create_instance(new_instance("ada", "first", 3001)).await.expect("created");
        db.store.replace_token(record.id, &TokenName::first(), [2; 32], Some(9_000), 2_000).await.expect("replaced");
        let before = db.store.access_tokens().await.expect("read");
        let (blob, int) = if db.store.kind() == "sqlite" { ("BLOB", "INTEGER") } else { ("BYTEA", "BIGINT") };
        db.store.close().await;
        db.undo(&[
            &format!("CREATE TABLE old_tokens (hash {blob} NOT NULL PRIMARY KEY, instance_key {int} NOT NULL \
                REFERENCES instances (instance_key) ON DELETE CASCADE, created_at {int} NOT NULL, expires_at {int})"),
            "INSERT INTO old_tokens SELECT hash, instance_key, created_at, expires_at FROM access_token_secrets",
            "ALTER TABLE logs DROP COLUMN member",
            "DROP TABLE calls",
            "DROP TABLE call_writers",
            "DROP TABLE log_usage",
            "DROP TABLE log_writers",
            "DROP TABLE capability_cache",
            "DROP TABLE template_needs",
            "DROP TABLE log_minutes",
            "DROP TABLE access_token_secrets",
            "DROP TABLE access_tokens",
            "ALTER TABLE old_tokens RENAME TO access_tokens",
            "CREATE INDEX access_tokens_instance_key ON access_tokens (instance_key)",
            "DELETE FROM _sqlx_migrations WHERE version >= 2",
        ]).await;
        let store = db.another().await;
        assert_eq!(store.access_tokens().await.expect("read"), before);
        store.close().await;
    }
}
