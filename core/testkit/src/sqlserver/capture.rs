//! Change data capture of the stand-in: every commit is captured at once.

use std::collections::BTreeMap;

use super::catalog::{TEXT, answer, flag, text};
use super::eval::{Scope, value_of};
use super::parse::{Expr, Path};
use super::state::{Fault, Output, State, Table, TableColumn, Version, missing};
use super::value::{Type, Value};

/// The log of the database, as far as it is captured.
#[derive(Debug, Default)]
pub(super) struct Log {
    enabled: bool,
    /// Number of the last commit.
    last: u64,
    /// Of transactions that are open, by session.
    pending: BTreeMap<u64, Vec<Change>>,
}

/// What is kept of a table's changes.
#[derive(Debug)]
pub(super) struct Capture {
    instance: String,
    start: u64,
    least: u64,
    columns: Vec<String>,
    changes: Vec<(u64, u64, Change)>,
}

/// A change of a row.
#[derive(Debug, Clone)]
pub(super) struct Change {
    path: Path,
    operation: i64,
    /// The places of the columns that an update has set.
    set: Option<Vec<usize>>,
    cells: Vec<Value>,
}

impl Change {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn cells(&self) -> &[Value] {
        &self.cells
    }

    pub(super) fn is_insert(&self) -> bool {
        self.operation == 2
    }

    pub(super) fn is_delete(&self) -> bool {
        self.operation == 1
    }

    pub(super) fn inserted(path: &Path, cells: &[Value]) -> Self {
        Self { path: path.clone(), operation: 2, set: None, cells: cells.to_vec() }
    }

    pub(super) fn deleted(path: &Path, cells: &[Value]) -> Self {
        Self { operation: 1, ..Self::inserted(path, cells) }
    }

    /// One of another key is a deleted row and an inserted one; of large values, only those that have changed are kept.
    pub(super) fn updated(
        path: &Path,
        columns: &[TableColumn],
        key: &[String],
        old: &[Value],
        new: &[Value],
    ) -> Vec<Self> {
        let set: Vec<usize> = (0..columns.len()).filter(|at| old[*at] != new[*at]).collect();
        if set.iter().any(|at| key.contains(&columns[*at].name)) {
            return vec![Self::deleted(path, old), Self::inserted(path, new)];
        }
        let mut cells = new.to_vec();
        for (at, column) in columns.iter().enumerate() {
            if column.ty.is_unbounded() && !set.contains(&at) {
                cells[at] = Value::Null;
            }
        }
        vec![Self { operation: 4, set: Some(set), ..Self::inserted(path, &cells) }]
    }
}

fn lsn(number: u64) -> Value {
    Value::Bytes([&[0, 0][..], &number.to_be_bytes()].concat())
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?))
}

const LSN: Type = Type::Binary(10);

impl State {
    /// Forgets the changes so far, as the cleanup job does, and that of tracking.
    pub fn clean_up(&mut self) {
        self.forget_tracked();
        let least = self.log.last + 1;
        for capture in self.tables.values_mut().filter_map(|table| table.capture.as_mut()) {
            capture.least = least;
            capture.changes.clear();
        }
    }

    /// Keeps changes until their transaction ends; without one that is now.
    pub(super) fn note(&mut self, session: Option<u64>, changes: Vec<Change>) {
        match session {
            Some(session) => self.log.pending.entry(session).or_default().extend(changes),
            None => self.commit(changes),
        }
    }

    /// A transaction has ended.
    pub(super) fn settle(&mut self, session: u64, keep: bool) {
        let changes = self.log.pending.remove(&session).unwrap_or_default();
        if keep {
            self.commit(changes);
        }
    }

    fn commit(&mut self, changes: Vec<Change>) {
        self.track(&changes);
        if changes.is_empty() || !self.log.enabled {
            return;
        }
        self.log.last += 1;
        for (sequence, change) in (1..).zip(changes) {
            if let Some(capture) = self.tables.get_mut(&change.path).and_then(|table| table.capture.as_mut()) {
                capture.changes.push((self.log.last, sequence, change));
            }
        }
    }

    /// Runs a procedure.
    pub(super) fn procedure(&mut self, name: &str, arguments: &[(String, Expr)]) -> Result<(), Fault> {
        let argument = |name: &str| {
            let found = arguments.iter().find(|(argument, _)| argument == name);
            match found.map(|(_, expr)| value_of(expr, &Scope { columns: &[], row: &[] })).transpose()? {
                Some(Value::Text(text)) => Ok(text),
                _ => Err(Fault::error(201, "The procedure expects a parameter")),
            }
        };
        match name {
            "sp_cdc_enable_db" => {
                self.log.enabled = true;
                self.log.last = 1_000;
                Ok(())
            }
            "sp_cdc_enable_table" => {
                let path = (argument("@source_schema")?, argument("@source_name")?);
                // The procedure is a transaction itself.
                self.log.last += 2;
                let start = self.log.last;
                let table = self.tables.get_mut(&path).ok_or_else(|| missing(&path))?;
                table.capture = Some(Capture {
                    instance: format!("{}_{}", path.0, path.1),
                    start,
                    least: start,
                    columns: table.columns.iter().map(|column| column.name.clone()).collect(),
                    changes: Vec::new(),
                });
                Ok(())
            }
            "sp_cdc_disable_table" => {
                let path = (argument("@source_schema")?, argument("@source_name")?);
                self.tables.get_mut(&path).ok_or_else(|| missing(&path))?.capture = None;
                Ok(())
            }
            _ => Err(Fault::error(2812, "Could not find stored procedure.")),
        }
    }

    /// The rows of `fn_cdc_get_all_changes_…`. Both ends belong to the range.
    pub(super) fn changes(&self, function: &str, arguments: &[Expr]) -> Result<Table, Fault> {
        let name = function.strip_prefix("fn_cdc_get_all_changes_").unwrap_or_default();
        let found = self.tables.values().find_map(|table| {
            let capture = table.capture.as_ref().filter(|capture| capture.instance == name)?;
            Some((table, capture))
        });
        let (table, capture) = found.ok_or_else(|| Fault::error(208, "Invalid object name"))?;
        let end = |at: usize| match arguments.get(at).map(|expr| value_of(expr, &Scope { columns: &[], row: &[] })) {
            Some(Ok(Value::Bytes(bytes))) => number(&bytes),
            _ => None,
        };
        let range = (end(0), end(1));
        let (Some(from), Some(to)) = range else { return Err(insufficient()) };
        if from < capture.least || from > to || to > self.log.last {
            return Err(insufficient());
        }
        let own = [
            ("__$start_lsn", LSN),
            ("__$seqval", LSN),
            ("__$operation", Type::Int),
            ("__$update_mask", Type::VarBinary(128)),
        ];
        let mut columns: Vec<TableColumn> = own.iter().map(|(name, ty)| TableColumn::of(name, *ty)).collect();
        let kept = capture.columns.iter().filter_map(|name| table.columns.iter().find(|column| column.name == *name));
        columns.extend(kept.map(|column| TableColumn {
            collation: column.collation.clone(),
            ..TableColumn::of(&column.name, column.ty)
        }));
        let rows = capture.changes.iter().filter(|(at, ..)| (from..=to).contains(at)).map(|(at, sequence, change)| {
            let own = [lsn(*at), lsn(*sequence), Value::Int(change.operation), Value::Bytes(mask(change))];
            Version { cells: own.into_iter().chain(change.cells.iter().cloned()).collect(), by: None, deleted: None }
        });
        Ok(Table { columns, rows: rows.collect(), ..Table::default() })
    }

    /// Answers a question about change capture; `None`: it is about something else.
    pub(super) fn captured(&self, sql: &str) -> Option<Result<Output, Fault>> {
        Some(Ok(if sql.contains("is_cdc_enabled") {
            answer(&[Type::Int, Type::Int], vec![vec![flag(self.log.enabled), Value::Int(3)]])
        } else if sql.contains("FROM sys.dm_server_services") {
            answer(&[TEXT], vec![vec![text(if self.agent.0 { "Running" } else { "Stopped" })]])
        } else if sql.contains("FROM msdb.dbo.cdc_jobs") {
            answer(&[Type::BigInt], vec![vec![Value::Int(self.agent.1)]])
        } else if sql.contains("fn_cdc_get_max_lsn()") {
            answer(&[LSN], vec![vec![if self.log.enabled { lsn(self.log.last) } else { Value::Null }]])
        } else if sql.contains("FROM cdc.change_tables") {
            self.instances()
        } else if sql.contains("FROM cdc.lsn_time_mapping") {
            self.transactions_between(sql)?
        } else {
            return None;
        }))
    }

    fn instances(&self) -> Output {
        let mut rows = Vec::new();
        for (path, table) in &self.tables {
            let Some(capture) = &table.capture else { continue };
            for (ordinal, column) in (1..).zip(&capture.columns) {
                rows.push(vec![
                    text(&path.0),
                    text(&path.1),
                    text(&capture.instance),
                    lsn(capture.start),
                    lsn(if self.denied.contains(&format!("{}.{}", path.0, path.1)) { 0 } else { capture.least }),
                    text(column),
                    Value::Int(ordinal),
                ]);
            }
        }
        answer(&[TEXT, TEXT, TEXT, LSN, LSN, TEXT, Type::Int], rows)
    }

    /// How many transactions lie between two places, up to a number of them, and where the last one is.
    fn transactions_between(&self, sql: &str) -> Option<Output> {
        let most: u64 = sql.split_once("TOP (")?.1.split_once(')')?.0.parse().ok()?;
        let mut places = sql.split("0x").skip(1).filter_map(|rest| u64::from_str_radix(rest.get(4..20)?, 16).ok());
        let (after, upto) = (places.next()?, places.next()?);
        let count = upto.saturating_sub(after).min(most);
        let last = if count == 0 { Value::Null } else { lsn(after + count) };
        Some(answer(&[Type::BigInt, LSN], vec![vec![Value::Int(count as i64), last]]))
    }
}

fn insufficient() -> Fault {
    Fault::error(
        313,
        "An insufficient number of arguments were supplied for the procedure or function cdc.fn_cdc_get_all_changes_ ... .",
    )
}

/// The lowest bit of the last byte is the first column's.
fn mask(change: &Change) -> Vec<u8> {
    let mut mask = vec![0; change.cells.len().div_ceil(8)];
    let length = mask.len();
    for at in (0..change.cells.len()).filter(|at| change.set.as_ref().is_none_or(|set| set.contains(at))) {
        mask[length - 1 - at / 8] |= 1 << (at % 8);
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::super::value::compare;
    use super::*;

    #[test]
    fn a_range_holds_both_its_ends() {
        let places = [lsn(5), lsn(6)];
        assert_eq!(compare(&places[0], &places[1]), Some(std::cmp::Ordering::Less));
        assert!(matches!(&places[0], Value::Bytes(bytes) if number(bytes) == Some(5) && bytes.len() == 10));
    }
}
