//! Plans: which files are read, in which order, in which slices.

use std::collections::{BTreeMap, BinaryHeap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use ingest_core::{
    Error, ErrorKind, Estimate, Intent, Mode, Plan, PlanRequest, Result, Selected, Shape, Slice, SliceId, columns,
};

use crate::formats::SOURCE_FILE;
use crate::options::{OnChange, StreamOptions};
use crate::patterns::Marker;
use crate::source::FileSource;
use crate::state::{FILES, Known, Live, Planned, Position, Seen, Work, path_hash};
use crate::store::FileRef;

/// Files of one plan at most, in incremental mode; the others follow in the next.
const MOST_FILES: usize = 100_000;
/// Files that one plan puts away at most; the others follow in the next.
const MOST_AWAY: usize = 100_000;
/// Files of one slice at most.
const SLICE_FILES: usize = 1_000;
/// JSON of one slice at most, about; the contract allows 64 KiB.
const SLICE_JSON: usize = 56 << 10;

/// Plans all streams of a request.
pub async fn plan(files: &FileSource, request: &PlanRequest<Position>) -> Result<Plan<Work, Position>> {
    let mut plan = Plan::default();
    let discovered = files.streams().await?;
    for selected in &request.streams {
        let name = selected.stream.name.as_str();
        let options = discovered.streams.iter().find(|stream| stream.name == name).ok_or_else(|| {
            Error::config("there is no such stream").with("stream", name).hint("`ingest discover` lists the streams")
        })?;
        stream(files, request, selected, options, &mut plan).await?;
    }
    Ok(plan)
}

async fn stream(
    files: &FileSource,
    request: &PlanRequest<Position>,
    selected: &Selected<Position>,
    options: &Arc<StreamOptions>,
    plan: &mut Plan<Work, Position>,
) -> Result<()> {
    let shape = columns_of(selected, options)?;
    let (mut seen, leftovers) = known(selected)?;
    let puts_away = files.store.puts_away() && selected.mode != Mode::Full && request.intent != Intent::Explain;
    let listing = Listing {
        markers: markers(files, options).await?,
        puts_away,
        ..Listing::new(selected, options, request, &seen)
    };
    let (listing, notes) = filled(files, options, listing).await?;
    if let Some(path) = listing.refused {
        return Err(Error::new(ErrorKind::DataInvalid, "a file changed after it was read, and `on_change` is fail")
            .with("stream", &options.name)
            .with("file", path)
            .hint("set `on_change: replace` to read it again, or give the new content a new name"));
    }
    if !listing.committed.is_empty() {
        for note in files.store.put_away(listing.committed).await? {
            tracing::warn!(stream = %options.name, note, "a file that was read could not be put away; the next run tries again");
        }
    }
    // What is put away is so by the plan that finds it committed: the next one, at the end of this.
    plan.more |= listing.more || (puts_away && listing.is_new);
    let planned = listing.wanted.into_sorted_vec();
    if planned.is_empty() {
        return Ok(());
    }
    let mut live = listing.live;
    for entry in &planned {
        seen.add(&entry.0.file);
        live.saw(&entry.0.file);
    }
    seen.shrink(live);
    let mut then: BTreeMap<SliceId, Option<Position>> = leftovers.into_iter().map(|id| (id, None)).collect();
    then.insert(FILES.into(), Some(Position::Seen(seen)));
    plan.then.insert(selected.stream.name.clone(), then);
    let planned: Vec<Planned> = planned.into_iter().map(|entry| entry.0).collect();
    let total: u64 = planned.iter().map(|planned| planned.file.size).sum();
    let slice_bytes = request.slice_bytes.min((total / u64::from(request.min_slices.max(1))).max(1 << 20)).max(1);
    let mut notes = notes;
    for group in groups(planned, slice_bytes, &shape) {
        let bytes = group.iter().map(|planned| planned.file.size).sum();
        plan.slices.push(Slice {
            // A slice that leaves files behind leaves a position under its id: it must be unique across plans.
            id: format!("{:x}-{}", request.now, plan.slices.len()).into(),
            streams: vec![selected.stream.name.clone()],
            shape: Shape::Window,
            estimate: Estimate { rows: None, bytes: Some(bytes), calls: Some(group.len() as u64) },
            work: Work { files: group, notes: std::mem::take(&mut notes), ..shape.clone() },
        });
    }
    Ok(())
}

/// The hashes of the markers there are, where files need one. They are listed before the files: a marker that comes in
/// between is seen by the next plan.
async fn markers(files: &FileSource, options: &StreamOptions) -> Result<Option<(Marker, HashSet<u64>)>> {
    let Some(marker) = options.patterns.marker() else { return Ok(None) };
    let found: Arc<Mutex<HashSet<u64>>> = Arc::default();
    let filled = found.clone();
    let take = move |file: FileRef| {
        filled.lock().unwrap_or_else(PoisonError::into_inner).insert(path_hash(&file.path));
    };
    files.store.list(&options.patterns.of_markers(), Box::new(take)).await?;
    let hashes = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Some((marker.clone(), hashes)))
}

/// Shows a listing to what is to come of it.
async fn filled(files: &FileSource, options: &StreamOptions, listing: Listing) -> Result<(Listing, Vec<String>)> {
    let listing = Arc::new(Mutex::new(Some(listing)));
    let filled = listing.clone();
    let take = move |file: FileRef| {
        if let Some(listing) = filled.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            listing.take(file);
        }
    };
    let notes = files.store.list(&options.patterns, Box::new(take)).await?;
    for note in &notes {
        tracing::warn!(stream = %options.name, note, "a part of the listing was left out");
    }
    let listing = listing.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok((listing.ok_or_else(|| Error::unexpected("a listing got lost"))?, notes))
}

/// Work without files: the columns.
fn columns_of(selected: &Selected<Position>, options: &StreamOptions) -> Result<Work> {
    if selected.filter.is_some() {
        return Err(
            Error::new(ErrorKind::Unsupported, "files cannot be filtered by `where`").with("stream", &options.name)
        );
    }
    let is_wanted = |name: &str| selected.columns.as_ref().is_none_or(|wanted| wanted.iter().any(|w| w == name));
    let own = |name: &str| name == SOURCE_FILE || columns::is_reserved(name);
    let fields = || selected.stream.schema.fields().iter().filter(|field| !own(field.name()));
    if !is_wanted(SOURCE_FILE) && options.on_change == OnChange::Replace && selected.mode == Mode::Incremental {
        return Err(Error::config("`on_change: replace` needs the column `_source_file`")
            .with("stream", &options.name)
            .hint("add `_source_file` to `columns`, or set `on_change` to append, ignore or fail"));
    }
    Ok(Work {
        files: Vec::new(),
        columns: fields()
            .filter(|field| is_wanted(field.name()))
            .map(|field| (field.name().clone(), field.data_type().clone()))
            .collect(),
        all: selected.columns.is_none(),
        unwanted: fields().filter(|field| !is_wanted(field.name())).map(|field| field.name().clone()).collect(),
        source_file: is_wanted(SOURCE_FILE),
        notes: Vec::new(),
    })
}

/// Which files were read, without those that a slice left; and the ids of those slices.
fn known(selected: &Selected<Position>) -> Result<(Seen, Vec<SliceId>)> {
    let mut seen = match selected.positions.get(&FILES.into()) {
        Some(Position::Seen(seen)) => seen.clone(),
        None => Seen::default(),
        Some(Position::At(_)) => {
            return Err(Error::new(
                ErrorKind::CheckpointInvalid,
                "the position of a stream of files is of another kind",
            )
            .with("stream", &selected.stream.name)
            .hint("`ingest state show` prints it; `ingest state reset` forgets it"));
        }
    };
    let mut leftovers = Vec::new();
    for (id, position) in &selected.positions {
        if let Position::At(at) = position {
            at.left.iter().for_each(|path| seen.take_back(path));
            leftovers.push(id.clone());
        }
    }
    Ok((seen, leftovers))
}

/// A file in the order of reading: by time, then by name.
#[derive(PartialEq, Eq)]
struct ByTime(Planned);

impl Ord for ByTime {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0.file.modified, &self.0.file.path).cmp(&(other.0.file.modified, &other.0.file.path))
    }
}

impl PartialOrd for ByTime {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What a listing comes to. Holds the files that are to be read, at most as many as a plan takes, and the times of those
/// that are known; never the whole listing.
struct Listing {
    incremental: bool,
    on_change: OnChange,
    /// Files after this are too young.
    settled: i64,
    seen: Seen,
    /// The markers there are, where files need one.
    markers: Option<(Marker, HashSet<u64>)>,
    puts_away: bool,
    wanted: BinaryHeap<ByTime>,
    live: Live,
    /// Files whose rows are committed, to be put away.
    committed: Vec<FileRef>,
    /// Whether a file is wanted that was not tried before.
    is_new: bool,
    more: bool,
    refused: Option<String>,
}

impl Listing {
    fn new(
        selected: &Selected<Position>,
        options: &StreamOptions,
        request: &PlanRequest<Position>,
        seen: &Seen,
    ) -> Self {
        let settle = i64::try_from(options.settle.0.as_micros()).unwrap_or(i64::MAX);
        Self {
            incremental: selected.mode != Mode::Full,
            on_change: options.on_change,
            settled: if settle == 0 { i64::MAX } else { request.now.saturating_sub(settle) },
            seen: seen.clone(),
            markers: None,
            puts_away: false,
            wanted: BinaryHeap::new(),
            live: Live::default(),
            committed: Vec::new(),
            is_new: false,
            more: false,
            refused: None,
        }
    }

    fn take(&mut self, file: FileRef) {
        // A file without a byte has no rows and, in a table with a header, no columns: it is not there yet.
        if file.size == 0 || file.modified > self.settled {
            return;
        }
        if let Some((marker, there)) = &self.markers
            && !there.contains(&path_hash(&marker.of(&file.path)))
        {
            return;
        }
        if !self.incremental {
            return self.wanted.push(ByTime(Planned { file, again: false }));
        }
        let replace = self.on_change == OnChange::Replace;
        let known = self.seen.of(&file);
        let again = match (known, self.on_change) {
            (Known::Same, _) | (Known::Changed, OnChange::Ignore) => {
                self.live.saw(&file);
                if self.puts_away && known == Known::Same && self.committed.len() < MOST_AWAY {
                    self.committed.push(file);
                }
                return;
            }
            (Known::Changed, OnChange::Fail) => {
                self.refused.get_or_insert(file.path);
                return;
            }
            (Known::New, _) => replace && self.seen.has_border(),
            (Known::Changed | Known::Unread, _) => replace,
        };
        self.is_new |= known != Known::Unread;
        self.wanted.push(ByTime(Planned { file, again }));
        if self.wanted.len() > MOST_FILES {
            self.more = true;
            self.wanted.pop();
        }
    }
}

/// Cuts files into slices by number, bytes and the size of the slice as JSON.
fn groups(planned: Vec<Planned>, slice_bytes: u64, shape: &Work) -> Vec<Vec<Planned>> {
    let fixed = serde_json::to_string(shape).map_or(0, |text| text.len());
    let budget = SLICE_JSON.saturating_sub(fixed).max(SLICE_JSON / 8);
    let mut groups: Vec<Vec<Planned>> = Vec::new();
    let (mut bytes, mut json) = (0, 0);
    for planned in planned {
        let size = planned.file.size;
        let text = serde_json::to_string(&planned).map_or(256, |text| text.len() + 1);
        let full =
            |group: &Vec<Planned>| group.len() >= SLICE_FILES || bytes + size > slice_bytes || json + text > budget;
        match groups.last_mut().filter(|group| !full(group)) {
            Some(group) => group.push(planned),
            None => {
                groups.push(vec![planned]);
                (bytes, json) = (0, 0);
            }
        }
        bytes += size;
        json += text;
    }
    groups
}
