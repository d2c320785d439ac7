//! Pages of a query: lists that no bulk operation reads, and events that say what was deleted.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use ingest_core::json::{Decoder, PageShape};
use ingest_core::{Done, Error, ErrorKind, Out, Result, StreamName, columns};
use ingest_http::{PageGuard, Reply};
use serde::Deserialize;
use serde_json::json;

use crate::Shopify;
use crate::lines::placed;
use crate::state::{Position, Window, place};
use crate::streams::{Origin, find};

/// Places of deletions: behind every line of the same plan.
const LATE: u64 = 1 << 62;

/// Reads the pages behind a cursor.
pub(crate) async fn read(
    shopify: &Shopify,
    work: &Window,
    streams: &[StreamName],
    after: Option<&str>,
    mut rows: u64,
    out: &mut Out<'_, Position>,
) -> Result<Done> {
    let list = find(if work.deleted { "events" } else { &work.list })?;
    let Origin::Pages(name, arguments, field) = list.origin else {
        return Err(Error::unexpected("a list of bulk operations is not read by pages"));
    };
    let query = format!(
        "query($first: Int!, $after: String, $query: String) {{ {name}(first: $first, after: $after, query: $query, \
         {arguments}) {{ nodes {{ {} }} pageInfo {{ hasNextPage endCursor }} }} }}",
        list.selection()
    );
    let mut filter = crate::plan::filter(field, work);
    if work.deleted {
        filter = format!("action:destroy AND {filter}");
    }
    let mut pages = Pages::new(work, streams, name)?;
    let (mut after, mut guard) = (after.map(str::to_owned), PageGuard::new());
    loop {
        let first = shopify.config.page_size;
        let filter = (!filter.is_empty()).then_some(&filter);
        let reply = shopify.api.graphql(&query, json!({"first": first, "after": after, "query": filter})).await?;
        let next = pages.page(&reply, &mut rows, out).await?;
        let Some(next) = next else { return Ok(Done::Complete) };
        guard.next(&next)?;
        out.mark(&Position::Page { at: work.at, after: next.clone(), rows: pages.place(rows) }).await?;
        after = Some(next);
    }
}

struct Pages<'a> {
    work: &'a Window,
    streams: &'a [StreamName],
    name: &'static str,
    decoder: Decoder,
    shape: PageShape,
}

#[derive(Deserialize)]
struct Destroyed<T> {
    data: T,
}

#[derive(Deserialize)]
struct Events {
    events: Nodes,
}

#[derive(Deserialize)]
struct Nodes {
    nodes: Vec<Event>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    #[serde(default)]
    subject_id: Option<String>,
    #[serde(default)]
    subject_type: Option<String>,
}

impl<'a> Pages<'a> {
    fn new(work: &'a Window, streams: &'a [StreamName], name: &'static str) -> Result<Self> {
        let def = find(if work.deleted { "events" } else { &work.list })?;
        let shape = PageShape::at_path(&["data", name, "nodes"])
            .pick_at("more", &["data", name, "pageInfo", "hasNextPage"])
            .pick_at("after", &["data", name, "pageInfo", "endCursor"]);
        Ok(Self { work, streams, name, decoder: Decoder::new(def.schema())?.taking(["__typename"]), shape })
    }

    /// Rows of deletions follow all others of their plan.
    fn place(&self, rows: u64) -> u64 {
        if self.work.deleted { LATE | rows } else { rows }
    }

    /// Gives the rows of a page; the cursor of the next one where there is one.
    async fn page(&mut self, reply: &Reply, rows: &mut u64, out: &mut Out<'_, Position>) -> Result<Option<String>> {
        let envelope = self.decoder.page(reply.body(), &self.shape)?;
        let batch = self.decoder.flush()?;
        let begin = *rows & !LATE;
        *rows = begin + batch.num_rows() as u64;
        if self.work.deleted {
            self.deleted(reply, begin, out).await?;
        } else if let Some(stream) = self.streams.first() {
            let places = (begin + 1..).take(batch.num_rows()).map(|n| place(self.work.at, n).as_str().to_owned());
            out.rows(stream, placed(&batch, places)?).await?;
        }
        match (envelope.flag("more")?.unwrap_or(false), envelope.text("after")?) {
            (false, _) => Ok(None),
            (true, Some(after)) => Ok(Some(after)),
            (true, None) => Err(Error::new(ErrorKind::DataInvalid, "a page says that more follow, and not where")
                .with("list", self.name)),
        }
    }

    /// The objects of the slice's streams that events say were deleted.
    async fn deleted(&self, reply: &Reply, begin: u64, out: &mut Out<'_, Position>) -> Result<()> {
        let events = reply.json::<Destroyed<Events>>()?.data.events.nodes;
        for stream in self.streams {
            let kind = find(stream.as_str())?.deleted;
            let is_one = |event: &&Event| {
                event.subject_type.as_deref().is_some_and(|ty| Some(ty.to_ascii_uppercase().as_str()) == kind)
            };
            let ids: Vec<String> = events.iter().filter(is_one).filter_map(|event| event.subject_id.clone()).collect();
            if ids.is_empty() {
                continue;
            }
            let count = ids.len();
            let fields = vec![Field::new("id", DataType::Utf8, false), columns::field(columns::OP)];
            let ops = std::iter::repeat_n("D", count);
            let arrays: Vec<ArrayRef> =
                vec![Arc::new(StringArray::from(ids)), Arc::new(StringArray::from_iter_values(ops))];
            let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?;
            let places = std::iter::repeat_n(place(self.work.at, LATE | (begin + 1)).as_str().to_owned(), count);
            out.rows(stream, placed(&rows, places)?).await?;
        }
        Ok(())
    }
}
