//! The streams of a manifest, checked and ready to be read: everything that is wrong is found here, all at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use ingest_core::json::{Limits, PageShape, SOURCE_NAME};
use ingest_core::{
    CLASS, CursorColumn, Error, Estimate, Mode, Rate, Result, Safety, Stream, StreamName, columns, nearest,
};

use crate::bounds;
use crate::config::RestConfig;
use crate::manifest::{
    BoundFormat, ColumnDef, DataClass, Ends, Incremental, Manifest, Missing, Pages, ParentDef, RateDef, StreamDef,
};
use crate::strict::Place;
use crate::template::{Scope, Template};
use crate::types::ColumnType;

/// Records that are looked at where a manifest names no columns.
const SAMPLE: u32 = 1_000;
/// Parents of parents of parents are enough.
const MAX_PARENTS: usize = 4;

/// A stream, ready to be read.
pub(crate) struct Def {
    pub name: StreamName,
    pub path: Template,
    pub parameters: Vec<(String, Template)>,
    pub headers: Vec<(String, Template)>,
    pub records: Records,
    pub key: Vec<String>,
    /// The columns that are declared, keys first.
    pub fields: Vec<Field>,
    /// Records to look at for further columns.
    pub sample: u32,
    pub pages: Style,
    pub size: Option<(Option<String>, u32)>,
    pub ends: Ends,
    pub stable: bool,
    pub most_pages: usize,
    pub limits: Limits,
    pub window: Option<Window>,
    pub parent: Option<Parent>,
    pub deleted: Option<String>,
    pub rate: Option<Rate>,
}

/// Where an answer holds its records.
pub(crate) enum Records {
    /// A list, in this shape.
    List(PageShape),
    /// The answer is one record.
    One,
}

/// How a list goes on. Fields beside the records are picked under the names `next`, `more` and `total`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Style {
    One,
    LinkHeader,
    NextLink,
    /// `field` = the last record's, else `next`.
    Cursor {
        parameter: String,
        field: Option<String>,
        more: bool,
    },
    Offset {
        parameter: String,
        more: bool,
        total: bool,
        overlap: bool,
    },
    Number {
        parameter: String,
        first: u64,
        more: bool,
        total: bool,
    },
}

/// How windows of a cursor are asked for.
pub(crate) struct Window {
    pub cursor: String,
    pub from: Option<String>,
    pub from_is_exclusive: bool,
    pub to: Option<String>,
    pub format: BoundFormat,
    pub safety: Safety,
    pub length: Option<Duration>,
    pub start: Option<i64>,
    pub sees_changes: bool,
    pub newest_first: bool,
}

/// Where a stream belongs.
pub(crate) struct Parent {
    pub stream: StreamName,
    /// Name here, then the parent's column.
    pub keep: BTreeMap<String, String>,
    pub missing: Missing,
    /// The parent's columns that the list needs: kept ones and those of `${parent.…}`.
    pub needs: Vec<String>,
}

/// The streams of a source.
pub(crate) type Defs = BTreeMap<String, Arc<Def>>;

impl Def {
    /// The columns, where all of them are declared.
    pub fn declared(&self, all: &Defs) -> Option<Vec<Field>> {
        let kept = match &self.parent {
            Some(parent) => kept_fields(parent, &all.get(parent.stream.as_str())?.declared(all)?),
            None => Vec::new(),
        };
        (self.sample == 0).then(|| self.arranged(kept, Vec::new()))
    }

    /// All columns: those of the key first, then the parent's, the declared and the sampled ones.
    pub fn arranged(&self, kept: Vec<Field>, sampled: Vec<Field>) -> Vec<Field> {
        let mut fields: Vec<Field> = kept.into_iter().chain(self.fields.iter().cloned()).collect();
        let sampled = sampled.into_iter().filter(|field| !fields.iter().any(|known| takes(known) == takes(field)));
        let sampled: Vec<Field> = sampled.collect();
        fields.extend(sampled);
        for field in &mut fields {
            if self.key.contains(field.name()) {
                *field = field.clone().with_nullable(false);
            }
        }
        fields.sort_by_key(|field| self.key.iter().position(|key| key == field.name()).unwrap_or(usize::MAX));
        fields
    }

    /// The catalog's entry.
    pub fn stream(&self, schema: SchemaRef) -> Stream {
        let cursors = self.window.iter().map(|w| CursorColumn { column: w.cursor.clone(), safety: w.safety }).collect();
        let modes = match &self.window {
            None => vec![Mode::Full],
            Some(window) if window.sees_changes => vec![Mode::Incremental, Mode::Full],
            Some(_) => vec![Mode::Full, Mode::Incremental],
        };
        Stream {
            name: self.name.clone(),
            schema,
            key: self.key.clone(),
            modes,
            cursors,
            group: None,
            estimate: Estimate::default(),
        }
    }

    /// The field of a record that leads to the next page, or that tells pages apart which are asked for by a count.
    pub fn lead(&self) -> Option<&str> {
        match &self.pages {
            Style::Cursor { field, .. } => field.as_deref(),
            Style::Offset { .. } | Style::Number { .. } => {
                let kept = |key: &&String| self.parent.as_ref().is_some_and(|parent| parent.keep.contains_key(*key));
                let key = self.key.iter().find(|key| !kept(key))?;
                Some(self.fields.iter().find(|field| field.name() == key).map_or(key.as_str(), takes))
            }
            Style::One | Style::LinkHeader | Style::NextLink => None,
        }
    }

    /// Whether a restart between two pages is safe.
    pub fn resumes_pages(&self) -> bool {
        match self.pages {
            Style::Offset { .. } | Style::Number { .. } => self.stable,
            Style::One | Style::LinkHeader | Style::NextLink | Style::Cursor { .. } => true,
        }
    }
}

/// The key of a record that a column takes.
pub(crate) fn takes(field: &Field) -> &str {
    field.metadata().get(SOURCE_NAME).unwrap_or(field.name())
}

/// The columns that a child gets of its parent's.
pub(crate) fn kept_fields(parent: &Parent, of: &[Field]) -> Vec<Field> {
    let kept = parent.keep.iter().filter_map(|(name, column)| {
        let field = of.iter().find(|field| field.name() == column)?;
        let mut metadata = field.metadata().clone();
        metadata.remove(SOURCE_NAME);
        Some(Field::new(name, field.data_type().clone(), true).with_metadata(metadata))
    });
    kept.collect()
}

/// A schema of columns.
pub(crate) fn schema_of(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}

/// What is wrong, by the path of its key.
pub(crate) type Problems = Vec<(String, String)>;

/// Checks the streams of a manifest and makes them ready.
pub(crate) fn compile(manifest: &Manifest, config: &RestConfig, scope: &Scope<'_>, problems: &mut Problems) -> Defs {
    let mut defs = Defs::new();
    if manifest.streams.is_empty() {
        problems.push(("streams".into(), "there are none".into()));
    }
    for (name, stream) in &manifest.streams {
        let path = crate::yaml::join("streams", name);
        let mut compiler = Compiler { manifest, config, values: scope, path, problems, stream };
        defs.insert(name.clone(), Arc::new(compiler.def(name)));
    }
    for (name, def) in &defs {
        parents(&defs, name, def, problems);
    }
    defs
}

/// A stream that was asked for by name.
///
/// # Errors
/// `ConfigInvalid` with the nearest name.
pub(crate) fn find<'a>(defs: &'a Defs, name: &str) -> Result<&'a Arc<Def>> {
    defs.get(name).ok_or_else(|| {
        let near = nearest(name, defs.keys().map(String::as_str));
        let hint = near.map(|near| format!("did you mean \"{near}\"?"));
        Error::config("there is no such stream in the manifest")
            .with("stream", name)
            .hint(hint.unwrap_or_else(|| "`ingest discover` lists the streams".into()))
    })
}

/// Checks what a stream says about its parent.
fn parents(defs: &Defs, name: &str, def: &Def, problems: &mut Problems) {
    let path = crate::yaml::join(&crate::yaml::join("streams", name), "parent");
    let (mut above, mut depth) = (def, 0);
    while let Some(parent) = &above.parent {
        let Some(next) = defs.get(parent.stream.as_str()) else {
            if depth == 0 {
                let near = nearest(parent.stream.as_str(), defs.keys().map(String::as_str));
                let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                problems.push((format!("{path}.stream"), format!("there is no stream \"{}\"{near}", parent.stream)));
            }
            return;
        };
        if depth == 0 && next.sample == 0 {
            let columns: Vec<&str> = next.fields.iter().map(|field| field.name().as_str()).collect();
            let above: Vec<&str> = next.parent.iter().flat_map(|p| p.keep.keys().map(String::as_str)).collect();
            for column in parent.needs.iter().filter(|c| !columns.contains(&c.as_str()) && !above.contains(&c.as_str()))
            {
                let near = nearest(column, columns.iter().copied());
                let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                problems.push((path.clone(), format!("\"{}\" has no column \"{column}\"{near}", parent.stream)));
            }
        }
        (above, depth) = (next, depth + 1);
        if depth > MAX_PARENTS {
            problems.push((path, format!("parents go in a circle, or more than {MAX_PARENTS} levels up")));
            return;
        }
    }
}

struct Compiler<'a> {
    manifest: &'a Manifest,
    config: &'a RestConfig,
    values: &'a Scope<'a>,
    path: String,
    problems: &'a mut Problems,
    stream: &'a StreamDef,
}

impl Compiler<'_> {
    fn wrong(&mut self, key: &str, what: impl Into<String>) {
        let path = if key.is_empty() { self.path.clone() } else { format!("{}.{key}", self.path) };
        self.problems.push((path, what.into()));
    }

    fn def(&mut self, name: &str) -> Def {
        let (manifest, stream) = (self.manifest, self.stream);
        if name.trim().is_empty() {
            self.wrong("", "a stream needs a name");
        }
        let no_pages = Pages::default();
        let pages = stream.pages.as_ref().or(manifest.pages.as_ref()).unwrap_or(&no_pages);
        let (style, picks) = self.style(pages);
        let fields = self.fields();
        let parent = stream.parent.as_ref().map(|parent| self.parent(parent));
        let path = self.template("path", &stream.path);
        if stream.path.is_empty() {
            self.wrong("path", "is missing");
        } else if stream.path.contains(['?', '#']) {
            self.wrong("path", "is a path alone; what follows `?` belongs into `parameters`");
        }
        let parameters = self.templates("parameters", &manifest.parameters, &stream.parameters);
        let headers = self.templates("headers", &manifest.headers, &stream.headers);
        for (name, _) in &headers {
            if !is_header(name) {
                self.wrong("headers", format!("\"{name}\" is not the name of a header"));
            }
        }
        let sample = stream.sample.unwrap_or(if stream.columns.is_empty() { SAMPLE } else { 0 });
        let window = stream.incremental.as_ref().map(|incremental| self.window(incremental, &fields, sample));
        let mut def = Def {
            name: name.into(),
            path,
            parameters,
            headers,
            records: self.records(picks),
            key: stream.key.clone(),
            fields,
            sample,
            pages: style,
            size: self.size(pages),
            ends: pages.ends,
            stable: pages.stable,
            most_pages: manifest.limits.pages.max(1) as usize,
            limits: Limits {
                object_bytes: usize::try_from(manifest.limits.record_bytes.0).unwrap_or(usize::MAX),
                ..Limits::default()
            },
            window,
            parent,
            deleted: stream.deleted.clone(),
            rate: stream.rate.as_ref().and_then(|rate| self.rate(rate)),
        };
        self.whole(&mut def);
        def
    }

    /// What can only be said of all together.
    fn whole(&mut self, def: &mut Def) {
        let kept = def.parent.iter().flat_map(|parent| parent.keep.keys());
        let names: Vec<String> = def.fields.iter().map(|field| field.name().clone()).chain(kept.cloned()).collect();
        let missing = |name: &String| def.sample == 0 && !names.contains(name);
        for key in def.key.iter().filter(|key| missing(key)) {
            let near = nearest(key, names.iter().map(String::as_str)).map(|near| format!("; did you mean `{near}`?"));
            self.wrong("key", format!("there is no column \"{key}\"{}", near.unwrap_or_default()));
        }
        if let Some(deleted) = def.deleted.as_ref().filter(|deleted| missing(deleted)) {
            self.wrong("deleted", format!("there is no column \"{deleted}\""));
        }
        if let Some(parent) = &mut def.parent {
            let templates = def.parameters.iter().chain(&def.headers).map(|(_, template)| template);
            let named = templates.chain([&def.path]).flat_map(Template::parent_columns).map(str::to_owned);
            parent.needs = named.chain(parent.keep.values().cloned()).collect();
            parent.needs.sort();
            parent.needs.dedup();
            if !def
                .path
                .parent_columns()
                .chain(def.parameters.iter().flat_map(|(_, t)| t.parent_columns()))
                .any(|_| true)
            {
                self.wrong(
                    "parent",
                    "neither `path` nor `parameters` names ${parent.COLUMN}: every parent has one list",
                );
            }
            let clashes = parent.keep.keys().filter(|name| def.fields.iter().any(|field| field.name() == *name));
            for name in clashes.cloned().collect::<Vec<_>>() {
                self.wrong("parent.keep", format!("\"{name}\" is also one of `columns`; give it another name here"));
            }
        }
        if matches!(def.records, Records::One) && def.pages != Style::One {
            self.wrong("pages", "one record (`records: .`) has one page: write `pages: {}`");
        }
        if def.ends == Ends::Short && def.size.is_none() {
            self.wrong("pages.ends", "`short` needs `size`");
        }
    }

    fn template(&mut self, key: &str, text: &str) -> Template {
        let scope = Scope { values: self.values.values, secrets: None, parent: self.stream.parent.is_some() };
        Template::parse(text, &scope).unwrap_or_else(|what| {
            self.wrong(key, what);
            Template::default()
        })
    }

    /// Those of the manifest, and over them those of the stream; an empty text takes one away.
    fn templates(
        &mut self,
        key: &str,
        all: &BTreeMap<String, String>,
        own: &BTreeMap<String, String>,
    ) -> Vec<(String, Template)> {
        let mut merged: BTreeMap<&String, &String> = all.iter().collect();
        merged.extend(own);
        let merged: Vec<(&String, &String)> = merged.into_iter().filter(|(_, text)| !text.is_empty()).collect();
        merged.into_iter().map(|(name, text)| (name.clone(), self.template(&format!("{key}.{name}"), text))).collect()
    }

    fn fields(&mut self) -> Vec<Field> {
        let stream = self.stream;
        let mut fields: Vec<Field> = Vec::new();
        for (name, ColumnDef(column)) in &stream.columns {
            if name.is_empty() || columns::is_reserved(name) {
                self.wrong("columns", format!("\"{name}\" is a reserved name; give it another and say `from: {name}`"));
                continue;
            }
            let mut field = column.r#type.field(name, !column.required);
            let mut metadata = field.metadata().clone();
            if let Some(from) = column.from.as_ref().filter(|from| *from != name) {
                metadata.insert(SOURCE_NAME.into(), from.clone());
            }
            if let Some(class) = column.class {
                metadata.insert(CLASS.into(), class_name(class).into());
            }
            field.set_metadata(metadata);
            if let Some(twin) = fields.iter().find(|known| takes(known) == takes(&field)) {
                self.wrong("columns", format!("\"{}\" and \"{name}\" take the same field of a record", twin.name()));
            }
            fields.push(field);
        }
        fields
    }

    fn parent(&mut self, parent: &ParentDef) -> Parent {
        if parent.stream.is_empty() {
            self.wrong("parent.stream", "is missing");
        }
        Parent {
            stream: parent.stream.as_str().into(),
            keep: parent.keep.clone(),
            missing: parent.missing,
            needs: Vec::new(),
        }
    }

    /// The style, and which fields beside the records it needs.
    fn style(&mut self, pages: &Pages) -> (Style, Vec<(&'static str, String)>) {
        let mut styles = Vec::new();
        let mut picks = Vec::new();
        if pages.link_header {
            styles.push(Style::LinkHeader);
        }
        if let Some(at) = &pages.next_link {
            picks.push(("next", at.clone()));
            styles.push(Style::NextLink);
        }
        let mut pick = |name: &'static str, at: &Option<String>| match at {
            Some(at) => {
                picks.push((name, at.clone()));
                true
            }
            None => false,
        };
        let mut parameters = Vec::new();
        let mut cursor_source = None;
        if let Some(cursor) = &pages.cursor {
            parameters.push(("pages.cursor.parameter", cursor.parameter.clone()));
            cursor_source = Some(usize::from(pick("next", &cursor.at)) + usize::from(cursor.field.is_some()));
            let more = pick("more", &cursor.more);
            styles.push(Style::Cursor { parameter: cursor.parameter.clone(), field: cursor.field.clone(), more });
        }
        if let Some(offset) = &pages.offset {
            parameters.push(("pages.offset.parameter", offset.parameter.clone()));
            let (more, total) = (pick("more", &offset.more), pick("total", &offset.total));
            let overlap = offset.overlap && !pages.stable;
            styles.push(Style::Offset { parameter: offset.parameter.clone(), more, total, overlap });
        }
        if let Some(number) = &pages.number {
            parameters.push(("pages.number.parameter", number.parameter.clone()));
            let (more, total) = (pick("more", &number.more), pick("total", &number.total));
            styles.push(Style::Number { parameter: number.parameter.clone(), first: number.first, more, total });
        }
        for (key, _) in parameters.iter().filter(|(_, name)| name.is_empty()) {
            self.wrong(key, "is missing");
        }
        if cursor_source.is_some_and(|sources| sources != 1) {
            self.wrong("pages.cursor", "needs one of `at` and `field`");
        }
        if styles.len() > 1 {
            self.wrong("pages", "takes one of link_header, next_link, cursor, offset and number");
        }
        (styles.into_iter().next().unwrap_or(Style::One), picks)
    }

    fn records(&mut self, picks: Vec<(&'static str, String)>) -> Records {
        let split = |path: &str| path.split('.').map(str::to_owned).collect::<Vec<_>>();
        let mut shape = match self.stream.records.as_deref() {
            Some(".") => return Records::One,
            None | Some("") => {
                if let Some((_, at)) = picks.first() {
                    self.wrong(
                        "pages",
                        format!("`{at}` stands beside the records, so `records` has to say where they are"),
                    );
                }
                PageShape::root()
            }
            Some(path) => {
                let path = split(path);
                PageShape::at_path(&path.iter().map(String::as_str).collect::<Vec<_>>())
            }
        };
        for (name, at) in picks {
            let path = split(&at);
            shape = shape.pick_at(name, &path.iter().map(String::as_str).collect::<Vec<_>>());
        }
        Records::List(if self.stream.optional { shape.optional() } else { shape })
    }

    fn size(&mut self, pages: &Pages) -> Option<(Option<String>, u32)> {
        let size = pages.size.as_ref()?;
        if size.records == 0 {
            self.wrong("pages.size.records", "must be greater than 0");
        }
        Some((size.parameter.clone(), size.records))
    }

    fn window(&mut self, incremental: &Incremental, fields: &[Field], sample: u32) -> Window {
        let cursor = fields.iter().find(|field| *field.name() == incremental.cursor);
        match cursor.map(Field::data_type) {
            Some(DataType::Timestamp(..) | DataType::Date32) => {}
            Some(_) => {
                self.wrong("incremental.cursor", "must be a column of type timestamp, unix_s, unix_ms, unix_us or date")
            }
            None if sample > 0 => {
                self.wrong("incremental.cursor", "must be one of `columns`: its type cannot depend on a sample");
            }
            None => self.wrong("incremental.cursor", format!("there is no column \"{}\"", incremental.cursor)),
        }
        if incremental.safety.is_none() {
            self.wrong("incremental.safety", "is missing; write lag(60s), watermark or unsafe");
        }
        let start = self.config.start.as_ref().or(incremental.start.as_ref());
        let start = start.map(|text| (bounds::parse_start(text), text.clone()));
        if let Some((None, text)) = &start {
            self.wrong("incremental.start", format!("\"{text}\" is neither a date nor a time"));
        }
        if incremental.window.is_some_and(|window| window.0 < Duration::from_secs(1)) {
            self.wrong("incremental.window", "must be 1s or more");
        }
        if incremental.window.is_some() && start.is_none() {
            self.wrong("incremental.window", "needs `start`: a first load could not be cut");
        }
        Window {
            cursor: incremental.cursor.clone(),
            from: incremental.from.clone(),
            from_is_exclusive: incremental.from_is_exclusive,
            to: incremental.to.clone(),
            format: incremental.format,
            safety: incremental.safety.map_or(Safety::Unsafe, |safety| safety.0),
            length: incremental.window.map(|window| window.0),
            start: start.and_then(|(start, _)| start),
            sees_changes: incremental.sees_changes,
            newest_first: incremental.newest_first,
        }
    }

    fn rate(&mut self, rate: &RateDef) -> Option<Rate> {
        let made = rate_of(rate);
        if made.is_none() {
            self.wrong("rate", "must be greater than 0");
        }
        made
    }
}

/// A rate; a second's worth at once would meet the limit of the server's own second.
pub(crate) fn rate_of(rate: &RateDef) -> Option<Rate> {
    let burst = rate.burst.unwrap_or((rate.per_second / 4.0).max(1.0));
    let sound = rate.per_second.is_finite() && rate.per_second > 0.0 && burst.is_finite() && burst >= 1.0;
    sound.then_some(Rate { per_second: rate.per_second, burst })
}

pub(crate) fn is_header(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn class_name(class: DataClass) -> &'static str {
    match class {
        DataClass::Pii => "pii",
        DataClass::Sensitive => "sensitive",
        DataClass::Restricted => "restricted",
    }
}

/// The columns of a slice as text, where a sample found some of them.
pub(crate) fn as_text(fields: &[Field]) -> Vec<(String, ColumnType)> {
    fields.iter().map(|field| (field.name().clone(), ColumnType::of(field))).collect()
}

/// Refuses a manifest.
pub(crate) fn refuse(place: &Place, problems: &Problems) -> Result<()> {
    if problems.is_empty() { Ok(()) } else { Err(place.refuse(problems)) }
}
