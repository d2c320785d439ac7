//! Canonical extended JSON: every BSON value as text from which exactly that value can be read again.
//!
//! Facts: the MongoDB specification "Extended JSON", version 2.1.

use bson::raw::{RawArray, RawBsonRef, RawDocument};
use bson::{Bson, Document, Timestamp};
use ingest_core::{Error, ErrorKind, Json, Result};

/// Levels of documents and arrays within each other. A server takes 100.
const MOST_LEVELS: usize = 200;

/// What of a document cannot be read.
pub(crate) fn unreadable(cause: bson::error::Error) -> Error {
    Error::new(ErrorKind::DataInvalid, "a document is not well-formed BSON").caused_by(cause)
}

/// The text of a value.
///
/// # Errors
/// `DataInvalid` for bytes that are no BSON, and for documents within documents beyond any that a server takes.
pub(crate) fn text(value: RawBsonRef<'_>) -> Result<String> {
    let mut out = Vec::with_capacity(32);
    write(value, &mut out, 0)?;
    finished(out)
}

/// The text of a whole document.
///
/// # Errors
/// As [`text`].
pub(crate) fn document(value: &RawDocument) -> Result<String> {
    text(RawBsonRef::Document(value))
}

/// Adds `"name":value` to an object that is being written, with what comes before it.
pub(crate) fn member(name: &str, value: RawBsonRef<'_>, out: &mut Vec<u8>) -> Result<()> {
    out.push(if out.is_empty() { b'{' } else { b',' });
    string(name, out)?;
    out.push(b':');
    write(value, out, 0)
}

/// Text that was written here.
pub(crate) fn finished(out: Vec<u8>) -> Result<String> {
    String::from_utf8(out).map_err(|e| Error::unexpected("extended JSON is not UTF-8").caused_by(e))
}

/// The key under which [`key`] keeps a document.
const ORDERED: &str = "document";

/// A value of `_id` or of a cursor as it is kept in positions. JSON objects have no order, but documents that are compared do: they are
/// kept as text.
///
/// # Errors
/// As [`text`].
pub(crate) fn key(value: RawBsonRef<'_>) -> Result<Json> {
    match value {
        RawBsonRef::Document(document) => Ok(serde_json::json!({ ORDERED: self::document(document)? })),
        value => json(value),
    }
}

/// A token as it is kept in positions.
///
/// # Errors
/// As [`text`].
pub(crate) fn json(value: RawBsonRef<'_>) -> Result<Json> {
    serde_json::from_str(&text(value)?).map_err(|e| Error::unexpected("extended JSON cannot be read back").caused_by(e))
}

/// The value of a position, or of a configuration.
///
/// # Errors
/// `CheckpointInvalid` where it is none.
pub(crate) fn value(json: &Json) -> Result<Bson> {
    let invalid = || {
        Error::new(ErrorKind::CheckpointInvalid, "a stored value is no extended JSON")
            .hint("`ingest state reset` forgets the position, then the stream is loaded again")
    };
    match json.get(ORDERED).and_then(Json::as_str) {
        Some(text) => serde_json::from_str(text).map_err(|e| invalid().caused_by(e)),
        None => Bson::try_from(json.clone()).map_err(|e| invalid().caused_by(e)),
    }
}

/// A document in a configuration: `where` of a stream.
///
/// # Errors
/// `ConfigInvalid` where it is none.
pub(crate) fn filter(text: &str) -> Result<Document> {
    let wrong = || {
        Error::config("`where` is no query in extended JSON")
            .hint(r#"write e.g. where: '{"status": "paid", "total": {"$gte": 10}}'"#)
    };
    match serde_json::from_str(text) {
        Ok(Bson::Document(document)) => Ok(document),
        Ok(_) => Err(wrong()),
        Err(e) => Err(wrong().caused_by(e)),
    }
}

fn write(value: RawBsonRef<'_>, out: &mut Vec<u8>, level: usize) -> Result<()> {
    if level > MOST_LEVELS {
        return Err(Error::new(ErrorKind::DataInvalid, "a document holds too many documents within each other")
            .with("levels", MOST_LEVELS));
    }
    match value {
        RawBsonRef::String(text) => string(text, out)?,
        RawBsonRef::Document(document) => members(document, out, level)?,
        RawBsonRef::Array(array) => elements(array, out, level)?,
        RawBsonRef::Boolean(flag) => out.extend_from_slice(if flag { b"true" } else { b"false" }),
        RawBsonRef::Null => out.extend_from_slice(b"null"),
        RawBsonRef::Int32(number) => wrapped("$numberInt", &number.to_string(), out),
        RawBsonRef::Int64(number) => wrapped("$numberLong", &number.to_string(), out),
        RawBsonRef::Double(number) => wrapped("$numberDouble", &double(number), out),
        RawBsonRef::Decimal128(number) => wrapped("$numberDecimal", &number.to_string(), out),
        RawBsonRef::ObjectId(id) => wrapped("$oid", &id.to_hex(), out),
        RawBsonRef::DateTime(time) => {
            out.extend_from_slice(b"{\"$date\":");
            wrapped("$numberLong", &time.timestamp_millis().to_string(), out);
            out.push(b'}');
        }
        RawBsonRef::Timestamp(Timestamp { time, increment }) => {
            out.extend_from_slice(format!(r#"{{"$timestamp":{{"t":{time},"i":{increment}}}}}"#).as_bytes());
        }
        RawBsonRef::RegularExpression(regex) => {
            out.extend_from_slice(br#"{"$regularExpression":{"pattern":"#);
            string(regex.pattern.as_str(), out)?;
            out.extend_from_slice(br#","options":"#);
            string(regex.options.as_str(), out)?;
            out.extend_from_slice(b"}}");
        }
        // The rare ones.
        other => {
            let owned = Bson::try_from(other).map_err(unreadable)?;
            serde_json::to_writer(&mut *out, &owned.into_canonical_extjson()).map_err(unwritable)?;
        }
    }
    Ok(())
}

/// A double in the fewest digits that give it back.
fn double(number: f64) -> String {
    match number {
        _ if number.is_nan() => "NaN".into(),
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        _ => format!("{number:?}"),
    }
}

/// `{"$numberLong":"7"}`: neither part needs escapes.
fn wrapped(key: &str, text: &str, out: &mut Vec<u8>) {
    for part in ["{\"", key, "\":\"", text, "\"}"] {
        out.extend_from_slice(part.as_bytes());
    }
}

fn members(document: &RawDocument, out: &mut Vec<u8>, level: usize) -> Result<()> {
    out.push(b'{');
    for (i, member) in document.iter().enumerate() {
        let (name, value) = member.map_err(unreadable)?;
        if i > 0 {
            out.push(b',');
        }
        string(name.as_str(), out)?;
        out.push(b':');
        write(value, out, level + 1)?;
    }
    out.push(b'}');
    Ok(())
}

fn elements(array: &RawArray, out: &mut Vec<u8>, level: usize) -> Result<()> {
    out.push(b'[');
    for (i, element) in array.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(element.map_err(unreadable)?, out, level + 1)?;
    }
    out.push(b']');
    Ok(())
}

fn string(text: &str, out: &mut Vec<u8>) -> Result<()> {
    serde_json::to_writer(&mut *out, text).map_err(unwritable)
}

fn unwritable(cause: serde_json::Error) -> Error {
    Error::unexpected("cannot write extended JSON").caused_by(cause)
}

#[cfg(test)]
mod tests {
    use bson::oid::ObjectId;
    use bson::raw::RawDocumentBuf;
    use bson::spec::BinarySubtype;
    use bson::{Binary, DateTime, Decimal128, JavaScriptCodeWithScope, Regex, doc};

    use super::*;

    fn raw(document: &Document) -> RawDocumentBuf {
        RawDocumentBuf::try_from(document).expect("BSON")
    }

    #[test]
    fn every_type_reads_back_as_it_was() {
        let decimal: Decimal128 = "-1234567890123456789012345678.9E-10".parse().expect("a decimal");
        let all = doc! {
            "double": 0.1, "large": 1e300, "whole": 3.0, "minus": -0.0, "infinite": f64::NEG_INFINITY,
            "text": "quotes \" and \\ and \u{0} and é", "nested": {"a": [1, {"b": null}], "": true}, "int": i32::MIN,
            "long": i64::MAX, "decimal": decimal, "oid": ObjectId::from_bytes([7; 12]), "date": DateTime::MIN, "late": DateTime::MAX,
            "binary": Binary { subtype: BinarySubtype::Generic, bytes: vec![0, 255] },
            "uuid": Binary { subtype: BinarySubtype::Uuid, bytes: vec![1; 16] },
            "old": Binary { subtype: BinarySubtype::UserDefined(0x99), bytes: Vec::new() },
            "regex": Bson::RegularExpression(Regex { pattern: bson::raw::CString::try_from("^a/\"b").expect("no zero"), options: bson::raw::CString::try_from("i").expect("no zero") }),
            "stamp": Timestamp { time: 4_000_000_000, increment: 7 }, "min": Bson::MinKey, "max": Bson::MaxKey,
            "code": Bson::JavaScriptCode("f()".into()), "symbol": Bson::Symbol("s".into()), "undefined": Bson::Undefined,
            "scoped": JavaScriptCodeWithScope { code: "g()".into(), scope: doc! { "x": 1_i64 } },
        };
        let written = json(RawBsonRef::Document(&raw(&all))).expect("readable");
        assert_eq!(value(&written).expect("extended JSON"), Bson::Document(all.clone()));
        // As a key, in its order too.
        let kept = key(RawBsonRef::Document(&raw(&all))).expect("readable");
        let read = value(&kept).expect("extended JSON");
        assert_eq!(
            bson::serialize_to_vec(&doc! { "k": read }).expect("BSON"),
            bson::serialize_to_vec(&doc! { "k": all }).expect("BSON")
        );
    }

    #[test]
    fn a_double_that_is_no_number_is_named() {
        let document = raw(&doc! { "a": f64::NAN });
        assert_eq!(super::document(&document).expect("text"), r#"{"a":{"$numberDouble":"NaN"}}"#);
    }

    #[test]
    fn documents_within_each_other_without_end_are_refused() {
        let mut inner = doc! {};
        for _ in 0..=MOST_LEVELS {
            inner = doc! { "a": inner };
        }
        assert_eq!(super::document(&raw(&inner)).expect_err("too deep").kind(), ErrorKind::DataInvalid);
    }

    #[test]
    fn a_filter_is_a_document() {
        assert_eq!(filter(r#"{"n": {"$gt": 1}}"#).expect("a filter"), doc! { "n": { "$gt": 1 } });
        for wrong in ["[]", "status = 'paid'", ""] {
            assert_eq!(filter(wrong).expect_err("no query").kind(), ErrorKind::ConfigInvalid, "{wrong}");
        }
    }
}
