//! Writes what was decided: what stays of the table's files, the rows that come in, and the rows that are made of several.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, TimestampMicrosecondBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{
    Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, StringArray, TimestampMicrosecondArray,
};
use arrow_schema::{FieldRef, SchemaRef};
use arrow_select::filter::filter_record_batch;
use arrow_select::interleave::interleave;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use ingest_core::lake::{DataFile, Meeting, Merge};
use ingest_core::{Error, Result, columns};

use super::fates::{At, Chain, Fates, Patch, SourceFate, TableFate};
use super::history::times;
use super::scene::{Made, Scene, row_number};
use crate::action::Add;
use crate::cluster::Ends;
use crate::read::{Part, selected};
use crate::rewrite::write_all;

/// Rows that are made of several and held at once.
const CHAINS: usize = 16 << 10;
/// Writers of what stays, side by side, at most.
const LANES: usize = 4;
/// Bytes of the files that go to one of them, at least.
const LANE_BYTES: u64 = 4 << 20;

/// Writes everything; what is written before an error is left in `made`, for the caller to remove.
pub(super) async fn write(scene: &Scene, fates: Fates, made: &mut Made) -> Result<()> {
    let Fates { table, source, chains, changed } = fates;
    made.figures.rows_changed = changed;
    let mut rest = Vec::new();
    for ((file, add), fate) in scene.merge.rows.iter().zip(&scene.source).zip(source) {
        let whole = fate.kept.count() == file.rows && fate.spans.is_empty();
        if whole && !matches!(scene.merge.meeting, Meeting::History { .. }) {
            made.adopted.push(file.clone());
        } else if fate.kept.count() > 0 {
            rest.push((add.clone(), Arc::new(fate)));
        }
    }
    // New rows get files of their own: among the others they would widen the bounds of files that hold few keys.
    let came = incoming(scene, rest);
    let chains: Vec<Vec<Chain>> = chains.chunks(CHAINS).map(<[Chain]>::to_vec).collect();
    let joined = futures::stream::iter(chains).then(|chains| join(scene, chains)).boxed();
    let came = write_rows(scene, came.chain(joined).boxed());
    let (rewritten, came) = futures::future::join(rewrite(scene, table, made), came).await;
    let came = came.map(|files| made.written.extend(files));
    rewritten.and(came)?;
    let bytes = made.written.iter().chain(&made.adopted).map(|file| file.bytes);
    made.figures.bytes_written = bytes.sum();
    made.figures.files_written = (made.written.len() + made.adopted.len()) as u64;
    Ok(())
}

async fn write_rows(scene: &Scene, rows: BoxStream<'_, Result<RecordBatch>>) -> Result<Vec<DataFile>> {
    let writer = scene.writers.parquet_writer(&scene.schema, &scene.merge.options)?;
    write_all(rows, Box::new(writer)).await
}

/// Writes what stays of the table's files that lose or change a row.
async fn rewrite(scene: &Scene, fates: Vec<TableFate>, made: &mut Made) -> Result<()> {
    let mut stay = Vec::new();
    let mut changed = 0;
    for (file, fate) in scene.table.iter().zip(fates) {
        if !fate.is_touched() {
            continue;
        }
        made.removed.push(file.clone());
        let rows = file.data_file(&[]).rows;
        // The log need not know how many rows there are.
        if !fate.gone && (rows == 0 || fate.dropped.count() < rows) {
            changed += fate.patched.len() as u64;
            stay.push(Staying { file: file.clone(), fate: Arc::new(fate), first: 0, rows: None });
        }
    }
    made.figures.files_touched = made.removed.len() as u64;
    if stay.is_empty() {
        return Ok(());
    }
    // In the order of their keys, so that files which lie apart by key still do when they are written again.
    if let Some(ends) = Ends::of(&scene.schema, &scene.merge.key, &scene.partition_by)? {
        let placed = stay.into_iter().map(|staying| Ok((ends.in_file(&staying.file)?, staying)));
        let mut placed = placed.collect::<Result<Vec<_>>>()?;
        placed.sort_by(|a, b| (&a.0, &a.1.file.path).cmp(&(&b.0, &b.1.file.path)));
        stay = placed.into_iter().map(|(_, staying)| staying).collect();
    }
    let lanes = lanes(stay).into_iter().map(|files| write_rows(scene, surviving(scene, files)));
    // What one lane wrote is to be removed where another fails.
    let mut written = Vec::new();
    let mut failed = None;
    for lane in futures::future::join_all(lanes).await {
        match lane {
            Ok(files) => written.extend(files),
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    made.written.extend(written.iter().cloned());
    if let Some(e) = failed {
        return Err(e);
    }
    let rows: u64 = written.iter().map(|file| file.rows).sum();
    made.figures.rows_rewritten = rows.saturating_sub(changed);
    Ok(())
}

/// Rows of a file of the table, and what becomes of them.
#[derive(Clone)]
struct Staying {
    file: Add,
    fate: Arc<TableFate>,
    first: u32,
    /// `None` = all that follow.
    rows: Option<u32>,
}

/// Parts files among writers that run side by side. None is so small that the table falls apart into small files, and there
/// are never more of them than cores.
fn lanes(files: Vec<Staying>) -> Vec<Vec<Staying>> {
    let bytes: u64 = files.iter().map(|staying| staying.file.size).sum();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(LANES) as u64;
    let share = bytes.div_ceil(cores).max(LANE_BYTES);
    let mut lanes: BTreeMap<u64, Vec<Staying>> = BTreeMap::new();
    let mut before = 0;
    for staying in files {
        let size = staying.file.size;
        let parts = split(staying, ((size + share / 2) / share).min(size / LANE_BYTES));
        let each = size / parts.len().max(1) as u64;
        for part in parts {
            // By where its middle lies: neighbours stay together, and a large file leaves no lane with next to nothing.
            lanes.entry((before + each / 2) / share).or_default().push(part);
            before += each;
        }
    }
    lanes.into_values().collect()
}

/// Cuts a file that is as large as several lanes.
fn split(whole: Staying, parts: u64) -> Vec<Staying> {
    // The log need not know how many rows there are.
    let rows = u32::try_from(whole.file.data_file(&[]).rows).unwrap_or_default();
    let each = u64::from(rows).checked_div(parts).and_then(|each| u32::try_from(each).ok()).unwrap_or_default();
    if parts < 2 || each == 0 {
        return vec![whole];
    }
    let firsts: Vec<u32> = (0..rows).step_by(each as usize).take(usize::try_from(parts).unwrap_or(1)).collect();
    let last = firsts.len() - 1;
    let part = |(n, first)| Staying { first, rows: (n < last).then_some(each), ..whole.clone() };
    firsts.into_iter().enumerate().map(part).collect()
}

/// What stays of files, one after the other.
fn surviving(scene: &Scene, files: Vec<Staying>) -> BoxStream<'_, Result<RecordBatch>> {
    futures::stream::iter(files)
        .then(move |Staying { file, fate, first, rows }| async move {
            let survive = move |start: u32, batch| survive(row_number(first, start as usize)?, batch, &fate);
            scene.sift_part(&file, &scene.schema, Part::From(first, rows), survive).await
        })
        .try_flatten()
        .boxed()
}

/// What stays of a batch of the table.
fn survive(start: u32, batch: RecordBatch, fate: &TableFate) -> Result<RecordBatch> {
    let batch = patch(start, batch, fate)?;
    if fate.dropped.count() == 0 {
        return Ok(batch);
    }
    let stays = fate.dropped.mask(start, batch.num_rows(), true);
    Ok(if stays.true_count() == batch.num_rows() { batch } else { filter_record_batch(&batch, &stays)? })
}

fn patch(start: u32, batch: RecordBatch, fate: &TableFate) -> Result<RecordBatch> {
    let rows = start..row_number(start, batch.num_rows())?;
    if fate.patched.range(rows.clone()).next().is_none() {
        return Ok(batch);
    }
    let times = |of: fn(Patch) -> Option<i64>| -> Vec<(usize, i64)> {
        let found = fate.patched.range(rows.clone());
        found.filter_map(|(row, patch)| Some(((row - start) as usize, of(*patch)?))).collect()
    };
    let closed = times(|patch| if let Patch::Close(at) = patch { Some(at) } else { None });
    let deleted = times(|patch| if let Patch::Deleted(at) = patch { Some(at) } else { None });
    let replaced = |(field, array): (&FieldRef, &ArrayRef)| match field.name().as_str() {
        columns::EXPIRY if !closed.is_empty() => moments_with(array, &closed),
        columns::CURRENT if !closed.is_empty() => {
            let mut flags: Vec<Option<bool>> = array.as_boolean().iter().collect();
            closed.iter().for_each(|(row, _)| flags[*row] = Some(false));
            Arc::new(BooleanArray::from(flags)) as ArrayRef
        }
        columns::DELETED_AT if !deleted.is_empty() => moments_with(array, &deleted),
        columns::OP if !deleted.is_empty() => {
            let mut ops: Vec<Option<&str>> = array.as_string::<i32>().iter().collect();
            deleted.iter().for_each(|(row, _)| ops[*row] = Some("D"));
            Arc::new(StringArray::from(ops)) as ArrayRef
        }
        _ => array.clone(),
    };
    let arrays = batch.schema_ref().fields().iter().zip(batch.columns()).map(replaced).collect();
    Ok(RecordBatch::try_new(batch.schema(), arrays)?)
}

fn moments_with(array: &ArrayRef, times: &[(usize, i64)]) -> ArrayRef {
    let mut moments: Vec<Option<i64>> = array.as_primitive::<TimestampMicrosecondType>().iter().collect();
    times.iter().for_each(|(row, time)| moments[*row] = Some(*time));
    Arc::new(TimestampMicrosecondArray::from(moments).with_data_type(array.data_type().clone()))
}

/// The rows that come in as they are.
fn incoming(scene: &Scene, files: Vec<(Add, Arc<SourceFate>)>) -> BoxStream<'_, Result<RecordBatch>> {
    futures::stream::iter(files)
        .then(move |(file, fate)| async move {
            let merge = Arc::clone(&scene.merge);
            scene.sift(&file, &scene.schema, move |start, batch| enter(&merge, start, batch, &fate)).await
        })
        .try_flatten()
        .boxed()
}

fn enter(merge: &Merge, start: u32, batch: RecordBatch, fate: &SourceFate) -> Result<RecordBatch> {
    let batch = match &merge.meeting {
        Meeting::History { time, .. } => {
            let times = times(&batch, time, merge.now)?;
            let mut from = TimestampMicrosecondBuilder::with_capacity(batch.num_rows());
            let mut to = TimestampMicrosecondBuilder::with_capacity(batch.num_rows());
            let mut current = BooleanBuilder::with_capacity(batch.num_rows());
            for row in 0..batch.num_rows() {
                let span = fate.spans.get(&row_number(start, row)?);
                from.append_value(span.map_or(times.value(row), |span| span.from));
                to.append_option(span.and_then(|span| span.to));
                current.append_value(span.is_none_or(|span| span.to.is_none()));
            }
            let utc = |mut builder: TimestampMicrosecondBuilder| -> ArrayRef {
                Arc::new(builder.finish().with_timezone("UTC"))
            };
            let batch = with_column(&batch, columns::EFFECTIVE, &utc(from))?;
            let batch = with_column(&batch, columns::EXPIRY, &utc(to))?;
            with_column(&batch, columns::CURRENT, &(Arc::new(current.finish()) as ArrayRef))?
        }
        Meeting::Update { .. } | Meeting::Keep => batch,
    };
    let kept = fate.kept.mask(start, batch.num_rows(), false);
    Ok(if kept.true_count() == batch.num_rows() { batch } else { filter_record_batch(&batch, &kept)? })
}

/// The batch with another array in a column that the table has.
fn with_column(batch: &RecordBatch, name: &str, array: &ArrayRef) -> Result<RecordBatch> {
    let (place, _) = batch
        .schema_ref()
        .column_with_name(name)
        .ok_or_else(|| Error::unexpected("the table lacks a column of its write mode").with("column", name))?;
    let mut arrays = batch.columns().to_vec();
    arrays[place] = Arc::clone(array);
    Ok(RecordBatch::try_new(batch.schema(), arrays)?)
}

/// Where a row stands among the batches that were gathered.
type Place = (usize, usize);

/// Makes rows of several.
async fn join(scene: &Scene, chains: Vec<Chain>) -> Result<RecordBatch> {
    let mut batches = Vec::new();
    let table = gather(scene, &scene.table, chains.iter().filter_map(|chain| chain.table), &mut batches).await?;
    let came = chains.iter().flat_map(|chain| chain.rows.iter().copied());
    let came = gather(scene, &scene.source, came, &mut batches).await?;
    let found = |places: &HashMap<At, Place>, at: &At| {
        places.get(at).copied().ok_or_else(|| Error::unexpected("a row that is to be joined was not read"))
    };
    let mut rows: Vec<Vec<Place>> = Vec::with_capacity(chains.len());
    for chain in &chains {
        let first = chain.table.iter().map(|at| found(&table, at));
        rows.push(first.chain(chain.rows.iter().map(|at| found(&came, at))).collect::<Result<_>>()?);
    }
    let parts = Parts::of(&batches);
    let mut data = 0;
    let mut arrays = Vec::with_capacity(scene.schema.fields().len());
    for (i, field) in scene.schema.fields().iter().enumerate() {
        let ours = columns::is_reserved(field.name());
        let column = if ours { None } else { Some(data) };
        data += usize::from(!ours);
        let picked: Vec<Place> = rows.iter().map(|row| parts.pick(row, column, field.name(), i)).collect();
        let sources: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(i).as_ref()).collect();
        arrays.push(match field.name().as_str() {
            columns::ABSENT => arrow_array::new_null_array(field.data_type(), rows.len()),
            columns::DELETED_AT => parts.deleted_at(&rows, scene.merge.now),
            _ => interleave(&sources, &picked)?,
        });
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    Ok(RecordBatch::try_new_with_options(nullable(&scene.schema), arrays, &options)?)
}

/// Rows that were read may hold nulls or not, whatever the table says.
fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields: Vec<_> = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
    Arc::new(arrow_schema::Schema::new(fields))
}

/// Reads rows by their numbers; where each of them stands is answered.
async fn gather(
    scene: &Scene,
    files: &[Add],
    rows: impl Iterator<Item = At>,
    batches: &mut Vec<RecordBatch>,
) -> Result<HashMap<At, Place>> {
    let mut wanted: Vec<At> = rows.collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut places = HashMap::with_capacity(wanted.len());
    for group in wanted.chunk_by(|a, b| a.file == b.file) {
        let Some(file) = group.first().and_then(|at| files.get(at.file as usize)) else { continue };
        let part = Part::Rows(selected(group.iter().map(|at| at.row)));
        let mut found = scene.sift_part(file, &scene.schema, part, |_, batch| Ok(batch)).await?;
        let mut rows = group.iter();
        while let Some(batch) = found.try_next().await? {
            for (row, at) in (0..batch.num_rows()).zip(rows.by_ref()) {
                places.insert(*at, (batches.len(), row));
            }
            batches.push(batch);
        }
    }
    Ok(places)
}

/// What the gathered rows say of themselves.
struct Parts<'a> {
    batches: &'a [RecordBatch],
}

impl<'a> Parts<'a> {
    fn of(batches: &'a [RecordBatch]) -> Self {
        Self { batches }
    }

    fn is_deleted(&self, place: Place) -> bool {
        let ops = self.batches[place.0].column_by_name(columns::OP).and_then(|a| a.as_string_opt::<i32>());
        ops.is_some_and(|ops| ops.is_valid(place.1) && ops.value(place.1) == "D")
    }

    /// Whether a row carries a data column; one that says `D` counts for its key alone.
    fn carries(&self, place: Place, column: usize) -> bool {
        if self.is_deleted(place) {
            return false;
        }
        let absent = self.batches[place.0].column_by_name(columns::ABSENT).and_then(|a| a.as_binary_opt::<i32>());
        let Some(absent) = absent.filter(|absent| absent.is_valid(place.1)) else { return true };
        absent.value(place.1).get(column / 8).is_none_or(|byte| byte >> (column % 8) & 1 == 0)
    }

    /// The row that a column's value comes from.
    fn pick(&self, row: &[Place], column: Option<usize>, name: &str, index: usize) -> Place {
        let last = row.len() - 1;
        let place = match column {
            Some(column) => (1..=last).rev().find(|i| self.carries(row[*i], column)),
            // What was rescued of the row before still belongs to it, unless the newer row says something.
            None if name == columns::RESCUED => {
                (1..=last).rev().find(|i| self.batches[row[*i].0].column(index).is_valid(row[*i].1))
            }
            None => Some(last),
        };
        row[place.unwrap_or(0)]
    }

    /// When the rows were deleted; null for those that are there.
    fn deleted_at(&self, rows: &[Vec<Place>], now: i64) -> ArrayRef {
        let mut times = TimestampMicrosecondBuilder::with_capacity(rows.len());
        for row in rows {
            let last = row[row.len() - 1];
            let read = self.batches[last.0]
                .column_by_name(columns::INGESTED_AT)
                .and_then(|a| a.as_primitive_opt::<TimestampMicrosecondType>())
                .filter(|read| read.is_valid(last.1))
                .map(|read| read.value(last.1));
            times.append_option(self.is_deleted(last).then(|| read.unwrap_or(now)));
        }
        Arc::new(times.finish().with_timezone("UTC"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file(rows: u64) -> Staying {
        let stats = json!({"numRecords": rows}).to_string();
        let file = json!({"path": "a", "size": 1, "partitionValues": {}, "stats": stats, "modificationTime": 0, "dataChange": true});
        Staying { file: serde_json::from_value(file).unwrap(), fate: Arc::default(), first: 0, rows: None }
    }

    fn cut(rows: u64, parts: u64) -> Vec<(u32, Option<u32>)> {
        split(file(rows), parts).into_iter().map(|part| (part.first, part.rows)).collect()
    }

    #[test]
    fn parts_of_a_file_follow_one_another_to_its_end() {
        assert_eq!(cut(10, 3), [(0, Some(3)), (3, Some(3)), (6, None)]);
        assert_eq!(cut(10, 1), [(0, None)]);
        assert_eq!(cut(10, 0), [(0, None)]);
        assert_eq!(cut(2, 3), [(0, None)]);
        assert_eq!(cut(0, 2), [(0, None)], "the log does not say how many rows there are");
    }
}
