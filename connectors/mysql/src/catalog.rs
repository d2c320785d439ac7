//! What the server holds: tables, columns, types, keys, sizes. A fixed number of queries, whatever the number of tables.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_schema::{Field, FieldRef};
use ingest_core::{Error, Result, Selection, StreamName};
use ingest_sql::Dialect;

use crate::server::Connection;
use crate::types::{Declared, Kind};

/// One table or view.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) stream: StreamName,
    pub(crate) database: String,
    pub(crate) name: String,
    pub(crate) sort: Sort,
    pub(crate) columns: Vec<Column>,
    /// Primary key, or else the shortest unique index over columns that are never null.
    pub(crate) key: Vec<String>,
    /// The index of the key.
    pub(crate) key_index: String,
    /// Columns that lead an index in order.
    pub(crate) indexed: Vec<String>,
    pub(crate) rows: Option<u64>,
    pub(crate) bytes: u64,
}

/// What a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    /// Of an engine of the server's own.
    Table,
    /// Of an engine whose transactions the server does not list, or that reads elsewhere.
    Foreign,
    View,
}

/// A column, and how it is read.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) not_null: bool,
    pub(crate) field: FieldRef,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// What the server calls its type: `int`.
    pub(crate) declared: String,
}

impl Table {
    /// `` `database`.`table` ``.
    pub(crate) fn path(&self) -> Result<String> {
        Dialect::MySql.path(&[&self.database, &self.name])
    }

    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The first column of the key, where the table can be read in its order and cut into ranges. The values of a longer
    /// key must be equal here when they are equal there, which texts are not.
    pub(crate) fn range_key(&self) -> Option<&Column> {
        let column = self.column(self.key.first()?)?;
        let alone = self.key.len() == 1;
        let ordered = match column.kind {
            Kind::Decimal { .. } => true,
            Kind::Text | Kind::Binary => alone,
            // A date that is none has no text to go on from.
            kind => kind.is_integer(),
        };
        (ordered && self.sort != Sort::View).then_some(column)
    }
}

/// Databases of the server itself.
const OWN: &str = "('mysql', 'information_schema', 'performance_schema', 'sys')";

/// Reads the tables that are selected, in the order of their names.
pub(crate) async fn load(connection: &mut Connection, database: &str, selection: &Selection) -> Result<Vec<Table>> {
    let within =
        if database.is_empty() { format!("NOT IN {OWN}") } else { format!("= {}", Dialect::MySql.text(database)?) };
    let mut tables = tables(connection, &within, selection).await?;
    if tables.is_empty() {
        return Ok(tables);
    }
    let index: HashMap<(String, String), usize> =
        tables.iter().enumerate().map(|(i, table)| ((table.database.clone(), table.name.clone()), i)).collect();
    columns(connection, &within, &mut tables, &index).await?;
    keys(connection, &within, &mut tables, &index).await?;
    Ok(tables)
}

const ATTEMPTED: &str = "cannot read the server's catalog";

async fn tables(connection: &mut Connection, within: &str, selection: &Selection) -> Result<Vec<Table>> {
    let sql = format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, COALESCE(ENGINE, ''), TABLE_ROWS, DATA_LENGTH \
         FROM information_schema.TABLES WHERE TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED', 'VIEW') AND TABLE_SCHEMA {within}"
    );
    type Found = (String, String, String, String, Option<u64>, Option<u64>);
    let mut tables: BTreeMap<StreamName, Table> = BTreeMap::new();
    for (database, name, sort, engine, rows, bytes) in connection.rows::<Found>(&sql, ATTEMPTED).await? {
        let stream = StreamName::new(format!("{database}.{name}"));
        if !selection.matches(stream.as_str()) {
            continue;
        }
        let table = Table {
            stream: stream.clone(),
            database,
            name,
            sort: match (sort.as_str(), engine.as_str()) {
                ("VIEW", _) => Sort::View,
                (_, "InnoDB" | "MyISAM" | "Aria" | "MEMORY" | "CSV" | "ARCHIVE") => Sort::Table,
                _ => Sort::Foreign,
            },
            columns: Vec::new(),
            key: Vec::new(),
            key_index: String::new(),
            indexed: Vec::new(),
            rows,
            bytes: bytes.unwrap_or(0),
        };
        if let Some(other) = tables.insert(stream.clone(), table) {
            return Err(Error::config(
                "two tables have one name, because a dot stands in the name of a database or table",
            )
            .with("stream", stream)
            .with("database", other.database)
            .hint("exclude the stream, or rename one of the two"));
        }
    }
    Ok(tables.into_values().collect())
}

/// Fills in the columns, invisible and generated ones too.
async fn columns(
    connection: &mut Connection,
    within: &str,
    tables: &mut [Table],
    index: &HashMap<(String, String), usize>,
) -> Result<()> {
    let sql = format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, IS_NULLABLE, LOWER(DATA_TYPE), COLUMN_TYPE, NUMERIC_PRECISION, \
         NUMERIC_SCALE, PRIVILEGES FROM information_schema.COLUMNS WHERE TABLE_SCHEMA {within} \
         ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION"
    );
    type Found = (String, String, String, String, String, String, Option<u64>, Option<u64>, String);
    for row in connection.rows::<Found>(&sql, ATTEMPTED).await? {
        let (database, table, name, nullable, data_type, full, precision, scale, privileges) = row;
        let Some(table) = index.get(&(database, table)).and_then(|i| tables.get_mut(*i)) else { continue };
        let declared = Declared { name: data_type, full, precision, scale };
        let kind = Kind::of(&declared);
        let not_null = nullable == "NO";
        let granted = |what: &str| privileges.split(',').any(|granted| granted.trim() == what);
        table.columns.push(Column {
            field: Arc::new(Field::new(&name, kind.data_type(), !not_null || kind.may_not_fit())),
            name,
            kind,
            not_null,
            readable: granted("select"),
            writable: granted("insert") || granted("update"),
            declared: declared.name,
        });
    }
    Ok(())
}

/// An index: its columns in order, `None` for expressions and prefixes.
#[derive(Default)]
struct Index {
    unique: bool,
    ordered: bool,
    columns: Vec<Option<String>>,
    nullable: bool,
}

async fn keys(
    connection: &mut Connection,
    within: &str,
    tables: &mut [Table],
    index: &HashMap<(String, String), usize>,
) -> Result<()> {
    let sql = format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, NON_UNIQUE, COLUMN_NAME, SUB_PART, COALESCE(NULLABLE, ''), INDEX_TYPE \
         FROM information_schema.STATISTICS WHERE TABLE_SCHEMA {within} \
         ORDER BY TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX"
    );
    type Found = (String, String, String, u64, Option<String>, Option<u64>, String, String);
    let mut indexes: BTreeMap<usize, BTreeMap<String, Index>> = BTreeMap::new();
    for row in connection.rows::<Found>(&sql, ATTEMPTED).await? {
        let (database, table, name, non_unique, column, prefix, nullable, sort) = row;
        let Some(table) = index.get(&(database, table)) else { continue };
        let found = indexes.entry(*table).or_default().entry(name).or_default();
        found.unique = non_unique == 0;
        found.ordered = sort == "BTREE";
        found.nullable |= nullable == "YES";
        found.columns.push(column.filter(|_| prefix.is_none()));
    }
    for (table, indexes) in indexes {
        let Some(table) = tables.get_mut(table) else { continue };
        for found in indexes.values().filter(|found| found.ordered) {
            if let Some(Some(first)) = found.columns.first()
                && !table.indexed.contains(first)
            {
                table.indexed.push(first.clone());
            }
        }
        let keys = indexes.into_iter().filter(|(_, found)| found.unique && !found.nullable);
        let keys =
            keys.filter_map(|(name, found)| Some((name, found.columns.into_iter().collect::<Option<Vec<_>>>()?)));
        if let Some((name, columns)) = keys.min_by_key(|(name, columns)| (name != "PRIMARY", columns.len())) {
            (table.key, table.key_index) = (columns, name);
        }
    }
    Ok(())
}
