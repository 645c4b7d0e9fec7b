//! What happens meanwhile, one line each: events, and the instances' log lines.

use std::collections::{BTreeMap, btree_map::Entry};

use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use crate::{
    cli::{
        failure::Failure,
        logs::{event_line, log_line},
        output::{DIM, Output, clock},
    },
    client::{Client, ListQuery, LogQuery},
    wire::{InstanceEvent, LogLine},
};

/// Most instances whose log lines are shown; a stream each is dear.
const FOLLOWED_MAX: usize = 16;

/// Lines waiting to be printed.
const LINES_MAX: usize = 256;

/// Shows events and log lines until the daemon ends its streams.
pub(super) async fn show(client: &Client, out: Output) -> Result<(), Failure> {
    let mut events = client.events(None).await?;
    let (lines, mut printed) = mpsc::channel::<String>(LINES_MAX);
    let mut followers = Followers {
        client: client.clone(),
        out,
        lines,
        tasks: JoinSet::new(),
        running: BTreeMap::new(),
    };
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for instance in client.list(&ListQuery::default()).await?.read()?.items {
        followers.follow(&instance.id, &instance.name);
        names.insert(instance.id, instance.name);
    }
    loop {
        tokio::select! {
            event = events.next() => {
                let Some(event) = event? else { return Ok(()) };
                let Ok(event) = serde_json::from_str::<InstanceEvent>(&event.data) else { continue };
                let name = match names.entry(event.instance.clone()) {
                    Entry::Occupied(known) => known.get().clone(),
                    Entry::Vacant(unknown) => match client.get(&event.instance).await {
                        Ok(reply) => unknown.insert(reply.read()?.name).clone(),
                        Err(_) => event.instance.clone(),
                    },
                };
                out.line(&event_line(&event, &name, out))?;
                if event.kind == "deleted" {
                    followers.forget(&event.instance);
                    names.remove(&event.instance);
                } else {
                    followers.follow(&event.instance, &name);
                }
            }
            // Never `None`: `followers` holds a sender.
            Some(line) = printed.recv() => out.line(&line)?,
            Some(_) = followers.tasks.join_next() => {}
        }
    }
}

/// One task for each instance whose log lines are shown; they end with the value.
struct Followers {
    client: Client,
    out: Output,
    lines: mpsc::Sender<String>,
    tasks: JoinSet<()>,
    running: BTreeMap<String, AbortHandle>,
}

impl Followers {
    fn follow(&mut self, id: &str, name: &str) {
        self.running.retain(|_, task| !task.is_finished());
        if self.running.contains_key(id) || self.running.len() >= FOLLOWED_MAX {
            return;
        }
        let work = follow(
            self.client.clone(),
            id.to_owned(),
            name.to_owned(),
            self.lines.clone(),
            self.out,
        );
        self.running.insert(id.to_owned(), self.tasks.spawn(work));
    }

    fn forget(&mut self, id: &str) {
        if let Some(task) = self.running.remove(id) {
            task.abort();
        }
    }
}

async fn follow(
    client: Client,
    id: String,
    name: String,
    lines: mpsc::Sender<String>,
    out: Output,
) {
    let query = LogQuery {
        tail: Some(0),
        ..LogQuery::default()
    };
    let Ok(mut stream) = client.follow_logs(&id, &query, None).await else {
        return;
    };
    // The show is a courtesy: when a stream breaks, the lines are still in the store.
    while let Ok(Some(event)) = stream.next().await {
        let Ok(line) = serde_json::from_str::<LogLine>(&event.data) else {
            continue;
        };
        let text = log_line(&line, Some(clock), out);
        let text = format!("{text} {}", out.paint(DIM, &format!("({name})")));
        if lines.send(text).await.is_err() {
            return;
        }
    }
}
