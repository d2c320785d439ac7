//! Sources of the manifests in `examples/rest`, and a small table that follows the contract: rows up to marks, positions
//! between plans.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ingest_connector_rest::Rest;
use ingest_core::{
    Builtin, Context, Error, Event, Factory, Intent, Json, Mode, PlanRequest, Result, Selected, Selection, Slice,
    SliceId, Source, Stored, StreamName,
};
use ingest_testkit::oracle::canonical_rows;
use ingest_testkit::out::Collected;
use serde_json::{Map, json};

use crate::stand_ins::{CANARY, HubSpot, StandIn};

/// A manifest of `examples/rest`.
pub fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/rest").join(name)
}

pub fn github(url: &str) -> Json {
    json!({"manifest": example("github.yaml"), "endpoint": url, "values": {"org": "acme"}, "secrets": {"token": CANARY},
        "rate": 1e6})
}

pub fn hubspot(url: &str) -> Json {
    json!({"manifest": example("hubspot.yaml"), "endpoint": url, "values": {"client_id": "app"}, "rate": 1e6,
        "secrets": {"client_secret": "canary-app-secret", "refresh_token": CANARY}})
}

pub fn shop(url: &str) -> Json {
    json!({"manifest": example("shop.yaml"), "endpoint": format!("{url}/api/v2"), "secrets": {"api_key": CANARY},
        "rate": 1e6})
}

/// A source with a manifest of its own, in which `streams` is what is tested.
pub fn inline(url: &str, streams: Json) -> Json {
    json!({"manifest": {"base_url": "https://api.example.com", "streams": streams}, "endpoint": url})
}

pub async fn open(config: Json) -> Result<Box<dyn Source>> {
    Builtin::<Rest>::new().open(config, Context::standalone("rest")).await
}

/// The error of a configuration that must not open.
pub async fn refused(config: Json) -> Error {
    match open(config).await {
        Err(error) => error,
        Ok(_) => panic!("the configuration is taken"),
    }
}

/// A table.
#[derive(Default)]
pub struct Table {
    pub rows: Vec<Map<String, Json>>,
    pub positions: BTreeMap<SliceId, Stored>,
    pub warnings: Vec<String>,
}

impl Table {
    /// Plans a stream and reads every slice.
    pub async fn read(&mut self, source: &dyn Source, stream: &str, mode: Mode) -> Result<usize> {
        let before = self.rows.len();
        loop {
            let plan = plan(source, stream, mode, &self.positions).await?;
            for slice in &plan.slices {
                let out = extract(source, slice, None).await?;
                self.take(&out);
            }
            for (id, at) in plan.then.into_values().flatten() {
                match at {
                    Some(at) => drop(self.positions.insert(id, at)),
                    None => drop(self.positions.remove(&id)),
                }
            }
            if !plan.more {
                return Ok(self.rows.len() - before);
            }
        }
    }

    pub fn take(&mut self, out: &Collected) {
        for event in &out.events {
            match event {
                Event::Rows(_, batch) => self.rows.extend(canonical_rows(batch).unwrap()),
                Event::Warning { text, .. } => self.warnings.push(text.clone()),
                _ => {}
            }
        }
    }

    /// The values of a column, sorted.
    pub fn column(&self, name: &str) -> Vec<String> {
        let text = |row: &Map<String, Json>| match row.get(name) {
            Some(Json::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => "absent".into(),
        };
        let mut values: Vec<String> = self.rows.iter().map(text).collect();
        values.sort();
        values
    }
}

pub async fn plan(
    source: &dyn Source,
    stream: &str,
    mode: Mode,
    positions: &BTreeMap<SliceId, Stored>,
) -> Result<ingest_core::Plan<Json, Stored>> {
    let selection = Selection { select: vec![stream.to_owned()], exclude: vec![] };
    let stream = source.schema(&selection).await?.pop().expect("the stream is there");
    let cursor = stream.cursors.first().map(|cursor| cursor.column.clone());
    let positions = positions.clone();
    let selected = Selected { stream, mode, cursor, columns: None, filter: None, positions };
    let request = PlanRequest {
        streams: vec![selected],
        intent: Intent::Here,
        slice_bytes: 64 << 20,
        min_slices: 1,
        interval: None,
        now: 0,
    };
    source.plan(&request).await
}

pub async fn extract(source: &dyn Source, slice: &Slice<Json>, from: Option<&Stored>) -> Result<Collected> {
    let mut out = Collected::new();
    source.extract(slice, 1, from, &mut out).await?;
    Ok(out)
}

/// The rows of one full read.
pub async fn full(config: Json, stream: &str) -> Result<Table> {
    let source = open(config).await?;
    let mut table = Table::default();
    table.read(source.as_ref(), stream, Mode::Full).await?;
    Ok(table)
}

pub fn seconds_now() -> i64 {
    chrono::Utc::now().timestamp()
}

pub async fn hubspot_stand_in() -> StandIn<HubSpot> {
    StandIn::start(HubSpot::new(seconds_now())).await
}

pub fn name(text: &str) -> StreamName {
    text.into()
}
