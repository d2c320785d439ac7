//! Records that events name without carrying them: they are read again by queries, as they are now.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Field, Schema};
use ingest_core::json::{Decoder, PageShape};
use ingest_core::{Error, ErrorKind, Result};
use ingest_http::PageGuard;
use serde::Deserialize;

use crate::client::Api;
use crate::soql;
use crate::state::{Which, Work};

/// Bytes of a query in a URL, encoded.
const QUERY_BYTES: usize = 12_000;
/// Bytes of an id in it, with its quotes and a comma.
const ID_BYTES: usize = 30;
/// Records of one query.
const RECORDS: usize = 200;

/// Reads records by their ids. One that is not there any more is left out: that it is gone is an event of its own, which comes.
pub(crate) async fn read(api: &Api, work: &Work, ids: &BTreeSet<String>) -> Result<Vec<RecordBatch>> {
    let columns = soql::selected(work);
    let names = columns.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(",");
    let live = if work.which == Which::Archived { "IsDeleted = FALSE AND " } else { "" };
    let head = format!("SELECT {names} FROM {} WHERE {live}Id IN ", work.object);
    let encoded = head.bytes().map(|b| if b.is_ascii_alphanumeric() { 1 } else { 3 }).sum::<usize>();
    let room = QUERY_BYTES.saturating_sub(encoded) / ID_BYTES;
    if room == 0 {
        return Err(Error::new(ErrorKind::LimitExceeded, "cdc: the object has more fields than a query can name")
            .with("fields", columns.len())
            .hint("name the columns that are needed in `columns`"));
    }
    let fields = columns.iter().map(|(name, ty)| Field::new(name, ty.clone(), name != "Id"));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let ids: Vec<&String> = ids.iter().collect();
    let mut batches = Vec::new();
    for some in ids.chunks(room.min(RECORDS)) {
        let list = some.iter().map(|id| literal(id)).collect::<Result<Vec<_>>>()?.join(",");
        let mut decoder = Decoder::new(schema.clone())?.taking(["attributes"]);
        let mut request = api.query(&format!("{head}({list})"), soql::asks_all(work));
        let shape = PageShape::at("records").pick("nextRecordsUrl");
        let mut guard = PageGuard::new();
        loop {
            let envelope = decoder.page(api.sent(request).await?.body(), &shape)?;
            let Some(next) = envelope.text("nextRecordsUrl")? else { break };
            guard.next(&next)?;
            request = api.more(&next)?;
        }
        batches.push(decoder.flush()?);
    }
    Ok(batches)
}

fn literal(id: &str) -> Result<String> {
    match !id.is_empty() && id.len() <= 18 && id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        true => Ok(format!("'{id}'")),
        false => Err(Error::new(ErrorKind::DataInvalid, "cdc: an event names a record by something that is no id")),
    }
}

/// The id and the name of the org.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Org {
    id: String,
}

#[derive(Deserialize)]
struct Orgs {
    records: Vec<Org>,
}

impl Api {
    /// The id of the org.
    pub async fn org(&self) -> Result<String> {
        let orgs: Orgs = self.sent(self.query("SELECT Id FROM Organization", false)).await?.json()?;
        let id = orgs.records.into_iter().next().map(|org| org.id);
        id.ok_or_else(|| Error::new(ErrorKind::DataInvalid, "cdc: the org does not say which one it is"))
    }
}
