//! Everything that would make a run fail, together, each with its remedy.

use std::sync::Arc;

use ingest_core::{ErrorKind, Problem, Result, Selection};
use ingest_sql::{few, plaintext, unknown_streams};

use crate::catalog::{self, Column, Table};
use crate::moment::Sight;
use crate::server::Server;

/// Looks for problems; changes nothing.
pub(crate) async fn check(server: &Arc<Server>, selection: &Selection) -> Result<Vec<Problem>> {
    let mut connection = match server.connect().await {
        Ok(connection) => connection,
        // What is wrong with reaching the server is the only thing that can be said.
        Err(error) if error.kind() != ErrorKind::Unexpected => return Ok(vec![Problem::from_error(None, &error)]),
        Err(error) => return Err(error),
    };
    let mut problems = Vec::new();
    let tables = catalog::load(&mut connection, &server.config().database, selection).await?;
    let sight = Sight::of(&mut connection).await?;
    const ACCOUNT: &str = "SELECT CURRENT_USER()";
    let account: Vec<(String,)> = connection.rows(ACCOUNT, "cannot see the account").await?;
    let account = account.into_iter().next().map(|(account,)| quoted(&account)).unwrap_or_default();
    connection.close().await;
    whole(server, &tables, sight, &account, &mut problems);
    if tables.is_empty() {
        problems.push(Problem::error(
            None,
            "no table matches the selection",
            format!(
                "streams are named `database.table`, and only tables that the account may read are seen: GRANT SELECT ON database.* TO {account}"
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
fn whole(server: &Server, tables: &[Table], sight: Sight, account: &str, problems: &mut Vec<Problem>) {
    let written: Vec<&str> = tables
        .iter()
        .filter(|table| table.columns.iter().any(|column| column.writable))
        .map(|table| table.stream.as_str())
        .collect();
    if !written.is_empty() {
        problems.push(Problem::warning(
            None,
            format!("the account {account} can do more than read: it may write to {}", few(&written)),
            "use an account that has SELECT on the tables, and PROCESS for incremental reads, and nothing else",
        ));
    }
    match sight {
        Sight::All => {}
        Sight::Own => problems.push(Problem::warning(
            None,
            format!("the account {account} cannot see the transactions of others"),
            format!(
                "GRANT PROCESS ON *.* TO {account}; without it an incremental run leaves out the last 5 minutes, and transactions that are open for longer can be missed"
            ),
        )),
        Sight::Replica => problems.push(Problem::warning(
            None,
            "the server is read-only, as replicas are: what will come from the other server cannot be seen",
            "an incremental run leaves out the last hour, and misses what the replica is further behind; read the primary, or use `mode: full`",
        )),
    }
    problems.extend(plaintext(&server.config().login(), "set up certificates at the server and leave `tls` out"));
}

fn grants(table: &Table, account: &str, problems: &mut Vec<Problem>) -> Result<()> {
    let hidden: Vec<&Column> = table.columns.iter().filter(|column| !column.readable).collect();
    if hidden.is_empty() {
        return Ok(());
    }
    let path = table.path()?;
    let (what, remedy) = if hidden.len() == table.columns.len() {
        ("SELECT on the table is missing".to_owned(), format!("GRANT SELECT ON {path} TO {account}"))
    } else {
        let names: Vec<&str> = hidden.iter().map(|column| column.name.as_str()).collect();
        (
            format!("SELECT is missing on the columns {}", few(&names)),
            format!("GRANT SELECT ON {path} TO {account}, or name the other columns in `columns` of the stream"),
        )
    };
    problems.push(Problem::error(Some(table.stream.clone()), what, remedy, ErrorKind::PermissionDenied));
    Ok(())
}

/// `user@host` as GRANT takes it: `'user'@'host'`.
fn quoted(account: &str) -> String {
    let (user, host) = account.rsplit_once('@').unwrap_or((account, "%"));
    let quote = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
    format!("{}@{}", quote(user), quote(host))
}
