//! A source over a database of its own, and what tests do with it.

use ingest_connector_postgres::Postgres as Connector;
use ingest_core::{Builtin, Context, Factory, Json, Result, Source};
use ingest_testkit::postgres::{Database, Postgres};
pub use ingest_testkit::reading::{How, assert_range, fails, ids, plan, read, run, streams, texts, warnings};
use serde_json::json;

/// A source over a database of its own.
pub struct Shop {
    pub server: &'static Postgres,
    pub database: Database,
    pub config: Json,
    /// Held by tests that must be alone on their server.
    _turn: Option<tokio::sync::MutexGuard<'static, ()>>,
}

impl Shop {
    /// A new database with these tables; `None` where the server is skipped.
    pub async fn new(sql: &str) -> Option<Self> {
        Self::on(Postgres::shared()?, None, sql).await
    }

    /// As [`Shop::new`], on a server where no other test has a transaction: one that ends while a plan looks at it makes the
    /// plan look further back.
    pub async fn alone(sql: &str) -> Option<Self> {
        static SERVER: std::sync::OnceLock<Option<Postgres>> = std::sync::OnceLock::new();
        static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let turn = TURN.lock().await;
        let server =
            SERVER.get_or_init(|| Postgres::private(&ingest_testkit::postgres::Options::default())).as_ref()?;
        Self::on(server, Some(turn), sql).await
    }

    async fn on(
        server: &'static Postgres,
        turn: Option<tokio::sync::MutexGuard<'static, ()>>,
        sql: &str,
    ) -> Option<Self> {
        let database = server.database().await;
        database.client.batch_execute(sql).await.expect("valid SQL");
        let config = json!({"host": "127.0.0.1", "port": server.port(), "database": database.name, "user": "postgres",
            "password": server.password()});
        Some(Self { server, database, config, _turn: turn })
    }

    pub async fn sql(&self, sql: &str) {
        self.database.client.batch_execute(sql).await.expect("valid SQL");
    }

    /// The configuration with a field changed.
    pub fn with(mut self, key: &str, value: impl Into<Json>) -> Self {
        self.config[key] = value.into();
        self
    }

    pub async fn open(&self) -> Box<dyn Source> {
        open(self.config.clone()).await.expect("a valid configuration")
    }

    /// All values of a query as text.
    pub async fn texts(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let rows = self.database.client.simple_query(sql).await.expect("valid SQL");
        rows.iter()
            .filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
                }
                _ => None,
            })
            .collect()
    }
}

pub async fn open(config: Json) -> Result<Box<dyn Source>> {
    Builtin::<Connector>::new().open(config, Context::standalone("shop")).await
}
