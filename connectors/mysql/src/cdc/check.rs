//! Everything that keeps changes from being captured, together, each with its remedy.

use std::sync::Arc;

use ingest_core::{ErrorKind, Problem, Result};

use super::log;
use crate::server::Server;

/// Looks for problems; changes nothing.
pub(crate) async fn check(server: &Arc<Server>) -> Result<Vec<Problem>> {
    let mut connection = match server.connect().await {
        Ok(connection) => connection,
        // The check of the source itself says what is wrong with reaching the server.
        Err(error) if error.kind() != ErrorKind::Unexpected => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let faults = log::faults(&mut connection).await?;
    let problem = |(what, remedy)| Problem::error(None, format!("cdc: {what}"), remedy, ErrorKind::ConfigInvalid);
    let mut problems: Vec<Problem> = faults.into_iter().map(problem).collect();
    // A server without a log has no end of it to show.
    if problems.is_empty()
        && let Err(error) = log::head(&mut connection).await
    {
        problems.push(Problem::from_error(None, &error));
    }
    connection.close().await;
    Ok(problems)
}
