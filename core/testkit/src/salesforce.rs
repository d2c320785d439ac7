//! A stand-in for Salesforce: sign-in, `describe`, SOQL with locators, jobs of the Bulk API 2.0 and faults, in memory,
//! steered from the test.
//!
//! It keeps to what the documentation says: sessions that end, an instance that the token names, `query` and `queryAll`,
//! pages of at most 2,000 rows, CSV results with `Sforce-Locator`, errors as a list of codes, the header of the daily
//! requests. It is not Salesforce: what only the real service knows is not shown by a test against it.
//!
//! ```
//! use ingest_testkit::salesforce::SalesforceServer;
//! use serde_json::json;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let server = SalesforceServer::start().await;
//! let id = server.insert("Account", json!({"Name": "Acme"}));
//! server.update("Account", &id, json!({"Name": "Acme Inc."}));
//! assert_eq!(server.truth("Account")[&id]["Name"], "Acme Inc.");
//! server.delete("Account", &id);
//! assert!(server.truth("Account").is_empty());
//! # }
//! ```

mod answer;
mod jobs;
mod soql;
mod state;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Map, Value};

use crate::http::{HttpServer, Request, Response};

pub use self::state::{JobFault, State};

/// The client that the server knows.
pub const CLIENT_ID: &str = "3MVG9_standin";
/// Its secret.
pub const CLIENT_SECRET: &str = "canary-salesforce-secret";
/// The refresh token that the server takes.
pub const REFRESH_TOKEN: &str = "canary-salesforce-refresh";

/// What goes wrong with one request of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 403: too many long requests under way.
    Concurrent,
    /// 403: the daily requests are used up.
    Quota,
    /// An error of the server with this status.
    Status(u16),
    /// The session ends: this request and all with its token are refused.
    SessionEnds,
    /// The connection is reset in the middle of the body.
    Reset,
    /// 200 with a body that ends in its middle.
    Cut,
    /// 200 with a page of HTML.
    Html,
}

/// The server; it stops when it is dropped.
pub struct SalesforceServer {
    http: HttpServer,
    state: Arc<Mutex<State>>,
}

impl SalesforceServer {
    /// Starts it with the objects `Account`, `Contact`, `Task`, `Invoice__c`, `AccountHistory`, `TaskStatus` and `Rate__c`
    /// without rows, on the clock of this machine.
    pub async fn start() -> Self {
        Self::serve(true).await
    }

    /// Starts it for load tests: it keeps no list of requests.
    pub async fn start_unrecorded() -> Self {
        Self::serve(false).await
    }

    async fn serve(record: bool) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let handler = move |request: Request| {
            let response = answer::answer(&mut lock(&shared), &request);
            async move { response }
        };
        let http = match record {
            true => HttpServer::start(handler).await,
            false => HttpServer::start_unrecorded(handler).await,
        };
        Self { http, state }
    }

    /// What it answers to a request that another server got: the honest part of a [`crate::hostile`] one.
    pub fn answer(&self, request: &Request) -> Response {
        answer::answer(&mut lock(&self.state), request)
    }

    /// The base URL, without a slash at the end.
    pub fn url(&self) -> &str {
        self.http.url()
    }

    /// The server below: requests, hits, connections.
    pub fn http(&self) -> &HttpServer {
        &self.http
    }

    /// The objects and settings; the server waits while the guard lives.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Stops the server's clock at a time, in milliseconds since 1970.
    pub fn freeze(&self, now: i64) {
        self.state().freeze(now);
    }

    /// Moves a frozen clock on, by milliseconds.
    pub fn advance(&self, millis: i64) {
        let mut state = self.state();
        let now = state.now() + millis;
        state.freeze(now);
    }

    /// Adds a row, now. Gives its id.
    pub fn insert(&self, object: &str, fields: Value) -> String {
        self.state().insert(object, fields)
    }

    /// Adds `n` rows, made at equal distances in `[from, to)`.
    pub fn seed(&self, object: &str, n: usize, from: i64, to: i64) {
        self.state().seed(object, n, from, to);
    }

    /// Changes fields of a row, now.
    pub fn update(&self, object: &str, id: &str, fields: Value) {
        self.state().update(object, id, fields);
    }

    /// Deletes a row into the recycle bin.
    pub fn delete(&self, object: &str, id: &str) {
        self.state().update(object, id, serde_json::json!({"IsDeleted": true}));
    }

    /// What the lake must hold of an object, by id, with values as [`crate::oracle`] writes them.
    pub fn truth(&self, object: &str) -> BTreeMap<String, Map<String, Value>> {
        self.state().truth(object)
    }

    /// The next requests of the API go wrong so, one after another.
    pub fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().faults.extend(faults);
    }

    /// No request that was to go wrong does.
    pub fn no_faults(&self) {
        self.state().faults.clear();
    }

    /// Every request goes wrong with this probability from now on, in a way that may be repeated; 0 ends it.
    pub fn chaos(&self, seed: u64, probability: f64) {
        self.state().chaos = Some((StdRng::seed_from_u64(seed), probability));
    }

    /// Runs `change` right before the `n`-th request from now on is answered; 0 is the next.
    pub fn before(&self, n: usize, change: impl FnOnce(&mut State) + Send + 'static) {
        let mut state = self.state();
        let at = state.answered + n;
        state.changes.entry(at).or_default().push(Box::new(change));
    }

    /// Requests of the API, without those for a token.
    pub fn calls(&self) -> Vec<Request> {
        self.http.requests().into_iter().filter(|request| request.path.starts_with("/services/data/")).collect()
    }

    /// Requests for a token.
    pub fn exchanges(&self) -> Vec<Request> {
        self.http.requests().into_iter().filter(|request| request.path == "/services/oauth2/token").collect()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
