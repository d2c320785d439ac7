//! What the server says of its change log: the slot, the publication, the settings, and how tables take part.

use std::collections::HashMap;
use std::sync::Arc;

use ingest_core::{Error, ErrorKind, Result};
use ingest_sql::Dialect;

use crate::catalog::{Cells, Sort, Table};
use crate::config::PostgresConfig;
use crate::moment;
use crate::server::Server;
use crate::wire::Connection;

/// `pgoutput` has values in binary form from this version on.
pub(crate) const LEAST_VERSION: u32 = 140_000;
/// A replica can have slots for changes from this version on.
pub(crate) const REPLICA_VERSION: u32 = 160_000;

/// What all of it is.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) wal_level: String,
    pub(crate) is_replica: bool,
    /// Whether the account may replicate, as far as the catalog says. Managed servers have other ways.
    pub(crate) may_replicate: bool,
    pub(crate) role: String,
    /// Whether the account may make publications in the database.
    pub(crate) may_create: bool,
    /// Slots and senders that are free.
    pub(crate) free_slots: i64,
    pub(crate) free_senders: i64,
    /// What is durable of the log, and how far it reaches.
    pub(crate) durable: u64,
    pub(crate) head: u64,
    pub(crate) system: Option<String>,
    pub(crate) slot: Option<Slot>,
    pub(crate) publication: Option<Publication>,
}

/// The replication slot: the place from which the server keeps its log for us.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) is_logical: bool,
    pub(crate) plugin: String,
    pub(crate) database: String,
    pub(crate) is_here: bool,
    /// The process that reads from it.
    pub(crate) held_by: Option<i32>,
    /// The server has thrown the log away.
    pub(crate) is_lost: bool,
    /// What was confirmed: older changes are never sent again.
    pub(crate) confirmed: u64,
}

/// The publication: which changes of which tables.
#[derive(Debug)]
pub(crate) struct Publication {
    /// What of insert, update, delete, truncate it leaves out.
    pub(crate) left_out: Vec<&'static str>,
}

/// How a table takes part in change capture.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// `d`, `f`, `i`, `n`.
    pub(crate) identity: char,
    /// The columns that an old row carries: those of the identity's index.
    pub(crate) identity_columns: Vec<String>,
    /// Whether its changes are in the log at all.
    pub(crate) is_logged: bool,
    pub(crate) is_published: bool,
    pub(crate) is_generated: Vec<String>,
    /// Whether values may lie out of line.
    pub(crate) may_toast: bool,
    /// Whether the account may add the table to a publication.
    pub(crate) is_owned: bool,
    /// Columns or rows that the publication leaves out.
    pub(crate) is_filtered: bool,
}

impl Facts {
    /// Whether UPDATE and DELETE say which row they mean.
    pub(crate) fn names_rows(&self) -> bool {
        self.identity == 'f' || !self.identity_columns.is_empty()
    }

    /// Whether an old row carries these columns.
    pub(crate) fn carries(&self, key: &[String]) -> bool {
        self.identity == 'f' || key.iter().all(|column| self.identity_columns.contains(column))
    }
}

const STATE: &str = "
SELECT pg_catalog.current_setting('wal_level'), pg_catalog.pg_is_in_recovery(), r.rolreplication OR r.rolsuper OR EXISTS (
    SELECT 1 FROM pg_catalog.pg_roles m WHERE m.rolname = 'rds_replication' AND pg_catalog.pg_has_role(r.oid, m.oid, 'USAGE')),
  r.rolname, pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
  pg_catalog.current_setting('max_replication_slots')::pg_catalog.int8 - (SELECT count(*) FROM pg_catalog.pg_replication_slots),
  pg_catalog.current_setting('max_wal_senders')::pg_catalog.int8
    - (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'walsender'),
  pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
    ELSE pg_catalog.pg_current_wal_flush_lsn() END, '0/0')::pg_catalog.int8,
  pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
    ELSE pg_catalog.pg_current_wal_insert_lsn() END, '0/0')::pg_catalog.int8
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user";

const HEAD: &str = "
SELECT pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
    ELSE pg_catalog.pg_current_wal_flush_lsn() END, '0/0')::pg_catalog.int8,
  (EXTRACT(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::pg_catalog.int8";

/// Reads the state.
pub(crate) async fn read(connection: &mut Connection, config: &PostgresConfig) -> Result<State> {
    let mut row = first(connection, STATE).await?.ok_or_else(unreadable)?;
    let mut state = State {
        wal_level: row.text()?,
        is_replica: row.flag()?,
        may_replicate: row.flag()?,
        role: row.text()?,
        may_create: row.flag()?,
        free_slots: row.number()?,
        free_senders: row.number()?,
        durable: row.number()?,
        head: row.number()?,
        system: None,
        slot: None,
        publication: None,
    };
    state.system = moment::system(connection).await?;
    state.slot = slot(connection, &config.slot).await?;
    let name = Dialect::Postgres.text(&config.publication)?;
    let sql = format!(
        "SELECT pubinsert, pubupdate, pubdelete, pubtruncate FROM pg_catalog.pg_publication WHERE pubname = {name}"
    );
    if let Some(mut row) = first(connection, &sql).await? {
        let mut left_out = Vec::new();
        for what in ["insert", "update", "delete", "truncate"] {
            if !row.flag()? {
                left_out.push(what);
            }
        }
        state.publication = Some(Publication { left_out });
    }
    Ok(state)
}

/// Reads the slot.
pub(crate) async fn slot(connection: &mut Connection, name: &str) -> Result<Option<Slot>> {
    // What says that a slot is gone has moved from version to version; as JSON its absence is no error.
    let sql = format!(
        "SELECT s.slot_type = 'logical', coalesce(s.plugin, ''), coalesce(s.database, ''), s.database = pg_catalog.current_database(),
           s.active_pid, s.wal_status = 'lost' OR coalesce(pg_catalog.to_jsonb(s) ->> 'invalidation_reason', '') <> ''
             OR coalesce(pg_catalog.to_jsonb(s) ->> 'conflicting', 'false') = 'true',
           coalesce(pg_catalog.pg_wal_lsn_diff(s.confirmed_flush_lsn, '0/0')::pg_catalog.int8, 0)
         FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = {}",
        Dialect::Postgres.text(name)?
    );
    let Some(mut row) = first(connection, &sql).await? else { return Ok(None) };
    Ok(Some(Slot {
        is_logical: row.flag()?,
        plugin: row.text()?,
        database: row.text()?,
        is_here: row.flag()?,
        held_by: row.optional_number()?,
        is_lost: row.flag()?,
        confirmed: row.number()?,
    }))
}

/// Reads how tables take part, by their number.
pub(crate) async fn facts(
    connection: &mut Connection,
    publication: &str,
    tables: impl Iterator<Item = &Table>,
) -> Result<HashMap<u32, Facts>> {
    let oids: Vec<String> =
        tables.filter(|table| table.sort == Sort::Table).map(|table| table.oid.to_string()).collect();
    let mut facts = HashMap::new();
    if oids.is_empty() {
        return Ok(facts);
    }
    // A publication names a partitioned table or its leaves, as it was told.
    let sql = format!(
        "WITH published AS MATERIALIZED (
           SELECT c.oid, pg_catalog.to_jsonb(p) AS p FROM pg_catalog.pg_publication_tables p
           JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname
           JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
           WHERE p.pubname = {})
         SELECT c.oid, c.relreplident, c.relpersistence = 'p',
           EXISTS (SELECT 1 FROM published p WHERE p.oid = c.oid) OR c.relkind = 'p' AND EXISTS (
             SELECT 1 FROM pg_catalog.pg_partition_tree(c.oid) t JOIN published p ON p.oid = t.relid),
           (SELECT pg_catalog.jsonb_agg(a.attname ORDER BY k.place) FROM pg_catalog.pg_index i
             CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY k(number, place)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number
             WHERE i.indrelid = c.oid AND k.place <= i.indnkeyatts
               AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END),
           (SELECT pg_catalog.jsonb_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> ''),
           EXISTS (SELECT 1 FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attstorage <> 'p'),
           pg_catalog.pg_has_role(c.relowner, 'USAGE'),
           EXISTS (SELECT 1 FROM published p WHERE p.oid = c.oid AND ((p.p ->> 'rowfilter') IS NOT NULL
             OR pg_catalog.jsonb_array_length(CASE pg_catalog.jsonb_typeof(p.p -> 'attnames') WHEN 'array' THEN p.p -> 'attnames' END)
               < (SELECT count(*) FROM pg_catalog.pg_attribute a
                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '')))
         FROM pg_catalog.pg_class c WHERE c.oid = ANY ('{{{}}}'::pg_catalog.oid[])",
        Dialect::Postgres.text(publication)?,
        oids.join(",")
    );
    for row in connection.query(&sql).await? {
        let mut row = Cells::new(row);
        let oid = row.number()?;
        let identity = row.text()?.chars().next().unwrap_or('d');
        let (is_logged, is_published) = (row.flag()?, row.flag()?);
        let names = |text: Option<String>| -> Result<Vec<String>> {
            text.map_or(Ok(Vec::new()), |text| serde_json::from_str(&text).map_err(|e| unreadable().caused_by(e)))
        };
        let identity_columns = names(row.optional()?)?;
        let is_generated = names(row.optional()?)?;
        let (may_toast, is_owned, is_filtered) = (row.flag()?, row.flag()?, row.flag()?);
        let fact = Facts {
            identity,
            identity_columns,
            is_logged,
            is_published,
            is_generated,
            may_toast,
            is_owned,
            is_filtered,
        };
        facts.insert(oid, fact);
    }
    Ok(facts)
}

/// Where the log ends that is durable, and the server's clock: microseconds since 1970.
pub(crate) async fn head(server: &Arc<Server>) -> Result<(u64, i64)> {
    let mut lent = server.lend().await?;
    let mut row = first(&mut lent.connection, HEAD).await?.ok_or_else(unreadable)?;
    lent.give_back(server);
    Ok((row.number()?, row.number()?))
}

/// The first row of a query.
pub(crate) async fn first(connection: &mut Connection, sql: &str) -> Result<Option<Cells>> {
    Ok(connection.query(sql).await?.into_iter().next().map(Cells::new))
}

fn unreadable() -> Error {
    Error::new(ErrorKind::DataInvalid, "cdc: cannot read what the server says of its change log")
}

/// A place in the log as the server writes it: `16/B374D848`.
pub(crate) fn lsn(at: u64) -> String {
    format!("{:X}/{:X}", at >> 32, at & 0xffff_ffff)
}

/// Reads a place in the log.
pub(crate) fn parse_lsn(text: &str) -> Result<u64> {
    let parts = text.split_once('/').and_then(|(high, low)| {
        Some((u64::from(u32::from_str_radix(high, 16).ok()?), u64::from(u32::from_str_radix(low, 16).ok()?)))
    });
    parts.map(|(high, low)| high << 32 | low).ok_or_else(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_the_log_are_written_and_read() {
        for (at, text) in [(0, "0/0"), (0x16_B374_D848, "16/B374D848"), (u64::MAX, "FFFFFFFF/FFFFFFFF")] {
            assert_eq!(lsn(at), text);
            assert_eq!(parse_lsn(text).expect("a place"), at);
        }
        for text in ["", "1", "1/", "x/y", "1/100000000"] {
            assert!(parse_lsn(text).is_err(), "{text}");
        }
    }
}
