//! The YAML of `conformance.yaml`: maps, lists and scalars; no anchors, no tags.

use ingest_core::{Error, Json, Result};
use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};
use serde_json::Map;

/// Such a file is written by hand.
const MAX_BYTES: usize = 1 << 20;
const MAX_DEPTH: usize = 32;

/// Reads one document.
///
/// # Errors
/// `ConfigInvalid` with the line.
pub(super) fn parse(text: &str) -> Result<Json> {
    if text.len() > MAX_BYTES {
        return Err(Error::config("the file is larger than 1 MiB"));
    }
    let mut reader = Reader(Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text)));
    let mut root = None;
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(root.unwrap_or_else(|| Json::Object(Map::new()))),
            Event::DocumentStart(_) if root.is_some() => return Err(wrong(span, "a second document begins")),
            Event::DocumentStart(_) => {
                let (event, span) = reader.next()?;
                root = Some(reader.value(event, span, 0)?);
            }
            _ => {}
        }
    }
}

fn wrong(span: Span, what: &str) -> Error {
    Error::config(format!("the file cannot be read: {what}")).with("line", span.start.line().max(1))
}

struct Reader<'a>(Parser<'a, StrInput<'a>>);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span)> {
        match self.0.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                Err(Error::config("the file is not YAML").with("line", error.marker().line()).caused_by(error))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn value(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Json> {
        if depth > MAX_DEPTH {
            return Err(wrong(span, "values are nested too deep"));
        }
        Ok(match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) => scalar(&text),
            Event::Scalar(text, ..) => Json::String(text.into_owned()),
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break Json::Array(items),
                        (event, span) => items.push(self.value(event, span, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(..) => self.map(depth)?,
            Event::Alias(_) => return Err(wrong(span, "aliases are not known here")),
            _ => return Err(wrong(span, "a value is missing")),
        })
    }

    fn map(&mut self, depth: usize) -> Result<Json> {
        let mut map = Map::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd, _) => return Ok(Json::Object(map)),
                (Event::Scalar(key, ..), span) if !map.contains_key(key.as_ref()) => (key.into_owned(), span),
                (Event::Scalar(key, ..), span) => {
                    return Err(wrong(span, &format!("the key {key:?} stands there twice")));
                }
                (_, span) => return Err(wrong(span, "a key must be a text")),
            };
            let (event, span) = self.next()?;
            let value = self.value(event, span, depth + 1)?;
            map.insert(key.0, value);
        }
    }
}

/// A plain scalar: null, boolean, number, else text.
fn scalar(text: &str) -> Json {
    match text {
        "" | "~" | "null" => Json::Null,
        "true" => true.into(),
        "false" => false.into(),
        _ => match text.parse::<i64>() {
            Ok(number) => number.into(),
            Err(_) => text
                .parse::<f64>()
                .ok()
                .filter(|_| text.starts_with(|c: char| c.is_ascii_digit() || c == '-'))
                .and_then(serde_json::Number::from_f64)
                .map_or_else(|| text.into(), Json::Number),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_people_write_is_read() {
        let text = "a: [1, two, 'x: y', {b: ~}]\nc:\n  - d: true\n    e: 2.5\n# comment\nf: 1.2.3\n";
        let expected = json!({"a": [1, "two", "x: y", {"b": null}], "c": [{"d": true, "e": 2.5}], "f": "1.2.3"});
        assert_eq!(parse(text).expect("YAML"), expected);
        assert_eq!(parse("").expect("nothing"), json!({}));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, what) in [("a: 1\na: 2\n", "\"a\""), ("a: [1\n", "not YAML"), ("a: &x 1\nb: *x\n", "aliases")] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(what) && error.contains("line"), "{error}");
        }
    }
}
