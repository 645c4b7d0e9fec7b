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
