//! A plan that several processes share: parts in any order, any number of times, killed, at once, and closed by one commit.
//!
//! `INGEST_TEST_CHAOS=5000` runs so many histories (default 30); `INGEST_TEST_SEED=n` runs one.

use std::sync::Arc;
use std::time::Duration;

use ingest_core::{Mode, Selection};
use ingest_runner::config::StreamOptions;
use ingest_runner::events::{RunReport, Silent};
use ingest_runner::run::{RunOptions, Share, SharedPlan, discover, make_shared, run, targets};
use ingest_testkit::source::{Model, ModelConfig};
use ingest_testkit::store::{FaultStore, Odds};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::chaos::{Skewed, seeds};
use crate::lake::World;

fn model() -> Model {
    Model::new(ModelConfig { rows: 200, streams: 2, slices: 5, mark_every: 20, ..ModelConfig::default() })
}

fn options(mode: Mode) -> StreamOptions {
    StreamOptions { mode: Some(mode), ..StreamOptions::default() }
}

async fn plan(world: &World, parts: u32) -> SharedPlan {
    let session = world.session("planner").await;
    let found = discover(&session, &Selection::default()).await.expect("streams");
    let found = targets(&session.config, &session.spec, found, &Selection::default()).expect("targets");
    let found = found.into_iter().map(|(_, target)| target.expect("a target")).collect();
    make_shared(&session, found, parts).await.expect("a plan")
}

fn share(plan: &SharedPlan, part: Option<u32>) -> RunOptions {
    RunOptions { shared: Some(Share { plan: plan.clone(), part }), ..RunOptions::default() }
}

async fn good(world: &World, plan: &SharedPlan, part: Option<u32>) -> RunReport {
    let report = world.run("good", &share(plan, part)).await;
    assert_eq!(report.exit_code, 0, "{part:?}: {report:#?}");
    report
}

async fn assert_equal(world: &World, why: &str) {
    for stream in 0..2 {
        assert_eq!(world.ids(stream).await, world.truth(stream), "{why}");
        world.nothing_doubled(stream, why).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_names_its_base() {
    for mode in [Mode::Incremental, Mode::Full] {
        let world = World::new(model()).with(options(mode));
        let (first, second) = (plan(&world, 2).await, plan(&world, 2).await);
        good(&world, &first, Some(0)).await;
        let report = world.run("other", &share(&second, Some(0))).await;
        assert_eq!(report.exit_code, 2, "two plans of one window cannot both load: {report:#?}");
        assert_eq!(world.run("other", &share(&second, None)).await.exit_code, 2);
        good(&world, &first, Some(1)).await;
        good(&world, &first, None).await;
        assert_equal(&world, "one plan").await;
        assert_eq!(world.run("other", &share(&second, None)).await.exit_code, 2, "the table has moved on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_stage() {
    let world = World::new(model()).with(options(Mode::Incremental));
    let plan = plan(&world, 3).await;
    for part in [2, 0, 0] {
        good(&world, &plan, Some(part)).await;
    }
    assert_eq!(world.ids(0).await, Vec::<i64>::new(), "nothing shows before the plan is closed");
    let report = world.run("early", &share(&plan, None)).await;
    assert_eq!(report.exit_code, 4, "a part is missing: {report:#?}");
    assert_eq!(world.run("run", &RunOptions::default()).await.exit_code, 4, "a run does not read beside the parts");
    good(&world, &plan, Some(1)).await;
    assert_eq!(world.ids(0).await, Vec::<i64>::new());
    world.model.insert(0, 30);
    // Any later run closes the plan, and goes on to what is new.
    assert_eq!(world.run("run", &RunOptions::default()).await.exit_code, 0);
    assert_equal(&world, "closed by a run").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn close_is_one_commit() {
    let world = World::new(model()).with(options(Mode::Full));
    assert_eq!(world.run("first", &RunOptions::default()).await.exit_code, 0);
    let old = world.truth(0);
    world.model.insert(0, 50);
    let plan = plan(&world, 4).await;
    for part in 0..4 {
        good(&world, &plan, Some(part)).await;
        assert_eq!(world.ids(0).await, old, "the old rows stay until the plan is closed");
    }
    let closed = good(&world, &plan, None).await;
    assert!(closed.streams.iter().all(|stream| stream.commit_version.is_some()));
    assert_equal(&world, "replaced").await;
    // Nothing is left to do, by anybody, any number of times.
    for part in [None, Some(1), None, Some(3)] {
        let again = good(&world, &plan, part).await;
        assert_eq!((again.rows_read, again.rows_written), (0, 0), "{part:?}");
    }
    assert_equal(&world, "again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_columns_that_have_changed_is_refused() {
    let world = World::new(model()).with(options(Mode::Incremental));
    let mut plan = plan(&world, 2).await;
    for planned in plan.plans.iter_mut().flat_map(|plan| plan.streams.values_mut()) {
        planned.columns.push("gone: Int64".to_owned());
    }
    let report = world.run("part", &share(&plan, Some(0))).await;
    assert_eq!(report.exit_code, 2, "{report:#?}");
    let error = report.streams[0].error.as_ref().expect("an error");
    assert_eq!(error.context["changed"], "gone: Int64");
    assert_eq!(world.run("part", &share(&plan, Some(7))).await.exit_code, 2, "there is no such slice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_is_open_is_handed_out_again_with_what_is_staged_of_it() {
    let world = World::new(model()).with(options(Mode::Incremental));
    let first = plan(&world, 3).await;
    good(&world, &first, Some(1)).await;
    world.model.insert(0, 10);
    // Somebody starts from the beginning, with another number of slices.
    let second = plan(&world, 2).await;
    assert_eq!((second.parts, second.plans.len()), (3, first.plans.len()));
    assert_eq!(second.busy_parts().into_iter().collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(good(&world, &second, Some(1)).await.rows_read, 0, "that part is done");
    for part in [Some(0), Some(2), None] {
        good(&world, &second, part).await;
    }
    assert_eq!(world.run("run", &RunOptions::default()).await.exit_code, 0);
    assert_equal(&world, "handed out again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_of_shared_plans_lose_and_double_nothing() {
    for seed in seeds() {
        for mode in [Mode::Incremental, Mode::Full] {
            history(seed, mode).await;
        }
    }
}

async fn history(seed: u64, mode: Mode) {
    let mut random = StdRng::seed_from_u64(seed);
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let model = model();
    let mut calm = World::over(model.clone(), Arc::clone(&inner)).with(options(mode));
    if random.random() {
        assert_eq!(calm.run("before", &RunOptions::default()).await.exit_code, 0);
        model.insert(0, 40);
    }
    let plan = plan(&calm, 3).await;
    model.insert(1, random.random_range(0..20));
    let mut clients = Vec::new();
    for step in 0..10 {
        let store = FaultStore::over(Arc::clone(&inner));
        store.random(random.random(), Odds { paths: "*".into(), ..Odds::default() });
        let mut world = World::over(model.clone(), Arc::new(store.clone())).with(options(mode));
        world.commit_interval = if random.random() { Duration::ZERO } else { Duration::from_secs(60) };
        let part = if step > 6 && random.random() { None } else { Some(random.random_range(0..3)) };
        let (patience, plan) = (Duration::from_millis(random.random_range(0..80)), plan.clone());
        clients.push(tokio::spawn(async move {
            // Orchestrators give one id to all: it must not be taken for identity.
            let session = world.session("one-id").await;
            let options = share(&plan, part);
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
    // Leases of runs that were dropped in this process are still held by it.
    calm.skew = Some(Arc::new(Skewed(7_200_000_000)));
    let why = format!("seed {seed} {mode}");
    for part in [Some(0), Some(1), Some(2), None] {
        let report = calm.run("calm", &share(&plan, part)).await;
        assert_eq!(report.exit_code, 0, "{why} {part:?}: {report:#?}");
    }
    let report = calm.run("last", &RunOptions::default()).await;
    assert_eq!(report.exit_code, 0, "{why}: {report:#?}");
    assert_equal(&calm, &why).await;
}
