//! What the stand-in holds: tables with versions of rows, transactions, the catalog, what shall go wrong.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use super::capture::{Capture, Change, Log};
use super::eval::{Scope, holds, type_of, value_of};
use super::parse::{ColumnDef, Condition, Expr, Path, Select, Statement, parse};
use super::tracking::{Tracked, Tracking};
use super::value::{Type, Value, coerce, compare};

/// What goes wrong with a statement.
#[derive(Debug, Clone)]
pub struct Fault {
    pub(super) code: u32,
    pub(super) class: u8,
    pub(super) message: String,
    pub(super) kind: FaultKind,
}

/// How it goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultKind {
    Error,
    Close,
    Silence,
}

impl Fault {
    /// The server answers with an error.
    pub fn error(code: u32, message: &str) -> Self {
        Self { code, class: 16, message: message.chars().take(2_000).collect(), kind: FaultKind::Error }
    }

    /// The server closes the connection in place of an answer.
    pub fn close() -> Self {
        Self { kind: FaultKind::Close, ..Self::error(0, "") }
    }

    /// The server never answers.
    pub fn silence() -> Self {
        Self { kind: FaultKind::Silence, ..Self::error(0, "") }
    }
}

/// A column of a table.
#[derive(Debug)]
pub(super) struct TableColumn {
    pub(super) name: String,
    pub(super) ty: Type,
    pub(super) nullable: bool,
    pub(super) identity: bool,
    pub(super) default: Option<Expr>,
    pub(super) collation: String,
}

impl TableColumn {
    /// A column of an answer that no table has.
    pub(super) fn of(name: &str, ty: Type) -> Self {
        Self { name: name.into(), ty, nullable: true, identity: false, default: None, collation: String::new() }
    }

    pub(super) fn code_page(&self) -> i64 {
        match self.ty {
            Type::Char(_) | Type::VarChar(_) | Type::Text if self.collation.contains("UTF8") => 65001,
            Type::Char(_) | Type::VarChar(_) | Type::Text if self.collation.contains("CP850") => 850,
            ty if ty.is_text() => 1252,
            _ => 0,
        }
    }
}

/// A version of a row: who has written it and who has deleted it, as long as that is not committed.
#[derive(Debug, Clone)]
pub(super) struct Version {
    pub(super) cells: Vec<Value>,
    pub(super) by: Option<u64>,
    pub(super) deleted: Option<u64>,
}

impl Version {
    pub(super) fn seen_by(&self, session: u64) -> bool {
        self.by.is_none_or(|by| by == session) && self.deleted.is_none_or(|by| by != session)
    }
}

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) columns: Vec<TableColumn>,
    pub(super) key: Vec<String>,
    /// Name, whether it is unique, columns.
    pub(super) indexes: Vec<(String, bool, Vec<String>)>,
    pub(super) rows: Vec<Version>,
    pub(super) capture: Option<Capture>,
    pub(super) tracked: Option<Tracked>,
    pub(super) next: i64,
}

impl Table {
    /// Rows, and a guess of the bytes that they take.
    pub(super) fn size(&self) -> (i64, i64) {
        let size = |cell: &Value| match cell {
            Value::Text(text) => text.len() * 2,
            Value::Bytes(bytes) => bytes.len(),
            _ => 8,
        };
        let bytes: usize = self.rows.iter().map(|row| row.cells.iter().map(size).sum::<usize>() + 7).sum();
        (self.rows.len() as i64, bytes as i64)
    }
}

/// A column of an answer.
#[derive(Debug, Clone)]
pub(super) struct OutputColumn {
    pub(super) name: String,
    pub(super) ty: Type,
    pub(super) nullable: bool,
    pub(super) utf8: bool,
}

/// The answer to a statement that gives rows.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) columns: Vec<OutputColumn>,
    pub(super) rows: Vec<Vec<Value>>,
}

/// The database of the stand-in.
pub struct State {
    pub(super) tables: BTreeMap<Path, Table>,
    /// Sessions in a transaction that has written, and since when.
    pub(super) open: BTreeMap<u64, Instant>,
    transactions: BTreeSet<u64>,
    version: u64,
    faults: VecDeque<(String, Fault)>,
    statements: Vec<String>,
    cleanup: Option<String>,
    /// What change capture keeps of the log.
    pub(super) log: Log,
    /// The versions by which rows are tracked.
    pub(super) tracking: Tracking,
    /// Accounts and their passwords.
    pub(super) logins: BTreeMap<String, String>,
    /// The access token that is accepted.
    pub(super) token: String,
    /// Whether `ALLOW_SNAPSHOT_ISOLATION` is on.
    pub snapshot: bool,
    /// Whether the account has VIEW SERVER STATE.
    pub sees_all: bool,
    /// Tables on which the account lacks SELECT, as `schema.table`.
    pub denied: BTreeSet<String>,
    /// Whether the account may write.
    pub writable: bool,
    /// Whether SQL Server Agent runs, and how many minutes changes are kept.
    pub agent: (bool, i64),
}

impl Default for State {
    fn default() -> Self {
        Self {
            tables: BTreeMap::new(),
            open: BTreeMap::new(),
            transactions: BTreeSet::new(),
            version: 2_000,
            faults: VecDeque::new(),
            statements: Vec::new(),
            cleanup: None,
            log: Log::default(),
            tracking: Tracking::default(),
            logins: BTreeMap::from([(super::USER.to_owned(), super::PASSWORD.to_owned())]),
            token: super::TOKEN.to_owned(),
            snapshot: true,
            sees_all: true,
            denied: BTreeSet::new(),
            writable: false,
            agent: (true, 4_320),
        }
    }
}

impl State {
    /// The next statement that holds this text goes wrong.
    pub fn fault(&mut self, statement: &str, fault: Fault) {
        self.faults.push_back((statement.to_owned(), fault));
    }

    /// Changes are forgotten while the next statement that holds this text is answered.
    pub fn clean_up_at(&mut self, statement: &str) {
        self.cleanup = Some(statement.to_owned());
    }

    /// The statements that were answered, in order.
    pub fn statements(&self) -> &[String] {
        &self.statements
    }

    /// Answers a batch.
    pub(super) fn answer(&mut self, session: u64, sql: &str) -> Result<Vec<Output>, Fault> {
        self.statements.push(sql.to_owned());
        if let Some(at) = self.faults.iter().position(|(part, _)| sql.contains(part.as_str()))
            && let Some((_, fault)) = self.faults.remove(at)
        {
            return Err(fault);
        }
        if self.cleanup.take_if(|part| sql.contains(part.as_str())).is_some() {
            self.clean_up();
        }
        if let Some(answered) = self.catalog(session, sql) {
            return answered.map(|output| vec![output]);
        }
        let mut outputs = Vec::new();
        for statement in parse(sql)? {
            outputs.extend(self.execute(session, statement)?);
        }
        Ok(outputs)
    }

    /// A session is gone, and what it did not commit with it.
    pub(super) fn forget(&mut self, session: u64) {
        self.end(session, false);
    }

    /// The first row version that a transaction may still bring.
    pub(super) fn least_active(&self) -> Vec<u8> {
        let uncommitted = self.tables.values().flat_map(|table| {
            let at = table.columns.iter().position(|column| column.ty == Type::RowVersion);
            table.rows.iter().filter(|row| row.by.is_some()).filter_map(move |row| match &row.cells[at?] {
                Value::Bytes(bytes) => Some(bytes.clone()),
                _ => None,
            })
        });
        uncommitted.min().unwrap_or_else(|| (self.version + 1).to_be_bytes().to_vec())
    }

    fn execute(&mut self, session: u64, statement: Statement) -> Result<Option<Output>, Fault> {
        match statement {
            Statement::Set => {}
            Statement::Table { path, columns, key } => self.create(path, columns, key)?,
            Statement::Index { table, unique, columns } => {
                let table = self.table_mut(&table)?;
                table.indexes.push((format!("ix_{}", table.indexes.len()), unique, columns));
            }
            Statement::Drop(path) => {
                self.tables.remove(&path).ok_or_else(|| missing(&path))?;
            }
            Statement::Insert { table, columns, rows } => self.insert(session, &table, &columns, &rows)?,
            Statement::Update { table, sets, condition } => {
                self.change(session, &table, condition.as_ref(), Some(&sets))?
            }
            Statement::Delete { table, condition } => self.change(session, &table, condition.as_ref(), None)?,
            Statement::Begin => {
                self.transactions.insert(session);
            }
            Statement::Exec(name, arguments) => self.procedure(&name, &arguments)?,
            Statement::Track(track) => self.set_tracking(track)?,
            Statement::Commit => self.end(session, true),
            Statement::Rollback => self.end(session, false),
            Statement::Select(select) => return self.select(session, &select).map(Some),
        }
        Ok(None)
    }

    fn create(&mut self, path: Path, columns: Vec<ColumnDef>, key: Vec<String>) -> Result<(), Fault> {
        if self.tables.contains_key(&path) {
            return Err(Fault::error(2714, "There is already an object with that name."));
        }
        let column = |def: ColumnDef| TableColumn {
            name: def.name,
            ty: def.ty,
            nullable: def.nullable,
            identity: def.identity,
            default: def.default,
            collation: if def.collation.is_empty() { "SQL_Latin1_General_CP1_CI_AS".into() } else { def.collation },
        };
        let table = Table { columns: columns.into_iter().map(column).collect(), key, ..Table::default() };
        self.tables.insert(path, table);
        Ok(())
    }

    fn table_mut(&mut self, path: &Path) -> Result<&mut Table, Fault> {
        self.tables.get_mut(path).ok_or_else(|| missing(path))
    }

    /// Notes that a transaction has written; outside of one, a statement is its own.
    fn writer(&mut self, session: u64) -> Option<u64> {
        let within = self.transactions.contains(&session);
        if within {
            self.open.entry(session).or_insert_with(Instant::now);
        }
        within.then_some(session)
    }

    fn insert(&mut self, session: u64, path: &Path, columns: &[String], rows: &[Vec<Expr>]) -> Result<(), Fault> {
        let by = self.writer(session);
        let mut version = self.version;
        let table = self.table_mut(path)?;
        let mut inserted = Vec::new();
        for row in rows {
            let mut cells = Vec::with_capacity(table.columns.len());
            for column in &table.columns {
                let given = columns.iter().position(|name| name.eq_ignore_ascii_case(&column.name));
                let scope = Scope { columns: &[], row: &[] };
                let value = match (given.and_then(|at| row.get(at)).or(column.default.as_ref()), column.ty) {
                    (_, Type::RowVersion) => {
                        version += 1;
                        Value::Bytes(version.to_be_bytes().to_vec())
                    }
                    (Some(expr), ty) => coerce(value_of(expr, &scope)?, type_of(expr, &[])?.0, ty)?,
                    (None, _) if column.identity => {
                        table.next += 1;
                        Value::Int(table.next)
                    }
                    (None, _) => Value::Null,
                };
                if value == Value::Null && !column.nullable {
                    return Err(Fault::error(515, "Cannot insert the value NULL"));
                }
                cells.push(value);
            }
            inserted.push(Version { cells, by, deleted: None });
        }
        let changes = inserted.iter().map(|row: &Version| Change::inserted(path, &row.cells)).collect();
        table.rows.extend(inserted);
        self.version = version;
        self.note(by, changes);
        Ok(())
    }

    /// Updates the rows that match, or deletes them.
    fn change(
        &mut self,
        session: u64,
        path: &Path,
        condition: Option<&Condition>,
        sets: Option<&[(String, Expr)]>,
    ) -> Result<(), Fault> {
        let by = self.writer(session);
        let mut version = self.version;
        let Table { columns, rows, key, .. } = self.table_mut(path)?;
        let (mut added, mut changes) = (Vec::new(), Vec::new());
        for row in rows.iter_mut().filter(|row| row.seen_by(session)) {
            let scope = Scope { columns, row: &row.cells };
            if !condition.map_or(Ok(true), |condition| holds(condition, &scope))? {
                continue;
            }
            if let Some(sets) = sets {
                let mut cells = row.cells.clone();
                for (at, column) in columns.iter().enumerate() {
                    let set = sets.iter().find(|(name, _)| name.eq_ignore_ascii_case(&column.name));
                    if let Some((_, expr)) = set {
                        cells[at] = coerce(value_of(expr, &scope)?, type_of(expr, columns)?.0, column.ty)?;
                    }
                    if column.ty == Type::RowVersion {
                        version += 1;
                        cells[at] = Value::Bytes(version.to_be_bytes().to_vec());
                    }
                }
                changes.extend(Change::updated(path, columns, key, &row.cells, &cells));
                added.push(Version { cells, by, deleted: None });
            } else {
                changes.push(Change::deleted(path, &row.cells));
            }
            row.deleted = Some(by.unwrap_or(0));
        }
        // Session 0 is nobody's: what it deletes is gone.
        rows.retain(|row| row.deleted != Some(0));
        rows.extend(added);
        self.version = version;
        self.note(by, changes);
        Ok(())
    }

    fn end(&mut self, session: u64, keep: bool) {
        self.transactions.remove(&session);
        self.settle(session, keep);
        if self.open.remove(&session).is_none() {
            return;
        }
        for table in self.tables.values_mut() {
            table.rows.retain(|row| if keep { row.deleted != Some(session) } else { row.by != Some(session) });
            for row in &mut table.rows {
                if row.by == Some(session) {
                    row.by = None;
                }
                if row.deleted == Some(session) {
                    row.deleted = None;
                }
            }
        }
    }

    fn select(&mut self, session: u64, select: &Select) -> Result<Output, Fault> {
        let given = match (&select.from, &select.tracked) {
            (Some(path), Some(changes)) => self.tracked_rows(session, path, changes)?,
            (Some(path), None) if path.0 == "cdc" => self.changes(&path.1, &select.arguments)?,
            _ => Table::default(),
        };
        let table = match &select.from {
            Some(path) if path.0 == "cdc" => &given,
            Some(path) if self.denied.contains(&format!("{}.{}", path.0, path.1)) => {
                return Err(Fault::error(229, "The SELECT permission was denied on the object."));
            }
            Some(_) if select.tracked.is_some() => &given,
            Some(path) => self.tables.get(path).ok_or_else(|| missing(path))?,
            None => &given,
        };
        let columns = &table.columns;
        let mut rows: Vec<&[Value]> = Vec::new();
        if select.from.is_none() {
            rows.push(&[]);
        }
        for row in table.rows.iter().filter(|row| row.seen_by(session)) {
            let scope = Scope { columns, row: &row.cells };
            if select.condition.as_ref().map_or(Ok(true), |condition| holds(condition, &scope))? {
                rows.push(&row.cells);
            }
        }
        if let Some((name, descending)) = &select.order {
            let at = columns.iter().position(|column| column.name == *name);
            let at = at.ok_or_else(|| Fault::error(207, "Invalid column name"))?;
            // Null is the least.
            let order = |a: &&[Value], b: &&[Value]| {
                compare(&a[at], &b[at]).unwrap_or_else(|| (b[at] == Value::Null).cmp(&(a[at] == Value::Null)))
            };
            rows.sort_by(order);
            if *descending {
                rows.reverse();
            }
        }
        rows.truncate(select.top.unwrap_or(usize::MAX));
        let mut output = Output::default();
        for expr in &select.list {
            let (ty, nullable, utf8) = type_of(expr, columns)?;
            let name = if let Expr::Column(name) = expr { name.clone() } else { String::new() };
            output.columns.push(OutputColumn { name, ty, nullable, utf8 });
        }
        let aggregate = select.list.iter().any(is_aggregate);
        if aggregate {
            let row = select.list.iter().map(|expr| aggregated(expr, columns, &rows)).collect::<Result<_, _>>()?;
            output.rows.push(row);
        } else {
            for row in rows {
                let scope = Scope { columns, row };
                output.rows.push(select.list.iter().map(|expr| value_of(expr, &scope)).collect::<Result<_, _>>()?);
            }
        }
        Ok(output)
    }
}

pub(super) fn missing(path: &Path) -> Fault {
    Fault::error(208, &format!("Invalid object name '{}.{}'.", path.0, path.1))
}

fn is_aggregate(expr: &Expr) -> bool {
    matches!(expr, Expr::Call(name, _) if ["MIN", "MAX", "COUNT_BIG"].iter().any(|known| name.eq_ignore_ascii_case(known)))
}

fn aggregated(expr: &Expr, columns: &[TableColumn], rows: &[&[Value]]) -> Result<Value, Fault> {
    let Expr::Call(name, arguments) = expr else { return Err(Fault::error(8120, "Invalid in the select list")) };
    if name.eq_ignore_ascii_case("COUNT_BIG") {
        return Ok(Value::Int(rows.len() as i64));
    }
    let of = arguments.first().ok_or_else(|| Fault::error(174, "The function requires 1 argument"))?;
    let mut best = Value::Null;
    for row in rows {
        let value = value_of(of, &Scope { columns, row })?;
        let wanted =
            if name.eq_ignore_ascii_case("MIN") { std::cmp::Ordering::Less } else { std::cmp::Ordering::Greater };
        if best == Value::Null || compare(&value, &best) == Some(wanted) {
            best = value;
        }
    }
    Ok(best)
}
