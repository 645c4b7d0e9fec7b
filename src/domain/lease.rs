//! Time to live: granted, warned of, run out, restorable, purged.

use serde_json::Value;

use super::{
    UnixMs, duration::HumanDuration, instance::Lease, template::LeaseSpec, violation::Violation,
};

impl Lease {
    /// A lease that begins at `now`.
    #[must_use]
    pub fn granted(ttl: Option<HumanDuration>, now: UnixMs) -> Self {
        Self {
            ttl_ms: ttl.map(HumanDuration::ms),
            expires_at: ttl.map(|ttl| plus(now, ttl.ms())),
            restore_until: None,
            warned: false,
        }
    }

    /// When the warning event is due: `warn_before` ahead of the end, but never in the first half of the lease.
    #[must_use]
    pub fn warn_at(&self, warn_before: HumanDuration) -> Option<UnixMs> {
        if self.warned {
            return None;
        }
        let ahead = warn_before.ms().min(self.ttl_ms? / 2);
        self.expires_at
            .map(|at| at.saturating_sub(i64::try_from(ahead).unwrap_or(i64::MAX)))
    }

    /// Whether it has run out.
    #[must_use]
    pub fn is_over(&self, now: UnixMs) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Notes that it ran out; it can be restored for `window` from the deadline on.
    pub fn expire(&mut self, window: HumanDuration) {
        if let (Some(at), None) = (self.expires_at, self.restore_until) {
            self.restore_until = Some(plus(at, window.ms()));
        }
    }

    /// Whether a restore is still possible.
    #[must_use]
    pub fn is_restorable(&self, now: UnixMs) -> bool {
        self.restore_until.is_some_and(|until| now < until)
    }

    /// The TTL last asked for.
    #[must_use]
    pub fn ttl(&self) -> Option<HumanDuration> {
        self.ttl_ms.map(HumanDuration::from_ms)
    }
}

/// Reads a TTL as a request gives it and holds it against the template.
///
/// # Errors
/// A [`Violation`] at `pointer` when it is not a duration, zero, negative or over the maximum.
pub fn check_ttl(
    value: &Value,
    spec: &LeaseSpec,
    pointer: &str,
) -> Result<HumanDuration, Violation> {
    let ttl = read_duration(value)
        .map_err(|message| Violation::new(pointer, "invalid-duration", message))?;
    if ttl.ms() == 0 {
        return Err(Violation::new(
            pointer,
            "out-of-range",
            "the time to live must be more than zero",
        ));
    }
    if ttl > spec.ttl_max {
        let message = format!(
            "the time to live is at most {} for this template",
            spec.ttl_max
        );
        return Err(Violation::new(pointer, "out-of-range", message));
    }
    Ok(ttl)
}

/// Reads a duration from a number of seconds or a human text.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn read_duration(value: &Value) -> Result<HumanDuration, String> {
    match value {
        Value::Number(number) => number
            .as_u64()
            .and_then(|secs| secs.checked_mul(1_000))
            .map(HumanDuration::from_ms)
            .ok_or_else(|| {
                format!("{number} is not a duration: seconds are a whole number from 0 up")
            }),
        Value::String(text) => text
            .parse()
            .map_err(|error: super::duration::InvalidDuration| error.to_string()),
        _ => {
            Err("a duration is a number of seconds, or a text such as \"30m\" or \"2h\"".to_owned())
        }
    }
}

fn plus(at: UnixMs, ms: u64) -> UnixMs {
    at.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn bad_ttls_are_told_apart() {
        let spec = LeaseSpec::default();
        for (value, code) in [
            (json!("10x"), "invalid-duration"),
            (json!(-5), "invalid-duration"),
            (json!("-5s"), "invalid-duration"),
            (json!(1.5), "invalid-duration"),
            (json!([]), "invalid-duration"),
            (json!(0), "out-of-range"),
            (json!("0s"), "out-of-range"),
            (json!("31d"), "out-of-range"),
        ] {
            let violation = check_ttl(&value, &spec, "/ttl").expect_err("refused");
            assert_eq!(
                (violation.code.as_str(), violation.pointer.as_str()),
                (code, "/ttl"),
                "{value}"
            );
        }
        assert_eq!(
            check_ttl(&json!("30d"), &spec, "/ttl").map(HumanDuration::ms),
            Ok(2_592_000_000)
        );
    }

    #[test]
    fn the_restore_window_counts_from_the_deadline() {
        let mut lease = Lease::granted(Some(HumanDuration::from_secs(10)), 1_000);
        assert!(!lease.is_over(10_999) && lease.is_over(11_000));
        lease.expire(HumanDuration::from_secs(60));
        assert!(lease.is_restorable(70_999) && !lease.is_restorable(71_000));
        lease.expire(HumanDuration::from_secs(600));
        assert!(
            !lease.is_restorable(71_000),
            "a second expiry does not lengthen it"
        );
    }

    proptest! {
        #[test]
        fn a_warning_comes_before_the_end(ttl in 1_u64..10_000_000, before in 0_u64..10_000_000, now in 0_i64..1_000_000) {
            let lease = Lease::granted(Some(HumanDuration::from_ms(ttl)), now);
            let warn = lease.warn_at(HumanDuration::from_ms(before));
            prop_assert!(warn.is_some_and(|at| at >= now && Some(at) <= lease.expires_at));
        }
    }
}
