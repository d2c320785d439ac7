//! Sums of hashes of rows that a source works out by itself, so that `ingest verify` need not read it.

use std::collections::BTreeMap;

/// What the rows of a stream add up to.
///
/// Every value has a text, every text a hash, and hashes are added, so that the order of rows says nothing:
///
/// | value | text |
/// | --- | --- |
/// | whole number, decimal | its digits, as many behind the point as its column has |
/// | true, false | `true`, `false` |
/// | text | itself, in UTF-8 |
/// | bytes, and the bits of a floating-point number with the highest first | hexadecimal digits, lower case |
/// | date | `2024-01-31 AD` |
/// | timestamp, in UTC where it has a zone | `2024-01-31 23:59:59.000001 AD` |
///
/// The hash of a text is the number that the first [`SourceSums::DIGITS`] hexadecimal digits of its MD5 make: every
/// database knows MD5, and nobody is to be kept from finding a second text. The text of a key is, column by column, the
/// number of bytes of the value's text, a colon and the text. What is hashed for a value is the text of its row's key, and
/// behind it `n` for null, or `v` and the text of the value.
///
/// Different values of a column must have different texts; a value that has none of these texts (a date that is infinite)
/// takes one that no other value has. Then sums that are equal say that rows are; sums that differ may come from a spelling,
/// and the runner reads the stream to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceSums {
    /// Rows.
    pub rows: u64,
    /// The hashes of all keys; 0 where the stream has no key.
    pub keys: u128,
    /// The hashes of all values, by the names of the columns that can be added up.
    pub columns: BTreeMap<String, u128>,
}

impl SourceSums {
    /// Hexadecimal digits of an MD5 that make a hash: 60 bits, which a signed number of 64 holds.
    pub const DIGITS: usize = 15;
}
