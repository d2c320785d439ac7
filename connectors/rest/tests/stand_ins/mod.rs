//! Stand-ins of three APIs: each holds its state, answers requests as its original does, and can be told to fail.

mod github;
mod hubspot;
mod shop;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::DateTime;
use ingest_testkit::http::{HttpServer, Request, Response};

pub use github::GitHub;
pub use hubspot::HubSpot;
pub use shop::{Shop, order};

/// What the tests call secret.
pub const CANARY: &str = "canary-5f1e-token";

/// An API.
pub trait Api: Send + 'static {
    /// Answers a request that no fault was told for.
    fn answer(&mut self, request: &Request) -> Response;
    /// The server's time in seconds.
    fn now(&self) -> i64;
}

/// An API with a server, and answers that come before its own.
pub struct StandIn<A> {
    pub api: Arc<Mutex<A>>,
    faults: Arc<Mutex<VecDeque<Response>>>,
    server: HttpServer,
}

impl<A: Api> StandIn<A> {
    pub async fn start(api: A) -> Self {
        let api = Arc::new(Mutex::new(api));
        let faults: Arc<Mutex<VecDeque<Response>>> = Arc::default();
        let (answering, failing) = (api.clone(), faults.clone());
        let server = HttpServer::start(move |request| {
            let response = lock(&failing).pop_front().unwrap_or_else(|| answer(&answering, &request));
            async move { response }
        })
        .await;
        Self { api, faults, server }
    }

    pub fn url(&self) -> &str {
        self.server.url()
    }

    pub fn hits(&self) -> usize {
        self.server.hits()
    }

    pub fn state(&self) -> MutexGuard<'_, A> {
        lock(&self.api)
    }

    /// Every request fails until [`StandIn::works`].
    pub fn breaks(&self) {
        self.fail((0..10_000).map(|_| Response::status(503)));
    }

    /// No request fails any more.
    pub fn works(&self) {
        lock(&self.faults).clear();
    }

    /// The next requests are answered so.
    pub fn fail(&self, responses: impl IntoIterator<Item = Response>) {
        lock(&self.faults).extend(responses);
    }
}

/// The honest answer, with the server's time.
pub fn answer<A: Api>(api: &Mutex<A>, request: &Request) -> Response {
    let mut api = lock(api);
    let date = DateTime::from_timestamp(api.now(), 0).unwrap().format("%a, %d %b %Y %H:%M:%S GMT");
    api.answer(request).header("date", date.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn number(request: &Request, name: &str) -> Option<usize> {
    request.param(name)?.parse().ok()
}

/// `2026-01-31T12:00:00Z`.
pub fn rfc3339(seconds: i64) -> String {
    DateTime::from_timestamp(seconds, 0).unwrap().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

/// A refusal with a body in JSON.
pub fn refuse(status: u16, body: impl Into<String>) -> Response {
    Response::status(status).header("content-type", "application/json").body(body.into())
}
