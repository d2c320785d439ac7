//! The time of a plan at the server, and what was still open then.

use std::time::{Duration, Instant};

use ingest_core::{Error, ErrorKind, Result, Safety};
use tiberius::ColumnData;

use crate::cells::{SECOND, hex, precise};
use crate::config::Clock;
use crate::server::{Connection, integer};
use crate::work::Edge;

/// How long the end of what is open is waited for, before the bound is put below it.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(100);
/// How much earlier than its transaction a statement may have taken its time.
const SLACK: i64 = 10 * SECOND;
/// Without a right to see other sessions: as if a transaction had been open for so long.
const UNSEEN: Duration = Duration::from_secs(300);
/// On a replica: what comes late is what the other server has committed.
const REPLICA: Duration = Duration::from_secs(3_600);

/// What can be known about late commits at this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Open transactions and statements of all sessions are listed.
    All,
    /// The account lacks VIEW SERVER STATE.
    Own,
    /// Rows come from another server.
    Replica,
}

impl Sight {
    /// Looks what the account may see.
    pub(crate) async fn of(connection: &mut Connection) -> Result<Self> {
        if connection.facts.read_only {
            return Ok(Self::Replica);
        }
        match connection.rows(OPEN, "cannot see open transactions").await {
            Ok(_) => Ok(Self::All),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(Self::Own),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn safety(self) -> Safety {
        match self {
            Self::All => Safety::Snapshot,
            Self::Own => Safety::Lag(UNSEEN),
            Self::Replica => Safety::Lag(REPLICA),
        }
    }
}

/// Ages in milliseconds of what may still write what a clock said earlier: transactions that have written to this database,
/// and statements that write or may.
const OPEN: &str = "SELECT DATEDIFF_BIG(millisecond, t.transaction_begin_time, SYSDATETIME()) \
    FROM sys.dm_tran_active_transactions t JOIN sys.dm_tran_database_transactions d ON d.transaction_id = t.transaction_id \
    WHERE d.database_id = DB_ID() AND d.database_transaction_type = 1 AND d.database_transaction_begin_time IS NOT NULL \
    UNION ALL SELECT DATEDIFF_BIG(millisecond, r.start_time, SYSDATETIME()) FROM sys.dm_exec_requests r \
    JOIN sys.dm_exec_sessions s ON s.session_id = r.session_id AND s.is_user_process = 1 \
    WHERE r.database_id = DB_ID() AND r.session_id <> @@SPID AND r.command <> N'SELECT'";

/// The server's clock, in UTC and in its own zone, and the first change number that an open transaction may still bring.
const NOW: &str = "SELECT SYSUTCDATETIME(), SYSDATETIME(), MIN_ACTIVE_ROWVERSION()";

const ATTEMPTED: &str = "cannot take the server's time";

/// The time of a plan.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    /// The server's clock, microseconds UTC: the first of a second. Whatever begins later writes no earlier time.
    now: i64,
    /// What the server's own time zone is ahead of UTC, in microseconds.
    zone: i64,
    /// When the oldest of what was open then and is still began, microseconds UTC. `None`: all rows that were written before
    /// `now` are decided.
    pub(crate) oldest: Option<i64>,
    /// Whatever is written from now on, or is not committed, has this change number or a higher one.
    pub(crate) row_version: Edge,
}

impl Moment {
    /// Takes the time at the next full second of the server, where clocks are asked for: what was written before has an
    /// earlier one. Then waits a little for what was open to end, and notes what is left.
    pub(crate) async fn take(connection: &mut Connection, clocks: bool) -> Result<Self> {
        let mut moment = now(connection).await?;
        if !clocks {
            return Ok(moment);
        }
        let sight = Sight::of(connection).await?;
        let second = moment.now.div_euclid(SECOND) * SECOND + SECOND;
        while moment.now < second {
            let rest = u64::try_from(second - moment.now).unwrap_or(0);
            tokio::time::sleep(Duration::from_micros(rest.min(1_000_000))).await;
            moment = now(connection).await?;
        }
        moment.now = moment.now.div_euclid(SECOND) * SECOND;
        moment.oldest = match sight.safety() {
            Safety::Lag(lag) => Some(moment.now - i64::try_from(lag.as_micros()).unwrap_or(i64::MAX)),
            _ => settle(connection).await?,
        };
        Ok(moment)
    }

    /// The first time that an open transaction may still bring, or that may be written from now on; microseconds UTC.
    pub(crate) fn bound(&self) -> i64 {
        self.oldest.map_or(self.now, |began| (began - SLACK).div_euclid(SECOND) * SECOND).min(self.now)
    }

    /// The same as a column without a zone may hold it.
    pub(crate) fn bound_without_zone(&self, clock: Option<Clock>) -> i64 {
        self.bound()
            + match clock {
                Some(Clock::Utc) => 0,
                Some(Clock::Local) => self.zone,
                None => self.zone.min(0),
            }
    }
}

/// When the oldest began of what is open and does not end within a while.
async fn settle(connection: &mut Connection) -> Result<Option<i64>> {
    let taken = Instant::now();
    loop {
        let rows = connection.rows(OPEN, ATTEMPTED).await?;
        let passed = taken.elapsed();
        // What began after the time was taken writes later ones; half a second for the two clocks to be read.
        let before = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX) - 500;
        let oldest = rows.iter().filter_map(|row| integer(row, 0)).filter(|age| *age >= before).max();
        match oldest {
            Some(age) if passed > PATIENCE => return Ok(Some(now(connection).await?.now - age * 1_000 - SECOND)),
            Some(_) => tokio::time::sleep(PAUSE).await,
            None => return Ok(None),
        }
    }
}

async fn now(connection: &mut Connection) -> Result<Moment> {
    let rows = connection.rows(NOW, ATTEMPTED).await?;
    let at = |column| match rows.first()?.get_column_data(column).ok()? {
        ColumnData::DateTime2(Some(at)) => precise(*at),
        _ => None,
    };
    let version = rows.first().and_then(|row| match row.get_column_data(2).ok()? {
        ColumnData::Binary(Some(bytes)) => Some(hex(bytes)),
        _ => None,
    });
    match (at(0), at(1), version) {
        (Some(now), Some(local), Some(row_version)) => Ok(Moment { now, zone: local - now, oldest: None, row_version }),
        _ => Err(Error::new(ErrorKind::DataInvalid, ATTEMPTED).hint("is this SQL Server 2016 or newer, or Azure SQL?")),
    }
}
