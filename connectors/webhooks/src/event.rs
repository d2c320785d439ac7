//! A delivery as the line that waits for the next run, and later as a row.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use hyper::HeaderMap;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::config::{Sender, WebhooksConfig};

/// Characters of an id, a type or an account at most.
const MOST: usize = 255;

/// What is kept of a delivery: one line of JSON.
#[derive(Debug, Serialize)]
struct Event<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    account: Option<String>,
    created: Option<String>,
    received_at: String,
    payload: &'a str,
}

/// The columns with their types, as the configuration of files writes them.
pub(crate) const COLUMNS: [(&str, &str); 6] = [
    ("id", "string"),
    ("type", "string"),
    ("account", "string"),
    ("created", "timestamp"),
    ("received_at", "timestamp"),
    ("payload", "string"),
];

/// The line of a delivery that was received at a time, in microseconds; `None` where the body is no text.
pub(crate) fn line(config: &WebhooksConfig, headers: &HeaderMap, body: &Bytes, now: i64) -> Option<Vec<u8>> {
    let payload = std::str::from_utf8(body).ok()?;
    // What is signed and no JSON is kept all the same: it is the sender's word.
    let parsed: Value = serde_json::from_str(payload).unwrap_or_default();
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).and_then(short);
    let field = |path: &str| path.split('.').try_fold(&parsed, |value, part| value.get(part)).and_then(text);
    let (id, kind, account, created) = match config.sender {
        Sender::Stripe => {
            let created = parsed.get("created").and_then(Value::as_i64).and_then(|s| s.checked_mul(1_000_000));
            (field("id"), field("type"), field("account"), created.and_then(time))
        }
        Sender::Shopify => {
            let created = header("x-shopify-triggered-at");
            let created = created.and_then(|text| DateTime::parse_from_rfc3339(&text).ok());
            let created = created.and_then(|at| time(at.timestamp_micros()));
            // The id of the delivery: one merchant action gives a delivery to each subscription.
            (header("x-shopify-webhook-id"), header("x-shopify-topic"), header("x-shopify-shop-domain"), created)
        }
        Sender::Hmac => {
            let id = config.id_header.as_deref().and_then(header);
            let id = id.or_else(|| config.id_field.as_deref().and_then(field));
            let created = config.timestamp_header.as_deref().and_then(header);
            let created = created.and_then(|text| text.parse::<i64>().ok()?.checked_mul(1_000_000)).and_then(time);
            (id, config.type_field.as_deref().and_then(field), None, created)
        }
    };
    let event =
        Event { id: id.unwrap_or_else(|| hash(body)), kind, account, created, received_at: time(now)?, payload };
    let mut line = serde_json::to_vec(&event).ok()?;
    line.push(b'\n');
    Some(line)
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => short(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn short(text: &str) -> Option<String> {
    (!text.is_empty() && text.chars().count() <= MOST).then(|| text.to_owned())
}

/// The name of a body that has no id of its own.
fn hash(body: &[u8]) -> String {
    let digits: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

fn time(micros: i64) -> Option<String> {
    Some(DateTime::from_timestamp_micros(micros)?.to_rfc3339_opts(SecondsFormat::Micros, true))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_760_000_000_123_456;

    fn event(fields: Value, headers: &[(&'static str, &'static str)], body: &str) -> Value {
        let config = serde_json::from_value(fields).expect("config");
        let headers = headers.iter().map(|(name, value)| {
            (hyper::header::HeaderName::from_static(name), hyper::header::HeaderValue::from_static(value))
        });
        let line = line(&config, &headers.collect(), &Bytes::from(body.to_owned()), NOW).expect("a line");
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        serde_json::from_slice(&line).expect("JSON")
    }

    #[test]
    fn an_event_of_stripe_has_its_id_type_account_and_time() {
        let body =
            "{\"id\": \"evt_1\",\n \"type\": \"charge.succeeded\", \"account\": \"acct_1\", \"created\": 1700000000}";
        let row = event(json!({"sender": "stripe"}), &[], body);
        assert_eq!(row["id"], "evt_1");
        assert_eq!(row["type"], "charge.succeeded");
        assert_eq!(row["account"], "acct_1");
        assert_eq!(row["created"], "2023-11-14T22:13:20.000000Z");
        assert_eq!(row["received_at"], "2025-10-09T08:53:20.123456Z");
        assert_eq!(row["payload"], body);
    }

    #[test]
    fn an_event_of_shopify_is_told_by_its_headers() {
        let headers = [
            ("x-shopify-webhook-id", "b54557e4"),
            ("x-shopify-topic", "orders/create"),
            ("x-shopify-shop-domain", "acme.myshopify.com"),
            ("x-shopify-triggered-at", "2023-03-29T18:00:27.877041743Z"),
        ];
        let row = event(json!({"sender": "shopify"}), &headers, r#"{"id":1}"#);
        assert_eq!(row["id"], "b54557e4");
        assert_eq!(row["type"], "orders/create");
        assert_eq!(row["account"], "acme.myshopify.com");
        assert_eq!(row["created"], "2023-03-29T18:00:27.877041Z");
    }

    #[test]
    fn any_other_event_is_told_by_what_the_configuration_names_else_by_its_hash() {
        let fields = json!({"id_field": "event.id", "type_field": "event.kind"});
        let row = event(fields.clone(), &[], r#"{"event": {"id": 17, "kind": "opened"}}"#);
        assert_eq!((row["id"].as_str(), row["type"].as_str()), (Some("17"), Some("opened")));
        for odd in ["no JSON", "[]", r#"{"event": {"id": {"a": 1}}}"#] {
            let row = event(fields.clone(), &[], odd);
            assert!(row["id"].as_str().is_some_and(|id| id.starts_with("sha256:") && id.len() == 71), "{row}");
            assert_eq!(row["type"], Value::Null);
        }
        assert!(line(&WebhooksConfig::default(), &HeaderMap::new(), &Bytes::from_static(b"\xff"), NOW).is_none());
    }
}
