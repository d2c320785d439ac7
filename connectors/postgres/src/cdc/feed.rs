//! The stream of changes: transactions in the order of their commits, marks between them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ingest_core::{Done, Error, ErrorKind, Lag, Out, Region, Result, Seq};
use ingest_sql::{Behind, Dialect};

use super::message::{self, Frame, Message, Relation};
use super::past::Past;
use super::plan::reachable;
use super::spill::Spills;
use super::state;
use super::tables::{Emit, Tables, Wanted};
use crate::server::Server;
use crate::wire::{Connection, Role, broken};
use crate::work::{LogPosition, Position};

/// A mark is set this often where little comes: what has come is visible so much later at most.
const PACE: Duration = Duration::from_millis(100);
/// How long is waited for more before the server is asked how far it is.
const LULL: Duration = Duration::from_millis(50);
/// The longest wait while nothing comes.
const LONGEST_LULL: Duration = Duration::from_secs(1);
/// The server hears of us this often: it ends a stream after a silence of `wal_sender_timeout`, 60 s by default.
const SIGN: Duration = Duration::from_secs(10);
/// The log that is not durable yet may hold commits for this long (`wal_writer_delay`, three times).
const DURABLE: Duration = Duration::from_secs(1);

/// What a feed reads.
pub(crate) struct Asked<'a> {
    pub(crate) server: &'a Arc<Server>,
    pub(crate) tables: Vec<Wanted>,
    pub(crate) from: &'a LogPosition,
    /// Large transactions wait there until they are committed.
    pub(crate) temp_dir: &'a Path,
    /// What was confirmed to us; the stream tells the server.
    pub(crate) confirmed: &'a AtomicU64,
}

/// Reads changes from a position to the head of the log, or on and on.
pub(crate) async fn follow(asked: Asked<'_>, out: &mut Out<'_, Position>) -> Result<Done> {
    let server = asked.server;
    let mut lent = server.lend().await?;
    let state = state::read(&mut lent.connection, server.config()).await?;
    lent.give_back(server);
    reachable(asked.from, &state)?;
    let mut connection = server.connect_as(Role::Replication).await?;
    let past = Past::read(&mut connection).await?;
    past.holds(asked.from)?;
    let until = (!out.follow()).then_some(Until { durable: state.durable, head: state.head, began: Instant::now() });
    let command = format!(
        "START_REPLICATION SLOT {} LOGICAL {} (proto_version '2', publication_names {}, binary 'true', streaming 'true')",
        Dialect::Postgres.name(&server.config().slot)?,
        state::lsn(asked.from.lsn),
        Dialect::Postgres.text(&Dialect::Postgres.name(&server.config().publication)?)?,
    );
    connection.start_stream(&command).await.map_err(|error| of_stream(error, server))?;
    let mut feed = Feed {
        connection,
        reading: Reading {
            tables: Tables::new(server, asked.tables),
            spills: Spills::new(asked.temp_dir),
            transaction: None,
            streamed: None,
            behind: Behind::new(state.head),
            at: asked.from.lsn,
            bytes: 0,
        },
        server: Arc::clone(server),
        past,
        confirmed: asked.confirmed,
        until,
        marked: asked.from.lsn,
        flushed: false,
        since: Instant::now(),
        told: Instant::now(),
        heard: Instant::now(),
    };
    feed.run(out).await.map_err(|error| of_stream(error, server))?;
    // What is read is read; that the slot is not free at once is the next reader's matter.
    if let Err(error) = feed.connection.end_stream().await {
        tracing::debug!(%error, "the stream of changes was not ended in order");
    }
    Ok(Done::CaughtUp)
}

/// What a fault of the stream means.
fn of_stream(error: Error, server: &Server) -> Error {
    let state = error.context().iter().find(|(key, _)| *key == "sqlstate").map(|(_, state)| state.clone());
    match state.as_deref() {
        Some("55006") => error
            .of_kind(ErrorKind::Unavailable)
            .with("slot", &server.config().slot)
            .hint("somebody else reads from the slot: each lake needs a `slot` of its own"),
        // The publication as it was at that place of the log.
        Some("42704") => {
            super::lost("the publication or the slot was not there at a place of the log that is still to be read")
                .with("publication", &server.config().publication)
                .caused_by(error.to_string())
        }
        Some("55000") => {
            super::lost("the server cannot read its log for the slot any more").caused_by(error.to_string())
        }
        _ => error,
    }
}

/// Where a run ends that does not follow.
struct Until {
    durable: u64,
    head: u64,
    began: Instant,
}

/// A transaction under way.
struct Transaction {
    lsn: u64,
    /// Rows so far.
    nth: u64,
}

/// What has come of the stream.
struct Reading {
    tables: Tables,
    spills: Spills,
    transaction: Option<Transaction>,
    /// What comes belongs to this transaction, which is not committed yet.
    streamed: Option<u32>,
    behind: Behind<u64>,
    /// Every transaction that was committed before is read.
    at: u64,
    /// Bytes of rows that have not gone out.
    bytes: usize,
}

struct Feed<'a> {
    server: Arc<Server>,
    connection: Connection,
    reading: Reading,
    past: Past,
    confirmed: &'a AtomicU64,
    until: Option<Until>,
    marked: u64,
    /// Rows have gone out since the last mark.
    flushed: bool,
    /// When the last mark was set.
    since: Instant,
    /// When the server heard of us last, and we of it.
    told: Instant,
    heard: Instant,
}

/// What a frame asks for that takes time.
enum Step {
    Row,
    Committed,
    Relation(Relation),
    Truncate(Vec<u32>),
    /// A change was put aside.
    Kept,
    /// A transaction that was put aside is committed.
    Replay {
        xid: u32,
        lsn: u64,
        end: u64,
        time: i64,
    },
    Alive {
        answer: bool,
    },
}

impl Reading {
    /// Takes a message of the stream. Rows go to their tables here, without a copy.
    fn change(&mut self, body: &[u8]) -> Result<Step> {
        let (part, message) = message::message(body, self.streamed.is_some())?;
        match (self.streamed, message) {
            (None, Message::StreamStart { xid }) => {
                self.streamed = Some(xid);
                Ok(Step::Kept)
            }
            (Some(_), Message::StreamStop) => {
                self.streamed = None;
                Ok(Step::Kept)
            }
            (Some(xid), _) => {
                self.spills.push(xid, part, body)?;
                Ok(Step::Kept)
            }
            (None, Message::StreamAbort { xid, part }) => {
                self.spills.abort(xid, part);
                Ok(Step::Kept)
            }
            (None, Message::StreamCommit { xid, lsn, end, time }) => Ok(Step::Replay { xid, lsn, end, time }),
            (None, message) => self.message(message),
        }
    }

    /// A transaction is read to its end.
    fn ended(&mut self, end: u64, time: i64) {
        self.transaction = None;
        self.at = self.at.max(end);
        self.behind.committed(time);
    }

    /// Takes a message of a transaction that is committed.
    fn message(&mut self, message: Message<'_>) -> Result<Step> {
        Ok(match message {
            Message::Begin { lsn } => {
                self.transaction = Some(Transaction { lsn, nth: 0 });
                Step::Row
            }
            Message::Commit { end, time } => {
                self.ended(end, time);
                Step::Committed
            }
            Message::Relation(relation) => Step::Relation(relation),
            Message::Truncate { relations } => Step::Truncate(relations),
            Message::Insert { .. } | Message::Update { .. } | Message::Delete { .. } => {
                let transaction = self.transaction.as_mut().ok_or_else(outside)?;
                self.bytes += self.tables.change(&message, transaction.lsn, &mut transaction.nth)?;
                Step::Row
            }
            Message::Other => Step::Row,
            Message::StreamStart { .. }
            | Message::StreamStop
            | Message::StreamCommit { .. }
            | Message::StreamAbort { .. } => return Err(broken("a stream within a transaction")),
        })
    }
}

impl Feed<'_> {
    async fn run(&mut self, out: &mut Out<'_, Position>) -> Result<()> {
        let mut lull = LULL;
        loop {
            while let Some(step) = self.next()? {
                if !matches!(step, Step::Alive { .. }) {
                    lull = LULL;
                }
                self.take(step, out).await?;
                if self.is_done() {
                    return self.mark(out).await;
                }
            }
            self.sign(false).await?;
            if self.connection.fill_within(lull).await? {
                self.heard = Instant::now();
                continue;
            }
            lull = (lull * 2).min(LONGEST_LULL);
            if self.reading.transaction.is_none() {
                self.mark(out).await?;
                if self.is_done() {
                    return Ok(());
                }
            }
            self.ask().await?;
        }
    }

    /// Whether everything is read that was committed when the run began.
    fn is_done(&self) -> bool {
        let Some(until) = &self.until else { return false };
        self.reading.transaction.is_none()
            && (self.reading.at >= until.head || (self.reading.at >= until.durable && until.began.elapsed() > DURABLE))
    }

    /// The next frame that is at hand.
    fn next(&mut self) -> Result<Option<Step>> {
        let Some(place) = self.connection.stream_frame()? else { return Ok(None) };
        match message::frame(&self.connection.buffered()[place])? {
            Frame::Alive { end, answer } => {
                // All that was committed before has been sent.
                if self.reading.transaction.is_none() {
                    self.reading.at = self.reading.at.max(end);
                }
                Ok(Some(Step::Alive { answer }))
            }
            Frame::Change(body) => self.reading.change(body).map(Some),
        }
    }

    async fn take(&mut self, step: Step, out: &mut Out<'_, Position>) -> Result<()> {
        match step {
            Step::Row if self.reading.bytes >= out.batch_bytes() => self.flush(out).await,
            Step::Row => Ok(()),
            // Marks that come too often cut the writer's batches small.
            Step::Committed if self.flushed || self.since.elapsed() >= PACE => self.mark(out).await,
            Step::Committed => Ok(()),
            Step::Relation(relation) => {
                let emitted = self.reading.tables.relation(relation).await?;
                self.emit(emitted, out).await
            }
            Step::Truncate(relations) => self.truncate(&relations, out).await,
            Step::Kept if self.reading.spills.is_full() => {
                let relieved = self.reading.spills.relieve();
                alive(&mut self.connection, &mut self.told, self.confirmed, relieved).await
            }
            Step::Kept => Ok(()),
            Step::Replay { xid, lsn, end, time } => self.replay(xid, (lsn, end, time), out).await,
            Step::Alive { answer: true } => self.sign(true).await,
            Step::Alive { answer: false } => Ok(()),
        }
    }

    /// Gives out a transaction that was put aside.
    async fn replay(&mut self, xid: u32, (lsn, end, time): (u64, u64, i64), out: &mut Out<'_, Position>) -> Result<()> {
        let mut kept = self.reading.spills.take(xid).replay().await?;
        self.reading.transaction = Some(Transaction { lsn, nth: 0 });
        while let Some(body) = kept.next().await? {
            let (_, message) = message::message(body, true)?;
            let step = self.reading.message(message)?;
            // No transaction is put aside within another.
            Box::pin(self.take(step, out)).await?;
            self.sign(false).await?;
        }
        self.reading.ended(end, time);
        self.mark(out).await
    }

    async fn truncate(&mut self, relations: &[u32], out: &mut Out<'_, Position>) -> Result<()> {
        let streams = self.reading.tables.truncated(relations)?;
        self.flush(out).await?;
        let transaction = self.reading.transaction.as_mut().ok_or_else(outside)?;
        transaction.nth += 1;
        let seq = Seq::of(&[transaction.lsn, transaction.nth]);
        for stream in streams {
            self.flushed = true;
            alive(
                &mut self.connection,
                &mut self.told,
                self.confirmed,
                out.remove_at(&stream, Region::All, seq.clone()),
            )
            .await?;
        }
        Ok(())
    }

    /// Gives out what has come.
    async fn flush(&mut self, out: &mut Out<'_, Position>) -> Result<()> {
        let emitted = self.reading.tables.finish().await?;
        self.reading.bytes = 0;
        self.emit(emitted, out).await
    }

    async fn emit(&mut self, emitted: Vec<Emit>, out: &mut Out<'_, Position>) -> Result<()> {
        for one in emitted {
            self.flushed = true;
            let given = async {
                match one {
                    Emit::Rows(stream, batch) => out.rows(&stream, batch).await,
                    Emit::Schema(stream, schema) => out.schema(&stream, schema).await,
                }
            };
            alive(&mut self.connection, &mut self.told, self.confirmed, given).await?;
        }
        Ok(())
    }

    /// Between two transactions: everything before is covered.
    async fn mark(&mut self, out: &mut Out<'_, Position>) -> Result<()> {
        self.flush(out).await?;
        self.since = Instant::now();
        // A run that follows commits by the clock: it looks at it when a mark comes.
        if !self.flushed && self.marked == self.reading.at && !out.follow() {
            self.tell(out).await;
            return Ok(());
        }
        let position = Position::Log(LogPosition {
            lsn: self.reading.at,
            system: Some(self.past.system.clone()),
            timeline: Some(self.past.timeline),
        });
        alive(&mut self.connection, &mut self.told, self.confirmed, out.mark(&position)).await?;
        (self.flushed, self.marked) = (false, self.reading.at);
        self.tell(out).await;
        Ok(())
    }

    /// Says how far the mark is behind the server, which is asked now and then.
    async fn tell(&mut self, out: &mut Out<'_, Position>) {
        if self.reading.behind.is_due() {
            let began = Instant::now();
            match tokio::time::timeout(LONGEST_LULL, state::head(&self.server)).await {
                Ok(Ok((head, clock))) => self.reading.behind.measure(head, began, clock),
                // Nothing but the figure is lost.
                Ok(Err(error)) => tracing::debug!(%error, "the server does not say where its log ends"),
                Err(_) => tracing::debug!("the server takes its time to say where its log ends"),
            }
        }
        if let Some(age) = self.reading.behind.age(&self.marked) {
            let bytes = self.reading.behind.head().saturating_sub(self.marked);
            out.behind(Lag { age, bytes: Some(bytes) });
        }
    }

    /// Tells the server that we are there, when it is time for that.
    async fn sign(&mut self, now: bool) -> Result<()> {
        if now || self.told.elapsed() >= SIGN {
            self.told = Instant::now();
            self.connection.send_status(self.confirmed.load(Ordering::Acquire), false).await?;
        }
        Ok(())
    }

    /// Asks the server how far it is. One that does not answer for long must be at work, as another connection can see.
    async fn ask(&mut self) -> Result<()> {
        self.told = Instant::now();
        self.connection.send_status(self.confirmed.load(Ordering::Acquire), true).await?;
        if self.heard.elapsed() >= self.connection.patience() {
            self.connection.expect_stream_alive().await?;
            self.heard = Instant::now();
        }
        Ok(())
    }
}

/// Waits for something that takes its time, and tells the server meanwhile that we are there.
async fn alive<T>(
    connection: &mut Connection,
    told: &mut Instant,
    confirmed: &AtomicU64,
    wanted: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut wanted = std::pin::pin!(wanted);
    loop {
        match tokio::time::timeout(SIGN.saturating_sub(told.elapsed()), &mut wanted).await {
            Ok(done) => return done,
            Err(_) => {
                *told = Instant::now();
                connection.send_status(confirmed.load(Ordering::Acquire), false).await?;
            }
        }
    }
}

fn outside() -> Error {
    broken("a change outside of a transaction")
}
