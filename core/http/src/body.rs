//! Bodies: collected or read piece by piece, unpacked under ceilings.

use std::io::{self, Write};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::write::MultiGzDecoder;
use ingest_core::{Error, ErrorKind, Result};
use reqwest::Response;
use reqwest::header::{CONTENT_ENCODING, HeaderMap};
use tokio::time::{Instant, timeout};

use crate::Ceilings;
use crate::classify::transport;

/// Ratios are judged only once so much was unpacked: small texts of blanks are no attack.
const RATIO_FROM: u64 = 1 << 20;

/// A download slower than this over a whole minute is given up.
const SLOWEST_PER_MINUTE: u64 = 16 << 10;

/// How much of an error's body is read.
pub(crate) const REFUSAL_BYTES: usize = 64 << 10;

/// Reads a whole body, decoded, within its ceilings.
pub(crate) async fn collect(
    mut response: Response,
    headers: &HeaderMap,
    ceilings: &Ceilings,
    idle: Duration,
) -> Result<Bytes> {
    let Some(mut unpack) = Unpack::of(headers, ceilings.page_bytes as u64, ceilings.gzip_ratio)? else {
        return collect_plain(response, ceilings.page_bytes, idle).await;
    };
    let mut page = BytesMut::new();
    while let Some(chunk) = next_chunk(&mut response, idle).await? {
        unpack.push(&chunk)?;
        page.extend_from_slice(unpack.decoded());
        unpack.clear();
    }
    unpack.finish()?;
    page.extend_from_slice(unpack.decoded());
    Ok(page.freeze())
}

async fn collect_plain(mut response: Response, ceiling: usize, idle: Duration) -> Result<Bytes> {
    let declared = response.content_length().unwrap_or(0);
    if declared > ceiling as u64 {
        return Err(too_large(ceiling as u64));
    }
    let Some(first) = next_chunk(&mut response, idle).await? else { return Ok(Bytes::new()) };
    let too_much = first.len() > ceiling;
    // Most answers to small requests come in one piece: no copy then.
    if too_much || first.len() as u64 == declared {
        return if too_much { Err(too_large(ceiling as u64)) } else { drained(response, first, idle).await };
    }
    let mut page = BytesMut::with_capacity((declared as usize).max(first.len() * 2).min(ceiling));
    page.extend_from_slice(&first);
    while let Some(chunk) = next_chunk(&mut response, idle).await? {
        if page.len() + chunk.len() > ceiling {
            return Err(too_large(ceiling as u64));
        }
        page.extend_from_slice(&chunk);
    }
    Ok(page.freeze())
}

/// Reads the end of a body whose bytes are all here, so that its connection can serve the next request.
async fn drained(mut response: Response, body: Bytes, idle: Duration) -> Result<Bytes> {
    while next_chunk(&mut response, idle).await?.is_some() {}
    Ok(body)
}

/// The start of a body that tells what went wrong. A failure here is not worth an error of its own.
pub(crate) async fn collect_refusal(mut response: Response, idle: Duration) -> Bytes {
    let Ok(Some(mut unpack)) = Unpack::of(response.headers(), REFUSAL_BYTES as u64, u64::MAX) else {
        let mut body = BytesMut::new();
        while let Ok(Some(chunk)) = next_chunk(&mut response, idle).await {
            body.extend_from_slice(&chunk[..chunk.len().min(REFUSAL_BYTES - body.len())]);
            if body.len() == REFUSAL_BYTES {
                break;
            }
        }
        return body.freeze();
    };
    while let Ok(Some(chunk)) = next_chunk(&mut response, idle).await {
        if unpack.push(&chunk).is_err() {
            break;
        }
    }
    // What was unpacked before a fault is as good as it gets.
    let whole = unpack.finish().is_ok();
    tracing::trace!(whole, "read the body of a refusal");
    Bytes::copy_from_slice(unpack.decoded())
}

async fn next_chunk(response: &mut Response, idle: Duration) -> Result<Option<Bytes>> {
    match timeout(idle, response.chunk()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => Err(transport(error, "reading an answer")),
        Err(_) => Err(Error::new(ErrorKind::Timeout, "the source fell silent in the middle of an answer")
            .with("idle_s", idle.as_secs())),
    }
}

fn too_large(ceiling: u64) -> Error {
    Error::new(ErrorKind::LimitExceeded, "an answer is larger than the limit")
        .with("limit_bytes", ceiling)
        .hint("lower `page_size`")
}

/// Unpacks gzip piece by piece and watches the size and the ratio.
struct Unpack {
    decoder: MultiGzDecoder<Bounded>,
    packed: u64,
    ratio: u64,
}

/// Keeps what was decoded, up to a ceiling over the whole body.
struct Bounded {
    bytes: Vec<u8>,
    total: u64,
    ceiling: u64,
    full: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.total += bytes.len() as u64;
        if self.total > self.ceiling {
            self.full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Unpack {
    /// `None` for a body that is not packed.
    fn of(headers: &HeaderMap, ceiling: u64, ratio: u64) -> Result<Option<Self>> {
        let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
        let encoding = match (encodings.next(), encodings.next()) {
            (None, _) => return Ok(None),
            (Some(one), None) => one.to_str().unwrap_or("?").trim().to_ascii_lowercase(),
            _ => "?".to_owned(),
        };
        match encoding.as_str() {
            "identity" => Ok(None),
            "gzip" | "x-gzip" => {
                let sink = Bounded { bytes: Vec::new(), total: 0, ceiling, full: false };
                Ok(Some(Self { decoder: MultiGzDecoder::new(sink), packed: 0, ratio }))
            }
            // We offer gzip alone, so this is a fault of the server, or nested packing, which only an attack uses.
            _ => Err(Error::new(ErrorKind::DataInvalid, "an answer is packed in a way that was not offered")),
        }
    }

    fn push(&mut self, packed: &[u8]) -> Result<()> {
        // Small pieces, so that the ratio is judged before much is unpacked.
        for piece in packed.chunks(4 << 10) {
            self.packed += piece.len() as u64;
            self.decoder.write_all(piece).map_err(|error| self.fault(error))?;
            let total = self.decoder.get_ref().total;
            if total > RATIO_FROM && total / self.ratio > self.packed {
                return Err(Error::new(ErrorKind::LimitExceeded, "an answer unpacks to suspiciously much")
                    .with("limit_ratio", self.ratio)
                    .hint("this is how a decompression bomb looks; ask the source's operator"));
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        if self.packed == 0 {
            return Ok(());
        }
        self.decoder.try_finish().map_err(|error| self.fault(error))
    }

    fn decoded(&self) -> &[u8] {
        &self.decoder.get_ref().bytes
    }

    fn clear(&mut self) {
        self.decoder.get_mut().bytes.clear();
    }

    fn fault(&self, error: io::Error) -> Error {
        let sink = self.decoder.get_ref();
        if sink.full {
            return too_large(sink.ceiling);
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                Error::new(ErrorKind::Unavailable, "an answer ends in the middle of its gzip data")
            }
            _ => Error::new(ErrorKind::DataInvalid, "an answer is not the gzip data it claims to be"),
        }
    }
}

/// A body that is read piece by piece: result files, exports.
///
/// A fault in its middle is an error of its retryable kind, not repeated here: the caller knows where it can go on.
pub struct Download {
    response: Response,
    unpack: Option<Unpack>,
    ceiling: u64,
    read: u64,
    idle: Duration,
    minute: (Instant, u64),
    done: bool,
}

impl Download {
    pub(crate) fn new(response: Response, ceilings: &Ceilings, idle: Duration) -> Result<Self> {
        let unpack = Unpack::of(response.headers(), ceilings.download_bytes, ceilings.gzip_ratio)?;
        let ceiling = ceilings.download_bytes;
        Ok(Self { response, unpack, ceiling, read: 0, idle, minute: (Instant::now(), 0), done: false })
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The length that the server declared, if the body is not packed.
    pub fn length(&self) -> Option<u64> {
        if self.unpack.is_some() { None } else { self.response.content_length() }
    }

    /// The next piece, decoded; `None` at the end, and only there: a connection that breaks is an error.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout` when the connection breaks or is silent; `LimitExceeded` at a ceiling.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        while !self.done {
            let Some(chunk) = next_chunk(&mut self.response, self.idle).await? else {
                self.done = true;
                let Some(unpack) = &mut self.unpack else { return Ok(None) };
                unpack.finish()?;
                return Ok(Self::take(unpack));
            };
            self.watch(chunk.len() as u64)?;
            match &mut self.unpack {
                None => {
                    self.read += chunk.len() as u64;
                    if self.read > self.ceiling {
                        return Err(too_large(self.ceiling));
                    }
                    return Ok(Some(chunk));
                }
                Some(unpack) => {
                    unpack.push(&chunk)?;
                    if let Some(piece) = Self::take(unpack) {
                        return Ok(Some(piece));
                    }
                }
            }
        }
        Ok(None)
    }

    fn take(unpack: &mut Unpack) -> Option<Bytes> {
        let piece = std::mem::take(&mut unpack.decoder.get_mut().bytes);
        (!piece.is_empty()).then(|| piece.into())
    }

    /// A trickle is never silent, so silence alone does not find it.
    fn watch(&mut self, bytes: u64) -> Result<()> {
        self.minute.1 += bytes;
        if self.minute.0.elapsed() < Duration::from_secs(60) {
            return Ok(());
        }
        if self.minute.1 < SLOWEST_PER_MINUTE {
            return Err(Error::new(ErrorKind::Timeout, "a download trickles").with("bytes_per_minute", self.minute.1));
        }
        self.minute = (Instant::now(), 0);
        Ok(())
    }
}
