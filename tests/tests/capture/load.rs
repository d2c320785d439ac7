//! Tables of every kind of key and type, and random changes of them. All of it follows from a seed.

use std::fmt::Write;

use crate::survive::chance;

/// So many tables.
pub const TABLES: usize = 20;
/// So many columns of a table are of some type.
const COLUMNS: usize = 9;
/// Keys are drawn from so few that most changes find their row.
const KEYS: u64 = 60;

/// A type of a column.
pub struct Kind {
    /// What the server calls it.
    pub sql: &'static str,
    /// A random value of it, in SQL.
    pub value: fn(&mut u64) -> String,
    /// An expression that gives the text by which its values are compared, where `{}` is the column. Only for databases whose
    /// catalog does not say enough.
    pub shown: &'static str,
}

/// How rows are told apart.
#[derive(Clone, Copy)]
pub enum Key {
    Number,
    Pair,
    Text,
    Decimal,
}

impl Key {
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Pair => &["a", "b"],
            Self::Number | Self::Text | Self::Decimal => &["id"],
        }
    }

    fn types(self) -> &'static [&'static str] {
        match self {
            Self::Number => &["bigint"],
            Self::Pair => &["int", "varchar(20)"],
            Self::Text => &["varchar(40)"],
            Self::Decimal => &["decimal(12,2)"],
        }
    }

    fn values(self, k: u64) -> Vec<String> {
        match self {
            Self::Number => vec![(i128::from(k) * 300_000_000_000_000_001 - 9_000_000_000_000_000_000).to_string()],
            Self::Pair => vec![(k % 7).to_string(), format!("'b{k}'")],
            Self::Text => vec![format!("'Zoë''s key {k}'")],
            Self::Decimal => vec![format!("{k}.25")],
        }
    }

    /// `a = 1 <between> b = 'x'`.
    fn equations(self, k: u64, between: &str) -> String {
        let each = self.columns().iter().zip(self.values(k)).map(|(column, value)| format!("{column} = {value}"));
        each.collect::<Vec<_>>().join(between)
    }
}

/// A table.
pub struct Table {
    pub number: usize,
    pub key: Key,
    pub columns: Vec<(String, Kind)>,
}

impl Table {
    /// All tables of a database with these types: each type is in several of them.
    pub fn all(kinds: fn() -> Vec<Kind>) -> Vec<Self> {
        let keys = [Key::Number, Key::Pair, Key::Text, Key::Decimal];
        let table = |number| {
            let mut kinds: Vec<Kind> = kinds();
            let first = number * 3 % kinds.len();
            kinds.rotate_left(first);
            let columns = kinds.into_iter().take(COLUMNS).enumerate();
            Self {
                number,
                key: keys[number % keys.len()],
                columns: columns.map(|(i, kind)| (format!("c{i}"), kind)).collect(),
            }
        };
        (0..TABLES).map(table).collect()
    }

    pub fn name(&self) -> String {
        format!("t{}", self.number)
    }

    pub fn definition(&self) -> String {
        let key = self.key.columns().iter().zip(self.key.types()).map(|(name, sql)| format!("{name} {sql} NOT NULL, "));
        let columns: String = self.columns.iter().map(|(name, kind)| format!("{name} {} NULL, ", kind.sql)).collect();
        format!(
            "CREATE TABLE {} ({}ver bigint NOT NULL, {columns}PRIMARY KEY ({}))",
            self.name(),
            key.collect::<String>(),
            self.key.columns().join(", ")
        )
    }
}

/// Random changes of some of the tables. Every version of a row has a number of its own, and numbers grow in each table.
pub struct Load {
    pub seed: u64,
    /// The number of the version that was made last.
    version: u64,
    step: u64,
    tables: Vec<Table>,
    /// How a row is inserted unless there is one: what comes before the table's name, and what after the values.
    insert: (&'static str, &'static str),
}

impl Load {
    /// A writer of several; each has tables of its own.
    pub fn new(writer: u64, tables: Vec<Table>, insert: (&'static str, &'static str)) -> Self {
        Self { seed: 0x2545_f491_4f6c_dd1d ^ (writer << 7), version: writer, step: 2, tables, insert }
    }

    /// A transaction: of a few changes as a rule, now and then of many, and some of them for nothing.
    pub fn transaction(&mut self) -> String {
        let changes = if chance(&mut self.seed, 100) == 0 { 400 } else { 1 + chance(&mut self.seed, 6) };
        let mut text = String::from("BEGIN; ");
        for _ in 0..changes {
            let change = self.change();
            write!(text, "{change}; ").expect("to memory");
        }
        text.push_str(if chance(&mut self.seed, 10) == 0 { "ROLLBACK" } else { "COMMIT" });
        text
    }

    /// Inserts all rows that there can be, in one transaction.
    pub fn fill(&mut self) -> String {
        let mut text = String::from("BEGIN; ");
        for table in 0..self.tables.len() {
            for k in 0..KEYS {
                let row = self.inserted(table, k);
                write!(text, "{row}; ").expect("to memory");
            }
        }
        text + "COMMIT"
    }

    fn change(&mut self) -> String {
        let at = usize::try_from(chance(&mut self.seed, self.tables.len() as u64)).expect("a small number");
        let (k, other) = (chance(&mut self.seed, KEYS), chance(&mut self.seed, KEYS));
        let what = chance(&mut self.seed, 10);
        if what < 4 {
            return self.inserted(at, k);
        }
        let version = self.next();
        let table = &self.tables[at];
        let (name, key) = (table.name(), table.key);
        let row = key.equations(k, " AND ");
        match what {
            4..=6 => {
                let mut set = format!("ver = {version}");
                for _ in 0..=chance(&mut self.seed, 2) {
                    let column = usize::try_from(chance(&mut self.seed, COLUMNS as u64)).expect("a small number");
                    let (column, kind) = &table.columns[column];
                    let value = value(kind, &mut self.seed);
                    if !set.contains(&format!("{column} = ")) {
                        write!(set, ", {column} = {value}").expect("to memory");
                    }
                }
                format!("UPDATE {name} SET {set} WHERE {row}")
            }
            // Unless the other key is taken. MySQL reads the table of an UPDATE only as a table that it has made of it.
            7 => format!(
                "UPDATE {name} SET ver = {version}, {} WHERE {row} AND NOT EXISTS (SELECT 1 FROM (SELECT 1 AS one FROM {name} WHERE {}) taken)",
                key.equations(other, ", "),
                key.equations(other, " AND ")
            ),
            _ => format!("DELETE FROM {name} WHERE {row}"),
        }
    }

    fn inserted(&mut self, table: usize, k: u64) -> String {
        let version = self.next();
        let table = &self.tables[table];
        let mut values = table.key.values(k);
        values.push(version.to_string());
        values.extend(table.columns.iter().map(|(_, kind)| value(kind, &mut self.seed)));
        let (before, after) = self.insert;
        format!("{before} {} VALUES ({}){after}", table.name(), values.join(", "))
    }

    fn next(&mut self) -> u64 {
        self.version += self.step;
        self.version
    }
}

fn value(kind: &Kind, seed: &mut u64) -> String {
    if chance(seed, 6) == 0 { "NULL".to_owned() } else { (kind.value)(seed) }
}
