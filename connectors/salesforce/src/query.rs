//! Pages of a query, in the order of ids: resumable behind any id, also when Salesforce has forgotten the query.

use ingest_core::json::{Decoder, PageShape};
use ingest_core::{Done, Error, ErrorKind, Out, Result};
use ingest_http::{Fetch, PageGuard};

use crate::client::code_of;
use crate::extract::Reading;
use crate::soql;
use crate::state::Position;

/// Reads the rows behind an id. `from`: that id, and the locator of the page that follows it.
pub(crate) async fn read(
    reading: &Reading<'_>,
    from: Option<(&String, &String)>,
    out: &mut Out<'_, Position>,
) -> Result<Done> {
    let api = &reading.salesforce.api;
    let mut decoder = Decoder::new(reading.schema())?.taking(["attributes"]);
    let shape = PageShape::at("records").pick("nextRecordsUrl").pick("done");
    let mut guard = PageGuard::new();
    let mut after = from.map(|(after, _)| after.clone());
    // A query is kept for two days; the id outlives it.
    let mut by_locator = from.is_some();
    let mut fetch = match from {
        Some((_, locator)) => api.start(api.more(locator)?)?,
        None => begin(reading, None)?,
    };
    loop {
        let reply = match fetch.await {
            Ok(reply) => reply,
            Err(error) if by_locator && is_forgotten(&error) => {
                by_locator = false;
                fetch = begin(reading, after.as_deref())?;
                continue;
            }
            Err(error) => return Err(error),
        };
        api.seen(&reply);
        let envelope = decoder.page(reply.body(), &shape)?;
        let next = envelope.text("nextRecordsUrl")?;
        let done = envelope.flag("done")?.unwrap_or(next.is_none());
        if let Some(last) = decoder.last_text("Id") {
            if after.as_deref() == Some(last) {
                return Err(Error::new(ErrorKind::DataInvalid, "the source repeats a page: it would never end"));
            }
            after = Some(last.to_owned());
        }
        let rows = decoder.flush()?;
        let next = match (next, done) {
            (_, true) => {
                reading.give(rows, out).await?;
                return Ok(Done::Complete);
            }
            (None, false) => {
                return Err(Error::new(ErrorKind::DataInvalid, "a page says that more follow, and not where"));
            }
            (Some(next), false) => next,
        };
        guard.next(&next)?;
        let request = api.more(&next)?;
        // The next page travels while this one is written; what it costs is asked before.
        let started = api.start(request);
        reading.give(rows, out).await?;
        if let Some(after) = &after {
            out.mark(&Position::Page { after: after.clone(), locator: next }).await?;
        }
        by_locator = true;
        fetch = started?;
    }
}

fn begin(reading: &Reading<'_>, after: Option<&str>) -> Result<Fetch> {
    let api = &reading.salesforce.api;
    api.start(api.query(&soql::paged(reading.work, after)?, soql::asks_all(reading.work)))
}

/// Whether Salesforce does not know the query of a locator any more.
fn is_forgotten(error: &Error) -> bool {
    error.kind() == ErrorKind::NotFound || code_of(error) == Some("INVALID_QUERY_LOCATOR")
}
