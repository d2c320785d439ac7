//! The suite that every connector passes: what its contract promises, tried.
//!
//! One call per connector, in its `tests/main.rs`, against a real server where there is one:
//!
//! ```no_run
//! # async fn conforms<Acme: ingest_core::Connector>() {
//! use ingest_conformance::{self as conformance, Subject};
//! use ingest_core::{Builtin, ErrorKind};
//! let config = serde_json::json!({"api_key": "right"});
//! let subject = Subject::new(Builtin::<Acme>::new(), config)
//!     .refused("a wrong key", serde_json::json!({"api_key": "wrong"}), ErrorKind::Unauthenticated)
//!     .skip("F07", "there is no log that could be lost");
//! conformance::run(subject).await.assert_passed();
//! # }
//! ```
//!
//! Checks are chosen by what the connector claims. A check that needs something from the test (a server that refuses, a
//! change at the source) fails until the test gives it, or a written reason to skip it: [`Subject::skip`]. What a crate is
//! tested with can also stand in a file beside it, `conformance.yaml`, which `ingest connector test` reads too: see
//! [`mod@file`].
//!
//! `ingest-testkit` re-exports this crate as `conformance`; it is a crate of its own so that the program can hold the
//! suite without the servers of the testkit.

mod changing;
mod discovery;
mod faults;
pub mod file;
mod logs;
pub mod oracle;
pub mod out;
mod positions;
mod reading;
mod report;
pub mod server;
mod specification;
mod suite;
pub mod tables;
mod watched;
mod yaml;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, LocalBoxFuture};
use ingest_core::{ErrorKind, Factory, Json, Selection, StreamName};
use serde_json::Map;

use suite::Suite;

pub use faults::resident_of;
pub use report::{Line, Outcome, Report};

/// Rows as [canonical](crate::oracle) JSON objects.
pub type CanonicalRows = Vec<Map<String, Json>>;
/// What a test does for the suite; a failure is the test's, in words.
type Done<T> = BoxFuture<'static, Result<T, String>>;
type Truth = Arc<dyn Fn(&StreamName) -> Done<CanonicalRows> + Send + Sync>;
type Hook = Arc<dyn Fn() -> Done<()> + Send + Sync>;
type Count = Arc<dyn Fn() -> Done<u64> + Send + Sync>;
type Memory = Arc<dyn Fn() -> Option<u64> + Send + Sync>;

/// What is tested, and what the test knows about it.
pub struct Subject {
    factory: Arc<dyn Factory>,
    config: Json,
    selection: Selection,
    refused: Vec<Refused>,
    empty: Vec<StreamName>,
    truth: Option<Truth>,
    change: Option<Hook>,
    late: Option<(Hook, Hook)>,
    lose_log: Option<Hook>,
    outage: Option<Outage>,
    kill: Option<Hook>,
    filtered: Option<Filtered>,
    memory: Memory,
    memory_limit: u64,
    most_rows: usize,
    secrets: Vec<String>,
    counterpart: Option<String>,
    skips: BTreeMap<String, String>,
    skip_rest: Option<String>,
    only: Vec<String>,
    resumes: usize,
    timeout: Duration,
}

/// A fault of the source that a test can switch.
struct Outage {
    begin: Hook,
    end: Hook,
    requests: Count,
}

/// A row filter, and how many rows of a stream it lets through.
struct Filtered {
    stream: StreamName,
    filter: String,
    rows: usize,
}

/// A configuration that must not work.
struct Refused {
    what: String,
    config: Json,
    kind: ErrorKind,
}

impl Subject {
    /// A connector with a configuration that works. Its streams together should hold a few thousand rows at most: they
    /// are read again and again.
    pub fn new(factory: impl Factory + 'static, config: Json) -> Self {
        Self::of(Arc::new(factory), config)
    }

    /// The same for a connector of a registry.
    pub fn of(factory: Arc<dyn Factory>, config: Json) -> Self {
        Self {
            factory,
            config,
            selection: Selection::default(),
            refused: Vec::new(),
            empty: Vec::new(),
            truth: None,
            change: None,
            late: None,
            lose_log: None,
            outage: None,
            kill: None,
            filtered: None,
            memory: Arc::new(faults::resident),
            memory_limit: 256 << 20,
            most_rows: 1_000_000,
            secrets: Vec::new(),
            counterpart: None,
            skips: BTreeMap::new(),
            skip_rest: None,
            only: Vec::new(),
            resumes: usize::MAX,
            timeout: Duration::from_secs(60),
        }
    }

    /// Tests only these streams: names or globs.
    #[must_use]
    pub fn streams(mut self, globs: &[&str]) -> Self {
        self.selection.select = globs.iter().map(|glob| (*glob).to_owned()).collect();
        self
    }

    /// A configuration that must be refused with this kind, by `open` or by `check` (K02): a wrong password, an unknown
    /// host, a missing right.
    #[must_use]
    pub fn refused(mut self, what: &str, config: Json, kind: ErrorKind) -> Self {
        self.refused.push(Refused { what: what.to_owned(), config, kind });
        self
    }

    /// A stream that holds no rows (R01, R10).
    #[must_use]
    pub fn empty(mut self, stream: impl Into<StreamName>) -> Self {
        self.empty.push(stream.into());
        self
    }

    /// Says what the source holds now, by another way than the connector's (R05 and all checks of changes). Rows of
    /// columns that both sides know are compared.
    #[must_use]
    pub fn truth<F>(mut self, truth: impl Fn(&StreamName) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = CanonicalRows> + Send + 'static,
    {
        self.truth = Some(Arc::new(move |stream| truth(stream).map(Ok).boxed()));
        self
    }

    /// Changes the source: at least one new row in every stream that can be read incrementally. Called several times
    /// (I03, and the checks of feeds).
    #[must_use]
    pub fn change<F>(mut self, change: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.change = Some(hook(change));
        self
    }

    /// Writes a row that is not visible yet, and makes it visible: in between others are written and read (I06).
    #[must_use]
    pub fn late<F, G>(
        mut self,
        begin: impl Fn() -> F + Send + Sync + 'static,
        commit: impl Fn() -> G + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
        G: Future<Output = ()> + Send + 'static,
    {
        self.late = Some((hook(begin), hook(commit)));
        self
    }

    /// Makes the source forget what follows the last position of its feeds (F07). Called once, at the end.
    #[must_use]
    pub fn lose_log<F>(mut self, lose: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.lose_log = Some(hook(lose));
        self
    }

    /// Makes the source fail as unavailable until it is told to stop, and counts the requests that reach it (F01).
    #[must_use]
    pub fn outage<F, G>(
        mut self,
        begin: impl Fn() -> F + Send + Sync + 'static,
        end: impl Fn() -> G + Send + Sync + 'static,
        requests: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
        G: Future<Output = ()> + Send + 'static,
    {
        let requests: Count = Arc::new(move || std::future::ready(Ok(requests())).boxed());
        self.outage = Some(Outage { begin: hook(begin), end: hook(end), requests });
        self
    }

    /// Kills the process of a connector that runs in one of its own, or says why it cannot (F02).
    #[must_use]
    pub fn kill(mut self, kill: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.kill = Some(Arc::new(move || std::future::ready(kill()).boxed()));
        self
    }

    /// A row filter in the source's own language, and how many rows of a stream it lets through (R11).
    #[must_use]
    pub fn filtered(mut self, stream: impl Into<StreamName>, filter: &str, rows: usize) -> Self {
        self.filtered = Some(Filtered { stream: stream.into(), filter: filter.to_owned(), rows });
        self
    }

    /// Measures the memory of a connector that runs in a process of its own, in bytes. Default: this process (R15).
    #[must_use]
    pub fn memory(mut self, resident: impl Fn() -> Option<u64> + Send + Sync + 'static) -> Self {
        self.memory = Arc::new(resident);
        self
    }

    /// How many bytes of memory reading may take besides what is held at its start (R15). Default 256 MiB.
    #[must_use]
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = bytes;
        self
    }

    /// How many rows one slice may give at most: a slice that gives more is taken for endless (R03). Default 1,000,000.
    #[must_use]
    pub fn most_rows(mut self, rows: usize) -> Self {
        self.most_rows = rows;
        self
    }

    /// What the connector is tested against, for the report: `PostgreSQL 15`, `a stand-in`.
    #[must_use]
    pub fn counterpart(mut self, what: &str) -> Self {
        self.counterpart = Some(what.to_owned());
        self
    }

    /// Leaves out every check that needs what this subject does not give, for one reason: where a source of somebody is
    /// tested that nobody may change.
    #[must_use]
    pub fn skip_what_is_not_given(mut self, reason: &str) -> Self {
        self.skip_rest = Some(reason.to_owned());
        self
    }

    /// A text that must be seen nowhere (S11), beside the configuration's own secret fields.
    #[must_use]
    pub fn secret(mut self, text: &str) -> Self {
        self.secrets.push(text.to_owned());
        self
    }

    /// Leaves a check out, for a reason that the report shows.
    #[must_use]
    pub fn skip(mut self, check: &str, reason: &str) -> Self {
        self.skips.insert(check.to_owned(), reason.to_owned());
        self
    }

    /// Runs these checks alone, for finding a fault; S11 sees what the others bring to light.
    #[must_use]
    pub fn only(mut self, checks: &[&str]) -> Self {
        self.only = checks.iter().map(|check| (*check).to_owned()).collect();
        self
    }

    /// Restarts at so many marks of a slice at most, evenly spread, the first and the last among them. Default: at
    /// every mark.
    #[must_use]
    pub fn resumes(mut self, marks: usize) -> Self {
        self.resumes = marks;
        self
    }

    /// How long one call of the connector may take. Default 60 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

fn hook<F>(action: impl Fn() -> F + Send + Sync + 'static) -> Hook
where
    F: Future<Output = ()> + Send + 'static,
{
    Arc::new(move || action().map(Ok).boxed())
}

/// Why a check did not pass.
enum Fault {
    /// What is wrong.
    Wrong(String),
    /// The connector does not claim it.
    DoesNotApply(String),
    /// The test must give something, by this call.
    Needs(&'static str),
}

impl From<String> for Fault {
    fn from(text: String) -> Self {
        Self::Wrong(text)
    }
}

type Checked = Result<(), Fault>;

fn wrong<T>(text: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Wrong(text.into()))
}

struct Check {
    id: &'static str,
    title: &'static str,
    contract: &'static str,
    run: for<'a> fn(&'a Suite) -> LocalBoxFuture<'a, Checked>,
}

/// A check of a table: `check!("R06", "two full reads are equal", "what the contract says", reading::two_reads)`.
macro_rules! check {
    ($id:literal, $title:literal, $contract:literal, $run:path) => {
        $crate::Check { id: $id, title: $title, contract: $contract, run: |suite| Box::pin($run(suite)) }
    };
}
use check;

/// All checks, in the order in which they run.
fn table() -> impl Iterator<Item = &'static Check> {
    let tables = [
        specification::CHECKS,
        discovery::CHECKS,
        reading::CHECKS,
        positions::CHECKS,
        changing::CHECKS,
        faults::CHECKS,
        positions::LAST,
        specification::LAST,
    ];
    tables.into_iter().flatten()
}

/// What can be tried: the id of each check, what must hold, and the words of the contract.
pub fn checks() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    table().map(|check| (check.id, check.title, check.contract))
}

/// Runs every check. It ends, whatever the connector does: each call has a time limit, and a panic is a finding.
///
/// # Panics
/// When a check is named that does not exist.
pub async fn run(subject: Subject) -> Report {
    run_showing(subject, |_| {}).await
}

/// As [`run`], and shows each line as it is known.
///
/// # Panics
/// When a check is named that does not exist.
pub async fn run_showing(subject: Subject, mut show: impl FnMut(&Line)) -> Report {
    let suite = Suite::new(subject);
    let named = suite.subject.skips.keys().chain(&suite.subject.only);
    let unknown: Vec<&String> = named.filter(|id| !table().any(|check| check.id == id.as_str())).collect();
    assert!(unknown.is_empty(), "there are no such checks: {unknown:?}");
    let mut lines = Vec::new();
    for check in table() {
        if !suite.subject.only.is_empty() && !suite.subject.only.iter().any(|wanted| wanted == check.id) {
            continue;
        }
        let line = one(&suite, check).await;
        show(&line);
        lines.push(line);
    }
    Report { connector: suite.spec.name.clone(), counterpart: suite.subject.counterpart.clone(), lines }
}

async fn one(suite: &Suite, Check { id, title, contract, run }: &Check) -> Line {
    suite.sent.clear();
    let mut sent = None;
    let outcome = match suite.subject.skips.get(*id) {
        Some(reason) => Outcome::Skipped(reason.clone()),
        None => match run(suite).await {
            Ok(()) => Outcome::Passed,
            Err(Fault::Wrong(text)) => {
                sent = suite.sent.last();
                Outcome::Failed(text)
            }
            Err(Fault::DoesNotApply(reason)) => Outcome::DoesNotApply(reason),
            Err(Fault::Needs(call)) => match &suite.subject.skip_rest {
                Some(reason) => Outcome::Skipped(reason.clone()),
                None => Outcome::Failed(format!("the test gives no `.{call}`, and no `.skip(\"{id}\", reason)`")),
            },
        },
    };
    Line { id, title, contract, outcome, sent }
}
