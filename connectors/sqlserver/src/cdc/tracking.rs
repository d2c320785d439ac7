//! Change Tracking: the versions of the database, the tables of which it knows the rows that have changed, and what is missing.

use std::collections::BTreeMap;

use ingest_core::{Error, ErrorKind, Result, StreamName};
use ingest_sql::Dialect;

use super::log::{LEAST_RETENTION, Missing, allowed};
use crate::server::{Connection, integer, text};

/// A number that every transaction raises which changes a tracked row.
pub(crate) type Version = i64;

/// A table that is tracked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tracked {
    /// From this version on its changes are known; `None` where the account may not see it.
    pub(crate) least: Option<Version>,
    /// Whether change data capture keeps its changes, too.
    pub(crate) captured: bool,
}

const ATTEMPTED: &str = "cdc: cannot read what change tracking knows";

/// The version of the last transaction; `None` where the database tracks nothing.
pub(crate) async fn head(connection: &mut Connection) -> Result<Option<Version>> {
    let rows = connection.rows("SELECT CHANGE_TRACKING_CURRENT_VERSION()", ATTEMPTED).await?;
    Ok(rows.first().and_then(|row| integer(row, 0)))
}

const TABLES: &str = "SELECT s.name, o.name, CHANGE_TRACKING_MIN_VALID_VERSION(o.object_id), CONVERT(int, o.is_tracked_by_cdc) \
    FROM sys.change_tracking_tables t JOIN sys.tables o ON o.object_id = t.object_id \
    JOIN sys.schemas s ON s.schema_id = o.schema_id";

/// The tables that are tracked.
pub(crate) async fn tables(connection: &mut Connection) -> Result<BTreeMap<StreamName, Tracked>> {
    let rows = connection.rows(TABLES, ATTEMPTED).await?;
    let table = |row| {
        let name = StreamName::new(format!("{}.{}", text(row, 0)?, text(row, 1)?));
        Some((name, Tracked { least: integer(row, 2), captured: integer(row, 3) == Some(1) }))
    };
    Ok(rows.iter().filter_map(table).collect())
}

const RETENTION: &str = "SELECT CONVERT(bigint, retention_period) * \
    CASE retention_period_units WHEN 1 THEN 1 WHEN 2 THEN 60 ELSE 1440 END, CONVERT(int, is_auto_cleanup_on) \
    FROM sys.change_tracking_databases WHERE database_id = DB_ID()";

/// Everything that keeps the changes of these streams from being read, and what soon may.
pub(crate) async fn missing(
    connection: &mut Connection,
    streams: &[StreamName],
    tables: &BTreeMap<StreamName, Tracked>,
) -> Result<Vec<Missing>> {
    let mut missing = Vec::new();
    if streams.is_empty() {
        return Ok(missing);
    }
    if let Some(rows) = allowed(connection.rows(RETENTION, ATTEMPTED).await)?
        && let Some(row) = rows.first()
        && integer(row, 1) == Some(1)
        && integer(row, 0).is_some_and(|minutes| minutes < LEAST_RETENTION)
    {
        missing.push(Missing {
            stream: None,
            kind: ErrorKind::QuotaExhausted,
            what: "change tracking remembers less than two days: what is deleted in a longer pause is never seen"
                .into(),
            remedy: "ALTER DATABASE CURRENT SET CHANGE_TRACKING (CHANGE_RETENTION = 7 DAYS)".into(),
        });
    }
    for stream in streams {
        let (what, remedy) = match tables.get(stream) {
            Some(Tracked { least: Some(_), .. }) => continue,
            Some(_) => (
                "the account may not read which rows have changed",
                format!("GRANT VIEW CHANGE TRACKING ON {} TO {}", path(stream)?, account(connection)?),
            ),
            None => (
                "the table's changes are not tracked any more",
                format!("ALTER TABLE {} ENABLE CHANGE_TRACKING, then `ingest run --resync {stream}`", path(stream)?),
            ),
        };
        let kind = match tables.contains_key(stream) {
            true => ErrorKind::PermissionDenied,
            false => ErrorKind::CheckpointInvalid,
        };
        missing.push(Missing { stream: Some(stream.clone()), kind, what: what.into(), remedy });
    }
    Ok(missing)
}

fn path(stream: &StreamName) -> Result<String> {
    let (schema, table) = stream.as_str().split_once('.').unwrap_or(("dbo", stream.as_str()));
    Dialect::SqlServer.path(&[schema, table])
}

fn account(connection: &Connection) -> Result<String> {
    Dialect::SqlServer.name(&connection.facts.account)
}

/// Fails where changes behind a version are not known any more.
pub(crate) fn expect_kept(tables: &BTreeMap<StreamName, Tracked>, stream: &StreamName, after: Version) -> Result<()> {
    let what = match tables.get(stream) {
        Some(Tracked { least: Some(least), .. }) if *least <= after => return Ok(()),
        Some(Tracked { least: None, .. }) => {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                "cdc: the account may not read which rows have changed",
            )
            .hint(format!("GRANT VIEW CHANGE TRACKING ON {} TO the account", path(stream)?))
            .with("stream", stream));
        }
        Some(_) => {
            "cdc: changes behind the position are gone: change tracking has forgotten them, or the table was truncated"
        }
        None => "cdc: the table's changes are not tracked any more",
    };
    Err(Error::new(ErrorKind::CheckpointInvalid, what)
        .hint("`ingest run --resync STREAM` loads it again; ALTER DATABASE CURRENT SET CHANGE_TRACKING (CHANGE_RETENTION = 7 DAYS) remembers for a week")
        .with("stream", stream)
        .with("version", after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_known_from_the_least_valid_version_on() {
        let stream = StreamName::from("dbo.t");
        let tables = |least| BTreeMap::from([(stream.clone(), Tracked { least, captured: false })]);
        assert!(expect_kept(&tables(Some(7)), &stream, 7).is_ok());
        for (tables, kind) in [
            (tables(Some(8)), ErrorKind::CheckpointInvalid),
            (tables(None), ErrorKind::PermissionDenied),
            (BTreeMap::new(), ErrorKind::CheckpointInvalid),
        ] {
            assert_eq!(expect_kept(&tables, &stream, 7).expect_err("a gap").kind(), kind);
        }
    }
}
