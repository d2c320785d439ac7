//! The configuration: what a user writes in `ingest.yaml`.

mod load;
mod policies;
mod problem;
mod reference;
mod retention;
mod schedule;
pub mod schema;
mod validate;
mod yaml;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use ingest_core::config::{ByteSize, Span};
use ingest_core::lake::Compression;
use ingest_core::{Json, JsonSchema, Mode, Secret, WriteMode, glob_matches};
use serde::{Deserialize, Serialize};

pub use load::{DEFAULT_MEMORY, LoadOptions, Loaded, masked};
pub use policies::{
    Bound, CheckOptions, ClassMasks, Counts, DataClass, Grain, Mask, OnFail, Policies, Range, Reference, Share,
};
pub use problem::{ConfigProblem, Origin, as_error};
pub use retention::{Age, ClassRetention, Retention};
pub use schedule::{Missed, Schedule, ScheduleOptions};
pub use validate::{Facts, dereference, description, is_secret, join, types};
pub use yaml::plain;

/// The names of the sources in the text of a configuration; `None` where it cannot be read.
pub fn sources_of(text: &str) -> Option<Vec<String>> {
    let mut problems = Vec::new();
    let root = yaml::parse(text, &std::sync::Arc::from(std::path::Path::new("")), &mut problems)?;
    let names = root.get("sources").map(|sources| sources.entries().iter().map(|entry| entry.key.clone()).collect());
    problems.is_empty().then(|| names.unwrap_or_default())
}

/// Looks at the fields of a source as its connector's schema wants them, where no file was loaded that was looked at.
///
/// # Errors
/// `ConfigInvalid` that names every key that is missing, unknown or wrong.
pub fn check_fields(fields: &Json, spec: &ingest_core::Spec, path: &str) -> ingest_core::Result<()> {
    let origin = Origin::Default;
    let node = yaml::parse_flow(&fields.to_string(), &origin).unwrap_or_else(|| yaml::Node::empty(origin));
    let mut walker = validate::Walker::default();
    walker.walk(&node, &schema::fields(spec), path);
    if walker.problems.is_empty() { Ok(()) } else { Err(as_error(&walker.problems)) }
}

/// A URL for people: without user, password and query.
pub fn public_url(url: &str) -> String {
    if !url.contains("://") {
        return url.to_owned();
    }
    match url::Url::parse(url) {
        Ok(mut parsed) => {
            // They fail only for URLs that cannot carry the part at all.
            let _ = parsed.set_username("");
            let _ = parsed.set_password(None);
            parsed.set_query(None);
            parsed.set_fragment(None);
            parsed.to_string()
        }
        Err(_) => "(a URL that cannot be read)".to_owned(),
    }
}

/// The merged configuration: file, overlay, environment; secrets resolved.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where rows go.
    pub lake: LakeConfig,
    /// The memory of a run: reading, encoding and merging together. Default 512 MiB.
    pub memory: ByteSize,
    /// The sources by name.
    pub sources: BTreeMap<String, SourceConfig>,
    /// What holds for all of them.
    pub common: Common,
    /// The file it came from; `None` where there is none and defaults rule.
    pub file: Option<PathBuf>,
}

/// What holds for every source.
#[derive(Debug, Clone, Default)]
pub struct Common {
    /// Policies.
    pub policies: Policies,
    /// The key of `hash` and `token`.
    pub mask_key: Option<Secret>,
    /// Where each key was written, for problems that are found when the columns are known.
    pub places: Arc<BTreeMap<String, Origin>>,
}

/// Where rows go, and how.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LakeConfig {
    /// A path (relative to the configuration file), `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`.
    pub url: String,
    /// The table format. `delta` is built in.
    pub format: LakeFormat,
    /// Options of the object store, such as `aws_region` or `aws_endpoint_url`. Credentials come from the environment
    /// where they are left out.
    #[schemars(with = "BTreeMap<String, String>")]
    pub options: BTreeMap<String, String>,
    /// `zstd` (level 1) or `snappy`.
    pub compression: Compression,
    /// Data files are closed near this size.
    pub file_size: ByteSize,
    /// A commit closes after this time at the latest.
    pub commit_interval: Span,
    /// Dead files are kept this long.
    pub retention: Span,
}

impl Default for LakeConfig {
    fn default() -> Self {
        Self {
            url: "./lake".into(),
            format: LakeFormat::Delta,
            options: BTreeMap::new(),
            compression: Compression::Zstd,
            file_size: ByteSize(128 << 20),
            commit_interval: Span::seconds(60),
            retention: Span::seconds(7 * 86_400),
        }
    }
}

/// A table format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LakeFormat {
    /// Delta Lake.
    Delta,
    /// Apache Iceberg. Not built in yet.
    Iceberg,
    /// Bare Parquet files. Not built in yet.
    Parquet,
}

/// A configured instance of a connector.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// Its name.
    pub name: String,
    /// The connector; left out in the file, the source's name.
    pub connector: String,
    /// The connector's own fields as JSON; secrets resolved.
    pub fields: Json,
    /// Stream names or globs with their options, in the order of the file. Empty = every stream.
    pub streams: Vec<(String, StreamOptions)>,
    /// Options for every stream that does not say otherwise.
    pub defaults: StreamOptions,
    /// When the source is due, for `ingest serve`.
    pub schedule: Option<Schedule>,
    /// What holds for every source.
    pub common: Common,
}

impl SourceConfig {
    /// A source that is not in the file: the connector of its name, with its defaults.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            connector: name.to_owned(),
            fields: Json::Object(serde_json::Map::new()),
            streams: Vec::new(),
            defaults: StreamOptions::default(),
            schedule: None,
            common: Common::default(),
        }
    }

    /// Where a stream's option was written, and the path of its key: `mask.email` is looked for in the options of the
    /// stream, then in the defaults, then in `policies`.
    pub fn place(&self, stream: &str, key: &str) -> (Origin, String) {
        let source = join("sources", &self.name);
        let exact = self.streams.iter().find(|(name, _)| name == stream);
        let entry = exact.or_else(|| self.streams.iter().find(|(glob, _)| glob_matches(glob, stream)));
        let of_stream = entry.map(|(name, _)| format!("{}.{key}", join(&format!("{source}.streams"), name)));
        let paths = of_stream.into_iter().chain([format!("{source}.defaults.{key}"), format!("policies.{key}")]);
        let mut first = None;
        for path in paths {
            let below = format!("{path}.");
            let mut from = self.common.places.range(path.clone()..);
            let found = from.next().filter(|(at, _)| **at == path || at.starts_with(&below));
            if let Some((_, origin)) = found {
                return (origin.clone(), path);
            }
            first.get_or_insert(path);
        }
        (Origin::Default, first.unwrap_or_default())
    }

    /// Whether the configuration names a stream, and its options merged over the defaults. An exact name wins over a
    /// glob, an earlier glob over a later one.
    pub fn options_of(&self, stream: &str) -> Option<StreamOptions> {
        if self.streams.is_empty() {
            return Some(self.defaults.clone());
        }
        let exact = self.streams.iter().find(|(name, _)| name == stream);
        exact
            .or_else(|| self.streams.iter().find(|(glob, _)| glob_matches(glob, stream)))
            .map(|(_, options)| options.over(&self.defaults))
    }
}

/// What can be said of a stream.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StreamOptions {
    /// `full`, `incremental` or `cdc`. Default: `incremental` where the catalog has a safe cursor or an event feed, else `full`.
    #[schemars(with = "Option<ModeName>")]
    pub mode: Option<Mode>,
    /// The cursor column of `incremental`. Default: the best that the catalog knows.
    pub cursor: Option<String>,
    /// Key columns, where the catalog knows none or other ones.
    pub key: Option<Vec<String>>,
    /// `append`, `replace`, `merge`, `insert` or `scd2`. Default: `replace` for `full`, else `append`.
    #[schemars(with = "Option<WriteModeName>")]
    pub write: Option<WriteMode>,
    /// The columns to read. Default: all.
    pub columns: Option<Vec<String>>,
    /// A row filter in the source's own language.
    #[serde(rename = "where")]
    pub filter: Option<String>,
    /// Partition columns of the table. Default: none.
    pub partition_by: Option<Vec<String>>,
    /// When the stream is due, for `ingest serve`; left out, with its source. As the `schedule` of a source.
    pub schedule: Option<Schedule>,
    /// What to do when the source's schema changes. Default: `evolve`.
    pub on_schema_change: Option<SchemaPolicy>,
    /// Data classes of columns, by name, path or glob: `pii`, `sensitive`, `restricted`; `none` where somebody has looked.
    pub classify: Option<BTreeMap<String, DataClass>>,
    /// How columns are masked, by name, path or glob: `drop`, `null`, `redact`, `hash`, `token`, `keep`, `{partial: 4}`,
    /// `{generalize: year}`.
    pub mask: Option<BTreeMap<String, Mask>>,
    /// Checks on the rows: a list of maps such as `{column: id, not_null: true, on_fail: fail}`.
    pub checks: Option<Vec<CheckOptions>>,
    /// How old the table may be: `2h`. `ingest check` warns when the last run that brought it up to date ended longer ago.
    pub sla: Option<Span>,
    /// How long rows are kept, by `ingest maintain`: `3y`, `18mo`, `90d`, `forever`, or `{after: 10y, by: paid_at}` with the
    /// column that says how old a row is. Default: what `policies.retention` says of the classes of the columns, by
    /// `_ingested_at`.
    pub retention: Option<Retention>,
    /// Rows that the source corrects after the fact, such as reports of the last days: after what is new, each run reads the
    /// rows of this time up to now again, by the cursor, and they take the place of those in the table, in one commit: `28d`.
    pub restate: Option<Span>,
    /// What becomes of rows of the table that the source no longer has, under `write: merge` and `scd2`: `sweep` deletes them,
    /// `ignore` leaves them. Default: `sweep` for a complete read (`mode: full`), `ignore` for `incremental`, where `sweep`
    /// looks for them as `sweep` says.
    pub deletes: Option<Deletes>,
    /// How rows that the source no longer has are looked for under `mode: incremental`: `{every: 7d, budget: 1000000}`. Its
    /// keys are read over several runs, so many in each, and rows whose key is gone are deleted. Default: not at all, unless
    /// `deletes: sweep` is given.
    pub sweep: Option<SweepOptions>,
    /// Keep deleted rows under `write: merge`, with `_ingest_op` = `D` and the time in `_ingest_deleted_at`. Default: false.
    pub soft_delete: Option<bool>,
    /// Columns whose changes make a new version under `write: scd2`. Default: all. Other columns are brought up to date
    /// without one.
    pub track: Option<Vec<String>>,
    /// Risks that are accepted by name: `unsafe_cursor`.
    #[schemars(with = "Option<Risks>")]
    pub accept: Option<OneOrMany>,
    /// Columns of ours that are switched off: `{_ingest_run_id: false}`.
    #[schemars(with = "Option<AddedColumns>")]
    pub added_columns: Option<BTreeMap<String, bool>>,
}

/// How rows that the source no longer has are looked for, beside incremental reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SweepOptions {
    /// How long after the end of one search the next begins.
    pub every: Span,
    /// Keys to read in one run, about: a run stops at the next place where a later one can go on.
    pub budget: std::num::NonZeroU64,
}

impl Default for SweepOptions {
    fn default() -> Self {
        Self { every: Span::seconds(7 * 86_400), budget: std::num::NonZeroU64::MIN.saturating_add(999_999) }
    }
}

/// What becomes of rows that the source no longer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Deletes {
    /// They are deleted.
    Sweep,
    /// They stay.
    Ignore,
}

#[derive(JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "only its JSON Schema is used")]
enum Risk {
    /// Rows may appear below what an incremental run has read, and would never be read.
    UnsafeCursor,
}

#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its JSON Schema is used")]
enum Risks {
    One(Risk),
    Many(Vec<Risk>),
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct AddedColumns {
    /// The run that wrote the row.
    _ingest_run_id: Option<bool>,
    /// When the row was written.
    _ingested_at: Option<bool>,
    /// `R` read, `I` inserted, `U` updated, `D` deleted.
    _ingest_op: Option<bool>,
    /// The order of the source, in change logs.
    _ingest_seq: Option<bool>,
    /// Which columns a row did not carry.
    _ingest_absent: Option<bool>,
    /// Fields that have no column, and values that do not fit theirs.
    _ingest_rescued: Option<bool>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(dead_code, reason = "only its JSON Schema is used")]
enum ModeName {
    Full,
    Incremental,
    Cdc,
}

#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(dead_code, reason = "only its JSON Schema is used")]
enum WriteModeName {
    Append,
    Replace,
    Merge,
    Insert,
    Scd2,
}

/// A text or a list of texts.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    /// Whether a word is among them.
    pub fn contains(&self, word: &str) -> bool {
        match self {
            Self::One(one) => one == word,
            Self::Many(many) => many.iter().any(|one| one == word),
        }
    }
}

/// What to do when the source's schema changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SchemaPolicy {
    /// New columns are added; a changed type that the table cannot take is rescued.
    #[default]
    Evolve,
    /// The table keeps its schema; any change stops the stream.
    Freeze,
    /// The table keeps its schema; new columns and values that do not fit go to `_ingest_rescued`.
    Rescue,
    /// Any change stops the stream before a row is read.
    Fail,
}

impl StreamOptions {
    /// These options, and where they are silent those of `defaults`.
    #[must_use]
    pub fn over(&self, defaults: &Self) -> Self {
        macro_rules! merge {
            ($($field:ident),+) => { Self { $($field: self.$field.clone().or_else(|| defaults.$field.clone())),+ } };
        }
        merge!(
            mode,
            cursor,
            key,
            write,
            columns,
            filter,
            partition_by,
            schedule,
            on_schema_change,
            classify,
            mask,
            checks,
            sla,
            retention,
            restate,
            deletes,
            sweep,
            soft_delete,
            track,
            accept,
            added_columns
        )
    }
}
