//! Change Tracking of the stand-in: which rows have changed since a version, at once with every commit.

use std::collections::BTreeMap;

use super::capture::Change;
use super::catalog::{TEXT, answer, flag, text};
use super::parse::Path;
use super::state::{Fault, Output, State, Table, TableColumn, Version, missing};
use super::value::{Type, Value, compare};

/// The versions of the database.
#[derive(Debug)]
pub(super) struct Tracking {
    enabled: bool,
    version: i64,
    /// How long changes are remembered.
    minutes: i64,
}

impl Default for Tracking {
    fn default() -> Self {
        Self { enabled: false, version: 0, minutes: 2_880 }
    }
}

/// What is known of the rows of a table.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    least: i64,
    /// Version, whether the row is there afterwards and whether it was before, key.
    changes: Vec<(i64, bool, bool, Vec<Value>)>,
}

/// `CHANGETABLE(CHANGES …, version)`, and the names that its columns get.
pub(super) struct Changes {
    pub(super) after: i64,
    pub(super) names: Vec<(String, String)>,
}

/// What shall be tracked.
pub(super) enum Track {
    /// By the database; for so many minutes, where it says so.
    Database { on: bool, minutes: Option<i64> },
    /// By a table.
    Table { path: Path, on: bool },
    /// Not at all: a table loses its rows.
    Truncate(Path),
}

impl State {
    pub(super) fn set_tracking(&mut self, track: Track) -> Result<(), Fault> {
        match track {
            Track::Database { on, minutes } => {
                if !on || !self.tracking.enabled {
                    self.tracking = Tracking { enabled: on, ..Tracking::default() };
                    self.tables.values_mut().for_each(|table| table.tracked = None);
                }
                self.tracking.minutes = minutes.unwrap_or(self.tracking.minutes);
            }
            Track::Table { path, on } => {
                let (enabled, least) = (self.tracking.enabled, self.tracking.version);
                let table = self.tables.get_mut(&path).ok_or_else(|| missing(&path))?;
                if on && !enabled {
                    return Err(Fault::error(4_996, "Change tracking is not enabled on the database."));
                }
                if on && table.key.is_empty() {
                    return Err(Fault::error(4_997, "Change tracking requires a primary key on the table."));
                }
                table.tracked = on.then(|| Tracked { least, changes: Vec::new() });
            }
            Track::Truncate(path) => {
                self.tracking.version += 1;
                let least = self.tracking.version;
                let table = self.tables.get_mut(&path).ok_or_else(|| missing(&path))?;
                table.rows.clear();
                if table.tracked.is_some() {
                    table.tracked = Some(Tracked { least, changes: Vec::new() });
                }
            }
        }
        Ok(())
    }

    /// Notes what a transaction has changed.
    pub(super) fn track(&mut self, changes: &[Change]) {
        let is_tracked = |change: &&Change| self.tables.get(change.path()).is_some_and(|table| table.tracked.is_some());
        if !changes.iter().any(|change| is_tracked(&change)) {
            return;
        }
        self.tracking.version += 1;
        for change in changes {
            let Some(table) = self.tables.get_mut(change.path()) else { continue };
            let key = key_of(table, change.cells());
            if let Some(tracked) = &mut table.tracked {
                tracked.changes.push((self.tracking.version, !change.is_delete(), !change.is_insert(), key));
            }
        }
    }

    /// Forgets what has changed so far, as the cleanup does.
    pub(super) fn forget_tracked(&mut self) {
        let least = self.tracking.version;
        for tracked in self.tables.values_mut().filter_map(|table| table.tracked.as_mut()) {
            *tracked = Tracked { least, changes: Vec::new() };
        }
    }

    /// The rows of `CHANGETABLE(CHANGES …) LEFT JOIN …`: the last change of each key, and the row as it is now. What lies
    /// before the least valid version is left out in silence, as the server does.
    pub(super) fn tracked_rows(&self, session: u64, path: &Path, changes: &Changes) -> Result<Table, Fault> {
        let table = self.tables.get(path).ok_or_else(|| missing(path))?;
        let tracked = table
            .tracked
            .as_ref()
            .ok_or_else(|| Fault::error(22_105, "Change tracking is not enabled on the table."))?;
        let column = |name: &str, ty: Type| TableColumn::of(name, ty);
        let mut columns = Vec::new();
        for (name, alias) in &changes.names {
            columns.push(match name.as_str() {
                "SYS_CHANGE_VERSION" => column(alias, Type::BigInt),
                "SYS_CHANGE_OPERATION" => column(alias, Type::NChar(1)),
                name => {
                    let found = table.columns.iter().find(|column| column.name == name);
                    let found = found.ok_or_else(|| Fault::error(207, "Invalid column name"))?;
                    TableColumn { collation: found.collation.clone(), ..column(alias, found.ty) }
                }
            });
        }
        columns.extend(
            table
                .columns
                .iter()
                .map(|found| TableColumn { collation: found.collation.clone(), ..column(&found.name, found.ty) }),
        );
        // In the order of a text, which is as good as any.
        let mut net: BTreeMap<String, (i64, &str, &[Value])> = BTreeMap::new();
        for (version, there, before, key) in tracked.changes.iter().filter(|(version, ..)| *version > changes.after) {
            let new = !before || net.get(&format!("{key:?}")).is_some_and(|(_, op, _)| *op == "I");
            let op = if !there {
                "D"
            } else if new {
                "I"
            } else {
                "U"
            };
            net.insert(format!("{key:?}"), (*version, op, key));
        }
        let mut rows = Vec::new();
        for (version, op, key) in net.into_values() {
            let is_it = |row: &&Version| {
                let mut pairs = key_of(table, &row.cells).into_iter().zip(key);
                row.seen_by(session) && pairs.all(|(a, b)| compare(&a, b).is_some_and(std::cmp::Ordering::is_eq))
            };
            let now = table.rows.iter().find(is_it).map(|row| row.cells.clone());
            let mut cells = Vec::with_capacity(columns.len());
            for (name, _) in &changes.names {
                cells.push(match name.as_str() {
                    "SYS_CHANGE_VERSION" => Value::Int(version),
                    "SYS_CHANGE_OPERATION" => text(op),
                    name => {
                        let at = table.key.iter().position(|key| key == name);
                        at.map(|at| key[at].clone()).ok_or_else(|| Fault::error(207, "Invalid column name"))?
                    }
                });
            }
            cells.extend(now.unwrap_or_else(|| vec![Value::Null; table.columns.len()]));
            rows.push(Version { cells, by: None, deleted: None });
        }
        Ok(Table { columns, rows, ..Table::default() })
    }

    /// Answers a question about change tracking; `None`: it is about something else.
    pub(super) fn tracking_answer(&self, sql: &str) -> Option<Output> {
        let version = || if self.tracking.enabled { Value::Int(self.tracking.version) } else { Value::Null };
        Some(if sql.contains("CHANGE_TRACKING_CURRENT_VERSION()") {
            answer(&[Type::BigInt], vec![vec![version()]])
        } else if sql.contains("FROM sys.change_tracking_tables") {
            let row = |(path, table): (&Path, &Table)| {
                let tracked = table.tracked.as_ref()?;
                let denied = self.denied.contains(&format!("{}.{}", path.0, path.1));
                let least = if denied { Value::Null } else { Value::Int(tracked.least) };
                Some(vec![text(&path.0), text(&path.1), least, flag(table.capture.is_some())])
            };
            answer(&[TEXT, TEXT, Type::BigInt, Type::Int], self.tables.iter().filter_map(row).collect())
        } else if sql.contains("FROM sys.change_tracking_databases") {
            let row = vec![Value::Int(self.tracking.minutes), flag(true)];
            answer(&[Type::BigInt, Type::Int], if self.tracking.enabled { vec![row] } else { Vec::new() })
        } else {
            return None;
        })
    }
}

fn key_of(table: &Table, cells: &[Value]) -> Vec<Value> {
    let place = |name: &String| table.columns.iter().position(|column| column.name == *name);
    table.key.iter().filter_map(place).map(|at| cells[at].clone()).collect()
}
