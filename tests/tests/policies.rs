//! Data classes, masks, checks and the quarantine, from outside.

use std::path::Path;

use ingest_testkit::python;
use serde_json::{Value, json};

use crate::cli::Project;

/// Every value of every Parquet file of a folder, its statistics, and every other file as it is, on standard output.
pub const EVERYTHING: &str = r#"
import json, pathlib, sys
import pyarrow.parquet as pq
for path in sorted(pathlib.Path(sys.argv[1]).rglob("*")):
    if not path.is_file():
        continue
    print(path)
    if path.suffix != ".parquet":
        print(path.read_bytes().decode("utf-8", "replace"))
        continue
    file = pq.ParquetFile(path)
    print(file.metadata.metadata, file.schema)
    for group in range(file.metadata.num_row_groups):
        for column in range(file.metadata.num_columns):
            statistics = file.metadata.row_group(group).column(column).statistics
            if statistics is not None and statistics.has_min_max:
                print(statistics.min, statistics.max)
    for row in file.read().to_pylist():
        print(json.dumps(row, default=str, ensure_ascii=False))
"#;

const PEOPLE: &str = "id,email,phone,name,town,born,notes,credit\n\
    1,clear-ada@example.com,+49 30 555001,Clear Ada,Cleartown,1815-12-10,clear note one,10\n\
    2,clear-bob@example.com,+49 30 555002,Clear Bob,Cleartown,1950-02-03,clear note two,20\n\
    3,clear-eve@example.com,+49 30 555003,Clear Eve,Clearville,not-a-clear-date,clear note three,900000\n\
    4,clear-zoe-broken,+49 30 555004,Clear Zoë,Clearville,1970-05-05,clear note four,30\n\
    5,clear-too,many,clear,fields,on,this,clear line,here,clear\n";

const MASKS: &str = "sources:
  crm:
    connector: files
    path: ./data
    files: {people: {path: people.csv, format: csv, types: {born: date}}}
    streams:
      people:
        classify: {email: pii, phone: pii}
        mask: {email: hash, phone: {partial: 2}, name: token, town: redact, born: {generalize: year}, notes: drop}
        checks:
          - {column: email, regex: '^[^@]+@[^@]+$', on_fail: quarantine}
          - {column: credit, range: {min: 0, max: 100000}, on_fail: quarantine}
          - {column: id, not_null: true, on_fail: fail}
";

fn masked() -> Project {
    Project::new(&format!("mask_key: ${{MASK_KEY}}\n{MASKS}"))
        .file("data/people.csv", PEOPLE)
        .set("MASK_KEY", "a key of thirty-two characters..")
}

/// What no byte may hold: parts of every clear value.
const CLEAR: [&str; 12] = [
    "clear-ada",
    "clear-bob",
    "clear-eve",
    "clear-zoe",
    "555001",
    "Clear Ada",
    "Clear Bob",
    "Cleartown",
    "Clearville",
    "1815-12",
    "not-a-clear",
    "clear note",
];

fn holds_nothing_clear(what: &str, text: &str) {
    for clear in CLEAR.iter().chain(&["clear line", "clear-too"]) {
        assert!(!text.contains(clear), "{clear:?} stands in {what}:\n{text}");
    }
}

fn lake(project: &Project) -> String {
    project.folder.path().join("lake").to_string_lossy().into_owned()
}

async fn rows(project: &Project, table: &str) -> Vec<serde_json::Map<String, Value>> {
    let path = project.folder.path().join("lake").join(table).to_string_lossy().into_owned();
    python::rows(python::Reader::DeltaRs, &path, &[]).await.unwrap_or_default()
}

#[tokio::test]
async fn clear_values_of_masked_columns_are_in_no_byte_of_lake_logs_or_previews() {
    let project = masked();
    let preview = project.good(&["preview", "--source", "crm", "--stream", "people", "--log-level", "trace"]);
    holds_nothing_clear("a preview", &(preview.stdout + &preview.stderr));
    let run = project.good(&["run", "--source", "crm", "--log-level", "trace"]);
    holds_nothing_clear("the logs of a run", &(run.stdout + &run.stderr));
    for line in
        ["show crm.people", "quarantine show --source crm", "state show --source crm", "runs", "schema crm.people"]
    {
        let shown = project.good(&line.split(' ').collect::<Vec<_>>());
        holds_nothing_clear(line, &(shown.stdout + &shown.stderr));
    }
    let table = project.json(&["show", "crm.people"]);
    assert_eq!(table.as_array().map(Vec::len), Some(2), "{table}");
    let quarantine = project.json(&["quarantine", "show", "--source", "crm"]);
    assert_eq!(quarantine.as_array().map(Vec::len), Some(3), "{quarantine}");
    let Some(everything) = python::run("python", EVERYTHING, &[&lake(&project)], &[]).await else { return };
    assert!(everything.contains("\"phone\": \"***********01\""), "the reader sees masked values:\n{everything}");
    holds_nothing_clear("the lake", &everything);
    assert!(!everything.contains("a key of thirty-two"), "the key is nowhere");
}

#[test]
fn masked_values_are_what_the_key_makes_of_them_and_tokens_can_be_revealed() {
    let project = masked();
    project.good(&["run", "--source", "crm"]);
    let rows = project.json(&["show", "crm.people"]);
    let ada = rows.as_array().and_then(|rows| rows.iter().find(|row| row["id"] == 1)).expect("Ada").clone();
    // HMAC-SHA256 of the address under the key, by another program.
    let hash = std::process::Command::new("python3")
        .args(["-c", "import hmac; print(hmac.new(b'a key of thirty-two characters..', b'clear-ada@example.com', 'sha256').hexdigest())"])
        .output();
    if let Ok(output) = hash.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()) {
        assert_eq!(ada["email"], json!(output));
    }
    assert_eq!(
        (&ada["phone"], &ada["town"], &ada["born"]),
        (&json!("***********01"), &json!("***"), &json!("1815-01-01"))
    );
    assert!(ada.get("notes").is_none(), "a dropped column is no column: {ada}");
    let token = ada["name"].as_str().expect("a token");
    assert_eq!(project.good(&["reveal", token]).stdout, "Clear Ada\n");
    let wrong = masked().set("MASK_KEY", "another key of thirty-two chars.").run(&["reveal", token]);
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    assert!(!wrong.stderr.contains("Ada") && wrong.stderr.contains("not made with this mask key"), "{wrong:?}");
    let plan = project.json(&["plan", "--source", "crm"]);
    assert_eq!(plan["streams"][0]["masks"]["phone"], "partial: 2");
    assert_eq!(plan["streams"][0]["masked_types"]["born"], "Date32");
    let schema = project.json(&["schema", "crm.people"]);
    let email = schema["columns"].as_array().and_then(|c| c.iter().find(|c| c["name"] == "email")).expect("email");
    assert_eq!((&email["class"], &email["mask"], &email["type"]), (&json!("pii"), &json!("hash"), &json!("Utf8")));
}

#[test]
fn rows_that_checks_hold_back_are_kept_with_reason_and_check_and_counted() {
    let project = masked();
    let run = project.good(&["run", "--source", "crm", "--progress", "json", "--run-id", "first"]);
    let last: Value = serde_json::from_str(run.stdout.lines().last().expect("events")).expect("JSON");
    assert_eq!(last["type"], "run_finished");
    assert_eq!(
        (&last["rows_read"], &last["rows_written"], &last["rows_quarantined"]),
        (&json!(4), &json!(2), &json!(3))
    );
    let checks = &last["streams"][0]["checks"];
    assert_eq!(
        checks[0],
        json!({"check": "regex(email)", "on_fail": "quarantine", "outcome": "quarantined", "rows": 4, "failed": 1})
    );
    assert_eq!((&checks[1]["failed"], &checks[2]["outcome"]), (&json!(1), &json!("passed")));
    let history = project.json(&["runs", "first"]);
    assert_eq!(history["streams"][0]["checks"], *checks, "the catalog keeps what checks found");
    let held = project.json(&["quarantine", "show", "--source", "crm"]);
    let of = |check: &str| held.as_array().and_then(|rows| rows.iter().find(|row| row["check"] == check)).cloned();
    let eve = of("range(credit)").expect("Eve");
    assert_eq!((&eve["reason"], &eve["run_id"]), (&json!("credit is out of range"), &json!("first")));
    let record: Value = serde_json::from_str(eve["record"].as_str().expect("a record")).expect("JSON");
    assert_eq!((&record["id"], &record["credit"], &record["town"]), (&json!(3), &json!(900000), &json!("***")));
    assert!(of("regex(email)").is_some());
    let line = held.as_array().and_then(|rows| rows.iter().find(|row| row["check"].is_null())).expect("the bad line");
    assert_eq!(line["record"], "***");
}

#[test]
fn a_check_that_fails_ends_with_5_and_commits_nothing() {
    let project = |checks: &str| {
        let options = format!("{{mode: full, write: replace, checks: [{checks}]}}");
        Project::new(&format!("sources:\n  files:\n    path: ./data\n    streams:\n      t: {options}\n"))
            .file("data/t.csv", "id,kind\n1,a\n2,b\n,c\n")
    };
    let failed = project("{column: id, not_null: true, on_fail: fail}");
    let output = failed.run(&["run", "--source", "files", "--json"]);
    assert_eq!(output.code, Some(5), "{output:?}");
    assert!(output.stderr.contains("QualityFailed") && output.stderr.contains("1 of 3 rows"), "{}", output.stderr);
    let shown = failed.run(&["show", "files.t", "--json"]);
    assert_eq!(shown.stdout.trim(), "[]", "no row is committed");
    for (checks, code, outcome) in [
        ("{column: id, not_null: true, on_fail: fail, tolerate: 50%}", 0, "passed"),
        ("{column: id, not_null: true, on_fail: quarantine, tolerate: 1%}", 5, "failed"),
        ("{column: id, not_null: true, on_fail: quarantine}", 0, "quarantined"),
        ("{column: id, not_null: true}", 0, "warned"),
        ("{column: kind, accepted_values: [a, b, c], on_fail: fail}", 0, "passed"),
        ("{column: kind, unique: true, on_fail: fail}", 0, "passed"),
        ("{column: kind, length: {min: 2}}", 0, "warned"),
        ("{row_count: {min: 4}}", 0, "warned"),
        ("{row_count: {max: 2}, on_fail: fail}", 5, "failed"),
        ("{schema: {id: Int64, kind: Utf8}, on_fail: fail}", 0, "passed"),
        ("{schema: {id: Utf8}}", 0, "warned"),
    ] {
        let output = project(checks).run(&["run", "--source", "files", "--progress", "json"]);
        assert_eq!(output.code, Some(code), "{checks}: {output:?}");
        let last: Value = serde_json::from_str(output.stdout.lines().last().expect("events")).expect("JSON");
        assert_eq!(last["streams"][0]["checks"][0]["outcome"], outcome, "{checks}: {last:#}");
    }
}

#[test]
fn a_condition_in_sql_holds_rows_back_and_null_passes() {
    let condition = "amount >= 0 and (status <> 'paid' or paid_at is not null)";
    let options = |on_fail: &str| {
        format!(
            "sources:\n  files:\n    path: ./data\n    streams:\n      t:\n        mode: full\n        mask: {{status: hash}}\n        \
             checks:\n          - {{sql: \"{condition}\", {on_fail}}}\n"
        )
    };
    let rows = "id,amount,status,paid_at\n1,10.50,paid,2024-01-01\n2,3.00,paid,\n3,-0.01,open,\n4,,open,\n5,0.00,,\n";
    let project = Project::new(&options("on_fail: quarantine, name: sane")).file("data/t.csv", rows);
    let output = project.good(&["run", "--source", "files", "--progress", "json"]);
    let last: Value = serde_json::from_str(output.stdout.lines().last().expect("events")).expect("JSON");
    assert_eq!((&last["rows_written"], &last["rows_quarantined"]), (&3.into(), &2.into()), "{last}");
    assert_eq!(last["streams"][0]["checks"][0]["check"], "sane");
    let held = project.json(&["quarantine", "show", "--source", "files"]);
    assert_eq!(held[0]["reason"], "sane is not true", "{held}");
    assert!(!held.to_string().contains("paid\""), "masked: {held}");
    // The condition sees what came; of what is held only hashes are left, which it cannot be asked of.
    let kept = project.json(&["quarantine", "replay", "--source", "files"]);
    assert_eq!(kept, json!([{"stream": "t", "replayed": 0, "kept": 2}]));
    let tolerated = project.file("ingest.yaml", &options("tolerate: 50%"));
    let output = tolerated.good(&["run", "--source", "files", "--progress", "json"]);
    let last: Value = serde_json::from_str(output.stdout.lines().last().expect("events")).expect("JSON");
    let report = &last["streams"][0]["checks"][0];
    assert_eq!((&report["outcome"], &report["failed"]), (&"passed".into(), &2.into()), "{last}");
    assert_eq!(report["check"], "sql(amount >= 0 and (status <> 'paid' or paid_at is not null))");
    let before = tolerated.json(&["show", "files.t"]);
    let fails = tolerated.file("ingest.yaml", &options("on_fail: fail, tolerate: 10%"));
    let output = fails.run(&["run", "--source", "files"]);
    assert_eq!(output.code, Some(5), "{output:?}");
    assert!(output.stderr.contains("2 of 5 rows, more than 10%"), "{output:?}");
    assert_eq!(fails.json(&["show", "files.t"]), before);
}

#[test]
fn unique_and_references_look_into_tables_of_the_lake() {
    let project = Project::new(
        "sources:\n  files:\n    path: ./data\n    streams:\n      customers: {mode: full}\n      orders:\n        \
         mode: incremental\n        mask: {id: hash}\n        checks:\n          \
         - {column: id, unique: true, on_fail: quarantine}\n          \
         - {column: customer, references: {table: files.customers, column: id}, on_fail: quarantine}\n",
    )
    .file("data/customers.csv", "id\n1\n2\n")
    .file("data/orders.csv", "id,customer\n10,1\n11,2\n10,1\n12,3\n13,\n");
    project.good(&["run", "--source", "files", "--select", "customers"]);
    project.good(&["run", "--source", "files", "--select", "orders"]);
    assert_eq!(project.json(&["show", "files.orders"]).as_array().map(Vec::len), Some(3));
    let held = project.json(&["quarantine", "show", "--source", "files"]);
    let checks: Vec<&str> = held.as_array().into_iter().flatten().filter_map(|row| row["check"].as_str()).collect();
    assert_eq!(checks.len(), 2, "{held}");
    assert!(checks.contains(&"unique(id)") && checks.contains(&"references(customer)"), "{checks:?}");
}

#[test]
fn what_is_wrong_with_a_policy_is_a_plan_error_with_its_place() {
    let project = |options: &str, top: &str| {
        Project::new(&format!("{top}sources:\n  files:\n    path: ./data\n    streams:\n      t:\n        {options}\n"))
            .file("data/t.csv", "id,email,born\n1,a@b.c,2020-01-01\n")
    };
    for (options, top, what) in [
        (
            "mask: {emial: hash}",
            "",
            "ingest.yaml:6: sources.files.streams.t.mask.emial: there is no column \"emial\" to mask",
        ),
        (
            "mask: {id: redact}",
            "",
            "ingest.yaml:6: sources.files.streams.t.mask.id: the mask `redact` cannot take column \"id\"",
        ),
        ("mask: {email: token}", "", "ingest.yaml:6: sources.files.streams.t.mask.email: the mask `token` needs a key"),
        ("classify: {nobody: pii}", "", "ingest.yaml:6: sources.files.streams.t.classify.nobody: there is no column"),
        (
            "checks: [{column: x, not_null: true}]",
            "",
            "ingest.yaml:6: sources.files.streams.t.checks.0.column: there is no column \"x\"",
        ),
        (
            "checks: [{column: id, regex: a}]",
            "",
            "ingest.yaml:6: sources.files.streams.t.checks.0.regex: the check regex(id) cannot take",
        ),
        ("checks: [{column: id, range: {min: x}}]", "", "\"x\" is no bound for a column of type Int64"),
        ("checks: [{column: id, freshness: 2h}]", "", "freshness cannot take column \"id\""),
        ("mode: full", "policies: {require_classification: true}\n", "without one: id, email, born"),
        (
            "classify: {email: pii}",
            "policies: {mask: {pii: {generalize: year}}}\n",
            "of class pii cannot take column \"email\"",
        ),
    ] {
        for verb in ["plan", "run", "check"] {
            let output = project(options, top).run(&[verb, "--source", "files"]);
            assert_eq!(output.code, Some(2), "{verb}: {options}: {output:?}");
            assert!((output.stderr + &output.stdout).contains(what), "{verb}: {options}: {what}");
        }
    }
    let fine =
        project("classify: {email: pii, '*': none}", "policies: {require_classification: true, mask: {pii: hash}}\n");
    let plan = fine.json(&["plan", "--source", "files"]);
    assert_eq!(plan["streams"][0]["masks"], json!({"email": "hash"}));
}

#[test]
fn another_mask_key_than_that_of_the_rows_is_refused_until_all_rows_are_loaded_again() {
    let text = |top: &str| {
        format!(
            "{top}sources:\n  files:\n    path: ./data\n    streams: {{t: {{mode: incremental, mask: {{email: hash}}}}}}\n"
        )
    };
    let project = Project::new(&text("mask_key: ${K}\n"))
        .file("data/t.csv", "id,email\n1,a@b.c\n")
        .set("K", "one key of a good length");
    project.good(&["run", "--source", "files"]);
    project.good(&["run", "--source", "files"]);
    let project = project.set("K", "two keys are one too many");
    for verb in ["plan", "run", "check"] {
        let output = project.run(&[verb, "--source", "files"]);
        assert_eq!(output.code, Some(2), "{verb}: {output:?}");
        let said = output.stderr + &output.stdout;
        assert!(said.contains("ingest.yaml:1: mask_key: this is not the key"), "{verb}: {said}");
        assert!(!said.contains("two keys are"), "{said}");
    }
    let without = project.file("ingest.yaml", &text(""));
    let output = without.run(&["run", "--source", "files"]);
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains("there is none"), "{output:?}");
    without.good(&["run", "--source", "files", "--full-refresh"]);
    let warned = without.good(&["check", "--source", "files"]);
    assert!(warned.stdout.contains("plain SHA-256"), "{warned:?}");
}

#[tokio::test]
async fn a_replay_after_the_repair_brings_each_row_once_also_when_it_is_killed() {
    let with = |range: &str| {
        format!(
            "sources:\n  files:\n    path: ./data\n    streams:\n      t:\n        mode: full\n        mask: {{email: redact}}\n        \
             checks:\n          - {{column: credit, range: {range}, on_fail: quarantine}}\n          \
             - {{column: email, regex: '@', on_fail: quarantine}}\n"
        )
    };
    let csv = "id,credit,email,at\n1,10,a@b,2024-01-01T00:00:00Z\n2,5000,c@d,2024-01-02T00:00:00Z\n\
               3,9000,e@f,2024-01-03T10:00:00.123456Z\n4,7,none,2024-01-04T00:00:00Z\n";
    let project = Project::new(&with("{max: 100}")).file("data/t.csv", csv);
    project.good(&["run", "--source", "files"]);
    assert_eq!(project.json(&["show", "files.t"]).as_array().map(Vec::len), Some(1));
    let unchanged = project.json(&["quarantine", "replay", "--source", "files"]);
    assert_eq!(unchanged, json!([{"stream": "t", "replayed": 0, "kept": 3}]));
    let project = project.file("ingest.yaml", &with("{max: 6000}"));
    // Dies between the commit of the table and that of the quarantine.
    let killed =
        project.command(&["quarantine", "replay", "--source", "files"]).env("INGEST_FAILPOINT", "committed").output();
    assert!(!killed.expect("starts").status.success());
    assert_eq!(project.json(&["show", "files.t"]).as_array().map(Vec::len), Some(2));
    let again = project.json(&["quarantine", "replay", "--source", "files"]);
    assert_eq!(again, json!([{"stream": "t", "replayed": 0, "kept": 2}]), "the one row is in already");
    let forced = project.json(&["quarantine", "replay", "--source", "files", "--force"]);
    assert_eq!(forced, json!([{"stream": "t", "replayed": 2, "kept": 0}]));
    let mut ids: Vec<i64> =
        rows(&project, "bronze/files/t").await.iter().filter_map(|row| row["id"].as_i64()).collect();
    ids.sort_unstable();
    assert!(ids.is_empty() || ids == [1, 2, 3, 4], "{ids:?}");
    let shown = project.json(&["show", "files.t"]);
    let third = shown.as_array().and_then(|rows| rows.iter().find(|row| row["id"] == 3)).expect("the third");
    assert_eq!((&third["at"], &third["email"]), (&json!("2024-01-03T10:00:00.123456Z"), &json!("***")));
    assert_eq!(project.json(&["quarantine", "show", "--source", "files"]), json!([]));
}

#[test]
fn a_run_that_is_killed_leaves_each_record_once_in_quarantine() {
    for place in ["document_written", "committed", "file_closed"] {
        let project = Project::new(
            "sources:\n  files:\n    path: ./data\n    streams:\n      t: {checks: [{column: id, range: {max: 2}, on_fail: quarantine}]}\n",
        )
        .file("data/t.csv", "id\n1\n2\n3\n4\n");
        let killed =
            project.command(&["run", "--source", "files"]).env("INGEST_FAILPOINT", place).output().expect("starts");
        assert!(!killed.status.success(), "{place}");
        project.good(&["run", "--source", "files"]);
        assert_eq!(project.json(&["show", "files.t"]).as_array().map(Vec::len), Some(2), "{place}");
        let held = project.json(&["quarantine", "show", "--source", "files"]);
        assert_eq!(held.as_array().map(Vec::len), Some(2), "{place}: {held}");
    }
}

#[test]
fn discover_says_which_columns_look_personal_and_shows_no_value() {
    let project = Project::new("sources:\n  files:\n    path: ./data\n").file(
        "data/t.csv",
        "id,contact,phone_number,memo\n1,clear-a@b.co,1,x\n2,clear-c@d.co,2,y\n3,clear-e@f.co,3,z\n",
    );
    let found = project.json(&["discover", "--source", "files", "--sample"]);
    let looks = |name: &str| {
        let columns = found["streams"][0]["columns"].as_array().cloned().unwrap_or_default();
        columns.into_iter().find(|c| c["name"] == name).map(|c| c["looks_like"]["kind"].clone())
    };
    assert_eq!(looks("contact"), Some(json!("e-mail")), "{found}");
    assert_eq!(looks("phone_number"), Some(json!("phone number")));
    assert_eq!((looks("memo"), looks("id")), (Some(Value::Null), Some(Value::Null)));
    assert!(!found.to_string().contains("clear-"));
    assert!(Path::new(&lake(&project)).read_dir().map_or(true, |mut entries| entries.next().is_none()));
}

#[test]
fn a_table_older_than_its_sla_is_a_warning_of_check() {
    let project = |sla: &str| {
        let configuration = format!("sources:\n  files:\n    path: ./data\n    streams:\n      t: {{sla: {sla}}}\n");
        Project::new(&configuration).file("data/t.csv", "id\n1\n")
    };
    let warned = |project: &Project| {
        let report = project.json(&["check", "--source", "files"]);
        let problems = report["problems"].as_array().expect("problems");
        problems.iter().filter_map(|p| p["what"].as_str()).find(|what| what.contains("`sla`")).map(str::to_owned)
    };
    let fresh = project("2h");
    assert!(warned(&fresh).is_some_and(|what| what.contains("no run has brought")));
    fresh.good(&["run", "--source", "files"]);
    assert_eq!(warned(&fresh), None);
    let old = project("0s");
    old.good(&["run", "--source", "files"]);
    assert!(warned(&old).is_some_and(|what| what.contains("up to date last at") && what.contains("allows 0s")));
}
