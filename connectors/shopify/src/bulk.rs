//! Bulk operations: started, looked at, read line by line. One at a time; any process can take one over by its id.

use std::time::Duration;

use ingest_core::{Done, Error, ErrorKind, Out, Result, StreamName};
use ingest_http::word;
use serde::Deserialize;
use serde_json::json;

use crate::Shopify;
use crate::lines::Lines;
use crate::state::{Position, Window};
use crate::streams::{Origin, STREAMS, find};

/// Operations that may fail before the slice does.
const OPERATIONS: u8 = 3;
/// How long until an operation that is under way is looked at again.
const LOOK: Duration = Duration::from_secs(2);
/// The same for an operation of somebody else, which ours waits for.
const BUSY: Duration = Duration::from_secs(10);

const START: &str = "mutation($query: String!) { bulkOperationRunQuery(query: $query, groupObjects: true) { \
    bulkOperation { id status } userErrors { field message code } } }";

const STATUS: &str = "query($id: ID!) { node(id: $id) { ... on BulkOperation { \
    id status errorCode objectCount url } } }";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Started {
    bulk_operation_run_query: Run,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    bulk_operation: Option<Id>,
    #[serde(default)]
    user_errors: Vec<UserError>,
}

#[derive(Deserialize)]
struct Id {
    id: String,
}

#[derive(Deserialize)]
struct UserError {
    #[serde(default)]
    message: String,
    #[serde(default)]
    code: Option<String>,
}

#[derive(Deserialize)]
struct Looked {
    node: Option<Operation>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Operation {
    id: String,
    status: String,
    #[serde(default)]
    error_code: Option<String>,
    /// A number, as text.
    #[serde(default)]
    object_count: Option<String>,
    #[serde(default)]
    url: Option<String>,
}

/// The query of a list with what belongs to its objects, as far as it is wanted.
pub(crate) fn query(work: &Window, streams: &[StreamName]) -> Result<String> {
    let root = find(&work.list)?;
    let Origin::List(list, arguments, filter) = root.origin else {
        return Err(Error::unexpected("a list that is read by pages is no bulk operation"));
    };
    let mut given: Vec<String> = Vec::new();
    let filter = crate::plan::filter(filter, work);
    if !filter.is_empty() {
        given.push(format!("query: \"{filter}\""));
    }
    if !arguments.is_empty() {
        given.push(arguments.to_owned());
    }
    let given = if given.is_empty() { String::new() } else { format!("({})", given.join(", ")) };
    let mut node = root.selection();
    for def in STREAMS.iter().filter(|def| streams.iter().any(|stream| stream.as_str() == def.name)) {
        match def.origin {
            Origin::Child(_, connection) => {
                node.push_str(&format!(" {connection} {{ edges {{ node {{ {} }} }} }}", def.selection()));
            }
            Origin::Inside(_, field) => node.push_str(&format!(" {field} {{ {} }}", def.selection())),
            Origin::List(..) | Origin::Pages(..) => {}
        }
    }
    Ok(format!("{{ {list}{given} {{ edges {{ node {{ {node} }} }} }} }}"))
}

/// Starts an operation, or waits for one of somebody else, which is not ours to cancel.
pub(crate) async fn begin(
    shopify: &Shopify,
    work: &Window,
    streams: &[StreamName],
    failed: u8,
    out: &mut Out<'_, Position>,
) -> Result<Done> {
    let started: Started = shopify.api.ask(START, json!({"query": query(work, streams)?})).await?;
    let run = started.bulk_operation_run_query;
    if let Some(error) = run.user_errors.first() {
        if error.message.contains("already in progress") {
            return Ok(Done::Pending(BUSY));
        }
        return Err(Error::new(ErrorKind::DataInvalid, "the source refused a bulk operation")
            .with("code", error.code.as_deref().and_then(word).unwrap_or("unknown"))
            .hint("`api_version` may not know a field that is asked for"));
    }
    let Some(operation) = run.bulk_operation else {
        return Err(Error::new(ErrorKind::DataInvalid, "the source started no bulk operation and does not say why"));
    };
    out.mark(&Position::Operation { at: work.at, id: operation.id, failed }).await?;
    Ok(Done::Pending(Duration::from_millis(250)))
}

async fn operation(shopify: &Shopify, id: &str) -> Result<Option<Operation>> {
    let looked: Looked = shopify.api.ask(STATUS, json!({"id": id})).await?;
    Ok(looked.node)
}

/// Looks at an operation, and reads its result once it is complete.
pub(crate) async fn look(
    shopify: &Shopify,
    work: &Window,
    streams: &[StreamName],
    id: &str,
    failed: u8,
    out: &mut Out<'_, Position>,
) -> Result<Done> {
    let Some(found) = operation(shopify, id).await? else {
        let why = Error::new(ErrorKind::NotFound, "a bulk operation is gone");
        return again(work, failed, &why, out).await;
    };
    match found.status.as_str() {
        "CREATED" | "RUNNING" | "CANCELING" => Ok(Done::Pending(LOOK)),
        "COMPLETED" => read(shopify, work, streams, &found, 0, out).await,
        "FAILED" if found.error_code.as_deref() == Some("ACCESS_DENIED") => {
            Err(Error::new(ErrorKind::PermissionDenied, "the source refused access to what a bulk operation reads")
                .hint("give the app the scopes of the streams; `ingest check` names them"))
        }
        "FAILED" | "CANCELED" | "EXPIRED" => {
            let why = Error::new(ErrorKind::Unavailable, "a bulk operation came to nothing")
                .with("status", &found.status)
                .with("code", found.error_code.as_deref().and_then(word).unwrap_or("none"));
            again(work, failed, &why, out).await
        }
        other => Err(Error::new(ErrorKind::DataInvalid, "a bulk operation is in a state that its API does not have")
            .with("status", word(other).unwrap_or("?"))),
    }
}

/// Starts another operation in place of one that came to nothing, a few times; the next run begins anew.
async fn again(work: &Window, failed: u8, why: &Error, out: &mut Out<'_, Position>) -> Result<Done> {
    let failed = failed.saturating_add(1);
    if failed < OPERATIONS {
        tracing::warn!(list = %work.list, error = %why, "a bulk operation is started again");
        out.mark(&Position::Fresh { at: work.at, failed }).await?;
        return Ok(Done::Pending(LOOK));
    }
    out.mark(&Position::Fresh { at: work.at, failed: 0 }).await?;
    Err(why.replicate().with("operations", failed).exhausted().hint("run again later"))
}

/// Reads on behind lines that are committed.
pub(crate) async fn resume(
    shopify: &Shopify,
    work: &Window,
    streams: &[StreamName],
    id: &str,
    line: u64,
    out: &mut Out<'_, Position>,
) -> Result<Done> {
    match operation(shopify, id).await? {
        Some(found) if found.status == "COMPLETED" => read(shopify, work, streams, &found, line, out).await,
        // Results are kept for a week.
        _ => Err(expired()),
    }
}

fn expired() -> Error {
    Error::new(ErrorKind::SliceExpired, "the result of a bulk operation is gone")
}

async fn read(
    shopify: &Shopify,
    work: &Window,
    streams: &[StreamName],
    operation: &Operation,
    skip: u64,
    out: &mut Out<'_, Position>,
) -> Result<Done> {
    let expected: Option<u64> = operation.object_count.as_deref().and_then(|count| count.parse().ok());
    // An operation that found nothing has no file.
    let Some(url) = &operation.url else {
        return match expected {
            None | Some(0) => Ok(Done::Complete),
            Some(_) => Err(expired()),
        };
    };
    let mut lines = Lines::new(work.at, streams, skip)?;
    let mut download = match shopify.api.result(url).await {
        Ok(download) => download,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            return Err(expired());
        }
        Err(error) => return Err(error),
    };
    loop {
        let piece = download.next().await?;
        lines.push(piece.as_deref().unwrap_or_default(), piece.is_none(), || out.batch_bytes())?;
        while let Some(batches) = lines.ready()? {
            for (stream, rows) in batches.rows {
                out.rows(&stream, rows).await?;
            }
            let position = Position::Line { at: work.at, id: operation.id.clone(), line: batches.line };
            out.mark(&position).await?;
        }
        if piece.is_none() {
            break;
        }
    }
    if let Some(expected) = expected.filter(|expected| *expected != lines.count()) {
        return Err(Error::new(
            ErrorKind::Unavailable,
            "the result of a bulk operation has another number of lines than it says",
        )
        .with("lines", lines.count())
        .with("expected", expected));
    }
    if let Some(batches) = lines.rest()? {
        for (stream, rows) in batches.rows {
            out.rows(&stream, rows).await?;
        }
    }
    if let Some(version) = shopify.api.fallen() {
        out.warn(None, format!("the API answers as {version}: version {} has ended", shopify.config.api_version))
            .await?;
    }
    Ok(Done::Complete)
}
