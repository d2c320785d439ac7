//! Rounds over a plan that several processes share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ingest_core::lake::Definition;
use ingest_core::{ErrorKind, Result, WriteMode};

use super::Rounds;
use crate::commit::{Change, Committer};
use crate::events::Event;
use crate::failpoint;
use crate::run::part::Gathered;
use crate::run::planning::OpenPlan;
use crate::run::shared::{Share, Stand, stand};
use crate::run::work::{State, Work, fail};

/// How often a part tries to adopt its plan while others do the same.
const ADOPTIONS: usize = 10;

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

    /// Gathers what other processes have staged of a plan, to close it. False: some of it is missing.
    pub(super) async fn gather(&self, w: &mut Work) -> Result<bool> {
        let (Some(plan), None) = (w.plan.clone(), self.part()) else { return Ok(true) };
        let Some(parts) = plan.document().parts else { return Ok(true) };
        let name = w.target.stream.name.clone();
        let documents = &self.session.lake.documents;
        let gathered = Gathered::read(documents, plan.id(), &name.table(), plan.bounded(&name)).await?;
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
        w.state = State::Done;
        Ok(false)
    }

    /// Adopts a shared plan, unless another process was first (invariant `plan_is_adopted_before_its_rows`).
    pub(super) async fn adopt_shared(&self, w: &mut Work, plan: &OpenPlan, definition: &Definition) -> Result<()> {
        let name = w.target.stream.name.clone();
        let replace = plan.write_mode(&name) == WriteMode::Replace;
        let slices = plan.bounded(&name).len();
        for _ in 0..ADOPTIONS {
            if let Stand::Adopted | Stand::Closed = stand(w.committer(), plan.document())? {
                return Ok(());
            }
            let committer = w.committer_mut();
            let adopted = async {
                committer.ensure(definition).await?;
                plan.write().await?;
                failpoint::reach("plan_written");
                committer.commit(Change::default(), |edit| edit.adopt(plan.id(), slices, replace)).await
            };
            match adopted.await {
                Ok(_) => return Ok(()),
                // Another part of the plan may have been first: then it stands adopted.
                Err(error) if error.kind() == ErrorKind::CheckpointConflict => {
                    w.committer = Some(Committer::open(self.author.clone(), name.clone()).await?);
                }
                Err(error) => return Err(error),
            }
        }
        stand(w.committer(), plan.document()).map(drop)
    }
}
