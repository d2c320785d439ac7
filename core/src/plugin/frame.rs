//! Frames: what both sides of a pipe write and read.
//!
//! ```text
//! u32 length of the body, little endian | u8 kind | body
//! ```
//! Kind 0 is one JSON object, kind 1 an Arrow IPC stream that belongs to the JSON frame right before it.

use std::io::{ErrorKind as Io, Read, Write};

use arrow_buffer::Buffer;
use serde::Serialize;

use crate::{Error, ErrorKind, Result};

/// The largest body of a frame.
pub const MAX_BODY: usize = 64 << 20;

const JSON: u8 = 0;
const ARROW: u8 = 1;

/// A frame as it was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// One JSON object.
    Json(Vec<u8>),
    /// An Arrow IPC stream.
    Arrow(Vec<u8>),
}

/// Reads the next frame; `None` at the end of the pipe.
///
/// # Errors
/// [`ErrorKind::DataInvalid`] and [`ErrorKind::LimitExceeded`] name the rule that the other side broke;
/// [`ErrorKind::Unavailable`] when the pipe ends inside a frame.
pub fn read(from: &mut impl Read) -> Result<Option<Frame>> {
    let mut header = [0; 5];
    let mut filled = 0;
    while filled < header.len() {
        match from.read(&mut header[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(cut_short()),
            Ok(more) => filled += more,
            Err(error) if error.kind() == Io::Interrupted => {}
            Err(error) => return Err(cut_short().caused_by(error)),
        }
    }
    let [a, b, c, d, kind] = header;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if header.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\r' | b'\t')) {
        return Err(Error::new(ErrorKind::DataInvalid, "stdout carries frames alone, and a text came")
            .hint("print to stderr: stdout belongs to the frames"));
    }
    if kind != JSON && kind != ARROW {
        return Err(Error::new(ErrorKind::DataInvalid, "a frame is of kind 0 or 1").with("kind", kind));
    }
    if length > MAX_BODY {
        let error = Error::new(ErrorKind::LimitExceeded, "a frame holds at most 64 MiB");
        return Err(error.with("bytes", length).hint("send fewer rows in one batch"));
    }
    // Not filled with zeros first: memory is taken as bytes arrive.
    let mut body = Vec::with_capacity(length);
    from.take(length as u64).read_to_end(&mut body).map_err(|e| cut_short().caused_by(e))?;
    if body.len() < length {
        return Err(cut_short());
    }
    Ok(Some(if kind == JSON { Frame::Json(body) } else { Frame::Arrow(body) }))
}

fn cut_short() -> Error {
    Error::new(ErrorKind::Unavailable, "the pipe ended inside a frame")
}

/// What is written in one go: a JSON frame, and the Arrow frame that belongs to it.
#[derive(Debug, Clone)]
pub struct Message {
    json: Vec<u8>,
    data: Option<Arrow>,
}

/// An encoded Arrow IPC stream, in pieces that need not be copied together.
#[derive(Debug, Clone)]
pub struct Arrow {
    pieces: Vec<Buffer>,
    length: usize,
}

impl Arrow {
    /// Takes the pieces of one stream, in order.
    pub fn new(pieces: Vec<Buffer>) -> Self {
        let length = pieces.iter().map(Buffer::len).sum();
        Self { pieces, length }
    }

    /// The pieces.
    pub fn pieces(&self) -> &[Buffer] {
        &self.pieces
    }

    /// Bytes of all pieces.
    pub fn length(&self) -> usize {
        self.length
    }
}

impl Message {
    /// A message without rows.
    ///
    /// # Errors
    /// [`ErrorKind::LimitExceeded`] above 64 MiB.
    pub fn new(json: &impl Serialize) -> Result<Self> {
        let json = serde_json::to_vec(json)
            .map_err(|e| Error::unexpected("cannot write a message of the plug-in protocol as JSON").caused_by(e))?;
        if json.len() > MAX_BODY {
            return Err(Error::new(ErrorKind::LimitExceeded, "an answer is larger than 64 MiB")
                .with("bytes", json.len())
                .hint("select fewer streams at a time"));
        }
        Ok(Self { json, data: None })
    }

    /// Adds the Arrow frame; it is at most 64 MiB.
    #[must_use]
    pub fn with(mut self, data: Arrow) -> Self {
        self.data = Some(data);
        self
    }

    /// What it takes of the credit of its call: the bodies of its frames.
    pub fn cost(&self) -> u64 {
        (self.json.len() + self.data.as_ref().map_or(0, Arrow::length)) as u64
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write(&self, to: &mut impl Write) -> std::io::Result<()> {
        to.write_all(&header(self.json.len(), JSON)?)?;
        to.write_all(&self.json)?;
        if let Some(data) = &self.data {
            to.write_all(&header(data.length, ARROW)?)?;
            for piece in &data.pieces {
                to.write_all(piece)?;
            }
        }
        Ok(())
    }
}

fn header(length: usize, kind: u8) -> std::io::Result<[u8; 5]> {
    let length = u32::try_from(length).map_err(|_| std::io::Error::other("a frame is larger than 4 GiB"))?;
    let [a, b, c, d] = length.to_le_bytes();
    Ok([a, b, c, d, kind])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(bytes: &[u8]) -> String {
        format!("{:?}", read(&mut &*bytes).expect_err("no frame"))
    }

    #[test]
    fn frames_read_back_as_written() {
        let mut pipe = Vec::new();
        let arrow = Arrow::new(vec![Buffer::from(vec![1_u8, 2]), Buffer::from(vec![3_u8])]);
        let message = Message::new(&serde_json::json!({"type": "rows"})).expect("small").with(arrow);
        assert_eq!(message.cost(), 18);
        message.write(&mut pipe).expect("written");
        let mut pipe = pipe.as_slice();
        assert_eq!(read(&mut pipe).expect("a frame"), Some(Frame::Json(br#"{"type":"rows"}"#.to_vec())));
        assert_eq!(read(&mut pipe).expect("a frame"), Some(Frame::Arrow(vec![1, 2, 3])));
        assert_eq!(read(&mut pipe).expect("the end"), None);
    }

    #[test]
    fn what_is_no_frame_is_refused_with_the_rule() {
        assert!(error(b"Hello, world\n").starts_with("DataInvalid: stdout carries frames alone"));
        assert!(error(&[1, 0, 0, 0, 7, 0]).starts_with("DataInvalid: a frame is of kind 0 or 1 (kind 7)"));
        assert!(error(&[1, 0, 0, 4, 0]).starts_with("LimitExceeded: a frame holds at most 64 MiB (bytes 67108865)"));
        assert!(error(&[9, 0, 0, 0, 0, 1]).starts_with("Unavailable: the pipe ended inside a frame"));
        assert!(error(&[9, 0]).starts_with("Unavailable: the pipe ended inside a frame"));
    }
}
