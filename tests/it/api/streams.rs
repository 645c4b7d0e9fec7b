//! Event streams and log follows: replay, then live, without a gap or a double.

use axum::body::Body;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::time::{Duration, timeout};
use tower::ServiceExt;

use super::Fixture;
use crate::harness::{Database, on_both_databases};
use minimcp::domain::id::{Generation, InstanceId};
use minimcp::logs::{LogSource, LogStream};
use minimcp::secrets::redaction::Redactions;

on_both_databases! {
    a_stream_shows_what_happens_and_replays_what_was_missed,
    one_instance_has_pages_and_a_stream_of_its_own,
    streams_end_with_the_daemon,
    a_log_is_read_in_pages_and_followed_from_any_line,
}

const PATIENCE: Duration = Duration::from_secs(20);

/// An open stream of server-sent events.
struct Stream {
    body: Body,
    text: String,
}

impl Stream {
    async fn open(api: &Fixture, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut all = vec![("accept", "text/event-stream")];
        all.extend(headers);
        let request = api.request("GET", path, "", &all);
        let response = api
            .router
            .clone()
            .oneshot(request)
            .await
            .expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            body: response.into_body(),
            text: String::new(),
        }
    }

    /// The `data` of the next event; `None`: the stream ended. Comments keep a stream alive and no test.
    async fn next(&mut self) -> Option<Value> {
        timeout(PATIENCE, self.read_next())
            .await
            .expect("an event in time")
    }

    async fn read_next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let data = event
                    .lines()
                    .find_map(|line| line.strip_prefix("data: "))
                    .map(str::to_owned);
                self.text = rest.to_owned();
                if let Some(data) = data {
                    return Some(serde_json::from_str(&data).expect("JSON"));
                }
                continue;
            }
            let frame = self.body.frame().await?;
            let data = frame.expect("a frame").into_data().expect("data");
            self.text
                .push_str(std::str::from_utf8(&data).expect("text"));
        }
    }

    /// The next event of this instance.
    async fn of(&mut self, instance: &str) -> Value {
        let search = async {
            loop {
                let event = self.next().await.expect("the stream goes on");
                if event["instance"] == instance {
                    return event;
                }
            }
        };
        timeout(PATIENCE, search)
            .await
            .expect("an event of the instance in time")
    }
}

async fn create(api: &Fixture, name: &str) -> Value {
    let body = format!("{{\"template\": \"demo\", \"name\": \"{name}\"}}");
    api.call("POST", "/api/v1/mcps", &body).await.json()
}

fn id_of(instance: &Value) -> String {
    instance["id"].as_str().expect("an id").to_owned()
}

async fn a_stream_shows_what_happens_and_replays_what_was_missed(database: Database) {
    let api = Fixture::new(database).await;
    let mut live = Stream::open(&api, "/api/v1/events", &[]).await;
    let one = id_of(&create(&api, "one").await);
    let event = live.of(&one).await;
    let seen = event["id"].as_i64().expect("a number");
    assert!(seen > 0, "{event}");
    let two = id_of(&create(&api, "two").await);
    let reached = live.of(&two).await["id"].as_i64().expect("a number");
    let last = seen.to_string();
    let mut again = Stream::open(&api, "/api/v1/events", &[("last-event-id", &last)]).await;
    let mut ids = vec![];
    while ids.last() != Some(&reached) {
        let event = again.next().await.expect("an event");
        let id = event["id"].as_i64().expect("a number");
        assert!(id > seen && id <= reached, "{event}");
        ids.push(id);
    }
    let three = id_of(&create(&api, "three").await);
    let event = again.of(&three).await;
    assert!(event["id"].as_i64().expect("a number") > reached, "{event}");
}

async fn one_instance_has_pages_and_a_stream_of_its_own(database: Database) {
    let api = Fixture::new(database).await;
    let one = id_of(&create(&api, "one").await);
    let two = id_of(&create(&api, "two").await);
    let page = api.call("GET", "/api/v1/mcps/one/events", "").await.json();
    let items = page["items"].as_array().expect("items");
    assert!(
        items.iter().any(|event| event["kind"] == "created"),
        "{page}"
    );
    assert!(items.iter().all(|event| event["instance"] == one.as_str()));
    let mut stream = Stream::open(&api, "/api/v1/events?instance=two&cursor=0", &[]).await;
    assert_eq!(
        stream.next().await.expect("an event")["instance"],
        two.as_str()
    );
    let request = api.request("GET", "/api/v1/events", "", &[("last-event-id", "x")]);
    api.send(request).await.problem(400, "invalid-header");
}

async fn streams_end_with_the_daemon(database: Database) {
    let api = Fixture::new(database).await;
    create(&api, "one").await;
    let mut events = Stream::open(&api, "/api/v1/events", &[]).await;
    let mut logs = Stream::open(&api, "/api/v1/mcps/one/logs?tail=0", &[]).await;
    api.state.shutdown.cancel();
    while events.next().await.is_some() {}
    while logs.next().await.is_some() {}
}

async fn a_log_is_read_in_pages_and_followed_from_any_line(database: Database) {
    let api = Fixture::new(database).await;
    let id: InstanceId = id_of(&create(&api, "one").await).parse().expect("an id");
    let who = minimcp::api::auth::administrator();
    let key = api
        .state
        .supervisor
        .get(&who, id)
        .expect("it is there")
        .record
        .key;
    let source = LogSource {
        instance: id,
        key,
        generation: Generation(1),
        member: 0,
    };
    let say = |text: &str| {
        let nothing = Redactions::new(Vec::<(String, zeroize::Zeroizing<String>)>::new());
        api.state
            .logs
            .note(source, LogStream::System, text.as_bytes(), &nothing);
    };
    let mut follow = Stream::open(
        &api,
        "/api/v1/mcps/one/logs?tail=0&stream=system&q=needle",
        &[],
    )
    .await;
    for number in 0..5 {
        say(&format!("Needle {number}"));
        say("hay");
    }
    let mut lines = vec![];
    for _ in 0..5 {
        lines.push(follow.next().await.expect("a line"));
    }
    let texts: Vec<_> = lines
        .iter()
        .map(|line| line["line"].as_str().expect("text"))
        .collect();
    assert_eq!(
        texts,
        ["Needle 0", "Needle 1", "Needle 2", "Needle 3", "Needle 4"]
    );
    let page = api
        .call("GET", "/api/v1/mcps/one/logs?q=NEEDLE&limit=2", "")
        .await
        .json();
    assert_eq!(page["items"][1]["line"], "Needle 1", "{page}");
    let cursor = page["next_cursor"].as_str().expect("a cursor");
    let path = format!("/api/v1/mcps/one/logs?q=needle&limit=2&cursor={cursor}");
    assert_eq!(
        api.call("GET", &path, "").await.json()["items"][0]["line"],
        "Needle 2"
    );
    for (tail, expected) in [(0, 0), (1, 1), (3, 3)] {
        let path = format!("/api/v1/mcps/one/logs?q=needle&tail={tail}");
        let page = api.call("GET", &path, "").await.json();
        let items = page["items"].as_array().expect("items");
        assert_eq!(items.len(), expected, "{page}");
        assert_eq!(page["next_cursor"], serde_json::Value::Null);
    }
    let last = lines[2]["id"].to_string();
    let path = "/api/v1/mcps/one/logs?q=needle";
    let mut resumed = Stream::open(&api, path, &[("last-event-id", &last)]).await;
    assert_eq!(resumed.next().await.expect("a line")["line"], "Needle 3");
}
