//! The configuration of a source.

use std::time::Duration;

use ingest_core::config::{Span, Start, Tls};
use ingest_core::{Error, JsonSchema, Result, Secret};
use ingest_http::Url;
use serde::Deserialize;

/// Where everybody signs in whose org has no domain of its own.
pub(crate) const LOGIN: &str = "https://login.salesforce.com";

/// Reads the objects of one Salesforce org.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct SalesforceConfig {
    /// The consumer key of the app.
    pub client_id: String,
    /// The consumer secret of the app. With nothing else, the app signs in for its integration user (client credentials).
    pub client_secret: Secret,
    /// The user to act for, with `private_key`: the JWT bearer flow.
    pub username: Option<String>,
    /// The RSA key in PEM whose certificate the app holds, without a passphrase. Example:
    /// `${file:/run/secrets/salesforce.pem}`.
    pub private_key: Secret,
    /// Who the signed statement is for. Default: `https://test.salesforce.com` where `endpoint` is a sandbox, else
    /// `https://login.salesforce.com`.
    pub audience: Option<String>,
    /// A refresh token of a user who agreed once. Turn rotation of refresh tokens off in the app: a run cannot keep a new
    /// one.
    pub refresh_token: Secret,
    /// The login URL: `https://DOMAIN.my.salesforce.com`, for a sandbox `https://DOMAIN--NAME.sandbox.my.salesforce.com`.
    /// Client credentials need the domain; the others default to `https://login.salesforce.com`. Data is read from the
    /// instance that the answer names, under a Salesforce domain alone.
    pub endpoint: Option<String>,
    /// The version of the API, 50.0 or later. Default: `62.0`.
    pub api_version: String,
    /// First and full loads read rows whose cursor is at or after this: a date (`2024-01-01`) or a time
    /// (`2024-01-01T12:00:00Z`). Left out: all rows.
    pub start: Option<Start>,
    /// How far behind the clock of Salesforce rows are read, at most 5 minutes: they become visible after the time that
    /// they carry. Default: `5m`.
    pub lag: Span,
    /// Rows a page of a query, 200 to 2,000. Default: 2,000.
    pub page_size: u16,
    /// A read of more rows than this becomes a job of the Bulk API. Default: 10,000, where both take five calls.
    pub bulk_from: u64,
    /// Rows a page of a job's results. Default: 100,000.
    pub bulk_page_size: u32,
    /// Rows of one job. A larger load is cut into parts by `CreatedDate`, which are read at once. Default: 5,000,000.
    pub bulk_rows: u64,
    /// The share of the org's daily requests up to which we go on, all its users counted; beyond it a run ends as partial
    /// (exit 4). Default: 0.8.
    pub daily_share: f64,
    /// Where changes are read (`mode: cdc`): the Pub/Sub API, which gets the session's token. Default:
    /// `https://api.pubsub.salesforce.com:7443`.
    pub pubsub_endpoint: Option<String>,
    /// How long the silence of a topic lasts after which a run that does not follow has read all changes. Default: `10s`.
    pub quiet: Span,
    /// How often objects with formula fields are read whole again: what a formula depends on changes without a trace in
    /// the row. `0s`, the default, is never.
    pub formula_sweep: Span,
    /// Calls under way at once. Default: 8.
    pub concurrency: u16,
    /// How long silence of the server is borne, in one attempt of a call. Default: `60s`.
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

impl Default for SalesforceConfig {
    fn default() -> Self {
        Self {
            client_id: String::new(),
            client_secret: Secret::default(),
            username: None,
            private_key: Secret::default(),
            audience: None,
            refresh_token: Secret::default(),
            endpoint: None,
            api_version: "62.0".into(),
            start: None,
            lag: Span::seconds(300),
            page_size: 2_000,
            bulk_from: 10_000,
            bulk_page_size: 100_000,
            bulk_rows: 5_000_000,
            daily_share: 0.8,
            pubsub_endpoint: None,
            quiet: Span::seconds(10),
            formula_sweep: Span::seconds(0),
            concurrency: 8,
            timeout: Span::seconds(60),
            tls: None,
            tls_ca: None,
            danger_plaintext: false,
            retry: None,
        }
    }
}

/// How we sign in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    ClientCredentials,
    Jwt,
    RefreshToken,
}

impl SalesforceConfig {
    pub(crate) fn flow(&self) -> Flow {
        match (self.refresh_token.is_empty(), self.private_key.is_empty()) {
            (false, _) => Flow::RefreshToken,
            (true, false) => Flow::Jwt,
            (true, true) => Flow::ClientCredentials,
        }
    }

    /// Who a signed statement is for.
    pub(crate) fn audience(&self) -> &str {
        let sandbox = self.endpoint.as_deref().is_some_and(|e| e.contains(".sandbox.") || e.contains("//test."));
        self.audience.as_deref().unwrap_or(if sandbox { "https://test.salesforce.com" } else { LOGIN })
    }

    /// Finds everything that is wrong, all at once.
    pub(crate) fn validate(&self) -> Result<()> {
        let mut wrong = Vec::new();
        if self.client_id.is_empty() {
            wrong.push("client_id: is missing; it is the consumer key of the app");
        }
        self.validate_flow(&mut wrong);
        let version = self.api_version.strip_suffix(".0").and_then(|major| major.parse::<u16>().ok());
        if !version.is_some_and(|major| (50..1_000).contains(&major)) {
            wrong.push("api_version: versions look like 62.0, from 50.0 on");
        }
        if self.lag.0 > Duration::from_secs(300) {
            wrong.push("lag: must be at most 5m");
        }
        if !(200..=2_000).contains(&self.page_size) {
            wrong.push("page_size: must be 200 to 2000");
        }
        if self.bulk_page_size == 0 || self.bulk_rows == 0 {
            wrong.push("bulk_page_size, bulk_rows: must be greater than 0");
        }
        if !(self.daily_share > 0.0 && self.daily_share <= 1.0) {
            wrong.push("daily_share: must be greater than 0 and at most 1");
        }
        if !(1..=100).contains(&self.concurrency) {
            wrong.push("concurrency: must be 1 to 100");
        }
        if self.timeout.0.is_zero() {
            wrong.push("timeout: must be greater than 0");
        }
        if self.quiet.0.is_zero() || self.quiet.0 > Duration::from_secs(300) {
            wrong.push("quiet: must be greater than 0 and at most 5m");
        }
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(Error::config(format!("invalid configuration: {}", wrong.join("; ")))
                .hint("`ingest connectors salesforce` lists every field")),
        }
    }

    fn validate_flow(&self, wrong: &mut Vec<&'static str>) {
        match self.flow() {
            Flow::ClientCredentials if self.client_secret.is_empty() => wrong.push(
                "client_secret: is missing; or sign in with `username` and `private_key`, or with `refresh_token`",
            ),
            Flow::ClientCredentials if self.signs_in_for_all() => wrong.push(
                "endpoint: client credentials need the org's own domain, https://DOMAIN.my.salesforce.com; \
                 login.salesforce.com and test.salesforce.com do not take them",
            ),
            Flow::Jwt if self.username.as_ref().is_none_or(String::is_empty) => {
                wrong.push("username: is missing; `private_key` signs for a user");
            }
            Flow::ClientCredentials | Flow::Jwt | Flow::RefreshToken => {}
        }
        if self.flow() != Flow::Jwt && (self.username.is_some() || self.audience.is_some()) {
            wrong.push("username, audience: belong to `private_key`");
        }
        if !self.refresh_token.is_empty() && !self.private_key.is_empty() {
            wrong.push("refresh_token, private_key: one of the two");
        }
    }

    /// Whether the endpoint is one of those at which every org signs in.
    fn signs_in_for_all(&self) -> bool {
        let host = self.endpoint.as_deref().and_then(|e| Url::parse(e).ok()?.host_str().map(str::to_owned));
        match self.endpoint {
            None => true,
            Some(_) => matches!(host.as_deref(), Some("login.salesforce.com" | "test.salesforce.com")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> String {
        let config: SalesforceConfig = serde_json::from_str(text).expect(text);
        assert!(!format!("{config:?}").contains("canary"));
        config.validate().err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn each_way_to_sign_in_needs_its_fields_and_no_others() {
        for text in [
            r#"{"client_id":"c","client_secret":"canary","endpoint":"https://acme.my.salesforce.com"}"#,
            r#"{"client_id":"c","client_secret":"canary","endpoint":"http://127.0.0.1:1"}"#,
            r#"{"client_id":"c","username":"u@example.com","private_key":"canary"}"#,
            r#"{"client_id":"c","refresh_token":"canary"}"#,
        ] {
            assert_eq!(problems(text), "", "{text}");
        }
        for (text, field) in [
            (r#"{"client_id":"c","client_secret":"canary"}"#, "endpoint:"),
            (r#"{"client_id":"c","client_secret":"s","endpoint":"https://test.salesforce.com/"}"#, "endpoint:"),
            (r#"{"client_id":"c"}"#, "client_secret:"),
            (r#"{"client_id":"c","private_key":"canary"}"#, "username:"),
            (r#"{"client_id":"c","private_key":"k","username":"u","refresh_token":"r"}"#, "one of the two"),
        ] {
            assert!(problems(text).contains(field), "{text}: {}", problems(text));
        }
    }

    #[test]
    fn all_faults_are_named_at_once() {
        let text = r#"{"page_size":100,"lag":"6m","api_version":"v62","daily_share":0,"concurrency":0}"#;
        for field in
            ["client_id:", "client_secret:", "page_size:", "lag:", "api_version:", "daily_share:", "concurrency:"]
        {
            assert!(problems(text).contains(field), "{field}");
        }
    }

    #[test]
    fn statements_of_a_sandbox_are_for_the_sandboxes_login() {
        let at = |endpoint: Option<&str>| {
            SalesforceConfig { endpoint: endpoint.map(str::to_owned), ..SalesforceConfig::default() }
                .audience()
                .to_owned()
        };
        assert_eq!(at(None), LOGIN);
        assert_eq!(at(Some("https://acme.my.salesforce.com")), LOGIN);
        assert_eq!(at(Some("https://test.salesforce.com")), "https://test.salesforce.com");
        assert_eq!(at(Some("https://acme--dev.sandbox.my.salesforce.com")), "https://test.salesforce.com");
    }
}
