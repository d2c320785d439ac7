//! NDJSON and JSON documents, record by record into the decoder that all JSON sources share.

use std::io::Read;
use std::sync::Arc;

use arrow_array::StringArray;
use arrow_array::cast::AsArray;
use arrow_schema::{DataType, Field, Schema};
use ingest_core::json::{Decoder, Limits};
use ingest_core::{ErrorKind, columns};
use serde_json::value::RawValue;

use super::elements::{Elements, Found};
use super::{BATCH_ROWS, Columns, Sink, Target};
use crate::input::{self, CHUNK, Text};
use crate::options::StreamOptions;
use crate::state::Inside;
use crate::store::{Fault, Reading};
use crate::types::Seen;

/// Decodes a file of one object a line from a place between two lines on.
pub fn decode_lines(reading: &Reading, target: &Target, from: Inside, sink: &Sink) -> Result<(), Fault> {
    let mut text = Text::open(reading, &target.options, target.limits)?;
    if from.offset > 0 {
        text.skip_to(reading, from.offset)?;
    }
    let path = reading.file.path.as_str();
    let mut rows = Rows::new(target, path, sink)?;
    let mut lines = Lines::new(text, target.limits.record, from);
    while let Some(line) = lines.next()? {
        match line {
            Line::Whole(record, number) => rows.take(record, || format!("line {number}"))?,
            Line::TooLong(head, number) => {
                sink.bad(path, &format!("line {number}: LimitExceeded: longer than `max_record`"), &head)?;
            }
        }
        if rows.is_full() {
            rows.flush(lines.place)?;
        }
    }
    rows.flush(lines.place)
}

/// Decodes one document: an array, one record, or an object around an array.
pub fn decode_document(reading: &Reading, target: &Target, sink: &Sink) -> Result<(), Fault> {
    let path = reading.file.path.as_str();
    let open = || Text::open(reading, &target.options, target.limits);
    let mut elements = Elements::find(open, target.options.records.as_deref(), target.limits.record)?;
    let mut rows = Rows::new(target, path, sink)?;
    let mut count = 0_u64;
    while let Some(found) = elements.next()? {
        count += 1;
        match found {
            Found::Whole { record, line } => rows.take(record, || format!("record {count} (line {line})"))?,
            Found::TooLong { head, line } => {
                sink.bad(
                    path,
                    &format!("record {count} (line {line}): LimitExceeded: longer than `max_record`"),
                    &head,
                )?;
            }
        }
        if rows.is_full() {
            rows.flush(Inside::default())?;
        }
    }
    rows.flush(Inside::default())
}

/// The rows of a batch in the making.
pub(super) struct Rows<'a> {
    target: &'a Target,
    path: &'a str,
    sink: &'a Sink,
    decoder: Decoder,
    bytes: usize,
}

impl<'a> Rows<'a> {
    pub(super) fn new(target: &'a Target, path: &'a str, sink: &'a Sink) -> Result<Self, Fault> {
        let fields: Vec<Field> =
            target.columns.iter().map(|(name, data_type)| Field::new(name, data_type.clone(), true)).collect();
        let limits = Limits { object_bytes: target.limits.record, ..Limits::default() };
        let decoder = Decoder::new(Arc::new(Schema::new(fields)))?
            .with_limits(limits)
            .taking(target.unwanted.iter().map(String::as_str));
        Ok(Self { target, path, sink, decoder, bytes: 0 })
    }

    pub(super) fn take(&mut self, record: &[u8], place: impl Fn() -> String) -> Result<(), Fault> {
        self.bytes += record.len();
        let Err(error) = self.decoder.object(record) else { return Ok(()) };
        match error.kind() {
            ErrorKind::DataInvalid | ErrorKind::LimitExceeded => {
                let why = match std::str::from_utf8(record) {
                    Err(e) => format!("invalid UTF-8 at byte {} of it", e.valid_up_to() + 1),
                    Ok(_) => reason(&error),
                };
                self.sink.bad(self.path, &format!("{}: {why}", place()), record)
            }
            _ => Err(error.into()),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.decoder.rows() >= BATCH_ROWS || self.bytes >= self.sink.batch_bytes()
    }

    pub(super) fn flush(&mut self, behind: Inside) -> Result<(), Fault> {
        self.bytes = 0;
        if self.decoder.rows() == 0 {
            return Ok(());
        }
        let batch = self.decoder.flush()?;
        let schema = batch.schema();
        let mut arrays = Vec::with_capacity(batch.num_columns());
        let mut rescued = None;
        for (field, array) in schema.fields().iter().zip(batch.columns()) {
            match field.name() == columns::RESCUED {
                true => rescued = Some(array.as_string::<i32>().clone()),
                false => arrays.push((field.as_ref().clone(), array.clone())),
            }
        }
        if !self.target.all {
            // What was not asked for must not come in by another door.
            rescued = rescued.map(|texts| only(&texts, &self.target.columns));
        }
        let rows = self.target.batch(self.path, batch.num_rows(), arrays, rescued)?;
        self.sink.rows(rows, behind)
    }
}

/// What a parser said, without the text it said it about.
fn reason(error: &ingest_core::Error) -> String {
    let mut text = error.to_string();
    if let Some(cause) = error.causes().first() {
        text.push_str(": ");
        text.push_str(cause);
    }
    text
}

/// A line of a file, and its number.
enum Line<'a> {
    Whole(&'a [u8], u64),
    /// The first bytes of one that is longer than it may be.
    TooLong(Vec<u8>, u64),
}

/// The lines of a text that are not blank.
pub struct Lines {
    text: Text,
    bytes: Vec<u8>,
    at: usize,
    last: bool,
    most: usize,
    /// Bytes and lines before `at`.
    place: Inside,
}

impl Lines {
    pub fn new(text: Text, most: usize, from: Inside) -> Self {
        Self { text, bytes: Vec::new(), at: 0, last: false, most, place: from }
    }

    fn next(&mut self) -> Result<Option<Line<'_>>, Fault> {
        let mut looked = 0;
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let found = rest.get(looked..).and_then(|new| memchr::memchr(b'\n', new));
            let (start, end, next) = match found {
                Some(at) => (self.at, self.at + looked + at, self.at + looked + at + 1),
                None if self.last && rest.is_empty() => return Ok(None),
                None if self.last => (self.at, self.bytes.len(), self.bytes.len()),
                None if rest.len() > self.most => {
                    let head = self.pass_over()?;
                    return Ok(Some(Line::TooLong(head, self.place.line)));
                }
                None => {
                    looked = rest.len();
                    self.read()?;
                    continue;
                }
            };
            looked = 0;
            self.at = next;
            self.place.offset += (next - start) as u64;
            self.place.line += 1;
            if self.bytes.get(start..end).is_some_and(|line| !line.trim_ascii().is_empty()) {
                let line = self.bytes.get(start..end).unwrap_or_default();
                return Ok(Some(Line::Whole(line.trim_ascii(), self.place.line)));
            }
        }
    }

    fn read(&mut self) -> Result<(), Fault> {
        self.bytes.drain(..self.at);
        self.at = 0;
        let before = self.bytes.len();
        let wanted = before.clamp(CHUNK, (self.most + CHUNK).saturating_sub(before).max(CHUNK));
        self.bytes.reserve_exact(wanted);
        (&mut self.text).take(wanted as u64).read_to_end(&mut self.bytes)?;
        self.last = self.bytes.len() - before < wanted;
        Ok(())
    }

    /// Reads on to the next line break, keeping the first bytes.
    fn pass_over(&mut self) -> Result<Vec<u8>, Fault> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let head = rest.get(..super::BAD_BYTES).unwrap_or(rest).to_vec();
        self.place.line += 1;
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let end = memchr::memchr(b'\n', rest).map(|end| end + 1);
            let passed = end.unwrap_or(rest.len());
            self.place.offset += passed as u64;
            self.at += passed;
            if end.is_some() || self.last {
                self.bytes.drain(..self.at);
                self.at = 0;
                self.bytes.shrink_to(4 * CHUNK);
                return Ok(head);
            }
            self.read()?;
        }
    }

    /// Shows the lines of the first `bytes` to `look`.
    pub fn sample(&mut self, bytes: u64, mut look: impl FnMut(&[u8])) -> Result<(), Fault> {
        while self.place.offset < bytes {
            match self.next()? {
                Some(Line::Whole(line, _)) => look(line),
                Some(Line::TooLong(..)) => {}
                None => break,
            }
        }
        Ok(())
    }
}

/// The members of an object in their order, with the text of each value; `None` = it is no object.
pub fn members(record: &[u8]) -> Option<Vec<(String, &str)>> {
    struct Members;
    impl<'de> serde::de::Visitor<'de> for Members {
        type Value = Vec<(String, &'de str)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(key) = map.next_key::<String>()? {
                members.push((key, map.next_value::<&RawValue>()?.get()));
            }
            Ok(members)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_slice(record);
    let members = serde::Deserializer::deserialize_map(&mut deserializer, Members).ok()?;
    deserializer.end().ok().map(|()| members)
}

/// Looks at the first lines of a file.
pub fn sample_lines(reading: &Reading, options: &StreamOptions, limits: input::Limits) -> Result<Columns, Fault> {
    let text = Text::open(reading, options, limits)?;
    let mut columns = Columns::default();
    Lines::new(text, limits.record, Inside::default()).sample(options.sample_bytes, |line| saw(&mut columns, line))?;
    Ok(columns)
}

/// Looks at the first records of a document.
pub fn sample_document(reading: &Reading, options: &StreamOptions, limits: input::Limits) -> Result<Columns, Fault> {
    let open = || Text::open(reading, options, limits);
    let mut elements = Elements::find(open, options.records.as_deref(), limits.record)?;
    let (mut columns, mut bytes) = (Columns::default(), 0);
    while bytes < options.sample_bytes {
        match elements.next()? {
            Some(Found::Whole { record, .. }) => {
                bytes += record.len() as u64;
                saw(&mut columns, record);
            }
            Some(Found::TooLong { .. }) => {}
            None => break,
        }
    }
    Ok(columns)
}

fn saw(columns: &mut Columns, record: &[u8]) {
    for (name, raw) in members(record).unwrap_or_default() {
        let mut seen = Seen::default();
        seen.json(raw);
        columns.saw(name, &seen);
    }
}

/// Leaves of rescued objects only the members that were asked for.
fn only(rescued: &StringArray, wanted: &[(String, DataType)]) -> StringArray {
    rescued
        .iter()
        .map(|text| {
            let kept: Vec<String> = members(text?.as_bytes())?
                .into_iter()
                .filter(|(name, _)| wanted.iter().any(|(column, _)| column == name))
                .map(|(name, raw)| format!("{}:{raw}", serde_json::Value::from(name)))
                .collect();
            (!kept.is_empty()).then(|| format!("{{{}}}", kept.join(",")))
        })
        .collect()
}
