//! Avro without a container: the fields of a record as JSON, by the schema that wrote them.
//!
//! Facts: the Avro specification, "Binary Encoding" and "Logical Types".

use std::collections::HashMap;

use ingest_core::{Error, ErrorKind, Json, Result};

/// Levels of a schema, and of a value.
const DEPTH: usize = 32;

/// A type of Avro.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Type {
    Null,
    Boolean,
    Int(Meaning),
    Long(Meaning),
    Float,
    Double,
    Bytes,
    Text,
    Fixed(usize),
    Enum(Vec<String>),
    List(Box<Type>),
    Map(Box<Type>),
    Union(Vec<Type>),
    Record(Vec<Field>),
}

/// What a number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    Number,
    /// Days since 1970.
    Date,
    /// Milliseconds since 1970.
    Millis,
    /// Microseconds since 1970.
    Micros,
    /// Milliseconds since midnight.
    Clock,
}

/// A field of a record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    pub name: String,
    pub ty: Type,
}

impl Type {
    /// Reads a schema.
    ///
    /// # Errors
    /// `DataInvalid` for what is none.
    pub fn parse(text: &str) -> Result<Self> {
        let schema: Json = serde_json::from_str(text).map_err(|_| wrong("is not JSON"))?;
        parse(&schema, &mut HashMap::new(), 0)
    }

    /// The record inside, where this is one that may be null.
    pub fn record(&self) -> Option<&[Field]> {
        match self {
            Self::Record(fields) => Some(fields),
            Self::Union(types) => types.iter().find_map(Self::record),
            _ => None,
        }
    }
}

fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::DataInvalid, format!("cdc: the schema of an event {what}"))
}

fn parse(schema: &Json, known: &mut HashMap<String, Type>, depth: usize) -> Result<Type> {
    if depth > DEPTH {
        return Err(wrong("is too deep"));
    }
    let text = |key: &str| schema.get(key).and_then(Json::as_str);
    let inside = |key: &str, known: &mut HashMap<String, Type>| {
        let inner = schema.get(key).ok_or_else(|| wrong("lacks a part"))?;
        parse(inner, known, depth + 1).map(Box::new)
    };
    let ty = match (schema, text("type")) {
        (Json::String(name), _) => {
            return plain(name, None)
                .or_else(|| known.get(name).cloned())
                .ok_or_else(|| wrong("names a type that it does not have"));
        }
        (Json::Array(types), _) => {
            return Ok(Type::Union(types.iter().map(|ty| parse(ty, known, depth + 1)).collect::<Result<_>>()?));
        }
        (_, None) => return inside("type", known).map(|inner| *inner),
        (_, Some("record" | "error")) => {
            let fields =
                schema.get("fields").and_then(Json::as_array).ok_or_else(|| wrong("has a record without fields"))?;
            let field = |field: &Json, known: &mut HashMap<String, Type>| {
                let name =
                    field.get("name").and_then(Json::as_str).ok_or_else(|| wrong("has a field without a name"))?;
                let ty = field.get("type").ok_or_else(|| wrong("has a field without a type"))?;
                Ok(Field { name: name.to_owned(), ty: parse(ty, known, depth + 1)? })
            };
            Type::Record(fields.iter().map(|f| field(f, known)).collect::<Result<_>>()?)
        }
        (_, Some("enum")) => {
            let symbols =
                schema.get("symbols").and_then(Json::as_array).ok_or_else(|| wrong("has an enum without symbols"))?;
            Type::Enum(symbols.iter().filter_map(Json::as_str).map(str::to_owned).collect())
        }
        (_, Some("fixed")) => {
            let size = schema.get("size").and_then(Json::as_u64).and_then(|size| usize::try_from(size).ok());
            Type::Fixed(size.ok_or_else(|| wrong("has a fixed without a size"))?)
        }
        (_, Some("array")) => return inside("items", known).map(Type::List),
        (_, Some("map")) => return inside("values", known).map(Type::Map),
        (_, Some(name)) => {
            let ty = plain(name, text("logicalType")).or_else(|| known.get(name).cloned());
            return ty.ok_or_else(|| wrong("names a type that it does not have"));
        }
    };
    if let Some(name) = text("name") {
        known.insert(name.to_owned(), ty.clone());
        if let Some(space) = text("namespace") {
            known.insert(format!("{space}.{name}"), ty.clone());
        }
    }
    Ok(ty)
}

fn plain(name: &str, meaning: Option<&str>) -> Option<Type> {
    Some(match (name, meaning) {
        ("null", _) => Type::Null,
        ("boolean", _) => Type::Boolean,
        ("int", Some("date")) => Type::Int(Meaning::Date),
        ("int", Some("time-millis")) => Type::Int(Meaning::Clock),
        ("int", _) => Type::Int(Meaning::Number),
        ("long", Some("timestamp-millis")) => Type::Long(Meaning::Millis),
        ("long", Some("timestamp-micros")) => Type::Long(Meaning::Micros),
        ("long", _) => Type::Long(Meaning::Number),
        ("float", _) => Type::Float,
        ("double", _) => Type::Double,
        ("bytes", _) => Type::Bytes,
        ("string", _) => Type::Text,
        _ => return None,
    })
}

/// The bytes of a value while it is read.
pub(crate) struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    fn cut() -> Error {
        Error::new(ErrorKind::DataInvalid, "cdc: an event is shorter than its schema says")
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count).ok_or_else(Self::cut)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk().ok_or_else(Self::cut)?;
        self.0 = rest;
        Ok(*head)
    }

    fn long(&mut self) -> Result<i64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
            }
        }
        Err(Self::cut())
    }

    fn bytes(&mut self) -> Result<&'a [u8]> {
        let count = usize::try_from(self.long()?).map_err(|_| Self::cut())?;
        self.take(count)
    }

    /// The type that a union has taken.
    pub fn branch<'t>(&mut self, types: &'t [Type]) -> Result<&'t Type> {
        let at = usize::try_from(self.long()?).ok();
        at.and_then(|at| types.get(at)).ok_or_else(Self::cut)
    }

    /// Writes the next value as JSON.
    pub fn json(&mut self, ty: &Type, out: &mut Vec<u8>) -> Result<()> {
        self.value(ty, out, 0)
    }

    fn value(&mut self, ty: &Type, out: &mut Vec<u8>, depth: usize) -> Result<()> {
        if depth > DEPTH {
            return Err(Error::new(ErrorKind::DataInvalid, "cdc: an event is too deep"));
        }
        match ty {
            Type::Null => write(out, &Json::Null),
            Type::Boolean => write(out, &Json::Bool(self.array()? != [0])),
            Type::Int(meaning) | Type::Long(meaning) => {
                let number = self.long()?;
                write(out, &meant(number, *meaning)?)
            }
            Type::Float => write(out, &f32::from_le_bytes(self.array()?)),
            Type::Double => write(out, &f64::from_le_bytes(self.array()?)),
            Type::Bytes | Type::Text => write(out, &String::from_utf8_lossy(self.bytes()?)),
            Type::Fixed(size) => write(out, &String::from_utf8_lossy(self.take(*size)?)),
            Type::Enum(symbols) => {
                let at = usize::try_from(self.long()?).ok();
                write(out, at.and_then(|at| symbols.get(at)).ok_or_else(Self::cut)?)
            }
            Type::Union(types) => {
                let ty = self.branch(types)?;
                self.value(ty, out, depth + 1)
            }
            Type::Record(fields) => {
                out.push(b'{');
                for (nth, field) in fields.iter().enumerate() {
                    if nth > 0 {
                        out.push(b',');
                    }
                    write(out, &field.name)?;
                    out.push(b':');
                    self.value(&field.ty, out, depth + 1)?;
                }
                out.push(b'}');
                Ok(())
            }
            Type::List(item) => self.blocks(out, *b"[]", |this, out| this.value(item, out, depth + 1)),
            Type::Map(item) => self.blocks(out, *b"{}", |this, out| {
                write(out, &String::from_utf8_lossy(this.bytes()?))?;
                out.push(b':');
                this.value(item, out, depth + 1)
            }),
        }
    }

    fn blocks(
        &mut self,
        out: &mut Vec<u8>,
        [open, close]: [u8; 2],
        mut one: impl FnMut(&mut Self, &mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        out.push(open);
        let mut is_first = true;
        loop {
            let mut count = self.long()?;
            if count == 0 {
                out.push(close);
                return Ok(());
            }
            if count < 0 {
                // The size of the block in bytes, for those who pass over it.
                self.long()?;
                count = count.checked_neg().ok_or_else(Self::cut)?;
            }
            for _ in 0..count {
                // Items without a byte would let a short event make a long list.
                if self.0.is_empty() {
                    return Err(Self::cut());
                }
                if !std::mem::replace(&mut is_first, false) {
                    out.push(b',');
                }
                one(self, out)?;
            }
        }
    }
}

fn write(out: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) -> Result<()> {
    serde_json::to_writer(out, value).map_err(|e| Error::unexpected("cannot write a value as JSON").caused_by(e))
}

/// A number as what it means; one that no calendar has stays a number.
fn meant(number: i64, meaning: Meaning) -> Result<Json> {
    let time = match meaning {
        Meaning::Number => return Ok(number.into()),
        Meaning::Date => number.checked_mul(86_400_000).and_then(chrono::DateTime::from_timestamp_millis),
        Meaning::Millis | Meaning::Clock => chrono::DateTime::from_timestamp_millis(number),
        Meaning::Micros => chrono::DateTime::from_timestamp_micros(number),
    };
    let Some(time) = time else { return Ok(number.into()) };
    let form = match meaning {
        Meaning::Date => "%Y-%m-%d",
        Meaning::Clock => "%H:%M:%S%.3fZ",
        Meaning::Number | Meaning::Millis | Meaning::Micros => "%Y-%m-%dT%H:%M:%S%.fZ",
    };
    Ok(time.format(form).to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(schema: &str, bytes: &[u8]) -> Result<String> {
        let mut out = Vec::new();
        let mut bytes = Bytes(bytes);
        bytes.json(&Type::parse(schema)?, &mut out)?;
        Ok(String::from_utf8(out).expect("UTF-8"))
    }

    #[test]
    fn values_are_read_as_the_specification_writes_them() {
        assert_eq!(json(r#""long""#, &[0x7f]).expect("long"), "-64");
        assert_eq!(json(r#""long""#, &[0x80, 0x01]).expect("long"), "64");
        assert_eq!(json(r#""string""#, &[0x06, 0x66, 0x6f, 0x6f]).expect("text"), r#""foo""#);
        let record =
            r#"{"type":"record","name":"test","fields":[{"name":"a","type":"long"},{"name":"b","type":"string"}]}"#;
        assert_eq!(json(record, &[0x36, 0x06, 0x66, 0x6f, 0x6f]).expect("record"), r#"{"a":27,"b":"foo"}"#);
        assert_eq!(json(r#"{"type":"array","items":"long"}"#, &[0x04, 0x06, 0x36, 0x00]).expect("list"), "[3,27]");
        assert_eq!(
            json(r#"{"type":"array","items":"long"}"#, &[0x03, 0x04, 0x06, 0x36, 0x00]).expect("sized"),
            "[3,27]"
        );
        assert_eq!(json(r#"["null","string"]"#, &[0x02, 0x02, 0x61]).expect("union"), r#""a""#);
        assert_eq!(json(r#"["null","string"]"#, &[0x00]).expect("null"), "null");
        assert_eq!(json(r#"{"type":"int","logicalType":"date"}"#, &[0x02]).expect("date"), r#""1970-01-02""#);
        let time = json(r#"{"type":"long","logicalType":"timestamp-millis"}"#, &[0xe8, 0x07]).expect("time");
        assert_eq!(time, r#""1970-01-01T00:00:00.500Z""#);
        assert_eq!(json(r#"{"type":"double"}"#, &1000.25_f64.to_le_bytes()).expect("double"), "1000.25");
        let twice = r#"[{"type":"enum","name":"E","symbols":["A","B"]},"E"]"#;
        assert_eq!(json(twice, &[0x02, 0x02]).expect("named"), r#""B""#);
    }

    #[test]
    fn bytes_that_do_not_fit_their_schema_are_refused_without_a_long_wait() {
        for (schema, bytes) in [
            (r#""string""#, &[0x7f][..]),
            (r#""string""#, &[0xff; 12]),
            (r#""double""#, &[1]),
            (r#"["null"]"#, &[0x02]),
            (r#"{"type":"array","items":"null"}"#, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ] {
            assert_eq!(json(schema, bytes).expect_err(schema).kind(), ErrorKind::DataInvalid);
        }
        for schema in ["", r#""unknown""#, r#"{"type":"record"}"#, &"[".repeat(200)] {
            assert_eq!(Type::parse(schema).expect_err(schema).kind(), ErrorKind::DataInvalid);
        }
    }
}
