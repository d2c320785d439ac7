//! The suite that every table format passes: what [`ingest_core::lake`] promises the runner, tried.
//!
//! One call per store that a format is meant for:
//!
//! ```no_run
//! # async fn conforms(acme: std::sync::Arc<dyn ingest_core::lake::TableFormat>) {
//! use ingest_conformance::tables::{self, Subject};
//! let subject = Subject::new(move || acme.clone()).skip("W18", "Acme tables do not remember");
//! tables::run(subject).await.assert_passed();
//! # }
//! ```
//!
//! Each check makes tables of its own below `bronze/conformance`, so a suite wants an empty lake.

mod append;
mod bench;
mod faults;
mod merge;
mod shapes;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use ingest_core::lake::TableFormat;

use self::bench::Bench;
use crate::{CanonicalRows, Checked, Done, Fault, Hook, Line, Outcome, Report, hook};

type Open = Arc<dyn Fn() -> Arc<dyn TableFormat> + Send + Sync>;
type Reader = Arc<dyn Fn(&str) -> Done<CanonicalRows> + Send + Sync>;

/// What is tested, and what the test knows about it.
pub struct Subject {
    open: Open,
    reader: Option<Reader>,
    outage: Option<(Hook, Hook)>,
    counterpart: Option<String>,
    skips: BTreeMap<String, String>,
    only: Vec<String>,
}

impl Subject {
    /// A format over one lake. `open` is called again and again, each time as another process would: nothing may be shared
    /// between two formats but the store.
    pub fn new(open: impl Fn() -> Arc<dyn TableFormat> + Send + Sync + 'static) -> Self {
        Self {
            open: Arc::new(open),
            reader: None,
            outage: None,
            counterpart: None,
            skips: BTreeMap::new(),
            only: Vec::new(),
        }
    }

    /// Reads the table of a folder with another program (W15).
    #[must_use]
    pub fn reader<F>(mut self, read: impl Fn(&str) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<CanonicalRows, String>> + Send + 'static,
    {
        self.reader = Some(Arc::new(move |folder| read(folder).boxed()));
        self
    }

    /// Makes the store refuse all writes until it is told to stop (W14).
    #[must_use]
    pub fn outage<F, G>(
        mut self,
        begin: impl Fn() -> F + Send + Sync + 'static,
        end: impl Fn() -> G + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
        G: Future<Output = ()> + Send + 'static,
    {
        self.outage = Some((hook(begin), hook(end)));
        self
    }

    /// What the format is tested on, for the report: `a local folder`, `S3 (a stand-in)`.
    #[must_use]
    pub fn counterpart(mut self, what: &str) -> Self {
        self.counterpart = Some(what.to_owned());
        self
    }

    /// Leaves a check out, for a reason that the report shows.
    #[must_use]
    pub fn skip(mut self, check: &str, reason: &str) -> Self {
        self.skips.insert(check.to_owned(), reason.to_owned());
        self
    }

    /// Runs these checks alone, for finding a fault.
    #[must_use]
    pub fn only(mut self, checks: &[&str]) -> Self {
        self.only = checks.iter().map(|check| (*check).to_owned()).collect();
        self
    }
}

struct Check {
    id: &'static str,
    title: &'static str,
    contract: &'static str,
    run: for<'a> fn(&'a Bench) -> LocalBoxFuture<'a, Checked>,
}

/// As the macro of the same name for connectors.
macro_rules! check {
    ($id:literal, $title:literal, $contract:literal, $run:path) => {
        $crate::tables::Check { id: $id, title: $title, contract: $contract, run: |bench| Box::pin($run(bench)) }
    };
}
use check;

fn table() -> impl Iterator<Item = &'static Check> {
    [append::CHECKS, merge::CHECKS, shapes::CHECKS, faults::CHECKS].into_iter().flatten()
}

/// What can be tried: the id of each check, what must hold, and the words of the contract.
pub fn checks() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    table().map(|check| (check.id, check.title, check.contract))
}

/// Runs every check, each on tables of its own. Belongs on a runtime with several threads: data files are encoded on threads
/// where they may block, and their bytes go out on the runtime.
///
/// # Panics
/// When a check is named that does not exist.
pub async fn run(subject: Subject) -> Report {
    let bench = Bench::new(subject);
    let named = bench.subject.skips.keys().chain(&bench.subject.only);
    let unknown: Vec<&String> = named.filter(|id| !table().any(|check| check.id == id.as_str())).collect();
    assert!(unknown.is_empty(), "there are no such checks: {unknown:?}");
    let mut lines = Vec::new();
    for Check { id, title, contract, run } in table() {
        if !bench.subject.only.is_empty() && !bench.subject.only.iter().any(|wanted| wanted == id) {
            continue;
        }
        let outcome = match bench.subject.skips.get(*id) {
            Some(reason) => Outcome::Skipped(reason.clone()),
            None => match run(&bench).await {
                Ok(()) => Outcome::Passed,
                Err(Fault::Wrong(text)) => Outcome::Failed(text),
                Err(Fault::DoesNotApply(reason)) => Outcome::DoesNotApply(reason),
                Err(Fault::Needs(call)) => {
                    Outcome::Failed(format!("the test gives no `.{call}`, and no `.skip(\"{id}\", reason)`"))
                }
            },
        };
        lines.push(Line { id, title, contract, outcome, sent: None });
    }
    let connector = bench.format().name().to_owned();
    Report { connector, counterpart: bench.subject.counterpart.clone(), lines }
}
