//! What is said about a configuration, and `ingest config`.

use serde_json::json;

use super::Project;

#[test]
fn all_problems_are_printed_at_once_and_nothing_is_done() {
    let project = Project::new("lake: {urll: x}\nsources:\n  files: {pth: ./data}\n  other: {connector: filez}\n");
    let output = project.run(&["run", "--source", "files"]);
    assert_eq!(output.code, Some(2));
    assert_eq!(
        output.stderr,
        "error: ingest.yaml:1: lake.urll: unknown key\n\
         hint: did you mean `url`?\n\
         error: ingest.yaml:3: sources.files.pth: unknown key\n\
         hint: did you mean `path`?\n\
         error: ingest.yaml:4: sources.other.connector: there is no connector \"filez\"\n\
         hint: did you mean `files`? built in: files, ftp, mongodb, mysql, postgres, rest, salesforce, sftp, shopify, sqlserver, stripe, webhooks\n\
         3 problems in the configuration; nothing was done\n"
    );
    let output = project.run(&["run", "--source", "files", "--json"]);
    let error: serde_json::Value = serde_json::from_str(output.stderr.trim()).expect("JSON");
    assert_eq!(error["error"]["kind"], "ConfigInvalid");
    let first = json!({"file": "ingest.yaml", "line": 1, "path": "lake.urll", "what": "unknown key", "hint": "did you mean `url`?"});
    assert_eq!(error["error"]["context"]["problems"][0], first);
}

#[test]
fn config_show_masks_secrets_and_tells_origins() {
    let project = Project::new(
        "sources:\n  stripe: {api_key: \"${KEY}\", account: acct_1}\n  db: {connector: postgres, host: h, password: literal-canary}\n",
    )
    .file("ingest.prod.yaml", "memory: 1GiB\n")
    .set("KEY", "sk_canary")
    .set("INGEST__SOURCES__DB__PORT", "6543");
    let text = project.good(&["config", "show", "--env", "prod"]).stdout;
    assert!(!text.contains("canary"), "{text}");
    assert!(text.contains("api_key: \"***\"") && text.contains("port: 6543"), "{text}");
    let origins = project.json(&["config", "show", "--origin", "--env", "prod"]);
    let of = |path: &str| {
        let found = origins.as_array().expect("values").iter().find(|value| value["path"] == path);
        found.unwrap_or_else(|| panic!("{path}: {origins:#}")).clone()
    };
    assert_eq!(of("memory"), json!({"path": "memory", "value": "1GiB", "origin": "ingest.prod.yaml:1"}));
    assert_eq!(of("sources.db.port")["origin"], "INGEST__SOURCES__DB__PORT");
    assert_eq!(of("sources.db.password")["value"], "***");
    assert_eq!(of("lake.compression")["origin"], "default");
    // It can also be looked at where a reference has no value.
    assert_eq!(Project::new("sources: {stripe: {api_key: \"${NONE}\"}}\n").good(&["config", "show"]).stderr, "");
}

#[test]
fn the_schema_of_the_file_knows_every_connector() {
    let schema = Project::empty().json(&["config", "schema"]);
    let sources = &schema["properties"]["sources"]["properties"];
    for connector in ["files", "postgres", "stripe"] {
        assert_eq!(sources[connector]["properties"]["connector"]["const"], connector);
        assert!(sources[connector]["properties"]["streams"].is_object());
    }
    assert_eq!(sources["stripe"]["properties"]["api_key"]["writeOnly"], true);
}

#[test]
fn connectors_are_listed_and_explained() {
    let project = Project::empty();
    let list = project.good(&["connectors"]).stdout;
    assert!(list.contains("files") && list.contains("postgres") && list.contains("stripe"), "{list}");
    let one = project.good(&["connectors", "stripe"]).stdout;
    assert!(one.contains("api_key (text, secret)"), "{one}");
    assert!(project.json(&["connectors", "postgres"])["properties"]["host"].is_object());
    let unknown = project.run(&["connectors", "postgre"]);
    assert!(unknown.stderr.contains("did you mean `postgres`?"), "{}", unknown.stderr);
}

#[test]
fn a_source_that_is_not_in_the_file_runs_with_its_connectors_defaults() {
    let project = Project::empty().file("data/a.csv", "x\n1\n");
    let path = project.folder.path().join("data");
    let project = project.set("INGEST__SOURCES__FILES__PATH", &path.to_string_lossy());
    project.good(&["run", "--source", "files"]);
    assert!(project.folder.path().join("lake/bronze/files/a").is_dir());
}

#[test]
fn the_configuration_is_found_upwards_and_relative_paths_start_there() {
    let project = Project::shop();
    let below = project.folder.path().join("deep/below");
    std::fs::create_dir_all(&below).expect("made");
    let output = project.command(&["run", "--source", "files"]).current_dir(&below).output().expect("starts");
    assert!(output.status.success());
    assert!(project.folder.path().join("lake/bronze/files/orders").is_dir());
}

#[test]
fn a_check_in_sql_names_no_column_beside_its_condition() {
    let option = "checks: [{column: id, sql: 'id > 0'}]";
    let project = Project::new(&format!("sources:\n  files:\n    path: .\n    streams:\n      x: {{{option}}}\n"));
    let output = project.run(&["run", "--source", "files"]);
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains("a condition in SQL names its columns itself"), "{}", output.stderr);
    assert!(output.stderr.contains("ingest.yaml:5: sources.files.streams.x."), "{}", output.stderr);
}
