//! Everything that would make a run fail, together, each with its remedy.

use bson::doc;
use ingest_core::{ErrorKind, Problem, Result, Selection};
use ingest_sql::{few, unknown_streams};

use crate::catalog::{self, Collection};
use crate::faults;
use crate::server::Server;

/// Actions of an account that only reads do not hold one of these.
const WRITES: [&str; 5] = ["insert", "update", "remove", "dropCollection", "dropDatabase"];

/// Looks for problems; changes nothing.
pub(crate) async fn check(server: &Server, selection: &Selection) -> Result<Vec<Problem>> {
    let loaded = catalog::load(server, selection).await;
    let collections = match loaded {
        Ok(collections) => collections,
        // What is wrong with reaching the server is the only thing that can be said.
        Err(error) if error.kind() != ErrorKind::Unexpected => return Ok(vec![Problem::from_error(None, &error)]),
        Err(error) => return Err(error),
    };
    let mut problems = Vec::new();
    problems.extend(writes(server).await?);
    if server.settings().protection.is_none() && !server.settings().local {
        let what = "the connection is not encrypted: anyone on the way can read the password and the data";
        problems.push(Problem::warning(None, what, "set up certificates at the server and leave `tls` out"));
    }
    if collections.is_empty() {
        let remedy = match &server.settings().database {
            Some(database) => format!(
                "see `database`, which is {database:?}; grant the role `read` on it: db.grantRolesToUser(USER, [{{role: \"read\", db: {database:?}}}])"
            ),
            None => {
                "streams are named `database.collection`; grant the role `readAnyDatabase`, or set `database`".into()
            }
        };
        problems.push(Problem::error(None, "no collection matches the selection", remedy, ErrorKind::ConfigInvalid));
    } else {
        let there = collections.iter().map(|collection| &collection.stream);
        let what = "the stream does not exist, or the account may not see it";
        problems.extend(unknown_streams(selection, there, what));
    }
    for collection in &collections {
        problems.extend(readable(server, collection).await?);
    }
    Ok(problems)
}

/// Tries what a run does first.
async fn readable(server: &Server, collection: &Collection) -> Result<Option<Problem>> {
    let attempted = "cannot read the collection";
    let command = doc! { "find": &collection.name, "limit": 1, "singleBatch": true };
    let Err(cause) = server.documents(&collection.database, command, 1, attempted).await? else { return Ok(None) };
    if faults::code(&cause) == Some(13) {
        let remedy = format!(
            "db.getSiblingDB(\"admin\").grantRolesToUser(USER, [{{role: \"read\", db: {:?}}}])",
            collection.database
        );
        let stream = Some(collection.stream.clone());
        return Ok(Some(Problem::error(
            stream,
            "the account may not read the collection",
            remedy,
            ErrorKind::PermissionDenied,
        )));
    }
    Ok(Some(Problem::from_error(Some(collection.stream.clone()), &faults::error(attempted, cause))))
}

/// Whether the account can do more than read, as far as the server says.
async fn writes(server: &Server) -> Result<Option<Problem>> {
    let command = doc! { "connectionStatus": 1, "showPrivileges": true };
    let Ok(answer) = server.try_run("admin", command).await? else { return Ok(None) };
    let Ok(privileges) = answer.get_document("authInfo").and_then(|info| info.get_array("authenticatedUserPrivileges"))
    else {
        return Ok(None);
    };
    let mut places: Vec<&str> = Vec::new();
    for privilege in privileges.iter().filter_map(|privilege| privilege.as_document()) {
        let actions = privilege.get_array("actions").map(Vec::as_slice).unwrap_or_default();
        let writes = actions.iter().filter_map(|action| action.as_str()).any(|action| WRITES.contains(&action));
        let database = privilege.get_document("resource").and_then(|resource| resource.get_str("db"));
        let named = database.map(|database| if database.is_empty() { "every database" } else { database });
        if let (true, Ok(database)) = (writes, named)
            && !places.contains(&database)
        {
            places.push(database);
        }
    }
    Ok((!places.is_empty()).then(|| {
        Problem::warning(
            None,
            format!("the account can do more than read: it may write to {}", few(&places)),
            "use an account with the role `read` on the databases, or `readAnyDatabase`, and nothing else",
        )
    }))
}
