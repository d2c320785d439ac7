//! Change feeds: one feed for many tables, a position per table, a floor for the source (invariants 8 and 15 to 20).

use std::collections::BTreeMap;
use std::sync::Arc;

use ingest_catalog::{Claim, Documents};
use ingest_core::{ErrorKind, Mode, Selection, Seq, SliceId, Stored, StreamName};
use ingest_runner::commit::{Floor, Held, effective_positions};
use ingest_runner::config::StreamOptions;
use ingest_runner::run::RunOptions;
use ingest_runner::state;
use ingest_testkit::source::{Call, Model, ModelConfig, Trouble};
use ingest_testkit::store::{Fault, FaultStore, Operation};
use object_store::memory::InMemory;
use serde_json::json;

use crate::lake::World;

fn cdc() -> StreamOptions {
    StreamOptions { mode: Some(Mode::Cdc), ..StreamOptions::default() }
}

fn only(stream: &str) -> RunOptions {
    RunOptions { selection: Selection { select: vec![stream.into()], exclude: vec![] }, ..RunOptions::default() }
}

fn model(streams: u32) -> Model {
    Model::new(ModelConfig { rows: 300, streams, ..ModelConfig::default() })
}

fn at(commit: u64) -> Stored {
    Stored { v: 1, seq: Some(Seq::of(&[commit])), at: json!(commit) }
}

fn held(number: i64, generation: i64, commit: u64) -> Held {
    Held { number: Some(number), generation, position: at(commit) }
}

fn floor() -> Floor {
    Floor::new(Documents::new(Arc::new(InMemory::new())), "shop")
}

fn one(stream: &str, held: Held) -> BTreeMap<StreamName, Held> {
    BTreeMap::from([(stream.into(), held)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_brings_every_change_after_the_first_load_exactly_once() {
    let world = World::new(model(3)).with(cdc());
    assert_eq!(world.run("one", &RunOptions::default()).await.exit_code, 0);
    let ids = world.model.insert(0, 50);
    world.model.update(0, &ids[..10]);
    world.model.delete(1, &[5, 6, 7]);
    let report = world.run("two", &RunOptions::default()).await;
    assert_eq!((report.exit_code, report.rows_written), (0, 63), "{report:#?}");
    for stream in 0..3 {
        assert_eq!(world.newest(stream).await, world.truth(stream), "stream {stream}");
    }
    let report = world.run("three", &RunOptions::default()).await;
    assert_eq!((report.exit_code, report.rows_written), (0, 0), "{report:#?}");
    assert_eq!(world.model.acknowledged(), world.model.head());
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoint_after_commit() {
    let store = FaultStore::in_memory();
    let world = World::over(model(1), Arc::new(store.clone())).with(cdc());
    assert_eq!(world.run("one", &RunOptions::default()).await.exit_code, 0);
    let confirmed = world.model.acknowledged();
    world.model.insert(0, 20);
    store.always(Operation::Put, "*_delta_log/*", Fault::Refuse);
    assert_eq!(world.run("two", &RunOptions::default()).await.exit_code, 1);
    assert_eq!(world.model.acknowledged(), confirmed, "nothing is confirmed that is not committed");
    store.heal();
    assert_eq!(world.run("three", &RunOptions::default()).await.exit_code, 0);
    assert_eq!(world.model.acknowledged(), world.model.head());
    assert_eq!(world.newest(0).await, world.truth(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn ack_is_the_floor_of_all_members() {
    let world = World::new(model(2)).with(cdc());
    assert_eq!(world.run("one", &RunOptions::default()).await.exit_code, 0);
    let first = world.model.acknowledged();
    world.model.insert(0, 10);
    world.model.insert(1, 10);
    // Only one of two tables goes on: the source must keep what the other still needs, although it is not selected.
    assert_eq!(world.run("two", &only("shop.stream_0")).await.exit_code, 0);
    assert_eq!(world.model.acknowledged(), first);
    assert_eq!(world.run("three", &RunOptions::default()).await.exit_code, 0);
    assert_eq!(world.model.acknowledged(), world.model.head());
    for stream in 0..2 {
        assert_eq!(world.newest(stream).await, world.truth(stream));
    }
}

#[tokio::test]
async fn join_before_plan() {
    let floor = floor();
    let feed = SliceId::from("log");
    floor.claim(&feed, Some("model"), &one("a", held(10, 1, 100))).await.expect("claimed");
    floor.join("model", &[("b".into(), Some(7)), ("c".into(), None)]).await.expect("joined");
    let document = floor.claim(&feed, Some("model"), &one("a", held(11, 1, 200))).await.expect("claimed");
    assert_eq!(document.floor(), None, "nobody confirms past a position that is about to be adopted");
    // Joining stands beside the claim, it does not erase it.
    floor.join("model", &[("a".into(), Some(11))]).await.expect("joined");
    let document = floor.feed(&feed).await.expect("read").expect("there");
    let member = &document.members[&StreamName::from("a")];
    assert_eq!((member.at.as_ref().map(|claim| &claim.position), member.joining_on), (Some(&at(200)), Some(11)));
    // Another group's feeds are left alone.
    floor.join("another", &[("d".into(), None)]).await.expect("joined");
    assert!(!floor.feed(&feed).await.expect("read").expect("there").members.contains_key(&StreamName::from("d")));
}

#[tokio::test]
async fn joining_is_void_once_the_number_moved() {
    let floor = floor();
    let feed = SliceId::from("log");
    floor.claim(&feed, Some("model"), &one("a", held(10, 1, 100))).await.expect("claimed");
    floor.join("model", &[("a".into(), Some(10))]).await.expect("joined");
    // A run that stands at or below that number leaves the member alone.
    let document = floor.claim(&feed, Some("model"), &one("a", held(10, 1, 110))).await.expect("claimed");
    assert_eq!(document.floor(), None);
    // A run that stands above may clear it: the joiner's adoption will conflict.
    let document = floor.claim(&feed, Some("model"), &one("a", held(11, 1, 120))).await.expect("claimed");
    assert_eq!(document.floor(), Some(&at(120)));
}

#[tokio::test]
async fn claim_only_rises() {
    let floor = floor();
    let feed = SliceId::from("log");
    let claim = async |held: Held| {
        let document = floor.claim(&feed, Some("model"), &one("a", held)).await.expect("claimed");
        document.members[&StreamName::from("a")].at.clone().map(|claim| claim.position)
    };
    assert_eq!(claim(held(10, 5, 100)).await, Some(at(100)));
    assert_eq!(claim(held(10, 5, 90)).await, Some(at(100)), "a zombie comes late with a lower position");
    assert_eq!(claim(held(11, 6, 50)).await, Some(at(50)), "a newer generation may start lower");
    assert_eq!(claim(held(10, 5, 900)).await, Some(at(50)), "an older generation never overwrites a newer one");
}

#[tokio::test(flavor = "multi_thread")]
async fn effective_position() {
    let world = World::new(model(2)).with(cdc());
    assert_eq!(world.run("one", &RunOptions::default()).await.exit_code, 0);
    world.model.insert(0, 10);
    assert_eq!(world.run("two", &RunOptions::default()).await.exit_code, 0);
    // The quiet table made no commit of its own, yet stands as far as the busy one.
    let session = world.session("look").await;
    let author = world.author(&session);
    let quiet = state::show(&author, &"shop.stream_1".into()).await.expect("read").expect("there");
    let busy = state::show(&author, &"shop.stream_0".into()).await.expect("read").expect("there");
    let log = SliceId::from("log");
    assert_eq!(quiet.positions[&log], busy.positions[&log]);
    assert!(quiet.number < busy.number);
    // A claim of another generation does not count.
    let feeds = Floor::new(author.documents.clone(), "shop").feeds().await.expect("read");
    let mut rewound = quiet.clone();
    rewound.positions.insert(log.clone(), Stored { seq: Some(Seq::of(&[0])), ..quiet.positions[&log].clone() });
    assert_eq!(effective_positions(&rewound, &feeds)[&log], quiet.positions[&log]);
    rewound.generation = Some(1);
    assert_eq!(effective_positions(&rewound, &feeds)[&log], rewound.positions[&log]);
    let claim = Claim { generation: 1, position: at(5) };
    assert!(claim.supersedes(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_is_explicit() {
    let world = World::new(model(2)).with(cdc());
    assert_eq!(world.run("one", &RunOptions::default()).await.exit_code, 0);
    let first = world.model.acknowledged();
    world.model.insert(0, 10);
    assert_eq!(world.run("two", &only("shop.stream_0")).await.exit_code, 0);
    assert_eq!(world.model.acknowledged(), first, "not being selected is not leaving");
    let session = world.session("reset").await;
    state::reset(&world.author(&session), &"shop.stream_1".into()).await.expect("reset");
    assert_eq!(world.run("three", &only("shop.stream_0")).await.exit_code, 0);
    assert_eq!(world.model.acknowledged(), world.model.head());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_joins_later_misses_nothing_and_a_purged_log_stops_the_run() {
    let world = World::new(model(2)).with(cdc());
    assert_eq!(world.run("one", &only("shop.stream_0")).await.exit_code, 0);
    world.model.insert(0, 5);
    world.model.insert(1, 5);
    assert_eq!(world.run("two", &RunOptions::default()).await.exit_code, 0);
    world.model.update(1, &[1, 2]);
    world.model.script(Call::Extract, "log", [Trouble::FailAfter(1, ErrorKind::Unavailable)]);
    assert_eq!(world.run("three", &RunOptions::default()).await.exit_code, 0);
    for stream in 0..2 {
        assert_eq!(world.newest(stream).await, world.truth(stream));
    }
    world.model.update(0, &[3]);
    world.model.purge_log();
    let report = world.run("four", &RunOptions::default()).await;
    let kinds: Vec<_> = report.streams.iter().filter_map(|s| s.error.as_ref()).map(|e| e.kind.as_str()).collect();
    assert_eq!(kinds, ["CheckpointInvalid", "CheckpointInvalid"], "{report:#?}");
}
