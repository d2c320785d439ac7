//! The options of a stream of files, as a configuration writes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use ingest_core::JsonSchema;
use ingest_core::config::{ByteSize, Span};
use serde::{Deserialize, Serialize};

use crate::formats::fixed::Place;
use crate::patterns::{Marker, Patterns};
use crate::types::ColumnType;

/// A set of files that are one table.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct FileStream {
    /// Which files, relative to the root: `orders/*.csv`. `*` and `?` stop at `/`, `**` does not; `{a,b}` and `[0-9]` work.
    /// `orders/` = `orders/**`. Names that begin with `.`, `_` or `~` and those of uploads under way (`*.tmp`, `*.part`, …) are passed over.
    pub path: String,
    /// The format. Left out, the ending of the names tells.
    pub format: Option<Format>,
    /// Types of columns by name; they win over what the files look like.
    pub types: BTreeMap<String, ColumnType>,
    /// One character between fields. Default: `,` for csv, a tab for tsv.
    pub delimiter: Option<String>,
    /// Whether the first line names the columns. Without it they are `column_1`, `column_2`, …. Default: true.
    pub header: bool,
    /// The character around fields that hold delimiters or line breaks; doubled, it stands for itself. Default: `"`.
    /// An empty text switches quoting off.
    pub quote: Option<String>,
    /// Encoding of text files, by its WHATWG label: `windows-1252`, `utf-16le`, `shift_jis`. A byte order mark wins.
    /// Default: what an XML document declares, else `utf-8`.
    pub encoding: Option<String>,
    /// Texts that stand for null (csv, tsv, fixed, excel, xml). Default: the empty text.
    pub null_values: Vec<String>,
    /// Default: what the first bytes say.
    pub compression: Compression,
    /// Where the records of a JSON document are: `data.items`; `.` = the document itself is one record. Left out: an
    /// array gives its elements; an object gives the array in its only member, or in the only one of its members named
    /// data, items, records, results, rows or value; else it is one record. Of an XML document, the elements that are its
    /// records, from the root on: `orders/order`. Left out, they are those inside the root, which must have one name.
    pub records: Option<String>,
    /// Elements of a record that are lists also where there is one of them (xml), from the record on: `[line, line/tax]`.
    pub lists: Vec<String>,
    /// Where the columns of each line are (fixed): `{id: 1-8, name: 9-38, note: 39-}`, counted in characters from 1.
    pub positions: BTreeMap<String, String>,
    /// The sheet (excel), by its name, or by its number from 1. Default: the first.
    pub sheet: Option<String>,
    /// Lines, or rows of the sheet, before the header or the first record (fixed, excel). Default: 0.
    pub skip: u64,
    /// Globs of files that are left out, relative to the root.
    pub exclude: Vec<String>,
    /// A file counts once another one beside it says that it is whole: `{name}.done` (`a.csv.done`), `{stem}.ctl` (`a.ctl`)
    /// or one for a folder, `_SUCCESS`. Default: none is needed.
    pub marker: Option<String>,
    /// A file younger than this is left for the next run. Default: 0s; on servers to which files are uploaded (`sftp`,
    /// `ftp`) 60s.
    pub settle: Option<Span>,
    /// What to do with a file that was read and has changed since.
    pub on_change: OnChange,
    /// How much of each sampled file is looked at to find columns and types, decompressed. Default: 1MiB.
    pub sample_bytes: ByteSize,
}

impl Default for FileStream {
    fn default() -> Self {
        Self {
            path: String::new(),
            format: None,
            types: BTreeMap::new(),
            delimiter: None,
            header: true,
            quote: None,
            encoding: None,
            null_values: vec![String::new()],
            compression: Compression::Auto,
            records: None,
            lists: Vec::new(),
            positions: BTreeMap::new(),
            sheet: None,
            skip: 0,
            exclude: Vec::new(),
            marker: None,
            settle: None,
            on_change: OnChange::Replace,
            sample_bytes: ByteSize(1 << 20),
        }
    }
}

/// How the bytes of a file are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Fields with commas between them.
    Csv,
    /// Fields with tabs between them.
    Tsv,
    /// One JSON document: an array of objects, an object, or an object around an array.
    Json,
    /// One JSON object a line.
    Ndjson,
    /// Apache Parquet.
    Parquet,
    /// Avro object container files.
    Avro,
    /// Text whose fields stand at fixed `positions` of each line.
    Fixed,
    /// A `sheet` of an Excel workbook (`.xlsx`, `.xlsm`).
    Excel,
    /// One XML document with `records` in it.
    Xml,
}

impl Format {
    /// The format that a file name claims, looking through one ending of a compression.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let name = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
        let name = [".gz", ".gzip", ".zst", ".zstd", ".bz2"].iter().find_map(|e| name.strip_suffix(e)).unwrap_or(&name);
        match name.rsplit_once('.')?.1 {
            "csv" => Some(Self::Csv),
            "tsv" | "tab" => Some(Self::Tsv),
            "json" => Some(Self::Json),
            "ndjson" | "jsonl" | "jsonlines" => Some(Self::Ndjson),
            "parquet" | "pq" => Some(Self::Parquet),
            "avro" => Some(Self::Avro),
            "xlsx" | "xlsm" => Some(Self::Excel),
            "xml" => Some(Self::Xml),
            _ => None,
        }
    }

    /// Whether a record is a stretch of text that can be skipped without losing its neighbours.
    pub(crate) fn is_lines(self) -> bool {
        matches!(self, Self::Csv | Self::Tsv | Self::Ndjson)
    }
}

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// By its first bytes.
    #[default]
    Auto,
    /// Not at all.
    None,
    /// gzip, also several members one after another.
    Gzip,
    /// zstd, also several frames.
    Zstd,
    /// bzip2, also several streams.
    Bzip2,
}

/// What to do with a file that was read and has changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnChange {
    /// Its rows of before are removed in the commit that brings the new ones.
    #[default]
    Replace,
    /// Its rows are added to those of before.
    Append,
    /// It is not read again.
    Ignore,
    /// The stream fails.
    Fail,
}

/// What becomes of a file whose rows are committed, on servers to which files are uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AfterCommit {
    /// It stays where it is.
    #[default]
    Keep,
    /// It is moved to the folder `archive`.
    Archive,
    /// It is deleted.
    Delete,
}

impl AfterCommit {
    /// What holds for the streams of a server to which files are uploaded.
    ///
    /// # Errors
    /// What is wrong with the name of the archive.
    pub fn defaults(self, archive: &str) -> Result<Defaults, String> {
        let mut defaults = Defaults { settle: Span::seconds(60), exclude: Vec::new() };
        if self == Self::Archive {
            let folder = archive.trim_end_matches('/');
            if folder.is_empty()
                || folder.split('/').any(|part| matches!(part, "" | "." | ".."))
                || folder.contains('\0')
            {
                return Err(format!("archive: \"{archive}\" is not a folder below the root"));
            }
            defaults.exclude.push(format!("{}/**", globset::escape(folder)));
        }
        Ok(defaults)
    }
}

/// What holds where a stream says nothing else.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// A file younger than this is left for the next run.
    pub settle: Span,
    /// Globs of files that belong to no stream: where read files are put.
    pub exclude: Vec<String>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { settle: Span::seconds(0), exclude: Vec::new() }
    }
}

/// Checks the streams of a configuration, `files` in it; every problem begins with its key.
///
/// # Errors
/// All problems.
pub fn streams(
    files: &BTreeMap<String, FileStream>,
    defaults: &Defaults,
) -> Result<Vec<Arc<StreamOptions>>, Vec<String>> {
    let (mut streams, mut wrong) = (Vec::new(), Vec::new());
    for (name, stream) in files {
        match stream.resolve(name, std::slice::from_ref(&stream.path), defaults) {
            Ok(options) => streams.push(Arc::new(options)),
            Err(problems) => wrong.extend(problems.into_iter().map(|p| format!("files.{name}.{p}"))),
        }
    }
    if wrong.is_empty() { Ok(streams) } else { Err(wrong) }
}

/// A stream whose options were checked.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    pub(crate) name: String,
    pub(crate) format: Format,
    pub(crate) patterns: Patterns,
    pub(crate) types: BTreeMap<String, ColumnType>,
    pub(crate) delimiter: u8,
    pub(crate) header: bool,
    pub(crate) quote: Option<u8>,
    pub(crate) encoding: Option<&'static encoding_rs::Encoding>,
    pub(crate) null_values: Vec<String>,
    pub(crate) compression: Compression,
    pub(crate) records: Option<Vec<String>>,
    pub(crate) lists: Vec<Vec<String>>,
    pub(crate) positions: Vec<Place>,
    pub(crate) sheet: Option<String>,
    pub(crate) skip: u64,
    pub(crate) settle: Span,
    pub(crate) on_change: OnChange,
    pub(crate) sample_bytes: u64,
}

impl FileStream {
    /// Checks the options of a stream; every problem begins with its key.
    pub(crate) fn resolve(
        &self,
        name: &str,
        globs: &[String],
        defaults: &Defaults,
    ) -> Result<StreamOptions, Vec<String>> {
        let mut wrong = Vec::new();
        let mut note = |key: &str, problem: String| wrong.push(format!("{key}: {problem}"));
        let mut patterns = Patterns::new(globs).map_err(|e| note("path", e)).ok();
        let marker = self.marker.as_deref().map(Marker::new).transpose().unwrap_or_else(|e| {
            note("marker", e);
            None
        });
        let exclude: Vec<String> = self.exclude.iter().chain(&defaults.exclude).cloned().collect();
        patterns = patterns.and_then(|patterns| {
            patterns.without(&exclude).map(|p| p.marked(marker)).map_err(|e| note("exclude", e)).ok()
        });
        let format = self.format.or_else(|| globs.first().and_then(|glob| Format::of_name(glob)));
        if format.is_none() {
            note("format", "is missing, and the ending of `path` does not tell it".to_owned());
        }
        let mut one_byte = |key: &str, text: &Option<String>, default: u8| match text.as_deref() {
            None => default,
            Some("\\t") => b'\t',
            Some(text) => match text.as_bytes() {
                [byte] if byte.is_ascii() && !matches!(byte, b'\r' | b'\n') => *byte,
                _ => {
                    wrong.push(format!("{key}: must be one ASCII character"));
                    default
                }
            },
        };
        let delimiter = if format == Some(Format::Tsv) { b'\t' } else { b',' };
        let delimiter = one_byte("delimiter", &self.delimiter, delimiter);
        let quote = match self.quote.as_deref() {
            Some("") => None,
            _ => Some(one_byte("quote", &self.quote, b'"')),
        };
        if quote == Some(delimiter) {
            wrong.push("quote: is also the delimiter".to_owned());
        }
        let encoding = self.encoding.as_deref().and_then(|label| {
            let encoding = encoding_rs::Encoding::for_label(label.as_bytes());
            if encoding.is_none() {
                wrong.push(format!("encoding: \"{label}\" is not known; write e.g. utf-8, windows-1252, utf-16le"));
            }
            encoding
        });
        let records = self.records.as_deref().map(|path| match format {
            Some(Format::Xml) => elements(path),
            _ => {
                let path = path.trim_start_matches('$').trim_matches('.').trim_end_matches("[*]");
                path.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect()
            }
        });
        let positions = self.places(format, &mut wrong);
        match (patterns, format, wrong.is_empty()) {
            (Some(patterns), Some(format), true) => Ok(StreamOptions {
                name: name.to_owned(),
                format,
                patterns,
                types: self.types.clone(),
                delimiter,
                header: self.header,
                quote,
                encoding: encoding.filter(|e| *e != encoding_rs::UTF_8),
                null_values: self.null_values.clone(),
                compression: self.compression,
                records,
                lists: self.lists.iter().map(|path| elements(path)).collect(),
                positions,
                sheet: self.sheet.clone(),
                skip: self.skip,
                settle: self.settle.unwrap_or(defaults.settle),
                on_change: self.on_change,
                sample_bytes: self.sample_bytes.0.clamp(4 << 10, 256 << 20),
            }),
            _ => Err(wrong),
        }
    }

    /// The places of the columns in the order of a line, and what is said of formats that this one is not.
    fn places(&self, format: Option<Format>, wrong: &mut Vec<String>) -> Vec<Place> {
        let mut places = Vec::new();
        for (name, text) in &self.positions {
            match Place::parse(name, text) {
                Ok(place) => places.push(place),
                Err(problem) => wrong.push(format!("positions.{name}: {problem}")),
            }
        }
        places.sort_by_key(|place| *place.range.start());
        let own = [
            ("positions", !self.positions.is_empty(), format == Some(Format::Fixed)),
            ("sheet", self.sheet.is_some(), format == Some(Format::Excel)),
            ("lists", !self.lists.is_empty(), format == Some(Format::Xml)),
            ("skip", self.skip > 0, matches!(format, Some(Format::Fixed | Format::Excel))),
        ];
        wrong.extend(own.into_iter().filter(|(_, given, fits)| *given && !fits).map(|(key, ..)| match key {
            "positions" => "positions: is for `format: fixed`".to_owned(),
            "sheet" => "sheet: is for `format: excel`".to_owned(),
            "lists" => "lists: is for `format: xml`".to_owned(),
            key => format!("{key}: is for `format: fixed` and `excel`"),
        }));
        if format == Some(Format::Fixed) && self.positions.is_empty() {
            wrong.push("positions: is missing; write e.g. {id: 1-8, name: 9-38}".to_owned());
        }
        places
    }
}

/// The names of elements on a path, without their prefixes; `.` is the place itself.
fn elements(path: &str) -> Vec<String> {
    let parts = path.split('/').map(|part| part.rsplit(':').next().unwrap_or(part).trim());
    parts.filter(|part| !matches!(*part, "" | ".")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_tells_the_format_also_under_a_compression() {
        assert_eq!(Format::of_name("a/b.CSV.gz"), Some(Format::Csv));
        assert_eq!(Format::of_name("x.jsonl"), Some(Format::Ndjson));
        assert_eq!(Format::of_name("csv"), None);
    }
}
