//! The variables that every program with OpenTelemetry reads (its specification, "Environment Variable Specification" and
//! "OpenTelemetry Protocol Exporter").

use std::collections::BTreeMap;

use opentelemetry::KeyValue;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

/// Those of them that say something of what is sent, not where to: that is configuration.
#[derive(Default)]
pub struct Variables(BTreeMap<String, Zeroizing<String>>);

impl Variables {
    /// Picks them out of an environment.
    pub fn of(environment: impl IntoIterator<Item = (String, String)>) -> Self {
        let ours = environment
            .into_iter()
            .filter(|(name, value)| name.starts_with("OTEL_") && !value.is_empty());
        Self(
            ours.map(|(name, value)| (name, Zeroizing::new(value)))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.as_str())
    }

    /// The headers for the collector; those for traces alone go before those for all signals.
    ///
    /// # Errors
    /// Which entry is no header; never what it says.
    pub(super) fn headers(&self) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        let names = [
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
            "OTEL_EXPORTER_OTLP_HEADERS",
        ];
        let found = names
            .into_iter()
            .find_map(|name| Some((name, self.get(name)?)));
        let Some((variable, text)) = found else {
            return Ok(headers);
        };
        for (number, pair) in pairs(text).enumerate() {
            let header = pair.and_then(|(name, value)| {
                let name: HeaderName = name.parse().ok()?;
                let mut value: HeaderValue = value.parse().ok()?;
                value.set_sensitive(true);
                Some((name, value))
            });
            let Some((name, value)) = header else {
                let number = number + 1;
                return Err(format!(
                    "entry {number} of {variable} is no header, name=value"
                ));
            };
            headers.append(name, value);
        }
        Ok(headers)
    }

    /// Of whom the spans are. A text that is damaged says nothing at all.
    pub(super) fn resource(&self) -> Vec<KeyValue> {
        let text = self.get("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        let read: Option<BTreeMap<String, String>> = pairs(text).collect();
        let mut attributes = read.unwrap_or_else(|| {
            tracing::warn!(
                "OTEL_RESOURCE_ATTRIBUTES is no list of key=value, so it counts as not there"
            );
            BTreeMap::new()
        });
        let name = self.get("OTEL_SERVICE_NAME").map(str::to_owned);
        let named = attributes.remove("service.name");
        let name = name.or(named).unwrap_or_else(|| "minimcp".to_owned());
        attributes.insert("service.name".to_owned(), name);
        let attributes = attributes.into_iter();
        attributes
            .map(|(key, value)| KeyValue::new(key, value))
            .collect()
    }
}

/// `key=value` pairs with commas between them, percent-encoded (W3C Baggage, without properties); `None` for what is none.
fn pairs(text: &str) -> impl Iterator<Item = Option<(String, String)>> + '_ {
    let entries = text.split(',').map(str::trim).filter(|one| !one.is_empty());
    entries.map(|entry| {
        let (key, value) = entry.split_once('=')?;
        let (key, value) = (decoded(key.trim())?, decoded(value.trim())?);
        (!key.is_empty()).then_some((key, value))
    })
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Variables {
        let owned = pairs.iter();
        Variables::of(owned.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn headers_are_pairs_and_those_of_traces_go_first() {
        let both = of(&[
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-all=1"),
            (
                "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
                " Authorization=Basic%20aHVudGVyMg== , x-a=b,",
            ),
        ]);
        let headers = both.headers().expect("headers");
        assert_eq!(headers["authorization"], "Basic aHVudGVyMg==");
        assert_eq!((headers["x-a"].as_bytes(), headers.len()), (&b"b"[..], 2));
        assert!(!format!("{headers:?}").contains("hunter"));
        assert!(Variables::default().headers().expect("none").is_empty());
        for bad in [
            "x-a=1,hunter2",
            "x-a=1, hunter2 =1",
            "x-a=1,b=%zz",
            "x-a=1,b=%0a",
        ] {
            let bad = of(&[("OTEL_EXPORTER_OTLP_HEADERS", bad)]);
            let text = match bad.headers() {
                Err(text) => text,
                // A space at the end of a name belongs to nobody.
                Ok(headers) => {
                    assert_eq!(headers.len(), 2);
                    continue;
                }
            };
            assert_eq!(
                text,
                "entry 2 of OTEL_EXPORTER_OTLP_HEADERS is no header, name=value"
            );
        }
    }

    #[test]
    fn the_resource_is_ours_unless_it_has_another_name() {
        let resource = |pairs: &[(&str, &str)]| {
            let attributes = of(pairs).resource().into_iter();
            let texts = attributes.map(|one| format!("{}={}", one.key, one.value));
            texts.collect::<Vec<_>>()
        };
        assert_eq!(resource(&[]), ["service.name=minimcp"]);
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,host.name=h%2C1");
        assert_eq!(resource(&[attributes]), ["host.name=h,1", "service.name=a"]);
        let name = ("OTEL_SERVICE_NAME", "b");
        assert_eq!(
            resource(&[attributes, name]),
            ["host.name=h,1", "service.name=b"]
        );
        let damaged = ("OTEL_RESOURCE_ATTRIBUTES", "host.name=h,nothing");
        assert_eq!(resource(&[damaged]), ["service.name=minimcp"]);
    }
}
