//! Masks on JSON: what a connector has rescued, records that went to quarantine, the bounds of a region.
//!
//! Texts of values that are not touched stay as the source wrote them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, StringArray};
use ingest_core::{Error, ErrorKind, Json, Region, Result};
use serde_json::value::RawValue;

use super::key::MaskKey;
use super::masks::{Rules, below};
use super::values::{REDACTED, TextMask};
use crate::config::Mask;

/// Objects nested deeper than this are redacted as a whole.
const MAX_DEPTH: usize = 64;

/// Masks for JSON objects whose keys are the source's names of columns.
pub struct ObjectMasks<'a> {
    /// The rules.
    pub rules: &'a Rules,
    /// The key.
    pub key: &'a MaskKey,
    /// Data classes of columns, by name.
    pub classes: &'a BTreeMap<String, String>,
}

impl ObjectMasks<'_> {
    /// Masks a column of JSON objects. A text that is no object is redacted.
    pub fn column(&self, objects: &ArrayRef) -> Result<ArrayRef> {
        let objects = arrow_cast::cast(objects, &arrow_schema::DataType::Utf8)?;
        let masked: Result<StringArray> =
            objects.as_string::<i32>().iter().map(|text| text.map(|text| self.text(text)).transpose()).collect();
        Ok(Arc::new(masked?))
    }

    /// Masks the text of a JSON object; any other text is redacted.
    pub fn text(&self, text: &str) -> Result<String> {
        let Ok(object) = serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(text) else {
            return Ok(REDACTED.to_owned());
        };
        let mut out = String::with_capacity(text.len());
        self.object("", object, None, 0, &mut out)?;
        Ok(out)
    }

    fn object(
        &self,
        path: &str,
        object: BTreeMap<String, Box<RawValue>>,
        inherited: Option<&Mask>,
        depth: usize,
        out: &mut String,
    ) -> Result<()> {
        out.push('{');
        let begin = out.len();
        for (name, value) in object {
            let path = below(path, &name);
            let mask = self.rules.mask_of(&path, self.classes.get(path.as_ref()).map(String::as_str)).or(inherited);
            if mask == Some(&Mask::Drop) {
                continue;
            }
            if out.len() > begin {
                out.push(',');
            }
            out.push_str(&Json::from(name.as_str()).to_string());
            out.push(':');
            self.value(&path, &value, mask, depth, out)?;
        }
        out.push('}');
        Ok(())
    }

    fn value(&self, path: &str, raw: &RawValue, mask: Option<&Mask>, depth: usize, out: &mut String) -> Result<()> {
        let text = raw.get();
        let inside = mask.is_some_and(|mask| *mask != Mask::Keep)
            || self.rules.reaches_below(path)
            || self.has_masked_parts(path);
        if !inside || text == "null" {
            out.push_str(text);
            return Ok(());
        }
        match (text.as_bytes().first(), mask) {
            (_, Some(Mask::Null)) => out.push_str("null"),
            (Some(b'{' | b'['), _) if depth >= MAX_DEPTH => out.push_str(&Json::from(REDACTED).to_string()),
            (Some(b'{'), _) => self.object(path, parse(text)?, mask, depth + 1, out)?,
            (Some(b'['), _) => {
                out.push('[');
                for (i, value) in parse::<Vec<Box<RawValue>>>(text)?.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    self.value(path, value, mask, depth + 1, out)?;
                }
                out.push(']');
            }
            // A part of it is to be masked, and it does not have the shape in which the part could be told.
            (_, None | Some(Mask::Keep)) if self.has_masked_parts(path) => {
                out.push_str(&Json::from(REDACTED).to_string());
            }
            (_, None | Some(Mask::Keep)) => out.push_str(text),
            // What is not of its column's type cannot be made less exact.
            (_, Some(Mask::Generalize(_))) => out.push_str("null"),
            (_, Some(mask)) => {
                let clear = serde_json::from_str::<String>(text).unwrap_or_else(|_| text.to_owned());
                let masked = TextMask::new(mask, self.key)?.text(&clear)?;
                out.push_str(&Json::from(masked).to_string());
            }
        }
        Ok(())
    }

    /// The region as the table holds it.
    ///
    /// # Errors
    /// `Unsupported` where its rows cannot be found by a masked column.
    pub fn region(&self, region: Region) -> Result<Region> {
        match region {
            Region::All => Ok(Region::All),
            Region::Equals(values) => Ok(Region::Equals(self.equal(values)?)),
            Region::Range { column, from, to, also } => {
                if self.mask(&column).is_some() {
                    return Err(unplaced(&column));
                }
                Ok(Region::Range { column, from, to, also: self.equal(also)? })
            }
        }
    }

    /// Whether a name or a class masks something below a path.
    fn has_masked_parts(&self, path: &str) -> bool {
        let below = |name: &str| name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
        let masks = |class: &str| self.rules.by_class.of(class).is_some_and(|(_, mask)| *mask != Mask::Keep);
        self.rules.named.iter().any(|(name, mask)| *mask != Mask::Keep && below(name))
            || self.classes.iter().any(|(name, class)| below(name) && masks(class))
    }

    fn mask(&self, column: &str) -> Option<&Mask> {
        let class = self.classes.get(column).map(String::as_str);
        self.rules.mask_of(column, class).filter(|mask| **mask != Mask::Keep)
    }

    fn equal(&self, values: BTreeMap<String, Json>) -> Result<BTreeMap<String, Json>> {
        let mut masked = BTreeMap::new();
        for (column, value) in values {
            let value = match (self.mask(&column), value) {
                (None, value) | (Some(_), value @ Json::Null) => value,
                (Some(mask), value) if mask.is_injective() => {
                    let clear = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    TextMask::new(mask, self.key)?.text(&clear)?.into()
                }
                (Some(_), _) => return Err(unplaced(&column)),
            };
            masked.insert(column, value);
        }
        Ok(masked)
    }
}

fn parse<'t, T: serde::Deserialize<'t>>(text: &'t str) -> Result<T> {
    serde_json::from_str(text).map_err(|_| Error::unexpected("a part of a JSON text is none"))
}

fn unplaced(column: &str) -> Error {
    Error::new(ErrorKind::Unsupported, "the source removes rows by a column whose mask does not tell them apart")
        .with("column", column)
        .hint("mask it with `hash` or `token`, or load with `mode: full`")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules(masks: Json) -> Rules {
        Rules { named: serde_json::from_value(masks).expect("masks"), by_class: Default::default() }
    }

    fn masked(rules: &Rules, text: &str) -> String {
        let classes = BTreeMap::new();
        ObjectMasks { rules, key: &MaskKey::new(None), classes: &classes }.text(text).expect("masked")
    }

    #[test]
    fn only_masked_values_of_an_object_change() {
        let rules =
            rules(json!({"email": "redact", "phone": {"partial": 2}, "age": "drop", "born": {"generalize": "year"}}));
        assert_eq!(
            masked(&rules, r#"{"email":"a@b","phone":12345,"age":1,"born":"x","n":12345678901234567890.10,"z":null}"#),
            r#"{"born":null,"email":"***","n":12345678901234567890.10,"phone":"***45","z":null}"#
        );
        assert_eq!(
            masked(&rules, r#"{"email":{"old":"a","new":["b"]},"x":{"email":"c"}}"#),
            r#"{"email":{"new":["***"],"old":"***"},"x":{"email":"c"}}"#
        );
        assert_eq!(masked(&rules, "no object"), REDACTED);
    }

    #[test]
    fn paths_and_globs_reach_into_objects() {
        assert_eq!(
            masked(&rules(json!({"address.zip": "redact"})), r#"{"address":{"zip":"1","town":"T"},"zip":"2"}"#),
            r#"{"address":{"town":"T","zip":"***"},"zip":"2"}"#
        );
        assert_eq!(
            masked(&rules(json!({"address.zip": "redact"})), r#"{"address":"1 clear","addresses":"x"}"#),
            r#"{"address":"***","addresses":"x"}"#,
            "a struct that came as a text"
        );
        assert_eq!(
            masked(&rules(json!({"*mail*": "redact"})), r#"{"contacts":[{"e_mail":"a"},{"tel":"b"}]}"#),
            r#"{"contacts":[{"e_mail":"***"},{"tel":"b"}]}"#
        );
        let deep = format!("{}\"x\"{}", "{\"a\":".repeat(200), "}".repeat(200));
        assert!(!masked(&rules(json!({"*z*": "hash"})), &deep).contains("\"x\""), "too deep to look at");
    }

    #[test]
    fn a_region_is_found_by_what_the_table_holds_or_refused() {
        let rules = rules(json!({"id": "hash", "name": "redact"}));
        let (classes, key) = (BTreeMap::new(), MaskKey::new(None));
        let masks = ObjectMasks { rules: &rules, key: &key, classes: &classes };
        let equals = |column: &str, value: Json| Region::Equals(BTreeMap::from([(column.to_owned(), value)]));
        let hash = super::super::key::hex(&key.hash(b"5"));
        assert_eq!(masks.region(equals("id", json!(5))).expect("placed"), equals("id", json!(hash)));
        assert_eq!(masks.region(equals("day", json!(5))).expect("placed"), equals("day", json!(5)));
        assert!(masks.region(equals("name", json!("x"))).is_err());
        let range = Region::Range { column: "id".into(), from: json!(1), to: json!(2), also: BTreeMap::new() };
        assert!(masks.region(range).is_err());
    }
}
