//! Who starts runs: `ingest serve`, and what orchestrators are given.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use ingest_testkit::python;
use serde_json::{Value, json};

use crate::cli::{Project, signal, wait};

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs a Python script with paths of this checkout.
async fn script(text: &str, paths: &[&str]) -> Option<String> {
    let paths: Vec<String> = paths.iter().map(|path| top().join(path).display().to_string()).collect();
    python::run("python", text, &paths.iter().map(String::as_str).collect::<Vec<_>>(), &[]).await
}

#[test]
fn schedules_are_shown_with_what_they_start() {
    let project = Project::new(
        "sources:\n  files:\n    path: ./data\n    schedule: {at: daily, zone: Europe/Berlin, concurrency: 2}\n    streams:\n      orders: {schedule: hourly}\n      customers: {}\n      \"o*\": {schedule: {at: \"*/5 * * * *\", priority: 3}}\n",
    );
    let jobs = project.json(&["serve", "--dry-run"]);
    let find = |id: &str| jobs.as_array().expect("jobs").iter().find(|job| job["job"] == id).expect(id).clone();
    let whole = find("files");
    assert_eq!((&whole["select"], &whole["exclude"]), (&json!(["customers"]), &json!(["orders", "o*"])));
    assert_eq!(whole["concurrency"], 2);
    assert_eq!((&find("files/orders")["select"], &find("files/orders")["exclude"]), (&json!(["orders"]), &json!([])));
    let glob = find("files/o*");
    assert_eq!((&glob["exclude"], &glob["priority"]), (&json!(["orders", "customers"]), &json!(3)));
    assert!(glob["next"].as_str().is_some_and(|next| next.ends_with(":00Z")), "{glob}");
    let shown = project.good(&["serve", "--dry-run"]).stdout;
    assert!(shown.lines().count() == 4 || shown.contains("files/orders"), "{shown}");
}

#[test]
fn wrong_schedules_are_refused_with_their_line() {
    let project = Project::new(
        "sources:\n  files:\n    path: ./data\n    schedule: sometimes\n    streams:\n      orders: {schedule: {at: hourly, zone: Mars/Base}}\n",
    );
    let output = project.run(&["serve"]);
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains("ingest.yaml:4") && output.stderr.contains("five fields"), "{}", output.stderr);
    assert!(output.stderr.contains("ingest.yaml:6") && output.stderr.contains("Mars/Base"), "{}", output.stderr);
    let nothing = Project::shop().run(&["serve"]);
    assert_eq!(nothing.code, Some(2));
    assert!(nothing.stderr.contains("schedule: hourly"), "{}", nothing.stderr);
}

#[test]
fn a_server_runs_what_is_due_and_another_waits_until_it_is_gone() {
    let project = Project::new("sources:\n  files: {path: ./data, schedule: realtime}\n")
        .file("data/orders.csv", "id,total\n1,9.50\n");
    let start = || {
        let mut command = project.command(&["serve"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let lines = BufReader::new(child.stderr.take().expect("a pipe")).lines().map(|line| line.expect("UTF-8"));
        (child, lines)
    };
    let (mut first, mut said) = start();
    assert!(said.next().is_some_and(|line| line.ends_with("this server leads")));
    let (mut second, mut waiting) = start();
    assert!(waiting.next().is_some_and(|line| line.contains("another server leads")));
    let ended = said.find(|line| line.contains(" ended with ")).expect("a run ends");
    assert!(ended.contains("files: due ") && ended.ends_with("ended with 0"), "{ended}");
    let history = project.json(&["runs"]);
    assert!(history.as_array().expect("runs").iter().all(|run| run["outcome"] == "succeeded"), "{history}");
    signal(&first, "TERM");
    assert_eq!(wait(&mut first, Duration::from_secs(30)).0, 0);
    assert!(waiting.any(|line| line.ends_with("this server leads")), "the other takes over");
    signal(&second, "TERM");
    assert_eq!(wait(&mut second, Duration::from_secs(30)).0, 0);
    let rows = project.json(&["show", "files.orders"]);
    assert_eq!(rows.as_array().map(Vec::len), Some(1), "each due time was run for, and nothing came twice");
}

#[test]
fn a_server_answers_prometheus_with_runs_rows_and_lag() {
    let project = Project::new("sources:\n  files: {path: ./data, schedule: realtime}\n")
        .file("data/orders.csv", "id,total\n1,9.50\n2,3.10\n");
    let mut child = project
        .command(&["serve", "--metrics", "0"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut said = BufReader::new(child.stderr.take().expect("a pipe")).lines().map(|line| line.expect("UTF-8"));
    let first = said.next().expect("a line");
    let address = first.strip_prefix("metrics: http://").and_then(|rest| rest.strip_suffix("/metrics")).expect(&first);
    assert!(address.starts_with("127.0.0.1:"), "a port alone is one of this machine: {address}");
    assert!(said.any(|line| line.ends_with("ended with 0")), "a run ends");
    let mut client = std::net::TcpStream::connect(address).expect("reached");
    client.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("sent");
    let page = crate::cli::rest(client);
    let labels = "job=\"files\",source=\"files\"";
    for line in [
        "HTTP/1.1 200 OK\r".to_owned(),
        "ingest_leader 1".to_owned(),
        format!("ingest_rows_total{{{labels},kind=\"written\"}} 2"),
        format!("ingest_consecutive_failures{{{labels}}} 0"),
    ] {
        assert!(page.split('\n').any(|found| found == line), "{line} is missing: {page}");
    }
    let succeeded = format!("ingest_runs_total{{{labels},outcome=\"succeeded\"}} ");
    assert!(page.contains(&succeeded) && !page.contains(&format!("{succeeded}0")), "{page}");
    assert!(page.contains(&format!("ingest_source_lag_seconds{{{labels}}} ")), "{page}");
    // A port that is taken is said so, before anything runs.
    let taken = project.run(&["serve", "--metrics", address]);
    assert!(taken.code == Some(2) && taken.stderr.contains("hint:"), "{taken:?}");
    signal(&child, "TERM");
    assert_eq!(wait(&mut child, Duration::from_secs(30)).0, 0);
}

/// What `PipesSubprocessClient` of Dagster gives a process, made by its encoding: base64 of zlib of JSON.
const ENCODE: &str = r#"
import base64, json, sys, zlib
encode = lambda value: base64.b64encode(zlib.compress(json.dumps(value).encode())).decode()
context = {"asset_keys": ["orders", "shop/customers"], "run_id": "r", "job_name": "j", "retry_number": 0, "extras": {}}
json.dump(context, open(sys.argv[1] + "/context", "w"))
print(encode({"path": sys.argv[1] + "/context"}))
print(encode({"path": sys.argv[1] + "/messages", "include_stdio_in_messages": False}))
"#;

#[tokio::test]
async fn a_stand_in_of_dagsters_pipes_hears_of_tables_and_checks() {
    let project = Project::new(
        "sources:\n  files:\n    path: ./data\n    streams:\n      orders: {checks: [{column: id, not_null: true}]}\n      customers: {}\n",
    )
    .file("data/orders.csv", "id,total\n1,9.50\n2,\n")
    .file("data/customers.ndjson", "{\"id\": 1}\n");
    let folder = project.folder.path().display().to_string();
    let Some(variables) = python::run("python", ENCODE, &[&folder], &[]).await else { return };
    let mut variables = variables.lines();
    let mut variable = || variables.next().expect("a line").to_owned();
    let project = project.set("DAGSTER_PIPES_CONTEXT", &variable()).set("DAGSTER_PIPES_MESSAGES", &variable());
    project.good(&["run", "--source", "files", "--progress", "off"]);
    let text = std::fs::read_to_string(project.folder.path().join("messages")).expect("messages");
    let messages: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(messages.iter().all(|message| message["__dagster_pipes_version"] == "0.1"));
    let of = |method: &str| messages.iter().filter(|message| message["method"] == method).collect::<Vec<_>>();
    assert_eq!((&messages[0]["method"], &messages[messages.len() - 1]["method"]), (&json!("opened"), &json!("closed")));
    let made = of("report_asset_materialization");
    let keys: Vec<&Value> = made.iter().map(|message| &message["params"]["asset_key"]).collect();
    assert!(keys.contains(&&json!("orders")) && keys.contains(&&json!("shop/customers")), "{keys:?}");
    let orders = made.iter().find(|message| message["params"]["asset_key"] == "orders").expect("orders");
    assert_eq!(orders["params"]["metadata"]["dagster/row_count"], json!({"raw_value": 2, "type": "int"}));
    let check = of("report_asset_check");
    assert_eq!(
        (&check[0]["params"]["check_name"], &check[0]["params"]["passed"]),
        (&json!("not_null_id"), &json!(true))
    );
    assert!(!of("log").is_empty());
    // What is no message of Dagster's does not stop a run.
    let project = project.set("DAGSTER_PIPES_MESSAGES", "nonsense");
    assert!(project.good(&["run", "--source", "files", "--progress", "off"]).stderr.contains("Dagster"));
}

/// Runs a state machine over what is new; gives how it ended and how often each slice was tried.
async fn state_machine(project: &Project, machine: &str, doomed: Option<&str>) -> Option<Value> {
    let script = include_str!("../orchestration/step_functions.py");
    let machine = top().join("examples/orchestration/step-functions").join(machine).display().to_string();
    let (program, folder) = (crate::cli::program().display().to_string(), project.folder.path().display().to_string());
    let mut words = vec![machine.as_str(), &program, &folder, "orders", "4"];
    words.extend(doomed);
    let said = python::run("python", script, &words, &[]).await?;
    Some(serde_json::from_str(said.lines().last().expect("a line")).expect("JSON"))
}

#[tokio::test]
async fn the_state_machines_try_killed_slices_again_and_name_the_missing_on_motos_interpreter() {
    let configuration = "sources:\n  shop: {connector: files, path: ./data, files: {orders: {path: \"*.csv\"}}}\n";
    let mut project = Project::new(configuration);
    let mut files: i64 = 0;
    let mut four_more = |mut project: Project| {
        // A slice of files is a megabyte at least.
        let filler = "x".repeat(1_000);
        for file in files..files + 4 {
            let lines: String = (file * 1_100..(file + 1) * 1_100).map(|id| format!("{id},{filler}\n")).collect();
            project = project.file(&format!("data/{file:04}.csv"), &format!("id,text\n{lines}"));
        }
        files += 4;
        (project, files * 1_100)
    };
    let held = async |project: &Project, rows: i64, context: &str| {
        if let Some(found) = crate::survive::counts(project, "shop/orders", "id").await {
            crate::survive::assert_exactly(&found, 0..rows, context);
        }
    };
    let twice = json!({"0": 2, "1": 2, "2": 2, "3": 2});
    for machine in ["map.asl.json", "load.asl.json"] {
        let rows;
        (project, rows) = four_more(project);
        let Some(ended) = state_machine(&project, machine, None).await else { return };
        assert_eq!((&ended["status"], &ended["tries"]), (&json!("SUCCEEDED"), &twice), "{machine}: {ended}");
        held(&project, rows, machine).await;
    }
    // A slice that fails for good: the others are staged, nothing shows, and the next execution goes on with the same plan.
    for machine in ["map.asl.json", "load.asl.json"] {
        let rows;
        (project, rows) = four_more(project);
        let ended = state_machine(&project, machine, Some("1")).await.expect("not skipped before");
        assert_eq!((&ended["status"], &ended["tries"]["1"]), (&json!("FAILED"), &json!(5)), "{machine}: {ended}");
        held(&project, rows - 4 * 1_100, machine).await;
        let ended = state_machine(&project, machine, None).await.expect("not skipped before");
        let tries = json!({"0": 1, "1": 2, "2": 1, "3": 1});
        assert_eq!((&ended["status"], &ended["tries"]), (&json!("SUCCEEDED"), &tries), "{machine}: {ended}");
        held(&project, rows, machine).await;
    }
}

/// The airflow package's handling of processes, which needs no Airflow; `integrations/airflow/tests/run.sh` is the rest.
#[test]
fn the_airflow_package_hears_and_ends_its_processes() {
    let Some(python) = python::program("python") else { return };
    let mut command = std::process::Command::new(python);
    command.arg("-W").arg("ignore").arg(top().join("integrations/airflow/tests/test_process.py"));
    let mut child = command.env("PYTHONDONTWRITEBYTECODE", "1").stderr(Stdio::piped()).spawn().expect("Python starts");
    let mut said = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("UTF-8");
    assert!(child.wait().expect("a child of ours").success(), "{said}");
    assert!(said.contains("Ran 6 tests"), "{said}");
}

/// Reads every example as its engine would, and looks for what they all must have.
const WELL_FORMED: &str = r#"
import ast, json, sys, yaml
from pathlib import Path
here = Path(sys.argv[1])
jobs = {d["metadata"]["name"]: d for d in yaml.safe_load_all((here / "kubernetes/load.yaml").open()) if d["kind"] == "Job"}
slices = jobs["ingest-slices"]["spec"]
assert slices["completionMode"] == "Indexed", slices
plan = jobs["ingest-plan"]["spec"]["template"]["spec"]["containers"][0]["command"]
assert int(plan[plan.index("--slices") + 1]) == slices["completions"], "as many pods as slices"
for job in jobs.values():
    pod = job["spec"]["template"]["spec"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"] + pod.get("initContainers", []):
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, container
machine = json.load((here / "step-functions/load.asl.json").open())
states, seen, todo = machine["States"], set(), [machine["StartAt"]]
while todo:
    name = todo.pop()
    if name not in seen:
        seen.add(name)
        state = states[name]
        todo += [state[key] for key in ["Next"] if key in state] + [catch["Next"] for catch in state.get("Catch", [])]
        assert state.get("End") or "Next" in state, name
assert seen == set(states), seen
for path in [*here.rglob("*.py"), *Path(sys.argv[2]).rglob("*.py")]:
    ast.parse(path.read_text(), str(path))
for path in here.rglob("*.service"):
    assert "ExecStart=" in path.read_text() and "[Install]" in path.read_text() or "@" in path.name, path
print("all")
"#;

#[tokio::test]
async fn examples_of_orchestrators_are_well_formed() {
    let said = script(WELL_FORMED, &["examples/orchestration", "integrations/airflow"]).await;
    assert!(said.is_none_or(|said| said.trim() == "all"));
}
