//! Reading a slice: its files one after another, the next ones being opened meanwhile.
//!
//! A file is held back until it was read to its end, or until it has grown large. So a small file that turns out to be
//! damaged leaves no trace. When a large one does, after rows of it were given, the slice fails and is read again from
//! its last mark; the file is known then and passed over, and the large files behind it are looked at before they are
//! read.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_array::RecordBatch;
use ingest_core::{BadRecord, Done, Error, ErrorKind, Json, Out, Region, Result, Slice, StreamName};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::formats::{self, Item, SOURCE_FILE, Sink, Target};
use crate::options::OnChange;
use crate::source::FileSource;
use crate::state::{At, Inside, Planned, Position, Work};
use crate::store::{Fault, Reading};

/// Bytes of a file that are held back before it is known to be whole.
const HELD: usize = 8 << 20;
/// Bytes between two marks inside a file.
const MARK: u64 = 64 << 20;
/// Files that are open at once, and their bytes together, but for the first.
const OPEN_FILES: usize = 8;
const OPEN_BYTES: u64 = 32 << 20;

/// What is known to be wrong with a file.
#[derive(Debug, Clone)]
pub enum Known {
    /// It is no longer what the listing saw.
    Changed,
    /// It cannot be read.
    Damaged(String),
}

/// Reads a slice.
pub async fn extract(
    files: &FileSource,
    slice: &Slice<Work>,
    from: Option<&Position>,
    out: &mut Out<'_, Position>,
) -> Result<Done> {
    let at = match from {
        None => At::default(),
        Some(Position::At(at)) => at.clone(),
        Some(Position::Seen(_)) => {
            return Err(Error::new(
                ErrorKind::CheckpointInvalid,
                "a slice of files stands at a position of another kind",
            ));
        }
    };
    let stream = slice.streams.first().ok_or_else(|| Error::unexpected("a slice of files names no stream"))?;
    let options = files.options(stream.as_str(), &slice.work)?;
    if from.is_none() {
        for note in &slice.work.notes {
            out.warn(Some(stream), note).await?;
        }
    }
    let mut reader = Reader {
        files,
        stream,
        slice: slice.id.as_str(),
        replace: options.on_change == OnChange::Replace,
        is_lines: options.format.is_lines(),
        target: Arc::new(Target::new(options, &slice.work, files.limits)),
        batch_bytes: Arc::new(AtomicUsize::new(out.batch_bytes())),
        out,
        at,
        open: VecDeque::new(),
        pending: Vec::new(),
        pending_bytes: 0,
        bad: Vec::new(),
        is_open: false,
    };
    while let Some(planned) = slice.work.files.get(reader.at.file) {
        reader.open_ahead(&slice.work.files);
        reader.file(planned).await?;
    }
    reader.flush().await?;
    let at = reader.at;
    if reader.is_open || !at.left.is_empty() {
        out.mark(&Position::At(at.clone())).await?;
    }
    Ok(if at.left.is_empty() { Done::Complete } else { Done::Left })
}

/// A file that is being decoded.
struct Open {
    number: usize,
    bytes: u64,
    items: mpsc::Receiver<Item>,
    task: JoinHandle<Result<(), Fault>>,
}

struct Reader<'a, 'o> {
    files: &'a FileSource,
    stream: &'a StreamName,
    slice: &'a str,
    replace: bool,
    is_lines: bool,
    target: Arc<Target>,
    batch_bytes: Arc<AtomicUsize>,
    out: &'a mut Out<'o, Position>,
    at: At,
    open: VecDeque<Open>,
    /// Rows of whole files, or of one that is large, that wait to be given together.
    pending: Vec<RecordBatch>,
    pending_bytes: usize,
    bad: Vec<BadRecord>,
    /// Whether something was given since the last mark.
    is_open: bool,
}

impl Reader<'_, '_> {
    /// Starts to decode the files that come next.
    fn open_ahead(&mut self, planned: &[Planned]) {
        let mut next = self.open.back().map_or(self.at.file, |open| open.number + 1);
        let mut bytes: u64 = self.open.iter().map(|open| open.bytes).sum();
        while let Some(planned) = planned.get(next) {
            let size = planned.file.size;
            if !self.open.is_empty() && (self.open.len() >= OPEN_FILES || bytes + size > OPEN_BYTES) {
                return;
            }
            let from = if next == self.at.file { self.at.inside } else { Inside::default() };
            let look_first = size > HELD as u64 / 8 && self.files.faults().slices.contains(self.slice);
            self.open.push_back(self.decode(next, planned, from, look_first));
            bytes += size;
            next += 1;
        }
    }

    fn decode(&self, number: usize, planned: &Planned, from: Inside, look_first: bool) -> Open {
        let (send, items) = mpsc::channel(2);
        let sink =
            Sink::Channel { send, batch_bytes: self.batch_bytes.clone(), cancel: self.files.context.cancel.clone() };
        let reading: Reading = self.files.reading(&planned.file);
        let target = self.target.clone();
        let known = self.known(planned);
        let task = tokio::task::spawn_blocking(move || {
            match known {
                Some(Known::Changed) => return Err(Fault::Changed),
                Some(Known::Damaged(text)) => return Err(Fault::Damaged(text)),
                None if look_first => formats::decode(&reading, &target, from, &Sink::Nowhere)?,
                None => {}
            }
            formats::decode(&reading, &target, from, &sink)
        });
        Open { number, bytes: planned.file.size, items, task }
    }

    fn known(&self, planned: &Planned) -> Option<Known> {
        self.files.faults().files.get(&(self.slice.to_owned(), planned.file.path.clone())).cloned()
    }

    /// Takes the items of the next file and stands behind it.
    async fn file(&mut self, planned: &Planned) -> Result<()> {
        let mut open = self.open.pop_front().ok_or_else(|| Error::unexpected("a file of a slice was not opened"))?;
        let mut file = File { planned, held: Vec::new(), bytes: 0, is_given: !self.at.inside.is_start() };
        while let Some(item) = open.items.recv().await {
            self.batch_bytes.store(self.out.batch_bytes(), Ordering::Relaxed);
            match item {
                Item::Warning(text) => self.out.warn(Some(self.stream), text).await?,
                item => {
                    file.bytes += size(&item);
                    file.held.push(item);
                }
            }
            if file.bytes >= HELD || (file.is_given && !file.held.is_empty()) {
                self.give(&mut file).await?;
            }
        }
        let fault = match open.task.await {
            Ok(Ok(())) => None,
            Ok(Err(fault)) => Some(fault),
            Err(e) if e.is_cancelled() => return Err(Error::cancelled()),
            // A decoder that panics on foreign bytes is a bug, but the other files can do nothing for it.
            Err(_) => Some(Fault::Damaged("its decoder gave up".into())),
        };
        match fault {
            None => self.give(&mut file).await?,
            Some(Fault::Failed(error)) => return Err(error.with("file", &planned.file.path)),
            Some(Fault::Changed) => self.leave(&file, Known::Changed).await?,
            Some(Fault::Damaged(text)) => self.leave(&file, Known::Damaged(text)).await?,
        }
        self.at.file += 1;
        self.at.inside = Inside::default();
        if self.is_open || self.pending_bytes >= self.out.batch_bytes() / 2 {
            self.mark().await?;
        }
        Ok(())
    }

    /// Gives what was held back of a file.
    async fn give(&mut self, file: &mut File<'_>) -> Result<()> {
        if !std::mem::replace(&mut file.is_given, true) && file.planned.again {
            self.remove(file.planned).await?;
        }
        file.bytes = 0;
        for item in std::mem::take(&mut file.held) {
            match item {
                Item::Rows(batch, behind) => {
                    self.pending_bytes += batch.get_array_memory_size();
                    self.pending.push(batch);
                    if self.pending_bytes >= self.out.batch_bytes() {
                        self.flush().await?;
                    }
                    if self.is_lines && behind.offset >= self.at.inside.offset + MARK {
                        self.at.inside = behind;
                        self.mark().await?;
                    }
                }
                Item::Bad(bad) => {
                    self.bad.push(bad);
                    if self.bad.len() >= 1_000 {
                        self.flush().await?;
                    }
                }
                Item::Warning(_) => {}
            }
        }
        Ok(())
    }

    /// Leaves a file out, without a row of it in the table.
    async fn leave(&mut self, file: &File<'_>, fault: Known) -> Result<()> {
        let path = &file.planned.file.path;
        if file.is_given && self.known(file.planned).is_none() {
            // Rows of it were given since the last mark. From there the slice is read again, without this file.
            let mut faults = self.files.faults();
            faults.files.insert((self.slice.to_owned(), path.clone()), fault);
            faults.slices.insert(self.slice.to_owned());
            return Err(Error::new(ErrorKind::Unavailable, "a file could not be read to its end; it is left out now")
                .with("stream", self.stream)
                .with("file", path));
        }
        if !self.at.inside.is_start() && self.replace {
            self.remove(file.planned).await?;
        }
        self.at.left.push(path.clone());
        match fault {
            Known::Changed => {
                let text = format!("{path} changed while it was read; it is left for the next run");
                self.out.warn(Some(self.stream), text).await
            }
            Known::Damaged(why) => {
                let text = format!("{path} could not be read: {why}; the next run tries again");
                self.out.skipped(self.stream, text).await
            }
        }
    }

    /// Removes the rows of a file, as the first thing behind a mark.
    async fn remove(&mut self, planned: &Planned) -> Result<()> {
        self.mark().await?;
        let equals = BTreeMap::from([(SOURCE_FILE.to_owned(), Json::from(planned.file.path.as_str()))]);
        self.is_open = true;
        self.out.remove(self.stream, Region::Equals(equals)).await
    }

    /// Gives all that waits, and marks the place.
    async fn mark(&mut self) -> Result<()> {
        self.flush().await?;
        if std::mem::take(&mut self.is_open) {
            self.out.mark(&Position::At(self.at.clone())).await?;
        }
        Ok(())
    }

    /// Gives all that waits.
    async fn flush(&mut self) -> Result<()> {
        let batches = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        for bad in std::mem::take(&mut self.bad) {
            self.is_open = true;
            self.out.quarantine(self.stream, bad).await?;
        }
        // Batches of many small files become one; those of a large file are large enough.
        let mut same: Vec<RecordBatch> = Vec::new();
        for batch in batches {
            if same.first().is_some_and(|first| first.schema() != batch.schema()) {
                self.rows(std::mem::take(&mut same)).await?;
            }
            same.push(batch);
        }
        self.rows(same).await
    }

    async fn rows(&mut self, batches: Vec<RecordBatch>) -> Result<()> {
        let Some(first) = batches.first() else { return Ok(()) };
        self.is_open = true;
        if batches.len() == 1 {
            return self.out.rows(self.stream, first.clone()).await;
        }
        let joined = arrow_select::concat::concat_batches(&first.schema(), &batches)?;
        drop(batches);
        self.out.rows(self.stream, joined).await
    }
}

/// A file whose items come in.
struct File<'a> {
    planned: &'a Planned,
    held: Vec<Item>,
    bytes: usize,
    /// Whether something of it was given, now or before the mark from which the slice goes on.
    is_given: bool,
}

fn size(item: &Item) -> usize {
    match item {
        Item::Rows(batch, _) => batch.get_array_memory_size(),
        Item::Bad(bad) => bad.reason.len() + bad.record.len(),
        Item::Warning(text) => text.len(),
    }
}
