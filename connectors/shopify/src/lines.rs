//! The result of a bulk operation: a line per object, children behind their parents, straight into columns.

use std::borrow::Cow;
use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions, StringArray};
use arrow_schema::Schema;
use ingest_core::json::Decoder;
use ingest_core::{Error, ErrorKind, Result, StreamName, columns};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::state::place;
use crate::streams::{Def, Origin, PARENT, find};

/// Bytes of one line.
const LINE_BYTES: usize = 32 << 20;

/// Rows of streams, and the line up to which they go.
pub(crate) struct Batches {
    pub rows: Vec<(StreamName, RecordBatch)>,
    pub line: u64,
}

/// A stream while its rows are read.
struct Target {
    name: StreamName,
    def: &'static Def,
    decoder: Decoder,
    /// The line of each row.
    lines: Vec<u64>,
}

/// The lines of a result.
pub(crate) struct Lines {
    at: i64,
    targets: Vec<Target>,
    bytes: Vec<u8>,
    /// Lines so far.
    line: u64,
    /// Lines that are in the table already.
    skip: u64,
    full: Vec<Batches>,
}

/// What a line is.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    __typename: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
}

impl Target {
    pub fn new(name: &StreamName) -> Result<Self> {
        let def = find(name.as_str())?;
        // Lists inside an object are streams of their own; the rest is known by other means.
        let inside = crate::streams::STREAMS.iter().filter_map(|other| match other.origin {
            Origin::Inside(root, field) if root == def.name => Some(field),
            _ => None,
        });
        let taken: Vec<&str> = inside.chain(["__typename", PARENT]).collect();
        let decoder = Decoder::new(def.schema())?.taking(taken);
        Ok(Self { name: name.clone(), def, decoder, lines: Vec::new() })
    }

    /// The rows since the last call, with their places.
    fn rows(&mut self, at: i64) -> Result<RecordBatch> {
        let rows = self.decoder.flush()?;
        let lines = std::mem::take(&mut self.lines);
        placed(&rows, lines.into_iter().map(|line| place(at, line).as_str().to_owned()))
    }
}

/// Rows with their places in order.
pub(crate) fn placed(rows: &RecordBatch, places: impl Iterator<Item = String>) -> Result<RecordBatch> {
    let mut fields: Vec<_> = rows.schema_ref().fields().iter().cloned().collect();
    let mut arrays = rows.columns().to_vec();
    fields.push(Arc::new(columns::field(columns::SEQ)));
    arrays.push(Arc::new(StringArray::from_iter_values(places)));
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?)
}

impl Lines {
    /// The first `skip` lines are passed over.
    pub fn new(at: i64, streams: &[StreamName], skip: u64) -> Result<Self> {
        let targets = streams.iter().map(Target::new).collect::<Result<_>>()?;
        Ok(Self { at, targets, bytes: Vec::new(), line: 0, skip, full: Vec::new() })
    }

    /// Takes a piece of the result.
    ///
    /// # Errors
    /// `Unavailable` when the last line is cut; `DataInvalid` when a line is no object; `LimitExceeded` for one without end.
    pub fn push(&mut self, piece: &[u8], is_last: bool, wanted: impl Fn() -> usize) -> Result<()> {
        self.bytes.extend_from_slice(piece);
        let bytes = std::mem::take(&mut self.bytes);
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &bytes) {
            self.take(bytes.get(start..end).unwrap_or_default())?;
            start = end + 1;
            if self.targets.iter().map(|target| target.decoder.bytes()).sum::<usize>() >= wanted() {
                self.flush()?;
            }
        }
        let rest = bytes.get(start..).unwrap_or_default();
        if is_last && !rest.is_empty() {
            return self.take(rest).map_err(|_| {
                Error::new(ErrorKind::Unavailable, "the result of a bulk operation ends in the middle of a line")
                    .with("line", self.line + 1)
            });
        }
        if rest.len() > LINE_BYTES {
            return Err(Error::new(ErrorKind::LimitExceeded, "a line of a result is larger than the limit")
                .with("limit_bytes", LINE_BYTES));
        }
        self.bytes = rest.to_vec();
        Ok(())
    }

    fn take(&mut self, line: &[u8]) -> Result<()> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let nth = self.line + 1;
        if nth > self.skip {
            self.object(line, nth).map_err(|error| error.with("line", nth))?;
        }
        self.line = nth;
        Ok(())
    }

    fn object(&mut self, line: &[u8], nth: u64) -> Result<()> {
        let head: Head<'_> = serde_json::from_slice(line)
            .map_err(|_| Error::new(ErrorKind::DataInvalid, "a line of a result is no object with a type and an id"))?;
        let Some(at) = self.targets.iter().position(|target| target.def.typename == head.__typename) else {
            // An object whose own stream was not asked for carries others.
            return self.inside(&head.__typename, &head.id, line, nth);
        };
        if let Some(target) = self.targets.get_mut(at) {
            let name = target.def.name;
            target.decoder.object(line).map_err(|error| error.with("stream", name))?;
            target.lines.push(nth);
        }
        self.inside(&head.__typename, &head.id, line, nth)
    }

    /// The lists inside an object.
    fn inside(&mut self, typename: &str, id: &str, line: &[u8], nth: u64) -> Result<()> {
        for target in &mut self.targets {
            let Origin::Inside(root, field) = target.def.origin else { continue };
            if find(root)?.typename != typename {
                continue;
            }
            let members: std::collections::BTreeMap<String, &RawValue> = serde_json::from_slice(line)
                .map_err(|_| Error::new(ErrorKind::DataInvalid, "a line of a result is no object"))?;
            let list = members.get(field).map(|raw| raw.get()).filter(|raw| *raw != "null").unwrap_or("[]");
            let entries: Vec<&RawValue> = serde_json::from_str(list).map_err(|_| {
                Error::new(ErrorKind::DataInvalid, "a list inside an object is none").with("field", field)
            })?;
            let parent = serde_json::to_string(id).map_err(|_| Error::unexpected("cannot write an id as JSON"))?;
            for entry in entries {
                let rest = entry.get().trim_start_matches('{').trim_start();
                let comma = if rest.starts_with('}') { "" } else { "," };
                let text = format!(r#"{{"{PARENT}":{parent}{comma}{rest}"#);
                target.decoder.object(text.as_bytes()).map_err(|error| error.with("stream", target.def.name))?;
                target.lines.push(nth);
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let mut rows = Vec::new();
        for target in self.targets.iter_mut().filter(|target| !target.lines.is_empty()) {
            rows.push((target.name.clone(), target.rows(self.at)?));
        }
        if !rows.is_empty() {
            self.full.push(Batches { rows, line: self.line });
        }
        Ok(())
    }

    /// Batches that are full, one after another.
    pub fn ready(&mut self) -> Result<Option<Batches>> {
        Ok(if self.full.is_empty() { None } else { Some(self.full.remove(0)) })
    }

    /// What is left at the end.
    pub fn rest(&mut self) -> Result<Option<Batches>> {
        self.flush()?;
        self.ready()
    }

    /// Lines so far.
    pub fn count(&self) -> u64 {
        self.line
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;

    use super::*;

    const TEXT: &str = concat!(
        r#"{"__typename":"Order","id":"gid://shopify/Order/1","name":"no. 1","transactions":[{"__typename":"OrderTransaction","id":"t1"},{"id":"t2"}]}"#,
        "\n",
        r#"{"__typename":"LineItem","id":"l1","__parentId":"gid://shopify/Order/1","quantity":2}"#,
        "\n",
        r#"{"__typename":"Order","id":"gid://shopify/Order/2","transactions":[]}"#,
        "\n",
    );

    fn read(text: &str, streams: &[&str], piece: usize, skip: u64) -> Result<Vec<(StreamName, RecordBatch)>> {
        let streams: Vec<StreamName> = streams.iter().map(|name| StreamName::from(*name)).collect();
        let mut lines = Lines::new(7, &streams, skip)?;
        for piece in text.as_bytes().chunks(piece) {
            lines.push(piece, false, || usize::MAX)?;
        }
        lines.push(&[], true, || usize::MAX)?;
        Ok(lines.rest()?.map(|batches| batches.rows).unwrap_or_default())
    }

    #[test]
    fn children_carry_their_parent_wherever_they_stand() {
        for piece in [1, 7, 1_000] {
            let rows = read(TEXT, &["orders", "order_line_items", "transactions"], piece, 0).expect("rows");
            let counts: Vec<_> = rows.iter().map(|(name, rows)| (name.as_str(), rows.num_rows())).collect();
            assert_eq!(counts, [("orders", 2), ("order_line_items", 1), ("transactions", 2)]);
            for (name, rows) in &rows[1..] {
                let parents = rows.column_by_name("orderId").expect("a column").as_string::<i32>();
                assert!(parents.iter().all(|parent| parent == Some("gid://shopify/Order/1")), "{name}");
                assert_eq!(rows.column_by_name("_ingest_rescued").expect("a column").null_count(), rows.num_rows());
            }
        }
    }

    #[test]
    fn lines_that_are_in_the_table_are_passed_over() {
        let rows = read(TEXT, &["orders", "order_line_items"], 9, 2).expect("rows");
        assert_eq!(rows.len(), 1);
        let ids = rows[0].1.column_by_name("id").expect("a column").as_string::<i32>();
        assert_eq!(ids.iter().collect::<Vec<_>>(), [Some("gid://shopify/Order/2")]);
    }

    #[test]
    fn a_cut_line_is_worth_another_try_and_a_broken_one_is_not() {
        let cut = &TEXT[..TEXT.len() - 9];
        assert_eq!(read(cut, &["orders"], 11, 0).expect_err("cut").kind(), ErrorKind::Unavailable);
        let broken = TEXT.replacen(r#""id":"l1""#, r#""id":1 1"#, 1);
        assert_eq!(read(&broken, &["orders"], 11, 0).expect_err("broken").kind(), ErrorKind::DataInvalid);
    }
}
