//! The model source gives what its server holds, in every shape.

use std::collections::BTreeMap;
use std::time::Duration;

use ingest_core::{
    Builtin, Context, Done, ErrorKind, Event, Factory, Intent, Json, Mode, Plan, PlanRequest, Selected, Selection,
    SliceId, Source, Stored, StreamName,
};
use ingest_testkit::oracle::{Rows, canonical_rows, newest};
use ingest_testkit::out::Collected;
use ingest_testkit::source::{Call, Model, ModelConfig, ModelConnector, Reading, Trouble};
use serde_json::Map;

type Positions = BTreeMap<SliceId, Stored>;

async fn open(model: &Model) -> Box<dyn Source> {
    Builtin::<ModelConnector>::new().open(model.config(), Context::standalone("shop")).await.unwrap()
}

async fn plan(source: &dyn Source, mode: Mode, positions: &Positions) -> Plan<Json, Stored> {
    let streams = source.schema(&Selection::default()).await.unwrap();
    let selected = |stream| Selected {
        stream,
        mode,
        cursor: (mode == Mode::Incremental).then(|| "changed".to_owned()),
        columns: None,
        filter: None,
        positions: positions.clone(),
    };
    let streams = streams.into_iter().map(selected).collect();
    let request =
        PlanRequest { streams, intent: Intent::Here, slice_bytes: 1 << 20, min_slices: 1, interval: None, now: 0 };
    source.plan(&request).await.unwrap()
}

/// Reads every slice of a plan to its end; the rows of `stream`, and where a feed stands after it.
async fn read(
    source: &dyn Source,
    plan: &Plan<Json, Stored>,
    stream: u32,
    at: &mut Positions,
) -> Vec<Map<String, Json>> {
    let mut rows = Vec::new();
    for slice in &plan.slices {
        let mut out = Collected::new();
        source.extract(slice, 1, at.get(&slice.id), &mut out).await.unwrap();
        if let Some(mark) = out.last_mark().filter(|mark| mark.seq.is_some()) {
            at.insert(slice.id.clone(), mark.clone());
        }
        let name = name(stream);
        rows.extend(out.batches(&name).flat_map(|batch| canonical_rows(batch).unwrap()));
    }
    let then = plan.then.get(&name(stream)).into_iter().flatten();
    at.extend(then.filter_map(|(id, position)| Some((id.clone(), position.clone()?))));
    rows
}

fn name(stream: u32) -> StreamName {
    format!("shop.stream_{stream}").into()
}

#[tokio::test]
async fn a_full_read_gives_every_row_once_in_both_shapes() {
    for reading in [Reading::Windows, Reading::Snapshot] {
        let model = Model::new(ModelConfig { rows: 1_234, reading, ..ModelConfig::default() });
        model.insert(0, 17);
        model.update(0, &[3, 1_234]);
        model.delete(0, &[5, 1_235]);
        let source = open(&model).await;
        let plan = plan(source.as_ref(), Mode::Full, &Positions::new()).await;
        let rows = read(source.as_ref(), &plan, 0, &mut Positions::new()).await;
        assert_eq!(rows.len(), 1_234 + 17 - 2);
        Rows::of(&["id"], rows).assert_equal(&Rows::of(&["id"], model.truth(0)));
    }
}

#[tokio::test]
async fn rows_that_commit_late_come_with_the_next_window() {
    let model = Model::new(ModelConfig { rows: 100, ..ModelConfig::default() });
    let source = open(&model).await;
    let mut at = Positions::new();
    let late = model.begin(0, 5);
    model.insert(0, 5);
    let first = plan(source.as_ref(), Mode::Incremental, &at).await;
    let mut rows = read(source.as_ref(), &first, 0, &mut at).await;
    assert_eq!(rows.len(), 100, "nothing above the open transaction is read");
    late.commit();
    let second = plan(source.as_ref(), Mode::Incremental, &at).await;
    rows.extend(read(source.as_ref(), &second, 0, &mut at).await);
    Rows::of(&["id"], rows).assert_equal(&Rows::of(&["id"], model.truth(0)));
}

#[tokio::test]
async fn the_log_after_a_first_load_comes_to_what_the_source_holds() {
    let model = Model::new(ModelConfig { rows: 200, streams: 2, ..ModelConfig::default() });
    let source = open(&model).await;
    let mut at = Positions::new();
    let load = plan(source.as_ref(), Mode::Cdc, &at).await;
    assert!(load.more);
    model.update(1, &[1, 2, 3]);
    let mut rows = read(source.as_ref(), &load, 1, &mut at).await;
    model.delete(1, &[2, 4]);
    model.insert(1, 120);
    model.insert(0, 3);
    let feed = plan(source.as_ref(), Mode::Cdc, &at).await;
    assert_eq!(feed.slices.len(), 1);
    rows.extend(read(source.as_ref(), &feed, 1, &mut at).await);
    Rows::of(&["id"], newest(&["id"], rows)).assert_equal(&Rows::of(&["id"], model.truth(1)));
    let again = read(source.as_ref(), &feed, 1, &mut at).await;
    assert!(again.is_empty(), "the mark covers everything");
    source.checkpoint(&feed.slices[0], 1, &at[&feed.slices[0].id]).await.unwrap();
    assert_eq!(model.acknowledged(), model.head());
}

#[tokio::test]
async fn a_truncated_stream_and_a_purged_log_are_said_aloud() {
    let model = Model::new(ModelConfig { rows: 10, ..ModelConfig::default() });
    let source = open(&model).await;
    let mut at = Positions::new();
    let load = plan(source.as_ref(), Mode::Cdc, &at).await;
    read(source.as_ref(), &load, 0, &mut at).await;
    model.truncate(0);
    assert_eq!(model.insert(0, 1), [10]);
    let feed = plan(source.as_ref(), Mode::Cdc, &at).await;
    let mut out = Collected::new();
    source.extract(&feed.slices[0], 1, at.get(&feed.slices[0].id), &mut out).await.unwrap();
    let kinds: Vec<_> = out.events.iter().map(|e| matches!(e, Event::Remove(..))).collect();
    assert_eq!(kinds, [true, false, false]);
    model.purge_log();
    let error = source.extract(&feed.slices[0], 1, at.get(&feed.slices[0].id), &mut out).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CheckpointInvalid);
}

#[tokio::test]
async fn scripted_troubles_come_once_and_in_order() {
    let model = Model::new(ModelConfig { rows: 100, slices: 1, mark_every: 30, ..ModelConfig::default() });
    let source = open(&model).await;
    let plan = plan(source.as_ref(), Mode::Full, &Positions::new()).await;
    let slice = &plan.slices[0];
    let pending = Trouble::Pending(70, Duration::from_secs(5));
    model.script(Call::Extract, "*/0", [Trouble::Fail(ErrorKind::Unavailable), pending]);
    model.script(Call::Extract, "*", [Trouble::FailAfter(25, ErrorKind::Timeout)]);

    let mut out = Collected::new();
    let error = source.extract(slice, 1, None, &mut out).await.unwrap_err();
    assert_eq!((error.kind(), out.rows()), (ErrorKind::Unavailable, 0));
    assert_eq!(source.extract(slice, 1, None, &mut out).await.unwrap(), Done::Pending(Duration::from_secs(5)));
    assert_eq!((out.rows(), out.marks().count()), (70, 3), "what came is covered by a mark");
    let from = out.last_mark().cloned();
    let error = source.extract(slice, 1, from.as_ref(), &mut out).await.unwrap_err();
    assert_eq!((error.kind(), out.rows()), (ErrorKind::Timeout, 95));
    let mut rest = Collected::new();
    assert_eq!(source.extract(slice, 1, from.as_ref(), &mut rest).await.unwrap(), Done::Complete);
    assert_eq!(rest.rows(), 30);
    assert_eq!(model.calls(Call::Extract), 4);
}

#[tokio::test]
async fn a_snapshot_dies_with_the_process_that_took_it() {
    let model = Model::new(ModelConfig { reading: Reading::Snapshot, ..ModelConfig::default() });
    let source = open(&model).await;
    let plan = plan(source.as_ref(), Mode::Full, &Positions::new()).await;
    drop(source);
    let other = open(&model).await;
    let error = other.extract(&plan.slices[0], 1, None, &mut Collected::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SliceExpired);
}

// With the clock paused, time passes only when everything waits.
#[tokio::test(start_paused = true)]
async fn a_followed_feed_gives_changes_as_they_come() {
    let model = Model::new(ModelConfig { rows: 3, ..ModelConfig::default() });
    let source = open(&model).await;
    let mut at = Positions::new();
    let load = plan(source.as_ref(), Mode::Cdc, &at).await;
    read(source.as_ref(), &load, 0, &mut at).await;
    let feed = plan(source.as_ref(), Mode::Cdc, &at).await;
    let mut out = Collected::new().following();
    {
        let following = source.extract(&feed.slices[0], 1, at.get(&feed.slices[0].id), &mut out);
        tokio::pin!(following);
        for _ in 0..3 {
            model.insert(0, 2);
            // The feed never ends by itself; it is given time until it waits for the next change.
            assert!(tokio::time::timeout(Duration::from_millis(20), &mut following).await.is_err());
        }
    }
    assert_eq!((out.rows(), out.marks().count()), (6, 3));
}
