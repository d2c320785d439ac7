//! Streams: what a source offers.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::{SliceId, StreamName};

/// How a stream is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Everything, each time.
    Full,
    /// What is new, by a cursor or an event feed.
    Incremental,
    /// Every change, from a change log.
    Cdc,
}

/// How rows meet the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WriteMode {
    /// Rows are added.
    Append,
    /// Rows take the place of all rows, in one commit.
    Replace,
    /// Rows take the place of the rows with their key.
    Merge,
    /// Rows whose key is there already are left; the others are added.
    Insert,
    /// Rows open a new version of their key.
    Scd2,
}

macro_rules! lowercase_display {
    ($($type:ident { $($variant:ident = $text:literal),+ })+) => {$(
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $text),+ })
            }
        }
    )+};
}
lowercase_display! {
    Mode { Full = "full", Incremental = "incremental", Cdc = "cdc" }
    WriteMode { Append = "append", Replace = "replace", Merge = "merge", Insert = "insert", Scd2 = "scd2" }
}

/// One table, collection, endpoint, topic or file set of a source.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stream {
    /// The source's own name.
    pub name: StreamName,
    /// Exact types. Columns of personal data carry the field metadata [`CLASS`].
    pub schema: SchemaRef,
    /// Columns that name a row; empty where the source has no key.
    pub key: Vec<String>,
    /// How it can be read, the default first; `cdc` is never a default.
    pub modes: Vec<Mode>,
    /// Columns by which it can be read incrementally, the best first. Empty for event feeds, which need none.
    #[serde(default)]
    pub cursors: Vec<CursorColumn>,
    /// Streams of one group are planned together: one slot, one bulk operation, one parent.
    #[serde(default)]
    pub group: Option<String>,
    /// What is known about its size.
    #[serde(default)]
    pub estimate: Estimate,
}

/// Key of the field metadata that names the data class of a column: `pii`, `sensitive` or `restricted`.
pub const CLASS: &str = "ingest.class";

/// Key of the field metadata that says how the runner masks a column: `hash`, `partial: 4`. Connectors never set it.
pub const MASK: &str = "ingest.mask";

/// A column by which a stream can be read incrementally.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorColumn {
    /// Its name.
    pub column: String,
    /// Why its upper bound is safe.
    pub safety: Safety,
}

/// Why no row can appear below the upper bound of an incremental window after it was read.
///
/// Late commits under a high-water mark are the commonest silent loss in this field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Safety {
    /// The bound comes from what the source says is still open (transactions, uploads).
    Snapshot,
    /// The source promises a watermark.
    Watermark,
    /// The bound stays this far behind the source's clock.
    Lag(Duration),
    /// Nothing is promised. The runner refuses it unless the configuration says `accept: unsafe_cursor`.
    Unsafe,
}

impl std::fmt::Display for Safety {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Snapshot => f.write_str("snapshot"),
            Self::Watermark => f.write_str("watermark"),
            Self::Lag(lag) => write!(f, "lag({}s)", lag.as_secs()),
            Self::Unsafe => f.write_str("unsafe"),
        }
    }
}

/// What is known about a size before reading. Each may be unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// Rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Bytes at the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Calls of an API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls: Option<u64>,
}

/// Which streams a call is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Exact names or globs; empty = all.
    pub select: Vec<String>,
    /// Exact names or globs that are left out.
    pub exclude: Vec<String>,
}

impl Selection {
    /// Whether a stream is selected. `*` stands for any characters, `?` for one.
    pub fn matches(&self, name: &str) -> bool {
        (self.select.is_empty() || self.select.iter().any(|glob| glob_matches(glob, name)))
            && !self.exclude.iter().any(|glob| glob_matches(glob, name))
    }
}

/// Whether `glob` matches all of `name`: `*` stands for any characters, `?` for one; everything else for itself.
///
/// ```
/// assert!(ingest_core::glob_matches("audit.*", "audit.log"));
/// assert!(!ingest_core::glob_matches("audit.*", "public.audit"));
/// ```
pub fn glob_matches(glob: &str, name: &str) -> bool {
    let (glob, name): (Vec<char>, Vec<char>) = (glob.chars().collect(), name.chars().collect());
    let (mut g, mut n, mut star, mut mark) = (0, 0, None, 0);
    while n < name.len() {
        if g < glob.len() && (glob[g] == '?' || (glob[g] == name[n] && glob[g] != '*')) {
            g += 1;
            n += 1;
        } else if g < glob.len() && glob[g] == '*' {
            star = Some(g);
            mark = n;
            g += 1;
        } else if let Some(s) = star {
            g = s + 1;
            mark += 1;
            n = mark;
        } else {
            return false;
        }
    }
    glob[g..].iter().all(|c| *c == '*')
}

/// One thing that `check` found wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Whether a run would fail.
    pub severity: Severity,
    /// The stream it concerns; `None` = the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamName>,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
    /// The exit code that a run would end with because of it; 0 for warnings.
    #[serde(default, skip)]
    pub exit_code: u8,
}

/// Whether a problem stops a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A run would fail.
    Error,
    /// A run works, but something should be known.
    Warning,
}

impl Problem {
    /// A problem that would fail a run, made of the error that the run would end with.
    pub fn from_error(stream: Option<StreamName>, error: &crate::Error) -> Self {
        let mut what = error.to_string();
        for cause in error.causes() {
            what.push_str(": ");
            what.push_str(&cause);
        }
        Self {
            severity: Severity::Error,
            stream,
            what,
            remedy: error.hint_text().unwrap_or("see the documentation of the connector").to_owned(),
            exit_code: error.kind().exit_code(),
        }
    }

    /// What a run would fail with.
    pub fn error(
        stream: Option<StreamName>,
        what: impl Into<String>,
        remedy: impl Into<String>,
        kind: crate::ErrorKind,
    ) -> Self {
        Self {
            severity: Severity::Error,
            stream,
            what: what.into(),
            remedy: remedy.into(),
            exit_code: kind.exit_code(),
        }
    }

    /// Something that should be known, although a run works.
    pub fn warning(stream: Option<StreamName>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, stream, what: what.into(), remedy: remedy.into(), exit_code: 0 }
    }
}

/// A stream as it was selected for a plan.
#[derive(Debug, Clone)]
pub struct Selected<P> {
    /// The stream as discovered.
    pub stream: Stream,
    /// How it shall be read.
    pub mode: Mode,
    /// The cursor column, where the mode is incremental and the stream has cursors.
    pub cursor: Option<String>,
    /// The columns to read; `None` = all.
    pub columns: Option<Vec<String>>,
    /// A row filter in the source's own language (`where`).
    pub filter: Option<String>,
    /// What the table holds; empty = first load.
    pub positions: BTreeMap<SliceId, P>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection_selects_and_excludes() {
        let selection = Selection { select: vec!["public.*".into()], exclude: vec!["*_tmp".into()] };
        assert!(selection.matches("public.orders"));
        assert!(!selection.matches("public.orders_tmp"));
        assert!(!selection.matches("audit.orders"));
        assert!(Selection::default().matches("anything"));
    }
}
