//! The configuration of a source.

use std::time::Duration;

pub use ingest_core::config::Start;
use ingest_core::config::{Span, Tls};
use ingest_core::{Error, JsonSchema, Result, Secret};
use serde::Deserialize;

/// Stripe's own address.
pub(crate) const ENDPOINT: &str = "https://api.stripe.com";

/// Reads the objects of one Stripe account, or of accounts that are connected to it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct StripeConfig {
    /// The secret or restricted API key. A restricted key with read rights on the selected resources and on events is
    /// enough. Example: `${STRIPE_API_KEY}`.
    pub api_key: Secret,
    /// The connected account to read (`acct_…`) with the platform's key: every call carries `Stripe-Account`, and rows
    /// have a column `account_id`. Left out, the account of the key is read.
    pub account: Option<String>,
    /// Several connected accounts to read; as `account`.
    pub accounts: Vec<String>,
    /// The base URL of the API. Default: `https://api.stripe.com`.
    pub endpoint: Option<String>,
    /// The API version that gives objects their shape; sent with every call. The columns are those of the default,
    /// `2026-10-28.endive`; what another version has besides is found in `_ingest_rescued`.
    pub api_version: String,
    /// First loads read objects created from this time on: a date (`2024-01-01`) or a time (`2024-01-01T12:00:00Z`).
    /// Left out: from the first object on.
    pub start: Option<Start>,
    /// Objects a page, 1 to 100. Larger pages cost fewer calls. Default: 100.
    pub page_size: u8,
    /// Read each changed object again after its event (`true`, the default), or take the copy inside the event
    /// (`false`). Copies have the shape of the API version that the account had when the event was made, and may be
    /// older than the row that is there; they spare one call per changed object.
    pub hydrate: bool,
    /// How far behind Stripe's clock events and new objects are read, 5 s to 60 s: events become visible late, and what
    /// is passed by is never seen again. Default: `60s`.
    pub lag: Span,
    /// Lists the youngest objects again from time to time, in the streams whose changes do not all make an event
    /// (`payment_intents`, `setup_intents`, `invoice_items`, `checkout_sessions`, `balance_transactions`).
    pub reconcile: Reconcile,
    /// Calls per second of one account. Default: 80 with a live key, 20 with a test key, and no limit where `endpoint`
    /// is on this machine.
    pub rate: Option<f64>,
    /// Calls per second of one account to one endpoint (a list, or one kind of object). Default: 20, and no limit where
    /// `endpoint` is on this machine.
    pub endpoint_rate: Option<f64>,
    /// Calls under way at once. Default: 8.
    pub concurrency: u16,
    /// How long silence of the server is borne, in one attempt of a call. Default: `30s`.
    pub timeout: Span,
    /// How the connection is protected. Left out, certificates are checked fully; plain HTTP stays on this machine.
    pub tls: Option<Tls>,
    /// Authorities to trust in place of the system's: PEM text, or the path of a PEM file.
    pub tls_ca: Option<String>,
    /// Lets plain HTTP leave this machine, as `tls: danger_plaintext` does.
    /// Anyone on the way can then read the key.
    pub danger_plaintext: bool,
    /// How calls are repeated; tests make the pauses short.
    #[doc(hidden)]
    #[serde(skip)]
    #[schemars(skip)]
    pub retry: Option<ingest_http::Retry>,
}

impl Default for StripeConfig {
    fn default() -> Self {
        Self {
            api_key: Secret::default(),
            account: None,
            accounts: Vec::new(),
            endpoint: None,
            api_version: "2026-10-28.endive".into(),
            start: None,
            page_size: 100,
            hydrate: true,
            lag: Span::seconds(60),
            reconcile: Reconcile::default(),
            rate: None,
            endpoint_rate: None,
            concurrency: 8,
            timeout: Span::seconds(30),
            tls: None,
            tls_ca: None,
            danger_plaintext: false,
            retry: None,
        }
    }
}

/// When, and how far back, the youngest objects are listed again.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct Reconcile {
    /// At most so often; `0s` = never. Default: `1d`.
    pub every: Span,
    /// Objects created within so long. Default: `7d`.
    pub window: Span,
}

impl Default for Reconcile {
    fn default() -> Self {
        Self { every: Span::seconds(86_400), window: Span::seconds(7 * 86_400) }
    }
}

impl StripeConfig {
    /// The accounts to read; `None` is the account of the key.
    pub(crate) fn accounts(&self) -> Vec<Option<String>> {
        let mut accounts: Vec<Option<String>> = Vec::new();
        for account in self.account.iter().chain(&self.accounts) {
            if !accounts.iter().any(|known| known.as_ref() == Some(account)) {
                accounts.push(Some(account.clone()));
            }
        }
        if accounts.is_empty() {
            accounts.push(None);
        }
        accounts
    }

    /// Finds everything that is wrong, all at once.
    pub(crate) fn validate(&self) -> Result<()> {
        let mut wrong = Vec::new();
        if self.api_key.is_empty() {
            wrong.push("api_key: is missing; make a restricted key at https://dashboard.stripe.com/apikeys");
        }
        if self.accounts().iter().flatten().any(|account| !is_account(account)) {
            wrong.push("account, accounts: ids of accounts look like acct_1AbC");
        }
        if !is_version(&self.api_version) {
            wrong.push("api_version: versions look like 2026-10-28.endive");
        }
        if !(1..=100).contains(&self.page_size) {
            wrong.push("page_size: must be 1 to 100");
        }
        if !(Duration::from_secs(5)..=Duration::from_secs(60)).contains(&self.lag.0) || self.lag.0.subsec_nanos() != 0 {
            wrong.push("lag: must be 5s to 60s, in whole seconds");
        }
        if [self.rate, self.endpoint_rate].iter().flatten().any(|rate| !rate.is_finite() || *rate <= 0.0) {
            wrong.push("rate, endpoint_rate: must be greater than 0");
        }
        if !(1..=100).contains(&self.concurrency) {
            wrong.push("concurrency: must be 1 to 100");
        }
        if self.timeout.0.is_zero() {
            wrong.push("timeout: must be greater than 0");
        }
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(Error::config(format!("invalid configuration: {}", wrong.join("; ")))
                .hint("`ingest connectors stripe` lists every field")),
        }
    }
}

fn is_account(text: &str) -> bool {
    text.strip_prefix("acct_").is_some_and(|rest| {
        !rest.is_empty() && rest.len() <= 64 && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}

fn is_version(text: &str) -> bool {
    let (date, name) = text.split_once('.').unwrap_or((text, ""));
    chrono::NaiveDate::parse_from_str(date, "%Y-%m-%d").is_ok() && name.bytes().all(|b| b.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> std::result::Result<StripeConfig, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn defaults_need_only_a_key() {
        let config = parse(r#"{"api_key": "sk_test_1"}"#).expect("valid");
        config.validate().expect("valid");
        assert_eq!(config.accounts(), [None]);
        assert_eq!(config.page_size, 100);
        assert!(!format!("{config:?}").contains("sk_test_1"));
    }

    #[test]
    fn all_faults_are_named_at_once() {
        let config =
            parse(r#"{"accounts": ["cus_1"], "page_size": 0, "lag": "5m", "api_version": "newest", "rate": 0}"#);
        let text = config.expect("parsed").validate().expect_err("invalid").to_string();
        for field in ["api_key:", "accounts:", "page_size:", "lag:", "api_version:", "endpoint_rate:"] {
            assert!(text.contains(field), "{field} in {text}");
        }
    }

    #[test]
    fn starts_are_dates_or_times() {
        let start = |text: &str| parse(&format!(r#"{{"start": "{text}"}}"#)).map(|config| config.start.map(|s| s.0));
        assert_eq!(start("2024-01-01").expect("a date"), Some(1_704_067_200));
        assert_eq!(start("2024-01-01T01:00:00+01:00").expect("a time"), Some(1_704_067_200));
        assert!(start("yesterday").is_err());
    }

    #[test]
    fn unknown_fields_are_refused() {
        assert!(parse(r#"{"apikey": "x"}"#).expect_err("unknown").to_string().contains("apikey"));
    }
}
