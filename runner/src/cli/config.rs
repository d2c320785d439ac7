//! `ingest config`.

use ingest_core::Json;
use serde_json::json;

use super::output::{Outcome, note, print, print_json, safe};
use super::table::Table;
use super::{App, args::ConfigVerb};
use crate::config::{Loaded, Origin, join, masked, schema};

/// Runs the verb.
pub fn run(app: &App, verb: &ConfigVerb) -> Outcome {
    match verb {
        ConfigVerb::Schema { events: true } => print_json(&crate::events::schema())?,
        ConfigVerb::Schema { events: false } => print_json(&schema::whole(&super::connectors::specs(app)))?,
        ConfigVerb::Show { origin } => {
            let mut options = app.load_options(None);
            options.lenient = true;
            let loaded = app.load(&options)?;
            let all = masked(&loaded);
            match (origin, app.global.json) {
                (false, false) => print(&yaml(&all))?,
                (false, true) => print_json(&all)?,
                (true, as_json) => show_origins(&loaded, &all, as_json)?,
            }
            if loaded.config.file.is_none() && !app.global.json {
                note("there is no ingest.yaml here or above: these are the defaults");
            }
        }
    }
    Ok(0)
}

fn show_origins(loaded: &Loaded, all: &Json, as_json: bool) -> Result<(), super::output::Stop> {
    let mut leaves = Vec::new();
    collect(all, "", &mut leaves);
    let origin = |path: &str| loaded.facts.origins.get(path).cloned().unwrap_or(Origin::Default);
    if as_json {
        let list: Vec<Json> = leaves
            .iter()
            .map(|(path, value)| json!({ "path": path, "value": value, "origin": origin(path).to_string() }))
            .collect();
        return print_json(&list);
    }
    let mut table = Table::new(["key", "value", "from"]);
    for (path, value) in leaves {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let from = origin(&path).to_string();
        table.row([path, text, from]);
    }
    print(&table.render())
}

/// All values that are no maps, with their paths; empty maps and lists among them.
fn collect<'a>(value: &'a Json, path: &str, leaves: &mut Vec<(String, &'a Json)>) {
    match value {
        Json::Object(object) if !object.is_empty() => {
            object.iter().for_each(|(key, value)| collect(value, &join(path, key), leaves));
        }
        Json::Array(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(i, value)| collect(value, &join(path, &i.to_string()), leaves));
        }
        _ => leaves.push((path.to_owned(), value)),
    }
}

/// A JSON value as YAML in block style. Texts are quoted wherever they could be read as something else.
pub fn yaml(value: &Json) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

fn block(value: &Json, indent: usize, out: &mut String) {
    let pad = "  ".repeat(indent);
    let below = |key: String, value: &Json, out: &mut String| match value {
        Json::Object(o) if !o.is_empty() => {
            out.push_str(&format!("{pad}{key}\n"));
            block(value, indent + 1, out);
        }
        Json::Array(a) if !a.is_empty() => {
            out.push_str(&format!("{pad}{key}\n"));
            block(value, indent + 1, out);
        }
        _ => out.push_str(&format!("{pad}{key} {}\n", scalar(value))),
    };
    match value {
        Json::Object(object) => {
            for (key, value) in object {
                below(format!("{}:", scalar(&Json::String(key.clone()))), value, out);
            }
        }
        Json::Array(items) => {
            for value in items {
                below("-".to_owned(), value, out);
            }
        }
        _ => out.push_str(&format!("{pad}{}\n", scalar(value))),
    }
}

fn scalar(value: &Json) -> String {
    let Some(text) = value.as_str() else { return value.to_string() };
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '/' | '.'))
        && text.chars().all(bare)
        && crate::config::plain(text).is_string()
        && !matches!(text.to_ascii_lowercase().as_str(), "yes" | "no" | "on" | "off" | "y" | "n");
    // A text of JSON is one of YAML.
    if plain { text.to_owned() } else { safe(&value.to_string()).into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_reads_back_as_what_it_was() {
        let value = json!({"a": {"b": [1, {"c": "no"}, []], "d": "x: y # z", "e": null}, "f.g": "0123", "h": {}});
        let text = yaml(&value);
        assert_eq!(
            text,
            "a:\n  b:\n    - 1\n    -\n      c: \"no\"\n    - []\n  d: \"x: y # z\"\n  e: null\nf.g: \"0123\"\nh: {}\n"
        );
    }
}
