//! A secret in every secret field occurs nowhere: not on stdout or stderr, not in logs, not in the lake.

use std::path::Path;

use base64::Engine;
use serde_json::{Value, json};

use super::Project;

/// Characters that URL encoding changes, and none that would break YAML in quotes.
const CANARY: &str = "c4nary/+ x&=%?Kq7zPw";

/// The forms in which a secret travels: plain, URL-encoded, and inside base64 at each of the three places in a triple.
fn forms(secret: &str) -> Vec<String> {
    let encoded = |keep: &str| -> String {
        let byte = |b: u8| match b as char {
            c if c.is_ascii_alphanumeric() || keep.contains(c) => c.to_string(),
            _ => format!("%{b:02X}"),
        };
        secret.bytes().map(byte).collect()
    };
    let mut forms = vec![secret.to_owned(), encoded("-_.~"), encoded("-_.~/"), encoded("").replace("%20", "+")];
    forms.push(json!(secret).to_string().trim_matches('"').to_owned());
    for before in 0..3 {
        for engine in [base64::engine::general_purpose::STANDARD, base64::engine::general_purpose::URL_SAFE] {
            let text = engine.encode([vec![b'x'; before], secret.as_bytes().to_vec()].concat());
            // The characters at both ends depend on what stands beside.
            forms.push(text[if before == 0 { 0 } else { 4 }..text.len() - 4].to_owned());
        }
    }
    forms
}

fn assert_clean(what: &str, text: &str) {
    for form in forms(CANARY) {
        if let Some(at) = text.find(&form) {
            let from = text[..at].char_indices().rev().nth(80).map_or(0, |(i, _)| i);
            panic!("{what} holds the secret as {form:?}: …{}", text[from..].chars().take(200).collect::<String>());
        }
    }
}

/// All files below a folder.
fn files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
        if entry.path().is_dir() { files(&entry.path(), found) } else { found.push(entry.path()) }
    }
}

/// A source of every connector: every secret field holds the canary, nothing can be reached.
fn configuration(connectors: &Value) -> String {
    let mut sources = serde_json::Map::new();
    for connector in connectors.as_array().expect("connectors") {
        let name = connector["name"].as_str().expect("a name");
        let mut source = serde_json::Map::new();
        let mut secrets = 0;
        for (field, schema) in connector["config"]["properties"].as_object().expect("fields") {
            let secret = schema["writeOnly"] == true
                || schema["anyOf"].as_array().is_some_and(|list| list.iter().any(|one| one["writeOnly"] == true));
            let value = match field.as_str() {
                // A client certificate that is none ends every attempt before the password is used.
                "tls_key" => continue,
                _ if secret => {
                    secrets += 1;
                    json!(CANARY)
                }
                // Secrets by names of the user's own, as a manifest declares them.
                _ if schema["additionalProperties"]["writeOnly"] == true => {
                    secrets += 1;
                    json!({"key": CANARY})
                }
                "manifest" => json!({"base_url": "https://api.example.com", "auth": {"bearer": "$${secrets.key}"},
                    "secrets": {"key": {}}, "streams": {"x": {"path": "/x", "columns": {"id": "int64"}}}}),
                "host" => json!("127.0.0.1"),
                "port" => json!(1),
                "endpoint" => json!("http://127.0.0.1:1"),
                "user" | "database" => json!("ingest"),
                "path" => json!("s3://bucket/prefix"),
                "account" if name == "files" => json!("account"),
                _ => continue,
            };
            source.insert(field.clone(), value);
        }
        assert!(secrets > 0, "{name} has no secret field");
        sources.insert(name.to_owned(), source.into());
    }
    let options = json!({"aws_secret_access_key": CANARY, "aws_access_key_id": "id", "region": "r"});
    json!({"lake": {"url": "./lake", "options": options}, "sources": sources}).to_string()
}

#[test]
fn a_secret_occurs_nowhere_whatever_is_run_and_whatever_fails() {
    let connectors = Project::empty().json(&["connectors"]);
    let text = configuration(&connectors);
    // Sources that cannot be reached are asked again for a while: they wait beside each other.
    let mut batches: Vec<Vec<String>> = Vec::new();
    for connector in connectors.as_array().expect("connectors") {
        let name = connector["name"].as_str().expect("a name");
        let lines = [
            "check --source S",
            "check --source S --json",
            "discover --source S",
            "preview --source S --stream x",
            "plan --source S --json",
            "run --source S",
            "run --source S --progress json --log-format json",
            "state show --source S",
            "state reset --source S",
        ];
        batches.extend(lines.chunks(3).map(|chunk| chunk.iter().map(|line| line.replace('S', name)).collect()));
    }
    let lines = [
        "config show",
        "config show --origin",
        "config show --json",
        "config schema",
        "runs",
        "runs --json",
        "show x.y",
        "schema x.y",
        "maintain",
        "connectors",
        "run --source none",
        "run --limit x",
    ];
    batches.push(lines.map(str::to_owned).to_vec());
    let project = Project::new(&text);
    std::thread::scope(|scope| {
        for batch in &batches {
            scope.spawn(|| batch.iter().for_each(|line| run_clean(&project, line)));
        }
    });
    let mut found = Vec::new();
    files(project.folder.path(), &mut found);
    assert!(found.iter().any(|file| file.to_string_lossy().contains("_ingest/runs")), "runs were recorded");
    for file in found.iter().filter(|file| !file.ends_with("ingest.yaml")) {
        let bytes = std::fs::read(file).expect("readable");
        assert_clean(&file.display().to_string(), &String::from_utf8_lossy(&bytes));
    }
}

fn run_clean(project: &Project, line: &str) {
    let mut arguments: Vec<&str> = line.split(' ').collect();
    arguments.extend(["--log-level", "trace"]);
    let output = project.run(&arguments);
    assert_clean(&format!("stdout of {line:?}"), &output.stdout);
    assert_clean(&format!("stderr of {line:?}"), &output.stderr);
}

/// Wherever a secret is put by mistake, the message about the mistake does not show it.
#[test]
fn a_secret_in_a_broken_configuration_is_not_quoted() {
    for text in [
        "sources: {stripe: {api_key: [\"CANARY\"]}}",
        "sources: {stripe: {api_key: {x: \"CANARY\"}}}",
        "sources: {stripe: {api_key: \"${C}\", page_size: \"${C}\"}}",
        "sources: {stripe: {api_key: \"CANARY\", page_size: many}}",
        "sources: {stripe: {api_key: \"CANARY\", apikey: \"CANARY\"}}",
        "sources: {stripe: {api_key: \"${C}\", endpoint: \"${C}\"}}",
        "sources: {postgres: {host: \"${C}\", port: \"${C}\", tls: \"${C}\", password: \"CANARY\"}}",
        "memory: ${C}",
        "lake: {format: \"${C}\", compression: \"${C}\"}",
        "lake: {url: \"s3://user:${C}@bucket?x=${C}\"}\nsources: {files: {path: .}}",
        "sources: {stripe: {api_key: \"CANARY\"",
    ] {
        let project = Project::new(&text.replace("CANARY", CANARY)).set("C", CANARY);
        for source in ["stripe", "postgres", "files"] {
            for arguments in [vec!["run"], vec!["check"], vec!["run", "--progress", "json", "--json"]] {
                let output = project.run(&[arguments, vec!["--source", source, "--log-level", "trace"]].concat());
                assert_clean(text, &output.stdout);
                assert_clean(text, &output.stderr);
            }
        }
    }
}
