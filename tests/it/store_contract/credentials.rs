//! Sealed credentials, and the key ring against the data.

use std::path::Path;

use minimcp::{
    domain::{credential::SealedSecret, id::CredentialName},
    secrets::{KeyRing, SecretsError, check_keys, reseal, retire_unused_keys},
    store::Store,
};

use super::{contract, owner};

fn name(text: &str) -> CredentialName {
    CredentialName::new(text).expect("a name")
}

fn ring(folder: &Path) -> KeyRing {
    KeyRing::load(&folder.join("master-key"), None, None).expect("a ring")
}

async fn put(store: &Store, ring: &KeyRing, credential: &str, value: &str, now: i64) {
    let sealed = ring
        .seal(&owner("ada"), &name(credential), value.as_bytes())
        .expect("sealed");
    store
        .put_credential(&owner("ada"), &name(credential), &sealed, now)
        .await
        .expect("kept");
}

async fn value(store: &Store, ring: &KeyRing, credential: &str) -> String {
    let row = store
        .credential(&owner("ada"), &name(credential))
        .await
        .expect("read")
        .expect("there");
    ring.open(&row.owner, &row.name, &row.sealed)
        .expect("opened")
        .to_string()
}

contract! {
    async fn a_credential_is_kept_replaced_listed_and_removed(db: &Database) {
        let folder = tempfile::tempdir().expect("a folder");
        let ring = ring(folder.path());
        put(&db.store, &ring, "github", "first", 10).await;
        put(&db.store, &ring, "figma", "other", 11).await;
        put(&db.store, &ring, "github", "second", 12).await;
        let sealed = ring.seal(&owner("eve"), &name("github"), b"of eve").expect("sealed");
        db.store.put_credential(&owner("eve"), &name("github"), &sealed, 13).await.expect("kept");
        assert_eq!(value(&db.store, &ring, "github").await, "second");

        let of_ada = db.store.credentials(Some(&owner("ada"))).await.expect("read");
        let shown: Vec<_> = of_ada.iter().map(|entry| (entry.name.as_str(), entry.created_at, entry.updated_at)).collect();
        assert_eq!(shown, [("figma", 11, 11), ("github", 10, 12)]);
        assert_eq!(db.store.credentials(None).await.expect("read").len(), 3);
        assert_eq!(db.store.delete_credential(&owner("ada"), &name("github")).await, Ok(true));
        assert_eq!(db.store.delete_credential(&owner("ada"), &name("github")).await, Ok(false));
        assert_eq!(db.store.credential(&owner("ada"), &name("github")).await, Ok(None));
        assert!(db.store.credential(&owner("eve"), &name("github")).await.expect("read").is_some());
    }

    async fn a_blob_that_was_moved_or_changed_in_the_database_does_not_open(db: &Database) {
        let folder = tempfile::tempdir().expect("a folder");
        let ring = ring(folder.path());
        put(&db.store, &ring, "github", "hunter22", 10).await;
        db.sabotage("UPDATE credentials SET name = 'figma'").await;
        let row = db.store.credential(&owner("ada"), &name("figma")).await.expect("read").expect("there");
        let moved = ring.open(&row.owner, &row.name, &row.sealed).expect_err("moved");
        assert!(matches!(moved, SecretsError::Unopenable(_)), "{moved}");
        assert!(ring.open(&row.owner, &name("github"), &row.sealed).is_ok(), "at its old place it is whole");
        db.sabotage("UPDATE credentials SET nonce = ciphertext").await;
        let damaged = db.store.credential(&owner("ada"), &name("figma")).await.expect_err("damaged");
        assert!(damaged.to_string().contains("ada/figma") && damaged.to_string().contains("nonce"), "{damaged}");
    }

    async fn another_key_is_noticed_at_start(db: &Database) {
        let folder = tempfile::tempdir().expect("a folder");
        let right = ring(folder.path());
        check_keys(&right, &db.store, 1).await.expect("a first start");
        check_keys(&right, &db.store, 2).await.expect("a second start");
        let elsewhere = tempfile::tempdir().expect("a folder");
        let made = ring(elsewhere.path());
        let error = check_keys(&made, &db.store, 3).await.expect_err("a key that was only made now");
        let text = error.to_string();
        assert!(text.contains("is missing") && text.contains(&right.active_key_id()), "{text}");
        assert_eq!(std::fs::read_dir(elsewhere.path()).expect("ours").count(), 0, "it was taken back");
        drop(ring(elsewhere.path()));
        let wrong = ring(elsewhere.path());
        let error = check_keys(&wrong, &db.store, 3).await.expect_err("another key");
        let text = error.to_string();
        assert!(matches!(error, SecretsError::WrongKey(_)), "{text}");
        assert!(text.contains(&right.active_key_id()) && text.contains(&wrong.active_key_id()), "{text}");
        assert_eq!(db.store.key_checks().await.expect("read").len(), 1, "the wrong key left no trace");
        check_keys(&right, &db.store, 4).await.expect("the right key is still right");

        db.sabotage("UPDATE key_checks SET nonce = (SELECT k.nonce FROM key_checks k), created_at = 9").await;
        check_keys(&right, &db.store, 5).await.expect("an unchanged text");
        put(&db.store, &right, "github", "x", 5).await;
        db.sabotage("UPDATE key_checks SET nonce = (SELECT nonce FROM credentials)").await;
        let error = check_keys(&right, &db.store, 6).await.expect_err("a changed text");
        assert!(matches!(error, SecretsError::WrongKey(_)), "{error}");
    }

    async fn a_rotation_reseals_everything_and_retires_the_old_key(db: &Database) {
        let folder = tempfile::tempdir().expect("a folder");
        let ring = ring(folder.path());
        check_keys(&ring, &db.store, 1).await.expect("a first start");
        let old = ring.active_key_id();
        for number in 0..230 {
            put(&db.store, &ring, &format!("c-{number}"), &format!("value {number}"), 10).await;
        }
        assert_eq!(retire_unused_keys(&ring, &db.store).await.expect("nothing to retire"), Vec::<String>::new());
        let new = ring.rotate().expect("rotated");
        put(&db.store, &ring, "fresh", "of today", 11).await;
        assert_eq!(value(&db.store, &ring, "c-7").await, "value 7", "readable before it is re-sealed");
        // One that nothing opens: it must neither stop the others nor be lost.
        db.sabotage("UPDATE credentials SET ciphertext = nonce WHERE name = 'c-5'").await;

        let progress = reseal(&ring, &db.store, 12).await.expect("resealed");
        assert_eq!((progress.resealed, progress.passed, progress.unopenable), (229, 0, 1));
        for row in db.store.credentials(None).await.expect("read") {
            assert_eq!(row.key_id, if row.name.as_str() == "c-5" { old.as_str() } else { new.as_str() }, "{}", row.name);
            assert_ne!(row.updated_at, 12, "re-sealing is no change of the value");
        }
        assert_eq!(value(&db.store, &ring, "c-229").await, "value 229");
        let again = reseal(&ring, &db.store, 13).await.expect("resealed");
        assert_eq!((again.resealed, again.unopenable), (0, 1));
        assert_eq!(retire_unused_keys(&ring, &db.store).await.expect("one is in use"), Vec::<String>::new());
        db.store.delete_credential(&owner("ada"), &name("c-5")).await.expect("deleted");
        assert_eq!(retire_unused_keys(&ring, &db.store).await.expect("retired"), [old]);
        assert_eq!(ring.key_ids(), [new]);
        let restarted = KeyRing::load(&folder.path().join("master-key"), None, None).expect("a ring");
        check_keys(&restarted, &db.store, 14).await.expect("the ring of one key fits");
        assert_eq!(value(&db.store, &restarted, "c-3").await, "value 3");
    }

    async fn a_value_put_while_it_is_resealed_wins(db: &Database) {
        let folder = tempfile::tempdir().expect("a folder");
        let ring = ring(folder.path());
        put(&db.store, &ring, "github", "old", 10).await;
        let old = db.store.credential(&owner("ada"), &name("github")).await.expect("read").expect("there");
        ring.rotate().expect("rotated");
        put(&db.store, &ring, "github", "new", 11).await;
        let resealed: SealedSecret = ring.seal(&old.owner, &old.name, b"old").expect("sealed");
        let done = db.store.reseal_credential(&old.owner, &old.name, &old.sealed, &resealed).await;
        assert_eq!(done, Ok(false));
        assert_eq!(value(&db.store, &ring, "github").await, "new");
    }
}
