//! Everything that keeps changes from being captured, together, each with the statement that repairs it.

use std::sync::Arc;

use ingest_core::{ErrorKind, Problem, RESYNC, Result, StreamName};
use ingest_sql::{Dialect, few};

use super::past::Past;
use super::plan::table_capturable;
use super::slot;
use super::state::{self, Facts, State};
use crate::catalog::Table;
use crate::server::Server;
use crate::wire::Connection;

/// Looks for problems; changes nothing.
pub(crate) async fn check(server: &Arc<Server>, tables: &[Arc<Table>]) -> Result<Vec<Problem>> {
    let mut connection = match server.connect().await {
        Ok(connection) => connection,
        Err(error) if error.kind() != ErrorKind::Unexpected => return Ok(vec![Problem::from_error(None, &error)]),
        Err(error) => return Err(error),
    };
    let mut problems = Problems::default();
    if connection.version() < state::LEAST_VERSION {
        let what = format!(
            "cdc: change capture needs PostgreSQL 14 or newer, the server is {}",
            connection.version() / 10_000
        );
        problems.error(None, what, "read with `mode: incremental` or `mode: full`".into(), ErrorKind::Unsupported);
        return Ok(problems.0);
    }
    let config = server.config();
    let state = state::read(&mut connection, config).await?;
    let facts = state::facts(&mut connection, &config.publication, tables.iter().map(Arc::as_ref)).await?;
    problems.of_server(&state, &connection)?;
    problems.of_slot(server, &state)?;
    if state.may_replicate
        && let Err(error) = replicate(server).await
    {
        let error =
            error.hint("a pooler in between (pgbouncer) cannot carry replication: connect to the server itself");
        problems.0.push(Problem::from_error(None, &error));
    }
    problems.of_publication(server, &state, tables, &facts)?;
    let none = Facts::default();
    for table in tables {
        problems.of_table(server, &state, table, facts.get(&table.oid).unwrap_or(&none))?;
    }
    problems.of_values(tables, &facts);
    connection.close().await;
    Ok(problems.0)
}

/// Whether a connection for replication can be had.
async fn replicate(server: &Arc<Server>) -> Result<()> {
    let mut connection = server.connect_as(crate::wire::Role::Replication).await?;
    Past::read(&mut connection).await?;
    connection.close().await;
    Ok(())
}

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn error(&mut self, stream: Option<StreamName>, what: String, remedy: String, kind: ErrorKind) {
        self.0.push(Problem::error(stream, what, remedy, kind));
    }

    fn of_server(&mut self, state: &State, connection: &Connection) -> Result<()> {
        let refused = ErrorKind::Unsupported;
        if state.wal_level != "logical" {
            let what = format!("cdc: `wal_level` of the server is {}", state.wal_level);
            self.error(None, what, "ALTER SYSTEM SET wal_level = logical, then restart the server".into(), refused);
        }
        if state.is_replica && connection.version() < state::REPLICA_VERSION {
            let what = "cdc: a replica of this version cannot be read from by its log".into();
            self.error(None, what, "read from the primary, or from a replica of version 16 or newer".into(), refused);
        }
        if !state.may_replicate {
            let role = Dialect::Postgres.name(&state.role)?;
            let what = format!("cdc: the account {role} may not replicate");
            let remedy = format!("ALTER ROLE {role} REPLICATION (on RDS: GRANT rds_replication TO {role})");
            self.error(None, what, remedy, ErrorKind::PermissionDenied);
        }
        if state.slot.is_none() && state.free_slots < 1 {
            let remedy = "drop slots that nobody reads (SELECT * FROM pg_replication_slots WHERE NOT active), or ALTER SYSTEM SET max_replication_slots, then restart".into();
            self.error(None, "cdc: the server has no replication slot left".into(), remedy, refused);
        } else if state.free_slots < 1 {
            self.0.push(Problem::warning(
                None,
                "cdc: the server has no second replication slot: tables that join later, or are loaded again, need one for a while",
                "ALTER SYSTEM SET max_replication_slots, then restart",
            ));
        }
        if state.free_senders < 1 {
            let remedy = "ALTER SYSTEM SET max_wal_senders, then restart".into();
            self.error(None, "cdc: all `max_wal_senders` of the server are taken".into(), remedy, refused);
        }
        Ok(())
    }

    fn of_slot(&mut self, server: &Server, state: &State) -> Result<()> {
        let Some(found) = &state.slot else { return Ok(()) };
        let name = &server.config().slot;
        if !(found.is_logical && found.plugin == "pgoutput" && found.is_here) {
            let what = format!("cdc: the slot {name} is not one for changes of this database by pgoutput");
            self.error(None, what, "name another `slot`: the first run makes it".into(), ErrorKind::ConfigInvalid);
        } else if found.is_lost {
            let what = format!("cdc: the server has thrown away the log that the slot {name} needs");
            let remedy = format!("load each of the streams again: `{RESYNC}`; raise max_slot_wal_keep_size");
            self.error(None, what, remedy, ErrorKind::CheckpointInvalid);
        } else if let Some(pid) = found.held_by {
            let what = format!("cdc: the slot {name} is being read by process {pid} of the server");
            let remedy =
                format!("wait for that run, give each lake a `slot` of its own, or SELECT pg_terminate_backend({pid})");
            self.error(None, what, remedy, ErrorKind::Unavailable);
        }
        Ok(())
    }

    fn of_publication(
        &mut self,
        server: &Server,
        state: &State,
        tables: &[Arc<Table>],
        facts: &std::collections::HashMap<u32, Facts>,
    ) -> Result<()> {
        let name = &server.config().publication;
        match &state.publication {
            None => {
                let fit =
                    |table: &&Table| facts.get(&table.oid).is_some_and(|fact| fact.is_logged && fact.names_rows());
                let fit: Vec<&Table> = tables.iter().map(Arc::as_ref).filter(fit).collect();
                let owns = fit.iter().all(|table| facts.get(&table.oid).is_some_and(|fact| fact.is_owned));
                let may_make = owns && state.may_create;
                if !fit.is_empty() && !may_make {
                    let what = format!("cdc: there is no publication {name}, and the account may not make it");
                    self.error(
                        None,
                        what,
                        slot::create_publication(server.config(), &fit)?,
                        ErrorKind::PermissionDenied,
                    );
                }
            }
            Some(publication) if !publication.left_out.is_empty() => self.0.push(Problem::warning(
                None,
                format!("cdc: the publication {name} leaves out: {}", publication.left_out.join(", ")),
                format!(
                    "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate')",
                    Dialect::Postgres.name(name)?
                ),
            )),
            Some(_) => {}
        }
        Ok(())
    }

    fn of_table(&mut self, server: &Server, state: &State, table: &Table, facts: &Facts) -> Result<()> {
        let stream = Some(table.stream.clone());
        let mut fact = facts.clone();
        // Where there is no publication yet, the first run makes it.
        fact.is_published |= state.publication.is_none();
        if let Err(error) = table_capturable(server, table, &table.key, &fact, state) {
            let hint = error.hint_text().unwrap_or("see the README of the connector").to_owned();
            self.error(stream.clone(), error.to_string(), hint, error.kind());
        }
        if facts.is_filtered {
            let what = "cdc: the publication leaves columns or rows of the table out, which a full load reads";
            self.0.push(Problem::warning(
                stream.clone(),
                what,
                "SELECT * FROM pg_publication_tables shows what it has",
            ));
        }
        if !facts.is_generated.is_empty() {
            let names: Vec<&str> = facts.is_generated.iter().map(String::as_str).collect();
            let what = format!("cdc: the log does not carry generated columns: {} is null", few(&names));
            self.0.push(Problem::warning(stream, what, "leave them out with `columns`"));
        }
        Ok(())
    }

    /// One word for all tables: nothing is lost, but rows are not whole.
    fn of_values(&mut self, tables: &[Arc<Table>], facts: &std::collections::HashMap<u32, Facts>) {
        let partial =
            |table: &&Arc<Table>| facts.get(&table.oid).is_some_and(|fact| fact.may_toast && fact.identity != 'f');
        let names: Vec<&str> = tables.iter().filter(partial).map(|table| table.stream.as_str()).collect();
        if !names.is_empty() {
            self.0.push(Problem::warning(
                None,
                format!("cdc: large values that an UPDATE leaves as they are do not come with it, and a DELETE carries the key alone: {}", few(&names)),
                "append says in `_ingest_absent` which columns a row lacks, merge keeps what the table has; scd2 needs ALTER TABLE … REPLICA IDENTITY FULL",
            ));
        }
    }
}
