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
mod events;
mod jobs;
mod pubsub;
mod soql;
mod state;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::http::{Request, Response};
use crate::stand_in::{Api, Script, StandIn};

pub use self::events::Bus;
pub use self::pubsub::PubSubServer;
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

/// The server, with the objects `Account`, `Contact`, `Task`, `Invoice__c`, `AccountHistory`, `TaskStatus` and `Rate__c` without
/// rows at first. Times are milliseconds since 1970.
pub type SalesforceServer = StandIn<State>;

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

impl SalesforceServer {
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

    /// Requests of the API, without those for a token.
    pub fn calls(&self) -> Vec<Request> {
        self.http().requests().into_iter().filter(|request| request.path.starts_with("/services/data/")).collect()
    }

    /// Requests for a token.
    pub fn exchanges(&self) -> Vec<Request> {
        self.http().requests().into_iter().filter(|request| request.path == "/services/oauth2/token").collect()
    }
}
