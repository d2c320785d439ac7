//! One table that is captured: its rows at this place of the log, and what its readers were told that they look like.

use std::fmt::Write;
use std::sync::Arc;

use arrow_schema::{FieldRef, Schema, SchemaRef};
use ingest_core::{Out, Result, Seq, StreamName};

use super::bytes::Bytes;
use super::charset::Collations;
use super::image::{self, Value};
use super::map::TableMap;
use crate::builder::{Change, Rows};
use crate::catalog::{Column, Table};
use crate::cells::Cell;
use crate::work::Position;

/// What happened to rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happened {
    Inserted,
    Updated,
    Deleted,
}

/// One table that is captured.
pub(crate) struct Captured {
    pub(crate) stream: StreamName,
    pub(crate) table: Arc<Table>,
    /// The columns that are wanted; `None` = all.
    wanted: Option<Vec<String>>,
    /// What the stream's rows were said to look like.
    announced: Vec<FieldRef>,
    version: Option<Version>,
}

/// The table as it is at this place of the log.
struct Version {
    /// The event's bytes behind the table's number, which change when it does.
    raw: Vec<u8>,
    map: TableMap,
    /// Of the columns of the map, those that are given, and their places in what was announced.
    given: Vec<(usize, usize)>,
    /// Of the columns of the map, those of the key.
    key: Vec<usize>,
    rows: Rows,
    /// What has to be made of a value, and the bits of columns that a row does not carry; kept for the next one.
    made: Vec<u8>,
    absent: Vec<u8>,
}

/// The places of the rows of a transaction: where it begins, and their numbers.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// What all places begin with, then the number of the last one.
    text: String,
    begins: usize,
    /// How many rows were given.
    pub(crate) rows: u64,
}

impl Order {
    /// Of the transaction that begins at a place of a file.
    pub(crate) fn new(file: u64, start: u64) -> Self {
        let text = format!("{}.", Seq::of(&[file, start]));
        Self { begins: text.len(), text, rows: 0 }
    }

    /// The place of the next row, as [`Seq`] writes it.
    fn next(&mut self) -> &str {
        const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
        self.rows += 1;
        // Of sixteen rows fifteen differ from the one before by their last digit.
        let last = DIGITS[(self.rows % 16) as usize];
        if self.rows.is_multiple_of(16) || self.text.len() == self.begins {
            self.text.truncate(self.begins);
            // Writing to a text does not fail.
            let _ = write!(self.text, "{:016x}", self.rows);
        } else {
            self.text.pop();
            self.text.push(last);
        }
        &self.text
    }
}

/// Rows of one event.
pub(crate) struct Event<'a> {
    pub(crate) happened: Happened,
    /// Which columns the rows carry, before and after.
    pub(crate) before: &'a [u8],
    pub(crate) after: &'a [u8],
    pub(crate) rows: &'a [u8],
}

impl Captured {
    pub(crate) fn new(table: Arc<Table>, wanted: Option<Vec<String>>) -> Self {
        let is_wanted = |name: &String| wanted.as_ref().is_none_or(|wanted| wanted.contains(name));
        let announced =
            table.columns.iter().filter(|column| is_wanted(&column.name)).map(|column| column.field.clone());
        Self { stream: table.stream.clone(), announced: announced.collect(), table, wanted, version: None }
    }

    /// What the rows that wait take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.version.as_ref().map_or(0, |version| version.rows.bytes())
    }

    /// Takes the description that comes before rows. Where it is another one, the rows of the former are given out first.
    pub(crate) async fn describe(
        &mut self,
        body: &[u8],
        collations: &Collations,
        out: &mut Out<'_, Position>,
    ) -> Result<()> {
        let raw = body.get(8..).unwrap_or_default();
        if self.version.as_ref().is_some_and(|version| version.raw == raw) {
            return Ok(());
        }
        self.flush(out).await?;
        let map = TableMap::parse(body, &self.table.columns, collations)?;
        let is_wanted = |name: &String| self.wanted.as_ref().is_none_or(|wanted| wanted.contains(name));
        let columns: Vec<(usize, Column)> =
            map.columns.iter().map(|mapped| mapped.column()).enumerate().filter(|(_, c)| is_wanted(&c.name)).collect();
        if let Some(schema) = announce(&mut self.announced, &columns) {
            out.schema(&self.stream, schema).await?;
        }
        let place = |name: &str| self.announced.iter().position(|field| field.name() == name).unwrap_or(0);
        let given = columns.iter().map(|(at, column)| (*at, place(&column.name))).collect();
        let key = self.table.key.iter().filter_map(|name| map.columns.iter().position(|column| column.name == *name));
        self.version = Some(Version {
            raw: raw.to_vec(),
            key: key.collect(),
            given,
            rows: Rows::of_changes(columns.iter().map(|(_, column)| column)),
            map,
            made: Vec::new(),
            absent: Vec::new(),
        });
        Ok(())
    }

    /// Takes the rows of an event; `order` numbers them.
    pub(crate) fn take(&mut self, event: &Event<'_>, order: &mut Order) -> Result<()> {
        let Some(version) = &mut self.version else { return Ok(()) };
        let mut rows = Bytes(event.rows);
        let (mut before, mut after) = (Vec::new(), Vec::new());
        while !rows.is_empty() {
            match event.happened {
                Happened::Inserted => {
                    image::read(&mut rows, &version.map.columns, event.after, &mut after)?;
                    version.push(&after, None, "I", order)?;
                }
                Happened::Deleted => {
                    image::read(&mut rows, &version.map.columns, event.before, &mut before)?;
                    version.push(&before, None, "D", order)?;
                }
                Happened::Updated => {
                    image::read(&mut rows, &version.map.columns, event.before, &mut before)?;
                    image::read(&mut rows, &version.map.columns, event.after, &mut after)?;
                    if version.moves(&before, &after) {
                        // Whoever merges by key must see the old one go.
                        version.push(&before, None, "D", order)?;
                        version.push(&after, Some(&before), "I", order)?;
                    } else {
                        version.push(&after, Some(&before), "U", order)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives out the rows that wait.
    pub(crate) async fn flush(&mut self, out: &mut Out<'_, Position>) -> Result<()> {
        let Some(version) = &mut self.version else { return Ok(()) };
        match version.rows.finish()? {
            Some(batch) => out.rows(&self.stream, batch).await,
            None => Ok(()),
        }
    }
}

impl Version {
    /// Adds a row; what it does not carry is as it was `before`, or absent.
    fn push(&mut self, row: &[Value<'_>], before: Option<&[Value<'_>]>, op: &str, order: &mut Order) -> Result<()> {
        self.absent.clear();
        for (nth, (at, place)) in self.given.iter().enumerate() {
            let value = match row.get(*at).copied().unwrap_or(Value::Absent) {
                Value::Absent => before.and_then(|before| before.get(*at)).copied().unwrap_or(Value::Absent),
                value => value,
            };
            let cell = match value {
                Value::Given(given) => {
                    let column = &self.map.columns[*at];
                    let cell = image::cell(&column.layout, given, &mut self.made);
                    cell.map_err(|error| error.with("column", &column.name))?
                }
                Value::Null => Cell::Null,
                Value::Absent => {
                    self.absent.resize(self.absent.len().max(place / 8 + 1), 0);
                    self.absent[place / 8] |= 1 << (place % 8);
                    Cell::Null
                }
            };
            self.rows.value(nth, cell)?;
        }
        self.rows.end_change(&Change { op, seq: order.next(), absent: &self.absent });
        Ok(())
    }

    /// Whether an update changes the key. Equal values lie in the log as equal bytes.
    fn moves(&self, before: &[Value<'_>], after: &[Value<'_>]) -> bool {
        self.key.iter().any(|at| match (before.get(*at), after.get(*at)) {
            (Some(Value::Absent) | None, _) | (_, Some(Value::Absent) | None) => false,
            (before, after) => before != after,
        })
    }
}

/// Adds columns that were not known, and takes over types that are others now. What the rows look like from here on, if that
/// was not announced before.
fn announce(announced: &mut Vec<FieldRef>, columns: &[(usize, Column)]) -> Option<SchemaRef> {
    let mut changed = false;
    for (_, column) in columns {
        match announced.iter_mut().find(|field| field.name() == &column.name) {
            Some(field) if field.data_type() == column.field.data_type() => {}
            Some(field) => {
                *field = column.field.clone();
                changed = true;
            }
            None => {
                announced.push(column.field.clone());
                changed = true;
            }
        }
    }
    changed.then(|| Arc::new(Schema::new(announced.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_numbered_from_one_on_behind_the_place_of_their_transaction() {
        let mut order = Order::new(42, 1_234);
        assert_eq!(order.next(), Seq::of(&[42, 1_234, 1]).as_str());
        assert_eq!(order.next(), Seq::of(&[42, 1_234, 2]).as_str());
        for row in 3..600 {
            assert_eq!(order.next(), Seq::of(&[42, 1_234, row]).as_str());
        }
        assert!(Seq::of(&[42, 1_234, 0]).as_str() < order.next());
    }
}
