//! Sweeps: once everything new is in, the keys of a stream are read as far as the budget of this run goes; the run that reads
//! the last of them deletes the rows whose key did not come.
//!
//! ```text
//! begin    a plan of all keys, and when it was made: a commit without files
//! read     slice by slice, in this run and later ones; keys are staged beside the table, in the plan's only part
//! end      rows that were there when it began and whose key did not come go, and the plan with them: one commit
//! ```
//!
//! A row that comes in while a sweep is under way is stamped later than its beginning, so it stays: the source may have got it
//! after its slice was read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ingest_catalog::{PartDocument, Parts, PlanDocument, Sweeping};
use ingest_core::{Error, ErrorKind, Intent, Result, StreamName};

use super::reading::read_bounded;
use super::{MAX_LANES, Rounds, Running};
use crate::commit::Change;
use crate::events::{StreamReport, SweepReport};
use crate::failpoint;
use crate::run::budget::Budget;
use crate::run::planning::{Ask, OpenPlan, Planned, columns, document};
use crate::run::retried;
use crate::run::stream::{Finished, Message};
use crate::run::sweep::Sweeps;
use crate::run::work::{Line, Work, count, fail};

/// A plan is cut into so many slices at most, so that each fits the budget of a run.
const MAX_SLICES: u64 = 1_000;

/// One part: no other process reads it.
const ALONE: Parts = Parts { of: 1, first: 0 };

impl Rounds<'_> {
    /// Goes on with the sweeps that are due, stream by stream.
    pub(super) async fn sweep_all(&self, work: Vec<Work>) -> Vec<Work> {
        let mut swept = Vec::with_capacity(work.len());
        for w in work {
            if !self.is_sweep_due(&w) {
                swept.push(w);
                continue;
            }
            swept.extend(self.sweep(w).await);
        }
        swept
    }

    fn is_sweep_due(&self, w: &Work) -> bool {
        let Some(sweeps) = &w.target.sweeps else { return false };
        if !self.is_up_to_date(w) {
            return false;
        }
        match &w.committer().checkpoint().sweep {
            Some(Sweeping { plan: None, ended_at: Some(ended_at), .. }) => {
                self.session.clock.now_micros().saturating_sub(*ended_at) >= sweeps.every
            }
            _ => true,
        }
    }

    /// Goes on with the sweep of one stream; `None` where its task is lost.
    async fn sweep(&self, mut w: Work) -> Option<Work> {
        let sweeps = Arc::clone(w.target.sweeps.as_ref()?);
        let target = std::mem::replace(&mut w.target, sweeps.keys.clone());
        let report = std::mem::take(&mut w.report);
        w.sweeping = true;
        let (back, read) = match self.begin_sweep(&mut w, &sweeps).await {
            Ok(plan) => self.read_keys(w, plan, &sweeps).await,
            Err(error) => (Some(w), Err(error)),
        };
        let Some(mut w) = back else {
            self.lose(report);
            return None;
        };
        let swept = std::mem::replace(&mut w.report, report);
        let plan = w.plan.take();
        w.target = target;
        w.sweeping = false;
        match (read, plan) {
            (Ok(read), Some(plan)) => self.tell_sweep(&mut w, &plan, swept, read).await,
            (Err(error), _) if error.kind() != ErrorKind::Cancelled || !self.session.cancel.is_cancelled() => {
                fail(&mut w, &error);
            }
            _ => {}
        }
        Some(w)
    }

    /// Finds the plan of the sweep that is under way, or begins a new one.
    async fn begin_sweep(&self, w: &mut Work, sweeps: &Sweeps) -> Result<Arc<OpenPlan>> {
        let name = w.target.stream.name.clone();
        let (lake, source) = (&self.session.lake.documents, &self.session.config.name);
        if let Some(id) = w.committer().checkpoint().sweep.as_ref().and_then(|sweep| sweep.plan.clone()) {
            let plan = OpenPlan::shared(PlanDocument::read(lake, source, &id).await?, lake);
            let planned = plan.stream(&name).map(|planned| planned.columns.clone());
            if !plan.can_die() && planned.is_some_and(|planned| planned == columns(&w.target.stream.schema)) {
                return Ok(Arc::new(plan));
            }
            // The key is another one by now, or what is left of the plan can no longer be read.
            self.give_up_sweep(w, &id).await?;
        }
        let keys = w.target.stream.estimate.rows.unwrap_or(0);
        let slices = keys.div_ceil(sweeps.budget).clamp(1, MAX_SLICES);
        let question = Ask { intent: Intent::Portable, min_slices: u32::try_from(slices).unwrap_or(1), interval: None };
        let base = w.committer().number();
        let planned = [Planned { target: &w.target, positions: BTreeMap::new(), base, replace: false }];
        let plan = retried(self.session, || document(self.session, question, &planned, Some(ALONE))).await?;
        if plan.more {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the source is too large to plan a sweep of all of its keys",
            )
            .with("stream", &name)
            .hint("remove `sweep` and `deletes: sweep` from the stream"));
        }
        let plan = OpenPlan::shared(plan, lake);
        plan.write().await?;
        failpoint::reach("plan_written");
        let since = plan.document().made_at;
        w.committer_mut().commit(Change::default(), |edit| edit.begin_sweep(plan.id(), since)).await?;
        Ok(Arc::new(plan))
    }

    /// Reads slices within the budget; answers how many are done by now.
    async fn read_keys(&self, mut w: Work, plan: Arc<OpenPlan>, sweeps: &Sweeps) -> (Option<Work>, Result<u64>) {
        w.plan = Some(Arc::clone(&plan));
        // What dies with this process is read in one go; else one slice after another, so that the budget is kept.
        let budgeted = (!plan.can_die()).then_some(sweeps.budget);
        let parallel = match budgeted {
            Some(_) => 1,
            None => usize::from(self.session.spec.capabilities.parallel.max(1)).min(MAX_LANES),
        };
        let budget = Budget::new(self.session.memory, parallel);
        let started = match self.start(&mut w, &budget).await {
            Ok(started) => started,
            Err(error) => return (Some(w), Err(error)),
        };
        let bounded = plan.bounded(&w.target.stream.name).len();
        let done = bounded.saturating_sub(started.left.slices.len()) as u64;
        let lanes = self.lanes(budget, budgeted);
        let mut lines = [self.line(Running { work: w, started })];
        let watch = self.watch(&lines);
        read_bounded(&lanes, &mut lines, parallel).await;
        watch.abort();
        let expired = self.done_with(&lanes);
        drop(lanes);
        let [line] = lines;
        let Line { work: mut w, shared, task, .. } = line;
        // The task is gone only if it panicked; then awaiting it says so.
        drop(shared.units.send(Message::End).await);
        let finished = task.await;
        let error = count(&shared, &mut w.report);
        let read = done + shared.counters.slices_done.load(Ordering::Relaxed);
        let Ok(Finished { committer, .. }) = finished else { return (None, Ok(read)) };
        w.committer = Some(committer);
        let result = match error {
            None => Ok(read),
            Some(error) => self.broken_off(&mut w, &plan, error, !expired.is_empty()).await.map(|()| read),
        };
        (Some(w), result)
    }

    /// A sweep that a lasting error ended is begun anew by the next run; so is one whose slices have expired, which is no error.
    async fn broken_off(&self, w: &mut Work, plan: &OpenPlan, error: Error, expired: bool) -> Result<()> {
        let passes =
            error.is_retryable() || matches!(error.kind(), ErrorKind::CheckpointConflict | ErrorKind::Cancelled);
        if expired || !passes {
            self.give_up_sweep(w, plan.id()).await?;
        }
        if expired { Ok(()) } else { Err(error) }
    }

    /// Ends a sweep that leads nowhere: the next run begins anew.
    async fn give_up_sweep(&self, w: &mut Work, plan: &str) -> Result<()> {
        w.committer_mut().commit(Change::default(), |edit| edit.end_sweep(None)).await?;
        self.drop_keys(plan, &w.target.stream.name).await;
        Ok(())
    }

    async fn drop_keys(&self, plan: &str, stream: &StreamName) {
        if let Err(error) = PartDocument::sweep(&self.session.lake.documents, plan, &stream.table()).await {
            tracing::warn!(%error, "documents of a closed plan stay");
        }
    }

    /// Puts what a sweep did into the report of its stream.
    async fn tell_sweep(&self, w: &mut Work, plan: &OpenPlan, swept: StreamReport, slices_done: u64) {
        let ended = w.committer().checkpoint().sweep.as_ref().is_none_or(|sweep| sweep.plan.is_none());
        let name = w.target.stream.name.clone();
        if ended {
            self.drop_keys(plan.id(), &name).await;
        }
        let report = &mut w.report;
        report.sweep = Some(SweepReport {
            keys_read: swept.rows_read,
            slices: plan.bounded(&name).len() as u64,
            slices_done,
            rows_deleted: swept.rows_written,
            ended,
        });
        report.rows_written += swept.rows_written;
        report.files += swept.files;
        report.bytes_written += swept.bytes_written;
        report.commit_version = swept.commit_version.or(report.commit_version);
        if let Some(cost) = swept.merge {
            report.merge.get_or_insert_default().add(&cost);
        }
    }
}
