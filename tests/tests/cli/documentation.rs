//! `docs/configuration.md` lists every key: its tables are made from the program's own JSON Schema.
//!
//! `INGEST_TEST_WRITE_DOCS=1 cargo test -p ingest-tests documentation` writes them.

use std::path::PathBuf;

use serde_json::Value;

use super::Project;

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md")
}

#[test]
fn the_tables_of_configuration_keys_are_in_step_with_the_program() {
    let schema = Project::empty().json(&["config", "schema"]);
    let written = std::fs::read_to_string(path()).expect("docs/configuration.md");
    let sources = &schema["properties"]["sources"]["properties"];
    let any = sources.as_object().and_then(|sources| sources.values().next()).expect("a connector");
    let runners = ["connector", "streams", "schedule", "defaults"];
    let mut text = written.clone();
    text = fill(&text, "top", &table(&schema, |_| true));
    text = fill(&text, "lake", &table(&schema["properties"]["lake"], |_| true));
    text = fill(&text, "source", &table(any, |key| runners.contains(&key)));
    text = fill(&text, "stream", &table(&any["properties"]["streams"]["additionalProperties"], |_| true));
    let connectors: Vec<String> = sources
        .as_object()
        .expect("connectors")
        .iter()
        .map(|(name, schema)| format!("### `{name}`\n\n{}", table(schema, |key| !runners.contains(&key))))
        .collect();
    text = fill(&text, "connectors", &connectors.join("\n"));
    if std::env::var_os("INGEST_TEST_WRITE_DOCS").is_some() {
        std::fs::write(path(), &text).expect("written");
    }
    assert!(text == written || std::env::var_os("INGEST_TEST_WRITE_DOCS").is_some(), "{DIFFERS}");
}

const DIFFERS: &str = "docs/configuration.md is out of step: run this test with INGEST_TEST_WRITE_DOCS=1";

/// The text with what stands between two marks replaced.
fn fill(text: &str, mark: &str, content: &str) -> String {
    let start = format!("<!-- generated: {mark} -->\n");
    let at = text.find(&start).unwrap_or_else(|| panic!("no mark {mark}")) + start.len();
    let end = at + text[at..].find("<!-- end -->").unwrap_or_else(|| panic!("no end of {mark}"));
    format!("{}{content}{}", &text[..at], &text[end..])
}

/// The keys of a schema as a Markdown table, keys of nested maps below their own.
fn table(schema: &Value, wanted: impl Fn(&str) -> bool) -> String {
    let mut out = String::from("| key | value | meaning |\n| --- | --- | --- |\n");
    for (key, property) in schema["properties"].as_object().expect("keys") {
        if wanted(key) {
            rows(key, property, &mut out);
        }
    }
    out
}

fn rows(key: &str, property: &Value, out: &mut String) {
    let about = property["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    // Each connector has its own constant there.
    let value = if key == "connector" { "text".to_owned() } else { value(property) };
    out.push_str(&format!("| `{key}` | {value} | {} |\n", about.replace('|', "\\|")));
    // The options of a stream have a table of their own.
    let nested = key != "lake" && key != "sources" && key != "streams" && key != "defaults";
    for (below, schema) in [("", property), (".NAME", &property["additionalProperties"])] {
        for (name, property) in schema["properties"].as_object().filter(|_| nested).into_iter().flatten() {
            rows(&format!("{key}{below}.{name}"), property, out);
        }
    }
}

/// What may be written: the type, the words, the default.
fn value(schema: &Value) -> String {
    let mut text = kind(schema);
    if secret(schema) {
        text.push_str(", secret");
    }
    match &schema["default"] {
        Value::Null => {}
        Value::String(default) if default.is_empty() => {}
        Value::Object(default) if default.is_empty() => {}
        Value::Array(default) if default.is_empty() => {}
        Value::String(default) => text.push_str(&format!("; `{default}`")),
        default => text.push_str(&format!("; `{default}`")),
    }
    text
}

fn secret(schema: &Value) -> bool {
    schema["writeOnly"] == true || alternatives(schema).iter().any(secret)
}

fn alternatives(schema: &Value) -> Vec<Value> {
    let list = schema["anyOf"].as_array().or(schema["oneOf"].as_array());
    list.cloned().unwrap_or_default()
}

fn kind(schema: &Value) -> String {
    if let Some(word) = schema["const"].as_str() {
        return format!("`{word}`");
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words.iter().filter_map(Value::as_str).map(|word| format!("`{word}`")).collect();
        return words.join(", ");
    }
    let mut kinds: Vec<String> = alternatives(schema).iter().map(kind).filter(|kind| !kind.is_empty()).collect();
    if kinds.is_empty() {
        let one = |name: &str| match name {
            "string" => "text",
            "integer" => "whole number",
            "number" => "number",
            "boolean" => "true or false",
            "array" => "list",
            "object" => "map",
            _ => "",
        };
        kinds = match &schema["type"] {
            Value::String(name) => vec![one(name).to_owned()],
            Value::Array(names) => names.iter().filter_map(Value::as_str).map(one).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        kinds.retain(|kind| !kind.is_empty());
        if schema["pattern"].is_string() {
            kinds.truncate(1);
        }
        return kinds.join(" or ");
    }
    kinds.dedup();
    kinds.join(", ")
}
