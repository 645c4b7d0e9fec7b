//! How short of memory the machine is, and which sleepers-to-be give way first.

use std::time::Duration;

/// One that was used within this time is left alone: what was woken a moment ago would be woken again.
pub const LEFT_ALONE: Duration = Duration::from_secs(5);

/// The share of the last ten seconds, in percent, in which some task waited for memory: `avg10` of the line `some` in
/// `/proc/pressure/memory` (Linux, `Documentation/accounting/psi.rst`). `None`: this is no such file.
#[must_use]
pub fn some_avg10(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with("some "))?;
    let mut words = line.split_ascii_whitespace();
    let value = words.find_map(|word| word.strip_prefix("avg10="))?;
    value
        .parse()
        .ok()
        .filter(|percent: &f64| percent.is_finite())
}

/// How many bytes new work can have before something must be paged out: `MemAvailable` of `/proc/meminfo`
/// (proc_meminfo(5)). `None`: this is no such file.
#[must_use]
pub fn available_bytes(text: &str) -> Option<u64> {
    let mut lines = text.lines();
    let rest = lines.find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

/// What there is to see of the machine's memory; `None`: it was not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Memory {
    /// As [`some_avg10`] reads it.
    pub some_avg10: Option<f64>,
    /// As [`available_bytes`] reads it.
    pub available_bytes: Option<u64>,
}

impl Memory {
    /// Whether it is short: waited for by so many percent, or less than so many bytes are left.
    #[must_use]
    pub fn is_short(&self, pressure_percent: Option<u8>, floor_bytes: Option<u64>) -> bool {
        let waits = self.some_avg10.zip(pressure_percent);
        let left = self.available_bytes.zip(floor_bytes);
        waits.is_some_and(|(percent, most)| percent >= f64::from(most))
            || left.is_some_and(|(bytes, least)| bytes < least)
    }
}

/// Which of those that may sleep give way at once, each with how long nobody used it: those that rested longest, an
/// eighth of all and one at least, so that memory is looked at again before many are stopped.
#[must_use]
pub fn least_used<T>(mut resting: Vec<(Duration, T)>) -> Vec<T> {
    resting.retain(|(unused_for, _)| *unused_for >= LEFT_ALONE);
    let most = resting.len().div_ceil(8);
    resting.sort_by_key(|(unused_for, _)| std::cmp::Reverse(*unused_for));
    resting.into_iter().take(most).map(|(_, one)| one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pressure_is_read_from_the_line_of_some() {
        let text = "some avg10=12.34 avg60=1.00 avg300=0.10 total=123\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(some_avg10(text), Some(12.34));
        for strange in [
            "",
            "full avg10=1.00",
            "some avg60=1.00",
            "some avg10=x",
            "some avg10=inf",
        ] {
            assert_eq!(some_avg10(strange), None, "{strange}");
        }
    }

    #[test]
    fn what_is_left_is_read_from_meminfo() {
        let text = "MemTotal:       24576000 kB\nMemFree:  1 kB\nMemAvailable:    2048 kB\nBuffers: 9 kB\n";
        assert_eq!(available_bytes(text), Some(2_048 * 1_024));
        for strange in [
            "",
            "MemFree: 1 kB",
            "MemAvailable: x kB",
            "MemAvailable: 1 MB",
            "MemAvailable: 18446744073709551615 kB",
        ] {
            assert_eq!(available_bytes(strange), None, "{strange}");
        }
    }

    #[test]
    fn memory_is_short_by_either_measure_and_only_by_what_is_asked_for() {
        let memory = |percent, bytes| Memory {
            some_avg10: percent,
            available_bytes: bytes,
        };
        let seen = memory(Some(20.0), Some(1_000));
        for (percent, floor, short) in [
            (None, None, false),
            (Some(20), None, true),
            (Some(21), None, false),
            (None, Some(1_000), false),
            (None, Some(1_001), true),
            (Some(21), Some(1_001), true),
            (Some(0), Some(0), true),
        ] {
            assert_eq!(
                seen.is_short(percent, floor),
                short,
                "{percent:?} {floor:?}"
            );
        }
        assert!(!memory(None, None).is_short(Some(0), Some(u64::MAX)));
    }

    #[test]
    fn those_that_rested_longest_give_way_and_few_at_once() {
        let rested = |secs: &[u64]| -> Vec<(Duration, u64)> {
            secs.iter()
                .map(|secs| (Duration::from_secs(*secs), *secs))
                .collect()
        };
        assert!(least_used(rested(&[])).is_empty());
        assert!(least_used(rested(&[1, 4])).is_empty());
        assert_eq!(least_used(rested(&[1, 7, 90, 8])), [90]);
        let many: Vec<u64> = (10..34).collect();
        assert_eq!(least_used(rested(&many)), [33, 32, 31]);
    }
}
