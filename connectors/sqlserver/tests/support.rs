//! A source over tables of its own: on the stand-in, or on the server that `INGEST_TEST_MSSQL_URL` names.

use std::sync::atomic::{AtomicU32, Ordering};

use ingest_connector_sqlserver::SqlServer as Connector;
use ingest_core::{Builtin, Context, Factory, Json, Result, Source};
pub use ingest_testkit::reading::{How, assert_range, fails, ids, plan, read, run, streams, texts, warnings};
use ingest_testkit::sqlserver::{self, PASSWORD, Script, USER};
use serde_json::json;
use tiberius::{AuthMethod, Client, ColumnData, Config, EncryptionLevel};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_util::compat::{Compat, TokioAsyncWriteCompatExt};
use url::Url;

/// A source over a schema of its own.
pub struct Shop {
    script: Option<Script>,
    pub schema: String,
    pub config: Json,
    session: Session,
}

/// A session of the test, beside those of the connector.
pub enum Session {
    Script(sqlserver::Session),
    Server(Box<Mutex<Client<Compat<TcpStream>>>>),
}

impl Shop {
    /// A new schema with these tables; `$` in a statement is the schema. Statements are parted by `;` at the end of a line.
    pub async fn new(sql: &str) -> Self {
        let Ok(url) = std::env::var("INGEST_TEST_MSSQL_URL") else { return Self::scripted(sql).await };
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let schema = format!("ingest_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let url = Url::parse(&url)
            .expect("INGEST_TEST_MSSQL_URL is a URL: mssql://user:password@host:port/database?tls=require");
        let decoded = |text: &str| {
            url::form_urlencoded::parse(format!("x={}", text.replace('+', "%2B")).as_bytes())
                .next()
                .map_or(String::new(), |(_, value)| value.into_owned())
        };
        let mut config = json!({
            "host": url.host_str().expect("a host"), "port": url.port().unwrap_or(1433), "user": decoded(url.username()),
            "password": decoded(url.password().unwrap_or_default()), "database": url.path().trim_start_matches('/')});
        if let Some((_, tls)) = url.query_pairs().find(|(key, _)| key == "tls") {
            config["tls"] = tls.into_owned().into();
        }
        let session = Session::Server(Box::new(Mutex::new(client(&config).await)));
        session.sql(&format!("CREATE SCHEMA {schema}")).await;
        let shop = Self { script: None, schema, config, session };
        shop.sql(sql).await;
        shop
    }

    /// The same on the stand-in, whatever the environment says.
    pub async fn scripted(sql: &str) -> Self {
        let script = Script::start().await;
        let config = json!({"host": "127.0.0.1", "port": script.port(), "user": USER, "password": PASSWORD});
        let session = Session::Script(script.session());
        let shop = Self { script: Some(script), schema: "shop".into(), config, session };
        shop.sql(sql).await;
        shop
    }

    /// The stand-in; only for tests that ask for it.
    pub fn script(&self) -> &Script {
        self.script.as_ref().expect("a shop of the stand-in")
    }

    pub async fn sql(&self, sql: &str) {
        self.session.sql(&sql.replace('$', &self.schema)).await;
    }

    /// Another session, for a transaction that stays open.
    pub async fn session(&self) -> Session {
        match &self.script {
            Some(script) => Session::Script(script.session()),
            None => Session::Server(Box::new(Mutex::new(client(&self.config).await))),
        }
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
        format!("{}.{table}", self.schema)
    }
}

impl Session {
    pub async fn sql(&self, sql: &str) {
        for statement in sql.split(";\n") {
            match self {
                Self::Script(session) => session.sql(statement),
                Self::Server(client) => {
                    let mut client = client.lock().await;
                    let answer = client.simple_query(statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
                    answer.into_results().await.unwrap_or_else(|e| panic!("{statement}: {e}"));
                }
            }
        }
    }

    /// The rows of a query whose columns are texts.
    pub async fn texts(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let Self::Server(client) = self else {
            let Self::Script(session) = self else { unreachable!("there are two") };
            return session.texts(sql);
        };
        let mut client = client.lock().await;
        let rows = client.simple_query(sql).await.expect("valid SQL").into_first_result().await.expect("rows");
        let text = |value: &ColumnData<'_>| match value {
            ColumnData::String(text) => text.as_deref().map(str::to_owned),
            other => panic!("{other:?} is no text"),
        };
        rows.iter().map(|row| row.cells().map(|(_, value)| text(value)).collect()).collect()
    }
}

async fn client(config: &Json) -> Client<Compat<TcpStream>> {
    let text = |key: &str| config[key].as_str().unwrap_or_default();
    let mut options = Config::new();
    options.host(text("host"));
    options.port(config["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port"));
    options.database(text("database"));
    options.authentication(AuthMethod::sql_server(text("user"), text("password")));
    match text("tls") {
        "danger_plaintext" | "" => options.encryption(EncryptionLevel::NotSupported),
        _ => options.trust_cert(),
    }
    let socket = TcpStream::connect(options.get_addr()).await.expect("the server of INGEST_TEST_MSSQL_URL");
    Client::connect(options, socket.compat_write()).await.expect("a login")
}

pub async fn open(config: Json) -> Result<Box<dyn Source>> {
    Builtin::<Connector>::new().open(config, Context::standalone("shop")).await
}

/// Statements that insert rows numbered from 1; `row` writes the values of a number. A statement takes at most 1,000 rows.
pub fn numbered(table: &str, columns: &str, count: u32, row: impl Fn(u32) -> String) -> String {
    let numbers: Vec<u32> = (1..=count).collect();
    let insert = |numbers: &[u32]| {
        let rows: Vec<String> = numbers.iter().map(|i| format!("({})", row(*i))).collect();
        format!("INSERT INTO {table} ({columns}) VALUES {}", rows.join(", "))
    };
    numbers.chunks(1_000).map(insert).collect::<Vec<_>>().join(";\n")
}
