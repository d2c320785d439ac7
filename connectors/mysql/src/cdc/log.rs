//! The binlog of a server: what it must be like, where it ends, and whether a place in it is still there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ingest_core::{Error, ErrorKind, RESYNC, Result};
use mysql_async::Row;

use crate::server::{Connection, Flavour, Server};
use crate::work::LogPosition;

/// How long transactions that are in the log and not in the tables yet are waited for.
const PATIENCE: Duration = Duration::from_secs(60);
const ATTEMPTED: &str = "cdc: cannot look at the binlog";

/// Everything about the server's settings that keeps changes from being captured, each with the statement that repairs it.
pub(crate) async fn faults(connection: &mut Connection) -> Result<Vec<(String, String)>> {
    let wanted: &[(&str, &[&str], &str)] = &[
        ("log_bin", &["1", "ON"], "start the server with `--log-bin`"),
        ("binlog_format", &["ROW"], "SET GLOBAL binlog_format = 'ROW', then reconnect all clients"),
        ("binlog_row_image", &["FULL"], "SET GLOBAL binlog_row_image = 'FULL', then reconnect all clients"),
        ("binlog_row_metadata", &["FULL"], "SET GLOBAL binlog_row_metadata = 'FULL'"),
        ("binlog_row_value_options", &[""], "SET GLOBAL binlog_row_value_options = '', then reconnect all clients"),
        (
            "gtid_mode",
            &["ON"],
            "switch GTIDs on: enforce_gtid_consistency = ON, then gtid_mode OFF_PERMISSIVE, ON_PERMISSIVE, ON",
        ),
    ];
    let names: Vec<String> = wanted.iter().map(|(name, _, _)| format!("'{name}'")).collect();
    let sql = format!("SHOW GLOBAL VARIABLES WHERE VARIABLE_NAME IN ({})", names.join(", "));
    let found: Vec<(String, String)> = connection.rows(&sql, ATTEMPTED).await?;
    let mut faults = Vec::new();
    for (name, good, remedy) in wanted {
        let value = found.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
        match value {
            Some(value) if good.iter().any(|good| good.eq_ignore_ascii_case(value)) => {}
            Some(value) => faults.push((format!("{name} is {value}"), (*remedy).to_owned())),
            // MariaDB has no switch for GTIDs, and neither server always had the others.
            None if matches!(*name, "gtid_mode" | "binlog_row_value_options") => {}
            None => faults
                .push((format!("the server does not know {name}"), "cdc needs MySQL 8.0.1 or MariaDB 10.5".into())),
        }
    }
    Ok(faults)
}

/// All faults as one error.
pub(crate) fn refuse(faults: &[(String, String)]) -> Result<()> {
    if faults.is_empty() {
        return Ok(());
    }
    let what: Vec<&str> = faults.iter().map(|(what, _)| what.as_str()).collect();
    let remedies: Vec<&str> = faults.iter().map(|(_, remedy)| remedy.as_str()).collect();
    Err(Error::config(format!("cdc: the server's binlog cannot be used: {}", what.join("; ")))
        .hint(remedies.join("; ")))
}

/// The end of the log: everything that was committed before is in front of it.
pub(crate) async fn head(connection: &mut Connection) -> Result<LogPosition> {
    // The older spelling is gone from MySQL 8.4, the newer one came with 8.2.
    let rows: Vec<Row> = match connection.rows("SHOW MASTER STATUS", ATTEMPTED).await {
        Err(error) if error.kind() == ErrorKind::ConfigInvalid => {
            connection.rows("SHOW BINARY LOG STATUS", ATTEMPTED).await?
        }
        rows => rows?,
    };
    let place = rows.first().and_then(|row| Some((row.get_opt(0)?.ok()?, row.get_opt(1)?.ok()?)));
    let (file, pos) = place
        .ok_or_else(|| Error::config("cdc: the server writes no binlog").hint("start the server with `--log-bin`"))?;
    Ok(LogPosition { server: identity(connection).await?, file, pos, gtid: None })
}

/// The end of the log by a connection that is lent, and the server's clock: microseconds since 1970.
pub(crate) async fn end(server: &Arc<Server>) -> Result<(LogPosition, i64)> {
    let mut lent = server.lend().await?;
    let end = head(lent.connection()).await?;
    let sql = "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)";
    let rows: Vec<(i64,)> = lent.connection().rows(sql, ATTEMPTED).await?;
    lent.give_back();
    let clock = rows.first().map(|(clock,)| *clock);
    Ok((end, clock.ok_or_else(|| Error::unexpected("the server does not say what time it is"))?))
}

/// What tells the server from another.
async fn identity(connection: &mut Connection) -> Result<String> {
    let sql = match connection.flavour {
        Flavour::Mysql => "SELECT @@global.server_uuid",
        Flavour::MariaDb => "SELECT CAST(@@global.server_id AS CHAR)",
    };
    let rows: Vec<(String,)> = connection.rows(sql, ATTEMPTED).await?;
    Ok(rows.into_iter().next().map(|(identity,)| identity).unwrap_or_default())
}

/// A place such that every transaction before it can be seen by whoever begins to read now.
///
/// A transaction is in the log a moment before it is in the tables. MariaDB gives the place that belongs to a snapshot; MySQL
/// lists the transactions in between (`gtid_owned`), which are waited for.
pub(crate) async fn begin(connection: &mut Connection) -> Result<LogPosition> {
    if connection.flavour == Flavour::MariaDb {
        connection.run("START TRANSACTION WITH CONSISTENT SNAPSHOT", ATTEMPTED).await?;
        let found: Vec<(String, String)> = connection.rows("SHOW STATUS LIKE 'binlog_snapshot_%'", ATTEMPTED).await?;
        connection.run("ROLLBACK", ATTEMPTED).await?;
        let value = |name: &str| {
            found.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
        };
        let pos = value("binlog_snapshot_position").and_then(|pos| pos.parse().ok());
        if let (Some(file), Some(pos)) = (value("binlog_snapshot_file").filter(|file| !file.is_empty()), pos) {
            return Ok(LogPosition { server: identity(connection).await?, file, pos, gtid: None });
        }
        return Err(Error::new(ErrorKind::Unsupported, "cdc: the server does not say the place of a snapshot")
            .hint("is it MariaDB with `--log-bin`?"));
    }
    let at = head(connection).await?;
    let under_way = owned(connection).await?;
    let began = Instant::now();
    loop {
        let now = owned(connection).await?;
        if !under_way.iter().any(|gtid| now.contains(gtid)) {
            return Ok(at);
        }
        if began.elapsed() > PATIENCE {
            return Err(Error::new(ErrorKind::Timeout, "cdc: a transaction stays between the binlog and the tables")
                .hint("it is being committed, and does not come to its end: see the server's disk and its replicas"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Transactions that have a GTID and are not committed: `uuid:number`.
async fn owned(connection: &mut Connection) -> Result<Vec<String>> {
    let rows: Vec<(String,)> = connection.rows("SELECT @@global.gtid_owned", ATTEMPTED).await?;
    Ok(rows.iter().flat_map(|(text,)| owned_of(text)).collect())
}

/// Reads `uuid:23#thread:24#thread, uuid:…`.
fn owned_of(text: &str) -> Vec<String> {
    let mut gtids = Vec::new();
    for server in text.split(',') {
        let mut parts = server.trim().split(':');
        let Some(uuid) = parts.next() else { continue };
        gtids.extend(parts.filter_map(|part| Some(format!("{uuid}:{}", part.split('#').next()?))));
    }
    gtids
}

/// The log of a server as it is listed.
pub(crate) struct Log {
    server: String,
    /// Names and sizes, the oldest first.
    files: Vec<(String, u64)>,
}

impl Log {
    /// Asks the server.
    pub(crate) async fn read(connection: &mut Connection) -> Result<Self> {
        let server = identity(connection).await?;
        let rows: Vec<Row> = connection.rows("SHOW BINARY LOGS", ATTEMPTED).await?;
        let file = |row: &Row| Some((row.get_opt(0)?.ok()?, row.get_opt(1)?.ok()?));
        Ok(Self { server, files: rows.iter().filter_map(file).collect() })
    }

    /// Fails unless the log still holds everything from a place on, and is still the log that it was.
    pub(crate) async fn expect(&self, connection: &mut Connection, at: &LogPosition) -> Result<()> {
        let lost =
            |what: &str| Error::new(ErrorKind::CheckpointInvalid, what).with("file", &at.file).with("pos", at.pos);
        if self.server != at.server {
            return Err(lost("cdc: this is another server than the one whose binlog was read")
                .hint(format!("connect to that server; or {}", again())));
        }
        match self.files.iter().find(|(name, _)| *name == at.file) {
            None => {
                return Err(lost("cdc: the server has removed a part of the binlog that was not read yet").hint(format!(
                    "{}; then keep the binlog longer than the longest pause between runs: `binlog_expire_logs_seconds`, on RDS `binlog retention hours`",
                    again()
                )));
            }
            Some((_, size)) if *size < at.pos => {
                return Err(lost("cdc: the binlog ends before the place that was read")
                    .hint(format!("the server was restored; {}", again())));
            }
            Some(_) => {}
        }
        let Some(gtid) = &at.gtid else { return Ok(()) };
        let gtid = ingest_sql::Dialect::MySql.text(gtid)?;
        let sql = match connection.flavour {
            Flavour::Mysql => format!("SELECT CAST(GTID_SUBSET({gtid}, @@global.gtid_executed) AS SIGNED)"),
            // Its answer is the whole state at the place, a GTID for each domain.
            Flavour::MariaDb => format!(
                "SELECT CAST(COALESCE(FIND_IN_SET({gtid}, BINLOG_GTID_POS({}, {})), 1) > 0 AS SIGNED)",
                ingest_sql::Dialect::MySql.text(&at.file)?,
                at.pos
            ),
        };
        let rows: Vec<(i64,)> = connection.rows(&sql, ATTEMPTED).await?;
        match rows.first() {
            Some((0,)) => Err(lost("cdc: the binlog is not the one that was read: the last transaction is not in it")
                .hint(format!("the server was restored, or its binlog was reset; {}", again()))),
            _ => Ok(()),
        }
    }
}

/// What brings a stream back whose changes are lost.
pub(crate) fn again() -> String {
    format!("load the stream again with `{RESYNC}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owned_transactions_are_told_apart_from_their_threads() {
        assert_eq!(owned_of("3e11fa47:23#4:24#5, aa:1#9"), ["3e11fa47:23", "3e11fa47:24", "aa:1"]);
        assert!(owned_of("").is_empty());
    }
}
