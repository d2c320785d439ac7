//! `${…}` in a manifest: values of the source and of a parent's row. Nothing is evaluated.

use std::collections::BTreeMap;

use ingest_core::{Error, ErrorKind, Result, Secret, nearest};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What a path segment may hold as it is (RFC 3986, 2.3).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a placeholder may stand for in one place of the manifest.
pub(crate) struct Scope<'a> {
    /// The source's values.
    pub values: &'a BTreeMap<String, String>,
    /// The source's secrets; `None` where none may stand.
    pub secrets: Option<&'a BTreeMap<String, Secret>>,
    /// Whether a parent's row is there.
    pub parent: bool,
}

/// A text with the source's values in it and places for those of a parent's row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// A value of the source.
    Value(String),
    Parent(String),
}

impl Template {
    /// Reads a text; secrets may not be in it.
    pub fn parse(text: &str, scope: &Scope<'_>) -> Result<Self, String> {
        let mut parts = Vec::new();
        for piece in pieces(text)? {
            parts.push(match piece {
                Piece::Text(text) => Part::Text(text),
                Piece::Name(space, name) => match space {
                    "values" => Part::Value(found(scope.values, "values", name)?.clone()),
                    "parent" if scope.parent => Part::Parent(name.to_owned()),
                    "parent" => return Err("${parent.…} needs a `parent`".into()),
                    "secrets" => return Err("a secret may stand in `auth` alone".into()),
                    _ => return Err(unknown(space)),
                },
            });
        }
        Ok(Self(parts))
    }

    /// The columns of the parent that it names.
    pub fn parent_columns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| if let Part::Parent(name) = part { Some(name.as_str()) } else { None })
    }

    /// The text, with values as they are.
    pub fn text(&self, parent: &BTreeMap<String, String>) -> Result<String> {
        self.fill(parent, |value| Ok(value.to_owned()))
    }

    /// The text as a path, each value a segment of its own.
    pub fn path(&self, parent: &BTreeMap<String, String>) -> Result<String> {
        self.fill(parent, |value| {
            // A dot segment would lead to another path, and nothing to the list above.
            if matches!(value, "" | "." | "..") {
                return Err(Error::new(ErrorKind::DataInvalid, "a value cannot be a segment of a path")
                    .hint("the path of the stream names a value that is empty or made of dots"));
            }
            Ok(utf8_percent_encode(value, SEGMENT).to_string())
        })
    }

    /// What errors and logs call it: the manifest's own text.
    pub fn label(&self) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Value(value) => utf8_percent_encode(value, SEGMENT).to_string(),
            Part::Parent(name) => format!("${{parent.{name}}}"),
        };
        self.0.iter().map(part).collect()
    }

    fn fill(&self, parent: &BTreeMap<String, String>, encode: impl Fn(&str) -> Result<String>) -> Result<String> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(own) => text.push_str(own),
                Part::Value(value) => text.push_str(&encode(value)?),
                Part::Parent(name) => {
                    let value = parent.get(name).ok_or_else(|| {
                        Error::new(ErrorKind::DataInvalid, "a row of the parent lacks a column that its list needs")
                            .with("column", name)
                            .hint("null, lists and objects cannot stand in a path or parameter")
                    })?;
                    text.push_str(&encode(value).map_err(|error| error.with("column", name))?);
                }
            }
        }
        Ok(text)
    }
}

/// Reads a text with secrets in it. `must` = a secret has to be among them: a literal would be one in plain sight.
pub(crate) fn secret(text: &Secret, scope: &Scope<'_>, must: bool) -> Result<Secret, String> {
    let (mut out, mut held) = (String::new(), false);
    for piece in pieces(text.expose()).map_err(|_| "a `${` has no closing `}` (the value is not shown)".to_owned())? {
        match piece {
            Piece::Text(text) => out.push_str(&text),
            Piece::Name("values", name) => out.push_str(found(scope.values, "values", name)?),
            Piece::Name("secrets", name) => {
                let secrets = scope.secrets.ok_or("a secret may stand in `auth` alone")?;
                out.push_str(found(secrets, "secrets", name)?.expose());
                held = true;
            }
            Piece::Name(space, _) => return Err(unknown(space)),
        }
    }
    if must && !held {
        return Err(
            "must be a secret of the source: write ${secrets.NAME}, declare NAME under `secrets` here, and set it \
                    under `secrets` of the source"
                .into(),
        );
    }
    Ok(Secret::new(out))
}

fn unknown(space: &str) -> String {
    let near = nearest(space, ["values", "secrets", "parent"]);
    let near = near.map(|near| format!("; did you mean ${{{near}.…}}?")).unwrap_or_default();
    format!("${{{space}.…}} is nothing here{near}")
}

fn found<'a, T>(map: &'a BTreeMap<String, T>, space: &str, name: &str) -> Result<&'a T, String> {
    map.get(name).ok_or_else(|| {
        let near = nearest(name, map.keys().map(String::as_str));
        let near = near.map(|near| format!("; did you mean ${{{space}.{near}}}?")).unwrap_or_default();
        format!("${{{space}.{name}}} is not declared under `{space}` of the manifest{near}")
    })
}

enum Piece<'a> {
    Text(String),
    Name(&'a str, &'a str),
}

/// Cuts a text at its placeholders; `$${` stands for `${`.
fn pieces(text: &str) -> Result<Vec<Piece<'_>>, String> {
    let (mut pieces, mut own, mut rest) = (Vec::new(), String::new(), text);
    while let Some(at) = rest.find("${") {
        let (before, after) = rest.split_at(at);
        let after = after.get(2..).unwrap_or_default();
        if let Some(before) = before.strip_suffix('$') {
            own.push_str(before);
            own.push_str("${");
            rest = after;
            continue;
        }
        own.push_str(before);
        let (inner, behind) = after.split_once('}').ok_or("a `${` has no closing `}`")?;
        let (space, name) =
            inner.split_once('.').ok_or("a placeholder is ${values.NAME}, ${secrets.NAME} or ${parent.COLUMN}")?;
        if !own.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut own)));
        }
        pieces.push(Piece::Name(space, name));
        rest = behind;
    }
    own.push_str(rest);
    if !own.is_empty() {
        pieces.push(Piece::Text(own));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> BTreeMap<String, String> {
        BTreeMap::from([("org".to_owned(), "a/b c".to_owned())])
    }

    fn parse(text: &str) -> Result<Template, String> {
        let values = values();
        Template::parse(text, &Scope { values: &values, secrets: None, parent: true })
    }

    #[test]
    fn values_are_one_segment_each_and_labels_show_no_row() {
        let template = parse("/orgs/${values.org}/${parent.name}/x").expect("a template");
        let parent = BTreeMap::from([("name".to_owned(), "r?#".to_owned())]);
        assert_eq!(template.path(&parent).expect("a path"), "/orgs/a%2Fb%20c/r%3F%23/x");
        assert_eq!(template.label(), "/orgs/a%2Fb%20c/${parent.name}/x");
        assert_eq!(template.text(&parent).expect("a text"), "/orgs/a/b c/r?#/x");
    }

    #[test]
    fn a_value_cannot_lead_to_another_path() {
        let template = parse("/repos/${parent.name}/issues").expect("a template");
        for value in ["", ".", ".."] {
            let parent = BTreeMap::from([("name".to_owned(), value.to_owned())]);
            assert_eq!(template.path(&parent).expect_err(value).kind(), ErrorKind::DataInvalid);
        }
    }

    #[test]
    fn what_is_not_declared_is_named_with_what_is_near() {
        assert!(parse("${values.orgs}").expect_err("undeclared").contains("${values.org}?"));
        assert!(parse("${value.org}").expect_err("unknown").contains("${values.…}?"));
        assert!(parse("${secrets.key}").expect_err("no place for it").contains("`auth` alone"));
        assert!(parse("${values.org").expect_err("open").contains("no closing"));
        assert!(parse("${org}").expect_err("no space").contains("${values.NAME}"));
        assert_eq!(parse("$${x}").expect("escaped").label(), "${x}");
    }

    #[test]
    fn a_literal_in_place_of_a_secret_is_refused_and_not_shown() {
        let (values, secrets) = (values(), BTreeMap::from([("key".to_owned(), Secret::new("canary"))]));
        let scope = Scope { values: &values, secrets: Some(&secrets), parent: false };
        let error = secret(&Secret::new("sk-literal"), &scope, true).expect_err("a literal");
        assert!(!error.contains("sk-literal"));
        let made = secret(&Secret::new("key=${secrets.key}"), &scope, true).expect("a secret");
        assert_eq!(made.expose(), "key=canary");
    }
}
