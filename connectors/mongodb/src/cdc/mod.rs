//! Changes, read from a change stream.

pub(crate) mod check;
mod event;
pub(crate) mod feed;
pub(crate) mod plan;

use ingest_core::{Error, ErrorKind, Result};

use crate::server::{Hello, Server};

/// What the stream watches. A token of another one, or of another replica set, is worth nothing.
pub(crate) fn scope(server: &Server, hello: &Hello) -> Result<String> {
    let set = hello.set.as_deref().ok_or_else(|| {
        let (what, remedy) = NO_OPLOG;
        Error::new(ErrorKind::ConfigInvalid, format!("cdc: {what}")).hint(remedy)
    })?;
    Ok(match &server.settings().database {
        Some(database) => format!("{set} database {database}"),
        None => format!("{set} cluster"),
    })
}

/// A server that stands alone.
const NO_OPLOG: (&str, &str) = (
    "the server is no replica set and no sharded cluster, so it keeps no changes",
    "start it with --replSet rs0, then once: rs.initiate()",
);

/// The database on which the stream is opened.
fn watched(server: &Server) -> &str {
    server.settings().database.as_deref().unwrap_or("admin")
}
