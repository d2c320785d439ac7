//! Which streams there are: those of the configuration, or those that the folder shows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use ingest_core::{Error, ErrorKind, Result};

use crate::options::{Defaults, FileStream, Format, StreamOptions};
use crate::patterns::Patterns;
use crate::store::Store;

/// Streams, and what a person should know about files that belong to none.
#[derive(Debug, Default)]
pub struct Discovered {
    /// The streams.
    pub streams: Vec<Arc<StreamOptions>>,
    /// What was left out.
    pub notes: Vec<String>,
}

/// The files of a name that is to be a stream.
#[derive(Debug, Default)]
struct Candidate {
    formats: BTreeSet<Format>,
    globs: BTreeSet<String>,
}

/// Makes a stream of each file directly under the root, and of each folder there.
pub async fn discover(store: &dyn Store, defaults: &Defaults) -> Result<Discovered> {
    let everything = Patterns::new(&["**".to_owned()])
        .and_then(|patterns| patterns.without(&defaults.exclude))
        .map_err(Error::unexpected)?;
    let candidates: Arc<Mutex<BTreeMap<String, Candidate>>> = Arc::default();
    let collected = candidates.clone();
    let mut notes = store
        .list(
            &everything,
            Box::new(move |file| {
                let mut candidates = collected.lock().unwrap_or_else(PoisonError::into_inner);
                let format = Format::of_name(&file.path);
                let (name, glob) = match (file.path.split_once('/'), format) {
                    (Some((folder, _)), _) => (folder.to_owned(), format!("{}/**", globset::escape(folder))),
                    (None, Some(_)) => (stem(&file.path).to_owned(), globset::escape(&file.path)),
                    (None, None) => return,
                };
                let candidate = candidates.entry(name).or_default();
                candidate.globs.insert(glob);
                candidate.formats.extend(format);
            }),
        )
        .await?;
    let candidates = std::mem::take(&mut *candidates.lock().unwrap_or_else(PoisonError::into_inner));
    let mut streams = Vec::new();
    for (name, candidate) in candidates {
        let formats: Vec<Format> = candidate.formats.into_iter().collect();
        let globs: Vec<String> = candidate.globs.into_iter().collect();
        match formats.as_slice() {
            [] => {}
            [format] => streams.push(Arc::new(of(&name, *format, &globs, defaults)?)),
            _ if globs.iter().any(|glob| !glob.ends_with("/**")) => {
                return Err(Error::new(ErrorKind::ConfigInvalid, "files of one name have different formats")
                    .with("name", &name)
                    .hint("name the streams under `files`, each with the path of its files"));
            }
            _ => {
                notes.push(format!("the folder {name} holds files of several formats; name its streams under `files`"))
            }
        }
    }
    Ok(Discovered { streams, notes })
}

/// The options of a stream that no configuration names.
pub fn of(name: &str, format: Format, globs: &[String], defaults: &Defaults) -> Result<StreamOptions> {
    let stream = FileStream { format: Some(format), ..FileStream::default() };
    let mut options = stream
        .resolve(name, globs, defaults)
        .map_err(|problems| Error::config(format!("cannot make a stream of {name}: {}", problems.join("; "))))?;
    options.patterns = options.patterns.only(format);
    Ok(options)
}

/// The name of a file without the endings of its format and compression.
fn stem(name: &str) -> &str {
    let mut stem = name;
    while let Some((shorter, _)) = stem.rsplit_once('.').filter(|(shorter, _)| !shorter.is_empty()) {
        stem = shorter;
        if Format::of_name(name).is_some() && Format::of_name(stem).is_none() {
            break;
        }
    }
    stem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stems_lose_format_and_compression() {
        assert_eq!(stem("orders.csv"), "orders");
        assert_eq!(stem("orders.csv.gz"), "orders");
        assert_eq!(stem("orders.2025.csv"), "orders.2025");
        assert_eq!(stem("a.b.ndjson.zst"), "a.b");
    }
}
