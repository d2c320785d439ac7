//! The rows that have changed, by Change Tracking, as a feed of many tables.
//!
//! What is known of a row is the version of its last change, and whether it is new, other or gone; its values are those that the
//! table has now. So a row comes once for all its changes since the position.

use std::sync::Arc;

use ingest_core::{Done, Error, ErrorKind, Out, Result};
use ingest_sql::Dialect;
use tiberius::Row;

use super::take::{Taken, is_null};
use super::tracking::{self, Version};
use crate::builder::{Change, Rows};
use crate::catalog::{Column, Table};
use crate::select::known;
use crate::server::{Connection, Server, integer, text};
use crate::work::{Position, TrackedMember, TrackedPosition};

const ATTEMPTED: &str = "cdc: cannot read which rows of the table have changed";
/// Versions between two marks: each question looks through all changes behind the last one.
const VERSIONS: Version = 100_000;
/// Columns of a change before those of the table: version, what happened, whether the row is there.
const OWN: usize = 3;

/// What is to be read.
pub(crate) struct Asked<'a> {
    pub(crate) server: &'a Arc<Server>,
    /// The tables, and what is wanted of them.
    pub(crate) tables: Vec<(Arc<Table>, &'a TrackedMember)>,
    pub(crate) from: &'a TrackedPosition,
}

/// Reads from a version on to the one that the database has now.
pub(crate) async fn follow(asked: Asked<'_>, out: &mut Out<'_, Position>) -> Result<Done> {
    let mut lent = asked.server.lend().await?;
    let connection = lent.connection();
    let head = expect(connection, asked.from).await?;
    let mut at = asked.from.version;
    asked.expect_kept(connection, at).await?;
    while at < head {
        let upto = head.min(at.saturating_add(VERSIONS));
        for (table, member) in &asked.tables {
            let after = at.max(member.from);
            if after < upto {
                let part = Part { table, member, after, upto };
                part.read(asked.server, connection, out).await.map_err(|error| error.with("stream", &table.stream))?;
            }
        }
        // The cleanup asks nobody: what it takes while a table is read is left out of the answer in silence.
        asked.expect_kept(connection, at).await?;
        at = upto;
        out.mark(&Position::Tracked(TrackedPosition { version: at, ..asked.from.clone() })).await?;
    }
    lent.give_back();
    Ok(Done::CaughtUp)
}

impl Asked<'_> {
    async fn expect_kept(&self, connection: &mut Connection, at: Version) -> Result<()> {
        let tracked = tracking::tables(connection).await?;
        let mut each = self.tables.iter();
        each.try_for_each(|(table, member)| tracking::expect_kept(&tracked, &table.stream, at.max(member.from)))
    }
}

/// The version that the database has now, if it is the database of the position.
async fn expect(connection: &mut Connection, from: &TrackedPosition) -> Result<Version> {
    let lost = |message: &str| {
        Error::new(ErrorKind::CheckpointInvalid, message.to_owned())
            .hint("see which database it is; `ingest run --resync STREAM` loads a stream again")
    };
    if connection.facts.database != from.database {
        return Err(lost("cdc: the position is of another database")
            .with("was", &from.database)
            .with("is", &connection.facts.database));
    }
    let head = tracking::head(connection).await?;
    let head = head.ok_or_else(|| lost("cdc: change tracking was turned off in the database"))?;
    if head < from.version {
        return Err(lost("cdc: the database stands before the position: it was restored, or tracking was set up anew"));
    }
    Ok(head)
}

/// Rows of one table that were changed after one version, and up to another.
struct Part<'a> {
    table: &'a Table,
    member: &'a TrackedMember,
    after: Version,
    upto: Version,
}

/// A column that is wanted: its place in the table, and whether it is of the key, which is known of a row that is gone.
struct Wanted<'a> {
    column: &'a Column,
    place: usize,
    key: bool,
}

impl Part<'_> {
    async fn read(&self, server: &Server, connection: &mut Connection, out: &mut Out<'_, Position>) -> Result<()> {
        let (wanted, sql) = self.statement()?;
        let columns = wanted.iter().map(|wanted| wanted.column);
        let taken = Taken { server, stream: &self.table.stream, attempted: ATTEMPTED };
        taken.rows(connection, sql, columns, |rows, row| push(rows, row, &wanted), out).await
    }

    /// The statement, and what its columns are. A row whose last change is above the range comes with the next one.
    fn statement(&self) -> Result<(Vec<Wanted<'_>>, String)> {
        const SQL: Dialect = Dialect::SqlServer;
        let names: Vec<&str> = match &self.member.columns {
            Some(names) => names.iter().map(String::as_str).collect(),
            None => self.table.columns.iter().map(|column| column.name.as_str()).collect(),
        };
        // Of a key, its own names would be those of the table's columns, too.
        let alias = |at: usize| format!("__$key{at}");
        let (mut kept, mut joined) = (Vec::new(), Vec::new());
        for (at, name) in self.table.key.iter().enumerate() {
            let (name, alias) = (SQL.name(name)?, SQL.name(&alias(at))?);
            kept.push(format!("{name} AS {alias}"));
            joined.push(format!("t.{name} = c.{alias}"));
        }
        let first = self.table.key.first().ok_or_else(|| Error::unexpected("a tracked table has no primary key"))?;
        let mut list = vec![
            "[__$version]".to_owned(),
            "[__$operation]".to_owned(),
            known(self.table, first)?.asked.expression(first)?,
        ];
        let mut wanted = Vec::with_capacity(names.len());
        for name in names {
            let column = known(self.table, name)?;
            let place = self.table.columns.iter().position(|other| other.name == name).unwrap_or(0);
            let key = self.table.key.iter().position(|key| key == name);
            list.push(match key {
                Some(at) => column.asked.expression(&alias(at))?,
                None => column.asked.expression(name)?,
            });
            wanted.push(Wanted { column, place, key: key.is_some() });
        }
        let path = self.table.path()?;
        let sql = format!(
            "SELECT {} FROM (SELECT SYS_CHANGE_VERSION AS [__$version], SYS_CHANGE_OPERATION AS [__$operation], {} \
             FROM CHANGETABLE(CHANGES {path}, {}) AS x) AS c LEFT JOIN {path} AS t ON {} \
             WHERE [__$version] <= {} ORDER BY [__$version], [__$operation]",
            list.join(", "),
            kept.join(", "),
            self.after,
            joined.join(" AND "),
            self.upto,
        );
        Ok((wanted, sql))
    }
}

/// Takes a row. Of one that is gone the key alone is known: it was deleted, or it was since its change was noted.
fn push(rows: &mut Rows, row: &Row, wanted: &[Wanted<'_>]) -> Result<()> {
    let version = integer(row, 0)
        .ok_or_else(|| Error::new(ErrorKind::DataInvalid, "cdc: a changed row comes without its version"))?;
    let there = row.get_column_data(2).is_ok_and(|value| !is_null(value));
    let op = match text(row, 1).as_deref() {
        Some("I") if there => "I",
        Some("U") if there => "U",
        Some("I" | "U" | "D") => "D",
        _ => {
            return Err(Error::new(
                ErrorKind::DataInvalid,
                "cdc: a change is neither an insert, an update nor a delete",
            ));
        }
    };
    let mut absent: Vec<u8> = Vec::new();
    let mut values = Vec::with_capacity(wanted.len());
    for (at, Wanted { place, key, .. }) in wanted.iter().enumerate() {
        if op == "D" && !key {
            absent.resize(absent.len().max(place / 8 + 1), 0);
            absent[place / 8] |= 1 << (place % 8);
            values.push(None);
        } else {
            values.push(row.get_column_data(OWN + at).ok().filter(|value| !is_null(value)));
        }
    }
    rows.push_change(&values, &Change { op, seq: &format!("{version:016x}.{op}"), absent: &absent })
}
