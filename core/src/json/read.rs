//! The walk over the bytes: serde visitors that hand every value on as the text it is.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::{SmallVec, smallvec};

use super::{Decoder, Envelope, PageShape, Target, literal};
use crate::{Error, ErrorKind, Result};

type Look<'a> = &'a mut dyn FnMut(&Record<'_, '_>) -> Result<()>;

/// One record while it is read: the JSON text of every value.
pub struct Record<'a, 'de> {
    decoder: &'a Decoder,
    slots: &'a [Option<&'de str>],
    taken: &'a [Option<&'de str>],
}

impl<'de> Record<'_, 'de> {
    /// The JSON text of a column (by the source's name) or of a key named in [`Decoder::taking`]; `None` when the
    /// record does not carry it.
    pub fn raw(&self, key: &str) -> Option<&'de str> {
        let keys = &self.decoder.keys;
        match keys.names.iter().position(|name| name == key) {
            Some(at) => self.slots.get(at).copied().flatten(),
            None => self.taken.get(keys.taken.iter().position(|name| name == key)?).copied().flatten(),
        }
    }

    /// The text of a string; `None` when the record does not carry it or it is something else.
    pub fn text(&self, key: &str) -> Option<std::borrow::Cow<'de, str>> {
        literal::string(self.raw(key)?)
    }

    /// A whole number; `None` when the record does not carry it or it is something else.
    pub fn integer(&self, key: &str) -> Option<i64> {
        literal::integer(self.raw(key)?)
    }
}

/// Reads a page.
pub(super) fn page(decoder: &mut Decoder, page: &[u8], shape: &PageShape, look: Look<'_>) -> Result<Envelope> {
    let text = utf8(page)?;
    let mut walk = Walk::new(decoder, look);
    let mut picked = vec![None; shape.picks.len()];
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let mut found = false;
    let done = if shape.records.is_empty() {
        found = true;
        Records { walk: &mut walk, optional: shape.optional }.deserialize(&mut deserializer)
    } else {
        let picks = (0..shape.picks.len()).collect();
        Level { walk: &mut walk, shape, depth: 0, records: true, picks, picked: &mut picked, found: &mut found }
            .deserialize(&mut deserializer)
    };
    let done = done.and_then(|()| deserializer.end());
    let records = walk.records;
    walk.settle(done, "a page")?;
    if !found && !shape.optional {
        return Err(Error::new(ErrorKind::DataInvalid, "a page has no list of records")
            .with("key", shape.records.join("."))
            .hint("the answer is not the list that was asked for; compare the endpoint with the documentation"));
    }
    let names = shape.picks.iter().map(|(name, _)| name.clone());
    Ok(Envelope { records, picked: names.zip(picked).collect() })
}

/// Reads one object.
pub(super) fn object(decoder: &mut Decoder, object: &[u8], look: Look<'_>) -> Result<()> {
    let text = utf8(object)?;
    let mut walk = Walk::new(decoder, look);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let done = Object(&mut walk).deserialize(&mut deserializer).and_then(|()| deserializer.end());
    walk.settle(done, "a record")
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        Error::new(ErrorKind::DataInvalid, "cannot read JSON that is not UTF-8").with("byte", error.valid_up_to())
    })
}

/// The JSON text of each column of a record. A file of lines has a walk for each of them: those of most streams are then
/// made without an allocation.
type Slots<'de> = SmallVec<[Option<&'de str>; 32]>;

/// The state of one walk. Slots are reused from record to record.
struct Walk<'a, 'de> {
    decoder: &'a mut Decoder,
    look: Look<'a>,
    slots: Slots<'de>,
    taken: Vec<Option<&'de str>>,
    unknown: Vec<(&'de str, &'de str)>,
    records: usize,
    /// The error of ours that a visitor could not pass through serde's type.
    failure: Option<Error>,
}

impl<'a, 'de> Walk<'a, 'de> {
    fn new(decoder: &'a mut Decoder, look: Look<'a>) -> Self {
        let (slots, taken) = (smallvec![None; decoder.columns.len()], vec![None; decoder.keys.taken.len()]);
        Self { decoder, look, slots, taken, unknown: Vec::new(), records: 0, failure: None }
    }

    fn fail<E: serde::de::Error>(&mut self, error: Error) -> E {
        self.failure = Some(error.with("record", self.records + 1));
        E::custom("stopped")
    }

    /// Turns the outcome of serde into ours. Syntax errors carry their place; texts of serde that could quote the data
    /// are not passed on.
    fn settle(self, done: Result<(), serde_json::Error>, what: &str) -> Result<()> {
        let Err(error) = done else { return Ok(()) };
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let message = match error.classify() {
            serde_json::error::Category::Eof => format!("{what} ends in the middle of its JSON"),
            serde_json::error::Category::Data => format!("{what} has not the shape that was expected"),
            _ => format!("{what} is not valid JSON"),
        };
        Err(Error::new(ErrorKind::DataInvalid, message)
            .with("record", self.records + 1)
            .with("line", error.line())
            .with("column", error.column()))
    }

    fn assign(&mut self, nth: usize, key: &'de str, value: &'de str) {
        match self.decoder.keys.find(nth, key) {
            Target::Column(at) => self.slots[at] = Some(value),
            Target::Taken(at) => self.taken[at] = Some(value),
            Target::Unknown => self.unknown.push((key, value)),
        }
    }

    /// Makes a row of the slots and empties them.
    fn row(&mut self) -> Result<()> {
        (self.look)(&Record { decoder: self.decoder, slots: &self.slots, taken: &self.taken })?;
        self.decoder.append(&self.slots, &self.unknown)?;
        self.slots.fill(None);
        self.taken.fill(None);
        self.unknown.clear();
        self.records += 1;
        Ok(())
    }
}

/// One record.
struct Object<'w, 'a, 'de>(&'w mut Walk<'a, 'de>);

impl<'de> DeserializeSeed<'de> for Object<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let limits = self.0.decoder.limits;
        let (mut bytes, mut keys) = (0, 0);
        while let Some(key) = map.next_key::<&'de RawValue>()? {
            let (key, value) = (key.get(), map.next_value::<&'de RawValue>()?.get());
            bytes += key.len() + value.len();
            let limit = if bytes > limits.object_bytes {
                Some(("a record is larger than the limit", limits.object_bytes))
            } else if keys == limits.keys {
                Some(("a record has more keys than the limit", limits.keys))
            } else if value.starts_with(['{', '[']) && !literal::within_depth(value, limits.depth) {
                Some(("a record is nested deeper than the limit", limits.depth))
            } else {
                None
            };
            if let Some((message, limit)) = limit {
                return Err(self.0.fail(Error::new(ErrorKind::LimitExceeded, message).with("limit", limit)));
            }
            self.0.assign(keys, key, value);
            keys += 1;
        }
        self.0.row().map_err(|error| self.0.fail(error))
    }
}

/// The list of records.
struct Records<'w, 'a, 'de> {
    walk: &'w mut Walk<'a, 'de>,
    optional: bool,
}

impl<'de> DeserializeSeed<'de> for Records<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Records<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Object(&mut *self.walk))?.is_some() {}
        Ok(())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        if self.optional { Ok(()) } else { Err(E::custom("null in place of the list")) }
    }
}

/// An object around the records.
struct Level<'w, 'a, 'de> {
    walk: &'w mut Walk<'a, 'de>,
    shape: &'w PageShape,
    depth: usize,
    /// Whether the way to the records leads through this object.
    records: bool,
    /// The picks whose way leads through this object.
    picks: Vec<usize>,
    picked: &'w mut [Option<String>],
    found: &'w mut bool,
}

impl<'de> DeserializeSeed<'de> for Level<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let shape = self.shape;
        while let Some(key) = map.next_key::<&'de RawValue>()? {
            let key = literal::string(key.get()).unwrap_or_default();
            let here = |path: &[String]| path.get(self.depth).is_some_and(|part| *part == key);
            let records = self.records && here(&shape.records);
            if records && shape.records.len() == self.depth + 1 {
                if std::mem::replace(self.found, true) {
                    return Err(A::Error::custom("two lists of records"));
                }
                map.next_value_seed(Records { walk: &mut *self.walk, optional: shape.optional })?;
                continue;
            }
            let picks: Vec<usize> = self.picks.iter().copied().filter(|i| here(&shape.picks[*i].1)).collect();
            let leaf = picks.iter().copied().find(|i| shape.picks[*i].1.len() == self.depth + 1);
            if let Some(leaf) = leaf {
                self.picked[leaf] = Some(map.next_value::<&'de RawValue>()?.get().to_owned());
            } else if records || !picks.is_empty() {
                map.next_value_seed(Level {
                    walk: &mut *self.walk,
                    shape,
                    depth: self.depth + 1,
                    records,
                    picks,
                    picked: &mut *self.picked,
                    found: &mut *self.found,
                })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    // Anything but an object has no such keys: what was to be picked is absent there.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if self.depth == 0 {
            return Err(A::Error::custom("a list in place of the page"));
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        if self.depth == 0 { Err(E::custom("null in place of the page")) } else { Ok(()) }
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        self.visit_unit()
    }
}
