//! A stand-in, and sources that read it.

use std::sync::Arc;

use ingest_connector_salesforce::Salesforce;
use ingest_core::{Builtin, Context, Factory, Json, Result, Source};
use ingest_testkit::salesforce::{CLIENT_ID, CLIENT_SECRET, SalesforceServer};
use serde_json::json;

/// When the tests take place: behind the clock of this machine, which the connector compares with the server's.
pub const NOW: i64 = 1_760_000_000_000;
pub const MINUTE: i64 = 60_000;
pub const DAY: i64 = 24 * 60 * MINUTE;

pub struct Lab {
    pub server: Arc<SalesforceServer>,
}

impl Lab {
    pub async fn start() -> Self {
        let server = Arc::new(SalesforceServer::start().await);
        server.freeze(NOW);
        Self { server }
    }

    /// The configuration with further fields.
    pub fn config(&self, more: Json) -> Json {
        let mut config = config(self.server.url());
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }

    pub async fn open(&self) -> Box<dyn Source> {
        self.open_with(json!({})).await.unwrap()
    }

    pub async fn open_with(&self, more: Json) -> Result<Box<dyn Source>> {
        open(self.config(more)).await
    }
}

pub fn config(endpoint: &str) -> Json {
    json!({"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "endpoint": endpoint})
}

pub async fn open(config: Json) -> Result<Box<dyn Source>> {
    Builtin::<Salesforce>::new().open(config, Context::standalone("salesforce")).await
}
