//! The search for rows that the source no longer has: keys are staged run by run, and one commit deletes what did not come.

use std::sync::atomic::Ordering;

use ingest_core::lake::Sweep;
use ingest_core::{Error, Result};

use super::{Scope, StreamTask, Unit};
use crate::commit::Change;
use crate::events::Event;
use crate::failpoint;

impl StreamTask {
    /// Stages keys, and closes the search once all of them are there.
    pub(super) async fn commit_sweep(&mut self, group: Unit, settling: bool) -> Result<()> {
        let (Scope::Sweep(log), Some(plan)) = (&mut self.scope, self.plan.clone()) else { return Ok(()) };
        // What a source passes over it says before the mark that covers it: nothing that lacks keys is ever staged.
        let passed_over = self.shared.counters.partial.load(Ordering::Relaxed);
        if !passed_over {
            log.stage(group).await?;
            failpoint::reach("part_staged");
        }
        if !settling {
            return Ok(());
        }
        self.plan = None;
        let slices = plan.bounded(&self.shared.name);
        if !passed_over && !slices.iter().all(|slice| log.done().contains(*slice)) {
            // The rest is for later runs.
            return Ok(());
        }
        let parts = plan.document().parts.ok_or_else(|| Error::unexpected("a sweep is planned as one part"))?;
        let keys = log.gathered(parts, slices).await?;
        let now = self.clock.now_micros();
        if passed_over || !keys.quarantine.is_empty() || !keys.left.is_empty() {
            // What could not be read, or has no key, is at the source all the same.
            self.observer.event(&Event::Warning {
                stream: Some(self.shared.name.to_string()),
                message: "not all keys of the source could be read: deleted rows were not looked for".to_owned(),
            });
            let version = self.committer.commit(Change::default(), |edit| edit.end_sweep(Some(now))).await?;
            self.note_version(version);
            return Ok(());
        }
        let since = self.committer.checkpoint().sweep.as_ref().map(|sweep| sweep.since);
        let since = since.ok_or_else(|| Error::unexpected("a sweep that was never begun cannot end"))?;
        let keyed = self.shared.target.keyed.as_ref();
        let keyed = keyed.ok_or_else(|| Error::unexpected("a sweep of a stream without a key"))?;
        let merge = keyed.merge(&self.shared.conform(), self.asked(Sweep::Keys { since }, true), keys.files)?;
        let change = Change { merge: Some(merge), ..Change::default() };
        self.land(change, false, |edit| edit.end_sweep(Some(now))).await
    }
}
