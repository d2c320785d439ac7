//! The configuration of a source.

use std::collections::BTreeMap;
use std::path::Path;

use ingest_core::config::{Span, Tls};
use ingest_core::schemars::{Schema, SchemaGenerator, json_schema};
use ingest_core::{Error, Json, JsonSchema, Result, Secret};
use serde::{Deserialize, Deserializer};

use crate::manifest::Manifest;
use crate::strict::{self, Place};
use crate::yaml;

/// Reads a REST API that a manifest describes.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct RestConfig {
    /// The manifest: the path of a YAML file, relative to the configuration file (`./acme.yaml`), or the manifest itself
    /// as a map, where `$${…}` has to be written for `${…}`.
    pub manifest: ManifestSource,
    /// The values that the manifest declares, by name.
    pub values: BTreeMap<String, String>,
    /// The secrets that the manifest declares, by name. Example: `{token: "${ACME_TOKEN}"}`.
    pub secrets: BTreeMap<String, Secret>,
    /// A base URL in place of the manifest's: another region, a sandbox, a server on this machine.
    pub endpoint: Option<String>,
    /// First loads of incremental streams read from this time on, in place of what the manifest says: `2024-01-01`,
    /// `2024-01-01T12:00:00Z`.
    pub start: Option<String>,
    /// Requests per second in place of the manifest's `rate`.
    pub rate: Option<f64>,
    /// Requests under way at once. Default: 8.
    pub concurrency: u16,
    /// How long silence of the server is borne, in one attempt of a request. Default: `30s`.
    pub timeout: Span,
    /// How the connection is protected. Left out, certificates are checked fully; plain HTTP stays on this machine.
    pub tls: Option<Tls>,
    /// Authorities to trust in place of the system's: PEM text, or the path of a PEM file.
    pub tls_ca: Option<String>,
    /// Lets plain HTTP leave this machine, as `tls: danger_plaintext` does. Anyone on the way can then read the secrets.
    pub danger_plaintext: bool,
    /// How requests are repeated; tests make the pauses short.
    #[doc(hidden)]
    #[serde(skip)]
    #[schemars(skip)]
    pub retry: Option<ingest_http::Retry>,
}

impl Default for RestConfig {
    fn default() -> Self {
        Self {
            manifest: ManifestSource::default(),
            values: BTreeMap::new(),
            secrets: BTreeMap::new(),
            endpoint: None,
            start: None,
            rate: None,
            concurrency: 8,
            timeout: Span::seconds(30),
            tls: None,
            tls_ca: None,
            danger_plaintext: false,
            retry: None,
        }
    }
}

/// A path, or the manifest itself.
#[derive(Debug, Clone, Default)]
pub struct ManifestSource(pub Json);

impl<'de> Deserialize<'de> for ManifestSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match Json::deserialize(deserializer)? {
            value @ (Json::String(_) | Json::Object(_)) => Ok(Self(value)),
            _ => Err(serde::de::Error::custom("expected the path of a manifest, or the manifest as a map")),
        }
    }
}

impl JsonSchema for ManifestSource {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ManifestSource".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let inline = Manifest::json_schema(generator);
        // The format tells the runner that a text is a path from the folder of the configuration.
        json_schema!({"format": "path", "anyOf": [{"type": "string"}, inline]})
    }

    fn inline_schema() -> bool {
        true
    }
}

impl RestConfig {
    /// Reads the manifest, from its file if it has one.
    ///
    /// # Errors
    /// `ConfigInvalid`: there is none, it cannot be read, a key is unknown or has a wrong type.
    pub(crate) async fn manifest(&self) -> Result<(Manifest, Place)> {
        let (value, place) = match &self.manifest.0 {
            Json::String(path) => {
                let text = text_of(Path::new(path)).await?;
                let document = yaml::parse(&text).map_err(|what| {
                    Error::config(format!("cannot read the manifest {path}: {what}")).hint("correct the file")
                })?;
                (document.value, Place { file: Some(path.clone()), lines: document.lines })
            }
            Json::Null => {
                return Err(Error::config("invalid configuration: manifest: is missing")
                    .hint("write `manifest: ./acme.yaml`; `ingest connectors rest` explains what is in it"));
            }
            inline => (inline.clone(), Place { file: None, lines: yaml::Lines::new() }),
        };
        Ok((strict::read(&value, &place)?, place))
    }

    /// Finds what is wrong with the source's own fields.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            wrong.push("rate: must be greater than 0".to_owned());
        }
        if !(1..=100).contains(&self.concurrency) {
            wrong.push("concurrency: must be 1 to 100".to_owned());
        }
        if self.timeout.0.is_zero() {
            wrong.push("timeout: must be greater than 0".to_owned());
        }
        if let Some(start) = &self.start
            && crate::bounds::parse_start(start).is_none()
        {
            wrong.push("start: must be a date (2024-01-31) or a time (2024-01-31T12:00:00Z)".to_owned());
        }
        wrong
    }
}

async fn text_of(path: &Path) -> Result<String> {
    let refuse = |what: &str| {
        Error::config(format!("cannot read the manifest {}: {what}", path.display()))
            .hint("`manifest` is the path of a YAML file, relative to the configuration file")
    };
    let size = tokio::fs::metadata(path).await.map_err(|error| refuse(&error.kind().to_string()))?;
    if !size.is_file() {
        return Err(refuse("it is no file"));
    }
    if size.len() > yaml::MAX_BYTES as u64 {
        return Err(refuse("it is larger than 1 MiB"));
    }
    let bytes = tokio::fs::read(path).await.map_err(|error| refuse(&error.kind().to_string()))?;
    String::from_utf8(bytes).map_err(|_| refuse("it is not UTF-8"))
}
