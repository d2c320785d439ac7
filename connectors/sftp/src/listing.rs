//! Listing folders of the server. Blocking.

use std::path::Path;

use ingest_core::{CancellationToken, Error, Result};
use ingest_files::{FileRef, Patterns};
use ssh2::{ErrorCode, FileStat};

use crate::client::{full, is_broken, is_gone};
use crate::pool::Lease;

/// Folders within folders that are followed at most. Each level holds one open folder, and nothing else.
const MAX_DEPTH: usize = 64;
/// What the library says at the end of a folder (`LIBSSH2_ERROR_FILE`, by the binding).
const END: ErrorCode = ErrorCode::Session(-16);

/// Walks the folders in which matches can lie.
///
/// Links to files are followed while they stay below the root, links to folders are not: they can go in circles. What
/// cannot be listed or addressed is said in the texts that come back.
pub fn walk(
    lease: &Lease,
    patterns: &Patterns,
    cancel: &CancellationToken,
    found: &mut dyn FnMut(FileRef),
) -> Result<Vec<String>> {
    let mut walk =
        Walk { lease, patterns, cancel, depth: patterns.depth().unwrap_or(MAX_DEPTH), found, notes: Vec::new() };
    if let Some(literals) = patterns.literals() {
        for path in literals {
            walk.entry(&path, None)?;
        }
        return Ok(walk.notes);
    }
    for base in patterns.bases() {
        let folder = base.trim_end_matches('/');
        match lease.sftp().realpath(&full(lease.root(), folder)) {
            Ok(real) if real.starts_with(lease.root()) => walk.folder(&base)?,
            Ok(_) => walk.notes.push(format!("{folder} is a link that leads out of the root; it was left out")),
            // The part of a glob before its wildcards may not exist yet: no file matches.
            Err(error) => walk.trouble(folder, &error)?,
        }
    }
    Ok(walk.notes)
}

struct Walk<'a> {
    lease: &'a Lease,
    patterns: &'a Patterns,
    cancel: &'a CancellationToken,
    depth: usize,
    found: &'a mut dyn FnMut(FileRef),
    notes: Vec<String>,
}

impl Walk<'_> {
    /// `prefix` is the path of the folder relative to the root: empty, or with a `/` at its end.
    fn folder(&mut self, prefix: &str) -> Result<()> {
        let lease = self.lease;
        let mut folder = match lease.sftp().opendir(full(lease.root(), prefix.trim_end_matches('/'))) {
            Ok(folder) => folder,
            Err(error) if prefix.is_empty() => {
                let error = lease.failed(&error, "cannot list the folder").with("path", lease.root().display());
                return Err(error.hint("`path` must be a folder that can be read"));
            }
            Err(error) => return self.trouble(prefix, &error),
        };
        loop {
            if self.cancel.is_cancelled() {
                return Err(Error::cancelled());
            }
            let (name, stat) = match folder.readdir() {
                Ok(entry) => entry,
                Err(error) if error.code() == END => return Ok(()),
                Err(error) => return self.trouble(prefix, &error),
            };
            let Some(name) = name.to_str() else {
                self.note(prefix, &format!("the name {:?} is not UTF-8", name.to_string_lossy()));
                continue;
            };
            if matches!(name, "." | "..") {
                continue;
            }
            // A name is one part of a path, whatever the server says.
            if name.is_empty() || name.contains(['/', '\0']) {
                self.note(prefix, &format!("the name {name:?} cannot be addressed"));
                continue;
            }
            let path = format!("{prefix}{name}");
            if stat.is_dir() {
                if prefix.matches('/').count() < self.depth.min(MAX_DEPTH) {
                    self.folder(&format!("{path}/"))?;
                }
            } else if stat.perm.is_none() {
                // Attributes are optional: nothing tells a folder from a file.
                self.unknown(&path, prefix)?;
            } else if self.patterns.matches(&path) {
                self.entry(&path, Some(stat))?;
            }
        }
    }

    fn unknown(&mut self, path: &str, prefix: &str) -> Result<()> {
        match self.lease.sftp().lstat(&full(self.lease.root(), path)) {
            Ok(stat) if stat.is_dir() && prefix.matches('/').count() < self.depth.min(MAX_DEPTH) => {
                self.folder(&format!("{path}/"))
            }
            Ok(stat) if !stat.is_dir() && self.patterns.matches(path) => self.entry(path, Some(stat)),
            Ok(_) => Ok(()),
            Err(error) => self.trouble(path, &error),
        }
    }

    /// Shows a file, or the file that a link leads to.
    fn entry(&mut self, path: &str, stat: Option<FileStat>) -> Result<()> {
        let at = full(self.lease.root(), path);
        let stat = match stat.map_or_else(|| self.lease.sftp().lstat(&at), Ok) {
            Ok(stat) => stat,
            Err(error) => return self.trouble(path, &error),
        };
        let is_link = stat.file_type().is_symlink();
        if !is_link && stat.size.is_some() && stat.mtime.is_some() {
            if stat.is_file() {
                (self.found)(file_of(path, &stat));
            }
            return Ok(());
        }
        match self.followed(&at) {
            Ok(Some(stat)) if stat.is_file() || (stat.perm.is_none() && !is_link) => (self.found)(file_of(path, &stat)),
            Ok(Some(_)) => {}
            Ok(None) => self.note(path, "it is a link that leads out of the root"),
            // A link to nothing is no file.
            Err(error) => return self.trouble(path, &error),
        }
        Ok(())
    }

    /// What a link leads to; `None` = something outside of the root.
    fn followed(&self, at: &Path) -> Result<Option<FileStat>, ssh2::Error> {
        let real = self.lease.sftp().realpath(at)?;
        if !real.starts_with(self.lease.root()) {
            return Ok(None);
        }
        self.lease.sftp().stat(&real).map(Some)
    }

    /// Goes on without what one answer was about; a connection that is at fault ends the listing.
    fn trouble(&mut self, path: &str, error: &ssh2::Error) -> Result<()> {
        if is_broken(error) {
            return Err(self.lease.failed(error, "cannot list a folder of the server"));
        }
        if !is_gone(error) {
            self.note(path, error.message());
        }
        Ok(())
    }

    fn note(&mut self, path: &str, text: &str) {
        // A person reads the first few; the count of the others is no news.
        if self.notes.len() < 100 {
            let place = if path.is_empty() { "the root" } else { path };
            self.notes.push(format!("{place} was left out: {text}"));
        }
    }
}

/// A file as its attributes show it. Times of the protocol are whole seconds.
pub fn file_of(path: &str, stat: &FileStat) -> FileRef {
    let seconds = stat.mtime.and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0);
    FileRef {
        path: path.to_owned(),
        size: stat.size.unwrap_or(0),
        modified: seconds.saturating_mul(1_000_000),
        etag: None,
    }
}
