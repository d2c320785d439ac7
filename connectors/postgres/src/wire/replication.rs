//! The replication half of the protocol ("Streaming Replication Protocol" in the manual): a stream of changes in both
//! directions, and values that only the server can print.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ingest_core::{Error, ErrorKind, Result};
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;
use tokio::io::AsyncReadExt;

use super::{Connection, Reader, broken, lost};
use crate::faults::Fault;

/// Microseconds from 1970 to 2000, where PostgreSQL's clock begins.
const EPOCH: u64 = 946_684_800_000_000;

/// How long the server may take to end a stream that is no longer wanted.
const ENDING: Duration = Duration::from_secs(10);

impl Connection {
    /// Starts a stream of changes. [`Connection::stream_frame`] then gives what comes.
    pub(crate) async fn start_stream(&mut self, command: &str) -> Result<()> {
        let mut message = bytes::BytesMut::with_capacity(command.len() + 8);
        frontend::query(command, &mut message).map_err(|e| Error::unexpected("cannot write a query").caused_by(e))?;
        self.send(&message).await?;
        loop {
            let (tag, body) = self.message().await?;
            match tag {
                b'W' => return Ok(()),
                b'E' => return Err(Fault::parse(&self.buffer[body]).error("the server refused to stream changes")),
                b'N' | b'S' | b'A' => {}
                _ => return Err(broken("an answer that does not belong to a stream of changes")),
            }
        }
    }

    /// The next message of a stream: a place in [`Connection::buffered`]. `None`: nothing whole is there, fill first.
    pub(crate) fn stream_frame(&mut self) -> Result<Option<Range<usize>>> {
        self.release();
        while let Some((tag, body)) = self.frame()? {
            match tag {
                b'd' => return Ok(Some(body)),
                b'E' => return Err(Fault::parse(&self.buffer[body]).error("the server ended the stream of changes")),
                b'c' | b'C' | b'Z' => {
                    return Err(Error::new(ErrorKind::Unavailable, "the server ended the stream of changes")
                        .hint("it may be shutting down"));
                }
                b'N' | b'S' | b'A' => {}
                _ => return Err(broken("an answer that does not belong to a stream of changes")),
            }
        }
        Ok(None)
    }

    /// Reads more from the socket, for this long. False: nothing came, which is fine in a stream of changes.
    pub(crate) async fn fill_within(&mut self, wait: Duration) -> Result<bool> {
        self.make_room();
        match tokio::time::timeout(wait, self.socket.read(&mut self.buffer[self.end..])).await {
            Ok(Ok(0)) => Err(Error::new(ErrorKind::Unavailable, "the server closed the connection")
                .hint("it may be restarting, or something between it and here cut the connection")),
            Ok(Ok(count)) => {
                self.end += count;
                Ok(true)
            }
            Ok(Err(error)) => Err(lost(error)),
            Err(_) => Ok(false),
        }
    }

    /// How long a server may be silent.
    pub(crate) fn patience(&self) -> Duration {
        self.server.config().timeout.0
    }

    /// Fails unless the server is at work although it says nothing.
    pub(crate) async fn expect_stream_alive(&mut self) -> Result<()> {
        self.expect_alive().await
    }

    /// Says how far the stream is durable with us (0 = says nothing of it); with `answer`, asks the server how far it is.
    pub(crate) async fn send_status(&mut self, flushed: u64, answer: bool) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_micros());
        let clock = u64::try_from(now).unwrap_or(u64::MAX).saturating_sub(EPOCH);
        let mut message = Vec::with_capacity(39);
        message.push(b'd');
        message.extend_from_slice(&38_u32.to_be_bytes());
        message.push(b'r');
        for lsn in [flushed, flushed, flushed, clock] {
            message.extend_from_slice(&lsn.to_be_bytes());
        }
        message.push(u8::from(answer));
        self.send(&message).await
    }

    /// Ends a stream, so that its slot is free when this returns. The connection can then be used for other commands.
    pub(crate) async fn end_stream(&mut self) -> Result<()> {
        let mut message = bytes::BytesMut::new();
        frontend::copy_done(&mut message);
        self.send(&message).await?;
        let drained = async {
            loop {
                match self.message().await? {
                    (b'E', body) => {
                        return Err(Fault::parse(&self.buffer[body]).error("the server did not end the stream"));
                    }
                    (b'Z', _) => return Ok(()),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(ENDING, drained)
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "the server does not end the stream")))?;
        self.running = false;
        Ok(())
    }

    /// Has the server convert values of a type in binary form, for instance to text by `::pg_catalog.text`. The answers are
    /// in binary form and in the order of the values.
    pub(crate) async fn convert(&mut self, oid: u32, cast: &str, values: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        let places: Vec<String> = (1..=values.len()).map(|i| format!("(${i})")).collect();
        let sql = format!("SELECT v{cast} FROM (VALUES {}) t(v)", places.join(","));
        let mut message = bytes::BytesMut::new();
        let unwritten =
            |e: Box<dyn std::error::Error + Send + Sync>| Error::unexpected("cannot write a query").caused_by(e);
        frontend::parse("", &sql, values.iter().map(|_| oid), &mut message).map_err(|e| unwritten(e.into()))?;
        let bound = frontend::bind(
            "",
            "",
            [1],
            values,
            |value, buffer| {
                buffer.extend_from_slice(value);
                Ok(IsNull::No)
            },
            [1],
            &mut message,
        );
        match bound {
            Ok(()) => {}
            Err(frontend::BindError::Conversion(e)) => {
                return Err(Error::unexpected(format!("cannot write a query: {e}")));
            }
            Err(frontend::BindError::Serialization(e)) => return Err(unwritten(e.into())),
        }
        frontend::execute("", 0, &mut message).map_err(|e| unwritten(e.into()))?;
        frontend::sync(&mut message);
        self.send(&message).await?;
        let (mut converted, mut fault) = (Vec::with_capacity(values.len()), None);
        loop {
            let (tag, body) = self.message().await?;
            match tag {
                b'D' => {
                    let mut reader = Reader(&self.buffer[body]);
                    reader.u16()?;
                    converted.push(reader.field()?.map(<[u8]>::to_vec));
                }
                b'E' => fault = fault.or(Some(Fault::parse(&self.buffer[body]))),
                b'Z' => {
                    self.running = false;
                    return match fault {
                        Some(fault) => Err(fault.error("the server could not convert values of the change log")),
                        None if converted.len() == values.len() => Ok(converted),
                        None => Err(broken("fewer values than it was asked to convert")),
                    };
                }
                _ => {}
            }
        }
    }
}
