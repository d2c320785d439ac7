//! The framing of Avro object container files: checked, decompressed within limits, and passed on without a codec.
//!
//! The decoder behind this takes a file that is cut short for a whole one, compares no sync markers and decompresses
//! without a ceiling; so what it gets is whole, in step and plain. Format: <https://avro.apache.org/docs/1.12.0/specification/#object-container-files>.

use std::io::{self, Read};

use crate::store::Fault;

/// Bytes of the header's metadata at most.
const HEADER: usize = 16 << 20;

/// A container file without its compression.
pub struct Blocks<R> {
    read: R,
    codec: Codec,
    sync: [u8; 16],
    /// Bytes that were made and not read yet.
    ready: Vec<u8>,
    at: usize,
    /// Bytes of one decompressed block at most.
    most: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    Null,
    Deflate,
    Snappy,
    Zstandard,
    Bzip2,
}

impl<R: Read> Blocks<R> {
    /// Reads the header.
    pub fn open(read: R, most: u64) -> Result<Self, Fault> {
        let mut blocks = Self { read, codec: Codec::Null, sync: [0; 16], ready: Vec::new(), at: 0, most };
        let mut magic = [0; 4];
        blocks.read.read_exact(&mut magic)?;
        if &magic != b"Obj\x01" {
            return Err(Fault::Damaged("it does not begin as an Avro file does".into()));
        }
        blocks.ready.extend(magic);
        blocks.metadata()?;
        let mut sync = [0; 16];
        blocks.read.read_exact(&mut sync)?;
        blocks.sync = sync;
        blocks.ready.extend(sync);
        Ok(blocks)
    }

    /// Copies the metadata, with the codec replaced by none.
    fn metadata(&mut self) -> Result<(), Fault> {
        loop {
            let count = match self.long()? {
                Some(0) => break,
                Some(count) if count < 0 => {
                    self.long()?;
                    count.unsigned_abs()
                }
                Some(count) => count.unsigned_abs(),
                None => return Err(cut_short()),
            };
            for _ in 0..count {
                let (key, value) = (self.bytes(HEADER as u64)?, self.bytes(HEADER as u64)?);
                if key == b"avro.codec" {
                    self.codec = Codec::of(&value)?;
                    continue;
                }
                put_long(&mut self.ready, 1);
                for text in [key, value] {
                    put_long(&mut self.ready, text.len() as i64);
                    self.ready.extend(text);
                }
                if self.ready.len() > HEADER {
                    return Err(Fault::Damaged("LimitExceeded: its header is larger than 16 MiB".into()));
                }
            }
        }
        put_long(&mut self.ready, 0);
        Ok(())
    }

    /// Makes the next block; false at the end of the file.
    fn block(&mut self) -> Result<bool, Fault> {
        let Some(count) = self.long()? else { return Ok(false) };
        let bytes = self.bytes(self.most)?;
        let mut sync = [0; 16];
        self.read.read_exact(&mut sync)?;
        if sync != self.sync {
            return Err(Fault::Damaged("a block does not end with the sync marker of the file".into()));
        }
        let plain = self.codec.plain(bytes, self.most)?;
        if count < 0 {
            return Err(Fault::Damaged("a block says that it holds less than no record".into()));
        }
        self.ready.clear();
        self.at = 0;
        put_long(&mut self.ready, count);
        put_long(&mut self.ready, plain.len() as i64);
        self.ready.extend(plain);
        self.ready.extend(self.sync);
        Ok(true)
    }

    /// A length and as many bytes. Memory grows with what is there, not with what is claimed.
    fn bytes(&mut self, most: u64) -> Result<Vec<u8>, Fault> {
        let length = self.long()?.ok_or_else(cut_short)?;
        let length = u64::try_from(length).map_err(|_| Fault::Damaged("a length in it is negative".into()))?;
        if length > most {
            return Err(too_large(most));
        }
        let mut bytes = Vec::new();
        (&mut self.read).take(length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == length { Ok(bytes) } else { Err(cut_short()) }
    }

    /// A zigzag number of variable length; `None` at the end of the file.
    fn long(&mut self) -> Result<Option<i64>, Fault> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            if self.read.read(&mut byte)? == 0 {
                return if shift == 0 { Ok(None) } else { Err(cut_short()) };
            }
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(Some((value >> 1) as i64 ^ -((value & 1) as i64)));
            }
        }
        Err(Fault::Damaged("a number in it is longer than ten bytes".into()))
    }
}

impl<R: Read> Read for Blocks<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.ready.len() {
            if !self.block()? {
                return Ok(0);
            }
        }
        let ready = self.ready.get(self.at..).unwrap_or_default();
        let count = ready.len().min(into.len());
        into.get_mut(..count).unwrap_or_default().copy_from_slice(ready.get(..count).unwrap_or_default());
        self.at += count;
        Ok(count)
    }
}

impl Codec {
    fn of(name: &[u8]) -> Result<Self, Fault> {
        match name {
            b"null" | b"" => Ok(Self::Null),
            b"deflate" => Ok(Self::Deflate),
            b"snappy" => Ok(Self::Snappy),
            b"zstandard" => Ok(Self::Zstandard),
            b"bzip2" => Ok(Self::Bzip2),
            other => Err(Fault::Damaged(format!("its codec {} is not known", String::from_utf8_lossy(other)))),
        }
    }

    fn plain(self, bytes: Vec<u8>, most: u64) -> Result<Vec<u8>, Fault> {
        let read_all = |read: &mut dyn Read| {
            let mut plain = Vec::new();
            read.take(most + 1).read_to_end(&mut plain)?;
            if plain.len() as u64 > most { Err(too_large(most)) } else { Ok(plain) }
        };
        match self {
            Self::Null => Ok(bytes),
            Self::Deflate => read_all(&mut flate2::read::DeflateDecoder::new(bytes.as_slice())),
            Self::Zstandard => read_all(&mut zstd::stream::read::Decoder::new(bytes.as_slice())?),
            Self::Bzip2 => read_all(&mut bzip2::read::MultiBzDecoder::new(bytes.as_slice())),
            Self::Snappy => {
                let damaged = || Fault::Damaged("a block is not what its codec makes".into());
                let (body, sum) = bytes.split_last_chunk::<4>().ok_or_else(damaged)?;
                if snap::raw::decompress_len(body).map_err(|_| damaged())? as u64 > most {
                    return Err(too_large(most));
                }
                let plain = snap::raw::Decoder::new().decompress_vec(body).map_err(|_| damaged())?;
                let mut crc = flate2::Crc::new();
                crc.update(&plain);
                if crc.sum() == u32::from_be_bytes(*sum) { Ok(plain) } else { Err(damaged()) }
            }
        }
    }
}

fn cut_short() -> Fault {
    Fault::Damaged("it is cut short".into())
}

fn too_large(most: u64) -> Fault {
    Fault::Damaged(format!("LimitExceeded: a block is larger than {} MiB", most >> 20))
}

fn put_long(into: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        into.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    into.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with one block.
    fn file(codec: &str, count: i64, length: i64, body: &[u8]) -> Vec<u8> {
        let mut file = b"Obj\x01".to_vec();
        put_long(&mut file, 1);
        for text in [b"avro.codec".as_slice(), codec.as_bytes()] {
            put_long(&mut file, text.len() as i64);
            file.extend(text);
        }
        put_long(&mut file, 0);
        file.extend([7; 16]);
        put_long(&mut file, count);
        put_long(&mut file, length);
        file.extend(body);
        file.extend([7; 16]);
        file
    }

    fn read(file: &[u8]) -> Result<Vec<u8>, String> {
        let text = |fault| match fault {
            Fault::Damaged(text) => text,
            other => format!("{other:?}"),
        };
        let mut out = Vec::new();
        let mut blocks = Blocks::open(file, 1 << 20).map_err(text)?;
        blocks.read_to_end(&mut out).map_err(|e| text(Fault::from(e)))?;
        Ok(out)
    }

    #[test]
    fn blocks_come_out_plain_and_whole() {
        let body = zstd::encode_all(b"abc".as_slice(), 1).expect("zstd");
        let plain = read(&file("zstandard", 3, body.len() as i64, &body)).expect("read");
        assert!(plain.ends_with(&[&[6, 6], b"abc".as_slice(), &[7; 16]].concat()), "{plain:?}");
        assert!(!plain.windows(10).any(|w| w == b"avro.codec"));
    }

    #[test]
    fn claims_cost_no_memory_and_cuts_are_seen() {
        assert!(read(&file("null", 1, 1 << 60, b"abc")).expect_err("claim").contains("LimitExceeded"));
        assert!(read(&file("null", 1, 1 << 19, b"abc")).expect_err("claim").contains("cut short"));
        assert!(read(&file("null", 1, -1, b"abc")).is_err());
        assert!(read(&file("lzma?", 1, 3, b"abc")).is_err());
        let whole = file("null", 1, 3, b"abc");
        assert!((1..whole.len()).all(|end| read(&whole[..end]).is_err() || end == whole.len() - 21));
        let mut other = whole.clone();
        *other.last_mut().expect("byte") = 8;
        assert!(read(&other).expect_err("sync").contains("sync marker"));
        let mut bomb = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut bomb, &vec![0; 3 << 20]).expect("deflate");
        let bomb = bomb.finish().expect("deflate");
        assert!(read(&file("deflate", 1, bomb.len() as i64, &bomb)).expect_err("bomb").contains("LimitExceeded"));
    }
}
