//! The end of a round: what became of each stream, and what the source may be told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ingest_catalog::PartDocument;
use ingest_core::{Error, ErrorKind, Mode, Result, SliceId, StreamName};

use super::Rounds;
use crate::commit::{Change, Held};
use crate::events::{ErrorReport, Event, StreamReport};
use crate::failpoint;
use crate::run::planning::OpenPlan;
use crate::run::stream::{Finished, Message};
use crate::run::work::{Line, State, Work, count, fail};

/// A plan whose slices expire is made again, at most so often.
const MAX_EXPIRIES: usize = 3;

/// How often a run that follows tells its source what is committed.
const CONFIRM: Duration = Duration::from_secs(5);

impl Rounds<'_> {
    /// Ends the tasks, writes down what feeds hold, and decides what is due again.
    pub(super) async fn take_back(&self, lines: Vec<Line>, expired: &[String]) -> Vec<Work> {
        let mut work = Vec::new();
        let mut held: BTreeMap<SliceId, BTreeMap<StreamName, Held>> = BTreeMap::new();
        let mut feeds: BTreeMap<SliceId, (Arc<OpenPlan>, Option<String>)> = BTreeMap::new();
        for line in lines {
            let Line { work: mut w, shared, plan, task, closed, positions, .. } = line;
            // The task is gone only if it panicked; then awaiting it says so.
            drop(shared.units.send(Message::End).await);
            let Ok(Finished { committer, feeds: covered }) = task.await else {
                self.lose(std::mem::take(&mut w.report));
                continue;
            };
            w.committer = Some(committer);
            let error = count(&shared, &mut w.report);
            let name = w.target.stream.name.clone();
            // Also of a stream that failed: what it still needs must not be let go.
            for slice in plan.feeds().filter(|slice| slice.streams.contains(&name)) {
                let at = covered.get(&slice.id).or_else(|| w.committer().checkpoint().positions.get(&slice.id));
                let generation = w.committer().checkpoint().generation;
                if let (Some(position), Some(generation)) = (at.or(positions.get(&slice.id)), generation) {
                    let number = w.committer().number();
                    let one = Held { number, generation, position: position.clone() };
                    held.entry(slice.id.clone()).or_default().insert(name.clone(), one);
                    feeds.entry(slice.id.clone()).or_insert_with(|| (Arc::clone(&plan), w.target.stream.group.clone()));
                }
            }
            self.decide(&mut w, &plan, closed, error, expired).await;
            work.push(w);
        }
        for (feed, streams) in held {
            let Some((plan, group)) = feeds.remove(&feed) else { continue };
            self.confirm(&feed, group.as_deref(), &streams, &plan).await;
        }
        work
    }

    /// Without its committer a stream is out of this run.
    pub(super) fn lose(&self, mut report: StreamReport) {
        report.error = Some(ErrorReport::from(&Error::unexpected("the task of a stream ended unexpectedly")));
        self.observer.event(&Event::StreamFinished(report.clone()));
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).push(report);
    }

    async fn decide(&self, w: &mut Work, plan: &OpenPlan, closed: bool, error: Option<Error>, expired: &[String]) {
        w.plan = None;
        if expired.iter().any(|id| id == plan.id()) && !closed {
            w.expiries += 1;
            let visible = w.committer().checkpoint().plan.as_ref().is_some_and(|progress| progress.id == plan.id())
                && !plan.is_staged(&w.target.stream.name);
            if visible {
                // Its rows are in the table already: reading the whole plan again would add them twice.
                let error =
                    Error::new(ErrorKind::CheckpointInvalid, "a plan expired after a part of its rows was committed")
                        .with("plan", plan.id())
                        .hint("load the stream again with `ingest run --full-refresh`");
                fail(w, &error);
            } else if w.expiries > MAX_EXPIRIES {
                fail(
                    w,
                    &error.unwrap_or_else(|| Error::new(ErrorKind::SliceExpired, "the plan expired again and again")),
                );
            } else if let Err(error) = self.abandon(w).await {
                fail(w, &error);
            }
            return;
        }
        if let Some(error) = error {
            if error.kind() == ErrorKind::QuotaExhausted {
                w.report.partial = true;
            }
            if error.kind() != ErrorKind::Cancelled || !self.session.cancel.is_cancelled() {
                fail(w, &error);
            }
            return;
        }
        if self.session.cancel.is_cancelled() && !closed {
            return;
        }
        if !closed {
            fail(w, &Error::unexpected("not all slices of the stream were read, and nothing says why"));
            return;
        }
        w.state = State::Done;
        if plan.document().parts.is_some() && self.part().is_none() {
            let table = w.target.stream.name.table();
            if let Err(error) = PartDocument::sweep(&self.session.lake.documents, plan.id(), &table).await {
                tracing::warn!(%error, "documents of a closed plan stay");
            }
        }
        if self.options.limit.is_none() && w.interval.is_none() && self.options.shared.is_none() {
            w.refresh = false;
            w.expiries = 0;
            // A full load that was resumed is what it would have been; anything else goes on to what is new.
            if closed && (plan.document().more || (w.resumed && w.target.mode != Mode::Full)) {
                w.state = State::Due;
            }
        }
    }

    /// Gives a plan up in one table: its staged files are never added, and `maintain` removes them.
    pub(super) async fn abandon(&self, w: &mut Work) -> Result<()> {
        if w.committer().checkpoint().plan.is_some() {
            w.committer_mut().commit(Change::default(), |edit| edit.abandon()).await?;
        }
        // What an expired plan has counted is read again.
        w.report.rows_read = 0;
        w.report.bytes_read = 0;
        Ok(())
    }

    /// While feeds are followed: confirms what is committed, every few seconds. Never ends.
    pub(super) async fn confirm_now_and_then(&self, lines: &[Line]) {
        loop {
            if !self.options.follow {
                return std::future::pending().await;
            }
            tokio::time::sleep(CONFIRM).await;
            let mut held: BTreeMap<SliceId, BTreeMap<StreamName, Held>> = BTreeMap::new();
            let mut waited: BTreeSet<SliceId> = BTreeSet::new();
            for line in lines {
                let followed = line.shared.followed();
                for slice in line.plan.feeds().filter(|slice| slice.streams.contains(&line.shared.name)) {
                    let at = followed.as_ref().and_then(|followed| {
                        let position = followed.feeds.get(&slice.id)?.clone();
                        Some(Held { number: followed.number, generation: followed.generation?, position })
                    });
                    match at {
                        Some(at) => {
                            drop(held.entry(slice.id.clone()).or_default().insert(line.shared.name.clone(), at))
                        }
                        // Nothing of it is committed yet: where it stands, nobody confirms.
                        None => drop(waited.insert(slice.id.clone())),
                    }
                }
            }
            for (feed, streams) in held.iter().filter(|(feed, _)| !waited.contains(*feed)) {
                let Some(line) = lines.iter().find(|line| streams.contains_key(&line.shared.name)) else { continue };
                let group = line.work.target.stream.group.as_deref();
                self.confirm(feed, group, streams, &line.plan).await;
            }
        }
    }

    /// Writes down what the tables hold of a feed, and confirms its floor to the source
    /// (invariants `checkpoint_after_commit`, `ack_is_the_floor_of_all_members`).
    async fn confirm(&self, feed: &SliceId, group: Option<&str>, held: &BTreeMap<StreamName, Held>, plan: &OpenPlan) {
        let document = match self.floor.claim(feed, group, held).await {
            Ok(document) => document,
            Err(error) => {
                tracing::warn!(%error, %feed, "what the tables of a feed hold could not be written; the next run does");
                return;
            }
        };
        failpoint::reach("feed_written");
        let (Some(floor), Some(slice)) = (document.floor(), plan.feeds().find(|slice| slice.id == *feed)) else {
            return;
        };
        // Lost confirmations are made up for by the next one.
        if let Err(error) = self.session.source.checkpoint(slice, plan.version(), floor).await {
            tracing::warn!(%error, %feed, "the source could not be told what is committed");
        }
        failpoint::reach("acknowledged");
    }
}
