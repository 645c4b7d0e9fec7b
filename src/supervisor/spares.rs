//! Warm spares: children of templates that need nothing of anybody, started ahead, which new instances begin with.
//!
//! A spare was given nothing but what its template says: no credential, no setting, no message. It is a child like any other,
//! with the id, and so the user, the folder and the cgroup, of an instance that does not exist yet. Whoever is created takes
//! over the id, and the first launch takes the child if its whole plan is the one that it would carry out itself. So a
//! spare is never more than a launch that was done earlier.
//!
//! On the disk its folder looks like one whose instance is deleted (`ID.deleted` beside it), until an instance takes it: a
//! daemon that comes after a crash removes it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    Context, Supervisor,
    boot::end,
    folders::{self, instance_dir},
    launch::Recipe,
    seats::Guest,
};
use crate::{
    domain::{
        id::{Generation, InstanceId, OwnerId, TemplateName},
        instance::InstanceSpec,
        limits::Limits,
        state::StatusWord,
        template::{Template, Transport},
    },
    runtime::{LaunchPlan, Presence, Workload, WorkloadId},
    templates::Resolved,
};

/// Between two looks whether spares are missing or no longer what a launch would make.
const LOOK: Duration = Duration::from_secs(5);
/// How long after one was taken the next is begun: who is created with it has the processors first.
const QUIET: Duration = Duration::from_millis(50);
/// How long none is made after memory was short, nor of a template whose spare could not be made or ended by itself.
const REST: Duration = Duration::from_secs(60);
/// How long one that is ended may take to be gone.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// The launch of every instance that begins with one.
const FIRST: Generation = Generation(1);

struct Spare {
    template: TemplateName,
    resolved: Resolved,
    limits: Limits,
    workload: Workload,
}

impl Spare {
    fn id(&self) -> InstanceId {
        self.workload.id().instance
    }

    /// Whether the launch by this recipe would be this very child.
    fn is_launched_by(&self, recipe: &Recipe) -> bool {
        recipe.sealed.is_empty()
            && self.template == recipe.template.name
            && self.limits == recipe.template.limits
            && self.resolved == recipe.resolved
            && self.workload.presence() != Presence::Ended
    }
}

#[derive(Default)]
struct State {
    ready: BTreeMap<TemplateName, VecDeque<Spare>>,
    /// Of instances that exist, or are about to, and whose first launch is still to come; and since when.
    taken: BTreeMap<InstanceId, (Spare, Instant)>,
    /// Being made, or ended.
    moving: Vec<InstanceId>,
    /// Until when none is made.
    rests: HashMap<TemplateName, Instant>,
    rest_of_all: Option<Instant>,
    closed: bool,
}

impl State {
    /// Adds one to those that wait; gives it back where there are to be no more of it.
    fn add(&mut self, context: &Context, spare: Spare) -> Option<Spare> {
        let most = context.config.runtime.warm_spares.get(&spare.template);
        let its = self.ready.entry(spare.template.clone()).or_default();
        if self.closed || its.len() >= most.copied().unwrap_or(0) {
            return Some(spare);
        }
        its.push_back(spare);
        None
    }
}

/// All spares of a daemon.
#[derive(Default)]
pub(super) struct Spares {
    state: Mutex<State>,
    /// One was taken.
    wanted: Notify,
    uses: AtomicU64,
}

impl Spares {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait, and how many instances began with one since the daemon started.
    pub(super) fn count(&self) -> (usize, u64) {
        let waiting = self.lock().ready.values().map(VecDeque::len).sum();
        (waiting, self.uses.load(Ordering::Relaxed))
    }

    /// Whether a child of this id is a spare, and of no instance yet.
    pub(super) fn owns(&self, id: InstanceId) -> bool {
        let state = self.lock();
        state.moving.contains(&id)
            || state.taken.contains_key(&id)
            || state.ready.values().flatten().any(|spare| spare.id() == id)
    }

    /// The id of a spare that a new instance of this template without credentials and settings can begin with. It is the
    /// instance's from now on; [`Self::let_go`] if that does not come to be.
    pub(super) fn pick(
        &self,
        context: &Context,
        template: &TemplateName,
        spec: &InstanceSpec,
    ) -> Option<InstanceId> {
        if !spec.credentials.is_empty() || !spec.settings.is_empty() {
            return None;
        }
        let id = {
            let mut state = self.lock();
            let spare = state.ready.get_mut(template)?.pop_front()?;
            let id = spare.id();
            state.taken.insert(id, (spare, Instant::now()));
            id
        };
        folders::take_from_spare(&instance_dir(context, id));
        self.wanted.notify_one();
        Some(id)
    }

    /// The child for the launch of `id`, if there is one that is what the recipe would launch. Any other one that was meant
    /// for this instance is ended first.
    pub(super) async fn take(&self, id: WorkloadId, recipe: &Recipe) -> Option<Workload> {
        let (spare, _) = self.lock().taken.remove(&id.instance)?;
        if spare.workload.id() == id && spare.is_launched_by(recipe) {
            self.uses.fetch_add(1, Ordering::Relaxed);
            return Some(spare.workload);
        }
        tracing::info!(instance = %id.instance, "its spare is not what it would launch; it is ended");
        self.finish(spare.workload, None).await;
        None
    }

    /// No instance came to be of it: it waits for another one, unless there is a row of it by now, or another spare.
    pub(super) async fn let_go(&self, context: &Context, id: InstanceId) {
        let folder = instance_dir(context, id);
        let is_free = matches!(context.store.instance(id).await, Ok(None));
        let is_free = is_free && folders::make_for_spare(&folder).is_ok();
        let Some(spare) = self.put_back(context, id, is_free) else {
            return;
        };
        self.finish(spare.workload, is_free.then_some(folder)).await;
    }

    /// Puts one that was taken to those that wait; gives it where it is to end.
    fn put_back(&self, context: &Context, id: InstanceId, is_free: bool) -> Option<Spare> {
        let mut state = self.lock();
        let (spare, _) = state.taken.remove(&id)?;
        let rest = if is_free {
            state.add(context, spare)
        } else {
            Some(spare)
        };
        state.moving.extend(rest.as_ref().map(Spare::id));
        rest
    }

    /// Memory is short: all that wait end, and none is made for a while.
    pub(super) async fn give_up(&self, context: &Context) -> usize {
        let waiting = {
            let mut state = self.lock();
            state.rest_of_all = Some(Instant::now() + REST);
            std::mem::take(&mut state.ready)
        };
        self.finish_all(context, waiting).await
    }

    /// For good: the daemon goes down.
    pub(super) async fn close(&self, context: &Context) {
        let (waiting, taken) = {
            let mut state = self.lock();
            state.closed = true;
            (
                std::mem::take(&mut state.ready),
                std::mem::take(&mut state.taken),
            )
        };
        self.finish_all(context, waiting).await;
        // Their folders are those of instances.
        for (spare, _) in taken.into_values() {
            self.finish(spare.workload, None).await;
        }
    }

    async fn finish_all(
        &self,
        context: &Context,
        waiting: BTreeMap<TemplateName, VecDeque<Spare>>,
    ) -> usize {
        let all: Vec<Spare> = waiting.into_values().flatten().collect();
        let count = all.len();
        let ends = all.into_iter().map(|spare| {
            let folder = instance_dir(context, spare.id());
            self.finish(spare.workload, Some(folder))
        });
        futures_util::future::join_all(ends).await;
        count
    }

    /// Ends a child, waits until it is gone, and removes its folder if that is nobody's.
    async fn finish(&self, workload: Workload, folder: Option<PathBuf>) {
        let id = workload.id().instance;
        self.lock().moving.push(id);
        let _ = workload.kill_tree().await;
        let _ = tokio::time::timeout(END_PATIENCE, workload.exited()).await;
        end(&workload).await;
        if let Some(folder) = folder {
            folders::remove(&folder).await;
        }
        self.lock().moving.retain(|moving| *moving != id);
    }

    /// Those that ended by themselves, or are not what a launch would make any more, or whose instance went another way.
    fn stale(&self, context: &Context) -> Vec<(Spare, Option<PathBuf>)> {
        let mut stale = Vec::new();
        let mut state = self.lock();
        let State {
            ready,
            taken,
            rests,
            ..
        } = &mut *state;
        let folder = |id| instance_dir(context, id);
        for (template, spares) in ready.iter_mut() {
            for spare in std::mem::take(spares) {
                let ended = spare.workload.presence() == Presence::Ended;
                let now = plain_launch(context, template, spare.id());
                let is_as_now = now.is_ok_and(|(template, resolved)| {
                    resolved == spare.resolved && template.limits == spare.limits
                });
                if ended {
                    rests.insert(template.clone(), Instant::now() + REST);
                }
                if ended || !is_as_now {
                    let its = folder(spare.id());
                    stale.push((spare, Some(its)));
                } else {
                    spares.push_back(spare);
                }
            }
        }
        let gone_on: Vec<InstanceId> = taken
            .keys()
            .filter(|id| {
                let handle = context.registry.get(**id);
                handle.is_some_and(|handle| {
                    let status = handle.status.borrow();
                    let waits = matches!(status.word, StatusWord::Pending | StatusWord::Starting);
                    status.pid.is_some() || !waits
                })
            })
            .copied()
            .collect();
        for id in gone_on {
            stale.extend(taken.remove(&id).map(|(spare, _)| (spare, None)));
        }
        stale
    }

    /// Those that were taken for an instance of which nobody knows any more: whoever made it went away.
    fn lost(&self, context: &Context) -> Vec<InstanceId> {
        let coming = context.registry.in_motion();
        let is_known = |id| coming.contains(id) || context.registry.get(*id).is_some();
        let state = self.lock();
        let taken = state.taken.iter();
        let lost = taken.filter(|(id, (_, since))| since.elapsed() > REST && !is_known(id));
        lost.map(|(id, _)| *id).collect()
    }

    /// A template that lacks a spare, if one may be made now.
    fn missing(&self, context: &Context) -> Option<TemplateName> {
        let runtime = &context.config.runtime;
        let mut state = self.lock();
        let now = Instant::now();
        if state.closed || state.rest_of_all.is_some_and(|until| until > now) {
            return None;
        }
        state.rests.retain(|_, until| *until > now);
        let waiting: usize = state.ready.values().map(VecDeque::len).sum();
        if waiting + state.moving.len() >= runtime.warm_spares_max {
            return None;
        }
        let lacks = |(name, most): &(&TemplateName, &usize)| {
            let has = state.ready.get(*name).map_or(0, VecDeque::len);
            has < **most && !state.rests.contains_key(*name)
        };
        let mut wanted = runtime.warm_spares.iter();
        wanted.find(lacks).map(|(name, _)| name.clone())
    }

    /// Starts one more.
    async fn make(&self, context: &Context, name: &TemplateName) -> Result<(), String> {
        let id = InstanceId(Uuid::now_v7());
        let (template, resolved) = plain_launch(context, name, id)?;
        let folder = instance_dir(context, id);
        folders::make_for_spare(&folder)?;
        self.lock().moving.push(id);
        let plain = resolved.env.iter();
        let plain = plain.map(|(name, value)| (name.clone(), Zeroizing::new(value.clone())));
        let plan = LaunchPlan {
            id: WorkloadId::main(id, FIRST),
            argv: resolved.argv.clone(),
            env: plain.collect(),
            files: Vec::new(),
            file_arguments: Vec::new(),
            cwd: resolved.cwd.clone(),
            limits: template.limits,
            sandbox: resolved.sandbox.clone(),
            passed: Vec::new(),
        };
        let launched = context.runtime.launch(plan).await;
        let kept = launched.map(|workload| {
            let spare = Spare {
                template: name.clone(),
                resolved,
                limits: template.limits,
                workload,
            };
            self.lock().add(context, spare)
        });
        self.lock().moving.retain(|moving| *moving != id);
        match kept {
            Ok(None) => Ok(()),
            // The daemon goes down, or one was put back meanwhile.
            Ok(Some(spare)) => {
                self.finish(spare.workload, Some(folder)).await;
                Ok(())
            }
            Err(error) => {
                folders::remove(&folder).await;
                Err(error.to_string())
            }
        }
    }
}

/// How an instance of this id without any wish would be launched.
fn plain_launch(
    context: &Context,
    name: &TemplateName,
    id: InstanceId,
) -> Result<(Arc<Template>, Resolved), String> {
    let entry = context.catalogue.get(name);
    let template = entry.ok_or("there is no such template")?.template;
    if template.server.transport != Transport::Stdio || !template.credentials.is_empty() {
        return Err("only a stdio server without credentials can be started ahead".to_owned());
    }
    let folder = instance_dir(context, id);
    let resolved = context
        .catalogue
        .resolve(name, &InstanceSpec::default(), &folder, None)
        .map_err(|error| error.to_string())?;
    if !resolved.files.is_empty() {
        return Err("a server that reads files of its settings cannot be started ahead".to_owned());
    }
    Ok((template, resolved))
}

impl Supervisor {
    /// Keeps as many spares as are wanted, until the daemon goes down. One is made only while nobody waits for a launch.
    pub async fn keep_spares(self) {
        let context = self.context();
        if context.config.runtime.warm_spares.is_empty() {
            return;
        }
        let spares = &context.spares;
        while !context.is_closing() {
            for (spare, folder) in spares.stale(context) {
                tracing::info!(template = %spare.template, "a spare is of no use any more; it is ended");
                spares.finish(spare.workload, folder).await;
            }
            for id in spares.lost(context) {
                spares.let_go(context, id).await;
            }
            let missing = spares.missing(context);
            if missing.is_some() && !self.is_idle() {
                // Soon nobody may wait for a launch.
                tokio::time::sleep(QUIET).await;
                continue;
            }
            if let Some(template) = missing
                && context.has_room_for_spare(&template)
            {
                match spares.make(context, &template).await {
                    Ok(()) => continue,
                    Err(error) => {
                        tracing::warn!(%template, error, "no spare can be made; it will be tried again");
                        let mut state = spares.lock();
                        state.rests.insert(template, Instant::now() + REST);
                    }
                }
            }
            let wanted = tokio::time::timeout(LOOK, spares.wanted.notified());
            if wanted.await.is_ok() {
                tokio::time::sleep(QUIET).await;
            }
        }
    }

    /// Whether nothing is launched and nobody waits for it.
    fn is_idle(&self) -> bool {
        let (_, under_way, waiting) = self.launch_turns();
        under_way == 0 && waiting == 0
    }

    /// How many spares wait, and how many instances began with one since the daemon started.
    #[must_use]
    pub fn warm_spares(&self) -> (usize, u64) {
        self.context().spares.count()
    }
}

impl Context {
    /// Whether the machine's memory has room for one: a spare counts with no owner.
    fn has_room_for_spare(&self, template: &TemplateName) -> bool {
        let Ok(owner) = OwnerId::new("admin") else {
            return false;
        };
        let guest = Guest {
            id: InstanceId(Uuid::nil()),
            owner,
            template: template.clone(),
        };
        self.launch_turns.seats(|seats| {
            let available = seats.available();
            seats.held_by_machine(&guest, available).is_none()
        })
    }
}
