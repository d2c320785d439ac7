//! The change events of an object as a feed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{Field, Schema};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use ingest_core::{BadRecord, Done, Error, ErrorKind, Out, Result, Seq, StreamName, columns};

use super::event::{Change, Event};
use super::proto::{ConsumerEvent, FetchResponse};
use super::pubsub::{Client, From, WINDOW, more};
use super::reread;
use super::rows::Rows;
use crate::Salesforce;
use crate::state::{Position, Work};

/// Rows wait so long at most while more keep coming.
const OLDEST: Duration = Duration::from_secs(1);
/// A topic without events says so every 270 seconds; one that is silent for longer is gone.
const SILENCE: Duration = Duration::from_secs(330);
/// Events that are left of those that were asked for when more are.
const LOW: i32 = 50;

/// A place among the events of a topic, and in the order of the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct At {
    /// The last event; `None` before the first one.
    replay: Option<Vec<u8>>,
    /// The highest commit time so far, in milliseconds since 1970.
    time: i64,
    /// Rows of that time so far.
    rows: u64,
    /// What was committed before is in the load: milliseconds since 1970, while `replay` is `None`.
    since: i64,
}

impl At {
    fn read(position: &Position, stream: &StreamName) -> Result<Self> {
        let Position::Feed { replay, time, rows, since } = position else {
            return Err(crate::extract::foreign(stream));
        };
        let replay = replay.as_ref().map(|text| BASE64.decode(text)).transpose();
        let replay = replay.map_err(|_| crate::extract::foreign(stream))?;
        Ok(Self { replay, time: *time, rows: *rows, since: *since })
    }

    fn position(&self) -> Position {
        let replay = self.replay.as_ref().map(|id| BASE64.encode(id));
        let since = if replay.is_some() { 0 } else { self.since };
        Position::Feed { replay, time: self.time, rows: self.rows, since }
    }

    /// The place of the next row in the order: behind a row that was loaded with the same time.
    fn next(&mut self) -> Seq {
        self.rows += 1;
        Seq::of(&[u64::try_from(self.time).unwrap_or(0).saturating_mul(1_000), (1 << 63) + self.rows])
    }

    /// Commits of several servers need not come in the order of their clocks; the order that they come in counts.
    fn reach(&mut self, time: i64) {
        if time > self.time {
            (self.time, self.rows) = (time, 0);
        }
    }
}

/// Reads the changes from a place on: up to those that are there now, or for ever.
pub(crate) async fn follow(
    salesforce: &Salesforce,
    work: &Work,
    topic: &str,
    stream: &StreamName,
    from: Option<&Position>,
    out: &mut Out<'_, Position>,
) -> Result<Done> {
    let from = from.ok_or_else(|| Error::unexpected("changes are followed from nowhere"))?;
    let object = salesforce.object(&work.object).await?;
    let at = At::read(from, stream)?;
    let mut feed = Feed {
        salesforce,
        work,
        topic,
        stream,
        rows: Rows::new(object, work.columns.clone())?,
        marked: at.clone(),
        at,
        reread: BTreeSet::new(),
        whole: Vec::new(),
        flushed: Instant::now(),
        until: salesforce.api.now().div_euclid(1_000),
        head: None,
        came: 0,
    };
    let mut client = salesforce.pubsub.connect(&salesforce.api, None).await?;
    let mut known = None;
    loop {
        let refused = match feed.read(&client, out).await {
            Err(error) if error.kind() == ErrorKind::Unauthenticated => error,
            done => return done,
        };
        // Sessions end while a stream is open. One that is refused before anything came is refused for good.
        if known == Some(feed.came) {
            return Err(refused);
        }
        known = Some(feed.came);
        client = salesforce.pubsub.connect(&salesforce.api, Some(&client.session)).await?;
    }
}

struct Feed<'a> {
    salesforce: &'a Salesforce,
    work: &'a Work,
    topic: &'a str,
    stream: &'a StreamName,
    rows: Rows,
    at: At,
    marked: At,
    /// Records that the events of an answer do not carry.
    reread: BTreeSet<String>,
    /// Those that were read again.
    whole: Vec<RecordBatch>,
    flushed: Instant,
    /// The time at which the run began, in milliseconds since 1970.
    until: i64,
    /// The last event when the run began.
    head: Option<Vec<u8>>,
    /// Answers so far.
    came: u64,
}

impl Feed<'_> {
    async fn read(&mut self, client: &Client, out: &mut Out<'_, Position>) -> Result<Done> {
        let from = self.at.replay.clone();
        let from = from.as_deref().map_or(From::First, From::Behind);
        let (mut events, mut owed) = (client.subscribe(self.topic, from, WINDOW).await?, WINDOW);
        let quiet = if out.follow() { SILENCE } else { self.salesforce.config.quiet.0 };
        loop {
            let Ok(answer) = tokio::time::timeout(quiet, events.next()).await else {
                self.flush(out).await?;
                return match out.follow() {
                    true => Err(Error::new(ErrorKind::Unavailable, "cdc: the Pub/Sub API has fallen silent")),
                    false => Ok(Done::CaughtUp),
                };
            };
            let Some(answer) = answer? else {
                self.flush(out).await?;
                return Err(Error::new(ErrorKind::Unavailable, "cdc: the Pub/Sub API has ended the stream"));
            };
            owed -= i32::try_from(answer.events.len()).unwrap_or(i32::MAX);
            if self.answer(client, answer, out).await? && !out.follow() {
                self.flush(out).await?;
                return Ok(Done::CaughtUp);
            }
            // Counted here: what the server says may be older than our last request.
            if owed <= LOW {
                more(&mut events, WINDOW - owed.max(0))?;
                owed = WINDOW;
            }
        }
    }

    /// Takes an answer in. Whether the end is reached that there was when the run began.
    async fn answer(&mut self, client: &Client, answer: FetchResponse, out: &mut Out<'_, Position>) -> Result<bool> {
        self.came += 1;
        // An empty answer says that there is nothing more only while more was asked for.
        let mut is_over = answer.events.is_empty() && answer.pending_num_requested > 0;
        if is_over && !answer.latest_replay_id.is_empty() {
            // Without it the place of a quiet topic would grow old.
            self.at.replay = Some(answer.latest_replay_id.clone());
        }
        let head = self.head.get_or_insert(answer.latest_replay_id).clone();
        for event in &answer.events {
            is_over |= self.event(client, event, out).await?;
            is_over |= !head.is_empty() && event.replay_id == head;
        }
        self.read_again().await?;
        let bytes = self.rows.bytes() + self.whole.iter().map(RecordBatch::get_array_memory_size).sum::<usize>();
        if bytes >= out.batch_bytes() || self.flushed.elapsed() >= OLDEST {
            self.flush(out).await?;
        }
        Ok(is_over)
    }

    /// Takes an event in. Whether it was committed after the run began.
    async fn event(&mut self, client: &Client, event: &ConsumerEvent, out: &mut Out<'_, Position>) -> Result<bool> {
        let produced = event.event.as_ref();
        let produced = produced.ok_or_else(|| Error::new(ErrorKind::DataInvalid, "cdc: an event is empty"))?;
        let schema = self.salesforce.pubsub.schema(client, &produced.schema_id).await?;
        let read = Event::read(&schema, &produced.payload);
        let is_old = self.at.since > 0 && read.as_ref().is_ok_and(|event| event.at < self.at.since);
        let mut is_late = false;
        match read {
            Ok(read) if !is_old => {
                is_late = read.at >= self.until;
                self.at.reach(read.at);
                self.change(&read)?;
            }
            Ok(_) => {}
            Err(error) => {
                // Its bytes say nothing to a person.
                let bad = BadRecord { reason: format!("{error}"), record: BASE64.encode(&event.replay_id) };
                out.quarantine(self.stream, bad).await?;
            }
        }
        self.at.replay = Some(event.replay_id.clone());
        Ok(is_late)
    }

    fn change(&mut self, event: &Event) -> Result<()> {
        let is_new = matches!(event.change, Change::Create | Change::Undelete);
        // A compound name is made by the org's rules, and formulas by their own: of a new row, both are asked for.
        let renamed =
            event.values.iter().any(|value| value.outer.as_deref() == Some("Name")) && self.rows.wants("Name");
        let is_whole = !(event.has_differences || renamed || is_new && self.rows.lacks(&event.values));
        let op = match event.change {
            Change::Delete => "D",
            Change::Overflow => {
                return Err(Error::new(
                    ErrorKind::CheckpointInvalid,
                    "cdc: so much changed at once that the source does not name the records",
                )
                .hint("load the stream again with `ingest run --resync STREAM`"));
            }
            Change::Create | Change::Undelete if is_whole => "I",
            Change::Update if is_whole => "U",
            Change::Create | Change::Update | Change::Undelete | Change::Gap => {
                self.reread.extend(event.ids.iter().cloned());
                return Ok(());
            }
        };
        let values = if event.change == Change::Delete { &[][..] } else { &event.values };
        for id in &event.ids {
            // What is read again is read later, and holds whatever happens to it here.
            if op == "D" {
                self.reread.remove(id);
            }
            let seq = self.at.next();
            self.rows.push(op, seq, id, values)?;
        }
        Ok(())
    }

    /// Reads records again that the events of an answer name without carrying them.
    async fn read_again(&mut self) -> Result<()> {
        if self.reread.is_empty() {
            return Ok(());
        }
        let ids = std::mem::take(&mut self.reread);
        for records in reread::read(&self.salesforce.api, self.work, &ids).await? {
            let places: Vec<Seq> = (0..records.num_rows()).map(|_| self.at.next()).collect();
            self.whole.push(self.dressed(&records, &places)?);
        }
        Ok(())
    }

    /// Records with their places in the order; columns that nobody asked for are left out.
    fn dressed(&self, records: &RecordBatch, places: &[Seq]) -> Result<RecordBatch> {
        let (mut fields, mut arrays): (Vec<Arc<Field>>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
        for (field, array) in records.schema_ref().fields().iter().zip(records.columns()) {
            if columns::is_reserved(field.name()) || self.rows.wants(field.name()) {
                fields.push(field.clone());
                arrays.push(array.clone());
            }
        }
        fields.extend([columns::OP, columns::SEQ].map(|name| Arc::new(columns::field(name))));
        arrays.push(Arc::new(StringArray::from_iter_values(places.iter().map(|_| "U"))));
        arrays.push(Arc::new(StringArray::from_iter_values(places.iter().map(Seq::as_str))));
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
    }

    /// Gives out what waits, and marks the place behind it.
    async fn flush(&mut self, out: &mut Out<'_, Position>) -> Result<()> {
        if let Some(rows) = self.rows.finish()? {
            out.rows(self.stream, rows).await?;
        }
        if let Some(first) = self.whole.first() {
            let rows = arrow_select::concat::concat_batches(first.schema_ref(), &self.whole)?;
            self.whole.clear();
            out.rows(self.stream, rows).await?;
        }
        if self.at != self.marked {
            out.mark(&self.at.position()).await?;
            self.marked = self.at.clone();
        }
        self.flushed = Instant::now();
        Ok(())
    }
}
