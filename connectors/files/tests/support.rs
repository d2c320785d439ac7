//! A folder, and a connector over it.

use std::path::{Path, PathBuf};

use ingest_connector_files::{Files, Work};
use ingest_core::{Builtin, Context, Factory, Json, Result, Slice, Source};
pub(crate) use ingest_testkit::table::{Table, extract, finish, load, plan, run, stream, streams, types};
use serde_json::json;

pub(crate) struct Folder {
    pub dir: tempfile::TempDir,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("temporary folder") }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        std::fs::write(&path, content).expect("write");
        path
    }

    /// Sets the modification time, seconds since 1970.
    pub(crate) fn touch(&self, path: &str, seconds: u64) {
        let file = std::fs::File::options().write(true).open(self.dir.path().join(path)).expect("open");
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).expect("touch");
    }

    pub(crate) fn config(&self, files: Json) -> Json {
        json!({"path": self.dir.path(), "files": files})
    }

    pub async fn source(&self, files: Json) -> Box<dyn Source> {
        open(self.config(files)).await.expect("open")
    }
}

pub(crate) async fn open(config: Json) -> Result<Box<dyn Source>> {
    Builtin::<Files>::new().open(config, Context::standalone("drop")).await
}

/// Reads a slice's work as the connector writes it.
pub(crate) fn work(slice: &Slice<Json>) -> Work {
    serde_json::from_value(slice.work.clone()).expect("work")
}
