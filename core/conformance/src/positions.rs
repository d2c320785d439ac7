//! Checks of positions: that nothing is lost or doubled wherever a slice stops and starts again.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use ingest_core::{
    Done, ErrorKind, Event, Json, Mode, RawOut, Seq, Shape, Source, Stored, Stream, StreamName, columns,
};

use super::reading::equals_truth;
use super::suite::{Positions, Read, Run, Suite, has_rows, json, same_rows};
use super::{Check, Checked, Fault, check, wrong};
use crate::oracle::newest;
use crate::out::Collected;

pub(super) const CHECKS: &[Check] = &[
    check!(
        "I01",
        "a second read without a change gives nothing again",
        "`then` and marks say what was read: a second read from them gives nothing again",
        second_read
    ),
    check!(
        "I02",
        "from every mark the rest comes, nothing lost and nothing twice",
        "`extract` gives every row after `from`, neither more nor less, from every mark that it emitted; a mark comes after the rows it covers",
        every_mark
    ),
    check!(
        "I03",
        "what changed between two reads comes with the second",
        "what changed after the positions were taken comes with the next read, and the reads together come to what the source holds",
        changes
    ),
    check!(
        "I04",
        "positions are small, pass through JSON, and foreign ones are refused",
        "positions pass through JSON, stay below 1 MiB (work: 64 KiB), and one of another version or shape is CheckpointInvalid",
        foreign_positions
    ),
    check!(
        "I05",
        "order only grows, and every event has its place in it",
        "marks never go back, and `_ingest_seq` of a row lies between the marks around it",
        order
    ),
    check!(
        "I06",
        "rows that become visible late are not lost",
        "the upper bound of a window is safe as `Safety` says: a row that becomes visible late comes with a later read",
        late_rows
    ),
    check!(
        "I07",
        "a call may be dropped at any await",
        "`extract` may be dropped at any await; what was not marked is given again",
        cancelled
    ),
    check!(
        "I08",
        "a call ends at once when the runner refuses",
        "an error of the way out is passed on at once: no more events, no other error",
        refused
    ),
    check!(
        "I09",
        "`checkpoint` may be repeated and come late",
        "`checkpoint` may be lost, repeated and late: it never moves the source back, and twice is fine",
        checkpoints
    ),
    check!(
        "I10",
        "a window by hand leaves the positions alone",
        "a plan of an interval is bounded and leaves the positions alone: `then` is empty",
        interval
    ),
];

/// After all others: the source has lost something afterwards.
pub(super) const LAST: &[Check] = &[check!(
    "F07",
    "a feed whose log is gone says so",
    "what is gone is SliceExpired or CheckpointInvalid; a feed never starts later than `from` in silence",
    lost_log
)];

/// How many slices of one read are dropped and refused in every way; the first and the last are among them.
const SLICES: usize = 3;
/// How many awaits of one slice a call is dropped at, and how many events it is refused at: all of them in a slice that
/// has no more.
const POINTS: usize = 32;

/// `count` of `0..all`, evenly spread, the first and the last among them.
fn spread(all: usize, count: usize) -> Vec<usize> {
    match (all, count) {
        (0, _) | (_, 0) => Vec::new(),
        (_, 1) => vec![all - 1],
        _ if all <= count => (0..all).collect(),
        _ => (0..count).map(|i| i * (all - 1) / (count - 1)).collect(),
    }
}

fn some_runs(read: &Read) -> impl Iterator<Item = &Run> {
    spread(read.runs.len(), SLICES).into_iter().map(|at| &read.runs[at])
}

fn incremental(suite: &Suite) -> Result<(), Fault> {
    match suite.spec.capabilities.modes.iter().any(|mode| *mode != Mode::Full) {
        true => Ok(()),
        false => Err(Fault::DoesNotApply("only full reads are claimed".into())),
    }
}

async fn second_read(suite: &Suite) -> Checked {
    incremental(suite)?;
    let source = suite.open().await?;
    for (mode, streams) in suite.modes(source.as_ref()).await? {
        if mode == Mode::Full {
            continue;
        }
        let first = suite.read(source.as_ref(), &streams, mode, &Positions::new()).await?;
        for stream in &streams {
            if first.positions.get(&stream.name).is_none_or(|held| held.is_empty()) {
                return wrong(format!("stream {} holds no position after a read in mode {mode}", stream.name));
            }
        }
        let other = suite.open().await?;
        let second = suite.read(other.as_ref(), &streams, mode, &first.positions).await?;
        for stream in &streams {
            let rows = second.rows(&stream.name)?.len();
            if rows > 0 {
                return wrong(format!("stream {} gives {rows} rows again in mode {mode}", stream.name));
            }
        }
    }
    Ok(())
}

async fn every_mark(suite: &Suite) -> Checked {
    let streams = suite.streams(suite.open().await?.as_ref()).await?;
    suite
        .each_read(async |source, mode, read| {
            // A window is the same for everybody, so another process takes it up; a snapshot lives where it was taken.
            let other = suite.open().await?;
            for run in &read.runs {
                let by: &dyn Source = if run.slice.shape == Shape::Snapshot { source } else { other.as_ref() };
                let marks = run.events.iter().enumerate();
                let marks: Vec<_> = marks
                    .filter_map(|(at, event)| if let Event::Mark(mark) = event { Some((at, mark)) } else { None })
                    .collect();
                for nth in spread(marks.len(), suite.subject.resumes) {
                    let (at, mark) = marks[nth];
                    let mark = through_json(mark)?;
                    let (events, _) = suite.extract(by, &run.slice, Some(&mark)).await?;
                    let what =
                        format!("slice {} in mode {mode}, from mark {} of {}", run.slice.id, nth + 1, marks.len());
                    same_rows(&what, &streams, &events, &run.events[at + 1..])?;
                }
            }
            Ok(())
        })
        .await
}

fn through_json(mark: &Stored) -> Result<Stored, Fault> {
    serde_json::from_str(&json(mark)?).map_err(|error| Fault::Wrong(format!("a position cannot be read back: {error}")))
}

async fn changes(suite: &Suite) -> Checked {
    incremental(suite)?;
    let Some(change) = &suite.subject.change else { return Err(Fault::Needs("change(at the source)")) };
    if suite.subject.truth.is_none() {
        return Err(Fault::Needs("truth(rows of a stream)"));
    }
    let source = suite.open().await?;
    for (mode, streams) in suite.modes(source.as_ref()).await? {
        if mode == Mode::Full {
            continue;
        }
        let mut reads = vec![suite.read(source.as_ref(), &streams, mode, &Positions::new()).await?];
        for _ in 0..2 {
            suite.act("change the source", change).await?;
            let held = reads.last().map(|read| read.positions.clone()).unwrap_or_default();
            reads.push(suite.read(source.as_ref(), &streams, mode, &held).await?);
        }
        for stream in streams.iter().filter(|stream| !suite.subject.empty.contains(&stream.name)) {
            for (nth, read) in reads.iter().enumerate().skip(1) {
                if !has_rows(&events_of(read, &stream.name)) {
                    return wrong(format!(
                        "stream {}: read {} after a change gives nothing in mode {mode}",
                        stream.name,
                        nth + 1
                    ));
                }
            }
            equals_truth(stream, come_to(&reads, stream, mode)?, suite.truth(&stream.name).await?)
                .map_err(|fault| in_mode(fault, mode))?;
        }
    }
    Ok(())
}

/// What the rows of several reads come to: of each key the newest.
pub(super) fn come_to(reads: &[Read], stream: &Stream, mode: Mode) -> Result<super::CanonicalRows, Fault> {
    let mut rows = Vec::new();
    for (nth, read) in reads.iter().enumerate() {
        for mut row in read.rows(&stream.name)? {
            // Rows without an order of their own are as old as their read.
            let own = row.get(columns::SEQ).and_then(Json::as_str).unwrap_or_default().to_owned();
            let age = if mode == Mode::Cdc { String::new() } else { format!("{nth:04} ") };
            row.insert(columns::SEQ.into(), Json::String(format!("{age}{own}")));
            rows.push(row);
        }
    }
    let key: Vec<&str> = stream.key.iter().map(String::as_str).collect();
    Ok(if key.is_empty() { rows } else { newest(&key, rows) })
}

fn in_mode(fault: Fault, mode: Mode) -> Fault {
    match fault {
        Fault::Wrong(text) => Fault::Wrong(format!("in mode {mode}: {text}")),
        other => other,
    }
}

fn events_of(read: &Read, stream: &StreamName) -> Vec<Event> {
    let of_stream = |event: &&Event| matches!(event, Event::Rows(name, _) | Event::Remove(name, ..) if name == stream);
    read.runs.iter().flat_map(|run| &run.events).filter(of_stream).cloned().collect()
}

async fn foreign_positions(suite: &Suite) -> Checked {
    const WORK: usize = 64 << 10;
    const POSITION: usize = 1 << 20;
    let version = suite.spec.state_version;
    let mut tried = false;
    let result = suite.each_read(async |source, _, read| {
        for run in some_runs(read) {
            let size = run.slice.work.to_string().len();
            if size > WORK {
                return wrong(format!("the work of slice {} takes {size} bytes", run.slice.id));
            }
            for event in &run.events {
                let Event::Mark(mark) = event else { continue };
                if mark.v != version {
                    return wrong(format!("a mark says version {}, the specification {version}", mark.v));
                }
                if mark.at.to_string().len() > POSITION {
                    return wrong("a position is larger than 1 MiB");
                }
            }
            let newer = Stored { v: version + 1, seq: None, at: Json::Null };
            let odd = Stored { v: version, seq: None, at: serde_json::json!({"no such": ["position"]}) };
            for (what, position) in [("of a newer version", newer), ("of another connector", odd)] {
                let mut out = Collected::new();
                let call = source.extract(&run.slice, version, Some(&position), &mut out as &mut dyn RawOut);
                match suite.call("extract", call).await? {
                    Err(error) if error.kind() == ErrorKind::CheckpointInvalid => {}
                    other => return wrong(format!("a position {what} gives {other:?}, not CheckpointInvalid")),
                }
            }
        }
        Ok(())
    });
    result.await?;
    // Positions of a table are kept for months, so those of `plan` matter as much.
    let source = suite.open().await?;
    for (mode, streams) in suite.modes(source.as_ref()).await? {
        if mode == Mode::Full {
            continue;
        }
        let read = suite.read(source.as_ref(), &streams, mode, &Positions::new()).await?;
        let mut held = read.positions.clone();
        for position in held.values_mut().flat_map(|positions| positions.values_mut()) {
            *position = Stored { v: version + 1, ..through_json(position)? };
            tried = true;
        }
        for group in super::suite::groups(&streams) {
            let request = super::suite::request(&group, mode, &held);
            match suite.call("plan", source.plan(&request)).await? {
                Err(error) if error.kind() == ErrorKind::CheckpointInvalid => {}
                Err(error) => return wrong(format!("`plan` refuses positions of a newer version as {error:?}")),
                Ok(_) if tried => return wrong("`plan` takes positions of a newer version"),
                Ok(_) => {}
            }
        }
    }
    Ok(())
}

async fn order(suite: &Suite) -> Checked {
    suite
        .each_read(async |_, mode, read| {
            for run in &read.runs {
                let needed = run.slice.shape == Shape::Feed && run.slice.streams.len() > 1;
                in_order(run, needed)
                    .map_err(|why| Fault::Wrong(format!("slice {} in mode {mode}: {why}", run.slice.id)))?;
            }
            Ok(())
        })
        .await
}

/// Rows between two marks lie between their orders.
fn in_order(run: &Run, needed: bool) -> Result<(), String> {
    let mut low: Option<Seq> = run.from.as_ref().and_then(|from| from.seq.clone());
    let mut newest: Option<String> = None;
    for event in &run.events {
        match event {
            Event::Rows(stream, batch) => {
                let Some(column) = batch.column_by_name(columns::SEQ) else {
                    if needed {
                        return Err(format!("rows of {stream} have no {}", columns::SEQ));
                    }
                    continue;
                };
                let Some(seqs) = column.as_any().downcast_ref::<arrow_array::StringArray>() else {
                    return Err(format!("{} is not text", columns::SEQ));
                };
                for seq in seqs {
                    let Some(seq) = seq else { return Err(format!("a row of {stream} has no {}", columns::SEQ)) };
                    if low.as_ref().is_some_and(|low| seq <= low.as_str()) {
                        return Err(format!("a row of {stream} lies at {seq}, which an earlier mark covers"));
                    }
                    newest = newest.max(Some(seq.to_owned()));
                }
            }
            Event::Mark(mark) => {
                let Some(seq) = &mark.seq else {
                    if needed {
                        return Err("a mark of a slice of several streams has no order".into());
                    }
                    continue;
                };
                if low.as_ref().is_some_and(|low| seq < low) {
                    return Err(format!(
                        "a mark at {seq} follows one at {}",
                        low.map(|s| s.to_string()).unwrap_or_default()
                    ));
                }
                if newest.as_ref().is_some_and(|newest| newest.as_str() > seq.as_str()) {
                    return Err(format!("a mark at {seq} covers a row at {}", newest.unwrap_or_default()));
                }
                low = Some(seq.clone());
            }
            _ => {}
        }
    }
    Ok(())
}

async fn late_rows(suite: &Suite) -> Checked {
    incremental(suite)?;
    let Some((begin, commit)) = &suite.subject.late else { return Err(Fault::Needs("late(begin, commit)")) };
    let Some(change) = &suite.subject.change else { return Err(Fault::Needs("change(at the source)")) };
    if suite.subject.truth.is_none() {
        return Err(Fault::Needs("truth(rows of a stream)"));
    }
    let source = suite.open().await?;
    for (mode, streams) in suite.modes(source.as_ref()).await? {
        if mode == Mode::Full {
            continue;
        }
        let mut reads = vec![suite.read(source.as_ref(), &streams, mode, &Positions::new()).await?];
        suite.act("begin to write a late row", begin).await?;
        suite.act("change the source", change).await?;
        for committed in [false, true] {
            if committed {
                suite.act("make the late row visible", commit).await?;
            }
            let held = reads.last().map(|read| read.positions.clone()).unwrap_or_default();
            reads.push(suite.read(source.as_ref(), &streams, mode, &held).await?);
        }
        for stream in &streams {
            equals_truth(stream, come_to(&reads, stream, mode)?, suite.truth(&stream.name).await?)
                .map_err(|fault| in_mode(fault, mode))?;
        }
    }
    Ok(())
}

/// A future that gives up after so many polls, and counts them.
struct Polls<F> {
    inner: Pin<Box<F>>,
    left: usize,
    polled: usize,
}

impl<F: Future> Future for Polls<F> {
    /// What it came to, if it did, and how often it was polled.
    type Output = (Option<F::Output>, usize);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            return Poll::Ready((None, self.polled));
        }
        self.left -= 1;
        self.polled += 1;
        match self.inner.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready((Some(output), self.polled)),
            Poll::Pending if self.left == 0 => Poll::Ready((None, self.polled)),
            Poll::Pending => Poll::Pending,
        }
    }
}

async fn cancelled(suite: &Suite) -> Checked {
    let streams = suite.streams(suite.open().await?.as_ref()).await?;
    suite
        .each_read(async |source, mode, read| {
            for run in some_runs(read) {
                let all = dropped_after(suite, source, &streams, mode, run, usize::MAX).await?;
                for polls in spread(all.saturating_sub(1), POINTS) {
                    dropped_after(suite, source, &streams, mode, run, polls + 1).await?;
                }
            }
            Ok(())
        })
        .await
}

/// Drops a call after so many polls and reads on from its last mark. Gives how often it was polled.
async fn dropped_after(
    suite: &Suite,
    source: &dyn Source,
    streams: &[Stream],
    mode: Mode,
    run: &Run,
    polls: usize,
) -> Result<usize, Fault> {
    let mut out = Collected::new();
    let call = source.extract(&run.slice, suite.spec.state_version, run.from.as_ref(), &mut out);
    let call = Polls { inner: Box::pin(call), left: polls, polled: 0 };
    let (ended, polled) = suite.ok("extract", async { Ok(call.await) }).await?;
    // A call that ended by itself was not dropped: another check looks at what it gave.
    if let Some(ended) = ended {
        ended.map_err(|error| Fault::Wrong(format!("extract failed: {error:?}")))?;
        return Ok(polled);
    }
    let from = out.last_mark().or(run.from.as_ref());
    let (rest, _) = suite.extract(source, &run.slice, from).await?;
    let all = [out.covered(), &rest].concat();
    let what = format!("slice {} in mode {mode}, dropped after {polls} polls and read on", run.slice.id);
    same_rows(&what, streams, &all, &run.events)?;
    Ok(polled)
}

async fn refused(suite: &Suite) -> Checked {
    suite
        .each_read(async |source, mode, read| {
            for run in some_runs(read) {
                for events in spread(run.events.len(), POINTS) {
                    let mut out = Collected::new().refuse_after(events);
                    let call = source.extract(&run.slice, suite.spec.state_version, run.from.as_ref(), &mut out);
                    let what = format!("slice {} in mode {mode}, refused after {events} events", run.slice.id);
                    match suite.call("extract", call).await? {
                        Err(error) if error.kind() == ErrorKind::Cancelled => {}
                        // What is not ready, or not there any more, ended before the refusal.
                        Ok(Done::Pending(_)) if out.refusals() == 0 => {}
                        other => return wrong(format!("{what}: {other:?}, not the refusal passed on")),
                    }
                    if out.refusals() > 1 {
                        return wrong(format!("{what}: {} more events are offered", out.refusals() - 1));
                    }
                }
            }
            Ok(())
        })
        .await
}

async fn checkpoints(suite: &Suite) -> Checked {
    let streams = suite.streams(suite.open().await?.as_ref()).await?;
    suite
        .each_read(async |source, mode, read| {
            let version = suite.spec.state_version;
            for run in &read.runs {
                let marks: Vec<&Stored> =
                    run.events.iter().filter_map(|e| if let Event::Mark(at) = e { Some(at) } else { None }).collect();
                let (Some(first), Some(last)) = (marks.first(), marks.last()) else { continue };
                for at in [last, last, first] {
                    suite.ok("checkpoint", source.checkpoint(&run.slice, version, at)).await?;
                }
                let (events, _) = suite.extract(source, &run.slice, Some(last)).await?;
                let end = run.events.iter().rposition(|event| matches!(event, Event::Mark(_))).map_or(0, |at| at + 1);
                let what = format!("slice {} in mode {mode}, after `checkpoint`", run.slice.id);
                same_rows(&what, &streams, &events, &run.events[end..])?;
            }
            Ok(())
        })
        .await
}

async fn interval(suite: &Suite) -> Checked {
    incremental(suite)?;
    let source = suite.open().await?;
    let mut tried = false;
    let streams = suite.streams(source.as_ref()).await?;
    let by_cursor = |stream: &&Stream| stream.modes.contains(&Mode::Incremental) && !stream.cursors.is_empty();
    for stream in streams.iter().filter(by_cursor) {
        let mut request = super::suite::request(&[stream], Mode::Incremental, &Positions::new());
        request.interval = Some((0, request.now));
        let plan = match suite.call("plan", source.plan(&request)).await? {
            Ok(plan) => plan,
            // A cursor that is not a time has no such window.
            Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::ConfigInvalid) => continue,
            Err(error) => return wrong(format!("plan of a window of stream {} failed: {error:?}", stream.name)),
        };
        tried = true;
        if let Some(slice) = plan.slices.iter().find(|slice| slice.shape == Shape::Feed) {
            return wrong(format!("stream {}: a window by hand is read from the feed {}", stream.name, slice.id));
        }
        if plan.then.values().any(|positions| !positions.is_empty()) {
            return wrong(format!("stream {}: a window by hand says that positions hold after it", stream.name));
        }
    }
    if tried { Ok(()) } else { Err(Fault::DoesNotApply("no stream has a cursor that is a time".into())) }
}

async fn lost_log(suite: &Suite) -> Checked {
    incremental(suite)?;
    let source = suite.open().await?;
    let mut feeds = Vec::new();
    for (mode, streams) in suite.modes(source.as_ref()).await? {
        let read = suite.read(source.as_ref(), &streams, mode, &Positions::new()).await?;
        let plans = read.plans.iter().flat_map(|plan| &plan.slices);
        if plans.clone().any(|slice| slice.shape == Shape::Feed) {
            feeds.push((mode, streams, read.positions));
        }
    }
    if feeds.is_empty() {
        return Err(Fault::DoesNotApply("no slice is a feed".into()));
    }
    let Some(lose) = &suite.subject.lose_log else { return Err(Fault::Needs("lose_log(at the source)")) };
    suite.act("lose the log", lose).await?;
    for (mode, streams, positions) in feeds {
        match suite.read(source.as_ref(), &streams, mode, &positions).await {
            Err(Fault::Wrong(text)) if text.contains("CheckpointInvalid") || text.contains("SliceExpired") => {}
            Err(fault) => return Err(fault),
            Ok(_) => return wrong(format!("in mode {mode} the feed goes on as if nothing was lost")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_spread_over_the_whole() {
        assert_eq!(spread(0, 5), Vec::<usize>::new());
        assert_eq!(spread(3, 5), [0, 1, 2]);
        assert_eq!(spread(101, 5), [0, 25, 50, 75, 100]);
        assert_eq!(spread(7, 1), [6]);
    }
}
