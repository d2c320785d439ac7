//! One event of a change stream.
//!
//! Facts: the specification "Change Streams"; `ns` and `to` name a collection, `documentKey` holds `_id` and on sharded collections the
//! shard key, `fullDocument` is null where the document is gone when it is looked up.

use bson::raw::{RawBsonRef, RawDocument};
use ingest_core::{Error, ErrorKind, Json, Result};

use crate::extended;
use crate::server::number;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happened {
    Inserted,
    Updated,
    Deleted,
    /// The collection is gone, and all of its documents.
    Dropped,
    /// It has another name now, or another one has its name.
    Renamed,
    /// The server ends the stream.
    Invalidated,
    /// Something that changes no document, or that is not known yet.
    Other,
}

/// One event.
pub(crate) struct Event<'a> {
    pub(crate) happened: Happened,
    pub(crate) token: &'a RawDocument,
    /// The time of the cluster.
    pub(crate) time: u64,
    /// Database and collection.
    pub(crate) place: Option<(&'a str, &'a str)>,
    /// The new name.
    pub(crate) to: Option<(&'a str, &'a str)>,
    /// The document after the change.
    pub(crate) document: Option<&'a RawDocument>,
    /// The document before it.
    pub(crate) before: Option<&'a RawDocument>,
    pub(crate) key: Option<&'a RawDocument>,
}

impl<'a> Event<'a> {
    /// Takes an event apart.
    ///
    /// # Errors
    /// `DataInvalid` for what is no event.
    pub(crate) fn parse(event: &'a RawDocument) -> Result<Self> {
        let (mut operation, mut token, mut time) = (None, None, None);
        let (mut place, mut to, mut document, mut before, mut key) = (None, None, None, None, None);
        for member in event.iter() {
            let (name, value) = member.map_err(extended::unreadable)?;
            match (name.as_str(), value) {
                ("_id", RawBsonRef::Document(value)) => token = Some(value),
                ("operationType", RawBsonRef::String(value)) => operation = Some(value),
                ("clusterTime", RawBsonRef::Timestamp(value)) => time = Some(number(value)),
                ("ns", RawBsonRef::Document(value)) => place = collection(value),
                ("to", RawBsonRef::Document(value)) => to = collection(value),
                ("fullDocument", RawBsonRef::Document(value)) => document = Some(value),
                ("fullDocumentBeforeChange", RawBsonRef::Document(value)) => before = Some(value),
                ("documentKey", RawBsonRef::Document(value)) => key = Some(value),
                _ => {}
            }
        }
        let lacks = |what| {
            Error::new(ErrorKind::DataInvalid, "cdc: the server gives an event that lacks a part").with("part", what)
        };
        let happened = match operation.ok_or_else(|| lacks("operationType"))? {
            "insert" => Happened::Inserted,
            "update" | "replace" => Happened::Updated,
            "delete" => Happened::Deleted,
            "drop" => Happened::Dropped,
            "rename" => Happened::Renamed,
            "invalidate" => Happened::Invalidated,
            // The collections of a database that is dropped have an event each; others are of no concern here.
            _ => Happened::Other,
        };
        let token = token.ok_or_else(|| lacks("_id"))?;
        let time = time.ok_or_else(|| lacks("clusterTime"))?;
        Ok(Self { happened, token, time, place, to, document, before, key })
    }
}

fn collection(place: &RawDocument) -> Option<(&str, &str)> {
    Some((place.get_str("db").ok()?, place.get_str("coll").ok()?))
}

/// The time that a token begins with, where it can be seen: `_data` is hexadecimal, a type and eight bytes of time. It decides only whether
/// the end of the log is reached; a token is never compared.
pub(crate) fn time_of(token: &Json) -> Option<u64> {
    let digits = token.get("_data")?.as_str()?.strip_prefix("82")?.get(..16)?;
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use bson::raw::RawDocumentBuf;
    use bson::{Bson, Timestamp, doc};

    use super::*;

    #[test]
    fn an_event_is_taken_apart_and_unknown_ones_are_let_pass() {
        let stamp = Timestamp { time: 2, increment: 3 };
        let event = doc! { "_id": {"_data": "82"}, "operationType": "update", "clusterTime": stamp, "ns": {"db": "d", "coll": "c"},
        "documentKey": {"_id": 1}, "fullDocument": Bson::Null, "unknown": 7 };
        let raw = RawDocumentBuf::try_from(&event).expect("BSON");
        let parsed = Event::parse(&raw).expect("an event");
        assert_eq!((parsed.happened, parsed.time, parsed.place), (Happened::Updated, (2 << 32) + 3, Some(("d", "c"))));
        assert!(parsed.document.is_none() && parsed.key.is_some());
        let other =
            RawDocumentBuf::try_from(&doc! { "_id": {}, "operationType": "reshardCollection", "clusterTime": stamp })
                .expect("BSON");
        assert_eq!(Event::parse(&other).expect("an event").happened, Happened::Other);
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for wrong in [
            doc! {},
            doc! { "_id": {}, "operationType": "insert" },
            doc! { "operationType": "insert", "clusterTime": 7 },
        ] {
            let raw = RawDocumentBuf::try_from(&wrong).expect("BSON");
            assert_eq!(Event::parse(&raw).err().expect("no event").kind(), ErrorKind::DataInvalid, "{wrong}");
        }
    }

    #[test]
    fn the_time_of_a_token_is_seen_where_it_can_be() {
        assert_eq!(time_of(&serde_json::json!({"_data": "8200000002000000032B04"})), Some((2 << 32) + 3));
        for odd in [serde_json::json!({"_data": "82é"}), serde_json::json!({"_data": "81"}), serde_json::json!("x")] {
            assert_eq!(time_of(&odd), None);
        }
    }
}
