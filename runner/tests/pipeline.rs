//! The pipeline, end to end.

use ingest_core::Mode;
use ingest_runner::config::StreamOptions;
use ingest_runner::run::RunOptions;
use ingest_testkit::source::{Model, ModelConfig, Reading};

use crate::lake::World;

fn mode(mode: Mode) -> StreamOptions {
    StreamOptions { mode: Some(mode), ..StreamOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_load_equals_the_source_and_the_next_one_replaces_it() {
    for reading in [Reading::Windows, Reading::Snapshot] {
        let model = Model::new(ModelConfig { rows: 5_000, streams: 3, reading, ..ModelConfig::default() });
        let world = World::new(model).with(mode(Mode::Full));
        let report = world.run("one", &RunOptions::default()).await;
        assert_eq!(report.exit_code, 0, "{report:#?}");
        assert_eq!((report.rows_read, report.rows_written), (15_000, 15_000));
        assert_eq!(world.ids(1).await, world.truth(1));
        world.model.insert(1, 10);
        let report = world.run("two", &RunOptions::default()).await;
        assert_eq!(report.exit_code, 0, "{report:#?}");
        for stream in 0..3 {
            assert_eq!(world.ids(stream).await, world.truth(stream));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incremental_run_adds_what_is_new_and_a_run_without_news_commits_nothing() {
    let model = Model::new(ModelConfig { rows: 3_000, ..ModelConfig::default() });
    let world = World::new(model).with(mode(Mode::Incremental));
    let first = world.run("one", &RunOptions::default()).await;
    assert_eq!((first.exit_code, first.rows_written), (0, 3_000), "{first:#?}");
    let second = world.run("two", &RunOptions::default()).await;
    assert_eq!((second.exit_code, second.rows_written), (0, 0), "{second:#?}");
    assert_eq!(second.streams[0].commit_version, None, "nothing new, no commit");
    world.model.insert(0, 500);
    let third = world.run("three", &RunOptions::default()).await;
    assert_eq!((third.exit_code, third.rows_written), (0, 500), "{third:#?}");
    assert_eq!(world.ids(0).await, world.truth(0));
}
