//! The configuration of a source.

use ingest_core::config::{ByteSize, Span, Tls};
use ingest_core::{JsonSchema, Result, Secret};
use ingest_sql::Login;
use serde::Deserialize;

/// Reads tables, views and foreign tables of one PostgreSQL database.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct PostgresConfig {
    /// Host name, IP address, or the folder of a Unix socket (`/var/run/postgresql`). Default: `localhost`.
    pub host: String,
    /// Port. Default: 5432.
    pub port: u16,
    /// Database. Default: the name of the user.
    pub database: String,
    /// User. An account that may only read is enough, and all that should be given.
    pub user: String,
    /// Password. Leave it out where the server trusts the connection or a client certificate.
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
    /// How a big table is cut into slices that are read in parallel. Default: `auto`.
    pub read: Read,
    /// Connections that may read at once. Planning holds one more. Default: 4.
    pub max_connections: u16,
    /// Longest time to connect and log in. Default: 20s.
    pub connect_timeout: Span,
    /// Longest silence of the server. A statement that is still at work, as a second connection can see, is waited
    /// for. Default: 60s.
    pub timeout: Span,
    /// Longest run of one statement, enforced by the server; `0s` = no limit. It bounds the reading of one slice. Default: 0s.
    pub statement_timeout: Span,
    /// Longest wait for a lock that somebody else holds on a table, enforced by the server; `0s` = no limit. Default: 30s.
    pub lock_timeout: Span,
    /// Name of our sessions in `pg_stat_activity`. Default: `ingest`.
    pub application_name: String,
    /// Largest row that is accepted, in the server's binary form. A larger one ends the stream with an error before it
    /// is read into memory. Default: 64MiB.
    pub max_row_bytes: ByteSize,
    /// `mode: cdc`: the publication that says which changes the server sends. Default: `ingest`. One that exists is used as
    /// it is; where there is none, the first run makes it for the tables that it reads.
    pub publication: String,
    /// `mode: cdc`: the replication slot, from which the server keeps its log until the lake has it. Default: `ingest`. The
    /// first run makes it. Each lake needs one of its own.
    pub slot: String,
    /// Reads tables whose row-level security hides rows from the user. Default: false, and such a table is an error,
    /// because rows would be missing in silence.
    pub row_security: bool,
}

/// How a big table is cut into slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(crate = "ingest_core::schemars")]
pub enum Read {
    /// `key` where a single-column ordered key exists and the table is larger than 4 GiB, else `ctid`.
    #[default]
    Auto,
    /// Ranges of blocks under one exported snapshot: fastest, one point in time, starts over when the run is
    /// interrupted.
    Ctid,
    /// Ranges of a single-column key: resumes where it was interrupted, also in another process.
    Key,
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self {
            host: "localhost".into(),
            port: 5432,
            database: String::new(),
            user: String::new(),
            password: Secret::default(),
            tls: None,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            read: Read::Auto,
            max_connections: 4,
            connect_timeout: Span::seconds(20),
            timeout: Span::seconds(60),
            statement_timeout: Span::seconds(0),
            lock_timeout: Span::seconds(30),
            application_name: "ingest".into(),
            max_row_bytes: ByteSize(64 << 20),
            publication: "ingest".into(),
            slot: "ingest".into(),
            row_security: false,
        }
    }
}

impl PostgresConfig {
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

    /// Fills what follows from other fields and reports everything that is wrong, together.
    pub(crate) fn validated(mut self, source: &str) -> Result<Self> {
        let mut faults = self.login().faults();
        if self.application_name.contains('\0') {
            faults.push(("application_name", "contains a zero byte"));
        }
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if self.slot.is_empty() || self.slot.len() > 63 || !self.slot.chars().all(plain) {
            faults.push(("slot", "is not 1 to 63 characters of a-z, 0-9 and _"));
        }
        if self.publication.is_empty() || self.publication.len() > 63 || self.publication.contains('\0') {
            faults.push(("publication", "is not 1 to 63 characters"));
        }
        ingest_sql::refuse("postgres", source, &faults)?;
        if self.database.is_empty() {
            self.database.clone_from(&self.user);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> PostgresConfig {
        PostgresConfig { host: "h".into(), user: "u".into(), ..PostgresConfig::default() }
    }

    #[test]
    fn all_problems_are_reported_together() {
        let wrong = PostgresConfig { max_connections: 0, tls_cert: Some("x".into()), ..config() };
        let wrong = PostgresConfig { user: String::new(), ..wrong };
        let text = wrong.validated("shop").expect_err("three problems").to_string();
        for key in ["sources.shop.user", "sources.shop.max_connections", "sources.shop.tls_cert"] {
            assert!(text.contains(key), "{text}");
        }
    }

    #[test]
    fn the_password_is_never_printed() {
        let config = PostgresConfig { password: Secret::new("canary"), ..config() };
        assert!(!format!("{config:?}").contains("canary"));
    }

    #[test]
    fn the_database_is_the_user_where_none_is_named() {
        assert_eq!(config().validated("s").expect("valid").database, "u");
    }
}
