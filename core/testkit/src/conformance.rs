//! The suite that every connector passes: what its contract promises, tried.
//!
//! One call per connector, in its `tests/main.rs`, against a real server where there is one:
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use ingest_core::{Builtin, ErrorKind};
//! use ingest_testkit::conformance::{self, Subject};
//! use ingest_testkit::source::{Model, ModelConfig, ModelConnector};
//! let model = Model::new(ModelConfig { rows: 40, slices: 2, mark_every: 10, ..ModelConfig::default() });
//! let subject = Subject::new(Builtin::<ModelConnector>::new(), model.config())
//!     .refused("wrong key", serde_json::json!({"server": model.config()["server"]}), ErrorKind::Unauthenticated)
//!     .truth({
//!         let model = model.clone();
//!         move |_| { let rows = model.truth(0); async move { rows } }
//!     })
//!     .change({
//!         let model = model.clone();
//!         move || { model.insert(0, 7); async {} }
//!     })
//!     .skip("R10", "the model of this example has one stream")
//!     .skip("I06", "shown in the tests of the testkit")
//!     .skip("F07", "shown in the tests of the testkit");
//! conformance::run(subject).await.assert_passed();
//! # });
//! ```
//!
//! Checks are chosen by what the connector claims. A check that needs something from the test (a server that refuses, a
//! change at the source) fails until the test gives it, or a written reason to skip it: [`Subject::skip`].

mod discovery;
mod logs;
mod positions;
mod reading;
mod specification;
mod suite;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, LocalBoxFuture};
use ingest_core::{ErrorKind, Factory, Json, Selection, StreamName};
use serde_json::Map;

use suite::Suite;

/// Rows as [canonical](crate::oracle) JSON objects.
pub type CanonicalRows = Vec<Map<String, Json>>;
type Truth = Arc<dyn Fn(&StreamName) -> BoxFuture<'static, CanonicalRows> + Send + Sync>;
type Hook = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

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
    secrets: Vec<String>,
    skips: BTreeMap<String, String>,
    only: Vec<String>,
    resumes: usize,
    timeout: Duration,
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
        Self {
            factory: Arc::new(factory),
            config,
            selection: Selection::default(),
            refused: Vec::new(),
            empty: Vec::new(),
            truth: None,
            change: None,
            late: None,
            lose_log: None,
            secrets: Vec::new(),
            skips: BTreeMap::new(),
            only: Vec::new(),
            resumes: 40,
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
        self.truth = Some(Arc::new(move |stream| truth(stream).boxed()));
        self
    }

    /// Changes the source: at least one new row in every stream that can be read incrementally. Called several times
    /// (I03, and the checks of feeds).
    #[must_use]
    pub fn change<F>(mut self, change: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.change = Some(Arc::new(move || change().boxed()));
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
        self.late = Some((Arc::new(move || begin().boxed()), Arc::new(move || commit().boxed())));
        self
    }

    /// Makes the source forget what follows the last position of its feeds (F07). Called once, at the end.
    #[must_use]
    pub fn lose_log<F>(mut self, lose: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.lose_log = Some(Arc::new(move || lose().boxed()));
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

    /// Restarts at so many marks of a slice at most, evenly spread, the first and the last among them. Default 40.
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

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not hold, or could not be tried.
    Failed(String),
    /// Left out, for this reason.
    Skipped(String),
    /// The connector does not claim what it is about.
    DoesNotApply(String),
}

/// One line of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// `R06`.
    pub id: &'static str,
    /// What must hold.
    pub title: &'static str,
    /// Whether it does.
    pub outcome: Outcome,
}

/// What the suite found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The connector.
    pub connector: String,
    /// All checks, in their order.
    pub lines: Vec<Line>,
}

impl Report {
    /// The checks that failed.
    pub fn failed(&self) -> Vec<&'static str> {
        self.lines.iter().filter(|line| matches!(line.outcome, Outcome::Failed(_))).map(|line| line.id).collect()
    }

    /// How a check ended.
    pub fn outcome(&self, id: &str) -> Option<&Outcome> {
        self.lines.iter().find(|line| line.id == id).map(|line| &line.outcome)
    }

    /// Prints the report.
    ///
    /// # Panics
    /// When a check failed.
    pub fn assert_passed(&self) {
        println!("{self}");
        assert!(self.failed().is_empty(), "{} does not conform:\n{self}", self.connector);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "conformance of {}", self.connector)?;
        for Line { id, title, outcome } in &self.lines {
            match outcome {
                Outcome::Passed => writeln!(f, "  ok      {id} {title}")?,
                Outcome::Failed(why) => {
                    writeln!(f, "  FAILED  {id} {title}\n            {}", why.replace('\n', "\n            "))?
                }
                Outcome::Skipped(why) => writeln!(f, "  skipped {id} {title}: {why}")?,
                Outcome::DoesNotApply(why) => writeln!(f, "  -       {id} {title}: {why}")?,
            }
        }
        let count = |wanted: fn(&Outcome) -> bool| self.lines.iter().filter(|line| wanted(&line.outcome)).count();
        write!(
            f,
            "  {} passed, {} failed, {} skipped, {} do not apply",
            count(|o| matches!(o, Outcome::Passed)),
            count(|o| matches!(o, Outcome::Failed(_))),
            count(|o| matches!(o, Outcome::Skipped(_))),
            count(|o| matches!(o, Outcome::DoesNotApply(_))),
        )
    }
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
    run: for<'a> fn(&'a Suite) -> LocalBoxFuture<'a, Checked>,
}

/// A check of the table below: `check!("R06", "two full reads are equal", reading::two_reads)`.
macro_rules! check {
    ($id:literal, $title:literal, $run:path) => {
        $crate::conformance::Check { id: $id, title: $title, run: |suite| Box::pin($run(suite)) }
    };
}
use check;

/// Runs every check. It ends, whatever the connector does: each call has a time limit, and a panic is a finding.
///
/// # Panics
/// When a check is named that does not exist.
pub async fn run(subject: Subject) -> Report {
    let suite = Suite::new(subject);
    let checks = [specification::CHECKS, discovery::CHECKS, reading::CHECKS, positions::CHECKS, specification::LAST];
    let checks: Vec<&Check> = checks.into_iter().flatten().collect();
    let named = suite.subject.skips.keys().chain(&suite.subject.only);
    let unknown: Vec<&String> = named.filter(|id| !checks.iter().any(|check| check.id == id.as_str())).collect();
    assert!(unknown.is_empty(), "there are no such checks: {unknown:?}");
    let mut lines = Vec::new();
    for Check { id, title, run } in checks {
        if !suite.subject.only.is_empty() && !suite.subject.only.iter().any(|wanted| wanted == id) {
            continue;
        }
        let outcome = match suite.subject.skips.get(*id) {
            Some(reason) => Outcome::Skipped(reason.clone()),
            None => match run(&suite).await {
                Ok(()) => Outcome::Passed,
                Err(Fault::Wrong(text)) => Outcome::Failed(text),
                Err(Fault::DoesNotApply(reason)) => Outcome::DoesNotApply(reason),
                Err(Fault::Needs(call)) => {
                    Outcome::Failed(format!("the test gives no `.{call}`, and no `.skip(\"{id}\", reason)`"))
                }
            },
        };
        lines.push(Line { id, title, outcome });
    }
    Report { connector: suite.spec.name.clone(), lines }
}
