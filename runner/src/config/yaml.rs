//! YAML as a tree of nodes that know where they were written.
//!
//! The tree is built from parser events, so that depth, size and the expansion of aliases are bounded and duplicate
//! keys are seen: a loader that builds maps would have dropped them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use ingest_core::Json;
use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};

use super::problem::{ConfigProblem, Origin};

/// A configuration is written by hand: what is larger is a mistake or an attack.
const MAX_BYTES: usize = 4 << 20;
const MAX_DEPTH: usize = 64;
/// Counted after the expansion of aliases.
const MAX_NODES: usize = 200_000;

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it was written.
    pub origin: Origin,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A text whose type is not decided yet.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// A map in the order of the file.
    Map(Vec<Entry>),
}

/// A scalar as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    /// The text.
    pub text: String,
    /// Not quoted: it may be a number, a boolean or null.
    pub plain: bool,
    /// Whether the text stands for itself.
    pub written: Written,
}

/// Whether the text of a scalar stands for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// As it stands in the file.
    Literally,
    /// It came out of a `${…}` or the environment: it takes the type that is wanted, and no message quotes it.
    Elsewhere,
    /// A `${…}` that has no value here; nothing is known about it.
    Nowhere,
}

/// A key of a map with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key was written.
    pub origin: Origin,
    /// The value.
    pub node: Node,
}

impl Node {
    /// An empty map.
    pub fn empty(origin: Origin) -> Self {
        Self { value: Value::Map(Vec::new()), origin }
    }

    /// A text that takes the type that is wanted.
    pub fn resolved(text: impl Into<String>, origin: Origin) -> Self {
        Self { value: Value::Scalar(Scalar { text: text.into(), plain: true, written: Written::Elsewhere }), origin }
    }

    /// Whether it is nothing: `~`, `null`, or a key without a value.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(s) if s.plain && s.written == Written::Literally && plain(&s.text).is_null())
    }

    /// The entries of a map.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// What a person would call it.
    pub fn describe(&self) -> &'static str {
        match &self.value {
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
            Value::Scalar(s) if s.written != Written::Literally || !s.plain => "a text",
            Value::Scalar(s) => match plain(&s.text) {
                Json::Null => "nothing",
                Json::Bool(_) => "true or false",
                Json::Number(_) => "a number",
                _ => "a text",
            },
        }
    }
}

/// The value of a plain scalar by the core schema of YAML 1.2: null, boolean, number, else text.
pub fn plain(text: &str) -> Json {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Json::Null,
        "true" | "True" | "TRUE" => return Json::Bool(true),
        "false" | "False" | "FALSE" => return Json::Bool(false),
        _ => {}
    }
    let radix = |prefix: &str, radix| text.strip_prefix(prefix).and_then(|t| u64::from_str_radix(t, radix).ok());
    if let Some(number) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return number.into();
    }
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    if let Ok(number) = unsigned.parse::<i64>() {
        return number.into();
    }
    if let Ok(number) = unsigned.parse::<u64>() {
        return number.into();
    }
    let numeric = |c: char| c.is_ascii_digit() || matches!(c, '.' | '+' | '-' | 'e' | 'E');
    let number = text.contains(|c: char| c.is_ascii_digit()) && text.chars().all(numeric);
    let number = number.then(|| text.parse::<f64>().ok()).flatten().and_then(serde_json::Number::from_f64);
    number.map_or_else(|| Json::String(text.to_owned()), Json::Number)
}

/// A key as it stands in a path: quoted where it holds a dot or a blank, so that the path can be read back.
pub fn path_key(key: &str) -> String {
    let bare = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '*');
    if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { format!("{key:?}") }
}

/// Reads the one document of a file. Problems that do not end the reading are added to `problems`.
///
/// `None` when the text is no YAML or breaks a limit; an empty text is an empty map.
pub fn parse(text: &str, file: &Arc<Path>, problems: &mut Vec<ConfigProblem>) -> Option<Node> {
    let place = |line| Origin::File { file: Arc::clone(file), line };
    if text.len() > MAX_BYTES {
        let what =
            format!("the file has {} bytes, more than the {MAX_BYTES} that a configuration may have", text.len());
        problems.push(ConfigProblem::new(&place(1), "", what));
        return None;
    }
    // The scanner takes a NUL for the end of the file, and would drop what follows.
    if let Some(at) = text.find('\0') {
        let line = text.get(..at).map_or(1, |before| before.matches('\n').count() + 1);
        problems.push(ConfigProblem::new(&place(line), "", "this is not YAML: the file holds a NUL character"));
        return None;
    }
    // The scanner knows no byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        file,
        anchors: HashMap::new(),
        nodes: 0,
        path: Vec::new(),
        problems: Vec::new(),
    };
    let result = reader.document();
    problems.append(&mut reader.problems);
    match result {
        Ok(node) => Some(node.unwrap_or_else(|| Node::empty(place(1)))),
        Err(problem) => {
            problems.push(problem);
            None
        }
    }
}

/// Reads one value in flow style, as a person may put it into an environment variable: `[a, b]`, `{a: 1}`.
pub fn parse_flow(text: &str, origin: &Origin) -> Option<Node> {
    let file: Arc<Path> = Arc::from(Path::new(""));
    let mut problems = Vec::new();
    let mut node = parse(text, &file, &mut problems).filter(|_| problems.is_empty())?;
    if matches!(node.value, Value::Scalar(_)) {
        return None;
    }
    from_elsewhere(&mut node, origin);
    Some(node)
}

fn from_elsewhere(node: &mut Node, origin: &Origin) {
    node.origin = origin.clone();
    match &mut node.value {
        Value::Scalar(scalar) => scalar.written = Written::Elsewhere,
        Value::List(items) => items.iter_mut().for_each(|item| from_elsewhere(item, origin)),
        Value::Map(entries) => entries.iter_mut().for_each(|entry| {
            entry.origin = origin.clone();
            from_elsewhere(&mut entry.node, origin);
        }),
    }
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    file: &'a Arc<Path>,
    /// Anchored nodes with their sizes.
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    path: Vec<String>,
    problems: Vec<ConfigProblem>,
}

type Step<T> = Result<T, ConfigProblem>;

impl<'a> Reader<'a> {
    fn origin(&self, span: Span) -> Origin {
        Origin::File { file: Arc::clone(self.file), line: span.start.line().max(1) }
    }

    fn problem(&self, span: Span, what: impl Into<String>) -> ConfigProblem {
        ConfigProblem::new(&self.origin(span), self.path.join("."), what)
    }

    fn next(&mut self) -> Step<(Event<'a>, Span)> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let marker = *error.marker();
                let what = format!("this is not YAML: {} (column {})", error.info(), marker.col() + 1);
                Err(ConfigProblem::new(&self.origin(Span::new(marker, marker)), "", what))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn document(&mut self) -> Step<Option<Node>> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root),
                Event::DocumentStart(_) if root.is_some() => {
                    return Err(self.problem(span, "the file holds more than one YAML document"));
                }
                Event::DocumentStart(_) => {
                    let (event, span) = self.next()?;
                    root = Some(self.node(event, span, 0)?);
                }
                _ => {}
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Step<Node> {
        if depth > MAX_DEPTH {
            return Err(self.problem(span, format!("values are nested deeper than {MAX_DEPTH} levels")));
        }
        self.count(1, span)?;
        let before = self.nodes;
        let origin = self.origin(span);
        let (value, anchor, tag) = match event {
            Event::Alias(id) => {
                let Some((node, size)) = self.anchors.get(&id).cloned() else {
                    return Err(self.problem(span, "an alias stands inside its own anchor"));
                };
                self.count(size, span)?;
                return Ok(node);
            }
            Event::Scalar(text, style, anchor, tag) => {
                let text_tag = tag.as_ref().is_some_and(|t| t.is_yaml_core_schema() && t.suffix == "str");
                let plain = style == ScalarStyle::Plain && !text_tag;
                (Value::Scalar(Scalar { text: text.into_owned(), plain, written: Written::Literally }), anchor, tag)
            }
            Event::SequenceStart(anchor, tag) => (Value::List(self.list(depth)?), anchor, tag),
            Event::MappingStart(anchor, tag) => (Value::Map(self.map(depth)?), anchor, tag),
            _ => return Err(self.problem(span, "a value is missing")),
        };
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            let tag: String = tag.to_string().chars().take(40).collect();
            self.problems.push(ConfigProblem::new(
                &origin,
                self.path.join("."),
                format!("the tag {tag:?} has no meaning here"),
            ));
        }
        let node = Node { value, origin };
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), self.nodes - before + 1));
        }
        Ok(node)
    }

    fn count(&mut self, more: usize, span: Span) -> Step<()> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > MAX_NODES {
            return Err(self.problem(span, format!("the file has more than {MAX_NODES} values, aliases expanded")));
        }
        Ok(())
    }

    fn list(&mut self, depth: usize) -> Step<Vec<Node>> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(items);
            }
            self.path.push(items.len().to_string());
            items.push(self.node(event, span, depth + 1)?);
            self.path.pop();
        }
    }

    fn map(&mut self, depth: usize) -> Step<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut lines: HashMap<String, usize> = HashMap::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let key = self.node(event, span, depth + 1)?;
            let Value::Scalar(Scalar { text: key, .. }) = key.value else {
                return Err(self.problem(span, "a key must be a text"));
            };
            let (event, value_span) = self.next()?;
            self.path.push(path_key(&key));
            let node = self.node(event, value_span, depth + 1)?;
            let path = self.path.join(".");
            self.path.pop();
            let origin = self.origin(span);
            if key == "<<" {
                merged.push(node);
            } else if let Some(line) = lines.get(&key) {
                let what = format!("this key was given before, on line {line}");
                self.problems.push(ConfigProblem::new(&origin, path, what));
            } else {
                lines.insert(key.clone(), span.start.line());
                entries.push(Entry { key, origin, node });
            }
        }
        for node in merged {
            self.merge(&mut entries, node);
        }
        Ok(entries)
    }

    /// `<<: *anchor`: the keys of another map, where this one does not say otherwise.
    fn merge(&mut self, entries: &mut Vec<Entry>, node: Node) {
        match node.value {
            Value::Map(others) => {
                for other in others {
                    if !entries.iter().any(|entry| entry.key == other.key) {
                        entries.push(other);
                    }
                }
            }
            Value::List(items) => items.into_iter().for_each(|item| self.merge(entries, item)),
            Value::Scalar(_) => {
                self.problems.push(ConfigProblem::new(&node.origin, "<<", "only a map can be merged into a map"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Option<Node>, Vec<String>) {
        let mut problems = Vec::new();
        let node = parse(text, &Arc::from(Path::new("t.yaml")), &mut problems);
        (node, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn nodes_know_their_lines() {
        let (node, problems) = read("a: 1\nb:\n  c: x\n");
        assert_eq!(problems, Vec::<String>::new());
        let node = node.expect("YAML");
        assert_eq!(node.get("b").and_then(|b| b.get("c")).map(|c| c.origin.to_string()), Some("t.yaml:3".into()));
    }

    #[test]
    fn duplicate_keys_are_reported_with_both_lines() {
        let (_, problems) = read("x:\n  a: 1\n  a: 3\n");
        assert_eq!(problems, ["t.yaml:3: x.a: this key was given before, on line 2"]);
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let aliases = vec![format!("*a{}", i - 1); 10].join(", ");
            text.push_str(&format!("a{i}: &a{i} [{aliases}]\n"));
        }
        let (node, problems) = read(&text);
        assert!(node.is_none());
        assert!(problems[0].contains("more than 200000 values"), "{problems:?}");
    }

    #[test]
    fn deep_nesting_is_refused() {
        for text in
            [format!("{}1", "[".repeat(5_000)), (0..200).fold(String::new(), |t, i| t + &" ".repeat(i) + "a:\n")]
        {
            let (node, problems) = read(&text);
            assert!(node.is_none() && problems.len() == 1, "{problems:?}");
        }
    }

    #[test]
    fn an_alias_inside_its_anchor_is_refused() {
        let (node, problems) = read("a: &a [*a]\n");
        assert!(node.is_none() && !problems.is_empty());
    }

    #[test]
    fn a_merge_key_fills_what_is_not_said() {
        let (node, problems) = read("base: &b {x: 1, y: 2}\nuse: {<<: *b, y: 3}\n");
        assert!(problems.is_empty());
        let node = node.expect("YAML");
        let merged: Vec<_> = node.get("use").expect("use").entries().iter().map(|e| e.key.as_str()).collect();
        assert_eq!(merged, ["y", "x"]);
    }

    #[test]
    fn broken_yaml_names_line_and_column() {
        let (node, problems) = read("a: [1, 2\nb: 3\n");
        assert!(node.is_none());
        assert!(problems[0].starts_with("t.yaml:2: this is not YAML"), "{problems:?}");
        assert_eq!(read("").0.map(|n| n.entries().len()), Some(0));
    }

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        assert_eq!(plain("0x1F"), 31);
        assert_eq!(plain("18446744073709551615"), 18_446_744_073_709_551_615_u64);
        assert_eq!(plain("1.5"), 1.5);
        assert_eq!(plain("yes"), "yes");
        assert_eq!(plain("2024-01-01"), "2024-01-01");
        assert_eq!(plain("e"), "e");
        assert_eq!(plain(""), Json::Null);
    }
}
