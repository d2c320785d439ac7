//! What the database captures: the log's numbers, the capture instances of tables, and what is missing.

use std::collections::BTreeMap;

use ingest_core::{Error, ErrorKind, Result, StreamName};
use tiberius::{ColumnData, Row};

use crate::cells::hex;
use crate::server::{Connection, integer, text};

/// A log sequence number: ten bytes as hexadecimal digits, so that the order of the text is that of the log.
pub(crate) type Lsn = String;

const DIGITS: usize = 20;

/// Something that keeps changes from being captured, and the statement that repairs it.
pub(crate) struct Missing {
    pub(crate) stream: Option<StreamName>,
    pub(crate) kind: ErrorKind,
    pub(crate) what: String,
    pub(crate) remedy: String,
}

/// A capture instance: what the changes of a table are kept in.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) name: String,
    /// Changes before are not in it.
    pub(crate) start: Lsn,
    /// Changes before are cleaned up; all zero where the account may not read it.
    pub(crate) least: Lsn,
    /// The columns that it keeps, with their numbers in the mask of updates.
    pub(crate) columns: Vec<(String, usize)>,
}

/// The number that follows.
///
/// # Errors
/// `CheckpointInvalid` for a text that is no number of the log.
pub(crate) fn next(lsn: &str) -> Result<Lsn> {
    let number = (lsn.len() == DIGITS).then(|| u128::from_str_radix(lsn, 16).ok()).flatten();
    let next = number.and_then(|number| number.checked_add(1)).map(|number| format!("{number:020x}"));
    next.filter(|next| next.len() == DIGITS).ok_or_else(|| {
        Error::new(ErrorKind::CheckpointInvalid, "cdc: the position is no place in the log")
            .hint("`ingest run --resync STREAM` loads a stream again")
    })
}

const ATTEMPTED: &str = "cdc: cannot read what the database captures";

fn lsn(row: &Row, column: usize) -> Option<Lsn> {
    match row.get_column_data(column).ok()? {
        ColumnData::Binary(Some(bytes)) => Some(hex(bytes)),
        _ => None,
    }
}

/// The last number that the capture job has read.
pub(crate) async fn head(connection: &mut Connection) -> Result<Lsn> {
    let rows = connection.rows("SELECT sys.fn_cdc_get_max_lsn()", ATTEMPTED).await?;
    rows.first().and_then(|row| lsn(row, 0)).ok_or_else(|| {
        Error::new(ErrorKind::Unavailable, "cdc: the capture job has not read the log yet")
            .hint("it runs in SQL Server Agent: EXEC sys.sp_cdc_start_job @job_type = N'capture'")
    })
}

/// The end of so many transactions behind a number, no later than `head`.
pub(crate) async fn chunk(connection: &mut Connection, after: &str, head: &str, transactions: i64) -> Result<Lsn> {
    let sql = format!(
        "SELECT COUNT_BIG(*), MAX(x.start_lsn) FROM (SELECT TOP ({transactions}) start_lsn FROM cdc.lsn_time_mapping \
         WHERE start_lsn > 0x{after} AND start_lsn <= 0x{head} AND tran_id <> 0x00 ORDER BY start_lsn) x"
    );
    let rows = connection.rows(&sql, ATTEMPTED).await?;
    let full = rows.first().is_some_and(|row| integer(row, 0) == Some(transactions));
    let last = rows.first().and_then(|row| lsn(row, 1)).filter(|_| full);
    Ok(last.unwrap_or_else(|| head.to_owned()))
}

const INSTANCES: &str = "SELECT s.name, o.name, t.capture_instance, t.start_lsn, sys.fn_cdc_get_min_lsn(t.capture_instance), \
    c.column_name, CONVERT(int, c.column_ordinal) FROM cdc.change_tables t JOIN sys.objects o ON o.object_id = t.source_object_id \
    JOIN sys.schemas s ON s.schema_id = o.schema_id JOIN cdc.captured_columns c ON c.object_id = t.object_id AND c.is_computed = 0 \
    ORDER BY s.name, o.name, t.start_lsn, t.capture_instance, c.column_ordinal";

/// The capture instances of all tables, the oldest of a table first.
pub(crate) async fn instances(connection: &mut Connection) -> Result<BTreeMap<StreamName, Vec<Instance>>> {
    let mut found: BTreeMap<StreamName, Vec<Instance>> = BTreeMap::new();
    for row in connection.rows(INSTANCES, ATTEMPTED).await? {
        let (Some(schema), Some(table), Some(name)) = (text(&row, 0), text(&row, 1), text(&row, 2)) else { continue };
        let instances = found.entry(StreamName::new(format!("{schema}.{table}"))).or_default();
        if instances.last().is_none_or(|last| last.name != name) {
            let zero = || "0".repeat(DIGITS);
            instances.push(Instance {
                name,
                start: lsn(&row, 3).unwrap_or_else(zero),
                least: lsn(&row, 4).unwrap_or_else(zero),
                columns: Vec::new(),
            });
        }
        if let (Some(instance), Some(column)) = (instances.last_mut(), text(&row, 5)) {
            let ordinal = integer(&row, 6).and_then(|ordinal| usize::try_from(ordinal).ok()).unwrap_or(0);
            instance.columns.push((column, ordinal));
        }
    }
    Ok(found)
}

const ENABLED: &str = "SELECT CONVERT(int, is_cdc_enabled), CONVERT(int, SERVERPROPERTY('EngineEdition')) FROM sys.databases \
    WHERE database_id = DB_ID()";
const AGENT: &str = "SELECT status_desc FROM sys.dm_server_services WHERE servicename LIKE N'SQL Server Agent (%'";
const RETENTION: &str =
    "SELECT CONVERT(bigint, retention) FROM msdb.dbo.cdc_jobs WHERE database_id = DB_ID() AND job_type = N'cleanup'";
/// Azure SQL Database and its kin have no Agent: the service runs the jobs.
const AZURE: i64 = 5;
/// Minutes; a run a day with a day's delay.
pub(crate) const LEAST_RETENTION: i64 = 2 * 1_440;

/// Everything that keeps changes of these streams from being captured, and what soon may.
pub(crate) async fn missing(connection: &mut Connection, streams: &[StreamName]) -> Result<Vec<Missing>> {
    let mut missing = Vec::new();
    if streams.is_empty() {
        return Ok(missing);
    }
    let mut say = |stream: Option<&StreamName>, kind, what: &str, remedy: String| {
        missing.push(Missing { stream: stream.cloned(), kind, what: what.to_owned(), remedy });
    };
    let rows = connection.rows(ENABLED, ATTEMPTED).await?;
    let flag = |i| rows.first().and_then(|row| integer(row, i));
    if flag(0) != Some(1) {
        say(
            None,
            ErrorKind::ConfigInvalid,
            "change data capture is off in the database",
            "EXEC sys.sp_cdc_enable_db".into(),
        );
    }
    if flag(1) != Some(AZURE)
        && let Some(rows) = allowed(connection.rows(AGENT, ATTEMPTED).await)?
        && rows.first().and_then(|row| text(row, 0)).is_some_and(|status| status != "Running")
    {
        say(
            None,
            ErrorKind::ConfigInvalid,
            "SQL Server Agent does not run: no change is captured, and the log cannot be truncated",
            "start the service SQL Server Agent".into(),
        );
    }
    if flag(0) != Some(1) {
        for stream in streams {
            say(Some(stream), ErrorKind::ConfigInvalid, NOT_CAPTURED, enable(stream));
        }
        return Ok(missing);
    }
    if let Some(rows) = allowed(connection.rows(RETENTION, ATTEMPTED).await)?
        && rows.first().and_then(|row| integer(row, 0)).is_some_and(|minutes| minutes < LEAST_RETENTION)
    {
        say(
            None,
            ErrorKind::QuotaExhausted,
            "changes are kept for less than two days: those of a longer pause are lost",
            "EXEC sys.sp_cdc_change_job @job_type = N'cleanup', @retention = 10080".into(),
        );
    }
    let Some(instances) = allowed(instances(connection).await)? else {
        say(
            None,
            ErrorKind::PermissionDenied,
            "the account may not see what is captured",
            format!("GRANT SELECT ON SCHEMA::cdc TO [{}]", connection.facts.account),
        );
        return Ok(missing);
    };
    for stream in streams {
        match instances.get(stream).map(Vec::as_slice) {
            None | Some([]) => say(Some(stream), ErrorKind::ConfigInvalid, NOT_CAPTURED, enable(stream)),
            Some(found) if found.iter().all(|instance| instance.least.bytes().all(|digit| digit == b'0')) => say(
                Some(stream),
                ErrorKind::PermissionDenied,
                "the account may not read the table's changes",
                format!(
                    "GRANT SELECT ON SCHEMA::cdc TO [{}], and make it a member of the role that captures (@role_name)",
                    connection.facts.account
                ),
            ),
            Some(_) => {}
        }
    }
    Ok(missing)
}

const NOT_CAPTURED: &str = "the table's changes are not captured";

fn enable(stream: &StreamName) -> String {
    let (schema, table) = stream.as_str().split_once('.').unwrap_or(("dbo", stream.as_str()));
    let quoted = |name: &str| name.replace('\'', "''");
    format!(
        "EXEC sys.sp_cdc_enable_table @source_schema = N'{}', @source_name = N'{}', @role_name = NULL",
        quoted(schema),
        quoted(table)
    )
}

/// What an account may not ask is not known.
pub(crate) fn allowed<T>(answered: Result<T>) -> Result<Option<T>> {
    match answered {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_log_are_counted_through_their_parts() {
        assert_eq!(next("0000002a000001f80001").expect("a number"), "0000002a000001f80002");
        assert_eq!(next("0000002a00000001ffff").expect("a number"), "0000002a000000020000");
        for wrong in ["", "2a", "0000002a000001f8000x", "ffffffffffffffffffff"] {
            assert_eq!(next(wrong).expect_err("no number").kind(), ErrorKind::CheckpointInvalid);
        }
    }
}
