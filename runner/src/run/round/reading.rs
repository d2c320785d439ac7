//! The reading of a round: lanes over the bounded slices, then over the feeds.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ingest_catalog::Feed;
use ingest_core::WriteMode;
use tokio_util::task::AbortOnDropHandle;

use super::{Rounds, Running, Started};
use crate::run::budget::Budget;
use crate::run::jobs::{bounded_jobs, feed_jobs};
use crate::run::lane::{Lanes, Remaining, settle};
use crate::run::stream::StreamTask;
use crate::run::vigil;
use crate::run::work::{Line, Work, settled};
use crate::run::writer::{Removals, WriterSettings};

/// How long a run that follows may be quiet.
const QUIET: Duration = Duration::from_secs(7 * 86_400);

impl Rounds<'_> {
    /// Reads all bounded slices, settles, follows the feeds, and takes the streams back.
    pub(super) async fn read(
        &self,
        running: Vec<Running>,
        budget: Budget,
        parallel: usize,
        feeds: &[Feed],
    ) -> Vec<Work> {
        let lanes = self.lanes(budget, None);
        let mut lines: Vec<Line> = running.into_iter().map(|r| self.line(r)).collect();
        let watch = self.watch(&lines);
        read_bounded(&lanes, &mut lines, parallel).await;
        let by_interval = lines.iter().any(|line| line.work.interval.is_some());
        if self.options.limit.is_none() && !by_interval && self.options.shared.is_none() {
            let jobs = feed_jobs(&lines, feeds);
            // A feed that is followed never ends: all are read at once.
            let parallel = if self.options.follow { jobs.len().max(parallel) } else { parallel };
            tokio::select! {
                () = lanes.read(jobs, parallel) => {}
                () = self.confirm_now_and_then(&lines) => {}
            }
        }
        watch.abort();
        let expired = self.done_with(&lanes);
        drop(lanes);
        self.take_back(lines, &expired).await
    }

    pub(super) fn lanes(&self, budget: Budget, budgeted: Option<u64>) -> Arc<Lanes> {
        let lanes = Arc::new(Lanes {
            source: Arc::clone(&self.session.source),
            cancel: self.session.cancel.clone(),
            observer: Arc::clone(&self.observer),
            activity: Arc::clone(&self.activity),
            clock: Arc::clone(&self.session.clock),
            limit: self.options.limit,
            budgeted,
            follow: self.options.follow,
            settings: WriterSettings {
                pending_bytes: budget.pending_bytes(),
                run_id: self.session.run_id.as_str().into(),
                clock: Arc::clone(&self.session.clock),
                runtime: tokio::runtime::Handle::current(),
            },
            budget,
            expired: Mutex::default(),
            shown: Mutex::new(std::mem::take(&mut *self.shown.lock().unwrap_or_else(PoisonError::into_inner))),
        });
        lanes.stir();
        lanes
    }

    /// The plans that could no longer be read.
    pub(super) fn done_with(&self, lanes: &Lanes) -> Vec<String> {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) =
            std::mem::take(&mut *lanes.shown.lock().unwrap_or_else(PoisonError::into_inner));
        std::mem::take(&mut *lanes.expired.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn line(&self, running: Running) -> Line {
        let Running { mut work, started } = running;
        let Started { shared, plan, messages, left } = started;
        let name = &work.target.stream.name;
        let removals = match (plan.write_mode(name), plan.is_staged(name)) {
            (WriteMode::Replace, _) => Removals::Needless,
            // Of a sweep keys alone are wanted.
            _ if work.sweeping => Removals::Needless,
            (_, true) if plan.can_die() => Removals::Refuse,
            _ => Removals::Apply,
        };
        let positions = work.committer().checkpoint().positions.clone();
        let generation = work.committer().checkpoint().generation;
        let committer = work.committer.take().expect("the committer is here between rounds");
        let task = StreamTask::new(
            committer,
            Arc::clone(&shared),
            Arc::clone(&self.observer),
            Some(Arc::clone(&plan)),
            left.scope,
            Arc::clone(&self.session.clock),
        );
        Line {
            remaining: Remaining::new(left.slices.len()),
            task: AbortOnDropHandle::new(tokio::spawn(task.run(messages))),
            work,
            shared,
            plan,
            left: left.slices,
            open: left.open,
            removals,
            positions,
            generation,
            closed: false,
        }
    }

    pub(super) fn watch(&self, lines: &[Line]) -> AbortOnDropHandle<()> {
        let streams = lines.iter().map(|line| Arc::clone(&line.shared)).collect();
        let slices = lines.iter().map(|line| line.plan.bounded(&line.shared.name).len()).collect();
        let (ended, cancel) = (Arc::clone(&self.ended), self.session.cancel.clone());
        AbortOnDropHandle::new(tokio::spawn(vigil::watch(
            streams,
            slices,
            Arc::clone(&self.observer),
            Arc::clone(&self.activity),
            Arc::clone(&self.session.clock),
            // A source that is followed may have nothing to say for long; its connector looks after it.
            self.options.stall_timeout.unwrap_or(if self.options.follow { QUIET } else { Duration::from_secs(300) }),
            move |error| {
                ended.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                cancel.cancel();
            },
        )))
    }
}

/// Reads the bounded slices, and has each stream settle.
pub(super) async fn read_bounded(lanes: &Arc<Lanes>, lines: &mut [Line], parallel: usize) {
    let jobs = bounded_jobs(lines);
    for line in lines.iter() {
        if line.remaining.count.load(Ordering::Acquire) == 0 {
            settle(&line.shared.units, &line.remaining).await;
        }
    }
    // Of a sweep it matters that a key is there, not when it came.
    let in_turn =
        |line: &Line| !line.work.sweeping && line.work.target.keyed.as_ref().is_some_and(|keyed| keyed.in_turn);
    let in_turn = lines.iter().any(in_turn);
    lanes.read(jobs, if in_turn { 1 } else { parallel }).await;
    for line in lines {
        line.closed = settled(line).await;
    }
}
