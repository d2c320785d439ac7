//! What must hold of what a plug-in answers. A rule that is broken is named in the error; nothing that breaks one goes on.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};

use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_schema::{Schema, SchemaRef};
use arrow_select::filter::filter_record_batch;
use ingest_core::columns::{ABSENT, OP, RESCUED, SEQ, field};
use ingest_core::plugin::batch::decode;
use ingest_core::plugin::message::Reply;
use ingest_core::{
    BadRecord, Done, Error, ErrorKind, Event, Json, Plan, PlanRequest, Result, Seq, Shape, Slice, Spec, Stored, Stream,
    StreamName,
};

/// The most slices of a plan.
const MOST_SLICES: usize = 100_000;
/// The largest work of a slice, as JSON.
const LARGEST_WORK: usize = 64 << 10;
/// The largest position, as JSON.
const LARGEST_POSITION: usize = 1 << 20;
/// The longest record that goes to quarantine.
const LONGEST_RECORD: usize = 64 << 10;
/// So many marks of one call are remembered, to see one come back.
const REMEMBERED: usize = 100_000;

fn rule(text: &'static str) -> Error {
    Error::new(ErrorKind::DataInvalid, text)
}

/// Looks at the answer to `schema`.
pub fn streams(streams: &[Stream]) -> Result<()> {
    let mut names = BTreeSet::new();
    for stream in streams {
        let at = |error: Error| error.with("stream", &stream.name);
        if !names.insert(&stream.name) {
            return Err(at(rule("a stream is listed once")));
        }
        if stream.modes.is_empty() {
            return Err(at(rule("a stream has at least one mode")));
        }
        let mut columns = BTreeSet::new();
        if let Some(double) = stream.schema.fields().iter().find(|field| !columns.insert(field.name())) {
            return Err(at(rule("the columns of a stream have different names").with("column", double.name())));
        }
        let named = stream.key.iter().chain(stream.cursors.iter().map(|cursor| &cursor.column));
        for column in named {
            if stream.schema.column_with_name(column).is_none() {
                return Err(at(rule("keys and cursors are columns of their stream").with("column", column)));
            }
        }
    }
    Ok(())
}

/// Looks at the answer to `plan`.
pub fn plan(request: &PlanRequest<Stored>, plan: &Plan<Json, Stored>, version: u32) -> Result<()> {
    if plan.slices.len() > MOST_SLICES {
        return Err(rule("a plan has at most 100,000 slices").with("slices", plan.slices.len()));
    }
    let asked: BTreeSet<&StreamName> = request.streams.iter().map(|selected| &selected.stream.name).collect();
    let mut ids = BTreeSet::new();
    for slice in &plan.slices {
        let at = |error: Error| error.with("slice", &slice.id);
        if !ids.insert(&slice.id) {
            return Err(at(rule("the slices of a plan have different ids")));
        }
        if slice.streams.is_empty() || slice.streams.iter().any(|stream| !asked.contains(stream)) {
            return Err(at(rule("a slice gives streams that the plan was asked for, at least one")));
        }
        if slice.work.to_string().len() > LARGEST_WORK {
            return Err(at(rule("the work of a slice is at most 64 KiB")));
        }
    }
    for (stream, positions) in &plan.then {
        if !asked.contains(stream) {
            return Err(rule("a plan claims positions of streams that it was asked for").with("stream", stream));
        }
        for position in positions.values().flatten() {
            position_at_rest(position, version).map_err(|error| error.with("stream", stream))?;
        }
    }
    Ok(())
}

fn position_at_rest(position: &Stored, version: u32) -> Result<()> {
    if position.v != version {
        return Err(rule("a position is of the `state_version` of its connector").with("v", position.v));
    }
    let bytes = position.at.to_string().len();
    if bytes > LARGEST_POSITION {
        return Err(rule("a position is at most 1 MiB").with("bytes", bytes));
    }
    Ok(())
}

/// State that a newer version of the connector wrote means nothing to this one. State of an older one it may read.
pub fn not_newer(spec: &Spec, work: u32, position: Option<&Stored>) -> Result<()> {
    let newest = position.map_or(work, |position| position.v.max(work));
    if newest <= spec.state_version {
        return Ok(());
    }
    Err(Error::new(ErrorKind::CheckpointInvalid, "a stored slice or position is of a newer version of the plug-in")
        .with("connector", &spec.name)
        .with("state_version", newest)
        .hint("use the version of the plug-in that wrote it, or a newer one"))
}

/// What must hold while a slice is read.
pub struct SliceRules<'a> {
    slice: &'a Slice<Json>,
    version: u32,
    from: Option<&'a Stored>,
    /// How the rows of each stream look from here on, where it is known.
    schemas: HashMap<StreamName, SchemaRef>,
    last: Option<Stored>,
    seen: HashSet<u64>,
    /// Rows came after the last mark.
    uncovered: bool,
}

impl<'a> SliceRules<'a> {
    /// Of a call of `extract`; `schemas` as the plug-in declared them.
    pub fn new(
        slice: &'a Slice<Json>,
        version: u32,
        from: Option<&'a Stored>,
        schemas: HashMap<StreamName, SchemaRef>,
    ) -> Self {
        Self { slice, version, from, schemas, last: None, seen: HashSet::new(), uncovered: false }
    }

    /// The event of a frame; `None` where there is nothing in it.
    pub fn event(&mut self, reply: Reply, data: Option<Vec<u8>>) -> Result<Option<Event>> {
        match reply {
            Reply::Rows { stream, .. } => {
                self.of_slice(&stream)?;
                let (_, batch) = decode(data.unwrap_or_default()).map_err(|error| error.with("stream", &stream))?;
                let batch = batch.ok_or_else(|| rule("the Arrow frame of `rows` holds a batch"))?;
                if batch.num_rows() == 0 {
                    return Ok(None);
                }
                self.rows(&stream, &batch).map_err(|error| error.with("stream", &stream))?;
                let batch = self.after_from(batch)?;
                if batch.num_rows() == 0 {
                    return Ok(None);
                }
                self.uncovered = true;
                Ok(Some(Event::Rows(stream, batch)))
            }
            Reply::Schema { stream, .. } => {
                self.of_slice(&stream)?;
                let (schema, _) = decode(data.unwrap_or_default()).map_err(|error| error.with("stream", &stream))?;
                self.schemas.insert(stream.clone(), SchemaRef::clone(&schema));
                Ok(Some(Event::Schema(stream, schema)))
            }
            Reply::Remove { stream, region, seq, .. } => {
                self.of_slice(&stream)?;
                self.uncovered = true;
                Ok(Some(Event::Remove(stream, region, seq)))
            }
            Reply::Quarantine { stream, reason, mut record, .. } => {
                self.of_slice(&stream)?;
                self.uncovered = true;
                record.truncate(record.floor_char_boundary(LONGEST_RECORD));
                Ok(Some(Event::Quarantine(stream, BadRecord { reason, record })))
            }
            Reply::Mark { position, .. } => {
                self.mark(&position)?;
                self.last = Some(position.clone());
                self.uncovered = false;
                Ok(Some(Event::Mark(position)))
            }
            Reply::Warning { stream, text, partial, .. } => Ok(Some(Event::Warning { stream, text, partial })),
            _ => Err(rule("`extract` is answered by rows, marks and `done`")),
        }
    }

    /// Looks at how the slice ended.
    pub fn done(&self, done: Done) -> Result<Done> {
        let feed = self.slice.shape == Shape::Feed;
        match done {
            Done::CaughtUp if !feed => Err(rule("only a feed ends with `caught_up`; a bounded slice is `complete`")),
            Done::Left if feed => Err(rule("only a bounded slice ends with `left`")),
            Done::CaughtUp | Done::Pending(_) | Done::Left if self.uncovered => {
                Err(rule("a slice that is not complete ends with a mark; rows came after the last one"))
            }
            done => Ok(done),
        }
    }

    fn of_slice(&self, stream: &StreamName) -> Result<()> {
        if self.slice.streams.contains(stream) {
            return Ok(());
        }
        Err(rule("a slice gives only the streams that its plan names").with("stream", stream))
    }

    fn rows(&mut self, stream: &StreamName, batch: &RecordBatch) -> Result<()> {
        match self.schemas.get(stream) {
            Some(declared) => columns(declared, batch)?,
            None => {
                // Another process has discovered it; from here on its rows look like the first ones.
                let own = |field: &&arrow_schema::FieldRef| !is_reserved(field.name());
                let fields: Vec<_> = batch.schema_ref().fields().iter().filter(own).cloned().collect();
                self.schemas.insert(stream.clone(), Schema::new(fields).into());
            }
        }
        let seq = batch.column_by_name(SEQ);
        if seq.is_none() && self.slice.shape == Shape::Feed {
            return Err(rule("the rows of a feed have a column `_ingest_seq`"));
        }
        let last = self.last.as_ref().and_then(|mark| mark.seq.as_ref()).map(Seq::as_str);
        if let (Some(seq), Some(last)) = (seq, last) {
            let column = seq.as_string_opt::<i32>().ok_or_else(|| rule("`_ingest_seq` is of type Utf8"))?;
            if column.iter().flatten().any(|seq| seq <= last) {
                return Err(rule("a mark covers all rows up to its `seq`, and rows below it came after it"));
            }
        }
        Ok(())
    }

    /// A feed gives what comes after `from`. What lies before is in every table, and is dropped as the runner drops what a
    /// table holds already.
    fn after_from(&self, batch: RecordBatch) -> Result<RecordBatch> {
        let from = self.from.and_then(|from| from.seq.as_ref()).filter(|_| self.slice.shape == Shape::Feed);
        let (Some(from), Some(seq)) = (from.map(Seq::as_str), batch.column_by_name(SEQ)) else { return Ok(batch) };
        let seq = seq.as_string_opt::<i32>().ok_or_else(|| rule("`_ingest_seq` is of type Utf8"))?;
        if seq.iter().flatten().all(|seq| seq > from) {
            return Ok(batch);
        }
        let keep: BooleanArray = seq.iter().map(|seq| Some(seq.is_none_or(|seq| seq > from))).collect();
        Ok(filter_record_batch(&batch, &keep)?)
    }

    fn mark(&mut self, position: &Stored) -> Result<()> {
        position_at_rest(position, self.version)?;
        if position.seq.is_none() && self.slice.streams.len() > 1 && self.slice.shape == Shape::Feed {
            return Err(rule("the marks of a feed of several streams have a `seq`"));
        }
        let before = self.last.as_ref().or(self.from);
        if let (Some(before), Some(now)) = (before.and_then(|mark| mark.seq.as_ref()), &position.seq)
            && now < before
        {
            return Err(rule("marks go forward, and one came whose `seq` is below the mark before it"));
        }
        let mut hasher = DefaultHasher::new();
        position.at.to_string().hash(&mut hasher);
        position.seq.hash(&mut hasher);
        let again = !self.seen.insert(hasher.finish());
        if again && self.last.as_ref() != Some(position) {
            return Err(rule("marks go forward, and one came that other marks have followed already"));
        }
        if self.seen.len() > REMEMBERED {
            self.seen.clear();
        }
        Ok(())
    }
}

/// Columns that a connector may put at the end of a batch.
fn is_reserved(name: &str) -> bool {
    [OP, SEQ, ABSENT, RESCUED].contains(&name)
}

/// A batch against what was declared: a subset of its columns in any order, of the same types.
fn columns(declared: &Schema, batch: &RecordBatch) -> Result<()> {
    let mut names = HashSet::new();
    for (column, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let at = |error: Error| error.with("column", column.name());
        if !names.insert(column.name()) {
            return Err(at(rule("the columns of a batch have different names")));
        }
        let reserved;
        let wanted = match declared.field_with_name(column.name()) {
            Ok(wanted) => wanted,
            Err(_) if is_reserved(column.name()) => {
                reserved = field(column.name());
                &reserved
            }
            Err(_) => return Err(at(rule("rows have the columns of the stream's schema, and this is none of them"))),
        };
        if !wanted.data_type().equals_datatype(column.data_type()) {
            let error = rule("the columns of rows have the types of the stream's schema, and this one has another");
            return Err(at(error).with("declared", wanted.data_type()).with("sent", column.data_type()));
        }
        if !wanted.is_nullable() && array.logical_null_count() > 0 {
            return Err(at(rule("a column that is declared without nulls has none, and this one has some")));
        }
    }
    Ok(())
}
