//! Checks of rows: right, whole, of the types that were promised.

use std::collections::BTreeSet;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use futures::StreamExt;
use ingest_core::{Done, Event, Json, Mode, RawOut, Shape, Stream, columns};
use serde_json::Map;

use super::suite::{Positions, Read, Suite, groups, same_rows};
use super::{CanonicalRows, Check, Checked, Fault, check, wrong};
use crate::oracle::Rows;
use crate::out::Collected;

pub(super) const CHECKS: &[Check] = &[
    check!(
        "R01",
        "every stream gives rows, or is listed as empty",
        "`Ok(Complete)` promises that all rows of the slice are out",
        gives_rows
    ),
    check!(
        "R02",
        "rows have the types of the schema, and no column outside it",
        "rows have the types of the schema, columns that it knows, and nulls only where it says so",
        match_the_schema
    ),
    check!(
        "R03",
        "a read ends",
        "a slice ends: an API that repeats its pages or cursors is DataInvalid, not an endless read",
        ends
    ),
    check!(
        "R04",
        "keys of a full read are unique and not null",
        "the key names a row: in one full read it is never null and never comes twice",
        keys
    ),
    check!(
        "R05",
        "a full read gives what the source holds",
        "the slices of a plan together give exactly what the source holds",
        truth
    ),
    check!(
        "R06",
        "two full reads are equal",
        "reading changes nothing: two full reads of an unchanged source are equal",
        two_reads
    ),
    check!(
        "R08",
        "slices give the same in any order, at once, and in another process",
        "slices are independent: any order, several at once (`parallel`), and where `portable` is claimed another process",
        any_order
    ),
    check!(
        "R10",
        "an empty stream is read without rows and without an error",
        "an empty stream is read: no rows, no error, its schema is known",
        empty
    ),
    check!(
        "R11",
        "only the rows of a filter come, where filters are claimed",
        "`Capabilities::filter`: only the rows that `where` lets through come",
        filter
    ),
    check!(
        "R12",
        "only the wanted columns come, where projection is claimed",
        "`Capabilities::projection`: only the wanted columns come",
        projection
    ),
    check!(
        "R13",
        "batches follow the wanted size",
        "batches follow `Out::batch_bytes`, which is the memory that there is",
        batch_size
    ),
    check!(
        "R14",
        "estimates are near the truth, where they are given",
        "an estimate is near the truth, or is not given",
        estimates
    ),
];

/// The streams that can be read whole, and the read.
async fn full(suite: &Suite) -> Result<(Vec<Stream>, Read), Fault> {
    let source = suite.open().await?;
    let (mode, streams) = whole(suite, source.as_ref()).await?;
    let read = suite.read(source.as_ref(), &streams, mode, &Positions::new()).await?;
    Ok((streams, read))
}

/// The mode that reads everything from the start: `full` where there is one.
pub(super) async fn whole(suite: &Suite, source: &dyn ingest_core::Source) -> Result<(Mode, Vec<Stream>), Fault> {
    let modes = suite.modes(source).await?;
    modes.into_iter().next().ok_or_else(|| Fault::Wrong("no stream has a mode".into()))
}

async fn gives_rows(suite: &Suite) -> Checked {
    let (streams, read) = full(suite).await?;
    for stream in &streams {
        let rows = read.rows(&stream.name)?.len();
        let listed = suite.subject.empty.contains(&stream.name);
        if rows == 0 && !listed {
            return wrong(format!(
                "stream {} gives no rows; if it has none, say `.empty({:?})`",
                stream.name, stream.name
            ));
        }
        if rows > 0 && listed {
            return wrong(format!("stream {} is listed as empty and gives {rows} rows", stream.name));
        }
    }
    Ok(())
}

async fn match_the_schema(suite: &Suite) -> Checked {
    let streams = suite.streams(suite.open().await?.as_ref()).await?;
    suite
        .each_read(async |_, mode, read| {
            for stream in &streams {
                let mut schema = stream.schema.clone();
                for event in read.runs.iter().flat_map(|run| &run.events) {
                    match event {
                        Event::Schema(name, new) if *name == stream.name => schema = new.clone(),
                        Event::Rows(name, batch) if *name == stream.name => {
                            let fits = fits(&schema, batch);
                            fits.map_err(|why| Fault::Wrong(format!("stream {} in mode {mode}: {why}", stream.name)))?;
                        }
                        _ => {}
                    }
                }
            }
            let known: BTreeSet<_> = streams.iter().map(|stream| &stream.name).collect();
            let strangers = read.runs.iter().flat_map(|run| &run.events).find_map(|event| match event {
                Event::Rows(name, _) if !known.contains(name) => Some(name.clone()),
                _ => None,
            });
            match strangers {
                Some(name) => wrong(format!("rows of stream {name} come, which was not selected")),
                None => Ok(()),
            }
        })
        .await
}

fn fits(schema: &SchemaRef, batch: &RecordBatch) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let name = field.name();
        if !seen.insert(name) {
            return Err(format!("column {name:?} comes twice"));
        }
        let expected = if columns::is_reserved(name) {
            columns::field(name)
        } else {
            schema.field_with_name(name).map_err(|_| format!("column {name:?} is not in the schema"))?.clone()
        };
        if column.data_type() != expected.data_type() {
            return Err(format!("column {name:?} is {}, the schema says {}", column.data_type(), expected.data_type()));
        }
        let whole = batch.column_by_name(columns::ABSENT).is_none();
        if !expected.is_nullable() && column.null_count() > 0 && whole {
            return Err(format!("column {name:?} has nulls, the schema says that it has none"));
        }
    }
    Ok(())
}

async fn ends(suite: &Suite) -> Checked {
    let source = suite.open().await?;
    let (mode, streams) = whole(suite, source.as_ref()).await?;
    for group in groups(&streams) {
        let plan = suite.plan(source.as_ref(), &group, mode, &Positions::new()).await?;
        for slice in plan.slices.iter().filter(|slice| slice.shape != Shape::Feed) {
            suite.extract(source.as_ref(), slice, None).await?;
        }
    }
    Ok(())
}

async fn filter(suite: &Suite) -> Checked {
    if !suite.spec.capabilities.filter {
        return Err(Fault::DoesNotApply("filters are not claimed".into()));
    }
    let Some(filtered) = &suite.subject.filtered else { return Err(Fault::Needs("filtered(stream, filter, rows)")) };
    let source = suite.open().await?;
    let (mode, streams) = whole(suite, source.as_ref()).await?;
    let Some(stream) = streams.iter().find(|stream| stream.name == filtered.stream) else {
        return wrong(format!("the stream {} of the filter is not described", filtered.stream));
    };
    let mut request = super::suite::request(&[stream], mode, &Positions::new());
    request.streams[0].filter = Some(filtered.filter.clone());
    let plan = suite.ok("plan", source.plan(&request)).await?;
    let mut rows = 0;
    for slice in &plan.slices {
        let (events, _) = suite.extract(source.as_ref(), slice, None).await?;
        rows += events.iter().map(|e| if let Event::Rows(_, batch) = e { batch.num_rows() } else { 0 }).sum::<usize>();
    }
    match rows == filtered.rows {
        true => Ok(()),
        false => wrong(format!("stream {}: {rows} rows come, the filter lets {} through", stream.name, filtered.rows)),
    }
}

async fn keys(suite: &Suite) -> Checked {
    let (streams, read) = full(suite).await?;
    if read.slices(Shape::Feed) > 0 {
        return Err(Fault::DoesNotApply("the whole is read from a feed, where a key may come often".into()));
    }
    for stream in streams.iter().filter(|stream| !stream.key.is_empty()) {
        let mut seen = BTreeSet::new();
        for row in read.rows(&stream.name)? {
            let key: Vec<&Json> = stream.key.iter().map(|column| row.get(column).unwrap_or(&Json::Null)).collect();
            if key.iter().any(|value| value.is_null()) {
                return wrong(format!("stream {}: a row has a null in its key", stream.name));
            }
            if !seen.insert(format!("{key:?}")) {
                return wrong(format!("stream {}: a key comes twice in one read", stream.name));
            }
        }
    }
    Ok(())
}

async fn truth(suite: &Suite) -> Checked {
    let (streams, read) = full(suite).await?;
    for stream in &streams {
        equals_truth(stream, read.rows(&stream.name)?, suite.truth(&stream.name).await?)?;
    }
    Ok(())
}

/// Compares rows with the truth in the columns that both know.
pub(super) fn equals_truth(stream: &Stream, found: CanonicalRows, truth: CanonicalRows) -> Checked {
    let names = |rows: &CanonicalRows| rows.iter().flat_map(|row| row.keys().cloned()).collect::<BTreeSet<String>>();
    let (ours, theirs) = (names(&found), names(&truth));
    let common: BTreeSet<String> =
        if found.is_empty() { theirs } else { ours.intersection(&theirs).cloned().collect() };
    if common.is_empty() && !(found.is_empty() && truth.is_empty()) {
        return wrong(format!("stream {} and its truth have no column in common", stream.name));
    }
    let key: Vec<&str> = stream.key.iter().filter(|column| common.contains(*column)).map(String::as_str).collect();
    let cut = |rows: CanonicalRows| {
        let cut = |row: Map<String, Json>| row.into_iter().filter(|(name, _)| common.contains(name)).collect();
        Rows::of(&key, rows.into_iter().map(cut))
    };
    match cut(found).compare(&cut(truth)) {
        Ok(()) => Ok(()),
        Err(difference) => wrong(format!("stream {}: {difference}", stream.name)),
    }
}

async fn two_reads(suite: &Suite) -> Checked {
    let (streams, first) = full(suite).await?;
    let (_, second) = full(suite).await?;
    let events = |read: &Read| read.runs.iter().flat_map(|run| run.events.clone()).collect::<Vec<_>>();
    same_rows("the second read", &streams, &events(&second), &events(&first))
}

async fn any_order(suite: &Suite) -> Checked {
    let source = suite.open().await?;
    let (mode, streams) = whole(suite, source.as_ref()).await?;
    let read = suite.read(source.as_ref(), &streams, mode, &Positions::new()).await?;
    let bounded: Vec<_> = read.runs.iter().filter(|run| run.slice.shape != Shape::Feed).collect();
    let expected: Vec<Event> = bounded.iter().flat_map(|run| run.events.clone()).collect();
    let backwards = read_at_once(suite, source.as_ref(), bounded.iter().rev().map(|run| &run.slice)).await?;
    same_rows("slices backwards and at once", &streams, &backwards, &expected)?;
    if suite.spec.capabilities.portable {
        let other = suite.open().await?;
        let windows = || bounded.iter().filter(|run| run.slice.shape == Shape::Window);
        let expected: Vec<Event> = windows().flat_map(|run| run.events.clone()).collect();
        let elsewhere = read_at_once(suite, other.as_ref(), windows().map(|run| &run.slice)).await?;
        same_rows("windows in another process", &streams, &elsewhere, &expected)?;
    }
    Ok(())
}

/// Reads slices in this order, as many at once as the connector allows.
async fn read_at_once<'a>(
    suite: &Suite,
    source: &dyn ingest_core::Source,
    slices: impl Iterator<Item = &'a ingest_core::Slice<Json>>,
) -> Result<Vec<Event>, Fault> {
    let parallel = usize::from(suite.spec.capabilities.parallel.max(1)).min(8);
    let reads = slices.map(|slice| async move { suite.extract(source, slice, None).await });
    let mut all = Vec::new();
    let mut ended = futures::stream::iter(reads).buffer_unordered(parallel);
    while let Some(result) = ended.next().await {
        all.extend(result?.0);
    }
    Ok(all)
}

async fn empty(suite: &Suite) -> Checked {
    if suite.subject.empty.is_empty() {
        return Err(Fault::Needs("empty(stream)"));
    }
    let source = suite.open().await?;
    for (mode, streams) in suite.modes(source.as_ref()).await? {
        let streams: Vec<Stream> = streams.into_iter().filter(|s| suite.subject.empty.contains(&s.name)).collect();
        let read = suite.read(source.as_ref(), &streams, mode, &Positions::new()).await?;
        for stream in &streams {
            if !read.rows(&stream.name)?.is_empty() {
                return wrong(format!("empty stream {} gives rows in mode {mode}", stream.name));
            }
        }
    }
    let described = suite.streams(source.as_ref()).await?;
    match suite.subject.empty.iter().find(|name| !described.iter().any(|stream| stream.name == **name)) {
        Some(name) => wrong(format!("empty stream {name} is not described")),
        None => Ok(()),
    }
}

async fn projection(suite: &Suite) -> Checked {
    if !suite.spec.capabilities.projection {
        return Err(Fault::DoesNotApply("projection is not claimed".into()));
    }
    let source = suite.open().await?;
    let (mode, streams) = whole(suite, source.as_ref()).await?;
    for stream in &streams {
        let mut wanted: BTreeSet<String> = stream.key.iter().cloned().collect();
        wanted.extend(stream.schema.fields().iter().rev().take(1).map(|field| field.name().clone()));
        let mut request = super::suite::request(&[stream], mode, &Positions::new());
        request.streams[0].columns = Some(wanted.iter().cloned().collect());
        let plan = suite.ok("plan", source.plan(&request)).await?;
        for slice in &plan.slices {
            let (events, _) = suite.extract(source.as_ref(), slice, None).await?;
            for event in &events {
                let Event::Rows(_, batch) = event else { continue };
                let extra = batch
                    .schema_ref()
                    .fields()
                    .iter()
                    .find(|field| !wanted.contains(field.name()) && !columns::is_reserved(field.name()));
                if let Some(field) = extra {
                    return wrong(format!("stream {}: column {:?} comes unasked", stream.name, field.name()));
                }
            }
        }
    }
    Ok(())
}

/// A wanted size is a wish; sixteen times as much is another thing.
async fn batch_size(suite: &Suite) -> Checked {
    const WANTED: usize = 16 << 10;
    let source = suite.open().await?;
    let (mode, streams) = whole(suite, source.as_ref()).await?;
    for group in groups(&streams) {
        let plan = suite.plan(source.as_ref(), &group, mode, &Positions::new()).await?;
        for slice in plan.slices.iter().filter(|slice| slice.shape != Shape::Feed) {
            let mut out = Collected::new().batch_bytes(WANTED);
            let call = source.extract(slice, suite.spec.state_version, None, &mut out as &mut dyn RawOut);
            if suite.ok("extract", call).await? == Done::Complete && out.largest_batch > 16 * WANTED {
                return wrong(format!(
                    "a batch of slice {} holds {} bytes where {WANTED} were wanted",
                    slice.id, out.largest_batch
                ));
            }
        }
    }
    Ok(())
}

async fn estimates(suite: &Suite) -> Checked {
    let (_, read) = full(suite).await?;
    let mut given = false;
    for run in &read.runs {
        let Some(estimate) = run.slice.estimate.rows else { continue };
        given = true;
        let rows: u64 =
            run.events.iter().map(|e| if let Event::Rows(_, b) = e { b.num_rows() as u64 } else { 0 }).sum();
        // Statistics of a source are old, so only the order of magnitude counts.
        if estimate > 10 * rows + 1_000 || rows > 10 * estimate + 1_000 {
            return wrong(format!("slice {} says {estimate} rows and gives {rows}", run.slice.id));
        }
    }
    if given { Ok(()) } else { Err(Fault::DoesNotApply("no slice has an estimate of its rows".into())) }
}
