//! `ingest new connector` and `ingest connector test`: from nothing to a connector that passes, and one that does not.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{Output, Project, program};
use crate::workspace::{text, top};

/// A project whose builds share the target folder of this test, and take nothing from the network.
fn project() -> Project {
    // This test lies in `<target>/<profile>/deps`.
    let own = std::env::current_exe().expect("this process has a program");
    let target = own.ancestors().nth(3).expect("the target folder").to_owned();
    Project::empty()
        .set("CARGO_TARGET_DIR", &target.display().to_string())
        .set("CARGO_NET_OFFLINE", "true")
        .set("INGEST_CHECKOUT", &top().display().to_string())
}

/// The checks of a report that ended so.
fn checks<'a>(report: &'a Value, outcome: &str) -> Vec<&'a str> {
    let checks = report["checks"].as_array().expect("checks");
    checks.iter().filter(|check| check["outcome"] == outcome).filter_map(|check| check["id"].as_str()).collect()
}

fn report(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:#?}"))
}

/// The `sh` blocks of a page.
fn blocks(page: &str) -> Vec<String> {
    page.split("```sh\n").skip(1).filter_map(|rest| rest.split("\n```").next()).map(str::to_owned).collect()
}

#[test]
fn the_documented_commands_lead_from_nothing_to_a_connector_that_passes() {
    let blocks = blocks(&text("docs/write-a-connector.md"));
    assert_eq!(blocks.len(), 3, "{blocks:?}");
    let project = project();
    let mut path = program().parent().expect("a folder").as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut last = String::new();
    for block in blocks {
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", &block]).current_dir(project.folder.path()).env("PATH", &path);
        shell.envs(project.environment.iter().map(|(name, value)| (name, value)));
        let output = shell.output().expect("a shell");
        last = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{block}:\n{last}\n{errors}");
    }
    assert!(last.contains("acme: 41 passed, 0 failed, 0 skipped"), "{last}");
}

#[test]
fn a_new_connector_of_every_kind_passes_as_a_program() {
    for (kind, skipped) in [("database", vec![]), ("files", vec!["I06", "F01"])] {
        let project = project();
        let name = format!("sample_{kind}");
        project.good(&["new", "connector", &name, "--kind", kind]);
        let output = project.run(&["connector", "test", &name, "--json", "--junit", "report.xml"]);
        let found = report(&output);
        assert_eq!((output.code, checks(&found, "failed")), (Some(0), vec![]), "{output:#?}");
        assert_eq!(checks(&found, "skipped"), skipped, "{output:#?}");
        assert!(checks(&found, "passed").contains(&"F02"), "{output:#?}");
        assert!(output.stderr.is_empty() || !output.stderr.contains("error"), "{output:#?}");
        let xml = std::fs::read_to_string(project.folder.path().join("report.xml")).expect("a report");
        assert!(xml.contains("failures=\"0\"") && xml.contains("<testcase "), "{xml}");
        // The page that a person reads of the fields, by the same program.
        let built = built(&project, &name);
        project.good(&["connectors", built.to_str().expect("UTF-8")]);
    }
}

/// The program that a test of a crate has built.
fn built(project: &Project, name: &str) -> PathBuf {
    let (_, target) = project.environment.iter().find(|(name, _)| name == "CARGO_TARGET_DIR").expect("set above");
    Path::new(target).join("debug").join(format!("ingest-connector-{name}"))
}

/// Mistakes in the template, each found by the check that names it. The sample server is built once.
#[test]
fn a_broken_connector_fails_by_the_check_that_names_its_fault() {
    let project = project();
    project.good(&["new", "connector", "broken"]);
    let library = project.folder.path().join("broken/src/lib.rs");
    let sound = std::fs::read_to_string(&library).expect("a library");
    let mark = "out.mark(&Position::Page(next.clone())).await?;";
    let rows = "out.rows(name, decoder.flush()?).await?;";
    let mistakes = [
        ("only the first page", "R05", "if !envelope.flag(\"has_more\")?.unwrap_or(false) {", "if true {"),
        (
            "`from` is ignored",
            "I02",
            "Some(Position::Page(cursor)) => Some(cursor.clone()),",
            "Some(Position::Page(_)) => None,",
        ),
        ("a mark before its rows", "I02", rows, ""),
        ("the cursor is not sent", "I01", "held(selected)?", "held(selected)?.and(None)"),
    ];
    for (what, id, right, wrong) in mistakes {
        assert_eq!(sound.matches(right).count(), 1, "{right}");
        let mut text = sound.replace(right, wrong);
        if wrong.is_empty() {
            text = text.replace(mark, &format!("{mark}\n            {rows}"));
        }
        std::fs::write(&library, text).expect("written");
        let output = project.run(&["connector", "test", "broken", "--only", id]);
        assert_eq!(output.code, Some(5), "{what}: {output:#?}");
        for part in [&format!("{id} FAILED: "), "  sent:     ", "  came:     ", "  contract: "] {
            assert!(output.stdout.contains(part), "{what}: no {part:?} in {output:#?}");
        }
    }
}

#[test]
fn a_source_of_the_configuration_is_tried_and_only_read() {
    let project = Project::shop();
    let before = std::fs::read_dir(project.folder.path().join("data")).expect("data").count();
    let output = project.run(&["connector", "test", "files", "--source", "files", "--json"]);
    let found = report(&output);
    assert_eq!((output.code, checks(&found, "failed")), (Some(0), vec![]), "{output:#?}");
    assert!(["R05", "I03", "K02"].iter().all(|id| checks(&found, "skipped").contains(id)), "{output:#?}");
    assert_eq!(found["counterpart"], "the source files");
    assert_eq!(std::fs::read_dir(project.folder.path().join("data")).expect("data").count(), before);
    assert!(!project.folder.path().join("lake").exists());
}

#[test]
fn what_cannot_be_tested_is_exit_2_and_says_why() {
    let project = Project::shop().file("bad.yaml", "config: {}\nskip: {Z99: a typo}\n").file("script", "#!/bin/sh\n");
    for (arguments, part) in [
        (vec!["connector", "test", "fils"], "files"),
        (vec!["connector", "test"], "no crate"),
        (vec!["connector", "test", "./nowhere"], "nothing to test"),
        (vec!["connector", "test", "files"], "--source"),
        (vec!["connector", "test", "files", "--conformance", "bad.yaml"], "Z99"),
        (vec!["connector", "test", "files", "--source", "files", "--only", "Z98"], "Z98"),
        (vec!["connector", "test", "files", "--source", "other"], "other"),
        (vec!["connector", "test", "./script", "--source", "files"], "not executable"),
        (vec!["new", "connector", "Not-A-Name"], "a-z"),
        (vec!["new", "connector", "fine", "--path", "data"], "checkout"),
    ] {
        let output = project.run(&arguments);
        assert_eq!(output.code, Some(2), "{arguments:?}: {output:#?}");
        assert!(output.stderr.contains(part), "{arguments:?}: no {part:?} in {output:#?}");
    }
}
