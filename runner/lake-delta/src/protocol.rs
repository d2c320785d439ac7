//! Which tables this crate writes to: ours, and others' as far as it can keep their promises.
//!
//! Source: the Delta protocol, "Writer Version Requirements" and "Valid Feature Names in Table Features".

use ingest_core::{Error, ErrorKind, Result};

use crate::action::{Metadata, Protocol};
use crate::schema::StructType;

/// Reader features that change nothing for this crate's reader, or that it refuses file by file.
const READER: [&str; 4] = ["timestampNtz", "deletionVectors", "v2Checkpoint", "vacuumProtocolCheck"];

/// Writer features that this crate keeps: by doing nothing, or by refusing where the table makes use of them
/// ([`check_use`]).
const WRITER: [&str; 11] = [
    "appendOnly",
    "invariants",
    "checkConstraints",
    "generatedColumns",
    "changeDataFeed",
    "columnMapping",
    "identityColumns",
    "timestampNtz",
    "deletionVectors",
    "v2Checkpoint",
    "vacuumProtocolCheck",
];

/// The protocol of a new table: the oldest that its columns allow.
pub(crate) fn protocol_for(ntz: bool) -> Protocol {
    let plain = Protocol { min_reader_version: 1, min_writer_version: 2, reader_features: None, writer_features: None };
    if ntz { with_timestamp_ntz(&plain) } else { plain }
}

/// The protocol with the feature of timestamps without a zone.
///
/// A table that takes up feature lists must list what its old version numbers stood for.
pub(crate) fn with_timestamp_ntz(protocol: &Protocol) -> Protocol {
    let mut reader = protocol.reader_features.clone().unwrap_or_default();
    let mut writer = protocol.writer_features.clone().unwrap_or_default();
    if protocol.min_reader_version == 2 {
        reader.push("columnMapping".into());
    }
    if protocol.min_writer_version < 7 {
        let by_version: [(i32, &[&str]); 5] = [
            (2, &["appendOnly", "invariants"]),
            (3, &["checkConstraints"]),
            (4, &["changeDataFeed", "generatedColumns"]),
            (5, &["columnMapping"]),
            (6, &["identityColumns"]),
        ];
        for (version, features) in by_version {
            if protocol.min_writer_version >= version {
                writer.extend(features.iter().map(ToString::to_string));
            }
        }
    }
    for features in [&mut reader, &mut writer] {
        if !features.iter().any(|f| f == "timestampNtz") {
            features.push("timestampNtz".into());
        }
    }
    Protocol {
        min_reader_version: 3,
        min_writer_version: 7,
        reader_features: Some(reader),
        writer_features: Some(writer),
    }
}

fn unsupported(what: &str, which: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unsupported, format!("cannot {what}: it needs a Delta feature that is not built in"))
        .with("feature", which)
        .hint("load into a new table, or drop the feature from this one with the tool that set it")
}

/// Whether the table's data files can be read.
pub(crate) fn check_readable(protocol: &Protocol, metadata: &Metadata) -> Result<()> {
    if protocol.min_reader_version > 3 {
        return Err(unsupported("read the table", format!("reader version {}", protocol.min_reader_version)));
    }
    if let Some(feature) = unknown(protocol.reader_features.as_deref(), &READER, &["columnMapping"]) {
        return Err(unsupported("read the table", feature));
    }
    check_column_mapping(metadata, "read the table")
}

/// Whether rows can be added to the table; with `rewrites`, whether files can be removed and rewritten as well.
pub(crate) fn check_writable(
    protocol: &Protocol,
    metadata: &Metadata,
    schema: &StructType,
    rewrites: bool,
) -> Result<()> {
    check_readable(protocol, metadata)?;
    let what = "write to the table";
    if protocol.min_writer_version > 7 {
        return Err(unsupported(what, format!("writer version {}", protocol.min_writer_version)));
    }
    if let Some(feature) = unknown(protocol.writer_features.as_deref(), &WRITER, &[]) {
        return Err(unsupported(what, feature));
    }
    check_use(metadata, schema, rewrites)
}

fn unknown<'a>(features: Option<&'a [String]>, known: &[&str], also: &[&str]) -> Option<&'a str> {
    features?.iter().map(String::as_str).find(|f| !known.contains(f) && !also.contains(f))
}

fn check_column_mapping(metadata: &Metadata, what: &str) -> Result<()> {
    match metadata.property("delta.columnMapping.mode") {
        None | Some("none") => Ok(()),
        Some(_) => Err(unsupported(what, "columnMapping")),
    }
}

/// Features that a table may carry without making use of them.
fn check_use(metadata: &Metadata, schema: &StructType, rewrites: bool) -> Result<()> {
    let what = "write to the table";
    let on = |key: &str| metadata.property(key).is_some_and(|v| v.eq_ignore_ascii_case("true"));
    if metadata.configuration.keys().any(|k| k.starts_with("delta.constraints.")) {
        return Err(unsupported(what, "checkConstraints"));
    }
    if rewrites && on("delta.enableChangeDataFeed") {
        return Err(unsupported("remove rows from the table", "changeDataFeed"));
    }
    if rewrites && on("delta.appendOnly") {
        return Err(Error::new(ErrorKind::Unsupported, "cannot remove rows: the table is append-only")
            .hint("set `write: append` for the stream, or unset the table's property delta.appendOnly"));
    }
    let mut used = None;
    schema.visit(&mut |field| {
        for (key, feature) in [
            ("delta.invariants", "invariants"),
            ("delta.generationExpression", "generatedColumns"),
            ("delta.identity.start", "identityColumns"),
        ] {
            if field.metadata.contains_key(key) {
                used.get_or_insert((feature, field.name.clone()));
            }
        }
    });
    match used {
        Some((feature, column)) => Err(unsupported(what, feature).with("column", column)),
        None => Ok(()),
    }
}
