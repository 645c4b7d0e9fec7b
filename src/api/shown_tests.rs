//! What is written of an instance against the type that clients read, made field by field in the plain way.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::{
    domain::{
        duration::HumanDuration,
        exit::ResourceUsage,
        id::{CredentialName, EnvName, Generation, InstanceName, OwnerId, TemplateName},
        instance::{InstanceRecord, InstanceSpec, Lease},
        limits::Limits,
        restart::RestartRow,
        state::{DesiredState, Health, InstanceState, StatusWord},
    },
    supervisor::{InstanceStatus, ServerFacts},
};

/// What differs from instance to instance.
#[derive(Debug, Clone)]
struct Varied {
    texts: [String; 6],
    times: [Option<i64>; 5],
    numbers: [u64; 3],
    word: usize,
    is_remote: bool,
    is_owned: bool,
    has_facts: bool,
    has_ended: bool,
}

fn varied() -> impl Strategy<Value = Varied> {
    let flags = any::<[bool; 4]>();
    let word = 0..StatusWord::ALL.len();
    let times: [Option<i64>; 5] = Default::default();
    let times = times.map(|_| proptest::option::of(0..4_102_444_800_000_i64));
    let texts: [(); 6] = Default::default();
    // Quotes, backslashes, control characters, and what is beyond ASCII.
    let texts = texts.map(|()| "(\\PC|[\"\\\\\n\t\u{0}\u{7f}\u{2028}]){0,12}");
    (texts, times, any::<[u64; 3]>(), word, flags).prop_map(
        |(texts, times, numbers, word, flags)| Varied {
            texts,
            times,
            numbers,
            word,
            is_remote: flags[0],
            is_owned: flags[1],
            has_facts: flags[2],
            has_ended: flags[3],
        },
    )
}

fn record(of: &Varied) -> InstanceRecord {
    let valid = "what is written here is valid";
    let credential = CredentialName::new("github.main").expect(valid);
    let [a, b, c, ..] = of.texts.clone();
    InstanceRecord {
        id: InstanceId(Uuid::from_u128(u128::from(of.numbers[0]))),
        key: 7,
        owner: OwnerId::new(if of.is_owned { "team-a" } else { "admin" }).expect(valid),
        name: InstanceName::new("files-1").expect(valid),
        template: TemplateName::new("files").expect(valid),
        spec: InstanceSpec {
            credentials: [(EnvName::new("TOKEN").expect(valid), credential)].into(),
            settings: [(a.clone(), json!([b, null, {"x": 1.5}]))].into(),
            labels: [(b.clone(), c), (a, b)].into(),
            ..InstanceSpec::default()
        },
        desired: DesiredState::ALL[of.word % 2],
        state: InstanceState::Running,
        generation: Generation(of.numbers[1]),
        port: u16::try_from(of.numbers[2] % 70_000).ok(),
        lease: Lease {
            expires_at: of.times[0],
            restore_until: of.times[1],
            ..Lease::default()
        },
        restart_row: RestartRow::default(),
        restarts: of.numbers[2],
        last_exit: of.has_ended.then(|| ExitRecord {
            generation: Generation(1),
            status: ExitStatus::NotStarted {
                reason: of.texts[3].clone(),
            },
            at: 5,
            usage: ResourceUsage::default(),
            last_stderr: of.texts.to_vec(),
        }),
        handshake: None,
        created_at: of.times[2].unwrap_or_default(),
        updated_at: 9,
        last_accessed_at: of.times[3],
    }
}

fn seen(of: &Varied) -> Seen {
    let isolation: BTreeMap<String, String> = match of.is_remote {
        true => BTreeMap::new(),
        false => [("identity", 4), ("landlock", 5), ("profile", 0)]
            .map(|(layer, text)| (layer.to_owned(), of.texts[text].clone()))
            .into(),
    };
    let status = InstanceStatus {
        record: record(of),
        word: StatusWord::ALL[of.word],
        since: of.times[4].unwrap_or(-1),
        reason: of.has_ended.then(|| of.texts[1].clone()),
        next_action_at: of.times[4],
        health: Health::ALL[of.word % 3],
        pid: u32::try_from(of.numbers[0]).ok(),
        remote: of.is_remote.then(|| of.texts[2].clone()),
        isolation: isolation.into(),
        limits: Limits::default(),
        freeze_after: of
            .is_owned
            .then(|| HumanDuration::from_ms(of.numbers[1] >> 20)),
        sleep_after: of.has_facts.then(|| HumanDuration::from_secs(90)),
        access_url: "http://127.0.0.1:20000/mcp".to_owned(),
        path_url: of.texts[0].clone(),
        server: of.has_facts.then(|| ServerFacts {
            name: of.texts[2].clone(),
            version: of.texts[3].clone(),
            protocol_version: "2025-11-25".to_owned(),
            tools: of.texts.to_vec(),
        }),
    };
    let host = |reason| HostCount {
        host: of.texts[5].clone(),
        reason,
        count: of.numbers[2],
        last_at: 3,
    };
    let mut seen = Seen::from(status);
    seen.members = vec![(1, None), (2, Some(77))];
    seen.egress = of.has_facts.then(|| EgressReport {
        hosts: of.texts.to_vec(),
        held_keys: vec![("KEY".to_owned(), of.texts[4].clone())],
        refused_hosts: vec![host(Some("so"))],
        reached_hosts: vec![host(None)],
        last_refused_at: of.times[0],
        sent_bytes: of.numbers[0],
        ..EgressReport::default()
    });
    seen.denials = of.is_owned.then(|| DenialReport {
        total: 3,
        last_at: of.times[1],
        calls: vec![("ptrace".to_owned(), 3, 4)],
    });
    seen
}

/// Field by field, from copies.
fn plain(seen: &Seen, of: &Varied) -> wire::Instance {
    let record = &seen.record;
    let texts = |map: &BTreeMap<String, String>| map.clone();
    let isolation = ["identity", "landlock", "profile"];
    let isolation = isolation
        .into_iter()
        .filter_map(|layer| Some((layer.to_owned(), seen.isolation.get(layer)?.to_owned())));
    wire::Instance {
        id: record.id.to_string(),
        name: "files-1".to_owned(),
        owner: record.owner.to_string(),
        slug: match of.is_owned {
            true => "team-a.files-1".to_owned(),
            false => "files-1".to_owned(),
        },
        template: "files".to_owned(),
        status: seen.word.to_string(),
        since: time(seen.since),
        reason: seen.reason().map(str::to_owned),
        next_action_at: seen.next_action_at.map(time),
        health: seen.health.as_str().to_owned(),
        desired: record.desired.as_str().to_owned(),
        generation: record.generation.0,
        port: record.port,
        pid: seen.pid,
        remote: seen.remote.clone(),
        session_children: vec![
            wire::SessionChild {
                number: 1,
                pid: None,
            },
            wire::SessionChild {
                number: 2,
                pid: Some(77),
            },
        ],
        access_url: seen.access_url.clone(),
        path_url: seen.path_url.clone(),
        access_token: None,
        connect_url: None,
        created_at: time(record.created_at),
        expires_at: record.lease.expires_at.map(time),
        restore_until: record.lease.restore_until.map(time),
        last_accessed_at: seen.last_accessed_at.map(time),
        freeze_after: seen.freeze_after.map(|after| after.to_string()),
        sleep_after: seen.sleep_after.map(|after| after.to_string()),
        restarts: record.restarts,
        last_exit: record.last_exit.as_ref().map(last_exit),
        server: seen.server.as_ref().map(|server| wire::ServerFacts {
            name: server.name.clone(),
            version: server.version.clone(),
            protocol_version: server.protocol_version.clone(),
            tools: server.tools.clone(),
        }),
        isolation: isolation.collect(),
        egress: seen.egress.as_ref().map(egress),
        denials: seen.denials.as_ref().map(denials),
        limits: match of.is_remote {
            true => json!({}),
            false => serde_json::to_value(seen.limits).expect("limits are numbers"),
        },
        credentials: texts(&[("TOKEN".to_owned(), "github.main".to_owned())].into()),
        settings: record.spec.settings.clone(),
        labels: texts(&record.spec.labels),
    }
}

fn value(shown: &Shown) -> serde_json::Value {
    serde_json::from_slice(&shown.0).expect("it is JSON")
}

proptest! {
    #[test]
    fn what_is_written_is_the_instance_that_clients_read(varied in varied()) {
        let seen = seen(&varied);
        let (shown, plain) = (Shown::instance(&seen), plain(&seen, &varied));
        prop_assert_eq!(&shown.read().expect("an instance"), &plain);
        // Nothing less and nothing more than the type says, nulls included.
        prop_assert_eq!(value(&shown), serde_json::to_value(plain).expect("an instance"));
    }

    #[test]
    fn a_page_holds_each_as_it_is_alone(all in proptest::collection::vec(varied(), 0..4), more: bool) {
        let all: Vec<Seen> = all.iter().map(seen).collect();
        let next = more.then(|| InstanceId(Uuid::from_u128(9)));
        let page = value(&Shown::page(&all, next));
        let alone: Vec<_> = all.iter().map(|seen| value(&Shown::instance(seen))).collect();
        let next = next.map(|id| id.to_string());
        prop_assert_eq!(page, json!({"items": alone, "next_cursor": next}));
    }
}

proptest! {
    #[test]
    fn a_summary_is_the_part_of_an_instance_that_its_type_names(all in proptest::collection::vec(varied(), 1..4)) {
        let all: Vec<Seen> = all.iter().map(seen).collect();
        let glances: Vec<Glance> = all.iter().map(|seen| seen.glance.clone()).collect();
        let page = Shown::summaries(&glances, None);
        let read: wire::Page<wire::InstanceSummary> =
            serde_json::from_slice(&page.0).expect("a page of summaries");
        // Nothing less and nothing more than the type says.
        prop_assert_eq!(value(&page), serde_json::to_value(&read).expect("a page"));
        for (summary, seen) in read.items.into_iter().zip(&all) {
            let summary = serde_json::to_value(summary).expect("a summary");
            let whole = value(&Shown::instance(seen));
            for (key, value) in summary.as_object().expect("an object") {
                prop_assert_eq!(value, &whole[key], "{}", key);
            }
        }
    }

    #[test]
    fn what_is_kept_of_a_status_holds_nothing_that_changes_without_it(before in varied(), after in varied()) {
        let mut seen = seen(&before);
        let first = value(&Shown::page(std::slice::from_ref(&seen), None));
        prop_assert!(seen.known_outline().is_some(), "a list keeps it");
        prop_assert_eq!(&first["items"][0], &value(&Shown::instance(&seen)));
        // Everything that changes without the actor.
        let other = self::seen(&after);
        (seen.egress, seen.denials) = (other.egress, other.denials);
        seen.members = vec![(1, None), (2, Some(77))];
        seen.glance.last_accessed_at = after.times[0];
        let plain = serde_json::to_value(plain(&seen, &before)).expect("an instance");
        prop_assert_eq!(&value(&Shown::instance(&seen)), &plain);
        prop_assert_eq!(&value(&Shown::page(&[seen], None))["items"][0], &plain);
    }
}

#[test]
fn a_token_is_shown_beside_what_it_opens_and_only_when_it_was_made() {
    let varied = Varied {
        texts: Default::default(),
        times: [None; 5],
        numbers: [1; 3],
        word: 0,
        is_remote: false,
        is_owned: false,
        has_facts: false,
        has_ended: false,
    };
    let granted = Granted {
        status: seen(&varied),
        access_token: "mcp_abc".to_owned().into(),
        connect_url: "http://127.0.0.1:20000/mcp_abc/mcp".to_owned().into(),
    };
    // Also where what is kept of a list is used.
    drop(Shown::page(std::slice::from_ref(&granted.status), None));
    let with = Shown::granted(&granted, &granted.status)
        .read()
        .expect("an instance");
    assert_eq!(with.access_token.as_deref(), Some("mcp_abc"));
    let url = "http://127.0.0.1:20000/mcp_abc/mcp";
    assert_eq!(with.connect_url.as_deref(), Some(url));
    let without = value(&Shown::instance(&granted.status));
    assert_eq!(without.get("access_token"), None);
    assert_eq!(without.get("connect_url"), None);
}

#[test]
fn an_exit_tells_code_or_signal_or_memory() {
    let exit = |status| {
        last_exit(&ExitRecord {
            generation: Generation(3),
            status,
            at: 0,
            usage: ResourceUsage {
                user_cpu_ms: 2,
                system_cpu_ms: 3,
                max_rss_kib: 9,
            },
            last_stderr: vec!["boom".into()],
        })
    };
    let exited = exit(ExitStatus::Exited { code: 7 });
    assert_eq!(
        (exited.code, exited.signal, exited.cpu_ms),
        (Some(7), None, 5)
    );
    assert_eq!(exited.cause, "exited with code 7");
    assert_eq!(exit(ExitStatus::Signaled { signal: 9 }).signal, Some(9));
    assert!(exit(ExitStatus::OutOfMemory).out_of_memory);
}
