//! The time of a plan at the server, and what was still open then.

use std::time::{Duration, Instant};

use ingest_core::{ErrorKind, Result, Safety};

use crate::cells::SECOND;
use crate::server::Connection;

/// How long the end of what is open is waited for, before the bound is put below it.
const PATIENCE: Duration = Duration::from_secs(3);
/// The server collects its list of transactions again when nobody has asked for it for 100 ms.
const PAUSE: Duration = Duration::from_millis(150);
/// How much earlier than its transaction a statement may have begun: it waits for locks on tables before.
pub(crate) const SLACK: i64 = 10 * SECOND;
/// Without a right to see other sessions: as if a transaction had been open for so long.
const UNSEEN: Duration = Duration::from_secs(300);
/// On a replica: what comes late is what the other server has committed.
const REPLICA: Duration = Duration::from_secs(3_600);

/// What can be known about late commits at this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Open transactions and statements of all sessions are listed.
    All,
    /// The account lacks PROCESS.
    Own,
    /// Rows come from another server.
    Replica,
}

impl Sight {
    /// Looks what the account may see.
    pub(crate) async fn of(connection: &mut Connection) -> Result<Self> {
        const READ_ONLY: &str = "SELECT @@global.read_only + @@global.innodb_read_only";
        let replica: Vec<(i64,)> = connection.rows(READ_ONLY, "cannot see what the server is").await?;
        if replica.first().is_some_and(|(flags,)| *flags > 0) {
            return Ok(Self::Replica);
        }
        match connection.rows::<(Option<i64>,)>(OPEN, "cannot see open transactions").await {
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

/// Ages in seconds of what may still write what a clock said earlier: transactions that have written, transactions that
/// belong to no session (XA, prepared), statements at work. `trx_started` is in the time zone of the system.
const OPEN: &str = "
SELECT CAST(TIMESTAMPDIFF(SECOND, trx_started, NOW()) AS SIGNED) FROM information_schema.INNODB_TRX
WHERE trx_mysql_thread_id <> CONNECTION_ID() AND (trx_rows_modified > 0 OR trx_mysql_thread_id = 0)
UNION ALL
SELECT CAST(TIME AS SIGNED) FROM information_schema.PROCESSLIST
WHERE ID <> CONNECTION_ID() AND COMMAND IN ('Query', 'Execute') AND USER NOT IN ('system user', 'event_scheduler')
AND LTRIM(COALESCE(INFO, '')) NOT LIKE 'SELECT%' AND LTRIM(COALESCE(INFO, '')) NOT LIKE 'SHOW%'";

/// The time of a plan.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// The server's clock, microseconds UTC: the first of a second. Whatever begins later writes no earlier time.
    pub(crate) now: i64,
    /// What the server's own time zone is ahead of UTC, in microseconds: columns without a zone hold its time.
    pub(crate) zone: i64,
    /// When the oldest of what was open then and is still began, microseconds UTC. `None`: all rows that were written before
    /// `now` are decided.
    pub(crate) oldest: Option<i64>,
    sight: Sight,
    taken: Instant,
}

impl Moment {
    /// Takes the time at the next full second of the server: what was written before has an earlier one.
    pub(crate) async fn next_second(connection: &mut Connection) -> Result<Self> {
        let sight = Sight::of(connection).await?;
        let began = now(connection).await?;
        let second = began.div_euclid(SECOND) * SECOND + SECOND;
        let mut at = began;
        while at < second {
            let rest = u64::try_from(second - at).unwrap_or(0);
            tokio::time::sleep(Duration::from_micros(rest.min(1_000_000))).await;
            at = now(connection).await?;
        }
        connection.run("SET time_zone = @@global.time_zone", ATTEMPTED).await?;
        const ZONE: &str = "SELECT TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), NOW(6))";
        let zone: Vec<(i64,)> = connection.rows(ZONE, ATTEMPTED).await?;
        connection.run("SET time_zone = '+00:00'", ATTEMPTED).await?;
        let zone = zone.first().map_or(0, |(zone,)| *zone);
        Ok(Self { now: at.div_euclid(SECOND) * SECOND, zone, oldest: None, sight, taken: Instant::now() })
    }

    /// Waits a little for what was open at `now` to end, and notes what is left.
    pub(crate) async fn settle(&mut self, connection: &mut Connection) -> Result<()> {
        if let Safety::Lag(lag) = self.sight.safety() {
            self.oldest = Some(self.now - i64::try_from(lag.as_micros()).unwrap_or(i64::MAX));
            return Ok(());
        }
        connection.run("SET time_zone = 'SYSTEM'", ATTEMPTED).await?;
        self.oldest = loop {
            tokio::time::sleep(PAUSE).await;
            let passed = self.taken.elapsed();
            let ages: Vec<(Option<i64>,)> = connection.rows(OPEN, ATTEMPTED).await?;
            // Ages are whole seconds: what may have begun before `now` counts as if it had.
            let before = i64::try_from(passed.as_secs()).unwrap_or(i64::MAX);
            let oldest = ages.iter().filter_map(|(age,)| *age).filter(|age| *age >= before).max();
            match oldest {
                Some(age) if passed > PATIENCE => break Some(now(connection).await? - (age + 1) * SECOND),
                Some(_) => {}
                None => break None,
            }
        };
        connection.run("SET time_zone = '+00:00'", ATTEMPTED).await
    }
}

const ATTEMPTED: &str = "cannot take the server's time";

/// The server's clock, microseconds UTC.
async fn now(connection: &mut Connection) -> Result<i64> {
    const NOW: &str = "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(6))";
    let rows: Vec<(i64,)> = connection.rows(NOW, ATTEMPTED).await?;
    Ok(rows.first().map_or(0, |(now,)| *now))
}
