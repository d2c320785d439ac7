//! What a plug-in gets to see, and what of it comes out again.

use std::process::{Command, Stdio};

use serde_json::json;

use super::in_python;
use super::program;
use super::rogue::{Rogue, done, ids, mark, rows};

const CANARY: &str = "c4nary/of a+password";

fn ingest(folder: &std::path::Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ingest"));
    command.args(arguments).args(["--log-level", "trace"]).current_dir(folder).stdin(Stdio::null());
    command.env("INGEST_TEST_OF_US", "inherited").env("HOME", "/nowhere/of/us");
    let output = command.output().expect("the program starts");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// Every text below a folder.
fn texts(folder: &std::path::Path, all: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => texts(&entry.path(), all),
            _ => all.push_str(&String::from_utf8_lossy(&std::fs::read(entry.path()).expect("a file"))),
        }
    }
}

#[test]
fn nothing_is_inherited_and_no_secret_comes_out() {
    let telling = json!([{"environment": true, "request": true},
        {"json": {"type": "log", "level": "error", "text": format!("using {CANARY}")}}, {"json": {"type": "opened"}}]);
    let warns = json!([rows(&ids(&[1])), mark(1),
        {"json": {"type": "warning", "text": format!("{CANARY} is weak")}}, done("complete")]);
    let finds = json!([{"json": {"type": "problems", "problems":
        [{"severity": "warning", "what": format!("{CANARY} is weak"), "remedy": CANARY}]}}]);
    let rogue = Rogue::new("window", warns).on("open", telling).on("check", finds);
    let Some(path) = rogue.path() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let yaml = format!("sources: {{shop: {{connector: {}, password: \"{CANARY}\"}}}}\n", path.display());
    std::fs::write(folder.path().join("ingest.yaml"), yaml).expect("written");
    let mut said = String::new();
    for verb in ["check", "discover", "plan", "run"] {
        said.push_str(&ingest(folder.path(), &[verb, "--source", "shop"]));
    }
    said.push_str(&ingest(folder.path(), &["config", "show"]));
    assert!(said.contains("it said ") && said.contains("using ***") && said.contains("*** is weak"), "{said}");
    texts(&folder.path().join("lake"), &mut said);
    assert!(!said.contains(CANARY) && !said.contains("c4nary"), "a secret came out");

    let environment = std::fs::read_to_string(rogue.folder.path().join("rogue.env")).expect("it wrote it down");
    let mut environment: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&environment).expect("an object");
    // Python sets this one for itself.
    environment.remove("LC_CTYPE");
    let names: Vec<&str> = environment.keys().map(String::as_str).collect();
    assert_eq!(names, ["LANG", "PATH"]);
    assert_eq!(environment["PATH"], "/usr/local/bin:/usr/bin:/bin");
}

#[test]
fn every_verb_works_with_a_plug_in() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("bin")).expect("made");
    let bin = folder.path().join("bin/ingest-connector-orders");
    std::fs::hard_link(program(), &bin).or_else(|_| std::fs::copy(program(), &bin).map(drop)).expect("a copy");
    let with_path = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ingest"));
        let path = std::env::join_paths([folder.path().join("bin"), "/usr/bin".into()]).expect("a PATH");
        command.args(arguments).current_dir(folder.path()).stdin(Stdio::null()).env("PATH", path);
        let output = command.output().expect("the program starts");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let good = |arguments: &[&str], wanted: &str| {
        let (code, text) = with_path(arguments);
        assert!(code == Some(0) && text.contains(wanted), "{arguments:?}: {code:?} {text}");
    };
    good(&["connectors"], "orders ");
    good(&["connectors", "orders"], "page_size (whole number");
    good(&["config", "schema"], "page_size");
    good(&["connectors", "./bin/ingest-connector-orders"], "Orders (orders 1.0.0)");
    // Without a configuration: the connector of that name, with its defaults.
    for verb in ["check", "discover", "plan", "run"] {
        good(&[verb, "--source", "orders"], "");
    }
    good(&["preview", "--source", "orders", "--stream", "orders"], "Zoë");
    good(&["show", "orders.orders"], "1,000 rows, 20 shown");
    let yaml = "sources: {a: {connector: orders, rowz: 1}, b: {connector: ./gone}, c: {connector: order}}\n";
    std::fs::write(folder.path().join("ingest.yaml"), yaml).expect("written");
    let (code, text) = with_path(&["run", "--source", "a"]);
    assert_eq!(code, Some(2), "{text}");
    for wanted in
        ["sources.a.rowz: unknown key", "did you mean `rows`?", "there is no plug-in", "no connector \"order\""]
    {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

#[test]
fn the_example_in_python_is_found_beside_the_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(_) = in_python(folder.path()) else { return };
    std::fs::write(folder.path().join("ingest.yaml"), "sources: {shop: {connector: ./orders.py, rows: 12}}\n")
        .expect("written");
    let below = folder.path().join("below");
    std::fs::create_dir(&below).expect("made");
    let said = ingest(&below, &["run", "--source", "shop"]);
    assert!(said.contains("shop.orders: 12 rows read, 12 written"), "{said}");
}
