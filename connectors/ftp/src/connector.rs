//! The connector: what the runner calls.

use std::sync::Arc;

use ingest_core::config::Tls;
use ingest_core::{
    Capabilities, Connector, Context, Deletes, Done, Mode, Out, Plan, PlanRequest, Problem, Replay, Result, Selection,
    Slice, Spec, Stream, async_trait,
};
use ingest_files::{FileSource, Limits, Position, Work};
use ingest_tls::Material;

use crate::config::{FtpConfig, TlsMax};
use crate::control::Route;
use crate::pool::Pool;
use crate::store::Server;

/// Reads files of an FTP server.
pub struct Ftp(FileSource);

#[async_trait]
impl Connector for Ftp {
    type Config = FtpConfig;
    type Work = Work;
    type Position = Position;

    fn spec() -> Spec {
        Spec {
            name: "ftp".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            title: "Files on FTP servers".into(),
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

    async fn open(config: FtpConfig, context: Context) -> Result<Self> {
        let checked = config.check()?;
        let tls = match config.danger_plaintext {
            true => {
                tracing::warn!(
                    source = context.source,
                    "FTP without TLS: anyone on the way can read and change everything"
                );
                None
            }
            false => {
                let only_tls12 = config.tls_max == TlsMax::V12;
                let material = Material { ca: config.tls_ca.as_deref(), only_tls12, ..Material::default() };
                Some((config.tls, ingest_tls::client(Tls::VerifyFull, &material)?))
            }
        };
        let port = config.port();
        let route = Route {
            port,
            host: config.host.trim().to_owned(),

            user: config.user,
            password: config.password,
            tls,
            timeout: config.timeout.0,
            path: config.path,
        };
        let pool = Pool::new(route, config.connections, context.cancel.clone());
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
