//! The point in time of a plan: a snapshot, and what was still open then.

use std::collections::HashSet;
use std::sync::Arc;

use ingest_core::{ErrorKind, Result};

use crate::catalog::Cells;
use crate::server::Server;
use crate::wire::Connection;
use crate::work::Snapshot;

/// A read-only transaction that stands at the point in time of a plan.
pub(crate) struct Moment {
    pub(crate) connection: Connection,
    /// The snapshot, exported for other connections; `None` where the server does not do that.
    pub(crate) snapshot: Option<Snapshot>,
    /// Rows of transactions before this one are decided: they are visible now, or never.
    pub(crate) horizon: u64,
    /// The first transaction number that was not given out yet. Equal to the horizon, nothing was open.
    pub(crate) next: u64,
    /// When the oldest open transaction of this database began (microseconds UTC), or now. `None`: it cannot be seen.
    pub(crate) oldest: Option<i64>,
    /// The server's clock, microseconds UTC.
    pub(crate) now: i64,
    pub(crate) system: Option<String>,
}

/// What is open, asked before the snapshot is taken: a transaction that is open in the snapshot is in this answer, or
/// began after it.
///
/// Every open transaction holds a lock on its own virtual number, which everybody may see; when it began is shown to
/// its own user and to members of `pg_read_all_stats`. The locks and the activity are not read in one instant: a session
/// that shows its state and no transaction, or is not there, was between two of them, and none of its own is older than
/// the question. Only a state that is not shown hides one.
const OPEN: &str = "
SELECT (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::pg_catalog.int8,
  (SELECT (extract(epoch FROM min(a.xact_start)) * 1000000)::pg_catalog.int8 FROM open o JOIN pg_catalog.pg_stat_activity a ON a.pid = o.pid),
  EXISTS (SELECT 1 FROM open o JOIN pg_catalog.pg_stat_activity a ON a.pid = o.pid
      WHERE a.xact_start IS NULL AND (a.state IS NULL OR a.state = 'disabled'))
    OR EXISTS (SELECT 1 FROM pg_catalog.pg_prepared_xacts p WHERE p.database = pg_catalog.current_database()),
  (SELECT pg_catalog.string_agg(x.xid, ',') FROM (
    SELECT a.backend_xid::pg_catalog.text AS xid FROM pg_catalog.pg_stat_activity a
      WHERE a.datname <> pg_catalog.current_database() OR a.backend_type = 'autovacuum worker'
    UNION ALL SELECT p.transaction::pg_catalog.text FROM pg_catalog.pg_prepared_xacts p
      WHERE p.database <> pg_catalog.current_database()) x),
  pg_catalog.pg_is_in_recovery()";

const LOCKS: &str = "
WITH open AS MATERIALIZED (
  SELECT DISTINCT l.pid FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
  WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.granted AND l.pid <> pg_catalog.pg_backend_pid()
    AND (a.pid IS NULL OR a.datname = pg_catalog.current_database())
    AND a.backend_type IS DISTINCT FROM 'autovacuum worker')";

impl Moment {
    /// Opens the transaction; with `export`, other connections can join its snapshot.
    pub(crate) async fn now(server: &Arc<Server>, export: bool) -> Result<Self> {
        let mut connection = server.connect().await?;
        // `MATERIALIZED` is known from version 12 on, and the default for what is used twice before.
        let locks = if connection.version() >= 120_000 { LOCKS.to_owned() } else { LOCKS.replace("MATERIALIZED ", "") };
        let open = connection.query(&format!("{locks}{OPEN}")).await?;
        let mut open = Cells::new(open.into_iter().next().unwrap_or_default());
        let (now, oldest, hidden) = (open.number::<i64>()?, open.optional_number::<i64>()?, open.flag()?);
        let foreign: HashSet<u32> =
            open.optional()?.unwrap_or_default().split(',').filter_map(|xid| xid.parse().ok()).collect();
        let in_recovery = open.flag()?;
        let system = system(&mut connection).await?;
        let (visible, snapshot) = begin(&mut connection, export).await?;
        let (horizon, next) = horizon(&visible, &foreign, in_recovery);
        // The sessions of the primary cannot be seen from a replica.
        let oldest = if hidden || in_recovery { None } else { Some(oldest.map_or(now, |oldest| oldest.min(now))) };
        Ok(Self { connection, snapshot, horizon, next, oldest, now, system })
    }
}

/// A transaction number without its epoch.
pub(crate) fn low_half(xid: u64) -> u32 {
    u32::try_from(xid & 0xffff_ffff).unwrap_or(0)
}

pub(crate) async fn system(connection: &mut Connection) -> Result<Option<String>> {
    // Not everybody may ask, and some managed servers have taken the function away.
    match connection.query("SELECT system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system()").await {
        Ok(rows) => Ok(rows.into_iter().next().and_then(|row| row.into_iter().next().flatten())),
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ConfigInvalid) => Ok(None),
        Err(error) => Err(error),
    }
}

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT pg_catalog.txid_current_snapshot()";

async fn begin(connection: &mut Connection, export: bool) -> Result<(String, Option<Snapshot>)> {
    let visible = first_text(connection.query(BEGIN).await?)?;
    if !export {
        return Ok((visible, None));
    }
    match connection.query("SELECT pg_catalog.pg_export_snapshot()").await {
        Ok(rows) => {
            let name = first_text(rows)?;
            Ok((visible.clone(), Some(Snapshot { name, visible })))
        }
        // Old replicas, and servers that only speak the protocol, cannot export.
        Err(error)
            if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Unexpected | ErrorKind::ConfigInvalid) =>
        {
            tracing::warn!(%error, "the server exports no snapshot: each table is read by one connection, in a snapshot of its own");
            connection.query("ROLLBACK").await?;
            Ok((first_text(connection.query(BEGIN).await?)?, None))
        }
        Err(error) => Err(error),
    }
}

fn first_text(rows: Vec<crate::wire::Row>) -> Result<String> {
    Cells::new(rows.into_iter().next().unwrap_or_default()).text()
}

/// Reads `xmin:xmax:open,open`: the first transaction that is undecided for us, and the first that was not given out.
///
/// Transactions of other databases and of autovacuum write no row of ours. The numbers of sub-transactions are not in
/// the list, but they are higher than that of their transaction, which is. On a replica the list is always empty, and
/// only its lower end counts.
fn horizon(visible: &str, foreign: &HashSet<u32>, in_recovery: bool) -> (u64, u64) {
    let mut parts = visible.split(':');
    let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok()).unwrap_or(0);
    let (least, next) = (number(), number());
    if in_recovery {
        return (least, next);
    }
    let open = parts.next().unwrap_or_default().split(',').filter_map(|xid| xid.parse::<u64>().ok());
    let first = open.filter(|xid| !foreign.contains(&low_half(*xid))).min();
    (first.unwrap_or(next), next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_horizon_is_the_first_open_transaction_of_this_database() {
        let none = HashSet::new();
        assert_eq!(horizon("10:10:", &none, false), (10, 10));
        assert_eq!(horizon("10:20:10,14", &none, false), (10, 20));
        assert_eq!(horizon("10:20:10,14", &HashSet::from([10]), false), (14, 20));
        assert_eq!(horizon("10:20:10,14", &HashSet::from([10, 14]), false), (20, 20));
        assert_eq!(horizon("10:20:", &none, true), (10, 20), "a replica lists nothing");
        assert_eq!(horizon("4294967306:4294967306:", &none, false).0, 4_294_967_306);
    }
}
