//! YAML to JSON values that still know the lines they were written on.
//!
//! The text comes from a person or from the internet: its size, depth and the expansion of its aliases are bounded, and
//! keys that are given twice are errors.

use std::collections::{BTreeMap, HashMap};

use ingest_core::Json;
use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};
use serde_json::Map;

pub(crate) const MAX_BYTES: usize = 1 << 20;
const MAX_DEPTH: usize = 32;
const MAX_NODES: usize = 50_000;

/// Lines by the path of their key.
pub(crate) type Lines = BTreeMap<String, usize>;

/// A document: its value, and where its keys stand.
pub(crate) struct Document {
    pub value: Json,
    pub lines: Lines,
}

/// Reads the one document of a text.
///
/// # Errors
/// What is wrong, with its line.
pub(crate) fn parse(text: &str) -> Result<Document, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("{} bytes are more than the {MAX_BYTES} that a manifest may have", text.len()));
    }
    // The scanner takes a NUL for the end of the text, and would drop what follows.
    if text.contains('\0') {
        return Err("this is not YAML: it holds a NUL character".into());
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        nodes: 0,
        path: Vec::new(),
        lines: Lines::new(),
    };
    let value = reader.document()?.unwrap_or_else(|| Json::Object(Map::new()));
    Ok(Document { value, lines: reader.lines })
}

/// The path of a key below another, as people read it: `streams.issues.pages`.
pub(crate) fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'));
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// Anchored values with their sizes.
    anchors: HashMap<usize, (Json, usize)>,
    nodes: usize,
    path: Vec<String>,
    lines: Lines,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), String> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let at = error.marker();
                Err(format!("line {}: this is not YAML: {} (column {})", at.line().max(1), error.info(), at.col() + 1))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn wrong<T>(&self, span: Span, what: &str) -> Result<T, String> {
        let path = self.path.iter().fold(String::new(), |path, key| join(&path, key));
        let path = if path.is_empty() { path } else { format!("{path}: ") };
        Err(format!("line {}: {path}{what}", span.start.line().max(1)))
    }

    fn document(&mut self) -> Result<Option<Json>, String> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root),
                Event::DocumentStart(_) if root.is_some() => {
                    return self.wrong(span, "there is more than one YAML document");
                }
                Event::DocumentStart(_) => {
                    let (event, span) = self.next()?;
                    root = Some(self.node(event, span)?);
                }
                _ => {}
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span) -> Result<Json, String> {
        if self.path.len() > MAX_DEPTH {
            return self.wrong(span, "values are nested too deep");
        }
        self.count(1, span)?;
        let before = self.nodes;
        let path = self.path.iter().fold(String::new(), |path, key| join(&path, key));
        self.lines.insert(path, span.start.line().max(1));
        let (value, anchor) = match event {
            Event::Alias(id) => {
                let Some((value, size)) = self.anchors.get(&id).cloned() else {
                    return self.wrong(span, "an alias stands inside its own anchor");
                };
                self.count(size, span)?;
                return Ok(value);
            }
            Event::Scalar(text, ScalarStyle::Plain, anchor, None) => (plain(&text), anchor),
            Event::Scalar(text, _, anchor, _) => (Json::String(text.into_owned()), anchor),
            Event::SequenceStart(anchor, _) => (self.list()?, anchor),
            Event::MappingStart(anchor, _) => (self.map()?, anchor),
            _ => return self.wrong(span, "a value is missing"),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, (value.clone(), self.nodes - before + 1));
        }
        Ok(value)
    }

    fn count(&mut self, more: usize, span: Span) -> Result<(), String> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > MAX_NODES { self.wrong(span, "there are too many values, aliases expanded") } else { Ok(()) }
    }

    fn list(&mut self) -> Result<Json, String> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Json::Array(items));
            }
            self.path.push(items.len().to_string());
            items.push(self.node(event, span)?);
            self.path.pop();
        }
    }

    fn map(&mut self) -> Result<Json, String> {
        let (mut map, mut merged) = (Map::new(), Vec::new());
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd => break,
                Event::Scalar(key, ..) => key.into_owned(),
                _ => return self.wrong(span, "a key must be a text"),
            };
            let (event, _) = self.next()?;
            self.path.push(key.clone());
            let value = self.node(event, span)?;
            if key == "<<" {
                merged.push(value);
            } else if map.insert(key, value).is_some() {
                return self.wrong(span, "this key was given before");
            }
            self.path.pop();
        }
        // `<<: *anchor`: the keys of another map, where this one does not say otherwise.
        for other in merged {
            let Json::Object(other) = other else { return Err("only a map can be merged into a map (`<<`)".into()) };
            for (key, value) in other {
                map.entry(key).or_insert(value);
            }
        }
        Ok(Json::Object(map))
    }
}

/// The value of a plain scalar by the core schema of YAML 1.2, as far as a manifest has use for it.
fn plain(text: &str) -> Json {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Json::Null,
        "true" | "True" | "TRUE" => return Json::Bool(true),
        "false" | "False" | "FALSE" => return Json::Bool(false),
        _ => {}
    }
    let numeric = text.contains(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '+' | '-' | 'e' | 'E'));
    let number = text.parse::<i64>().map(Json::from).ok();
    let number = number.or_else(|| text.parse::<f64>().ok().filter(|_| numeric).map(Json::from));
    number.filter(|number| !number.is_null()).unwrap_or_else(|| Json::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_know_their_lines() {
        let document = parse("a: 1\nb:\n  c: [x, {d: 2}]\n").expect("YAML");
        assert_eq!(document.value, serde_json::json!({"a": 1, "b": {"c": ["x", {"d": 2}]}}));
        assert_eq!(document.lines.get("b.c"), Some(&3));
        assert_eq!(document.lines.get("b.c.1.d"), Some(&3));
    }

    #[test]
    fn what_is_no_yaml_or_too_much_of_it_is_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(", ")));
        }
        for text in ["a: [1", "a: 1\na: 2\n", "a: &a [*a]", "? [x]\n: 1\n", "a: 1\n---\nb: 2\n", "a: \0", &bomb] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&"[".repeat(5_000)).is_err());
        assert!(parse("x:\n  a: 1\n  a: 2\n").err().is_some_and(|e| e.starts_with("line 3: x.a: ")));
    }

    #[test]
    fn anchors_and_merge_keys_spare_writing() {
        let document = parse("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\n").expect("YAML");
        assert_eq!(document.value["y"], serde_json::json!({"a": 1, "b": 3}));
    }
}
