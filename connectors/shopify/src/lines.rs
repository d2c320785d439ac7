//! The result of a bulk operation: a line per object, children behind their parents, straight into columns.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions, StringArray};
use arrow_schema::Schema;
use ingest_core::json::Decoder;
use ingest_core::{Error, ErrorKind, Result, StreamName, columns};
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
    /// The lists inside its objects that are streams of their own: the number of the target, the field.
    carries: Vec<(usize, &'static str)>,
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

impl Target {
    pub fn new(name: &StreamName) -> Result<Self> {
        let def = find(name.as_str())?;
        // Lists inside an object are streams of their own; the rest is known by other means.
        let inside = crate::streams::STREAMS.iter().filter_map(|other| match other.origin {
            Origin::Inside(root, field) if root == def.name => Some(field),
            _ => None,
        });
        let taken: Vec<&str> = inside.chain(["__typename", "id", PARENT]).collect();
        let decoder = Decoder::new(def.schema())?.taking(taken);
        Ok(Self { name: name.clone(), def, decoder, carries: Vec::new(), lines: Vec::new() })
    }

    /// Reads the entries of a list inside an object, whose id is given as JSON.
    fn entries(&mut self, parent: &str, list: &str, nth: u64) -> Result<()> {
        let entries: Option<Vec<&RawValue>> = serde_json::from_str(list).map_err(|_| {
            Error::new(ErrorKind::DataInvalid, "a list inside an object is none").with("stream", self.def.name)
        })?;
        for entry in entries.unwrap_or_default() {
            let rest = entry.get().trim_start_matches('{').trim_start();
            let comma = if rest.starts_with('}') { "" } else { "," };
            let text = format!(r#"{{"{PARENT}":{parent}{comma}{rest}"#);
            self.decoder.object(text.as_bytes()).map_err(|error| error.with("stream", self.def.name))?;
            self.lines.push(nth);
        }
        Ok(())
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
        let mut targets = streams.iter().map(Target::new).collect::<Result<Vec<_>>>()?;
        let inside: Vec<_> = targets.iter().enumerate().filter_map(|(at, target)| within(at, target)).collect();
        for target in &mut targets {
            let own = inside.iter().filter(|(root, _, _)| *root == target.def.name);
            target.carries = own.map(|(_, at, field)| (*at, *field)).collect();
        }
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
        // A line begins with its type, which is what is asked for first. One that does not is read twice.
        if let Some(at) = begin(line).and_then(|typename| self.target(typename))
            && self.row(at, line, nth)?
        {
            return Ok(());
        }
        let members: BTreeMap<String, &RawValue> = serde_json::from_slice(line).map_err(|_| no_object())?;
        let text = |key: &str| {
            let text = members.get(key).and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
            text.ok_or_else(no_object)
        };
        let (typename, _) = (text("__typename")?, text("id")?);
        if let Some(at) = self.target(typename.as_bytes()) {
            return self.row(at, line, nth).map(|_| ());
        }
        // An object whose own stream was not asked for carries others.
        for at in 0..self.targets.len() {
            let Some(target) = self.targets.get_mut(at) else { continue };
            let Some((root, _, field)) = within(at, target) else { continue };
            if find(root)?.typename == typename
                && let (Some(id), Some(list)) = (members.get("id"), members.get(field))
            {
                target.entries(id.get(), list.get(), nth)?;
            }
        }
        Ok(())
    }

    /// The target whose objects are of a type.
    fn target(&self, typename: &[u8]) -> Option<usize> {
        self.targets.iter().position(|target| target.def.typename.as_bytes() == typename)
    }

    /// Reads a line as a row of a target, and the lists inside it. False: it is of another type.
    fn row(&mut self, at: usize, line: &[u8], nth: u64) -> Result<bool> {
        let Some(Target { def, decoder, carries, lines, .. }) = self.targets.get_mut(at) else { return Ok(false) };
        let (mut lists, mut is_other) = (Vec::new(), false);
        let read = decoder.object_with(line, |record| {
            is_other = record.text("__typename").is_none_or(|typename| typename != def.typename);
            let id = record.text("id").filter(|_| !is_other).and_then(|_| record.raw("id")).ok_or_else(no_object)?;
            let list = |(at, field): &(usize, &str)| Some((*at, id.to_owned(), record.raw(field)?.to_owned()));
            lists.extend(carries.iter().filter_map(list));
            Ok(())
        });
        if is_other {
            return Ok(false);
        }
        read.map_err(|error| error.with("stream", def.name))?;
        lines.push(nth);
        for (at, id, list) in lists {
            if let Some(target) = self.targets.get_mut(at) {
                target.entries(&id, &list, nth)?;
            }
        }
        Ok(true)
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

/// The type with which a line begins.
fn begin(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(br#"{"__typename":""#)?;
    rest.get(..memchr::memchr(b'"', rest)?)
}

/// The stream in whose objects the lists of a target are, the target's number, and the field.
fn within(at: usize, target: &Target) -> Option<(&'static str, usize, &'static str)> {
    match target.def.origin {
        Origin::Inside(root, field) => Some((root, at, field)),
        _ => None,
    }
}

fn no_object() -> Error {
    Error::new(ErrorKind::DataInvalid, "a line of a result is no object with a type and an id")
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
    fn a_type_that_stands_elsewhere_is_found_and_lists_are_read_without_the_stream_of_their_parents() {
        let text = TEXT.replace(r#"{"__typename":"Order","id":"gid"#, r#"{ "id":"gid"#);
        let text = text.replace(r#"/1","name""#, r#"/1","__typename":"Order","name""#);
        let text = text.replace(r#"/2","trans"#, r#"/2","__typename" : "Order","trans"#);
        assert_eq!(text.matches(r#"{ "id":"gid"#).count(), 2);
        let all = ["orders", "order_line_items", "transactions"];
        for (text, streams, counts) in
            [(text.as_str(), &all[..], &[2, 1, 2][..]), (text.as_str(), &all[2..], &[2]), (TEXT, &all[2..], &[2])]
        {
            let rows = read(text, streams, 100, 0).expect("rows");
            assert_eq!(rows.iter().map(|(_, rows)| rows.num_rows()).collect::<Vec<_>>(), counts);
        }
        let nameless = TEXT.replacen(r#""__typename":"Order","#, "", 1);
        assert_eq!(read(&nameless, &all, 100, 0).expect_err("no type").kind(), ErrorKind::DataInvalid);
        let other = TEXT.replacen(r#"{"__typename":"Order","#, r#"{"__typename":"Order","__typename":"Shop","#, 1);
        assert_eq!(read(&other, &all, 100, 0).expect("rows")[0].1.num_rows(), 1, "the last of two types counts");
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
