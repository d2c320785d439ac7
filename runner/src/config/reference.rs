//! `${…}` in values: the environment, files, and secret stores that are not built in yet.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use super::problem::ConfigProblem;
use super::yaml::{Node, Value, Written, path_key};

/// A secret is a line or a key file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What `${…}` stands for.
pub struct References<'a> {
    /// The environment.
    pub environment: &'a BTreeMap<String, String>,
    /// Relative paths of `${file:…}` start here.
    pub folder: &'a Path,
}

/// Why a reference has no value.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// It is well formed, but what it names does not exist here.
    Missing { what: String, hint: String },
    /// It can never have one.
    Wrong { what: String, hint: String },
}

impl References<'_> {
    /// Replaces every `${…}` under a node.
    ///
    /// A reference without a value is a problem where `needed` says so of its path; elsewhere it stays as it is: a run of
    /// one source needs no secrets of the others.
    pub fn resolve(
        &self,
        node: &mut Node,
        path: &str,
        needed: &dyn Fn(&str) -> bool,
        problems: &mut Vec<ConfigProblem>,
    ) {
        let below = |key: &str| if path.is_empty() { path_key(key) } else { format!("{path}.{}", path_key(key)) };
        match &mut node.value {
            Value::List(items) => {
                for (i, item) in items.iter_mut().enumerate() {
                    self.resolve(item, &below(&i.to_string()), needed, problems);
                }
            }
            Value::Map(entries) => {
                for entry in entries {
                    self.resolve(&mut entry.node, &below(&entry.key), needed, problems);
                }
            }
            Value::Scalar(scalar) if scalar.written == Written::Literally && scalar.text.contains("${") => {
                match self.expand(&scalar.text) {
                    Ok((text, replaced)) => {
                        scalar.text = text;
                        if replaced {
                            scalar.written = Written::Elsewhere;
                        }
                    }
                    Err(failure) => {
                        scalar.written = Written::Nowhere;
                        let (what, hint) = match failure {
                            Failure::Missing { .. } if !needed(path) => return,
                            Failure::Missing { what, hint } | Failure::Wrong { what, hint } => (what, hint),
                        };
                        problems.push(ConfigProblem::new(&node.origin, path, what).hint(hint));
                    }
                }
            }
            Value::Scalar(_) => {}
        }
    }

    /// The text with every reference replaced, and whether there was one.
    fn expand(&self, text: &str) -> Result<(String, bool), Failure> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        let mut replaced = false;
        while let Some(start) = rest.find("${") {
            let (before, reference) = rest.split_at(start);
            let body = &reference[2..];
            if let Some(escaped) = before.strip_suffix('$') {
                out.push_str(escaped);
                out.push_str("${");
                rest = body;
                continue;
            }
            out.push_str(before);
            let Some(end) = body.find('}') else {
                return Err(wrong("a `${` has no closing `}`", "write `$${` for the characters themselves"));
            };
            out.push_str(&self.value(&body[..end])?);
            replaced = true;
            rest = &body[end + 1..];
        }
        out.push_str(rest);
        Ok((out, replaced))
    }

    fn value(&self, reference: &str) -> Result<String, Failure> {
        if let Some(path) = reference.strip_prefix("file:") {
            return self.file(path);
        }
        if let Some((scheme @ ("aws-sm" | "vault"), _)) = reference.split_once(':') {
            return Err(wrong(
                format!("secrets from `{scheme}` are not built in yet"),
                "use an environment variable, `${NAME}`, or a mounted file, `${file:/path}`",
            ));
        }
        let (name, default) = match reference.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (reference, None),
        };
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(wrong(
                "this reference cannot be read",
                "write `${NAME}`, `${NAME:-default}`, `${file:/path}`, or `$${` for the characters themselves",
            ));
        }
        match (self.environment.get(name), default) {
            (Some(value), None) => Ok(value.clone()),
            (Some(value), Some(_)) if !value.is_empty() => Ok(value.clone()),
            (_, Some(default)) => Ok(default.to_owned()),
            (None, None) => Err(Failure::Missing {
                what: format!("the environment variable {name} is not set"),
                hint: format!("set {name}, or give a default with `${{{name}:-default}}`"),
            }),
        }
    }

    fn file(&self, path: &str) -> Result<String, Failure> {
        let full = self.folder.join(path);
        let missing = |what: String| Failure::Missing {
            what: format!("cannot read the file of `${{file:{path}}}`: {what}"),
            hint: "mount the file, or correct its path; relative paths start at the configuration file".into(),
        };
        let file = std::fs::File::open(&full).map_err(|e| missing(e.to_string()))?;
        let mut text = String::new();
        let read = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(|e| missing(e.to_string()))?;
        if read as u64 > MAX_FILE_BYTES {
            return Err(wrong(format!("the file of `${{file:{path}}}` is larger than 1 MiB"), "name another file"));
        }
        // Editors and `echo` end a file with a line break that belongs to no password.
        let text = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
        Ok(text.to_owned())
    }
}

fn wrong(what: impl Into<String>, hint: impl Into<String>) -> Failure {
    Failure::Wrong { what: what.into(), hint: hint.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str) -> Result<(String, bool), Failure> {
        let environment = BTreeMap::from([("NAME".into(), "value".into()), ("EMPTY".into(), String::new())]);
        References { environment: &environment, folder: Path::new("/nonexistent") }.expand(text)
    }

    #[test]
    fn references_are_replaced_and_escapes_kept() {
        for (text, expected) in [
            ("${NAME}", "value"),
            ("a-${NAME}-${NAME}!", "a-value-value!"),
            ("${MISSING:-other}", "other"),
            ("${EMPTY:-other}", "other"),
            ("${MISSING:-}", ""),
            ("${EMPTY}", ""),
            ("$${NAME}", "${NAME}"),
            ("$${NAME} ${NAME}", "${NAME} value"),
            ("$NAME costs 5$", "$NAME costs 5$"),
        ] {
            assert_eq!(expand(text).map(|(text, _)| text), Ok(expected.into()), "{text}");
        }
    }

    #[test]
    fn references_without_a_value_say_why() {
        assert!(
            matches!(expand("${MISSING}"), Err(Failure::Missing { what, .. }) if what.contains("MISSING is not set"))
        );
        assert!(matches!(expand("${file:none}"), Err(Failure::Missing { .. })));
        for text in ["${NAME", "${}", "${a b}", "${vault:x#y}", "${aws-sm:x#y}", "${1A}"] {
            assert!(matches!(expand(text), Err(Failure::Wrong { .. })), "{text}");
        }
        assert!(
            matches!(expand("${vault:x#y}"), Err(Failure::Wrong { what, .. }) if what.contains("not built in yet"))
        );
    }

    #[test]
    fn a_file_is_read_without_its_last_line_break() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("secret"), "line 1\nline 2\r\n").expect("written");
        let environment = BTreeMap::new();
        let references = References { environment: &environment, folder: folder.path() };
        assert_eq!(references.expand("${file:secret}"), Ok(("line 1\nline 2".into(), true)));
    }
}
