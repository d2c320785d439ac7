//! The change stream of a database or a cluster as a feed of many collections.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_schema::Schema;
use bson::raw::{RawBsonRef, RawDocument};
use bson::{Bson, Document, doc};
use ingest_core::{BadRecord, Done, Error, ErrorKind, Json, Out, Region, Result, Seq, StreamName};

use super::event::{Event, Happened, time_of};
use crate::catalog::Collection;
use crate::config::{BeforeChange, FullDocument};
use crate::rows::{Change, Column, Layout, Rows};
use crate::server::{Server, timestamp};
use crate::work::{FeedPosition, Position};
use crate::{extended, faults};

const ATTEMPTED: &str = "cdc: cannot read the change stream";
/// The server waits so long for a change before it gives an empty batch.
const WAIT: Duration = Duration::from_millis(500);
/// Rows wait so long at most while more keep coming.
const OLDEST: Duration = Duration::from_secs(1);
/// Without rows the place is noted so often: a token that nobody renews falls out of the oplog, although nothing changed.
const BEAT: Duration = Duration::from_secs(10);

/// What is to be read.
pub(crate) struct Asked<'a> {
    pub(crate) server: &'a Server,
    pub(crate) collections: Vec<Wanted>,
    pub(crate) layout: Layout,
    pub(crate) from: &'a FeedPosition,
}

/// A collection, and which of its columns are wanted.
pub(crate) struct Wanted {
    pub(crate) collection: Arc<Collection>,
    pub(crate) columns: Vec<Column>,
    /// Only some of its columns.
    pub(crate) some: bool,
    /// The columns are others than those that the stream was described with.
    pub(crate) fresh: bool,
}

/// Reads from a place on: to the end that the log has now, or for ever.
pub(crate) async fn follow(asked: Asked<'_>, out: &mut Out<'_, Position>) -> Result<Done> {
    let server = asked.server;
    let head = if out.follow() { None } else { Some(server.time().await?) };
    let command = command(server, &asked.collections, asked.from)?;
    let opened = server.try_batches(super::watched(server), command, Some(WAIT), ATTEMPTED).await?;
    let mut batches = opened.map_err(|e| faults::error(ATTEMPTED, e))?;
    let mut feed = Feed::new(&asked)?;
    feed.announce(&asked.collections, out).await?;
    // The first answer is that the stream is open, and need not hold what is there already.
    let (mut opening, mut before) = (true, None);
    while let Some(batch) = batches.next().await? {
        let mut empty = true;
        for event in batch.doc_slices().map_err(|e| faults::error(ATTEMPTED, e))? {
            empty = false;
            let event = event.map_err(extended::unreadable)?.as_document().ok_or_else(no_event)?;
            feed.event(event, out).await?;
        }
        if empty && !std::mem::take(&mut opening) {
            let token = token_of(batch.as_raw_document())?;
            let over = head.is_some_and(|head| match &token {
                Some(token) => time_of(token).is_none_or(|time| time >= head) || before == Some(token.clone()),
                None => true,
            });
            feed.idle(token.clone(), over, out).await?;
            if over {
                return Ok(Done::CaughtUp);
            }
            before = token;
        }
        opening = false;
    }
    // The server has ended the stream, after `invalidate`: the next one starts behind it.
    feed.idle(None, true, out).await?;
    Ok(Done::CaughtUp)
}

/// The token of a batch: all before it was seen, also where nothing of it matched.
fn token_of(reply: &RawDocument) -> Result<Option<Json>> {
    let token = reply.get_document("cursor").and_then(|cursor| cursor.get_document("postBatchResumeToken"));
    token.ok().map(|token| extended::json(RawBsonRef::Document(token))).transpose()
}

/// Opens the stream. `startAfter` takes every token, that of `invalidate` too.
fn command(server: &Server, wanted: &[Wanted], from: &FeedPosition) -> Result<Document> {
    let config = &server.settings().config;
    let mut stream = doc! { "fullDocument": match config.full_document {
        FullDocument::UpdateLookup => "updateLookup",
        FullDocument::Required => "required",
    } };
    match config.full_document_before_change {
        BeforeChange::Off => {}
        BeforeChange::WhenAvailable => drop(stream.insert("fullDocumentBeforeChange", "whenAvailable")),
        BeforeChange::Required => drop(stream.insert("fullDocumentBeforeChange", "required")),
    }
    match &from.token {
        Some(token) => stream.insert("startAfter", extended::value(token)?),
        None => stream.insert("startAtOperationTime", timestamp(from.time + 1)),
    };
    if server.settings().database.is_none() {
        stream.insert("allChangesForCluster", true);
    }
    let mut databases: std::collections::BTreeMap<&str, Vec<&str>> = std::collections::BTreeMap::new();
    for wanted in wanted {
        databases.entry(&wanted.collection.database).or_default().push(&wanted.collection.name);
    }
    let mut concerned = vec![doc! { "operationType": { "$in": ["invalidate", "dropDatabase"] } }];
    for (database, names) in databases {
        concerned.push(doc! { "ns.db": database, "ns.coll": { "$in": &names } });
        concerned.push(doc! { "to.db": database, "to.coll": { "$in": &names } });
    }
    let pipeline: Vec<Bson> = vec![
        doc! { "$changeStream": stream }.into(),
        doc! { "$match": { "$or": concerned } }.into(),
        // It may be as large as the document, and an event has the limit of a document.
        doc! { "$project": { "updateDescription": 0 } }.into(),
    ];
    Ok(doc! { "aggregate": 1, "pipeline": pipeline, "cursor": {} })
}

struct Feed {
    captured: Vec<Captured>,
    places: HashMap<(String, String), usize>,
    /// The place behind the last time that is over.
    at: FeedPosition,
    /// The place that was marked last.
    marked: FeedPosition,
    /// The time whose changes are being read.
    open: Option<Moment>,
    flushed: Instant,
}

struct Captured {
    stream: StreamName,
    rows: Rows,
}

/// The changes of one time of the cluster. A transaction has one time; so may have others.
struct Moment {
    time: u64,
    token: Json,
    /// How many rows it has given.
    rows: u64,
}

impl Feed {
    fn new(asked: &Asked<'_>) -> Result<Self> {
        let mut captured = Vec::new();
        let mut places = HashMap::new();
        for wanted in &asked.collections {
            let collection = &wanted.collection;
            places.insert((collection.database.clone(), collection.name.clone()), captured.len());
            let layout = if wanted.some && asked.layout == Layout::Fields { Layout::Some } else { asked.layout };
            captured.push(Captured {
                stream: collection.stream.clone(),
                rows: Rows::new(wanted.columns.clone(), layout, true)?,
            });
        }
        let (at, marked) = (asked.from.clone(), asked.from.clone());
        Ok(Self { captured, places, at, marked, open: None, flushed: Instant::now() })
    }

    /// Says what the rows look like, where that was not said before.
    async fn announce(&self, wanted: &[Wanted], out: &mut Out<'_, Position>) -> Result<()> {
        for wanted in wanted.iter().filter(|wanted| wanted.fresh) {
            let fields: Vec<_> = wanted.columns.iter().map(Column::field).collect();
            out.schema(&wanted.collection.stream, Arc::new(Schema::new(fields))).await?;
        }
        Ok(())
    }

    async fn event(&mut self, event: &RawDocument, out: &mut Out<'_, Position>) -> Result<()> {
        let event = Event::parse(event)?;
        self.reach(&event, out).await?;
        let place = event.place.and_then(|place| self.place(place));
        match (event.happened, place) {
            (Happened::Renamed, _) => self.expect_elsewhere(&event)?,
            (Happened::Inserted | Happened::Updated | Happened::Deleted, Some(place)) => {
                self.row(place, &event, out).await?;
            }
            (Happened::Dropped, Some(place)) => {
                let seq = self.number();
                let captured = &mut self.captured[place];
                give(captured, out).await?;
                out.remove_at(&captured.stream, Region::All, seq).await?;
                let text = "the collection was dropped: its rows are removed, and what is written to a new one of its name comes";
                out.warn(Some(&captured.stream), text).await?;
            }
            (Happened::Invalidated | Happened::Other, _) | (_, None) => {}
        }
        let bytes: usize = self.captured.iter().map(|captured| captured.rows.bytes()).sum();
        if bytes >= out.batch_bytes() {
            self.give_all(out).await?;
        }
        Ok(())
    }

    /// Comes to the time of an event. With a new one, all before is over: a restart there is safe.
    async fn reach(&mut self, event: &Event<'_>, out: &mut Out<'_, Position>) -> Result<()> {
        let token = extended::json(RawBsonRef::Document(event.token))?;
        match &mut self.open {
            Some(open) if open.time == event.time => open.token = token,
            _ => {
                self.close();
                if self.flushed.elapsed() >= OLDEST {
                    self.flush(out).await?;
                }
                self.open = Some(Moment { time: event.time, token, rows: 0 });
            }
        }
        Ok(())
    }

    /// The time that is being read is over.
    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.at = self.at.behind(open.time, open.token);
        }
    }

    fn place(&self, (database, collection): (&str, &str)) -> Option<usize> {
        self.places.get(&(database.to_owned(), collection.to_owned())).copied()
    }

    /// The place of the next row in the order.
    fn number(&mut self) -> Seq {
        let open = self.open.as_mut().map(|open| {
            open.rows += 1;
            (open.time, open.rows)
        });
        let (time, row) = open.unwrap_or((self.at.time, 0));
        Seq::of(&[time, row])
    }

    async fn row(&mut self, place: usize, event: &Event<'_>, out: &mut Out<'_, Position>) -> Result<()> {
        let lacks = |what| {
            Error::new(ErrorKind::DataInvalid, "cdc: the server gives an event that lacks a part").with("part", what)
        };
        let (op, document, partial) = match (event.happened, event.document, event.before) {
            (Happened::Inserted, Some(document), _) => ("I", document, false),
            (Happened::Inserted, None, _) => return Err(lacks("fullDocument")),
            (Happened::Deleted, _, Some(before)) => ("D", before, false),
            (Happened::Deleted, _, None) => ("D", event.key.ok_or_else(|| lacks("documentKey"))?, true),
            (_, Some(document), _) => ("U", document, false),
            // Deleted before it was looked up: that comes as an event of its own.
            (_, None, _) => return Ok(()),
        };
        let seq = self.number();
        let captured = &mut self.captured[place];
        match captured.rows.push(document, Some(Change { op, seq: seq.as_str(), partial })) {
            Err(error) if error.kind() == ErrorKind::DataInvalid => {
                let bad = BadRecord { reason: error.to_string(), record: crate::extract::shown(document.as_bytes()) };
                out.quarantine(&captured.stream, bad).await
            }
            other => other.map_err(|error| error.with("stream", &captured.stream)),
        }
    }

    /// Neither the documents of another collection that takes a name nor the place of one that leaves it are in the stream.
    fn expect_elsewhere(&self, event: &Event<'_>) -> Result<()> {
        let names = [event.place, event.to];
        let concerned = names.into_iter().flatten().find_map(|name| self.place(name));
        concerned.map_or(Ok(()), |place| {
            Err(Error::new(
                ErrorKind::CheckpointInvalid,
                "cdc: a collection was renamed, from or to a name that is captured",
            )
            .with("stream", &self.captured[place].stream)
            .hint("`ingest run --resync STREAM` loads the stream again; or leave it out"))
        })
    }

    /// Nothing more comes now: what was read is over. `noted`: the place is kept, whatever came.
    async fn idle(&mut self, token: Option<Json>, noted: bool, out: &mut Out<'_, Position>) -> Result<()> {
        let came = self.open.is_some();
        self.close();
        if let Some(token) = token.filter(|token| self.at.token.as_ref() != Some(token)) {
            let due = came || noted || self.flushed.elapsed() >= BEAT;
            if due {
                self.at = self.at.on(token);
            }
        }
        self.flush(out).await
    }

    /// Gives out what waits, and marks the place behind it.
    async fn flush(&mut self, out: &mut Out<'_, Position>) -> Result<()> {
        self.give_all(out).await?;
        if self.at != self.marked {
            out.mark(&Position::Feed(self.at.clone())).await?;
            self.marked = self.at.clone();
            self.flushed = Instant::now();
        }
        Ok(())
    }

    async fn give_all(&mut self, out: &mut Out<'_, Position>) -> Result<()> {
        for captured in &mut self.captured {
            give(captured, out).await?;
        }
        Ok(())
    }
}

async fn give(captured: &mut Captured, out: &mut Out<'_, Position>) -> Result<()> {
    match captured.rows.finish()? {
        Some(batch) => out.rows(&captured.stream, batch).await,
        None => Ok(()),
    }
}

fn no_event() -> Error {
    Error::new(ErrorKind::DataInvalid, ATTEMPTED).hint("the server gives something that is no event")
}
