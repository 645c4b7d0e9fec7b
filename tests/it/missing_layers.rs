//! The same attacks with each layer missing in turn: which of them the others still stop. Here the keeper is asked
//! directly; `hostile` asks the whole daemon.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::TcpListener,
    os::{fd::OwnedFd, linux::net::SocketAddrExt, unix::net as unix},
    time::Duration,
};

use minimcp::{
    domain::{
        own_user::UserIds,
        sandbox::{Layer, Sandbox},
    },
    runtime::{LaunchError, LaunchPlan, Runtime},
};
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    keeper::{Keeper, plan},
    source,
};

/// Longest time for all attacks of one run.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a network namespace stops, which is a matter of the template and not of a layer.
const OVER_THE_NETWORK: [&str; 4] = [
    "connect-api",
    "connect-neighbour",
    "connect-metadata",
    "connect-world",
];

/// A file that is hidden by `/dev/null` can be read, and holds nothing.
const NOTHING: &str = "SUCCEEDED: 0";

/// Missing layer, and the attacks that then get through where the keeper is root. Without namespaces the socket of the
/// keeper and the names of processes are there for all to see; the kernel does not count the processes of root, which
/// those without a user of their own are.
const GETS_THROUGH: &[(Layer, &[&str])] = &[
    (
        Layer::PidNamespace,
        &[
            "connect-keeper",
            "fork-bomb",
            "list-neighbour-descriptors",
            "open-neighbour-by-pidfd",
            "read-daemon-arguments",
            "read-neighbour-arguments",
            "see-processes",
            "set-user-id-on-program",
        ],
    ),
    (Layer::UserNamespace, &[]),
    (Layer::OwnUser, &["fork-bomb"]),
    (Layer::PrivateRoot, &["fork-bomb"]),
    (Layer::IpcNamespace, &[]),
    (Layer::Landlock, &["connect-abstract-socket"]),
    (Layer::CgroupLimits, &[]),
];

fn attacker(keeper: &Keeper, facts: &serde_json::Value) -> LaunchPlan {
    let servers = source::root().join("tests/fixtures/servers");
    let program = servers.join("hostile.py");
    let program = program.to_str().expect("the checkout has a plain path");
    let mut launch = plan(keeper.folder(), &["python3", program, &facts.to_string()]);
    launch.cwd = keeper.folder().join("instances/attacker");
    launch.sandbox = sandbox(keeper, servers);
    launch
}

fn sandbox(keeper: &Keeper, program: std::path::PathBuf) -> Sandbox {
    let hidden = ["instances", "secret", "k.sock"].map(|name| keeper.folder().join(name));
    Sandbox {
        program: vec![program],
        hidden: hidden.into(),
        user_ids: Some(UserIds {
            min: 70_000,
            max: 79_999,
        }),
        ..Sandbox::default()
    }
}

/// Each attack and how it ended, or why nothing was started.
async fn outcomes(options: &[&str]) -> Result<BTreeMap<String, String>, String> {
    let keeper = Keeper::start(options);
    let runtime = keeper.connect().await;
    let secret = keeper.folder().join("secret");
    fs::write(&secret, "hidden").expect("ours");
    let name = format!("minimcp-it-{}", uuid::Uuid::now_v7().simple());
    let address = unix::SocketAddr::from_abstract_name(&name).expect("a short name");
    let _abstract = unix::UnixListener::bind_addr(&address).expect("a new name");
    let port = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let shared = ["/tmp", "/dev/shm"]
        .map(|folder| tempfile::NamedTempFile::new_in(folder).expect("it can be written"));
    let mut neighbour = plan(keeper.folder(), &["sleep", "600"]);
    neighbour.cwd = keeper.folder().join("instances/neighbour");
    neighbour
        .env
        .push(("KEY".into(), Zeroizing::new("secret".into())));
    neighbour.sandbox = sandbox(&keeper, "/usr".into());
    let folder = neighbour.cwd.clone();
    let neighbour = match runtime.launch(neighbour).await {
        Ok(neighbour) => neighbour,
        Err(LaunchError::NotStarted(reason)) => return Err(reason),
        Err(error) => panic!("{error}"),
    };
    fs::write(folder.join("secret.txt"), "secret").expect("it was made for it");
    let port = port.local_addr().expect("bound").port();
    let facts = json!({
        "neighbour": neighbour.pid(), "neighbour_folder": folder, "neighbour_port": port,
        "daemon": keeper.pid(), "data": keeper.folder(), "database": secret, "master_key": secret,
        "admin_token": secret, "keeper_socket": keeper.folder().join("k.sock"), "api_port": port,
        "abstract_socket": name, "host_tmp": shared[0].path(), "host_shm": shared[1].path(),
    });
    let attacker = runtime.launch(attacker(&keeper, &facts)).await;
    let attacker = attacker.expect("the neighbour was started in the same way");
    let pipes = attacker.take_pipes().expect("fresh");
    let text = read_all(pipes.stdout).await;
    assert!(
        text.lines().count() > 100,
        "{text}\n{}",
        read_all(pipes.stderr).await
    );
    let unharmed = fs::read_dir(&folder).expect("it is there").count();
    assert_eq!(unharmed, 1, "nothing was planted on the neighbour: {text}");
    assert!(
        fs::metadata(format!("/proc/{}", neighbour.pid())).is_ok(),
        "it lives"
    );
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    Ok(lines
        .map(|(attack, outcome)| (attack.into(), outcome.into()))
        .collect())
}

async fn read_all(fd: OwnedFd) -> String {
    let mut reader = tokio::net::unix::pipe::Receiver::from_owned_fd(fd).expect("a pipe");
    let mut bytes = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut bytes);
    let read = tokio::time::timeout(PATIENCE, read).await;
    read.expect("in time").expect("readable");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn the_other_layers_stop_what_they_should() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: the table is that of a keeper that is root");
        return;
    }
    let mut wrong = Vec::new();
    for (layer, expected) in GETS_THROUGH {
        let outcomes = outcomes(&["--without", layer.word()]).await;
        let outcomes = outcomes.unwrap_or_else(|reason| panic!("{}: {reason}", layer.word()));
        let through = outcomes.iter().filter(|(attack, outcome)| {
            outcome.starts_with("SUCCEEDED")
                && *outcome != NOTHING
                && !OVER_THE_NETWORK.contains(&attack.as_str())
        });
        let through: BTreeSet<&str> = through.map(|(attack, _)| attack.as_str()).collect();
        let expected: BTreeSet<&str> = expected.iter().copied().collect();
        if through != expected {
            wrong.push(format!("without {}: {through:?} get through", layer.word()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn without_the_filter_or_both_walls_nothing_starts() {
    for (options, layer) in [
        (["--without", "system-calls"].as_slice(), "system-calls"),
        (
            &["--without", "private-root", "--without", "landlock"],
            "private-root",
        ),
    ] {
        let reason = outcomes(options).await.expect_err("it fails closed");
        assert!(reason.contains(layer), "{reason}");
    }
}
