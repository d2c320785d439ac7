//! The configuration of a source.

use ingest_core::config::{Span, Tls, is_loopback};
use ingest_core::{Error, JsonSchema, Result, Secret};
use serde::Deserialize;

/// Reads the tables of one Acme database.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct AcmeConfig {
    /// Host name or address of the server.
    pub host: String,
    /// Its port. Default: 4747.
    #[serde(default = "port")]
    pub port: u16,
    /// The database.
    pub database: String,
    /// The user, who needs the right to read the tables.
    pub user: String,
    /// The user's password. Example: `${ACME_PASSWORD}`.
    pub password: Secret,
    /// The protocol of the sample has no encryption: to leave this machine it needs `danger_plaintext`.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// How long to wait for an answer.
    #[serde(default = "timeout")]
    pub timeout: Span,
}

fn port() -> u16 {
    4747
}

fn timeout() -> Span {
    Span::seconds(30)
}

impl AcmeConfig {
    pub(crate) fn validate(&self) -> Result<()> {
        match self.tls {
            None if is_loopback(&self.host) => Ok(()),
            Some(Tls::DangerPlaintext) => Ok(()),
            _ => Err(Error::config("the connection would not be encrypted")
                .hint("use a tunnel to this machine, or accept it with `tls: danger_plaintext`")),
        }
    }
}
