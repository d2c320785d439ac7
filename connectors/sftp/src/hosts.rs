//! Which key a server must have.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ingest_core::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};
use ssh2::{CheckResult, KnownHostFileKind, Session};

use crate::config::Login;

/// What is known about the key of a server before it shows it.
pub enum Trusted {
    /// The fingerprint of the configuration, without `SHA256:`.
    Fingerprint(String),
    /// The lines of `known_hosts` for it.
    Keys(Vec<Known>),
}

/// A key of a server.
pub struct Known {
    /// `ssh-ed25519`, …
    kind: String,
    key: Vec<u8>,
    is_revoked: bool,
}

impl Trusted {
    /// Looks a server up.
    pub fn of(login: &Login, session: &Session) -> Result<Self> {
        if let Some(text) = &login.host_key {
            let hash = text.trim().trim_start_matches("SHA256:").trim_end_matches('=');
            return Ok(Self::Fingerprint(hash.to_owned()));
        }
        let file = match &login.known_hosts {
            Some(file) => file.clone(),
            None => std::path::PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".ssh/known_hosts"),
        };
        let text = std::fs::read_to_string(&file).map_err(|e| {
            Error::config("cannot read the file of known host keys")
                .with("file", file.display())
                .hint("name it by `known_hosts`, or give the fingerprint of the server's key as `host_key`")
                .caused_by(e)
        })?;
        let keys = text.lines().filter_map(|line| known(line, login, session)).collect();
        Ok(Self::Keys(keys))
    }

    /// The types of keys to ask the server for: it has several, and only those that we know can be compared.
    pub fn methods(&self, legacy: bool) -> String {
        let sha1 = if legacy { ",ssh-rsa" } else { "" };
        let rsa = format!("rsa-sha2-512,rsa-sha2-256{sha1}");
        let all = format!("ssh-ed25519,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,{rsa}");
        let Self::Keys(keys) = self else { return all };
        let mut names: Vec<&str> = Vec::new();
        for known in keys.iter().filter(|known| !known.is_revoked) {
            let name = if known.kind == "ssh-rsa" { rsa.as_str() } else { known.kind.as_str() };
            if !names.contains(&name) && all.contains(name) {
                names.push(name);
            }
        }
        if names.is_empty() { all } else { names.join(",") }
    }

    /// Compares the key that the server has shown it holds.
    ///
    /// # Errors
    /// `Unauthenticated`: it is unknown, another one, or revoked.
    pub fn check(&self, key: &[u8], login: &Login) -> Result<()> {
        let shown = STANDARD_NO_PAD.encode(Sha256::digest(key));
        let refused = |what: &str| {
            Error::new(ErrorKind::Unauthenticated, what)
                .with("host", &login.host)
                .with("port", login.port)
                .with("shown", format!("SHA256:{shown}"))
        };
        let changed = "ask the operator of the server whether its key has changed; if so, replace the old one. Else \
                       somebody stands in between";
        match self {
            Self::Fingerprint(hash) if *hash == shown => Ok(()),
            Self::Fingerprint(_) => Err(refused("the server's key is not the one of `host_key`").hint(changed)),
            Self::Keys(keys) if keys.iter().any(|known| known.is_revoked && known.key == key) => {
                Err(refused("the server's key is revoked in `known_hosts`").hint(changed))
            }
            Self::Keys(keys) if keys.iter().any(|known| known.key == key) => Ok(()),
            Self::Keys(keys) if keys.iter().all(|known| known.is_revoked) => {
                Err(refused("the server's key is not in `known_hosts`").hint(
                    "compare the fingerprint with the operator's, then add the line that `ssh-keyscan` prints, or set \
                     `host_key`",
                ))
            }
            Self::Keys(_) => Err(refused("the server's key is not the one of `known_hosts`").hint(changed)),
        }
    }
}

/// The key of a line of `known_hosts`, where the line is about this server. The library compares the names, plain or
/// hashed; asked with the line's own key, it says whether the line is about the host.
fn known(line: &str, login: &Login, session: &Session) -> Option<Known> {
    let line = line.trim();
    let (is_revoked, line) = match line.strip_prefix("@revoked") {
        Some(rest) => (true, rest.trim_start()),
        None => (false, line),
    };
    if line.is_empty() || line.starts_with(['#', '@']) {
        return None;
    }
    let mut words = line.split_ascii_whitespace();
    let (hosts, kind, text) = (words.next()?, words.next()?, words.next()?);
    let key = STANDARD.decode(text).ok()?;
    let mut lines = session.known_hosts().ok()?;
    lines.read_str(&format!("{hosts} {kind} {text}"), KnownHostFileKind::OpenSSH).ok()?;
    let is_about = matches!(lines.check_port(&login.host, login.port, &key), CheckResult::Match);
    is_about.then(|| Known { kind: kind.to_owned(), key, is_revoked })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

    fn login() -> Login {
        Login { host: "files.example.com".into(), port: 2222, ..Login::default() }
    }

    fn trusted(lines: &str) -> Trusted {
        let session = Session::new().expect("session");
        Trusted::Keys(lines.lines().filter_map(|line| known(line, &login(), &session)).collect())
    }

    #[test]
    fn only_lines_about_the_host_count() {
        let key = STANDARD.decode(ED25519).expect("base64");
        let here = trusted(&format!("[files.example.com]:2222 ssh-ed25519 {ED25519} comment"));
        here.check(&key, &login()).expect("known");
        assert_eq!(here.methods(false), "ssh-ed25519");
        let error = here.check(b"another", &login()).expect_err("changed");
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        assert!(error.to_string().contains("is not the one of `known_hosts`"), "{error}");
        let elsewhere = trusted(&format!("other.example.com ssh-ed25519 {ED25519}\n# comment\nnot a line\n"));
        let error = elsewhere.check(&key, &login()).expect_err("unknown").to_string();
        assert!(error.contains("is not in `known_hosts`"), "{error}");
        let revoked = trusted(&format!("@revoked [files.example.com]:2222 ssh-ed25519 {ED25519}"));
        let error = revoked.check(&key, &login()).expect_err("revoked").to_string();
        assert!(error.contains("revoked"), "{error}");
    }

    #[test]
    fn a_fingerprint_is_compared_whole() {
        let key = STANDARD.decode(ED25519).expect("base64");
        let hash = STANDARD_NO_PAD.encode(Sha256::digest(&key));
        Trusted::Fingerprint(hash).check(&key, &login()).expect("the same");
        assert!(Trusted::Fingerprint("A".repeat(43)).check(&key, &login()).is_err());
    }
}
