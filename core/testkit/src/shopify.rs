//! A stand-in for Shopify's Admin GraphQL API: lists with search and pages, bulk operations, points, deletions as events and
//! faults, in memory, steered from the test.
//!
//! It keeps to what the documentation says: errors beside status 200, one bulk operation at a time, results as lines with
//! `__parentId` at an address that takes no token, a version that falls forward when it has ended. It does not know the
//! schema: a field that does not exist is null, not refused. It is not Shopify: what only the real service knows is not
//! shown by a test against it.
//!
//! ```
//! use ingest_testkit::shopify::ShopifyServer;
//! use serde_json::json;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let server = ShopifyServer::start().await;
//! let id = server.create("products", json!({"title": "Cup", "variants": [{"sku": "c-1"}]}));
//! server.update("products", &id, json!({"title": "Mug"}));
//! assert_eq!(server.truth("products")[&id]["title"], "Mug");
//! server.delete("products", &id);
//! assert!(server.truth("products").is_empty());
//! # }
//! ```

mod answer;
mod graphql;
mod state;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Map, Value};

use crate::http::{HttpServer, Request, Response};

pub use self::state::{OperationFault, State};

/// The access token that the server takes.
pub const ACCESS_TOKEN: &str = "shpat_canary_standin";
/// The client that may fetch tokens.
pub const CLIENT_ID: &str = "standin-app";
/// Its secret.
pub const CLIENT_SECRET: &str = "shpss_canary_standin";

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 429, with `Retry-After: 2.0`.
    RateLimited,
    /// Status 200 and the error `THROTTLED`.
    Throttled,
    /// Status 200 and the error `INTERNAL_SERVER_ERROR`.
    Internal,
    /// Status 200 and the error `ACCESS_DENIED`.
    Denied,
    /// An error of the server with this status.
    Status(u16),
    /// The connection is reset in the middle of the body.
    Reset,
    /// 200 with a body that ends in its middle.
    Cut,
}

/// The server; it stops when it is dropped.
pub struct ShopifyServer {
    http: HttpServer,
    state: Arc<Mutex<State>>,
}

impl ShopifyServer {
    /// Starts it without objects, on the clock of this machine.
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let handler = move |request: Request| {
            let response = answer::answer(&mut lock(&shared), &request);
            async move { response }
        };
        Self { http: HttpServer::start(handler).await, state }
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

    /// Moves a frozen clock on, by seconds.
    pub fn advance(&self, seconds: i64) {
        let mut state = self.state();
        let now = state.now() + seconds;
        state.freeze(now);
    }

    /// Adds an object of a list (`orders`, `inventoryItems`), now; what belongs to it are lists of objects in its fields.
    /// Gives its id.
    pub fn create(&self, list: &str, fields: Value) -> String {
        self.state().create(list, fields)
    }

    /// Adds `n` objects with what belongs to them, made at equal distances in `[from, to)`.
    pub fn seed(&self, list: &str, n: usize, from: i64, to: i64) {
        self.state().seed(list, n, from, to);
    }

    /// Changes fields of an object, now.
    pub fn update(&self, list: &str, id: &str, fields: Value) {
        self.state().update(list, id, fields);
    }

    /// Deletes an object, with its event.
    pub fn delete(&self, list: &str, id: &str) {
        self.state().delete(list, id);
    }

    /// What the lake must hold of a stream, by id: the fields that tests compare.
    pub fn truth(&self, stream: &str) -> BTreeMap<String, Map<String, Value>> {
        self.state().truth(stream)
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
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
