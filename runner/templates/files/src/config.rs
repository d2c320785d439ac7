//! The configuration of a source.

use std::path::PathBuf;

use ingest_core::JsonSchema;
use serde::Deserialize;

/// Reads the files of one folder.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct AcmeConfig {
    /// The folder. Each folder in it is a stream; its files `*.acme` are read in the order of their names.
    pub path: PathBuf,
}
