//! Windows of an incremental read.

use bson::oid::ObjectId;
use bson::{Bson, DateTime, doc};
use ingest_core::{CursorColumn, Error, ErrorKind, Json, Result, Safety, Selected, SliceId};

use crate::catalog::{Collection, Sort};
use crate::plan::{Planner, columns_of};
use crate::rows::{Column, ID};
use crate::sample::value_of;
use crate::select::{all_of, first};
use crate::types::Kind;
use crate::work::{Position, Progress, Window};
use crate::{extended, faults};

/// Id under which an incremental stream keeps its position.
pub(crate) const CURSOR: &str = "cursor";
/// Indexes of a collection.
const MOST_INDEXES: usize = 1_000;

/// A window to read, and what holds afterwards.
pub(crate) struct Planned {
    pub(crate) window: Window,
    pub(crate) progress: Progress,
}

/// Fields by which a collection can be read incrementally: first dates that say when a document was changed, then other dates, then
/// `_id` as clients make it, then numbers, of which nobody says in which order they become visible.
pub(crate) fn cursors(columns: &[Column], lag: std::time::Duration) -> Vec<CursorColumn> {
    let rank = |column: &&Column| match column.kind {
        Kind::Timestamp if ingest_sql::says_changed(&column.name) => 0,
        Kind::Timestamp => 1,
        Kind::ObjectId => 2,
        _ => 3,
    };
    let mut columns: Vec<&Column> = columns.iter().filter(|column| is_cursor(column)).collect();
    columns.sort_by_key(rank);
    let safety = |column: &Column| match column.kind {
        Kind::Timestamp | Kind::ObjectId => Safety::Lag(lag),
        _ => Safety::Unsafe,
    };
    columns.into_iter().map(|column| CursorColumn { column: column.name.clone(), safety: safety(column) }).collect()
}

fn is_cursor(column: &Column) -> bool {
    let named = !column.name.contains('.') && !column.name.starts_with('$');
    let ordered = match column.kind {
        Kind::Timestamp | Kind::Int32 | Kind::Int64 => true,
        // Other fields hold ids of other documents.
        Kind::ObjectId => column.name == ID,
        _ => false,
    };
    named && ordered
}

/// The cursor column of a stream.
pub(crate) fn cursor(selected: &Selected<Position>) -> Result<Column> {
    let name = selected.cursor.as_deref().ok_or_else(|| {
        Error::config("an incremental read needs a cursor")
            .hint("set `cursor` of the stream to a field that grows with every change, or `mode: full`")
    })?;
    let columns = columns_of(&selected.stream);
    let column = columns.iter().find(|column| column.name == name).ok_or_else(|| {
        let near = ingest_core::nearest(name, columns.iter().map(|column| column.name.as_str()));
        Error::config("the cursor is no column of the collection").with("cursor", name).hint(
            near.map_or("`ingest discover` lists the columns".to_owned(), |near| format!("did you mean `{near}`?")),
        )
    })?;
    match is_cursor(column) {
        true => Ok(column.clone()),
        false => Err(Error::config("the cursor has a type without a useful order")
            .with("cursor", name)
            .with("type", column.kind)
            .hint("a cursor is a date, a whole number, or an _id that is an ObjectId")),
    }
}

/// The position of an incremental stream.
pub(crate) fn progress(selected: &Selected<Position>) -> Result<Option<&Progress>> {
    match selected.positions.get(&SliceId::from(CURSOR)) {
        Some(Position::Read(progress)) => Ok(Some(progress)),
        Some(_) => Err(crate::select::foreign()),
        None => Ok(None),
    }
}

/// Plans the window from the position (none = the first load) to what is old enough.
pub(crate) async fn window(
    planner: &Planner<'_>,
    collection: &Collection,
    selected: &Selected<Position>,
) -> Result<Planned> {
    let column = cursor(selected)?;
    let position = progress(selected)?;
    if let Some(position) = position
        && position.column != column.name
    {
        return Err(Error::new(ErrorKind::CheckpointInvalid, "the cursor of the stream was changed")
            .with("was", &position.column)
            .with("is", &column.name)
            .hint("`ingest state reset` forgets the position, then the collection is loaded again"));
    }
    let after = position.and_then(|position| position.after.clone());
    let mut conditions = vec![between(planner, &column, after.as_ref())?];
    if let Some(filter) = &selected.filter {
        conditions.push(extended::filter(filter)?);
    }
    let command = first(&collection.name, all_of(conditions), &column.name, -1);
    let found = planner.found(collection, command).await?;
    let highest = value_of(&found, &column.name)?;
    if let Some(highest) = &highest {
        expect_scalar(highest, &column)?;
    }
    let upto = match highest.or_else(|| after.clone()) {
        // Nothing is old enough: what has no value is read, and what is too new waits.
        None => bound(planner, &column).map(|bound| extended_of(&bound)),
        upto => upto,
    };
    Ok(Planned {
        window: Window {
            column: column.name.clone(),
            from: after,
            upto: upto.clone(),
            ordered: is_indexed(planner, collection, &column.name).await?,
        },
        progress: Progress { column: column.name, after: upto },
    })
}

/// What may be read: values behind the position that are old enough.
fn between(planner: &Planner<'_>, column: &Column, after: Option<&Json>) -> Result<bson::Document> {
    // A type, so that documents with another one in this field do not come first.
    let mut condition = doc! { "$type": match column.kind {
        Kind::Timestamp => "date",
        Kind::ObjectId => "objectId",
        _ => "number",
    } };
    if let Some(after) = after {
        condition.insert("$gt", extended::value(after)?);
    }
    if let Some(bound) = bound(planner, column) {
        condition.insert("$lt", bound);
    }
    Ok(doc! { &column.name: condition })
}

/// The first value that may still be written, or become visible; `None` for numbers.
fn bound(planner: &Planner<'_>, column: &Column) -> Option<Bson> {
    let lag = i64::try_from(planner.server.settings().config.lag.0.as_millis()).unwrap_or(i64::MAX);
    let millis = planner.hello.now.saturating_sub(lag);
    match column.kind {
        Kind::Timestamp => Some(Bson::DateTime(DateTime::from_millis(millis))),
        // Its first four bytes are seconds.
        Kind::ObjectId => {
            let seconds = u32::try_from(millis.div_euclid(1_000)).unwrap_or(0);
            let mut bytes = [0; 12];
            bytes[..4].copy_from_slice(&seconds.to_be_bytes());
            Some(Bson::ObjectId(ObjectId::from_bytes(bytes)))
        }
        _ => None,
    }
}

/// A value one below a bound, which nothing has: dates have milliseconds, and the ids of a second begin above its zeros.
fn extended_of(bound: &Bson) -> Json {
    match bound {
        Bson::DateTime(time) => Bson::DateTime(DateTime::from_millis(time.timestamp_millis().saturating_sub(1))),
        other => other.clone(),
    }
    .into_canonical_extjson()
}

fn expect_scalar(highest: &Json, column: &Column) -> Result<()> {
    match highest {
        Json::Array(_) => Err(Error::config("the cursor holds lists")
            .with("cursor", &column.name)
            .hint("a cursor is one date or number")),
        _ => Ok(()),
    }
}

/// Whether an index gives documents in the order of a field. Without one every window is a walk through the collection.
async fn is_indexed(planner: &Planner<'_>, collection: &Collection, field: &str) -> Result<bool> {
    if collection.sort != Sort::Collection {
        return Ok(false);
    }
    let attempted = "cannot list the indexes";
    let command = doc! { "listIndexes": &collection.name, "cursor": {} };
    match planner.server.documents(&collection.database, command, MOST_INDEXES, attempted).await? {
        Ok(indexes) => Ok(indexes.iter().any(|index| {
            let leads = index.get_document("key").ok().and_then(|key| key.iter().next()?.ok());
            let whole =
                index.get_document("partialFilterExpression").is_err() && !index.get_bool("sparse").unwrap_or(false);
            whole && leads.is_some_and(|(name, _)| name.as_str() == field)
        })),
        Err(cause) if faults::code(&cause).is_some() => Ok(false),
        Err(cause) => Err(faults::error(attempted, cause)),
    }
}
