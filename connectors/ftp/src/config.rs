//! The configuration of an FTP source.

use std::collections::BTreeMap;
use std::sync::Arc;

use ingest_core::config::{ByteSize, Span};
use ingest_core::{Error, JsonSchema, Result, Secret};
use ingest_files::{AfterCommit, Defaults, FileStream, StreamOptions};
use serde::{Deserialize, Serialize};

/// Reads files of an FTP server.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct FtpConfig {
    /// Name or address of the server. Its certificate must be good for it.
    pub host: String,
    /// Its port. Default: 21; 990 where `tls` is `implicit`.
    pub port: Option<u16>,
    /// The account. Default: `anonymous`.
    pub user: String,
    /// Its password.
    pub password: Option<Secret>,
    /// When TLS begins. Default: explicit.
    pub tls: Protection,
    /// Authorities to trust in place of the operating system's: PEM text, or the path of a PEM file.
    pub tls_ca: Option<String>,
    /// The highest version of TLS, `1.2` or `1.3`. Some servers want the connections for data to continue the session of
    /// the one for commands, and get that wrong with 1.3. Default: 1.3.
    pub tls_max: TlsMax,
    /// Allows plain FTP, without TLS. Anyone on the way can read and change everything, the password included.
    pub danger_plaintext: bool,
    /// The root: a folder of the server, relative to the account's own unless it begins with `/`. Default: `.`.
    pub path: String,
    /// The streams by name. Left out or `{}`: each file directly under the root is a stream named by its stem, and so is
    /// each folder there whose files are all of one format.
    pub files: BTreeMap<String, FileStream>,
    /// What becomes of a file whose rows are committed. Default: keep.
    pub after_commit: AfterCommit,
    /// The folder below the root to which `after_commit: archive` moves files. Its files belong to no stream. Default: `archive`.
    pub archive: String,
    /// Connections at once, 1 to 16. Many servers allow few. Default: 2.
    pub connections: u16,
    /// A server that says nothing for so long is given up. Default: 60s.
    pub timeout: Span,

    /// A record (a line, an element of an array) larger than this goes to quarantine. Default: 64MiB.
    pub max_record: ByteSize,
    /// A compressed file that grows to more than this many times its size is refused. Default: 200.
    pub max_ratio: u64,
    /// A file that decompresses to more than this is refused. Default: 1024GiB.
    pub max_decompressed: ByteSize,
}

impl Default for FtpConfig {
    fn default() -> Self {
        Self {
            host: String::new(),
            port: None,
            user: "anonymous".into(),
            password: None,
            tls: Protection::Explicit,
            tls_ca: None,
            tls_max: TlsMax::V13,
            danger_plaintext: false,
            path: ".".into(),
            files: BTreeMap::new(),
            after_commit: AfterCommit::Keep,
            archive: "archive".into(),
            connections: 2,
            timeout: Span::seconds(60),
            max_record: ByteSize(64 << 20),
            max_ratio: 200,
            max_decompressed: ByteSize(1 << 40),
        }
    }
}

/// When TLS begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protection {
    /// By the command `AUTH TLS`, before anything else is said.
    #[default]
    Explicit,
    /// With the first byte.
    Implicit,
}

/// The highest version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum TlsMax {
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    V12,
    /// TLS 1.3.
    #[default]
    #[serde(rename = "1.3")]
    V13,
}

/// A configuration that was checked.
pub(crate) struct Checked {
    pub streams: Vec<Arc<StreamOptions>>,
    pub defaults: Defaults,
}

impl FtpConfig {
    /// The port.
    pub(crate) fn port(&self) -> u16 {
        self.port.unwrap_or(match self.tls {
            Protection::Implicit if !self.danger_plaintext => 990,
            _ => 21,
        })
    }

    /// Checks everything at once.
    ///
    /// # Errors
    /// `ConfigInvalid` that names every wrong key.
    pub(crate) fn check(&self) -> Result<Checked> {
        let mut wrong = Vec::new();
        if self.host.trim().is_empty() || self.host.contains(['\0', '/', '@']) {
            wrong.push("host: is missing, or no name of a host".to_owned());
        }
        // A line break would end the command that the text stands in, and begin another one.
        let is_line = |text: &str| !text.contains(['\r', '\n', '\0']);
        if self.user.is_empty() || !is_line(&self.user) {
            wrong.push("user: is no name of an account".to_owned());
        }
        if self.password.as_ref().is_some_and(|password| !is_line(password.expose())) {
            wrong.push("password: must be one line (the value is not shown)".to_owned());
        }
        if self.path.is_empty() || !is_line(&self.path) {
            wrong.push("path: is no folder; `.` is the account's own".to_owned());
        }
        if self.danger_plaintext && self.tls_ca.is_some() {
            wrong.push("danger_plaintext: is true, so `tls_ca` would have no effect".to_owned());
        }
        if !(1..=16).contains(&self.connections) {
            wrong.push("connections: must be 1 to 16".to_owned());
        }
        let defaults = self.after_commit.defaults(&self.archive).unwrap_or_else(|problem| {
            wrong.push(problem);
            Defaults::default()
        });
        let streams = ingest_files::streams(&self.files, &defaults).unwrap_or_else(|problems| {
            wrong.extend(problems);
            Vec::new()
        });
        if wrong.is_empty() {
            return Ok(Checked { streams, defaults });
        }
        Err(Error::config(format!("invalid configuration: {}", wrong.join("; ")))
            .hint("`ingest connectors ftp` explains every field"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_reported_at_once() {
        let config: FtpConfig = serde_json::from_str(
            r#"{"user": "a\r\nDELE x", "password": "p\nq", "connections": 99, "danger_plaintext": true, "tls_ca": "x"}"#,
        )
        .expect("config");
        let error = config.check().err().expect("wrong").to_string();
        for part in ["host:", "user:", "password:", "connections:", "danger_plaintext:"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!error.contains("p\nq"));
    }

    #[test]
    fn the_port_follows_the_protection() {
        let port = |json: &str| serde_json::from_str::<FtpConfig>(json).expect("config").port();
        assert_eq!(port("{}"), 21);
        assert_eq!(port(r#"{"tls": "implicit"}"#), 990);
        assert_eq!(port(r#"{"tls": "implicit", "port": 2990}"#), 2990);
    }
}
