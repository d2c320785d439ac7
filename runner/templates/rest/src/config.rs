//! The configuration of a source.

use ingest_core::config::Span;
use ingest_core::{JsonSchema, Secret};
use serde::Deserialize;

/// Reads the lists of one Acme account.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct AcmeConfig {
    /// Base URL of the API. Left out: the public one.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The account's API key. A key with read rights is enough. Example: `${ACME_API_KEY}`.
    pub api_key: Secret,
    /// Records a page, 1 to 1000. Larger pages cost fewer requests.
    #[serde(default = "page_size")]
    #[schemars(range(min = 1, max = 1000))]
    pub page_size: u32,
    /// How long to wait for an answer.
    #[serde(default = "timeout")]
    pub timeout: Span,
}

fn page_size() -> u32 {
    500
}

fn timeout() -> Span {
    Span::seconds(30)
}
