//! The connector: what the runner calls.

use std::sync::Arc;

use ingest_core::{
    Capabilities, Connector, Context, Deletes, Done, Mode, Out, Plan, PlanRequest, Problem, Replay, Result, Selection,
    Slice, Spec, Stream, async_trait,
};
use ingest_files::{Defaults, FileSource, Limits, Position, Work};

use crate::config::FilesConfig;
use crate::store::Root;

/// Reads files of a folder or an object store.
pub struct Files(FileSource);

#[async_trait]
impl Connector for Files {
    type Config = FilesConfig;
    type Work = Work;
    type Position = Position;

    fn spec() -> Spec {
        Spec {
            name: "files".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            title: "Files in folders and object stores".into(),
            docs: include_str!("../README.md").into(),
            state_version: 1,
            capabilities: Capabilities {
                modes: vec![Mode::Incremental, Mode::Full],
                deletes: Deletes::Unseen,
                replay: Replay::Always,
                parallel: 4,
                portable: true,
                projection: true,
                filter: false,
            },
            config: None,
        }
    }

    async fn open(config: FilesConfig, context: Context) -> Result<Self> {
        let streams = config.streams()?;
        let store = Arc::new(Root::open(&config)?);
        let limits = Limits::new(config.max_record, config.max_ratio, config.max_decompressed);
        Ok(Self(FileSource::new(store, streams, Defaults::default(), limits, context)))
    }

    async fn check(&self, selection: &Selection) -> Result<Vec<Problem>> {
        self.0.check(selection).await
    }

    async fn schema(&self, selection: &Selection) -> Result<Vec<Stream>> {
        self.0.schema(selection).await
    }

    async fn plan(&self, request: &PlanRequest<Position>) -> Result<Plan<Work, Position>> {
        self.0.plan(request).await
    }

    async fn extract(&self, slice: &Slice<Work>, from: Option<&Position>, out: &mut Out<'_, Position>) -> Result<Done> {
        self.0.extract(slice, from, out).await
    }
}
