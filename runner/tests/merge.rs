//! Write modes by key, end to end: what the model has is what the table has.

use std::collections::BTreeMap;

use ingest_core::config::Span;
use ingest_core::{Mode, WriteMode};
use ingest_runner::config::{Deletes, StreamOptions, SweepOptions};
use ingest_runner::run::RunOptions;
use ingest_testkit::source::{Model, ModelConfig, Reading};

use crate::lake::World;

fn keyed(mode: Mode, write: WriteMode) -> StreamOptions {
    StreamOptions { mode: Some(mode), write: Some(write), ..StreamOptions::default() }
}

fn world(rows: u64, options: StreamOptions) -> World {
    World::new(Model::new(ModelConfig { rows, ..ModelConfig::default() })).with(options)
}

/// One current version at most, and none that overlap or end before they begin.
pub fn spans_are_whole(spans: &BTreeMap<i64, Vec<(i64, Option<i64>)>>, context: &str) {
    for (id, spans) in spans {
        for pair in spans.windows(2) {
            assert!(pair[0].1.is_some_and(|end| end <= pair[1].0), "{context}: versions of {id} overlap: {spans:?}");
        }
        assert!(spans.iter().all(|(from, to)| to.is_none_or(|to| to > *from)), "{context}: {id} has an empty version");
    }
}

async fn good(world: &World, name: &str) -> ingest_runner::events::StreamReport {
    let report = world.run(name, &RunOptions::default()).await;
    assert_eq!(report.exit_code, 0, "{report:#?}");
    report.streams[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn merge_of_a_change_feed_equals_the_source_after_every_run() {
    let world = world(500, keyed(Mode::Cdc, WriteMode::Merge));
    for step in 0..8 {
        let report = good(&world, &format!("run-{step}")).await;
        assert_eq!(world.versions(0).await, world.true_versions(0), "step {step}");
        assert!(report.merge.is_some());
        let ids = world.model.insert(0, 20);
        world.model.update(0, &[1, 2, ids[0], ids[1], ids[1]]);
        world.model.delete(0, &[step, 100 + step, ids[2]]);
        world.model.update(0, &[3]);
    }
    let report = good(&world, "last").await;
    let merge = report.merge.expect("figures");
    assert!(merge.files_touched > 0 && merge.rows_rewritten > 0 && merge.bytes_per_changed_row.is_some(), "{report:?}");
    assert_eq!(world.versions(0).await, world.true_versions(0));
    assert_eq!(good(&world, "quiet").await.commit_version, None, "nothing new, no commit");
}

#[tokio::test(flavor = "multi_thread")]
async fn merge_by_a_cursor_replaces_rows_that_were_updated() {
    let world = world(300, keyed(Mode::Incremental, WriteMode::Merge));
    good(&world, "one").await;
    world.model.update(0, &[0, 5, 299]);
    world.model.insert(0, 7);
    let report = good(&world, "two").await;
    assert_eq!((report.rows_read, report.rows_written), (10, 10));
    assert_eq!(world.versions(0).await, world.true_versions(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_read_deletes_what_is_gone_unless_told_to_ignore_it() {
    for reading in [Reading::Windows, Reading::Snapshot] {
        for (deletes, gone) in [(None, true), (Some(Deletes::Sweep), true), (Some(Deletes::Ignore), false)] {
            let model = Model::new(ModelConfig { rows: 300, reading, ..ModelConfig::default() });
            let options = StreamOptions { deletes, ..keyed(Mode::Full, WriteMode::Merge) };
            let world = World::new(model).with(options);
            good(&world, "one").await;
            world.model.delete(0, &[3, 4, 299]);
            world.model.update(0, &[7]);
            good(&world, "two").await;
            let found = world.ids(0).await.contains(&3);
            assert_eq!(found, !gone, "{deletes:?}");
            if gone {
                assert_eq!(world.versions(0).await, world.true_versions(0));
            }
        }
    }
}

/// An incremental stream of which a run reads about a hundred keys to look for rows that are gone.
fn swept(write: WriteMode) -> StreamOptions {
    let budget = std::num::NonZeroU64::new(100).expect("a number");
    let sweep = Some(SweepOptions { every: Span::seconds(0), budget });
    StreamOptions { sweep, ..keyed(Mode::Incremental, write) }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_gone_vanish_over_several_runs_and_rows_that_came_meanwhile_stay() {
    for reading in [Reading::Windows, Reading::Snapshot] {
        for (write, soft) in [(WriteMode::Merge, false), (WriteMode::Merge, true), (WriteMode::Scd2, false)] {
            let model = Model::new(ModelConfig { rows: 500, reading, ..ModelConfig::default() });
            let world = World::new(model).with(StreamOptions { soft_delete: soft.then_some(true), ..swept(write) });
            assert_eq!(good(&world, "first").await.sweep, None, "what was just loaded is as the source is");
            world.model.delete(0, &[3, 250, 499]);
            let context = format!("{reading:?}, {write}, soft {soft}");
            let mut runs = 0;
            loop {
                runs += 1;
                let report = good(&world, &format!("run-{runs}")).await;
                let sweep = report.sweep.expect("a sweep is under way");
                // Keys below those that were read by now, and above.
                world.model.insert(0, 2);
                world.model.update(0, &[runs, 499 - runs]);
                if sweep.ended {
                    assert_eq!((sweep.rows_deleted, sweep.slices_done), (3, sweep.slices), "{context}: {report:?}");
                    break;
                }
                assert!(sweep.keys_read < 300, "{context}: {report:?}");
                let ids: Vec<i64> = world.versions(0).await.into_iter().map(|(id, _)| id).collect();
                assert!(
                    [3, 250, 499].iter().all(|id| ids.contains(id)),
                    "{context}: nothing goes before all keys are there"
                );
                assert!(runs < 20, "{context}: the sweep never ends");
            }
            assert!(runs > 2, "{context}: {runs} runs");
            good(&world, "last").await;
            assert_eq!(world.versions(0).await, world.true_versions(0), "{context}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_waits_for_its_time_and_ends_with_the_rows_that_it_is_of() {
    let options = swept(WriteMode::Merge);
    let sweep = options.sweep.map(|sweep| SweepOptions { every: Span::seconds(86_400), ..sweep });
    let mut world = world(400, StreamOptions { sweep, ..options });
    good(&world, "first").await;
    for run in 0..10 {
        if good(&world, &format!("run-{run}")).await.sweep.is_some_and(|sweep| sweep.ended) {
            break;
        }
    }
    world.model.delete(0, &[5]);
    assert_eq!(good(&world, "early").await.sweep, None, "the next one is a day away");
    world.skew = Some(std::sync::Arc::new(Tomorrow));
    let begun = good(&world, "due").await.sweep.expect("a day has passed");
    assert!(!begun.ended && begun.slices_done < begun.slices, "{begun:?}");
    // All rows are new now: those of the sweep are no more.
    let refresh = RunOptions { full_refresh: true, ..RunOptions::default() };
    assert_eq!(world.run("refresh", &refresh).await.exit_code, 0);
    assert_eq!(world.versions(0).await, world.true_versions(0));
    let begun = good(&world, "anew").await.sweep.expect("a new one begins");
    assert!(begun.slices_done < begun.slices, "nothing of the old one counts: {begun:?}");
}

struct Tomorrow;

impl ingest_core::Clock for Tomorrow {
    fn now_micros(&self) -> i64 {
        ingest_core::SystemClock.now_micros() + 2 * 86_400_000_000
    }
}

/// A clock that is hours behind that of the machine that began the sweep.
struct Late;

impl ingest_core::Clock for Late {
    fn now_micros(&self) -> i64 {
        ingest_core::SystemClock.now_micros() - 6 * 3_600_000_000
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_machine_with_a_late_clock_brings_in_are_not_swept() {
    let mut world = world(400, swept(WriteMode::Merge));
    good(&world, "first").await;
    assert!(!good(&world, "begun").await.sweep.expect("begun").ended);
    world.skew = Some(std::sync::Arc::new(Late));
    for run in 0..10 {
        world.model.insert(0, 3);
        let ended = good(&world, &format!("late-{run}")).await.sweep.is_some_and(|sweep| sweep.ended);
        assert_eq!(world.versions(0).await, world.true_versions(0), "run {run}");
        if ended {
            return;
        }
    }
    panic!("the sweep never ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_rows_stay_marked_with_soft_delete_and_come_back() {
    for mode in [Mode::Cdc, Mode::Full] {
        let options = StreamOptions { soft_delete: Some(true), ..keyed(mode, WriteMode::Merge) };
        let world = world(100, options);
        good(&world, "one").await;
        world.model.delete(0, &[10, 20]);
        good(&world, "two").await;
        assert_eq!(world.ids(0).await.len(), 100, "nothing is gone");
        assert_eq!(world.versions(0).await, world.true_versions(0));
        good(&world, "three").await;
        assert_eq!(world.versions(0).await, world.true_versions(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_there_stay_where_rows_are_inserted_alone() {
    let world = world(100, keyed(Mode::Incremental, WriteMode::Insert));
    good(&world, "one").await;
    let before = world.versions(0).await;
    world.model.update(0, &[1, 2]);
    let ids = world.model.insert(0, 3);
    assert_eq!(good(&world, "two").await.rows_written, 3);
    let expected: Vec<_> = before.into_iter().chain(ids.into_iter().map(|id| (id, 0))).collect();
    assert_eq!(world.versions(0).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_follow_a_change_feed_without_a_gap() {
    let world = world(200, keyed(Mode::Cdc, WriteMode::Scd2));
    good(&world, "one").await;
    for step in 0..6 {
        world.model.update(0, &[1, 2, 3]);
        world.model.delete(0, &[50 + step]);
        world.model.insert(0, 5);
        good(&world, &format!("run-{step}")).await;
        assert_eq!(world.versions(0).await, world.true_versions(0), "step {step}");
        let spans = world.spans(0).await;
        spans_are_whole(&spans, "feed");
        assert_eq!(spans[&1].len(), usize::try_from(step).unwrap() + 2);
        assert!(spans[&1].windows(2).all(|pair| pair[0].1 == Some(pair[1].0)), "{:?}", spans[&1]);
        assert!(spans[&50].last().unwrap().1.is_some(), "a deleted row has ended");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_of_complete_reads_close_what_is_gone_and_leave_equal_rows_alone() {
    let world = world(200, keyed(Mode::Full, WriteMode::Scd2));
    good(&world, "one").await;
    world.model.update(0, &[1]);
    world.model.delete(0, &[2]);
    let report = good(&world, "two").await;
    assert_eq!(report.rows_written, 3, "one version ended and one began, one was closed");
    assert_eq!(world.versions(0).await, world.true_versions(0));
    let report = good(&world, "three").await;
    assert_eq!(report.rows_written, 0, "equal rows change nothing");
    spans_are_whole(&world.spans(0).await, "full");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_refresh_of_a_merged_table_replaces_it() {
    let world = world(200, keyed(Mode::Incremental, WriteMode::Merge));
    good(&world, "one").await;
    world.model.delete(0, &[1, 2]);
    let report = world.run("two", &RunOptions { full_refresh: true, ..RunOptions::default() }).await;
    assert_eq!(report.exit_code, 0, "{report:#?}");
    assert_eq!(world.versions(0).await, world.true_versions(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn options_that_do_not_go_together_are_refused() {
    let append = keyed(Mode::Incremental, WriteMode::Append);
    let merge = keyed(Mode::Incremental, WriteMode::Merge);
    let cases = [
        (StreamOptions { soft_delete: Some(true), ..append.clone() }, "soft_delete"),
        (StreamOptions { deletes: Some(Deletes::Ignore), ..append }, "deletes"),
        (swept(WriteMode::Append), "sweep"),
        (swept(WriteMode::Insert), "sweep"),
        (StreamOptions { mode: Some(Mode::Full), ..swept(WriteMode::Merge) }, "spread"),
        (StreamOptions { mode: Some(Mode::Cdc), ..swept(WriteMode::Merge) }, "change log"),
        (StreamOptions { deletes: Some(Deletes::Ignore), ..swept(WriteMode::Merge) }, "ignore"),
        (
            StreamOptions {
                added_columns: Some(BTreeMap::from([("_ingested_at".to_owned(), false)])),
                ..swept(WriteMode::Merge)
            },
            "_ingested_at",
        ),
        (StreamOptions { track: Some(vec!["version".into()]), ..merge.clone() }, "track"),
        (StreamOptions { key: Some(vec!["idd".into()]), ..merge.clone() }, "idd"),
        (StreamOptions { key: Some(vec![]), ..merge }, "key"),
    ];
    for (options, word) in cases {
        let world = world(10, options);
        let report = world.run("one", &RunOptions::default()).await;
        assert_eq!(report.exit_code, 2, "{word}: {report:#?}");
        let error = report.streams[0].error.as_ref().expect("an error");
        assert!(error.message.contains(word), "{word}: {error:?}");
        assert!(error.hint.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_a_key_go_to_quarantine() {
    // One row in eight has no amount.
    let options = StreamOptions { key: Some(vec!["amount".into()]), ..keyed(Mode::Incremental, WriteMode::Merge) };
    let world = world(400, options);
    let report = good(&world, "one").await;
    assert!(report.rows_quarantined > 0, "{report:?}");
    assert_eq!(report.rows_written + report.rows_quarantined, 400);
    let table = world.lake().format.open("quarantine/shop/shop_stream_0").await.unwrap().expect("a quarantine");
    let rows: usize = table.read(usize::MAX).await.unwrap().iter().map(arrow_array::RecordBatch::num_rows).sum();
    assert_eq!(rows as u64, report.rows_quarantined);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_merged_by_masked_keys_and_quarantined_with_masks() {
    let options = |key: &str| StreamOptions {
        key: Some(vec![key.into()]),
        mask: serde_json::from_value(serde_json::json!({"id": "hash", "payload": "redact"})).expect("masks"),
        ..keyed(Mode::Incremental, WriteMode::Merge)
    };
    let world = world(200, options("id"));
    good(&world, "one").await;
    world.model.update(0, &[1, 2, 3]);
    let report = good(&world, "two").await;
    assert_eq!((report.rows_read, report.rows_written), (3, 3));
    let rows: usize = world.batches(0).await.iter().map(arrow_array::RecordBatch::num_rows).sum();
    assert_eq!(rows, 200, "rows with one masked key are one row");
    let world = self::world(200, options("amount"));
    assert!(good(&world, "one").await.rows_quarantined > 0);
    let payload = world.model.truth(0)[0]["payload"].as_str().expect("a text").to_owned();
    let table = world.lake().format.open("quarantine/shop/shop_stream_0").await.unwrap().expect("a quarantine");
    for batch in table.read(usize::MAX).await.unwrap() {
        let records = batch.column_by_name("record").expect("a record").clone();
        let text = format!("{records:?}");
        assert!(text.contains("payload") && !text.contains(&payload), "{text}");
    }
}
