//! What the documents of a collection look like: what is declared, and what a sample shows.

use std::collections::HashMap;

use bson::doc;
use bson::raw::RawDocumentBuf;
use ingest_core::{Error, ErrorKind, Result, columns};

use crate::catalog::{Collection, Sort};
use crate::config::Documents;
use crate::rows::{Column, DOCUMENT, ID};
use crate::server::Server;
use crate::types::{Kind, Seen};
use crate::{extended, faults};

/// Columns that a sample may show: they are part of every slice, whose work has a limit.
const MOST_COLUMNS: usize = 500;
/// Bytes of a sample.
const MOST_BYTES: usize = 64 << 20;

/// The columns of a collection. `_id` comes first, the others as documents have them.
pub(crate) async fn columns(server: &Server, collection: &Collection) -> Result<Vec<Column>> {
    let config = &server.settings().config;
    let whole = config.documents == Documents::Json;
    let mut seen = Fields::default();
    seen.field(ID);
    let most = usize::try_from(config.sample).unwrap_or(usize::MAX);
    // Both ends of `_id`: there lie all classes that it has.
    let orders: &[i32] = if collection.sort == Sort::Collection { &[1, -1] } else { &[0] };
    for order in orders {
        let mut command = doc! { "find": &collection.name, "limit": i64::from(config.sample.div_ceil(u32::try_from(orders.len()).unwrap_or(1))) };
        if *order != 0 {
            command.insert("sort", doc! { ID: *order });
        }
        if whole {
            command.insert("projection", doc! { ID: 1 });
        }
        seen.documents(server, collection, command, most).await?;
    }
    let declared = config.types.get(collection.stream.as_str());
    let declared_kind = |name: &str| declared.and_then(|types| types.get(name)).copied();
    let mut columns = Vec::new();
    for (name, seen) in seen.in_order {
        let kind = match (declared_kind(&name), seen.kind()) {
            (Some(kind), _) => Some(kind),
            // A collection without documents: what clients give to the first one.
            (None, None) if name == ID => Some(Kind::ObjectId),
            (None, Some(Kind::Int32)) if name == ID => Some(Kind::Int64),
            (None, kind) => kind,
        };
        columns.extend(kind.map(|kind| Column { name, kind }));
    }
    if whole {
        columns.push(Column { name: DOCUMENT.to_owned(), kind: Kind::Json });
        return Ok(columns);
    }
    for (name, kind) in declared.into_iter().flatten() {
        if !columns.iter().any(|column| column.name == *name) {
            columns.push(Column { name: name.clone(), kind: *kind });
        }
    }
    Ok(columns)
}

/// Fields in the order in which they were first seen.
#[derive(Default)]
struct Fields {
    in_order: Vec<(String, Seen)>,
    places: HashMap<String, usize>,
    bytes: usize,
}

impl Fields {
    fn field(&mut self, name: &str) -> &mut Seen {
        let place = match self.places.get(name) {
            Some(place) => *place,
            None => {
                self.places.insert(name.to_owned(), self.in_order.len());
                self.in_order.push((name.to_owned(), Seen::default()));
                self.in_order.len() - 1
            }
        };
        &mut self.in_order[place].1
    }

    async fn documents(
        &mut self,
        server: &Server,
        collection: &Collection,
        command: bson::Document,
        most: usize,
    ) -> Result<()> {
        let attempted = "cannot take a sample of the collection";
        let batches = server.try_batches(&collection.database, command, None, attempted).await?;
        let mut batches = batches.map_err(|e| faults::error(attempted, e))?;
        let mut looked = 0;
        while let Some(batch) = batches.next().await? {
            for document in batch.doc_slices().map_err(|e| faults::error(attempted, e))? {
                let Some(document) = document.map_err(extended::unreadable)?.as_document() else { continue };
                looked += 1;
                self.bytes += document.as_bytes().len();
                // What cannot be read is found again, and said, where it becomes a row.
                for (name, value) in document.iter().map_while(|member| member.ok()) {
                    if !columns::is_reserved(name.as_str()) && !name.as_str().is_empty() {
                        self.field(name.as_str()).look(value);
                    }
                }
                if self.in_order.len() > MOST_COLUMNS {
                    return Err(Error::new(
                        ErrorKind::LimitExceeded,
                        "documents have more fields than a table may have columns",
                    )
                    .with("stream", &collection.stream)
                    .hint("set `documents: json` of the source, or read it as a source of its own with that setting"));
                }
                if looked >= most || self.bytes >= MOST_BYTES {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// The value of a field in the first document of a short answer.
pub(crate) fn value_of(found: &[RawDocumentBuf], field: &str) -> Result<Option<ingest_core::Json>> {
    let Some(document) = found.first() else { return Ok(None) };
    document.get(field).map_err(extended::unreadable)?.map(extended::key).transpose()
}
