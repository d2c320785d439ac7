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

use serde_json::{Map, Value};

use crate::http::{Request, Response};
use crate::stand_in::{Api, Script, StandIn};

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

/// The server, without objects at first. Times are seconds since 1970.
pub type ShopifyServer = StandIn<State>;

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

impl ShopifyServer {
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
}
