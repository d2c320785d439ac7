//! What each verb prints, over files.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Project, rest, signal, wait};

#[test]
fn a_run_ends_with_one_line_per_stream_and_the_next_adds_nothing() {
    let project = Project::shop();
    let first = project.good(&["run", "--source", "files", "--progress", "plain"]);
    assert_eq!(
        lines(&first.stdout),
        [
            "files.customers: 2 rows read, 2 written, 0 rescued, 0 quarantined; 1 file; commit version 1; ",
            "files.orders: 3 rows read, 3 written, 0 rescued, 0 quarantined; 1 file; commit version 1; ",
        ]
    );
    assert!(first.stderr.contains("orders: incremental, append; 1 slice"), "{}", first.stderr);
    let second = project.good(&["run", "--source", "files", "--progress", "off"]);
    assert!(
        second.stdout.contains("files.orders: 0 rows read, 0 written, 0 rescued, 0 quarantined; 0 files; nothing new")
    );
    assert_eq!(project.json(&["show", "files.orders"]).as_array().map(Vec::len), Some(3));
}

/// Summary lines up to the duration.
fn lines(text: &str) -> Vec<&str> {
    text.lines().map(|line| &line[..line.rfind("; ").map_or(line.len(), |at| at + 2)]).collect()
}

#[test]
fn events_are_json_lines_and_run_finished_is_the_last() {
    let project = Project::shop();
    let run = project.good(&["run", "--source", "files", "--progress", "json", "--run-id", "dag-7"]);
    let events: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for event in &events {
        assert_eq!(event["run_id"], "dag-7");
        assert!(event["time"].as_str().is_some_and(|time| time.ends_with('Z')));
    }
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(kinds.first(), Some(&"run_started"));
    assert_eq!(kinds.last(), Some(&"run_finished"));
    for kind in ["stream_started", "commit", "stream_finished"] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    let last = events.last().expect("events");
    assert_eq!((&last["outcome"], &last["exit_code"]), (&json!("succeeded"), &json!(0)));
    assert_eq!((&last["rows_read"], &last["rows_written"]), (&json!(5), &json!(5)));
    assert_eq!(last["streams"][1]["stream"], "orders");
    assert_eq!(last["streams"][1]["commit_version"], 1);
    assert!(last["duration_ms"].is_u64());
    // `--json` is the same wish.
    let again = project.good(&["run", "--source", "files", "--json"]);
    assert!(again.stdout.lines().last().is_some_and(|line| line.starts_with("{\"type\":\"run_finished\"")));
}

#[test]
fn a_run_that_cannot_begin_still_ends_with_run_finished() {
    let project = Project::new("sources: {files: {path: ./data}}\nlake: {url: \"nope://x\"}\n");
    let run = project.run(&["run", "--source", "files", "--progress", "json"]);
    assert_eq!(run.code, Some(2), "{run:?}");
    let last: Value = serde_json::from_str(run.stdout.lines().last().expect("events")).expect("JSON");
    assert_eq!(
        (&last["type"], &last["outcome"], &last["exit_code"]),
        (&json!("run_finished"), &json!("failed"), &json!(2))
    );
    assert_eq!(last["error"]["kind"], "ConfigInvalid");
    assert!(run.stderr.starts_with("error: "));
}

#[test]
fn show_prints_our_columns_last_and_counts_rows() {
    let project = Project::shop();
    project.good(&["run", "--source", "files"]);
    let shown = project.good(&["show", "files.orders", "--limit", "2"]).stdout;
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with("id | total  | paid_at"), "{shown}");
    assert!(lines[0].ends_with("_ingest_rescued") && lines[0].contains("| _source_file | _ingest_run_id "), "{shown}");
    assert_eq!(lines.last(), Some(&"3 rows, 2 shown"));
    // A name or value cannot steer the terminal.
    let customers = project.good(&["show", "files.customers"]).stdout;
    assert!(customers.contains("\\u{1b}[31mred") && !customers.contains('\u{1b}'), "{customers}");
    let rows = project.json(&["show", "files.customers"]);
    let big = rows.as_array().expect("rows").iter().find(|row| row["name"] == "Zoë").expect("Zoë");
    assert_eq!(big["id"], "9007199254740993");
    let missing = project.run(&["show", "files.ordres"]);
    assert_eq!(missing.code, Some(2));
    assert!(missing.stderr.contains("did you mean `files.orders`?"), "{}", missing.stderr);
}

#[test]
fn reading_verbs_have_the_documented_json() {
    let project = Project::shop();
    let check = project.json(&["check", "--source", "files"]);
    assert_eq!(check, json!({"source": "files", "ok": true, "problems": []}));
    let found = project.json(&["discover", "--source", "files", "--select", "orders"]);
    assert_eq!(found["source"], "files");
    let stream = &found["streams"][0];
    assert_eq!((&stream["name"], &stream["table"]), (&json!("orders"), &json!("files.orders")));
    assert_eq!(stream["columns"][0], json!({"name": "id", "type": "Int64", "nullable": true}));
    assert_eq!(stream["modes"], json!(["incremental", "full"]));
    assert!(stream["key"].is_array() && stream["cursors"].is_array() && stream["estimate"].is_object());
    let plan = project.json(&["plan", "--source", "files", "--select", "orders"]);
    let stream = &plan["streams"][0];
    assert_eq!(
        (&stream["stream"], &stream["mode"], &stream["write"]),
        (&json!("orders"), &json!("incremental"), &json!("append"))
    );
    assert_eq!(stream["slices"], 1);
    for key in ["cursor", "rows", "bytes", "requests", "schema_changes", "masks"] {
        assert!(stream.get(key).is_some(), "{key}");
    }
    let preview = project.json(&["preview", "--source", "files", "--stream", "orders", "--limit", "2"]);
    assert_eq!(preview.as_array().map(Vec::len), Some(2));
    assert_eq!(preview[0]["id"], 1);
    assert!(!project.folder.path().join("lake/bronze").exists(), "reading verbs write no table");

    project.good(&["run", "--source", "files", "--run-id", "first"]);
    let runs = project.json(&["runs"]);
    assert_eq!((&runs[0]["run_id"], &runs[0]["source"]), (&json!("first"), &json!("files")));
    assert_eq!((&runs[0]["outcome"], &runs[0]["exit_code"]), (&json!("succeeded"), &json!(0)));
    assert_eq!(runs[0]["totals"]["rows_written"], 5);
    assert!(runs[0]["started_at"].as_str() <= runs[0]["finished_at"].as_str());
    assert_eq!(project.json(&["runs", "first"])["streams"].as_array().map(Vec::len), Some(2));
    let schema = project.json(&["schema", "files.orders"]);
    assert_eq!((&schema["table"], &schema["version"]), (&json!("files.orders"), &json!(1)));
    assert_eq!(schema["columns"][0]["name"], "id");
    let plan = project.json(&["plan", "--source", "files"]);
    assert_eq!(plan["streams"][0]["slices"], 0, "there is nothing new");
}

#[test]
fn check_names_problems_with_remedies_and_exits_as_a_run_would() {
    let project = Project::new("lake: {url: ./file}\nsources: {files: {path: ./none}}\n").file("file", "not a folder");
    let output = project.run(&["check", "--source", "files", "--json"]);
    let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!(report["ok"], false);
    let problems = report["problems"].as_array().expect("problems");
    assert!(problems.len() >= 2, "lake and source are both reported: {report:#}");
    for problem in problems {
        assert_eq!(problem["severity"], "error");
        assert!(problem["what"].is_string() && problem["remedy"].is_string());
    }
    assert_ne!(output.code, Some(0));
}

#[test]
fn state_is_shown_exported_reset_and_taken_back() {
    let project = Project::shop();
    project.good(&["run", "--source", "files"]);
    let shown = project.json(&["state", "show", "--source", "files"]);
    assert_eq!(shown.as_array().map(Vec::len), Some(2));
    assert_eq!(shown[1]["stream"], "orders");
    let number = shown[1]["number"].as_i64().expect("a number").to_string();
    let exported = project.good(&["state", "export", "--source", "files"]).stdout;
    let project = project
        .file("state.json", &exported)
        .file("data/orders.csv", "id,total,paid_at\n4,1.00,2024-03-03T10:00:00Z\n");
    project.good(&["run", "--source", "files"]);
    let rows = |project: &Project| project.json(&["show", "files.orders"]).as_array().map(Vec::len);
    assert_eq!(rows(&project), Some(1), "a file sent again replaces its rows");
    let log = project.json(&["state", "log", "--source", "files", "--stream", "orders"]);
    let numbers: Vec<String> = log.as_array().expect("a log").iter().map(|c| c["number"].to_string()).collect();
    assert!(numbers.len() > 1 && numbers.last() == Some(&number), "newest first: {numbers:?}");
    project.good(&["state", "rewind", "--source", "files", "--stream", "orders", "--to", &number]);
    assert_eq!(rows(&project), Some(3));
    project.good(&["run", "--source", "files"]);
    assert_eq!(rows(&project), Some(1));
    project.good(&["state", "reset", "--source", "files", "--stream", "orders"]);
    project.good(&["state", "import", "--source", "files", "state.json"]);
    let unknown = project.run(&["state", "reset", "--source", "files", "--stream", "none"]);
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
}

#[test]
fn maintain_reports_every_table() {
    let project = Project::shop();
    project.good(&["run", "--source", "files"]);
    let report = project.json(&["maintain"]);
    let tables: Vec<&str> = report.as_array().expect("tables").iter().filter_map(|t| t["table"].as_str()).collect();
    assert_eq!(tables, ["files.customers", "files.orders"]);
    assert_eq!(project.json(&["maintain", "--table", "files.orders", "--dry-run"]).as_array().map(Vec::len), Some(1));
    assert_eq!(project.run(&["maintain", "--table", "files.none"]).code, Some(2));
}

/// The server accepts and says nothing: only a signal ends the run before its time.
#[test]
fn a_signal_ends_a_run_in_time_with_130_and_run_finished() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = server.local_addr().expect("an address").port();
    let text = format!("sources:\n  postgres: {{host: 127.0.0.1, port: {port}, user: u, database: d}}\n");
    for name in ["TERM", "INT"] {
        let project = Project::new(&text);
        let mut command = project.command(&["run", "--source", "postgres", "--progress", "json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        // The connection says that the run is under way.
        let (_connection, _) = server.accept().expect("a connection");
        signal(&child, name);
        let (code, took) = wait(&mut child, Duration::from_secs(15));
        assert_eq!(code, 130, "SIG{name}");
        assert!(took < Duration::from_secs(11), "SIG{name}: {took:?}");
        let events = rest(child.stdout.take().expect("piped"));
        let last: Value = serde_json::from_str(events.lines().last().expect("events")).expect("JSON");
        assert_eq!((&last["type"], &last["outcome"]), (&json!("run_finished"), &json!("interrupted")), "{events}");
    }
}
