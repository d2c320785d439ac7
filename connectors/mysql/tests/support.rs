//! A source over a database of its own, on each server.

use std::sync::OnceLock;

use ingest_connector_mysql::Mysql as Connector;
use ingest_core::{Builtin, Context, Factory, Json, Result, Source};
use ingest_testkit::mysql::{Database, Flavour, Mysql, Options, PASSWORD};
pub use ingest_testkit::reading::{How, assert_range, fails, ids, plan, read, run, streams, texts};
use serde_json::json;

/// A source over a database of its own.
pub struct Shop {
    pub server: &'static Mysql,
    pub database: Database,
    pub config: Json,
    /// Held by tests that must be alone on their server.
    _turn: Option<tokio::sync::MutexGuard<'static, ()>>,
}

impl Shop {
    /// A new database with these tables, on MariaDB and on MySQL; not on those that are skipped.
    pub async fn each(sql: &str) -> Vec<Self> {
        let mut shops = Vec::new();
        for flavour in Flavour::ALL {
            shops.extend(Self::on(flavour, sql).await);
        }
        shops
    }

    /// A new database with these tables; `None` where the server is skipped.
    pub async fn on(flavour: Flavour, sql: &str) -> Option<Self> {
        // Starting a server takes a while, and must not keep the others of this process from working.
        let server = tokio::task::spawn_blocking(move || Mysql::shared(flavour)).await.expect("a server")?;
        Some(Self::new(server, None, sql).await)
    }

    /// As [`Shop::on`], on a server where no other test has a transaction: one that is open when a plan is made bounds what is
    /// read, whatever it writes.
    pub async fn alone(flavour: Flavour, sql: &str) -> Option<Self> {
        static SERVERS: [OnceLock<Option<Mysql>>; 2] = [OnceLock::new(), OnceLock::new()];
        static TURNS: [tokio::sync::Mutex<()>; 2] =
            [tokio::sync::Mutex::const_new(()), tokio::sync::Mutex::const_new(())];
        let i = usize::from(flavour == Flavour::Mysql);
        let turn = TURNS[i].lock().await;
        let start = move || SERVERS[i].get_or_init(|| Mysql::private(flavour, &Options::default())).as_ref();
        let server = tokio::task::spawn_blocking(start).await.expect("a server")?;
        Some(Self::new(server, Some(turn), sql).await)
    }

    async fn new(server: &'static Mysql, turn: Option<tokio::sync::MutexGuard<'static, ()>>, sql: &str) -> Self {
        let database = server.database().await;
        database.sql(sql).await;
        let config = json!({"host": "127.0.0.1", "port": server.port(), "database": database.name, "user": "root",
            "password": PASSWORD});
        Self { server, database, config, _turn: turn }
    }

    pub async fn sql(&self, sql: &str) {
        self.database.sql(sql).await;
    }

    /// The configuration with a field changed.
    pub fn with(mut self, key: &str, value: impl Into<Json>) -> Self {
        self.config[key] = value.into();
        self
    }

    pub async fn open(&self) -> Box<dyn Source> {
        open(self.config.clone()).await.expect("a valid configuration")
    }

    /// A table as a stream.
    pub fn stream(&self, table: &str) -> String {
        format!("{}.{table}", self.database.name)
    }

    pub async fn texts(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.database.texts(sql).await
    }

    /// For messages of failed tests.
    pub fn flavour(&self) -> Flavour {
        self.server.flavour()
    }
}

pub async fn open(config: Json) -> Result<Box<dyn Source>> {
    Builtin::<Connector>::new().open(config, Context::standalone("shop")).await
}

/// Statements that insert rows numbered from 1: `row` is an expression of `i`. In chunks, because both servers limit recursion.
pub fn numbered(table: &str, row: &str, count: u32) -> String {
    let digit = "(SELECT 0 d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)";
    format!(
        "INSERT INTO {table} SELECT {row} FROM (SELECT 1 + a.d + 10 * b.d + 100 * c.d + 1000 * e.d + 10000 * f.d AS i \
         FROM {digit} a, {digit} b, {digit} c, {digit} e, {digit} f) n WHERE i <= {count} ORDER BY i"
    )
}
