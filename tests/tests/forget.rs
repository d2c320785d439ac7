//! People are erased, and nothing that can be read holds them; rows that were kept long enough go.

use ingest_testkit::python;
use serde_json::{Value, json};

use crate::cli::{Output, Project};
use crate::policies::EVERYTHING;
use crate::survive::run_to_failpoint;

const ADA: &str = "ada.lovelace@example.com";
const KEY: &str = "a key of thirty-two characters..";

/// Every version of a table that can still be read, row by row.
const VERSIONS: &str = r#"
import json, sys
from deltalake import DeltaTable
newest = DeltaTable(sys.argv[1]).version()
for version in range(newest + 1):
    try:
        rows = DeltaTable(sys.argv[1], version=version).to_pyarrow_table().to_pylist()
    except Exception:
        continue
    for row in rows:
        print(version, json.dumps(row, default=str))
"#;

const SOURCES: &str = "lake: {commit_interval: 0s}
sources:
  crm:
    connector: files
    path: ./data
    files: {people: {path: \"people-*.csv\", format: csv}, orders: {path: \"orders-*.csv\", format: csv},
            visits: {path: \"visits-*.csv\", format: csv}}
    streams:
      people: {write: append, checks: [{column: credit, range: {max: 1000}, on_fail: quarantine}]}
      orders: {write: merge, key: [id], mask: {email: hash}}
      visits: {write: scd2, key: [id], mask: {email: token}}
";

fn crm() -> Project {
    Project::new(&format!("mask_key: ${{MASK_KEY}}\n{SOURCES}")).set("MASK_KEY", KEY)
}

fn add(project: &Project, name: &str, text: &str) {
    let path = project.folder.path().join("data").join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    std::fs::write(path, text).expect("written");
}

/// Three runs: versions, rewritten files, compacted files, and records in quarantine.
fn loaded() -> Project {
    let project = crm();
    for run in 0..3 {
        // No number begins with a zero.
        let n = run + 1;
        let (bob, eve) = (format!("bob{run}@example.com"), format!("eve{run}@example.com"));
        let credit = if run == 1 { 5000 } else { 10 };
        add(
            &project,
            &format!("people-{run}.csv"),
            &format!("id,email,credit\n{n}1,{ADA},{credit}\n{n}2,{bob},20\n{n}3,{eve},30\n{n}4,{bob},9999\n"),
        );
        for name in ["orders", "visits"] {
            let text = format!("id,email,total\n1,{ADA},{run}\n2,{bob},{run}\n{n}7,{ADA},7\n{n}8,{eve},8\n");
            add(&project, &format!("{name}-{run}.csv"), &text);
        }
        project.good(&["run", "--source", "crm"]);
        if run == 1 {
            project.good(&["maintain"]);
        }
    }
    project
}

fn lake(project: &Project, table: &str) -> String {
    project.folder.path().join("lake").join(table).to_string_lossy().into_owned()
}

fn receipt(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:#?}"))
}

/// What the masks make of the address.
fn masked(project: &Project) -> Vec<String> {
    let of = |table: &str| -> Vec<String> {
        let rows = project.json(&["show", table, "--limit", "100"]);
        let rows = rows.as_array().expect("rows");
        let ours = rows.iter().filter(|row| row["total"] == 7).filter_map(|row| row["email"].as_str());
        ours.map(str::to_owned).collect()
    };
    let mut forms = [of("crm.orders"), of("crm.visits")].concat();
    forms.sort();
    forms.dedup();
    assert_eq!(forms.len(), 2, "a hash and a token: {forms:?}");
    forms
}

#[tokio::test]
async fn forget_leaves_no_trace_in_any_byte_or_version_that_can_be_read() {
    let project = loaded();
    let forms = masked(&project);
    let before = python::run("python", EVERYTHING, &[&lake(&project, "")], &[]).await;
    if let Some(before) = &before {
        assert!(before.contains(ADA) && forms.iter().all(|form| before.contains(form)), "the reader sees them");
    }
    let looked = receipt(&project.good(&["forget", "--column", "email", ADA, "--dry-run", "--json"]));
    assert!(looked["left"].as_array().is_some_and(|left| !left.is_empty()), "{looked}");

    let done = receipt(&project.good(&["forget", "--column", "email", ADA, "--json"]));
    assert_eq!((&done["proven"], &done["left"]), (&json!(true), &json!([])), "{done:#}");
    let rows = |table: &str| {
        let tables = done["tables"].as_array().expect("tables");
        tables.iter().find(|t| t["table"] == table).map(|t| t["erased"]["rows"].clone()).unwrap_or_default()
    };
    assert_eq!(rows("bronze/crm/people"), 2, "{done:#}");
    assert_eq!(rows("quarantine/crm/people"), 1, "{done:#}");
    assert_eq!(rows("bronze/crm/orders"), 4, "{done:#}");
    assert_eq!(rows("bronze/crm/visits"), 6, "every version of a person's rows: {done:#}");
    assert!(done["fingerprints"][0].as_str().is_some_and(|print| print.len() == 64));

    let fingerprint = done["fingerprints"][0].as_str().expect("text");
    if let Some(everything) = python::run("python", EVERYTHING, &[&lake(&project, "")], &[]).await {
        for form in forms.iter().filter(|form| *form != fingerprint).map(String::as_str).chain([ADA, "lovelace"]) {
            assert!(!everything.contains(form), "{form} is left:\n{everything}");
        }
        for line in everything.lines().filter(|line| line.contains(fingerprint)) {
            assert!(line.contains("\"fingerprints\""), "only the receipt knows the hash: {line}");
        }
        assert!(everything.contains("bob2@example.com") && everything.contains("eve0@example.com"), "others stay");
    }
    for table in ["bronze/crm/people", "bronze/crm/orders", "bronze/crm/visits", "quarantine/crm/people"] {
        let Some(versions) = python::run("python", VERSIONS, &[&lake(&project, table)], &[]).await else { break };
        assert!(!versions.is_empty(), "{table} can be read");
        for form in forms.iter().map(String::as_str).chain([ADA]) {
            assert!(!versions.contains(form), "{table} still gives {form}");
        }
    }
    assert_eq!(project.json(&["show", "crm.people", "--limit", "100"]).as_array().map(Vec::len), Some(6));

    project.good(&["run", "--source", "crm"]);
    let again = receipt(&project.good(&["forget", "--column", "email", ADA, "--json"]));
    assert_eq!(again["proven"], true, "files that were read are not read again: {again:#}");
    let erased = again["tables"].as_array().expect("tables").iter().filter(|t| t["erased"]["version"].is_u64()).count();
    assert_eq!(erased, 0, "a second time there is nothing to do: {again:#}");
    project.good(&["maintain"]);
}

/// Where `forget` is killed: at the n-th time that it comes by.
const KILLS: [(&str, &[u32]); 7] = [
    ("forget_renewed", &[1, 3]),
    ("forget_looked", &[1, 4, 9, 16, 25]),
    ("forget_committed", &[1, 2, 3, 4]),
    ("forget_log_cleaned", &[1, 2, 7]),
    ("forget_deleted", &[1, 2, 3]),
    ("forget_searched", &[1, 4]),
    ("forget_swept", &[1, 2]),
];

/// The same lake and data in another folder.
fn copy(of: &Project) -> Project {
    let project = crm();
    for name in ["lake", "data"] {
        let from = of.folder.path().join(name);
        let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(project.folder.path()).status();
        assert!(copied.is_ok_and(|status| status.success()), "{name} is copied");
    }
    project
}

#[tokio::test]
async fn a_forget_that_is_killed_anywhere_ends_with_a_proof_when_it_is_called_again() {
    const FORGET: [&str; 5] = ["forget", "--column", "email", ADA, "--json"];
    let whole = loaded();
    let forms = masked(&whole);
    for (place, times) in KILLS {
        for n in times {
            let project = copy(&whole);
            assert!(run_to_failpoint(&project, &FORGET, place, *n), "{place} is not reached {n} times");
            // What a process leaves that is killed while it writes an object to a disk; no listing shows it.
            for torn in ["bronze/crm/people/_delta_log/9.json#17", "_ingest/checkpoints/crm/people/9.json#1"] {
                std::fs::write(project.folder.path().join("lake").join(torn), ADA).expect("written");
            }
            let done = receipt(&project.good(&FORGET));
            let context = format!("killed at {place}:{n}");
            assert_eq!((&done["proven"], &done["left"]), (&json!(true), &json!([])), "{context}: {done:#}");
            let people = project.json(&["show", "crm.people", "--limit", "100"]);
            assert_eq!(people.as_array().map(Vec::len), Some(6), "{context}: others stay: {people}");
            let Some(everything) = python::run("python", EVERYTHING, &[&lake(&project, "")], &[]).await else {
                continue;
            };
            let fingerprint = done["fingerprints"][0].as_str().expect("text");
            for form in forms.iter().filter(|form| *form != fingerprint).map(String::as_str).chain([ADA]) {
                assert!(!everything.contains(form), "{context}: {form} is left:\n{everything}");
            }
            project.good(&["run", "--source", "crm"]);
        }
    }
}

#[test]
fn older_versions_can_be_kept_and_the_receipt_says_that_they_hold_the_person() {
    let project = loaded();
    let kept = project.run(&["forget", "--column", "email", ADA, "--keep-history", "--json"]);
    assert_eq!(kept.code, Some(4), "{kept:#?}");
    let kept = receipt(&kept);
    assert_eq!((&kept["proven"], &kept["vacuumed_at"]), (&json!(false), &Value::Null), "{kept:#}");
    let shown = project.json(&["show", "crm.people", "--limit", "100"]);
    assert!(!shown.to_string().contains(ADA), "the newest version is without: {shown}");
    let done = project.good(&["forget", "--column", "email", ADA]);
    assert!(done.stdout.contains("nothing is left") && done.stdout.contains("_ingest/forgotten/"), "{done:?}");
}

#[test]
fn a_person_is_found_by_key_and_by_a_text_anywhere() {
    let project = loaded();
    let done = receipt(&project.good(&["forget", "--table", "crm.orders", "--key", "1", "--json"]));
    assert_eq!((&done["proven"], &done["tables"][0]["erased"]["rows"]), (&json!(true), &json!(1)), "{done:#}");
    let ids = |project: &Project| -> Vec<i64> {
        let rows = project.json(&["show", "crm.orders", "--limit", "100"]);
        let mut ids: Vec<i64> = rows.as_array().expect("rows").iter().filter_map(|row| row["id"].as_i64()).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(ids(&project), [2, 17, 18, 27, 28, 37, 38]);
    let mut asked = project.command(&["forget", "--anywhere", "-", "--json"]);
    let mut child = asked
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), b"eve0@example.com\neve1@example.com\n")
        .expect("written");
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(ids(&project), [2, 17, 27, 37, 38]);
    let wrong = project.run(&["forget", "--table", "crm.orders", "--key", "[1, 2]"]);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(wrong.stderr.contains("do not fit the key"), "{wrong:?}");
    let wrong = project.run(&["forget", "--column", "emial", ADA]);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(!wrong.stderr.contains("lovelace"), "an error names no value: {wrong:?}");
    assert_eq!(project.run(&["forget", ADA]).code, Some(2), "where to look must be said");
}

#[test]
fn rows_go_when_the_retention_of_their_class_is_over() {
    let project = Project::new(
        "policies: {retention: {pii: 3y, restricted: 10y}}\nsources:\n  files:\n    path: ./data\n    streams:\n      \
         people: {classify: {email: pii}, retention: {by: at}}\n      \
         salaries: {classify: {amount: restricted}, retention: {by: at}}\n      \
         plain: {}\n      kept: {classify: {email: pii}, retention: forever}\n      own: {retention: {after: 5y, by: at}}\n",
    );
    let now = chrono::Utc::now().date_naive();
    let back = |years: u32, days: i64| {
        now.checked_sub_months(chrono::Months::new(12 * years)).expect("a day") + chrono::Duration::days(days)
    };
    let rows: String = [(1, back(0, 0)), (2, back(3, 5)), (3, back(3, -5)), (4, back(5, -5)), (5, back(10, -5))]
        .iter()
        .map(|(id, at)| format!("{id},x{id}@example.com,{id},{at}T00:00:00Z\n"))
        .collect();
    let mut project = project;
    for table in ["people", "salaries", "plain", "kept", "own"] {
        project = project.file(&format!("data/{table}.csv"), &format!("id,email,amount,at\n{rows}"));
    }
    project.good(&["run", "--source", "files"]);
    let dry = project.json(&["maintain", "--dry-run"]);
    let expired = |report: &Value, table: &str| {
        let tables = report.as_array().expect("tables");
        tables.iter().find(|t| t["table"] == format!("files.{table}")).map(|t| t["rows_expired"].clone())
    };
    assert_eq!(expired(&dry, "people"), Some(json!(3)), "{dry}");
    let done = project.json(&["maintain"]);
    for (table, gone, left) in [
        ("people", 3, vec![1, 2]),
        ("salaries", 1, vec![1, 2, 3, 4]),
        ("plain", 0, vec![1, 2, 3, 4, 5]),
        ("kept", 0, vec![1, 2, 3, 4, 5]),
        ("own", 2, vec![1, 2, 3]),
    ] {
        assert_eq!(expired(&done, table), Some(json!(gone)), "{table}: {done}");
        let rows = project.json(&["show", &format!("files.{table}")]);
        let mut ids: Vec<i64> = rows.as_array().expect("rows").iter().filter_map(|row| row["id"].as_i64()).collect();
        ids.sort_unstable();
        assert_eq!(ids, left, "{table}");
    }
    let again = project.json(&["maintain"]);
    assert_eq!(expired(&again, "people"), Some(json!(0)), "{again}");
    let wrong = Project::new("sources:\n  files:\n    path: .\n    streams:\n      x: {retention: soon}\n")
        .run(&["run", "--source", "files"]);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(wrong.stderr.contains("retention"), "{wrong:?}");
}
