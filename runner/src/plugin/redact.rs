//! Keeps secrets out of the texts that a plug-in sends: log lines, errors, problems, warnings.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ingest_core::Json;

use crate::config::schema::looks_secret;
use crate::config::{dereference, is_secret};

/// Shorter values are no secrets: to take "no" out of every text would make it unreadable and hide nothing.
const SHORTEST: usize = 4;

/// Replaces secrets by `***`.
#[derive(Debug, Default)]
pub struct Redactor {
    /// The longest first: one may be a part of another.
    patterns: Vec<String>,
}

impl Redactor {
    /// Knows the secrets of a configuration: fields that its schema marks, or whose name says so.
    pub fn of(config: &Json, schema: Option<&Json>) -> Self {
        let mut secrets = Vec::new();
        let nothing = Json::Null;
        let schema = schema.unwrap_or(&nothing);
        collect(config, &[schema], schema, false, 0, &mut secrets);
        let mut patterns: Vec<String> = secrets.iter().flat_map(|secret| forms(secret)).collect();
        patterns.retain(|pattern| pattern.len() >= SHORTEST);
        patterns.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        patterns.dedup();
        Self { patterns }
    }

    /// The text without secrets.
    pub fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for pattern in &self.patterns {
            if text.contains(pattern.as_str()) {
                text = text.replace(pattern.as_str(), "***");
            }
        }
        text
    }
}

/// All texts and numbers below a secret field. Where a schema has alternatives, one that says "secret" is enough.
fn collect<'a>(
    value: &Json,
    schemas: &[&'a Json],
    root: &'a Json,
    secret: bool,
    depth: usize,
    found: &mut Vec<String>,
) {
    // Configurations are a few levels deep; a schema that refers to itself is not followed for ever.
    if depth > 32 {
        return;
    }
    let mut all: Vec<&'a Json> = Vec::new();
    let mut left: Vec<&'a Json> = schemas.to_vec();
    while let Some(schema) = left.pop().filter(|_| all.len() < 256) {
        let schema = dereference(schema, root);
        all.push(schema);
        let lists = ["anyOf", "oneOf", "allOf"].iter().filter_map(|key| schema.get(*key)?.as_array());
        left.extend(lists.flatten());
    }
    let secret = secret || all.iter().any(|schema| is_secret(schema));
    match value {
        Json::Object(object) => {
            for (key, value) in object {
                let named = |schema: &'a Json| schema.get("properties")?.get(key.as_str());
                let of_key = |schema: &'a Json| named(schema).or_else(|| schema.get("additionalProperties"));
                let below: Vec<&Json> = all.iter().copied().filter_map(of_key).collect();
                collect(value, &below, root, secret || looks_secret(key), depth + 1, found);
            }
        }
        Json::Array(items) => {
            let below: Vec<&Json> = all.iter().filter_map(|schema| schema.get("items")).collect();
            items.iter().for_each(|item| collect(item, &below, root, secret, depth + 1, found));
        }
        Json::String(text) if secret => found.push(text.clone()),
        Json::Number(number) if secret => found.push(number.to_string()),
        _ => {}
    }
}

/// A secret as it is, as JSON, in a URL, in base64 at each of its three alignments; and the lines of one that has several,
/// because logs are cut into lines.
fn forms(secret: &str) -> Vec<String> {
    let mut forms = vec![secret.to_owned()];
    forms.extend(secret.lines().map(str::trim).filter(|line| line.len() >= 16).map(str::to_owned));
    let json = Json::from(secret).to_string();
    forms.push(json.trim_matches('"').to_owned());
    forms.push(percent_encoding::utf8_percent_encode(secret, percent_encoding::NON_ALPHANUMERIC).to_string());
    forms.push(url::form_urlencoded::byte_serialize(secret.as_bytes()).collect());
    for shift in 0..3 {
        let mut bytes = vec![0; shift];
        bytes.extend_from_slice(secret.as_bytes());
        // The first characters hold bits of what stood before, the last one bits of what follows.
        let skip = [0, 2, 3][shift];
        let whole = bytes.len() * 8 / 6;
        let text = STANDARD_NO_PAD.encode(&bytes);
        if whole > skip + 8 {
            forms.push(text[skip..whole].to_owned());
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn redactor() -> Redactor {
        let schema = json!({"properties": {
            "pin": {"type": "string", "writeOnly": true},
            "auth": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/Auth"}]},
            "keys": {"type": "array", "items": {"writeOnly": true}}},
            "$defs": {"Auth": {"properties": {"word": {"writeOnly": true}}}}});
        let config = json!({
            "pin": "s3cr3t pin/ä", "auth": {"word": "open sesame"}, "keys": ["first key", 123_456],
            "api_key": "named by its key", "host": "example.com", "password": "no"});
        Redactor::of(&config, Some(&schema))
    }

    #[test]
    fn marked_and_named_secrets_are_replaced_in_every_form() {
        let basic = STANDARD_NO_PAD.encode("user:s3cr3t pin/ä:x");
        let texts = [
            "s3cr3t pin/ä",
            "s3cr3t%20pin%2F%C3%A4",
            "s3cr3t+pin%2F%C3%A4",
            "open sesame",
            "first key",
            "123456",
            "named by its key",
        ];
        let redactor = redactor();
        for text in texts {
            assert_eq!(redactor.clean(&format!("<{text}>")), "<***>", "{text}");
        }
        let cleaned = redactor.clean(&basic);
        assert!(cleaned.contains("***") && cleaned.len() < 20, "{cleaned}");
    }

    #[test]
    fn other_values_and_short_ones_stay() {
        assert_eq!(redactor().clean("no host example.com"), "no host example.com");
    }

    #[test]
    fn each_line_of_a_private_key_is_replaced() {
        let key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\n-----END KEY-----\n";
        let redactor = Redactor::of(&json!({ "private_key": key }), None);
        assert_eq!(redactor.clean("bad line MIIEvQIBADANBgkqhkiG9w0B"), "bad line ***");
    }
}
