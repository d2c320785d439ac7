//! `ingest init`: a commented ingest.yaml.

use std::path::Path;

use ingest_core::{Error, ErrorKind, Json, Result, Spec};

use super::App;
use super::args::InitArgs;
use super::connectors::{kind, shown_default, words, wrap};
use super::output::{Outcome, note, print, safe};
use crate::config::schema::fields;
use crate::config::{dereference, description, is_secret, sources_of, types};

const FILE_NAME: &str = "ingest.yaml";

const HEAD: &str = "\
# What is loaded, and where to. `ingest config show` prints what holds; `ingest config schema` is for editors.
#
# Values may hold ${NAME} (an environment variable), ${NAME:-default} and ${file:/run/secrets/name}; `$${` stands for
# itself. INGEST__SOURCES__NAME__FIELD overrides a field, ingest.prod.yaml beside this file is laid over it by --env prod.

lake:
  # A path (relative to this file), s3://bucket/prefix, gs://bucket/prefix or az://container/prefix.
  url: ./lake
  # zstd or snappy.
  # compression: zstd
  # Data files are closed near this size, and a commit closes after this time at the latest.
  # file_size: 128MiB
  # commit_interval: 1m

# The memory of a run: reading, encoding and writing together.
# memory: 512MiB

sources:
";

const FILES: &str = "  # The name of a source is free; where it is that of a connector, `connector` can be left out.
  files:
    connector: files
    # Each file and each folder directly under this path is a stream, named after it: data/orders.csv is `orders`.
    path: ./data
    # Or name the streams, with globs and options:
    # files:
    #   orders: {path: \"orders/*.csv\", types: {total: \"decimal(12,2)\"}}

    # Which streams are loaded, and how. Left out: all of them, each as the catalog recommends.
    # streams:
    #   orders: {mode: full, write: replace}
    #   \"tmp_*\": {on_schema_change: fail}
";

const EXAMPLE: &str = "id,name,created_at\n1,first,2024-01-31T09:30:00Z\n2,second,2024-02-01T17:05:00Z\n";

/// Runs the verb.
pub fn run(app: &App, args: &InitArgs) -> Outcome {
    let spec =
        args.connector.as_deref().map(|name| app.registry.get(name).map(|factory| factory.spec())).transpose()?;
    std::fs::create_dir_all(&args.dir).map_err(|e| cannot("make the folder", &args.dir, e))?;
    let file = args.dir.join(FILE_NAME);
    let exists = file.exists();
    let next = match (spec, exists) {
        (None, true) => {
            return Err(Error::config("there is an ingest.yaml already")
                .with("file", file.display())
                .hint("`ingest init --connector NAME` adds a source to it")
                .into());
        }
        (None, false) => {
            write_new(&file, &format!("{HEAD}{FILES}"))?;
            write_example(&args.dir)?;
            "files".to_owned()
        }
        (Some(spec), false) => {
            write_new(&file, &format!("{HEAD}{}", source(&spec, &spec.name)))?;
            spec.name
        }
        (Some(spec), true) => add(&file, &spec)?,
    };
    print(&format!("{} {}\n", if exists { "changed" } else { "wrote" }, safe(&file.display().to_string())))?;
    note(&format!("next: ingest check --source {0}, then ingest run --source {0}", safe(&next)));
    Ok(0)
}

fn cannot(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::ConfigInvalid, format!("cannot {what}")).with("path", path.display()).caused_by(error)
}

fn write_new(file: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let mut opened = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(file)
        .map_err(|e| cannot("write the configuration", file, e))?;
    opened.write_all(text.as_bytes()).map_err(|e| cannot("write the configuration", file, e))
}

/// Something to read, so that the first run has a row to show.
fn write_example(folder: &Path) -> Result<()> {
    let data = folder.join("data");
    if data.exists() {
        return Ok(());
    }
    std::fs::create_dir(&data).map_err(|e| cannot("make the folder", &data, e))?;
    let file = data.join("example.csv");
    std::fs::write(&file, EXAMPLE).map_err(|e| cannot("write the example", &file, e))
}

/// Adds a source to a file that exists, and answers its name. What a person wrote stays as it is, comments included.
fn add(file: &Path, spec: &Spec) -> Result<String> {
    let text = std::fs::read_to_string(file).map_err(|e| cannot("read the configuration", file, e))?;
    let unreadable = || {
        Error::config("the file is not a configuration that a source can be added to")
            .with("file", file.display())
            .hint("`ingest config show` says what is wrong with it")
    };
    let before = sources_of(&text).ok_or_else(unreadable)?;
    let name = (1..)
        .map(|n| if n == 1 { spec.name.clone() } else { format!("{}_{n}", spec.name) })
        .find(|name| !before.contains(name))
        .ok_or_else(unreadable)?;
    let changed = insert(&text, &source(spec, &name));
    let mut expected = before;
    expected.push(name.clone());
    let found = changed.as_deref().and_then(sources_of);
    let complete = found.is_some_and(|found| expected.iter().all(|name| found.contains(name)));
    let Some(changed) = changed.filter(|_| complete) else {
        print(&source(spec, &name)).map_err(|_| Error::config("cannot print the source"))?;
        return Err(Error::config("cannot add a source to `sources`, which is not written as a block")
            .with("file", file.display())
            .hint("put the lines above under `sources:` by hand"));
    };
    let beside = file.with_extension("yaml.new");
    std::fs::write(&beside, changed).map_err(|e| cannot("write the configuration", &beside, e))?;
    std::fs::rename(&beside, file).map_err(|e| cannot("write the configuration", file, e))?;
    Ok(name)
}

/// The text with a source put first under `sources:`, at the indent of those that are there.
fn insert(text: &str, source: &str) -> Option<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let key = lines.iter().position(|line| {
        line.strip_prefix("sources:").is_some_and(|rest| {
            let rest = rest.trim();
            rest.is_empty() || rest.starts_with('#') || rest == "{}"
        })
    });
    let Some(key) = key else {
        if lines.iter().any(|line| line.starts_with("sources:")) {
            return None;
        }
        lines.push("sources:".to_owned());
        lines.push(source.trim_end().to_owned());
        return Some(lines.join("\n") + "\n");
    };
    lines[key] = lines[key].replacen(" {}", "", 1);
    let entry = lines[key + 1..].iter().find(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    let indent = entry.map_or(2, |line| line.len() - line.trim_start_matches(' ').len());
    let indent = if indent == 0 { 2 } else { indent };
    let shifted = source.lines().map(|line| match line.strip_prefix("  ") {
        Some(rest) if !rest.is_empty() => format!("{}{rest}", " ".repeat(indent)),
        _ => line.to_owned(),
    });
    let block: Vec<String> = shifted.collect();
    lines.splice(key + 1..key + 1, block);
    Some(lines.join("\n") + "\n")
}

/// A source with every field of its connector explained.
fn source(spec: &Spec, name: &str) -> String {
    let schema = fields(spec);
    let mut out = format!("  # {}: `ingest connectors {}` says more.\n  {name}:\n", spec.title, spec.name);
    out.push_str(&format!("    connector: {}\n", spec.name));
    Writer { root: &schema, source: name, out: &mut out }.fields(&schema, 4, None);
    out.push_str(
        "\n    # Which streams are loaded, and how. Left out: all of them, each as the catalog recommends.\n\
         \x20   # streams:\n    #   NAME: {}\n    # Options for every stream that does not say otherwise.\n\
         \x20   # defaults: {}\n",
    );
    out
}

struct Writer<'a> {
    root: &'a Json,
    source: &'a str,
    out: &'a mut String,
}

impl Writer<'_> {
    /// Writes the fields of a schema, those that must be given first. `hidden` is the indent at which a comment began.
    fn fields(&mut self, schema: &Json, indent: usize, hidden: Option<usize>) {
        let properties = schema["properties"].as_object();
        let mut list: Vec<(&String, &Json)> = properties.into_iter().flatten().collect();
        list.sort_by_key(|(name, property)| !must(name, dereference(property, self.root), schema));
        for (name, property) in list {
            let property = dereference(property, self.root);
            if hidden.is_none() {
                self.out.push('\n');
            }
            let about = description(property).unwrap_or_default();
            for line in wrap(&about, 112usize.saturating_sub(indent)) {
                self.line(&format!("# {}", safe(&line)), indent, hidden);
            }
            self.line(&format!("# {}", facts(name, property, self.root, schema)), indent, hidden);
            let hidden = hidden.or((!must(name, property, schema)).then_some(indent));
            self.value(name, property, indent, hidden);
        }
    }

    fn value(&mut self, name: &str, property: &Json, indent: usize, hidden: Option<usize>) {
        let object = [Some(property), property.get("anyOf").and_then(|list| list.get(0))].into_iter().flatten();
        let object =
            object.map(|schema| dereference(schema, self.root)).find(|schema| types(schema).contains(&"object"));
        let of = object.map(|schema| dereference(&schema["additionalProperties"], self.root));
        if indent < 12 && object.is_some_and(|schema| schema.get("properties").is_some()) {
            self.line(&format!("{name}:"), indent, hidden);
            self.fields(object.unwrap_or(property), indent + 2, hidden);
        } else if let Some(of) = of.filter(|of| indent < 10 && of.get("properties").is_some()) {
            self.line(&format!("{name}:"), indent, hidden);
            self.line("NAME:", indent + 2, hidden);
            self.fields(of, indent + 4, hidden.or(Some(indent + 2)));
        } else {
            self.line(&format!("{name}: {}", example(self.source, name, property, self.root)), indent, hidden);
        }
    }

    /// A line at an indent; what is left to the reader begins with `# ` at the indent where that began.
    fn line(&mut self, text: &str, indent: usize, hidden: Option<usize>) {
        match hidden {
            None => self.out.push_str(&format!("{}{text}\n", " ".repeat(indent))),
            Some(at) => {
                self.out.push_str(&format!("{}# {}{text}\n", " ".repeat(at), " ".repeat(indent - at.min(indent))))
            }
        }
    }
}

fn required(name: &str, schema: &Json) -> bool {
    schema["required"].as_array().is_some_and(|list| list.iter().any(|r| r == name))
}

/// Whether a field is written out rather than as a comment: it is required, or a text whose default is nothing.
fn must(name: &str, property: &Json, schema: &Json) -> bool {
    let plain_text = types(property) == ["string"] && words(property, &Json::Null).is_empty();
    let no_default = property.get("default").is_none_or(|default| default == "");
    required(name, schema) || name == "host" || (plain_text && no_default)
}

fn facts(name: &str, property: &Json, root: &Json, schema: &Json) -> String {
    let mut facts = vec![kind(property, root)];
    if is_secret(property) {
        facts.push("secret".to_owned());
    }
    if required(name, schema) {
        facts.push("required".to_owned());
    }
    if let Some(default) = shown_default(property) {
        facts.push(format!("default {}", safe(&default)));
    }
    format!("({})", facts.join(", "))
}

/// A value that shows what a field looks like.
fn example(source: &str, name: &str, property: &Json, root: &Json) -> String {
    if is_secret(property) || secret_below(property, root) {
        let variable = format!("{source}_{name}").to_uppercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        return format!("${{{variable}}}");
    }
    if let Some(default) = property.get("default").filter(|_| shown_default(property).is_some()) {
        return quoted(default);
    }
    if let Some(example) = property["examples"].as_array().and_then(|list| list.first()) {
        return quoted(example);
    }
    if let Some(word) = words(property, root).first() {
        return word.clone();
    }
    match (name, types(property).first().copied()) {
        ("path", _) => "./data".to_owned(),
        ("host", _) => "localhost".to_owned(),
        (_, Some("boolean")) => "false".to_owned(),
        (_, Some("integer" | "number")) => property.get("minimum").map_or_else(|| "0".to_owned(), Json::to_string),
        (_, Some("array")) => "[]".to_owned(),
        (_, Some("object")) => "{}".to_owned(),
        _ => "CHANGE_ME".to_owned(),
    }
}

fn secret_below(property: &Json, root: &Json) -> bool {
    let list = ["anyOf", "oneOf"].iter().find_map(|key| property.get(*key)).and_then(Json::as_array);
    list.into_iter().flatten().any(|alternative| is_secret(dereference(alternative, root)))
}

/// JSON is YAML in flow style.
fn quoted(value: &Json) -> String {
    let bare = |text: &&str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
    };
    value.as_str().filter(bare).map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_inserted_at_the_indent_of_the_others() {
        let source = "  x:\n    connector: x\n";
        let text = "# top\nsources:   # all\n    a:\n        connector: files\nmemory: 1GiB\n";
        assert_eq!(
            insert(text, source).expect("a block"),
            "# top\nsources:   # all\n    x:\n      connector: x\n    a:\n        connector: files\nmemory: 1GiB\n"
        );
        assert_eq!(insert("lake: {}\n", source).expect("none"), "lake: {}\nsources:\n  x:\n    connector: x\n");
        assert_eq!(insert("sources: {}\n", source).expect("empty"), "sources:\n  x:\n    connector: x\n");
        assert_eq!(insert("sources: {a: {}}\n", source), None);
    }

    #[test]
    fn the_first_configuration_is_read_without_problems() {
        assert_eq!(sources_of(&format!("{HEAD}{FILES}")), Some(vec!["files".to_owned()]));
    }
}
