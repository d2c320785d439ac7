//! The connector: what the runner calls.

use std::sync::Arc;

use ingest_core::{
    Capabilities, Connector, Context, Deletes, Done, Mode, Out, Plan, PlanRequest, Problem, Replay, Result, Selection,
    Slice, Spec, Stream, async_trait,
};
use ingest_files::{FileSource, Limits, Position, Work};
use tokio::runtime::Handle;

use crate::client::Route;
use crate::config::SftpConfig;
use crate::pool::Pool;
use crate::store::Server;

/// Reads files of an SFTP server.
pub struct Sftp(FileSource);

#[async_trait]
impl Connector for Sftp {
    type Config = SftpConfig;
    type Work = Work;
    type Position = Position;

    fn spec() -> Spec {
        Spec {
            name: "sftp".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            title: "Files on SFTP servers".into(),
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

    async fn open(config: SftpConfig, context: Context) -> Result<Self> {
        let checked = config.check()?;
        let route = Route {
            login: checked.login,
            jump: config.jump,
            timeout: config.timeout.0,
            legacy: config.legacy_algorithms,
            handle: Handle::current(),
        };
        let pool = Pool::new(route, config.path, config.connections);
        let store = Server::new(pool, config.after_commit, &config.archive, context.cancel.clone());
        let limits = Limits::new(config.max_record, config.max_ratio, config.max_decompressed);
        Ok(Self(FileSource::new(Arc::new(store), checked.streams, checked.defaults, limits, context)))
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
