//! The configuration of a source.

use std::time::Duration;

use ingest_core::config::{Span, Start, Tls};
use ingest_core::{Error, JsonSchema, Result, Secret};
use serde::Deserialize;

/// Reads the orders, customers and products of one Shopify shop.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct ShopifyConfig {
    /// The shop: `acme` of `acme.myshopify.com`.
    pub shop: String,
    /// The access token of an app that is installed in the shop.
    pub access_token: Secret,
    /// The client id of an app of the same organisation, in place of an access token: tokens are then fetched, and again
    /// before they expire.
    pub client_id: String,
    /// The client secret of that app.
    pub client_secret: Secret,
    /// The base URL of the shop. Default: `https://SHOP.myshopify.com`.
    pub endpoint: Option<String>,
    /// The version of the API. A version is there for a year; `ingest check` warns before it ends. Default: `2026-10`.
    pub api_version: String,
    /// First and full loads read objects that were changed from this time on: a date (`2024-01-01`) or a time
    /// (`2024-01-01T12:00:00Z`). Left out: all objects.
    pub start: Option<Start>,
    /// How far behind the clock of Shopify changes are read, at most 5 minutes: the index that is asked for them follows
    /// late. Default: `5m`.
    pub lag: Span,
    /// Objects a page, 1 to 250, where no bulk operation reads them. Default: 250.
    pub page_size: u8,
    /// How long silence of the server is borne, in one attempt of a call. Default: `60s`.
    pub timeout: Span,
    /// How the connection is protected. Left out, certificates are checked fully; plain HTTP stays on this machine.
    pub tls: Option<Tls>,
    /// Authorities to trust in place of the system's: PEM text, or the path of a PEM file.
    pub tls_ca: Option<String>,
    /// Lets plain HTTP leave this machine, as `tls: danger_plaintext` does.
    /// Anyone on the way can then read the token.
    pub danger_plaintext: bool,
}

impl Default for ShopifyConfig {
    fn default() -> Self {
        Self {
            shop: String::new(),
            access_token: Secret::default(),
            client_id: String::new(),
            client_secret: Secret::default(),
            endpoint: None,
            api_version: "2026-10".into(),
            start: None,
            lag: Span::seconds(300),
            page_size: 250,
            timeout: Span::seconds(60),
            tls: None,
            tls_ca: None,
            danger_plaintext: false,
        }
    }
}

impl ShopifyConfig {
    /// Finds everything that is wrong, all at once.
    pub(crate) fn validate(&self) -> Result<()> {
        let mut wrong = Vec::new();
        if !is_shop(&self.shop) {
            wrong.push("shop: is the first part of the shop's address, acme of acme.myshopify.com");
        }
        match (self.access_token.is_empty(), self.client_id.is_empty(), self.client_secret.is_empty()) {
            (false, true, true) | (true, false, false) => {}
            (true, true, true) => wrong.push("access_token: is missing; or `client_id` and `client_secret`"),
            _ => wrong.push("access_token, client_id, client_secret: either the first or the two others"),
        }
        if ends(&self.api_version).is_none() {
            wrong.push("api_version: versions look like 2026-01, of January, April, July or October");
        }
        if self.lag.0 > Duration::from_secs(300) {
            wrong.push("lag: must be at most 5m");
        }
        if !(1..=250).contains(&self.page_size) {
            wrong.push("page_size: must be 1 to 250");
        }
        if self.timeout.0.is_zero() {
            wrong.push("timeout: must be greater than 0");
        }
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(Error::config(format!("invalid configuration: {}", wrong.join("; ")))
                .hint("`ingest connectors shopify` lists every field")),
        }
    }
}

/// A part of a host name, so that no other host can be meant.
fn is_shop(shop: &str) -> bool {
    let bytes = shop.as_bytes();
    bytes.len() <= 60
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
}

/// The day on which a version may end: a year after it came.
pub(crate) fn ends(version: &str) -> Option<chrono::NaiveDate> {
    let (year, month) = version.split_once('-')?;
    let (year, number): (i32, u32) = (year.parse().ok()?, month.parse().ok()?);
    let known = matches!(month, "01" | "04" | "07" | "10") && (2019..10_000).contains(&year);
    known.then(|| chrono::NaiveDate::from_ymd_opt(year + 1, number, 1)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> String {
        let config: ShopifyConfig = serde_json::from_str(text).expect(text);
        assert!(!format!("{config:?}").contains("canary"));
        config.validate().err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_shop_and_one_way_to_sign_in_are_needed() {
        for text in [
            r#"{"shop":"acme","access_token":"canary"}"#,
            r#"{"shop":"acme-2","client_id":"c","client_secret":"canary"}"#,
        ] {
            assert_eq!(problems(text), "", "{text}");
        }
        let all = problems(r#"{"page_size":0,"lag":"6m","api_version":"2026-02"}"#);
        for field in ["shop:", "access_token:", "page_size:", "lag:", "api_version:"] {
            assert!(all.contains(field), "{field}: {all}");
        }
        for shop in ["", "-a", "acme.evil.net", "acme/x", "acme@evil", "ä"] {
            assert!(!is_shop(shop), "{shop}");
        }
        assert!(problems(r#"{"shop":"acme","access_token":"a","client_id":"b"}"#).contains("either"));
    }

    #[test]
    fn a_version_ends_a_year_after_it_came() {
        assert_eq!(ends("2026-01").map(|day| day.to_string()), Some("2027-01-01".into()));
        for version in ["2026-02", "2026-1", "unstable", "26-01", ""] {
            assert_eq!(ends(version), None, "{version}");
        }
    }
}
