//! The walk through the pages of one list: the next page travels while this one is handed on.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use ingest_core::json::Decoder;
use ingest_core::{Error, ErrorKind, Result};
use ingest_http::{Fetch, PageGuard, Reply};

use crate::client::{Api, Ask};
use crate::pages::{self, Said, literal};
use crate::rows::Filter;
use crate::state::{Next, ParentRow};
use crate::streams::{Def, Records, Style, takes};

/// A page.
pub(crate) struct Page {
    pub rows: RecordBatch,
    /// Rows that were left out because their cursor is null.
    pub undated: usize,
    /// What is asked for next; `None` = this was the last page.
    pub next: Option<Next>,
}

/// A walk; dropping it gives up what is under way.
pub(crate) struct Walk {
    api: Arc<Api>,
    def: Arc<Def>,
    ask: Ask,
    decoder: Decoder,
    filter: Option<Filter>,
    fetch: Option<Fetch>,
    /// What the page under way was asked for by.
    asked: Option<Next>,
    /// It was asked for by a position: what was valid then may not be so any more.
    resumed: bool,
    guard: PageGuard,
    /// The field of the records whose text is wanted: the next token, or what tells one page from another.
    wanted: Option<String>,
    /// Pages by offset begin with the last record of the page before: a list that shifts while it is read is found.
    overlap: bool,
    /// The first and the last key of the page before, where pages are asked for by a count.
    ends: Option<(String, String)>,
    read: usize,
}

/// A window of a list's cursor: lower bound inclusive, upper bound exclusive, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub from: Option<i64>,
    pub to: Option<i64>,
}

/// What the first page of a list is asked for by.
pub(crate) fn ask(def: &Def, bounds: Bounds, parent: Option<&ParentRow>) -> Result<Ask> {
    let parent: BTreeMap<String, String> =
        parent.into_iter().flatten().filter_map(|(column, raw)| Some((column.clone(), literal(raw)?))).collect();
    let mut query = Vec::new();
    for (name, value) in &def.parameters {
        query.push((name.clone(), value.text(&parent)?));
    }
    if let Some((Some(name), records)) = &def.size {
        query.push((name.clone(), records.to_string()));
    }
    if let Some(window) = &def.window {
        if let (Some(name), Some(from)) = (&window.from, bounds.from) {
            let from = if window.from_is_exclusive { from.saturating_sub(window.format.unit()) } else { from };
            query.push((name.clone(), window.format.write(from)?));
        }
        if let (Some(name), Some(to)) = (&window.to, bounds.to) {
            query.push((name.clone(), window.format.write(to)?));
        }
    }
    let mut headers = Vec::new();
    for (name, value) in &def.headers {
        headers.push((name.clone(), value.text(&parent)?));
    }
    Ok(Ask { path: def.path.path(&parent)?, label: format!("GET {}", def.path.label()), query, headers })
}

impl Walk {
    /// Begins at a page and asks for it at once.
    pub fn start(
        api: &Arc<Api>,
        def: &Arc<Def>,
        ask: Ask,
        schema: SchemaRef,
        bounds: Bounds,
        page: Option<Next>,
    ) -> Result<Self> {
        let filter = Filter::new(def, &schema, bounds)?;
        let decoder = Decoder::new(schema)?.with_limits(def.limits);
        let resumed = page.is_some();
        let wanted = def.lead().filter(|lead| decoder.schema().fields().iter().any(|field| takes(field) == *lead));
        let wanted = wanted.map(str::to_owned);
        let overlap = wanted.is_some() && matches!(def.pages, Style::Offset { overlap: true, .. });
        let fetch = api.request(def, &ask, page.as_ref()).start();
        Ok(Self {
            api: api.clone(),
            def: def.clone(),
            ask,
            decoder,
            filter,
            fetch: Some(fetch),
            asked: page,
            resumed,
            guard: PageGuard::with_limit(def.most_pages),
            wanted,
            overlap,
            ends: None,
            read: 0,
        })
    }

    /// The next page; `None` after the last one.
    pub async fn next(&mut self) -> Result<Option<Page>> {
        let Some(fetch) = self.fetch.take() else { return Ok(None) };
        let reply = fetch.await.map_err(|error| self.tell(self.lost(error)))?;
        self.api.compare_clocks(&reply);
        let page = self.page(&reply).map_err(|error| self.tell(error))?;
        self.read += 1;
        if let Some(next) = &page.next {
            let sent = match next {
                Next::Number(number) if self.overlap => &Next::Number(number.saturating_sub(1)),
                next => next,
            };
            self.fetch = Some(self.api.request(&self.def, &self.ask, Some(sent)).start());
        }
        self.asked = page.next.clone();
        Ok(Some(page))
    }

    /// Whether no page has come yet.
    pub fn at_start(&self) -> bool {
        self.read == 0
    }

    fn page(&mut self, reply: &Reply) -> Result<Page> {
        let wanted = self.wanted.take();
        let (mut first, mut last) = (None, String::new());
        let mut held = false;
        let look = |record: &ingest_core::json::Record<'_, '_>| {
            let Some(wanted) = &wanted else { return Ok(()) };
            last.clear();
            let raw = record.raw(wanted);
            held = raw.is_some();
            last.push_str(raw.unwrap_or_default());
            if first.is_none() {
                first = Some(last.clone());
            }
            Ok(())
        };
        let (envelope, records) = match &self.def.records {
            Records::One => {
                self.decoder.object_with(reply.body(), look)?;
                (None, 1)
            }
            Records::List(shape) => {
                let envelope = self.decoder.page_with(reply.body(), shape, look)?;
                let records = envelope.records;
                (Some(envelope), records)
            }
        };
        self.wanted = wanted;
        // The first page of a walk was asked for as it stands.
        let again = usize::from(self.overlap && self.read > 0);
        self.compare(first, &last, again > 0)?;
        let (came, records) = (records, records.saturating_sub(again));
        let said = Said {
            envelope: envelope.as_ref(),
            records,
            came,
            link: reply.next_link(),
            last: held.then_some(last.as_str()),
            asked: self.asked.as_ref(),
        };
        let mut next = pages::after(&self.def, &said)?;
        if let Some(Next::Link(link)) = &mut next {
            *link = self.api.link(reply, link)?;
        }
        let rows = self.decoder.flush()?;
        let rows = rows.slice(again.min(rows.num_rows()), records);
        let (rows, undated, over) = match &mut self.filter {
            Some(filter) => filter.apply(rows)?,
            None => (rows, 0, false),
        };
        let next = next.filter(|_| !over);
        match &next {
            Some(Next::Token(text) | Next::Link(text)) => self.guard.next(text)?,
            Some(Next::Number(number)) => self.guard.next(&number.to_string())?,
            None => {}
        }
        Ok(Page { rows, undated, next })
    }

    /// Compares a page with the one before, where pages are asked for by a count: finds a server that gives one page for
    /// ever, and a list that shifted, so that records were passed over.
    fn compare(&mut self, first: Option<String>, last: &str, again: bool) -> Result<()> {
        let counted = matches!(self.def.pages, Style::Offset { .. } | Style::Number { .. });
        if !counted || self.wanted.is_none() {
            return Ok(());
        }
        let before = self.ends.take();
        let ends = first.filter(|first| !first.is_empty()).map(|first| (first, last.to_owned()));
        let one = ends.as_ref().is_some_and(|(first, last)| first == last);
        if ends.is_some() && before == ends && !(again && one) {
            return Err(Error::new(ErrorKind::DataInvalid, "the source repeats a page: it would never end")
                .hint("the parameter in `pages` may not be the one that the API reads"));
        }
        if again && before.as_ref().map(|(_, last)| last) != ends.as_ref().map(|(first, _)| first) {
            return Err(Error::new(ErrorKind::Unavailable, "a list shifted while it was read").hint(
                "records were added or taken away before the page under way; the list is read again. Sort it so that                  records keep their places, or say `overlap: false` to take the loss",
            ));
        }
        self.ends = ends;
        Ok(())
    }

    /// A page that a position names may be gone: the list is read again.
    fn lost(&self, error: Error) -> Error {
        let refused = matches!(error.kind(), ErrorKind::DataInvalid | ErrorKind::NotFound);
        let by_status = error.context().iter().any(|(key, value)| *key == "status" && value.starts_with('4'));
        if self.resumed && self.read == 0 && refused && by_status {
            return error
                .of_kind(ErrorKind::SliceExpired)
                .hint("the page at which the last run stopped is gone; the list is read again from its beginning");
        }
        error
    }

    fn tell(&self, error: Error) -> Error {
        error.with("stream", &self.def.name).with("page", self.read + 1)
    }
}
