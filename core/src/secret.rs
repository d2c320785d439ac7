//! Values that cannot be printed.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A secret text: no `Debug`, `Display` or `Serialize` shows it.
///
/// In a JSON Schema it is a string with `"writeOnly": true`; the command line masks every field marked so.
///
/// ```
/// let secret = ingest_core::Secret::new("hunter2");
/// assert_eq!(format!("{secret:?}"), "\"***\"");
/// assert_eq!(secret.expose(), "hunter2");
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself. Call it only where the value goes on the wire.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether nothing was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"***\"")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Errors of the deserializer itself, a missing field among them, name no value and are passed on.
        deserializer.deserialize_any(Unseen).map(Self)
    }
}

/// Takes a text. A type error of serde would quote the value: this one says only what was expected.
struct Unseen;

fn not_shown<T, E: Error>() -> Result<T, E> {
    Err(E::custom("expected a text (the value is not shown)"))
}

impl<'de> Visitor<'de> for Unseen {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<String, E> {
        Ok(text)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<String, E> {
        not_shown()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<String, E> {
        not_shown()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<String, E> {
        not_shown()
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<String, E> {
        not_shown()
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<String, E> {
        not_shown()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<String, E> {
        not_shown()
    }

    fn visit_bytes<E: Error>(self, _: &[u8]) -> Result<String, E> {
        not_shown()
    }

    fn visit_unit<E: Error>(self) -> Result<String, E> {
        not_shown()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<String, A::Error> {
        not_shown()
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<String, A::Error> {
        not_shown()
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "writeOnly": true})
    }

    fn inline_schema() -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Config {
        #[serde(rename = "key")]
        _key: Secret,
    }

    #[test]
    fn a_missing_secret_is_named_and_one_of_another_type_is_not_shown() {
        let error = |config| serde_json::from_value::<Config>(config).expect_err("no text").to_string();
        assert!(error(json!({})).contains("missing field `key`"));
        for value in
            [json!(4711), json!(-4711), json!(47.11), json!(true), json!(null), json!(["4711"]), json!({"4711": 1})]
        {
            let text = error(json!({"key": value}));
            assert!(text.contains("not shown") && !text.contains("47"), "{text}");
        }
        assert!(serde_json::from_value::<Config>(json!({"key": "text"})).is_ok());
    }
}
