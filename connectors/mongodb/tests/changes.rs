//! Change streams of a scripted stand-in: the log of changes, replayed by its order, is the source. FerretDB has none.

use bson::{Bson, Document, doc};
use ingest_core::{ErrorKind, Mode, SliceId, Source, StreamName};
use ingest_testkit::capture::{Capture, Rows};
use ingest_testkit::mongo::{Fault, MongoScript};
use ingest_testkit::out::Collected;
use serde_json::{Value, json};

use crate::support::{How, fails, open, plan, streams};

/// What the server holds, in the form of [`Capture::replay`].
fn truth(server: &MongoScript, collection: &str) -> Rows {
    let documents = server.state().documents("shop", collection);
    documents.into_iter().map(|document| (id(&document), vec![document.get("v").map(shown)])).collect()
}

fn id(document: &Document) -> String {
    document.get("_id").map(shown).expect("a key")
}

fn shown(value: &Bson) -> String {
    match value {
        Bson::String(text) => text.clone(),
        other => other.to_string(),
    }
}

async fn server(collections: &[&str]) -> MongoScript {
    let server = MongoScript::start().await;
    for collection in collections {
        for id in 1..=3_i64 {
            server.state().insert("shop", collection, doc! { "_id": id, "v": format!("{collection} {id}") });
        }
    }
    // What happens at the time at which a first load begins comes with the changes again.
    server.state().pass();
    server
}

async fn source(server: &MongoScript, more: Value) -> Box<dyn Source> {
    let mut config = json!({"uri": server.uri(), "database": "shop", "connect_timeout": "5s"});
    for (key, value) in more.as_object().expect("fields") {
        config[key] = value.clone();
    }
    open(config).await.expect("a valid configuration")
}

#[tokio::test]
async fn inserts_updates_and_deletes_follow_the_first_load_on_a_stand_in() {
    let server = server(&["t"]).await;
    let (source, mut capture) = (source(&server, json!({})).await, Capture::default());
    capture.run(&*source, &["t"]).await.expect("a run");
    assert_eq!(capture.ops("t"), ["R", "R", "R"]);
    server.state().insert("shop", "t", doc! { "_id": 4_i64, "v": "four", "new": 1 });
    server.state().update("shop", "t", doc! { "_id": 2_i64, "v": "zwei" });
    server.state().insert("shop", "t", doc! { "_id": 3_i64, "v": "drei" });
    server.state().delete("shop", "t", 1);
    server.state().insert("shop", "other", doc! { "_id": 1_i64 });
    capture.run(&*source, &["t"]).await.expect("a run");
    assert_eq!(capture.ops("t")[3..], ["I", "U", "U", "D"]);
    assert_eq!(capture.replay("t", "_id", &["v"]), truth(&server, "t"));
    // The run has taken a new sample, which shows the new field.
    assert_eq!(capture.column("t", "new")[3].as_deref(), Some("1"));
    // A row that is gone carries its key alone: columns 1 and 2 are absent.
    assert_eq!(capture.column("t", "_ingest_absent")[3..], [None, None, None, Some("06".to_owned())]);
    capture.run(&*source, &["t"]).await.expect("a run");
    assert_eq!(capture.ops("t").len(), 7, "nothing comes twice");
}

#[tokio::test]
async fn one_stream_serves_many_collections_and_one_that_joins_later_on_a_stand_in() {
    let server = server(&["a", "b", "c"]).await;
    let (source, mut capture) = (source(&server, json!({})).await, Capture::default());
    let change = |round: i64| {
        for name in ["a", "b", "c"] {
            server.state().update("shop", name, doc! { "_id": 1_i64, "v": format!("{name} {round}") });
            server.state().insert("shop", name, doc! { "_id": 10 + round, "v": "new" });
        }
    };
    capture.run(&*source, &["a", "b"]).await.expect("a run");
    change(1);
    capture.run(&*source, &["a"]).await.expect("a run of one");
    change(2);
    capture.run(&*source, &["a", "b", "c"]).await.expect("a run of all");
    change(3);
    capture.run(&*source, &["a", "b", "c"]).await.expect("a run of all");
    for name in ["a", "b", "c"] {
        assert_eq!(capture.replay(name, "_id", &["v"]), truth(&server, name), "{name}");
    }
    let opened = server.state().asked("aggregate");
    assert_eq!(opened.len(), 4, "one stream for all, each time");
}

#[tokio::test]
async fn a_run_that_breaks_within_a_transaction_gives_each_change_once_on_a_stand_in() {
    for code in [43, 6, 89, 91, 10_107, 11_600, 13_436] {
        let server = server(&["a", "b"]).await;
        let (source, mut capture) = (source(&server, json!({})).await, Capture::default());
        capture.run(&*source, &["a", "b"]).await.expect("a run");
        server.state().insert("shop", "a", doc! { "_id": 5_i64, "v": "before" });
        server.state().together(|state| {
            for id in 20..30_i64 {
                state.insert("shop", if id % 2 == 0 { "a" } else { "b" }, doc! { "_id": id, "v": format!("t{id}") });
            }
        });
        server.state().update("shop", "b", doc! { "_id": 1_i64, "v": "after" });
        // Three changes come in a batch: the second one fails.
        server.state().fault_after("changes", 1, Fault::code(code, "passing"));
        let error = fails(capture.run(&*source, &["a", "b"]).await);
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{code}: {error:?}");
        assert!(error.kind().is_retryable());
        capture.run(&*source, &["a", "b"]).await.expect("a run");
        for name in ["a", "b"] {
            assert_eq!(capture.replay(name, "_id", &["v"]), truth(&server, name), "{code} {name}");
        }
    }
}

#[tokio::test]
async fn a_killed_cursor_and_a_lost_connection_are_gone_on_from_the_last_place_on_a_stand_in() {
    let server = server(&["t"]).await;
    let (source, mut capture) = (source(&server, json!({})).await, Capture::default());
    capture.run(&*source, &["t"]).await.expect("a run");
    for (round, fault) in [Fault::Close, Fault::code(237, "CursorKilled")].into_iter().enumerate() {
        for id in 0..8_i64 {
            let id = 100 + 10 * i64::try_from(round).expect("few") + id;
            server.state().insert("shop", "t", doc! { "_id": id, "v": "x" });
        }
        server.state().fault_after("changes", 1, fault);
        let error = fails(capture.run(&*source, &["t"]).await);
        assert!(error.kind().is_retryable(), "{error:?}");
        capture.run(&*source, &["t"]).await.expect("a run");
        assert_eq!(capture.replay("t", "_id", &["v"]), truth(&server, "t"));
    }
}

#[tokio::test]
async fn a_lost_log_and_a_token_that_nobody_knows_stop_with_the_remedy_on_a_stand_in() {
    let server = server(&["t"]).await;
    let (source, mut capture) = (source(&server, json!({})).await, Capture::default());
    capture.run(&*source, &["t"]).await.expect("a run");
    for (code, name) in [(280, "ChangeStreamFatalError"), (260, "InvalidResumeToken"), (286, "ChangeStreamHistoryLost")]
    {
        server.state().fault("aggregate", Fault::code(code, name));
        let error = fails(capture.run(&*source, &["t"]).await);
        assert_eq!(error.kind(), ErrorKind::CheckpointInvalid, "{error:?}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("--resync")), "{error:?}");
    }
    server.state().fault_after("changes", 0, Fault::code(9_999, "New").labelled("NonResumableChangeStreamError"));
    assert_eq!(fails(capture.run(&*source, &["t"]).await).kind(), ErrorKind::CheckpointInvalid);
    server.state().fault_after("changes", 0, Fault::code(9_999, "New").labelled("ResumableChangeStreamError"));
    assert_eq!(fails(capture.run(&*source, &["t"]).await).kind(), ErrorKind::Unavailable);
    // Three events are lost: the place of the table lies before them.
    for id in 4..7_i64 {
        server.state().insert("shop", "t", doc! { "_id": id, "v": "x" });
    }
    server.state().forget();
    let error = fails(capture.run(&*source, &["t"]).await);
    assert_eq!(error.kind(), ErrorKind::CheckpointInvalid);
    assert!(error.hint_text().is_some_and(|hint| hint.contains("replSetResizeOplog")), "{error:?}");
}

#[tokio::test]
async fn a_collection_without_changes_keeps_its_place_in_the_log_on_a_stand_in() {
    let server = server(&["t", "busy"]).await;
    let (source, mut capture) = (source(&server, json!({})).await, Capture::default());
    capture.run(&*source, &["t"]).await.expect("a run");
    for round in 0..4_i64 {
        for id in 0..5_i64 {
            server.state().insert("shop", "busy", doc! { "_id": 100 * round + id });
        }
        capture.run(&*source, &["t"]).await.expect("a run");
        // What was seen is forgotten: the place of the last event of this collection would be lost.
        server.state().forget();
    }
    server.state().update("shop", "t", doc! { "_id": 1_i64, "v": "at last" });
    capture.run(&*source, &["t"]).await.expect("a run");
    assert_eq!(capture.replay("t", "_id", &["v"]), truth(&server, "t"));
}

#[tokio::test]
async fn a_dropped_collection_is_emptied_and_a_renamed_one_stops_on_a_stand_in() {
    let server = server(&["t", "other"]).await;
    let (source, mut capture) = (source(&server, json!({})).await, Capture::default());
    capture.run(&*source, &["t", "other"]).await.expect("a run");
    server.state().drop_collection("shop", "t");
    server.state().insert("shop", "t", doc! { "_id": 9_i64, "v": "again" });
    server.state().other("shop", "t", "createIndexes");
    capture.run(&*source, &["t", "other"]).await.expect("a run");
    assert_eq!(capture.replay("t", "_id", &["v"]), truth(&server, "t"));
    assert_eq!(capture.replay("other", "_id", &["v"]).len(), 3);
    server.state().rename("shop", "elsewhere", "unknown");
    capture.run(&*source, &["t", "other"]).await.expect("a rename of another one");
    server.state().rename("shop", "new", "t");
    let error = fails(capture.run(&*source, &["t", "other"]).await);
    assert_eq!(error.kind(), ErrorKind::CheckpointInvalid);
    assert!(error.to_string().contains("stream t"), "{error}");
}

#[tokio::test]
async fn the_stream_goes_on_behind_a_dropped_database_on_a_stand_in() {
    let server = server(&["t"]).await;
    let (source, mut capture) = (source(&server, json!({})).await, Capture::default());
    capture.run(&*source, &["t"]).await.expect("a run");
    server.state().drop_database("shop");
    server.state().insert("shop", "t", doc! { "_id": 1_i64, "v": "new" });
    for _ in 0..2 {
        capture.run(&*source, &["t"]).await.expect("a run");
    }
    assert_eq!(capture.replay("t", "_id", &["v"]), truth(&server, "t"));
    let asked = server.state().asked("aggregate");
    let last = asked.last().and_then(|asked| {
        asked.get_array("pipeline").ok()?.first()?.as_document()?.get_document("$changeStream").ok().cloned()
    });
    assert!(last.expect("a stream").contains_key("startAfter"), "the token of an invalidated stream is no resumeAfter");
}

#[tokio::test]
async fn an_update_of_a_document_that_is_gone_waits_for_its_delete_on_a_stand_in() {
    let server = server(&["t"]).await;
    let (source, mut capture) = (source(&server, json!({})).await, Capture::default());
    capture.run(&*source, &["t"]).await.expect("a run");
    server.state().update("shop", "t", doc! { "_id": 1_i64, "v": "soon gone" });
    server.state().delete("shop", "t", 1);
    capture.run(&*source, &["t"]).await.expect("a run");
    assert_eq!(capture.ops("t")[3..], ["D"]);
    assert_eq!(capture.replay("t", "_id", &["v"]), truth(&server, "t"));
}

#[tokio::test]
async fn images_before_and_after_come_where_they_are_kept_and_are_asked_for_where_not_on_a_stand_in() {
    let server = server(&["t"]).await;
    let images = json!({"full_document": "required", "full_document_before_change": "required"});
    let (source, mut capture) = (source(&server, images).await, Capture::default());
    let problems = source.check_changes(&["t".into()]).await.expect("a list");
    assert_eq!(problems.len(), 1, "{problems:?}");
    let statement =
        r#"db.getSiblingDB("shop").runCommand({collMod: "t", changeStreamPreAndPostImages: {enabled: true}})"#;
    assert_eq!(problems[0].remedy, statement);
    capture.run(&*source, &["t"]).await.expect("a run");
    server.state().update("shop", "t", doc! { "_id": 1_i64, "v": "x" });
    let error = fails(capture.run(&*source, &["t"]).await);
    assert_eq!(error.kind(), ErrorKind::CheckpointInvalid);
    assert!(error.hint_text().is_some_and(|hint| hint.contains("changeStreamPreAndPostImages")), "{error:?}");
    server.state().create("shop", "t", doc! { "changeStreamPreAndPostImages": { "enabled": true } });
    assert!(source.check_changes(&["t".into()]).await.expect("a list").is_empty());
    server.state().update("shop", "t", doc! { "_id": 1_i64, "v": "between" });
    server.state().update("shop", "t", doc! { "_id": 1_i64, "v": "last" });
    server.state().delete("shop", "t", 2);
    capture.run(&*source, &["t"]).await.expect("a run");
    let after: Vec<_> = capture.column("t", "v").split_off(3);
    assert_eq!(after, ["x", "between", "last", "t 2"].map(|text| Some(text.to_owned())), "each as it was then");
    assert_eq!(capture.column("t", "_ingest_absent")[3..], [None, None, None, None]);
}

#[tokio::test]
async fn a_cluster_is_watched_where_no_database_is_named_on_a_stand_in() {
    let server = server(&["t"]).await;
    server.state().insert("crm", "people", doc! { "_id": 1_i64, "v": "a" });
    let (source, mut capture) = (source(&server, json!({"database": ""})).await, Capture::default());
    let names = ["crm.people", "shop.t"];
    capture.run(&*source, &names).await.expect("a run");
    server.state().update("crm", "people", doc! { "_id": 1_i64, "v": "b" });
    server.state().delete("shop", "t", 3);
    capture.run(&*source, &names).await.expect("a run");
    assert_eq!(capture.replay("crm.people", "_id", &["v"]), [("1".to_owned(), vec![Some("b".to_owned())])].into());
    assert_eq!(capture.replay("shop.t", "_id", &["v"]), truth(&server, "t"));
    let asked = server.state().asked("aggregate");
    assert!(asked[0].to_string().contains("allChangesForCluster"), "{asked:?}");
    // The place of a cluster is none of a database.
    let narrow = self::source(&server, json!({})).await;
    let mut other = Capture::default();
    other.positions.insert("t".into(), capture.positions["shop.t"].clone());
    assert_eq!(fails(other.run(&*narrow, &["t"]).await).kind(), ErrorKind::CheckpointInvalid);
}

#[tokio::test]
async fn the_first_load_holds_what_happened_before_the_changes_that_follow_on_a_stand_in() {
    let server = server(&["t"]).await;
    let source = source(&server, json!({})).await;
    let found = streams(&*source, &["t"]).await;
    let how = How { mode: Mode::Cdc, ..How::full() };
    let plan = plan(&*source, &found, &how).await.expect("a plan");
    let mut out = Collected::new();
    source.extract(&plan.slices[0], 1, None, &mut out).await.expect("a slice");
    let asked = server.state().asked("find");
    let concern = asked.last().and_then(|find| find.get_document("readConcern").ok()).expect("a read concern");
    let time = concern.get_timestamp("afterClusterTime").expect("a time");
    let start = plan.then[&StreamName::from("t")][&SliceId::from("changes")].clone().expect("a position");
    assert_eq!(concern.get_str("level").ok(), Some("majority"));
    assert_eq!(start.at["feed"]["time"].as_u64(), Some((u64::from(time.time) << 32 | u64::from(time.increment)) - 1));
}

#[tokio::test]
async fn check_says_everything_that_keeps_changes_from_being_captured_on_a_stand_in() {
    let server = server(&["t"]).await;
    server.state().insert("shop", "seen", doc! { "_id": 1_i64 });
    server.state().make("shop", "seen", "view");
    server.state().replica_set = false;
    let images = source(&server, json!({"full_document": "required"})).await;
    let problems = images.check_changes(&["seen".into(), "t".into()]).await.expect("a list");
    let remedies: Vec<&str> = problems.iter().map(|problem| problem.remedy.as_str()).collect();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(remedies[0].contains("rs.initiate()") && remedies[2].contains("collMod"), "{remedies:?}");
    let mut capture = Capture::default();
    assert_eq!(fails(capture.run(&*images, &["t"]).await).kind(), ErrorKind::ConfigInvalid);
    server.state().replica_set = true;
    server.state().fault("aggregate", Fault::code(13, "Unauthorized"));
    let source = source(&server, json!({})).await;
    let problems = source.check_changes(&["t".into()]).await.expect("a list");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(
        problems[0].remedy,
        r#"db.getSiblingDB("admin").grantRolesToUser("reader", [{role: "read", db: "shop"}])"#
    );
    assert_eq!(problems[0].exit_code, 3);
}
