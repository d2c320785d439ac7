//! CSV and TSV straight into Arrow columns.
//!
//! What a record is, and how columns take its fields, is [`ingest_core::csv`]; here is the file around it.

use std::collections::{HashMap, HashSet};
use std::io::Read;

use arrow_array::new_null_array;
use arrow_schema::{DataType, Field as ArrowField};
use ingest_core::csv::tokens::{Bad, Dialect, Field, Flaw, Tokens};
use ingest_core::csv::{self, Stretch, blank_invalid_bytes};

use super::{BATCH_ROWS, Columns, Sink, Target};
use crate::input::{CHUNK, Limits, Text};
use crate::options::StreamOptions;
use crate::state::Inside;
use crate::store::{Fault, Reading};
use crate::types::Seen;

/// Records that are cut at once: their fields stay in the cache while the columns take them.
const STRETCH: usize = 2_048;

/// Decodes a file from a place between two of its records on.
pub fn decode(reading: &Reading, target: &Target, from: Inside, sink: &Sink) -> Result<(), Fault> {
    let mut text = Text::open(reading, &target.options, target.limits)?;
    let mut lines = Buffer::new(&target.options, target.limits);
    let Some(header) = lines.header(&mut text, &target.options, sink, &reading.file.path)? else { return Ok(()) };
    if from.offset > lines.place.offset {
        lines = Buffer::new(&target.options, target.limits);
        lines.place = from;
        text.skip_to(reading, from.offset)?;
    }
    let mut rows = Rows::new(target, &header)?;
    let path = reading.file.path.as_str();
    loop {
        let more = lines.next(&mut text, Some(header.len()), STRETCH)?;
        lines.refuse_bytes_that_are_no_text(sink, path, header.len())?;
        let stretch = lines.stretch();
        rows.columns.take(&stretch);
        for bad in &lines.tokens.bad {
            let record = stretch.bytes().get(bad.range.clone()).unwrap_or_default();
            sink.bad(path, &describe(bad, header.len()), record)?;
        }
        lines.pass_over_what_is_too_long(&mut text, sink, path)?;
        lines.advance();
        let (count, bytes) = (rows.columns.count(), rows.columns.bytes());
        if count >= BATCH_ROWS || bytes >= sink.batch_bytes() || (!more && count > 0) {
            sink.rows(rows.finish(path)?, lines.place)?;
        }
        if !more {
            return Ok(());
        }
    }
}

fn describe(bad: &Bad, expected: usize) -> String {
    match bad.flaw {
        Flaw::Fields(count) => format!("line {}: {count} fields, expected {expected}", bad.line),
        Flaw::TextAfterQuote => format!("line {}: text behind a closing quote", bad.line),
        Flaw::OpenQuote => format!("line {}: a quote that is not closed", bad.line),
    }
}

/// A sliding window over the text, and the records found in it.
pub struct Buffer {
    dialect: Dialect,
    bytes: Vec<u8>,
    /// Where the part begins that was not cut yet.
    at: usize,
    /// The file ends with what is in the buffer.
    last: bool,
    /// Bytes and lines before `at`.
    place: Inside,
    tokens: Tokens,
    quote: char,
    most: usize,
}

impl Buffer {
    pub fn new(options: &StreamOptions, limits: Limits) -> Self {
        Self {
            dialect: Dialect::new(options.delimiter, options.quote),
            bytes: Vec::new(),
            at: 0,
            last: false,
            place: Inside::default(),
            tokens: Tokens::default(),
            quote: char::from(options.quote.unwrap_or(b'"')),
            most: limits.record,
        }
    }

    /// Finds the names of the columns, and stands behind them; `None` in a file without a record.
    pub fn header(
        &mut self,
        text: &mut Text,
        options: &StreamOptions,
        sink: &Sink,
        path: &str,
    ) -> Result<Option<Vec<String>>, Fault> {
        loop {
            let more = self.next(text, None, 1)?;
            if !self.tokens.records.is_empty() {
                break;
            }
            for bad in &self.tokens.bad {
                let record = self.bytes.get(self.at..).and_then(|rest| rest.get(bad.range.clone())).unwrap_or_default();
                sink.bad(path, &describe(bad, 0), record)?;
            }
            if !more {
                return Ok(None);
            }
            if self.tokens.consumed == 0 {
                return Err(Fault::Damaged("LimitExceeded: its first line is longer than `max_record`".into()));
            }
            self.advance();
        }
        let stretch = self.bytes.get(self.at..self.at + self.tokens.consumed).unwrap_or_default();
        let raw = |field: &Field| {
            let text = String::from_utf8_lossy(stretch.get(field.range()).unwrap_or_default()).into_owned();
            if field.is_escaped() { csv::undoubled(&text, self.quote) } else { text }
        };
        let names: Vec<String> = match options.header {
            true => self.tokens.fields.iter().map(raw).collect(),
            false => vec![String::new(); self.tokens.fields.len()],
        };
        let (names, odd) = unique_names(names);
        if options.header {
            self.advance();
            if odd {
                let stream = &options.name;
                sink.warn(format!("{stream}: the header has empty or repeated names; those columns got numbers"))?;
            }
        } else {
            self.tokens = Tokens::default();
        }
        Ok(Some(names))
    }

    /// Cuts the next records, reading on until there is one, the text ends, or a record is too long. False: the text
    /// has ended.
    fn next(&mut self, text: &mut Text, expected: Option<usize>, most: usize) -> Result<bool, Fault> {
        loop {
            let data = self.bytes.get(self.at..).unwrap_or_default();
            self.tokens.cut(&self.dialect, data, expected, self.last, self.place.line, most);
            if self.tokens.consumed > 0 {
                return Ok(!self.last || self.at + self.tokens.consumed < self.bytes.len());
            }
            if self.last || data.len() > self.most {
                return Ok(!self.last);
            }
            self.read(text)?;
        }
    }

    fn read(&mut self, text: &mut Text) -> Result<(), Fault> {
        self.bytes.drain(..self.at);
        self.at = 0;
        let before = self.bytes.len();
        // Doubling, so that a long record is not looked at once per chunk, and no further than a record may reach.
        let wanted = before.clamp(CHUNK, (self.most + CHUNK).saturating_sub(before).max(CHUNK));
        self.bytes.reserve_exact(wanted);
        text.take(wanted as u64).read_to_end(&mut self.bytes)?;
        self.last = self.bytes.len() - before < wanted;
        Ok(())
    }

    fn stretch(&self) -> Stretch<'_> {
        let bytes = self.bytes.get(self.at..self.at + self.tokens.consumed).unwrap_or_default();
        Stretch::new(bytes, &self.tokens, self.quote)
    }

    /// Puts the records that are no UTF-8 aside, so that the stretch is text.
    fn refuse_bytes_that_are_no_text(&mut self, sink: &Sink, path: &str, width: usize) -> Result<(), Fault> {
        let end = self.at + self.tokens.consumed;
        let stretch = self.bytes.get_mut(self.at..end).unwrap_or_default();
        if std::str::from_utf8(stretch).is_ok() {
            return Ok(());
        }
        for bad in &self.tokens.bad {
            let record = stretch.get(bad.range.clone()).unwrap_or_default();
            sink.bad(path, &describe(bad, width), record)?;
        }
        self.tokens.bad.clear();
        let mut keep = Vec::with_capacity(self.tokens.records.len());
        for ((line, start), fields) in self.tokens.records.iter().zip(self.tokens.fields.chunks(width.max(1))) {
            let end = fields.last().map_or(0, |field| field.range().end);
            let record = stretch.get(*start as usize..end).unwrap_or_default();
            match std::str::from_utf8(record) {
                Ok(_) => keep.push(true),
                Err(e) => {
                    sink.bad(
                        path,
                        &format!("line {line}: invalid UTF-8 at byte {} of it", e.valid_up_to() + 1),
                        record,
                    )?;
                    keep.push(false);
                }
            }
        }
        let mut kept = keep.iter();
        self.tokens.records.retain(|_| kept.next().copied().unwrap_or(false));
        let mut nth = 0..;
        self.tokens
            .fields
            .retain(|_| nth.next().and_then(|i: usize| keep.get(i / width.max(1)).copied()).unwrap_or(false));
        // What is left of the bad records must not stop the good ones from being read as text.
        blank_invalid_bytes(self.bytes.get_mut(self.at..end).unwrap_or_default());
        Ok(())
    }

    /// Where a record is longer than it may be: takes its first line for bad and reads on behind that.
    fn pass_over_what_is_too_long(&mut self, text: &mut Text, sink: &Sink, path: &str) -> Result<(), Fault> {
        let data = self.bytes.get(self.at..).unwrap_or_default();
        if self.tokens.consumed > 0 || self.last || data.len() <= self.most {
            return Ok(());
        }
        let line = self.place.line + 1;
        let why = match self.tokens.inside_quotes && memchr::memchr2(b'\n', b'\r', data).is_some() {
            true => "a quote that is not closed",
            false => "LimitExceeded: longer than `max_record`",
        };
        sink.bad(path, &format!("line {line}: {why}"), data)?;
        loop {
            let data = self.bytes.get(self.at..).unwrap_or_default();
            if let Some(end) = memchr::memchr2(b'\n', b'\r', data) {
                // CR and LF may lie in two chunks.
                let pair = data.get(end) == Some(&b'\r') && data.get(end + 1) == Some(&b'\n');
                self.tokens.consumed = end + 1 + usize::from(pair);
                break;
            }
            self.place.offset += data.len() as u64;
            self.at = self.bytes.len();
            if self.last {
                break;
            }
            self.bytes.truncate(0);
            self.at = 0;
            self.read(text)?;
        }
        self.tokens.line = line;
        self.bytes.shrink_to(4 * CHUNK);
        Ok(())
    }

    fn advance(&mut self) {
        self.at += self.tokens.consumed;
        self.place.offset += self.tokens.consumed as u64;
        self.place.line = self.tokens.line;
        self.tokens.consumed = 0;
    }

    /// The fields of the next records as texts, for looking at types. Bad records are passed over.
    pub fn sample(&mut self, text: &mut Text, width: usize, mut look: impl FnMut(usize, &str)) -> Result<bool, Fault> {
        let more = self.next(text, Some(width), STRETCH)?;
        let end = self.at + self.tokens.consumed;
        blank_invalid_bytes(self.bytes.get_mut(self.at..end).unwrap_or_default());
        let stretch = self.stretch();
        for record in stretch.fields().chunks_exact(width.max(1)) {
            for (column, field) in record.iter().enumerate() {
                look(column, &stretch.field(*field));
            }
        }
        let stuck = self.tokens.consumed == 0;
        self.advance();
        Ok(more && !stuck)
    }
}

/// Names without doubles, also not by case: an empty one becomes `column_3`, the second `id` becomes `id_2`. True when
/// something had to be changed.
pub(super) fn unique_names(names: Vec<String>) -> (Vec<String>, bool) {
    let mut taken: HashSet<String> = HashSet::new();
    let mut odd = false;
    let unique = names.into_iter().enumerate().map(|(i, name)| {
        let name = name.trim().to_owned();
        let stem = if name.is_empty() { format!("column_{}", i + 1) } else { name.clone() };
        let unique = std::iter::once(stem.clone())
            .chain((2..).map(|n| format!("{stem}_{n}")))
            .find(|candidate| !taken.contains(&candidate.to_lowercase()))
            .unwrap_or(stem);
        odd |= unique != name;
        taken.insert(unique.to_lowercase());
        unique
    });
    (unique.collect(), odd)
}

/// The rows of a batch in the making.
pub(super) struct Rows<'a> {
    target: &'a Target,
    pub(super) columns: csv::Rows,
    /// Columns of the stream that the file does not have.
    missing: Vec<(&'a str, &'a DataType)>,
}

impl<'a> Rows<'a> {
    pub(super) fn new(target: &'a Target, header: &[String]) -> Result<Self, Fault> {
        let types: HashMap<&str, &DataType> = target.columns.iter().map(|(name, ty)| (name.as_str(), ty)).collect();
        let mut columns = csv::Rows::new(&target.options.null_values);
        for (index, name) in header.iter().enumerate() {
            match types.get(name.as_str()) {
                Some(data_type) => columns.column(name, index, data_type, !target.is_declared(name))?,
                None if target.all => columns.unknown(name, index),
                None => {}
            }
        }
        let present: HashSet<&str> = header.iter().map(String::as_str).collect();
        let missing = target.columns.iter().filter(|(name, _)| !present.contains(name.as_str()));
        Ok(Self { missing: missing.map(|(name, ty)| (name.as_str(), ty)).collect(), columns, target })
    }

    pub(super) fn finish(&mut self, path: &str) -> Result<arrow_array::RecordBatch, Fault> {
        let csv::Finished { rows, mut columns, rescued } = self.columns.finish();
        for (name, data_type) in &self.missing {
            columns.push((ArrowField::new(*name, (*data_type).clone(), true), new_null_array(data_type, rows)));
        }
        self.target.batch(path, rows, columns, rescued)
    }
}

/// Looks at the first records of a file.
pub fn sample(reading: &Reading, options: &StreamOptions, limits: Limits) -> Result<Columns, Fault> {
    let mut text = Text::open(reading, options, limits)?;
    let mut lines = Buffer::new(options, limits);
    let mut columns = Columns::default();
    let Some(header) = lines.header(&mut text, options, &Sink::Nowhere, &reading.file.path)? else {
        return Ok(columns);
    };
    let mut seen = vec![Seen::default(); header.len()];
    let is_null = |text: &str| options.null_values.iter().any(|null| null == text);
    while lines.place.offset < options.sample_bytes {
        let more = lines.sample(&mut text, header.len(), |column, text| {
            if let Some(seen) = seen.get_mut(column).filter(|_| !is_null(text)) {
                seen.text(text);
            }
        })?;
        if !more {
            break;
        }
    }
    header.into_iter().zip(seen).for_each(|(name, seen)| columns.saw(name, &seen));
    Ok(columns)
}
