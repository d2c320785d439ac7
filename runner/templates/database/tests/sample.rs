//! A small database to test against: tables with a key, numbered transactions, and data that can be changed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ingest_core::{Json, async_trait};
use ingest_testkit::conformance::server::{Command, Server};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const PASSWORD: &str = "sample-password-51c2";
const TABLES: [&str; 3] = ["customers", "orders", "refunds"];

/// The database. It stops when the program does.
pub struct SampleServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Rows by table and key, each with the transaction that wrote it.
    tables: BTreeMap<&'static str, BTreeMap<i64, (i64, Json)>>,
    transaction: i64,
    /// A row of a transaction that is still open.
    open: Option<(i64, i64)>,
    outage: bool,
    requests: u64,
}

impl SampleServer {
    /// Starts it on a free port of this machine, with some rows.
    pub async fn start() -> Self {
        let mut first = State::default();
        for id in 1..=60 {
            first.transaction += id % 2;
            first.write("customers", id);
            first.write("orders", id);
        }
        let state = Arc::new(Mutex::new(first));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(stream, Arc::clone(&shared)));
            }
        });
        Self { address, state }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection: a question a line, an answer a line.
async fn talk(stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut lines = BufReader::new(stream);
    let (mut line, mut known) = (String::new(), false);
    while lines.read_line(&mut line).await.is_ok_and(|read| read > 0) {
        let question: Json = serde_json::from_str(&line).unwrap_or_default();
        let answer = lock(&state).answer(&question, &mut known);
        if lines.get_mut().write_all(format!("{answer}\n").as_bytes()).await.is_err() {
            return;
        }
        line.clear();
    }
}

fn row(table: &str, id: i64, changed: i64) -> Json {
    match table {
        "customers" => json!({"id": id, "changed": changed, "name": format!("Zoë {id}"), "active": id % 3 == 0}),
        _ => json!({"id": id, "changed": changed, "customer_id": id % 7, "total": format!("{id}.{:02}", changed % 100)}),
    }
}

fn columns(table: &str) -> Json {
    match table {
        "customers" => json!([["id", "int8"], ["changed", "int8"], ["name", "text"], ["active", "bool"]]),
        _ => json!([["id", "int8"], ["changed", "int8"], ["customer_id", "int8"], ["total", "numeric(12,2)"]]),
    }
}

impl State {
    fn write(&mut self, table: &'static str, id: i64) {
        let written = (self.transaction, row(table, id, self.transaction));
        self.tables.entry(table).or_default().insert(id, written);
    }

    fn last(&self, table: &str) -> i64 {
        self.tables.get(table).and_then(|rows| rows.keys().next_back()).copied().unwrap_or(0)
    }

    fn answer(&mut self, question: &Json, known: &mut bool) -> Json {
        self.requests += 1;
        if self.outage {
            return json!({"error": "down"});
        }
        if let Some(login) = question.get("login") {
            *known = login["password"] == PASSWORD;
            return if *known { json!({}) } else { json!({"error": "password"}) };
        }
        if !*known {
            return json!({"error": "password"});
        }
        if question.get("tables").is_some() {
            let table = |name: &&str| json!({"name": name, "columns": columns(name), "last": self.last(name)});
            return json!({"tables": TABLES.iter().map(table).collect::<Vec<_>>()});
        }
        if question.get("oldest_open").is_some() {
            return json!({"oldest_open": self.open.map_or(self.transaction + 1, |(_, begun)| begun)});
        }
        json!({"rows": self.rows(&question["rows"])})
    }

    /// Rows of a range after a place, in the order of the range.
    fn rows(&self, query: &Json) -> Vec<Json> {
        let number = |value: &Json| value.as_i64();
        let (keys, changes) = (&query["range"]["keys"], &query["range"]["changed"]);
        let mut found: Vec<((i64, i64), &Json)> = Vec::new();
        for (id, (changed, row)) in self.tables.get(query["table"].as_str().unwrap_or_default()).into_iter().flatten() {
            let wanted = match (number(&keys["above"]), number(&keys["to"])) {
                (Some(above), Some(to)) => *id > above && *id <= to,
                _ => Some(*changed) >= number(&changes["from"]) && Some(*changed) < number(&changes["to"]),
            };
            let place = if keys.is_object() { (0, *id) } else { (*changed, *id) };
            let after = &query["after"];
            let after = match (number(&after["key"]), number(&after["row"]["changed"]), number(&after["row"]["id"])) {
                (Some(key), ..) => (0, key),
                (_, Some(changed), Some(id)) => (changed, id),
                _ => (i64::MIN, i64::MIN),
            };
            if wanted && place > after {
                found.push((place, row));
            }
        }
        found.sort_by_key(|(place, _)| *place);
        let limit = query["limit"].as_u64().and_then(|limit| usize::try_from(limit).ok()).unwrap_or(10);
        let wanted = |name: &String| {
            let columns = query["columns"].as_array();
            columns.is_none_or(|columns| columns.iter().any(|c| c == name) || name == "id" || name == "changed")
        };
        let cut = |row: &Json| -> Json {
            let columns = row.as_object().into_iter().flatten().filter(|(name, _)| wanted(name));
            Json::Object(columns.map(|(name, value)| (name.clone(), value.clone())).collect())
        };
        found.into_iter().take(limit).map(|(_, row)| cut(row)).collect()
    }
}

#[async_trait]
impl Server for SampleServer {
    fn address(&self) -> String {
        self.address.port().to_string()
    }

    fn can(&self) -> Vec<String> {
        ["truth", "change", "late", "outage"].map(String::from).to_vec()
    }

    async fn tell(&self, command: Command) -> Result<Json, String> {
        let mut state = lock(&self.state);
        match command {
            Command::Truth { stream } => {
                let rows = state.tables.get(stream.as_str()).into_iter().flat_map(BTreeMap::values);
                return Ok(json!({"rows": rows.map(|(_, row)| row).collect::<Vec<_>>()}));
            }
            Command::Change => {
                state.transaction += 1;
                for table in ["customers", "orders"] {
                    let new = state.last(table).max(state.open.map_or(0, |(id, _)| id)) + 1;
                    for id in [new, new + 1, 1, 2, 30] {
                        state.write(table, id);
                    }
                }
            }
            Command::LateBegin => {
                state.transaction += 1;
                state.open = Some((state.last("orders") + 1, state.transaction));
            }
            Command::LateCommit => {
                let (id, begun) = state.open.take().ok_or("nothing was begun")?;
                state.tables.entry("orders").or_default().insert(id, (begun, row("orders", id, begun)));
            }
            Command::OutageBegin => state.outage = true,
            Command::OutageEnd => state.outage = false,
            Command::Requests => return Ok(json!({"count": state.requests})),
            Command::LoseLog => return Err("there is no log".into()),
        }
        Ok(json!({}))
    }
}
