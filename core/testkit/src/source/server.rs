//! The server of the model: tables, a change log, and what goes wrong.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use ingest_core::{Error, ErrorKind, Json, Result, glob_matches};
use serde_json::{Map, json};
use tokio::sync::watch;

use super::connector::ModelConfig;
use super::rows::{self, Row};
use crate::oracle;

/// Rows of the first load that share a cursor value.
const ROWS_PER_CHANGE: u64 = 3;

/// The key that opens every model; it must be seen nowhere.
const API_KEY: &str = "model-key-4f9d2c71";

/// A call of a connector, for [`Model::script`] and [`Model::calls`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// `open`.
    Open,
    /// `check`.
    Check,
    /// `schema`.
    Schema,
    /// `plan`.
    Plan,
    /// `extract`; its name is the slice's id.
    Extract,
    /// `checkpoint`; its name is the slice's id.
    Checkpoint,
}

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It fails with this kind before it does anything.
    Fail(ErrorKind),
    /// It gives so many rows, then fails.
    FailAfter(u64, ErrorKind),
    /// It gives so many rows, then panics.
    PanicAfter(u64),
    /// It starts after this time.
    Delay(Duration),
    /// It starts once [`Model::release`] is called.
    Hold,
    /// It gives so many rows, marks them, and says that the rest is not ready for this long.
    Pending(u64, Duration),
    /// The snapshot it reads is gone: `SliceExpired`. The same for every later call of that plan.
    Expire,
}

/// One row of a table that was written since the first load.
#[derive(Debug, Clone, Copy)]
struct Written {
    row: Row,
    alive: bool,
}

#[derive(Debug, Clone, Default)]
struct Table {
    /// Rows `0..base` of the first load, as long as nothing is in `written`.
    base: i64,
    written: BTreeMap<i64, Written>,
}

impl Table {
    fn get(&self, id: i64) -> Option<Row> {
        match self.written.get(&id) {
            Some(written) => written.alive.then_some(written.row),
            None => (0..self.base).contains(&id).then(|| loaded(id)),
        }
    }

    /// The live rows with `after < id < to`, in order of the key.
    fn by_key(&self, after: i64, to: i64, limit: usize) -> Vec<Row> {
        let first = after.saturating_add(1);
        let old = (first.max(0)..to.min(self.base)).filter_map(|id| self.get(id));
        let new = self.written.range(first.max(self.base)..to.max(first.max(self.base)));
        old.chain(new.filter(|(_, w)| w.alive).map(|(_, w)| w.row)).take(limit).collect()
    }

    /// The live rows with `after < (changed, id)` and `changed <= to`, in that order.
    fn by_change(&self, after: (u64, i64), to: u64, limit: usize) -> Vec<Row> {
        let first = (after.0.saturating_sub(1) * ROWS_PER_CHANGE).cast_signed().min(self.base);
        let wanted = |row: &Row| (row.changed, row.id) > after && row.changed <= to;
        let old = (first..self.base).map(loaded).take_while(|row| row.changed <= to).filter(wanted);
        let mut rows: Vec<Row> = old.filter(|row| !self.written.contains_key(&row.id)).take(limit).collect();
        rows.extend(self.written.values().filter(|w| w.alive).map(|w| w.row).filter(wanted));
        rows.sort_by_key(|row| (row.changed, row.id));
        rows.truncate(limit);
        rows
    }

    fn end(&self) -> i64 {
        self.written.last_key_value().map_or(self.base, |(id, _)| self.base.max(id + 1))
    }
}

/// A row of the first load.
fn loaded(id: i64) -> Row {
    Row { id, changed: id.cast_unsigned() / ROWS_PER_CHANGE + 1, version: 0 }
}

/// A change of the log: `I`, `U`, `D`, or `T` for a truncated stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    pub stream: u32,
    pub op: &'static str,
    pub row: Row,
}

/// Changes that became visible together.
#[derive(Debug, Clone)]
pub(super) struct Transaction {
    pub commit: u64,
    pub changes: Arc<[Change]>,
}

struct Scripted {
    call: Call,
    names: String,
    trouble: Trouble,
}

#[derive(Default)]
struct State {
    tables: Vec<Table>,
    /// The number of the last transaction that began.
    clock: u64,
    /// Numbers of transactions that have begun and are not visible yet.
    open: Vec<u64>,
    log: VecDeque<Transaction>,
    /// Transactions up to this one are no longer in the log.
    purged: u64,
    acknowledged: u64,
    snapshots: HashMap<u64, Arc<Vec<Table>>>,
    next_snapshot: u64,
    script: Vec<Scripted>,
    calls: HashMap<Call, u64>,
    requests: u64,
    outage: bool,
}

pub(super) struct Server {
    name: String,
    pub config: ModelConfig,
    state: Mutex<State>,
    /// Grows with each visible transaction.
    pub head: watch::Sender<u64>,
    releases: watch::Sender<u64>,
}

/// A model source, steered by a test. Clones are one model; it ends with its last clone.
#[derive(Clone)]
pub struct Model(pub(super) Arc<Server>);

impl Model {
    /// A model with its first rows.
    pub fn new(config: ModelConfig) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("model-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let rows = i64::try_from(config.rows).unwrap_or(i64::MAX);
        let first = if rows > 0 { loaded(rows - 1).changed } else { 0 };
        let table = Table { base: rows, written: BTreeMap::new() };
        let state =
            State { tables: vec![table; config.streams as usize], clock: first, purged: first, ..State::default() };
        let server = Arc::new(Server {
            name: name.clone(),
            config,
            state: Mutex::new(state),
            head: watch::Sender::new(first),
            releases: watch::Sender::new(0),
        });
        running().insert(name, Arc::downgrade(&server));
        Self(server)
    }

    /// The model of a name that [`Model::config`] gave out.
    pub(super) fn named(name: &str) -> Option<Self> {
        running().get(name)?.upgrade().map(Self)
    }

    /// The configuration of a source that reads this model.
    pub fn config(&self) -> Json {
        json!({"server": self.0.name, "api_key": API_KEY})
    }

    /// The key of [`Model::config`], to look for where it must not be.
    pub fn api_key(&self) -> &'static str {
        API_KEY
    }

    // What happens at the source.

    /// Inserts rows in one transaction and gives their ids.
    pub fn insert(&self, stream: u32, rows: usize) -> Vec<i64> {
        let change = self.begin(stream, rows);
        let ids = change.ids.clone();
        change.commit();
        ids
    }

    /// Writes a new version of rows in one transaction. Rows that do not exist are left out.
    pub fn update(&self, stream: u32, ids: &[i64]) {
        self.write(stream, "U", ids);
    }

    /// Deletes rows in one transaction.
    pub fn delete(&self, stream: u32, ids: &[i64]) {
        self.write(stream, "D", ids);
    }

    /// Deletes all rows of a stream, which the log shows as one event.
    pub fn truncate(&self, stream: u32) {
        let mut state = self.state();
        let table = &mut state.tables[stream as usize];
        let end = table.end();
        *table = Table { base: 0, written: BTreeMap::new() };
        // Ids are never given out twice, so a tombstone keeps the end where it was.
        let gone = Row { id: end - 1, changed: 0, version: 0 };
        if end > 0 {
            table.written.insert(end - 1, Written { row: gone, alive: false });
        }
        state.clock += 1;
        let row = Row { changed: state.clock, ..gone };
        self.publish(&mut state, vec![Change { stream, op: "T", row }]);
    }

    /// Begins to insert rows: they take their cursor value now and become visible when [`LateRows::commit`] is called,
    /// after rows with higher cursor values perhaps. The commonest silent loss in this field.
    #[must_use = "the rows appear when they are committed"]
    pub fn begin(&self, stream: u32, rows: usize) -> LateRows {
        let mut state = self.state();
        state.clock += 1;
        let changed = state.clock;
        state.open.push(changed);
        let table = &mut state.tables[stream as usize];
        let first = table.end();
        let ids: Vec<i64> = (first..).take(rows).collect();
        for id in &ids {
            let row = Row { id: *id, changed, version: 0 };
            table.written.insert(*id, Written { row, alive: false });
        }
        LateRows { model: self.clone(), stream, changed, ids }
    }

    /// Forgets the log up to now: a reader that has not read it all has lost something.
    pub fn purge_log(&self) {
        let mut state = self.state();
        state.purged = state.log.back().map_or(state.purged, |t| t.commit);
        state.log.clear();
    }

    /// Lets every snapshot go: their slices expire.
    pub fn expire_snapshots(&self) {
        self.state().snapshots.clear();
    }

    /// The rows of a stream as they are now, [canonical](crate::oracle).
    ///
    /// # Panics
    /// Never for the values of the model.
    pub fn truth(&self, stream: u32) -> Vec<Map<String, Json>> {
        let rows = self.state().tables[stream as usize].by_key(-1, i64::MAX, usize::MAX);
        let batch = rows::batch(stream, &rows, self.0.config.payload_bytes).expect("columns of one length");
        oracle::canonical_rows(&batch).expect("types that have a canonical form")
    }

    // What goes wrong.

    /// The next calls whose name (the slice's id, else empty) a glob matches have these troubles, in order.
    pub fn script(&self, call: Call, names: &str, troubles: impl IntoIterator<Item = Trouble>) {
        let scripted = troubles.into_iter().map(|trouble| Scripted { call, names: names.to_owned(), trouble });
        self.state().script.extend(scripted);
    }

    /// Lets every call go on that [`Trouble::Hold`] holds now.
    pub fn release(&self) {
        self.0.releases.send_modify(|count| *count += 1);
    }

    /// How often a call was made.
    pub fn calls(&self, call: Call) -> u64 {
        self.state().calls.get(&call).copied().unwrap_or(0)
    }

    /// Whether every request for rows fails as unavailable.
    pub fn outage(&self, fails: bool) {
        self.state().outage = fails;
    }

    /// How many requests for rows were made: one for each batch.
    pub fn requests(&self) -> u64 {
        self.state().requests
    }

    /// Up to which transaction the log was confirmed by `checkpoint`.
    pub fn acknowledged(&self) -> u64 {
        self.state().acknowledged
    }

    /// The number of the newest visible transaction.
    pub fn head(&self) -> u64 {
        *self.0.head.borrow()
    }

    // What the connector sees.

    /// Counts a request for rows.
    pub(super) fn request(&self) -> Result<()> {
        let mut state = self.state();
        state.requests += 1;
        if state.outage { Err(failure(ErrorKind::Unavailable)) } else { Ok(()) }
    }

    pub(super) fn key_is(&self, key: &str) -> bool {
        key == API_KEY
    }

    pub(super) fn end(&self, stream: u32) -> i64 {
        self.state().tables[stream as usize].end()
    }

    pub(super) fn by_key(
        &self,
        snapshot: Option<u64>,
        stream: u32,
        after: i64,
        to: i64,
        limit: usize,
    ) -> Result<Vec<Row>> {
        let state = self.state();
        let Some(snapshot) = snapshot else {
            return Ok(state.tables[stream as usize].by_key(after, to, limit));
        };
        let frozen = state.snapshots.get(&snapshot).cloned().ok_or_else(expired)?;
        drop(state);
        Ok(frozen[stream as usize].by_key(after, to, limit))
    }

    pub(super) fn by_change(&self, stream: u32, after: (u64, i64), to: u64, limit: usize) -> Vec<Row> {
        self.state().tables[stream as usize].by_change(after, to, limit)
    }

    /// The highest cursor value below which nothing can appear any more.
    pub(super) fn safe_bound(&self) -> u64 {
        let state = self.state();
        state.open.iter().min().map_or(state.clock, |first| first - 1)
    }

    /// The highest cursor value that can be seen: not safe while transactions are open.
    pub(super) fn highest_change(&self) -> u64 {
        self.head()
    }

    pub(super) fn freeze(&self) -> u64 {
        let mut state = self.state();
        state.next_snapshot += 1;
        let (id, tables) = (state.next_snapshot, Arc::new(state.tables.clone()));
        state.snapshots.insert(id, tables);
        id
    }

    pub(super) fn thaw(&self, snapshot: u64) {
        self.state().snapshots.remove(&snapshot);
    }

    /// The first transaction after `commit`; `None` at the end of the log.
    pub(super) fn next_transaction(&self, commit: u64) -> Result<Option<Transaction>> {
        let state = self.state();
        if commit < state.purged {
            return Err(Error::new(ErrorKind::CheckpointInvalid, "the log no longer holds what follows the position")
                .with("position", commit)
                .with("log_starts_after", state.purged)
                .hint("load the streams again: `ingest state reset`"));
        }
        let at = state.log.partition_point(|transaction| transaction.commit <= commit);
        Ok(state.log.get(at).cloned())
    }

    /// A late confirmation with an older position changes nothing.
    pub(super) fn acknowledge(&self, commit: u64) {
        let mut state = self.state();
        state.acknowledged = state.acknowledged.max(commit);
        if self.0.config.forget_acknowledged {
            state.purged = state.purged.max(commit);
            state.log.retain(|transaction| transaction.commit > commit);
        }
    }

    /// Counts a call and takes its trouble; waits where the trouble is to wait.
    pub(super) async fn called(&self, call: Call, name: &str) -> Result<Option<Trouble>> {
        let trouble = {
            let mut state = self.state();
            *state.calls.entry(call).or_default() += 1;
            let at = state.script.iter().position(|s| s.call == call && glob_matches(&s.names, name));
            at.map(|at| state.script.remove(at).trouble)
        };
        match trouble {
            Some(Trouble::Fail(kind)) => Err(failure(kind)),
            Some(Trouble::Expire) => {
                self.expire_snapshots();
                Err(expired())
            }
            Some(Trouble::Delay(time)) => {
                tokio::time::sleep(time).await;
                Ok(None)
            }
            Some(Trouble::Hold) => {
                // The sender lives as long as this model does.
                let _ = self.0.releases.subscribe().changed().await;
                Ok(None)
            }
            other => Ok(other),
        }
    }

    fn write(&self, stream: u32, op: &'static str, ids: &[i64]) {
        let mut state = self.state();
        state.clock += 1;
        let changed = state.clock;
        let table = &mut state.tables[stream as usize];
        let mut changes = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(old) = table.get(*id) else { continue };
            let row = Row { id: *id, changed, version: old.version + u32::from(op == "U") };
            table.written.insert(*id, Written { row, alive: op != "D" });
            changes.push(Change { stream, op, row });
        }
        self.publish(&mut state, changes);
    }

    /// Appends a transaction to the log, under the number that the clock shows.
    fn publish(&self, state: &mut State, changes: Vec<Change>) {
        state.log.push_back(Transaction { commit: state.clock, changes: changes.into() });
        self.0.head.send_replace(state.clock);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rows that have begun to be inserted.
pub struct LateRows {
    model: Model,
    stream: u32,
    changed: u64,
    /// Their keys.
    pub ids: Vec<i64>,
}

impl LateRows {
    /// Makes them visible, with the cursor value that they took when they began.
    pub fn commit(self) {
        let mut state = self.model.state();
        let State { tables, open, .. } = &mut *state;
        open.retain(|changed| *changed != self.changed);
        let table = &mut tables[self.stream as usize];
        let mut changes = Vec::with_capacity(self.ids.len());
        for id in &self.ids {
            if let Some(written) = table.written.get_mut(id) {
                written.alive = true;
                changes.push(Change { stream: self.stream, op: "I", row: written.row });
            }
        }
        if state.clock > self.changed {
            state.clock += 1;
        }
        self.model.publish(&mut state, changes);
    }
}

pub(super) fn failure(kind: ErrorKind) -> Error {
    Error::new(kind, "cannot read the model").hint("a test asked for this failure")
}

pub(super) fn expired() -> Error {
    Error::new(ErrorKind::SliceExpired, "the snapshot of the model is gone").hint("the next plan takes a new one")
}

fn running() -> MutexGuard<'static, HashMap<String, Weak<Server>>> {
    static RUNNING: OnceLock<Mutex<HashMap<String, Weak<Server>>>> = OnceLock::new();
    RUNNING.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Server {
    fn drop(&mut self) {
        running().remove(&self.name);
    }
}
