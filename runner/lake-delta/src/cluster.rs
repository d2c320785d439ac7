//! Compaction that keeps rows with near keys together, so that a merge touches few files.
//!
//! ```text
//! files whose keys overlap ─► rows, sorted a memory's worth at a time ─► merged ─► files of the wanted size,
//! small files with near keys            (run files, where it is more than one)      one after the other by key
//! ```
//!
//! Two files overlap where each begins before the other ends, by the first column of the key. A file that overlaps many others is
//! written again together with them; after that they overlap no more, so nothing is written twice for nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};

use arrow::row::{OwnedRow, RowConverter};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, SchemaRef};
use arrow_select::interleave::interleave_record_batch;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use ingest_core::lake::{DataFile, Maintenance, WriterOptions};
use ingest_core::{Error, Result};

use crate::action::Add;
use crate::merge::converter;
use crate::read::scan;
use crate::region::{Bounds, bounds};
use crate::rewrite::{discard, write_all};
use crate::table::{DeltaTable, TableWriters};

/// A file that overlaps so many others is written again with them.
const DEPTH: usize = 4;
/// What is written again at once: so many files, or more of them that together are as large as so many of the wanted size.
const SET_FILES: usize = 16;
/// Rows of a batch.
const BATCH_ROWS: usize = 8192;

/// The bounds of keys in files, by the first column of the key that is no partition.
pub(crate) struct Ends {
    column: String,
    data_type: DataType,
    partition_by: Vec<String>,
    converter: RowConverter,
}

/// The lowest and the highest key of a file, as bytes that compare as values do.
type LowHigh = (OwnedRow, OwnedRow);

impl Ends {
    /// `None` where the key lies in partition columns alone.
    pub fn of(schema: &SchemaRef, key: &[String], partition_by: &[String]) -> Result<Option<Self>> {
        let Some(column) = key.iter().find(|name| !partition_by.contains(name)) else { return Ok(None) };
        let data_type = schema.field_with_name(column)?.data_type().clone();
        let converter = converter(vec![data_type.clone()])?;
        Ok(Some(Self { column: column.clone(), data_type, partition_by: partition_by.to_vec(), converter }))
    }

    /// `None` = the log does not say.
    pub fn in_file(&self, file: &Add) -> Result<Option<LowHigh>> {
        match bounds(file, &self.column, &self.data_type, &self.partition_by)? {
            // A NaN lies in no bounds and may be there all the same.
            Bounds::Between(low, high) if !self.data_type.is_floating() => {
                let row = |array: ArrayRef| Ok::<_, Error>(self.converter.convert_columns(&[array])?.row(0).owned());
                Ok(Some((row(low)?, row(high)?)))
            }
            _ => Ok(None),
        }
    }
}

/// A file, and the bounds of its keys.
struct Span {
    file: Add,
    ends: Option<LowHigh>,
}

impl Span {
    fn overlaps(&self, other: &Self) -> bool {
        match (&self.ends, &other.ends) {
            (Some((low, high)), Some((other_low, other_high))) => low < other_high && other_low < high,
            _ => false,
        }
    }
}

/// Sets of files that are worth putting together: those that overlap in their keys, then small ones with near keys.
pub(crate) async fn sets(table: &mut DeltaTable, key: &[String], target: u64) -> Result<Vec<Vec<Add>>> {
    let Some(known) = Ends::of(&table.snapshot.schema, key, table.snapshot.partition_by())? else {
        return Ok(Vec::new());
    };
    let mut partitions: BTreeMap<BTreeMap<String, Option<String>>, Vec<Span>> = BTreeMap::new();
    for file in table.live_files().await?.values().filter(|file| file.deletion_vector.is_none()) {
        let ends = known.in_file(file)?;
        let span = Span { file: file.clone(), ends };
        partitions.entry(file.partition_values.clone()).or_default().push(span);
    }
    let mut sets = Vec::new();
    for mut files in partitions.into_values() {
        files.sort_by(|a, b| (&a.ends, &a.file.path).cmp(&(&b.ends, &b.file.path)));
        let taken = overlapping(&files, target, &mut sets);
        let small = files.iter().enumerate().filter(|(place, _)| !taken.contains(place));
        // A file of three quarters of the size is large enough: rewriting it again and again would cost more.
        let small = small.map(|(_, span)| &span.file).filter(|file| file.size < target / 4 * 3);
        let (mut set, mut bytes): (Vec<Add>, u64) = (Vec::new(), 0);
        for file in small {
            if bytes + file.size > target && !set.is_empty() {
                sets.push(std::mem::take(&mut set));
                bytes = 0;
            }
            bytes += file.size;
            set.push(file.clone());
        }
        sets.push(set);
    }
    sets.retain(|set| set.len() > 1);
    Ok(sets)
}

/// Takes the files that overlap too many others, with those; answers their places.
fn overlapping(files: &[Span], target: u64, sets: &mut Vec<Vec<Add>>) -> HashSet<usize> {
    let mut taken = HashSet::new();
    for (place, span) in files.iter().enumerate() {
        if taken.contains(&place) {
            continue;
        }
        let mut set = vec![place];
        let mut bytes = span.file.size;
        for (other, candidate) in files.iter().enumerate() {
            let fits = set.len() < SET_FILES || bytes + candidate.file.size <= target.saturating_mul(SET_FILES as u64);
            if other != place && !taken.contains(&other) && fits && span.overlaps(candidate) {
                bytes += candidate.file.size;
                set.push(other);
            }
        }
        if set.len() > DEPTH {
            taken.extend(set.iter().copied());
            sets.push(set.into_iter().map(|place| files[place].file.clone()).collect());
        }
    }
    taken
}

/// Writes the rows of files again in the order of a key, within the memory that is given.
pub(crate) async fn put_in_order(
    table: &DeltaTable,
    set: &[Add],
    key: &[String],
    options: &Maintenance,
) -> Result<Vec<DataFile>> {
    let mut runs: Vec<DataFile> = Vec::new();
    let written = write_in_order(table, set, key, options, &mut runs).await;
    discard(&table.log, &runs).await;
    written
}

async fn write_in_order(
    table: &DeltaTable,
    set: &[Add],
    key: &[String],
    options: &Maintenance,
    runs: &mut Vec<DataFile>,
) -> Result<Vec<DataFile>> {
    let schema = table.snapshot.schema.clone();
    let partition_by = table.snapshot.partition_by().to_vec();
    let (mut held, mut bytes) = (Vec::new(), 0);
    let mut rows =
        futures::stream::iter(set).then(|file| scan(&table.log, file, &schema, &partition_by)).try_flatten().boxed();
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        bytes += batch.get_array_memory_size() as u64;
        held.push(batch);
        if bytes > options.memory_bytes / 4 {
            runs.extend(write(table, sorted(std::mem::take(&mut held), key)?, options, u64::MAX).await?);
            bytes = 0;
        }
    }
    drop(rows);
    let last = sorted(held, key)?;
    if runs.is_empty() {
        return write(table, last, options, options.target_file_bytes).await;
    }
    let mut sources: Vec<BoxStream<'_, Result<RecordBatch>>> = vec![last];
    for run in runs.iter() {
        sources.push(scan(&table.log, &Add::of(run, false), &schema, &partition_by).await?);
    }
    let merged = merged(sources, key, &schema)?;
    write(table, merged, options, options.target_file_bytes).await
}

async fn write(
    table: &DeltaTable,
    rows: BoxStream<'_, Result<RecordBatch>>,
    options: &Maintenance,
    target_file_bytes: u64,
) -> Result<Vec<DataFile>> {
    let options = WriterOptions {
        target_file_bytes,
        memory_bytes: options.memory_bytes / 4,
        compression: options.compression,
        runtime: tokio::runtime::Handle::current(),
    };
    let writer = TableWriters::of(table).parquet_writer(&table.snapshot.schema, &options)?;
    write_all(rows, Box::new(writer)).await
}

/// The key columns of a batch as rows of bytes that compare as values do.
struct Order {
    key: Vec<String>,
    converter: RowConverter,
}

impl Order {
    fn new(schema: &SchemaRef, key: &[String]) -> Result<Self> {
        let types = key.iter().map(|name| Ok(schema.field_with_name(name)?.data_type().clone()));
        Ok(Self { key: key.to_vec(), converter: converter(types.collect::<Result<Vec<_>>>()?)? })
    }

    fn rows(&self, batch: &RecordBatch) -> Result<arrow::row::Rows> {
        let column = |name: &String| {
            let array = batch.column_by_name(name).cloned();
            array.ok_or_else(|| Error::unexpected("a column of the key was not read").with("column", name))
        };
        let arrays = self.key.iter().map(column).collect::<Result<Vec<_>>>()?;
        Ok(self.converter.convert_columns(&arrays)?)
    }
}

/// The rows of batches in the order of a key; equal keys stay in the order in which they came.
fn sorted(batches: Vec<RecordBatch>, key: &[String]) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let Some(first) = batches.first() else { return Ok(futures::stream::empty().boxed()) };
    let order = Order::new(&first.schema(), key)?;
    let rows = batches.iter().map(|batch| order.rows(batch)).collect::<Result<Vec<_>>>()?;
    let mut places: Vec<(usize, usize)> = Vec::new();
    for (batch, rows) in rows.iter().enumerate() {
        places.extend((0..rows.num_rows()).map(|row| (batch, row)));
    }
    places.sort_by(|a, b| rows[a.0].row(a.1).cmp(&rows[b.0].row(b.1)));
    drop(rows);
    let chunks: Vec<Vec<(usize, usize)>> = places.chunks(BATCH_ROWS).map(<[(usize, usize)]>::to_vec).collect();
    let picked = move |chunk: Vec<(usize, usize)>| {
        let all: Vec<&RecordBatch> = batches.iter().collect();
        Ok(interleave_record_batch(&all, &chunk)?)
    };
    Ok(futures::stream::iter(chunks).map(picked).boxed())
}

/// Merges streams that are in order, one batch of each in memory.
fn merged<'s>(
    sources: Vec<BoxStream<'s, Result<RecordBatch>>>,
    key: &[String],
    schema: &SchemaRef,
) -> Result<BoxStream<'s, Result<RecordBatch>>> {
    let heads: HashMap<usize, Head> = HashMap::new();
    let merge = Merge { sources, heads, heap: BinaryHeap::new(), order: Order::new(schema, key)?, begun: false };
    let next = |mut merge: Merge<'s>| async move {
        match merge.next().await {
            Ok(Some(batch)) => Some((Ok(batch), merge)),
            Ok(None) => None,
            Err(error) => {
                // After an error nothing comes.
                merge.sources.clear();
                merge.heads.clear();
                merge.heap.clear();
                Some((Err(error), merge))
            }
        }
    };
    Ok(futures::stream::unfold(merge, next).boxed())
}

struct Head {
    batch: RecordBatch,
    rows: arrow::row::Rows,
    next: usize,
}

struct Merge<'s> {
    sources: Vec<BoxStream<'s, Result<RecordBatch>>>,
    heads: HashMap<usize, Head>,
    /// The next row of each source.
    heap: BinaryHeap<Reverse<(OwnedRow, usize)>>,
    order: Order,
    begun: bool,
}

impl Merge<'_> {
    async fn fetch(&mut self, source: usize) -> Result<()> {
        self.heads.remove(&source);
        let Some(stream) = self.sources.get_mut(source) else { return Ok(()) };
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            if batch.num_rows() == 0 {
                continue;
            }
            let rows = self.order.rows(&batch)?;
            self.heap.push(Reverse((rows.row(0).owned(), source)));
            self.heads.insert(source, Head { batch, rows, next: 0 });
            break;
        }
        Ok(())
    }

    /// The next rows: of one batch of each source, up to where one of them ends.
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        if !std::mem::replace(&mut self.begun, true) {
            for source in 0..self.sources.len() {
                self.fetch(source).await?;
            }
        }
        let mut picked: Vec<(usize, usize)> = Vec::new();
        let mut ended = None;
        while picked.len() < BATCH_ROWS {
            let Some(Reverse((_, source))) = self.heap.pop() else { break };
            let head = self.heads.get_mut(&source).ok_or_else(|| Error::unexpected("a source without a batch"))?;
            picked.push((source, head.next));
            head.next += 1;
            if head.next == head.batch.num_rows() {
                ended = Some(source);
                break;
            }
            self.heap.push(Reverse((head.rows.row(head.next).owned(), source)));
        }
        if picked.is_empty() {
            return Ok(None);
        }
        let sources: Vec<usize> = self.heads.keys().copied().collect();
        let place: HashMap<usize, usize> = sources.iter().enumerate().map(|(place, source)| (*source, place)).collect();
        let batches: Vec<&RecordBatch> =
            sources.iter().filter_map(|source| Some(&self.heads.get(source)?.batch)).collect();
        let rows: Vec<(usize, usize)> = picked.iter().map(|(source, row)| (place[source], *row)).collect();
        let batch = interleave_record_batch(&batches, &rows)?;
        if let Some(source) = ended {
            self.fetch(source).await?;
        }
        Ok(Some(batch))
    }
}
