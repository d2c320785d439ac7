//! A connection: PostgreSQL's protocol version 3 ("Frontend/Backend Protocol" in the manual), as far as reading needs it.
//!
//! A driver for everyday queries hands out every row as a message of its own, which costs more than decoding it. Here
//! all frames of a COPY are walked in the one buffer into which the socket was read.

mod login;
mod replication;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ingest_core::{Error, ErrorKind, Result};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::faults::Fault;
use crate::server::{Server, Socket};

/// Room for the frames of one read. Grows to the largest frame, and back.
const BUFFER: usize = 256 << 10;
/// Limit of every frame that is not a row.
const MESSAGE: usize = 16 << 20;
/// Limit of the answer to one query of the catalog.
const ANSWER: usize = 256 << 20;
/// With less than this in `timeout`, the server counts as silent: a trickle is no answer.
const TRICKLE: usize = 1 << 10;

/// One row of a query's answer, as text.
pub(crate) type Row = Vec<Option<String>>;

/// A column of a statement's answer, as the server describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) type_modifier: i32,
}

/// What the buffer holds next while a COPY runs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CopyStep {
    /// Payload of a CopyData frame: a place in [`Connection::buffered`].
    Data(Range<usize>),
    /// Nothing whole: [`Connection::fill`] first.
    NeedMore,
    /// The server said that all is out, and how many rows that was.
    End { rows: u64 },
}

/// A connection that is logged in.
pub(crate) struct Connection {
    server: Arc<Server>,
    socket: Box<dyn Socket>,
    buffer: Vec<u8>,
    /// What lies before is no longer needed.
    floor: usize,
    /// What lies before was parsed.
    next: usize,
    /// What lies before was read from the socket.
    end: usize,
    /// Size of the frame at `next`, where its header is known.
    wanted: usize,
    waited: Duration,
    got: usize,
    /// Process id and key: what a cancel request names.
    backend: Option<(i32, i32)>,
    version: u32,
    encoding: String,
    running: bool,
    copied: Option<u64>,
    copy_done: bool,
    role: Role,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Reads tables. Asks on a second connection whether a silent statement is at work.
    Reader,
    /// Asks that, and so never asks itself.
    Probe,
    /// Reads the change log.
    Replication,
}

impl Connection {
    /// Logs in on a fresh socket.
    pub(crate) async fn login(server: Arc<Server>, socket: Box<dyn Socket>, role: Role) -> Result<Self> {
        let mut connection = Self {
            server,
            socket,
            buffer: vec![0; BUFFER],
            floor: 0,
            next: 0,
            end: 0,
            wanted: 0,
            waited: Duration::ZERO,
            got: 0,
            backend: None,
            version: 0,
            encoding: String::new(),
            running: false,
            copied: None,
            copy_done: false,
            role,
        };
        connection.start_up().await?;
        connection.authenticate().await?;
        connection.settle().await?;
        let mut session = connection.server.session();
        if connection.encoding == "SQL_ASCII" {
            // The server cannot convert what it does not know, and would refuse the rows: they come as they are.
            session.push_str("; SET client_encoding TO 'SQL_ASCII'");
        }
        connection.query(&session).await?;
        Ok(connection)
    }

    /// The server's version as in `server_version_num`: 150018 for 15.18.
    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    /// The number of our process at the server, which no other session has.
    pub(crate) fn pid(&self) -> i32 {
        self.backend.map_or(0, |(pid, _)| pid)
    }

    /// The part of the buffer that [`CopyStep::Data`] points into.
    pub(crate) fn buffered(&self) -> &[u8] {
        &self.buffer
    }

    /// Says that nothing before the place where parsing stands is needed any more.
    pub(crate) fn release(&mut self) {
        self.floor = self.next;
    }

    /// Whether what the buffer holds must be decoded and released before it is filled again: there is much of it, or it
    /// would have to move.
    pub(crate) fn is_crowded(&self) -> bool {
        self.next - self.floor >= BUFFER / 2 || self.lacks_room()
    }

    /// Whether the frame at hand, or a good read, does not fit behind what is there.
    fn lacks_room(&self) -> bool {
        self.buffer.len() - self.next < self.wanted.max(BUFFER / 8)
    }

    /// Runs statements and gives the rows of all of them.
    pub(crate) async fn query(&mut self, sql: &str) -> Result<Vec<Row>> {
        let mut message = bytes::BytesMut::with_capacity(sql.len() + 8);
        frontend::query(sql, &mut message).map_err(|e| Error::unexpected("cannot write a query").caused_by(e))?;
        self.send(&message).await?;
        self.answer().await
    }

    /// Reads the answer to one query: rows until the server is ready again.
    pub(crate) async fn answer(&mut self) -> Result<Vec<Row>> {
        let (mut rows, mut fault, mut size) = (Vec::new(), None, 0);
        loop {
            let (tag, body) = self.message().await?;
            match tag {
                b'D' => {
                    size += body.len();
                    if size > ANSWER {
                        return Err(Error::new(ErrorKind::LimitExceeded, "the server's catalog is too large")
                            .with("bytes", size)
                            .hint("select fewer streams"));
                    }
                    rows.push(text_row(&self.buffer[body])?);
                }
                b'E' => fault = fault.or(Some(Fault::parse(&self.buffer[body]))),
                b'Z' => {
                    self.running = false;
                    return match fault {
                        Some(fault) => Err(fault.error("the server refused a query")),
                        None => Ok(rows),
                    };
                }
                _ => {}
            }
        }
    }

    /// Sends a COPY in a transaction of its own, all in one trip to the server. [`Connection::answer`] then gives the
    /// answer to `begin`, [`Connection::copy_answer`] the rest.
    ///
    /// `select` is described before it is copied, which also locks its tables against changes, so the description is
    /// that of the copied rows. The extended protocol takes one statement at a time: nothing in a row filter can add
    /// another.
    pub(crate) async fn send_copy(&mut self, begin: &str, select: &str) -> Result<()> {
        let copy = format!("COPY (\n{select}\n) TO STDOUT (FORMAT binary)");
        let mut message = bytes::BytesMut::with_capacity(select.len() * 2 + begin.len() + 128);
        let written = (|| {
            frontend::query(begin, &mut message)?;
            frontend::parse("", select, [], &mut message)?;
            frontend::describe(b'S', "", &mut message)?;
            frontend::sync(&mut message);
            frontend::parse("", &copy, [], &mut message)?;
            // Bind without parameters, results in text: a COPY has neither.
            message.extend_from_slice(b"B\x00\x00\x00\x0c\0\0\0\0\0\0\0\0");
            frontend::execute("", 0, &mut message)?;
            frontend::sync(&mut message);
            frontend::query("COMMIT", &mut message)
        })();
        written.map_err(|e: std::io::Error| Error::unexpected("cannot write a query").caused_by(e))?;
        (self.copied, self.copy_done) = (None, false);
        self.send(&message).await
    }

    /// Reads what comes before the rows of a COPY: the description of its columns.
    pub(crate) async fn copy_answer(&mut self) -> Result<Vec<Described>> {
        self.running = true;
        let described = self.description().await?;
        loop {
            let (tag, body) = self.message().await?;
            match tag {
                b'H' => return Ok(described),
                b'E' => return Err(Fault::parse(&self.buffer[body]).error("the server refused to copy")),
                b'1' | b'2' | b'S' | b'N' => {}
                _ => return Err(broken("an answer that does not belong to a copy")),
            }
        }
    }

    async fn description(&mut self) -> Result<Vec<Described>> {
        let (mut described, mut fault) = (Vec::new(), None);
        loop {
            let (tag, body) = self.message().await?;
            match tag {
                b'T' => described = row_description(&self.buffer[body])?,
                b'E' => fault = fault.or(Some(Fault::parse(&self.buffer[body]))),
                b'Z' => {
                    return match fault {
                        Some(fault) => Err(fault.error("the server refused to read the table")),
                        None => Ok(described),
                    };
                }
                _ => {}
            }
        }
    }

    /// The next step of a COPY, from what is in the buffer.
    pub(crate) fn copy_step(&mut self) -> Result<CopyStep> {
        while let Some((tag, body)) = self.frame()? {
            match tag {
                b'd' => return Ok(CopyStep::Data(body)),
                b'c' => self.copy_done = true,
                b'C' => {
                    let tag = &self.buffer[body];
                    if let Some(count) = tag.strip_prefix(b"COPY ").and_then(|rest| rest.strip_suffix(b"\0")) {
                        self.copied = std::str::from_utf8(count).ok().and_then(|count| count.parse().ok());
                    } else if tag == b"COMMIT\0"
                        && self.copy_done
                        && let Some(rows) = self.copied
                    {
                        return Ok(CopyStep::End { rows });
                    } else {
                        return Err(broken("a copy without its end"));
                    }
                }
                b'E' => return Err(Fault::parse(&self.buffer[body]).error("the server ended the copy")),
                b'Z' | b'S' | b'N' | b'A' => {}
                _ => return Err(broken("an answer that does not belong to a copy")),
            }
        }
        Ok(CopyStep::NeedMore)
    }

    /// Reads the answer's last frame after [`CopyStep::End`], so that the connection can be used again.
    pub(crate) async fn finish_copy(&mut self) -> Result<()> {
        self.release();
        loop {
            if let (b'Z', _) = self.message().await? {
                self.running = false;
                self.release();
                return Ok(());
            }
        }
    }

    /// Says good-bye, so that the server does not log a lost connection.
    pub(crate) async fn close(mut self) {
        let mut message = bytes::BytesMut::new();
        frontend::terminate(&mut message);
        self.running = false;
        // The connection ends in any case.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.socket.write_all(&message)).await;
    }

    async fn send(&mut self, message: &[u8]) -> Result<()> {
        self.running = true;
        (self.waited, self.got) = (Duration::ZERO, 0);
        let timeout = self.server.config().timeout.0;
        match tokio::time::timeout(timeout, self.socket.write_all(message)).await {
            Ok(written) => written.map_err(lost),
            Err(_) => Err(Error::new(ErrorKind::Timeout, "the server takes no statement").exhausted()),
        }
    }

    /// The next message of an answer that is not a COPY.
    async fn message(&mut self) -> Result<(u8, Range<usize>)> {
        loop {
            self.release();
            if let Some(frame) = self.frame()? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// Takes the next whole frame out of the buffer: type byte, length in 4 bytes that counts itself, body.
    fn frame(&mut self) -> Result<Option<(u8, Range<usize>)>> {
        let header = &self.buffer[self.next..self.end];
        let [tag, a, b, c, d, ..] = *header else {
            self.wanted = 5;
            return Ok(None);
        };
        let length = usize::try_from(i32::from_be_bytes([a, b, c, d])).unwrap_or(0);
        if length < 4 {
            return Err(broken("a frame of negative length"));
        }
        let limit = if matches!(tag, b'd' | b'D') {
            usize::try_from(self.server.config().max_row_bytes.0).unwrap_or(usize::MAX)
        } else {
            MESSAGE
        };
        if length > limit {
            return Err(Error::new(ErrorKind::LimitExceeded, "a row is larger than `max_row_bytes`")
                .with("bytes", length)
                .with("limit", limit)
                .hint("raise `max_row_bytes`, or leave the large column out with `columns`"));
        }
        if header.len() <= length {
            self.wanted = length + 1;
            return Ok(None);
        }
        let body = self.next + 5..self.next + 1 + length;
        self.next = body.end;
        Ok(Some((tag, body)))
    }

    /// Reads more from the socket. What lies after the floor may move: places from before are void.
    pub(crate) async fn fill(&mut self) -> Result<()> {
        self.make_room();
        loop {
            let allowed = self.server.config().timeout.0.saturating_sub(self.waited);
            let started = Instant::now();
            let read = tokio::time::timeout(allowed, self.socket.read(&mut self.buffer[self.end..])).await;
            self.waited += started.elapsed();
            match read {
                Ok(Ok(0)) => {
                    return Err(Error::new(ErrorKind::Unavailable, "the server closed the connection")
                        .hint("it may be restarting, or something between it and here cut the connection"));
                }
                Ok(Ok(count)) => {
                    self.end += count;
                    self.got += count;
                    if self.got >= TRICKLE {
                        (self.waited, self.got) = (Duration::ZERO, 0);
                    }
                    return Ok(());
                }
                Ok(Err(error)) => return Err(lost(error)),
                Err(_) => {
                    self.expect_alive().await?;
                    (self.waited, self.got) = (Duration::ZERO, 0);
                }
            }
        }
    }

    fn make_room(&mut self) {
        let needed = self.wanted.max(BUFFER / 8);
        if self.floor == self.end || self.lacks_room() {
            self.buffer.copy_within(self.floor..self.end, 0);
            self.next -= self.floor;
            self.end -= self.floor;
            self.floor = 0;
        }
        let least = (self.next + needed).max(BUFFER);
        if self.buffer.len() < least {
            self.buffer.resize(least, 0);
        } else if self.buffer.len() > 4 * BUFFER && least <= BUFFER && self.end <= BUFFER {
            // A huge row has passed: give its room back.
            self.buffer.truncate(BUFFER);
            self.buffer.shrink_to_fit();
        }
    }

    /// After a silence: looks on a second connection whether the statement is at work. Silence of a sort or a sparse
    /// filter is fine; a server that waits for us to read, while nothing arrives, is not.
    async fn expect_alive(&mut self) -> Result<()> {
        let silent = || {
            Error::new(ErrorKind::Timeout, "the server is silent")
                .with("timeout", self.server.config().timeout)
                .hint("the network or a proxy holds the connection without passing data; raise `timeout` only for slow links")
                .exhausted()
        };
        let (Some((pid, _)), true) = (self.backend, self.role != Role::Probe) else { return Err(silent()) };
        let sql = format!(
            "SELECT 1 FROM pg_catalog.pg_stat_activity WHERE pid = {pid} AND state = 'active' \
             AND wait_event_type IS DISTINCT FROM 'Client'"
        );
        // Boxed, because connecting reads frames too.
        let asked = Box::pin(async {
            let mut probe = self.server.connect_as(Role::Probe).await?;
            let rows = probe.query(&sql).await?;
            probe.close().await;
            Ok::<_, Error>(rows)
        });
        match asked.await {
            Ok(rows) if !rows.is_empty() => Ok(()),
            Ok(_) => Err(silent()),
            Err(error) => Err(silent().caused_by(error)),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A backend in a long sort would not notice for minutes that nobody reads its answer.
        if let (true, Some((pid, key)), Ok(runtime)) =
            (self.running, self.backend, tokio::runtime::Handle::try_current())
        {
            let server = self.server.clone();
            runtime.spawn(async move { server.cancel(pid, key).await });
        }
    }
}

pub(crate) fn broken(what: &str) -> Error {
    Error::new(ErrorKind::DataInvalid, format!("the server sent {what}"))
}

/// A fault of the socket.
pub(crate) fn lost(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "the connection to the server is lost").caused_by(error)
}

fn text_row(body: &[u8]) -> Result<Row> {
    let mut reader = Reader(body);
    let count = reader.u16()?;
    let mut row = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        row.push(match usize::try_from(reader.i32()?) {
            Err(_) => None,
            Ok(length) => Some(String::from_utf8_lossy(reader.take(length)?).into_owned()),
        });
    }
    Ok(row)
}

fn row_description(body: &[u8]) -> Result<Vec<Described>> {
    let mut reader = Reader(body);
    let count = reader.u16()?;
    let mut columns = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let name = reader.text()?;
        // The table's oid, the column's number; after the type its size and, last, the format.
        reader.take(4 + 2)?;
        let type_oid = reader.i32()?.cast_unsigned();
        reader.take(2)?;
        let type_modifier = reader.i32()?;
        reader.take(2)?;
        columns.push(Described { name, type_oid, type_modifier });
    }
    Ok(columns)
}

/// Reads big-endian numbers and stretches of a message; never past its end.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(|| broken("a message that is cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or_else(|| broken("a message that is cut short"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A text that ends with a zero byte.
    pub(crate) fn text(&mut self) -> Result<String> {
        let end = self.0.iter().position(|b| *b == 0).ok_or_else(|| broken("a name without an end"))?;
        let text = String::from_utf8_lossy(self.take(end)?).into_owned();
        self.take(1)?;
        Ok(text)
    }

    /// A field of an array, composite, range or hstore: length or -1, then so many bytes.
    pub(crate) fn field(&mut self) -> Result<Option<&'a [u8]>> {
        match usize::try_from(self.i32()?) {
            Err(_) => Ok(None),
            Ok(length) => self.take(length).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_message_is_an_error() {
        assert!(text_row(&[0, 1, 0, 0, 0, 9, b'a']).is_err());
        assert!(row_description(&[0, 1, b'a']).is_err());
        assert_eq!(text_row(&[0, 1, 255, 255, 255, 255]).expect("a row"), vec![None]);
    }
}
