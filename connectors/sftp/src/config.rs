//! The configuration of an SFTP source.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use ingest_core::config::{ByteSize, Span};
use ingest_core::{Error, JsonSchema, Result, Secret};
use ingest_files::{AfterCommit, Defaults, FileStream, StreamOptions};
use serde::Deserialize;

/// Reads files of an SFTP server.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct SftpConfig {
    /// Name or address of the server.
    pub host: String,
    /// Its port. Default: 22.
    pub port: u16,
    /// The account.
    pub user: String,
    /// Its password; also what is answered when the server asks questions instead (keyboard-interactive).
    pub password: Option<Secret>,
    /// A private key: the text of the file, OpenSSH or PEM. Example: `${file:/run/secrets/id_ed25519}`.
    pub private_key: Option<Secret>,
    /// What the private key is encrypted with.
    pub passphrase: Option<Secret>,
    /// Asks the agent of `SSH_AUTH_SOCK`. Default: false.
    pub agent: bool,
    /// The file that names the host keys of servers, in OpenSSH's form. Default: `~/.ssh/known_hosts`.
    pub known_hosts: Option<PathBuf>,
    /// The fingerprint of the server's key in place of `known_hosts`: `SHA256:…`, as `ssh-keygen -lf` prints it.
    pub host_key: Option<String>,
    /// A server in between, through which this one is reached (`ssh -J`).
    pub jump: Option<Login>,
    /// The root: a folder of the server, relative to the account's own unless it begins with `/`. Default: `.`.
    pub path: String,
    /// The streams by name. Left out or `{}`: each file directly under the root is a stream named by its stem, and so is
    /// each folder there whose files are all of one format.
    pub files: BTreeMap<String, FileStream>,
    /// What becomes of a file whose rows are committed. Default: keep.
    pub after_commit: AfterCommit,
    /// The folder below the root to which `after_commit: archive` moves files. Its files belong to no stream. Default: `archive`.
    pub archive: String,
    /// Connections at once, 1 to 16. Default: 4.
    pub connections: u16,
    /// A server that says nothing for so long is given up. Default: 60s.
    pub timeout: Span,
    /// Allows what only old servers need: SHA-1 in host keys and key exchange, CBC ciphers. Default: false.
    pub legacy_algorithms: bool,

    /// A record (a line, an element of an array) larger than this goes to quarantine. Default: 64MiB.
    pub max_record: ByteSize,
    /// A compressed file that grows to more than this many times its size is refused. Default: 200.
    pub max_ratio: u64,
    /// A file that decompresses to more than this is refused. Default: 1024GiB.
    pub max_decompressed: ByteSize,
}

impl Default for SftpConfig {
    fn default() -> Self {
        let login = Login::default();
        Self {
            host: login.host,
            port: login.port,
            user: login.user,
            password: None,
            private_key: None,
            passphrase: None,
            agent: false,
            known_hosts: None,
            host_key: None,
            jump: None,
            path: ".".into(),
            files: BTreeMap::new(),
            after_commit: AfterCommit::Keep,
            archive: "archive".into(),
            connections: 4,
            timeout: Span::seconds(60),
            legacy_algorithms: false,
            max_record: ByteSize(64 << 20),
            max_ratio: 200,
            max_decompressed: ByteSize(1 << 40),
        }
    }
}

/// A server and how it knows us, and we it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Login {
    /// Name or address of the server.
    pub host: String,
    /// Its port. Default: 22.
    pub port: u16,
    /// The account.
    pub user: String,
    /// Its password.
    pub password: Option<Secret>,
    /// A private key: the text of the file, OpenSSH or PEM.
    pub private_key: Option<Secret>,
    /// What the private key is encrypted with.
    pub passphrase: Option<Secret>,
    /// Asks the agent of `SSH_AUTH_SOCK`. Default: false.
    pub agent: bool,
    /// The file that names the host keys of servers. Default: `~/.ssh/known_hosts`.
    pub known_hosts: Option<PathBuf>,
    /// The fingerprint of the server's key in place of `known_hosts`.
    pub host_key: Option<String>,
}

impl Default for Login {
    fn default() -> Self {
        Self {
            host: String::new(),
            port: 22,
            user: String::new(),
            password: None,
            private_key: None,
            passphrase: None,
            agent: false,
            known_hosts: None,
            host_key: None,
        }
    }
}

impl Login {
    fn problems(&self, prefix: &str, wrong: &mut Vec<String>) {
        if self.host.trim().is_empty() || self.host.contains(['\0', '/', '@']) {
            wrong.push(format!("{prefix}host: is missing, or no name of a host"));
        }
        if self.user.is_empty() || self.user.contains('\0') {
            wrong.push(format!("{prefix}user: is missing"));
        }
        if self.password.is_none() && self.private_key.is_none() && !self.agent {
            wrong.push(format!("{prefix}password: is missing; give it, `private_key`, or `agent: true`"));
        }
        if let Some(text) = &self.host_key
            && text.strip_prefix("SHA256:").is_none_or(|hash| hash.trim_end_matches('=').len() != 43)
        {
            wrong.push(format!("{prefix}host_key: is no fingerprint; `ssh-keygen -lf` prints one: SHA256:…"));
        }
    }
}

/// A configuration that was checked.
pub(crate) struct Checked {
    pub login: Login,
    pub streams: Vec<Arc<StreamOptions>>,
    pub defaults: Defaults,
}

impl SftpConfig {
    /// The server itself.
    fn login(&self) -> Login {
        Login {
            host: self.host.trim().to_owned(),
            port: self.port,
            user: self.user.clone(),
            password: self.password.clone(),
            private_key: self.private_key.clone(),
            passphrase: self.passphrase.clone(),
            agent: self.agent,
            known_hosts: self.known_hosts.clone(),
            host_key: self.host_key.clone(),
        }
    }

    /// Checks everything at once.
    ///
    /// # Errors
    /// `ConfigInvalid` that names every wrong key.
    pub(crate) fn check(&self) -> Result<Checked> {
        let mut wrong = Vec::new();
        let login = self.login();
        login.problems("", &mut wrong);
        if let Some(jump) = &self.jump {
            jump.problems("jump.", &mut wrong);
        }
        if self.path.is_empty() || self.path.contains('\0') {
            wrong.push("path: is no folder; `.` is the account's own".to_owned());
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
            return Ok(Checked { login, streams, defaults });
        }
        Err(Error::config(format!("invalid configuration: {}", wrong.join("; ")))
            .hint("`ingest connectors sftp` explains every field"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> SftpConfig {
        serde_json::from_str(json).expect("config")
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let config = config(
            r#"{"connections": 0, "host_key": "aa:bb", "jump": {"host": "j"}, "after_commit": "archive", "archive": "../x",
                "files": {"a": {"path": "/etc/x.csv"}}}"#,
        );
        let error = config.check().err().expect("wrong").to_string();
        for part in
            ["host:", "user:", "password:", "connections:", "host_key:", "jump.user:", "archive:", "files.a.path:"]
        {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn no_secret_is_printed() {
        let config = config(r#"{"password": "canary1", "private_key": "canary2", "jump": {"passphrase": "canary3"}}"#);
        assert!(!format!("{config:?}").contains("canary"));
    }
}
