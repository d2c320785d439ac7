//! The captured changes of a database as a feed of many tables.

use std::sync::Arc;

use ingest_core::{Done, Error, ErrorKind, Out, Result};
use ingest_sql::Dialect;
use tiberius::{ColumnData, Row};

use super::log::{self, Instance, Lsn};
use super::take::{Taken, is_null};
use crate::builder::{Change, Rows};
use crate::catalog::{Column, Table};
use crate::cells::hex;
use crate::select::known;
use crate::server::{Connection, Server, integer};
use crate::work::{ChangePosition, Member, Position};

const ATTEMPTED: &str = "cdc: cannot read the changes of the table";
/// Transactions between two marks: the functions sort what they give, so they are asked for a part at a time.
const TRANSACTIONS: i64 = 1_000;
/// Columns of a change before those of the table: place in the log, place in the transaction, what happened, what was updated.
const OWN: usize = 4;

/// What is to be read.
pub(crate) struct Asked<'a> {
    pub(crate) server: &'a Arc<Server>,
    /// The tables, and what is wanted of them.
    pub(crate) tables: Vec<(Arc<Table>, &'a Member)>,
    pub(crate) from: &'a ChangePosition,
}

/// Reads from a place on to the end that the log has now.
pub(crate) async fn follow(asked: Asked<'_>, out: &mut Out<'_, Position>) -> Result<Done> {
    let mut lent = asked.server.lend().await?;
    let connection = lent.connection();
    let head = expect(connection, asked.from).await?;
    let instances = log::instances(connection).await?;
    let mut at = asked.from.lsn.clone();
    while at < head {
        let upto = log::chunk(connection, &at, &head, TRANSACTIONS).await?;
        for (table, member) in &asked.tables {
            let found = instances.get(&table.stream).map_or(&[][..], Vec::as_slice);
            let after = at.clone().max(member.from.clone());
            if after >= upto {
                continue;
            }
            let instance = choose(found, &after).map_err(|error| error.with("stream", &table.stream))?;
            let part = Part { table, member, instance, after: &after, upto: &upto };
            part.read(asked.server, connection, out).await.map_err(|error| error.with("stream", &table.stream))?;
        }
        at = upto;
        out.mark(&Position::Changes(ChangePosition { lsn: at.clone(), ..asked.from.clone() })).await?;
    }
    lent.give_back();
    Ok(Done::CaughtUp)
}

/// The end of the log, if it is the log of the position.
async fn expect(connection: &mut Connection, from: &ChangePosition) -> Result<Lsn> {
    let lost = |message: &str| {
        Error::new(ErrorKind::CheckpointInvalid, message.to_owned())
            .hint("see which database it is; `ingest run --resync STREAM` loads a stream again")
    };
    if connection.facts.database != from.database {
        return Err(lost("cdc: the position is of another database")
            .with("was", &from.database)
            .with("is", &connection.facts.database));
    }
    let head = log::head(connection).await?;
    if head < from.lsn {
        return Err(lost(
            "cdc: the log ends before the position: the database was restored, or change data capture was set up anew",
        ));
    }
    Ok(head)
}

/// The newest instance that holds everything behind a place.
fn choose<'a>(instances: &'a [Instance], after: &str) -> Result<&'a Instance> {
    let next = log::next(after)?;
    let whole = instances.iter().rev().find(|instance| instance.start <= next && instance.least <= next);
    whole.ok_or_else(|| {
        let what = match instances {
            [] => "cdc: the table's changes are not captured any more",
            _ => "cdc: changes behind the position are gone: they were cleaned up, or capture was set up anew",
        };
        Error::new(ErrorKind::CheckpointInvalid, what)
            .hint("`ingest run --resync STREAM` loads it again; EXEC sys.sp_cdc_change_job @job_type = N'cleanup', @retention = 10080 keeps changes for a week")
    })
}

/// Changes of one table between two places.
struct Part<'a> {
    table: &'a Table,
    member: &'a Member,
    instance: &'a Instance,
    after: &'a str,
    upto: &'a str,
}

/// A column that is wanted: its place in the table, its place in the answer where it is captured, its number in the mask.
struct Wanted<'a> {
    column: &'a Column,
    place: usize,
    captured: Option<(usize, usize)>,
}

impl Part<'_> {
    async fn read(&self, server: &Server, connection: &mut Connection, out: &mut Out<'_, Position>) -> Result<()> {
        let (wanted, sql) = self.statement()?;
        let columns = wanted.iter().map(|wanted| wanted.column);
        let taken = Taken { server, stream: &self.table.stream, attempted: ATTEMPTED };
        taken.rows(connection, sql, columns, |rows, row| push(rows, row, &wanted), out).await
    }

    /// The statement, and what its columns are. Both ends of the function's range belong to it.
    fn statement(&self) -> Result<(Vec<Wanted<'_>>, String)> {
        let names: Vec<&str> = match &self.member.columns {
            Some(names) => names.iter().map(String::as_str).collect(),
            None => self.table.columns.iter().map(|column| column.name.as_str()).collect(),
        };
        let mut wanted = Vec::with_capacity(names.len());
        let mut list = Vec::new();
        for name in names {
            let column = known(self.table, name)?;
            let place = self.table.columns.iter().position(|other| other.name == name).unwrap_or(0);
            let ordinal =
                self.instance.columns.iter().find(|(captured, _)| captured == name).map(|(_, ordinal)| *ordinal);
            let captured = ordinal.map(|ordinal| (OWN + list.len(), ordinal));
            if captured.is_some() {
                list.push(column.asked.expression(name)?);
            }
            wanted.push(Wanted { column, place, captured });
        }
        let own = "[__$start_lsn], [__$seqval], [__$operation], [__$update_mask]";
        let list = std::iter::once(own.to_owned()).chain(list).collect::<Vec<_>>().join(", ");
        let function = Dialect::SqlServer.name(&format!("fn_cdc_get_all_changes_{}", self.instance.name))?;
        let sql = format!(
            "SELECT {list} FROM cdc.{function}(0x{}, 0x{}, N'all') ORDER BY [__$start_lsn], [__$seqval], [__$operation]",
            log::next(self.after)?,
            self.upto
        );
        Ok((wanted, sql))
    }
}

/// Takes a change. What the instance does not keep is absent, and so is a large value that an update has left alone: it is null
/// there although the row has one.
fn push(rows: &mut Rows, row: &Row, wanted: &[Wanted<'_>]) -> Result<()> {
    let bytes = |column| match row.get_column_data(column) {
        Ok(ColumnData::Binary(Some(bytes))) => Ok(bytes.as_ref()),
        _ => Err(Error::new(ErrorKind::DataInvalid, "cdc: a change has no place in the log")),
    };
    let operation = integer(row, 2);
    let op = match operation {
        Some(1) => "D",
        Some(2) => "I",
        Some(4) => "U",
        _ => {
            return Err(Error::new(
                ErrorKind::DataInvalid,
                "cdc: a change is neither an insert, an update nor a delete",
            ));
        }
    };
    let seq = format!("{}.{}.{}", hex(bytes(0)?), hex(bytes(1)?), operation.unwrap_or(0));
    let mask = bytes(3).unwrap_or_default();
    let mut absent: Vec<u8> = Vec::new();
    let mut values = Vec::with_capacity(wanted.len());
    for Wanted { column, place, captured } in wanted {
        let value = captured.and_then(|(at, _)| row.get_column_data(at).ok());
        let untouched = captured.is_some_and(|(_, ordinal)| !is_set(mask, ordinal));
        let null = value.is_some_and(is_null);
        if value.is_none() || (op == "U" && null && untouched && is_large(column)) {
            absent.resize(absent.len().max(place / 8 + 1), 0);
            absent[place / 8] |= 1 << (place % 8);
        }
        values.push(value.filter(|_| !null));
    }
    rows.push_change(&values, &Change { op, seq: &seq, absent: &absent })
}

/// Bit of a column in the mask: the first column has the lowest bit of the last byte.
fn is_set(mask: &[u8], ordinal: usize) -> bool {
    let Some(bit) = ordinal.checked_sub(1) else { return false };
    let byte = mask.len().checked_sub(bit / 8 + 1).and_then(|at| mask.get(at));
    byte.is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
}

/// Whether its values may be kept apart from their rows.
fn is_large(column: &Column) -> bool {
    let old = ["text", "ntext", "image", "xml", "geometry", "geography", "json"];
    column.unbounded || old.contains(&column.declared.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_a_mask_are_counted_from_its_end() {
        let mask = [0b0000_0001, 0b1000_0010];
        let set: Vec<usize> = (1..=16).filter(|ordinal| is_set(&mask, *ordinal)).collect();
        assert_eq!(set, [2, 8, 9]);
        assert!(!is_set(&mask, 0) && !is_set(&mask, 17) && !is_set(&[], 1));
    }

    #[test]
    fn an_instance_is_chosen_that_holds_everything_behind_the_position() {
        let lsn = |n: u8| format!("{n:020x}");
        let instance = |name: &str, start, least| Instance {
            name: name.into(),
            start: lsn(start),
            least: lsn(least),
            columns: Vec::new(),
        };
        let two = [instance("old", 10, 12), instance("new", 20, 20)];
        assert_eq!(choose(&two, &lsn(25)).expect("an instance").name, "new");
        assert_eq!(choose(&two, &lsn(15)).expect("an instance").name, "old");
        assert_eq!(choose(&two, &lsn(11)).expect("an instance").name, "old");
        for (instances, after) in [(&two[..], 10), (&[][..], 30)] {
            assert_eq!(choose(instances, &lsn(after)).expect_err("a gap").kind(), ErrorKind::CheckpointInvalid);
        }
    }
}
