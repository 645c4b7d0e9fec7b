//! Breaks things: children, `serve`, the keeper, the database. And knows what then nobody can know any more.

use std::time::Duration;

use reqwest::StatusCode;
use sqlx::{Connection, SqliteConnection};

use super::{
    api::{Api, Reply},
    count,
    lines::Ledger,
    steps::Fault,
    world::World,
};
use crate::{
    harness::{Database, Server},
    outage::proxy::{Mode, Proxy},
    processes::{self, Process},
};

/// `serve` answers within so long, or counts as still starting.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(300);

/// Everything that can be broken.
pub struct Breaker {
    /// The daemon.
    pub server: Server,
    /// No keeper was killed so far.
    first_keeper: bool,
    /// The `serve` that was begun last has answered, so it has taken over what the one before it left: its count of lines,
    /// and the pipes.
    took_over: bool,
    /// Before PostgreSQL.
    proxy: Option<Proxy>,
    /// It does not let through at the moment.
    cut: bool,
    /// Holds the lock of SQLite while it is away.
    lock: Option<SqliteConnection>,
}

/// The keeper: the one that names itself so and whose parent is not of its kind (inits are forks of it).
pub fn keepers(all: &[Process]) -> Vec<&Process> {
    let named: Vec<_> = all.iter().filter(|process| is_keeper(process)).collect();
    let is_first = |process: &&&Process| !named.iter().any(|other| other.pid == process.parent);
    named.iter().filter(is_first).copied().collect()
}

/// A keeper, or one of its inits.
pub fn is_keeper(process: &Process) -> bool {
    process.command.contains(" keeper ")
}

impl Breaker {
    /// Starts a daemon whose database can be taken away.
    pub async fn start(database: Database) -> Self {
        let proxy = match database {
            Database::Sqlite => None,
            Database::Postgres => Some(Proxy::start(postgres_place(), Mode::Open).await),
        };
        let address = proxy.as_ref().map(|proxy| proxy.address().to_string());
        let server = Server::start_with(database, |config| super::configure(config, address)).await;
        Self {
            server,
            first_keeper: true,
            took_over: true,
            proxy,
            cut: false,
            lock: None,
        }
    }

    /// Does one thing.
    pub async fn break_one(&mut self, world: &World, api: &Api, fault: Fault) {
        world.note(format!("==== {fault:?}"));
        world.count(format!("{fault:?}").split('(').next().unwrap_or(""));
        match fault {
            Fault::KillChild(slot) => self.kill_child(world, api, slot).await,
            Fault::KillServe => {
                self.kill_serve(world);
                self.begin_serve();
            }
            Fault::KillKeeper => {
                self.look_whether_it_answers(api).await;
                self.kill_keeper(world);
            }
            Fault::KillBoth => {
                self.kill_serve(world);
                self.took_over = false;
                self.kill_keeper(world);
                self.begin_serve();
            }
            Fault::RestartServe => {
                self.look_after_serve(world);
                let code = tokio::task::block_in_place(|| self.server.stop());
                // None: the signal came before it listened for signals, which is a kill to it.
                match code {
                    Some(0) => {}
                    None => self.serve_was_killed(world, false),
                    Some(code) => world.wrong(format!("serve ended with {code}")),
                }
                self.begin_serve();
            }
            Fault::Cut => self.take_away(world, api, Mode::Refuse).await,
            Fault::Stall => self.take_away(world, api, Mode::Stall).await,
            Fault::Heal => self.heal().await,
            Fault::Await => {
                self.look_after_serve(world);
                self.server.until_ready().await;
            }
        }
    }

    fn begin_serve(&mut self) {
        self.took_over = false;
        self.server.begin();
    }

    fn kill_serve(&mut self, world: &World) {
        self.look_after_serve(world);
        let lost = !self.first_keeper && {
            let keeper = self.files_of_keeper();
            count::is_lost_with_serve(self.files_of_serve().as_deref(), keeper.as_deref())
        };
        self.server.kill();
        self.serve_was_killed(world, lost);
    }

    /// What is in the memory of a `serve` that is killed is gone; whether with its count.
    fn serve_was_killed(&self, world: &World, with_its_count: bool) {
        let away = self.is_away();
        in_each_ledger(world, |ledger| {
            ledger.serve_was_killed();
            if away {
                ledger.nobody_was_asked();
            }
        });
        if with_its_count {
            self.count_was_lost(world);
        }
    }

    fn count_was_lost(&self, world: &World) {
        world.count("counts of lines lost with the keeper");
        in_each_ledger(world, Ledger::count_was_lost);
    }

    /// The files in which `serve` counts lines.
    fn files_of_serve(&self) -> Option<Vec<u64>> {
        count::files_of(self.server.pid())
    }

    fn files_of_keeper(&self) -> Option<Vec<u64>> {
        let all = self.server.processes();
        let files = keepers(&all)
            .into_iter()
            .map(|keeper| count::files_of(keeper.pid));
        files.flatten().reduce(|all, more| [all, more].concat())
    }

    /// Whether the lines in memory are counted where a kill leaves the count; what is wrong with it.
    pub fn complaint_of_count(&self) -> Option<String> {
        count::complaint(self.files_of_serve(), self.files_of_keeper())
    }

    async fn look_whether_it_answers(&mut self, api: &Api) {
        if !self.took_over {
            self.took_over = api.answers_within(ANSWER_TIMEOUT).await;
        }
    }

    fn is_away(&self) -> bool {
        self.lock.is_some() || self.cut
    }

    /// `serve` never ends by itself.
    pub fn look_after_serve(&mut self, world: &World) {
        if let Some(status) = self.server.ended() {
            let log = self.server.log();
            let last: Vec<_> = log.lines().rev().take(12).collect();
            world.wrong(format!("serve ended by itself: {status}; last: {last:#?}"));
        }
    }

    fn kill_keeper(&mut self, world: &World) {
        self.first_keeper = false;
        if !self.took_over {
            self.count_was_lost(world);
        }
        let all = self.server.processes();
        for keeper in keepers(&all) {
            processes::kill(keeper.pid);
        }
    }

    async fn kill_child(&self, world: &World, api: &Api, slot: usize) {
        let access = world.state().places[slot].access.clone();
        let Some(access) = access else { return };
        let reply = tokio::time::timeout(
            Duration::from_secs(3),
            api.get(&format!("/mcps/{}", access.id)),
        )
        .await;
        let Ok(Reply::Answer(StatusCode::OK, instance)) = reply else {
            return;
        };
        // The main process, and the first of those that serve one client session each.
        let children = instance["session_children"][0]["pid"].as_u64();
        let pids = instance["pid"].as_u64().into_iter().chain(children);
        let pids: Vec<u64> = pids.collect();
        // Only what is seen to be a child of this daemon: the number may be another's by now.
        for found in self.server.processes() {
            if pids.contains(&u64::from(found.pid)) && !is_keeper(&found) {
                processes::kill(found.pid);
            }
        }
    }

    async fn take_away(&mut self, world: &World, api: &Api, mode: Mode) {
        self.look_whether_it_answers(api).await;
        if !self.took_over {
            in_each_ledger(world, Ledger::nobody_was_asked);
        }
        self.cut = self.proxy.is_some();
        if let Some(proxy) = &self.proxy {
            proxy.set(mode).await;
            return;
        }
        // Readers go on beside a lock: that is what the file's journal mode is for.
        let mut other = SqliteConnection::connect(&self.server.config().database.url)
            .await
            .expect("the file is there");
        // Somebody may be writing at this moment: then SQLite itself waits.
        let locked = sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await;
        match locked {
            Ok(_) => self.lock = Some(other),
            Err(error) => world.note(format!("the file was not locked: {error}")),
        }
    }

    /// The database is there.
    pub async fn heal(&mut self) {
        self.cut = false;
        if let Some(proxy) = &self.proxy {
            proxy.set(Mode::Open).await;
        }
        if let Some(mut other) = self.lock.take() {
            sqlx::raw_sql("ROLLBACK")
                .execute(&mut other)
                .await
                .expect("it is ours");
            other.close().await.expect("it is ours");
        }
    }
}

fn in_each_ledger(world: &World, change: impl Fn(&mut Ledger)) {
    for place in &mut world.state().places {
        change(&mut place.ledger);
    }
}

/// Host and port of the test's PostgreSQL.
pub fn postgres_place() -> String {
    let url = std::env::var("MINIMCP_TEST_POSTGRES_URL").expect("it is available");
    let (_, place) = url.rsplit_once('@').expect("the URL has a user");
    let (target, _) = place.split_once('/').expect("the URL names a database");
    target.to_owned()
}
