//! Walks a configuration along a JSON Schema, so that every problem has a line and all of them come at once.
//!
//! It knows what the schemas of configuration structs use: types, enums and constants, properties, required ones,
//! `additionalProperties`, items, `anyOf` and `oneOf`, bounds, patterns, `$ref`. What it does not know it lets pass: the
//! struct that reads the value afterwards has the last word.

use std::collections::{BTreeMap, BTreeSet};

use ingest_core::{Json, nearest};
use serde_json::{Map, json};

use super::problem::{ConfigProblem, Origin};
use super::yaml::{Node, Scalar, Value, Written, parse_flow, path_key, plain};

/// What is known about a configuration besides its values.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Where each value came from, by its path.
    pub origins: BTreeMap<String, Origin>,
    /// Paths of values that must never be shown.
    pub secrets: BTreeSet<String>,
}

/// Walks nodes along schemas and collects what it finds.
#[derive(Debug, Default)]
pub struct Walker {
    /// What is wrong.
    pub problems: Vec<ConfigProblem>,
    /// What is known.
    pub facts: Facts,
}

/// Where the walker stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    path: &'a str,
    /// The document that `$ref` is relative to.
    root: &'a Json,
    secret: bool,
}

impl Walker {
    /// Reads a node as its schema wants it. What is returned is only of use while there are no problems.
    pub fn walk(&mut self, node: &Node, schema: &Json, path: &str) -> Json {
        self.value(node, schema, Place { path, root: schema, secret: false })
    }

    fn problem(&mut self, node: &Node, place: Place<'_>, what: impl Into<String>) -> &mut ConfigProblem {
        self.problems.push(ConfigProblem::new(&node.origin, place.path, what));
        self.problems.last_mut().expect("one was pushed")
    }

    fn value(&mut self, node: &Node, schema: &Json, place: Place<'_>) -> Json {
        let schema = dereference(schema, place.root);
        let place = Place { secret: place.secret || is_secret(schema), ..place };
        if place.secret {
            self.facts.secrets.insert(place.path.to_owned());
        }
        if let Some(alternatives) = alternatives(schema) {
            return self.one_of(node, &alternatives, place);
        }
        let types = types(schema);
        if node.is_null() && !types.is_empty() && !types.contains(&"null") {
            if types.contains(&"object") {
                return self.value(&Node::empty(node.origin.clone()), schema, place);
            }
            let expected = expected(&types);
            self.problem(node, place, "a value is missing").hint = Some(format!("write {expected}, or remove the key"));
            return Json::Null;
        }
        match &node.value {
            Value::Map(_) if fits(&types, "object") => self.object(node, schema, place),
            Value::List(items) if fits(&types, "array") => self.list(node, items, schema, place),
            Value::Scalar(scalar) => self.scalar(node, scalar, schema, &types, place),
            Value::Map(_) | Value::List(_) => self.mismatch(node, &types, place),
        }
    }

    fn mismatch(&mut self, node: &Node, types: &[&str], place: Place<'_>) -> Json {
        let found = node.describe();
        let what = format!("expected {}, found {found}", expected(types));
        let hint = match found {
            "a number" | "true or false" if types.contains(&"string") => Some("put it in quotes"),
            "a text" if types == ["boolean"] => Some("write true or false"),
            _ => None,
        };
        self.problem(node, place, what).hint = hint.map(str::to_owned);
        Json::Null
    }

    fn object(&mut self, node: &Node, schema: &Json, place: Place<'_>) -> Json {
        let empty = Map::new();
        let properties = schema.get("properties").and_then(Json::as_object).unwrap_or(&empty);
        let rest = schema.get("additionalProperties").or_else(|| schema.get("unevaluatedProperties"));
        let mut object = Map::new();
        if node.entries().is_empty() {
            self.facts.origins.insert(place.path.to_owned(), node.origin.clone());
        }
        for entry in node.entries() {
            let path = join(place.path, &entry.key);
            let place = Place { path: &path, ..place };
            let value = match (properties.get(&entry.key), rest) {
                (Some(property), _) => self.value(&entry.node, property, place),
                (None, Some(Json::Bool(false))) => {
                    self.unknown_key(&entry.key, &entry.origin, place, properties.keys().map(String::as_str));
                    continue;
                }
                (None, rest) => self.value(&entry.node, rest.unwrap_or(&Json::Bool(true)), place),
            };
            object.insert(entry.key.clone(), value);
        }
        for required in schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str) {
            if node.get(required).is_none() {
                let path = join(place.path, required);
                let about = properties.get(required).map(|p| dereference(p, place.root)).and_then(description);
                let problem = self.problem(node, Place { path: &path, ..place }, "this key is required");
                problem.hint = about;
            }
        }
        Json::Object(object)
    }

    /// Says that a key is unknown, and which one may have been meant.
    fn unknown_key<'k>(
        &mut self,
        key: &str,
        origin: &Origin,
        place: Place<'_>,
        known: impl Iterator<Item = &'k str> + Clone,
    ) {
        let problem = ConfigProblem::new(origin, place.path, "unknown key");
        let names: Vec<&str> = known.clone().collect();
        self.problems.push(match nearest(key, known) {
            Some(near) => problem.hint(format!("did you mean `{near}`?")),
            None if names.is_empty() => problem,
            None => problem.hint(format!("known keys: {}", names.join(", "))),
        });
    }

    fn list(&mut self, node: &Node, items: &[Node], schema: &Json, place: Place<'_>) -> Json {
        let of = schema.get("items").unwrap_or(&Json::Bool(true));
        if items.is_empty() {
            self.facts.origins.insert(place.path.to_owned(), node.origin.clone());
        }
        let values: Vec<Json> = items
            .iter()
            .enumerate()
            .map(|(i, item)| {
                let path = join(place.path, &i.to_string());
                self.value(item, of, Place { path: &path, ..place })
            })
            .collect();
        let limit = |key| schema.get(key).and_then(Json::as_u64);
        if limit("minItems").is_some_and(|least| (values.len() as u64) < least) {
            let what = format!("the list needs at least {} entries", limit("minItems").unwrap_or(1));
            self.problem(node, place, what);
        }
        if limit("maxItems").is_some_and(|most| (values.len() as u64) > most) {
            let what = format!("the list may have at most {} entries", limit("maxItems").unwrap_or(0));
            self.problem(node, place, what);
        }
        Json::Array(values)
    }

    fn scalar(&mut self, node: &Node, scalar: &Scalar, schema: &Json, types: &[&str], place: Place<'_>) -> Json {
        self.facts.origins.insert(place.path.to_owned(), node.origin.clone());
        let value = match scalar.written {
            // It was reported already, or nobody needs it.
            Written::Nowhere => return Json::String(scalar.text.clone()),
            Written::Literally if scalar.plain => plain(&scalar.text),
            Written::Literally => Json::String(scalar.text.clone()),
            Written::Elsewhere if types.contains(&"string") || (types.is_empty() && !scalar.plain) => {
                Json::String(scalar.text.clone())
            }
            Written::Elsewhere => match parse_flow(&scalar.text, &node.origin) {
                Some(flow) if types.contains(&"array") || types.contains(&"object") => {
                    return self.value(&flow, schema, place);
                }
                _ => plain(&scalar.text),
            },
        };
        if !fits(types, type_of(&value)) {
            return self.mismatch(node, types, place);
        }
        let quotable = !place.secret && scalar.written == Written::Literally;
        if let Some((what, hint)) = broken_rule(&value, schema, quotable) {
            self.problem(node, place, what).hint = hint;
        }
        value
    }

    /// The first alternative that fits; else the problems of the one that was most likely meant.
    fn one_of(&mut self, node: &Node, alternatives: &[Json], place: Place<'_>) -> Json {
        let mut tried = Vec::with_capacity(alternatives.len());
        for alternative in alternatives {
            let mut walker = Walker::default();
            let value = walker.value(node, alternative, place);
            if walker.problems.is_empty() {
                self.facts.origins.append(&mut walker.facts.origins);
                self.facts.secrets.append(&mut walker.facts.secrets);
                return value;
            }
            tried.push((alternative, walker));
        }
        // A value of any alternative may be a secret: whatever was meant, it is not shown.
        for (_, walker) in &mut tried {
            self.facts.secrets.append(&mut walker.facts.secrets);
            self.facts.origins.append(&mut walker.facts.origins);
        }
        let flat: Vec<&Json> = tried.iter().map(|(schema, _)| dereference(schema, place.root)).collect();
        let words: Option<Vec<Json>> = flat
            .iter()
            .filter(|schema| types(schema) != ["null"])
            .map(|schema| constants(schema))
            .collect::<Option<Vec<_>>>()
            .map(|lists| lists.concat());
        if let (Some(words), Value::Scalar(scalar)) = (words, &node.value) {
            let value = Json::String(scalar.text.clone());
            let quotable = !place.secret && scalar.written == Written::Literally;
            if let Some((what, hint)) = broken_rule(&value, &json!({ "enum": words }), quotable) {
                self.problem(node, place, what).hint = hint;
                return Json::Null;
            }
        }
        let kind = kind_of(node);
        let mut likely: Vec<usize> =
            (0..tried.len()).filter(|i| kind.is_none_or(|kind| fits(&types(flat[*i]), kind))).collect();
        if let Some(tagged) = by_tag(node, &flat, &likely) {
            likely = vec![tagged];
        }
        if likely.is_empty() {
            let mut all: Vec<&str> = flat.iter().flat_map(|schema| types(schema)).collect();
            all.dedup();
            return self.mismatch(node, &all, place);
        }
        let best = likely.into_iter().min_by_key(|i| tried[*i].1.problems.len()).unwrap_or(0);
        self.problems.append(&mut tried[best].1.problems);
        Json::Null
    }
}

/// The path of a key below another.
pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() { path_key(key) } else { format!("{path}.{}", path_key(key)) }
}

/// Follows `$ref` within the document, at most 16 times.
pub fn dereference<'a>(schema: &'a Json, root: &'a Json) -> &'a Json {
    let mut schema = schema;
    for _ in 0..16 {
        let Some(target) = schema.get("$ref").and_then(Json::as_str).and_then(|r| r.strip_prefix('#')) else {
            break;
        };
        match root.pointer(target) {
            Some(found) => schema = found,
            None => break,
        }
    }
    schema
}

/// Whether a schema marks a secret.
pub fn is_secret(schema: &Json) -> bool {
    schema.get("writeOnly").and_then(Json::as_bool).unwrap_or(false)
}

/// The description of a schema as one line.
pub fn description(schema: &Json) -> Option<String> {
    let text = schema.get("description")?.as_str()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The types that a schema allows; empty = any.
pub fn types(schema: &Json) -> Vec<&str> {
    match schema.get("type") {
        Some(Json::String(one)) => vec![one],
        Some(Json::Array(several)) => several.iter().filter_map(Json::as_str).collect(),
        _ => constants(schema)
            .map(|values| values.iter().map(type_of).collect::<BTreeSet<_>>().into_iter().collect())
            .unwrap_or_default(),
    }
}

/// The values that a schema names one by one, where it does.
fn constants(schema: &Json) -> Option<Vec<Json>> {
    if let Some(values) = schema.get("enum").and_then(Json::as_array) {
        return Some(values.iter().filter(|value| !value.is_null()).cloned().collect());
    }
    schema.get("const").map(|value| vec![value.clone()])
}

/// The alternatives of a schema, each with what the schema says beside them.
fn alternatives(schema: &Json) -> Option<Vec<Json>> {
    let list = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(*key)).and_then(Json::as_array)?;
    let own = schema.get("properties").and_then(Json::as_object);
    let closed = schema.get("additionalProperties").or_else(|| schema.get("unevaluatedProperties"));
    let whole = list.iter().map(|alternative| {
        let mut alternative = alternative.clone();
        let Some(object) = alternative.as_object_mut() else { return alternative };
        if let Some(own) = own {
            let properties = object.entry("properties").or_insert_with(|| Json::Object(Map::new()));
            if let Some(properties) = properties.as_object_mut() {
                for (key, value) in own {
                    properties.entry(key.clone()).or_insert_with(|| value.clone());
                }
            }
            let mut required: Vec<Json> = Vec::new();
            for list in [object.get("required"), schema.get("required")].into_iter().flatten() {
                required.extend(list.as_array().into_iter().flatten().cloned());
            }
            object.insert("required".into(), required.into());
        }
        if let Some(closed) = closed {
            object.insert("additionalProperties".into(), closed.clone());
        }
        if is_secret(schema) {
            object.insert("writeOnly".into(), true.into());
        }
        alternative
    });
    Some(whole.collect())
}

/// The alternative whose constant tag the node carries.
fn by_tag(node: &Node, schemas: &[&Json], among: &[usize]) -> Option<usize> {
    among.iter().copied().find(|i| {
        let properties = schemas[*i].get("properties").and_then(Json::as_object);
        properties.into_iter().flatten().any(|(key, property)| {
            let constant = property.get("const").and_then(Json::as_str);
            let given = match node.get(key).map(|n| &n.value) {
                Some(Value::Scalar(scalar)) => Some(scalar.text.as_str()),
                _ => None,
            };
            constant.is_some() && constant == given
        })
    })
}

fn type_of(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(n) if n.is_f64() => "number",
        Json::Number(_) => "integer",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}

/// The type of a node; `None` where it takes the type that is wanted.
fn kind_of(node: &Node) -> Option<&'static str> {
    match &node.value {
        Value::Map(_) => Some("object"),
        Value::List(_) => Some("array"),
        Value::Scalar(s) if s.written != Written::Literally => None,
        Value::Scalar(s) if s.plain => Some(type_of(&plain(&s.text))),
        Value::Scalar(_) => Some("string"),
    }
}

fn fits(types: &[&str], found: &str) -> bool {
    types.is_empty() || types.contains(&found) || (found == "integer" && types.contains(&"number"))
}

fn expected(types: &[&str]) -> String {
    let words: Vec<&str> = types
        .iter()
        .filter_map(|name| match *name {
            "string" => Some("a text"),
            "integer" => Some("a whole number"),
            "number" => Some("a number"),
            "boolean" => Some("true or false"),
            "array" => Some("a list"),
            "object" => Some("a map"),
            _ => None,
        })
        .collect();
    if words.is_empty() { "nothing".into() } else { words.join(" or ") }
}

/// The first rule of a schema that a scalar breaks, with a hint. The value is quoted only where that is allowed.
fn broken_rule(value: &Json, schema: &Json, quotable: bool) -> Option<(String, Option<String>)> {
    if value.is_null() {
        return None;
    }
    let quoted = || if quotable { value.to_string() } else { "the value (not shown)".to_owned() };
    if let Some(allowed) = constants(schema).filter(|allowed| !allowed.contains(value)) {
        let words: Vec<String> =
            allowed.iter().map(|word| word.as_str().map_or_else(|| word.to_string(), str::to_owned)).collect();
        let what = format!("{} is not one of {}", quoted(), words.join(", "));
        let near = value.as_str().filter(|_| quotable).and_then(|v| nearest(v, words.iter().map(String::as_str)));
        return Some((what, near.map(|near| format!("did you mean `{near}`?"))));
    }
    match value {
        Json::Number(number) => broken_bound(number.as_f64()?, schema, &quoted()),
        Json::String(text) => broken_text(text, schema, &quoted()),
        _ => None,
    }
}

fn broken_bound(number: f64, schema: &Json, quoted: &str) -> Option<(String, Option<String>)> {
    let bound = |key: &str| schema.get(key).and_then(Json::as_f64);
    let what = if bound("minimum").is_some_and(|least| number < least) {
        format!("{quoted} is below the least that is allowed, {}", schema["minimum"])
    } else if bound("exclusiveMinimum").is_some_and(|least| number <= least) {
        format!("{quoted} is not above {}", schema["exclusiveMinimum"])
    } else if bound("maximum").is_some_and(|most| number > most) {
        format!("{quoted} is above the most that is allowed, {}", schema["maximum"])
    } else if bound("exclusiveMaximum").is_some_and(|most| number >= most) {
        format!("{quoted} is not below {}", schema["exclusiveMaximum"])
    } else {
        return None;
    };
    Some((what, None))
}

fn broken_text(text: &str, schema: &Json, quoted: &str) -> Option<(String, Option<String>)> {
    let length = text.chars().count() as u64;
    let bound = |key: &str| schema.get(key).and_then(Json::as_u64);
    if bound("minLength").is_some_and(|least| length < least) {
        let what = if length == 0 { "the text is empty".to_owned() } else { "the text is too short".to_owned() };
        return Some((what, None));
    }
    if bound("maxLength").is_some_and(|most| length > most) {
        return Some(("the text is too long".to_owned(), None));
    }
    let pattern = schema.get("pattern").and_then(Json::as_str)?;
    // A pattern that this engine does not know is left to the struct that reads the value.
    let regex = regex::RegexBuilder::new(pattern).size_limit(1 << 20).build().ok()?;
    if regex.is_match(text) {
        return None;
    }
    let example = schema.get("examples").and_then(Json::as_array).and_then(|list| list.first());
    let hint = match example.and_then(Json::as_str) {
        Some(example) => format!("write e.g. {example}"),
        None => format!("it must match {pattern}"),
    };
    Some((format!("{quoted} is not a valid value"), Some(hint)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::super::yaml;
    use super::*;

    fn walk(text: &str, schema: &Json) -> (Json, Vec<String>) {
        let mut problems = Vec::new();
        let node = yaml::parse(text, &Arc::from(Path::new("t")), &mut problems).expect("YAML");
        let mut walker = Walker::default();
        let value = walker.walk(&node, schema, "");
        let texts = walker.problems.iter().map(|p| match &p.hint {
            Some(hint) => format!("{p} ({hint})"),
            None => p.to_string(),
        });
        (value, texts.collect())
    }

    fn schema() -> Json {
        json!({
            "type": "object", "additionalProperties": false, "required": ["host"],
            "properties": {
                "host": {"type": "string"},
                "port": {"type": "integer", "minimum": 0, "maximum": 65535},
                "password": {"type": ["string", "null"], "writeOnly": true, "pattern": "^k"},
                "timeout": {"type": ["string", "integer"], "pattern": "^[0-9]+s?$", "examples": ["30s"]},
                "read": {"oneOf": [{"const": "auto"}, {"const": "ctid"}, {"type": "null"}]},
                "auth": {"anyOf": [
                    {"type": "object", "properties": {"kind": {"const": "key"}, "key": {"type": "string"}},
                     "required": ["kind", "key"], "additionalProperties": false},
                    {"type": "object", "properties": {"kind": {"const": "none"}}, "required": ["kind"],
                     "additionalProperties": false},
                    {"type": "null"}]},
                "list": {"type": "array", "items": {"type": "boolean"}}
            }
        })
    }

    #[test]
    fn a_good_configuration_is_read_exactly() {
        let text = "host: a\nport: 1\npassword: key\ntimeout: 30\nread: ctid\nauth: {kind: none}\nlist: [true]\n";
        let (value, problems) = walk(text, &schema());
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(
            value,
            json!({"host": "a", "port": 1, "password": "key", "timeout": 30, "read": "ctid", "auth": {"kind": "none"},
                   "list": [true]})
        );
    }

    #[test]
    fn every_problem_is_reported_with_line_and_key() {
        let text = "hots: a\nport: 99999\npassword: xyz\ntimeout: soon\nread: ctidd\nauth: {kind: key}\nlist: [1]\n";
        let (_, problems) = walk(text, &schema());
        assert_eq!(
            problems,
            [
                "t:1: hots: unknown key (did you mean `host`?)",
                "t:2: port: 99999 is above the most that is allowed, 65535",
                "t:3: password: the value (not shown) is not a valid value (it must match ^k)",
                "t:4: timeout: \"soon\" is not a valid value (write e.g. 30s)",
                "t:5: read: \"ctidd\" is not one of auto, ctid (did you mean `ctid`?)",
                "t:6: auth.key: this key is required",
                "t:7: list.0: expected true or false, found a number",
                "t:1: host: this key is required",
            ]
        );
    }

    #[test]
    fn a_value_from_elsewhere_takes_the_wanted_type() {
        let origin = Origin::Environment("X".into());
        let node = |text: &str| Node::resolved(text, origin.clone());
        let mut walker = Walker::default();
        assert_eq!(walker.walk(&node("12345"), &json!({"type": "string"}), "a"), "12345");
        assert_eq!(walker.walk(&node("12345"), &json!({"type": ["integer", "null"]}), "a"), 12345);
        assert_eq!(
            walker.walk(&node("[a, 1]"), &json!({"type": "array", "items": {"type": "string"}}), "a"),
            json!(["a", "1"])
        );
        assert_eq!(walker.walk(&node("true"), &json!({"type": "boolean"}), "a"), true);
        assert!(walker.problems.is_empty(), "{:?}", walker.problems);
        walker.walk(&node("hunter2"), &json!({"type": "integer"}), "a");
        walker.walk(&node("hunter2"), &json!({"enum": ["x"]}), "a");
        assert_eq!(walker.problems.len(), 2);
        assert!(walker.problems.iter().all(|p| !p.to_string().contains("hunter2")));
    }

    #[test]
    fn a_number_where_a_text_belongs_wants_quotes() {
        let (_, problems) = walk("host: 5\n", &schema());
        assert_eq!(problems, ["t:1: host: expected a text, found a number (put it in quotes)"]);
    }
}
