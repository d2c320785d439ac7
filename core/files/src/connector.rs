//! The connector of every place with files: what the runner calls.

use std::marker::PhantomData;

use ingest_core::{
    Capabilities, Connector, Context, Deletes, Done, JsonSchema, Mode, Out, Plan, PlanRequest, Problem, Replay, Result,
    Selection, Slice, Spec, Stream, async_trait,
};
use serde::de::DeserializeOwned;

use crate::source::FileSource;
use crate::state::{Position, Work};

/// A kind of place with files: what a connector for files says of itself, and how it finds its [`crate::Store`].
#[async_trait]
pub trait Place: Send + Sync + 'static {
    /// The YAML of a source.
    type Config: DeserializeOwned + JsonSchema + Send;
    /// The name of the connector.
    const NAME: &'static str;
    /// What it reads, for lists of connectors.
    const TITLE: &'static str;
    /// Its README.
    const DOCS: &'static str;

    /// Checks a configuration. Need not have connected.
    ///
    /// # Errors
    /// `ConfigInvalid` that names every wrong key.
    async fn open(config: Self::Config, context: Context) -> Result<FileSource>;
}

/// Reads the files of a place.
pub struct FileConnector<P> {
    source: FileSource,
    place: PhantomData<fn() -> P>,
}

#[async_trait]
impl<P: Place> Connector for FileConnector<P> {
    type Config = P::Config;
    type Work = Work;
    type Position = Position;

    fn spec() -> Spec {
        Spec {
            name: P::NAME.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            title: P::TITLE.into(),
            docs: P::DOCS.into(),
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

    async fn open(config: P::Config, context: Context) -> Result<Self> {
        Ok(Self { source: P::open(config, context).await?, place: PhantomData })
    }

    async fn check(&self, selection: &Selection) -> Result<Vec<Problem>> {
        self.source.check(selection).await
    }

    async fn schema(&self, selection: &Selection) -> Result<Vec<Stream>> {
        self.source.schema(selection).await
    }

    async fn plan(&self, request: &PlanRequest<Position>) -> Result<Plan<Work, Position>> {
        self.source.plan(request).await
    }

    async fn extract(&self, slice: &Slice<Work>, from: Option<&Position>, out: &mut Out<'_, Position>) -> Result<Done> {
        self.source.extract(slice, from, out).await
    }
}
