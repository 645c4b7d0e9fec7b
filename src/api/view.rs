//! From what the supervisor and the store know to what the wire shows. Pure.

use jiff::Timestamp;

use crate::{
    clock::Clock,
    domain::{
        UnixMs,
        exit::{ExitRecord, ExitStatus},
    },
    egress::{EgressReport, HostCount},
    supervisor::{DenialReport, Granted, InstanceEvent, InstanceStatus},
    wire,
};

/// A time as RFC 3339 in UTC. Times outside the years -9999 to 9999 cannot be written and show the epoch.
#[must_use]
pub fn time(ms: UnixMs) -> String {
    let at = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    // Always three digits, so that texts of one length sort as the times do.
    format!("{at:.3}")
}

/// Now, in unix milliseconds.
#[must_use]
pub fn now_ms() -> UnixMs {
    Clock::System.now()
}

/// One instance, without its token.
#[must_use]
pub fn instance(status: &InstanceStatus) -> wire::Instance {
    let record = &status.record;
    wire::Instance {
        id: record.id.to_string(),
        name: record.name.to_string(),
        owner: record.owner.to_string(),
        slug: record.slug().to_string(),
        template: record.template.to_string(),
        status: status.word.to_string(),
        since: time(status.since),
        reason: status.reason.clone(),
        next_action_at: status.next_action_at.map(time),
        health: status.health.as_str().to_owned(),
        desired: record.desired.as_str().to_owned(),
        generation: record.generation.0,
        port: record.port,
        pid: status.pid,
        remote: status.remote.clone(),
        session_children: status
            .members
            .iter()
            .map(|(number, pid)| wire::SessionChild {
                number: *number,
                pid: *pid,
            })
            .collect(),
        access_url: status.access_url.clone(),
        path_url: status.path_url.clone(),
        access_token: None,
        connect_url: None,
        created_at: time(record.created_at),
        expires_at: record.lease.expires_at.map(time),
        restore_until: record.lease.restore_until.map(time),
        last_accessed_at: record.last_accessed_at.map(time),
        freeze_after: status.freeze_after.map(|after| after.to_string()),
        sleep_after: status.sleep_after.map(|after| after.to_string()),
        restarts: record.restarts,
        last_exit: record.last_exit.as_ref().map(last_exit),
        server: status.server.as_ref().map(|server| wire::ServerFacts {
            name: server.name.clone(),
            version: server.version.clone(),
            protocol_version: server.protocol_version.clone(),
            tools: server.tools.clone(),
        }),
        isolation: status.isolation.clone(),
        egress: status.egress.as_ref().map(egress),
        denials: status.denials.as_ref().map(denials),
        limits: match status.remote {
            None => serde_json::to_value(status.limits).unwrap_or_default(),
            Some(_) => serde_json::json!({}),
        },
        credentials: record
            .spec
            .credentials
            .iter()
            .map(|(env, name)| (env.to_string(), name.to_string()))
            .collect(),
        settings: record.spec.settings.clone(),
        labels: record.spec.labels.clone(),
    }
}

/// One instance with the token that was just made, shown as `status` says it is now.
#[must_use]
pub fn granted(granted: &Granted, status: &InstanceStatus) -> wire::Instance {
    wire::Instance {
        access_token: Some(granted.access_token.to_string()),
        connect_url: Some(granted.connect_url.to_string()),
        ..instance(status)
    }
}

fn denials(report: &DenialReport) -> wire::Denials {
    let calls = report.calls.iter();
    let calls = calls.map(|(call, count, last_at)| wire::DeniedCall {
        call: call.clone(),
        count: *count,
        last_at: time(*last_at),
    });
    wire::Denials {
        total: report.total,
        last_at: report.last_at.map(time),
        calls: calls.collect(),
    }
}

fn egress(report: &EgressReport) -> wire::Egress {
    let hosts = |hosts: &[HostCount]| {
        let host = |host: &HostCount| wire::EgressHost {
            host: host.host.clone(),
            reason: host.reason.map(str::to_owned),
            count: host.count,
            last_at: time(host.last_at),
        };
        hosts.iter().map(host).collect()
    };
    wire::Egress {
        hosts: report.hosts.clone(),
        learns: report.learns,
        held_keys: report
            .held_keys
            .iter()
            .map(|(variable, upstream)| wire::HeldKey {
                variable: variable.clone(),
                upstream: upstream.clone(),
            })
            .collect(),
        refused: report.refused,
        last_refused_at: report.last_refused_at.map(time),
        refused_hosts: hosts(&report.refused_hosts),
        reached_hosts: hosts(&report.reached_hosts),
        sent_bytes: report.sent_bytes,
        received_bytes: report.received_bytes,
    }
}

fn last_exit(exit: &ExitRecord) -> wire::LastExit {
    let (code, signal) = match exit.status {
        ExitStatus::Exited { code } => (Some(code), None),
        ExitStatus::Signaled { signal } => (None, Some(signal)),
        ExitStatus::OutOfMemory
        | ExitStatus::NotStarted { .. }
        | ExitStatus::KeeperLost
        | ExitStatus::Disconnected { .. } => (None, None),
    };
    wire::LastExit {
        generation: exit.generation.0,
        at: time(exit.at),
        cause: exit.status.to_string(),
        code,
        signal,
        out_of_memory: exit.status == ExitStatus::OutOfMemory,
        cpu_ms: exit
            .usage
            .user_cpu_ms
            .saturating_add(exit.usage.system_cpu_ms),
        max_rss_kib: exit.usage.max_rss_kib,
        last_stderr: exit.last_stderr.clone(),
    }
}

/// One event.
#[must_use]
pub fn event(event: &InstanceEvent) -> wire::InstanceEvent {
    wire::InstanceEvent {
        id: event.id,
        instance: event.instance.to_string(),
        generation: event.generation.0,
        at: time(event.at),
        kind: event.kind.clone(),
        message: event.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{exit::ResourceUsage, id::Generation};

    #[test]
    fn times_are_rfc_3339_in_utc() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(1_795_253_777_123), "2026-11-21T09:36:17.123Z");
        assert_eq!(time(UnixMs::MAX), "1970-01-01T00:00:00.000Z");
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
}
