#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod bounds;
mod check;
mod client;
mod config;
mod extract;
mod manifest;
mod pages;
mod plan;
mod rows;
mod rules;
mod sample;
mod state;
mod streams;
mod strict;
mod template;
mod types;
mod walk;
mod yaml;

use std::collections::BTreeMap;
use std::sync::Arc;

use ingest_core::{
    Capabilities, Clock, Connector, Context, Deletes, Done, Error, Mode, Out, Plan, PlanRequest, Problem, Replay,
    Result, Secret, Selection, Slice, Spec, Stream, async_trait, nearest,
};

use crate::client::{Api, Connection};
pub use crate::config::{ManifestSource, RestConfig};
use crate::manifest::Manifest;
pub use crate::state::{Next, ParentRow, Position, Work};
use crate::streams::{Def, Defs, Problems};
use crate::strict::Place;
use crate::template::Scope;
pub use crate::types::ColumnType;

/// The connector.
pub struct Rest {
    api: Arc<Api>,
    defs: Defs,
    clock: Arc<dyn Clock>,
    most_parents: usize,
}

#[async_trait]
impl Connector for Rest {
    type Config = RestConfig;
    type Work = Work;
    type Position = Position;

    fn spec() -> Spec {
        Spec {
            name: "rest".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            title: "REST APIs by a manifest".into(),
            docs: include_str!("../README.md").into(),
            state_version: 1,
            capabilities: Capabilities {
                modes: vec![Mode::Full, Mode::Incremental],
                deletes: Deletes::Flagged,
                replay: Replay::Always,
                parallel: 8,
                portable: true,
                projection: false,
                filter: false,
            },
            config: None,
        }
    }

    async fn open(config: RestConfig, context: Context) -> Result<Self> {
        let (manifest, place) = config.manifest().await?;
        let values = values(&manifest, &config, &place)?;
        let scope = Scope { values: &values, secrets: Some(&config.secrets), parent: false };
        let mut problems = Problems::new();
        let connection = Connection::read(&manifest, &config, &scope, &mut problems);
        let defs = streams::compile(&manifest, &config, &scope, &mut problems);
        streams::refuse(&place, &problems)?;
        let api = Arc::new(Api::open(connection, &manifest, &config, &context)?);
        let most_parents = manifest.limits.parents as usize;
        Ok(Self { api, defs, clock: context.clock, most_parents })
    }

    async fn check(&self, selection: &Selection) -> Result<Vec<Problem>> {
        check::check(self, selection).await
    }

    async fn schema(&self, selection: &Selection) -> Result<Vec<Stream>> {
        let mut streams = Vec::new();
        for def in self.defs.values().filter(|def| selection.matches(def.name.as_str())) {
            let fields = match def.declared(&self.defs) {
                Some(fields) => fields,
                None => sample::fields(self, def).await?,
            };
            streams.push(def.stream(streams::schema_of(fields)));
        }
        Ok(streams)
    }

    async fn plan(&self, request: &PlanRequest<Position>) -> Result<Plan<Work, Position>> {
        plan::plan(self, request).await
    }

    async fn extract(&self, slice: &Slice<Work>, from: Option<&Position>, out: &mut Out<'_, Position>) -> Result<Done> {
        extract::read(self, &slice.work, from, out).await
    }
}

impl Rest {
    fn def(&self, name: &str) -> Result<&Arc<Def>> {
        streams::find(&self.defs, name)
    }
}

/// The values of a source: those that it sets, over the manifest's defaults. Each has to be declared, and each declared
/// one set.
fn values(manifest: &Manifest, config: &RestConfig, place: &Place) -> Result<BTreeMap<String, String>> {
    let mut wrong = config.problems();
    let mut values = BTreeMap::new();
    for (name, def) in &manifest.values {
        match config.values.get(name).or(def.default.as_ref()) {
            Some(value) => drop(values.insert(name.clone(), value.clone())),
            None => wrong.push(missing("values", name, &def.description)),
        }
    }
    for (name, def) in &manifest.secrets {
        if config.secrets.get(name).is_none_or(Secret::is_empty) {
            wrong.push(missing("secrets", name, &def.description));
        }
    }
    strangers("values", config.values.keys(), manifest.values.keys(), &mut wrong);
    strangers("secrets", config.secrets.keys(), manifest.secrets.keys(), &mut wrong);
    if wrong.is_empty() {
        return Ok(values);
    }
    let file = place.file.as_deref().unwrap_or("the manifest");
    Err(Error::config(format!("invalid configuration: {}", wrong.join("; ")))
        .hint(format!("`values` and `secrets` of {file} say what a source has to set")))
}

fn missing(space: &str, name: &str, description: &str) -> String {
    let about = if description.is_empty() { String::new() } else { format!(" ({description})") };
    format!("{space}.{name}: is missing{about}")
}

fn strangers<'a>(
    space: &str,
    set: impl Iterator<Item = &'a String>,
    known: impl Iterator<Item = &'a String> + Clone,
    wrong: &mut Vec<String>,
) {
    for name in set {
        if known.clone().any(|known| known == name) {
            continue;
        }
        let near = nearest(name, known.clone().map(String::as_str));
        let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        wrong.push(format!("{space}.{name}: the manifest declares no such name{near}"));
    }
}
