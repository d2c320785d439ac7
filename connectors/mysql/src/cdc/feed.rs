//! The binlog of a server as a feed of many tables.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use ingest_core::{Done, Error, ErrorKind, Lag, Out, Region, Result};
use ingest_sql::Behind;
use mysql_async::binlog::events::Event as LogEvent;
use mysql_async::{BinlogStream, BinlogStreamRequest};

use super::bytes::{Bytes, cut};
use super::captured::{Captured, Event, Happened, Order};
use super::charset::Collations;
use super::image;
use super::log::{self, Log, again};
use super::map;
use super::statement::{self, Statement};
use crate::catalog::Table;
use crate::faults;
use crate::server::{Flavour, Server};
use crate::work::{LogPosition, Position};

const ATTEMPTED: &str = "cdc: cannot read the binlog";
/// While rows wait, more are waited for so long: many small transactions make one batch.
const GATHER: Duration = Duration::from_millis(20);
/// Rows wait so long at most while more keep coming, and until their transaction ends.
const OLDEST: Duration = Duration::from_millis(100);
/// While nothing comes, the server is asked so often where its binlog ends.
const QUIET: Duration = Duration::from_secs(2);
/// The largest event that is taken apart in memory.
const MOST_BYTES: u64 = 1 << 30;
/// An event that was made up for this reader, and is not in the file.
const ARTIFICIAL: u16 = 0x20;

/// What is to be read.
pub(crate) struct Asked<'a> {
    pub(crate) server: &'a Arc<Server>,
    /// The tables, and which of their columns are wanted.
    pub(crate) tables: Vec<(Arc<Table>, Option<Vec<String>>)>,
    pub(crate) from: &'a LogPosition,
}

/// Reads from a place on: to the end that the log has now, or for ever.
pub(crate) async fn follow(asked: Asked<'_>, out: &mut Out<'_, Position>) -> Result<Done> {
    let mut connection = asked.server.connect().await?;
    Log::read(&mut connection).await?.expect(&mut connection, asked.from).await?;
    let end = log::head(&mut connection).await?;
    let behind = Behind::new(end.order());
    let head = (!out.follow()).then_some(end);
    if head.as_ref().is_some_and(|head| asked.from.has_reached(head)) {
        connection.close().await;
        out.behind(Lag { age: Duration::ZERO, bytes: Some(0) });
        return Ok(Done::CaughtUp);
    }
    let collations = Collations::load(&mut connection).await?;
    let timeout = asked.server.config().timeout.0;
    let beat = (timeout / 3).min(Duration::from_secs(15)).as_nanos();
    connection.run(&format!("SET @master_heartbeat_period = {beat}"), ATTEMPTED).await?;
    if connection.flavour == Flavour::MariaDb {
        // Without it the server turns its GTID events into others.
        connection.run("SET @mariadb_slave_capability = 4", ATTEMPTED).await?;
    }
    let request = BinlogStreamRequest::new(asked.server.replica_id())
        .with_filename(asked.from.file.as_bytes())
        .with_pos(asked.from.pos);
    let stream = connection.into_client().get_binlog_stream(request).await;
    let mut stream = stream.map_err(|e| faults::error(ATTEMPTED, e))?;
    let mut feed = Feed::new(asked, collations, behind);
    let read = feed.read(&mut stream, head.as_ref(), timeout, out).await;
    // The server goes on sending to whoever does not say that it is enough.
    if let Err(error) = stream.close().await {
        tracing::debug!(%error, "the stream of the binlog could not be closed");
    }
    read
}

struct Feed {
    server: Arc<Server>,
    behind: Behind<(u64, u64)>,
    /// The time of the last event, by the server's clock: seconds since 1970.
    time: u32,
    collations: Collations,
    captured: Vec<Captured>,
    /// What the rows take that have not gone out, about.
    bytes: usize,
    /// Their places by database and name, and by the number that the log gives them for a while.
    names: HashMap<(String, String), usize>,
    numbers: HashMap<u64, usize>,
    /// The place behind the last whole transaction.
    at: LogPosition,
    /// The place that was marked last.
    marked: LogPosition,
    /// The file and the place behind the last event.
    file: String,
    offset: u64,
    transaction: Option<Transaction>,
    /// The transaction that the next events are of.
    gtid: Option<String>,
    /// Events come out of a compressed one: their places are not the file's.
    packed: bool,
    /// The file has described itself, and so whether its events end with a checksum.
    described: bool,
}

/// A transaction that is being read.
struct Transaction {
    /// The places of its rows.
    order: Order,
    /// It is one statement and ends with it.
    single: bool,
}

impl Feed {
    fn new(asked: Asked<'_>, collations: Collations, behind: Behind<(u64, u64)>) -> Self {
        let captured: Vec<Captured> =
            asked.tables.into_iter().map(|(table, wanted)| Captured::new(table, wanted)).collect();
        let name = |captured: &Captured| (captured.table.database.clone(), captured.table.name.clone());
        Self {
            server: Arc::clone(asked.server),
            behind,
            time: 0,
            collations,
            names: captured.iter().enumerate().map(|(i, captured)| (name(captured), i)).collect(),
            captured,
            bytes: 0,
            numbers: HashMap::new(),
            at: asked.from.clone(),
            marked: asked.from.clone(),
            file: asked.from.file.clone(),
            offset: asked.from.pos,
            transaction: None,
            gtid: None,
            packed: false,
            described: false,
        }
    }

    async fn read(
        &mut self,
        stream: &mut BinlogStream,
        head: Option<&LogPosition>,
        timeout: Duration,
        out: &mut Out<'_, Position>,
    ) -> Result<Done> {
        let (mut flushed, mut heard) = (Instant::now(), Instant::now());
        loop {
            if self.transaction.is_none() && head.is_some_and(|head| self.at.has_reached(head)) {
                self.flush(out).await?;
                return Ok(Done::CaughtUp);
            }
            let waits = self.bytes > 0 || self.at != self.marked;
            let old = waits && self.transaction.is_none() && flushed.elapsed() >= OLDEST;
            if old || self.bytes >= out.batch_bytes() {
                self.flush(out).await?;
                flushed = Instant::now();
            }
            // A timer for each event would cost more than the event.
            let next = match stream.next().now_or_never() {
                Some(next) => next,
                None if waits && self.transaction.is_none() => {
                    let Ok(next) = tokio::time::timeout(GATHER, stream.next()).await else {
                        self.flush(out).await?;
                        flushed = Instant::now();
                        continue;
                    };
                    next
                }
                None => match tokio::time::timeout(QUIET.min(timeout), stream.next()).await {
                    Ok(next) => next,
                    Err(_) if heard.elapsed() < timeout => {
                        self.tell(out).await;
                        continue;
                    }
                    Err(_) => {
                        return Err(Error::new(
                            ErrorKind::Timeout,
                            "cdc: the server sends neither changes nor signs of life",
                        )
                        .hint("see the network between, and the server's load; `timeout` can be raised"));
                    }
                },
            };
            heard = Instant::now();
            let event = next.ok_or_else(|| {
                Error::new(ErrorKind::Unavailable, "cdc: the server ended the stream of its binlog")
                    .hint("another reader with the same number may have taken its place; it is tried again")
            })?;
            let event = event.map_err(|e| faults::error(ATTEMPTED, e))?;
            self.event(&event, out).await.map_err(|error| error.with("file", &self.file).with("pos", self.offset))?;
        }
    }

    /// Gives out what waits, and marks the place behind the last whole transaction.
    async fn flush(&mut self, out: &mut Out<'_, Position>) -> Result<()> {
        for captured in &mut self.captured {
            captured.flush(out).await?;
        }
        self.bytes = 0;
        // A place beyond 4 GiB cannot be asked for: the file ends soon, and the next one begins at its beginning.
        if self.transaction.is_none() && self.at != self.marked && self.at.pos <= u64::from(u32::MAX) {
            out.mark(&Position::Log(self.at.clone())).await?;
            self.marked = self.at.clone();
            self.tell(out).await;
        }
        Ok(())
    }

    /// Says how far the mark is behind the server, which is asked now and then.
    async fn tell(&mut self, out: &mut Out<'_, Position>) {
        if self.behind.is_due() {
            let began = Instant::now();
            match tokio::time::timeout(QUIET, log::end(&self.server)).await {
                Ok(Ok((end, clock))) => self.behind.measure(end.order(), began, clock),
                // Nothing but the figure is lost.
                Ok(Err(error)) => tracing::debug!(%error, "the server does not say where its binlog ends"),
                Err(_) => tracing::debug!("the server takes its time to say where its binlog ends"),
            }
        }
        let at = self.marked.order();
        if let Some(age) = self.behind.age(&at) {
            // How long the files between are is not asked each time.
            let bytes = (self.behind.head().0 <= at.0).then(|| self.behind.head().1.saturating_sub(at.1));
            out.behind(Lag { age, bytes });
        }
    }

    async fn event(&mut self, event: &LogEvent, out: &mut Out<'_, Position>) -> Result<()> {
        let (header, body) = (event.header(), event.data());
        let sort = header.event_type_raw();
        let artificial = header.log_pos() == 0 || header.flags_raw() & ARTIFICIAL != 0;
        if header.timestamp() > 0 {
            self.time = header.timestamp();
        }
        let start = self.offset;
        if !self.packed && !artificial && !matches!(sort, 4 | 27 | 41) {
            self.offset = behind(self.offset, header.log_pos());
        }
        match sort {
            4 => return self.rotate(body, artificial),
            15 => self.described = true,
            // Signs of life, lists of GTIDs.
            27 | 41 | 35 | 161 | 163 => {}
            33 | 42 => self.begin_mysql(start, body)?,
            34 => self.gtid = None,
            162 => self.begin_mariadb(start, header.server_id(), body)?,
            40 => {
                self.packed = true;
                return Ok(());
            }
            2 => {
                let (database, text) = statement::parse(body)?;
                return self.statement(start, &database, &text, out).await;
            }
            165 => {
                let (database, text) = compressed_statement(body)?;
                return self.statement(start, &database, &text, out).await;
            }
            16 => self.commit(),
            // Prepared by XA: its rows were given as if it were committed.
            38 => self.commit(),
            19 => self.describe(body, out).await?,
            23..=25 | 30..=32 | 166..=171 => self.rows(sort, body)?,
            39 => {
                return Err(Error::new(ErrorKind::Unsupported, "cdc: the binlog holds parts of JSON documents")
                    .hint(format!("SET GLOBAL binlog_row_value_options = '', then {}", again())));
            }
            164 => {
                tracing::debug!("the binlog is encrypted at rest");
            }
            _ => {}
        }
        self.settle(artificial);
        Ok(())
    }

    /// Between transactions every place is one to go on from.
    fn settle(&mut self, artificial: bool) {
        if self.transaction.is_none() && !artificial && !self.packed {
            self.at.file.clone_from(&self.file);
            self.at.pos = self.offset;
        }
    }

    /// The next file. An artificial one opens each stream, and says where it is.
    fn rotate(&mut self, body: &[u8], artificial: bool) -> Result<()> {
        let mut bytes = Bytes(body);
        let pos = bytes.little(8)?;
        // The first one names the file that was asked for, and ends with a checksum that nobody has announced yet.
        if self.described {
            self.file = String::from_utf8_lossy(bytes.0).into_owned();
        }
        self.offset = pos;
        self.numbers.clear();
        if self.transaction.is_some() && !artificial {
            return Err(Error::new(ErrorKind::DataInvalid, "cdc: a file of the binlog ends within a transaction")
                .hint("the server has crashed there; it is tried again, and ends the transaction on its start"));
        }
        self.settle(artificial);
        Ok(())
    }

    /// GTID_LOG_EVENT of MySQL: flags, the server's UUID, the number.
    fn begin_mysql(&mut self, start: u64, body: &[u8]) -> Result<()> {
        self.expect_none()?;
        self.gtid = None;
        if let Some(rest) = body.get(1..25) {
            let mut bytes = Bytes(rest);
            let uuid: [u8; 16] = bytes.array()?;
            self.gtid = Some(format!("{}:{}", image::uuid(uuid), bytes.little(8)?));
        }
        // BEGIN follows, or a single statement.
        self.transaction = Some(Transaction { order: Order::new(self.at_number(), start), single: true });
        Ok(())
    }

    /// GTID_EVENT of MariaDB: number, domain, flags. Its BEGIN is contained in it.
    fn begin_mariadb(&mut self, start: u64, server: u32, body: &[u8]) -> Result<()> {
        self.expect_none()?;
        let mut bytes = Bytes(body);
        let (number, domain, flags) = (bytes.little(8)?, bytes.little(4)?, bytes.u8()?);
        self.gtid = Some(format!("{domain}-{server}-{number}"));
        self.transaction = Some(Transaction { order: Order::new(self.at_number(), start), single: flags & 1 != 0 });
        Ok(())
    }

    fn expect_none(&self) -> Result<()> {
        match self.transaction {
            None => Ok(()),
            Some(_) => Err(Error::new(ErrorKind::DataInvalid, "cdc: a transaction begins within another")
                .hint("the binlog is damaged, or of a version that is not known")),
        }
    }

    fn commit(&mut self) {
        self.transaction = None;
        self.behind.committed(i64::from(self.time) * 1_000_000);
        // What a compressed event holds is one transaction.
        self.packed = false;
        self.at = LogPosition {
            server: self.at.server.clone(),
            file: self.file.clone(),
            pos: self.offset,
            gtid: self.gtid.take().or_else(|| self.at.gtid.take()),
        };
    }

    async fn statement(&mut self, start: u64, database: &str, text: &str, out: &mut Out<'_, Position>) -> Result<()> {
        let single = self.transaction.as_ref().is_none_or(|transaction| transaction.single);
        match statement::classify(database, text) {
            Statement::Begin => {
                let order = self.transaction.take().map(|transaction| transaction.order);
                let order = order.unwrap_or_else(|| Order::new(self.at_number(), start));
                self.transaction = Some(Transaction { order, single: false });
                return Ok(());
            }
            Statement::Within => return Ok(()),
            Statement::Commit => {
                self.commit();
                return Ok(());
            }
            ended @ (Statement::Rollback | Statement::RollbackTo) => {
                if self.transaction.as_ref().is_some_and(|transaction| transaction.order.rows > 0) {
                    return Err(Error::new(
                        ErrorKind::CheckpointInvalid,
                        "cdc: a transaction was rolled back in part, and its rows stand in the binlog",
                    )
                    .hint(format!("it wrote to a table without transactions, too; {}", again())));
                }
                if ended == Statement::Rollback {
                    self.commit();
                }
                return Ok(());
            }
            Statement::Truncate { database, table } => {
                if let Some(captured) = self.names.get(&(database, table)).and_then(|i| self.captured.get_mut(*i)) {
                    captured.flush(out).await?;
                    out.remove(&captured.stream, Region::All).await?;
                }
            }
            Statement::Rows => self.expect_elsewhere(database, text)?,
            Statement::Other => {}
        }
        if single {
            self.commit();
        }
        Ok(())
    }

    /// A statement instead of rows cannot be followed, unless it is about other tables.
    fn expect_elsewhere(&self, database: &str, text: &str) -> Result<()> {
        let concerned = self.captured.iter().find(|captured| {
            statement::mentions(text, &captured.table.name)
                && (captured.table.database == database || statement::mentions(text, &captured.table.database))
        });
        concerned.map_or(Ok(()), |captured| {
            Err(Error::new(
                ErrorKind::CheckpointInvalid,
                "cdc: the binlog holds a statement instead of the rows that it changed",
            )
            .with("stream", &captured.stream)
            .hint(format!("a session has set binlog_format itself: take that right from it, then {}", again())))
        })
    }

    async fn describe(&mut self, body: &[u8], out: &mut Out<'_, Position>) -> Result<()> {
        let (number, database, table) = map::name(body)?;
        match self.names.get(&(database, table)) {
            Some(i) => {
                self.numbers.insert(number, *i);
                self.captured[*i].describe(body, &self.collations, out).await
            }
            None => {
                self.numbers.remove(&number);
                Ok(())
            }
        }
    }

    fn rows(&mut self, sort: u8, body: &[u8]) -> Result<()> {
        let mut bytes = Bytes(body);
        let number = bytes.little(6)?;
        let Some(i) = self.numbers.get(&number) else { return Ok(()) };
        bytes.u16()?;
        if matches!(sort, 30..=32 | 169..=171) {
            let extra = usize::from(bytes.u16()?);
            bytes.take(extra.checked_sub(2).ok_or_else(cut)?)?;
        }
        let happened = match sort {
            23 | 30 | 166 | 169 => Happened::Inserted,
            24 | 31 | 167 | 170 => Happened::Updated,
            _ => Happened::Deleted,
        };
        let columns = bytes.packed()?;
        let first = bytes.take(columns.div_ceil(8))?;
        let second = if happened == Happened::Updated { bytes.take(columns.div_ceil(8))? } else { first };
        let unpacked = if sort >= 166 { Some(unpack(bytes.0)?) } else { None };
        let rows = unpacked.as_deref().unwrap_or(bytes.0);
        let event = Event { happened, before: first, after: second, rows };
        let number = self.at_number();
        let begun = || Transaction { order: Order::new(number, self.offset), single: false };
        let transaction = self.transaction.get_or_insert_with(begun);
        let captured = self.captured.get_mut(*i).ok_or_else(cut)?;
        let before = captured.bytes();
        captured.take(&event, &mut transaction.order).map_err(|error| error.with("stream", &captured.stream))?;
        self.bytes += captured.bytes() - before;
        Ok(())
    }

    /// The number of the file that is being read.
    fn at_number(&self) -> u64 {
        self.file.rsplit('.').next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }
}

/// The place behind an event, of which the log says the lower 32 bits.
fn behind(offset: u64, low: u32) -> u64 {
    let candidate = (offset & !u64::from(u32::MAX)) | u64::from(low);
    if candidate < offset { candidate + (1 << 32) } else { candidate }
}

/// What MariaDB has compressed: a byte that says how long the length is, the length, and zlib.
fn unpack(packed: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Bytes(packed);
    let width = usize::from(bytes.u8()? & 7);
    let length = bytes.big(width)?;
    if length > MOST_BYTES {
        return Err(Error::new(ErrorKind::LimitExceeded, "cdc: a compressed event is too large").with("bytes", length));
    }
    let mut unpacked = Vec::new();
    flate2::read::ZlibDecoder::new(bytes.0)
        .take(length)
        .read_to_end(&mut unpacked)
        .map_err(|e| Error::new(ErrorKind::DataInvalid, "cdc: a compressed event cannot be unpacked").caused_by(e))?;
    Ok(unpacked)
}

/// A QUERY_COMPRESSED_EVENT: its text is compressed, all before it is not.
fn compressed_statement(body: &[u8]) -> Result<(String, String)> {
    let mut bytes = Bytes(body);
    bytes.take(8)?;
    let database = usize::from(bytes.u8()?);
    bytes.u16()?;
    let status = usize::from(bytes.u16()?);
    bytes.take(status + database + 1)?;
    let plain = body.len() - bytes.0.len();
    let mut whole = body.get(..plain).unwrap_or_default().to_vec();
    whole.extend(unpack(bytes.0)?);
    statement::parse(&whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_go_on_beyond_four_gigabytes() {
        assert_eq!(behind(100, 200), 200);
        assert_eq!(behind(u64::from(u32::MAX) - 5, 10), (1 << 32) + 10);
        assert_eq!(behind((1 << 32) + 10, 20), (1 << 32) + 20);
    }
}
