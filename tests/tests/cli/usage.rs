//! Arguments, help, and what is refused.

use super::Project;

#[test]
fn help_lists_what_works_and_nothing_else() {
    let project = Project::empty();
    let help = project.good(&["--help"]);
    assert_eq!(help.stderr, "");
    for verb in [
        "init",
        "connectors",
        "check",
        "discover",
        "preview",
        "plan",
        "run",
        "state",
        "runs",
        "new",
        "connector",
        "show",
        "schema",
        "serve",
        "maintain",
        "config",
        "quarantine",
        "verify",
        "forget",
        "reveal",
        "source",
        "completions",
    ] {
        assert!(help.stdout.contains(&format!("\n  {verb} ")), "{verb} is missing:\n{}", help.stdout);
        let own = project.good(&[verb, "--help"]);
        assert!(own.stdout.contains("Examples:") && own.stdout.contains("--config"), "{verb}:\n{}", own.stdout);
    }
    assert!(!help.stdout.contains("\n  query "), "what is not built in is not shown");
    assert!(project.good(&["--version"]).stdout.starts_with("ingest "));
}

#[test]
fn what_is_not_built_in_is_refused_with_2() {
    let project = Project::shop();
    let output = project.run(&["query", "SELECT"]);
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains("not built in yet"), "{output:?}");
    assert_eq!(output.stdout, "");
    assert!(!project.folder.path().join("lake").exists(), "a refusal does nothing");
}

#[test]
fn wrong_usage_is_2_on_stderr() {
    let project = Project::shop();
    for line in [
        "",
        "rnu --source files",
        "run",
        "run --source files --limt 3",
        "run --source files --limit 0",
        "run --source files --interval-start 2024-01-01",
        "run --source files --interval-start 2024-01-02 --interval-end 2024-01-01",
        "run --source files --run-id a/b",
        "state rewind --source files --to 1",
        "show files.orders --limit many",
        "connectors nope",
    ] {
        let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
        let output = project.run(&words);
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{line}: {output:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn errors_are_json_where_json_is_wanted() {
    let project = Project::shop();
    for line in
        ["show files.none --json", "run --source none --log-format json", "show --bad --json", "--json show files.none"]
    {
        let output = project.run(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(output.code, Some(2), "{line}");
        let value: serde_json::Value = serde_json::from_str(output.stderr.trim()).expect(&output.stderr);
        assert_eq!(value["error"]["kind"], "ConfigInvalid", "{line}");
        assert!(value["error"]["message"].as_str().is_some_and(|text| !text.is_empty()));
    }
}

#[test]
fn flags_are_environment_variables_and_flags_win() {
    let project =
        Project::shop().set("INGEST_SOURCE", "files").set("INGEST_JSON", "true").set("INGEST_SELECT", "orders");
    let found: serde_json::Value = serde_json::from_str(&project.good(&["discover"]).stdout).expect("JSON");
    assert_eq!(found["streams"].as_array().map(Vec::len), Some(1));
    let found = project.good(&["discover", "--select", "*"]);
    let found: serde_json::Value = serde_json::from_str(&found.stdout).expect("JSON");
    assert_eq!(found["streams"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let project = Project::shop();
    let mut child =
        project.command(&["config", "schema"]).stdout(std::process::Stdio::piped()).spawn().expect("starts");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(Project::empty().good(&["completions", shell]).stdout.contains("ingest"), "{shell}");
    }
}
