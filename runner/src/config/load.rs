//! Finds, overlays and reads the configuration.
//!
//! The order of precedence: `INGEST__…` in the environment, the overlay of `--env`, the file, the defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ingest_core::config::ByteSize;
use ingest_core::{Json, Spec, nearest};
use serde_json::Map;

use super::problem::{ConfigProblem, Origin};
use super::reference::References;
use super::validate::{Facts, Walker, join};
use super::yaml::{self, Entry, Node, Value};
use super::{Common, Config, LakeConfig, Policies, SourceConfig, StreamOptions, schema};
use crate::registry::Registry;

/// The memory of a run where nothing is said.
pub const DEFAULT_MEMORY: ByteSize = ByteSize(512 << 20);
/// The name that is searched for.
const FILE_NAME: &str = "ingest.yaml";
/// Variables that override a field begin so.
const PREFIX: &str = "INGEST__";

/// What to load.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// `--config`: this file, which must exist. Else `ingest.yaml` is searched from `folder` upwards.
    pub config: Option<PathBuf>,
    /// `--env`: the overlay `ingest.NAME.yaml` beside the file, which must exist.
    pub env: Option<String>,
    /// Where the search starts, and where relative paths start if there is no file.
    pub folder: PathBuf,
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// The source that will be opened: its references must have a value, those of other sources need none.
    pub source: Option<String>,
    /// Whether any reference may stay without a value: for looking at the configuration.
    pub lenient: bool,
}

impl LoadOptions {
    /// The folder and the environment of this process. Variables that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self { folder: std::env::current_dir().unwrap_or_else(|_| PathBuf::from(".")), environment, ..Self::default() }
    }
}

/// A configuration, and what is known about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Where each value came from, and which must not be shown.
    pub facts: Facts,
    /// The files that were read.
    pub files: Vec<PathBuf>,
}

impl Config {
    /// Loads the configuration; no file at all means the defaults.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of files and lines.
    pub fn load(options: &LoadOptions, registry: &Registry) -> Result<Loaded, Vec<ConfigProblem>> {
        let mut loader = Loader { options, registry, walker: Walker::default(), files: Vec::new() };
        let loaded = loader.load();
        let mut problems = std::mem::take(&mut loader.walker.problems);
        match loaded {
            Some(loaded) if problems.is_empty() => Ok(loaded),
            _ => {
                problems.sort_by(|a, b| place(&a.origin).cmp(&place(&b.origin)));
                Err(problems)
            }
        }
    }
}

fn place(origin: &Origin) -> (u8, &Path, usize) {
    match origin {
        Origin::File { file, line } => (0, file, *line),
        Origin::Environment(_) => (1, Path::new(""), 0),
        Origin::Default => (2, Path::new(""), 0),
    }
}

struct Loader<'a> {
    options: &'a LoadOptions,
    registry: &'a Registry,
    walker: Walker,
    files: Vec<PathBuf>,
}

impl Loader<'_> {
    fn load(&mut self) -> Option<Loaded> {
        let file = self.find()?;
        let mut root = match &file {
            Some(file) => self.read(file)?,
            None => Node::empty(Origin::Default),
        };
        if let Some(name) = &self.options.env {
            let overlay = self.overlay_file(file.as_deref(), name)?;
            let overlay = self.read(&overlay)?;
            overlay_onto(&mut root, overlay);
        }
        self.override_from_environment(&mut root);
        let folder = file.as_deref().and_then(Path::parent).unwrap_or(&self.options.folder).to_owned();
        self.resolve(&mut root, &folder);
        let config = self.read_root(&root, file, &folder);
        let facts = std::mem::take(&mut self.walker.facts);
        Some(Loaded { config, facts, files: std::mem::take(&mut self.files) })
    }

    fn problem(&mut self, origin: &Origin, path: &str, what: impl Into<String>) -> &mut ConfigProblem {
        self.walker.problems.push(ConfigProblem::new(origin, path, what));
        self.walker.problems.last_mut().expect("one was pushed")
    }

    /// The file: the one that was named, or the nearest upwards. The outer `None` = a problem.
    fn find(&mut self) -> Option<Option<PathBuf>> {
        if let Some(named) = &self.options.config {
            let file = self.options.folder.join(named);
            if !file.is_file() {
                let what = format!("there is no configuration file {}", named.display());
                let hint = "`ingest init` writes one; without --config, ingest.yaml is searched upwards";
                self.problem(&Origin::Default, "", what).hint = Some(hint.into());
                return None;
            }
            return Some(Some(file));
        }
        let found = self.options.folder.ancestors().map(|folder| folder.join(FILE_NAME)).find(|file| file.is_file());
        Some(found)
    }

    fn overlay_file(&mut self, file: Option<&Path>, name: &str) -> Option<PathBuf> {
        let plain = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'));
        if !plain {
            let hint = "write a word such as prod";
            self.problem(&Origin::Default, "", format!("{name:?} is no name of an environment")).hint =
                Some(hint.into());
            return None;
        }
        let (folder, stem) = match file {
            Some(file) => {
                (file.parent().unwrap_or(Path::new("")), file.file_stem().unwrap_or_default().to_string_lossy())
            }
            None => (self.options.folder.as_path(), "ingest".into()),
        };
        let overlay = folder.join(format!("{stem}.{name}.yaml"));
        if overlay.is_file() {
            return Some(overlay);
        }
        let what = format!("there is no overlay {} for the environment {name:?}", overlay.display());
        let others: Vec<String> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|file| Some(file.strip_prefix(&format!("{stem}."))?.strip_suffix(".yaml")?.to_owned()))
            .collect();
        let hint = match nearest(name, others.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "write the file, or leave --env out".to_owned(),
        };
        self.problem(&Origin::Default, "", what).hint = Some(hint);
        None
    }

    fn read(&mut self, file: &Path) -> Option<Node> {
        // People read paths relative to where they stand.
        let shown: Arc<Path> = Arc::from(file.strip_prefix(&self.options.folder).unwrap_or(file));
        let start = Origin::File { file: Arc::clone(&shown), line: 1 };
        let bytes = match std::fs::read(file) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.problem(&start, "", format!("cannot read the file: {error}"));
                return None;
            }
        };
        self.files.push(file.to_owned());
        let Ok(text) = String::from_utf8(bytes) else {
            self.problem(&start, "", "the file is not UTF-8");
            return None;
        };
        let node = yaml::parse(&text, &shown, &mut self.walker.problems)?;
        if !matches!(node.value, Value::Map(_)) && !node.is_null() {
            self.problem(&node.origin, "", format!("expected a map at the top, found {}", node.describe()));
            return None;
        }
        Some(if node.is_null() { Node::empty(start) } else { node })
    }

    /// `INGEST__SOURCES__STRIPE__API_KEY=…` sets `sources.stripe.api_key`.
    fn override_from_environment(&mut self, root: &mut Node) {
        for (name, value) in &self.options.environment {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            let words: Vec<&str> = rest.split("__").collect();
            let origin = Origin::Environment(Arc::from(name.as_str()));
            if words.iter().any(|word| word.is_empty()) {
                let hint = "write e.g. INGEST__SOURCES__STRIPE__API_KEY";
                self.problem(&origin, "", "this variable names no key").hint = Some(hint.into());
                continue;
            }
            set(root, &words, value, &origin);
        }
    }

    fn resolve(&mut self, root: &mut Node, folder: &Path) {
        let own = self.options.source.as_deref().map(|source| join("sources", source));
        let lenient = self.options.lenient;
        let needed = |path: &str| {
            let of_source = |own: &str| path.strip_prefix(own).is_some_and(|rest| rest.starts_with('.'));
            // The key is for those who write rows.
            !lenient
                && (path != "mask_key" || own.is_some())
                && (!path.starts_with("sources.") || own.as_deref().is_some_and(of_source))
        };
        let references = References { environment: &self.options.environment, folder };
        references.resolve(root, "", &needed, &mut self.walker.problems);
    }

    fn read_root(&mut self, root: &Node, file: Option<PathBuf>, folder: &Path) -> Config {
        let known = ["lake", "mask_key", "memory", "policies", "sources"];
        for entry in root.entries() {
            match entry.key.as_str() {
                key if known.contains(&key) => {}
                key => {
                    let hint = match nearest(key, known) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("known keys: {}", known.join(", ")),
                    };
                    self.problem(&entry.origin, &join("", key), "unknown key").hint = Some(hint);
                }
            }
        }
        let lake = self.lake(root.get("lake"), folder);
        let memory = root.get("memory").map_or(DEFAULT_MEMORY, |node| self.memory(node));
        let mut common = Common {
            policies: self.policies(root.get("policies")),
            mask_key: self.mask_key(root.get("mask_key")),
            places: Arc::default(),
        };
        let mut sources = self.sources(root.get("sources"), folder);
        common.places = Arc::new(self.walker.facts.origins.clone());
        sources.values_mut().for_each(|source| source.common = common.clone());
        Config { lake, memory, sources, common, file }
    }

    fn not_built_in(&mut self, origin: &Origin, path: &str, what: &str) {
        let hint = "remove it: this build would not honour it";
        self.problem(origin, path, format!("{what} is not built in yet")).hint = Some(hint.into());
    }

    fn lake(&mut self, node: Option<&Node>, folder: &Path) -> LakeConfig {
        let mut lake = LakeConfig::default();
        if let Some(node) = node {
            let before = self.walker.problems.len();
            let value = self.walker.walk(node, &schema::lake(), "lake");
            if let Some(options) = node.get("options") {
                let secret = options.entries().iter().filter(|entry| schema::looks_secret(&entry.key));
                self.walker
                    .facts
                    .secrets
                    .extend(secret.map(|entry| format!("lake.options.{}", yaml::path_key(&entry.key))));
            }
            if self.walker.problems.len() == before {
                match serde_json::from_value(value) {
                    Ok(read) => lake = read,
                    Err(_) => {
                        self.problem(&node.origin, "lake", "this section cannot be read");
                    }
                }
            }
            if lake.format != super::LakeFormat::Delta {
                let format = node.get("format").map_or(&node.origin, |format| &format.origin).clone();
                let what = format!("the table format {}", schema::word(&lake.format));
                self.not_built_in(&format, "lake.format", &what);
            }
        }
        if lake.url.is_empty() {
            let origin = node.and_then(|n| n.get("url")).map_or(Origin::Default, |url| url.origin.clone());
            self.problem(&origin, "lake.url", "the text is empty");
        }
        lake.url = from_folder(&lake.url, folder);
        lake
    }

    fn memory(&mut self, node: &Node) -> ByteSize {
        let value = self.walker.walk(node, &schema::memory(), "memory");
        let Ok(memory) = serde_json::from_value::<ByteSize>(value) else { return DEFAULT_MEMORY };
        if memory.0 < schema::LEAST_MEMORY.0 {
            let what = format!("a run needs at least {}", schema::LEAST_MEMORY);
            self.problem(&node.origin, "memory", what);
        }
        memory
    }

    fn sources(&mut self, node: Option<&Node>, folder: &Path) -> BTreeMap<String, SourceConfig> {
        let mut sources = BTreeMap::new();
        if let Some(node) = node.filter(|node| !node.is_null()) {
            if !matches!(node.value, Value::Map(_)) {
                let what = format!("expected a map of sources, found {}", node.describe());
                self.problem(&node.origin, "sources", what);
            }
            for entry in node.entries() {
                let source = self.source(&entry.key, &entry.origin, &entry.node, folder);
                sources.insert(entry.key.clone(), source);
            }
            self.clashes(node);
        }
        if let Some(name) = self.options.source.clone().filter(|name| !sources.contains_key(name)) {
            self.unconfigured(&name, folder, &mut sources);
        }
        sources
    }

    /// Two sources of one folder name would write into each other's tables.
    fn clashes(&mut self, node: &Node) {
        let mut folders: BTreeMap<String, &Entry> = BTreeMap::new();
        for entry in node.entries() {
            let folder = ingest_core::table_name(&entry.key);
            if let Some(other) = folders.insert(folder.clone(), entry) {
                let what = format!("its folder in the lake, {folder:?}, is also that of {:?}", other.key);
                self.problem(&entry.origin, &join("sources", &entry.key), what).hint = Some("rename one".into());
            }
        }
    }

    /// A source that is not in the file: the connector of its name, with its defaults.
    fn unconfigured(&mut self, name: &str, folder: &Path, sources: &mut BTreeMap<String, SourceConfig>) {
        if self.registry.all_names().contains(name) {
            let source = self.source(name, &Origin::Default, &Node::empty(Origin::Default), folder);
            sources.insert(name.to_owned(), source);
            return;
        }
        let plugins = self.registry.all_names();
        let known: BTreeSet<&str> = sources.keys().chain(&plugins).map(String::as_str).collect();
        let hint = match (nearest(name, known.iter().copied()), sources.len()) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, 0) => format!("connectors: {}", self.registry.names().collect::<Vec<_>>().join(", ")),
            (None, _) => format!("sources: {}", sources.keys().map(String::as_str).collect::<Vec<_>>().join(", ")),
        };
        let what = format!("there is no source {name:?} in the configuration, and no connector of that name");
        self.problem(&Origin::Default, "", what).hint = Some(hint);
    }

    fn source(&mut self, name: &str, origin: &Origin, node: &Node, folder: &Path) -> SourceConfig {
        let path = join("sources", name);
        let mut source = SourceConfig::named(name);
        let empty = Node::empty(node.origin.clone());
        let node = match &node.value {
            Value::Map(_) => node,
            _ if node.is_null() => &empty,
            _ => {
                self.problem(origin, &path, format!("expected a map, found {}", node.describe()));
                return source;
            }
        };
        let spec = self.connector(&mut source, node, origin, &path, folder);
        let (own, fields): (Vec<&Entry>, Vec<&Entry>) =
            node.entries().iter().partition(|entry| schema::RUNNERS_KEYS.contains(&entry.key.as_str()));
        for entry in own {
            let path = join(&path, &entry.key);
            match entry.key.as_str() {
                "streams" => source.streams = self.streams(&entry.node, &path),
                "defaults" => source.defaults = self.options(&entry.node, &path),
                "schedule" => {
                    let value = self.walker.walk(&entry.node, &schema::schedule(), &path);
                    source.schedule = serde_json::from_value(value).ok();
                }
                _ => {}
            }
        }
        self.schedules(node, &source, &path);
        if let Some(spec) = spec {
            let fields = fields.into_iter().cloned().collect();
            // A key that is missing is reported where the source begins.
            let node = Node { value: Value::Map(fields), origin: origin.clone() };
            let schema = schema::fields(&spec);
            source.fields = self.walker.walk(&node, &schema, &path);
            self.hide_what_looks_secret(&source.fields, &path);
            resolve_paths(&mut source.fields, &schema, folder);
        }
        source
    }

    /// The connector of a source: what it says, else its name.
    fn connector(
        &mut self,
        source: &mut SourceConfig,
        node: &Node,
        origin: &Origin,
        path: &str,
        folder: &Path,
    ) -> Option<Spec> {
        let path = join(path, "connector");
        let written = node.get("connector").filter(|node| !node.is_null());
        let origin = match written {
            Some(written) => {
                source.connector = self.walker.walk(written, &schema::text(), &path).as_str()?.to_owned();
                &written.origin
            }
            None => origin,
        };
        // The path of a plug-in.
        if source.connector.contains('/') {
            source.connector = from_folder(&source.connector, folder);
        }
        let error = match self.registry.get(&source.connector) {
            Ok(factory) => return Some(factory.spec()),
            Err(error) => error,
        };
        let required = written.is_none() && !self.registry.all_names().contains(&source.connector);
        let what = if required {
            "this key is required, as the source's name is no connector".to_owned()
        } else {
            error.causes().iter().fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
        };
        self.problem(origin, &path, what).hint = error.hint_text().map(str::to_owned);
        None
    }

    fn streams(&mut self, node: &Node, path: &str) -> Vec<(String, StreamOptions)> {
        if !matches!(node.value, Value::Map(_)) {
            if !node.is_null() {
                let what = format!("expected a map of stream names with their options, found {}", node.describe());
                self.problem(&node.origin, path, what).hint = Some("write e.g. `streams: {charges: {}}`".into());
            }
            return Vec::new();
        }
        let entries = node.entries().iter();
        entries.map(|entry| (entry.key.clone(), self.options(&entry.node, &join(path, &entry.key)))).collect()
    }

    fn options(&mut self, node: &Node, path: &str) -> StreamOptions {
        let before = self.walker.problems.len();
        let value = self.walker.walk(node, &schema::stream_options(), path);
        if self.walker.problems.len() > before {
            return StreamOptions::default();
        }
        let options = serde_json::from_value(value).unwrap_or_else(|_| {
            self.problem(&node.origin, path, "these options cannot be read");
            StreamOptions::default()
        });
        self.checks(node, &options, path);
        options
    }

    /// Fields that a connector took for public, but whose name says otherwise, are not shown either.
    fn hide_what_looks_secret(&mut self, fields: &Json, path: &str) {
        for (key, value) in fields.as_object().into_iter().flatten() {
            let path = join(path, key);
            if value.is_object() {
                self.hide_what_looks_secret(value, &path);
            } else if value.is_string() && schema::looks_secret(key) {
                self.walker.facts.secrets.insert(path);
            }
        }
    }
}

/// A relative path, as it is meant: from the folder of the configuration. URLs and absolute paths stay.
fn from_folder(path: &str, folder: &Path) -> String {
    if path.is_empty() || path.contains("://") || Path::new(path).is_absolute() {
        return path.to_owned();
    }
    let relative = path.strip_prefix("./").unwrap_or(path);
    let joined = if matches!(relative, "" | ".") { folder.to_owned() } else { folder.join(relative) };
    joined.to_string_lossy().into_owned()
}

/// Local paths start at the folder of the configuration: fields of a name that means one in every connector, unless the
/// schema gives them another `format`, and fields that it marks with `"format": "path"`.
fn resolve_paths(fields: &mut Json, schema: &Json, folder: &Path) {
    const PATHS: [&str; 5] = ["path", "tls_ca", "tls_cert", "tls_key", "known_hosts"];
    let Some(fields) = fields.as_object_mut() else { return };
    for (key, value) in fields {
        let is_path = match schema["properties"][key.as_str()].get("format").and_then(Json::as_str) {
            Some(format) => format == "path",
            None => PATHS.contains(&key.as_str()),
        };
        // Some of these fields also take the text of a certificate.
        if let Some(text) = value.as_str().filter(|text| is_path && !text.contains('\n')) {
            *value = from_folder(text, folder).into();
        }
    }
}

/// Lays the values of `over` onto `base`: maps are merged key by key, everything else takes the place of what was there.
fn overlay_onto(base: &mut Node, over: Node) {
    match (&mut base.value, over.value) {
        (Value::Map(entries), Value::Map(others)) => {
            for other in others {
                match entries.iter_mut().find(|entry| entry.key == other.key) {
                    Some(entry) => {
                        entry.origin = other.origin;
                        overlay_onto(&mut entry.node, other.node);
                    }
                    None => entries.push(other),
                }
            }
        }
        (value, other) => {
            *value = other;
            base.origin = over.origin;
        }
    }
}

/// Sets the value of a path whose words are the keys in capitals, with `_` for every other character.
fn set(node: &mut Node, words: &[&str], value: &str, origin: &Origin) {
    let Some((word, rest)) = words.split_first() else {
        *node = Node::resolved(value, origin.clone());
        return;
    };
    if !matches!(node.value, Value::Map(_)) {
        *node = Node::empty(origin.clone());
    }
    let Value::Map(entries) = &mut node.value else { return };
    let as_word = |c: char| if c.is_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let found = entries.iter().position(|entry| entry.key.chars().map(as_word).eq(word.chars()));
    let index = found.unwrap_or_else(|| {
        let key = word.to_ascii_lowercase();
        entries.push(Entry { key, origin: origin.clone(), node: Node::empty(origin.clone()) });
        entries.len() - 1
    });
    set(&mut entries[index].node, rest, value, origin);
}

/// The merged configuration as JSON, secrets as `***`; what `ingest config show` prints.
pub fn masked(loaded: &Loaded) -> Json {
    let config = &loaded.config;
    let mut sources = Map::new();
    for (name, source) in &config.sources {
        let mut object = Map::new();
        object.insert("connector".into(), source.connector.clone().into());
        object.extend(source.fields.as_object().cloned().unwrap_or_default());
        if let Some(schedule) = &source.schedule {
            object.insert("schedule".into(), schema::as_json(schedule));
        }
        let defaults = without_nulls(schema::as_json(&source.defaults));
        if defaults.as_object().is_some_and(|d| !d.is_empty()) {
            object.insert("defaults".into(), defaults);
        }
        if !source.streams.is_empty() {
            let streams = source.streams.iter();
            let streams: Map<String, Json> =
                streams.map(|(name, options)| (name.clone(), without_nulls(schema::as_json(options)))).collect();
            object.insert("streams".into(), streams.into());
        }
        sources.insert(name.clone(), object.into());
    }
    let mut lake = schema::as_json(&config.lake);
    lake["url"] = crate::config::public_url(&config.lake.url).into();
    let mut all = serde_json::json!({ "lake": lake, "memory": config.memory.to_string(), "sources": sources });
    if config.common.policies != Policies::default() {
        all["policies"] = schema::as_json(&config.common.policies);
    }
    if config.common.mask_key.is_some() {
        all["mask_key"] = "***".into();
    }
    mask(&mut all, "", &loaded.facts.secrets);
    all
}

fn mask(value: &mut Json, path: &str, secrets: &BTreeSet<String>) {
    if secrets.contains(path) && !value.is_null() {
        *value = "***".into();
        return;
    }
    match value {
        Json::Object(object) => object.iter_mut().for_each(|(key, value)| mask(value, &join(path, key), secrets)),
        Json::Array(items) => {
            items.iter_mut().enumerate().for_each(|(i, value)| mask(value, &join(path, &i.to_string()), secrets));
        }
        _ => {}
    }
}

fn without_nulls(mut value: Json) -> Json {
    if let Some(object) = value.as_object_mut() {
        object.retain(|_, value| !value.is_null());
    }
    value
}

mod policies;
mod schedules;
#[cfg(test)]
mod tests;
