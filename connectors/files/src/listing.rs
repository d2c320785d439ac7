//! Listing a folder of this machine.

use std::path::Path;

use ingest_core::{Error, ErrorKind, Result};
use ingest_files::{FileRef, Patterns};

use crate::store::modified;

/// Folders within folders that are followed at most.
const MAX_DEPTH: usize = 64;

/// Walks the folders below `root` in which matches can lie. Blocking.
///
/// Links to files are followed while they stay below the root, links to folders are not: they can go in circles. What
/// cannot be listed or addressed is said in the texts that come back.
pub fn walk(root: &Path, patterns: &Patterns, found: &mut dyn FnMut(FileRef)) -> Result<Vec<String>> {
    let failed = |e: std::io::Error| {
        let kind = match e.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, "cannot list the folder")
            .with("path", root.display())
            .hint("`path` must be a folder that exists and can be read")
            .caused_by(e)
    };
    let real = root.canonicalize().map_err(failed)?;
    if !real.is_dir() {
        return Err(Error::config("invalid configuration: path: is not a folder").with("path", root.display()));
    }
    let mut walk =
        Walk { root: &real, patterns, depth: patterns.depth().unwrap_or(MAX_DEPTH), found, notes: Vec::new() };
    for base in patterns.bases() {
        let folder = real.join(&base);
        // The part of a glob before its wildcards may not exist yet: no file matches.
        let Ok(folder) = folder.canonicalize() else { continue };
        if !folder.starts_with(&real) {
            walk.notes.push(format!("{base} is a link that leads out of the root; it was left out"));
        } else if base.is_empty() {
            std::fs::read_dir(&folder).map_err(failed).map(|_| walk.folder(&folder, ""))?;
        } else {
            walk.folder(&folder, &base);
        }
    }
    Ok(walk.notes)
}

struct Walk<'a> {
    root: &'a Path,
    patterns: &'a Patterns,
    depth: usize,
    found: &'a mut dyn FnMut(FileRef),
    notes: Vec<String>,
}

impl Walk<'_> {
    /// `prefix` is the path of the folder relative to the root: empty, or with a `/` at its end.
    fn folder(&mut self, folder: &Path, prefix: &str) {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(e) => return self.note(prefix, &e.to_string()),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) => {
                    self.note(prefix, &e.to_string());
                    continue;
                }
            };
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                self.note(prefix, &format!("the name {:?} is not UTF-8", name.to_string_lossy()));
                continue;
            };
            let path = format!("{prefix}{name}");
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => {
                    if prefix.matches('/').count() < self.depth.min(MAX_DEPTH) {
                        self.folder(&entry.path(), &format!("{path}/"));
                    }
                }
                Ok(_) if self.patterns.matches(&path) => self.file(&entry.path(), path),
                Ok(_) => {}
                Err(e) => self.note(&path, &e.to_string()),
            }
        }
    }

    fn file(&mut self, full: &Path, path: String) {
        let real = match full.canonicalize() {
            Ok(real) => real,
            // It went away since the folder was read, or is a link to nothing.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
            Err(e) => return self.note(&path, &e.to_string()),
        };
        if !real.starts_with(self.root) {
            return self.note(&path, "it is a link that leads out of the root");
        }
        match real.metadata() {
            Ok(meta) if meta.is_file() => {
                (self.found)(FileRef { path, size: meta.len(), modified: modified(&meta), etag: None });
            }
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => self.note(&path, &e.to_string()),
        }
    }

    fn note(&mut self, path: &str, text: &str) {
        // A person reads the first few; the count of the others is no news.
        if self.notes.len() < 100 {
            let place = if path.is_empty() { "the root" } else { path };
            self.notes.push(format!("{place} was left out: {text}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(root: &Path, glob: &str) -> (Vec<String>, Vec<String>) {
        let patterns = Patterns::new(&[glob.to_owned()]).expect("glob");
        let mut paths = Vec::new();
        let notes = walk(root, &patterns, &mut |file| paths.push(file.path)).expect("walk");
        paths.sort();
        (paths, notes)
    }

    #[test]
    fn matches_are_found_at_their_depth() {
        let dir = tempfile::tempdir().expect("dir");
        for path in ["a.csv", "in/b.csv", "in/deep/c.csv", "in/d.txt"] {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            std::fs::write(path, "x").expect("write");
        }
        assert_eq!(listed(dir.path(), "*.csv").0, ["a.csv"]);
        assert_eq!(listed(dir.path(), "in/*.csv").0, ["in/b.csv"]);
        assert_eq!(listed(dir.path(), "**/*.csv").0, ["a.csv", "in/b.csv", "in/deep/c.csv"]);
        assert_eq!(listed(dir.path(), "nowhere/*.csv").0, Vec::<String>::new());
        assert_eq!(listed(dir.path(), "in/b.csv").0, ["in/b.csv"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_do_not_lead_out_of_the_root() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().expect("dir");
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("sub")).expect("mkdir");
        std::fs::write(dir.path().join("secret.csv"), "x").expect("write");
        std::fs::write(root.join("inside.csv"), "x").expect("write");
        std::os::unix::fs::symlink("../secret.csv", root.join("out.csv")).expect("link");
        std::os::unix::fs::symlink("inside.csv", root.join("same.csv")).expect("link");
        std::os::unix::fs::symlink("..", root.join("sub/up")).expect("link");
        std::os::unix::fs::symlink("/", root.join("all")).expect("link");
        std::fs::write(root.join(std::ffi::OsStr::from_bytes(b"\xff.csv")), "x").expect("write");
        let (paths, notes) = listed(&root, "**/*.csv");
        assert_eq!(paths, ["inside.csv", "same.csv"]);
        assert!(notes.iter().any(|n| n.contains("out.csv") && n.contains("leads out")), "{notes:?}");
        assert!(notes.iter().any(|n| n.contains("not UTF-8")), "{notes:?}");
    }

    #[test]
    fn a_root_that_does_not_exist_is_named() {
        let patterns = Patterns::new(&["*".to_owned()]).expect("glob");
        let error = walk(Path::new("/nowhere/at/all"), &patterns, &mut |_| {}).expect_err("missing");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }
}
