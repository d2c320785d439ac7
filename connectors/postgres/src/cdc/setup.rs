//! `ingest source setup` and `teardown`: the publication and the slot, by statements that a person could run.

use std::sync::Arc;

use ingest_core::{Error, ErrorKind, Result, SetUp};

use super::state::{self, State};
use super::{plan, slot};
use crate::catalog::Table;
use crate::server::Server;
use crate::wire::Connection;

/// Gives the statements that are needed, and runs them unless it is a dry run.
pub(crate) async fn set_up(
    server: &Arc<Server>,
    tables: &[Arc<Table>],
    set_up: SetUp,
    dry_run: bool,
) -> Result<Vec<String>> {
    let mut connection = server.connect().await?;
    let statements = match set_up {
        SetUp::Make => {
            let state = plan::ready(&mut connection, server).await?;
            make(&mut connection, server, &state, tables).await?
        }
        SetUp::Remove => {
            let state = state::read(&mut connection, server.config()).await?;
            remove(server, &state)?
        }
    };
    if !dry_run {
        for statement in &statements {
            slot::write(&mut connection, statement).await?;
        }
    }
    connection.close().await;
    Ok(statements)
}

async fn make(
    connection: &mut Connection,
    server: &Arc<Server>,
    state: &State,
    tables: &[Arc<Table>],
) -> Result<Vec<String>> {
    let config = server.config();
    let facts = state::facts(connection, &config.publication, tables.iter().map(Arc::as_ref)).await?;
    let none = state::Facts::default();
    let mut lacking = Vec::new();
    for table in tables {
        let mut fact = facts.get(&table.oid).unwrap_or(&none).clone();
        if !std::mem::replace(&mut fact.is_published, true) {
            lacking.push(table.as_ref());
        }
        plan::table_capturable(server, table, &table.key, &fact, state).map_err(|e| e.with("stream", &table.stream))?;
    }
    let mut statements = Vec::new();
    match &state.publication {
        // A publication before the slot: the server looks it up as it was at each place of the log.
        None => statements.push(slot::create_publication(config, &lacking)?),
        Some(_) if !lacking.is_empty() => statements.push(slot::add_tables(config, &lacking)?),
        Some(_) => {}
    }
    let create = slot::create_slot(config, connection.version(), state.is_replica)?;
    match &state.slot {
        Some(found) if found.is_lost => statements.extend([slot::drop_slot(config)?, create]),
        Some(_) => {}
        None => statements.push(create),
    }
    Ok(statements)
}

fn remove(server: &Arc<Server>, state: &State) -> Result<Vec<String>> {
    let config = server.config();
    let mut statements = Vec::new();
    if let Some(found) = &state.slot {
        if let Some(pid) = found.held_by {
            return Err(Error::new(ErrorKind::Unavailable, "cdc: the slot is being read")
                .with("slot", &config.slot)
                .with("process", pid)
                .hint(format!("end that run first, or SELECT pg_terminate_backend({pid})"))
                .exhausted());
        }
        statements.push(slot::drop_slot(config)?);
    }
    if state.publication.is_some() {
        statements.push(slot::drop_publication(config)?);
    }
    Ok(statements)
}
