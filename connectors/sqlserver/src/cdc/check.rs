//! Everything that keeps changes from being captured, together, each with its remedy.

use std::sync::Arc;

use ingest_core::{ErrorKind, Problem, Result, StreamName};

use super::log::{self, Missing};
use super::tracking;
use crate::server::Server;

/// Looks for problems; changes nothing.
pub(crate) async fn check(server: &Arc<Server>, streams: &[StreamName]) -> Result<Vec<Problem>> {
    let mut connection = match server.connect().await {
        Ok(connection) => connection,
        // The check of the source itself says what is wrong with reaching the server.
        Err(error) if error.kind() != ErrorKind::Unexpected => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let tracked = tracking::tables(&mut connection).await?;
    let (followed, captured): (Vec<StreamName>, Vec<StreamName>) =
        streams.iter().cloned().partition(|stream| tracked.get(stream).is_some_and(|table| !table.captured));
    let mut missing = log::missing(&mut connection, &captured).await?;
    missing.extend(tracking::missing(&mut connection, &followed, &tracked).await?);
    connection.close().await;
    let problem = |Missing { stream, kind, what, remedy }| match kind {
        ErrorKind::QuotaExhausted => Problem::warning(stream, format!("cdc: {what}"), remedy),
        kind => Problem::error(stream, format!("cdc: {what}"), remedy, kind),
    };
    Ok(missing.into_iter().map(problem).collect())
}
