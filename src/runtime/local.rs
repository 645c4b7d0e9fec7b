//! The runtime of this host: speaks with the keeper, and starts one if told to.

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::{
    CgroupStray, DenialSheet, KeeperState, LaunchError, LaunchPlan, Pidfd, Runtime, RuntimeError,
    Verb, Workload, WorkloadControl, WorkloadId, host,
    isolation::Isolations,
    keeper::protocol::{Launch, Reply, Request},
    keeper_client::{Answer, Call, Connection, Exits, Lost, NO_ROOM},
};

mod arrivals;
mod ending;
mod held;
mod upgrade;

use arrivals::{own_network, pipes};

pub use super::own_keeper::{SpawnKeeper, SpawnedKeeper, spawn_keeper};

/// Calls that wait for the connection; further callers wait themselves.
const CALLS_WAITING_MAX: usize = 64;
/// So many descriptors are kept from launches, for connections to the API, so that somebody can mend it.
const DESCRIPTORS_RESERVE: u64 = 16;
/// Between two attempts to reach the keeper: from, to.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How long a keeper may take to kill all its children and end.
const KEEPER_END_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the first connection is tried when we may start a keeper: an old one may just be ending.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Of a keeper that was started by a program from before there were gates, or credentials as files.
const FORMER_KEEPER: &str = "the keeper is of a former version and cannot do what this launch needs: restart it \
                             (systemctl restart minimcp-keeper), which restarts all instances";
/// How long a refusal is not believed: the socket of a `serve` that just ended lives on for a moment in any
/// child that it was about to start.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

struct Shared {
    calls: mpsc::Sender<Call>,
    exits: Exits,
    state: watch::Sender<KeeperState>,
    /// What keeps a keeper alive that does not linger.
    lifeline: Mutex<Weak<OwnedFd>>,
    isolations: Isolations,
}

/// A [`Runtime`] over the keeper of this host.
pub struct LocalRuntime {
    shared: Arc<Shared>,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<Option<SpawnedKeeper>>>>,
    began_keeper: bool,
    /// A keeper that waited for this process, after another one had died.
    adopted: Mutex<Option<SpawnedKeeper>>,
}

impl LocalRuntime {
    /// Connects to the keeper at `socket`; when none answers and `spawn` is given, starts one. Later, a lost
    /// connection is made again in the same way, again and again.
    ///
    /// # Errors
    /// [`RuntimeError`] when there is no keeper, or it refuses us (another `serve` uses it, another version).
    pub async fn connect(socket: &Path, spawn: Option<SpawnKeeper>) -> Result<Self, RuntimeError> {
        Self::connect_again(socket, spawn, None).await
    }

    /// The same, for a process that was another program before ([`Self::hand_over`]) and holds the keeper's `lifeline`.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_again(
        socket: &Path,
        spawn: Option<SpawnKeeper>,
        lifeline: Option<OwnedFd>,
    ) -> Result<Self, RuntimeError> {
        let mut link = Link {
            socket: socket.to_owned(),
            spawn,
            spawned: None,
        };
        let begun = Instant::now();
        let connection = loop {
            match link.open().await {
                Ok(connection) => break connection,
                Err(error) => {
                    let patience = match &error {
                        RuntimeError::Refused(_) => REFUSAL_TIMEOUT,
                        _ if link.spawn.is_some() => CONNECT_TIMEOUT,
                        _ => Duration::ZERO,
                    };
                    if begun.elapsed() >= patience {
                        return Err(error);
                    }
                    tokio::time::sleep(RETRY.0).await;
                }
            }
        };
        let (calls, waiting) = mpsc::channel(CALLS_WAITING_MAX);
        let shared = Arc::new(Shared {
            calls,
            exits: Exits::default(),
            state: watch::Sender::new(connected(&connection)),
            lifeline: Mutex::default(),
            isolations: Isolations::default(),
        });
        let keeper_pid = connection.keeper_pid;
        let may_adopt = link.spawn.as_ref().is_some_and(|spawn| !spawn.linger);
        let stop = CancellationToken::new();
        let began_keeper = link.spawned.is_some();
        if !began_keeper {
            link.spawned = SpawnedKeeper::again(keeper_pid, lifeline);
        }
        let has_lifeline = shared.know(link.spawned.as_ref());
        let task = tokio::spawn(keep_connected(
            link,
            connection,
            Arc::clone(&shared),
            waiting,
            stop.clone(),
        ));
        let runtime = Self {
            shared,
            stop,
            task: Mutex::new(Some(task)),
            began_keeper,
            adopted: Mutex::default(),
        };
        if may_adopt
            && !has_lifeline
            && let Err(error) = runtime.adopt(keeper_pid).await
        {
            tracing::warn!(%error, "what the keeper holds for itself cannot be asked for");
        }
        Ok(runtime)
    }

    /// Whether the keeper was started by us, so that nothing of anyone else is in it.
    #[must_use]
    pub fn began_keeper(&self) -> bool {
        self.began_keeper
    }
}

impl Drop for LocalRuntime {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn connected(connection: &Connection) -> KeeperState {
    KeeperState::Connected {
        pid: connection.keeper_pid,
        host: connection.host.clone(),
    }
}

/// How to come to a connection.
struct Link {
    socket: PathBuf,
    spawn: Option<SpawnKeeper>,
    spawned: Option<SpawnedKeeper>,
}

impl Link {
    async fn open(&mut self) -> Result<Connection, RuntimeError> {
        let error = match Connection::open(&self.socket).await {
            Err(RuntimeError::Unreachable(reason)) => RuntimeError::Unreachable(reason),
            other => return other,
        };
        let Some(SpawnKeeper { exe, linger }) = self.spawn.clone() else {
            return Err(error);
        };
        let (socket, old) = (self.socket.clone(), self.spawned.take());
        let spawned = tokio::task::spawn_blocking(move || {
            if let Some(old) = old {
                // Nobody answers: whatever state it is in, it must be gone before a new one begins.
                old.kill();
            }
            spawn_keeper(&exe, &socket, linger)
        });
        let spawned = spawned
            .await
            .map_err(|error| RuntimeError::Unreachable(error.to_string()))?;
        self.spawned = Some(spawned?);
        Connection::open(&self.socket).await
    }
}

async fn keep_connected(
    mut link: Link,
    mut connection: Connection,
    shared: Arc<Shared>,
    mut calls: mpsc::Receiver<Call>,
    stop: CancellationToken,
) -> Option<SpawnedKeeper> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return link.spawned,
            () = connection.serve(&mut calls, &shared.exits) => {}
        }
        shared.state.send_replace(KeeperState::Lost);
        let ends = shared.exits.lose_all();
        let lost: Vec<WorkloadId> = ends.iter().map(|end| end.id).collect();
        let ends = join_all(ends.into_iter().map(Lost::tell_end));
        tokio::spawn(stop.clone().run_until_cancelled_owned(ends));
        tracing::warn!(
            children = lost.len(),
            "the connection to the keeper is lost"
        );
        let mut pause = RETRY.0;
        connection = loop {
            let attempt = async {
                let mut connection = link.open().await?;
                // A keeper that lives after all must not hold a second child of the same instance.
                connection.clear(&lost).await?;
                Ok::<_, RuntimeError>(connection)
            };
            tokio::select! {
                () = stop.cancelled() => return link.spawned,
                opened = attempt => match opened {
                    Ok(connection) => break connection,
                    Err(error) => tracing::debug!(%error, "the keeper is still away"),
                },
            }
            let wake = Instant::now() + pause;
            pause = (pause * 2).min(RETRY.1);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return link.spawned,
                    // Dropped unanswered, which tells the caller.
                    Some(call) = calls.recv() => drop(call),
                    () = tokio::time::sleep_until(wake) => break,
                }
            }
        };
        tracing::info!(pid = connection.keeper_pid, "connected to the keeper again");
        shared.know(link.spawned.as_ref());
        shared.state.send_replace(connected(&connection));
    }
}

impl Shared {
    async fn ask(
        &self,
        request: Request,
        secrets: Vec<Zeroizing<String>>,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Answer, RuntimeError> {
        if matches!(*self.state.borrow(), KeeperState::Lost) {
            return Err(RuntimeError::Lost);
        }
        let (reply, answer) = oneshot::channel();
        let call = Call {
            request,
            secrets,
            descriptors,
            reply,
        };
        self.calls
            .send(call)
            .await
            .map_err(|_| RuntimeError::Lost)?;
        answer.await.map_err(|_| RuntimeError::Lost)?
    }

    async fn ask_plainly(&self, request: Request) -> Result<Answer, RuntimeError> {
        self.ask(request, Vec::new(), Vec::new()).await
    }
}

/// Carries the verbs of workloads.
struct Control(Arc<Shared>);

impl WorkloadControl for Control {
    fn perform(&self, id: WorkloadId, verb: Verb) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(async move {
            self.0.ask_plainly(Request::Perform { id, verb }).await?;
            if verb == Verb::Forget {
                self.0.exits.remove(id);
            }
            Ok(())
        })
    }

    fn sockets_inside(
        &self,
        id: WorkloadId,
        count: u8,
    ) -> BoxFuture<'_, Result<Vec<OwnedFd>, RuntimeError>> {
        Box::pin(async move {
            let request = Request::SocketsInside { id, count };
            Ok(self.0.ask_plainly(request).await?.descriptors)
        })
    }
}

fn unexpected(what: &str) -> RuntimeError {
    RuntimeError::Refused(format!("it gave an answer that does not fit {what}"))
}

/// Names with lengths, and the values by themselves.
fn apart(
    named: Vec<(String, Zeroizing<String>)>,
) -> (Vec<(String, usize)>, Vec<Zeroizing<String>>) {
    let pairs = named.into_iter();
    pairs
        .map(|(name, value)| ((name, value.len()), value))
        .unzip()
}

impl LocalRuntime {
    fn control(&self) -> Arc<dyn WorkloadControl> {
        Arc::new(Control(Arc::clone(&self.shared)))
    }

    /// Takes the pidfd off the end of what came along, where the answer has one.
    fn watched(
        &self,
        id: WorkloadId,
        has_pidfd: bool,
        descriptors: &mut Vec<OwnedFd>,
    ) -> Option<Arc<Pidfd>> {
        let pidfd = Arc::new(Pidfd::from(descriptors.pop_if(|_| has_pidfd)?));
        self.shared.exits.watch(id, &pidfd);
        Some(pidfd)
    }

    async fn start(&self, plan: LaunchPlan) -> Result<Workload, LaunchError> {
        let id = plan.id;
        let lacks = {
            let state = self.shared.state.borrow();
            (plan.sandbox.network.is_gated() && state.lacks_gates())
                || (!plan.files.is_empty() && state.lacks_credential_files())
                || (!plan.file_arguments.is_empty() && state.lacks_file_arguments())
        };
        if lacks {
            return Err(LaunchError::NotStarted(FORMER_KEEPER.to_owned()));
        }
        if host::descriptors_run_out(DESCRIPTORS_RESERVE) {
            return Err(LaunchError::NotStarted(NO_ROOM.to_owned()));
        }
        let (env, mut secrets) = apart(plan.env);
        let (files, contents) = apart(plan.files);
        secrets.extend(contents);
        let request = Request::Launch(Box::new(Launch {
            id,
            argv: plan.argv,
            env,
            files,
            file_arguments: plan.file_arguments,
            cwd: plan.cwd,
            limits: plan.limits.into(),
            resources: plan.limits.resources(),
            sandbox: plan.sandbox,
        }));
        let exit = self.shared.exits.subscribe(id);
        let answer = self.shared.ask(request, secrets, plan.passed).await;
        let failure = match answer {
            Ok(Answer {
                reply:
                    Reply::Launched {
                        pid,
                        isolation,
                        caught,
                        pidfd,
                        denials,
                    },
                mut descriptors,
            }) => {
                let isolation = self.shared.isolations.shared(isolation);
                let denials = descriptors.pop_if(|_| denials).map(DenialSheet::from);
                let pidfd = self.watched(id, pidfd, &mut descriptors);
                let network = own_network(&mut descriptors, caught);
                let pipes = pipes(descriptors, true);
                return Ok(
                    Workload::new(id, pid, pidfd, isolation, pipes, exit, self.control())
                        .within(network)
                        .counted(denials),
                );
            }
            Ok(Answer {
                reply: Reply::NotStarted { reason },
                ..
            }) => LaunchError::NotStarted(reason),
            Ok(_) => unexpected("a launch").into(),
            Err(error) => error.into(),
        };
        // A child that was there before under this id keeps its place.
        drop(exit);
        self.shared.exits.remove_unused(id);
        Err(failure)
    }

    async fn list(&self) -> Result<Vec<Workload>, RuntimeError> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let request = Request::NextWorkload { after };
            let mut answer = self.shared.ask_plainly(request).await?;
            match answer.reply {
                Reply::Workload {
                    id,
                    pid,
                    isolation,
                    stdin,
                    caught,
                    exit,
                    pidfd,
                    denials,
                    frozen,
                } => {
                    after = Some(id);
                    let isolation = self.shared.isolations.shared(isolation);
                    let denials = answer.descriptors.pop_if(|_| denials);
                    let told = self.shared.exits.subscribe(id);
                    if let Some(report) = exit {
                        self.shared.exits.tell(id, report);
                    }
                    let pidfd = self.watched(id, pidfd, &mut answer.descriptors);
                    let network = own_network(&mut answer.descriptors, caught);
                    let pipes = pipes(answer.descriptors, stdin);
                    let workload =
                        Workload::new(id, pid, pidfd, isolation, pipes, told, self.control());
                    let workload = workload.within(network).frozen(frozen);
                    all.push(workload.counted(denials.map(DenialSheet::from)));
                }
                Reply::End => return Ok(all),
                _ => return Err(unexpected("a list")),
            }
        }
    }
}

impl Runtime for LocalRuntime {
    fn launch(&self, plan: LaunchPlan) -> BoxFuture<'_, Result<Workload, LaunchError>> {
        Box::pin(self.start(plan))
    }

    fn adoptable(&self) -> BoxFuture<'_, Result<Vec<Workload>, RuntimeError>> {
        Box::pin(self.list())
    }

    fn hold(&self, name: &str, fd: BorrowedFd<'_>) -> BoxFuture<'_, Result<(), RuntimeError>> {
        let request = Request::Hold { name: name.into() };
        let copy = fd.try_clone_to_owned();
        Box::pin(async move {
            let copy = copy.map_err(|cause| RuntimeError::Refused(cause.to_string()))?;
            self.shared.ask(request, Vec::new(), vec![copy]).await?;
            Ok(())
        })
    }

    fn held(&self) -> BoxFuture<'_, Result<Vec<(String, OwnedFd)>, RuntimeError>> {
        Box::pin(self.list_held())
    }

    fn held_under(&self, name: &str) -> BoxFuture<'_, Result<Option<OwnedFd>, RuntimeError>> {
        Box::pin(self.find_held(name.to_owned()))
    }

    fn drop_held(&self, name: &str) -> BoxFuture<'_, Result<(), RuntimeError>> {
        let request = Request::DropHeld { name: name.into() };
        Box::pin(async move { self.shared.ask_plainly(request).await.map(drop) })
    }

    fn held_names(&self) -> BoxFuture<'_, Result<Vec<String>, RuntimeError>> {
        Box::pin(self.list_held_names())
    }

    fn tidy(&self, stray: CgroupStray) -> BoxFuture<'_, Result<(), RuntimeError>> {
        let request = match stray {
            CgroupStray::Process(cgroup, process) => Request::EndForeign { cgroup, process },
            CgroupStray::Cgroup(cgroup) => Request::RemoveCgroup { cgroup },
        };
        Box::pin(async move { self.shared.ask_plainly(request).await.map(drop) })
    }

    fn reclaimed_bytes(&self) -> u64 {
        self.shared.exits.reclaimed_bytes()
    }

    fn state(&self) -> watch::Receiver<KeeperState> {
        self.shared.state.subscribe()
    }
}
