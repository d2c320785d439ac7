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

use serde_json::Value;

use crate::http::{Request, Response};
use crate::stand_in::{Api, Script, StandIn};

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

/// The server, without objects at first. Times are seconds since 1970.
pub type StripeServer = StandIn<State>;

impl Api for State {
    type Fault = Fault;

    const PASSING: &'static [Fault] = &answer::PASSING;

    fn answer(&mut self, request: &Request) -> Response {
        answer::answer(self, request)
    }

    fn script(&mut self) -> &mut Script<Self> {
        &mut self.script
    }

    fn now(&self) -> i64 {
        self.now()
    }

    fn freeze(&mut self, now: i64) {
        self.freeze(now);
    }
}

impl StripeServer {
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

    /// Refuses a list (and its objects) to the key, as for a restricted key without `permission`.
    pub fn restrict(&self, path: &str, permission: &str) {
        self.state().restricted.insert(path.to_owned(), permission.to_owned());
    }

    /// Requests whose path begins so (`/v1/charges`), so far.
    pub fn requests(&self, path: &str) -> Vec<Request> {
        self.http().requests().into_iter().filter(|request| request.path.starts_with(path)).collect()
    }
}
