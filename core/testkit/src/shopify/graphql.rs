//! As much GraphQL as a reader of lists writes: fields with arguments, selections, fragments by type.

use serde_json::{Map, Value};

/// A field of a selection.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub name: String,
    /// The arguments as they stand, without the parentheses.
    pub arguments: String,
    pub selection: Vec<Selected>,
}

/// What stands in a selection.
#[derive(Debug, Clone)]
pub(super) enum Selected {
    Field(Field),
    /// Fields of objects of a type.
    On(String, Vec<Selected>),
}

/// The fields of an operation; `None` when the text is none.
pub(super) fn parse(text: &str) -> Option<Vec<Selected>> {
    let mut rest = text.trim_start();
    for word in ["query", "mutation"] {
        if let Some(after) = rest.strip_prefix(word) {
            rest = after.trim_start();
            if rest.starts_with('(') {
                rest = parenthesised(rest)?.1.trim_start();
            }
        }
    }
    let (selection, rest) = selection(rest)?;
    rest.trim().is_empty().then_some(selection)
}

fn selection(text: &str) -> Option<(Vec<Selected>, &str)> {
    let mut rest = text.strip_prefix('{')?.trim_start();
    let mut all = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return (!all.is_empty()).then_some((all, after.trim_start()));
        }
        if let Some(after) = rest.strip_prefix("...") {
            let after = after.trim_start().strip_prefix("on ")?.trim_start();
            let (name, after) = word(after)?;
            let (inner, after) = selection(after.trim_start())?;
            all.push(Selected::On(name.to_owned(), inner));
            rest = after;
            continue;
        }
        let (name, mut after) = word(rest)?;
        let (mut arguments, mut inner) = (String::new(), Vec::new());
        after = after.trim_start();
        if after.starts_with('(') {
            let (text, behind) = parenthesised(after)?;
            arguments = text.to_owned();
            after = behind.trim_start();
        }
        if after.starts_with('{') {
            (inner, after) = selection(after)?;
        }
        all.push(Selected::Field(Field { name: name.to_owned(), arguments, selection: inner }));
        rest = after.trim_start();
    }
}

fn word(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// What stands between parentheses, texts with parentheses in them included, and what follows.
fn parenthesised(text: &str) -> Option<(&str, &str)> {
    let (mut depth, mut quoted) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => {
                depth -= 1;
                if depth == 0 {
                    return Some((text.get(1..at)?, text.get(at + 1..)?));
                }
            }
            _ => {}
        }
    }
    None
}

impl Field {
    /// A text argument: `query: "…"`.
    pub fn text(&self, name: &str) -> Option<&str> {
        let after = self.arguments.split_once(&format!("{name}: \""))?.1;
        after.split('"').next()
    }

    pub fn find(&self, name: &str) -> Option<&Field> {
        find(&self.selection, name)
    }
}

pub(super) fn find<'a>(selection: &'a [Selected], name: &str) -> Option<&'a Field> {
    selection.iter().find_map(|selected| match selected {
        Selected::Field(field) if field.name == name => Some(field),
        _ => None,
    })
}

/// The fields of an object that a selection asks for. Connections are left out: they are for the caller.
pub(super) fn project(value: &Value, selection: &[Selected]) -> Value {
    match value {
        Value::Array(values) => values.iter().map(|value| project(value, selection)).collect(),
        Value::Object(_) => {
            let mut object = Map::new();
            add(&mut object, value, selection);
            Value::Object(object)
        }
        other => other.clone(),
    }
}

fn add(object: &mut Map<String, Value>, value: &Value, selection: &[Selected]) {
    for selected in selection {
        match selected {
            Selected::On(kind, inner) if value["__typename"] == kind.as_str() => add(object, value, inner),
            Selected::On(..) => {}
            Selected::Field(field) if field.find("edges").is_some() => {}
            Selected::Field(field) => {
                let inner = value.get(&field.name).unwrap_or(&Value::Null);
                let inner = if field.selection.is_empty() { inner.clone() } else { project(inner, &field.selection) };
                object.insert(field.name.clone(), inner);
            }
        }
    }
}
