//! The connector: what a place is to the runner.

use std::sync::Arc;

use ingest_core::{Context, Result, async_trait};
use ingest_files::{FileConnector, FileSource, Limits, Place};
use tokio::runtime::Handle;

use crate::client::Route;
use crate::config::SftpConfig;
use crate::pool::Pool;
use crate::store::Server;

/// Reads files of an SFTP server.
pub type Sftp = FileConnector<SftpServers>;

/// SFTP servers.
pub struct SftpServers;

#[async_trait]
impl Place for SftpServers {
    type Config = SftpConfig;
    const NAME: &'static str = "sftp";
    const TITLE: &'static str = "Files on SFTP servers";
    const DOCS: &'static str = include_str!("../README.md");

    async fn open(config: SftpConfig, context: Context) -> Result<FileSource> {
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
        Ok(FileSource::new(Arc::new(store), checked.streams, checked.defaults, limits, context))
    }
}
