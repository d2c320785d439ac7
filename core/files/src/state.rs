//! What a slice says, where it has been read to, and which files were read before.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};

use arrow_schema::DataType;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ingest_core::Cursor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::store::FileRef;

/// The position that names the files of a stream that were read.
pub const FILES: &str = "files";

/// Files that are kept one by one. About 15 bytes of JSON each, so that a position stays below 1 MiB.
const MOST: usize = 50_000;
/// How many stay when there are more.
const KEPT: usize = 40_000;

/// A part of a plan: some files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Work {
    /// In the order in which they are read.
    pub files: Vec<Planned>,
    /// The columns that are wanted, without `_source_file`.
    pub columns: Vec<(String, DataType)>,
    /// Whether these are all columns: then what has no column is rescued. Else nothing but these was asked for.
    pub all: bool,
    /// The columns of the stream that were not asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unwanted: Vec<String>,
    /// Whether `_source_file` is wanted.
    pub source_file: bool,
    /// What a person should know about the listing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A file of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// The file as it was listed.
    #[serde(flatten)]
    pub file: FileRef,
    /// Whether rows of it may be in the table, which must go first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
}

/// A position of this connector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// Which files were read; under the id [`FILES`].
    Seen(Seen),
    /// A place in a slice. The last one of a slice with files that could not be read stays, under the slice's id.
    At(At),
}

impl Cursor for Position {}

/// A place in a slice: all files before number `file` are done, and of that one all before `offset`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct At {
    /// Number of the file in the slice.
    pub file: usize,
    /// Where to go on in it; zero = at its start.
    #[serde(default, skip_serializing_if = "Inside::is_start")]
    pub inside: Inside,
    /// The files before it that were not read: damaged, or still changing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
}

/// A place between two records of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inside {
    /// Bytes before it, decompressed, in UTF-8.
    pub offset: u64,
    /// Lines before it.
    pub line: u64,
}

impl Inside {
    /// Whether it is the start of the file.
    pub fn is_start(&self) -> bool {
        self.offset == 0
    }
}

/// What is known about a file from earlier runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Never read.
    New,
    /// Read as it is.
    Same,
    /// Read when it was another.
    Changed,
    /// It was planned and not read, or not to its end.
    Unread,
}

/// The files that were read.
///
/// Each is two numbers: a hash of its path (64 bits), and one of path, size and etag, or modification time where there
/// is no etag (32 bits). A new file is taken for a read one with a chance of 2^-96 times the number of files, a changed
/// one with 2^-32; two live paths share a hash with n^2/2^65.
///
/// Up to 50,000 files are kept one by one, so that neither the order nor the times of arrival matter. Beyond that, those
/// with the oldest modification times are replaced by one border `(modified, path)`: what lies before it counts as read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Path hash to content hash; 0 = to be read again.
    #[serde(serialize_with = "packed", deserialize_with = "unpacked")]
    entries: BTreeMap<u64, u32>,
    /// Files before this count as read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    border: Option<(i64, String)>,
}

impl Seen {
    /// What is known about a file.
    pub fn of(&self, file: &FileRef) -> Known {
        match self.entries.get(&path_hash(&file.path)) {
            Some(0) => Known::Unread,
            Some(id) if *id == content_hash(file) => Known::Same,
            Some(_) => Known::Changed,
            None if self.is_before_border(file) => Known::Same,
            None => Known::New,
        }
    }

    /// Whether rows of an unknown file may be in the table: its entry may have been given up.
    pub fn has_border(&self) -> bool {
        self.border.is_some()
    }

    fn is_before_border(&self, file: &FileRef) -> bool {
        self.border.as_ref().is_some_and(|(time, path)| (file.modified, &file.path) < (*time, path))
    }

    /// Says that a file was read.
    pub fn add(&mut self, file: &FileRef) {
        self.entries.insert(path_hash(&file.path), content_hash(file));
    }

    /// Says that a file is to be read again, whatever it looks like.
    pub fn take_back(&mut self, path: &str) {
        self.entries.insert(path_hash(path), 0);
    }

    /// Gives entries up until the position is small enough: first those of files that are gone, then the oldest.
    ///
    /// `live`: the files that the listing showed and that are known.
    pub fn shrink(&mut self, live: Live) {
        if self.entries.len() <= MOST {
            return;
        }
        self.entries.retain(|hash, id| *id == 0 || live.hashes.contains(hash));
        if self.entries.len() <= MOST {
            return;
        }
        let kept: HashSet<u64> = live.newest.iter().map(|Reverse((_, path))| path_hash(path)).collect();
        self.entries.retain(|hash, id| *id == 0 || kept.contains(hash));
        let border = live.newest.into_iter().map(|Reverse(file)| file).min();
        self.border = border.max(self.border.take());
    }
}

/// The known files that a listing showed: hashes of all, times and names of the newest alone.
#[derive(Debug, Default)]
pub struct Live {
    hashes: HashSet<u64>,
    newest: BinaryHeap<Reverse<(i64, String)>>,
}

impl Live {
    /// Takes note of a file.
    pub fn saw(&mut self, file: &FileRef) {
        self.hashes.insert(path_hash(&file.path));
        if self.newest.len() < KEPT {
            self.newest.push(Reverse((file.modified, file.path.clone())));
        } else if let Some(mut oldest) = self.newest.peek_mut()
            && (oldest.0.0, &oldest.0.1) < (file.modified, &file.path)
        {
            *oldest = Reverse((file.modified, file.path.clone()));
        }
    }
}

/// The number under which a path is remembered.
pub fn path_hash(path: &str) -> u64 {
    let digest = Sha256::digest(path.as_bytes());
    digest.first_chunk().map_or(0, |head| u64::from_be_bytes(*head))
}

/// Never 0, which stands for a file that is to be read again.
fn content_hash(file: &FileRef) -> u32 {
    let mut hash = Sha256::new();
    hash.update(file.path.as_bytes());
    hash.update([0]);
    hash.update(file.size.to_be_bytes());
    match &file.etag {
        Some(etag) => hash.update(etag.as_bytes()),
        None => hash.update(file.modified.to_be_bytes()),
    }
    hash.finalize().first_chunk().map_or(1, |head| u32::from_be_bytes(*head).max(1))
}

/// The entries as base64: the path hashes as differences in LEB128, each followed by four bytes of content hash.
fn packed<S: Serializer>(entries: &BTreeMap<u64, u32>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut bytes = Vec::with_capacity(entries.len() * 12);
    let mut last = 0;
    for (hash, id) in entries {
        let mut step = hash.wrapping_sub(last);
        last = *hash;
        while step >= 0x80 {
            bytes.push((step & 0x7f) as u8 | 0x80);
            step >>= 7;
        }
        bytes.push(step as u8);
        bytes.extend_from_slice(&id.to_be_bytes());
    }
    serializer.serialize_str(&STANDARD_NO_PAD.encode(bytes))
}

fn unpacked<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<u64, u32>, D::Error> {
    use serde::de::Error;
    let text = String::deserialize(deserializer)?;
    let bytes = STANDARD_NO_PAD.decode(text).map_err(D::Error::custom)?;
    let cut = || D::Error::custom("the list of files is cut short");
    let (mut rest, mut last, mut entries) = (bytes.as_slice(), 0_u64, BTreeMap::new());
    while !rest.is_empty() {
        let (mut step, mut shift) = (0_u64, 0);
        loop {
            let (byte, tail) = rest.split_first().ok_or_else(cut)?;
            rest = tail;
            step |= u64::from(byte & 0x7f).checked_shl(shift).ok_or_else(cut)?;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let (id, tail) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        rest = tail;
        last = last.wrapping_add(step);
        entries.insert(last, u32::from_be_bytes(*id));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, size: u64, modified: i64) -> FileRef {
        FileRef { path: path.into(), size, modified, etag: None }
    }

    fn stored(seen: &Seen) -> (Seen, usize) {
        let text = serde_json::to_string(&Position::Seen(seen.clone())).expect("json");
        match serde_json::from_str(&text).expect("read back") {
            Position::Seen(seen) => (seen, text.len()),
            Position::At(_) => unreachable!("wrote Seen"),
        }
    }

    #[test]
    fn a_file_is_known_by_name_size_and_time() {
        let mut seen = Seen::default();
        let one = file("a", 1, 5);
        assert_eq!(seen.of(&one), Known::New);
        seen.add(&one);
        let (mut seen, _) = stored(&seen);
        assert_eq!(seen.of(&one), Known::Same);
        assert_eq!(seen.of(&file("a", 2, 5)), Known::Changed);
        assert_eq!(seen.of(&file("a", 1, 6)), Known::Changed);
        assert_eq!(seen.of(&file("b", 1, 5)), Known::New, "late files with old times are new");
        seen.take_back("a");
        assert_eq!(stored(&seen).0.of(&one), Known::Unread);
        let tagged = |etag: &str, modified| FileRef { etag: Some(etag.into()), ..file("t", 1, modified) };
        seen.add(&tagged("x", 1));
        assert_eq!(seen.of(&tagged("x", 2)), Known::Same, "an etag says more than a time");
        assert_eq!(seen.of(&tagged("y", 1)), Known::Changed);
    }

    #[test]
    fn a_million_files_fit_into_a_position_and_none_counts_as_new() {
        let mut seen = Seen::default();
        let files: Vec<FileRef> = (0..200_000).map(|i| file(&format!("in/{i}.csv"), 1, i / 7)).collect();
        for part in files.chunks(100_000) {
            part.iter().for_each(|f| seen.add(f));
            let mut live = Live::default();
            files.iter().filter(|f| seen.of(f) != Known::New).for_each(|f| live.saw(f));
            seen.shrink(live);
        }
        let (seen, bytes) = stored(&seen);
        assert!(bytes < 1 << 20, "{bytes} bytes");
        assert!(seen.entries.len() <= MOST);
        assert!(files.iter().all(|f| seen.of(f) == Known::Same));
        let newest = file("in/late.csv", 1, 200_000 / 7 - 1);
        assert_eq!(seen.of(&newest), Known::New, "late files behind the border are still seen");
    }

    #[test]
    fn entries_of_files_that_are_gone_go_first() {
        let mut seen = Seen::default();
        (0..MOST as i64 + 1).for_each(|i| seen.add(&file(&format!("gone/{i}"), 1, i)));
        let live = file("live", 1, 0);
        seen.add(&live);
        let mut listed = Live::default();
        listed.saw(&live);
        seen.shrink(listed);
        assert_eq!(seen.entries.len(), 1);
        assert_eq!(seen.of(&live), Known::Same);
        assert_eq!(seen.of(&file("new", 1, 0)), Known::New);
    }

    #[test]
    fn a_damaged_position_is_refused() {
        for text in
            ["{\"seen\":{\"entries\":\"/w\"}}", "{\"seen\":{\"entries\":\"!\"}}", "{\"seen\":{\"entries\":\"AAA\"}}"]
        {
            assert!(serde_json::from_str::<Position>(text).is_err(), "{text}");
        }
    }
}
