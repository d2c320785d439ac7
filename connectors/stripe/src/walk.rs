//! The walk through a list: newest first, in order, several parts of its window under way at once.
//!
//! A list can only be read from page to page, each asked for by the id of the last object before it; but `created`
//! cuts it into windows that are read at once. How many objects a window holds is not known before, so a walk begins
//! page by page, learns from the pages how much time one covers, and then takes windows of about eight pages ahead. A
//! window that holds less than a page costs a call too many: there are never more windows than full pages so far, so
//! that a walk makes at most twice the calls that its pages need.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use arrow_array::BooleanArray;
use ingest_core::{Error, ErrorKind, Result};
use ingest_http::PageGuard;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::Api;
use crate::pages::{Page, Pages};
use crate::streams::Def;

/// Windows of a walk that are read at once.
const AT_ONCE: usize = 4;

/// Pages of a window, about.
const PAGES_AHEAD: i64 = 8;

/// Pages that are read one after another where the next window is not known yet.
const RUN: usize = 4;

/// Pages of a window that wait to be taken.
const WAITING: usize = 2;

/// How often in a row a list may lose its place without giving a new object.
const LOST_IN_VAIN: u32 = 3;

/// What is read: a list of an account.
#[derive(Clone)]
pub(crate) struct List {
    pub api: Arc<Api>,
    pub def: &'static Def,
    pub account: Option<String>,
    /// See [`Pages::new`].
    pub field: Option<&'static str>,
}

/// A place in a list: after an object.
#[derive(Debug, Clone)]
struct Place {
    id: String,
    created: i64,
    /// The objects of that second that were given, that one included.
    given: HashSet<String>,
}

/// What is not given to any part yet: everything up to `to`, after `after`.
struct Rest {
    to: i64,
    after: Option<Place>,
}

impl Rest {
    /// The second in which it begins.
    fn edge(&self) -> i64 {
        self.after.as_ref().map_or(self.to, |place| place.created)
    }
}

enum Message {
    Page(Page),
    /// The part is read; `Some` = it stopped after its number of pages, and the list goes on there.
    End(Option<Place>),
}

struct Part {
    pages: mpsc::Receiver<Result<Message>>,
    to: i64,
    full: usize,
    /// Whether it has a lower bound of its own.
    window: bool,
}

/// A walk; dropping it gives up what is under way.
pub(crate) struct Walk {
    list: List,
    from: Option<i64>,
    rest: Option<Rest>,
    parts: VecDeque<Part>,
    tasks: JoinSet<()>,
    /// Full pages so far.
    full: usize,
    /// Parts that may end in a page that is not full.
    started: usize,
    /// Seconds that the last full pages covered.
    covered: VecDeque<i64>,
    /// The last window held not even a page: how far the next objects are is open.
    sparse: bool,
    /// An object did not say when it was created: the list cannot be cut by time.
    undated: bool,
}

impl Walk {
    /// A walk through the objects created in `[from, to]`.
    pub fn new(list: List, from: Option<i64>, to: i64) -> Self {
        Self {
            list,
            from,
            rest: Some(Rest { to, after: None }),
            parts: VecDeque::new(),
            tasks: JoinSet::new(),
            full: 0,
            started: 0,
            covered: VecDeque::new(),
            sparse: false,
            undated: false,
        }
    }

    /// The next page that holds anything; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Page>> {
        loop {
            self.start_parts()?;
            let Some(part) = self.parts.front_mut() else { return Ok(None) };
            let message =
                part.pages.recv().await.unwrap_or_else(|| Err(Error::unexpected("a part of a list vanished")));
            match message? {
                Message::Page(page) => {
                    self.undated |= page.objects.iter().any(|object| object.created == 0);
                    if page.more {
                        part.full += 1;
                        self.full += 1;
                        self.learn(&page);
                    }
                    if !page.objects.is_empty() {
                        return Ok(Some(page));
                    }
                }
                Message::End(after) => {
                    self.sparse = part.window && part.full == 0;
                    if after.is_some() {
                        self.rest = Some(Rest { to: part.to, after });
                    }
                    self.parts.pop_front();
                }
            }
        }
    }

    fn learn(&mut self, page: &Page) {
        if let (Some(first), Some(last)) = (page.objects.first(), page.objects.last()) {
            self.covered.push_back((first.created - last.created).max(0));
            if self.covered.len() > PAGES_AHEAD as usize {
                self.covered.pop_front();
            }
        }
    }

    fn start_parts(&mut self) -> Result<()> {
        while let Some(rest) = self.rest.take() {
            let known = self.full >= RUN && !self.sparse && !self.undated;
            if known && self.started + 1 < self.full && self.parts.len() < AT_ONCE {
                let pages = self.covered.len().max(1) as i64;
                let length = (self.covered.iter().sum::<i64>() * PAGES_AHEAD / pages).max(1);
                let from = rest.edge().saturating_sub(length - 1);
                // Nothing was created before 1970, and times below are no times to the server.
                let last = from <= self.from.unwrap_or(0);
                let from = if last { self.from } else { Some(from) };
                self.start(from, rest, None)?;
                self.started += 1;
                if let Some(from) = from.filter(|_| !last) {
                    self.rest = Some(Rest { to: from - 1, after: None });
                }
            } else if self.parts.is_empty() {
                self.started += usize::from(rest.after.is_none());
                self.start(self.from, rest, Some(RUN))?;
                self.sparse = false;
            } else {
                self.rest = Some(rest);
                break;
            }
        }
        Ok(())
    }

    fn start(&mut self, from: Option<i64>, rest: Rest, pages: Option<usize>) -> Result<()> {
        let (send, receive) = mpsc::channel(WAITING);
        let reader = Pages::new(self.list.api.clone(), self.list.def, self.list.account.clone(), self.list.field)?;
        let to = rest.to;
        let part = Reading { list: self.list.clone(), reader, from, to, after: rest.after, pages };
        self.tasks.spawn(async move {
            if let Err(error) = part.run(&send).await {
                // Nobody is there to take it when the walk was given up.
                let _gone = send.send(Err(error)).await;
            }
        });
        // Parts that are done leave their handles here.
        while self.tasks.try_join_next().is_some() {}
        self.parts.push_back(Part { pages: receive, to, full: 0, window: pages.is_none() });
        Ok(())
    }
}

/// A part while it is read.
struct Reading {
    list: List,
    reader: Pages,
    from: Option<i64>,
    to: i64,
    after: Option<Place>,
    /// Stop after so many pages.
    pages: Option<usize>,
}

impl Reading {
    async fn run(mut self, send: &mpsc::Sender<Result<Message>>) -> Result<()> {
        let (mut guard, mut read, mut in_vain) = (PageGuard::new(), 0, 0);
        // Whether the object of the place is still there to be named.
        let mut named = true;
        loop {
            let body = match self.page(named).await {
                Ok(body) => body,
                // The object after which the list should go on was deleted, or is too old to be kept: again from its
                // second on, without what was given.
                Err(error) if error.kind() == ErrorKind::NotFound && named && self.dated() => {
                    in_vain += 1;
                    if in_vain > LOST_IN_VAIN {
                        return Err(error.hint("the list loses its place again and again; run once more"));
                    }
                    named = false;
                    guard = PageGuard::new();
                    continue;
                }
                Err(error) => return Err(error.with("stream", self.list.def.name)),
            };
            let page = self.reader.page(&body).await?;
            let next = self.place_after(&page);
            let page = if named { page } else { self.without_given(page)? };
            let more = page.more && next.is_some();
            if !page.objects.is_empty() {
                in_vain = 0;
            }
            if send.send(Ok(Message::Page(page))).await.is_err() {
                return Ok(());
            }
            (named, read) = (true, read + 1);
            if let Some(next) = next {
                if more {
                    guard.next(&next.id)?;
                }
                self.after = Some(next);
            }
            if !more || self.pages == Some(read) {
                let rest = if more { self.after } else { None };
                let _gone = send.send(Ok(Message::End(rest))).await;
                return Ok(());
            }
        }
    }

    async fn page(&self, named: bool) -> Result<bytes::Bytes> {
        let List { api, def, account, .. } = &self.list;
        let mut query: Vec<(&str, String)> =
            def.query.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        if let Some(from) = self.from {
            query.push(("created[gte]", from.to_string()));
        }
        match &self.after {
            Some(place) if named => {
                query.push(("created[lte]", self.to.to_string()));
                query.push(("starting_after", place.id.clone()));
            }
            Some(place) => query.push(("created[lte]", place.created.to_string())),
            None => query.push(("created[lte]", self.to.to_string())),
        }
        api.list(account.as_deref(), def.path, def.path, &query).await
    }

    /// Whether the part stands after an object whose second is known.
    fn dated(&self) -> bool {
        self.after.as_ref().is_some_and(|place| place.created != 0)
    }

    /// The place after a page; `None` for an empty one.
    fn place_after(&self, page: &Page) -> Option<Place> {
        let last = page.objects.last()?;
        let mut given: HashSet<String> = page
            .objects
            .iter()
            .filter(|object| object.created == last.created)
            .map(|object| object.id.clone())
            .collect();
        if let Some(before) = self.after.as_ref().filter(|before| before.created == last.created) {
            given.extend(before.given.iter().cloned());
        }
        Some(Place { id: last.id.clone(), created: last.created, given })
    }

    fn without_given(&self, page: Page) -> Result<Page> {
        let Some(place) = &self.after else { return Ok(page) };
        let new: Vec<bool> = page.objects.iter().map(|object| !place.given.contains(&object.id)).collect();
        let rows = arrow_select::filter::filter_record_batch(&page.rows, &BooleanArray::from(new.clone()))?;
        let objects = page.objects.into_iter().zip(new).filter_map(|(object, new)| new.then_some(object)).collect();
        Ok(Page { objects, rows, more: page.more })
    }
}
