//! Queries over ranges of `_id` and of cursors.
//!
//! Comparisons of a server see values of one class alone: `{_id: {$gt: ObjectId(…)}}` gives no document whose `_id` is a text, although
//! all have a place in one order. So ranges belong to a class.

use bson::raw::RawBsonRef;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Document, Timestamp, doc};
use ingest_core::Result;
use serde::{Deserialize, Serialize};

use crate::extended;
use crate::rows::ID;
use crate::server::timestamp;
use crate::work::{FeedPosition, Part, Position, Window, Work};

/// Types whose values are compared with each other, in the order in which the server sorts them. `_id` can have no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Class {
    MinKey,
    Null,
    Number,
    Text,
    Document,
    Binary,
    ObjectId,
    Boolean,
    Date,
    Timestamp,
    MaxKey,
}

impl Class {
    pub(crate) const ALL: [Self; 11] = [
        Self::MinKey,
        Self::Null,
        Self::Number,
        Self::Text,
        Self::Document,
        Self::Binary,
        Self::ObjectId,
        Self::Boolean,
        Self::Date,
        Self::Timestamp,
        Self::MaxKey,
    ];

    /// The class of a value; `None` for those that `_id` cannot have.
    pub(crate) fn of(value: RawBsonRef<'_>) -> Option<Self> {
        Some(match value {
            RawBsonRef::MinKey => Self::MinKey,
            RawBsonRef::Null | RawBsonRef::Undefined => Self::Null,
            RawBsonRef::Int32(_) | RawBsonRef::Int64(_) | RawBsonRef::Double(_) | RawBsonRef::Decimal128(_) => {
                Self::Number
            }
            RawBsonRef::String(_) | RawBsonRef::Symbol(_) => Self::Text,
            RawBsonRef::Document(_) => Self::Document,
            RawBsonRef::Binary(_) => Self::Binary,
            RawBsonRef::ObjectId(_) => Self::ObjectId,
            RawBsonRef::Boolean(_) => Self::Boolean,
            RawBsonRef::DateTime(_) => Self::Date,
            RawBsonRef::Timestamp(_) => Self::Timestamp,
            RawBsonRef::MaxKey => Self::MaxKey,
            _ => return None,
        })
    }

    /// Whether it has values enough to be cut.
    pub(crate) fn is_large(self) -> bool {
        !matches!(self, Self::MinKey | Self::Null | Self::Boolean | Self::MaxKey)
    }

    /// What all of its values meet, and no other.
    fn all(self) -> Document {
        let least = match self {
            // NaN is below every number, and above none.
            Self::Number => return doc! { "$type": "number" },
            Self::MinKey => return doc! { "$type": "minKey" },
            Self::MaxKey => return doc! { "$type": "maxKey" },
            Self::Null => return doc! { "$eq": Bson::Null },
            Self::Text => Bson::String(String::new()),
            Self::Document => Bson::Document(doc! {}),
            Self::Binary => Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: Vec::new() }),
            Self::ObjectId => Bson::ObjectId(bson::oid::ObjectId::from_bytes([0; 12])),
            Self::Boolean => Bson::Boolean(false),
            Self::Date => Bson::DateTime(DateTime::MIN),
            Self::Timestamp => Bson::Timestamp(Timestamp { time: 0, increment: 0 }),
        };
        doc! { "$gte": least }
    }

    /// The condition on `_id` for `after < _id <= upto`, in this class.
    pub(crate) fn range(self, after: Option<Bson>, upto: Option<Bson>) -> Document {
        let mut condition = if after.is_some() { Document::new() } else { self.all() };
        if let Some(after) = after {
            condition.insert("$gt", after);
        }
        match upto {
            Some(upto) if self == Self::Number && !condition.contains_key("$gt") => {
                condition.insert("$not", doc! { "$gt": upto });
            }
            Some(upto) => {
                condition.insert("$lte", upto);
            }
            None => {}
        }
        doc! { ID: condition }
    }
}

/// Whether a slice can be resumed behind this value: nothing is above NaN.
pub(crate) fn can_follow(value: RawBsonRef<'_>) -> bool {
    match value {
        RawBsonRef::Double(number) => !number.is_nan(),
        RawBsonRef::Decimal128(number) => !number.to_string().contains("NaN"),
        value => Class::of(value).is_some(),
    }
}

/// Conditions that must all hold.
pub(crate) fn all_of(mut conditions: Vec<Document>) -> Document {
    conditions.retain(|condition| !condition.is_empty());
    match conditions.len() {
        0 | 1 => conditions.pop().unwrap_or_default(),
        _ => doc! { "$and": conditions },
    }
}

/// The first document of an order.
pub(crate) fn first(collection: &str, filter: Document, field: &str, order: i32) -> Document {
    doc! { "find": collection, "filter": filter, "sort": { field: order }, "projection": { field: 1 }, "limit": 1, "singleBatch": true }
}

/// The query of a slice.
pub(crate) struct Query {
    pub(crate) command: Document,
    /// The field in whose order documents come, so that there are places to resume.
    pub(crate) order: Option<String>,
}

/// Makes the query of a slice from a position on.
///
/// # Errors
/// `CheckpointInvalid` for a position that is none of this slice; `ConfigInvalid` for `where`.
pub(crate) fn query(collection: &str, work: &Work, from: Option<&Position>, replicated: bool) -> Result<Query> {
    let mut conditions = Vec::new();
    if let Some(filter) = &work.filter {
        conditions.push(extended::filter(filter)?);
    }
    let by_cursor = work.window.as_ref().filter(|window| window.ordered && window.from.is_some());
    let order = match (&work.part, by_cursor) {
        (_, Some(window)) => Some(window.column.clone()),
        (Part::Whole | Part::Ids { .. }, None) => Some(ID.to_owned()),
        _ => None,
    };
    let from = match (from, &order) {
        (None, _) => None,
        (Some(Position::Upto(value)), Some(_)) => Some(extended::value(value)?),
        _ => return Err(foreign()),
    };
    let by_id = by_cursor.is_none();
    match &work.part {
        Part::Ids { class, after, upto } => {
            let after = after.as_ref().map(extended::value).transpose()?;
            let upto = upto.as_ref().map(extended::value).transpose()?;
            let after = from.clone().filter(|_| by_id).or(after);
            conditions.push(class.range(after, upto));
        }
        Part::Whole if by_id => conditions.extend(from.clone().map(|from| doc! { ID: { "$gt": from } })),
        Part::Interval { column, from, to } => {
            let [from, to] = [from, to].map(|millis| DateTime::from_millis(*millis));
            conditions.push(doc! { column: { "$gte": from, "$lt": to } });
        }
        Part::Whole | Part::Unordered => {}
    }
    if let Some(window) = &work.window {
        conditions.push(inside(window, from.filter(|_| !by_id))?);
    }
    let mut command = doc! { "find": collection, "filter": all_of(conditions) };
    if let Some(order) = &order {
        command.insert("sort", doc! { order: 1 });
    }
    if let Some(projection) = projection(work, order.as_deref()) {
        command.insert("projection", projection);
    }
    if replicated {
        command.insert("readConcern", concern(work.start.as_ref()));
    }
    Ok(Query { command, order })
}

/// What was read must not be rolled back, and must hold all that happened before the changes that follow.
fn concern(start: Option<&FeedPosition>) -> Document {
    let mut concern = doc! { "level": "majority" };
    if let Some(start) = start {
        concern.insert("afterClusterTime", timestamp(start.time + 1));
    }
    concern
}

fn inside(window: &Window, resumed: Option<Bson>) -> Result<Document> {
    let column = window.column.as_str();
    let from = window.from.as_ref().map(extended::value).transpose()?;
    let upto = window.upto.as_ref().map(extended::value).transpose()?;
    Ok(match (resumed.or(from), upto) {
        (Some(from), Some(upto)) => doc! { column: { "$gt": from, "$lte": upto } },
        (Some(from), None) => doc! { column: { "$gt": from } },
        // The first load takes what has no cursor, too.
        (None, Some(upto)) => doc! { "$nor": [{ column: { "$gt": upto } }] },
        (None, None) => Document::new(),
    })
}

/// The fields that are asked for, where not all are. Names that mean something else in a projection cannot be asked for.
fn projection(work: &Work, order: Option<&str>) -> Option<Document> {
    use crate::rows::Layout;
    if work.layout != Layout::Some {
        return None;
    }
    let names = work.columns.iter().map(|column| column.name.as_str()).chain(order);
    let mut projection = doc! { ID: 1 };
    for name in names {
        if name.is_empty() || name.contains('.') || name.starts_with('$') {
            return None;
        }
        projection.insert(name, 1);
    }
    Some(projection)
}

pub(crate) fn foreign() -> ingest_core::Error {
    ingest_core::Error::new(ingest_core::ErrorKind::CheckpointInvalid, "the position is none of this slice")
        .hint("`ingest state reset` forgets the position, then the stream is loaded again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_one_class_and_its_first_part_what_is_below_everything() {
        assert_eq!(Class::Number.range(None, None), doc! { "_id": { "$type": "number" } });
        assert_eq!(
            Class::Number.range(None, Some(7.into())),
            doc! { "_id": { "$type": "number", "$not": { "$gt": 7 } } }
        );
        assert_eq!(Class::Number.range(Some(7.into()), Some(9.into())), doc! { "_id": { "$gt": 7, "$lte": 9 } });
        assert_eq!(Class::Text.range(None, Some("m".into())), doc! { "_id": { "$gte": "", "$lte": "m" } });
        assert_eq!(Class::Text.range(Some("m".into()), None), doc! { "_id": { "$gt": "m" } });
        assert_eq!(Class::Null.range(None, None), doc! { "_id": { "$eq": Bson::Null } });
    }

    #[test]
    fn a_window_is_resumed_behind_a_mark_and_its_first_load_takes_what_has_no_cursor() {
        let seven = serde_json::json!({"$numberInt": "7"});
        let window = Window { column: "at".into(), upto: Some(seven.clone()), ..Window::default() };
        let work = Work { part: Part::Whole, window: Some(window), ..Work::default() };
        let query = super::query("c", &work, Some(&Position::Upto(serde_json::json!("x"))), false).expect("a query");
        let expected = doc! { "$and": [{ "_id": { "$gt": "x" } }, { "$nor": [{ "at": { "$gt": 7 } }] }] };
        assert_eq!(query.command.get_document("filter").expect("a filter"), &expected);
        let window = Window { column: "at".into(), from: Some(1.into()), upto: Some(seven), ordered: true };
        let work = Work { window: Some(window), ..Work::default() };
        let query = super::query("c", &work, Some(&Position::Upto(3.into())), false).expect("a query");
        assert_eq!(query.order.as_deref(), Some("at"));
        let at = query.command.get_document("filter").and_then(|filter| filter.get_document("at")).expect("a filter");
        assert_eq!(at.get_i32("$lte").ok(), Some(7));
    }

    #[test]
    fn a_position_of_another_shape_is_refused() {
        let work = Work::default();
        assert!(super::query("c", &work, Some(&Position::Upto(1.into())), false).is_err());
    }
}
