//! The configuration of a source.

use std::collections::BTreeMap;

use ingest_core::config::{ByteSize, Span, Tls, is_loopback};
use ingest_core::{Error, JsonSchema, Result, Secret};
use ingest_sql::{Fault, Login};
use mongodb::options::{ConnectionString, HostInfo, ServerAddress, Tls as ClientTls};
use serde::Deserialize;

use crate::types::Kind;

/// Reads collections of a MongoDB server, replica set or sharded cluster.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct MongodbConfig {
    /// Where the server is: `mongodb://h1,h2/?replicaSet=rs0`. It may hold user and password. Default: `mongodb://localhost:27017`.
    pub uri: Secret,
    /// Only the collections of this database. Default: the one in `uri`, else those of all databases, as `database.collection`.
    pub database: String,
    /// User, where `uri` names none. An account that may only read is enough, and all that should be given.
    pub user: String,
    /// Password.
    pub password: Secret,
    /// How the connection is protected. Default: `verify-full`; on loopback plaintext, unless `tls`, `tls_ca` or `uri` says otherwise.
    pub tls: Option<Tls>,
    /// Certificates of the authorities to trust, as PEM text or the path of a PEM file. Default: those of the operating
    /// system.
    pub tls_ca: Option<String>,
    /// Certificate to show to the server, as PEM text or the path of a PEM file. Needs `tls_key`.
    pub tls_cert: Option<String>,
    /// Private key of `tls_cert`, as PEM text (`${file:/run/secrets/key.pem}`) or the path of a PEM file.
    pub tls_key: Option<Secret>,
    /// How documents become rows. Default: `columns`.
    pub documents: Documents,
    /// Documents that are looked at to find the columns of a collection, half of them the first by `_id`, half the last. Default: 1000.
    pub sample: u32,
    /// Types of fields that are not left to the sample, by stream: `{orders: {total: "decimal(18,2)", tags: json}}`.
    pub types: BTreeMap<String, BTreeMap<String, Kind>>,
    /// What an update gives with `mode: cdc`. Default: `updateLookup`.
    pub full_document: FullDocument,
    /// What a delete gives with `mode: cdc`. Default: `off`.
    pub full_document_before_change: BeforeChange,
    /// Incremental reads stay this far behind the server's clock: what is written by then is taken to be visible. Default: 60s,
    /// which is how long a transaction of MongoDB may take.
    pub lag: Span,
    /// Collections or ranges that are read at once. Default: 4.
    pub max_connections: u16,
    /// Longest time to find a server that answers, and to log in. Default: 20s.
    pub connect_timeout: Span,
    /// Longest silence of the server. Default: 60s.
    pub timeout: Span,
}

/// How documents become rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(crate = "ingest_core::schemars", inline)]
pub enum Documents {
    /// A column for each field.
    #[default]
    Columns,
    /// `_id`, and the whole document as canonical extended JSON.
    Json,
}

/// What an update gives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(crate = "ingest_core::schemars", inline)]
pub enum FullDocument {
    /// The document as it is when the change is read.
    #[default]
    UpdateLookup,
    /// The document as the update left it; the collection must keep post-images.
    Required,
}

/// What a delete gives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(crate = "ingest_core::schemars", inline)]
pub enum BeforeChange {
    /// The key alone.
    #[default]
    Off,
    /// The document as it was, where the collection keeps pre-images.
    WhenAvailable,
    /// The document as it was; the collection must keep pre-images.
    Required,
}

impl Default for MongodbConfig {
    fn default() -> Self {
        Self {
            uri: Secret::new("mongodb://localhost:27017"),
            database: String::new(),
            user: String::new(),
            password: Secret::default(),
            tls: None,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            documents: Documents::Columns,
            sample: 1_000,
            types: BTreeMap::new(),
            full_document: FullDocument::UpdateLookup,
            full_document_before_change: BeforeChange::Off,
            lag: Span::seconds(60),
            max_connections: 4,
            connect_timeout: Span::seconds(20),
            timeout: Span::seconds(60),
        }
    }
}

/// A configuration that was looked at.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) config: MongodbConfig,
    pub(crate) uri: ConnectionString,
    /// The database of the streams; `None` = all.
    pub(crate) database: Option<String>,
    /// The protection that holds; `None` = plaintext.
    pub(crate) protection: Option<Tls>,
    /// Whether the servers are on this machine.
    pub(crate) local: bool,
}

impl MongodbConfig {
    /// Reports everything that is wrong, together.
    pub(crate) fn settings(self, source: &str) -> Result<Settings> {
        // The client's message may quote what it does not understand.
        let uri = ConnectionString::parse(self.uri.expose()).map_err(|_| {
            Error::config(format!("invalid configuration: sources.{source}.uri: is no address of a MongoDB server"))
                .hint("write e.g. mongodb://host:27017/?replicaSet=rs0; characters such as @ and / in a password are written %40 and %2F")
        })?;
        let hosts = hosts(&uri.host_info);
        let local = hosts.iter().all(|host| is_loopback(host));
        // Whatever is not on this machine decides.
        let host = hosts.iter().find(|host| !is_loopback(host)).or(hosts.first()).cloned().unwrap_or_default();
        let in_uri = match &uri.tls {
            Some(ClientTls::Enabled(options)) => Some(options.clone()),
            _ => None,
        };
        let login = self.login(&host);
        let protection = match (login.protection(), &in_uri, self.tls) {
            (None, Some(_), None) => Some(Tls::VerifyFull),
            (protection, ..) => protection,
        };
        // A user may stand in `uri`, or be the subject of a certificate.
        let mut faults: Vec<Fault> = login.faults().into_iter().filter(|(key, _)| *key != "user").collect();
        let named = uri.credential.as_ref().is_some_and(|credential| credential.username.is_some());
        let checks = [
            (named && !self.user.is_empty(), "user", "stands in uri, too"),
            (
                matches!(uri.host_info, HostInfo::DnsRecord(_)),
                "uri",
                "is mongodb+srv, which this build does not look up; write mongodb:// with the hosts of its SRV record",
            ),
            (self.user.is_empty() && !self.password.is_empty(), "password", "has no user"),
            (
                in_uri.as_ref().and_then(|tls| tls.allow_invalid_certificates) == Some(true),
                "uri",
                "switches the check of certificates off; write tls: require",
            ),
            (
                protection == Some(Tls::VerifyCa),
                "tls",
                "is verify-ca, which the client does not know; write verify-full",
            ),
            (!(1..=100_000).contains(&self.sample), "sample", "is not between 1 and 100000"),
        ];
        faults.extend(checks.into_iter().filter_map(|(wrong, key, why)| wrong.then_some((key, why))));
        ingest_sql::refuse("mongodb", source, &faults)?;
        let database = match self.database.as_str() {
            "" => uri.default_database.clone(),
            named => Some(named.to_owned()),
        };
        Ok(Settings { uri, database, protection, local, config: self })
    }

    /// The keys that every connector of a database has.
    pub(crate) fn login<'a>(&'a self, host: &'a str) -> Login<'a> {
        Login {
            host,
            port: 27_017,
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
            // The server takes no larger document.
            max_row_bytes: ByteSize(16 << 20),
        }
    }
}

fn hosts(info: &HostInfo) -> Vec<String> {
    match info {
        HostInfo::HostIdentifiers(hosts) => hosts
            .iter()
            .map(|host| match host {
                ServerAddress::Tcp { host, .. } => host.clone(),
                other => other.to_string(),
            })
            .collect(),
        HostInfo::DnsRecord(name) => vec![name.clone()],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(uri: &str) -> MongodbConfig {
        MongodbConfig { uri: Secret::new(uri), ..MongodbConfig::default() }
    }

    #[test]
    fn all_problems_are_reported_together() {
        let wrong = MongodbConfig {
            user: "u".into(),
            max_connections: 0,
            sample: 0,
            tls: Some(Tls::VerifyCa),
            tls_cert: Some("x".into()),
            ..config("mongodb://a:canary@h/?tlsAllowInvalidCertificates=true&tls=true")
        };
        let text = wrong.settings("shop").expect_err("problems").to_string();
        for key in ["user", "max_connections", "tls_cert", "uri", "tls", "sample"] {
            assert!(text.contains(&format!("sources.shop.{key}: ")), "{key}: {text}");
        }
        assert!(!text.contains("canary"));
    }

    #[test]
    fn a_password_in_the_address_is_never_printed() {
        let error = config("mongodb://u:can@ary/@h/x?y").settings("shop").expect_err("no address");
        assert!(!format!("{error:?} {error}").contains("can@"));
        assert!(!format!("{:?}", config("mongodb://u:canary@h")).contains("canary"));
    }

    #[test]
    fn plaintext_needs_loopback_or_danger() {
        let held = |uri: &str| config(uri).settings("s").expect("settings").protection;
        assert_eq!(held("mongodb://localhost:1"), None);
        assert_eq!(held("mongodb://localhost:1/?tls=true"), Some(Tls::VerifyFull));
        assert_eq!(held("mongodb://localhost:1,db.example.com"), Some(Tls::VerifyFull));
        assert_eq!(held("mongodb://db.example.com/?tls=false"), Some(Tls::VerifyFull));
        let open = MongodbConfig { tls: Some(Tls::DangerPlaintext), ..config("mongodb://db.example.com") };
        assert_eq!(open.settings("s").expect("settings").protection, None);
    }

    #[test]
    fn the_database_may_stand_in_the_address() {
        let database = |config: MongodbConfig| config.settings("s").expect("settings").database;
        assert_eq!(database(config("mongodb://localhost/shop")).as_deref(), Some("shop"));
        assert_eq!(database(config("mongodb://localhost")), None);
        let both = MongodbConfig { database: "other".into(), ..config("mongodb://localhost/shop") };
        assert_eq!(database(both).as_deref(), Some("other"));
    }
}
