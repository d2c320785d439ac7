//! The collections of a source.

use bson::raw::RawDocument;
use bson::{Bson, doc};
use ingest_core::{Error, ErrorKind, Result, Selection, StreamName};

use crate::faults;
use crate::server::Server;

/// Databases of the server itself.
const OWN: [&str; 3] = ["admin", "config", "local"];
/// Collections of a source; more are refused.
const MOST: usize = 100_000;

/// A collection, or what looks like one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Collection {
    pub(crate) stream: StreamName,
    pub(crate) database: String,
    pub(crate) name: String,
    pub(crate) sort: Sort,
    /// Whether it keeps images of its documents before and after changes.
    pub(crate) images: bool,
}

/// What a collection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    Collection,
    View,
    /// Measurements, kept in another form: their `_id` is no index, and they have no changes.
    TimeSeries,
}

/// What is known about the size of a collection.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Size {
    pub(crate) documents: Option<u64>,
    pub(crate) bytes: Option<u64>,
}

/// The name of a stream: the collection's, with that of its database where there are several.
pub(crate) fn stream_name(server: &Server, database: &str, collection: &str) -> StreamName {
    match &server.settings().database {
        Some(_) => StreamName::from(collection),
        None => StreamName::from(format!("{database}.{collection}")),
    }
}

/// The databases that are read.
pub(crate) async fn databases(server: &Server) -> Result<Vec<String>> {
    if let Some(database) = &server.settings().database {
        return Ok(vec![database.clone()]);
    }
    let command = doc! { "listDatabases": 1, "nameOnly": true, "authorizedDatabases": true };
    let answer = server.run("admin", command, "cannot list the databases").await?;
    let listed = answer.get_array("databases").map_err(|_| unreadable())?;
    let name = |entry: &Bson| entry.as_document().and_then(|entry| entry.get_str("name").ok()).map(str::to_owned);
    let mut names: Vec<String> = listed.iter().filter_map(name).filter(|name| !OWN.contains(&name.as_str())).collect();
    names.sort();
    Ok(names)
}

/// The collections that match, sorted by name.
pub(crate) async fn load(server: &Server, selection: &Selection) -> Result<Vec<Collection>> {
    let mut found = Vec::new();
    for database in databases(server).await? {
        let attempted = "cannot list the collections";
        let command = doc! { "listCollections": 1, "cursor": {} };
        let listed = server.documents(&database, command, MOST, attempted).await?;
        let listed = listed.map_err(|e| faults::error(attempted, e).with("database", &database))?;
        if listed.len() == MOST {
            return Err(
                Error::new(ErrorKind::LimitExceeded, "a database has too many collections").with("database", &database)
            );
        }
        for entry in listed {
            let collection = collection(server, &database, &entry).ok_or_else(unreadable)?;
            if !collection.name.starts_with("system.") && selection.matches(collection.stream.as_str()) {
                found.push(collection);
            }
        }
    }
    found.sort_by(|a, b| a.stream.cmp(&b.stream));
    Ok(found)
}

fn collection(server: &Server, database: &str, entry: &RawDocument) -> Option<Collection> {
    let name = entry.get_str("name").ok()?;
    let sort = match entry.get_str("type") {
        Ok("view") => Sort::View,
        Ok("timeseries") => Sort::TimeSeries,
        _ => Sort::Collection,
    };
    let images = entry.get_document("options").and_then(|options| options.get_document("changeStreamPreAndPostImages"));
    Some(Collection {
        stream: stream_name(server, database, name),
        database: database.to_owned(),
        name: name.to_owned(),
        sort,
        images: images.is_ok_and(|images| images.get_bool("enabled").unwrap_or(false)),
    })
}

fn unreadable() -> Error {
    Error::new(ErrorKind::DataInvalid, "the server's list is none that is known").hint("is it MongoDB?")
}

/// What is known about the size of a collection: the server's own estimates, which may be missing.
pub(crate) async fn size(server: &Server, collection: &Collection) -> Result<Size> {
    if collection.sort != Sort::Collection {
        return Ok(Size::default());
    }
    let number = |value: Option<&Bson>| match value {
        Some(Bson::Int32(number)) => u64::try_from(*number).ok(),
        Some(Bson::Int64(number)) => u64::try_from(*number).ok(),
        Some(Bson::Double(number)) if *number >= 0.0 => Some(*number as u64),
        _ => None,
    };
    let answer = server.try_run(&collection.database, doc! { "collStats": &collection.name }).await?;
    match answer {
        Ok(stats) => Ok(Size { documents: number(stats.get("count")), bytes: number(stats.get("size")) }),
        // Without the right, or on a server that does not know it.
        Err(cause) if faults::code(&cause).is_some() => {
            let answer = server.try_run(&collection.database, doc! { "count": &collection.name }).await?;
            Ok(Size { documents: answer.ok().and_then(|answer| number(answer.get("n"))), bytes: None })
        }
        Err(cause) => Err(faults::error("cannot see how large the collection is", cause)),
    }
}

/// The documents that meet a query.
pub(crate) async fn count(server: &Server, collection: &Collection, filter: bson::Document) -> Result<u64> {
    let attempted = "cannot count the documents";
    // Exact, where `count` without a query is an estimate.
    let pipeline = vec![doc! { "$match": filter }, doc! { "$group": { "_id": Bson::Null, "n": { "$sum": 1 } } }];
    let command = doc! { "aggregate": &collection.name, "pipeline": pipeline, "cursor": {} };
    let answer = server.documents(&collection.database, command, 1, attempted).await?;
    let answer = answer.map_err(|e| faults::error(attempted, e))?;
    let Some(counted) = answer.first() else { return Ok(0) };
    let number = counted.get_i32("n").map(i64::from).or_else(|_| counted.get_i64("n"));
    let number = number.ok().and_then(|number| u64::try_from(number).ok());
    number.ok_or_else(|| Error::new(ErrorKind::DataInvalid, attempted))
}
