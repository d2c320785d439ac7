//! Everything that would make a run fail, together, each with its remedy.

use std::sync::Arc;

use ingest_core::{ErrorKind, Problem, Result, Selection};
use ingest_sql::{Dialect, few, plaintext, unknown_streams};

use crate::catalog::{self, Column, Table};
use crate::moment::Sight;
use crate::server::{Facts, Server};

/// Looks for problems; changes nothing.
pub(crate) async fn check(server: &Arc<Server>, selection: &Selection) -> Result<Vec<Problem>> {
    let mut connection = match server.connect().await {
        Ok(connection) => connection,
        // What is wrong with reaching the server is the only thing that can be said.
        Err(error) if error.kind() != ErrorKind::Unexpected => return Ok(vec![Problem::from_error(None, &error)]),
        Err(error) => return Err(error),
    };
    let tables = catalog::load(&mut connection, selection).await?;
    let sight = Sight::of(&mut connection).await?;
    let facts = connection.facts.clone();
    connection.close().await;
    let account = Dialect::SqlServer.name(&facts.account)?;
    let mut problems = Vec::new();
    whole(server, &tables, sight, &facts, &mut problems)?;
    if tables.is_empty() {
        problems.push(Problem::error(
            None,
            "no table matches the selection",
            format!(
                "streams are named `schema.table`, and only tables that the account may read are seen: GRANT SELECT ON SCHEMA::dbo TO {account}"
            ),
            ErrorKind::ConfigInvalid,
        ));
    } else {
        let there = tables.iter().map(|table| &table.stream);
        problems.extend(unknown_streams(selection, there, "the stream does not exist, or the account may not see it"));
    }
    for table in &tables {
        grants(table, &account, &mut problems)?;
    }
    Ok(problems)
}

/// What concerns the source as a whole.
fn whole(server: &Server, tables: &[Table], sight: Sight, facts: &Facts, problems: &mut Vec<Problem>) -> Result<()> {
    let (account, database) = (Dialect::SqlServer.name(&facts.account)?, Dialect::SqlServer.name(&facts.database)?);
    let written: Vec<&str> = tables.iter().filter(|table| table.writable).map(|table| table.stream.as_str()).collect();
    if !written.is_empty() {
        problems.push(Problem::warning(
            None,
            format!("the account {account} can do more than read: it may write to {}", few(&written)),
            "use an account that has SELECT on the tables, and VIEW SERVER STATE for incremental reads, and nothing else",
        ));
    }
    match sight {
        Sight::All => {}
        Sight::Own => problems.push(Problem::warning(
            None,
            format!("the account {account} cannot see the transactions of others"),
            "GRANT VIEW SERVER STATE TO the login (Azure SQL: GRANT VIEW DATABASE STATE TO the user); without it a run by a clock leaves out the last 5 minutes, and transactions that are open for longer can be missed",
        )),
        Sight::Replica => problems.push(Problem::warning(
            None,
            "the database is read-only, as replicas are: what will come from the other server cannot be seen",
            "a run by a clock leaves out the last hour, and misses what the replica is further behind; read the primary, or use `mode: full`",
        )),
    }
    if !facts.snapshot && !facts.versioned && !facts.read_only {
        problems.push(Problem::warning(
            None,
            "the database lets nobody read it as it was at one time: reading waits for those who write, and they for it",
            format!("ALTER DATABASE {database} SET ALLOW_SNAPSHOT_ISOLATION ON"),
        ));
    }
    problems.extend(plaintext(&server.config().login(), "set up a certificate at the server and leave `tls` out"));
    Ok(())
}

fn grants(table: &Table, account: &str, problems: &mut Vec<Problem>) -> Result<()> {
    let path = table.path()?;
    let names = |columns: &[&Column]| {
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        few(&names)
    };
    let masked: Vec<&Column> = table.columns.iter().filter(|column| column.masked).collect();
    if !masked.is_empty() {
        problems.push(Problem::warning(
            Some(table.stream.clone()),
            format!(
                "the server masks the columns {}: without UNMASK, what is read looks real and is not",
                names(&masked)
            ),
            format!("GRANT UNMASK TO {account}, or leave them out with `columns` of the stream"),
        ));
    }
    let hidden: Vec<&Column> = table.columns.iter().filter(|column| !column.readable).collect();
    if hidden.is_empty() {
        return Ok(());
    }
    let (what, remedy) = if hidden.len() == table.columns.len() {
        ("SELECT on the table is missing".to_owned(), format!("GRANT SELECT ON {path} TO {account}"))
    } else {
        (
            format!("SELECT is missing on the columns {}", names(&hidden)),
            format!("GRANT SELECT ON {path} TO {account}, or name the other columns in `columns` of the stream"),
        )
    };
    problems.push(Problem::error(Some(table.stream.clone()), what, remedy, ErrorKind::PermissionDenied));
    Ok(())
}
