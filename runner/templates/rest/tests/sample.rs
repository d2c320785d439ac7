//! A small API to test against: lists with a key, a cursor, a watermark, and data that can be changed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ingest_core::{Json, async_trait};
use ingest_testkit::conformance::server::{Command, Server};
use ingest_testkit::http::{HttpServer, Request, Response};
use serde_json::json;

/// The key that the server takes.
pub const API_KEY: &str = "sample-key-7d1f03";
const LISTS: [&str; 3] = ["customers", "orders", "refunds"];

/// The server. It stops when it is dropped.
pub struct SampleServer {
    http: HttpServer,
    pub api: Api,
}

/// What the server answers.
#[derive(Clone)]
pub struct Api(Arc<Mutex<State>>);

impl Api {
    /// The answer to a request.
    pub fn answer(&self, request: &Request) -> Response {
        self.state().answer(request)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
pub struct State {
    /// Records by list and id: when they were written, and their fields.
    lists: BTreeMap<&'static str, BTreeMap<i64, (i64, Json)>>,
    /// The second of the last write.
    clock: i64,
    /// A record that was begun and is not visible yet.
    late: Option<(i64, i64)>,
    outage: bool,
}

impl SampleServer {
    /// Starts it on a free port of this machine, with some records.
    pub async fn start() -> Self {
        let mut first = State::default();
        for n in 0..60 {
            first.write("customers", n);
            first.write("orders", n);
        }
        let api = Api(Arc::new(Mutex::new(first)));
        let shared = api.clone();
        let http = HttpServer::start(move |request| {
            let response = shared.answer(&request);
            async move { response }
        })
        .await;
        Self { http, api }
    }
}

/// A second as the API writes times.
fn time(second: i64) -> String {
    format!("2026-01-01T{:02}:{:02}:{:02}.000000Z", second / 3600, second / 60 % 60, second % 60)
}

fn record(list: &str, id: i64, written: i64) -> Json {
    let mut record = match list {
        "customers" => json!({"name": format!("Zoë {id}"), "email": format!("c{id}@example.com")}),
        _ => json!({"customer_id": id % 7, "total": format!("{id}.{:02}", written % 100)}),
    };
    record["id"] = json!(id);
    record["updated_at"] = json!(time(written));
    record
}

impl State {
    /// Writes a record at the next second; two of a list share one.
    fn write(&mut self, list: &'static str, id: i64) {
        self.clock += i64::from(id % 2 == 0);
        let written = (self.clock, record(list, id, self.clock));
        self.lists.entry(list).or_default().insert(id, written);
    }

    fn next_id(&self, list: &str) -> i64 {
        self.lists.get(list).and_then(|records| records.keys().next_back()).map_or(0, |id| id + 1)
    }

    fn change(&mut self) {
        self.clock += 1;
        for list in ["customers", "orders"] {
            let new = self.next_id(list).max(self.late.map_or(0, |(id, _)| id + 1));
            for id in [new, new + 1, 1, 2, 30] {
                self.write(list, id);
            }
        }
    }

    fn answer(&self, request: &Request) -> Response {
        if self.outage {
            return Response::status(503);
        }
        if request.header("authorization") != Some(&format!("Bearer {API_KEY}")) {
            return Response::status(401);
        }
        let name = request.path.trim_start_matches("/v1/");
        if name == "watermark" {
            // Nothing can appear any more before what is still open.
            let until = self.late.map_or(self.clock + 1, |(_, begun)| begun);
            return Response::json(json!({"complete_until": time(until)}).to_string());
        }
        match LISTS.iter().find(|list| **list == name) {
            Some(list) => Response::json(self.page(list, request).to_string()),
            None => Response::status(404),
        }
    }

    /// A page of a list, in the order of `updated_at` and `id`.
    fn page(&self, list: &str, request: &Request) -> Json {
        let limit = request.param("limit").and_then(|limit| limit.parse().ok()).unwrap_or(20);
        let (from, to) = (request.param("updated_from").unwrap_or_default(), request.param("updated_to"));
        let after = request.param("cursor").unwrap_or_default();
        let cursor = |id: i64, written: i64| format!("{written:010}-{id:010}");
        let mut found: Vec<(String, &Json)> = Vec::new();
        for (id, (written, record)) in self.lists.get(list).into_iter().flatten() {
            let (time, cursor) = (time(*written), cursor(*id, *written));
            if time >= from && to.as_ref().is_none_or(|to| time < *to) && cursor > after {
                found.push((cursor, record));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let has_more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().map(|(cursor, _)| cursor.clone());
        let data: Vec<&Json> = found.into_iter().map(|(_, record)| record).collect();
        json!({"data": data, "next": next, "has_more": has_more})
    }
}

#[async_trait]
impl Server for SampleServer {
    fn address(&self) -> String {
        self.http.url().to_owned()
    }

    fn can(&self) -> Vec<String> {
        ["truth", "change", "late", "outage"].map(String::from).to_vec()
    }

    async fn tell(&self, command: Command) -> Result<Json, String> {
        let mut state = self.api.state();
        match command {
            Command::Truth { stream } => {
                let rows = state.lists.get(stream.as_str()).into_iter().flat_map(BTreeMap::values);
                return Ok(json!({"rows": rows.map(|(_, record)| record).collect::<Vec<_>>()}));
            }
            Command::Change => state.change(),
            Command::LateBegin => {
                state.clock += 1;
                state.late = Some((state.next_id("orders"), state.clock));
            }
            Command::LateCommit => {
                let (id, written) = state.late.take().ok_or("nothing was begun")?;
                let record = record("orders", id, written);
                state.lists.entry("orders").or_default().insert(id, (written, record));
            }
            Command::OutageBegin => state.outage = true,
            Command::OutageEnd => state.outage = false,
            Command::Requests => return Ok(json!({"count": self.http.hits()})),
            Command::LoseLog => return Err("there is no log".into()),
        }
        Ok(json!({}))
    }
}
