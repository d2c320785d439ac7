//! Everything that would make a run fail, together, each with its remedy.

use std::sync::Arc;

use ingest_core::{ErrorKind, Problem, Result, Selection};
use ingest_sql::{Dialect, few, plaintext, unknown_streams};

use crate::catalog::{self, Cells, Table};
use crate::server::Server;
use crate::wire::Connection;

/// What our account is.
const ACCOUNT: &str = "
SELECT r.rolname, r.rolsuper, r.rolcreaterole OR r.rolcreatedb,
  pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
  r.rolsuper OR pg_catalog.pg_has_role(r.oid, 'pg_read_all_stats', 'USAGE'),
  pg_catalog.current_setting('server_encoding')
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user";

/// Looks for problems; changes nothing.
pub(crate) async fn check(server: &Arc<Server>, selection: &Selection) -> Result<Vec<Problem>> {
    let mut connection = match server.connect().await {
        Ok(connection) => connection,
        // What is wrong with reaching the server is the only thing that can be said.
        Err(error) if error.kind() != ErrorKind::Unexpected => return Ok(vec![Problem::from_error(None, &error)]),
        Err(error) => return Err(error),
    };
    let mut problems = Vec::new();
    let tables = catalog::load(&mut connection, selection).await?;
    let role = account(&mut connection, &tables, server, &mut problems).await?;
    connection.close().await;
    if tables.is_empty() {
        problems.push(Problem::error(
            None,
            "no table matches the selection",
            "streams are named `schema.table`; see `database`, and whether the tables are in this one",
            ErrorKind::ConfigInvalid,
        ));
    } else {
        let there = tables.iter().map(|table| &table.stream);
        problems.extend(unknown_streams(selection, there, "the stream does not exist"));
    }
    for table in &tables {
        grants(table, &role, server, &mut problems)?;
    }
    Ok(problems)
}

async fn account(
    connection: &mut Connection,
    tables: &[Table],
    server: &Server,
    problems: &mut Vec<Problem>,
) -> Result<String> {
    let rows = connection.query(ACCOUNT).await?;
    let mut row = Cells::new(rows.into_iter().next().unwrap_or_default());
    let (role, superuser, manages, creates) = (row.text()?, row.flag()?, row.flag()?, row.flag()?);
    let (sees_sessions, encoding) = (row.flag()?, row.text()?);
    let written: Vec<&str> = tables.iter().filter(|t| t.grants.write).map(|t| t.stream.as_str()).collect();
    let more = match () {
        () if superuser => Some("is a superuser".to_owned()),
        () if manages => Some("may create databases or roles".to_owned()),
        () if !written.is_empty() => Some(format!("may write to {}", few(&written))),
        () if creates => Some("may create schemas in the database".to_owned()),
        () => None,
    };
    if let Some(more) = more {
        problems.push(Problem::warning(
            None,
            format!("the account \"{role}\" can do more than read: it {more}"),
            "use an account that has CONNECT on the database, USAGE on the schemas and SELECT on the tables, and nothing else",
        ));
    }
    if !sees_sessions {
        problems.push(Problem::warning(
            None,
            format!("the account \"{role}\" cannot see when other sessions began their transactions"),
            format!(
                "GRANT pg_read_all_stats TO {}; without it, an incremental run while others have transactions open reads the whole table at the server to find late commits: nothing is lost, but it takes longer",
                Dialect::Postgres.name(&role)?
            ),
        ));
    }
    if encoding == "SQL_ASCII" {
        problems.push(Problem::warning(
            None,
            "the database has the encoding SQL_ASCII, so the server does not know what its texts mean",
            "texts that are not UTF-8 become null and are kept as hexadecimal in `_ingest_rescued`; convert the database to UTF8",
        ));
    }
    problems.extend(plaintext(&server.config().login(), "switch `ssl` on at the server and leave `tls` out"));
    Ok(role)
}

fn grants(table: &Table, role: &str, server: &Server, problems: &mut Vec<Problem>) -> Result<()> {
    let (role, path) = (Dialect::Postgres.name(role)?, table.path()?);
    let schema = Dialect::Postgres.name(&table.schema)?;
    let mut problem = |what: String, remedy: String| {
        problems.push(Problem::error(Some(table.stream.clone()), what, remedy, ErrorKind::PermissionDenied));
    };
    if !table.grants.usage {
        problem("USAGE on the schema is missing".into(), format!("GRANT USAGE ON SCHEMA {schema} TO {role}"));
    }
    if !table.grants.select {
        let hidden: Vec<&str> = table.grants.hidden_columns.iter().map(String::as_str).collect();
        if hidden.len() == table.columns.len() {
            problem("SELECT on the table is missing".into(), format!("GRANT SELECT ON {path} TO {role}"));
        } else if !hidden.is_empty() {
            problem(
                format!("SELECT is missing on the columns {}", few(&hidden)),
                format!("GRANT SELECT ON {path} TO {role}, or name the other columns in `columns` of the stream"),
            );
        }
    }
    if table.hides_rows && !server.config().row_security {
        problem(
            "row-level security hides rows of the table from the account".into(),
            format!("ALTER ROLE {role} BYPASSRLS, or set `row_security: true` to read only the rows that it shows"),
        );
    }
    Ok(())
}
