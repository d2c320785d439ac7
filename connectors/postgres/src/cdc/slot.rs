//! Statements that change something at the server: the publication, the slot.

use std::sync::Arc;

use ingest_core::{Error, ErrorKind, Result};
use ingest_sql::Dialect;

use super::past::Past;
use super::state::{self, lsn, parse_lsn};
use crate::catalog::{Cells, Table};
use crate::config::PostgresConfig;
use crate::server::Server;
use crate::wire::{Connection, Role};
use crate::work::Snapshot;

const SQL: Dialect = Dialect::Postgres;

/// A slot that was just made: its place in the log, and the snapshot of exactly that place.
pub(crate) struct Made {
    pub(crate) from: u64,
    /// The timeline on which that place lies.
    pub(crate) timeline: u32,
    pub(crate) snapshot: String,
    /// The snapshot lives while this connection does nothing else.
    pub(crate) exporter: Connection,
}

/// What creates the publication of these tables.
pub(crate) fn create_publication(config: &PostgresConfig, tables: &[&Table]) -> Result<String> {
    let paths = tables.iter().map(|table| table.path()).collect::<Result<Vec<_>>>()?;
    Ok(format!(
        "CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = true)",
        SQL.name(&config.publication)?,
        paths.join(", ")
    ))
}

/// What adds tables to the publication.
pub(crate) fn add_tables(config: &PostgresConfig, tables: &[&Table]) -> Result<String> {
    let paths = tables.iter().map(|table| table.path()).collect::<Result<Vec<_>>>()?;
    Ok(format!("ALTER PUBLICATION {} ADD TABLE {}", SQL.name(&config.publication)?, paths.join(", ")))
}

/// A slot can be carried over to standbys from this version on.
const FAILOVER_VERSION: u32 = 170_000;

/// What creates the slot, as SQL. Standbys take it over, where the server can have that: it is no standby itself.
pub(crate) fn create_slot(config: &PostgresConfig, version: u32, is_replica: bool) -> Result<String> {
    let failover = if version >= FAILOVER_VERSION && !is_replica { ", failover => true" } else { "" };
    let name = SQL.text(&config.slot)?;
    Ok(format!("SELECT pg_catalog.pg_create_logical_replication_slot({name}, 'pgoutput'{failover})"))
}

/// What drops the slot, as SQL.
pub(crate) fn drop_slot(config: &PostgresConfig) -> Result<String> {
    Ok(format!("SELECT pg_catalog.pg_drop_replication_slot({})", SQL.text(&config.slot)?))
}

/// What drops the publication.
pub(crate) fn drop_publication(config: &PostgresConfig) -> Result<String> {
    Ok(format!("DROP PUBLICATION {}", SQL.name(&config.publication)?))
}

/// Runs a statement that writes. All others of ours run in read-only transactions.
pub(crate) async fn write(connection: &mut Connection, statement: &str) -> Result<()> {
    let result = connection.query(&format!("BEGIN READ WRITE; {statement}; COMMIT")).await;
    if result.is_err() {
        // The connection may be used again; that it is out of the transaction is all that counts.
        connection.query("ROLLBACK").await?;
    }
    result.map(drop).map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => Error::new(error.kind(), "cdc: the account may not set change capture up")
            .hint(format!("have somebody who may run: {statement};"))
            .caused_by(error),
        _ => error,
    })
}

/// Makes the slot, or with `temporary` one that lives as long as its connection, and exports the snapshot of its place: all
/// that is committed before it is in the snapshot, all else comes from the log.
pub(crate) async fn make(server: &Arc<Server>, temporary: bool) -> Result<Made> {
    let mut exporter = server.connect_as(Role::Replication).await?;
    // First: the snapshot ends with the next command.
    let timeline = Past::read(&mut exporter).await?.timeline;
    let config = server.config();
    let name = if temporary {
        let short: String = config.slot.chars().take(40).collect();
        format!("{short}_load_{}", exporter.pid())
    } else {
        config.slot.clone()
    };
    let lasts = !temporary && exporter.version() >= FAILOVER_VERSION;
    let export = match exporter.version() {
        _ if lasts && !is_replica(&mut exporter).await? => "(SNAPSHOT 'export', FAILOVER true)",
        150_000.. => "(SNAPSHOT 'export')",
        _ => "EXPORT_SNAPSHOT",
    };
    let command = format!(
        "CREATE_REPLICATION_SLOT {}{} LOGICAL pgoutput {export}",
        SQL.name(&name)?,
        if temporary { " TEMPORARY" } else { "" }
    );
    let rows = exporter.query(&command).await.map_err(|error| match error.kind() {
        ErrorKind::Timeout => error.hint(
            "the server waits for transactions that were open before a slot is ready: end the oldest one, or raise `lock_timeout`",
        ),
        _ => error.with("slot", &name),
    })?;
    let mut row = Cells::new(rows.into_iter().next().unwrap_or_default());
    let (_, from, snapshot) = (row.text()?, parse_lsn(&row.text()?)?, row.text()?);
    Ok(Made { from, timeline, snapshot, exporter })
}

async fn is_replica(connection: &mut Connection) -> Result<bool> {
    let row = state::first(connection, "SELECT pg_catalog.pg_is_in_recovery()").await?;
    let mut row = row.ok_or_else(|| Error::new(ErrorKind::DataInvalid, "cdc: the server does not say what it is"))?;
    row.flag()
}

/// Joins a snapshot that another connection has exported.
pub(crate) async fn join(connection: &mut Connection, name: &str) -> Result<Snapshot> {
    let sql = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}; SELECT pg_catalog.txid_current_snapshot()",
        SQL.text(name)?
    );
    let mut row = state::first(connection, &sql)
        .await?
        .ok_or_else(|| Error::new(ErrorKind::DataInvalid, "cdc: the server does not say what a snapshot shows"))?;
    Ok(Snapshot { name: name.to_owned(), visible: row.text()? })
}

/// Lets the server forget its log up to a place; never moves it back.
pub(crate) async fn advance(server: &Arc<Server>, to: u64) -> Result<()> {
    let mut lent = server.lend().await?;
    let (name, to) = (SQL.text(&server.config().slot)?, lsn(to));
    let sql = format!(
        "SELECT pg_catalog.pg_replication_slot_advance(slot_name, '{to}') FROM pg_catalog.pg_replication_slots \
         WHERE slot_name = {name} AND database = pg_catalog.current_database() AND confirmed_flush_lsn < '{to}'"
    );
    lent.connection.query(&sql).await?;
    lent.give_back(server);
    Ok(())
}
