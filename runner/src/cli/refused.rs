//! Verbs and flags of the plan that are not built in yet: refused, never ignored.

use ingest_core::{Error, ErrorKind};

use super::output::Outcome;

/// Refuses a verb.
pub fn verb(name: &str) -> Outcome {
    Err(error(&format!("`ingest {name}`")).into())
}

fn error(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{what} is not built in yet")).hint("`ingest --help` lists what is")
}
