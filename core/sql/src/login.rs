//! How a database server is reached: the keys that every connector of one has, and what can be wrong with them.

use ingest_core::config::{ByteSize, Span, Tls, is_loopback};
use ingest_core::{Error, Result, Secret};

/// A key of the configuration, and what is wrong with it.
pub type Fault = (&'static str, &'static str);

/// The keys that are about a server and its account. Borrowed from the configuration of a connector.
#[derive(Debug, Clone, Copy)]
pub struct Login<'a> {
    /// Name, address, or the folder or path of a Unix socket.
    pub host: &'a str,
    /// Port of TCP.
    pub port: u16,
    /// The database; may be empty.
    pub database: &'a str,
    /// The account.
    pub user: &'a str,
    /// Its password; may be empty.
    pub password: &'a Secret,
    /// How the connection is protected; left out, by where the server is.
    pub tls: Option<Tls>,
    /// Authorities to trust in place of the system's.
    pub tls_ca: Option<&'a str>,
    /// Our own certificate.
    pub tls_cert: Option<&'a str>,
    /// Its key.
    pub tls_key: Option<&'a Secret>,
    /// Connections at once.
    pub max_connections: u16,
    /// How long connecting may take.
    pub connect_timeout: Span,
    /// How long silence is borne.
    pub timeout: Span,
    /// The largest row.
    pub max_row_bytes: ByteSize,
}

impl Login<'_> {
    /// The protection that holds; `None` = plaintext, which stays on this machine unless it is asked for.
    pub fn protection(&self) -> Option<Tls> {
        match self.tls {
            Some(Tls::DangerPlaintext) => None,
            Some(tls) => Some(tls),
            None if is_loopback(self.host) && self.tls_ca.is_none() && self.tls_cert.is_none() => None,
            None => Some(Tls::VerifyFull),
        }
    }

    /// Everything that is wrong, in the order of the keys.
    pub fn faults(&self) -> Vec<Fault> {
        let zero = |text: &str| text.contains('\0');
        let (own, plain) = (self.tls_cert.is_some(), self.tls == Some(Tls::DangerPlaintext));
        [
            (self.user.is_empty(), "user", "is missing"),
            (self.host.is_empty(), "host", "is empty"),
            (zero(self.host), "host", "contains a zero byte"),
            (zero(self.database), "database", "contains a zero byte"),
            (zero(self.user), "user", "contains a zero byte"),
            (zero(self.password.expose()), "password", "contains a zero byte"),
            (self.port == 0, "port", "is 0"),
            (!(1..=64).contains(&self.max_connections), "max_connections", "is not between 1 and 64"),
            (self.connect_timeout.0.is_zero(), "connect_timeout", "is 0; write e.g. 30s"),
            (self.timeout.0.is_zero(), "timeout", "is 0; write e.g. 30s"),
            // A frame of PostgreSQL counts its length in 31 bits, a packet of MySQL ends at 1 GiB.
            (
                !((64 << 10)..=(1 << 30)).contains(&self.max_row_bytes.0),
                "max_row_bytes",
                "is not between 64KiB and 1GiB",
            ),
            (own != self.tls_key.is_some(), "tls_cert", "tls_cert and tls_key belong together, one is missing"),
            (
                plain && (self.tls_ca.is_some() || own),
                "tls",
                "is danger_plaintext, so tls_ca, tls_cert and tls_key would have no effect",
            ),
        ]
        .into_iter()
        .filter_map(|(wrong, key, why)| wrong.then_some((key, why)))
        .collect()
    }
}

/// All faults of a source's configuration as one error.
///
/// # Errors
/// `ConfigInvalid` that names each key, where there is a fault.
pub fn refuse(connector: &str, source: &str, faults: &[Fault]) -> Result<()> {
    if faults.is_empty() {
        return Ok(());
    }
    let wrong: Vec<String> = faults.iter().map(|(key, why)| format!("sources.{source}.{key}: {why}")).collect();
    Err(Error::config(format!("invalid configuration: {}", wrong.join("; ")))
        .hint(format!("`ingest connectors {connector}` lists every field")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login<'a>(host: &'a str, tls: Option<Tls>, password: &'a Secret) -> Login<'a> {
        Login {
            host,
            port: 1,
            database: "d",
            user: "u",
            password,
            tls,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            max_connections: 4,
            connect_timeout: Span::seconds(1),
            timeout: Span::seconds(1),
            max_row_bytes: ByteSize(1 << 20),
        }
    }

    #[test]
    fn plaintext_needs_loopback_or_danger() {
        let none = Secret::default();
        let held = |host, tls| login(host, tls, &none).protection();
        assert_eq!(held("db.example.com", None), Some(Tls::VerifyFull));
        assert_eq!(held("127.0.0.1", None), None);
        assert_eq!(held("/run/mysqld/mysqld.sock", None), None);
        assert_eq!(held("localhost", Some(Tls::VerifyFull)), Some(Tls::VerifyFull));
        assert_eq!(held("db.example.com", Some(Tls::DangerPlaintext)), None);
        let trusting = Login { tls_ca: Some("ca.pem"), ..login("localhost", None, &none) };
        assert_eq!(trusting.protection(), Some(Tls::VerifyFull));
    }

    #[test]
    fn every_fault_is_named_with_its_key() {
        let (password, key) = (Secret::new("a\0b"), Secret::new("k"));
        let wrong = Login {
            port: 0,
            database: "a\0",
            user: "",
            tls_key: Some(&key),
            tls_ca: Some("ca"),
            max_connections: 65,
            connect_timeout: Span::seconds(0),
            timeout: Span::seconds(0),
            max_row_bytes: ByteSize(1),
            ..login("", Some(Tls::DangerPlaintext), &password)
        };
        let keys: Vec<&str> = wrong.faults().into_iter().map(|(key, _)| key).collect();
        let expected = [
            "user",
            "host",
            "database",
            "password",
            "port",
            "max_connections",
            "connect_timeout",
            "timeout",
            "max_row_bytes",
            "tls_cert",
            "tls",
        ];
        assert_eq!(keys, expected);
        let error = refuse("acme", "shop", &wrong.faults()).expect_err("faults").to_string();
        assert!(error.contains("sources.shop.port: is 0; sources.shop.max_connections"), "{error}");
        let none = Secret::default();
        assert!(refuse("acme", "shop", &login("h", None, &none).faults()).is_ok());
    }
}
