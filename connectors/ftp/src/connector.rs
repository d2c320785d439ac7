//! The connector: what a place is to the runner.

use std::sync::Arc;

use ingest_core::config::Tls;
use ingest_core::{Context, Result, async_trait};
use ingest_files::{FileConnector, FileSource, Limits, Place};
use ingest_tls::Material;

use crate::config::{FtpConfig, TlsMax};
use crate::control::Route;
use crate::pool::Pool;
use crate::store::Server;

/// Reads files of an FTP server.
pub type Ftp = FileConnector<FtpServers>;

/// FTP servers.
pub struct FtpServers;

#[async_trait]
impl Place for FtpServers {
    type Config = FtpConfig;
    const NAME: &'static str = "ftp";
    const TITLE: &'static str = "Files on FTP servers";
    const DOCS: &'static str = include_str!("../README.md");

    async fn open(config: FtpConfig, context: Context) -> Result<FileSource> {
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
        Ok(FileSource::new(Arc::new(store), checked.streams, checked.defaults, limits, context))
    }
}
