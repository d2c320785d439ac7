//! A stand-in for Stripe: objects, events, pages, Connect accounts and faults, in memory, steered from the test.
//!
//! It keeps to what the documentation says of lists (newest first, `created` filters, `starting_after`, ten nested
//! entries), of events (kept 30 days, rendered in the shape of an older API version) and of errors. It is not Stripe:
//! what only the real service knows is not shown by a test against it.
//!
//! ```
//! use ingest_testkit::stripe::StripeServer;
//! use serde_json::json;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let server = StripeServer::start().await;
//! let id = server.create("customers", json!({"email": "a@example.com"}));
//! server.update("customers", &id, json!({"email": "b@example.com"}));
//! assert_eq!(server.truth("customers")[&id]["email"], "b@example.com");
//! assert_eq!(server.truth("events").len(), 2);
//! # }
//! ```

mod answer;
mod kinds;
mod state;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;

use crate::http::{HttpServer, Request, Response};

pub use self::state::State;

/// The key that the server takes.
pub const API_KEY: &str = "sk_test_standin";

/// How long events are kept, in seconds.
pub const RETENTION: i64 = 30 * 86_400;

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 429, with `Retry-After` in seconds where it is given.
    RateLimited(Option<u32>),
    /// An error of the server with this status.
    Status(u16),
    /// 409 with `Stripe-Should-Retry: true`, as for a lock that is held.
    ShouldRetry,
    /// 500 with `Stripe-Should-Retry: false`.
    ShouldNotRetry,
    /// The connection is reset in the middle of the body.
    Reset,
    /// 200 with a body that is cut in the middle of its JSON.
    Cut,
    /// 200 with a page of HTML.
    Html,
    /// A redirect to another host.
    Redirect,
}

/// The server; it stops when it is dropped.
pub struct StripeServer {
    http: HttpServer,
    state: Arc<Mutex<State>>,
}

impl StripeServer {
    /// Starts it without objects, on the clock of this machine.
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

    /// Stops the server's clock at a time, in seconds since 1970.
    pub fn freeze(&self, now: i64) {
        self.state().freeze(now);
    }

    /// Moves a frozen clock on.
    pub fn advance(&self, seconds: i64) {
        let mut state = self.state();
        let now = state.now() + seconds;
        state.freeze(now);
    }

    /// Adds an object of a list (`customers`, `issuing/cards`), now, with its event. Gives its id.
    pub fn create(&self, path: &str, fields: Value) -> String {
        self.state().account("").create(path, fields)
    }

    /// Adds `n` objects without events, created at equal distances in `[from, to)`.
    pub fn seed(&self, path: &str, n: usize, from: i64, to: i64) {
        self.state().account("").seed(path, n, from, to);
    }

    /// Changes fields of an object, with its event.
    pub fn update(&self, path: &str, id: &str, fields: Value) {
        self.state().account("").update(path, id, fields);
    }

    /// Deletes an object, with its event.
    pub fn delete(&self, path: &str, id: &str) {
        self.state().account("").delete(path, id);
    }

    /// What the lake must hold of a list, by id. Nested lists are whole.
    pub fn truth(&self, path: &str) -> BTreeMap<String, Value> {
        self.state().account("").truth(path)
    }

    /// The next requests go wrong so, one after another.
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

    /// Refuses a list (and its objects) to the key, as for a restricted key without `permission`.
    pub fn restrict(&self, path: &str, permission: &str) {
        self.state().restricted.insert(path.to_owned(), permission.to_owned());
    }

    /// Runs `change` right before the `n`-th request from now on is answered; 0 is the next.
    pub fn before(&self, n: usize, change: impl FnOnce(&mut State) + Send + 'static) {
        let mut state = self.state();
        let at = state.answered + n;
        state.changes.entry(at).or_default().push(Box::new(change));
    }

    /// Requests whose path begins so (`/v1/charges`), so far.
    pub fn requests(&self, path: &str) -> Vec<Request> {
        self.http.requests().into_iter().filter(|request| request.path.starts_with(path)).collect()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
