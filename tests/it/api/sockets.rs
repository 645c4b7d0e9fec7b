//! The server loop over real sockets.

use std::{os::unix::fs::PermissionsExt, path::Path};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixListener, UnixStream},
    time::{Duration, timeout},
};

use super::Fixture;
use crate::harness::{Database, on_both_databases};
use minimcp::{
    api::{Listeners, UnixSocket, bind_tcp, bind_unix, serve},
    config::ApiConfig,
    connections::{Room, first_request::FirstRequests},
};

on_both_databases! {
    both_sockets_serve_ask_for_the_token_and_go_away_at_shutdown,
    ten_megabytes_get_their_answer_before_the_connection_ends,
    a_client_that_hangs_up_leaves_no_create_half_done,
}

const PATIENCE: Duration = Duration::from_secs(20);

fn config(socket: &Path) -> ApiConfig {
    ApiConfig {
        port: 0,
        unix_socket: Some(socket.to_owned()),
        ..ApiConfig::default()
    }
}

async fn bound(config: &ApiConfig) -> std::io::Result<Listeners> {
    let path = config.unix_socket.clone().expect("as above");
    let unix = UnixSocket {
        listener: bind_unix(&path).await?,
        path,
        stays: std::sync::Arc::default(),
    };
    Ok(Listeners {
        tcp: bind_tcp(config).await?,
        unix: Some(unix),
    })
}

/// Sends `request` and reads until the server closes.
async fn exchange<S: AsyncReadExt + AsyncWriteExt + Unpin>(mut stream: S, request: &str) -> String {
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it is sent");
    let mut text = String::new();
    let read = stream.read_to_string(&mut text);
    timeout(PATIENCE, read)
        .await
        .expect("an answer in time")
        .expect("an answer");
    text
}

async fn both_sockets_serve_ask_for_the_token_and_go_away_at_shutdown(database: Database) {
    let api = Fixture::new(database).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("api.sock");
    // What an earlier daemon left behind.
    drop(UnixListener::bind(&path).expect("a socket"));
    let listeners = bound(&config(&path)).await.expect("both sockets");
    let mode = std::fs::metadata(&path)
        .expect("the socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let address = listeners.address().expect("an address");
    let serving = tokio::spawn(serve(
        listeners,
        api.router.clone(),
        api.state.mutations.clone(),
        Room::new(100),
        FirstRequests::default(),
        api.state.shutdown.clone(),
    ));
    let head = "HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    let health = format!("GET /healthz {head}\r\n");
    let tcp = TcpStream::connect(address).await.expect("a connection");
    assert!(exchange(tcp, &health).await.ends_with("ok\n"));
    let list = format!("GET /api/v1/mcps {head}\r\n");
    let unix = UnixStream::connect(&path).await.expect("a connection");
    assert!(exchange(unix, &list).await.starts_with("HTTP/1.1 401"));

    let again = bound(&config(&path)).await.err().expect("it is in use");
    assert!(again.to_string().contains("another daemon"), "{again}");

    // A stream that is open, and an idle connection, must not hold up the end.
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let follow = format!(
        "GET /api/v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        api.token
    );
    stream
        .write_all(follow.as_bytes())
        .await
        .expect("it is sent");
    let mut begin = [0; 15];
    stream.read_exact(&mut begin).await.expect("a head");
    assert_eq!(&begin, b"HTTP/1.1 200 OK");
    let idle = TcpStream::connect(address).await.expect("a connection");
    api.state.shutdown.cancel();
    timeout(Duration::from_secs(5), serving)
        .await
        .expect("it ends")
        .expect("it ends well");
    assert!(!path.exists());
    assert!(TcpStream::connect(address).await.is_err());
    drop(idle);
}

async fn ten_megabytes_get_their_answer_before_the_connection_ends(database: Database) {
    let api = Fixture::new(database).await;
    let folder = tempfile::tempdir().expect("a folder");
    let listeners = bound(&config(&folder.path().join("s")))
        .await
        .expect("sockets");
    let address = listeners.address().expect("an address");
    let serving = tokio::spawn(serve(
        listeners,
        api.router.clone(),
        api.state.mutations.clone(),
        Room::new(100),
        FirstRequests::default(),
        api.state.shutdown.clone(),
    ));
    let request = format!(
        "POST /api/v1/mcps HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
        api.token,
        10 << 20,
        "x".repeat(10 << 20)
    );
    let tcp = TcpStream::connect(address).await.expect("a connection");
    let answer = exchange(tcp, &request).await;
    assert!(
        answer.starts_with("HTTP/1.1 413"),
        "{}",
        &answer[..answer.len().min(200)]
    );
    assert!(answer.contains("body-too-large"));
    api.state.shutdown.cancel();
    serving.await.expect("it ends well");
}

async fn a_client_that_hangs_up_leaves_no_create_half_done(database: Database) {
    let api = Fixture::new(database).await;
    let request = api.request(
        "POST",
        "/api/v1/mcps?wait=ready&timeout=20s",
        "{\"template\": \"demo\", \"name\": \"left\"}",
        &[],
    );
    let call = tower::ServiceExt::oneshot(api.router.clone(), request);
    // Its child never answers the handshake, so the wait outlives the client.
    assert!(timeout(Duration::from_millis(500), call).await.is_err());
    let left = api.call("GET", "/api/v1/mcps/left", "").await;
    assert_eq!(left.status, 200, "{}", left.text);
    assert_eq!(
        api.state.mutations.len(),
        1,
        "the create goes on without its client"
    );
    assert_eq!(
        api.call("DELETE", "/api/v1/mcps/left", "").await.status,
        204
    );
}
