//! One slot: creates, stops, starts, lets expire, restores, deletes, writes lines, and takes in every answer.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    api::{Api, Reply},
    caller::{Caller, Outcome},
    lines::{Ledger, Row},
    model::Ending,
    steps::{Ask, Step},
    template_of,
    world::{Access, Place, World, pause},
};

/// Tries to read lines back before it is left to the checkpoint.
const READS: usize = 200;

/// Works off the steps of a slot until the run is over.
pub async fn drive(world: &World, api: &Api, slot: usize, steps: impl Iterator<Item = Step<Ask>>) {
    let mut created = 0_u64;
    for step in steps {
        pause(step.pause_ms).await;
        let Some(_at_work) = world.turn().await else {
            return;
        };
        if !is_settled(world, api, slot).await {
            continue;
        }
        let access = world.state().places[slot].access.clone();
        match (step.what, access) {
            (Ask::Create, None) => {
                created += 1;
                create(world, api, slot, created).await;
            }
            (Ask::Create, Some(_)) | (_, None) => {}
            (Ask::Write(lines), Some(access)) => {
                write(world, slot, &access, lines).await;
            }
            (Ask::WriteAndRead(lines), Some(access)) => {
                if let Some(word) = write(world, slot, &access, lines).await {
                    read_back(world, api, slot, &access, &word).await;
                }
            }
            (ask, Some(access)) => verb(world, api, slot, ask, &access).await,
        }
    }
}

/// A creation whose answer did not come is followed up: is there such an instance? `false`: it cannot be told now.
pub async fn is_settled(world: &World, api: &Api, slot: usize) -> bool {
    let asked = world.state().places[slot].asked_name.clone();
    let Some(name) = asked else {
        return true;
    };
    let found = match api.get(&format!("/mcps/{name}")).await {
        Reply::Answer(status, body) if status.is_success() => Some(body),
        Reply::Answer(status, _) if status.as_u16() == 404 => None,
        Reply::Stuck => {
            world.wrong(format!("slot {slot}: no answer about {name}"));
            return false;
        }
        _ => return false,
    };
    let Some(found) = found else {
        let mut state = world.state();
        // Its transaction may be under way in the database still.
        state.ghosts.push(name);
        state.places[slot] = Place::default();
        return true;
    };
    let id = found["id"].as_str().unwrap_or_default().to_owned();
    let path = format!("/mcps/{id}/access-token");
    let reply = api.ask(Method::POST, &path, Some(json!({})), None).await;
    let Some(access) = reply.success().and_then(|body| access_of(&body)) else {
        return false;
    };
    world.note(format!("slot {slot}: {name} is there after all"));
    let mut state = world.state();
    let place = &mut state.places[slot];
    let looked_up = place.model.looked_up(true);
    place.access = Some(access);
    place.asked_name = None;
    drop(state);
    world.hold(&format!("slot {slot}"), looked_up);
    true
}

fn access_of(instance: &Value) -> Option<Access> {
    let text = |key: &str| instance[key].as_str().map(str::to_owned);
    Some(Access {
        id: text("id")?,
        name: text("name")?,
        url: text("access_url")?,
        token: text("access_token")?,
    })
}

async fn create(world: &World, api: &Api, slot: usize, number: u64) {
    let name = format!("slot-{slot}-{number}");
    {
        let mut state = world.state();
        let place = &mut state.places[slot];
        place.asked_name = Some(name.clone());
        place.ledger = Ledger::default();
    }
    let body = json!({"template": template_of(slot), "name": name});
    // As a client does that wants one and only one.
    let key = number.is_multiple_of(2).then(|| format!("key-{name}"));
    let mut reply = api
        .ask(Method::POST, "/mcps", Some(body.clone()), key.as_deref())
        .await;
    if key.is_some() && !matches!(reply, Reply::Answer(status, _) if status.is_success()) {
        reply = api
            .ask(Method::POST, "/mcps", Some(body), key.as_deref())
            .await;
        // The first try may have made it, and been killed before its answer was kept.
        if let Reply::Answer(status, body) = &reply
            && status.as_u16() == 409
            && body["code"] == "name-taken"
        {
            reply = Reply::Broken;
        }
    }
    let ending = reply.ending();
    world.note(format!("slot {slot}: create {name}: {ending:?}"));
    let access = reply.success().and_then(|body| access_of(&body));
    let mut state = world.state();
    let place = &mut state.places[slot];
    let outcome = place.model.answered(Ask::Create, &ending);
    if access.is_some() {
        place.access = access;
        place.asked_name = None;
        *state.tally.entry("created".to_owned()).or_default() += 1;
    }
    drop(state);
    world.hold(&format!("slot {slot}: create {name}"), outcome);
}

async fn verb(world: &World, api: &Api, slot: usize, ask: Ask, access: &Access) {
    let (method, path, body) = match ask {
        Ask::Start => (Method::POST, "/start", None),
        Ask::Stop => (Method::POST, "/stop", None),
        Ask::Restart => (Method::POST, "/restart", None),
        Ask::Expire => (Method::POST, "/extend", Some(json!({"ttl": "1s"}))),
        Ask::Restore => (Method::POST, "/restore", Some(json!({"ttl": "1d"}))),
        Ask::Delete => (Method::DELETE, "", None),
        Ask::Create | Ask::Write(_) | Ask::WriteAndRead(_) => return,
    };
    let path = format!("/mcps/{}{path}", access.id);
    let reply = api.ask(method, &path, body, None).await;
    let ending = reply.ending();
    world.note(format!("slot {slot}: {ask:?} {}: {ending:?}", access.name));
    world.count(&format!("{ask:?} {}", short(&ending)));
    let url_now = reply
        .success()
        .and_then(|body| Some(body["access_url"].as_str()?.to_owned()));
    if url_now.is_some_and(|url| url != access.url) {
        world.wrong(format!("slot {slot}: {} has another URL now", access.name));
    }
    let (outcome, is_gone) = {
        let mut state = world.state();
        let place = &mut state.places[slot];
        let outcome = place.model.answered(ask, &ending);
        let is_gone = place.model.is_absent();
        if is_gone {
            *place = Place::default();
        }
        (outcome, is_gone)
    };
    world.hold(&format!("slot {slot}: {ask:?} {}", access.name), outcome);
    if is_gone && ending == Ending::Done {
        let mut late = Caller::new(access, true);
        let outcome = late.tool("echo", json!({"text": "late"})).await;
        if let Outcome::Text(text) = outcome {
            world.wrong(format!(
                "slot {slot}: {} is deleted and answers {text}",
                access.name
            ));
        }
    }
}

fn short(ending: &Ending) -> String {
    match ending {
        Ending::Refused(status, _) => format!("refused with {status}"),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// Lets the server write; the word of the lines, if the call was answered.
async fn write(world: &World, slot: usize, access: &Access, lines: u32) -> Option<String> {
    let (word, lines) = {
        let mut state = world.state();
        let ledger = &mut state.places[slot].ledger;
        let word = ledger.begin(&access.name, lines);
        (word.clone(), ledger.lines_of(&word))
    };
    let mut writer = Caller::new(access, true);
    let arguments = json!({"text": word, "lines": lines});
    match writer.tool("log", arguments).await {
        Outcome::Text(text) if text.starts_with("wrote") => {
            world.state().places[slot].ledger.answered(&word);
            *world
                .state()
                .tally
                .entry("lines written".to_owned())
                .or_default() += u64::from(lines);
            Some(word)
        }
        Outcome::Stuck => {
            world.wrong(format!(
                "slot {slot}: {} does not answer `log`",
                access.name
            ));
            None
        }
        Outcome::Foreign(body) => {
            world.wrong(format!("slot {slot}: not the answer to `log`: {body}"));
            None
        }
        _ => None,
    }
}

/// Reads lines until they are all there, or something breaks: what was read is acknowledged.
async fn read_back(world: &World, api: &Api, slot: usize, access: &Access, word: &str) {
    for _ in 0..READS {
        let path = format!("/mcps/{}/logs?q={word}%20(&limit=1000", access.id);
        let Some(page) = api.get(&path).await.success() else {
            return;
        };
        let rows = rows_of(&page);
        let (all, outcome) = {
            let mut state = world.state();
            let ledger = &mut state.places[slot].ledger;
            let all = rows.len() as u64 >= u64::from(ledger.lines_of(word));
            (all, ledger.read_some(&rows))
        };
        world.hold(&format!("slot {slot}: {}", access.name), outcome);
        if all {
            world.count("writes read back");
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

/// The rows of a page of the log.
pub fn rows_of(page: &Value) -> Vec<Row> {
    let items = page["items"].as_array().into_iter().flatten();
    let row = |item: &Value| Some((item["id"].as_i64()?, item["line"].as_str()?.to_owned()));
    items.filter_map(row).collect()
}
