//! The configuration of a source.

use ingest_core::config::{ByteSize, Span, Tls};
use ingest_core::{JsonSchema, Result, Secret};
use ingest_sql::Login;
use serde::Deserialize;

/// Reads tables and views of a SQL Server or Azure SQL database.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct SqlServerConfig {
    /// Host name or IP address. Default: `localhost`.
    pub host: String,
    /// Port. Default: 1433; with `instance` that of the SQL Server Browser, 1434.
    pub port: Option<u16>,
    /// Named instance. Its port is asked of the SQL Server Browser, over UDP. Default: the instance that listens on `port`.
    pub instance: Option<String>,
    /// Database. Default: the one that the account has by default.
    pub database: String,
    /// SQL login. An account that may only read is enough, and all that should be given.
    pub user: String,
    /// Password of the SQL login.
    pub password: Secret,
    /// Access token of Microsoft Entra ID for `https://database.windows.net/`, in place of `user` and `password`.
    pub access_token: Option<Secret>,
    /// Asks for a readable secondary replica (`ApplicationIntent=ReadOnly`). Default: false.
    pub read_only: bool,
    /// How the connection is protected: `verify-full`, `require` or `danger_plaintext`. Default: `verify-full`; on loopback
    /// plaintext, unless `tls` or `tls_ca` is given.
    pub tls: Option<Tls>,
    /// Certificates of authorities to trust beside those of the operating system, as PEM text or the path of a PEM file.
    pub tls_ca: Option<String>,
    /// Which time columns without a zone hold that are cursors: `local`, the server's, or `utc`. Default: not known, so that
    /// an incremental run ends at the earlier of the two.
    pub clock: Option<Clock>,
    /// Connections that may read at once. Planning holds one more. Default: 4.
    pub max_connections: u16,
    /// Longest time to connect and log in. Default: 20s.
    pub connect_timeout: Span,
    /// Longest silence of the server. A statement that is still at work, as a second connection can see, is waited for.
    /// Default: 60s.
    pub timeout: Span,
    /// Longest wait for a lock that somebody else holds, enforced by the server. Default: 30s.
    pub lock_timeout: Span,
    /// Largest value that is accepted, in bytes at the server. A larger one ends the stream with an error. Default: 64MiB.
    pub max_row_bytes: ByteSize,
}

/// What a time without a zone means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(crate = "ingest_core::schemars")]
pub enum Clock {
    /// `GETDATE()`, `SYSDATETIME()`.
    Local,
    /// `GETUTCDATE()`, `SYSUTCDATETIME()`.
    Utc,
}

impl Default for SqlServerConfig {
    fn default() -> Self {
        Self {
            host: "localhost".into(),
            port: None,
            instance: None,
            database: String::new(),
            user: String::new(),
            password: Secret::default(),
            access_token: None,
            read_only: false,
            tls: None,
            tls_ca: None,
            clock: None,
            max_connections: 4,
            connect_timeout: Span::seconds(20),
            timeout: Span::seconds(60),
            lock_timeout: Span::seconds(30),
            max_row_bytes: ByteSize(64 << 20),
        }
    }
}

impl SqlServerConfig {
    /// The keys that every connector of a database has.
    pub(crate) fn login(&self) -> Login<'_> {
        Login {
            host: &self.host,
            port: self.port(),
            database: &self.database,
            user: &self.user,
            password: &self.password,
            tls: self.tls,
            tls_ca: self.tls_ca.as_deref(),
            tls_cert: None,
            tls_key: None,
            max_connections: self.max_connections,
            connect_timeout: self.connect_timeout,
            timeout: self.timeout,
            max_row_bytes: self.max_row_bytes,
        }
    }

    /// Where the server, or its browser, listens.
    pub(crate) fn port(&self) -> u16 {
        self.port.unwrap_or(if self.instance.is_some() { 1434 } else { 1433 })
    }

    /// Reports everything that is wrong, together.
    pub(crate) fn validated(self, source: &str) -> Result<Self> {
        let mut faults = self.login().faults();
        if self.access_token.is_some() {
            faults.retain(|(key, why)| (*key, *why) != ("user", "is missing"));
            if !self.user.is_empty() || !self.password.is_empty() {
                faults.push(("access_token", "takes the place of user and password; leave those out"));
            }
            if self.login().protection().is_none() && self.tls.is_none() {
                faults.push(("access_token", "is sent over TLS alone; set tls"));
            }
        }
        if self.tls == Some(Tls::VerifyCa) {
            faults.push(("tls", "is verify-ca, which the client cannot do: use verify-full or require"));
        }
        if self.tls == Some(Tls::Require) && self.tls_ca.is_some() {
            faults.push(("tls", "is require, so tls_ca would have no effect"));
        }
        if self.instance.as_deref().is_some_and(|name| name.is_empty() || name.contains('\0')) {
            faults.push(("instance", "is empty or contains a zero byte"));
        }
        if self.lock_timeout.0.as_millis() > i32::MAX as u128 || self.lock_timeout.0.is_zero() {
            faults.push(("lock_timeout", "is not between 1ms and 24d"));
        }
        ingest_sql::refuse("sqlserver", source, &faults)?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_reported_together() {
        let wrong = SqlServerConfig {
            max_connections: 0,
            tls: Some(Tls::VerifyCa),
            access_token: Some(Secret::new("t")),
            user: "u".into(),
            ..SqlServerConfig::default()
        };
        let text = wrong.validated("shop").expect_err("three problems").to_string();
        for key in ["sources.shop.max_connections", "sources.shop.tls", "sources.shop.access_token"] {
            assert!(text.contains(key), "{text}");
        }
    }

    #[test]
    fn secrets_are_never_printed() {
        let config = SqlServerConfig {
            password: Secret::new("canary"),
            access_token: Some(Secret::new("canary")),
            ..SqlServerConfig::default()
        };
        assert!(!format!("{config:?}").contains("canary"));
    }

    #[test]
    fn a_named_instance_is_looked_up_at_its_browser() {
        assert_eq!(SqlServerConfig::default().port(), 1433);
        let named = SqlServerConfig { instance: Some("SHOP".into()), ..SqlServerConfig::default() };
        assert_eq!(named.port(), 1434);
    }
}
