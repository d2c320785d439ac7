//! The connector: what a place is to the runner.

use std::sync::Arc;

use ingest_core::{Context, Result, async_trait};
use ingest_files::{Defaults, FileConnector, FileSource, Limits, Place};

use crate::config::FilesConfig;
use crate::store::Root;

/// Reads files of a folder or an object store.
pub type Files = FileConnector<Roots>;

/// Folders and object stores.
pub struct Roots;

#[async_trait]
impl Place for Roots {
    type Config = FilesConfig;
    const NAME: &'static str = "files";
    const TITLE: &'static str = "Files in folders and object stores";
    const DOCS: &'static str = include_str!("../README.md");

    async fn open(config: FilesConfig, context: Context) -> Result<FileSource> {
        let streams = config.streams()?;
        let store = Arc::new(Root::open(&config)?);
        let limits = Limits::new(config.max_record, config.max_ratio, config.max_decompressed);
        Ok(FileSource::new(store, streams, Defaults::default(), limits, context))
    }
}
