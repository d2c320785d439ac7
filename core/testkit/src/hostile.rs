//! Servers that mean harm, or are merely broken: every HTTP connector is run against the same list.
//!
//! A test gives an honest stand-in of its API, a way to read everything through the connector, and the secret that it
//! configured. Each [`Attack`] bends the honest answers; [`Suite::play`] then looks at what came of it:
//! - the outcome is the right one: all rows, or an error of a kind that fits;
//! - nothing hangs, and the number of requests stays small;
//! - the secret reaches neither another server, nor an error, nor a log, in none of its usual encodings.
//!
//! Run it under paused time (`#[tokio::test(start_paused = true)]`): pauses and time-outs then cost nothing.
//!
//! ```no_run
//! use ingest_testkit::hostile::Suite;
//! use ingest_testkit::http::{Request, Response};
//!
//! # async fn read_all(_: String) -> ingest_core::Result<usize> { Ok(2) }
//! #[tokio::test(start_paused = true)]
//! async fn no_server_gets_more_than_it_should() {
//!     let honest = |request: &Request| Response::json(r#"{"data": [{"id": 1}, {"id": 2}]}"#);
//!     Suite::new("canary-7f3a", 2, honest, read_all).play_all().await;
//! }
//! ```

mod attack;
mod watch;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ingest_core::{Error, Result};

pub use self::attack::{Attack, Outcome};
pub use self::watch::{Logs, forms, report_of};
use crate::http::{HttpServer, Request, Response};

/// A call is given up within 90 s; a read makes a handful of them.
const PATIENCE: Duration = Duration::from_secs(900);

type Honest = dyn Fn(&Request) -> Response + Send + Sync;
type Drive = dyn Fn(String) -> Pin<Box<dyn Future<Output = Result<usize>> + Send>> + Send + Sync;
type Links = dyn Fn(&Request, &str) -> Response + Send + Sync;

/// What a connector is tried with.
pub struct Suite {
    canary: String,
    rows: usize,
    requests: usize,
    honest: Arc<Honest>,
    links: Option<Arc<Links>>,
    drive: Arc<Drive>,
}

impl Suite {
    /// A suite: `canary` is the secret that `drive` configures, `rows` what it counts when all is well. `drive` gets the
    /// endpoint, opens the connector on it, reads everything, and says how many rows came out.
    pub fn new<F>(
        canary: impl Into<String>,
        rows: usize,
        honest: impl Fn(&Request) -> Response + Send + Sync + 'static,
        drive: impl Fn(String) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<usize>> + Send + 'static,
    {
        Self {
            canary: canary.into(),
            rows,
            requests: 100,
            honest: Arc::new(honest),
            links: None,
            drive: Arc::new(move |endpoint| Box::pin(drive(endpoint))),
        }
    }

    /// How many requests may be made at most under attack. Default: 100.
    #[must_use]
    pub fn at_most(mut self, requests: usize) -> Self {
        self.requests = requests;
        self
    }

    /// For APIs with links to the next page: makes a good page that carries a given link. Without it the attacks by
    /// link are left out.
    #[must_use]
    pub fn with_links(mut self, page: impl Fn(&Request, &str) -> Response + Send + Sync + 'static) -> Self {
        self.links = Some(Arc::new(page));
        self
    }

    /// The attacks that fit this API.
    pub fn attacks(&self) -> impl Iterator<Item = Attack> + '_ {
        Attack::ALL.into_iter().filter(|attack| self.links.is_some() || attack.link("").is_none())
    }

    /// Plays every attack.
    ///
    /// # Panics
    /// When one had another outcome than it should; the text names all of them.
    pub async fn play_all(&self) {
        let mut faults = Vec::new();
        for attack in self.attacks() {
            if let Err(fault) = self.play(attack).await {
                faults.push(format!("{attack:?}: {fault}"));
            }
        }
        assert!(faults.is_empty(), "{} attacks went wrong:\n{}", faults.len(), faults.join("\n"));
    }

    /// Plays one attack.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub async fn play(&self, attack: Attack) -> std::result::Result<(), String> {
        let evil = HttpServer::start(|_| async { Response::json(r#"{"data": [{"id": "stolen"}]}"#) }).await;
        let api = self.server(attack, evil.url().to_owned()).await;
        let logs = Logs::default();
        let read = {
            let _guard = logs.listen();
            tokio::time::timeout(PATIENCE, (self.drive)(api.url().to_owned())).await
        };
        let Ok(outcome) = read else { return Err(format!("it hung, after {} requests", api.hits())) };
        self.judge(attack, &outcome)?;
        if api.hits() > self.requests {
            return Err(format!("it made {} requests", api.hits()));
        }
        self.no_canary(
            &evil.requests().iter().map(|request| format!("{request:?}")).collect::<String>(),
            "another server",
        )?;
        if attack.link("").is_some() && evil.hits() > 0 {
            return Err("it followed a link to another host".into());
        }
        self.no_canary(&logs.text(), "a log")?;
        if let Err(error) = &outcome {
            self.no_canary(&report_of(error), "an error")?;
        }
        Ok(())
    }

    async fn server(&self, attack: Attack, evil: String) -> HttpServer {
        let (honest, links) = (self.honest.clone(), self.links.clone());
        let served = Arc::new(AtomicUsize::new(0));
        let first: Arc<Mutex<HashMap<String, Response>>> = Arc::default();
        HttpServer::start(move |request| {
            let nth = served.fetch_add(1, Ordering::Relaxed);
            let page = match (attack.link(&evil), &links) {
                (Some(link), Some(links)) => links(&request, &link),
                _ if attack == Attack::SamePageForEver => {
                    let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                    first.entry(request.path.clone()).or_insert_with(|| honest(&request)).clone()
                }
                _ => honest(&request),
            };
            let response = attack.answer(&request, nth, page, &evil);
            async move { response }
        })
        .await
    }

    fn judge(&self, attack: Attack, outcome: &Result<usize>) -> std::result::Result<(), String> {
        match (attack.outcome(), outcome) {
            (Outcome::AllRows, Ok(rows)) if *rows == self.rows => Ok(()),
            (Outcome::AllRows, Ok(rows)) => Err(format!("{rows} rows in place of {}", self.rows)),
            (Outcome::AllRows, Err(error)) => Err(format!("it should have got through: {error:?}")),
            (Outcome::Fails(kinds), Ok(rows)) => Err(format!("it took {rows} rows for good in place of {kinds:?}")),
            (Outcome::Fails(kinds), Err(error)) if kinds.contains(&error.kind()) => Ok(()),
            (Outcome::Fails(kinds), Err(error)) => Err(format!("{error:?} in place of {kinds:?}")),
            (Outcome::RowsOr(_), Ok(rows)) if *rows <= self.rows => Ok(()),
            (Outcome::RowsOr(_), Ok(rows)) => Err(format!("{rows} rows where there are {}", self.rows)),
            (Outcome::RowsOr(kinds), Err(error)) if kinds.contains(&error.kind()) => Ok(()),
            (Outcome::RowsOr(kinds), Err(error)) => Err(format!("{error:?} in place of {kinds:?}")),
        }
    }

    fn no_canary(&self, text: &str, place: &str) -> std::result::Result<(), String> {
        match forms(&self.canary).into_iter().find(|form| text.contains(form)) {
            Some(form) => Err(format!("the secret is in {place}, as {form}")),
            None => Ok(()),
        }
    }
}

/// Checks that an error shows no secret, in none of its usual encodings.
///
/// # Panics
/// When it does.
pub fn assert_shows_nothing(error: &Error, canary: &str) {
    let report = report_of(error);
    for form in forms(canary) {
        assert!(!report.contains(&form), "the secret is in an error, as {form}: {report}");
    }
}
