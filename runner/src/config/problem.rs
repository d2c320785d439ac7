//! One thing that is wrong with a configuration.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use ingest_core::{Error, ErrorKind};
use serde::Serialize;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A line of a file, counted from 1.
    File {
        /// The file, as it was named or found.
        file: Arc<Path>,
        /// The line.
        line: usize,
    },
    /// An environment variable.
    Environment(Arc<str>),
    /// Nothing was written; this is what holds then.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line } => write!(f, "{}:{line}", file.display()),
            Self::Environment(name) => write!(f, "{name}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One thing that is wrong with a configuration: where, which key, what, and what to do.
///
/// Its text never quotes the value of a secret field, nor a value that came out of a `${…}` or the environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigProblem {
    /// Where it was written.
    pub origin: Origin,
    /// The key, from the top: `sources.shop_db.host`; empty = the file as a whole.
    pub path: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl ConfigProblem {
    /// A problem at a place.
    pub fn new(origin: &Origin, path: impl Into<String>, what: impl Into<String>) -> Self {
        Self { origin: origin.clone(), path: path.into(), what: what.into(), hint: None }
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin != Origin::Default {
            write!(f, "{}: ", self.origin)?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.what)
    }
}

/// All problems as the one error that a caller passes on.
pub fn as_error(problems: &[ConfigProblem]) -> Error {
    let text = |problem: &ConfigProblem| match &problem.hint {
        Some(hint) => format!("{problem} ({hint})"),
        None => problem.to_string(),
    };
    match problems {
        [one] => {
            let error = Error::new(ErrorKind::ConfigInvalid, one.to_string());
            match &one.hint {
                Some(hint) => error.hint(hint.clone()),
                None => error,
            }
        }
        several => Error::new(
            ErrorKind::ConfigInvalid,
            format!(
                "{} problems in the configuration: {}",
                several.len(),
                several.iter().map(text).collect::<Vec<_>>().join("; ")
            ),
        ),
    }
}
