//! What each verb takes.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use clap::{Args, Subcommand, ValueEnum};
use ingest_core::Selection;
use ingest_core::config::Span;

/// `new`.
#[derive(Debug, Args)]
pub struct NewArgs {
    /// What to start.
    #[command(subcommand)]
    pub verb: NewVerb,
}

/// What to start.
#[derive(Debug, Subcommand)]
pub enum NewVerb {
    /// A connector: writes the folder NAME
    Connector(NewConnectorArgs),
}

/// `new connector`.
#[derive(Debug, Args)]
pub struct NewConnectorArgs {
    /// Its name: a-z, 0-9 and _
    pub name: String,
    /// What it reads
    #[arg(long, env = "INGEST_KIND", value_name = "KIND", default_value = "rest", hide_env = true)]
    pub kind: Kind,
    /// Take the crates of ingest from this checkout, not from a registry
    #[arg(long, env = "INGEST_CHECKOUT", value_name = "CHECKOUT", hide_env = true)]
    pub path: Option<PathBuf>,
}

/// What a new connector reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Lists of an HTTP API, page by page.
    Rest,
    /// Tables of a database, in ranges of their keys.
    Database,
    /// Files of a format of their own, in a folder.
    Files,
}

/// `connector`.
#[derive(Debug, Args)]
pub struct ConnectorArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: ConnectorVerb,
}

/// What to do with a connector.
#[derive(Debug, Subcommand)]
pub enum ConnectorVerb {
    /// Run the conformance suite against it
    Test(ConnectorTestArgs),
}

/// `connector test`.
#[derive(Debug, Args)]
pub struct ConnectorTestArgs {
    /// A connector that is built in or on PATH, the folder of a crate, or an executable; left out, the crate here
    #[arg(value_name = "NAME|PATH")]
    pub connector: Option<PathBuf>,
    /// Try it on this source of ingest.yaml, which is only read
    #[arg(
        long,
        short = 'S',
        env = "INGEST_SOURCE",
        value_name = "NAME",
        hide_env = true,
        conflicts_with = "conformance"
    )]
    pub source: Option<String>,
    /// What it is tested with; left out, conformance.yaml in the crate, beside the executable, or here
    #[arg(long, env = "INGEST_CONFORMANCE", value_name = "FILE", hide_env = true)]
    pub conformance: Option<PathBuf>,
    /// Only these checks, for finding a fault
    #[arg(long, env = "INGEST_ONLY", value_name = "ID", value_delimiter = ',', hide_env = true)]
    pub only: Vec<String>,
    /// Write the report as JUnit XML too
    #[arg(long, env = "INGEST_JUNIT", value_name = "FILE", hide_env = true)]
    pub junit: Option<PathBuf>,
}

/// `source`.
#[derive(Debug, Args)]
pub struct SetUpArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: SetUpVerb,
}

/// What becomes of change capture at a source.
#[derive(Debug, Subcommand)]
pub enum SetUpVerb {
    /// Make it ready for the streams with `mode: cdc`
    Setup(SetUpOf),
    /// Remove what was made; the next run loads the streams again
    Teardown(SetUpOf),
}

/// Of which source.
#[derive(Debug, Args)]
pub struct SetUpOf {
    /// Which source and streams.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Print the statements, change nothing
    #[arg(long, env = "INGEST_DRY_RUN", hide_env = true)]
    pub dry_run: bool,
}

/// Whatever follows a verb that is not built in yet.
#[derive(Debug, Args)]
pub struct Rest {
    /// Words and flags.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub words: Vec<OsString>,
}

/// `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The folder; it is made if it does not exist
    #[arg(default_value = ".", hide_default_value = true)]
    pub dir: PathBuf,
    /// Add a source of this connector with every field explained
    #[arg(long, env = "INGEST_CONNECTOR", value_name = "NAME", hide_env = true)]
    pub connector: Option<String>,
}

/// `connectors`.
#[derive(Debug, Args)]
pub struct ConnectorsArgs {
    /// The connector to explain
    pub name: Option<String>,
}

/// Which source, and which of its streams.
#[derive(Debug, Clone, Args)]
pub struct SourceArgs {
    /// The source: a name in the configuration, or a connector with its defaults
    #[arg(long, short = 'S', env = "INGEST_SOURCE", value_name = "NAME", hide_env = true)]
    pub source: String,
    /// Which of its streams.
    #[command(flatten)]
    pub streams: StreamArgs,
}

impl SourceArgs {
    /// The selection.
    pub fn selection(&self) -> Selection {
        self.streams.selection()
    }
}

/// Which streams of a source.
#[derive(Debug, Clone, Args)]
pub struct StreamArgs {
    /// Only streams of these names or globs; may be given several times
    #[arg(long, short = 's', env = "INGEST_SELECT", value_name = "GLOB", value_delimiter = ',', hide_env = true)]
    pub select: Vec<String>,
    /// Not streams of these names or globs
    #[arg(long, env = "INGEST_EXCLUDE", value_name = "GLOB", value_delimiter = ',', hide_env = true)]
    pub exclude: Vec<String>,
}

impl StreamArgs {
    /// The selection.
    pub fn selection(&self) -> Selection {
        Selection { select: self.select.clone(), exclude: self.exclude.clone() }
    }
}

/// `discover`.
#[derive(Debug, Args)]
pub struct DiscoverArgs {
    /// Which source and streams.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Read so many rows of each stream and say which columns look personal; no value is shown
    #[arg(long, env = "INGEST_SAMPLE", value_name = "N", num_args = 0..=1, default_missing_value = "200", hide_env = true,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub sample: Option<u32>,
}

/// `preview`.
#[derive(Debug, Args)]
pub struct PreviewArgs {
    /// The source
    #[arg(long, short = 'S', env = "INGEST_SOURCE", value_name = "NAME", hide_env = true)]
    pub source: String,
    /// The stream
    #[arg(long, env = "INGEST_STREAM", value_name = "NAME", hide_env = true)]
    pub stream: String,
    /// How many rows
    #[arg(long, env = "INGEST_LIMIT", value_name = "N", default_value_t = 20, hide_env = true,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
}

/// `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Which source and streams.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Cut into at least so many slices, where a stream can be cut
    #[arg(long, env = "INGEST_SLICES", value_name = "N", default_value_t = 1, hide_env = true,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub slices: u32,
    /// Write the plan to a file, for `ingest run --plan`: so many --slices for as many processes
    #[arg(short, long, env = "INGEST_OUTPUT", value_name = "FILE", hide_env = true)]
    pub output: Option<PathBuf>,
}

/// `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The source: a name in the configuration, or a connector with its defaults
    #[arg(
        long,
        short = 'S',
        env = "INGEST_SOURCE",
        value_name = "NAME",
        required_unless_present = "plan",
        hide_env = true
    )]
    pub source: Option<String>,
    /// Which of its streams.
    #[command(flatten)]
    pub streams: StreamArgs,
    /// Forget positions and load everything again, replacing the rows
    #[arg(long, env = "INGEST_FULL_REFRESH", hide_env = true)]
    pub full_refresh: bool,
    /// Load this stream again, replacing its rows, and go on from the change feed; may be given several times
    ///
    /// For a stream whose changes are lost: a slot that is gone, a log that was purged, a backup that was restored. The other
    /// streams of the run go on as ever
    #[arg(long, env = "INGEST_RESYNC", value_name = "STREAM", value_delimiter = ',', hide_env = true,
          conflicts_with_all = ["limit", "full_refresh", "interval_start", "plan"])]
    pub resync: Vec<String>,
    /// At most so many rows of each stream; keeps no checkpoint, the next run replaces them
    #[arg(long, env = "INGEST_LIMIT", value_name = "N", hide_env = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Read the window from this time (inclusive) by the cursor: 2024-01-31 or RFC 3339
    #[arg(long, env = "INGEST_INTERVAL_START", value_name = "TIME", value_parser = time, requires = "interval_end",
          conflicts_with_all = ["limit", "full_refresh"], hide_env = true)]
    pub interval_start: Option<i64>,
    /// The end of the window (exclusive)
    #[arg(long, env = "INGEST_INTERVAL_END", value_name = "TIME", value_parser = time, requires = "interval_start", hide_env = true)]
    pub interval_end: Option<i64>,
    /// The id of the run, for instance the orchestrator's
    #[arg(long, env = "INGEST_RUN_ID", value_name = "ID", value_parser = run_id, hide_env = true)]
    pub run_id: Option<String>,
    /// Stop after this time (90s, 30m, 2h) with what is whole committed: exit 4, the same command goes on
    #[arg(long, env = "INGEST_TIMEOUT", value_name = "TIME", value_parser = span, hide_env = true)]
    pub timeout: Option<Duration>,
    /// How progress is shown
    #[arg(long, env = "INGEST_PROGRESS", value_name = "HOW", default_value = "auto", hide_env = true)]
    pub progress: ProgressMode,
    /// Go on with what is new until the run is stopped (streams with a change log or an event feed)
    #[arg(long, env = "INGEST_FOLLOW", hide_env = true, conflicts_with_all = ["limit", "interval_start", "plan"])]
    pub follow: bool,
    /// A plan of `ingest plan -o`, to be read in parts by several processes
    #[arg(long, env = "INGEST_PLAN", value_name = "FILE", hide_env = true,
          conflicts_with_all = ["limit", "full_refresh", "interval_start", "select", "exclude"])]
    pub plan: Option<PathBuf>,
    /// The part of the plan to read, from 0; also from JOB_COMPLETION_INDEX, AWS_BATCH_JOB_ARRAY_INDEX, CLOUD_RUN_TASK_INDEX
    #[arg(long, env = "INGEST_SLICE", value_name = "I", requires = "plan", conflicts_with = "finish", hide_env = true)]
    pub slice: Option<u32>,
    /// Make everything that the parts of the plan have staged visible, in one commit
    #[arg(long, env = "INGEST_FINISH", requires = "plan", hide_env = true)]
    pub finish: bool,
}

/// `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// So many runs at once, of all sources together; `schedule.concurrency` of a source says how many of its own
    #[arg(long, env = "INGEST_AT_ONCE", value_name = "N", default_value_t = 4, hide_env = true,
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub at_once: u16,
    /// Where deliveries of webhooks are taken, for sources of the connector `webhooks`: POST /webhooks/SOURCE. Plain HTTP, to
    /// stand behind what ends TLS
    #[arg(long, env = "INGEST_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8080", hide_env = true)]
    pub listen: String,
    /// How the progress of runs is shown
    #[arg(long, env = "INGEST_PROGRESS", value_name = "HOW", default_value = "off", hide_env = true)]
    pub progress: ProgressMode,
    /// Answer Prometheus at http://ADDRESS/metrics: a port alone is one of 127.0.0.1; no password is asked
    #[arg(long, env = "INGEST_METRICS", value_name = "[ADDRESS:]PORT", value_parser = address, hide_env = true)]
    pub metrics: Option<SocketAddr>,
    /// Print the jobs and when they are due next, and end
    #[arg(long, env = "INGEST_DRY_RUN", hide_env = true)]
    pub dry_run: bool,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// Bars on a terminal, else lines.
    Auto,
    /// Bars on stderr.
    Bar,
    /// A line on stderr every ten seconds.
    Plain,
    /// One JSON object per event on stdout.
    Json,
    /// Nothing until the summary.
    Off,
}

/// `state`.
#[derive(Debug, Args)]
pub struct StateArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: StateVerb,
}

/// What to do with the state.
#[derive(Debug, Subcommand)]
pub enum StateVerb {
    /// Print the checkpoint of each stream
    Show(StateOf),
    /// Print the history of checkpoints, newest first
    Log {
        /// Whose.
        #[command(flatten)]
        of: StateOf,
        /// How many of each stream
        #[arg(long, env = "INGEST_LIMIT", value_name = "N", default_value_t = 20, hide_env = true)]
        limit: usize,
    },
    /// Forget positions; rows stay, and append adds them again
    Reset(StateOf),
    /// Print all checkpoints as one JSON document
    Export(StateOf),
    /// Read such a document and take its positions over
    Import {
        /// Whose.
        #[command(flatten)]
        of: StateOf,
        /// The document
        file: PathBuf,
    },
    /// Go back to a checkpoint and take the rows after it out
    Rewind {
        /// Whose.
        #[command(flatten)]
        of: StateOf,
        /// The number of the checkpoint, from `ingest state log`
        #[arg(long, env = "INGEST_TO", value_name = "NUMBER", hide_env = true)]
        to: i64,
    },
}

/// Whose state.
#[derive(Debug, Clone, Args)]
pub struct StateOf {
    /// The source
    #[arg(long, short = 'S', env = "INGEST_SOURCE", value_name = "NAME", hide_env = true)]
    pub source: String,
    /// One stream; left out, all that have a table
    #[arg(long, env = "INGEST_STREAM", value_name = "NAME", hide_env = true)]
    pub stream: Option<String>,
}

/// `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Which source and streams.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Counts alone; a source that can count is not read
    #[arg(long, env = "INGEST_COUNTS", hide_env = true)]
    pub counts: bool,
}

/// `quarantine`.
#[derive(Debug, Args)]
pub struct QuarantineArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: QuarantineVerb,
}

/// What to do with a quarantine.
#[derive(Debug, Subcommand)]
pub enum QuarantineVerb {
    /// Print records, the newest first
    Show {
        /// Whose.
        #[command(flatten)]
        of: StateOf,
        /// How many of each stream
        #[arg(long, env = "INGEST_LIMIT", value_name = "N", default_value_t = 20, hide_env = true)]
        limit: usize,
    },
    /// Put the rows that pass the checks as they are now into their tables
    Replay {
        /// Whose.
        #[command(flatten)]
        of: StateOf,
        /// Also rows that a check on a masked column holds back: their values can no longer be checked
        #[arg(long, env = "INGEST_FORCE", hide_env = true)]
        force: bool,
    },
}

/// `forget`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("sought").required(true))]
pub struct ForgetArgs {
    /// One for each person; - = one a line from standard input
    #[arg(required = true, value_name = "VALUE")]
    pub values: Vec<String>,
    /// Rows with the value in this column, or in this field of a struct by its path
    #[arg(long, env = "INGEST_COLUMN", value_name = "NAME", group = "sought", hide_env = true)]
    pub column: Option<String>,
    /// Rows with the value as their key; a JSON array for a key of several columns
    #[arg(long, env = "INGEST_KEY", group = "sought", requires = "table", hide_env = true)]
    pub key: bool,
    /// Rows with the value in any text
    #[arg(long, env = "INGEST_ANYWHERE", group = "sought", hide_env = true)]
    pub anywhere: bool,
    /// Only these tables: SOURCE.TABLE; may be given several times
    #[arg(long, env = "INGEST_TABLE", value_name = "TABLE", value_delimiter = ',', hide_env = true)]
    pub table: Vec<String>,
    /// Only tables of this source
    #[arg(long, short = 'S', env = "INGEST_SOURCE", value_name = "NAME", hide_env = true)]
    pub source: Option<String>,
    /// Leave older versions readable until `ingest maintain` removes their files
    #[arg(long, env = "INGEST_KEEP_HISTORY", hide_env = true)]
    pub keep_history: bool,
    /// Say where the values are, change nothing
    #[arg(long, env = "INGEST_DRY_RUN", hide_env = true)]
    pub dry_run: bool,
}

/// `reveal`.
#[derive(Debug, Args)]
pub struct RevealArgs {
    /// The tokens; `-` = one a line from standard input
    #[arg(required = true, value_name = "TOKEN")]
    pub tokens: Vec<String>,
}

/// `runs`.
#[derive(Debug, Args)]
pub struct RunsArgs {
    /// The run to show
    pub run_id: Option<String>,
    /// Only runs of this source
    #[arg(long, short = 'S', env = "INGEST_SOURCE", value_name = "NAME", hide_env = true)]
    pub source: Option<String>,
    /// How many, the newest first
    #[arg(long, env = "INGEST_LIMIT", value_name = "N", default_value_t = 20, hide_env = true)]
    pub limit: usize,
}

/// `show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The table: SOURCE.TABLE
    pub table: String,
    /// How many rows
    #[arg(long, env = "INGEST_LIMIT", value_name = "N", default_value_t = 20, hide_env = true,
          value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub limit: u32,
}

/// `schema`.
#[derive(Debug, Args)]
pub struct TableArgs {
    /// The table: SOURCE.TABLE
    pub table: String,
}

/// `maintain`.
#[derive(Debug, Args)]
pub struct MaintainArgs {
    /// One table: SOURCE.TABLE; left out, all
    #[arg(long, env = "INGEST_TABLE", value_name = "TABLE", hide_env = true)]
    pub table: Option<String>,
    /// Say what would be done, change nothing
    #[arg(long, env = "INGEST_DRY_RUN", hide_env = true)]
    pub dry_run: bool,
}

/// `config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: ConfigVerb,
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Print the merged configuration, secrets masked
    Show {
        /// Say where each value comes from
        #[arg(long, env = "INGEST_ORIGIN", hide_env = true)]
        origin: bool,
    },
    /// Print the JSON Schema of ingest.yaml, for editors
    Schema {
        /// That of the events of `run --progress json` instead
        #[arg(long, env = "INGEST_EVENTS", hide_env = true)]
        events: bool,
    },
}

/// An address to listen at; a port alone is one of this machine.
fn address(text: &str) -> Result<SocketAddr, String> {
    let port = text.parse::<u16>().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    port.or_else(|_| text.parse())
        .map_err(|_| "wanted is a port, e.g. 9464, or an address with one, e.g. 10.0.0.5:9464".into())
}

/// A span of time as people write it, and not nothing.
fn span(text: &str) -> Result<Duration, String> {
    let span: Span = text.parse()?;
    if span.0.is_zero() { Err("no time at all is too little".to_owned()) } else { Ok(span.0) }
}

/// A time as people write it: RFC 3339, or a date or a time without a zone, which are taken as UTC. Microseconds UTC.
fn time(text: &str) -> Result<i64, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.timestamp_micros());
    }
    let naive = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f")
        .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f"))
        .ok()
        .or_else(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0));
    let wrong = || "write a date such as 2024-01-31, or RFC 3339 such as 2024-01-31T12:00:00Z".to_owned();
    naive.map(|time| time.and_utc().timestamp_micros()).ok_or_else(wrong)
}

/// An id that may stand in names of documents and in logs.
fn run_id(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '+');
    if text.is_empty() || text.len() > 128 || !text.chars().all(fine) {
        return Err("use 1 to 128 of the characters A-Z a-z 0-9 - _ . : +".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_unless_they_say_otherwise() {
        assert_eq!(time("1970-01-02"), Ok(86_400_000_000));
        assert_eq!(time("1970-01-01T01:00:00+01:00"), Ok(0));
        assert_eq!(time("1970-01-01 00:00:01.5"), Ok(1_500_000));
        assert!(time("yesterday").is_err());
    }
}
