//! Rounds over a plan that several processes share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ingest_core::Result;

use super::Rounds;
use crate::events::Event;
use crate::run::part::Gathered;
use crate::run::planning::OpenPlan;
use crate::run::shared::{Share, Stand, stand};
use crate::run::work::{State, Work, fail};

impl Rounds<'_> {
    /// Takes the plan that was given, for every stream that has not closed it.
    pub(super) fn plan_shared(&self, work: &mut [Work], share: &Share) {
        let mut plans: BTreeMap<&str, Arc<OpenPlan>> = BTreeMap::new();
        for w in work.iter_mut().filter(|w| w.state == State::Due) {
            let Some(document) = share.plan_of(&w.target.stream.name) else { continue };
            match stand(w.committer(), document) {
                Ok(Stand::Closed) => w.state = State::Done,
                Ok(Stand::Before | Stand::Adopted) => {
                    let documents = &self.session.lake.documents;
                    let plan = plans
                        .entry(&document.id)
                        .or_insert_with(|| Arc::new(OpenPlan::shared(document.clone(), documents)));
                    w.plan = Some(Arc::clone(plan));
                }
                Err(error) => fail(w, &error),
            }
        }
    }

    /// The part of a shared plan that this process reads.
    pub(super) fn part(&self) -> Option<u32> {
        self.options.shared.as_ref().and_then(|share| share.part)
    }

    /// The part of its plan that this process reads of a stream: of a sweep there is but one.
    pub(super) fn part_of(&self, w: &Work) -> Option<u32> {
        if w.sweeping { Some(0) } else { self.part() }
    }

    /// Gathers what other processes have staged of a plan, to close it. False: some of it is missing.
    pub(super) async fn gather(&self, w: &mut Work) -> Result<bool> {
        let (Some(plan), None) = (w.plan.clone(), self.part_of(w)) else { return Ok(true) };
        let Some(parts) = plan.document().parts else { return Ok(true) };
        let name = w.target.stream.name.clone();
        let documents = &self.session.lake.documents;
        let gathered = Gathered::read(documents, plan.id(), &name.table(), parts, plan.bounded(&name)).await?;
        let missing: BTreeSet<u32> = plan
            .bounded(&name)
            .iter()
            .filter(|slice| !gathered.done.contains(**slice))
            .map(|slice| parts.part(*slice))
            .collect();
        if missing.is_empty() {
            w.gathered = Some(gathered);
            return Ok(true);
        }
        let list = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let message = format!(
            "the plan {} is not finished: of its slices 0 to {} these are missing: {list}; run each with `--slice`, then `--finish`",
            plan.id(),
            parts.of.saturating_sub(1)
        );
        self.observer.event(&Event::Warning { stream: Some(name.to_string()), message });
        w.report.partial = true;
        w.report.missing_slices = missing.into_iter().collect();
        w.state = State::Done;
        Ok(false)
    }
}
