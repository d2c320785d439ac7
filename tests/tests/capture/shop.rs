//! The databases under test behind one face.

use std::fmt::Write;

use ingest_testkit::mysql::{self, Flavour, Mysql};
use ingest_testkit::postgres::{self, Postgres};
use serde_json::{Map, Value};

use super::kinds;
use super::load::{Kind, Table};
use crate::cli::Project;
use crate::sample_database::found;
use crate::sample_database::truth::{Relation, Types};

/// A server with a database whose changes are captured.
pub enum Shop {
    Postgres { server: Postgres, database: postgres::Database },
    Mysql { server: Mysql, database: mysql::Database },
}

/// Another client of it, which may lose its server.
pub enum Client {
    Postgres(postgres::Database),
    Mysql(mysql::Database),
}

impl Client {
    /// Runs statements, which the server may refuse, or be gone.
    pub async fn attempt(&self, sql: &str) -> Result<(), String> {
        match self {
            Self::Postgres(database) => database.client.batch_execute(sql).await.map_err(|error| format!("{error:?}")),
            Self::Mysql(database) => database.attempt(sql).await.map_err(|error| error.to_string()),
        }
    }
}

impl Shop {
    pub async fn postgres() -> Option<Self> {
        // Large transactions are sent before they end, and must be put aside.
        let settings = [("logical_decoding_work_mem", "64kB")];
        let server = Postgres::private(&postgres::Options { settings: &settings, ..postgres::Options::default() })?;
        let database = server.database().await;
        let types = "CREATE TYPE mood AS ENUM ('good', 'bad', 'so''so'); CREATE DOMAIN price AS numeric(12,3); \
            CREATE TYPE pair AS (a int, b text); CREATE TABLE history (tab int, ver bigint); \
            CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
              INSERT INTO history VALUES (TG_ARGV[0]::int, NEW.ver); RETURN NULL; END $$";
        database.client.batch_execute(types).await.expect("valid SQL");
        Some(Self::Postgres { server, database })
    }

    pub async fn mysql(flavour: Flavour) -> Option<Self> {
        // What is committed survives a crash, in the log and in the tables.
        let settings = ["--sync-binlog=1", "--innodb-flush-log-at-trx-commit=1"];
        let server = Mysql::private(flavour, &mysql::Options { settings: &settings, ..mysql::Options::default() })?;
        let database = server.database().await;
        database.sql("CREATE TABLE history (tab int, ver bigint)").await;
        Some(Self::Mysql { server, database })
    }

    /// The types of its columns.
    pub fn kinds(&self) -> fn() -> Vec<Kind> {
        match self {
            Self::Postgres { .. } => kinds::postgres,
            Self::Mysql { server, .. } => kinds::of(server.flavour()),
        }
    }

    /// What inserts a row unless there is one: before the table's name, and behind the values.
    pub fn insert(&self) -> (&'static str, &'static str) {
        match self {
            Self::Postgres { .. } => ("INSERT INTO", " ON CONFLICT DO NOTHING"),
            Self::Mysql { .. } => ("INSERT IGNORE INTO", ""),
        }
    }

    /// Whether the changes go on exactly where the first load ends.
    pub fn is_exact(&self) -> bool {
        matches!(self, Self::Postgres { .. })
    }

    /// Makes a table, and what writes down each version of its rows in the same transaction.
    pub async fn create(&self, table: &Table) {
        let (name, number) = (table.name(), table.number);
        match self {
            Self::Postgres { database, .. } => {
                // An UPDATE that leaves a large value as it is sends it where rows are known by all they hold.
                let identity = if number % 4 == 1 { "FULL" } else { "DEFAULT" };
                let sql = format!(
                    "{}; ALTER TABLE {name} REPLICA IDENTITY {identity}; \
                     CREATE TRIGGER note AFTER INSERT OR UPDATE ON {name} FOR EACH ROW EXECUTE FUNCTION note('{number}')",
                    table.definition()
                );
                database.client.batch_execute(&sql).await.expect("valid SQL");
            }
            Self::Mysql { database, .. } => {
                database.sql(&table.definition()).await;
                for when in ["INSERT", "UPDATE"] {
                    let sql = format!(
                        "CREATE TRIGGER {name}_{when} AFTER {when} ON {name} FOR EACH ROW INSERT INTO history VALUES ({number}, NEW.ver)"
                    );
                    database.sql(&sql).await;
                }
            }
        }
    }

    /// The stream of a table.
    pub fn stream(&self, table: &Table) -> String {
        match self {
            Self::Postgres { .. } => format!("public.{}", table.name()),
            Self::Mysql { database, .. } => format!("{}.{}", database.name, table.name()),
        }
    }

    /// A project that captures the changes of these tables.
    pub fn project(&self, tables: &[Table]) -> Project {
        let (connector, port, database, user, password) = match self {
            Self::Postgres { server, database } => {
                ("postgres", server.port(), &database.name, "postgres", server.password())
            }
            Self::Mysql { server, database } => ("mysql", server.port(), &database.name, "root", mysql::PASSWORD),
        };
        let mut text = format!(
            "lake: {{commit_interval: 200ms}}\nsources:\n  db:\n    connector: {connector}\n    host: 127.0.0.1\n    port: {port}\n    \
             database: {database}\n    user: {user}\n    password: ${{DB_PASSWORD}}\n    streams:\n"
        );
        for table in tables {
            writeln!(text, "      {}: {{mode: cdc}}", self.stream(table)).expect("to memory");
        }
        Project::new(&text).set("DB_PASSWORD", password)
    }

    /// A client of its own.
    pub async fn client(&self) -> Client {
        match self {
            Self::Postgres { server, database } => Client::Postgres(postgres::Database {
                name: database.name.clone(),
                client: server.client(&database.name).await,
            }),
            Self::Mysql { server, database } => Client::Mysql(server.open(&database.name).await),
        }
    }

    /// Ends the server as a crash does, and starts it again.
    pub async fn restart(&mut self) {
        match self {
            Self::Postgres { server, .. } => {
                server.crash();
                server.resume();
            }
            Self::Mysql { server, .. } => {
                server.crash();
                server.resume();
            }
        }
        let client = self.client().await;
        match (self, client) {
            (Self::Postgres { database, .. }, Client::Postgres(fresh)) => *database = fresh,
            (Self::Mysql { database, .. }, Client::Mysql(fresh)) => *database = fresh,
            _ => unreachable!("a client is of its own database"),
        }
    }

    /// The numbers of the versions of a table that were committed.
    pub async fn history(&self, table: &Table) -> Vec<i64> {
        let sql = format!("SELECT ver FROM history WHERE tab = {}", table.number);
        match self {
            Self::Postgres { database, .. } => {
                let rows = database.client.query(&sql, &[]).await.expect("valid SQL");
                rows.iter().map(|row| row.get(0)).collect()
            }
            Self::Mysql { database, .. } => {
                let number = |row: Vec<Option<String>>| row[0].as_deref().expect("not null").parse().expect("a number");
                database.texts(&sql).await.into_iter().map(number).collect()
            }
        }
    }

    /// The rows that each table has now, in the form of [`Shop::normal`].
    pub async fn truth(&self, tables: &[Table]) -> Vec<Vec<Map<String, Value>>> {
        let mut truth = Vec::new();
        match self {
            Self::Postgres { database, .. } => {
                let types = Types::of(database).await;
                let relations = Relation::all(database).await;
                for table in tables {
                    let stream = self.stream(table);
                    let relation = relations.iter().find(|relation| relation.stream == stream).expect("a table");
                    truth.push(relation.rows(database, &types).await);
                }
            }
            Self::Mysql { database, .. } => {
                for table in tables {
                    let (names, shown) = (names(table), shown(table));
                    let rows = database.texts(&format!("SELECT {} FROM {}", shown.join(", "), table.name())).await;
                    let value = |text: Option<String>| text.map_or(Value::Null, Value::String);
                    let row =
                        |row: Vec<Option<String>>| names.iter().cloned().zip(row.into_iter().map(value)).collect();
                    truth.push(rows.into_iter().map(row).collect());
                }
            }
        }
        truth
    }

    /// A row of the lake in the form in which it is compared with the truth.
    pub fn normal(&self, mut row: Map<String, Value>) -> Map<String, Value> {
        match self {
            Self::Postgres { .. } => found(vec![row]).next().expect("one row"),
            Self::Mysql { .. } => {
                assert!(row.get("_ingest_rescued").is_none_or(Value::is_null), "nothing has to be rescued: {row:?}");
                row.retain(|name, _| !name.starts_with("_ingest_"));
                row.into_iter().map(|(name, value)| (name, as_text(value))).collect()
            }
        }
    }
}

/// All columns of a table, in their order.
pub fn names(table: &Table) -> Vec<String> {
    let key = table.key.columns().iter().map(|column| (*column).to_owned());
    key.chain(["ver".to_owned()]).chain(table.columns.iter().map(|(name, _)| name.clone())).collect()
}

fn shown(table: &Table) -> Vec<String> {
    let plain = table.key.columns().iter().copied().chain(["ver"]).map(str::to_owned);
    plain.chain(table.columns.iter().map(|(name, kind)| kind.shown.replace("{}", name))).collect()
}

/// A value as the server prints it.
fn as_text(value: Value) -> Value {
    match value {
        Value::Bool(flag) => u8::from(flag).to_string().into(),
        // Whole ones without a point.
        Value::Number(number) if number.is_f64() => number.as_f64().expect("a float").to_string().into(),
        Value::Number(number) => number.to_string().into(),
        other => other,
    }
}
