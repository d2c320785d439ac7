//! Random histories: runs that interleave, are killed, stand still and wake as zombies, with clocks that differ, over a
//! store that refuses, loses answers and writes late. In the end the lake must equal the source, with nothing doubled.
//!
//! `INGEST_TEST_CHAOS=5000` runs so many histories (default 30); `INGEST_TEST_SEED=n` runs one.

use std::sync::Arc;
use std::time::Duration;

use ingest_core::{Clock, Mode, WriteMode};
use ingest_runner::config::StreamOptions;
use ingest_runner::events::Silent;
use ingest_runner::run::{RunOptions, run};
use ingest_testkit::source::{Model, ModelConfig, Reading};
use ingest_testkit::store::{FaultStore, Odds};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::lake::World;
use crate::merge::spans_are_whole;

/// A clock that is wrong by some time.
pub struct Skewed(pub i64);

impl Clock for Skewed {
    fn now_micros(&self) -> i64 {
        ingest_core::SystemClock.now_micros() + self.0
    }
}

pub fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("INGEST_TEST_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("INGEST_TEST_CHAOS").unwrap_or(30)).collect(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_lose_and_double_nothing() {
    for seed in seeds() {
        for mode in [Mode::Incremental, Mode::Cdc, Mode::Full] {
            history(seed, mode, None).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_that_merge_equal_the_source() {
    for seed in seeds() {
        for mode in [Mode::Incremental, Mode::Cdc, Mode::Full] {
            history(seed, mode, Some(WriteMode::Merge)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_of_versions_have_no_gap_and_end_with_the_source() {
    for seed in seeds() {
        for mode in [Mode::Incremental, Mode::Cdc, Mode::Full] {
            history(seed, mode, Some(WriteMode::Scd2)).await;
        }
    }
}

async fn history(seed: u64, mode: Mode, write: Option<WriteMode>) {
    let mut random = StdRng::seed_from_u64(seed);
    let reading = if random.random() { Reading::Windows } else { Reading::Snapshot };
    let config = ModelConfig { rows: 200, streams: 2, slices: 3, mark_every: 20, reading, ..ModelConfig::default() };
    let model = Model::new(config);
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let options = StreamOptions { mode: Some(mode), write, ..StreamOptions::default() };
    let mut clients = Vec::new();
    for step in 0..6 {
        change(&model, mode, write, &mut random);
        let store = FaultStore::over(Arc::clone(&inner));
        store.random(random.random(), Odds { paths: "*".into(), ..Odds::default() });
        let mut world = World::over(model.clone(), Arc::new(store.clone())).with(options.clone());
        world.commit_interval = if random.random() { Duration::ZERO } else { Duration::from_secs(60) };
        // Leases are a courtesy: a clock far ahead sees every lease expired, so runs overlap and zombies come about.
        let skew = random.random_range(-3_600_000_000_i64..3_600_000_000);
        let patience = Duration::from_millis(random.random_range(0..120));
        let name = format!("run-{step}");
        clients.push(tokio::spawn(async move {
            let mut session = world.session(&name).await;
            session.clock = Arc::new(Skewed(skew));
            let options = RunOptions::default();
            // Dropped at whatever await it has reached: the nearest thing to a kill within one process.
            let killed = tokio::time::timeout(patience, run(&session, &options, Arc::new(Silent)));
            drop(killed.await);
            store
        }));
        if random.random() {
            for client in clients.drain(..) {
                client.await.expect("no panic").land().await;
            }
        }
    }
    for client in clients {
        client.await.expect("no panic").land().await;
    }
    // Writer threads of killed runs may still be at it.
    let mut world = World::over(model, inner).with(options);
    world.skew = Some(Arc::new(Skewed(7_200_000_000)));
    let report = world.run("last", &RunOptions::default()).await;
    assert_eq!(report.exit_code, 0, "seed {seed} {mode}: {report:#?}");
    for stream in 0..2 {
        if write.is_some() {
            let context = format!("seed {seed} {mode} {write:?} stream {stream}");
            assert_eq!(world.versions(stream).await, world.true_versions(stream), "{context}");
            if write == Some(WriteMode::Scd2) {
                spans_are_whole(&world.spans(stream).await, &context);
            }
            continue;
        }
        match mode {
            Mode::Cdc => assert_eq!(world.newest(stream).await, world.truth(stream), "seed {seed} {mode}"),
            _ => assert_eq!(world.ids(stream).await, world.truth(stream), "seed {seed} {mode}"),
        }
        world.nothing_doubled(stream, &format!("seed {seed} {mode}")).await;
    }
}

fn change(model: &Model, mode: Mode, write: Option<WriteMode>, random: &mut StdRng) {
    for stream in 0..2 {
        model.insert(stream, random.random_range(0..30));
        if mode == Mode::Cdc || write.is_some() {
            model.update(stream, &[random.random_range(0..200), random.random_range(0..200)]);
        }
        // A cursor shows no deletes; a complete read does, where rows that are gone are swept.
        if mode == Mode::Cdc || (write.is_some() && mode == Mode::Full) {
            model.delete(stream, &[random.random_range(0..200)]);
        }
    }
}
