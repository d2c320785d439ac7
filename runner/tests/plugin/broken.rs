//! Plug-ins that break a rule: the error names the plug-in and the rule, and nothing is committed that should not be.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use ingest_core::{ErrorKind, Factory, Json, Selection};
use ingest_runner::plugin::Executable;
use serde_json::json;

use super::error;
use super::rogue::{Rogue, done, events, hello, ids, mark, raw, rows};

/// Runs a slice of these steps, and wants an error of a kind that names the plug-in and the rule, and no row in the table
/// but those of `committed`.
async fn breaks(shape: &str, steps: Json, kind: &str, rule: &str, committed: usize) {
    let rogue = Rogue::new(shape, steps).hasty();
    let Some(shop) = rogue.shop() else { return };
    let report = shop.run().await;
    let (found, text) = error(&report);
    assert_eq!(found, kind, "{rule}: {text}");
    assert!(text.contains("rogue.py") && text.contains(rule), "{rule}: {text}");
    let rows = shop.rows("orders").await.map_or(0, |rows| rows.num_rows());
    assert_eq!(rows, committed, "{rule}");
}

fn hello_error(steps: Json) -> Option<(ErrorKind, String)> {
    let error = Rogue::new("window", json!([])).hasty().on("hello", steps).executable()?.expect_err("refused");
    Some((error.kind(), format!("{error:?} {:?}", error.hint_text())))
}

#[test]
fn a_greeting_that_is_none_is_refused() {
    let mut other = hello();
    other["protocol"] = 2.into();
    let mut nameless = hello();
    nameless["spec"]["name"] = "../x".into();
    let mut poor = hello();
    poor["spec"].as_object_mut().expect("an object").remove("capabilities");
    let cases = [
        (json!([{"json": other}]), ErrorKind::Unsupported, "speaks another protocol"),
        (json!([{"json": nameless}]), ErrorKind::DataInvalid, "has no name"),
        (json!([{"json": poor}]), ErrorKind::DataInvalid, "missing field `capabilities`"),
        (json!([raw(b"Hello, world!\n")]), ErrorKind::DataInvalid, "print to stderr"),
        (json!([raw(&[0, 0, 0, 0, 9])]), ErrorKind::DataInvalid, "a frame is of kind 0 or 1"),
        (json!([raw(&[255, 255, 255, 255, 0])]), ErrorKind::LimitExceeded, "at most 64 MiB"),
        (json!([raw(&[2, 0, 0, 0, 0, b'[', b']'])]), ErrorKind::DataInvalid, "a JSON object with a `type`"),
        (json!([raw(&[1, 0, 0, 0, 1, 0])]), ErrorKind::DataInvalid, "one came alone"),
        (json!([{"json": {"type": "shout"}}]), ErrorKind::DataInvalid, "names the call"),
        (
            json!([{"json": {"type": "rows", "call": 0, "stream": "x"}, "arrow": ""}]),
            ErrorKind::DataInvalid,
            "`extract` alone",
        ),
        (json!([{"hang": true}]), ErrorKind::Timeout, "did not say hello"),
        (
            json!([{"stderr": "no module named acme", "exit": 3}]),
            ErrorKind::Unavailable,
            "it said: no module named acme",
        ),
    ];
    for (steps, kind, rule) in cases {
        let Some((found, text)) = hello_error(steps) else { return };
        assert_eq!(found, kind, "{rule}: {text}");
        assert!(text.contains("rogue.py") && text.contains(rule), "{rule}: {text}");
    }
}

#[test]
fn what_is_no_program_is_a_fault_of_the_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("acme");
    let refused = |path: &std::path::Path, what: &str| {
        let error = Executable::at(path).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(format!("{error}").contains(what), "{error}");
        assert!(error.hint_text().is_some());
    };
    refused(&file, "there is no plug-in");
    refused(folder.path(), "is no file");
    std::fs::write(&file, "no program").expect("written");
    refused(&file, "is not executable");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_the_middle_of_a_slice_commits_nothing() {
    let good = rows(&ids(&[1, 2]));
    let text = raw(b"Traceback (most recent call last)\n");
    breaks("window", json!([good, mark(2), text]), "DataInvalid", "stdout carries frames alone", 0).await;
    let bytes = raw(&[0, 0, 0, 5, 0]);
    breaks("window", json!([good, mark(2), bytes]), "LimitExceeded", "a frame holds at most 64 MiB", 0).await;
    let alone = json!({"json": {"type": "rows", "stream": "orders"}});
    breaks("window", json!([good, alone, mark(2)]), "DataInvalid", "an Arrow frame follows `rows`", 0).await;
    let broken = json!({"json": {"type": "rows", "stream": "orders"}, "arrow": "AAAA"});
    breaks("window", json!([good, broken, mark(2)]), "DataInvalid", "an Arrow IPC stream cannot be read", 0).await;
    let other = json!({"json": {"type": "mark", "call": 99, "position": {"v": 1, "at": 1}}});
    breaks("window", json!([good, other]), "DataInvalid", "answers a call that is under way", 0).await;
    let twice = json!([good, done("complete"), done("complete"), {"hang": true}]);
    let rogue = Rogue::new("window", twice).hasty();
    // What was complete is complete; the process that went on talking is not used again.
    if let Some(shop) = rogue.shop() {
        assert_eq!(shop.run().await.exit_code, 0);
        assert_eq!(shop.rows("orders").await.expect("rows").num_rows(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_beyond_the_credit_is_stopped() {
    let mut flood = rows(&ids(&[7; 10_000]));
    flood["times"] = 10_000.into();
    breaks("window", json!([flood]), "LimitExceeded", "beyond the credit", 0).await;
    let mut marks = mark(1);
    marks["times"] = 1_000_000.into();
    breaks("window", json!([marks]), "LimitExceeded", "beyond the credit", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_about_the_schema_is_named_with_its_column() {
    let text: ArrayRef = Arc::new(StringArray::from(vec!["1"]));
    let null: ArrayRef = Arc::new(Int64Array::from(vec![None]));
    let batch = |columns: Vec<(&str, ArrayRef)>| {
        let columns = columns.into_iter().map(|(name, array)| (name, array, true));
        rows(&RecordBatch::try_from_iter_with_nullable(columns).expect("a batch"))
    };
    let wrong = batch(vec![("id", text.clone())]);
    breaks("window", json!([wrong]), "DataInvalid", "this one has another", 0).await;
    let more = batch(vec![("id", Arc::new(Int64Array::from(vec![1]))), ("extra", text)]);
    breaks("window", json!([more]), "DataInvalid", "this is none of them", 0).await;
    breaks("window", json!([batch(vec![("id", null)])]), "DataInvalid", "declared without nulls", 0).await;
    let mut foreign = rows(&ids(&[1]));
    foreign["json"]["stream"] = "customers".into();
    breaks("window", json!([foreign]), "DataInvalid", "only the streams that its plan names", 0).await;
    let lists = json!([{"json": {"type": "streams", "streams": [
        {"name": "orders", "schema": "bm8gc2NoZW1h", "modes": ["full"]}]}}]);
    let rogue = Rogue::new("window", json!([])).on("schema", lists);
    if let Some(shop) = rogue.shop() {
        let (kind, text) = error(&shop.run().await);
        assert_eq!(kind, "DataInvalid");
        assert!(text.contains("rogue.py") && text.contains("orders"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_that_come_too_early_or_go_backwards_are_refused() {
    let (first, second) = (rows(&events(&[1, 2])), rows(&events(&[3, 4])));
    let early = json!([first, mark(4), second, done("caught_up")]);
    breaks("feed", early, "DataInvalid", "rows below it came after it", 2).await;
    let backwards = json!([first, mark(2), second, mark(1), done("caught_up")]);
    breaks("feed", backwards, "DataInvalid", "below the mark before it", 2).await;
    let uncovered = json!([first, mark(2), second, done("caught_up")]);
    breaks("feed", uncovered, "DataInvalid", "ends with a mark", 2).await;
    let without = |at: i64| json!({"json": {"type": "mark", "position": {"v": 1, "at": at}}});
    let again = json!([rows(&ids(&[1])), without(1), rows(&ids(&[2])), without(2), without(1), done("complete")]);
    breaks("window", again, "DataInvalid", "other marks have followed", 0).await;
    let version = json!({"json": {"type": "mark", "position": {"v": 7, "at": 1}}});
    breaks("window", json!([version]), "DataInvalid", "state_version", 0).await;
    breaks("window", json!([done("caught_up")]), "DataInvalid", "only a feed ends", 0).await;
    let no_seq = json!([rows(&ids(&[1])), mark(1), done("caught_up")]);
    breaks("feed", no_seq, "DataInvalid", "`_ingest_seq`", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_something_else_is_refused() {
    let plan = |slices: Json| json!([{"json": {"type": "plan", "plan": {"slices": slices}}}]);
    let slice = |id: &str, stream: &str| json!({"id": id, "streams": [stream], "shape": "window", "work": 1});
    for (slices, rule) in [
        (json!([slice("a", "orders"), slice("a", "orders")]), "different ids"),
        (json!([slice("a", "customers")]), "streams that the plan was asked for"),
        (json!([{"id": "a", "streams": ["orders"], "shape": "window", "work": "x".repeat(70_000)}]), "at most 64 KiB"),
    ] {
        let rogue = Rogue::new("window", json!([])).on("plan", plan(slices));
        let Some(shop) = rogue.shop() else { return };
        let (kind, text) = error(&shop.run().await);
        assert_eq!(kind, "DataInvalid");
        assert!(text.contains("rogue.py") && text.contains(rule), "{text}");
    }
    let wrong = Rogue::new("window", json!([])).on("plan", json!([{"json": {"type": "opened"}}]));
    let (kind, text) = error(&wrong.shop().expect("as above").run().await);
    assert!(kind == "DataInvalid" && text.contains("the frame of its kind"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn death_in_mid_batch_is_tried_again_and_commits_nothing_uncovered() {
    let dying = json!([rows(&events(&[1, 2])), mark(2), rows(&events(&[3])), {"kill": 9}]);
    let rogue = Rogue::new("feed", dying).hasty();
    let Some(shop) = rogue.shop() else { return };
    let report = shop.run().await;
    let (kind, text) = error(&report);
    assert_eq!(kind, "Unavailable", "{text}");
    assert!(text.contains("rogue.py") && text.contains("\"signal\": String(\"9\")"), "{text}");
    assert_eq!(shop.rows("orders").await.expect("rows").num_rows(), 2);
    // Once for its hello, and then for each attempt.
    assert!(rogue.starts() > 3, "{}", rogue.starts());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_is_killed() {
    let hanging = json!([rows(&ids(&[1])), {"hang": true}]);
    breaks("window", hanging, "Timeout", "does not answer", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_nobody_waits_for_is_cancelled_and_the_next_one_works() {
    let cancelled = json!([{"json": {"type": "error", "kind": "Cancelled", "message": "cancelled"}}]);
    let rogue = Rogue::new("window", json!([rows(&ids(&[1]))])).on("cancel", cancelled);
    let Some(executable) = rogue.executable() else { return };
    let executable = executable.expect("it says hello");
    let source = executable.open(json!({}), ingest_core::Context::standalone("shop")).await.expect("opens");
    source.schema(&Selection::default()).await.expect("streams");
    let slice: ingest_core::Slice<Json> =
        serde_json::from_value(json!({"id": "s", "streams": ["orders"], "shape": "window", "work": 1}))
            .expect("a slice");
    for _ in 0..2 {
        // Call 3, and then one that must not begin before that one is over; both never end by themselves.
        let mut out = ingest_testkit::out::Collected::new().refuse_after(0);
        let error = source.extract(&slice, 1, None, &mut out).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    }
    source.check(&Selection::default()).await.expect("the process lives");
}
