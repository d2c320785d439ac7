//! An object store that fails on command: what a run sees when the lake's store has a bad day.
//!
//! [`FaultStore`] wraps any [`ObjectStore`]. Faults come from scripts (the next `put` below a path), from standing rules,
//! or from seeded chance. Two wrappers over one inner store are two clients with troubles of their own.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use ingest_testkit::store::{Fault, FaultStore, Operation};
//! use object_store::{ObjectStoreExt, path::Path};
//! let store = FaultStore::in_memory();
//! store.script(Operation::Put, "_ingest/*", [Fault::LoseAnswer]);
//! let path = Path::from("_ingest/runs/1.json");
//! assert!(store.put(&path, "{}".into()).await.is_err(), "the answer was lost");
//! assert!(store.get(&path).await.is_ok(), "the write was not");
//! # });
//! ```

mod client;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use ingest_core::glob_matches;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStore, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{Notify, watch};

/// What a client asks a store to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Write an object whole, also create-if-absent and update-if-unchanged.
    Put,
    /// Begin an upload in parts.
    StartUpload,
    /// Send one part.
    Part,
    /// End an upload: only now does the object exist.
    CompleteUpload,
    /// Give an upload up.
    AbortUpload,
    /// Read an object, a range of it, or what is known about it.
    Get,
    /// List a prefix.
    List,
    /// Delete an object.
    Delete,
    /// Copy or rename an object.
    Copy,
}

impl Operation {
    /// Whether it changes what the store holds.
    pub fn writes(self) -> bool {
        !matches!(self, Self::Get | Self::List)
    }
}

/// What goes wrong with one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: keeps the place of an operation in a script.
    Pass,
    /// Nothing is done, and the client is told so as an error of no particular kind (503, a timeout, a reset).
    Refuse,
    /// Nothing is done: 403.
    Deny,
    /// It is done, and the client gets an error.
    LoseAnswer,
    /// The client gets an error now; it is done later, at [`FaultStore::land`] (reads: as [`Fault::Refuse`]).
    LandLate,
    /// It is done twice, and the client gets the second answer: what its library's own retry after a lost answer makes
    /// of it. A create-if-absent then says that the object exists, although it is the client's own.
    Repeat,
    /// It is done once [`FaultStore::release`] is called.
    Hold,
    /// It is done after this time.
    Delay(Duration),
    /// A body ends with an error after so many bytes, a list after so many entries.
    Cut(u64),
}

/// Chances of faults, each from 0 to 1, for [`FaultStore::random`].
#[derive(Debug, Clone, PartialEq)]
pub struct Odds {
    /// [`Fault::Refuse`].
    pub refuse: f64,
    /// [`Fault::LoseAnswer`], of operations that write.
    pub lose: f64,
    /// [`Fault::LandLate`], of operations that write.
    pub late: f64,
    /// [`Fault::Repeat`], of operations that write.
    pub repeat: f64,
    /// At each operation, that one late write lands before it.
    pub land: f64,
    /// Before and after each operation the task gives way up to so many times, so that tasks interleave differently
    /// with each seed.
    pub yields: u32,
    /// Only paths that this glob matches.
    pub paths: String,
}

impl Default for Odds {
    /// One operation in ten fails somehow.
    fn default() -> Self {
        Self { refuse: 0.04, lose: 0.03, late: 0.02, repeat: 0.01, land: 0.1, yields: 3, paths: "*".into() }
    }
}

/// How an operation went, for [`FaultStore::log`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done, and the client knows.
    Done,
    /// The inner store said no: it exists, it does not exist, a precondition failed.
    Failed,
    /// Not done, by [`Fault::Refuse`] or [`Fault::Deny`].
    Refused,
    /// Sent to the inner store, and the client does not know.
    Lost,
    /// Not done yet, by [`Fault::LandLate`].
    Late,
    /// A late one was sent to the inner store.
    Landed,
}

/// One line of [`FaultStore::log`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What was asked.
    pub operation: Operation,
    /// The object; of a list the prefix.
    pub path: String,
    /// How it went.
    pub outcome: Outcome,
}

/// The cause inside every error that this store made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Injected(pub &'static str);

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Injected {}

/// Whether an error, or a cause of it, was made up by a [`FaultStore`].
pub fn is_injected(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<Injected>() {
            return true;
        }
        next = error.source();
    }
    false
}

fn injected(what: &'static str) -> Error {
    Error::Generic { store: "FaultStore", source: Box::new(Injected(what)) }
}

struct Rule {
    operation: Operation,
    paths: String,
    faults: VecDeque<Fault>,
    /// The one fault stays for ever.
    standing: bool,
}

struct Late {
    operation: Operation,
    path: String,
    work: BoxFuture<'static, ()>,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    chance: Option<(StdRng, Odds)>,
    late: Vec<Late>,
    log: Vec<Record>,
    held: usize,
}

/// What all clones share.
struct Shared {
    state: Mutex<State>,
    releases: watch::Sender<u64>,
    changed: Notify,
}

/// An [`ObjectStore`] that fails on command. Clones share their faults and their log.
#[derive(Clone)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    shared: Arc<Shared>,
}

impl FaultStore {
    /// Wraps a store.
    pub fn over(inner: Arc<dyn ObjectStore>) -> Self {
        let shared = Shared { state: Mutex::default(), releases: watch::Sender::new(0), changed: Notify::new() };
        Self { inner, shared: Arc::new(shared) }
    }

    /// Over an empty store in memory.
    pub fn in_memory() -> Self {
        Self::over(Arc::new(InMemory::new()))
    }

    /// The wrapped store, which never fails: for looking at what is really there.
    pub fn inner(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.inner)
    }

    /// The next operations of a kind on paths that the glob matches (`*` also passes over `/`) go wrong so, in order.
    pub fn script(&self, operation: Operation, paths: &str, faults: impl IntoIterator<Item = Fault>) {
        let faults = faults.into_iter().collect();
        self.state().rules.push(Rule { operation, paths: paths.into(), faults, standing: false });
    }

    /// Every operation of a kind on these paths goes wrong so, until [`FaultStore::heal`]. Scripts come first.
    pub fn always(&self, operation: Operation, paths: &str, fault: Fault) {
        self.state().rules.push(Rule { operation, paths: paths.into(), faults: [fault].into(), standing: true });
    }

    /// What no script and no rule covers goes wrong by chance. The same seed and the same operations give the same
    /// faults.
    pub fn random(&self, seed: u64, odds: Odds) {
        self.state().chance = Some((StdRng::seed_from_u64(seed), odds));
    }

    /// No more faults: scripts, rules and chance are forgotten and what is held goes on. Late writes stay late.
    pub fn heal(&self) {
        {
            let mut state = self.state();
            state.rules.clear();
            state.chance = None;
        }
        self.release();
    }

    /// Lets everything go on that is held by [`Fault::Hold`] now.
    pub fn release(&self) {
        self.shared.releases.send_modify(|count| *count += 1);
    }

    /// Does everything that is late, in the order in which it was asked for, and says how many there were.
    pub async fn land(&self) -> usize {
        let mut landed = 0;
        while self.land_at(|_| 0).await {
            landed += 1;
        }
        landed
    }

    /// How many writes are late.
    pub fn late(&self) -> usize {
        self.state().late.len()
    }

    /// How many operations are held.
    pub fn held(&self) -> usize {
        self.state().held
    }

    /// Waits until something holds of this store: `store.until(|s| s.held() == 1).await`.
    pub async fn until(&self, reached: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if reached(self) {
                return;
            }
            changed.await;
        }
    }

    /// Everything that was asked for so far, in the order in which it ended.
    pub fn log(&self) -> Vec<Record> {
        self.state().log.clone()
    }

    /// How many operations of a kind were asked for on paths that a glob matches; a late one counts once.
    pub fn count(&self, operation: Operation, paths: &str) -> usize {
        let state = self.state();
        let counts =
            |r: &&Record| r.operation == operation && r.outcome != Outcome::Landed && glob_matches(paths, &r.path);
        state.log.iter().filter(counts).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, operation: Operation, path: &str, outcome: Outcome) {
        self.state().log.push(Record { operation, path: path.to_owned(), outcome });
        self.shared.changed.notify_waiters();
    }

    /// Takes one late write by `index(how many there are)` and does it; false if there is none.
    async fn land_at(&self, index: impl Fn(usize) -> usize) -> bool {
        let late = {
            let mut state = self.state();
            match state.late.len() {
                0 => return false,
                n => state.late.remove(index(n)),
            }
        };
        late.work.await;
        self.record(late.operation, &late.path, Outcome::Landed);
        true
    }

    /// Gives way to other tasks, and perhaps lets a late write land: the interleavings of [`FaultStore::random`].
    async fn give_way(&self) {
        let (yields, landing) = match &mut self.state().chance {
            None => return,
            Some((rng, odds)) => {
                let landing = rng.random_bool(odds.land).then(|| rng.random::<u32>() as usize);
                (rng.random_range(0..=odds.yields), landing)
            }
        };
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        if let Some(pick) = landing {
            self.land_at(|n| pick % n).await;
        }
    }

    fn decide(&self, operation: Operation, path: &str) -> Fault {
        let mut state = self.state();
        let matches = |r: &Rule| r.operation == operation && glob_matches(&r.paths, path);
        if let Some(at) = state.rules.iter().position(|r| !r.standing && matches(r)) {
            let fault = state.rules[at].faults.pop_front().unwrap_or(Fault::Pass);
            if state.rules[at].faults.is_empty() {
                state.rules.remove(at);
            }
            return fault;
        }
        if let Some(rule) = state.rules.iter().find(|r| r.standing && matches(r)) {
            return rule.faults.front().copied().unwrap_or(Fault::Pass);
        }
        match &mut state.chance {
            Some((rng, odds)) if glob_matches(&odds.paths, path) => chance(rng, odds, operation),
            _ => Fault::Pass,
        }
    }

    async fn hold(&self) {
        let mut releases = self.shared.releases.subscribe();
        let _held = Held::new(self);
        // The sender lives as long as this store does.
        let _ = releases.changed().await;
    }

    /// Does `work` with the fault that is due. `work` may be called twice, and may outlive the call.
    async fn with_faults<T, W>(&self, operation: Operation, path: &Path, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: Fn() -> BoxFuture<'static, Result<T>> + Send + Sync,
    {
        let fault = self.decide(operation, path.as_ref());
        self.give_way().await;
        match fault {
            Fault::LandLate if operation.writes() => {
                let work = work().map(drop).boxed();
                self.state().late.push(Late { operation, path: path.to_string(), work });
                self.record(operation, path.as_ref(), Outcome::Late);
                return Err(injected("no answer in time, the request is still on its way"));
            }
            Fault::LoseAnswer => {
                let _ = work().await;
                self.record(operation, path.as_ref(), Outcome::Lost);
                return Err(injected("the answer was lost"));
            }
            Fault::Repeat if operation.writes() => {
                let _ = work().await;
                self.record(operation, path.as_ref(), Outcome::Lost);
            }
            other => self.before(other, operation, path).await?,
        }
        let result = work().await;
        self.record(operation, path.as_ref(), if result.is_ok() { Outcome::Done } else { Outcome::Failed });
        self.give_way().await;
        result
    }

    /// The faults that come before the work, for every operation.
    async fn before(&self, fault: Fault, operation: Operation, path: &Path) -> Result<()> {
        let error = match fault {
            Fault::Hold => {
                self.hold().await;
                return Ok(());
            }
            Fault::Delay(time) => {
                tokio::time::sleep(time).await;
                return Ok(());
            }
            Fault::Pass | Fault::Cut(_) | Fault::Repeat => return Ok(()),
            Fault::Deny => Error::PermissionDenied {
                path: path.to_string(),
                source: Box::new(Injected("the store denies the request")),
            },
            Fault::Refuse | Fault::LoseAnswer | Fault::LandLate => injected("the store refused the request"),
        };
        self.record(operation, path.as_ref(), Outcome::Refused);
        Err(error)
    }

    /// A list with the fault that is due: refused, or cut after some entries.
    fn list_with_faults(
        &self,
        prefix: Option<&Path>,
        list: impl FnOnce(&dyn ObjectStore) -> BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        let prefix = prefix.cloned().unwrap_or_default();
        let entries = list(self.inner.as_ref());
        let start = async move {
            let fault = store.decide(Operation::List, prefix.as_ref());
            store.give_way().await;
            if let Err(error) = store.before(fault, Operation::List, &prefix).await {
                return futures::stream::once(async { Err(error) }).boxed();
            }
            store.record(Operation::List, prefix.as_ref(), Outcome::Done);
            match fault {
                Fault::Cut(entries_left) => {
                    let entries_left = usize::try_from(entries_left).unwrap_or(usize::MAX);
                    let cut = futures::stream::once(async { Err(injected("the list was cut")) });
                    entries.take(entries_left).chain(cut).boxed()
                }
                _ => entries,
            }
        };
        start.into_stream().flatten().boxed()
    }
}

/// Counts a held operation, also when its caller gives it up.
struct Held<'a>(&'a FaultStore);

impl<'a> Held<'a> {
    fn new(store: &'a FaultStore) -> Self {
        store.state().held += 1;
        store.shared.changed.notify_waiters();
        Self(store)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.state().held -= 1;
        self.0.shared.changed.notify_waiters();
    }
}

fn chance(rng: &mut StdRng, odds: &Odds, operation: Operation) -> Fault {
    let mut roll = rng.random::<f64>();
    let mut falls_below = |odds: f64| {
        roll -= odds;
        roll < 0.0
    };
    if falls_below(odds.refuse) {
        return Fault::Refuse;
    }
    if !operation.writes() {
        return Fault::Pass;
    }
    for (odds, fault) in [(odds.lose, Fault::LoseAnswer), (odds.late, Fault::LandLate), (odds.repeat, Fault::Repeat)] {
        if falls_below(odds) {
            return fault;
        }
    }
    Fault::Pass
}

impl fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultStore({})", self.inner)
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
