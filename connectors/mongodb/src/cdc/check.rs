//! Everything that keeps changes from being captured, together, each with the statement that repairs it.

use bson::doc;
use ingest_core::{ErrorKind, Problem, Result, Selection, StreamName};

use super::{NO_OPLOG, watched};
use crate::catalog::{self, Sort};
use crate::config::{BeforeChange, FullDocument};
use crate::faults;
use crate::server::{Hello, Server, number};

/// A log that reaches back less than a day is soon behind a run that failed overnight.
const LEAST_HOURS: u64 = 24;

/// Looks for problems; changes nothing.
pub(crate) async fn check(server: &Server, streams: &[StreamName]) -> Result<Vec<Problem>> {
    let hello = match server.hello().await {
        Ok(hello) => hello,
        // The check of the source itself says what is wrong with reaching the server.
        Err(error) if error.kind() != ErrorKind::Unexpected => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut problems = Vec::new();
    if hello.set.is_none() {
        let (what, remedy) = NO_OPLOG;
        problems.push(Problem::error(None, format!("cdc: {what}"), remedy, ErrorKind::ConfigInvalid));
    } else {
        problems.extend(stream_opens(server).await?);
        problems.extend(window(server, &hello).await?);
    }
    let names: Vec<String> = streams.iter().map(ToString::to_string).collect();
    problems.extend(collections(server, &names).await?);
    Ok(problems)
}

/// Tries what `extract` does.
async fn stream_opens(server: &Server) -> Result<Option<Problem>> {
    let mut stream = doc! {};
    if server.settings().database.is_none() {
        stream.insert("allChangesForCluster", true);
    }
    let pipeline = vec![doc! { "$changeStream": stream }];
    let command = doc! { "aggregate": 1, "pipeline": pipeline, "cursor": { "batchSize": 0 } };
    let opened = server.try_batches(watched(server), command, None, "cdc: cannot open a change stream").await?;
    let Err(cause) = opened else { return Ok(None) };
    if faults::code(&cause) != Some(13) {
        return Ok(Some(Problem::from_error(None, &faults::error("cdc: cannot open a change stream", cause))));
    }
    let user = account(server).await.unwrap_or_else(|| ("USER".into(), "admin".into()));
    let roles = match &server.settings().database {
        Some(database) => format!("{{role: \"read\", db: {database:?}}}"),
        None => "{role: \"readAnyDatabase\", db: \"admin\"}".to_owned(),
    };
    let remedy = format!("db.getSiblingDB({:?}).grantRolesToUser({:?}, [{roles}])", user.1, user.0);
    let what = "cdc: the account may not open a change stream";
    Ok(Some(Problem::error(None, what, remedy, ErrorKind::PermissionDenied)))
}

/// The user and the database that holds it.
async fn account(server: &Server) -> Option<(String, String)> {
    let answer = server.try_run("admin", doc! { "connectionStatus": 1 }).await.ok()?.ok()?;
    let users = answer.get_document("authInfo").ok()?.get_array("authenticatedUsers").ok()?;
    let user = users.first()?.as_document()?;
    Some((user.get_str("user").ok()?.to_owned(), user.get_str("db").ok()?.to_owned()))
}

/// How far the log reaches back, where the account may see it.
async fn window(server: &Server, hello: &Hello) -> Result<Option<Problem>> {
    if hello.set.as_deref() == Some("sharded") {
        return Ok(None);
    }
    let mut ends = Vec::new();
    for order in [1, -1] {
        let command = doc! { "find": "oplog.rs", "sort": { "$natural": order }, "projection": { "ts": 1 }, "limit": 1, "singleBatch": true };
        match server.documents("local", command, 1, "cannot see how far the oplog reaches back").await? {
            Ok(found) => ends.extend(found.first().and_then(|entry| entry.get_timestamp("ts").ok()).map(number)),
            Err(_) => return Ok(None),
        }
    }
    let [first, last] = ends.as_slice() else { return Ok(None) };
    let hours = (last >> 32).saturating_sub(first >> 32) / 3_600;
    Ok((hours < LEAST_HOURS).then(|| {
        Problem::warning(
            None,
            format!("cdc: the oplog reaches back {hours} hours: after a longer pause between two runs the streams must be loaded again"),
            "db.adminCommand({replSetResizeOplog: 1, minRetentionHours: 72})",
        )
    }))
}

/// What is wrong with the collections.
async fn collections(server: &Server, names: &[String]) -> Result<Vec<Problem>> {
    let config = &server.settings().config;
    let images =
        config.full_document == FullDocument::Required || config.full_document_before_change == BeforeChange::Required;
    let selection = Selection { select: names.to_vec(), exclude: Vec::new() };
    let mut problems = Vec::new();
    // Names may hold characters that mean something in a glob.
    let found = match catalog::load(server, &selection).await {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(problems),
        found => found?,
    };
    for collection in
        found.iter().filter(|found| names.is_empty() || names.iter().any(|name| name == found.stream.as_str()))
    {
        if collection.sort != Sort::Collection {
            problems.push(Problem::error(
                Some(collection.stream.clone()),
                "cdc: views and time series have no changes",
                "capture the collections that a view reads, or use `mode: full`",
                ErrorKind::ConfigInvalid,
            ));
        } else if images && !collection.images {
            problems.push(Problem::error(
                Some(collection.stream.clone()),
                "cdc: the collection keeps no images of its documents before and after changes",
                format!(
                    "db.getSiblingDB({:?}).runCommand({{collMod: {:?}, changeStreamPreAndPostImages: {{enabled: true}}}})",
                    collection.database, collection.name
                ),
                ErrorKind::ConfigInvalid,
            ));
        }
    }
    Ok(problems)
}
