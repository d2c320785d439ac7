//! Documents of the lake that hold a word: old checkpoints, plans that are done.

use std::collections::BTreeSet;

use ingest_catalog::Documents;
use ingest_core::{Error, ErrorKind, Result};
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::words::Words;
use crate::failpoint;

/// Larger documents are none of ours.
const MAX_BYTES: u64 = 256 << 20;

/// What was found in the documents.
#[derive(Debug, Default)]
pub struct Swept {
    /// Documents that were looked at.
    pub searched: u64,
    /// Documents that were removed.
    pub removed: u64,
    /// Documents that hold a word and are needed.
    pub left: Vec<String>,
}

/// What documents must stay.
#[derive(Debug, Default)]
pub struct Needed {
    /// Folders of checkpoints that are looked after, with the path of the current one in each.
    pub checkpoints: Vec<(String, String)>,
    /// Plans that are open, in any stream.
    pub plans: BTreeSet<String>,
    /// Rows were erased, now or before: documents with statistics of files may hold the beginning of a value.
    pub erased: bool,
}

impl Needed {
    /// Whether nothing stands on a document any more.
    fn may_go(&self, path: &str) -> bool {
        let mut parts = path.split('/').skip(1);
        let plan = |name: &str| !self.plans.contains(name.trim_end_matches(".json"));
        match parts.next() {
            Some("checkpoints") => {
                self.checkpoints.iter().any(|(folder, current)| path.starts_with(folder) && path != current)
            }
            Some("plans") => parts.nth(1).is_some_and(plan),
            Some("parts") => parts.next().is_some_and(plan),
            _ => false,
        }
    }
}

/// Removes documents that hold a word and on which nothing stands.
///
/// # Errors
/// Whatever the store says.
pub async fn sweep(documents: &Documents, words: &Words, needed: &Needed) -> Result<Swept> {
    let mut swept = Swept::default();
    for (path, bytes) in documents.objects("_ingest").await? {
        // Receipts hold no value, and a fingerprint is no trace.
        if path.starts_with("_ingest/forgotten/") {
            continue;
        }
        if bytes > MAX_BYTES {
            swept.left.push(format!("{path}: too large to be searched"));
            continue;
        }
        swept.searched += 1;
        let Some(text) = read(documents, &path).await? else { continue };
        let holds = words.are_in(&text) || words.are_in(path.as_bytes());
        let may_hold = needed.erased && memchr::memmem::find(&text, b"\"stats\":\"").is_some();
        if (holds || may_hold) && needed.may_go(&path) {
            documents.delete(&path).await?;
            failpoint::reach("forget_swept");
            swept.removed += 1;
        } else if holds {
            swept.left.push(path);
        }
    }
    Ok(swept)
}

async fn read(documents: &Documents, path: &str) -> Result<Option<bytes::Bytes>> {
    let fault = |e: object_store::Error| {
        Error::new(ErrorKind::Unavailable, "cannot read a document").with("path", path).caused_by(e)
    };
    let location =
        Path::parse(path).map_err(|e| Error::unexpected("cannot name a document").with("path", path).caused_by(e))?;
    match documents.store().get(&location).await {
        Ok(found) => found.bytes().await.map(Some).map_err(fault),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(e) => Err(fault(e)),
    }
}
