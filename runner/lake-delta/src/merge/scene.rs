//! What a merge works on: the files of the table, the files with the rows that come, and how they are read.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::row::RowConverter;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, BinaryArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Schema, SchemaRef};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use ingest_core::lake::{DataFile, Merge, Merged, Sweep};
use ingest_core::{Error, ErrorKind, Result, columns};

use super::fates::{Fates, SourceFate, TableFate};
use super::keys::{KeyId, Keys, converter};
use crate::action::Add;
use crate::log::Log;
use crate::read::{Opened, Part};
use crate::region::{Bounds, Regions, Share, bounds};
use crate::table::{DeltaTable, TableWriters};

/// A merge at one version of the table.
pub(super) struct Scene {
    pub log: Log,
    pub writers: TableWriters,
    /// The table's, with the columns that the same commit brings.
    pub schema: SchemaRef,
    pub partition_by: Vec<String>,
    pub table: Vec<Add>,
    pub source: Vec<Add>,
    pub merge: Arc<Merge>,
}

/// Batches of a file, each with the number of its first row.
pub(super) type Numbered = BoxStream<'static, Result<(u32, RecordBatch)>>;

/// What a merge has made.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// Files of the table that go.
    pub removed: Vec<Add>,
    /// Files that were written for it.
    pub written: Vec<DataFile>,
    /// Files with rows that come, which become part of the table as they are.
    pub adopted: Vec<DataFile>,
    pub figures: Merged,
}

impl Scene {
    pub async fn of(table: &mut DeltaTable, schema: &SchemaRef, merge: &Arc<Merge>) -> Result<Self> {
        let live = table.live_files().await?.values().cloned().collect();
        Ok(Self {
            log: table.log.clone(),
            writers: TableWriters::of(table),
            schema: Arc::clone(schema),
            partition_by: table.snapshot.partition_by().to_vec(),
            table: live,
            source: merge.rows.iter().map(|file| Add::of(file, true)).collect(),
            merge: Arc::clone(merge),
        })
    }

    /// The fates before anything is decided: every row of the table stays, no row comes in.
    pub fn fates(&self) -> Fates {
        Fates {
            table: vec![TableFate::default(); self.table.len()],
            source: vec![SourceFate::default(); self.source.len()],
            ..Fates::default()
        }
    }

    /// Rows that come.
    pub fn source_rows(&self) -> u64 {
        self.merge.rows.iter().map(|file| file.rows).sum()
    }

    /// Those of the named columns that there are, in the table's order.
    pub fn project(&self, wanted: impl Fn(&str) -> bool) -> SchemaRef {
        let fields: Vec<_> = self.schema.fields().iter().filter(|f| wanted(f.name())).cloned().collect();
        Arc::new(Schema::new(fields))
    }

    pub async fn scan(&self, file: &Add, schema: &SchemaRef) -> Result<Numbered> {
        self.sift(file, schema, |start, batch| Ok((start, batch))).await
    }

    /// What `take` makes of the batches of a file, each with the number of its first row. It works on the thread that decodes.
    pub async fn sift<T: Send + 'static>(
        &self,
        file: &Add,
        schema: &SchemaRef,
        take: impl FnMut(u32, RecordBatch) -> Result<T> + Send + 'static,
    ) -> Result<BoxStream<'static, Result<T>>> {
        self.sift_part(file, schema, Part::All, take).await
    }

    /// As [`Self::sift`], for some rows; they are numbered as if there were no others.
    pub async fn sift_part<T: Send + 'static>(
        &self,
        file: &Add,
        schema: &SchemaRef,
        part: Part,
        mut take: impl FnMut(u32, RecordBatch) -> Result<T> + Send + 'static,
    ) -> Result<BoxStream<'static, Result<T>>> {
        let opened = Opened::of(&self.log, file).await?;
        let progress = Arc::clone(&self.merge.progress);
        let mut next = 0_u32;
        opened.rows(schema, &self.partition_by, part, move |batch| {
            progress.fetch_add(1, Ordering::Relaxed);
            let start = next;
            next = row_number(start, batch.num_rows())?;
            take(start, batch)
        })
    }

    /// The rows that regions take away before others come.
    pub async fn cut(&self, regions: &Regions, fates: &mut Fates) -> Result<()> {
        let deciding: Vec<String> = regions.columns().map(ToOwned::to_owned).collect();
        let schema = self.project(|name| deciding.iter().any(|d| d == name));
        for (file, fate) in self.table.iter().zip(&mut fates.table) {
            match regions.share(file, &self.partition_by)? {
                Share::Nothing => {}
                Share::Everything => {
                    fate.gone = true;
                    fates.changed += file.data_file(&[]).rows;
                }
                Share::Unclear => {
                    let mut rows = self.scan(file, &schema).await?;
                    while let Some((start, batch)) = rows.try_next().await? {
                        let mask = regions.mask(&batch)?;
                        for row in mask.values().set_indices() {
                            fate.dropped.insert(row_number(start, row)?);
                        }
                    }
                    fates.changed += fate.dropped.count();
                }
            }
        }
        Ok(())
    }
}

/// The number of a row in its file.
pub(super) fn row_number(start: u32, offset: usize) -> Result<u32> {
    u32::try_from(offset)
        .ok()
        .and_then(|offset| start.checked_add(offset))
        .ok_or_else(|| Error::new(ErrorKind::LimitExceeded, "a data file has more than 2^32 rows"))
}

/// The columns of a batch by which rows are told apart, as far as it has them.
pub(super) struct Facts {
    pub ids: Vec<Option<KeyId>>,
    ops: Option<StringArray>,
    absent: Option<BinaryArray>,
    came: Option<TimestampMicrosecondArray>,
    orders: Option<(arrow::row::Rows, arrow_array::ArrayRef)>,
}

impl Facts {
    pub fn is_deleted(&self, row: usize) -> bool {
        self.ops.as_ref().is_some_and(|ops| ops.is_valid(row) && ops.value(row) == "D")
    }

    pub fn is_partial(&self, row: usize) -> bool {
        self.absent.as_ref().is_some_and(|absent| absent.is_valid(row))
    }

    /// Whether a row of the table whose key did not come is deleted.
    pub fn is_swept(&self, sweep: Sweep, row: usize) -> bool {
        match sweep {
            Sweep::Nothing => false,
            Sweep::Rows => true,
            // Of a row that does not say when it came, nobody knows whether it was there to be seen.
            Sweep::Keys { since } => {
                self.came.as_ref().is_some_and(|came| came.is_valid(row) && came.value(row) < since)
            }
        }
    }

    /// Bytes that sort as the order of rows does; `None` where the row says nothing.
    pub fn order(&self, row: usize) -> Option<&[u8]> {
        let (rows, array) = self.orders.as_ref()?;
        array.is_valid(row).then(|| rows.row(row).data())
    }
}

/// Reads the columns by which rows are told apart.
pub(super) struct Reader {
    pub keys: Keys,
    order: Option<(String, RowConverter)>,
}

impl Reader {
    pub fn new(scene: &Scene) -> Result<Self> {
        let order = match &scene.merge.order {
            Some(name) => {
                let field = scene.schema.field_with_name(name).map_err(|_| {
                    Error::unexpected("rows are ordered by a column that the table does not have").with("column", name)
                })?;
                Some((name.clone(), converter(vec![field.data_type().clone()])?))
            }
            None => None,
        };
        Ok(Self { keys: Keys::new(&scene.schema, &scene.merge.key)?, order })
    }

    pub fn is_needed(&self, name: &str) -> bool {
        self.keys.columns.iter().any(|column| column == name) || self.order.as_ref().is_some_and(|(o, _)| o == name)
    }

    pub fn facts(&self, batch: &RecordBatch) -> Result<Facts> {
        let orders = match &self.order {
            Some((name, converter)) => match batch.column_by_name(name) {
                Some(array) => Some((converter.convert_columns(std::slice::from_ref(array))?, array.clone())),
                None => None,
            },
            None => None,
        };
        Ok(Facts {
            ids: self.keys.ids(batch)?,
            ops: batch.column_by_name(columns::OP).and_then(|a| a.as_string_opt::<i32>()).cloned(),
            absent: batch.column_by_name(columns::ABSENT).and_then(|a| a.as_binary_opt::<i32>()).cloned(),
            came: batch
                .column_by_name(columns::INGESTED_AT)
                .and_then(|a| a.as_primitive_opt::<TimestampMicrosecondType>())
                .cloned(),
            orders,
        })
    }

    /// The number of a key that came; every one has it.
    pub fn key(&self, id: Option<KeyId>) -> Result<KeyId> {
        id.ok_or_else(|| {
            Error::new(ErrorKind::DataInvalid, "a row without a key cannot be merged")
                .with("key", self.keys.columns.join(", "))
                .hint("name columns that are never null with `key`")
        })
    }
}

/// Which keys came, as far as bounds of files can be compared with them.
pub(super) struct Reach {
    columns: Vec<ColumnReach>,
}

struct ColumnReach {
    name: String,
    data_type: DataType,
    converter: RowConverter,
    /// The lowest and the highest value that came.
    ends: Option<(Bytes, Bytes)>,
}

/// A value as bytes that compare as values do.
type Bytes = Box<[u8]>;

impl Reach {
    pub fn new(scene: &Scene) -> Result<Self> {
        let column = |name: &String| -> Result<ColumnReach> {
            let data_type = scene.schema.field_with_name(name)?.data_type().clone();
            let converter = converter(vec![data_type.clone()])?;
            Ok(ColumnReach { name: name.clone(), data_type, converter, ends: None })
        };
        Ok(Self { columns: scene.merge.key.iter().map(column).collect::<Result<_>>()? })
    }

    pub fn observe(&mut self, batch: &RecordBatch) -> Result<()> {
        for column in &mut self.columns {
            let Some(array) = batch.column_by_name(&column.name) else { continue };
            let rows = column.converter.convert_columns(std::slice::from_ref(array))?;
            let (Some(low), Some(high)) = (rows.iter().min(), rows.iter().max()) else { continue };
            let (low, high) = (low.data(), high.data());
            match &mut column.ends {
                None => column.ends = Some((low.into(), high.into())),
                Some((min, max)) => {
                    if low < min.as_ref() {
                        *min = low.into();
                    }
                    if high > max.as_ref() {
                        *max = high.into();
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a file may hold one of the keys: by its partition, by its statistics, and sharper where `sorted` holds all
    /// keys in the order of their values.
    pub fn may_meet(&self, file: &Add, partition_by: &[String], keys: &Keys, sorted: Option<&[KeyId]>) -> Result<bool> {
        for column in &self.columns {
            let Some((low, high)) = &column.ends else { return Ok(false) };
            let (min, max) = match bounds(file, &column.name, &column.data_type, partition_by)? {
                Bounds::Unknown => continue,
                Bounds::Nulls => return Ok(false),
                Bounds::Between(min, max) => (min, max),
            };
            if let Some(sorted) = sorted {
                let (min, max) = (keys.of(&[min])?[0], keys.of(&[max])?[0]);
                let (Some(min), Some(max)) = (min, max) else { continue };
                let first = sorted.partition_point(|id| *id < min);
                return Ok(sorted.get(first).is_some_and(|id| *id <= max));
            }
            if column.data_type.is_floating() {
                // A NaN lies in no bounds and may be there all the same.
                continue;
            }
            let (min, max) = (column.converter.convert_columns(&[min])?, column.converter.convert_columns(&[max])?);
            if max.row(0).data() < low.as_ref() || min.row(0).data() > high.as_ref() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
