//! Rows that meet their table by key: what the configuration asks for, and what becomes of it in a commit.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow::json::LineDelimitedWriter;
use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_buffer::BooleanBuffer;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use arrow_select::filter::filter_record_batch;
use ingest_core::lake::{DataFile, Meeting, Merge, Sweep, WriterOptions};
use ingest_core::{BadRecord, Error, ErrorKind, Mode, Result, Stream, WriteMode, columns, nearest};

use crate::config::{Deletes, StreamOptions};
use crate::conform::Conform;

/// Longest text of a record in the quarantine.
const RECORD_BYTES: usize = 64 << 10;

/// How rows of a stream meet its table by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyed {
    /// The key's columns, as the source spells them.
    key: Vec<String>,
    manner: Manner,
    /// The cursor, where rows are read by one.
    cursor: Option<String>,
    /// A complete read deletes what the source no longer has.
    pub sweeps: bool,
    /// Nothing in the rows says which of two is the newer one, and slices may share keys: they are read one after another, in
    /// the order of their plan.
    pub in_turn: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Manner {
    Update {
        soft_delete: bool,
    },
    Keep,
    /// The columns whose changes make a version; `None` = all.
    History {
        tracked: Option<Vec<String>>,
    },
}

impl Keyed {
    /// What a stream's options ask for; `None` where its rows meet no others. `cursor` is the column by which rows are read,
    /// and whether its values are masked.
    ///
    /// # Errors
    /// `ConfigInvalid` for options that do not go together, and where the key is missing or unknown.
    pub fn of(
        stream: &Stream,
        mode: Mode,
        write: WriteMode,
        cursor: Option<(&str, bool)>,
        options: &StreamOptions,
    ) -> Result<Option<Self>> {
        let wrong = |message: String| Error::config(message).with("stream", &stream.name);
        let soft_delete = options.soft_delete.unwrap_or(false);
        let given = [
            ("deletes", options.deletes.is_some(), &[WriteMode::Merge, WriteMode::Scd2][..]),
            ("sweep", options.sweep.is_some(), &[WriteMode::Merge, WriteMode::Scd2]),
            ("soft_delete", soft_delete, &[WriteMode::Merge]),
            ("track", options.track.is_some(), &[WriteMode::Scd2]),
        ];
        if let Some((name, ..)) = given.iter().find(|(_, given, modes)| *given && !modes.contains(&write)) {
            return Err(wrong(format!("{name} does not go with write mode {write}"))
                .hint(format!("remove {name}, or choose another `write`")));
        }
        let manner = match write {
            WriteMode::Append | WriteMode::Replace => return Ok(None),
            WriteMode::Insert => Manner::Keep,
            WriteMode::Merge => Manner::Update { soft_delete },
            WriteMode::Scd2 => Manner::History { tracked: options.track.clone() },
        };
        refuse_sweep(mode, options).map_err(|e| e.with("stream", &stream.name))?;
        if stream.key.is_empty() {
            return Err(wrong(format!("write mode {write} needs a key, and the source names none"))
                .hint("name the columns that tell rows apart with `key: [id]`"));
        }
        let track = options.track.iter().flatten();
        for column in stream.key.iter().chain(track) {
            if stream.schema.column_with_name(column).is_none() {
                let names = stream.schema.fields().iter().map(|field| field.name().as_str());
                let hint = nearest(column, names)
                    .map_or("`ingest discover` lists the columns".into(), |near| format!("did you mean \"{near}\"?"));
                return Err(wrong(format!("there is no column \"{column}\"")).hint(hint));
            }
        }
        let keyed = Self {
            key: stream.key.clone(),
            sweeps: mode == Mode::Full && manner != Manner::Keep && options.deletes != Some(Deletes::Ignore),
            // A key that the source itself knows lies in one slice alone.
            in_turn: cursor.map_or(options.key.is_some(), |(_, masked)| masked),
            cursor: cursor.filter(|(_, masked)| !masked).map(|(column, _)| column.to_owned()),
            manner,
        };
        keyed.refuse_clashes(stream)?;
        Ok(Some(keyed))
    }

    fn refuse_clashes(&self, stream: &Stream) -> Result<()> {
        let clash = |field: &&Arc<Field>| self.adds(&field.name().to_lowercase());
        match stream.schema.fields().iter().find(clash) {
            Some(field) => Err(Error::config("the source has a column with the name of one that the write mode adds")
                .with("stream", &stream.name)
                .with("column", field.name())
                .hint("leave the column out with `columns`, or choose another `write`")),
            None => Ok(()),
        }
    }

    /// The columns that the write mode adds to the table.
    fn added(&self) -> &'static [&'static str] {
        match self.manner {
            Manner::Update { soft_delete: true } => &[columns::DELETED_AT],
            Manner::Update { soft_delete: false } | Manner::Keep => &[],
            Manner::History { .. } => &[columns::EFFECTIVE, columns::EXPIRY, columns::CURRENT],
        }
    }

    fn adds(&self, column: &str) -> bool {
        self.added().contains(&column)
    }

    /// The schema of the table for rows of this schema.
    pub fn table_schema(&self, rows: &SchemaRef) -> SchemaRef {
        let added = self.added().iter().filter(|name| rows.column_with_name(name).is_none());
        let fields = rows.fields().iter().cloned().chain(added.map(|name| Arc::new(columns::field(name))));
        Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), rows.metadata().clone()))
    }

    /// The schema of a table without what the write mode adds: that of the rows that come.
    ///
    /// # Errors
    /// `ConfigInvalid` for a table that another write mode has made.
    pub fn row_schema(&self, table: &SchemaRef) -> Result<SchemaRef> {
        let has = |name: &&str| table.column_with_name(name).is_some();
        let history = [columns::EFFECTIVE, columns::EXPIRY, columns::CURRENT];
        if matches!(self.manner, Manner::History { .. }) && !history.iter().all(has) {
            return Err(Error::config("the table has no versions: it was made by another write mode").hint(
                "load the stream into another lake, or reset it and remove its table: a history cannot be made up",
            ));
        }
        let fields = table.fields().iter().filter(|field| !self.adds(field.name())).cloned();
        Ok(Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), table.metadata().clone())))
    }

    /// The key's columns as the table spells them.
    ///
    /// # Errors
    /// `SchemaChanged` where one has vanished, or has a type that cannot be a key.
    pub fn stored_key(&self, conform: &Conform) -> Result<Vec<String>> {
        let stored = |column: &String| {
            let name = conform.stored_name(column).ok_or_else(|| {
                Error::new(ErrorKind::SchemaChanged, "a column of the key has vanished")
                    .with("column", column)
                    .hint("rows cannot be told apart without it: restore it at the source, or name another `key`")
            })?;
            let data_type = conform.storage().field_with_name(name)?.data_type();
            if matches!(data_type, DataType::Struct(_) | DataType::List(_) | DataType::Map(..)) {
                return Err(Error::config("a column of this type cannot be part of a key")
                    .with("column", column)
                    .with("type", data_type)
                    .hint("name other columns with `key`"));
            }
            Ok(name.to_owned())
        };
        self.key.iter().map(stored).collect()
    }

    /// What a commit says of rows in uploaded files.
    ///
    /// # Errors
    /// Those of [`Keyed::stored_key`].
    pub fn merge(&self, conform: &Conform, asked: Asked, rows: Vec<DataFile>) -> Result<Merge> {
        let stored = |column: &str| conform.stored_name(column).unwrap_or(column).to_owned();
        let cursor = self.cursor.as_deref().map(stored);
        let has_seq = conform.storage().column_with_name(columns::SEQ).is_some();
        let order = match asked.as_it_came {
            true => None,
            false if has_seq => Some(columns::SEQ.to_owned()),
            false => cursor.clone(),
        };
        let is_time = |name: &String| {
            let field = conform.storage().field_with_name(name);
            field.is_ok_and(|field| matches!(field.data_type(), DataType::Timestamp(..) | DataType::Date32))
        };
        let meeting = match &self.manner {
            Manner::Update { soft_delete } => Meeting::Update { soft_delete: *soft_delete },
            Manner::Keep => Meeting::Keep,
            Manner::History { tracked } => Meeting::History {
                time: cursor.filter(is_time).unwrap_or_else(|| columns::INGESTED_AT.to_owned()),
                tracked: match tracked {
                    Some(tracked) => tracked.iter().map(|column| stored(column)).collect(),
                    None => conform.storage().fields().iter().map(|field| field.name().clone()).collect(),
                },
            },
        };
        Ok(Merge {
            rows,
            key: self.stored_key(conform)?,
            order,
            meeting,
            sweep: asked.sweep,
            now: asked.now,
            memory_bytes: asked.memory_bytes,
            options: asked.options,
            progress: asked.progress,
        })
    }
}

/// A search for what is gone that the mode of reading cannot go with.
fn refuse_sweep(mode: Mode, options: &StreamOptions) -> Result<()> {
    let swept = options.deletes == Some(Deletes::Sweep);
    match (mode, options.sweep.is_some()) {
        (Mode::Cdc, given) if given || swept => Err(Error::config("the change log says what is deleted")
            .hint("remove deletes and sweep, or read the stream in another mode")),
        (Mode::Full, true) => {
            Err(Error::config("mode full sees all rows each time, so there is nothing to spread over runs")
                .hint("remove sweep: `deletes: sweep` is what mode: full does; or use mode: incremental"))
        }
        (_, true) if options.deletes == Some(Deletes::Ignore) => Err(Error::config(
            "deletes: ignore leaves rows that the source no longer has, and sweep says how they are looked for",
        )
        .hint("remove one of them")),
        _ => Ok(()),
    }
}

/// What one commit asks of a merge.
pub struct Asked {
    /// What becomes of rows whose key did not come.
    pub sweep: Sweep,
    /// The rows show the source as it is now: none of them is older than what the table has.
    pub as_it_came: bool,
    /// Microseconds UTC.
    pub now: i64,
    /// Memory for keys.
    pub memory_bytes: u64,
    /// How files are written.
    pub options: WriterOptions,
    /// Counts what is looked at.
    pub progress: Arc<AtomicU64>,
}

/// Parts the rows without a whole key from the others; they cannot be told apart, so they go to quarantine.
pub fn part_keyless(batch: RecordBatch, key: &[String]) -> Result<(RecordBatch, Vec<BadRecord>)> {
    let mut whole: Option<BooleanBuffer> = None;
    let mut empty: Vec<&str> = Vec::new();
    for name in key {
        let array = batch
            .column_by_name(name)
            .ok_or_else(|| Error::unexpected("a batch lacks a column of the key").with("column", name))?;
        let Some(nulls) = array.nulls().filter(|nulls| nulls.null_count() > 0) else { continue };
        empty.push(name);
        whole = Some(whole.map_or_else(|| nulls.inner().clone(), |before| &before & nulls.inner()));
    }
    let Some(whole) = whole else { return Ok((batch, Vec::new())) };
    let reason = format!("no key: {} is null", empty.join(" or "));
    let bad = filter_record_batch(&batch, &BooleanArray::new(!&whole, None))?;
    let records = texts(&bad)?.into_iter().map(|record| BadRecord { reason: reason.clone(), record }).collect();
    Ok((filter_record_batch(&batch, &BooleanArray::new(whole, None))?, records))
}

/// Rows as JSON objects, without columns of ours. What is masked in the batch is masked here.
fn texts(batch: &RecordBatch) -> Result<Vec<String>> {
    let data: Vec<usize> =
        (0..batch.num_columns()).filter(|i| !columns::is_reserved(batch.schema_ref().field(*i).name())).collect();
    let mut writer = arrow::json::WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, arrow::json::writer::LineDelimited>(Vec::new());
    let write = |writer: &mut LineDelimitedWriter<Vec<u8>>| {
        writer.write(&batch.project(&data)?)?;
        writer.finish()
    };
    write(&mut writer).map_err(|e| Error::unexpected("cannot write a row without a key as JSON").caused_by(e))?;
    let text = String::from_utf8_lossy(&writer.into_inner()).into_owned();
    Ok(text.lines().map(|line| line.chars().take(RECORD_BYTES / 4).collect()).collect())
}
