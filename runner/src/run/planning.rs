//! Plans of a run: found open in the lake, or made new.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use ingest_catalog::{Created, Documents, FORMAT, Parts, PlanDocument, PlannedStream};
use ingest_core::{
    Error, Intent, Json, Plan, PlanRequest, Result, Selected, Shape, Slice, SliceId, Source, Stored, Stream,
    StreamName, WriteMode,
};
use tokio::sync::OnceCell;

use super::target::Target;
use crate::session::Session;

/// A plan under way: made by this run, or adopted by an earlier one.
pub struct OpenPlan {
    document: PlanDocument,
    documents: Documents,
    written: OnceCell<()>,
    bounded: BTreeMap<StreamName, Vec<u32>>,
}

impl OpenPlan {
    fn new(document: PlanDocument, documents: Documents, written: OnceCell<()>) -> Self {
        let mut bounded: BTreeMap<StreamName, Vec<u32>> = BTreeMap::new();
        for (index, slice) in (0..).zip(&document.slices) {
            if slice.shape != Shape::Feed {
                for stream in &slice.streams {
                    bounded.entry(stream.clone()).or_default().push(index);
                }
            }
        }
        Self { document, documents, written, bounded }
    }

    /// Reads a plan that a table has adopted.
    pub async fn read(documents: &Documents, source: &str, id: &str) -> Result<Self> {
        let document = PlanDocument::read(documents, source, id).await?;
        Ok(Self::new(document, documents.clone(), OnceCell::new_with(Some(()))))
    }

    /// A plan that another process made, out of the lake, and others share.
    pub fn shared(document: PlanDocument, documents: &Documents) -> Self {
        Self::new(document, documents.clone(), OnceCell::new())
    }

    /// Writes the plan's document, once.
    pub async fn write(&self) -> Result<()> {
        let shared = self.document.parts.is_some();
        let create = || async {
            match self.document.create(&self.documents).await? {
                // Processes that share a plan write the same document.
                Created::Exists if !shared => {
                    Err(Error::unexpected("a plan of this id exists").with("plan", &self.document.id))
                }
                _ => Ok(()),
            }
        };
        self.written.get_or_try_init(create).await.map(drop)
    }

    /// The plan's id.
    pub fn id(&self) -> &str {
        &self.document.id
    }

    /// The document.
    pub fn document(&self) -> &PlanDocument {
        &self.document
    }

    /// The slices.
    pub fn slices(&self) -> &[Slice<Json>] {
        &self.document.slices
    }

    /// `state_version` of the connector that wrote the slices.
    pub fn version(&self) -> u32 {
        self.document.state_version
    }

    /// The bounded slices of a stream, by index.
    pub fn bounded(&self, stream: &StreamName) -> &[u32] {
        self.bounded.get(stream).map_or(&[], Vec::as_slice)
    }

    /// The feeds of the plan.
    pub fn feeds(&self) -> impl Iterator<Item = &Slice<Json>> {
        self.document.slices.iter().filter(|slice| slice.shape == Shape::Feed)
    }

    /// How a stream was planned.
    pub fn stream(&self, stream: &StreamName) -> Option<&PlannedStream> {
        self.document.streams.get(stream)
    }

    /// Whether rows of a stream stay invisible until the plan is closed (invariant `snapshot_is_staged`).
    pub fn is_staged(&self, stream: &StreamName) -> bool {
        self.stream(stream).is_some_and(|planned| planned.staged)
    }

    /// How rows of a stream meet the table.
    pub fn write_mode(&self, stream: &StreamName) -> WriteMode {
        self.stream(stream).map_or(WriteMode::Append, |planned| planned.write)
    }

    /// What holds for a stream once its bounded slices are done.
    pub fn then(&self, stream: &StreamName) -> BTreeMap<SliceId, Option<Stored>> {
        self.document.then.get(stream).cloned().unwrap_or_default()
    }

    /// Whether any slice dies with the process or job that made it.
    pub fn can_die(&self) -> bool {
        self.document.slices.iter().any(|slice| slice.shape == Shape::Snapshot)
    }
}

/// What is planned together: the streams of a group, each other stream alone. In the order of their names, so the same on
/// every machine.
pub fn by_group<T>(items: impl IntoIterator<Item = T>, key: impl Fn(&T) -> String) -> Vec<Vec<T>> {
    let mut groups: BTreeMap<String, Vec<T>> = BTreeMap::new();
    for item in items {
        groups.entry(key(&item)).or_default().push(item);
    }
    groups.into_values().collect()
}

/// Equal for streams that are planned together. Names of streams and groups do not meet.
pub fn group_key(stream: &Stream) -> String {
    stream.group.as_ref().map_or_else(|| format!("stream:{}", stream.name), |group| format!("group:{group}"))
}

/// What one stream brings to a plan.
pub struct Planned<'a> {
    /// The stream.
    pub target: &'a Target,
    /// What its table holds.
    pub positions: BTreeMap<SliceId, Stored>,
    /// The number that its table stands on.
    pub base: Option<i64>,
    /// Its rows take the place of all rows, whatever its write mode: a full refresh, or the run after `--limit`.
    pub replace: bool,
}

/// How a plan is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// What planning may leave behind.
    pub intent: Intent,
    /// At least so many slices.
    pub min_slices: u32,
    /// A window by hand.
    pub interval: Option<(i64, i64)>,
}

/// Wanted size of a slice at the source.
const SLICE_BYTES: u64 = 256 << 20;

/// Asks the source for a plan of streams of one group.
pub async fn ask(source: &dyn Source, now: i64, ask: Ask, streams: &[Planned<'_>]) -> Result<Plan<Json, Stored>> {
    let request = PlanRequest {
        streams: streams.iter().map(selected).collect(),
        intent: ask.intent,
        slice_bytes: SLICE_BYTES,
        min_slices: ask.min_slices,
        interval: ask.interval,
        now,
    };
    source.plan(&request).await
}

fn selected(planned: &Planned<'_>) -> Selected<Stored> {
    let target = planned.target;
    Selected {
        stream: target.stream.clone(),
        mode: target.mode,
        cursor: target.cursor.as_ref().map(|cursor| cursor.column.clone()),
        columns: target
            .options
            .columns
            .as_ref()
            .map(|_| target.stream.schema.fields().iter().map(|field| field.name().clone()).collect()),
        filter: target.options.filter.clone(),
        positions: planned.positions.clone(),
    }
}

/// Makes a plan of a run: asks the source and gives the answer an id.
pub async fn make(session: &Session, question: Ask, streams: &[Planned<'_>]) -> Result<OpenPlan> {
    let document = document(session, question, streams, None).await?;
    Ok(OpenPlan::new(document, session.lake.documents.clone(), OnceCell::new()))
}

/// The columns of a schema in words, to see whether it is still the same.
pub fn columns(schema: &arrow_schema::Schema) -> Vec<String> {
    schema.fields().iter().map(|field| format!("{}: {}", field.name(), field.data_type())).collect()
}

/// A plan as a document.
pub async fn document(
    session: &Session,
    question: Ask,
    streams: &[Planned<'_>],
    parts: Option<Parts>,
) -> Result<PlanDocument> {
    let now = session.clock.now_micros();
    let plan = ask(session.source.as_ref(), now, question, streams).await?;
    let calls = plan.slices.iter().filter_map(|slice| slice.estimate.calls).fold(0, u64::saturating_add);
    session.estimated.fetch_add(calls, Ordering::Relaxed);
    let planned = |p: &Planned<'_>| {
        let write = if p.replace { WriteMode::Replace } else { p.target.write };
        let snapshot = plan
            .slices
            .iter()
            .any(|slice| slice.shape == Shape::Snapshot && slice.streams.contains(&p.target.stream.name));
        // A complete read that deletes what it does not find must know all keys at once.
        let sweeps = p.target.keyed.as_ref().is_some_and(|keyed| keyed.sweeps);
        let staged = snapshot || write == WriteMode::Replace || sweeps || parts.is_some();
        let columns = if parts.is_some() { columns(&p.target.stream.schema) } else { Vec::new() };
        (p.target.stream.name.clone(), PlannedStream { mode: p.target.mode, write, staged, base: p.base, columns })
    };
    let streams = streams.iter().map(planned).collect();
    Ok(PlanDocument {
        format: FORMAT,
        id: uuid::Uuid::now_v7().simple().to_string(),
        source: session.config.name.clone(),
        connector: format!("{} {}", session.spec.name, session.spec.version),
        state_version: session.spec.state_version,
        made_at: now,
        streams,
        slices: plan.slices,
        then: plan.then,
        more: plan.more,
        parts,
    })
}
