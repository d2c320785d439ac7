//! From the bytes of a file to decompressed bytes and to UTF-8, within limits.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use encoding_rs::{DecoderResult, Encoding, UTF_8, UTF_16BE, UTF_16LE};
use ingest_core::config::ByteSize;

use crate::options::{Compression, Format, StreamOptions};
use crate::store::{Fault, Reading};

/// Bytes that are asked for at once.
pub const CHUNK: usize = 256 << 10;
/// Bytes in which an XML document declares its encoding.
const DECLARATION: u64 = 1 << 10;
/// Below this, a file may decompress at any ratio.
const FREE: u64 = 64 << 20;

/// Ceilings on what a file may make of us.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one record.
    pub record: usize,
    /// Decompressed bytes for each byte of the file.
    pub ratio: u64,
    /// Decompressed bytes of one file.
    pub decompressed: u64,
}

impl Limits {
    /// The ceilings of a configuration.
    pub fn new(max_record: ByteSize, max_ratio: u64, max_decompressed: ByteSize) -> Self {
        Self {
            record: usize::try_from(max_record.0).unwrap_or(usize::MAX).clamp(1 << 10, 1 << 30),
            ratio: max_ratio.max(1),
            decompressed: max_decompressed.0,
        }
    }

    /// What a file of so many bytes may decompress to.
    pub(crate) fn ceiling(&self, size: u64) -> u64 {
        self.decompressed.min(size.saturating_mul(self.ratio).max(FREE))
    }
}

/// A file as decompressed bytes.
pub struct Input {
    read: Box<dyn Read + Send>,
    plain: bool,
}

impl Input {
    /// Opens a file and looks at its first bytes.
    pub fn open(reading: &Reading, options: &StreamOptions, limits: Limits) -> Result<Self, Fault> {
        let (head, rest) = peek(reading.bytes(0)?, 4)?;
        let raw = Cursor::new(head.clone()).chain(rest);
        let compression = match options.compression {
            Compression::Auto => sniff(&head),
            given => given,
        };
        let buffered = |raw| BufReader::with_capacity(CHUNK, raw);
        let read: Box<dyn Read + Send> = match compression {
            // Its readers ask for much at once, or have a buffer of their own.
            Compression::Auto | Compression::None => return Ok(Self { read: Box::new(raw), plain: true }),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered(raw))),
            Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(buffered(raw))),
            Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(buffered(raw))?),
        };
        let ceiling = limits.ceiling(reading.file.size);
        Ok(Self { read: Box::new(Guard { read, left: ceiling, ceiling }), plain: false })
    }
}

impl Read for Input {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.read.read(into)
    }
}

/// A file as UTF-8 text, without its byte order mark. Bytes that are no text come through as bytes that are no UTF-8, so
/// that the record they stand in is found.
pub struct Text {
    read: Box<dyn Read + Send>,
    /// Bytes before the first one of the text, where text and file are the same bytes.
    start: Option<u64>,
    read_so_far: u64,
}

impl Text {
    /// Opens a file as text.
    pub fn open(reading: &Reading, options: &StreamOptions, limits: Limits) -> Result<Self, Fault> {
        let input = Input::open(reading, options, limits)?;
        let plain = input.plain;
        let declares = options.format == Format::Xml && options.encoding.is_none();
        let (head, rest) = peek(input, if declares { DECLARATION } else { 3 })?;
        let (encoding, bom) = match Encoding::for_bom(&head) {
            Some((encoding, bom)) => (encoding, bom),
            None if declares => (declared(&head)?, 0),
            None => (options.encoding.unwrap_or(UTF_8), 0),
        };
        let bytes = Cursor::new(head.get(bom..).unwrap_or_default().to_vec()).chain(rest);
        if encoding == UTF_8 {
            let start = plain.then_some(bom as u64);
            return Ok(Self { read: Box::new(bytes), start, read_so_far: 0 });
        }
        let decode = Decode {
            read: BufReader::with_capacity(CHUNK, bytes),
            decoder: encoding.new_decoder_without_bom_handling(),
            ready: Vec::new(),
            at: 0,
            done: false,
        };
        Ok(Self { read: Box::new(decode), start: None, read_so_far: 0 })
    }

    /// Goes to an offset that lies ahead.
    pub fn skip_to(&mut self, reading: &Reading, offset: u64) -> Result<(), Fault> {
        if let Some(start) = self.start {
            self.read = reading.bytes(start + offset)?;
        } else {
            let ahead = offset.saturating_sub(self.read_so_far);
            if io::copy(&mut (&mut *self).take(ahead), &mut io::sink())? < ahead {
                return Err(Fault::Changed);
            }
        }
        self.read_so_far = offset;
        Ok(())
    }
}

impl Read for Text {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.read.read(into)?;
        self.read_so_far += count as u64;
        Ok(count)
    }
}

/// The encoding that the first line of an XML document declares.
fn declared(head: &[u8]) -> Result<&'static Encoding, Fault> {
    let end = memchr::memmem::find(head, b"?>").unwrap_or(0);
    let declaration = match head {
        [b'<', 0, b'?', 0, ..] => return Ok(UTF_16LE),
        [0, b'<', 0, b'?', ..] => return Ok(UTF_16BE),
        [b'<', b'?', b'x', b'm', b'l', ..] => head.get(..end).unwrap_or_default(),
        _ => return Ok(UTF_8),
    };
    let declaration = String::from_utf8_lossy(declaration);
    let value = declaration.split_once("encoding").and_then(|(_, rest)| rest.trim_start().strip_prefix('='));
    let Some(label) = value.and_then(|value| value.split(['"', '\'']).nth(1)) else { return Ok(UTF_8) };
    match Encoding::for_label(label.as_bytes()) {
        // It is read as bytes of one character each: the declaration was left as it stood in another encoding.
        Some(encoding) if encoding == UTF_16LE || encoding == UTF_16BE => Ok(UTF_8),
        Some(encoding) => Ok(encoding),
        None => Err(Fault::Damaged("it declares an encoding that is not known; say in `encoding` what it is".into())),
    }
}

/// What the first bytes say about the compression.
fn sniff(head: &[u8]) -> Compression {
    match head {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        // A skippable frame; zstd's own tools begin parallel files with one.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Compression::Bzip2,
        _ => Compression::None,
    }
}

/// Reads up to `count` bytes and gives them back beside the rest.
fn peek<R: Read>(mut read: R, count: u64) -> io::Result<(Vec<u8>, R)> {
    let mut head = Vec::new();
    (&mut read).take(count).read_to_end(&mut head)?;
    Ok((head, read))
}

/// Stops a file that decompresses to more than it may.
struct Guard {
    read: Box<dyn Read + Send>,
    left: u64,
    ceiling: u64,
}

impl Read for Guard {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.read.read(into)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => {
                return Err(Fault::Damaged(format!(
                    "LimitExceeded: it decompresses to more than {} MiB; raise `max_ratio` or `max_decompressed` if that \
                     is meant",
                    self.ceiling >> 20
                ))
                .into());
            }
        }
        Ok(count)
    }
}

/// Text of another encoding as UTF-8.
struct Decode<R> {
    read: BufReader<R>,
    decoder: encoding_rs::Decoder,
    ready: Vec<u8>,
    at: usize,
    done: bool,
}

impl<R: Read> Decode<R> {
    fn fill(&mut self) -> io::Result<()> {
        self.ready.clear();
        self.at = 0;
        let chunk = self.read.fill_buf()?;
        let last = chunk.is_empty();
        self.ready.resize(chunk.len() * 3 + 16, 0);
        let (result, read, written) = self.decoder.decode_to_utf8_without_replacement(chunk, &mut self.ready, last);
        self.read.consume(read);
        self.ready.truncate(written);
        match result {
            DecoderResult::Malformed(_, _) => self.ready.push(0xff),
            DecoderResult::InputEmpty => self.done = last,
            DecoderResult::OutputFull => {}
        }
        Ok(())
    }
}

impl<R: Read> Read for Decode<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.ready.len() && !self.done {
            self.fill()?;
        }
        let ready = self.ready.get(self.at..).unwrap_or_default();
        let count = ready.len().min(into.len());
        into.get_mut(..count).unwrap_or_default().copy_from_slice(ready.get(..count).unwrap_or_default());
        self.at += count;
        Ok(count)
    }
}
