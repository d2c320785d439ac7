//! The task of one stream: takes what lanes have written, and commits.

mod shared;
mod sweep;
mod unit;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use arrow_schema::SchemaRef;
use ingest_catalog::Ranges;
use ingest_core::lake::{DataFile, Merged, Removal, Sweep};
use ingest_core::{Clock, Mode, Region, Result, SliceId, Stored, WriteMode};
use tokio::sync::mpsc;
use tokio::time::Instant;

pub use self::shared::{Counters, Followed, StreamShared, conform_to};
pub use self::unit::{Cover, Message, Settled, SliceKey, Unit};
use super::merge::Asked;
use super::part::{Gathered, PartLog};
use super::planning::OpenPlan;
use crate::commit::{Change, Committer};
use crate::events::{Event, Observer};
use crate::failpoint;

/// What a run is after, and so what its commits leave behind.
pub enum Scope {
    /// All that a plan covers, with its checkpoint.
    Plan,
    /// A part of a plan: files are staged beside the table.
    Part(Box<PartLog>),
    /// Nothing is read: what all parts have staged becomes visible.
    Close(Box<Gathered>),
    /// Keys are staged beside the table; once all are there, rows without one are deleted.
    Sweep(Box<PartLog>),
    /// The first rows, without one.
    Limit,
    /// The rows of this region, which take the place of those in the table in one commit.
    Interval(Region),
}

/// What the rows of a commit are of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Some of them.
    Part,
    /// Some of them as they are now, whatever the table has.
    Again,
    /// All of them.
    Whole,
}

/// The task of a stream.
pub struct StreamTask {
    committer: Committer,
    shared: Arc<StreamShared>,
    observer: Arc<dyn Observer>,
    plan: Option<Arc<OpenPlan>>,
    scope: Scope,
    /// A commit has failed: what came with it is gone, so nothing that comes after it may be committed either.
    broken: bool,
    group: Unit,
    group_bytes: u64,
    since: Option<Instant>,
    /// When the last commit was done.
    committed: Option<Instant>,
    /// The plan has feeds that bring rows of this stream.
    follows_feeds: bool,
    clock: Arc<dyn Clock>,
    /// Nothing more comes.
    ending: bool,
    /// Feed positions that are covered, whether or not rows came with them.
    feeds: BTreeMap<SliceId, Stored>,
}

/// What the task hands back at the end.
pub struct Finished {
    /// The committer, standing on the last commit.
    pub committer: Committer,
    /// How far each feed is read with everything committed.
    pub feeds: BTreeMap<SliceId, Stored>,
}

impl StreamTask {
    /// A task that commits with `committer`.
    pub fn new(
        committer: Committer,
        shared: Arc<StreamShared>,
        observer: Arc<dyn Observer>,
        plan: Option<Arc<OpenPlan>>,
        scope: Scope,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let serves = |plan: &Arc<OpenPlan>| plan.feeds().any(|feed| feed.streams.contains(&shared.name));
        Self {
            follows_feeds: plan.as_ref().is_some_and(serves),
            clock,
            committer,
            shared,
            observer,
            plan,
            scope,
            broken: false,
            group: Unit::default(),
            group_bytes: 0,
            since: None,
            committed: None,
            ending: false,
            feeds: BTreeMap::new(),
        }
    }

    /// Works until [`Message::End`]. An error is noted in the shared part; what was committed stays.
    pub async fn run(mut self, mut messages: mpsc::Receiver<Message>) -> Finished {
        loop {
            let deadline = self.deadline();
            let message = tokio::select! {
                message = messages.recv() => message,
                () = sleep_until(deadline) => {
                    self.attempt_commit().await;
                    continue;
                }
            };
            match message {
                None | Some(Message::End) => break,
                Some(Message::Unit(unit)) => self.take(*unit).await,
                Some(Message::Settle(answer)) => {
                    let settled = self.settle().await;
                    // The asker is gone only when the run is being torn down.
                    drop(answer.send(settled));
                }
            }
        }
        self.ending = true;
        self.attempt_commit().await;
        for message in self.shared.quality.warnings() {
            self.observer.event(&Event::Warning { stream: Some(self.shared.name.to_string()), message });
        }
        if self.broken {
            // What a feed covered and nothing committed must not be claimed.
            self.feeds.clear();
        }
        Finished { committer: self.committer, feeds: self.feeds }
    }

    /// When what has come is committed at the latest. Lanes of a stream that is followed hand over one after another: they
    /// share commits.
    fn deadline(&self) -> Option<Instant> {
        let due = self.since? + self.shared.commit_interval;
        Some(self.committed.map_or(due, |at| due.max(at + self.shared.commit_interval / 2)))
    }

    fn failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }

    async fn attempt_commit(&mut self) {
        if let Err(error) = self.commit_group(false).await {
            self.shared.fail(error);
        }
    }

    async fn take(&mut self, unit: Unit) {
        if !self.can_join(&unit) {
            self.attempt_commit().await;
        }
        if unit.region.is_some() && self.group.region.is_none() {
            self.group.region.clone_from(&unit.region);
        }
        let regions_before = self.group.region.is_some();
        self.group_bytes += unit.files.iter().map(|file| file.bytes).sum::<u64>();
        self.group.files.extend(unit.files);
        self.group.quarantine.extend(unit.quarantine);
        self.group.covers.extend(unit.covers);
        self.group.tally.add(unit.tally);
        self.group.schema = unit.schema.or(self.group.schema.take());
        let something = !(self.group.files.is_empty() && self.group.quarantine.is_empty());
        if something || self.shared.follows {
            // Of a stream that is followed, the time that its rows have waited in their file counts.
            let now = Instant::now();
            let came = unit.since.filter(|_| self.shared.follows).map_or(now, Instant::from_std);
            self.since = Some(self.since.map_or(came, |since| since.min(came)));
        }
        if matches!(self.scope, Scope::Interval(_)) {
            // Nothing shows before everything is there.
            return;
        }
        // A region is applied in a commit of its own rows; large groups and old ones do not wait.
        let old = self.deadline().is_some_and(|at| at <= Instant::now());
        let large = self.group_bytes >= self.shared.options.target_file_bytes.saturating_mul(8);
        if regions_before || large || old {
            self.attempt_commit().await;
        }
    }

    /// Rows that come after a region was removed must not share a commit with rows that came before.
    fn can_join(&self, unit: &Unit) -> bool {
        unit.region.is_none() || (self.group.files.is_empty() && self.group.region.is_none())
    }

    /// Slices of the plan that are finished once these covers are committed.
    fn done_after(&self, plan: &OpenPlan, covers: &[(SliceKey, Cover)]) -> Ranges {
        let progress = self.committer.checkpoint().plan.as_ref().filter(|progress| progress.id == plan.id());
        let mut done = progress.map(|progress| progress.done.clone()).unwrap_or_default();
        if let Scope::Close(gathered) = &self.scope {
            done = gathered.done.clone();
        }
        for (key, cover) in covers {
            if let (SliceKey::Bounded(index), Cover::Done | Cover::Left(..)) = (key, cover) {
                done.insert(*index);
            }
        }
        done
    }

    /// Commits what has come, and closes the plan when every bounded slice is done.
    async fn settle(&mut self) -> Result<Settled> {
        self.commit_group(true).await?;
        Ok(if self.plan.is_none() && !self.broken { Settled::Closed } else { Settled::Open })
    }

    async fn commit_group(&mut self, settling: bool) -> Result<()> {
        let group = std::mem::take(&mut self.group);
        self.group_bytes = 0;
        self.since = None;
        if self.broken {
            return Ok(());
        }
        let result = self.commit_taken(group, settling).await;
        self.committed = Some(Instant::now());
        self.broken = result.is_err();
        if self.shared.follows && !self.broken {
            let followed = Followed {
                number: self.committer.number(),
                generation: self.committer.checkpoint().generation,
                feeds: self.feeds.clone(),
            };
            *self.shared.followed.lock().unwrap_or_else(PoisonError::into_inner) = Some(followed);
        }
        result
    }

    async fn commit_taken(&mut self, mut group: Unit, settling: bool) -> Result<()> {
        for (key, cover) in &group.covers {
            if let (SliceKey::Feed(id), Cover::At(position)) = (key, cover) {
                self.feeds.insert(id.clone(), position.clone());
            }
        }
        let closing = match self.plan.clone() {
            Some(plan) if settling => {
                let done = self.done_after(&plan, &group.covers);
                plan.bounded(&self.shared.name).iter().all(|index| done.contains(*index)).then_some(plan)
            }
            _ => None,
        };
        // Rows of feeds come after the plan is closed.
        let last = match self.scope {
            // What a part reads says nothing about the whole.
            Scope::Limit | Scope::Part(_) | Scope::Close(_) | Scope::Sweep(_) => false,
            _ if self.follows_feeds => self.ending && !self.failed(),
            _ => closing.is_some(),
        };
        let tally = std::mem::take(&mut group.tally);
        self.shared.quality.judge(tally, last, self.clock.now_micros())?;
        match (&mut self.scope, closing) {
            (Scope::Limit, _) => return self.commit_limited(group, settling).await,
            (Scope::Sweep(_), _) => return self.commit_sweep(group, settling).await,
            (Scope::Interval(region), Some(plan)) => {
                let region = region.clone();
                return self.commit_interval(group, region, &plan).await;
            }
            // A part of an interval is nothing; what is uploaded of it is never added.
            (Scope::Interval(_), None) => return Ok(()),
            (Scope::Part(log), _) => {
                let staged = rows(&group.files);
                log.stage(group).await?;
                self.shared.counters.rows_staged.fetch_add(staged, Ordering::Relaxed);
                failpoint::reach("part_staged");
                if settling {
                    self.plan = None;
                }
                return Ok(());
            }
            (Scope::Plan | Scope::Close(_), Some(plan)) => return self.close(group, &plan).await,
            (Scope::Plan | Scope::Close(_), None) => {}
        }
        let bounded_cover = group.covers.iter().any(|(key, _)| matches!(key, SliceKey::Bounded(_)));
        let nothing = group.files.is_empty() && group.quarantine.is_empty() && group.region.is_none();
        if nothing && !bounded_cover {
            // Feed positions of a quiet table go into the feed's document, not into a commit of their own.
            return Ok(());
        }
        self.commit_progress(group).await
    }

    async fn commit_progress(&mut self, group: Unit) -> Result<()> {
        let mut staged = false;
        if let Some(plan) = self.plan.clone()
            && group.covers.iter().any(|(key, _)| matches!(key, SliceKey::Bounded(_)))
        {
            self.adopt(&plan).await?;
            staged = plan.is_staged(&self.shared.name);
        }
        let mut group = group;
        let covers = std::mem::take(&mut group.covers);
        let mut staging = Vec::new();
        let change = if staged {
            staging = group.files;
            Change { quarantine: group.quarantine, ..Change::default() }
        } else {
            let remove = removal(group.region.take().into_iter().collect());
            self.change(group, remove, Reading::Part)?
        };
        self.land(change, false, |edit| {
            apply(edit, covers);
            edit.stage(staging);
        })
        .await
    }

    /// Adopts the plan in this table: a commit without files, before its first rows become visible
    /// (invariant `plan_is_adopted_before_its_rows`). A plan whose rows all fit into one commit is never adopted: that
    /// commit goes from the plan's base to its end, and is fenced like any other.
    async fn adopt(&mut self, plan: &Arc<OpenPlan>) -> Result<()> {
        if self.committer.checkpoint().plan.as_ref().is_some_and(|progress| progress.id == plan.id()) {
            return Ok(());
        }
        plan.write().await?;
        failpoint::reach("plan_written");
        let slices = plan.bounded(&self.shared.name).len();
        let replace = plan.write_mode(&self.shared.name) == WriteMode::Replace;
        let version = self.committer.commit(Change::default(), |edit| edit.adopt(plan.id(), slices, replace)).await?;
        self.note_version(version);
        Ok(())
    }

    /// The one commit that closes a plan: staged files become visible, what the plan promised holds, the plan is gone.
    async fn close(&mut self, mut group: Unit, plan: &Arc<OpenPlan>) -> Result<()> {
        let adopted = self.committer.checkpoint().plan.as_ref().is_some_and(|progress| progress.id == plan.id());
        let mut files = if adopted { self.committer.staged().await? } else { Vec::new() };
        files.append(&mut group.files);
        let mut regions: Vec<Region> = group.region.take().into_iter().collect();
        let mut left = BTreeMap::new();
        if let Scope::Close(gathered) = &mut self.scope {
            let gathered = std::mem::take(gathered.as_mut());
            files.extend(gathered.files);
            group.quarantine.extend(gathered.quarantine);
            regions.extend(gathered.regions);
            group.schema = gathered.schema.map(Arc::new).or(group.schema);
            left = gathered.left;
        }
        if !files.is_empty() {
            // What was staged before may be wider than the table is.
            group.schema.get_or_insert_with(|| Arc::clone(self.shared.conform().storage()));
        }
        group.files = files;
        let then = plan.then(&self.shared.name);
        let replace = plan.write_mode(&self.shared.name) == WriteMode::Replace;
        let reading =
            if replace { Reading::Part } else { self.reading(plan, !group.quarantine.is_empty() || !left.is_empty()) };
        let unchanged = group.files.is_empty()
            && reading != Reading::Whole
            && group.quarantine.is_empty()
            && regions.is_empty()
            && !adopted
            && !replace
            && then.iter().all(|(id, position)| self.committer.checkpoint().positions.get(id) == position.as_ref());
        if unchanged {
            // Nothing new at the source: no commit at all.
            self.plan = None;
            return Ok(());
        }
        let shared = plan.document().parts.is_some();
        let covers = std::mem::take(&mut group.covers);
        let change = self.change(group, if replace { Removal::All } else { removal(regions) }, reading)?;
        // Older checkpoints may still name what was staged.
        let named = plan.is_staged(&self.shared.name);
        self.land(change, named, |edit| {
            if replace && !adopted {
                edit.forget();
            }
            apply(edit, covers);
            left.into_iter().for_each(|(slice, position)| edit.feed(&slice, position));
            edit.close(&then);
            if shared {
                edit.closed(plan.id());
            }
        })
        .await?;
        self.plan = None;
        Ok(())
    }

    /// `run --limit`: rows without a checkpoint; the next run replaces them.
    async fn commit_limited(&mut self, group: Unit, settling: bool) -> Result<()> {
        if !settling && group.files.is_empty() {
            return Ok(());
        }
        let first = !self.committer.checkpoint().limited || self.shared.counters.version.load(Ordering::Relaxed) == 0;
        let change = self.change(group, if first { Removal::All } else { Removal::Nothing }, Reading::Part)?;
        self.land(change, false, |edit| edit.limited()).await?;
        if settling {
            self.plan = None;
        }
        Ok(())
    }

    /// `run --interval-start --interval-end`: the rows of the interval as they are at the source now, in one commit. The
    /// positions stay; a connector whose next window would read some of the rows again notes that beside them.
    async fn commit_interval(&mut self, group: Unit, region: Region, plan: &Arc<OpenPlan>) -> Result<()> {
        let before = self.committer.checkpoint();
        // Without a position nobody knows what the table lacks: the first load replaces all of it.
        let loose = before.positions.is_empty() && (before.parent.is_none() || before.limited || before.intervals);
        let remove = if before.limited { Removal::All } else { Removal::Regions(vec![region]) };
        let change = self.change(group, remove, Reading::Again)?;
        let then = plan.then(&self.shared.name);
        self.land(change, false, |edit| {
            then.into_iter().for_each(|(slice, at)| at.into_iter().for_each(|at| edit.feed(&slice, at)));
            if loose {
                edit.intervals();
            }
        })
        .await?;
        self.plan = None;
        Ok(())
    }

    /// Whether all rows of the source are there when a plan is closed, so that others can be swept.
    fn reading(&self, plan: &OpenPlan, lacks: bool) -> Reading {
        let counters = &self.shared.counters;
        let sweeps = self.shared.target.keyed.as_ref().is_some_and(|keyed| keyed.sweeps);
        // The plan may be of an earlier run with other options: only one that held everything back has everything here.
        let planned = plan.stream(&self.shared.name);
        if !sweeps || !planned.is_some_and(|planned| planned.staged && planned.mode == Mode::Full) {
            return Reading::Part;
        }
        // What could not be read, or went to quarantine, is at the source all the same.
        let quarantined = counters.rows_quarantined.load(Ordering::Relaxed) > 0;
        let lacking = lacks || quarantined || counters.partial.load(Ordering::Relaxed);
        if lacking || plan.document().more {
            self.observer.event(&Event::Warning {
                stream: Some(self.shared.name.to_string()),
                message: "not all rows of the source came in: deleted ones were not looked for".to_owned(),
            });
            return Reading::Part;
        }
        Reading::Whole
    }

    /// The change that makes files visible: by key, where the stream's rows meet those of the table.
    fn change(&self, group: Unit, remove: Removal, reading: Reading) -> Result<Change> {
        let Some(keyed) = &self.shared.target.keyed else {
            return Ok(Change {
                add: group.files,
                schema: self.wider(group.schema),
                quarantine: group.quarantine,
                remove,
                merge: None,
            });
        };
        let conform = self.shared.conform();
        let sweep = if reading == Reading::Whole { Sweep::Rows } else { Sweep::Nothing };
        let asked = self.asked(sweep, reading == Reading::Again);
        let needed = !group.files.is_empty() || sweep.deletes();
        let merge = if needed { Some(keyed.merge(&conform, asked, group.files)?) } else { None };
        let schema = self.wider(Some(keyed.table_schema(conform.storage())));
        Ok(Change { add: Vec::new(), schema, quarantine: group.quarantine, remove, merge })
    }

    fn asked(&self, sweep: Sweep, as_it_came: bool) -> Asked {
        Asked {
            sweep,
            as_it_came,
            now: self.shared.clock.now_micros(),
            memory_bytes: self.shared.merge_bytes,
            options: self.shared.options.clone(),
            progress: Arc::clone(&self.shared.counters.merging),
        }
    }

    /// Commits, and counts what became visible. Files that rows were taken from are removed, unless a checkpoint names them.
    async fn land(
        &mut self,
        change: Change,
        named: bool,
        edit: impl FnOnce(&mut crate::commit::Edit<'_>),
    ) -> Result<()> {
        let mut landed = Merged {
            rows_changed: rows(&change.add),
            files_written: change.add.len() as u64,
            bytes_written: change.add.iter().map(|file| file.bytes).sum(),
            ..Merged::default()
        };
        let came = change.merge.as_ref().map(|merge| merge.rows.clone());
        let turn = match &came {
            // Memory is meant for one merge at a time.
            Some(_) => Arc::clone(&self.shared.merges).acquire_owned().await.ok(),
            None => None,
        };
        let version = self.committer.commit(change, edit).await?;
        drop(turn);
        if let Some(came) = came
            && let Some(table) = self.committer.table()
        {
            // Where the answer to the commit was lost, nobody knows more than what came.
            let unknown = Merged { rows_changed: rows(&came), files_written: came.len() as u64, ..Merged::default() };
            landed = table.merged().unwrap_or(unknown);
            self.shared.counters.merged(&landed);
            if !named && let Err(error) = table.discard(&came).await {
                tracing::warn!(%error, stream = %self.shared.name, "files that were merged stay until the next vacuum");
            }
        }
        self.after_commit(version, &landed).await
    }

    async fn after_commit(&mut self, version: u64, landed: &Merged) -> Result<()> {
        self.note_version(version);
        let counters = &self.shared.counters;
        let (rows, files) = (landed.rows_changed, usize::try_from(landed.files_written).unwrap_or(usize::MAX));
        counters.rows_written.fetch_add(rows, Ordering::Relaxed);
        counters.files.fetch_add(landed.files_written, Ordering::Relaxed);
        counters.bytes_written.fetch_add(landed.bytes_written, Ordering::Relaxed);
        let checkpoint = self.committer.checkpoint();
        self.observer.event(&Event::Commit {
            stream: self.shared.name.to_string(),
            version,
            rows,
            files,
            number: checkpoint.number,
        });
        self.shared.quarantine.commit(checkpoint).await?;
        failpoint::reach("quarantined");
        Ok(())
    }

    fn note_version(&self, version: u64) {
        self.shared.counters.version.store(version + 1, Ordering::Relaxed);
    }

    /// The schema, if the table does not have it yet.
    fn wider(&self, schema: Option<SchemaRef>) -> Option<SchemaRef> {
        let table = self.committer.table().map(|table| table.schema());
        schema.filter(|schema| table.is_some_and(|table| table.fields().len() < schema.fields().len()))
    }
}

fn rows(files: &[DataFile]) -> u64 {
    files.iter().map(|file| file.rows).sum()
}

fn removal(regions: Vec<Region>) -> Removal {
    match regions {
        regions if regions.is_empty() => Removal::Nothing,
        regions if regions.contains(&Region::All) => Removal::All,
        regions => Removal::Regions(regions),
    }
}

fn apply(edit: &mut crate::commit::Edit<'_>, covers: Vec<(SliceKey, Cover)>) {
    for (key, cover) in covers {
        match (key, cover) {
            (SliceKey::Bounded(index), Cover::At(position)) => edit.open(index, position),
            (SliceKey::Bounded(index), Cover::Done) => edit.done(index),
            (SliceKey::Bounded(index), Cover::Left(id, position)) => {
                edit.done(index);
                edit.feed(&id, position);
            }
            (SliceKey::Feed(id), Cover::At(position)) => edit.feed(&id, position),
            (SliceKey::Feed(_), Cover::Done | Cover::Left(..)) => {}
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
