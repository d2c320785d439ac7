#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod bulk;
mod check;
mod client;
mod config;
mod lines;
mod pages;
mod plan;
mod state;
mod streams;

use std::sync::Arc;

use ingest_core::{
    Capabilities, Connector, Context, Deletes, Done, Error, ErrorKind, Mode, Out, Plan, PlanRequest, Problem, Replay,
    Result, Selection, Slice, Spec, Stream, async_trait,
};

use crate::client::Api;
pub use crate::config::ShopifyConfig;
pub use crate::state::{Position, Window, Work};
use crate::streams::STREAMS;

/// The connector.
pub struct Shopify {
    config: ShopifyConfig,
    api: Arc<Api>,
}

#[async_trait]
impl Connector for Shopify {
    type Config = ShopifyConfig;
    type Work = Work;
    type Position = Position;

    fn spec() -> Spec {
        Spec {
            name: "shopify".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            title: "Shopify".into(),
            docs: include_str!("../README.md").into(),
            state_version: 1,
            capabilities: Capabilities {
                modes: vec![Mode::Incremental, Mode::Full],
                deletes: Deletes::Events,
                replay: Replay::Always,
                parallel: 1,
                portable: true,
                projection: false,
                filter: false,
            },
            config: None,
        }
    }

    async fn open(config: ShopifyConfig, context: Context) -> Result<Self> {
        config.validate()?;
        let api = Arc::new(Api::open(&config, &context)?);
        Ok(Self { config, api })
    }

    async fn check(&self, selection: &Selection) -> Result<Vec<Problem>> {
        check::check(self, selection).await
    }

    async fn schema(&self, selection: &Selection) -> Result<Vec<Stream>> {
        let selected = STREAMS.iter().filter(|def| selection.matches(def.name));
        Ok(selected.map(|def| def.stream(self.config.lag.0)).collect())
    }

    async fn plan(&self, request: &PlanRequest<Position>) -> Result<Plan<Work, Position>> {
        plan::plan(self, request).await
    }

    async fn extract(&self, slice: &Slice<Work>, from: Option<&Position>, out: &mut Out<'_, Position>) -> Result<Done> {
        let work = &slice.work;
        match (work, from) {
            (Work::Bulk(work), None) => bulk::begin(self, work, &slice.streams, 0, out).await,
            (Work::Bulk(work), Some(Position::Fresh { failed, .. })) => {
                bulk::begin(self, work, &slice.streams, *failed, out).await
            }
            (Work::Bulk(work), Some(Position::Operation { id, failed, .. })) => {
                bulk::look(self, work, &slice.streams, id, *failed, out).await
            }
            (Work::Bulk(work), Some(Position::Line { id, line, .. })) => {
                bulk::resume(self, work, &slice.streams, id, *line, out).await
            }
            (Work::Pages(work), None) => pages::read(self, work, &slice.streams, None, 0, out).await,
            (Work::Pages(work), Some(Position::Page { after, rows, .. })) => {
                pages::read(self, work, &slice.streams, Some(after), *rows, out).await
            }
            (Work::Bulk(_) | Work::Pages(_), Some(_)) => {
                Err(Error::new(ErrorKind::CheckpointInvalid, "a slice stands at a position of another kind")
                    .hint("`ingest state reset` forgets it; the next run loads the stream again"))
            }
        }
    }
}

/// For the bench: the lines of a bulk operation in the pieces in which they come, to nowhere. Gives the number of rows.
///
/// # Errors
/// What is wrong with a line.
#[doc(hidden)]
pub fn decode_lines(streams: &[&str], text: &[u8]) -> Result<usize> {
    let streams: Vec<ingest_core::StreamName> = streams.iter().map(|name| (*name).into()).collect();
    let mut lines = lines::Lines::new(0, &streams, 0)?;
    let mut rows = 0;
    let mut count =
        |batches: lines::Batches| rows += batches.rows.iter().map(|(_, batch)| batch.num_rows()).sum::<usize>();
    for piece in text.chunks(64 << 10) {
        lines.push(piece, false, || 8 << 20)?;
        while let Some(batches) = lines.ready()? {
            count(batches);
        }
    }
    lines.push(&[], true, || 8 << 20)?;
    if let Some(batches) = lines.rest()? {
        count(batches);
    }
    Ok(rows)
}
