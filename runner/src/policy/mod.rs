//! Data classes, masks and checks: what becomes of values between the source and the lake.
//!
//! | module | what it does |
//! | --- | --- |
//! | `classes`, `schemas` | data classes of columns: by configuration, by the connector, guessed from names and samples |
//! | `masks`, `values`, `objects` | which column gets which mask; masks on arrays; masks on JSON |
//! | `key` | the mask key: hashes, tokens, its fingerprint |
//! | `ask`, `condition`, `sets`, `examine` | checks on arrays; checks in SQL; what `unique` and `references` compare with; all on batches |
//! | `keeping` | how long rows are kept |
//! | `quality` | what checks have found, and whether a commit may be made |
//!
//! A batch is examined before it is made to conform to the table: what conforming rescues is masked already, and so are
//! statistics, the log and the records of the quarantine.

mod ask;
mod classes;
mod condition;
mod examine;
pub mod keeping;
mod key;
mod masks;
mod numbers;
mod objects;
mod quality;
pub mod replay;
mod schemas;
mod sets;
mod values;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use ingest_catalog::{Documents, latest_stream};
use ingest_core::columns::RESCUED;
use ingest_core::lake::{Table, TableFormat};
use ingest_core::{BadRecord, CLASS, Error, ErrorKind, MASK, Region, Result, Stream, StreamName, WriteMode, nearest};

pub use ask::regex;
pub use classes::{Guess, guess_by_name, guess_by_values};
pub use condition::Condition;
pub use examine::{Examined, Examiner, Held, Tally};
pub(crate) use examine::{column_at, type_at};
pub use key::{MaskKey, Tokens, hex};
pub use quality::{CheckReport, History, Quality};
pub use sets::Sets;

use crate::config::{CheckOptions, ConfigProblem, DataClass, Mask, OnFail, SourceConfig, StreamOptions, as_error};
use ask::Test;
use masks::{MaskFault, Masks, Rules};
use objects::ObjectMasks;

/// Key of the schema metadata with the fingerprint of the mask key that hashes and tokens are made with.
pub use ingest_catalog::MASK_KEY;

/// What holds for the values of one stream.
#[derive(Debug, Clone)]
pub struct Policy {
    stream: StreamName,
    rules: Rules,
    key: MaskKey,
    classify: BTreeMap<String, DataClass>,
    /// Classes by path, of the schema that was discovered.
    classes: BTreeMap<String, String>,
    checks: Vec<CheckOptions>,
    schema_reports: Vec<CheckReport>,
    /// Names of checks that are left out, because their columns are masked already.
    masked_checks: Vec<String>,
    /// Whether hashes or tokens are made.
    keyed: bool,
}

/// A column with a mask, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskedColumn {
    /// The column, or the path of a field.
    pub path: String,
    /// `hash`, `partial: 4`.
    pub mask: String,
    /// The type after it; `None` = the column is left out.
    pub data_type: Option<String>,
}

impl Policy {
    /// The policy of a stream, and its schema with data classes and masks in the metadata.
    ///
    /// # Errors
    /// `ConfigInvalid` with all problems and their places; `QualityFailed` for a schema check with `on_fail: fail`.
    pub fn new(
        config: &SourceConfig,
        stream: &Stream,
        options: &StreamOptions,
        write: WriteMode,
    ) -> Result<(Self, SchemaRef)> {
        let (mut policy, schema) = Self::written(config, stream, options);
        let mut problems = Vec::new();
        let mut report = |rest: String, what: String, hint: String| {
            let (origin, path) = config.place(stream.name.as_str(), &rest);
            problems.push(ConfigProblem::new(&origin, path, what).hint(hint));
        };
        for name in policy.unknown_classes(&schema) {
            let hint = nearest_column(&name, &schema);
            report(join("classify", &name), format!("there is no column {name:?} to classify"), hint);
        }
        if config.common.policies.require_classification {
            for (what, hint) in policy.unclassified(&stream.schema) {
                report("classify".to_owned(), what, hint);
            }
        }
        let mut schema = schema;
        match policy.rules.compile(&schema) {
            Ok(masks) => {
                for fault in
                    policy.rules.unknown(&schema).into_iter().chain(policy.misplaced(&masks, stream, options, write))
                {
                    let rest = fault.name.map_or_else(|| "classify".to_owned(), |name| join("mask", &name));
                    report(rest, fault.what, fault.hint);
                }
                schema = policy.annotated(&schema, &masks);
            }
            Err(faults) => {
                for fault in policy.rules.unknown(&schema).into_iter().chain(faults) {
                    let rest = fault.name.map_or_else(|| "classify".to_owned(), |name| join("mask", &name));
                    report(rest, fault.what, fault.hint);
                }
            }
        }
        for (place, key, what, hint) in policy.check_faults(&stream.schema) {
            report(format!("checks.{place}.{key}"), what, hint);
        }
        if !problems.is_empty() {
            return Err(as_error(&problems));
        }
        policy.judge_schema(&stream.schema)?;
        Ok((policy, schema))
    }

    /// What is written, before anybody has looked whether it makes sense; the schema with its data classes.
    fn written(config: &SourceConfig, stream: &Stream, options: &StreamOptions) -> (Self, SchemaRef) {
        let rules =
            Rules { named: options.mask.clone().unwrap_or_default(), by_class: config.common.policies.mask.clone() };
        let mut policy = Self {
            stream: stream.name.clone(),
            rules,
            key: MaskKey::new(config.common.mask_key.as_ref()),
            classify: options.classify.clone().unwrap_or_default(),
            classes: BTreeMap::new(),
            checks: options.checks.clone().unwrap_or_default(),
            schema_reports: Vec::new(),
            masked_checks: Vec::new(),
            keyed: false,
        };
        let schema = policy.classified(&stream.schema);
        policy.classes = classes::by_path(schema.fields());
        (policy, schema)
    }

    /// The schema of a stream with data classes and masks in the metadata, for people who look for what to write: what is
    /// wrong with it is left for the plan to say.
    pub fn described(config: &SourceConfig, stream: &Stream, options: &StreamOptions) -> SchemaRef {
        let (mut policy, schema) = Self::written(config, stream, options);
        match policy.rules.compile(&schema) {
            Ok(masks) => policy.annotated(&schema, &masks),
            Err(_) => schema,
        }
    }

    /// Whether there is nothing to do for a batch.
    pub fn is_idle(&self) -> bool {
        self.rules.is_empty() && self.checks.is_empty()
    }

    /// The checks.
    pub fn checks(&self) -> &[CheckOptions] {
        &self.checks
    }

    /// Whether hashes or tokens are made.
    pub fn is_keyed(&self) -> bool {
        self.keyed
    }

    /// The mask key.
    pub fn key(&self) -> &MaskKey {
        &self.key
    }

    /// Whether a column, or a struct around it, is masked.
    pub fn is_masked(&self, path: &str) -> bool {
        let dots = path.match_indices('.').map(|(dot, _)| &path[..dot]);
        dots.chain([path]).any(|path| {
            let class = self.classes.get(path).map(String::as_str);
            self.rules.mask_of(path, class).is_some_and(|mask| *mask != Mask::Keep)
        })
    }

    fn mask_of(&self, path: &str) -> Option<&Mask> {
        self.rules.mask_of(path, self.classes.get(path).map(String::as_str))
    }

    /// The schema as the table will see it.
    ///
    /// # Errors
    /// `SchemaChanged` where a mask cannot take a type.
    pub fn masked_schema(&self, schema: &SchemaRef) -> Result<SchemaRef> {
        let masked = self.compile(schema)?;
        let masked = masked.schema();
        let is_plain = |field: &FieldRef| !field.metadata().contains_key(CLASS) && !field.metadata().contains_key(MASK);
        if masked.fields().iter().all(is_plain) {
            return Ok(Arc::clone(masked));
        }
        // Table formats show a comment of this name beside the column.
        let commented = masked.fields().iter().map(|field| {
            let said = [("data class", CLASS), ("mask", MASK)]
                .into_iter()
                .filter_map(|(word, key)| field.metadata().get(key).map(|value| format!("{word} {value}")));
            let said: Vec<String> = said.collect();
            if said.is_empty() || field.metadata().contains_key("comment") {
                return Arc::clone(field);
            }
            let mut metadata = field.metadata().clone();
            metadata.insert("comment".to_owned(), said.join(", "));
            Arc::new(Field::clone(field).with_metadata(metadata))
        });
        let fields: Vec<FieldRef> = commented.collect();
        Ok(Arc::new(Schema::new_with_metadata(fields, masked.metadata().clone())))
    }

    /// The columns with a mask, and their types after it.
    ///
    /// # Errors
    /// As [`Policy::masked_schema`].
    pub fn masked_columns(&self, schema: &SchemaRef) -> Result<Vec<MaskedColumn>> {
        let schema = self.classified(schema);
        let masked = self.masked_schema(&schema)?;
        let mut found = Vec::new();
        for path in masks::paths(schema.fields()) {
            let after = examine::type_at(&masked, &path);
            let mask = self.mask_of(&path).filter(|mask| **mask != Mask::Keep);
            let Some(mask) = mask else { continue };
            found.push(MaskedColumn { path, mask: mask.to_string(), data_type: after.map(|after| after.to_string()) });
        }
        Ok(found)
    }

    /// A batch after its masks, without checks: for what is shown and not written.
    ///
    /// # Errors
    /// As [`Policy::masked_schema`].
    pub fn mask_batch(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        if self.rules.is_empty() {
            return Ok(batch.clone());
        }
        self.masked(&self.compile(batch.schema_ref())?, batch)
    }

    /// A record that could not be read as a row. Which part of it is which is not known: it is shown only where nothing is
    /// masked, or where it is a JSON object.
    ///
    /// # Errors
    /// As the masks.
    pub fn mask_record(&self, mut record: BadRecord) -> Result<BadRecord> {
        if !self.rules.is_empty() {
            record.record = self.object_masks().text(&record.record)?;
        }
        Ok(record)
    }

    /// A region as the table holds it.
    ///
    /// # Errors
    /// `Unsupported` where its rows cannot be found by a masked column.
    pub fn mask_region(&self, region: Region) -> Result<Region> {
        if self.rules.is_empty() {
            return Ok(region);
        }
        self.object_masks().region(region).map_err(|e| e.with("stream", &self.stream))
    }

    fn object_masks(&self) -> ObjectMasks<'_> {
        ObjectMasks { rules: &self.rules, key: &self.key, classes: &self.classes }
    }

    fn masked(&self, masks: &Masks, batch: &RecordBatch) -> Result<RecordBatch> {
        let masked = masks.apply(batch, &self.key).map_err(|e| e.with("stream", &self.stream))?;
        let Ok(place) = masked.schema_ref().index_of(RESCUED) else { return Ok(masked) };
        let rescued = masked.column(place);
        if self.rules.is_empty() || rescued.null_count() == rescued.len() {
            return Ok(masked);
        }
        // A value of a masked column that does not fit was rescued by the connector, as it came.
        let objects = self.object_masks().column(rescued).map_err(|e| e.with("stream", &self.stream))?;
        let mut arrays: Vec<ArrayRef> = masked.columns().to_vec();
        arrays[place] = objects;
        let mut fields: Vec<FieldRef> = masked.schema_ref().fields().iter().cloned().collect();
        fields[place] = Arc::new(fields[place].as_ref().clone().with_data_type(DataType::Utf8));
        let schema = Arc::new(Schema::new_with_metadata(fields, masked.schema_ref().metadata().clone()));
        let options = RecordBatchOptions::new().with_row_count(Some(masked.num_rows()));
        Ok(RecordBatch::try_new_with_options(schema, arrays, &options)?)
    }

    fn compile(&self, schema: &SchemaRef) -> Result<Masks> {
        self.rules.compile(&self.classified(schema)).map_err(|faults| {
            let what: Vec<&str> = faults.iter().map(|fault| fault.what.as_str()).collect();
            Error::new(ErrorKind::SchemaChanged, what.join("; "))
                .with("stream", &self.stream)
                .hint("the source gives another type than before: choose a mask that takes it, `null` or `drop`")
        })
    }

    /// Masks that the rest of the stream's options cannot go with.
    fn misplaced(&self, masks: &Masks, stream: &Stream, options: &StreamOptions, write: WriteMode) -> Vec<MaskFault> {
        let mut faults = Vec::new();
        let by_key = matches!(write, WriteMode::Merge | WriteMode::Insert | WriteMode::Scd2);
        let key = options.key.as_ref().unwrap_or(&stream.key);
        for column in key.iter().filter(|_| by_key) {
            let Some(mask) = self.mask_of(column).filter(|mask| !mask.is_injective()) else { continue };
            faults.push(MaskFault {
                name: self.name_of(column),
                column: column.clone(),
                what: format!("the mask `{mask}` makes different keys equal, and rows are merged by {column:?}"),
                hint: "mask a key with `hash` or `token`".to_owned(),
            });
        }
        for column in options.partition_by.iter().flatten() {
            if masks.schema().column_with_name(column).is_none() && self.mask_of(column) == Some(&Mask::Drop) {
                faults.push(MaskFault {
                    name: self.name_of(column),
                    column: column.clone(),
                    what: format!("the table is partitioned by {column:?}, which is dropped"),
                    hint: "choose another mask, or another column for `partition_by`".to_owned(),
                });
            }
        }
        let has_token = |field: &FieldRef| field.metadata().get(MASK).is_some_and(|mask| mask == "token");
        if !self.key.is_given() && classes::any_field(masks.schema().fields(), &has_token) {
            let named = self.rules.named.iter().find(|(_, mask)| **mask == Mask::Token).map(|(name, _)| name.clone());
            faults.push(MaskFault {
                name: named,
                column: String::new(),
                what: "the mask `token` needs a key, and there is none".to_owned(),
                hint: "write `mask_key: ${MASK_KEY}` at the top of the configuration, and set the variable".to_owned(),
            });
        }
        faults
    }

    /// The name or glob under `mask` that a column's mask comes from; `None` = from its class.
    fn name_of(&self, column: &str) -> Option<String> {
        let named = self.rules.named.keys();
        let mut names = named.filter(|name| *name == column || ingest_core::glob_matches(name, column));
        names.next().cloned()
    }

    /// The schema with masks in the metadata of its columns, and the fingerprint of the key where one matters.
    fn annotated(&mut self, schema: &SchemaRef, masks: &Masks) -> SchemaRef {
        let keyed = |field: &FieldRef| field.metadata().get(MASK).is_some_and(|mask| mask == "hash" || mask == "token");
        self.keyed = classes::any_field(masks.schema().fields(), &keyed);
        if masks.is_idle() {
            return Arc::clone(schema);
        }
        let paths = masks::paths(schema.fields());
        let shown = |column: &str| -> Option<String> {
            if let Some(mask) = self.mask_of(column).filter(|mask| **mask != Mask::Keep) {
                return Some(mask.to_string());
            }
            let inside = paths.iter().filter_map(|path| {
                let rest = path.strip_prefix(column)?.strip_prefix('.')?;
                let mask = self.mask_of(path).filter(|mask| **mask != Mask::Keep)?;
                Some(format!("{rest}: {mask}"))
            });
            let inside: Vec<String> = inside.collect();
            (!inside.is_empty()).then(|| inside.join(", "))
        };
        let field = |field: &FieldRef| match shown(field.name()) {
            Some(mask) => {
                let mut metadata = field.metadata().clone();
                metadata.insert(MASK.to_owned(), mask);
                Arc::new(field.as_ref().clone().with_metadata(metadata))
            }
            None => Arc::clone(field),
        };
        let fields: Vec<FieldRef> = schema.fields().iter().map(field).collect();
        let mut metadata = schema.metadata().clone();
        if self.keyed {
            metadata.insert(MASK_KEY.to_owned(), self.key.fingerprint().to_owned());
        }
        Arc::new(Schema::new_with_metadata(fields, metadata))
    }

    /// Whether a check compares with what the table holds rather than with what came.
    fn compares_stored(&self, check: &CheckOptions) -> bool {
        check.references.is_some()
            || check
                .columns()
                .iter()
                .all(|column| !self.is_masked(column) || self.mask_of(column).is_some_and(Mask::is_injective))
    }

    /// What is wrong with the checks, now that the columns are known: place, key, what, hint.
    fn check_faults(&self, schema: &SchemaRef) -> Vec<(usize, &'static str, String, String)> {
        let mut faults = Vec::new();
        for (place, check) in self.checks.iter().enumerate() {
            let kind = check.kinds().first().copied().unwrap_or("column");
            if let Some(text) = &check.sql {
                let faults_of = condition_faults(text, schema);
                faults.extend(faults_of.into_iter().map(|(what, hint)| (place, "sql", what, hint)));
            }
            for column in check.columns() {
                let Some(data_type) = examine::type_at(schema, column) else {
                    let what = format!("there is no column {column:?} to check");
                    faults.push((place, "column", what, nearest_column(column, schema)));
                    continue;
                };
                let is_time = matches!(data_type, DataType::Date32 | DataType::Date64 | DataType::Timestamp(..));
                if check.freshness.is_some() && !is_time {
                    let what = format!("freshness cannot take column {column:?}, which is {data_type}");
                    faults.push((place, kind, what, "name a column of dates or times".to_owned()));
                } else if data_type.is_nested() && (check.unique.is_some() || check.references.is_some()) {
                    let what = format!("{kind} cannot take column {column:?}, which is {data_type}");
                    faults.push((place, kind, what, "name a column of plain values".to_owned()));
                } else if let Err(unfit) = Test::of(check, &data_type) {
                    let what = format!("the check {} {}", check.label(), unfit.0);
                    faults.push((place, kind, what, "`ingest discover` shows the types".to_owned()));
                }
                if check.references.is_some() && self.mask_of(column) == Some(&Mask::Drop) {
                    let what = format!("column {column:?} is dropped: there is nothing to look up");
                    faults.push((place, "column", what, "mask it with `hash`, as the other table does".to_owned()));
                }
            }
        }
        faults
    }

    /// Refuses checks on columns that are not read.
    ///
    /// # Errors
    /// `ConfigInvalid` with the check.
    pub fn require_columns(&self, schema: &SchemaRef) -> Result<()> {
        for check in &self.checks {
            let columns = check.looks_at();
            if let Some(column) = columns.iter().find(|column| examine::type_at(schema, column).is_none()) {
                return Err(Error::config(format!("the check {} looks at a column that is not read", check.label()))
                    .with("stream", &self.stream)
                    .with("column", column)
                    .hint("add it to `columns`, or leave the check out"));
            }
        }
        Ok(())
    }

    /// The checks of kind `schema` look at what was discovered.
    fn judge_schema(&mut self, schema: &SchemaRef) -> Result<()> {
        for check in &self.checks {
            let Some(expected) = &check.schema else { continue };
            let mut differs = Vec::new();
            for (column, wanted) in expected {
                match schema.column_with_name(column) {
                    None => differs.push(format!("column {column:?} is not there")),
                    Some((_, field)) if field.data_type().to_string() != *wanted => {
                        differs.push(format!("column {column:?} is {} instead of {wanted}", field.data_type()));
                    }
                    Some(_) => {}
                }
            }
            let what = differs.join("; ");
            if check.on_fail == OnFail::Fail && !differs.is_empty() {
                return Err(Error::new(
                    ErrorKind::QualityFailed,
                    format!("the check {} failed: {what}", check.label()),
                )
                .with("stream", &self.stream)
                .hint("restore the schema at the source, or correct the check"));
            }
            self.schema_reports.push(CheckReport {
                check: check.label(),
                on_fail: check.on_fail.to_string(),
                outcome: if differs.is_empty() { "passed" } else { "warned" }.to_owned(),
                rows: 0,
                failed: 0,
                note: (!differs.is_empty()).then_some(what),
                newest: None,
            });
        }
        Ok(())
    }

    /// Refuses to add rows under another mask key than those that are there.
    ///
    /// # Errors
    /// `ConfigInvalid` where the key is missing or was changed.
    pub async fn guard(&self, documents: &Documents, config: &SourceConfig, replaces: bool) -> Result<()> {
        if !self.keyed || replaces {
            return Ok(());
        }
        let newest = latest_stream(documents, &config.name, &self.stream.table()).await?;
        let Some(before) = newest.and_then(|document| document.mask_key) else { return Ok(()) };
        if before == self.key.fingerprint() {
            return Ok(());
        }
        let place = config.common.places.get("mask_key").map_or_else(String::new, |origin| format!("{origin}: "));
        let what = match (before.as_str(), self.key.is_given()) {
            ("none", _) => {
                "mask_key: there was no mask key when the rows of the table were loaded, and now there is one"
            }
            (_, true) => "mask_key: this is not the key that the rows of the table were masked with",
            (_, false) => "mask_key: the rows of the table were masked with a key, and there is none",
        };
        Err(Error::config(format!("{place}{what}"))
            .with("stream", &self.stream)
            .hint("restore the key; or load all rows again with the new one: `ingest run --full-refresh`"))
    }

    /// Gets ready to judge the rows of a run: reads what checks compare with.
    ///
    /// # Errors
    /// As [`Sets::begin_known`]; whatever the lake says.
    pub async fn quality(
        self: &Arc<Self>,
        documents: &Documents,
        format: &dyn TableFormat,
        source: &str,
        held: Option<&dyn Table>,
        memory: u64,
    ) -> Result<Quality> {
        let many = self.checks.iter().filter(|check| check.unique.is_some() || check.references.is_some()).count();
        let mut sets = Sets::new(self.checks.len(), memory / 8 / many.max(1) as u64);
        for (place, check) in self.checks.iter().enumerate() {
            let columns = check.columns();
            if let Some(reference) = &check.references {
                sets.begin_known(place, format, &reference.table, &reference.column)
                    .await
                    .map_err(|e| e.with("stream", &self.stream).with("check", check.label()))?;
            } else if check.unique == Some(true) {
                // Several columns are compared within the run alone.
                let column = columns.first().filter(|_| columns.len() == 1 && self.compares_stored(check));
                let table = held.filter(|table| column.is_some_and(|c| table.schema().column_with_name(c).is_some()));
                sets.begin_seen(place, table, column.copied()).await?;
            }
        }
        let history = History::read(documents, source, self).await?;
        Ok(Quality::new(Arc::clone(self), Arc::new(sets), history))
    }
}

/// A key below another, as places spell it.
fn join(parent: &str, key: &str) -> String {
    crate::config::join(parent, key)
}

/// What is wrong with a condition, now that the columns are known: what, hint.
fn condition_faults(text: &str, schema: &Schema) -> Vec<(String, String)> {
    // What cannot be read, the configuration's reader has named.
    let Ok(condition) = Condition::read(text) else { return Vec::new() };
    let (mut types, mut faults) = (Vec::new(), Vec::new());
    for column in condition.columns() {
        match examine::type_at(schema, column) {
            Some(data_type) => types.push(data_type),
            None => faults.push((format!("there is no column {column:?} to check"), nearest_column(column, schema))),
        }
    }
    if faults.is_empty()
        && let Err(fault) = condition.bind(&types)
    {
        faults.push((fault.what, fault.hint));
    }
    faults
}

fn nearest_column(name: &str, schema: &Schema) -> String {
    let paths = masks::paths(schema.fields());
    match nearest(name, paths.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`ingest discover` lists the columns".to_owned(),
    }
}
