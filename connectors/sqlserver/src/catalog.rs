//! What the database holds: tables, columns, types, keys, sizes. A fixed number of queries, whatever the number of tables.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_schema::{Field, FieldRef};
use ingest_core::{Error, Result, Selection, StreamName};
use ingest_sql::Dialect;
use tiberius::Row;

use crate::server::{Connection, integer, text};
use crate::types::{Asked, Declared, Kind};

/// One table or view.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) stream: StreamName,
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) view: bool,
    pub(crate) columns: Vec<Column>,
    /// Primary key, or else the shortest unique index over columns that are never null.
    pub(crate) key: Vec<String>,
    /// Columns that lead an index.
    pub(crate) indexed: Vec<String>,
    pub(crate) rows: Option<u64>,
    pub(crate) bytes: u64,
    /// Whether the account may write to it.
    pub(crate) writable: bool,
}

/// A column, and how it is read.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) asked: Asked,
    pub(crate) not_null: bool,
    pub(crate) field: FieldRef,
    pub(crate) readable: bool,
    /// The server shows something else than the value to those who may not see it.
    pub(crate) masked: bool,
    /// What the server calls its type: `int`.
    pub(crate) declared: String,
    pub(crate) collation: String,
    /// A text or bytes without a limit of their length.
    pub(crate) unbounded: bool,
}

impl Table {
    /// `[schema].[table]`.
    pub(crate) fn path(&self) -> Result<String> {
        Dialect::SqlServer.path(&[&self.schema, &self.name])
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
            Kind::Decimal { .. } => column.asked == Asked::Plain,
            // Old collations order a text with a code page otherwise than the same text in Unicode, which literals are.
            Kind::Text => {
                let unicode = matches!(column.declared.as_str(), "nchar" | "nvarchar");
                alone && column.asked == Asked::Plain && (unicode || !column.collation.starts_with("SQL_"))
            }
            Kind::Binary | Kind::RowVersion => alone && column.asked == Asked::Plain,
            Kind::Uuid => alone,
            kind => kind.is_integer(),
        };
        (ordered && !self.view).then_some(column)
    }
}

const ATTEMPTED: &str = "cannot read the database's catalog";

/// Tables and views; what change capture keeps beside them is left out.
const TABLES: &str = "SELECT s.name, o.name, CONVERT(int, CASE o.type WHEN 'V' THEN 1 ELSE 0 END), p.total_rows, p.total_bytes, \
    CONVERT(int, HAS_PERMS_BY_NAME(QUOTENAME(s.name) + N'.' + QUOTENAME(o.name), N'OBJECT', N'INSERT')), \
    CONVERT(int, HAS_PERMS_BY_NAME(QUOTENAME(s.name) + N'.' + QUOTENAME(o.name), N'OBJECT', N'UPDATE')) \
    FROM sys.objects o JOIN sys.schemas s ON s.schema_id = o.schema_id LEFT JOIN ( \
      SELECT p.object_id, SUM(CASE WHEN a.type = 1 THEN p.rows ELSE 0 END) total_rows, \
        SUM(CONVERT(bigint, a.used_pages) * 8192) total_bytes FROM sys.partitions p \
      JOIN sys.allocation_units a ON a.container_id IN (p.hobt_id, p.partition_id) WHERE p.index_id IN (0, 1) GROUP BY p.object_id \
    ) p ON p.object_id = o.object_id \
    WHERE o.type IN ('U', 'V') AND o.is_ms_shipped = 0 AND s.name <> N'cdc' ORDER BY s.name, o.name";

const COLUMNS: &str = "SELECT s.name, o.name, c.name, \
    CASE WHEN c.system_type_id = 240 THEN TYPE_NAME(c.user_type_id) ELSE TYPE_NAME(c.system_type_id) END, \
    CONVERT(int, c.precision), CONVERT(int, c.scale), CONVERT(int, c.is_nullable), CONVERT(int, c.is_masked), \
    ISNULL(c.collation_name, N''), ISNULL(CONVERT(int, COLLATIONPROPERTY(c.collation_name, 'CodePage')), 0), \
    CONVERT(int, HAS_PERMS_BY_NAME(QUOTENAME(s.name) + N'.' + QUOTENAME(o.name), N'OBJECT', N'SELECT', QUOTENAME(c.name), N'COLUMN')), \
    CONVERT(int, c.max_length) \
    FROM sys.columns c JOIN sys.objects o ON o.object_id = c.object_id JOIN sys.schemas s ON s.schema_id = o.schema_id \
    WHERE o.type IN ('U', 'V') AND o.is_ms_shipped = 0 AND s.name <> N'cdc' ORDER BY s.name, o.name, c.column_id";

const KEYS: &str = "SELECT s.name, o.name, i.name, CONVERT(int, i.is_unique), CONVERT(int, i.is_primary_key), c.name, \
    CONVERT(int, c.is_nullable) FROM sys.indexes i JOIN sys.index_columns ic ON ic.object_id = i.object_id AND ic.index_id = i.index_id \
    JOIN sys.columns c ON c.object_id = ic.object_id AND c.column_id = ic.column_id JOIN sys.objects o ON o.object_id = i.object_id \
    JOIN sys.schemas s ON s.schema_id = o.schema_id WHERE o.type = 'U' AND o.is_ms_shipped = 0 AND i.type IN (1, 2) \
    AND i.has_filter = 0 AND i.is_disabled = 0 AND i.is_hypothetical = 0 AND ic.key_ordinal > 0 \
    ORDER BY s.name, o.name, i.name, ic.key_ordinal";

/// Reads the tables that are selected, in the order of their names.
pub(crate) async fn load(connection: &mut Connection, selection: &Selection) -> Result<Vec<Table>> {
    let mut tables = tables(connection, selection).await?;
    if tables.is_empty() {
        return Ok(tables);
    }
    let index: HashMap<(String, String), usize> =
        tables.iter().enumerate().map(|(i, table)| ((table.schema.clone(), table.name.clone()), i)).collect();
    for row in connection.rows(COLUMNS, ATTEMPTED).await? {
        if let Some(table) = table_of(&row, &index) {
            tables[table].columns.push(column(&row)?);
        }
    }
    let mut indexes: BTreeMap<usize, BTreeMap<String, Index>> = BTreeMap::new();
    for row in connection.rows(KEYS, ATTEMPTED).await? {
        let Some(table) = table_of(&row, &index) else { continue };
        let found = indexes.entry(table).or_default().entry(name(&row, 2)?).or_default();
        found.unique = integer(&row, 3) == Some(1);
        found.primary = integer(&row, 4) == Some(1);
        found.columns.push(name(&row, 5)?);
        found.nullable |= integer(&row, 6) == Some(1);
    }
    for (table, indexes) in indexes {
        keys(&mut tables[table], indexes);
    }
    Ok(tables)
}

async fn tables(connection: &mut Connection, selection: &Selection) -> Result<Vec<Table>> {
    let mut tables: BTreeMap<StreamName, Table> = BTreeMap::new();
    for row in connection.rows(TABLES, ATTEMPTED).await? {
        let (schema, name) = (name(&row, 0)?, name(&row, 1)?);
        let stream = StreamName::new(format!("{schema}.{name}"));
        if !selection.matches(stream.as_str()) {
            continue;
        }
        let count = |i| integer(&row, i).and_then(|count| u64::try_from(count).ok());
        let table = Table {
            stream: stream.clone(),
            schema,
            name,
            view: integer(&row, 2) == Some(1),
            columns: Vec::new(),
            key: Vec::new(),
            indexed: Vec::new(),
            rows: count(3),
            bytes: count(4).unwrap_or(0),
            writable: integer(&row, 5) == Some(1) || integer(&row, 6) == Some(1),
        };
        if let Some(other) = tables.insert(stream.clone(), table) {
            return Err(Error::config(
                "two tables have one name, because a dot stands in the name of a schema or table",
            )
            .with("stream", stream)
            .with("schema", other.schema)
            .hint("exclude the stream, or rename one of the two"));
        }
    }
    Ok(tables.into_values().collect())
}

fn table_of(row: &Row, index: &HashMap<(String, String), usize>) -> Option<usize> {
    index.get(&(text(row, 0)?, text(row, 1)?)).copied()
}

fn name(row: &Row, column: usize) -> Result<String> {
    text(row, column).ok_or_else(|| Error::unexpected("the catalog holds a thing without a name"))
}

fn column(row: &Row) -> Result<Column> {
    let name = name(row, 2)?;
    let small = |i| integer(row, i).and_then(|number| u8::try_from(number).ok()).unwrap_or(0);
    let declared = Declared {
        name: text(row, 3).unwrap_or_default().to_lowercase(),
        precision: small(4),
        scale: small(5),
        code_page: integer(row, 9).unwrap_or(0),
    };
    let (kind, asked) = Kind::of(&declared);
    let not_null = integer(row, 6) == Some(0);
    Ok(Column {
        field: Arc::new(Field::new(&name, kind.data_type(), !not_null)),
        name,
        kind,
        asked,
        not_null,
        readable: integer(row, 10) == Some(1),
        masked: integer(row, 7) == Some(1),
        declared: declared.name,
        collation: text(row, 8).unwrap_or_default(),
        unbounded: integer(row, 11) == Some(-1),
    })
}

/// An index: its columns in order.
#[derive(Default)]
struct Index {
    unique: bool,
    primary: bool,
    columns: Vec<String>,
    nullable: bool,
}

fn keys(table: &mut Table, indexes: BTreeMap<String, Index>) {
    for found in indexes.values() {
        if let Some(first) = found.columns.first()
            && !table.indexed.contains(first)
        {
            table.indexed.push(first.clone());
        }
    }
    let keys = indexes.into_values().filter(|found| found.unique && !found.nullable);
    if let Some(found) = keys.min_by_key(|found| (!found.primary, found.columns.len())) {
        table.key = found.columns;
    }
}
