#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod api;
mod config;
mod streams;

use std::collections::BTreeMap;

use ingest_core::json::Decoder;
use ingest_core::{
    Capabilities, Connector, Context, Cursor, Deletes, Done, Error, ErrorKind, Estimate, Mode, Out, Plan, PlanRequest,
    Problem, Replay, Result, Selected, Selection, Shape, Slice, Spec, Stream, async_trait,
};
use ingest_http::PageGuard;
use serde::{Deserialize, Serialize};

use api::Api;
pub use config::AcmeConfig;
use streams::{STREAMS, UPDATED};

/// The connector.
pub struct Acme {
    api: Api,
}

/// What a slice says to this connector: a window of `updated_at`, both bounds fixed before anything is read.
#[derive(Debug, Serialize, Deserialize)]
pub struct Work {
    /// Inclusive; the beginning when it is left out.
    from: Option<String>,
    /// Exclusive.
    to: String,
}

/// Where a slice has been read to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// Inside a window: the cursor of the page that comes next.
    Page(String),
    /// Between runs: everything before this time has been read.
    Before(String),
}

impl Cursor for Position {}

/// Where the last run ended.
fn held(selected: &Selected<Position>) -> Result<Option<String>> {
    match selected.positions.get(&UPDATED.into()) {
        None => Ok(None),
        Some(Position::Before(time)) => Ok(Some(time.clone())),
        Some(Position::Page(_)) => Err(foreign()),
    }
}

fn foreign() -> Error {
    Error::new(ErrorKind::CheckpointInvalid, "the position is of another kind")
        .hint("`ingest state reset` forgets it and the next run loads everything")
}

/// Microseconds as the API writes times, so that texts can be compared.
fn time(micros: i64) -> String {
    let time = chrono::DateTime::from_timestamp_micros(micros).unwrap_or_default();
    time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

#[async_trait]
impl Connector for Acme {
    type Config = AcmeConfig;
    type Work = Work;
    type Position = Position;

    fn spec() -> Spec {
        Spec {
            name: "acme".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            title: "Acme".into(),
            docs: include_str!("../README.md").into(),
            state_version: 1,
            capabilities: Capabilities {
                modes: vec![Mode::Incremental, Mode::Full],
                deletes: Deletes::Unseen,
                replay: Replay::Always,
                parallel: 4,
                portable: true,
                projection: false,
                filter: false,
            },
            config: None,
        }
    }

    async fn open(config: AcmeConfig, context: Context) -> Result<Self> {
        Ok(Self { api: Api::open(&config, &context)? })
    }

    async fn check(&self, selection: &Selection) -> Result<Vec<Problem>> {
        let mut problems = Vec::new();
        for stream in self.schema(selection).await? {
            if let Err(error) = self.api.probe(&stream.name).await {
                problems.push(Problem::from_error(Some(stream.name), &error));
            }
        }
        Ok(problems)
    }

    async fn schema(&self, selection: &Selection) -> Result<Vec<Stream>> {
        let streams = STREAMS.iter().map(streams::Def::stream);
        Ok(streams.filter(|stream| selection.matches(stream.name.as_str())).collect())
    }

    async fn plan(&self, request: &PlanRequest<Position>) -> Result<Plan<Work, Position>> {
        let safe = self.api.complete_until().await?;
        let mut plan = Plan::default();
        for selected in &request.streams {
            let name = &selected.stream.name;
            streams::find(name)?;
            let work = match (request.interval, selected.mode) {
                (Some((start, end)), _) => Work { from: Some(time(start)), to: time(end).min(safe.clone()) },
                (None, Mode::Full) => Work { from: None, to: safe.clone() },
                (None, _) => {
                    let then = BTreeMap::from([(UPDATED.into(), Some(Position::Before(safe.clone())))]);
                    plan.then.insert(name.clone(), then);
                    Work { from: held(selected)?, to: safe.clone() }
                }
            };
            plan.slices.push(Slice {
                id: name.as_str().into(),
                streams: vec![name.clone()],
                shape: Shape::Window,
                work,
                estimate: Estimate::default(),
            });
        }
        Ok(plan)
    }

    async fn extract(
        &self,
        slice: &Slice<Work>,
        from: Option<&Position>,
        out: &mut Out<'_, Position>,
    ) -> Result<Done> {
        let Some(name) = slice.streams.first() else { return Err(Error::unexpected("a slice without a stream")) };
        let mut cursor = match from {
            None => None,
            Some(Position::Page(cursor)) => Some(cursor.clone()),
            Some(Position::Before(_)) => return Err(foreign()),
        };
        let (mut decoder, mut guard) = (Decoder::new(streams::find(name)?.schema())?, PageGuard::new());
        loop {
            let page = self.api.page(name, &slice.work, cursor.as_deref()).await?;
            let envelope = decoder.page(page.body(), &api::shape())?;
            out.rows(name, decoder.flush()?).await?;
            let Some(next) = envelope.text("next")? else { return Ok(Done::Complete) };
            guard.next(&next)?;
            // All rows before are out: a restart may begin with the next page.
            out.mark(&Position::Page(next.clone())).await?;
            if !envelope.flag("has_more")?.unwrap_or(false) {
                return Ok(Done::Complete);
            }
            cursor = Some(next);
        }
    }
}
