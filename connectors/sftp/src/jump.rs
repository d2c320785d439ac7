//! A connection through a server in between.
//!
//! The library wants a socket for each session. So the channel that the first server opens is joined to one end of a
//! pair of sockets, and the second session is given the other end.

use std::io::{ErrorKind as IoErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use ingest_core::{Error, ErrorKind, Result};
use ssh2::{BlockDirections, Channel, Session};
use tokio::io::Interest;
use tokio::runtime::Handle;

use crate::client::failed;
use crate::config::Login;

/// Bytes that wait in each direction at most.
const BUFFER: usize = 64 << 10;

/// Opens a way through `session`, whose socket `line` is a copy of, to another server.
pub fn through(session: Session, line: TcpStream, to: &Login, handle: &Handle) -> Result<UnixStream> {
    let channel = session.channel_direct_tcpip(&to.host, to.port, None).map_err(|e| {
        failed(&e, "the jump host cannot reach the server")
            .with("host", &to.host)
            .hint("check `host`, and whether the jump host forwards (AllowTcpForwarding)")
    })?;
    let broken = |e: std::io::Error| {
        Error::new(ErrorKind::Unavailable, "cannot carry a connection through the jump host").caused_by(e)
    };
    let (near, far) = UnixStream::pair().map_err(broken)?;
    near.set_nonblocking(true).map_err(broken)?;
    line.set_nonblocking(true).map_err(broken)?;
    session.set_blocking(false);
    // The two belong to the runtime's reactor, which must be entered to take them.
    let entered = handle.enter();
    let near = tokio::net::UnixStream::from_std(near).map_err(broken)?;
    let line = tokio::net::TcpStream::from_std(line).map_err(broken)?;
    drop(entered);
    handle.spawn(async move {
        let mut ends = Ends { session, channel, near, inward: Buffer::new(), outward: Buffer::new() };
        if let Err(error) = carry(&mut ends, &line).await {
            tracing::debug!(%error, "a connection through a jump host ended");
        }
    });
    Ok(far)
}

/// What bytes are carried between: a channel, and the socket of the session within. The channel goes before its session.
struct Ends {
    channel: Channel,
    session: Session,
    near: tokio::net::UnixStream,
    inward: Buffer,
    outward: Buffer,
}

/// What came of trying to move bytes.
#[derive(PartialEq, Eq)]
enum Step {
    Moved,
    Still,
    End,
}

/// Carries bytes until either end closes. `line` is the socket below the outer session.
async fn carry(ends: &mut Ends, line: &tokio::net::TcpStream) -> std::io::Result<()> {
    loop {
        match ends.step()? {
            Step::End => return Ok(()),
            Step::Moved => continue,
            Step::Still => {}
        }
        let mut interest = Interest::READABLE;
        if matches!(ends.session.block_directions(), BlockDirections::Outbound | BlockDirections::Both) {
            interest |= Interest::WRITABLE;
        }
        // The library uses the socket behind the runtime's back: a try within the runtime tells it that nothing is left.
        let again = line.try_io(interest, || match ends.step()? {
            Step::Still => Err(IoErrorKind::WouldBlock.into()),
            step => Ok(step),
        });
        match again {
            Ok(Step::End) => return Ok(()),
            Ok(_) => continue,
            Err(e) if e.kind() == IoErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        let near = match (ends.inward.is_empty(), ends.outward.is_empty()) {
            (true, true) => Some(Interest::READABLE),
            (false, true) => Some(Interest::READABLE | Interest::WRITABLE),
            (false, false) => Some(Interest::WRITABLE),
            (true, false) => None,
        };
        tokio::select! {
            ready = ends.near.ready(near.unwrap_or(Interest::READABLE)), if near.is_some() => ready.map(|_| ())?,
            ready = line.ready(interest) => ready.map(|_| ())?,
        }
    }
}

impl Ends {
    fn step(&mut self) -> std::io::Result<Step> {
        let mut step = Step::Still;
        if self.inward.is_empty() {
            match self.inward.fill(|into| self.channel.read(into))? {
                Some(0) if self.channel.eof() => return Ok(Step::End),
                Some(count) if count > 0 => step = Step::Moved,
                _ => {}
            }
        }
        if !self.inward.is_empty() && self.inward.drain(|bytes| self.near.try_write(bytes))? {
            step = Step::Moved;
        }
        if self.outward.is_empty() {
            match self.outward.fill(|into| self.near.try_read(into))? {
                Some(0) => return Ok(Step::End),
                Some(_) => step = Step::Moved,
                None => {}
            }
        }
        if !self.outward.is_empty() && self.outward.drain(|bytes| self.channel.write(bytes))? {
            step = Step::Moved;
        }
        Ok(step)
    }
}

/// Bytes on their way.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    fn new() -> Self {
        Self { bytes: vec![0; BUFFER], start: 0, end: 0 }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Takes bytes in; `None` = there are none now.
    fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> std::io::Result<usize>) -> std::io::Result<Option<usize>> {
        match read(&mut self.bytes) {
            Ok(count) => {
                (self.start, self.end) = (0, count);
                Ok(Some(count))
            }
            Err(e) if e.kind() == IoErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Gives bytes away; false = nobody takes any now.
    fn drain(&mut self, write: impl FnOnce(&[u8]) -> std::io::Result<usize>) -> std::io::Result<bool> {
        match write(self.bytes.get(self.start..self.end).unwrap_or_default()) {
            Ok(count) => {
                self.start += count;
                Ok(count > 0)
            }
            Err(e) if e.kind() == IoErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e),
        }
    }
}
