//! What machines read: events of `run --progress json` as their schema says, time limits, exit codes.

use std::net::TcpListener;
use std::path::PathBuf;

use ingest_testkit::python;
use serde_json::{Value, json};

use crate::cli::Project;

fn published() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/events.schema.json")
}

/// The events of a run, which ends with this code.
fn events(project: &Project, arguments: &[&str], code: i32) -> Vec<Value> {
    let output = project.run(&[arguments, &["--progress", "json"]].concat());
    assert_eq!(output.code, Some(code), "{arguments:?}: {output:#?}");
    output.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// A source that takes a connection and never says a word.
fn silent() -> (Project, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let project = Project::new(&format!(
        "sources:\n  db: {{connector: postgres, host: 127.0.0.1, port: {port}, database: d, user: u, password: p}}\n"
    ));
    (project, listener)
}

#[test]
fn the_published_schema_of_events_is_the_programs() {
    let text = Project::empty().good(&["config", "schema", "--events"]).stdout;
    if std::env::var_os("INGEST_TEST_WRITE_DOCS").is_some() {
        std::fs::write(published(), &text).expect("written");
    }
    let written = std::fs::read_to_string(published()).unwrap_or_default();
    assert!(text == written, "docs/events.schema.json is out of step: run this test with INGEST_TEST_WRITE_DOCS=1");
}

/// Reads the schema, then events from a file; each event must be described to the last field.
const VALIDATE: &str = r#"
import json, sys
from jsonschema import Draft202012Validator
schema = json.load(open(sys.argv[1]))
Draft202012Validator.check_schema(schema)
# Open to readers, closed here: a field that the schema does not know is a field that nobody has documented.
schema["unevaluatedProperties"] = False
validator = Draft202012Validator(schema)
seen = set()
for line in open(sys.argv[2]):
    event = json.loads(line)
    faults = [error.message for error in validator.iter_errors(event)]
    assert not faults, (event, faults)
    seen.add(event["type"])
for wrong in [{"type": "run_started"}, {"type": "nope", "time": "x", "run_id": "y"}]:
    assert not validator.is_valid(wrong), wrong
print(" ".join(sorted(seen)))
"#;

#[tokio::test]
async fn every_event_of_real_runs_is_as_the_schema_says() {
    let shop = Project::new(
        "sources:\n  files:\n    path: ./data\n    streams:\n      orders: {write: merge, key: [id], checks: [{column: total, not_null: true}]}\n      customers: {}\n      \"*\": {}\n",
    )
    .file("data/orders.csv", "id,total\n1,9.50\n2,\n")
    .file("data/customers.ndjson", "{\"id\": 1}\n{\"id\": 2}\n");
    let mut all = events(&shop, &["run", "--source", "files"], 0);
    let shop = shop.file("data/more.csv", "id,total\n3,1\n");
    shop.good(&["plan", "--source", "files", "--select", "more", "--slices", "2", "-o", "plan.json"]);
    let missing = events(&shop, &["run", "--plan", "plan.json", "--finish"], 4);
    let last = missing.last().expect("events");
    assert_eq!((&last["outcome"], &last["streams"][0]["missing_slices"]), (&json!("partial"), &json!([0])), "{last}");
    all.extend(missing);
    all.extend(events(&shop, &["run", "--plan", "plan.json", "--slice", "0"], 0));
    all.extend(events(&shop, &["run", "--plan", "plan.json", "--slice", "9"], 2));
    all.extend(events(&shop, &["run", "--plan", "plan.json", "--finish"], 0));
    let (silent, _listener) = silent();
    all.extend(events(&silent, &["run", "--source", "db", "--timeout", "1s"], 4));
    let broken = Project::new("sources: {files: {path: ./data}}\nlake: {url: \"nope://x\"}\n");
    all.extend(events(&broken, &["run", "--source", "files"], 2));
    let lines: String = all.iter().map(|event| format!("{event}\n")).collect();
    let shop = shop.file("events.ndjson", &lines);
    let file = shop.folder.path().join("events.ndjson");
    let arguments = [published(), file].map(|path| path.to_str().expect("UTF-8").to_owned());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some(seen) = python::run("python", VALIDATE, &arguments, &[]).await else { return };
    for kind in ["commit", "run_finished", "run_started", "stream_finished", "stream_started", "warning"] {
        assert!(seen.contains(kind), "no {kind} among {seen}");
    }
}

#[test]
fn a_time_limit_ends_a_run_as_partial_and_not_as_interrupted() {
    let (project, _listener) = silent();
    let told = events(&project, &["run", "--source", "db", "--timeout", "500ms"], 4);
    let last = told.last().expect("events");
    assert_eq!(
        (&last["type"], &last["outcome"], &last["exit_code"]),
        (&json!("run_finished"), &json!("partial"), &json!(4))
    );
    assert_eq!(last["error"], Value::Null, "{last}");
    let warned = |event: &&Value| event["message"].as_str().is_some_and(|text| text.contains("time limit of 500ms"));
    assert!(told.iter().any(|event| warned(&event)), "{told:#?}");
    assert_eq!(project.run(&["run", "--source", "db", "--timeout", "0s"]).code, Some(2));
    assert_eq!(project.run(&["run", "--source", "db", "--timeout", "soon"]).code, Some(2));
}

#[test]
fn a_plan_can_be_read_by_people() {
    let project = Project::shop();
    project.good(&["plan", "--source", "files", "--select", "orders", "--slices", "2", "-o", "plan.json"]);
    let text = std::fs::read_to_string(project.folder.path().join("plan.json")).expect("a plan");
    let plan: Value = serde_json::from_str(&text).expect("JSON");
    let orders = &plan["streams"][0];
    assert_eq!((&orders["stream"], &orders["write"]), (&json!("orders"), &json!("append")), "{orders}");
    assert_eq!(orders["schema_changes"], json!(["the table is created"]));
    assert!(orders["bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{orders}");
    assert!(orders["masks"].is_object() && plan["plans"][0]["streams"]["orders"]["base"].is_null());
}
