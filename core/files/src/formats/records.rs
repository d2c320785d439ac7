//! Records that come as fields, one after another: lines of fixed width, rows of a sheet.
//!
//! The texts of a few thousand records are put together as CSV, which is what columns take.

use std::ops::ControlFlow;

use ingest_core::csv::Stretch;
use ingest_core::csv::tokens::{Dialect, Tokens};

use super::csv::{Rows, unique_names};
use super::sheet::is_error;
use super::{BATCH_ROWS, Columns, Sink, Target};
use crate::options::{Format, StreamOptions};
use crate::state::Inside;
use crate::store::Fault;
use crate::types::Seen;

/// Records and bytes that are put together at most.
const STRETCH: usize = 2_048;
const STRETCH_BYTES: usize = 1 << 20;

/// Takes the records of a file: first the names of its columns, then each record with a field for each of them.
pub trait Take {
    /// The names, as the file has them.
    fn names(&mut self, names: Vec<String>) -> Result<(), Fault>;

    /// The next record. `Break`: enough was seen.
    fn record(&mut self, fields: &[String]) -> Result<ControlFlow<()>, Fault>;

    /// A record that is no row; `why` begins with its place.
    fn bad(&mut self, why: &str, record: &[u8]) -> Result<(), Fault>;
}

/// Makes batches of records.
pub struct Decode<'a> {
    target: &'a Target,
    sink: &'a Sink,
    path: &'a str,
    rows: Option<Rows<'a>>,
    width: usize,
    dialect: Dialect,
    tokens: Tokens,
    text: Vec<u8>,
    count: usize,
}

impl<'a> Decode<'a> {
    /// Nothing was taken yet.
    pub fn new(target: &'a Target, sink: &'a Sink, path: &'a str) -> Self {
        let dialect = Dialect::new(b',', Some(b'"'));
        let (tokens, text) = (Tokens::default(), Vec::new());
        Self { target, sink, path, rows: None, width: 0, dialect, tokens, text, count: 0 }
    }

    /// Passes on what is left.
    pub fn finish(mut self) -> Result<(), Fault> {
        self.stretch()?;
        self.batch(1)
    }

    fn stretch(&mut self) -> Result<(), Fault> {
        let Some(rows) = &mut self.rows else { return Ok(()) };
        self.tokens.cut(&self.dialect, &self.text, Some(self.width), true, 0, usize::MAX);
        rows.columns.take(&Stretch::new(&self.text, &self.tokens, '"'));
        self.text.clear();
        self.count = 0;
        self.batch(BATCH_ROWS)
    }

    /// Passes a batch on that has so many rows, or is large enough.
    fn batch(&mut self, least: usize) -> Result<(), Fault> {
        let Some(rows) = &mut self.rows else { return Ok(()) };
        let (count, bytes) = (rows.columns.count(), rows.columns.bytes());
        if count >= least || (count > 0 && bytes >= self.sink.batch_bytes()) {
            self.sink.rows(rows.finish(self.path)?, Inside::default())?;
        }
        Ok(())
    }
}

impl Take for Decode<'_> {
    fn names(&mut self, names: Vec<String>) -> Result<(), Fault> {
        let (names, odd) = unique_names(names);
        if odd {
            let stream = &self.target.options.name;
            self.sink.warn(format!("{stream}: the header has empty or repeated names; those columns got numbers"))?;
        }
        self.width = names.len();
        self.rows = Some(Rows::new(self.target, &names)?);
        Ok(())
    }

    fn record(&mut self, fields: &[String]) -> Result<ControlFlow<()>, Fault> {
        for (n, field) in fields.iter().enumerate() {
            self.text.extend_from_slice(if n == 0 { b"\"" } else { b",\"" });
            for (n, part) in field.split('"').enumerate() {
                self.text.extend_from_slice(if n == 0 { b"" } else { b"\"\"" });
                self.text.extend_from_slice(part.as_bytes());
            }
            self.text.push(b'"');
        }
        self.text.push(b'\n');
        self.count += 1;
        if self.count >= STRETCH || self.text.len() >= STRETCH_BYTES {
            self.stretch()?;
        }
        Ok(ControlFlow::Continue(()))
    }

    fn bad(&mut self, why: &str, record: &[u8]) -> Result<(), Fault> {
        self.sink.bad(self.path, why, record)
    }
}

/// Looks at the types of the first records.
pub struct Sample<'a> {
    options: &'a StreamOptions,
    names: Vec<String>,
    seen: Vec<Seen>,
    bytes: u64,
}

impl<'a> Sample<'a> {
    /// Nothing was seen yet.
    pub fn new(options: &'a StreamOptions) -> Self {
        Self { options, names: Vec::new(), seen: Vec::new(), bytes: 0 }
    }

    /// What was seen.
    pub fn columns(self) -> Columns {
        let mut columns = Columns::default();
        self.names.into_iter().zip(self.seen).for_each(|(name, seen)| columns.saw(name, &seen));
        columns
    }
}

impl Take for Sample<'_> {
    fn names(&mut self, names: Vec<String>) -> Result<(), Fault> {
        (self.names, _) = unique_names(names);
        self.seen = vec![Seen::default(); self.names.len()];
        Ok(())
    }

    fn record(&mut self, fields: &[String]) -> Result<ControlFlow<()>, Fault> {
        for (seen, field) in self.seen.iter_mut().zip(fields) {
            self.bytes += field.len() as u64 + 1;
            let is_error = self.options.format == Format::Excel && is_error(field);
            if !is_error && !self.options.null_values.iter().any(|null| null == field) {
                seen.text(field);
            }
        }
        let enough = self.bytes >= self.options.sample_bytes;
        Ok(if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn bad(&mut self, _: &str, _: &[u8]) -> Result<(), Fault> {
        Ok(())
    }
}
