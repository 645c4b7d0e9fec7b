//! How full database and spools are, and whether instances can be frozen, for `doctor`.

use super::doctor::{Check, Verdict, check};
use crate::{
    client::Client,
    wire::{DatabaseFacts, Diagnostics},
};

const MIB: u64 = 1 << 20;
/// From so many hundredths of a bound on it is said aloud.
const WARN_PERCENT: u64 = 80;

pub(super) async fn checks(client: &Client) -> Vec<Check> {
    match client.diagnostics().await.and_then(|reply| reply.read()) {
        Ok(facts) => judge(&facts),
        Err(error) => vec![check("sizes", Verdict::Failed, error.to_string())],
    }
}

fn judge(facts: &Diagnostics) -> Vec<Check> {
    let mut checks = vec![database(&facts.database)];
    checks.extend(facts.freezer.as_deref().map(freezer));
    let freezes = facts.freezer.as_deref().is_some_and(|state| !is_off(state));
    let reclaim = facts.reclaim.as_deref().filter(|_| freezes);
    checks.extend(reclaim.map(reclaimed));
    for spool in &facts.spools {
        let text = format!(
            "{}: {}; what comes past it is lost and counted",
            spool.name,
            share(spool.bytes, spool.bytes_max)
        );
        let verdict = match nearly_full(spool.bytes, spool.bytes_max) {
            true => Verdict::Warning,
            false => Verdict::Ok,
        };
        checks.push(check("spool", verdict, text));
    }
    checks
}

fn database(facts: &DatabaseFacts) -> Check {
    const PART: &str = "database size";
    if let Some(error) = &facts.error {
        return check(PART, Verdict::Failed, error.clone());
    }
    let bytes = facts.bytes.and_then(|bytes| u64::try_from(bytes).ok());
    let log_bytes = facts.log_bytes.unwrap_or(0);
    let text = format!(
        "{} ({}); its log {}, past it the oldest lines go",
        megabytes(bytes.unwrap_or(0)),
        facts.kind,
        share(log_bytes, facts.log_bytes_max)
    );
    // A full log is no fault: retention holds it there.
    check(PART, Verdict::Ok, text)
}

fn freezer(state: &str) -> Check {
    let text = match state.strip_prefix("off: ") {
        Some(reason) => {
            format!("none, so nothing is frozen before it sleeps (freeze_after): {reason}")
        }
        None => state.to_owned(),
    };
    check("freezer", Verdict::Ok, text)
}

fn is_off(state: &str) -> bool {
    state.starts_with("off: ")
}

fn reclaimed(state: &str) -> Check {
    let text = match state.strip_prefix("off: ") {
        Some(reason) => format!("what is frozen keeps its memory (reclaim_frozen): {reason}"),
        None => state.to_owned(),
    };
    check("reclaim", Verdict::Ok, text)
}

fn nearly_full(bytes: u64, most: u64) -> bool {
    bytes.saturating_mul(100) >= most.saturating_mul(WARN_PERCENT)
}

fn share(bytes: u64, most: u64) -> String {
    format!("{} of at most {}", megabytes(bytes), megabytes(most))
}

fn megabytes(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) / MIB;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{LogPipelineFacts, SpoolFacts};

    fn facts(error: Option<&str>, spool_bytes: u64) -> Diagnostics {
        let database = DatabaseFacts {
            kind: "sqlite".to_owned(),
            error: error.map(str::to_owned),
            version: None,
            schema: None,
            bytes: Some(3 << 20),
            instances: None,
            log_lines: None,
            log_text_bytes: None,
            log_bytes: Some(1_600 << 10),
            log_bytes_max: 8 << 30,
        };
        let spool = SpoolFacts {
            name: "logs".to_owned(),
            bytes: spool_bytes,
            bytes_max: 100 << 20,
        };
        Diagnostics {
            process: None,
            freezer: Some("off: there is no cgroup".to_owned()),
            reclaim: Some("off: there is no memory".to_owned()),
            version: String::new(),
            database,
            logs: LogPipelineFacts {
                lines: 0,
                stored: 0,
                spooled: 0,
                dropped: 0,
                queue_bytes: 0,
                spool_bytes,
                store_available: true,
            },
            spools: vec![spool],
        }
    }

    #[test]
    fn sizes_stand_beside_their_bounds() {
        let told = judge(&facts(None, 79 << 20));
        let text =
            "3.0 MiB (sqlite); its log 1.5 MiB of at most 8192.0 MiB, past it the oldest lines go";
        assert_eq!(told[0], check("database size", Verdict::Ok, text));
        let text = "logs: 79.0 MiB of at most 100.0 MiB; what comes past it is lost and counted";
        assert_eq!(told[2], check("spool", Verdict::Ok, text));
        assert!(
            told[1]
                .message
                .ends_with("(freeze_after): there is no cgroup")
        );
        let mut frozen = facts(None, 0);
        frozen.freezer = Some("on: by its cgroup".to_owned());
        let text = "what is frozen keeps its memory (reclaim_frozen): there is no memory";
        assert_eq!(judge(&frozen)[2], check("reclaim", Verdict::Ok, text));
        let full = judge(&facts(None, 80 << 20));
        assert!(full[2] != judge(&facts(None, 79 << 20))[2]);
        let text = "logs: 80.0 MiB of at most 100.0 MiB; what comes past it is lost and counted";
        assert_eq!(full[2], check("spool", Verdict::Warning, text));
        let away = judge(&facts(Some("it is away"), 0));
        assert_eq!(
            away[0],
            check("database size", Verdict::Failed, "it is away")
        );
    }
}
