//! Rows of a COPY in binary form into Arrow batches.
//!
//! Rows are found first, as places of their fields in the connection's buffer, and then decoded column by column: the
//! loop over one column knows its type, and nothing is allocated for a row.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use arrow_schema::{FieldRef, Schema};
use ingest_core::{Error, ErrorKind, Result, columns};

use crate::builder::{Builder, Misfits};
use crate::types::Kind;

/// First bytes of every binary COPY.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// A field of a row: its place in the buffer; `len` is negative for null.
#[derive(Clone, Copy)]
struct Place {
    at: u32,
    len: i32,
}

/// The columns of rows on their way into a batch.
pub(crate) struct Columns {
    pub(crate) fields: Vec<FieldRef>,
    pub(crate) builders: Vec<Builder>,
    misfits: Vec<Misfits>,
}

/// Decodes the rows of one COPY.
pub(crate) struct Decoder {
    columns: Columns,
    places: Vec<Place>,
    /// A row that a frame left unfinished. The server sends one frame a row; a proxy may cut differently.
    carry: Vec<u8>,
    header_seen: bool,
    trailer_seen: bool,
    /// Rows in the builders.
    rows: usize,
    total: u64,
    bytes: usize,
}

impl Decoder {
    /// For rows with these columns.
    pub(crate) fn new(columns: impl IntoIterator<Item = (FieldRef, Kind)>) -> Self {
        Self {
            columns: Columns::new(columns),
            places: Vec::new(),
            carry: Vec::new(),
            header_seen: false,
            trailer_seen: false,
            rows: 0,
            total: 0,
            bytes: 0,
        }
    }

    /// Finds the rows of a frame: `frame` is its place in `buffer`. They are decoded by [`Decoder::decode`].
    #[inline]
    pub(crate) fn scan(&mut self, buffer: &[u8], frame: Range<usize>) -> Result<()> {
        if !self.carry.is_empty() {
            return self.scan_carried(buffer, frame);
        }
        let end = frame.end;
        let mut at = frame.start;
        self.bytes += end - at;
        while at < end {
            match self.tuple(&buffer[..end], at)? {
                Some(next) => at = next,
                None => {
                    self.carry.extend_from_slice(&buffer[at..end]);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    #[cold]
    fn scan_carried(&mut self, buffer: &[u8], frame: Range<usize>) -> Result<()> {
        // What was found before points into the connection's buffer.
        self.decode(buffer)?;
        self.bytes += frame.len();
        let mut carry = std::mem::take(&mut self.carry);
        carry.extend_from_slice(&buffer[frame]);
        let mut at = 0;
        while at < carry.len() {
            match self.tuple(&carry, at)? {
                Some(next) => at = next,
                None => break,
            }
        }
        self.decode(&carry)?;
        carry.drain(..at);
        self.carry = carry;
        Ok(())
    }

    /// Takes one row, the header or the trailer; gives where the next begins, or `None` when it is not all there.
    #[inline]
    fn tuple(&mut self, data: &[u8], start: usize) -> Result<Option<usize>> {
        if !self.header_seen {
            return self.header(data, start);
        }
        let Some(count) = data.get(start..start + 2) else { return Ok(None) };
        let count = i16::from_be_bytes([count[0], count[1]]);
        if count == -1 && !self.trailer_seen {
            self.trailer_seen = true;
            return Ok(Some(start + 2));
        }
        if usize::try_from(count) != Ok(self.columns.builders.len()) || self.trailer_seen {
            return Err(malformed().with("fields", count).with("expected", self.columns.builders.len()));
        }
        let found = self.places.len();
        let mut at = start + 2;
        for _ in 0..count {
            let Some(length) = data.get(at..at + 4) else {
                self.places.truncate(found);
                return Ok(None);
            };
            let len = i32::from_be_bytes([length[0], length[1], length[2], length[3]]);
            at += 4;
            let place = Place { at: u32::try_from(at).map_err(|_| malformed())?, len };
            at += usize::try_from(len).unwrap_or(0);
            if at > data.len() {
                self.places.truncate(found);
                return Ok(None);
            }
            self.places.push(place);
        }
        self.total += 1;
        if self.columns.builders.is_empty() {
            self.rows += 1;
        }
        Ok(Some(at))
    }

    #[cold]
    fn header(&mut self, data: &[u8], start: usize) -> Result<Option<usize>> {
        let Some(header) = data.get(start..start + 19) else { return Ok(None) };
        let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (flags, extension) = (word(11), word(15));
        if &header[..11] != SIGNATURE || flags >> 16 != 0 {
            return Err(malformed());
        }
        let end = start + 19 + extension as usize;
        if end > data.len() {
            return Ok(None);
        }
        self.header_seen = true;
        Ok(Some(end))
    }

    /// Decodes the rows that were found. `buffer` is the one that they were found in.
    pub(crate) fn decode(&mut self, buffer: &[u8]) -> Result<()> {
        let width = self.columns.builders.len();
        if self.places.is_empty() {
            return Ok(());
        }
        for i in 0..width {
            let fields = self.places[i..].iter().step_by(width).map(|place| {
                let at = place.at as usize;
                usize::try_from(place.len).ok().map(|len| &buffer[at..at + len])
            });
            self.columns.extend(i, fields)?;
        }
        self.rows += self.places.len() / width;
        self.places.clear();
        Ok(())
    }

    /// Bytes on the wire of what the next batch holds.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// All rows so far.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Whether the server's own end mark was seen.
    pub(crate) fn is_complete(&self) -> bool {
        self.trailer_seen && self.carry.is_empty()
    }

    /// Makes a batch of what was decoded; `None` = nothing. Values that did not fit are in `_ingest_rescued`.
    pub(crate) fn finish(&mut self) -> Result<Option<RecordBatch>> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        if rows == 0 {
            return Ok(None);
        }
        let (fields, arrays) = self.columns.finish(rows)?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(Some(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?))
    }
}

impl Columns {
    /// Columns of these kinds.
    pub(crate) fn new(columns: impl IntoIterator<Item = (FieldRef, Kind)>) -> Self {
        let (fields, kinds): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        Self {
            builders: kinds.iter().map(Builder::new).collect(),
            misfits: kinds.iter().map(|_| Misfits::new()).collect(),
            fields,
        }
    }

    /// Appends values to a column, `None` for null.
    #[inline]
    pub(crate) fn extend<'a>(&mut self, column: usize, values: impl Iterator<Item = Option<&'a [u8]>>) -> Result<()> {
        let extended = self.builders[column].extend(values, &mut self.misfits[column]);
        extended.map_err(|e| e.with("column", self.fields[column].name()))
    }

    /// Makes the arrays of so many rows, with the column of what did not fit where there is any, and starts the next ones.
    pub(crate) fn finish(&mut self, rows: usize) -> Result<(Vec<FieldRef>, Vec<ArrayRef>)> {
        let mut arrays = Vec::with_capacity(self.builders.len() + 1);
        for (i, builder) in self.builders.iter_mut().enumerate() {
            arrays.push(builder.finish(&mut self.misfits[i]).map_err(|e| e.with("column", self.fields[i].name()))?);
        }
        let mut fields = self.fields.clone();
        if let Some(rescued) = self.rescued(rows)? {
            fields.push(Arc::new(columns::field(columns::RESCUED)));
            arrays.push(rescued);
        }
        Ok((fields, arrays))
    }

    /// The column of rescued values, where there are any: a JSON object a row.
    fn rescued(&mut self, rows: usize) -> Result<Option<ArrayRef>> {
        if self.misfits.iter().all(Vec::is_empty) {
            return Ok(None);
        }
        let mut objects: Vec<Option<serde_json::Map<String, serde_json::Value>>> = vec![None; rows];
        for (field, misfits) in self.fields.iter().zip(&mut self.misfits) {
            for (row, text) in misfits.drain(..) {
                let object = objects
                    .get_mut(row)
                    .ok_or_else(|| Error::unexpected("a rescued value belongs to no row of its batch"))?;
                object.get_or_insert_default().insert(field.name().clone(), text.into());
            }
        }
        let texts: StringArray = objects
            .into_iter()
            .map(|object| object.map(|object| serde_json::Value::Object(object).to_string()))
            .collect();
        Ok(Some(Arc::new(texts)))
    }
}

fn malformed() -> Error {
    Error::new(ErrorKind::DataInvalid, "the server sent a copy of another form")
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int32Type;
    use arrow_schema::{DataType, Field};

    use super::*;

    fn columns() -> Vec<(FieldRef, Kind)> {
        vec![
            (Arc::new(Field::new("id", DataType::Int32, true)), Kind::Int32),
            (Arc::new(Field::new("name", DataType::Utf8, true)), Kind::Text),
        ]
    }

    fn copy() -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0; 8]);
        for (id, name) in [(1_i32, Some("one")), (2, None), (3, Some(""))] {
            bytes.extend([0, 2, 0, 0, 0, 4]);
            bytes.extend(id.to_be_bytes());
            let length = name.map_or(-1, |name| i32::try_from(name.len()).expect("short"));
            bytes.extend(length.to_be_bytes());
            bytes.extend(name.unwrap_or_default().bytes());
        }
        bytes.extend([0xff, 0xff]);
        bytes
    }

    #[test]
    fn a_copy_reads_the_same_wherever_its_frames_are_cut() {
        let bytes = copy();
        for size in 1..=bytes.len() {
            let mut decoder = Decoder::new(columns());
            for start in (0..bytes.len()).step_by(size) {
                decoder.scan(&bytes, start..(start + size).min(bytes.len())).expect("well formed");
            }
            decoder.decode(&bytes).expect("well formed");
            assert!(decoder.is_complete());
            assert_eq!(decoder.total(), 3);
            let batch = decoder.finish().expect("a batch").expect("rows");
            assert_eq!(batch.column(0).as_primitive::<Int32Type>().values(), &[1, 2, 3]);
            let names: Vec<_> = batch.column(1).as_string::<i32>().iter().collect();
            assert_eq!(names, [Some("one"), None, Some("")]);
        }
    }

    #[test]
    fn a_cut_copy_is_never_complete() {
        let bytes = copy();
        for end in 0..bytes.len() {
            let mut decoder = Decoder::new(columns());
            decoder.scan(&bytes, 0..end).expect("no more than cut");
            assert!(!decoder.is_complete(), "{end}");
        }
    }

    #[test]
    fn foreign_bytes_are_an_error_and_no_panic() {
        let good = copy();
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                let mut decoder = Decoder::new(columns());
                if decoder.scan(&bytes, 0..bytes.len()).and_then(|()| decoder.decode(&bytes)).is_ok() {
                    let _ = decoder.finish();
                }
            }
        }
    }
}
