//! Reading foreign bytes: everything is asked for, nothing is taken for granted.

use ingest_core::{Error, ErrorKind, Result};

/// Bytes that are read from the front.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

pub(crate) fn cut() -> Error {
    Error::new(ErrorKind::DataInvalid, "an event of the binlog is shorter than it says")
        .hint("the binlog is damaged, or of a version that is not known")
}

impl<'a> Bytes<'a> {
    pub(crate) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The next bytes, so many.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(cut)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| cut())
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// A number of up to eight bytes, the lowest first.
    pub(crate) fn little(&mut self, count: usize) -> Result<u64> {
        let bytes = self.take(count)?;
        Ok(match *bytes {
            [a] => u64::from(a),
            [a, b] => u64::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            _ => bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)),
        })
    }

    /// A number of up to eight bytes, the highest first.
    pub(crate) fn big(&mut self, count: usize) -> Result<u64> {
        Ok(self.take(count)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// A number that says itself how long it is (protocol's "length-encoded integer").
    pub(crate) fn packed(&mut self) -> Result<usize> {
        let number = match self.u8()? {
            0xfc => self.little(2)?,
            0xfd => self.little(3)?,
            0xfe => self.little(8)?,
            0xfb | 0xff => return Err(cut()),
            small => u64::from(small),
        };
        usize::try_from(number).map_err(|_| cut())
    }

    /// A text behind its packed length.
    pub(crate) fn text(&mut self) -> Result<String> {
        let length = self.packed()?;
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }
}

/// Bit `i` of a bitmap, the lowest bit first.
pub(crate) fn bit(bits: &[u8], i: usize) -> bool {
    bits.get(i / 8).is_some_and(|byte| byte >> (i % 8) & 1 == 1)
}
