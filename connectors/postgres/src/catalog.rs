//! What the database holds: tables, columns, types, keys, sizes. A fixed number of queries, whatever the number of tables.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::sync::Arc;

use arrow_schema::{Field, FieldRef};
use ingest_core::{Error, ErrorKind, Result, Selection, StreamName};
use ingest_sql::Dialect;

use crate::types::{Cast, Kind, TypeRow, Types, base_type, column_kind};
use crate::wire::{Connection, Row};

/// One table, view, materialised view or foreign table.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) oid: u32,
    pub(crate) stream: StreamName,
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) sort: Sort,
    pub(crate) columns: Vec<Column>,
    /// Primary key, or else the shortest unique index over columns that are never null.
    pub(crate) key: Vec<String>,
    /// Columns that lead an index in order.
    pub(crate) indexed: Vec<String>,
    /// Where the rows lie: itself, its partitions, its children.
    pub(crate) parts: Vec<Part>,
    /// Whether its policies hide rows from us.
    pub(crate) hides_rows: bool,
    pub(crate) grants: Grants,
}

/// What a relation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    /// With blocks of its own, or those of its partitions.
    Table,
    View,
    MaterialisedView,
    Foreign,
}

/// What our user may do with a table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Grants {
    pub(crate) usage: bool,
    pub(crate) select: bool,
    /// Without a grant on the whole table: the columns that may not be read.
    pub(crate) hidden_columns: Vec<String>,
    pub(crate) write: bool,
}

/// A column, and how it is read.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) cast: Cast,
    /// Type and modifier that the server will describe, without domains.
    pub(crate) wire_type: (u32, i32),
    pub(crate) not_null: bool,
    pub(crate) field: FieldRef,
}

/// A relation that holds blocks.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) schema: String,
    pub(crate) name: String,
    /// Whether block ranges can be read: a heap that we may read directly.
    pub(crate) scannable: bool,
    pub(crate) bytes: u64,
    pub(crate) blocks: u64,
    pub(crate) rows: Option<u64>,
    /// Changes when the table is rewritten.
    pub(crate) file: u32,
}

impl Table {
    /// `"schema"."table"`.
    pub(crate) fn path(&self) -> Result<String> {
        Dialect::Postgres.path(&[&self.schema, &self.name])
    }

    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.parts.iter().map(|part| part.blocks).sum()
    }

    pub(crate) fn rows(&self) -> Option<u64> {
        self.parts.iter().map(|part| part.rows).try_fold(0_u64, |sum, rows| Some(sum + rows?))
    }

    /// Changes when any part is rewritten, attached or detached.
    pub(crate) fn files(&self) -> String {
        let mut files: Vec<u32> = self.parts.iter().map(|part| part.file).collect();
        files.sort_unstable();
        // Thousands of partitions would swell every position: a checksum says as well that something changed.
        let sum = files
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |sum, file| (sum ^ u64::from(*file)).wrapping_mul(0x0100_0000_01b3));
        format!("{}:{sum:016x}", files.len())
    }

    /// Whether rows carry the transaction that wrote them.
    pub(crate) fn has_versions(&self) -> bool {
        self.sort == Sort::Table && self.parts.iter().all(|part| part.file != 0)
    }

    /// The column of a single-column key that can be cut into ranges.
    pub(crate) fn range_key(&self) -> Option<&Column> {
        match self.key.as_slice() {
            [name] => self.column(name).filter(|column| {
                column.cast == Cast::None
                    && matches!(
                        column.kind,
                        Kind::Int16 | Kind::Int32 | Kind::Int64 | Kind::Uuid | Kind::Text | Kind::Decimal { .. }
                    )
            }),
            _ => None,
        }
    }
}

/// Reads the tables that are selected, in the order of their names.
pub(crate) async fn load(connection: &mut Connection, selection: &Selection) -> Result<Vec<Table>> {
    let mut tables = relations(connection, selection).await?;
    if tables.is_empty() {
        return Ok(tables);
    }
    let oids: Vec<String> = tables.iter().map(|table| table.oid.to_string()).collect();
    let oids = format!("'{{{}}}'::pg_catalog.oid[]", oids.join(","));
    let seed = format!(
        "SELECT a.atttypid FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = ANY ({oids}) AND a.attnum > 0 AND NOT a.attisdropped"
    );
    let types = types(connection, &seed).await?;
    let mut index: HashMap<u32, usize> = tables.iter().enumerate().map(|(i, table)| (table.oid, i)).collect();
    let numbers = columns(connection, &oids, &types, &mut tables, &index).await?;
    parts(connection, &oids, &mut tables, &index).await?;
    keys(connection, &oids, &mut tables, &index, &numbers).await?;
    index.clear();
    Ok(tables)
}

/// All relations with rows. Left out: the system's own, what belongs to an extension, partitions, and children that add
/// no column (their rows come with the parent).
const RELATIONS: &str = "
SELECT c.oid, n.nspname, c.relname, c.relkind,
  pg_catalog.row_security_active(c.oid),
  pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
  pg_catalog.has_table_privilege(c.oid, 'SELECT'),
  pg_catalog.has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
  AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d
    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e')
  AND (NOT EXISTS (SELECT 1 FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid)
    OR EXISTS (SELECT 1 FROM pg_catalog.pg_attribute a
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attinhcount = 0))
ORDER BY n.nspname, c.relname";

async fn relations(connection: &mut Connection, selection: &Selection) -> Result<Vec<Table>> {
    let mut tables: BTreeMap<StreamName, Table> = BTreeMap::new();
    for row in connection.query(RELATIONS).await? {
        let mut row = Cells::new(row);
        let (oid, schema, name, kind) = (row.number()?, row.text()?, row.text()?, row.text()?);
        let stream = StreamName::new(format!("{schema}.{name}"));
        if !selection.matches(stream.as_str()) {
            continue;
        }
        let table = Table {
            oid,
            stream: stream.clone(),
            schema,
            name,
            sort: match kind.as_str() {
                "v" => Sort::View,
                "m" => Sort::MaterialisedView,
                "f" => Sort::Foreign,
                _ => Sort::Table,
            },
            columns: Vec::new(),
            key: Vec::new(),
            indexed: Vec::new(),
            parts: Vec::new(),
            hides_rows: row.flag()?,
            grants: Grants { usage: row.flag()?, select: row.flag()?, hidden_columns: Vec::new(), write: row.flag()? },
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

/// Types by a query that gives their numbers, and those that they are made of.
pub(crate) async fn types(connection: &mut Connection, seed: &str) -> Result<Types> {
    // `rngmultitypid` exists from version 14 on; as JSON its absence is no error.
    let sql = format!(
        "WITH RECURSIVE used(oid) AS (
           {seed}
           UNION
           SELECT e.oid FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.oid CROSS JOIN LATERAL (
             SELECT t.typelem AS oid UNION ALL SELECT t.typbasetype
             UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid
             UNION ALL SELECT r.rngtypid FROM pg_catalog.pg_range r
               WHERE t.typtype = 'm' AND pg_catalog.to_jsonb(r) ->> 'rngmultitypid' = t.oid::pg_catalog.text
             UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a
               WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
           ) e WHERE e.oid <> 0)
         SELECT t.oid, t.typname, t.typtype, t.typelem, t.typbasetype, t.typtypmod,
           CASE WHEN p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace
             OR p.proname IN ('hstore_send', 'citextsend') THEN p.proname END,
           coalesce(
             (SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid),
             (SELECT r.rngtypid FROM pg_catalog.pg_range r
               WHERE t.typtype = 'm' AND pg_catalog.to_jsonb(r) ->> 'rngmultitypid' = t.oid::pg_catalog.text), 0),
           (SELECT pg_catalog.jsonb_agg(
               pg_catalog.jsonb_build_array(a.attname, a.atttypid::pg_catalog.int8, a.atttypmod) ORDER BY a.attnum)
             FROM pg_catalog.pg_attribute a
             WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped)
         FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.oid
         LEFT JOIN pg_catalog.pg_proc p ON p.oid = t.typsend"
    );
    let mut types = Types::new();
    for row in connection.query(&sql).await? {
        let mut row = Cells::new(row);
        let oid = row.number()?;
        let mut found = TypeRow {
            name: row.text()?,
            typtype: row.text()?,
            element: row.number()?,
            base: row.number()?,
            modifier: row.number()?,
            send: row.optional()?.unwrap_or_default(),
            inner: row.number()?,
            attributes: Vec::new(),
        };
        if let Some(attributes) = row.optional()? {
            found.attributes =
                serde_json::from_str(&attributes).map_err(|e| unreadable().with("type", &found.name).caused_by(e))?;
        }
        types.insert(oid, found);
    }
    Ok(types)
}

/// Fills in the columns; gives the number of each, by which indexes name them.
async fn columns(
    connection: &mut Connection,
    oids: &str,
    types: &Types,
    tables: &mut [Table],
    index: &HashMap<u32, usize>,
) -> Result<HashMap<(u32, i16), String>> {
    let sql = format!(
        "SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull,
           pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'SELECT')
         FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = ANY ({oids}) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum"
    );
    let mut numbers = HashMap::new();
    for row in connection.query(&sql).await? {
        let mut row = Cells::new(row);
        let (oid, number, name) = (row.number()?, row.number::<i16>()?, row.text()?);
        let (type_oid, modifier, not_null) = (row.number()?, row.number()?, row.flag()?);
        let Some(table) = index.get(&oid).and_then(|i| tables.get_mut(*i)) else { continue };
        if !row.flag()? {
            table.grants.hidden_columns.push(name.clone());
        }
        numbers.insert((oid, number), name.clone());
        let (kind, cast) = column_kind(types, type_oid, modifier);
        let field = Arc::new(Field::new(&name, kind.data_type(), !not_null || kind.may_not_fit()));
        let wire_type = cast.oid().map_or_else(|| base_type(types, type_oid, modifier), |oid| (oid, -1));
        table.columns.push(Column { name, kind, cast, wire_type, not_null, field });
    }
    Ok(numbers)
}

async fn parts(
    connection: &mut Connection,
    oids: &str,
    tables: &mut [Table],
    index: &HashMap<u32, usize>,
) -> Result<()> {
    // Asking a table's size waits for whoever holds it exclusively: there the last statistics must do.
    let sql = format!(
        "WITH RECURSIVE tree(root, oid) AS (
           SELECT c.oid, c.oid FROM pg_catalog.pg_class c WHERE c.oid = ANY ({oids})
           UNION SELECT t.root, i.inhrelid FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid),
         sizes AS (
           SELECT t.root, c.oid, c.relnamespace, c.relname, c.relkind, c.relam, c.relpages, c.reltuples, c.relfilenode, c.relkind IN ('r', 'm') AND NOT EXISTS (
             SELECT 1 FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database d ON d.oid = l.database
             WHERE l.mode = 'AccessExclusiveLock' AND l.granted AND l.relation = c.oid
               AND d.datname = pg_catalog.current_database()) AS measured
           FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.oid)
         SELECT c.root, n.nspname, c.relname, c.relkind = 'r' AND coalesce(am.amname = 'heap', false)
             AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT'),
           CASE WHEN c.measured THEN pg_catalog.pg_table_size(c.oid)
             ELSE c.relpages::pg_catalog.int8 * pg_catalog.current_setting('block_size')::pg_catalog.int8 END,
           CASE WHEN c.measured THEN pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::pg_catalog.int8
             ELSE c.relpages END,
           CASE WHEN c.reltuples >= 0 AND c.relkind <> 'v' THEN c.reltuples::pg_catalog.int8 END,
           CASE WHEN c.relkind = 'r' THEN c.relfilenode ELSE 0 END
         FROM sizes c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam
         WHERE c.relkind <> 'p' ORDER BY c.root, c.oid"
    );
    for row in connection.query(&sql).await? {
        let mut row = Cells::new(row);
        let root = row.number()?;
        let part = Part {
            schema: row.text()?,
            name: row.text()?,
            scannable: row.flag()?,
            bytes: row.optional_number()?.unwrap_or(0),
            blocks: row.optional_number()?.unwrap_or(0),
            // Before version 14, a table that was never analysed says 0.
            rows: row.optional_number()?,
            file: row.number()?,
        };
        if let Some(table) = index.get(&root).and_then(|i| tables.get_mut(*i)) {
            table.parts.push(Part { rows: part.rows.filter(|rows| *rows > 0 || part.blocks == 0), ..part });
        }
    }
    Ok(())
}

async fn keys(
    connection: &mut Connection,
    oids: &str,
    tables: &mut [Table],
    index: &HashMap<u32, usize>,
    numbers: &HashMap<(u32, i16), String>,
) -> Result<()> {
    let sql = format!(
        "SELECT i.indrelid, i.indisunique AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL,
           i.indpred IS NULL AND am.amname = 'btree', i.indnkeyatts, i.indkey::pg_catalog.text
         FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
         JOIN pg_catalog.pg_am am ON am.oid = c.relam
         WHERE i.indrelid = ANY ({oids}) AND i.indisvalid
         ORDER BY i.indrelid, i.indisprimary DESC, i.indnkeyatts, i.indexrelid"
    );
    for row in connection.query(&sql).await? {
        let mut row = Cells::new(row);
        let (oid, unique, ordered) = (row.number()?, row.flag()?, row.flag()?);
        let (width, positions) = (row.number::<usize>()?, row.text()?);
        let Some(table) = index.get(&oid).and_then(|i| tables.get_mut(*i)) else { continue };
        // An expression has the number 0 and no name.
        let names: Vec<Option<&String>> = positions
            .split_ascii_whitespace()
            .take(width)
            .map(|number| number.parse().ok().and_then(|number| numbers.get(&(oid, number))))
            .collect();
        if let (true, Some(Some(first))) = (ordered, names.first())
            && !table.indexed.contains(first)
        {
            table.indexed.push((*first).clone());
        }
        // Children of a table do not share its indexes: unique in each is not unique in all.
        let inherited = table.parts.len() > 1 && table.parts.iter().any(|part| part.name == table.name);
        if !unique || inherited || !table.key.is_empty() {
            continue;
        }
        let names: Option<Vec<String>> = names.into_iter().map(Option::<&String>::cloned).collect();
        if let Some(names) = names
            && names.iter().all(|name| table.column(name).is_some_and(|column| column.not_null))
        {
            table.key = names;
        }
    }
    Ok(())
}

/// The cells of a row of the catalog, in order.
pub(crate) struct Cells(std::vec::IntoIter<Option<String>>);

impl Cells {
    pub(crate) fn new(row: Row) -> Self {
        Self(row.into_iter())
    }

    pub(crate) fn optional(&mut self) -> Result<Option<String>> {
        self.0.next().ok_or_else(unreadable)
    }

    pub(crate) fn text(&mut self) -> Result<String> {
        self.optional()?.ok_or_else(unreadable)
    }

    pub(crate) fn flag(&mut self) -> Result<bool> {
        Ok(self.optional()?.as_deref() == Some("t"))
    }

    pub(crate) fn optional_number<T: FromStr>(&mut self) -> Result<Option<T>> {
        self.optional()?.map(|text| text.parse().map_err(|_| unreadable())).transpose()
    }

    pub(crate) fn number<T: FromStr>(&mut self) -> Result<T> {
        self.optional_number()?.ok_or_else(unreadable)
    }
}

fn unreadable() -> Error {
    Error::new(ErrorKind::DataInvalid, "cannot read the server's catalog")
        .hint("is this PostgreSQL 11 or newer, and not another server that speaks its protocol?")
}
