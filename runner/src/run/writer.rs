//! The writer thread of a lane: makes batches conform, encodes them, and cuts files at marks.
//!
//! Rows without a mark yet are held back in memory; when they outgrow their share they go into a file of their own that
//! is thrown away if the slice fails before the next mark. So a file that covers something never holds a row that nothing
//! covers, and a retry goes on from the last emitted mark.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arrow_array::RecordBatch;
use ingest_core::lake::{DataFile, DataWriter};
use ingest_core::{
    BadRecord, Clock, Error, ErrorKind, Event, Region, Result, Seq, SliceId, Stored, StreamName, memory_of,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::lane::beyond;
use super::merge::part_keyless;
use super::quarantine::{self, Record};
use super::stream::{Cover, Message, SliceKey, StreamShared, Unit};
use crate::conform::Stamp;
use crate::failpoint;
use crate::policy::{Examiner, Tally};

/// Records of one stream that may wait for a mark, in bytes.
const MAX_WAITING_RECORDS: usize = 32 << 20;

/// Files that a lane keeps open between marks: each takes memory, and a handle of the system. Where more streams have rows, their
/// files end with what came.
const OPEN_FILES: usize = 64;

/// What a lane tells its writer thread.
pub enum Order {
    /// A slice begins (or begins again after its last mark).
    Begin(SliceBegin),
    /// Something came out of it. The permit is given back when the rows are encoded.
    Event(Event, Option<OwnedSemaphorePermit>),
    /// The slice ended.
    End(SliceEnd),
    /// Everything that is covered goes to the streams; `done` hears when that has happened.
    Flush(tokio::sync::oneshot::Sender<()>),
}

/// A slice that begins.
pub struct SliceBegin {
    /// The slice.
    pub key: SliceKey,
    /// Its id.
    pub id: SliceId,
    /// The streams of this run that still want it.
    pub streams: Vec<SliceStream>,
    /// All streams that it may emit rows for; rows that nobody wants are dropped.
    pub known: Vec<StreamName>,
}

/// A stream of a slice.
#[derive(Clone)]
pub struct SliceStream {
    /// The stream.
    pub shared: Arc<StreamShared>,
    /// Where its table stands in this slice.
    pub from: Option<Stored>,
    /// What becomes of removals.
    pub removals: Removals,
}

/// What becomes of `remove` in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removals {
    /// They are applied with the rows that follow.
    Apply,
    /// The whole table is being replaced: there is nothing to remove.
    Needless,
    /// Rows are staged and added to what is there: a removal cannot be placed among them.
    Refuse,
}

/// How a slice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SliceEnd {
    /// All rows are given.
    Complete,
    /// All that can be read is given; the last mark stays as a position.
    Left,
    /// Stopped: what no mark covers is dropped.
    Stopped,
    /// Stopped by `--limit`: what came counts, whether a mark covers it or not.
    Accepted,
}

/// How the writer works.
#[derive(Clone)]
pub struct WriterSettings {
    /// Bytes of rows that may wait for a mark in memory, per lane.
    pub pending_bytes: u64,
    /// The run.
    pub run_id: Arc<str>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// For the few calls that must wait for the store.
    pub runtime: tokio::runtime::Handle,
}

/// Where the thread leaves its error before it ends.
pub type Fault = Arc<Mutex<Option<Error>>>;

/// The state of the thread.
pub struct LaneWriter {
    settings: WriterSettings,
    slice: Option<SliceBegin>,
    open: BTreeMap<StreamName, StreamWriter>,
    /// So many of them have an open file.
    files: Rc<Cell<usize>>,
}

/// The rows of one stream on their way into files.
struct StreamWriter {
    shared: Arc<StreamShared>,
    /// Rows that no mark covers yet, in memory.
    pending: Vec<RecordBatch>,
    pending_bytes: u64,
    waiting_records: Vec<Record>,
    waiting_bytes: usize,
    /// Files of records that no mark covers yet.
    waiting_files: Vec<DataFile>,
    /// Ended files of rows that no mark covers yet.
    waiting_rows: Vec<DataFile>,
    /// Checks and masks.
    examiner: Examiner,
    /// What was counted of rows that no mark covers yet.
    waiting_tally: Tally,
    /// The open file, and how many of the lane are open.
    file: Option<Box<dyn DataWriter>>,
    files: Rc<Cell<usize>>,
    file_schema: Option<arrow_schema::SchemaRef>,
    since: Instant,
    /// The open file holds rows that no mark covers; all of them are so.
    provisional: bool,
    records: Vec<Record>,
    covers: Vec<(SliceKey, Cover)>,
    region: Option<Region>,
    /// Files that are closed and not handed over yet.
    closed: Unit,
    stamp: Stamp,
}

impl LaneWriter {
    /// Runs until the lane hangs up. The error, if any, is left in `fault`; then the channel is closed.
    pub fn run(settings: WriterSettings, mut orders: mpsc::Receiver<Order>, fault: &Fault) {
        let mut writer = Self { settings, slice: None, open: BTreeMap::new(), files: Rc::default() };
        while let Some(order) = orders.blocking_recv() {
            if let Err(error) = writer.obey(order) {
                *fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                break;
            }
        }
        for (_, stream) in std::mem::take(&mut writer.open) {
            if let Some(file) = stream.file {
                file.abort();
            }
        }
    }

    fn obey(&mut self, order: Order) -> Result<()> {
        match order {
            Order::Begin(begin) => self.begin(begin),
            Order::Event(event, permit) => self.event(event, permit),
            Order::End(end) => self.end(end),
            Order::Flush(done) => {
                for stream in self.open.values_mut() {
                    stream.cut(&self.settings)?;
                }
                self.open.clear();
                // The lane may be gone already.
                let _ = done.send(());
                Ok(())
            }
        }
    }

    fn begin(&mut self, begin: SliceBegin) -> Result<()> {
        // Files stay open from slice to slice of a stream; a stream that this slice does not serve is done with.
        let serves = |name: &StreamName| begin.streams.iter().any(|stream| stream.shared.name == *name);
        for (name, stream) in &mut self.open {
            if !serves(name) {
                stream.cut(&self.settings)?;
            }
        }
        self.open.retain(|name, _| serves(name));
        self.slice = Some(begin);
        Ok(())
    }

    fn event(&mut self, event: Event, permit: Option<OwnedSemaphorePermit>) -> Result<()> {
        match event {
            Event::Rows(name, batch) => {
                let pending: u64 = self.open.values().map(|stream| stream.pending_bytes).sum();
                let room = self.settings.pending_bytes.saturating_sub(pending);
                let settings = self.settings.clone();
                let Some((stream, from)) = self.stream(&name)? else { return Ok(()) };
                if let Some(batch) = beyond(batch, from.as_ref())? {
                    stream.rows(batch, room, &settings)?;
                }
                // The permit bounds what waits in the channel; what waits for a mark is bounded by `pending_bytes`.
                drop(permit);
                Ok(())
            }
            Event::Schema(name, schema) => match self.stream(&name)? {
                Some((stream, _)) => stream.shared.change_schema(&schema),
                None => Ok(()),
            },
            Event::Remove(name, region, seq) => self.remove(&name, region, seq.as_ref()),
            Event::Quarantine(name, record) => match self.stream(&name)? {
                Some((stream, _)) => stream.bad_record(record),
                None => Ok(()),
            },
            Event::Mark(position) => self.cover(&Cover::At(position)),
            // Warnings are the lane's business.
            Event::Warning { .. } => Ok(()),
        }
    }

    /// The writer of a stream of the current slice; `None` where its rows are not wanted.
    fn stream(&mut self, name: &StreamName) -> Result<Option<(&mut StreamWriter, Option<Seq>)>> {
        let slice = self.slice.as_ref().ok_or_else(|| Error::unexpected("an event without a slice"))?;
        let Some(wanted) = slice.streams.iter().find(|stream| stream.shared.name == *name) else {
            if slice.known.contains(name) {
                return Ok(None);
            }
            return Err(Error::unexpected("the connector emitted rows of a stream that its slice does not name")
                .with("stream", name)
                .with("slice", &slice.id));
        };
        // Only where a slice serves several streams can a table stand ahead of the position that it starts from.
        let several = slice.known.len() > 1;
        let from = wanted.from.as_ref().filter(|_| several).and_then(|stored| stored.seq.clone());
        let shared = &wanted.shared;
        let (settings, files) = (&self.settings, &self.files);
        let writer = self.open.entry(name.clone()).or_insert_with(|| StreamWriter::new(shared, settings, files));
        Ok(Some((writer, from)))
    }

    fn remove(&mut self, name: &StreamName, region: Region, at: Option<&Seq>) -> Result<()> {
        let removals = self
            .slice
            .as_ref()
            .and_then(|slice| slice.streams.iter().find(|stream| stream.shared.name == *name))
            .map(|stream| stream.removals);
        let settings = self.settings.clone();
        let Some((stream, from)) = self.stream(name)? else { return Ok(()) };
        // A table that stands ahead has this removal, and rows that came after it.
        if at.zip(from.as_ref()).is_some_and(|(at, from)| at <= from) {
            return Ok(());
        }
        match removals {
            Some(Removals::Needless) | None => Ok(()),
            Some(Removals::Refuse) => Err(Error::new(
                ErrorKind::Unsupported,
                "rows were removed at the source while its snapshot was being read",
            )
            .with("stream", name)
            .hint("run again")),
            Some(Removals::Apply) => stream.remove(region, &settings),
        }
    }

    /// A mark covers everything before it, in every stream of the slice.
    fn cover(&mut self, cover: &Cover) -> Result<()> {
        let Some(slice) = &self.slice else { return Err(Error::unexpected("a mark without a slice")) };
        for wanted in &slice.streams {
            let name = &wanted.shared.name;
            let stream = self
                .open
                .entry(name.clone())
                .or_insert_with(|| StreamWriter::new(&wanted.shared, &self.settings, &self.files));
            // A table that stands ahead of this position does not go back.
            if let (Cover::At(position), Some(from)) = (cover, &wanted.from)
                && slice.known.len() > 1
                && position.seq < from.seq
            {
                continue;
            }
            stream.cover(slice.key.clone(), cover.clone(), &self.settings)?;
        }
        Ok(())
    }

    fn end(&mut self, end: SliceEnd) -> Result<()> {
        let Some(slice) = &self.slice else { return Ok(()) };
        match (end, &slice.key) {
            (SliceEnd::Complete | SliceEnd::Left, SliceKey::Bounded(_)) => {
                let left = self.last_mark(&slice.key);
                let cover = match (end, left) {
                    (SliceEnd::Left, Some(position)) => Cover::Left(slice.id.clone(), position),
                    _ => Cover::Done,
                };
                self.cover(&cover)?;
            }
            (SliceEnd::Accepted, _) => {
                for stream in self.open.values_mut() {
                    stream.accept(&self.settings)?;
                }
            }
            _ => {
                for stream in self.open.values_mut() {
                    stream.drop_uncovered();
                }
            }
        }
        self.slice = None;
        Ok(())
    }

    fn last_mark(&self, key: &SliceKey) -> Option<Stored> {
        self.open.values().flat_map(|stream| stream.covers.iter().rev()).find_map(|(k, cover)| match cover {
            Cover::At(position) if k == key => Some(position.clone()),
            _ => None,
        })
    }
}

impl StreamWriter {
    fn new(shared: &Arc<StreamShared>, settings: &WriterSettings, files: &Rc<Cell<usize>>) -> Self {
        Self {
            shared: Arc::clone(shared),
            pending: Vec::new(),
            pending_bytes: 0,
            waiting_records: Vec::new(),
            waiting_bytes: 0,
            waiting_files: Vec::new(),
            waiting_rows: Vec::new(),
            examiner: Examiner::new(Arc::clone(&shared.target.values), Arc::clone(shared.quality.sets())),
            waiting_tally: Tally::default(),
            file: None,
            files: Rc::clone(files),
            file_schema: None,
            since: Instant::now(),
            provisional: false,
            records: Vec::new(),
            covers: Vec::new(),
            region: None,
            closed: Unit::default(),
            stamp: Stamp {
                run_id: Arc::clone(&settings.run_id),
                ingested_at: settings.clock.now_micros().max(shared.not_before),
            },
        }
    }

    fn rows(&mut self, batch: RecordBatch, room: u64, settings: &WriterSettings) -> Result<()> {
        if self.provisional {
            self.encode(batch, settings)?;
            return self.relieve();
        }
        let bytes = memory_of(&batch) as u64;
        self.pending_bytes += bytes;
        self.pending.push(batch);
        if bytes > room {
            // What the open file holds is covered; the rows that are not yet get a file of their own. A region that waits
            // for its rows goes with them: everything before it was handed over when it came.
            if self.region.is_none() {
                self.close_file()?;
                self.send()?;
            }
            self.provisional = true;
            self.encode_pending(settings)?;
            self.relieve()?;
        }
        Ok(())
    }

    /// Ends the open file where the lane has too many of them.
    fn relieve(&mut self) -> Result<()> {
        if self.files.get() > OPEN_FILES { self.park() } else { Ok(()) }
    }

    /// Ends the open file, and keeps it until it can be handed over.
    fn park(&mut self) -> Result<()> {
        if !self.provisional {
            return self.close_file();
        }
        let Some(file) = self.take_file() else { return Ok(()) };
        self.file_schema = None;
        self.waiting_rows.extend(file.finish().map_err(|e| e.with("stream", &self.shared.name))?);
        Ok(())
    }

    fn take_file(&mut self) -> Option<Box<dyn DataWriter>> {
        let file = self.file.take()?;
        self.files.set(self.files.get().saturating_sub(1));
        Some(file)
    }

    fn encode_pending(&mut self, settings: &WriterSettings) -> Result<()> {
        self.pending_bytes = 0;
        std::mem::take(&mut self.pending).into_iter().try_for_each(|batch| self.encode(batch, settings))
    }

    fn encode(&mut self, batch: RecordBatch, settings: &WriterSettings) -> Result<()> {
        let mut examined = self.examiner.examine(batch)?;
        if self.provisional {
            self.waiting_tally.add(examined.tally);
        } else {
            examined.tally.settle();
            self.closed.tally.add(examined.tally);
        }
        self.hold(examined.held.into_iter().map(Record::from), settings)?;
        let batch = examined.batch;
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let conform = self.shared.conform();
        let conformed = conform.batch(batch, &self.stamp).map_err(|e| e.with("stream", &self.shared.name))?;
        self.shared.counters.rows_rescued.fetch_add(conformed.rescued as u64, Ordering::Relaxed);
        let mut conformed = conformed;
        if let Some(keyed) = &self.shared.target.keyed {
            let (batch, records) = part_keyless(conformed.batch, &keyed.stored_key(&conform)?)?;
            self.hold(records.into_iter().map(Record::from), settings)?;
            conformed.batch = batch;
            if conformed.batch.num_rows() == 0 {
                return Ok(());
            }
        }
        let schema = conformed.batch.schema();
        if self.file_schema.as_ref().is_some_and(|open| open.fields() != schema.fields()) {
            // The schema widened under way: the files before it stay as they are.
            self.park()?;
        }
        if self.file.is_none() {
            let storage = Arc::clone(conform.storage());
            self.file = Some(self.shared.writers.writer(storage, &self.shared.options)?);
            self.files.set(self.files.get() + 1);
            self.file_schema = Some(schema);
            if self.closed.files.is_empty() {
                self.since = Instant::now();
            }
        }
        match &mut self.file {
            Some(file) => file.write(&conformed.batch).map_err(|e| e.with("stream", &self.shared.name)),
            None => Err(Error::unexpected("the file was just opened")),
        }
    }

    /// Takes rows that a check holds back. Like rows they count once a mark covers them, and may be many.
    fn hold(&mut self, held: impl Iterator<Item = Record>, settings: &WriterSettings) -> Result<()> {
        if !self.provisional {
            self.records.extend(held);
            return Ok(());
        }
        for record in held {
            self.waiting_bytes += record.bytes();
            self.waiting_records.push(record);
        }
        if self.waiting_bytes > MAX_WAITING_RECORDS / 4 {
            let records = std::mem::take(&mut self.waiting_records);
            self.waiting_bytes = 0;
            let files = self.write_quarantine(&records, settings)?;
            self.waiting_files.extend(files);
        }
        Ok(())
    }

    fn bad_record(&mut self, record: BadRecord) -> Result<()> {
        let record = Record::from(self.shared.target.values.mask_record(record)?);
        self.waiting_bytes += record.bytes();
        self.waiting_records.push(record);
        if self.waiting_bytes > MAX_WAITING_RECORDS {
            return Err(Error::new(ErrorKind::LimitExceeded, "too many unreadable records in a row")
                .with("stream", &self.shared.name)
                .with("records", self.waiting_records.len())
                .hint("is this the right format? look at the first of them with `ingest preview`"));
        }
        Ok(())
    }

    fn remove(&mut self, region: Region, settings: &WriterSettings) -> Result<()> {
        let region = self.shared.target.values.mask_region(region)?;
        let waiting =
            !self.waiting_records.is_empty() || !self.waiting_files.is_empty() || !self.waiting_rows.is_empty();
        let uncovered = !self.pending.is_empty() || self.provisional || waiting;
        if region == Region::All {
            // Rows that came since the last mark are among those that are removed.
            self.drop_uncovered();
        } else if uncovered {
            return Err(Error::unexpected("the connector removed a region without a mark before it")
                .with("stream", &self.shared.name));
        }
        self.cut(settings)?;
        self.region = Some(region);
        Ok(())
    }

    /// Everything so far is covered.
    fn cover(&mut self, key: SliceKey, cover: Cover, settings: &WriterSettings) -> Result<()> {
        self.accept(settings)?;
        self.covers.retain(|(k, _)| *k != key);
        self.covers.push((key, cover));
        let full = self.file.as_ref().is_some_and(|file| file.bytes() >= self.shared.options.target_file_bytes);
        // A stream that is followed says how far it is, also where nothing came for it.
        let some = self.file.is_some() || !self.closed.files.is_empty();
        let old = self.since.elapsed() >= self.shared.commit_interval && (some || self.shared.follows);
        let records = self.records.iter().map(Record::bytes).sum::<usize>() > MAX_WAITING_RECORDS / 4;
        if full || old || records || self.region.is_some() { self.cut(settings) } else { self.relieve() }
    }

    fn accept(&mut self, settings: &WriterSettings) -> Result<()> {
        self.provisional = false;
        // Rows may turn out to be records on their way into a file.
        self.encode_pending(settings)?;
        if !self.waiting_rows.is_empty() {
            self.closed.files.append(&mut self.waiting_rows);
            self.closed.schema = Some(Arc::clone(self.shared.conform().storage()));
        }
        self.records.append(&mut self.waiting_records);
        self.waiting_bytes = 0;
        self.closed.quarantine.append(&mut self.waiting_files);
        let mut tally = std::mem::take(&mut self.waiting_tally);
        tally.settle();
        self.closed.tally.add(tally);
        Ok(())
    }

    fn drop_uncovered(&mut self) {
        self.pending.clear();
        self.pending_bytes = 0;
        self.waiting_records.clear();
        self.waiting_bytes = 0;
        // Nobody commits the files: maintenance removes them.
        self.waiting_rows.clear();
        let dropped: u64 = self.waiting_files.drain(..).map(|file| file.rows).sum();
        self.shared.counters.rows_quarantined.fetch_sub(dropped, Ordering::Relaxed);
        self.examiner.forget(&std::mem::take(&mut self.waiting_tally));
        // Until a mark covers it, a removal is as provisional as rows are; the slice gives it again.
        self.region = None;
        if self.provisional
            && let Some(file) = self.take_file()
        {
            file.abort();
            self.file_schema = None;
        }
        self.provisional = false;
    }

    /// Closes the open file, and hands everything that is covered to the stream.
    fn cut(&mut self, settings: &WriterSettings) -> Result<()> {
        if self.provisional {
            return Err(Error::unexpected("a file with rows that nothing covers cannot be handed over"));
        }
        self.close_file()?;
        self.write_records(settings)?;
        self.since = Instant::now();
        self.send()
    }

    fn close_file(&mut self) -> Result<()> {
        let Some(file) = self.take_file() else { return Ok(()) };
        let schema = self.file_schema.take();
        let files = file.finish().map_err(|e| e.with("stream", &self.shared.name))?;
        failpoint::reach("file_closed");
        self.closed.since.get_or_insert(self.since);
        self.closed.files.extend(files);
        self.closed.schema = Some(Arc::clone(self.shared.conform().storage())).filter(|_| schema.is_some());
        Ok(())
    }

    fn write_records(&mut self, settings: &WriterSettings) -> Result<()> {
        if self.records.is_empty() {
            return Ok(());
        }
        let records = std::mem::take(&mut self.records);
        let files = self.write_quarantine(&records, settings)?;
        self.closed.quarantine.extend(files);
        Ok(())
    }

    fn write_quarantine(&self, records: &[Record], settings: &WriterSettings) -> Result<Vec<DataFile>> {
        let writers = settings.runtime.block_on(self.shared.quarantine.writers())?;
        let now = settings.clock.now_micros();
        let files = quarantine::write(records, writers.as_ref(), &self.shared.options, &settings.run_id, now)?;
        self.shared.counters.rows_quarantined.fetch_add(records.len() as u64, Ordering::Relaxed);
        Ok(files)
    }

    /// Sends what is closed with what it covers.
    fn send(&mut self) -> Result<()> {
        let mut unit = std::mem::take(&mut self.closed);
        unit.covers = std::mem::take(&mut self.covers);
        unit.region = self.region.take();
        let nothing = unit.files.is_empty() && unit.quarantine.is_empty() && unit.covers.is_empty();
        if nothing && unit.region.is_none() && unit.tally == Tally::default() {
            return Ok(());
        }
        self.shared.units.blocking_send(Message::Unit(Box::new(unit))).map_err(|_| Error::cancelled())
    }
}
