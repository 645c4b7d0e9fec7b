//! Servers elsewhere over HTTPS, with certificates of an authority of the test's own.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    harness::{Database, Server},
    mcp::Mcp,
    remote::{Elsewhere, SECRET, running, store, wish},
    stateless_client::Stateless,
};

/// A certificate authority of one's own, and a certificate of `mcp.test` with its key, made by openssl(1).
fn certificates(folder: &Path) -> Option<(PathBuf, PathBuf)> {
    let script = "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign && \
        openssl req -newkey rsa:2048 -nodes -keyout own.key -out own.csr -subj /CN=mcp.test && \
        printf 'subjectAltName=DNS:mcp.test\\nbasicConstraints=CA:FALSE\\nextendedKeyUsage=serverAuth\\n' > own.ext && \
        openssl x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile own.ext -out own.crt && \
        cat own.crt own.key > own.pem";
    let made = Command::new("sh")
        .args(["-c", script])
        .current_dir(folder)
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .status();
    if !made.is_ok_and(|made| made.success()) {
        eprintln!("SKIPPED: openssl is not there to make certificates");
        return None;
    }
    Some((folder.join("ca.pem"), folder.join("own.pem")))
}

#[tokio::test]
async fn its_certificate_must_be_of_an_authority_that_is_trusted() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some((ca, own)) = certificates(folder.path()) else {
        return;
    };
    let elsewhere = Elsewhere::start("session", Some(&own));
    let elsewhere = &elsewhere;
    let start = |ca: Option<PathBuf>, host: &str| {
        let url = format!("https://{host}:{}/mcp", elsewhere.port);
        let own_name = format!("{host}=127.0.0.1").parse().expect("a name");
        Server::start_with(Database::Sqlite, move |config| {
            elsewhere.write_template(config, &url, "");
            config.sandbox.host_addresses = vec![own_name];
            config.remote.ca_file = ca;
        })
    };
    for (ca_file, host, words) in [
        (None, "mcp.test", "remote.ca_file"),
        (Some(ca.clone()), "other.test", "not valid for"),
    ] {
        let server = start(ca_file, host).await;
        store(&server, SECRET).await;
        let instance = server.create(wish()).await;
        let reason = instance["reason"].as_str().expect("it says why");
        assert!(reason.contains("is not trusted"), "{reason}");
        assert!(reason.contains(words), "{reason}");
        assert_eq!(elsewhere.requests(), Vec::<Value>::new());
    }
    let server = start(Some(ca), "mcp.test").await;
    store(&server, SECRET).await;
    let instance = running(&server).await;
    let mut client = Mcp::connect(&instance).await;
    let said = client.tool("echo", json!({"text": "over TLS"})).await;
    assert_eq!(said.as_deref(), Ok("over TLS"));
    let other = Stateless::new(&instance);
    assert_eq!(other.tool("echo", json!({"text": "é"})).await.text(), "é");
}
