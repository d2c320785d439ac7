//! A manifest's text to its struct: every unknown key is named with its place and what may have been meant.

use ingest_core::schemars::generate::SchemaSettings;
use ingest_core::{Error, Json, Result, nearest};

use crate::manifest::Manifest;
use crate::yaml::{Lines, join};

/// Where a manifest comes from, for messages.
pub(crate) struct Place {
    /// The file; `None` = the configuration itself.
    pub file: Option<String>,
    pub lines: Lines,
}

impl Place {
    /// `acme.yaml:12: streams.issues.path: what`.
    pub fn tell(&self, path: &str, what: &str) -> String {
        let file = self.file.as_deref().unwrap_or("manifest");
        // A key that is missing has no line; the map that it is missing in has one.
        let mut above = path;
        let line = loop {
            match (self.lines.get(above), above.rsplit_once('.')) {
                (Some(line), _) => break Some(line),
                (None, Some((shorter, _))) => above = shorter,
                (None, None) => break self.lines.get(""),
            }
        };
        let line = line.map(|line| format!(":{line}")).unwrap_or_default();
        if path.is_empty() { format!("{file}{line}: {what}") } else { format!("{file}{line}: {path}: {what}") }
    }

    /// All that was found, as one error.
    pub fn refuse(&self, problems: &[(String, String)]) -> Error {
        let told: Vec<String> = problems.iter().map(|(path, what)| self.tell(path, what)).collect();
        Error::config(format!("the manifest is wrong: {}", told.join("; ")))
            .hint("the README of the connector explains every key: `ingest connectors rest`")
    }
}

/// Reads a manifest.
///
/// # Errors
/// `ConfigInvalid` that names every unknown key, else the first value of a wrong type.
pub(crate) fn read(value: &Json, place: &Place) -> Result<Manifest> {
    let generator = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true).into_generator();
    let schema: Json = generator.into_root_schema_for::<Manifest>().into();
    let mut problems = Vec::new();
    unknown_keys(value, &schema, "", &mut problems);
    if !problems.is_empty() {
        return Err(place.refuse(&problems));
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { path.replace("[", ".").replace(']', "") };
        place.refuse(&[(path, error.inner().to_string())])
    })
}

fn unknown_keys(value: &Json, schema: &Json, path: &str, problems: &mut Vec<(String, String)>) {
    match value {
        Json::Object(object) => {
            let alternatives = schema["anyOf"].as_array().into_iter().flatten();
            let schema = std::iter::once(schema).chain(alternatives).find(|schema| is_map(schema));
            let Some(schema) = schema else { return };
            let properties = schema["properties"].as_object();
            for (key, value) in object {
                let path = join(path, key);
                match properties.and_then(|known| known.get(key)) {
                    Some(property) => unknown_keys(value, property, &path, problems),
                    None if schema["additionalProperties"].is_object() => {
                        unknown_keys(value, &schema["additionalProperties"], &path, problems);
                    }
                    None => {
                        let known: Vec<&str> = properties.into_iter().flatten().map(|(key, _)| key.as_str()).collect();
                        let hint = match nearest(key, known.iter().copied()) {
                            Some(near) => format!("did you mean `{near}`?"),
                            None => format!("known keys: {}", known.join(", ")),
                        };
                        problems.push((path, format!("unknown key; {hint}")));
                    }
                }
            }
        }
        Json::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                unknown_keys(item, &schema["items"], &join(path, &i.to_string()), problems);
            }
        }
        _ => {}
    }
}

fn is_map(schema: &Json) -> bool {
    schema.get("properties").is_some() || schema.get("additionalProperties").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Manifest> {
        let document = crate::yaml::parse(text).expect("YAML");
        read(&document.value, &Place { file: Some("acme.yaml".into()), lines: document.lines })
    }

    #[test]
    fn every_unknown_key_is_named_with_its_line_and_what_was_meant() {
        let text = "base_url: https://api.acme.com\nstreams:\n  items:\n    pathh: /x\n    pages:\n      ofset: {}\n    \
                    columns:\n      id: {type: int64, frm: x}\n";
        let message = read_text(text).expect_err("three unknown keys").to_string();
        for part in [
            "acme.yaml:4: streams.items.pathh: unknown key; did you mean `path`?",
            "acme.yaml:6: streams.items.pages.ofset: unknown key; did you mean `offset`?",
            "acme.yaml:8: streams.items.columns.id.frm: unknown key; did you mean `from`?",
        ] {
            assert!(message.contains(part), "{part} in {message}");
        }
    }

    #[test]
    fn a_value_of_a_wrong_type_is_named_with_its_line() {
        let message = read_text("base_url: x\nstreams:\n  items:\n    key: id\n").expect_err("no list").to_string();
        assert!(message.contains("acme.yaml:4: streams.items.key: "), "{message}");
        let message = read_text("streams:\n  a:\n    columns:\n      id: int\n").expect_err("no type").to_string();
        assert!(message.contains("acme.yaml:4: streams.a.columns.id: \"int\" is not a type"), "{message}");
    }

    #[test]
    fn a_secret_of_a_wrong_type_is_not_shown() {
        let message = read_text("auth:\n  bearer: [canary]\n").expect_err("a list").to_string();
        assert!(message.contains("auth.bearer") && !message.contains("canary"), "{message}");
    }
}
