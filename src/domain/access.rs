//! Access tokens of an instance: what one may do, how long and how often. Pure decisions.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{UnixMs, duration::HumanDuration, violation::Violation};

/// The token that every new instance gets; `POST mcps/{id}/access-token` rotates it.
pub const DEFAULT_TOKEN: &str = "default";
/// Most named tokens of one instance.
pub const TOKENS_MAX: usize = 64;
/// Most entries of an allow-list of tools.
pub const PATTERNS_MAX: usize = 200;
/// Longest entry of such a list, in characters.
const PATTERN_CHARS_MAX: usize = 128;
/// Most calls that a limit of concurrency can allow.
pub const CONCURRENCY_MAX: u32 = 1_000;
/// Most requests of a rate.
pub const RATE_REQUESTS_MAX: u32 = 1_000_000;
/// Shortest and longest time that a rate counts over.
pub const RATE_PER: (HumanDuration, HumanDuration) = (
    HumanDuration::from_secs(1),
    HumanDuration::from_secs(24 * 3_600),
);

/// The name of a tool, or the beginning of names before a `*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ToolPattern(String);

impl ToolPattern {
    /// Checks a pattern.
    ///
    /// # Errors
    /// What is allowed, in a sentence.
    pub fn new(text: &str) -> Result<Self, String> {
        let length = text.chars().count();
        let inner = text.strip_suffix('*').unwrap_or(text);
        if !(1..=PATTERN_CHARS_MAX).contains(&length)
            || inner.contains('*')
            || text.chars().any(char::is_control)
        {
            return Err(format!(
                "a tool is named by 1 to {PATTERN_CHARS_MAX} characters; a '*' may only stand at the end"
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether a tool of this name is meant. Letters of another case are other letters.
    #[must_use]
    pub fn fits(&self, tool: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => tool.starts_with(beginning),
            None => tool == self.0,
        }
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Which tools a token may call. Resources, prompts and everything else are open to every token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenScope {
    /// All.
    #[default]
    All,
    /// Those that the server itself calls read-only (annotation `readOnlyHint`).
    ReadOnly,
    /// Those on a list.
    Tools(Vec<ToolPattern>),
}

impl TokenScope {
    /// Reads `"all"`, `"read-only"` or `{"tools": ["a", "b*"]}` and adds every fault.
    pub fn read(value: &Value, violations: &mut Vec<Violation>) -> Option<Self> {
        let mut wrong = |pointer: String, code: &str, message: String| {
            violations.push(Violation::new(pointer, code, message));
            None
        };
        match value {
            Value::String(word) if word == "all" => return Some(Self::All),
            Value::String(word) if word == "read-only" => return Some(Self::ReadOnly),
            Value::Object(members)
                if members.len() == 1 && members.get("tools").is_some_and(Value::is_array) => {}
            _ => {
                let text = "scope must be \"all\", \"read-only\" or {\"tools\": [NAME, …]}";
                return wrong("/scope".to_owned(), "pattern", text.to_owned());
            }
        }
        let entries = value["tools"].as_array().map_or(&[][..], Vec::as_slice);
        if !(1..=PATTERNS_MAX).contains(&entries.len()) {
            let text = format!("the list of tools must have 1 to {PATTERNS_MAX} entries");
            return wrong("/scope/tools".to_owned(), "out-of-range", text);
        }
        let mut patterns = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let pointer = format!("/scope/tools/{index}");
            match entry.as_str().map(ToolPattern::new) {
                Some(Ok(pattern)) => patterns.push(pattern),
                Some(Err(text)) => {
                    wrong(pointer, "pattern", text);
                }
                None => {
                    wrong(pointer, "type", "a tool is named by a text".to_owned());
                }
            }
        }
        (patterns.len() == entries.len()).then_some(Self::Tools(patterns))
    }

    /// Whether the scope holds nothing back.
    #[must_use]
    pub fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }

    /// Whether a tool may be called and seen. `read_only`: the server says of it that it only reads; a tool that is
    /// not known does not.
    #[must_use]
    pub fn allows(&self, tool: &str, read_only: bool) -> bool {
        match self {
            Self::All => true,
            Self::ReadOnly => read_only,
            Self::Tools(patterns) => patterns.iter().any(|pattern| pattern.fits(tool)),
        }
    }
}

impl fmt::Display for TokenScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::ReadOnly => f.write_str("read-only"),
            Self::Tools(patterns) => {
                f.write_str("tools ")?;
                for (index, pattern) in patterns.iter().enumerate() {
                    if index > 0 {
                        f.write_str(",")?;
                    }
                    f.write_str(pattern.as_str())?;
                }
                Ok(())
            }
        }
    }
}

/// How many requests, in how long a time. So many may come at once; after that they are spread evenly. As text, in the
/// configuration too: `100/1m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RateLimit {
    /// Requests.
    pub requests: u32,
    /// The time that they count over.
    pub per: HumanDuration,
}

impl RateLimit {
    /// Checks both numbers.
    ///
    /// # Errors
    /// What is allowed, in a sentence.
    pub fn check(self) -> Result<Self, String> {
        if !(1..=RATE_REQUESTS_MAX).contains(&self.requests) {
            return Err(format!("requests must be 1 to {RATE_REQUESTS_MAX}"));
        }
        if !(RATE_PER.0..=RATE_PER.1).contains(&self.per) {
            return Err(format!("per must be {} to {}", RATE_PER.0, RATE_PER.1));
        }
        Ok(self)
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.requests, self.per)
    }
}

impl From<RateLimit> for String {
    fn from(rate: RateLimit) -> Self {
        rate.to_string()
    }
}

impl TryFrom<String> for RateLimit {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl std::str::FromStr for RateLimit {
    type Err = String;

    /// Reads `100/1m`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (requests, per) = text.split_once('/')?;
            Some(Self {
                requests: requests.trim().parse().ok()?,
                per: per.parse().ok()?,
            })
        };
        read()
            .ok_or_else(|| "a rate is written as REQUESTS/TIME, such as 100/1m".to_owned())?
            .check()
    }
}

/// A bucket that holds as many requests as a [`RateLimit`] allows and fills up again evenly. One number is enough: when
/// it will be full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenBucket {
    full_at_ns: u64,
}

impl TokenBucket {
    /// Takes `count` requests out of the bucket at `now_ns`, a time in nanoseconds that never goes back.
    ///
    /// # Errors
    /// When there are not so many: after how many nanoseconds there will be; nothing is taken then. More than the
    /// bucket can hold counts as all that it holds.
    pub fn take(&mut self, limit: RateLimit, count: u32, now_ns: u64) -> Result<(), u64> {
        let per_ns = limit.per.ms().saturating_mul(1_000_000);
        let requests = u64::from(limit.requests.max(1));
        let cost_ns = per_ns / requests * u64::from(count.min(limit.requests));
        // A limit that was made stricter meanwhile must not hold back longer than its own time.
        let room_ends_ns = now_ns.saturating_add(per_ns);
        self.full_at_ns = self.full_at_ns.clamp(now_ns, room_ends_ns);
        let after_ns = self.full_at_ns.saturating_add(cost_ns);
        if after_ns > room_ends_ns {
            return Err(after_ns - room_ends_ns);
        }
        self.full_at_ns = after_ns;
        Ok(())
    }
}

/// What a token may do, and how long.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenSettings {
    /// Which tools.
    pub scope: TokenScope,
    /// Until when; `None`: without end.
    pub expires_at: Option<UnixMs>,
    /// How often; `None`: as `gateway.token_rate_limit` says.
    pub rate_limit: Option<RateLimit>,
    /// How many calls at the same time; `None`: as `gateway.token_concurrency_max` says.
    pub concurrency_max: Option<u32>,
}

/// What shall change of a token; `None`: it stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenPatch {
    /// Another scope.
    pub scope: Option<TokenScope>,
    /// Another end, or none.
    pub expires_at: Option<Option<UnixMs>>,
    /// Another rate, or that of the configuration.
    pub rate_limit: Option<Option<RateLimit>>,
    /// Another limit of concurrency, or that of the configuration.
    pub concurrency_max: Option<Option<u32>>,
}

impl TokenPatch {
    /// The settings with the changes made.
    #[must_use]
    pub fn applied_to(self, old: &TokenSettings) -> TokenSettings {
        TokenSettings {
            scope: self.scope.unwrap_or_else(|| old.scope.clone()),
            expires_at: self.expires_at.unwrap_or(old.expires_at),
            rate_limit: self.rate_limit.unwrap_or(old.rate_limit),
            concurrency_max: self.concurrency_max.unwrap_or(old.concurrency_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn scope(value: &Value) -> Result<TokenScope, Vec<String>> {
        let mut violations = Vec::new();
        let read = TokenScope::read(value, &mut violations);
        let pointers = violations.into_iter().map(|found| found.pointer).collect();
        read.ok_or(pointers)
    }

    #[test]
    fn a_scope_decides_by_name_or_by_annotation() {
        let list = scope(&json!({"tools": ["get_me", "list_*"]})).expect("a scope");
        for (tool, read_only, expected) in [
            ("get_me", false, [true, false, true]),
            ("get_me2", true, [true, true, false]),
            ("list_issues", false, [true, false, true]),
            ("List_issues", false, [true, false, false]),
            ("", false, [true, false, false]),
        ] {
            for (scope, expected) in [&TokenScope::All, &TokenScope::ReadOnly, &list]
                .into_iter()
                .zip(expected)
            {
                assert_eq!(scope.allows(tool, read_only), expected, "{scope} {tool}");
            }
        }
    }

    #[test]
    fn every_fault_of_a_scope_is_told() {
        for (value, pointers) in [
            (json!("some"), vec!["/scope"]),
            (json!(7), vec!["/scope"]),
            (json!({"tools": "a"}), vec!["/scope"]),
            (json!({"tools": ["a"], "more": 1}), vec!["/scope"]),
            (json!({"tools": []}), vec!["/scope/tools"]),
            (json!({"tools": vec!["a"; 201]}), vec!["/scope/tools"]),
            (
                json!({"tools": ["a*b", "ok", 7, "", "x\n", "*"]}),
                vec![
                    "/scope/tools/0",
                    "/scope/tools/2",
                    "/scope/tools/3",
                    "/scope/tools/4",
                ],
            ),
        ] {
            let pointers = pointers.into_iter().map(ToOwned::to_owned).collect();
            assert_eq!(scope(&value), Err(pointers), "{value}");
        }
        for value in [
            json!("all"),
            json!("read-only"),
            json!({"tools": ["a", "b*"]}),
        ] {
            let read = scope(&value).expect("a scope");
            assert_eq!(serde_json::to_value(&read).expect("JSON"), value);
        }
    }

    #[test]
    fn a_rate_is_written_short() {
        let rate: RateLimit = "100/1m".parse().expect("a rate");
        assert_eq!(rate.to_string(), "100/1m");
        for bad in [
            "",
            "100",
            "0/1m",
            "5/",
            "5/100ms",
            "5/2d",
            "2000000/1m",
            "-1/1m",
        ] {
            assert!(bad.parse::<RateLimit>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bucket_fills_up_evenly() {
        let limit: RateLimit = "4/1m".parse().expect("a rate");
        let second = 1_000_000_000;
        let mut bucket = TokenBucket::default();
        for _ in 0..4 {
            assert_eq!(bucket.take(limit, 1, 100 * second), Ok(()));
        }
        assert_eq!(bucket.take(limit, 1, 100 * second), Err(15 * second));
        assert_eq!(bucket.take(limit, 1, 114 * second), Err(second));
        assert_eq!(bucket.take(limit, 1, 115 * second), Ok(()));
        assert_eq!(bucket.take(limit, 2, 130 * second), Err(15 * second));
        assert_eq!(bucket.take(limit, 2, 145 * second), Ok(()));
        // Once it is full, no more than its size fits in; and more than that is never asked of it.
        assert_eq!(bucket.take(limit, 9, 1_000 * second), Ok(()));
        assert_eq!(bucket.take(limit, 1, 1_000 * second), Err(15 * second));
        // A stricter limit holds back for its own time at most.
        let strict: RateLimit = "1/2s".parse().expect("a rate");
        assert_eq!(bucket.take(strict, 1, 1_000 * second), Err(2 * second));
        assert_eq!(bucket.take(strict, 1, 1_002 * second), Ok(()));
    }

    proptest! {
        #[test]
        fn no_span_lets_more_through_than_the_bucket_and_its_refill(
            requests in 1..50_u32,
            gaps_ms in proptest::collection::vec(0..3_000_u64, 1..200),
        ) {
            let limit = RateLimit { requests, per: HumanDuration::from_secs(10) };
            let mut bucket = TokenBucket::default();
            let (mut now_ns, mut passed) = (0_u64, 0_u64);
            for gap in gaps_ms {
                now_ns += gap * 1_000_000;
                match bucket.take(limit, 1, now_ns) {
                    Ok(()) => passed += 1,
                    Err(wait_ns) => {
                        let mut later = bucket;
                        prop_assert!(later.take(limit, 1, now_ns + wait_ns).is_ok());
                    }
                }
                // One more for the rounding of a request's share.
                let most = u64::from(requests) + now_ns * u64::from(requests) / 10_000_000_000 + 1;
                prop_assert!(passed <= most, "{passed} of {most}");
            }
        }
    }
}
