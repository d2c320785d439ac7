//! Listing folders of the server. Blocking.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};

use ingest_core::{CancellationToken, Error, ErrorKind, Result};
use ingest_files::{FileRef, Patterns};

use crate::control::{Control, broken};
use crate::facts::{self, Entry, Kind};
use crate::line::Line;

/// Folders within folders that are followed at most.
const MAX_DEPTH: usize = 64;
/// Folders that wait for their turn at most: a server whose links go in circles must not fill the memory.
const MOST_FOLDERS: usize = 200_000;
/// The longest line of a listing.
const LONGEST: u64 = 64 << 10;

/// Walks the folders in which matches can lie. What cannot be listed or addressed is said in the texts that come back.
///
/// A folder is read to its end before another one is begun, since a connection does one thing at a time; the files in it
/// are shown as they come, the folders in it are remembered.
pub fn walk(
    control: &mut Control,
    patterns: &Patterns,
    cancel: &CancellationToken,
    found: &mut dyn FnMut(FileRef),
) -> Result<Vec<String>> {
    let mut walk =
        Walk { control, patterns, cancel, depth: patterns.depth().unwrap_or(MAX_DEPTH), found, notes: Vec::new() };
    if let Some(literals) = patterns.literals() {
        for path in literals {
            if let Some(file) = look(walk.control, &path)? {
                (walk.found)(file);
            }
        }
        return Ok(walk.notes);
    }
    for base in patterns.bases() {
        let above = walk.called(&base)?;
        walk.all(Folder { prefix: base, above, depth: 0 })?;
    }
    Ok(walk.notes)
}

/// Reads a line of a listing.
type Parse = fn(&str) -> Option<Entry>;

/// A folder whose turn comes.
struct Folder {
    /// Relative to the root: empty, or with a `/` at its end.
    prefix: String,
    /// What the server calls the folders above it and itself.
    above: Vec<String>,
    /// Folders between it and the one that the listing began with.
    depth: usize,
}

struct Walk<'a> {
    control: &'a mut Control,
    patterns: &'a Patterns,
    cancel: &'a CancellationToken,
    depth: usize,
    found: &'a mut dyn FnMut(FileRef),
    notes: Vec<String>,
}

impl Walk<'_> {
    /// Where a folder is on the server.
    fn at(&self, prefix: &str) -> String {
        match prefix.trim_end_matches('/') {
            "" => self.control.root.clone(),
            path => self.control.full(path),
        }
    }

    /// What the server calls a folder, if it has names of its own for them: a folder of that name below it is the same.
    fn called(&mut self, prefix: &str) -> Result<Vec<String>> {
        if !self.control.lists_facts {
            return Ok(Vec::new());
        }
        let answer = self.control.ask(&format!("MLST {}", self.at(prefix)))?;
        let facts = answer.text.lines().find_map(|line| facts::of_facts(line.strip_prefix(' ')?));
        Ok(facts.and_then(|entry| entry.unique).into_iter().filter(|_| answer.code == 250).collect())
    }

    fn all(&mut self, base: Folder) -> Result<()> {
        let mut waiting = VecDeque::from([base]);
        while let Some(folder) = waiting.pop_back() {
            if self.cancel.is_cancelled() {
                return Err(Error::cancelled());
            }
            self.folder(&folder, &mut waiting)?;
            if waiting.len() > MOST_FOLDERS {
                return Err(Error::new(ErrorKind::LimitExceeded, "the server has too many folders to list")
                    .with("folders", waiting.len())
                    .hint("links of the server may go in circles; name narrower globs under `files`"));
            }
        }
        Ok(())
    }

    fn folder(&mut self, folder: &Folder, waiting: &mut VecDeque<Folder>) -> Result<()> {
        let at = self.at(&folder.prefix);
        let answer = self.control.ask(&format!("CWD {at}"))?;
        if !answer.is_good() {
            if folder.prefix.is_empty() {
                return Err(answer.refused("cannot list the folder").with("path", at));
            }
            // The part of a glob before its wildcards may not exist yet: no file matches.
            if folder.depth > 0 || answer.code != 550 {
                self.note(&folder.prefix, answer.text.trim());
            }
            return Ok(());
        }
        let mut listing = None;
        if self.control.lists_facts {
            match self.control.transfer(0, "MLSD")? {
                Err(answer) if matches!(answer.code, 500..=504) => self.control.lists_facts = false,
                begun => listing = Some((begun, facts::of_facts as Parse)),
            }
        }
        let (begun, parse) = match listing {
            Some(listing) => listing,
            None => (self.control.transfer(0, "LIST")?, facts::of_list as Parse),
        };
        match begun {
            Ok(data) => {
                let unclear = self.entries(data, folder, waiting, parse)?;
                unclear.into_iter().try_for_each(|path| self.ask(&path))
            }
            Err(answer) => self.refused(folder, &answer),
        }
    }

    fn refused(&mut self, folder: &Folder, answer: &crate::control::Answer) -> Result<()> {
        match answer.code {
            // Nothing there; some servers say so in place of sending nothing.
            226 | 250 => Ok(()),
            450 | 550 => {
                self.note(&folder.prefix, answer.text.trim());
                Ok(())
            }
            _ => Err(answer.refused("cannot list a folder of the server").with("folder", &folder.prefix)),
        }
    }

    /// Takes the entries of a folder, and gives back the files about which only a question tells enough.
    fn entries(
        &mut self,
        data: Line,
        folder: &Folder,
        waiting: &mut VecDeque<Folder>,
        parse: Parse,
    ) -> Result<Vec<String>> {
        let mut unclear = Vec::new();
        let mut data = BufReader::new(data);
        let mut line = Vec::new();
        // The folder itself may say what the server calls it.
        let mut above = folder.above.clone();
        loop {
            line.clear();
            let count = (&mut data)
                .take(LONGEST)
                .read_until(b'\n', &mut line)
                .map_err(|e| broken(&e, "the server stopped sending a listing"))?;
            if count == 0 {
                break;
            }
            if count as u64 == LONGEST {
                return Err(Error::new(ErrorKind::LimitExceeded, "the server sends a listing with an endless line"));
            }
            let Ok(text) = std::str::from_utf8(&line) else {
                self.note(
                    &folder.prefix,
                    &format!("the name {:?} is not UTF-8", String::from_utf8_lossy(&line).trim_end()),
                );
                continue;
            };
            let Some(entry) = parse(text.trim_end_matches(['\r', '\n'])) else { continue };
            if entry.kind == Kind::Other && entry.name == "." {
                above.extend(entry.unique.clone());
            }
            self.entry(entry, folder, &above, waiting, &mut unclear);
        }
        // Some servers say that they are done only once the connection is closed from here as well.
        let mut data = data.into_inner();
        data.close();
        drop(data);
        let answer = self.control.answer()?;
        if answer.is_good() { Ok(unclear) } else { Err(answer.refused("cannot list a folder of the server")) }
    }

    fn entry(
        &mut self,
        entry: Entry,
        folder: &Folder,
        above: &[String],
        waiting: &mut VecDeque<Folder>,
        unclear: &mut Vec<String>,
    ) {
        if entry.kind == Kind::Other || matches!(entry.name.as_str(), "." | "..") {
            return;
        }
        // A name is one part of a path, whatever the server says; one with a control character cannot be asked for.
        if entry.name.contains('/') || entry.name.chars().any(char::is_control) {
            return self.note(&folder.prefix, &format!("the name {:?} cannot be addressed", entry.name));
        }
        let path = format!("{}{}", folder.prefix, entry.name);
        match (entry.kind, entry.size, entry.modified) {
            (Kind::Folder, ..) => {
                let is_circle = entry.unique.as_ref().is_some_and(|unique| above.contains(unique));
                if folder.prefix.matches('/').count() < self.depth.min(MAX_DEPTH) && !is_circle {
                    let above = above.iter().cloned().chain(entry.unique).collect();
                    waiting.push_back(Folder { prefix: format!("{path}/"), above, depth: folder.depth + 1 });
                }
            }
            (Kind::File, Some(size), Some(modified)) if self.patterns.matches(&path) => {
                (self.found)(FileRef { path, size, modified, etag: None });
            }
            _ if self.patterns.matches(&path) => unclear.push(path),
            _ => {}
        }
    }

    /// Asks about a file.
    fn ask(&mut self, path: &str) -> Result<()> {
        if let Some(file) = look(self.control, path)? {
            (self.found)(file);
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

/// What the server says about a file now; `None` = it is no file that can be read. Servers without `MDTM` tell no time,
/// then a file is known by its size alone.
pub fn look(control: &mut Control, path: &str) -> Result<Option<FileRef>> {
    let full = control.full(path);
    let size = control.ask(&format!("SIZE {full}"))?;
    let bytes = size.text.trim().parse().ok().filter(|_| size.code == 213);
    let Some(size) = bytes else { return Ok(None) };
    let time = control.ask(&format!("MDTM {full}"))?;
    let modified = facts::time(&time.text).filter(|_| time.code == 213).unwrap_or(0);
    Ok(Some(FileRef { path: path.to_owned(), size, modified, etag: None }))
}
