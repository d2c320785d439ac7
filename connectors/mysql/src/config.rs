//! The configuration of a source.

use ingest_core::config::{ByteSize, Span, Tls, is_loopback};
use ingest_core::{Error, JsonSchema, Result, Secret};
use serde::Deserialize;

/// Reads tables and views of a MySQL or MariaDB server.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct MysqlConfig {
    /// Host name, IP address, or the path of a Unix socket (`/run/mysqld/mysqld.sock`). Default: `localhost`, over TCP.
    pub host: String,
    /// Port. Default: 3306.
    pub port: u16,
    /// Only the tables of this database. Default: those of all databases that the user may read.
    pub database: String,
    /// User. An account that may only read is enough, and all that should be given.
    pub user: String,
    /// Password.
    pub password: Secret,
    /// How the connection is protected. Default: `verify-full`; on loopback and Unix sockets plaintext, unless `tls` or
    /// `tls_ca` is given.
    pub tls: Option<Tls>,
    /// Certificates of the authorities to trust, as PEM text or the path of a PEM file. Default: those of the operating
    /// system.
    pub tls_ca: Option<String>,
    /// Certificate to show to the server, as PEM text or the path of a PEM file. Needs `tls_key`.
    pub tls_cert: Option<String>,
    /// Private key of `tls_cert`, as PEM text (`${file:/run/secrets/key.pem}`) or the path of a PEM file.
    pub tls_key: Option<Secret>,
    /// Connections that may read at once. Planning holds one more. Default: 4.
    pub max_connections: u16,
    /// Longest time to connect and log in. Default: 20s.
    pub connect_timeout: Span,
    /// Longest silence of the server. A statement that is still at work, as a second connection can see, is waited
    /// for. Default: 60s.
    pub timeout: Span,
    /// Longest run of one statement, enforced by the server; `0s` = no limit. It bounds the reading of one slice. Default: 0s.
    pub statement_timeout: Span,
    /// Longest wait for a lock that somebody else holds on a table, enforced by the server, in whole seconds. Default: 30s.
    pub lock_timeout: Span,
    /// Largest row that is accepted, as the server sends it. A larger one ends the stream with an error before it is
    /// read into memory. Default: 64MiB.
    pub max_row_bytes: ByteSize,
    /// Number by which the server knows the reader of its binlog; no replica may have the same. Default: one that is
    /// chosen anew for each run.
    pub server_id: Option<u32>,
}

impl Default for MysqlConfig {
    fn default() -> Self {
        Self {
            host: "localhost".into(),
            port: 3306,
            database: String::new(),
            user: String::new(),
            password: Secret::default(),
            tls: None,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            max_connections: 4,
            connect_timeout: Span::seconds(20),
            timeout: Span::seconds(60),
            statement_timeout: Span::seconds(0),
            lock_timeout: Span::seconds(30),
            max_row_bytes: ByteSize(64 << 20),
            server_id: None,
        }
    }
}

impl MysqlConfig {
    /// The protection that holds for this host; `None` = plaintext.
    pub(crate) fn protection(&self) -> Option<Tls> {
        match self.tls {
            Some(Tls::DangerPlaintext) => None,
            Some(tls) => Some(tls),
            None if is_loopback(&self.host) && self.tls_ca.is_none() && self.tls_cert.is_none() => None,
            None => Some(Tls::VerifyFull),
        }
    }

    /// Reports everything that is wrong, together.
    pub(crate) fn validated(self, source: &str) -> Result<Self> {
        let mut wrong = Vec::new();
        let mut refuse = |key: &str, why: &str| wrong.push(format!("sources.{source}.{key}: {why}"));
        if self.user.is_empty() {
            refuse("user", "is missing");
        }
        if self.host.is_empty() {
            refuse("host", "is empty");
        }
        for (key, value) in [("host", &self.host), ("database", &self.database), ("user", &self.user)] {
            if value.contains('\0') {
                refuse(key, "contains a zero byte");
            }
        }
        if self.password.expose().contains('\0') {
            refuse("password", "contains a zero byte");
        }
        if self.port == 0 {
            refuse("port", "is 0");
        }
        if !(1..=64).contains(&self.max_connections) {
            refuse("max_connections", "is not between 1 and 64");
        }
        for (key, span) in [("connect_timeout", self.connect_timeout), ("timeout", self.timeout)] {
            if span.0.is_zero() {
                refuse(key, "is 0; write e.g. 30s");
            }
        }
        // The server takes whole seconds, and 0 would mean that no lock is waited for at all.
        if self.lock_timeout.0.as_secs() == 0 {
            refuse("lock_timeout", "is less than 1s");
        }
        // A packet of the protocol ends at 1 GiB.
        if !((64 << 10)..=(1 << 30)).contains(&self.max_row_bytes.0) {
            refuse("max_row_bytes", "is not between 64KiB and 1GiB");
        }
        if self.server_id == Some(0) {
            refuse("server_id", "is 0, which no replica may have");
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            refuse("tls_cert", "tls_cert and tls_key belong together, one is missing");
        }
        if self.tls == Some(Tls::DangerPlaintext) && (self.tls_ca.is_some() || self.tls_cert.is_some()) {
            refuse("tls", "is danger_plaintext, so tls_ca, tls_cert and tls_key would have no effect");
        }
        if self.host.starts_with('/') && self.protection().is_some() {
            refuse("tls", "has no meaning on a Unix socket");
        }
        if !wrong.is_empty() {
            return Err(Error::config(format!("invalid configuration: {}", wrong.join("; ")))
                .hint("`ingest connectors mysql` lists every field"));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(host: &str, tls: Option<Tls>) -> MysqlConfig {
        MysqlConfig { host: host.into(), user: "u".into(), tls, ..MysqlConfig::default() }
    }

    #[test]
    fn plaintext_needs_loopback_or_danger() {
        assert_eq!(config("db.example.com", None).protection(), Some(Tls::VerifyFull));
        assert_eq!(config("127.0.0.1", None).protection(), None);
        assert_eq!(config("/run/mysqld/mysqld.sock", None).protection(), None);
        assert_eq!(config("localhost", Some(Tls::VerifyFull)).protection(), Some(Tls::VerifyFull));
        assert_eq!(config("db.example.com", Some(Tls::DangerPlaintext)).protection(), None);
    }

    #[test]
    fn all_problems_are_reported_together() {
        let wrong = MysqlConfig { max_connections: 0, tls_cert: Some("x".into()), ..config("h", None) };
        let wrong = MysqlConfig { user: String::new(), ..wrong };
        let text = wrong.validated("shop").expect_err("three problems").to_string();
        for key in ["sources.shop.user", "sources.shop.max_connections", "sources.shop.tls_cert"] {
            assert!(text.contains(key), "{text}");
        }
    }

    #[test]
    fn the_password_is_never_printed() {
        let config = MysqlConfig { password: Secret::new("canary"), ..config("h", None) };
        assert!(!format!("{config:?}").contains("canary"));
    }
}
