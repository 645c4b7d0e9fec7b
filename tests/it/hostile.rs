//! Servers that attack, each attack against a neighbour that holds a secret, the daemon and the host: what stops it is
//! asserted exactly. The attacks are those of `tests/fixtures/servers/hostile.py`; the table has them all.

use std::{
    collections::BTreeMap,
    fs,
    os::{linux::net::SocketAddrExt, unix::net as unix},
    path::Path,
};

use serde_json::{Value, json};

use crate::{
    denials,
    harness::{Database, Server, reachable_by_all},
    mcp::Mcp,
};

/// Somebody without any right; no user of a usual host has this id.
const NOBODY_UID: u32 = 4_242;

/// Attack, and the error by which it fails. Where the daemon runs as root see also [`AS_ROOT`].
const STOPPED: &[(&str, &str)] = &[
    ("read-neighbour-environ", "ENOENT"),
    ("read-neighbour-memory", "ENOENT"),
    ("read-neighbour-arguments", "ENOENT"),
    ("list-neighbour-descriptors", "ENOENT"),
    ("read-daemon-environ", "ENOENT"),
    ("read-daemon-arguments", "ENOENT"),
    ("list-daemon-root", "ENOENT"),
    ("read-init-environ", "EACCES"),
    ("read-init-memory", "EACCES"),
    ("list-init-root", "EACCES"),
    ("write-init-badness", "EACCES"),
    ("read-database", "ENOENT"),
    ("read-master-key", "ENOENT"),
    ("read-admin-token", "ENOENT"),
    ("list-neighbour-folder", "ENOENT"),
    ("read-neighbour-file", "ENOENT"),
    ("write-neighbour-file", "ENOENT"),
    ("read-host-tmp", "ENOENT"),
    ("read-host-shm", "ENOENT"),
    ("read-shadow", "ENOENT"),
    ("list-root-home", "ENOENT"),
    ("list-homes", "ENOENT"),
    ("list-run", "ENOENT"),
    ("list-sys", "ENOENT"),
    ("read-kernel-memory", "ENOENT"),
    ("read-kernel-log", "ENOENT"),
    ("read-kernel-core", "ENOENT"),
    ("write-cgroups", "ENOENT"),
    ("write-core-pattern", "EACCES"),
    ("write-sysrq", "ENOENT"),
    ("write-program", "EROFS"),
    ("write-own-program", "EACCES"),
    ("write-accounts", "EACCES"),
    ("write-root-folder", "EROFS"),
    ("call-ptrace", "EPERM"),
    ("call-process-vm-readv", "EPERM"),
    ("call-kcmp", "EPERM"),
    ("call-clone", "EPERM"),
    ("call-clone3", "ENOSYS"),
    ("call-unshare", "EPERM"),
    ("call-setns", "EPERM"),
    ("call-mount", "EPERM"),
    ("call-umount2", "EPERM"),
    ("call-pivot-root", "EPERM"),
    ("call-chroot", "EPERM"),
    ("call-open-tree", "EPERM"),
    ("call-fsopen", "EPERM"),
    ("call-open-by-handle-at", "EPERM"),
    ("call-mknod", "EPERM"),
    ("call-add-key", "EPERM"),
    ("call-request-key", "EPERM"),
    ("call-keyctl", "EPERM"),
    ("call-io-uring-setup", "EPERM"),
    ("call-userfaultfd", "EPERM"),
    ("call-bpf", "EPERM"),
    ("call-perf-event-open", "EPERM"),
    ("call-kexec-load", "EPERM"),
    ("call-init-module", "EPERM"),
    ("call-delete-module", "EPERM"),
    ("call-reboot", "EPERM"),
    ("call-swapon", "EPERM"),
    ("call-syslog", "EPERM"),
    ("call-settimeofday", "EPERM"),
    ("call-clock-settime", "EPERM"),
    ("call-sethostname", "EPERM"),
    ("call-acct", "EPERM"),
    ("call-fanotify-init", "EPERM"),
    ("call-personality", "EPERM"),
    ("call-process-madvise", "EPERM"),
    ("call-quotactl", "EPERM"),
    ("call-ioperm", "EPERM"),
    ("call-modify-ldt", "EPERM"),
    ("call-move-pages", "EPERM"),
    ("call-memfd-secret", "EPERM"),
    ("call-setuid", "EINVAL"),
    ("call-setpriority", "EPERM"),
    ("call-sched-setaffinity", "EPERM"),
    ("call-sched-setscheduler", "EPERM"),
    ("call-ioprio-set", "EPERM"),
    ("call-prlimit64", "EPERM"),
    ("signal-daemon", "ESRCH"),
    ("signal-neighbour", "ESRCH"),
    ("open-neighbour-by-pidfd", "ESRCH"),
    ("take-descriptor-of-init", "EPERM"),
    ("regain-capabilities", "EPERM"),
    ("type-into-terminal", "EPERM"),
    ("socket-vsock", "EPERM"),
    ("socket-packet", "EPERM"),
    ("socket-crypto", "EPERM"),
    ("socket-bluetooth", "EPERM"),
    ("socket-raw", "EPERM"),
    ("socket-audit", "EPERM"),
    ("connect-keeper", "ENOENT"),
    ("connect-docker", "ENOENT"),
    ("link-to-host-file", "EXDEV"),
    ("read-key-through-link", "ENOENT"),
    ("set-user-id-on-program", "EPERM"),
    ("raise-limit", "refused: not allowed to raise maximum limit"),
    ("fill-tmp", "ENOSPC"),
    ("fill-shm", "ENOSPC"),
    ("many-inodes", "ENOSPC"),
    ("huge-file", "EFBIG"),
    ("many-descriptors", "EMFILE"),
    ("many-watches", "EMFILE"),
    ("fork-bomb", "EAGAIN"),
    ("kill-own-init", "EPERM"),
    ("see-processes", "ESRCH"),
    ("see-data-folder", "ENOENT"),
    ("descriptors-of-init", "EACCES"),
    ("see-instances", "ENOENT"),
    ("inherited-descriptors", "EBADF"),
];

/// What differs when the daemon is root and its servers are too, since they get no users of their own: without
/// capabilities, but owner of much. The kernel does not count the processes of root, which `isolation` says; the limit
/// holds for every other user.
const AS_ROOT: &[(&str, &str)] = &[
    ("write-init-badness", "EROFS"),
    ("write-core-pattern", "EROFS"),
    ("write-own-program", "EROFS"),
    ("fork-bomb", "SUCCEEDED: 400"),
];

/// Unless the network is an open one, with which these are not stopped, the last one aside.
const STOPPED_OFFLINE: &[(&str, &str)] = &[
    ("connect-api", "ECONNREFUSED"),
    ("connect-neighbour", "ECONNREFUSED"),
    ("connect-metadata", "ENETUNREACH"),
    ("connect-world", "ENETUNREACH"),
    ("connect-abstract-socket", "ECONNREFUSED"),
];

/// As whom the daemon and its servers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seat {
    /// As whom the tests run; where that is root, each server is a user of its own.
    Tests,
    /// Both as root.
    SharedRoot,
    /// Both as a user without any right.
    PlainUser,
}

/// A daemon, a neighbour with a secret, and what an insider would know of both.
struct Street {
    server: Server,
    neighbour: Value,
    facts: Value,
    secret: String,
    _abstract_socket: unix::UnixListener,
    _shared: [tempfile::NamedTempFile; 2],
}

impl Street {
    async fn of(seat: Seat) -> Self {
        let uid = (seat == Seat::PlainUser).then_some(NOBODY_UID);
        let server = Server::start_as(Database::Sqlite, uid, |config| {
            config.sandbox.widest_network = minimcp::domain::sandbox::Network::Open;
            if seat == Seat::SharedRoot {
                config.sandbox.uid_min = 0;
            }
        })
        .await;
        let secret = format!("secret-{}", uuid::Uuid::now_v7().simple());
        let body = json!({"name": "neighbours-key", "value": secret});
        server.post("/credentials", body).await;
        let body =
            json!({"template": "legacy-echo", "credentials": {"EXAMPLE_KEY": "neighbours-key"}});
        let neighbour = server.create(body).await;
        assert_eq!(
            neighbour["status"],
            "running",
            "{neighbour:#}\n{}",
            server.log()
        );
        let config = server.config();
        let folder = config.runtime.instance_dir.join(text(&neighbour, "id"));
        fs::write(folder.join("secret.txt"), &secret).expect("it was made for it");
        let name = format!("minimcp-it-{}", uuid::Uuid::now_v7().simple());
        let address = unix::SocketAddr::from_abstract_name(&name).expect("a short name");
        let shared = ["/tmp", "/dev/shm"].map(|folder| {
            let file = tempfile::NamedTempFile::new_in(folder).expect("it can be written");
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            fs::set_permissions(file.path(), open).expect("ours");
            file
        });
        let data = config
            .runtime
            .instance_dir
            .parent()
            .expect("it lies in the data folder");
        let facts = json!({
            "neighbour": neighbour["pid"],
            "neighbour_folder": folder,
            "neighbour_port": neighbour["port"],
            "daemon": server.pid(),
            "data": data,
            "database": data.join("minimcp.db"),
            "master_key": config.secrets.key_file,
            "admin_token": config.api.admin_token_file,
            "keeper_socket": config.runtime.keeper_socket,
            "api_port": config.api.port,
            "abstract_socket": name,
            "host_tmp": shared[0].path(),
            "host_shm": shared[1].path(),
        });
        for file in ["database", "master_key", "admin_token", "keeper_socket"] {
            let path = facts[file].as_str().expect("a path");
            assert!(Path::new(path).exists(), "{path} would not be missed");
        }
        Self {
            facts,
            secret,
            neighbour,
            server,
            _abstract_socket: unix::UnixListener::bind_addr(&address).expect("a new name"),
            _shared: shared,
        }
    }

    /// Creates an instance of a hostile template.
    async fn attacker(&self, template: &str) -> (Value, Mcp) {
        let instance = self.server.create(json!({"template": template})).await;
        assert_eq!(
            instance["status"],
            "running",
            "{instance:#}\n{}",
            self.server.log()
        );
        let client = Mcp::connect(&instance).await;
        (instance, client)
    }

    /// What each attack answered.
    async fn suffer(&self, client: &mut Mcp, attacks: &[String]) -> BTreeMap<String, String> {
        let mut outcomes = BTreeMap::new();
        for attack in attacks {
            let outcome = client.tool(attack, json!({"facts": self.facts})).await;
            let outcome = outcome.unwrap_or_else(|error| format!("no answer: {error}"));
            outcomes.insert(attack.clone(), outcome);
        }
        outcomes
    }

    /// To whom the folder of an instance belongs.
    fn owner(&self, instance: &Value) -> u32 {
        let folder = self
            .server
            .config()
            .runtime
            .instance_dir
            .join(text(instance, "id"));
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(folder).expect("it is there"))
    }

    /// The neighbour is the same process, has its secret, and nothing was planted on it.
    async fn assert_unharmed(&self) {
        let now = self
            .server
            .get(&format!("/mcps/{}", text(&self.neighbour, "id")))
            .await;
        assert_eq!(now["pid"], self.neighbour["pid"]);
        assert_eq!(now["status"], "running");
        let mut client = Mcp::connect(&self.neighbour).await;
        let value = client
            .tool("variable", json!({"name": "EXAMPLE_KEY"}))
            .await;
        assert_eq!(value.ok().as_deref(), Some(self.secret.as_str()));
        let folder = self.facts["neighbour_folder"].as_str().expect("a path");
        let planted = fs::read_dir(folder).expect("it is there").count();
        assert_eq!(planted, 1, "its own file and nothing else");
        self.server.get("/mcps").await;
    }
}

fn text<'a>(instance: &'a Value, key: &str) -> &'a str {
    instance[key].as_str().expect("a text")
}

fn table(rows: &[&[(&str, &str)]]) -> BTreeMap<String, String> {
    let rows = rows.iter().flat_map(|rows| rows.iter());
    rows.map(|(attack, outcome)| ((*attack).to_owned(), (*outcome).to_owned()))
        .collect()
}

async fn no_attack_gets_through(seat: Seat) {
    let street = Street::of(seat).await;
    let (instance, mut client) = street.attacker("hostile").await;
    for layer in [
        "pid-namespace",
        "user-namespace",
        "private-root",
        "ipc-namespace",
        "no-capabilities",
        "system-calls",
        "landlock",
    ] {
        let state = instance["isolation"][layer].as_str().unwrap_or_default();
        assert!(state.starts_with("on"), "{layer}: {state}");
    }
    assert_eq!(instance["isolation"]["profile"], "strict");
    let owners = seat == Seat::Tests && nix::unistd::geteuid().is_root();
    let state = text(&instance["isolation"], "own-user");
    assert_eq!(state == "on", owners, "{state}");
    if owners {
        let ids = [&instance, &street.neighbour].map(|instance| street.owner(instance));
        assert!(
            ids[0] != ids[1]
                && ids
                    .iter()
                    .all(|id| *id >= street.server.config().sandbox.uid_min),
            "{ids:?}"
        );
    }
    let expected = table(if seat == Seat::SharedRoot {
        &[STOPPED, AS_ROOT, STOPPED_OFFLINE]
    } else {
        &[STOPPED, STOPPED_OFFLINE]
    });
    for attack in &client.tools().await {
        assert!(expected.contains_key(attack), "{attack} is in no table");
    }
    let attacks: Vec<String> = expected.keys().cloned().collect();
    let outcomes = street.suffer(&mut client, &attacks).await;
    let differ: Vec<_> = expected
        .iter()
        .filter(|(attack, outcome)| outcomes.get(*attack) != Some(outcome))
        .collect();
    assert!(differ.is_empty(), "expected {differ:#?}\ngot {outcomes:#?}");
    street.assert_unharmed().await;
    denials::assert_told(&street.server, &instance, &outcomes).await;

    // Without a network of its own, Landlock is what keeps it from the abstract sockets of this machine.
    let (_, mut client) = street.attacker("hostile-open").await;
    let attack = "connect-abstract-socket".to_owned();
    let outcomes = street
        .suffer(&mut client, std::slice::from_ref(&attack))
        .await;
    assert_eq!(outcomes[&attack], "EPERM");

    let (instance, mut client) = street.attacker("hostile-offline").await;
    let network = text(&instance["isolation"], "network");
    assert!(network.starts_with("none"), "{network}");
    let expected = table(&[STOPPED_OFFLINE]);
    let attacks: Vec<String> = expected.keys().cloned().collect();
    assert_eq!(street.suffer(&mut client, &attacks).await, expected);
    street.assert_unharmed().await;
}

#[tokio::test]
async fn no_attack_gets_through_as_whom_the_tests_run() {
    no_attack_gets_through(Seat::Tests).await;
}

#[tokio::test]
async fn no_attack_gets_through_where_all_are_root() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: this is a plain user");
        return;
    }
    no_attack_gets_through(Seat::SharedRoot).await;
}

#[tokio::test]
async fn no_attack_gets_through_as_a_plain_user() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: this is a plain user already");
        return;
    }
    if !reachable_by_all(Path::new(env!("CARGO_BIN_EXE_minimcp"))) {
        eprintln!("SKIPPED as a plain user: the program lies where only root may look");
        return;
    }
    no_attack_gets_through(Seat::PlainUser).await;
}

#[tokio::test]
async fn a_grant_beyond_the_ceiling_is_refused_by_name() {
    let server = Server::start_with(Database::Sqlite, |config| {
        config.sandbox.allow_write = vec!["/srv/minimcp-it".into()];
    })
    .await;
    let data = server
        .config()
        .secrets
        .key_file
        .parent()
        .expect("a folder")
        .to_owned();
    for (folder, reason) in [
        (Path::new("/etc"), "sandbox.allow_write"),
        (data.as_path(), "the daemon's own"),
        (Path::new("/srv/minimcp-it/../../etc"), "absolute path"),
    ] {
        let body = json!({"template": "git", "settings": {"repository": folder}});
        let (status, problem) = server
            .call(reqwest::Method::POST, "/mcps", Some(body))
            .await;
        // Where the program is not installed that is told first only when all else is right.
        assert_eq!(
            status,
            reqwest::StatusCode::UNPROCESSABLE_ENTITY,
            "{problem}"
        );
        let violation = &problem["violations"][0];
        assert_eq!(violation["pointer"], "/settings/repository", "{problem}");
        let message = violation["message"].as_str().unwrap_or_default();
        assert!(message.contains(reason), "{message}");
    }
}

#[tokio::test]
async fn a_weaker_profile_needs_the_operators_word_and_is_shown() {
    let manifest = |profile: &str| {
        format!(
            "schema = 1\nname = \"{profile}\"\ntitle = \"T\"\ndescription = \"D\"\n[server]\ntransport = \"stdio\"\n\
             builtin = \"demo\"\n[sandbox]\nprofile = \"{profile}\"\n"
        )
    };
    let own = tempfile::tempdir().expect("a temporary folder");
    for profile in ["relaxed", "off"] {
        fs::create_dir(own.path().join(profile)).expect("ours");
        fs::write(
            own.path().join(profile).join("template.toml"),
            manifest(profile),
        )
        .expect("ours");
    }
    let folder = own.path().to_owned();
    let server = Server::start_with(Database::Sqlite, |config| {
        config.runtime.template_dirs.push(folder);
        config.sandbox.weakest_profile = minimcp::domain::sandbox::Profile::Relaxed;
    })
    .await;
    let relaxed = server.create(json!({"template": "relaxed"})).await;
    assert_eq!(relaxed["status"], "running", "{relaxed:#}");
    assert_eq!(relaxed["isolation"]["profile"], "relaxed");
    assert_eq!(relaxed["isolation"]["system-calls"], "on");
    let off = server.create(json!({"template": "off"})).await;
    assert_eq!(off["status"], "failed", "{off:#}");
    let reason = text(&off, "reason");
    assert!(
        reason.contains("sandbox.weakest_profile = \"off\""),
        "{reason}"
    );
}
