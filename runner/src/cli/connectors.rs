//! `ingest connectors`.

use ingest_core::{Json, Spec};
use serde_json::json;

use super::App;
use super::args::ConnectorsArgs;
use super::output::{Outcome, note, print, print_json, safe};
use super::table::Table;
use crate::config::schema::fields;
use crate::config::{dereference, description, is_secret, types};

/// Runs the verb.
pub fn run(app: &App, args: &ConnectorsArgs) -> Outcome {
    match &args.name {
        Some(name) => one(app, name)?,
        None => all(app)?,
    }
    Ok(0)
}

/// What is built in, and the plug-ins on `PATH`. A broken plug-in is named, and does not hide the others.
pub fn specs(app: &App) -> Vec<Spec> {
    let mut specs = Vec::new();
    for name in app.registry.all_names() {
        match app.registry.get(&name) {
            Ok(factory) => specs.push(factory.spec()),
            Err(error) => note(&format!("{}: {}", safe(&name), safe(&error.to_string()))),
        }
    }
    specs
}

fn all(app: &App) -> Result<(), super::Stop> {
    let specs = specs(app);
    if app.global.json {
        let list: Vec<Json> = specs
            .iter()
            .map(|spec| {
                json!({ "name": spec.name, "version": spec.version, "title": spec.title,
                        "capabilities": spec.capabilities, "config": fields(spec) })
            })
            .collect();
        return print_json(&list);
    }
    let mut table = Table::new(["connector", "reads", "modes", "version"]);
    for spec in &specs {
        table.row([spec.name.clone(), spec.title.clone(), modes(spec), spec.version.clone()]);
    }
    print(&table.render())
}

fn modes(spec: &Spec) -> String {
    spec.capabilities.modes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn one(app: &App, name: &str) -> Result<(), super::Stop> {
    let spec = app.registry.get(name)?.spec();
    let schema = fields(&spec);
    if app.global.json {
        return print_json(&schema);
    }
    let mut out = format!("{} ({} {})\n", spec.title, spec.name, spec.version);
    let capabilities = serde_json::to_value(&spec.capabilities).unwrap_or_default();
    for (key, value) in capabilities.as_object().into_iter().flatten() {
        let text = match value {
            Json::Array(list) => list.iter().filter_map(Json::as_str).collect::<Vec<_>>().join(", "),
            Json::String(text) => text.clone(),
            other => other.to_string(),
        };
        out.push_str(&format!("  {key}: {text}\n"));
    }
    out.push_str("\nFields\n");
    list_fields(&schema, &schema, 1, &mut out);
    if !spec.docs.trim().is_empty() {
        out.push_str(&format!("\n{}\n", spec.docs.trim()));
    }
    print(&out)
}

/// The fields of a schema, nested ones below, each with its type and description.
fn list_fields(schema: &Json, root: &Json, depth: usize, out: &mut String) {
    let pad = "  ".repeat(depth);
    let required = |name: &str| schema["required"].as_array().is_some_and(|list| list.iter().any(|r| r == name));
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let property = dereference(property, root);
        let mut marks = vec![kind(property, root)];
        if required(name) {
            marks.push("required".into());
        }
        if is_secret(property) {
            marks.push("secret".into());
        }
        if let Some(default) = shown_default(property) {
            marks.push(format!("default {default}"));
        }
        out.push_str(&format!("{pad}{} ({})\n", safe(name), safe(&marks.join(", "))));
        for line in wrap(&description(property).unwrap_or_default(), 96 - 2 * depth) {
            out.push_str(&format!("{pad}    {}\n", safe(&line)));
        }
        if depth < 4 {
            list_fields(property, root, depth + 2, out);
            list_fields(dereference(&property["additionalProperties"], root), root, depth + 2, out);
        }
    }
}

/// The default of a field, where it says more than "nothing".
pub fn shown_default(schema: &Json) -> Option<String> {
    match schema.get("default")? {
        Json::Null => None,
        Json::String(text) if text.is_empty() => None,
        Json::Object(object) if object.is_empty() => None,
        Json::Array(list) if list.is_empty() => None,
        other => Some(other.as_str().map_or_else(|| other.to_string(), str::to_owned)),
    }
}

/// The type of a field in words: `text`, `whole number`, `one of a, b`.
pub fn kind(schema: &Json, root: &Json) -> String {
    let words = words(schema, root);
    if !words.is_empty() {
        return format!("one of {}", words.join(", "));
    }
    let alternatives = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(*key)).and_then(Json::as_array);
    if let Some(list) = alternatives {
        let mut kinds: Vec<String> =
            list.iter().map(|s| kind(dereference(s, root), root)).filter(|kind| kind != "nothing").collect();
        kinds.dedup();
        return kinds.join(" or ");
    }
    let mut kinds: Vec<&str> = types(schema)
        .into_iter()
        .filter_map(|name| match name {
            "string" => Some("text"),
            "integer" => Some("whole number"),
            "number" => Some("number"),
            "boolean" => Some("true or false"),
            "array" => Some("list"),
            "object" => Some("map"),
            _ => None,
        })
        .collect();
    if kinds.len() > 1 && kinds[0] == "text" && schema.get("pattern").is_some() {
        kinds.truncate(1);
    }
    match (kinds.is_empty(), types(schema).is_empty()) {
        (false, _) => kinds.join(" or "),
        (true, true) => "anything".to_owned(),
        (true, false) => "nothing".to_owned(),
    }
}

/// The words that a field may hold, where the schema names them.
pub fn words(schema: &Json, root: &Json) -> Vec<String> {
    let text = |value: &Json| value.as_str().map(str::to_owned);
    if let Some(list) = schema.get("enum").and_then(Json::as_array) {
        return list.iter().filter_map(text).collect();
    }
    if let Some(one) = schema.get("const").and_then(text) {
        return vec![one];
    }
    let list = ["oneOf", "anyOf"].iter().find_map(|key| schema.get(*key)).and_then(Json::as_array);
    let mut all = Vec::new();
    for alternative in list.into_iter().flatten().map(|s| dereference(s, root)) {
        if types(alternative) == ["null"] {
            continue;
        }
        let some = words(alternative, root);
        if some.is_empty() {
            return Vec::new();
        }
        all.extend(some);
    }
    all
}

/// A text in lines of at most so many characters.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
