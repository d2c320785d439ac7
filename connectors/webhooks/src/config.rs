//! The configuration of a webhooks source.

use std::path::{Path, PathBuf};

use ingest_core::config::{ByteSize, Span};
use ingest_core::{Error, JsonSchema, Result, Secret, table_name};
use serde::Deserialize;

/// Events that others send to `ingest serve`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct WebhooksConfig {
    /// Who sends, which says how deliveries are signed. Default: hmac.
    pub sender: Sender,
    /// What deliveries are signed with: Stripe's `whsec_…` of the endpoint, the client secret of the Shopify app, the key of `hmac`.
    pub secret: Secret,
    /// The secret before that one, while a new one is being introduced.
    pub previous_secret: Option<Secret>,
    /// The folder in which deliveries wait until they are loaded; each source has one of its own in it.
    pub path: String,
    /// A delivery larger than this is refused. Default: 1MiB, at most 64MiB.
    pub max_body: ByteSize,
    /// When so much waits, deliveries are refused until some of it is loaded; senders try again. Default: 1GiB.
    pub max_waiting: ByteSize,
    /// Deliveries stay in their folder once they are loaded, for you to archive; they count for `max_waiting`. Default: false.
    pub keep_loaded: bool,
    /// A signed time stamp may be so old, or so far ahead. Default: 5m.
    pub tolerance: Span,

    /// The header with the signature (`hmac`). Default: `X-Signature`.
    pub signature_header: String,
    /// What stands before the signature in its header (`hmac`), e.g. `sha256=`. Default: nothing.
    pub signature_prefix: String,
    /// How the signature is written (`hmac`). Default: hex.
    pub signature_encoding: Encoding,
    /// The header with the time of sending in Unix seconds (`hmac`); then `<time>.<body>` is what is signed. Left out: the body
    /// alone is signed, and nothing says how old a delivery is.
    pub timestamp_header: Option<String>,
    /// The header with the id of the event (`hmac`).
    pub id_header: Option<String>,
    /// The member of the body that is the id of the event (`hmac`), e.g. `event.id`. With neither, the hash of the body is the id.
    pub id_field: Option<String>,
    /// The member of the body that says what kind of event it is (`hmac`), e.g. `event.type`.
    pub type_field: Option<String>,
}

impl Default for WebhooksConfig {
    fn default() -> Self {
        Self {
            sender: Sender::Hmac,
            secret: Secret::default(),
            previous_secret: None,
            path: String::new(),
            max_body: ByteSize(1 << 20),
            max_waiting: ByteSize(1 << 30),
            keep_loaded: false,
            tolerance: Span::seconds(300),
            signature_header: "X-Signature".into(),
            signature_prefix: String::new(),
            signature_encoding: Encoding::Hex,
            timestamp_header: None,
            id_header: None,
            id_field: None,
            type_field: None,
        }
    }
}

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sender {
    /// Anybody who signs with HMAC-SHA256.
    #[default]
    Hmac,
    /// Shopify.
    Shopify,
    /// Stripe.
    Stripe,
}

/// How a signature is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Base 16.
    #[default]
    Hex,
    /// Base 64.
    Base64,
}

impl WebhooksConfig {
    /// Finds everything that is wrong.
    ///
    /// # Errors
    /// `ConfigInvalid` that names every wrong key.
    pub(crate) fn check(&self) -> Result<()> {
        let mut wrong = Vec::new();
        if self.secret.is_empty() {
            wrong.push("secret: is missing; without it nobody knows who sent a delivery".to_owned());
        }
        if self.path.trim().is_empty() || self.path.contains("://") {
            wrong.push(
                "path: is missing; give a folder of this machine that survives it, such as ./webhooks".to_owned(),
            );
        }
        if !(1..=64 << 20).contains(&self.max_body.0) {
            wrong.push("max_body: must lie between 1B and 64MiB".to_owned());
        }
        if self.tolerance.0.is_zero() {
            wrong.push("tolerance: must be longer than nothing".to_owned());
        }
        let headers = [
            ("signature_header", Some(&self.signature_header)),
            ("timestamp_header", self.timestamp_header.as_ref()),
            ("id_header", self.id_header.as_ref()),
        ];
        for (key, name) in headers {
            if name.is_some_and(|name| hyper::header::HeaderName::from_bytes(name.as_bytes()).is_err()) {
                wrong.push(format!("{key}: is not the name of a header"));
            }
        }
        if self.sender != Sender::Hmac && *self != self.without_own_words() {
            wrong
                .push("sender: signature_*, timestamp_header, id_* and type_field are for `sender: hmac` alone".into());
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Error::config(format!("invalid configuration: {}", wrong.join("; ")))
            .hint("`ingest connectors webhooks` explains every field"))
    }

    /// The same without what only `hmac` has.
    fn without_own_words(&self) -> Self {
        Self {
            sender: self.sender,
            secret: self.secret.clone(),
            previous_secret: self.previous_secret.clone(),
            path: self.path.clone(),
            max_body: self.max_body,
            max_waiting: self.max_waiting,
            keep_loaded: self.keep_loaded,
            tolerance: self.tolerance,
            ..Self::default()
        }
    }

    /// The folder of a source.
    pub(crate) fn folder(&self, source: &str) -> PathBuf {
        Path::new(&self.path).join(table_name(source))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_problems_are_reported_at_once_and_no_secret_is_printed() {
        let config: WebhooksConfig =
            serde_json::from_value(json!({"sender": "stripe", "id_field": "id", "max_body": 0, "path": "s3://b"}))
                .expect("config");
        let error = config.check().expect_err("wrong").to_string();
        for part in ["secret: is missing", "path: is missing", "max_body: must", "sender: signature_*"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let config: WebhooksConfig =
            serde_json::from_value(json!({"secret": "canary1", "previous_secret": "canary2", "path": "a"}))
                .expect("config");
        config.check().expect("right");
        assert!(!format!("{config:?}").contains("canary"));
    }
}
