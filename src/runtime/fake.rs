//! A runtime without processes, for tests of whatever drives one: children are played by the test or by a
//! script, and time is tokio's, so that it can be paused.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    os::fd::{BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use nix::fcntl::OFlag;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};

use super::{
    CgroupStray, ExitReport, HostReport, KeeperState, LaunchError, LaunchPlan, Pipes, Runtime,
    RuntimeError, Verb, Workload, WorkloadControl, WorkloadId,
};
use crate::domain::{
    exit::{ExitStatus, ResourceUsage},
    id::InstanceId,
};

/// How many launched children may wait to be taken by the test; further launches wait.
const CHILDREN_WAITING_MAX: usize = 1_024;

/// What a fake child does by itself. A child killed by `KillTree` always ends at once with SIGKILL.
#[derive(Debug, Clone)]
pub struct Script {
    /// How long the launch takes.
    pub launch_takes: Duration,
    /// The launch waits until it can take a permit of this, and keeps it.
    pub gate: Option<Arc<Semaphore>>,
    /// The launch fails with this sentence.
    pub fails_to_start: Option<String>,
    /// It ends by itself so long after its launch.
    pub ends_after: Option<(Duration, ExitStatus)>,
    /// It ends so long after its stdin was closed; `None`: it does not care.
    pub on_stdin_closed: Option<(Duration, ExitStatus)>,
    /// It ends so long after SIGTERM; `None`: it ignores it.
    pub on_terminate: Option<(Duration, ExitStatus)>,
    /// The launch panics in the task that awaits it, as a bug there would: with a child that the keeper holds, or
    /// without one if it also fails to start.
    pub launch_panics: bool,
    /// The first time this is asked of it, the asking task panics.
    pub panics_on: Option<Verb>,
}

impl Default for Script {
    /// A well-behaved server: starts at once and leaves with code 0 as soon as its stdin is closed.
    fn default() -> Self {
        Self {
            launch_takes: Duration::ZERO,
            gate: None,
            fails_to_start: None,
            ends_after: None,
            on_stdin_closed: Some((Duration::ZERO, ExitStatus::Exited { code: 0 })),
            on_terminate: Some((Duration::ZERO, ExitStatus::Signaled { signal: 15 })),
            launch_panics: false,
            panics_on: None,
        }
    }
}

/// The child's side of a launch, for a test that plays the server.
#[derive(Debug)]
pub struct FakeChild {
    /// Which launch.
    pub id: WorkloadId,
    /// Its program and arguments.
    pub argv: Vec<String>,
    /// The names of its variables.
    pub env_names: Vec<String>,
    /// The variables that would hold the paths of files.
    pub file_names: Vec<String>,
    /// Read end of stdin; non-blocking like the other two.
    pub stdin: OwnedFd,
    /// Write end of stdout.
    pub stdout: OwnedFd,
    /// Write end of stderr.
    pub stderr: OwnedFd,
}

struct Held {
    pid: u32,
    script: Script,
    exit: watch::Sender<Option<ExitReport>>,
    ours: Option<Pipes>,
    verbs: Vec<Verb>,
}

#[derive(Default)]
struct State {
    scripts: HashMap<InstanceId, VecDeque<Script>>,
    children: BTreeMap<WorkloadId, Held>,
    launched: Vec<WorkloadId>,
    descriptors: BTreeMap<String, OwnedFd>,
    lost: bool,
}

struct Shared {
    state: Mutex<State>,
    keeper: watch::Sender<KeeperState>,
    out: mpsc::Sender<FakeChild>,
}

/// A [`Runtime`] that plays scripts.
#[derive(Clone)]
pub struct FakeRuntime {
    shared: Arc<Shared>,
}

impl FakeRuntime {
    /// The runtime, and the children that it will launch. A test that plays no server may drop the receiver;
    /// then the children's ends of the pipes are closed at once.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<FakeChild>) {
        let (out, children) = mpsc::channel(CHILDREN_WAITING_MAX);
        let shared = Shared {
            state: Mutex::default(),
            keeper: watch::Sender::new(connected()),
            out,
        };
        let runtime = Self {
            shared: Arc::new(shared),
        };
        (runtime, children)
    }

    /// The next launch of `instance` without a script of its own plays this one.
    pub fn script(&self, instance: InstanceId, script: Script) {
        let mut state = self.shared.lock();
        state.scripts.entry(instance).or_default().push_back(script);
    }

    /// Ends a child now, as if by itself. `false` when there is no such living child.
    pub fn end(&self, id: WorkloadId, status: ExitStatus) -> bool {
        self.shared.end(id, status)
    }

    /// The keeper dies: every child ends, all held descriptors are gone, every call fails.
    pub fn lose_keeper(&self) {
        let children = {
            let mut state = self.shared.lock();
            state.lost = true;
            state.descriptors.clear();
            std::mem::take(&mut state.children)
        };
        for held in children.into_values() {
            held.exit.send_if_modified(|exit| {
                let alive = exit.is_none();
                exit.get_or_insert_with(ExitReport::keeper_lost);
                alive
            });
        }
        self.shared.keeper.send_replace(KeeperState::Lost);
    }

    /// A new keeper answers, holding nothing.
    pub fn restore_keeper(&self) {
        self.shared.lock().lost = false;
        self.shared.keeper.send_replace(connected());
    }

    /// Every launch so far, in order, failed ones included.
    #[must_use]
    pub fn launched(&self) -> Vec<WorkloadId> {
        self.shared.lock().launched.clone()
    }

    /// The children that live.
    #[must_use]
    pub fn alive(&self) -> Vec<WorkloadId> {
        let state = self.shared.lock();
        let alive = state
            .children
            .iter()
            .filter(|(_, held)| held.exit.borrow().is_none());
        alive.map(|(id, _)| *id).collect()
    }

    /// What was asked of a child that is not forgotten, in order.
    #[must_use]
    pub fn verbs(&self, id: WorkloadId) -> Vec<Verb> {
        let state = self.shared.lock();
        let held = state.children.get(&id);
        held.map(|held| held.verbs.clone()).unwrap_or_default()
    }

    async fn start(&self, plan: LaunchPlan) -> Result<Workload, LaunchError> {
        let script = {
            let mut state = self.shared.lock();
            state.launched.push(plan.id);
            let queue = state.scripts.get_mut(&plan.id.instance);
            queue.and_then(VecDeque::pop_front).unwrap_or_default()
        };
        if !script.launch_takes.is_zero() {
            tokio::time::sleep(script.launch_takes).await;
        }
        if let Some(gate) = &script.gate {
            // Nobody closes it.
            gate.acquire().await.map(SemaphorePermit::forget).ok();
        }
        if let Some(reason) = script.fails_to_start {
            assert!(!script.launch_panics, "a launch that panics, as asked");
            return Err(LaunchError::NotStarted(reason));
        }
        let (ours, child) = pipes(&plan)?;
        let workload = {
            let mut state = self.shared.lock();
            if state.lost {
                return Err(RuntimeError::Lost.into());
            }
            if state.children.contains_key(&plan.id) {
                let refusal = format!("{} is already held", plan.id);
                return Err(RuntimeError::Refused(refusal).into());
            }
            let pid = 100_000 + u32::try_from(state.launched.len()).unwrap_or(0);
            let held = Held {
                pid,
                script: script.clone(),
                exit: watch::Sender::new(None),
                ours: duplicate(&ours).ok(),
                verbs: Vec::new(),
            };
            let workload = self.workload(plan.id, &held, Some(ours));
            state.children.insert(plan.id, held);
            workload
        };
        // A closed receiver is a test that plays no server.
        drop(self.shared.out.send(child).await);
        assert!(!script.launch_panics, "a launch that panics, as asked");
        if let Some(end) = script.ends_after {
            self.shared.end_later(plan.id, end);
        }
        Ok(workload)
    }

    fn workload(&self, id: WorkloadId, held: &Held, pipes: Option<Pipes>) -> Workload {
        let isolation = BTreeMap::from([("runtime".to_owned(), "fake".to_owned())]);
        let control: Arc<dyn WorkloadControl> = Arc::new(Control(Arc::clone(&self.shared)));
        Workload::new(
            id,
            held.pid,
            None,
            isolation.into(),
            pipes,
            held.exit.subscribe(),
            control,
        )
    }
}

fn connected() -> KeeperState {
    KeeperState::Connected {
        pid: 1,
        host: HostReport {
            members: true,
            gates: true,
            freezes: true,
            ..HostReport::default()
        },
    }
}

fn pipes(plan: &LaunchPlan) -> Result<(Pipes, FakeChild), LaunchError> {
    let pipe = || {
        nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .map_err(|errno| LaunchError::NotStarted(format!("no pipe: {errno}")))
    };
    let (child_stdin, stdin) = pipe()?;
    let (stdout, child_stdout) = pipe()?;
    let (stderr, child_stderr) = pipe()?;
    let child = FakeChild {
        id: plan.id,
        argv: plan.argv.clone(),
        env_names: plan.env.iter().map(|(name, _)| name.clone()).collect(),
        file_names: plan.files.iter().map(|(name, _)| name.clone()).collect(),
        stdin: child_stdin,
        stdout: child_stdout,
        stderr: child_stderr,
    };
    let ours = Pipes {
        stdin,
        stdout,
        stderr,
    };
    Ok((ours, child))
}

fn duplicate(pipes: &Pipes) -> std::io::Result<Pipes> {
    Ok(Pipes {
        stdin: pipes.stdin.try_clone()?,
        stdout: pipes.stdout.try_clone()?,
        stderr: pipes.stderr.try_clone()?,
    })
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, id: WorkloadId, status: ExitStatus) -> bool {
        let state = self.lock();
        let Some(held) = state.children.get(&id) else {
            return false;
        };
        held.exit.send_if_modified(|exit| {
            let alive = exit.is_none();
            let usage = ResourceUsage::default();
            exit.get_or_insert(ExitReport { status, usage });
            alive
        })
    }

    fn end_later(self: &Arc<Self>, id: WorkloadId, (after, status): (Duration, ExitStatus)) {
        if after.is_zero() {
            self.end(id, status);
            return;
        }
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            shared.end(id, status);
        });
    }
}

struct Control(Arc<Shared>);

impl WorkloadControl for Control {
    fn sockets_inside(
        &self,
        id: WorkloadId,
        _count: u8,
    ) -> BoxFuture<'_, Result<Vec<OwnedFd>, RuntimeError>> {
        let reason = format!("{id} has no network namespace of its own");
        Box::pin(async move { Err(RuntimeError::Refused(reason)) })
    }

    fn perform(&self, id: WorkloadId, verb: Verb) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(async move {
            let reaction = {
                let mut state = self.0.lock();
                if state.lost {
                    return Err(RuntimeError::Lost);
                }
                let Some(held) = state.children.get_mut(&id) else {
                    return Ok(());
                };
                held.verbs.push(verb);
                let panics = held.script.panics_on.take_if(|on| *on == verb);
                assert_eq!(panics, None, "a verb that panics, as asked");
                match verb {
                    Verb::CloseStdin => {
                        if let Some(ours) = held.ours.take() {
                            // Keep the two ends that an adopter would still need.
                            held.ours = super::host::closed_pipe_end()
                                .ok()
                                .map(|stdin| Pipes { stdin, ..ours });
                        }
                        held.script.on_stdin_closed.clone()
                    }
                    Verb::Terminate => held.script.on_terminate.clone(),
                    Verb::KillTree => Some((Duration::ZERO, ExitStatus::Signaled { signal: 9 })),
                    Verb::Freeze | Verb::Thaw | Verb::Reclaim => None,
                    Verb::Forget => {
                        state.children.remove(&id);
                        None
                    }
                }
            };
            if let Some(end) = reaction {
                self.0.end_later(id, end);
            }
            Ok(())
        })
    }
}

impl Runtime for FakeRuntime {
    fn launch(&self, plan: LaunchPlan) -> BoxFuture<'_, Result<Workload, LaunchError>> {
        Box::pin(self.start(plan))
    }

    fn adoptable(&self) -> BoxFuture<'_, Result<Vec<Workload>, RuntimeError>> {
        Box::pin(async move {
            let state = self.shared.lock();
            if state.lost {
                return Err(RuntimeError::Lost);
            }
            let all = state.children.iter().map(|(id, held)| {
                let pipes = held.ours.as_ref().and_then(|ours| duplicate(ours).ok());
                self.workload(*id, held, pipes)
            });
            Ok(all.collect())
        })
    }

    fn hold(&self, name: &str, fd: BorrowedFd<'_>) -> BoxFuture<'_, Result<(), RuntimeError>> {
        let name = name.to_owned();
        let copy = fd.try_clone_to_owned();
        Box::pin(async move {
            let copy = copy.map_err(|cause| RuntimeError::Refused(cause.to_string()))?;
            let mut state = self.shared.lock();
            if state.lost {
                return Err(RuntimeError::Lost);
            }
            state.descriptors.insert(name, copy);
            Ok(())
        })
    }

    fn held(&self) -> BoxFuture<'_, Result<Vec<(String, OwnedFd)>, RuntimeError>> {
        Box::pin(async move {
            let state = self.shared.lock();
            if state.lost {
                return Err(RuntimeError::Lost);
            }
            let copies = state.descriptors.iter().map(|(name, fd)| {
                fd.try_clone()
                    .map(|copy| (name.clone(), copy))
                    .map_err(|cause| RuntimeError::Refused(cause.to_string()))
            });
            copies.collect()
        })
    }

    fn held_under(&self, name: &str) -> BoxFuture<'_, Result<Option<OwnedFd>, RuntimeError>> {
        let name = name.to_owned();
        Box::pin(async move {
            let all = self.held().await?;
            let found = all.into_iter().find(|(held, _)| *held == name);
            Ok(found.map(|(_, descriptor)| descriptor))
        })
    }

    fn held_names(&self) -> BoxFuture<'_, Result<Vec<String>, RuntimeError>> {
        Box::pin(async {
            Ok(self
                .held()
                .await?
                .into_iter()
                .map(|(name, _)| name)
                .collect())
        })
    }

    /// Nothing here is in a cgroup.
    fn tidy(&self, _stray: CgroupStray) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(async { Err(RuntimeError::Refused("it has no cgroups".to_owned())) })
    }

    fn drop_held(&self, name: &str) -> BoxFuture<'_, Result<(), RuntimeError>> {
        let name = name.to_owned();
        Box::pin(async move {
            let mut state = self.shared.lock();
            if state.lost {
                return Err(RuntimeError::Lost);
            }
            state.descriptors.remove(&name);
            Ok(())
        })
    }

    /// Nor is anything taken back.
    fn reclaimed_bytes(&self) -> u64 {
        0
    }

    fn state(&self) -> watch::Receiver<KeeperState> {
        self.shared.keeper.subscribe()
    }
}
