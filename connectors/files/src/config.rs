//! The configuration of a files source.

use std::collections::BTreeMap;

use globset::{GlobBuilder, GlobMatcher};
use ingest_core::config::{ByteSize, Span};
use ingest_core::{Error, JsonSchema, Result, Secret};
use serde::{Deserialize, Serialize};

use crate::types::ColumnType;

/// Reads files of a folder or an object store.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct FilesConfig {
    /// The root: a folder (`/data/in`, `./in`), or a URL: `s3://bucket/prefix`, `gs://bucket/prefix`,
    /// `az://container/prefix` (with `account`), `https://host/path`.
    pub path: String,
    /// The streams by name. Left out or `{}`: each file directly under the root is a stream named by its stem, and so is
    /// each folder there whose files are all of one format.
    pub files: BTreeMap<String, FileStream>,

    /// A record (a line, an element of an array) larger than this goes to quarantine. Default: 64MiB.
    pub max_record: ByteSize,
    /// A compressed file that grows to more than this many times its size is refused. Default: 200.
    pub max_ratio: u64,
    /// A file that decompresses to more than this is refused. Default: 1024GiB.
    pub max_decompressed: ByteSize,

    /// Region of the bucket (`s3://`). Default: `AWS_REGION`, else us-east-1.
    pub region: Option<String>,
    /// Base URL of the object store, for stores that speak the protocol of another: MinIO, Ceph, R2, an emulator.
    pub endpoint: Option<String>,
    /// Access key (`s3://`). Default: `AWS_ACCESS_KEY_ID`, else the role of the machine.
    pub access_key_id: Option<Secret>,
    /// Secret key (`s3://`).
    pub secret_access_key: Option<Secret>,
    /// Session token of temporary keys (`s3://`).
    pub session_token: Option<Secret>,
    /// Requests are not signed: public buckets. Default: false.
    pub anonymous: bool,
    /// Service account (`gs://`): the JSON text of its key. Default: application default credentials.
    pub service_account_key: Option<Secret>,
    /// Storage account (`az://`). Default: `AZURE_STORAGE_ACCOUNT_NAME`.
    pub account: Option<String>,
    /// Key of the storage account (`az://`).
    pub account_key: Option<Secret>,
    /// Shared access signature (`az://`): the query text of a SAS URL; listing needs a signature of the container.
    pub sas_token: Option<Secret>,
    /// Allows `http://` to other hosts than this machine. Anyone on the way can read and change everything.
    pub danger_plaintext: bool,
}

impl Default for FilesConfig {
    fn default() -> Self {
        Self {
            path: String::new(),
            files: BTreeMap::new(),
            max_record: ByteSize(64 << 20),
            max_ratio: 200,
            max_decompressed: ByteSize(1 << 40),
            region: None,
            endpoint: None,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            anonymous: false,
            service_account_key: None,
            account: None,
            account_key: None,
            sas_token: None,
            danger_plaintext: false,
        }
    }
}

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
    /// Default: `utf-8`.
    pub encoding: Option<String>,
    /// Texts that stand for null (csv, tsv). Default: the empty text.
    pub null_values: Vec<String>,
    /// Default: what the first bytes say.
    pub compression: Compression,
    /// Where the records of a JSON document are: `data.items`; `.` = the document itself is one record. Left out: an
    /// array gives its elements; an object gives the array in its only member, or in the only one of its members named
    /// data, items, records, results, rows or value; else it is one record.
    pub records: Option<String>,
    /// A file younger than this is left for the next run. Default: 0s.
    pub settle: Span,
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
            settle: Span::seconds(0),
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

/// A stream whose options were checked.
#[derive(Debug, Clone)]
pub(crate) struct StreamOptions {
    pub name: String,
    pub format: Format,
    pub patterns: Patterns,
    pub types: BTreeMap<String, ColumnType>,
    pub delimiter: u8,
    pub header: bool,
    pub quote: Option<u8>,
    pub encoding: Option<&'static encoding_rs::Encoding>,
    pub null_values: Vec<String>,
    pub compression: Compression,
    pub records: Option<Vec<String>>,
    pub settle: Span,
    pub on_change: OnChange,
    pub sample_bytes: u64,
}

/// Globs, relative to the root.
#[derive(Debug, Clone)]
pub(crate) struct Patterns {
    globs: Vec<(String, GlobMatcher)>,
    only: Option<Format>,
}

impl Patterns {
    /// Compiles globs.
    pub fn new(globs: &[String]) -> Result<Self, String> {
        let compile = |glob: &String| {
            let mut text = glob.trim_start_matches("./").to_owned();
            if text.ends_with('/') {
                text.push_str("**");
            }
            if text.is_empty() || text.starts_with('/') || text.split('/').any(|part| part == "..") {
                return Err(format!("\"{glob}\" is not a path below the root"));
            }
            let matcher = GlobBuilder::new(&text).literal_separator(true).build().map_err(|e| e.to_string())?;
            Ok((text, matcher.compile_matcher()))
        };
        globs.iter().map(compile).collect::<Result<_, _>>().map(|globs| Self { globs, only: None })
    }

    /// Takes only names whose ending tells this format.
    pub fn only(mut self, format: Format) -> Self {
        self.only = Some(format);
        self
    }

    /// Whether a file belongs here: a glob matches it, and no part that a wildcard stands for has the name of a file
    /// that is hidden or still being written.
    pub fn matches(&self, path: &str) -> bool {
        self.only.is_none_or(|format| Format::of_name(path) == Some(format))
            && self.globs.iter().any(|(glob, matcher)| {
                let fixed = base(glob);
                matcher.is_match(path)
                    && (!has_wildcard(glob)
                        || path.get(fixed.len()..).is_some_and(|rest| !rest.split('/').any(is_unfinished)))
            })
    }

    /// The folders below which matches can lie, without those that lie in another one; `""` = the root.
    pub fn bases(&self) -> Vec<String> {
        let mut bases: Vec<String> = self.globs.iter().map(|(glob, _)| base(glob).to_owned()).collect();
        bases.sort();
        bases.dedup();
        let all = bases.clone();
        bases.retain(|b| !all.iter().any(|other| other != b && is_below(b, other)));
        bases
    }

    /// The paths themselves, where no glob has a wildcard.
    pub fn literals(&self) -> Option<Vec<&str>> {
        self.globs.iter().map(|(glob, _)| (!has_wildcard(glob)).then_some(glob.as_str())).collect()
    }

    /// How many folders below the root a match can lie; `None` = any number.
    pub fn depth(&self) -> Option<usize> {
        let depth = |glob: &str| (!glob.contains("**") && !glob.contains('{')).then(|| glob.matches('/').count());
        self.globs.iter().map(|(glob, _)| depth(glob)).try_fold(0, |deepest, d| d.map(|d| deepest.max(d)))
    }
}

fn has_wildcard(glob: &str) -> bool {
    glob.contains(['*', '?', '[', '{', '\\'])
}

/// The part of a glob before its first wildcard, up to and with the last `/`.
fn base(glob: &str) -> &str {
    let fixed = glob.find(['*', '?', '[', '{', '\\']).unwrap_or(glob.len());
    glob.get(..glob.get(..fixed).and_then(|head| head.rfind('/')).map_or(0, |slash| slash + 1)).unwrap_or("")
}

fn is_below(path: &str, folder: &str) -> bool {
    folder.is_empty() || path.starts_with(folder)
}

/// Whether a name is that of a hidden file or of one that is still being written.
pub(crate) fn is_unfinished(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    name.starts_with(['.', '_', '~'])
        || name.ends_with('~')
        || [".tmp", ".temp", ".part", ".partial", ".filepart", ".crdownload", ".download", ".swp", ".inprogress"]
            .iter()
            .any(|ending| lower.ends_with(ending))
}

impl FilesConfig {
    /// Checks everything at once.
    ///
    /// # Errors
    /// `ConfigInvalid` that names every wrong key.
    pub(crate) fn streams(&self) -> Result<Vec<StreamOptions>> {
        let mut wrong = Vec::new();
        if self.path.trim().is_empty() {
            wrong.push("path: is missing; give a folder or a URL such as s3://bucket/prefix".to_owned());
        }
        let mut streams = Vec::new();
        for (name, stream) in &self.files {
            match stream.resolve(name, std::slice::from_ref(&stream.path)) {
                Ok(options) => streams.push(options),
                Err(problems) => wrong.extend(problems.into_iter().map(|p| format!("files.{name}.{p}"))),
            }
        }
        if wrong.is_empty() {
            return Ok(streams);
        }
        Err(Error::config(format!("invalid configuration: {}", wrong.join("; ")))
            .hint("`ingest connectors files` explains every field"))
    }
}

impl FileStream {
    /// Checks the options of a stream; every problem begins with its key.
    pub(crate) fn resolve(&self, name: &str, globs: &[String]) -> Result<StreamOptions, Vec<String>> {
        let mut wrong = Vec::new();
        let mut note = |key: &str, problem: String| wrong.push(format!("{key}: {problem}"));
        let patterns = Patterns::new(globs).map_err(|e| note("path", e)).ok();
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
        let records = self.records.as_deref().map(|path| {
            let path = path.trim_start_matches('$').trim_matches('.').trim_end_matches("[*]");
            path.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect()
        });
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
                settle: self.settle,
                on_change: self.on_change,
                sample_bytes: self.sample_bytes.0.clamp(4 << 10, 256 << 20),
            }),
            _ => Err(wrong),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(globs: &[&str]) -> Patterns {
        Patterns::new(&globs.iter().map(|g| (*g).to_owned()).collect::<Vec<_>>()).expect("globs")
    }

    #[test]
    fn globs_match_whole_paths_and_pass_over_unfinished_names() {
        let orders = patterns(&["in/orders/*.csv"]);
        assert!(orders.matches("in/orders/1.csv"));
        for path in
            ["in/orders/a/1.csv", "in/orders/.1.csv", "in/orders/_1.csv", "in/orders/1.csv.part", "orders/1.csv"]
        {
            assert!(!orders.matches(path), "{path}");
        }
        assert!(patterns(&["in/**/*.csv"]).matches("in/a/b/1.csv"));
        assert!(!patterns(&["in/**/*.csv"]).matches("in/_temporary/1.csv"));
        assert!(patterns(&["_exports/*.csv"]).matches("_exports/1.csv"), "a part that was written out is wanted");
        assert!(patterns(&["{a,b}/[0-9].csv"]).matches("b/7.csv"));
    }

    #[test]
    fn bases_are_the_shortest_folders() {
        assert_eq!(patterns(&["in/orders/*.csv", "in/**"]).bases(), ["in/"]);
        assert_eq!(patterns(&["*.csv"]).bases(), [""]);
        assert_eq!(patterns(&["a/b.csv"]).literals(), Some(vec!["a/b.csv"]));
        assert_eq!(patterns(&["a/*/b.csv"]).depth(), Some(2));
        assert_eq!(patterns(&["a/**/b.csv"]).depth(), None);
    }

    #[test]
    fn globs_that_leave_the_root_are_refused() {
        for glob in ["../x", "/etc/*", "", "a/../../b"] {
            assert!(Patterns::new(&[glob.to_owned()]).is_err(), "{glob}");
        }
    }

    #[test]
    fn the_ending_tells_the_format_also_under_a_compression() {
        assert_eq!(Format::of_name("a/b.CSV.gz"), Some(Format::Csv));
        assert_eq!(Format::of_name("x.jsonl"), Some(Format::Ndjson));
        assert_eq!(Format::of_name("csv"), None);
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let config: FilesConfig = serde_json::from_value(serde_json::json!({
            "files": {"a": {"path": "a.bin"}, "b": {"path": "../b.csv", "delimiter": "||", "encoding": "klingon"}}
        }))
        .expect("config");
        let error = config.streams().expect_err("wrong").to_string();
        for part in ["path: is missing", "files.a.format", "files.b.path", "files.b.delimiter", "files.b.encoding"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn no_secret_is_printed() {
        let config: FilesConfig = serde_json::from_value(serde_json::json!({
            "path": "s3://b", "access_key_id": "canary1", "secret_access_key": "canary2", "sas_token": "canary3"
        }))
        .expect("config");
        assert!(!format!("{config:?}").contains("canary"));
    }
}
