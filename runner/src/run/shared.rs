//! A plan that several processes share: made once, read in parts by any of them, closed by one commit.
//!
//! ```text
//! ingest plan --source S --slices N -o plan.json     the plan; nothing is adopted yet
//! ingest run --plan plan.json --slice I              part I of N: files and documents, the table is not touched
//! ingest run --plan plan.json --finish               all parts become visible in one commit
//! ```
//!
//! The first part to start adopts the plan in each table that still stands where the plan was made (invariant
//! `plan_names_its_base`); the others find it adopted. A plan that is neither adopted nor adoptable is refused.

use std::collections::BTreeSet;

use ingest_catalog::{FORMAT, Parts, PlanDocument};
use ingest_core::lake::Definition;
use ingest_core::{Error, ErrorKind, Intent, Json, Result, Selection, Shape, StreamName, WriteMode};
use serde::{Deserialize, Serialize};

use super::planning::{Ask, OpenPlan, Planned, by_group, columns, document, group_key};
use super::retried;
use super::target::Target;
use crate::commit::{Author, Change, Committer, Floor, effective_positions};
use crate::config::public_url;
use crate::failpoint;
use crate::session::Session;

/// Of so many parts that start at once, one adopts the plan and the others see it after a few attempts.
const ADOPTIONS: usize = 10;

/// `plan.json`: slices with bounds, what will hold once they are done, and where it all stands. It carries no secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SharedPlan {
    /// Format of the document.
    pub format: u32,
    /// The source.
    pub source: String,
    /// The lake, without credentials.
    pub lake: String,
    /// So many parts: `--slice` takes 0 to this less one.
    pub parts: u32,
    /// For people: what `ingest plan --json` says of each stream. Nothing reads it again.
    #[serde(default)]
    pub streams: Vec<Json>,
    /// A plan for each group of streams.
    pub plans: Vec<PlanDocument>,
}

/// What a process does of a shared plan.
#[derive(Debug, Clone)]
pub struct Share {
    /// The plan.
    pub plan: SharedPlan,
    /// This part; `None` closes it.
    pub part: Option<u32>,
}

impl SharedPlan {
    /// The parts that have slices to read: of a small plan not all.
    pub fn busy_parts(&self) -> BTreeSet<u32> {
        let of_plan = |plan: &PlanDocument| {
            let parts = plan.parts?;
            let bounded = (0..).zip(&plan.slices).filter(|(_, slice)| slice.shape != Shape::Feed);
            Some(bounded.map(|(index, _)| parts.part(index)).collect::<Vec<_>>())
        };
        self.plans.iter().filter_map(of_plan).flatten().collect()
    }
}

impl Share {
    /// The streams of the plan.
    pub fn selection(&self) -> Selection {
        let names = self.plan.plans.iter().flat_map(|plan| plan.streams.keys()).map(ToString::to_string).collect();
        Selection { select: names, exclude: Vec::new() }
    }

    /// The plan of a stream.
    pub fn plan_of(&self, stream: &StreamName) -> Option<&PlanDocument> {
        self.plan.plans.iter().find(|plan| plan.streams.contains_key(stream))
    }

    /// Checks that a stream is as it was planned, and takes what the plan says of it.
    ///
    /// # Errors
    /// `ConfigInvalid` that names what has changed.
    pub fn fit(&self, mut target: Target) -> Result<Target> {
        let name = target.stream.name.clone();
        let planned = self.plan_of(&name).and_then(|plan| plan.streams.get(&name));
        let Some(planned) = planned else {
            return Err(Error::unexpected("the plan does not know the stream").with("stream", name));
        };
        let now = columns(&target.stream.schema);
        let changed: Vec<&str> = now
            .iter()
            .filter(|column| !planned.columns.contains(column))
            .chain(planned.columns.iter().filter(|column| !now.contains(column)))
            .map(String::as_str)
            .collect();
        if !changed.is_empty() {
            return Err(stale("the columns of the stream have changed since the plan was made")
                .with("stream", name)
                .with("changed", changed.join(", ")));
        }
        target.mode = planned.mode;
        target.write = planned.write;
        Ok(target)
    }

    /// Checks that the plan is of this source and lake, and the part one of its parts.
    ///
    /// # Errors
    /// `ConfigInvalid` that names what differs.
    pub fn check(&self, session: &Session) -> Result<()> {
        let lake = public_url(&session.lake.config.url);
        if self.plan.format > FORMAT {
            return Err(Error::config("the plan was written by a newer version").with("format", self.plan.format));
        }
        if self.plan.source != session.config.name {
            return Err(stale("the plan is of another source").with("source", &self.plan.source));
        }
        if self.plan.lake != lake {
            return Err(stale("the plan is of another lake").with("plan", &self.plan.lake).with("lake", lake));
        }
        if let Some(plan) = self.plan.plans.iter().find(|plan| plan.state_version > session.spec.state_version) {
            return Err(stale("the plan was made by a newer version of the connector").with("plan", &plan.connector));
        }
        if let Some(part) = self.part
            && part >= self.plan.parts
        {
            return Err(Error::config("the plan has no such slice")
                .with("slice", part)
                .hint(format!("--slice takes 0 to {}", self.plan.parts.saturating_sub(1))));
        }
        Ok(())
    }
}

fn stale(message: &str) -> Error {
    Error::config(message).hint("make a new plan with `ingest plan -o`")
}

/// The error of a plan that a table has passed by.
pub fn passed_by(plan: &str) -> Error {
    stale("the plan is stale: the stream has moved since it was made, or another plan was begun").with("plan", plan)
}

/// Whether a table takes part in a plan.
pub enum Stand {
    /// The plan can be adopted.
    Before,
    /// It is adopted.
    Adopted,
    /// It is closed.
    Closed,
}

/// Where a table stands to a plan.
///
/// # Errors
/// `ConfigInvalid` for a stale plan.
pub fn stand(committer: &Committer, plan: &PlanDocument) -> Result<Stand> {
    let checkpoint = committer.checkpoint();
    if checkpoint.plan.as_ref().is_some_and(|progress| progress.id == plan.id) {
        return Ok(Stand::Adopted);
    }
    if checkpoint.closed.as_deref() == Some(&plan.id) {
        return Ok(Stand::Closed);
    }
    let base = plan.streams.get(committer.stream()).and_then(|planned| planned.base);
    if checkpoint.plan.is_none() && committer.number() == base {
        return Ok(Stand::Before);
    }
    Err(passed_by(&plan.id).with("stream", committer.stream()))
}

/// Adopts a shared plan in a table, unless another process was first (invariant `plan_is_adopted_before_its_rows`).
///
/// # Errors
/// `ConfigInvalid` for a stale plan.
pub async fn adopt(committer: &mut Committer, author: &Author, plan: &OpenPlan, definition: &Definition) -> Result<()> {
    let name = committer.stream().clone();
    let replace = plan.write_mode(&name) == WriteMode::Replace;
    let slices = plan.bounded(&name).len();
    for _ in 0..ADOPTIONS {
        if let Stand::Adopted | Stand::Closed = stand(committer, plan.document())? {
            return Ok(());
        }
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
                *committer = Committer::open(author.clone(), name.clone()).await?;
            }
            Err(error) => return Err(error),
        }
    }
    stand(committer, plan.document()).map(drop)
}

/// Makes a plan for other processes: `parts` of them. It may leave a slot or a job at the source; nothing is adopted.
///
/// # Errors
/// Of the first stream that cannot be planned.
pub async fn make_shared(session: &Session, targets: Vec<Target>, parts: u32) -> Result<SharedPlan> {
    let author = session.author();
    let floor = Floor::new(session.lake.documents.clone(), &session.config.name);
    let feeds = floor.feeds().await?;
    let mut opened = Vec::new();
    let mut begun: Vec<PlanDocument> = Vec::new();
    for target in targets {
        let name = target.stream.name.clone();
        let committer = Committer::open(author.clone(), name.clone()).await?;
        let Some(progress) = &committer.checkpoint().plan else {
            opened.push((target, committer));
            continue;
        };
        // What an orchestrator began and gave up is handed out again: what is staged of it counts.
        if begun.iter().any(|plan| plan.id == progress.id) {
            continue;
        }
        let plan = PlanDocument::read(&session.lake.documents, &session.config.name, &progress.id).await?;
        if plan.parts.is_none() {
            return Err(Error::config("a run has left a plan of the stream open")
                .with("stream", name)
                .hint("finish it with `ingest run`, or give it up with `ingest run --full-refresh`"));
        }
        begun.push(plan);
    }
    let mut plans: Vec<PlanDocument> = Vec::new();
    let mut first = 0_usize;
    for members in by_group(opened, |(target, _)| group_key(&target.stream)) {
        let joining: Vec<_> = members
            .iter()
            .filter(|(_, committer)| committer.checkpoint().positions.is_empty())
            .map(|(target, committer)| (target.stream.name.clone(), committer.number()))
            .collect();
        if let Some(group) = &members[0].0.stream.group
            && !joining.is_empty()
        {
            floor.join(group, &joining).await?;
        }
        let streams: Vec<Planned<'_>> = members
            .iter()
            .map(|(target, committer)| Planned {
                target,
                positions: effective_positions(committer.checkpoint(), &feeds),
                base: committer.number(),
                replace: committer.checkpoint().limited || committer.checkpoint().intervals,
            })
            .collect();
        let question = Ask { intent: Intent::Portable, min_slices: parts, interval: None };
        let share = Parts { of: parts, first: u32::try_from(first % parts.max(1) as usize).unwrap_or(0) };
        let plan = retried(session, || document(session, question, &streams, Some(share))).await?;
        if let Some(slice) = plan.slices.iter().find(|slice| slice.shape == Shape::Snapshot) {
            return Err(Error::new(ErrorKind::Unsupported, "the stream can only be read by the process that plans it")
                .with("slice", &slice.id)
                .hint("load it with `ingest run`"));
        }
        first += plan.slices.len();
        plans.push(plan);
    }
    // The last: a stream that has closed its own part of one belongs to the new plan.
    plans.extend(begun);
    let parts = plans.iter().filter_map(|plan| Some(plan.parts?.of)).max().unwrap_or(parts);
    Ok(SharedPlan {
        format: FORMAT,
        source: session.config.name.clone(),
        lake: public_url(&session.lake.config.url),
        parts,
        streams: Vec::new(),
        plans,
    })
}
