//! Types of configuration fields that several connectors use. Units and limits live in the types.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A span of time as people write it: `30s`, `5m`, `250ms`, `2h`, `1d`; a bare number is seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// A span of whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let wrong = || format!("\"{text}\" is not a time span; write e.g. 30s, 5m, 250ms, 2h, 1d");
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let millis = match unit.trim() {
            "ms" => Some(number),
            "" | "s" => number.checked_mul(1_000),
            "m" | "min" => number.checked_mul(60_000),
            "h" => number.checked_mul(3_600_000),
            "d" => number.checked_mul(86_400_000),
            _ => return Err(wrong()),
        };
        millis.map(|ms| Self(Duration::from_millis(ms))).ok_or_else(wrong)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        match millis {
            _ if !millis.is_multiple_of(1_000) => write!(f, "{millis}ms"),
            0 => f.write_str("0s"),
            _ if millis.is_multiple_of(86_400_000) => write!(f, "{}d", millis / 86_400_000),
            _ if millis.is_multiple_of(3_600_000) => write!(f, "{}h", millis / 3_600_000),
            _ if millis.is_multiple_of(60_000) => write!(f, "{}m", millis / 60_000),
            _ => write!(f, "{}s", millis / 1_000),
        }
    }
}

/// A size as people write it: `512MiB`, `64KiB`, `1GiB`, `100MB`; a bare number is bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let wrong = || format!("\"{text}\" is not a size; write e.g. 512MiB, 64KiB, 1GiB, 100MB");
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            _ => return Err(wrong()),
        };
        number.checked_mul(factor).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n >= 1 << 30 && n % (1 << 30) == 0 => write!(f, "{}GiB", n >> 30),
            n if n >= 1 << 20 && n % (1 << 20) == 0 => write!(f, "{}MiB", n >> 20),
            n if n >= 1 << 10 && n % (1 << 10) == 0 => write!(f, "{}KiB", n >> 10),
            n => write!(f, "{n}B"),
        }
    }
}

macro_rules! text_or_number {
    ($type:ident, $pattern:literal, $example:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(Deserialize)]
                #[serde(untagged)]
                enum Raw {
                    Number(u64),
                    Text(String),
                }
                let text = match Raw::deserialize(deserializer) {
                    Ok(Raw::Number(number)) => number.to_string(),
                    Ok(Raw::Text(text)) => text,
                    Err(_) => return Err(serde::de::Error::custom(concat!("expected a text such as ", $example))),
                };
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": ["string", "integer"], "pattern": $pattern, "examples": [$example]})
            }

            fn inline_schema() -> bool {
                true
            }
        }
    };
}
text_or_number!(Span, "^[0-9]+\\s*(ms|s|m|min|h|d)?$", "30s");
text_or_number!(ByteSize, "^[0-9]+\\s*([kKmMgG]?[iI]?[bB]?)$", "512MiB");

/// A date or time from which on is read: seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start(pub i64);

impl<'de> Deserialize<'de> for Start {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let date = || chrono::NaiveDate::parse_from_str(&text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
        chrono::DateTime::parse_from_rfc3339(&text)
            .map(|time| time.timestamp())
            .ok()
            .or_else(|| date().map(|time| time.and_utc().timestamp()))
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("expected a date (2024-01-31) or a time (2024-01-31T12:00:00Z)"))
    }
}

impl JsonSchema for Start {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Start".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "examples": ["2024-01-01", "2024-01-01T12:00:00Z"]})
    }

    fn inline_schema() -> bool {
        true
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How a connection is protected.
///
/// Left out, it is `verify-full`; on loopback and Unix sockets plaintext is allowed for every protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Tls {
    /// Encrypted; the certificate is checked against the authorities and the host name.
    VerifyFull,
    /// Encrypted; the certificate is checked against the authorities, not the host name.
    VerifyCa,
    /// Encrypted; the certificate is not checked.
    Require,
    /// Not encrypted. Anyone on the way can read and change everything, the password included.
    #[serde(rename = "danger_plaintext")]
    DangerPlaintext,
}

/// Whether a host is this machine: a loopback address, `localhost`, or the folder of a Unix socket.
pub fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_read_back_as_written() {
        for text in ["250ms", "30s", "5m", "2h", "1d", "0s"] {
            assert_eq!(text.parse::<Span>().expect(text).to_string(), text);
        }
        for text in ["512MiB", "64KiB", "1GiB", "100B"] {
            assert_eq!(text.parse::<ByteSize>().expect(text).to_string(), text);
        }
        assert!("soon".parse::<Span>().is_err());
        assert!("99999999999999999999MiB".parse::<ByteSize>().is_err());
    }

    #[test]
    fn loopback_is_recognised() {
        for host in ["127.0.0.1", "::1", "[::1]", "localhost", "/var/run/postgresql"] {
            assert!(is_loopback(host), "{host}");
        }
        assert!(!is_loopback("127.0.0.1.example.com"));
    }
}
