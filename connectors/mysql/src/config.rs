//! The configuration of a source.

use ingest_core::config::{ByteSize, Span, Tls};
use ingest_core::{JsonSchema, Result, Secret};
use ingest_sql::Login;
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
    /// The keys that every connector of a database has.
    pub(crate) fn login(&self) -> Login<'_> {
        Login {
            host: &self.host,
            port: self.port,
            database: &self.database,
            user: &self.user,
            password: &self.password,
            tls: self.tls,
            tls_ca: self.tls_ca.as_deref(),
            tls_cert: self.tls_cert.as_deref(),
            tls_key: self.tls_key.as_ref(),
            max_connections: self.max_connections,
            connect_timeout: self.connect_timeout,
            timeout: self.timeout,
            max_row_bytes: self.max_row_bytes,
        }
    }

    /// The protection that holds for this host; `None` = plaintext.
    pub(crate) fn protection(&self) -> Option<Tls> {
        self.login().protection()
    }

    /// Reports everything that is wrong, together.
    pub(crate) fn validated(self, source: &str) -> Result<Self> {
        let mut faults = self.login().faults();
        // The server takes whole seconds, and 0 would mean that no lock is waited for at all.
        if self.lock_timeout.0.as_secs() == 0 {
            faults.push(("lock_timeout", "is less than 1s"));
        }
        if self.server_id == Some(0) {
            faults.push(("server_id", "is 0, which no replica may have"));
        }
        if self.host.starts_with('/') && self.protection().is_some() {
            faults.push(("tls", "has no meaning on a Unix socket"));
        }
        ingest_sql::refuse("mysql", source, &faults)?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> MysqlConfig {
        MysqlConfig { host: "h".into(), user: "u".into(), ..MysqlConfig::default() }
    }

    #[test]
    fn all_problems_are_reported_together() {
        let wrong = MysqlConfig { max_connections: 0, tls_cert: Some("x".into()), ..config() };
        let wrong = MysqlConfig { user: String::new(), ..wrong };
        let text = wrong.validated("shop").expect_err("three problems").to_string();
        for key in ["sources.shop.user", "sources.shop.max_connections", "sources.shop.tls_cert"] {
            assert!(text.contains(key), "{text}");
        }
    }

    #[test]
    fn the_password_is_never_printed() {
        let config = MysqlConfig { password: Secret::new("canary"), ..config() };
        assert!(!format!("{config:?}").contains("canary"));
    }
}
