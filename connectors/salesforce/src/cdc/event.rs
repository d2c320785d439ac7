//! One change event: what happened to which records, and the values that it carries.
//!
//! Facts: "Change Data Capture Developer Guide", change event header. An update carries all fields, but only those count that the bitmaps
//! name; a compound field (`BillingAddress`) stands for the columns beside it (`BillingCity`).

use std::collections::{BTreeSet, HashMap};

use ingest_core::{Error, ErrorKind, Result};
use serde::Deserialize;

use super::avro::{Bytes, Field, Type};

/// What is known of an event beside its values.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    record_ids: Vec<String>,
    change_type: String,
    /// Milliseconds since 1970.
    commit_timestamp: serde_json::Value,
    #[serde(default)]
    changed_fields: Vec<String>,
    #[serde(default)]
    nulled_fields: Vec<String>,
    #[serde(default)]
    diff_fields: Vec<String>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Create,
    Update,
    Delete,
    Undelete,
    /// Something changed, and the event does not carry it.
    Gap,
    /// So much changed that not even the records are named.
    Overflow,
}

/// A value of an event, as JSON.
#[derive(Debug)]
pub(crate) struct Value {
    /// The field; of a compound field the one around it, too.
    pub outer: Option<String>,
    pub name: String,
    pub json: Vec<u8>,
    is_changed: bool,
}

/// An event.
#[derive(Debug)]
pub(crate) struct Event {
    pub change: Change,
    /// Milliseconds since 1970.
    pub at: i64,
    pub ids: Vec<String>,
    /// What it carries and what counts.
    pub values: Vec<Value>,
    /// Long texts come as what differs: the event does not carry them.
    pub has_differences: bool,
}

fn broken(what: &str) -> Error {
    Error::new(ErrorKind::DataInvalid, format!("cdc: a change event {what}"))
}

impl Event {
    /// Reads an event by the schema that wrote it.
    ///
    /// # Errors
    /// `DataInvalid` for what is no change event.
    pub fn read(schema: &Type, payload: &[u8]) -> Result<Self> {
        let fields = schema.record().ok_or_else(|| broken("is no record"))?;
        let mut bytes = Bytes(payload);
        let (mut header, mut values) = (None, Vec::new());
        for (place, field) in fields.iter().enumerate() {
            if field.name == "ChangeEventHeader" {
                let mut json = Vec::new();
                bytes.json(&field.ty, &mut json)?;
                header = Some(serde_json::from_slice(&json).map_err(|_| broken("has a header that is none"))?);
                continue;
            }
            values_of(&mut bytes, place, field, &mut values)?;
        }
        let header: Header = header.ok_or_else(|| broken("has no header"))?;
        Self::of(header, values)
    }

    fn of(header: Header, mut values: Vec<(Place, Value)>) -> Result<Self> {
        let change = match header.change_type.as_str() {
            "CREATE" => Change::Create,
            "UPDATE" => Change::Update,
            "DELETE" | "GAP_DELETE" => Change::Delete,
            "UNDELETE" => Change::Undelete,
            "GAP_CREATE" | "GAP_UPDATE" | "GAP_UNDELETE" => Change::Gap,
            "GAP_OVERFLOW" => Change::Overflow,
            _ => return Err(broken("is of a kind that is not known")),
        };
        let at = match &header.commit_timestamp {
            serde_json::Value::Number(number) => number.as_i64(),
            // Dates of some schemas are written as times.
            serde_json::Value::String(text) => {
                chrono::DateTime::parse_from_rfc3339(text).ok().map(|t| t.timestamp_millis())
            }
            _ => None,
        };
        let at = at.filter(|at| *at > 0).ok_or_else(|| broken("does not say when it was committed"))?;
        if header.record_ids.is_empty() && change != Change::Overflow {
            return Err(broken("names no record"));
        }
        let changed = Bits::read(&[&header.changed_fields, &header.nulled_fields, &header.diff_fields])?;
        let differing = Bits::read(&[&header.diff_fields])?;
        // Without any bitmap an update says nothing of what counts.
        let all = change != Change::Update;
        values.iter_mut().for_each(|(place, value)| value.is_changed = all || changed.holds(*place));
        Ok(Self {
            change,
            at,
            ids: header.record_ids,
            values: values.into_iter().map(|(_, value)| value).filter(|value| value.is_changed).collect(),
            has_differences: !differing.is_empty(),
        })
    }
}

/// The place of a field in the record, and in the compound field around it.
type Place = (usize, Option<usize>);

fn values_of(bytes: &mut Bytes<'_>, place: usize, field: &Field, values: &mut Vec<(Place, Value)>) -> Result<()> {
    let value = |outer: Option<&str>, name: &str| Value {
        outer: outer.map(str::to_owned),
        name: name.to_owned(),
        json: Vec::new(),
        is_changed: false,
    };
    let Some(inner) = field.ty.record() else {
        let mut value = value(None, &field.name);
        bytes.json(&field.ty, &mut value.json)?;
        values.push(((place, None), value));
        return Ok(());
    };
    // A compound that is null leaves all of its fields null.
    let is_there = match &field.ty {
        Type::Union(types) => bytes.branch(types)?.record().is_some(),
        _ => true,
    };
    for (nth, field_inside) in inner.iter().enumerate() {
        let mut value = value(Some(&field.name), &field_inside.name);
        match is_there {
            true => bytes.json(&field_inside.ty, &mut value.json)?,
            false => value.json.extend_from_slice(b"null"),
        }
        values.push(((place, Some(nth)), value));
    }
    Ok(())
}

/// Fields that bitmaps name: `0x…` those of the record, `5-0x…` those of the compound field at place 5. The last digit holds the first
/// places.
#[derive(Debug, Default)]
struct Bits {
    fields: BTreeSet<usize>,
    inside: HashMap<usize, BTreeSet<usize>>,
}

impl Bits {
    fn read(texts: &[&Vec<String>]) -> Result<Self> {
        let mut bits = Self::default();
        for text in texts.iter().copied().flatten() {
            let wrong = || broken("has a bitmap that is none");
            match text.split_once('-') {
                None => bits.fields.extend(places(text).ok_or_else(wrong)?),
                Some((outer, text)) => {
                    let outer = outer.parse().map_err(|_| wrong())?;
                    bits.inside.entry(outer).or_default().extend(places(text).ok_or_else(wrong)?);
                }
            }
        }
        Ok(bits)
    }

    fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.inside.is_empty()
    }

    fn holds(&self, (outer, inner): Place) -> bool {
        match (inner, self.inside.get(&outer)) {
            (Some(inner), Some(inside)) => inside.contains(&inner),
            // A compound that is named as a whole.
            _ => self.fields.contains(&outer),
        }
    }
}

/// The places whose bits are set in a hexadecimal number.
fn places(text: &str) -> Option<Vec<usize>> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?;
    if digits.len() > 4_096 {
        return None;
    }
    let mut places = Vec::new();
    for (nth, digit) in digits.chars().rev().enumerate() {
        let digit = digit.to_digit(16)?;
        places.extend((0..4).filter(|bit| digit >> bit & 1 == 1).map(|bit| nth * 4 + bit));
    }
    Some(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmaps_name_fields_from_their_last_digit_on_also_inside_of_compounds() {
        assert_eq!(places("0x400002"), Some(vec![1, 22]));
        assert_eq!(places("400002"), None);
        assert_eq!(places("0xg"), None);
        let bits = Bits::read(&[&vec!["0x2".into(), "4-0x5".into()]]).expect("bits");
        assert!(bits.holds((1, None)) && !bits.holds((0, None)) && bits.holds((1, Some(3))));
        assert!(bits.holds((4, Some(0))) && bits.holds((4, Some(2))) && !bits.holds((4, Some(1))));
        assert!(Bits::read(&[&vec!["x-0x1".into()]]).is_err());
    }
}
