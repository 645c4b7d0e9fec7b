//! `logs` and `events`: pages, and streams that go on across broken connections.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    arguments::LogsOptions,
    failure::Failure,
    instances::resolve,
    output::{DIM, Output, RED, YELLOW, clock, plain},
};
use crate::{
    client::{Client, ClientError, EventStream, ListQuery, LogQuery},
    domain::duration::HumanDuration,
    wire::{EventGap, InstanceEvent, LogLine},
};

/// Between two attempts to reach the daemon again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// So many attempts in a row fail before a follow gives up; an upgrade of the daemon takes seconds.
const RECONNECT_ATTEMPTS: u32 = 30;

pub(super) async fn print(
    client: &Client,
    options: LogsOptions,
    out: Output,
) -> Result<(), Failure> {
    let instance = resolve(client, &options.instance).await?;
    let mut query = LogQuery {
        since: None,
        until: None,
        stream: options.stream,
        text: options.grep,
        tail: Some(options.tail),
    };
    let stamp = options
        .timestamps
        .then_some(whole_time as fn(&str) -> String);
    let show = async |line: &LogLine, json: &str| {
        if out.json {
            out.line(json)
        } else {
            out.line(&log_line(line, stamp, out))
        }
    };
    let mut after = None;
    if !options.follow || options.since.is_some() {
        query.since = options
            .since
            .map(|text| point_in_time(&text, Timestamp::now()))
            .transpose()?;
        // The newest line before the page: where a follow begins if no line of the page fits the filters.
        let newest = LogQuery {
            tail: Some(1),
            ..LogQuery::default()
        };
        let newest = client.logs(&instance, &newest).await?.read()?;
        // The API's smallest page has one line.
        let page = match options.tail {
            0 => Vec::new(),
            _ => client.logs(&instance, &query).await?.read()?.items,
        };
        for line in &page {
            let json =
                serde_json::to_string(line).map_err(|error| Failure::Failed(error.to_string()))?;
            show(line, &json).await?;
        }
        let last = page.last().or(newest.items.last());
        after = Some(last.map_or(0, |line| line.id));
    }
    if !options.follow {
        return Ok(());
    }
    query.since = None;
    if after.is_some() {
        query.tail = None;
    }
    let again = LogQuery {
        tail: None,
        ..query.clone()
    };
    let open = async |last: Option<i64>| match last {
        Some(_) => client.follow_logs(&instance, &again, last).await,
        None => client.follow_logs(&instance, &query, after).await,
    };
    follow(open, |line: &LogLine| line.id, show).await
}

pub(super) async fn events(
    client: &Client,
    after: Option<i64>,
    out: Output,
) -> Result<(), Failure> {
    let open = async |last: Option<i64>| client.events(last.or(after)).await;
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    if !out.json {
        let instances = client.list(&ListQuery::default()).await?.read()?.items;
        names.extend(instances.into_iter().map(|i| (i.id, i.name)));
    }
    let show = async |told: &Told, json: &str| {
        if out.json {
            return out.line(json);
        }
        let event = match told {
            Told::Event(event) => event,
            Told::Gap(gap) => return out.line(&gap_line(*gap, out)),
        };
        // Made since the list was read; one that is gone keeps its id.
        if !names.contains_key(&event.instance) {
            let name = match client.get(&event.instance).await {
                Ok(reply) => reply.read()?.name,
                Err(_) => event.instance.clone(),
            };
            names.insert(event.instance.clone(), name);
        }
        out.line(&event_line(event, &names[&event.instance], out))
    };
    let id = |told: &Told| match told {
        Told::Event(event) => event.id,
        Told::Gap(_) => 0,
    };
    follow(open, id, show).await
}

/// What the stream of events tells.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Told {
    Event(InstanceEvent),
    Gap(EventGap),
}

/// Shows what a stream brings until the daemon is gone for good; after a break it goes on where it was.
async fn follow<T: DeserializeOwned>(
    open: impl AsyncFn(Option<i64>) -> Result<EventStream, ClientError>,
    id: impl Fn(&T) -> i64,
    mut show: impl AsyncFnMut(&T, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut last = None;
    let mut attempts = 0;
    loop {
        match open(last).await {
            Ok(mut stream) => {
                while let Ok(Some(event)) = stream.next().await {
                    attempts = 0;
                    // Kinds of a newer daemon that we cannot read are skipped.
                    if let Ok(entry) = serde_json::from_str::<T>(&event.data) {
                        show(&entry, &event.data).await?;
                        last = Some(id(&entry)).filter(|id| *id > 0).or(last);
                    }
                }
            }
            Err(error) if !error.is_unreachable() => return Err(error.into()),
            Err(error) if attempts == 0 && last.is_none() => return Err(error.into()),
            Err(_) => {}
        }
        attempts += 1;
        if attempts > RECONNECT_ATTEMPTS {
            return Err(Failure::Failed(
                "the daemon went away and did not come back".to_owned(),
            ));
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// An age such as `10m`, or a time, as the time that the API takes.
fn point_in_time(text: &str, now: Timestamp) -> Result<String, Failure> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at.to_string());
    }
    let age: HumanDuration = text.parse().map_err(|_| {
        Failure::Usage(format!(
            "{text:?} is neither an age such as 10m nor a time such as 2026-01-31T12:00:00Z"
        ))
    })?;
    let span = jiff::SignedDuration::from_millis(i64::try_from(age.ms()).unwrap_or(i64::MAX));
    let at = now.checked_sub(span).unwrap_or(Timestamp::UNIX_EPOCH);
    Ok(at.max(Timestamp::UNIX_EPOCH).to_string())
}

/// The time with its date and zone: lines are kept for weeks.
fn whole_time(at: &str) -> String {
    plain(at)
}

/// `stamp`: how the line's time is shown, if at all.
pub(super) fn log_line(line: &LogLine, stamp: Option<fn(&str) -> String>, out: Output) -> String {
    let text = plain(&line.line);
    let text = match line.stream.as_str() {
        "system" => out.paint(YELLOW, &text),
        _ => text,
    };
    let text = match line.session_child {
        Some(number) => format!("{} {text}", out.paint(DIM, &format!("[{number}]"))),
        None => text,
    };
    match stamp {
        Some(stamp) => {
            let stamp = out.paint(DIM, &format!("{} {:<6}", stamp(&line.at), line.stream));
            format!("{stamp} {text}")
        }
        None => text,
    }
}

pub(super) fn event_line(event: &InstanceEvent, who: &str, out: Output) -> String {
    let color = match event.kind.as_str() {
        "failed" | "exited" | "launch-failed" | "unhealthy" => RED,
        _ => DIM,
    };
    // Some sentences begin with the word for their kind.
    let message = event.message.strip_prefix(&event.kind);
    let message = message.map_or(event.message.as_str(), str::trim_start);
    format!(
        "{} {} {} {}",
        out.paint(DIM, &clock(&event.at)),
        plain(who),
        out.paint(color, &plain(&event.kind)),
        plain(message)
    )
}

fn gap_line(gap: EventGap, out: Output) -> String {
    let missed = match gap.missed {
        1 => "1 event was missed".to_owned(),
        missed => format!("{missed} events were missed"),
    };
    out.paint(YELLOW, &format!("{missed}: this terminal reads too slowly"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_among_events_is_shown() {
        let told: Told = serde_json::from_str(r#"{"missed": 6}"#).expect("the API's JSON");
        let Told::Gap(gap) = told else {
            panic!("{told:?}");
        };
        let line = gap_line(gap, Output::plain());
        assert_eq!(line, "6 events were missed: this terminal reads too slowly");
        let event = r#"{"id": 1, "instance": "a", "generation": 1, "at": "2026-11-21T10:00:00Z", "kind": "running",
            "message": "it runs"}"#;
        assert!(matches!(serde_json::from_str(event), Ok(Told::Event(event)) if event.id == 1));
    }

    #[test]
    fn a_point_in_time_is_an_age_or_a_time() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().expect("a time");
        let at = |text| point_in_time(text, now).map_err(|failure| failure.to_string());
        assert_eq!(at("90m").as_deref(), Ok("2026-11-21T08:30:00Z"));
        assert_eq!(
            at("2026-11-21T09:00:00+01:00").as_deref(),
            Ok("2026-11-21T08:00:00Z")
        );
        assert_eq!(at("900000000000h").as_deref(), Ok("1970-01-01T00:00:00Z"));
        assert!(at("yesterday").is_err());
    }

    #[test]
    fn a_line_of_a_server_cannot_steer_the_terminal() {
        let line = LogLine {
            id: 1,
            at: "2026-11-21T10:00:00Z".to_owned(),
            generation: 1,
            session_child: Some(2),
            stream: "stderr".to_owned(),
            line: "a\u{1b}[2Jb\tc".to_owned(),
            continued: false,
        };
        assert_eq!(log_line(&line, None, Output::plain()), "[2] a?[2Jb c");
    }
}
