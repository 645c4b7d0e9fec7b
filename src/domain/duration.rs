//! Human durations in requests and manifests: `90`, `"90"`, `"30s"`, `"1h 30m"`, `"2d"`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time in milliseconds, written for people.
///
/// Reads an integer (seconds) or a text: a sum of numbers with the units `ms`, `s`, `m`, `h`, `d`, `w`.
/// Writes the shortest such text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HumanDuration(u64);

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write seconds, or a number with a unit such as 90s, 30m, 2h, 7d")]
pub struct InvalidDuration(String);

const UNITS_MS: [(&str, u64); 6] = [
    ("w", 7 * 24 * 3_600_000),
    ("d", 24 * 3_600_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

impl HumanDuration {
    /// From milliseconds.
    #[must_use]
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// From seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000))
    }

    /// In milliseconds.
    #[must_use]
    pub const fn ms(self) -> u64 {
        self.0
    }

    /// As the standard library's type.
    #[must_use]
    pub const fn std(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl std::str::FromStr for HumanDuration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidDuration(text.chars().take(40).collect());
        let trimmed = text.trim();
        if let Ok(secs) = trimmed.parse::<u64>() {
            return secs.checked_mul(1_000).map(Self).ok_or_else(invalid);
        }
        let mut rest = trimmed;
        let mut total: u64 = 0;
        if rest.is_empty() {
            return Err(invalid());
        }
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number: u64 = rest[..digits].parse().map_err(|_| invalid())?;
            rest = &rest[digits..];
            let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
            let unit = &rest[..letters];
            let (_, unit_ms) = UNITS_MS
                .iter()
                .find(|(name, _)| *name == unit)
                .ok_or_else(invalid)?;
            total = number
                .checked_mul(*unit_ms)
                .and_then(|ms| total.checked_add(ms))
                .ok_or_else(invalid)?;
            rest = rest[letters..].trim_start();
        }
        Ok(Self(total))
    }
}

impl std::fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut left = self.0;
        let mut first = true;
        // People count leases in days: 30d, not 4w 2d.
        for (unit, unit_ms) in UNITS_MS.into_iter().filter(|(unit, _)| *unit != "w") {
            let count = left / unit_ms;
            if count > 0 {
                if !first {
                    f.write_str(" ")?;
                }
                write!(f, "{count}{unit}")?;
                left %= unit_ms;
                first = false;
            }
        }
        Ok(())
    }
}

impl JsonSchema for HumanDuration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // Parsing also takes spaces around the parts.
        json_schema!({
            "type": ["integer", "string"],
            "minimum": 0,
            "pattern": r"^\s*([0-9]+|([0-9]+(ms|s|m|h|d|w)\s*)+)\s*$",
        })
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = HumanDuration;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("seconds, or a text such as \"30m\" or \"2h\"")
            }
            fn visit_u64<E: de::Error>(self, secs: u64) -> Result<HumanDuration, E> {
                let ms = secs
                    .checked_mul(1_000)
                    .ok_or_else(|| E::custom("too many seconds"))?;
                Ok(HumanDuration(ms))
            }
            fn visit_i64<E: de::Error>(self, secs: i64) -> Result<HumanDuration, E> {
                let secs =
                    u64::try_from(secs).map_err(|_| E::custom("a duration is not negative"))?;
                self.visit_u64(secs)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<HumanDuration, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, ms) in [
            ("90", 90_000),
            ("30m", 1_800_000),
            ("1h 30m", 5_400_000),
            ("1h30m", 5_400_000),
            ("250ms", 250),
            ("2d", 172_800_000),
            ("0", 0),
        ] {
            assert_eq!(
                text.parse::<HumanDuration>().map(HumanDuration::ms),
                Ok(ms),
                "{text}"
            );
        }
        for bad in [
            "",
            "10x",
            "-1",
            "1.5h",
            "h",
            "5 m m",
            "99999999999999999999",
            "1h-",
        ] {
            assert!(bad.parse::<HumanDuration>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(ms in 0..u64::MAX / 2) {
            let duration = HumanDuration::from_ms(ms);
            prop_assert_eq!(duration.to_string().parse::<HumanDuration>(), Ok(duration));
        }
    }
}
