//! What a run does with each stream: the catalog and the configuration, made one.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::{DataType, Schema, SchemaRef};
use ingest_core::lake::Definition;
use ingest_core::{
    CursorColumn, Error, ErrorKind, Mode, Region, Result, Safety, Selection, Spec, Stream, StreamName, WriteMode,
    nearest,
};

use super::merge::Keyed;
use super::sweep::Sweeps;
use crate::config::{SchemaPolicy, SourceConfig, StreamOptions};
use crate::conform::Conform;
use crate::policy::Policy;

/// A stream with everything that the configuration says of it, checked.
#[derive(Debug, Clone)]
pub struct Target {
    /// The stream as discovered, with the key that the configuration names.
    pub stream: Stream,
    /// The options.
    pub options: StreamOptions,
    /// How it is read.
    pub mode: Mode,
    /// How its rows meet the table.
    pub write: WriteMode,
    /// How they do so by key, under `merge` and `scd2`.
    pub keyed: Option<Keyed>,
    /// The cursor, where the mode needs one.
    pub cursor: Option<CursorColumn>,
    /// What happens when the schema changes.
    pub policy: SchemaPolicy,
    /// Data classes, masks and checks.
    pub values: Arc<Policy>,
    /// How rows that the source no longer has are looked for, beside incremental reads.
    pub sweeps: Option<Arc<Sweeps>>,
}

/// The selection to ask the source for: the command line's, else the configuration's.
pub fn selection(config: &SourceConfig, asked: &Selection) -> Selection {
    let mut selection = asked.clone();
    if selection.select.is_empty() {
        selection.select = config.streams.iter().map(|(glob, _)| glob.clone()).collect();
    }
    selection
}

/// Makes targets of the discovered streams that are selected and configured. A stream that cannot be planned is an error of
/// its own; the others are fine.
///
/// # Errors
/// `ConfigInvalid` when a name was asked for that the source does not have, or nothing is selected.
pub fn targets(
    config: &SourceConfig,
    spec: &Spec,
    discovered: Vec<Stream>,
    asked: &Selection,
) -> Result<Vec<(StreamName, Result<Target>)>> {
    for name in asked.select.iter().chain(config.streams.iter().map(|(name, _)| name)) {
        let exact = !name.contains(['*', '?']);
        let wanted = asked.matches(name) || asked.select.contains(name);
        if exact && wanted && !discovered.iter().any(|stream| stream.name.as_str() == name) {
            return Err(unknown_stream(name, &discovered));
        }
    }
    let mut found: Vec<(StreamName, Result<Target>)> = Vec::new();
    for stream in discovered {
        if !asked.matches(stream.name.as_str()) {
            continue;
        }
        let Some(options) = config.options_of(stream.name.as_str()).or_else(|| {
            // A stream that the command line names exactly needs no entry in the file.
            asked.select.iter().any(|name| name == stream.name.as_str()).then(|| config.defaults.clone())
        }) else {
            continue;
        };
        found.push((stream.name.clone(), target(config, stream, options, spec)));
    }
    if found.is_empty() {
        return Err(Error::config("no stream is selected")
            .with("source", &config.name)
            .hint("`ingest discover` lists the streams; look at --select, --exclude and `streams`"));
    }
    refuse_clashes(&mut found);
    Ok(found)
}

fn unknown_stream(name: &str, discovered: &[Stream]) -> Error {
    let names = || discovered.iter().map(|stream| stream.name.as_str());
    let hint = match nearest(name, names()) {
        Some(near) => format!("did you mean \"{near}\"? `ingest discover` lists all streams"),
        None => "`ingest discover` lists the streams that these credentials can see".to_owned(),
    };
    Error::config(format!("there is no stream \"{name}\"")).hint(hint)
}

/// Two streams whose tables would share a folder are errors that name each other.
fn refuse_clashes(found: &mut [(StreamName, Result<Target>)]) {
    for i in 0..found.len() {
        let table = found[i].0.table();
        let Some(other) = (0..found.len()).find(|j| *j != i && found[*j].0.table() == table) else { continue };
        let other = found[other].0.clone();
        found[i].1 = Err(Error::config("two streams would share one table")
            .with("stream", &found[i].0)
            .with("other", other)
            .with("table", table)
            .hint("leave one of them out with --exclude, or put it into a source of its own"));
    }
}

pub(super) fn target(config: &SourceConfig, mut stream: Stream, options: StreamOptions, spec: &Spec) -> Result<Target> {
    let discovered = stream.clone();
    let wrong = |message: String| Error::config(message).with("stream", &stream.name);
    let mode = options.mode.unwrap_or(if options.cursor.is_some() {
        Mode::Incremental
    } else {
        // The catalog names first what it recommends: incremental where that loses nothing.
        stream.modes.first().copied().unwrap_or(Mode::Full)
    });
    if let (Mode::Cdc, Some(group)) = (mode, &mut stream.group) {
        // They share a feed, and its floor: streams of the group that are read otherwise have no part in it.
        group.push_str(" (changes)");
    }
    if !stream.modes.contains(&mode) {
        let modes = stream.modes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(
            wrong(format!("this stream cannot be read in mode {mode}")).hint(format!("it can be read as: {modes}"))
        );
    }
    let write = options.write.unwrap_or(if mode == Mode::Full { WriteMode::Replace } else { WriteMode::Append });
    if write == WriteMode::Replace && mode != Mode::Full {
        return Err(wrong(format!("mode {mode} with write mode replace would keep only what is new"))
            .hint("use append, or mode: full"));
    }
    let cursor = cursor(&stream, mode, &options)?;
    for column in options.columns.iter().flatten().chain(options.key.iter().flatten()) {
        if stream.schema.column_with_name(column).is_none() {
            let names = stream.schema.fields().iter().map(|field| field.name().as_str());
            let hint = nearest(column, names)
                .map_or("`ingest discover` lists the columns".into(), |near| format!("did you mean \"{near}\"?"));
            return Err(wrong(format!("there is no column \"{column}\"")).hint(hint));
        }
    }
    if options.filter.is_some() && !spec.capabilities.filter {
        return Err(wrong(format!("the connector {} cannot filter rows (`where`)", spec.name)));
    }
    for column in options.partition_by.iter().flatten() {
        let known = stream.schema.column_with_name(column).is_some() || ingest_core::columns::is_reserved(column);
        if column.contains('(') {
            return Err(Error::new(ErrorKind::Unsupported, format!("partition_by \"{column}\" is not built in yet"))
                .with("stream", &stream.name)
                .hint("name a column"));
        }
        if !known {
            return Err(wrong(format!("there is no column \"{column}\" to partition by")));
        }
    }
    let (values, schema) = Policy::new(config, &stream, &options, write).map_err(|e| e.with("stream", &stream.name))?;
    stream.schema = with_cursor(&schema, cursor.as_ref());
    if let Some(columns) = &options.columns {
        stream.schema = project(&stream, columns, cursor.as_ref())?;
    }
    values.require_columns(&stream.schema)?;
    if let Some(key) = &options.key {
        stream.key.clone_from(key);
    }
    if options.restate.is_some() {
        let masked = cursor.as_ref().is_some_and(|cursor| values.is_masked(&cursor.column));
        refuse_restating(&stream, write, cursor.as_ref().filter(|_| !masked))?;
    }
    let policy = options.on_schema_change.unwrap_or_default();
    // The values of a masked column are in no order.
    let order = cursor.as_ref().map(|cursor| cursor.column.as_str()).map(|c| (c, values.is_masked(c)));
    let keyed = Keyed::of(&stream, mode, write, order, &options)?;
    let sweeps = match &keyed {
        Some(_) if mode == Mode::Incremental => Sweeps::of(config, discovered, &stream.key, &options, spec)?,
        _ => None,
    };
    Ok(Target { stream, options, mode, write, keyed, cursor, policy, values: Arc::new(values), sweeps })
}

/// Which rows of the table belong to a time must be told by the cursor, and there must be no versions of them.
fn refuse_restating(stream: &Stream, write: WriteMode, cursor: Option<&CursorColumn>) -> Result<()> {
    let wrong = |message: &str| Error::config(message).with("stream", &stream.name);
    let is_time = |cursor: &CursorColumn| {
        let field = stream.schema.field_with_name(&cursor.column);
        field.is_ok_and(|field| matches!(field.data_type(), DataType::Timestamp(..) | DataType::Date32))
    };
    if !cursor.is_some_and(is_time) {
        return Err(wrong("restate needs mode: incremental and a cursor that is a time and is not masked")
            .hint("name such a column with `cursor`, or remove restate"));
    }
    if write == WriteMode::Scd2 {
        return Err(
            wrong("rows of a history (scd2) cannot be restated").hint("remove restate, or choose another `write`")
        );
    }
    Ok(())
}

/// The schema with the cursor in its metadata, for the catalog.
fn with_cursor(schema: &SchemaRef, cursor: Option<&CursorColumn>) -> SchemaRef {
    let Some(cursor) = cursor else { return Arc::clone(schema) };
    let mut metadata = schema.metadata().clone();
    metadata.insert(ingest_catalog::CURSOR.to_owned(), cursor.column.clone());
    Arc::new(Schema::new_with_metadata(schema.fields().clone(), metadata))
}

/// The chosen columns, in the source's order; key and cursor are always among them.
fn project(stream: &Stream, columns: &[String], cursor: Option<&CursorColumn>) -> Result<SchemaRef> {
    let kept: Vec<usize> = (0..stream.schema.fields().len())
        .filter(|i| {
            let name = stream.schema.field(*i).name();
            columns.contains(name) || stream.key.contains(name) || cursor.is_some_and(|cursor| cursor.column == *name)
        })
        .collect();
    Ok(Arc::new(stream.schema.project(&kept)?))
}

fn cursor(stream: &Stream, mode: Mode, options: &StreamOptions) -> Result<Option<CursorColumn>> {
    if mode != Mode::Incremental {
        return Ok(None);
    }
    let chosen = match &options.cursor {
        Some(name) => {
            let found = stream.cursors.iter().find(|cursor| cursor.column == *name);
            Some(found.ok_or_else(|| {
                let names = stream.cursors.iter().map(|cursor| cursor.column.as_str()).collect::<Vec<_>>().join(", ");
                Error::config(format!("\"{name}\" cannot be the cursor")).with("stream", &stream.name).hint(
                    if names.is_empty() { "this stream needs no cursor".into() } else { format!("it can be: {names}") },
                )
            })?)
        }
        None => stream.cursors.first(),
    };
    let Some(chosen) = chosen else { return Ok(None) };
    let accepted = options.accept.as_ref().is_some_and(|accept| accept.contains("unsafe_cursor"));
    if chosen.safety == Safety::Unsafe && !accepted {
        return Err(Error::config(format!(
            "the cursor \"{}\" is not safe: rows may appear below what was read",
            chosen.column
        ))
        .with("stream", &stream.name)
        .hint("choose another cursor, mode: full, or accept the loss with `accept: unsafe_cursor`"));
    }
    Ok(Some(chosen.clone()))
}

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

impl Target {
    /// Makes ready for the run of an interval: it goes by the cursor, whatever the mode is.
    ///
    /// # Errors
    /// `ConfigInvalid` for a stream without a cursor.
    pub fn by_interval(mut self) -> Result<Self> {
        if self.cursor.is_none() {
            let named = self.options.cursor.as_ref();
            let mut cursors = self.stream.cursors.iter();
            self.cursor = cursors.find(|cursor| named.is_none_or(|name| cursor.column == *name)).cloned();
        }
        if self.write == WriteMode::Scd2 {
            return Err(Error::config("an interval cannot be read again into a history (scd2)")
                .with("stream", &self.stream.name)
                .hint("leave the stream out with --exclude"));
        }
        if self.cursor.is_none() {
            return Err(Error::config("an interval needs a cursor, and the stream has none")
                .with("stream", &self.stream.name)
                .hint("leave the stream out with --exclude, or load all of it with --full-refresh"));
        }
        Ok(self)
    }

    /// The rows of an interval (microseconds UTC, half-open) in the table.
    ///
    /// # Errors
    /// `ConfigInvalid` where the cursor is no time.
    pub fn region(&self, conform: &Conform, (start, end): (i64, i64)) -> Result<Region> {
        let cursor = self.cursor.as_ref().ok_or_else(|| Error::unexpected("an interval without a cursor"))?;
        if self.values.is_masked(&cursor.column) {
            return Err(Error::config("an interval needs a cursor that is not masked")
                .with("stream", &self.stream.name)
                .with("cursor", &cursor.column)
                .hint(
                    "which rows of the table belong to the interval cannot be told; load them all with --full-refresh",
                ));
        }
        let column = conform.stored_name(&cursor.column).unwrap_or(&cursor.column).to_owned();
        let stored = conform.storage().field_with_name(&column).map(|field| field.data_type().clone());
        // A date is its midnight.
        let day = |at: i64| at.div_euclid(DAY) + i64::from(at.rem_euclid(DAY) != 0);
        let (from, to) = match stored {
            Ok(DataType::Timestamp(..)) => (start, end),
            Ok(DataType::Date32) => (day(start), day(end)),
            _ => {
                return Err(Error::config("an interval needs a cursor that is a timestamp or a date")
                    .with("stream", &self.stream.name)
                    .with("cursor", &cursor.column));
            }
        };
        Ok(Region::Range { column, from: from.into(), to: to.into(), also: BTreeMap::new() })
    }

    /// What a person should know of masked columns by which the source is read: positions hold their values in clear.
    pub fn clear_positions(&self) -> Option<String> {
        let cursor = self.cursor.iter().map(|cursor| &cursor.column);
        let masked: Vec<&str> =
            cursor.chain(&self.stream.key).filter(|column| self.values.is_masked(column)).map(String::as_str).collect();
        (!masked.is_empty()).then(|| {
            format!(
                "positions may hold values of {} in clear, in the checkpoint documents of the lake",
                masked.join(", ")
            )
        })
    }

    /// The definition of the table, where there is none yet.
    pub fn definition(&self, conform: &Conform) -> Definition {
        // The configuration speaks of the source's columns; the table may have to spell them otherwise.
        let stored = |column: &String| conform.stored_name(column).unwrap_or(column).to_owned();
        Definition {
            schema: match &self.keyed {
                Some(keyed) => keyed.table_schema(conform.storage()),
                None => Arc::clone(conform.storage()),
            },
            partition_by: self.options.partition_by.iter().flatten().map(stored).collect(),
            description: Some(format!("{} (ingest)", self.stream.name)),
        }
    }
}
