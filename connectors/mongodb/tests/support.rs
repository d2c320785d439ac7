//! A source over a database of its own.

use bson::{Document, doc};
use ingest_connector_mongodb::Mongodb as Connector;
use ingest_core::{Builtin, Context, Factory, Json, Result, Source};
use ingest_testkit::mongo::Mongo;
pub use ingest_testkit::reading::{How, assert_range, fails, ids, plan, read, run, streams, texts};
use mongodb::{Client, Database};
use serde_json::json;

/// A source over a database of its own.
pub struct Shop {
    pub server: &'static Mongo,
    pub database: Database,
    pub config: Json,
}

impl Shop {
    /// A new database; `None` where the server is skipped.
    pub async fn new() -> Option<Self> {
        let server = Mongo::shared().await?;
        // A client belongs to the runtime of its test.
        let client = Client::with_uri_str(&server.uri).await.expect("a client");
        let name = server.database();
        let config = json!({"uri": server.uri, "database": name, "connect_timeout": "3s", "lag": "0s"});
        Some(Self { server, database: client.database(&name), config })
    }

    /// Adds documents to a collection.
    pub async fn insert(&self, collection: &str, documents: impl IntoIterator<Item = Document>) {
        let documents: Vec<Document> = documents.into_iter().collect();
        self.database.collection::<Document>(collection).insert_many(documents).await.expect("documents");
    }

    /// The configuration with a field changed.
    pub fn with(mut self, key: &str, value: impl Into<Json>) -> Self {
        self.config[key] = value.into();
        self
    }

    pub async fn open(&self) -> Box<dyn Source> {
        open(self.config.clone()).await.expect("a valid configuration")
    }
}

pub async fn open(config: Json) -> Result<Box<dyn Source>> {
    Builtin::<Connector>::new().open(config, Context::standalone("shop")).await
}

/// Documents `{_id: f(i), n: i, pad}` for 1 to `count`.
pub fn numbered(count: i32, id: impl Fn(i32) -> bson::Bson) -> Vec<Document> {
    (1..=count).map(|i| doc! { "_id": id(i), "n": i, "pad": "x".repeat(100) }).collect()
}
