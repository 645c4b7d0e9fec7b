use std::fs;

use super::*;

fn owner() -> OwnerId {
    OwnerId::new("ada").expect("an owner")
}

fn name() -> CredentialName {
    CredentialName::new("github").expect("a name")
}

fn file_ring(folder: &Path) -> KeyRing {
    KeyRing::load(&folder.join("master-key"), None, None).expect("a ring")
}

#[test]
fn a_ring_is_made_once_and_found_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let sealed = file_ring(folder.path())
        .seal(&owner(), &name(), b"hunter22")
        .expect("sealed");
    let again = file_ring(folder.path());
    assert_eq!(
        again
            .open(&owner(), &name(), &sealed)
            .expect("opened")
            .as_str(),
        "hunter22"
    );
}

#[test]
fn a_secret_opens_only_for_its_owner_its_name_and_its_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let ring = file_ring(folder.path());
    let sealed = ring.seal(&owner(), &name(), b"hunter22").expect("sealed");
    let eve = OwnerId::new("eve").expect("an owner");
    let other = CredentialName::new("gitlab").expect("a name");
    assert!(matches!(
        ring.open(&eve, &name(), &sealed),
        Err(SecretsError::Unopenable(_))
    ));
    assert!(matches!(
        ring.open(&owner(), &other, &sealed),
        Err(SecretsError::Unopenable(_))
    ));
    let elsewhere = tempfile::tempdir().expect("a folder");
    let error = file_ring(elsewhere.path())
        .open(&owner(), &name(), &sealed)
        .expect_err("another ring");
    assert!(matches!(error, SecretsError::UnknownKey(_)), "{error}");
}

#[test]
fn what_is_not_text_is_refused_without_being_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let ring = file_ring(folder.path());
    let sealed = ring
        .seal(&owner(), &name(), b"hunter\xff22")
        .expect("sealed");
    let error = ring
        .open(&owner(), &name(), &sealed)
        .expect_err("not text")
        .to_string();
    assert!(
        error.contains("ada/github") && !error.contains("hunter"),
        "{error}"
    );
}

#[test]
fn rotation_seals_by_the_new_key_and_opens_by_the_old_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let ring = file_ring(folder.path());
    let clone = ring.clone();
    let before = ring.seal(&owner(), &name(), b"old").expect("sealed");
    let id = ring.rotate().expect("rotated");
    assert_eq!(clone.active_key_id(), id, "clones see it at once");
    let after = clone.seal(&owner(), &name(), b"new").expect("sealed");
    assert_eq!(after.key_id, id);
    assert_ne!(before.key_id, id);
    for ring in [&ring, &file_ring(folder.path())] {
        assert_eq!(
            ring.open(&owner(), &name(), &before)
                .expect("opened")
                .as_str(),
            "old"
        );
        assert_eq!(
            ring.open(&owner(), &name(), &after)
                .expect("opened")
                .as_str(),
            "new"
        );
    }
    assert_eq!(
        ring.retain(std::slice::from_ref(&before.key_id))
            .expect("kept"),
        Vec::<String>::new()
    );
    assert_eq!(
        ring.retain(&[]).expect("removed"),
        vec![before.key_id.clone()]
    );
    assert_eq!(file_ring(folder.path()).key_ids(), vec![id]);
    assert!(matches!(
        ring.open(&owner(), &name(), &before),
        Err(SecretsError::UnknownKey(_))
    ));
}

#[test]
fn the_environment_goes_before_the_credential_and_that_before_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("master-key");
    let credentials = folder.path().join("credentials");
    let bare = STANDARD.encode([7; KEY_BYTES]);
    file::create(
        &credentials.join(CREDENTIAL),
        STANDARD.encode([8; KEY_BYTES]).as_bytes(),
    )
    .expect("made");
    let environment =
        KeyRing::load(&file, Some(&format!("{bare}\n")), Some(&credentials)).expect("a ring");
    assert_eq!(environment.source(), &KeySource::Environment);
    let credential = KeyRing::load(&file, None, Some(&credentials)).expect("a ring");
    assert!(matches!(
        credential.source(),
        KeySource::SystemdCredential(_)
    ));
    assert_ne!(environment.active_key_id(), credential.active_key_id());
    assert!(!file.exists(), "no file is made when it is not needed");
    let error = environment.rotate().expect_err("not ours to change");
    assert!(matches!(error, SecretsError::ReadOnly(_)), "{error}");
    let of_file = KeyRing::load(&file, None, Some(folder.path())).expect("a ring");
    assert!(matches!(of_file.source(), KeySource::File(_)));
}

#[test]
fn a_malformed_ring_is_refused_without_quoting_it() {
    let good = STANDARD.encode([7; KEY_BYTES]);
    let wrong_id = format!("k-0000000000000000 {good}");
    let twice = format!("{good}\n{good}");
    let short = STANDARD.encode([7; 31]);
    let long = STANDARD.encode([7; 33]);
    let three = format!("a b {good}");
    for (text, part) in [
        ("", "no key"),
        ("# only a comment\n", "no key"),
        ("not-a-key!", "32 bytes"),
        (short.as_str(), "32 bytes"),
        (long.as_str(), "32 bytes"),
        (wrong_id.as_str(), "does not fit its id"),
        (twice.as_str(), "twice"),
        (three.as_str(), "malformed"),
    ] {
        let error = KeyRing::from_text(KeySource::Environment, text)
            .expect_err(text)
            .to_string();
        assert!(error.contains(part), "{error}");
        assert!(
            !error.contains(&good[..12]) && !error.contains("not-a-key"),
            "{error}"
        );
    }
}

#[test]
fn debug_shows_ids_and_no_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let ring = file_ring(folder.path());
    let text = fs::read_to_string(folder.path().join("master-key")).expect("readable");
    let encoded = text
        .lines()
        .last()
        .and_then(|line| line.split(' ').nth(1))
        .expect("a key");
    let shown = format!("{ring:?}");
    assert!(
        shown.contains(&ring.active_key_id()) && !shown.contains(encoded),
        "{shown}"
    );
}
