//! Documents into batches.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, Decimal128Builder, Float64Builder, Int32Builder, Int64Builder, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{Field, Schema, SchemaRef};
use bson::raw::{RawBsonRef, RawDocument};
use bson::spec::BinarySubtype;
use ingest_core::csv::values;
use ingest_core::{Error, ErrorKind, Result, columns};
use serde::{Deserialize, Serialize};

use crate::extended;
use crate::types::{Kind, is_exact, whole};

/// The field that every document has.
pub(crate) const ID: &str = "_id";
/// The column of the whole document, with `documents: json`.
pub(crate) const DOCUMENT: &str = "document";
/// The first and the last millisecond that tables hold: of the years 0001 and 9999.
const FIRST: i64 = -62_135_596_800_000;
const LAST: i64 = 253_402_300_799_999;

/// A column of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

impl Column {
    pub(crate) fn field(&self) -> Field {
        self.kind.field(&self.name, self.name != ID)
    }
}

/// How a document becomes a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Layout {
    /// A column for each field; what has none is rescued.
    #[default]
    Fields,
    /// Some of the columns: nothing else is looked at.
    Some,
    /// `_id`, and the whole document as JSON.
    Whole,
}

/// What happened to a document.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change<'a> {
    /// The word of `_ingest_op`.
    pub(crate) op: &'a str,
    pub(crate) seq: &'a str,
    /// The document is its key alone.
    pub(crate) partial: bool,
}

/// Collects the rows of one stream.
pub(crate) struct Rows {
    columns: Vec<Column>,
    places: HashMap<String, usize>,
    layout: Layout,
    values: Vec<Values>,
    rescued: StringBuilder,
    changes: Option<Changes>,
    schema: SchemaRef,
    bytes: usize,
    count: usize,
}

/// The columns of a log of changes.
#[derive(Default)]
struct Changes {
    ops: StringBuilder,
    seqs: StringBuilder,
    absent: BinaryBuilder,
}

enum Values {
    Boolean(BooleanBuilder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float64(Float64Builder),
    Decimal(Decimal128Builder),
    Timestamp(TimestampMicrosecondBuilder),
    Text(StringBuilder),
    Binary(BinaryBuilder),
}

/// A value as its column takes it.
enum Cell<'a> {
    Null,
    Boolean(bool),
    Int32(i32),
    Int64(i64),
    Float64(f64),
    Decimal(i128),
    Micros(i64),
    Text(Cow<'a, str>),
    Binary(&'a [u8]),
}

impl Rows {
    /// Rows of these columns; `changes`: with what happened to each, and in which order.
    pub(crate) fn new(columns: Vec<Column>, layout: Layout, changes: bool) -> Result<Self> {
        // A row that says that its document is gone carries nothing but its key.
        let mut fields: Vec<Field> = columns.iter().map(Column::field).collect();
        fields.push(columns::field(columns::RESCUED));
        if changes {
            fields.extend([columns::OP, columns::SEQ, columns::ABSENT].map(columns::field));
        }
        Ok(Self {
            places: columns.iter().enumerate().map(|(i, column)| (column.name.clone(), i)).collect(),
            values: columns.iter().map(|column| Values::of(column.kind)).collect::<Result<_>>()?,
            columns,
            layout,
            rescued: StringBuilder::new(),
            changes: changes.then(Changes::default),
            schema: Arc::new(Schema::new(fields)),
            bytes: 0,
            count: 0,
        })
    }

    /// Bytes of the rows that wait, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a document. An error adds nothing.
    ///
    /// # Errors
    /// `DataInvalid` for bytes that are no BSON; `SchemaChanged` for an `_id` that its column does not hold.
    pub(crate) fn push(&mut self, document: &RawDocument, change: Option<Change<'_>>) -> Result<()> {
        let partial = change.is_some_and(|change| change.partial);
        let (cells, rescued) = match self.layout {
            Layout::Whole => (self.whole(document, partial)?, None),
            _ => self.fields(document)?,
        };
        for (values, cell) in self.values.iter_mut().zip(cells) {
            values.push(cell)?;
        }
        self.rescued.append_option(rescued);
        if let (Some(changes), Some(change)) = (&mut self.changes, change) {
            changes.ops.append_value(change.op);
            changes.seqs.append_value(change.seq);
            changes.absent.append_option(partial.then(|| all_but_key(&self.columns)));
        }
        self.bytes += document.as_bytes().len() + 16 * self.columns.len();
        self.count += 1;
        Ok(())
    }

    /// Takes the rows that wait; `None` where there are none.
    pub(crate) fn finish(&mut self) -> Result<Option<RecordBatch>> {
        if self.count == 0 {
            return Ok(None);
        }
        (self.count, self.bytes) = (0, 0);
        let mut arrays: Vec<ArrayRef> = self.values.iter_mut().map(Values::finish).collect();
        arrays.push(Arc::new(self.rescued.finish()));
        if let Some(changes) = &mut self.changes {
            arrays.push(Arc::new(changes.ops.finish()));
            arrays.push(Arc::new(changes.seqs.finish()));
            arrays.push(Arc::new(changes.absent.finish()));
        }
        Ok(Some(RecordBatch::try_new(self.schema.clone(), arrays)?))
    }

    /// A cell for each column, and the object of what has none. A field that occurs twice counts as it stands last.
    fn fields<'a>(&self, document: &'a RawDocument) -> Result<(Vec<Cell<'a>>, Option<String>)> {
        let mut slots: Vec<Option<RawBsonRef<'a>>> = vec![None; self.columns.len()];
        let (mut rescued, mut next) = (Vec::new(), 0);
        for member in document.iter() {
            let (name, value) = member.map_err(extended::unreadable)?;
            let name = name.as_str();
            // Documents of a collection mostly have the same fields in the same order.
            let place = match self.columns.get(next) {
                Some(column) if column.name == name => Some(next),
                _ => self.places.get(name).copied(),
            };
            match place {
                Some(place) => {
                    slots[place] = Some(value);
                    next = place + 1;
                }
                None if self.layout == Layout::Some || value == RawBsonRef::Null => {}
                None => extended::member(name, value, &mut rescued)?,
            }
        }
        let mut cells = Vec::with_capacity(slots.len());
        for (column, slot) in self.columns.iter().zip(slots) {
            let cell = match slot {
                None | Some(RawBsonRef::Null) => Some(Cell::Null),
                Some(value) => cell(column.kind, value)?,
            };
            match (cell, slot) {
                (None | Some(Cell::Null), _) if column.name == ID && column.kind != Kind::Json => {
                    return Err(other_id(column.kind));
                }
                (Some(cell), _) => cells.push(cell),
                (None, Some(value)) => {
                    extended::member(&column.name, value, &mut rescued)?;
                    cells.push(Cell::Null);
                }
                (None, None) => cells.push(Cell::Null),
            }
        }
        if rescued.is_empty() {
            return Ok((cells, None));
        }
        rescued.push(b'}');
        Ok((cells, Some(extended::finished(rescued)?)))
    }

    /// `_id` and the document.
    fn whole<'a>(&self, document: &'a RawDocument, partial: bool) -> Result<Vec<Cell<'a>>> {
        let mut cells = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            let id = || document.get(ID).map_err(extended::unreadable);
            cells.push(match (column.name.as_str(), partial) {
                (ID, _) => match id()?.map(|id| cell(column.kind, id)).transpose()?.flatten() {
                    Some(cell) => cell,
                    None => return Err(other_id(column.kind)),
                },
                (_, true) => Cell::Null,
                (_, false) => Cell::Text(extended::document(document)?.into()),
            });
        }
        Ok(cells)
    }
}

/// The bits of `_ingest_absent` for a row that is its key alone.
fn all_but_key(columns: &[Column]) -> Vec<u8> {
    let mut bits = vec![0_u8; columns.len().div_ceil(8)];
    for (i, _) in columns.iter().enumerate().filter(|(_, column)| column.name != ID) {
        bits[i / 8] |= 1 << (i % 8);
    }
    bits
}

fn other_id(kind: Kind) -> Error {
    Error::new(ErrorKind::SchemaChanged, "a document has an _id of another type than its column")
        .with("type", kind)
        .hint("set `types: {STREAM: {_id: json}}` of the source, which holds every _id, and load the stream again with `ingest run --resync STREAM`")
}

/// A value as a column of this kind takes it; `None` where it does not.
fn cell<'a>(kind: Kind, value: RawBsonRef<'a>) -> Result<Option<Cell<'a>>> {
    Ok(match (kind, value) {
        (Kind::Json, value) => Some(Cell::Text(extended::text(value)?.into())),
        (Kind::Boolean, RawBsonRef::Boolean(flag)) => Some(Cell::Boolean(flag)),
        (Kind::Int32, value) => integer(value).and_then(|number| i32::try_from(number).ok()).map(Cell::Int32),
        (Kind::Int64, value) => integer(value).map(Cell::Int64),
        (Kind::Float64, RawBsonRef::Double(number)) => Some(Cell::Float64(number)),
        (Kind::Float64, value) => {
            integer(value).filter(|number| is_exact(*number)).map(|number| Cell::Float64(number as f64))
        }
        (Kind::Number, value) => digits(value).map(|text| Cell::Text(text.into())),
        (Kind::Decimal(precision, scale), value) => {
            digits(value).and_then(|text| values::decimal(&text, precision, scale, true)).map(Cell::Decimal)
        }
        (Kind::Text, RawBsonRef::String(text)) => Some(Cell::Text(text.into())),
        (Kind::ObjectId, RawBsonRef::ObjectId(id)) => Some(Cell::Text(id.to_hex().into())),
        (Kind::Timestamp, RawBsonRef::DateTime(time)) => {
            let millis = time.timestamp_millis();
            (FIRST..=LAST).contains(&millis).then(|| Cell::Micros(millis * 1_000))
        }
        (Kind::Uuid, RawBsonRef::Binary(binary)) if binary.subtype == BinarySubtype::Uuid => {
            uuid::Uuid::from_slice(binary.bytes).ok().map(|id| Cell::Text(id.to_string().into()))
        }
        (Kind::Binary(subtype), RawBsonRef::Binary(binary)) if u8::from(binary.subtype) == subtype => {
            Some(Cell::Binary(binary.bytes))
        }
        _ => None,
    })
}

/// A whole number, however it is kept.
fn integer(value: RawBsonRef<'_>) -> Option<i64> {
    match value {
        RawBsonRef::Int32(number) => Some(number.into()),
        RawBsonRef::Int64(number) => Some(number),
        RawBsonRef::Double(number) => whole(number),
        _ => None,
    }
}

/// The digits of a decimal or of a whole number.
fn digits(value: RawBsonRef<'_>) -> Option<String> {
    match value {
        RawBsonRef::Decimal128(number) => Some(number.to_string()),
        RawBsonRef::Int32(number) => Some(number.to_string()),
        RawBsonRef::Int64(number) => Some(number.to_string()),
        _ => None,
    }
}

impl Values {
    fn of(kind: Kind) -> Result<Self> {
        Ok(match kind {
            Kind::Boolean => Self::Boolean(BooleanBuilder::new()),
            Kind::Int32 => Self::Int32(Int32Builder::new()),
            Kind::Int64 => Self::Int64(Int64Builder::new()),
            Kind::Float64 => Self::Float64(Float64Builder::new()),
            Kind::Decimal(precision, scale) => {
                Self::Decimal(Decimal128Builder::new().with_precision_and_scale(precision, scale)?)
            }
            Kind::Timestamp => Self::Timestamp(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
            Kind::Binary(_) => Self::Binary(BinaryBuilder::new()),
            Kind::Number | Kind::Text | Kind::ObjectId | Kind::Uuid | Kind::Json => Self::Text(StringBuilder::new()),
        })
    }

    fn push(&mut self, cell: Cell<'_>) -> Result<()> {
        match (self, cell) {
            (Self::Boolean(values), Cell::Boolean(value)) => values.append_value(value),
            (Self::Boolean(values), Cell::Null) => values.append_null(),
            (Self::Int32(values), Cell::Int32(value)) => values.append_value(value),
            (Self::Int32(values), Cell::Null) => values.append_null(),
            (Self::Int64(values), Cell::Int64(value)) => values.append_value(value),
            (Self::Int64(values), Cell::Null) => values.append_null(),
            (Self::Float64(values), Cell::Float64(value)) => values.append_value(value),
            (Self::Float64(values), Cell::Null) => values.append_null(),
            (Self::Decimal(values), Cell::Decimal(value)) => values.append_value(value),
            (Self::Decimal(values), Cell::Null) => values.append_null(),
            (Self::Timestamp(values), Cell::Micros(value)) => values.append_value(value),
            (Self::Timestamp(values), Cell::Null) => values.append_null(),
            (Self::Text(values), Cell::Text(value)) => values.append_value(value),
            (Self::Text(values), Cell::Null) => values.append_null(),
            (Self::Binary(values), Cell::Binary(value)) => values.append_value(value),
            (Self::Binary(values), Cell::Null) => values.append_null(),
            _ => return Err(Error::unexpected("a value was made for a column of another type")),
        }
        Ok(())
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Boolean(values) => Arc::new(values.finish()),
            Self::Int32(values) => Arc::new(values.finish()),
            Self::Int64(values) => Arc::new(values.finish()),
            Self::Float64(values) => Arc::new(values.finish()),
            Self::Decimal(values) => Arc::new(values.finish()),
            Self::Timestamp(values) => Arc::new(values.finish()),
            Self::Text(values) => Arc::new(values.finish()),
            Self::Binary(values) => Arc::new(values.finish()),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::util::display::{ArrayFormatter, FormatOptions};
    use arrow_array::Array;
    use bson::raw::RawDocumentBuf;
    use bson::{Binary, Bson, DateTime, Decimal128, Document, doc};

    use super::*;

    fn columns(kinds: &[(&str, Kind)]) -> Vec<Column> {
        kinds.iter().map(|(name, kind)| Column { name: (*name).to_owned(), kind: *kind }).collect()
    }

    fn raw(document: &Document) -> RawDocumentBuf {
        RawDocumentBuf::try_from(document).expect("BSON")
    }

    /// The values of a row, and `_ingest_rescued`.
    fn row(batch: &RecordBatch, row: usize) -> Vec<Option<String>> {
        let text = |array: &ArrayRef| {
            let options = FormatOptions::default();
            let formatter = ArrayFormatter::try_new(array, &options);
            (!array.is_null(row))
                .then(|| formatter.map_or("a time".into(), |formatter| formatter.value(row).to_string()))
        };
        batch.columns().iter().map(text).collect()
    }

    #[test]
    fn values_that_do_not_fit_are_rescued_as_they_were() {
        let kinds = [
            ("_id", Kind::Int32),
            ("b", Kind::Boolean),
            ("l", Kind::Int64),
            ("d", Kind::Float64),
            ("n", Kind::Number),
            ("m", Kind::Decimal(5, 2)),
            ("t", Kind::Text),
            ("w", Kind::Timestamp),
            ("u", Kind::Uuid),
            ("x", Kind::Binary(0)),
            ("j", Kind::Json),
        ];
        let mut rows = Rows::new(columns(&kinds), Layout::Fields, false).expect("columns");
        let decimal = |text: &str| text.parse::<Decimal128>().expect("a decimal");
        let binary = |subtype, bytes: &[u8]| Binary { subtype, bytes: bytes.to_vec() };
        let good = doc! {
            "_id": 1, "b": true, "l": 7.0, "d": 3, "n": decimal("1.50"), "m": decimal("-12.3"), "t": "x", "w": DateTime::from_millis(0),
            "u": binary(BinarySubtype::Uuid, &[1; 16]), "x": binary(BinarySubtype::Generic, &[255]), "j": [1_i64],
        };
        rows.push(&raw(&good), None).expect("a row");
        let odd = doc! {
            "_id": 2_i64, "b": 1, "l": 7.5, "d": i64::MAX, "n": 1.5, "m": decimal("1.234"), "t": 5, "w": DateTime::MAX,
            "u": binary(BinarySubtype::UuidOld, &[1; 16]), "x": binary(BinarySubtype::Md5, &[1]), "j": Bson::Null, "new": {"a": 1}, "none": Bson::Null,
        };
        rows.push(&raw(&odd), None).expect("a row");
        let batch = rows.finish().expect("a batch").expect("rows");
        let found = row(&batch, 0);
        let texts: Vec<&str> = found.iter().map(|text| text.as_deref().unwrap_or("null")).collect();
        assert_eq!(texts[..7], ["1", "true", "7", "3.0", "1.50", "-12.30", "x"]);
        assert_eq!(texts[8..], ["01010101-0101-0101-0101-010101010101", "ff", r#"[{"$numberLong":"1"}]"#, "null"]);
        let found = row(&batch, 1);
        assert_eq!(found[0].as_deref(), Some("2"));
        assert!(found[1..11].iter().all(Option::is_none), "{found:?}");
        let rescued: Document = serde_json::from_str::<ingest_core::Json>(found[11].as_deref().expect("rescued"))
            .map(|json| Bson::try_from(json).expect("JSON").as_document().expect("an object").clone())
            .expect("JSON");
        let mut expected = odd;
        for gone in ["_id", "j", "none"] {
            expected.remove(gone);
        }
        assert_eq!(rescued.iter().collect::<std::collections::BTreeMap<_, _>>(), expected.iter().collect());
    }

    #[test]
    fn an_id_of_another_type_is_an_error_and_adds_nothing() {
        let mut rows =
            Rows::new(columns(&[("_id", Kind::ObjectId), ("a", Kind::Int32)]), Layout::Fields, false).expect("columns");
        let error = rows.push(&raw(&doc! { "_id": "text", "a": 1 }), None).expect_err("another type");
        assert_eq!(error.kind(), ErrorKind::SchemaChanged);
        let error = rows.push(&raw(&doc! { "a": 1 }), None).expect_err("none");
        assert_eq!(error.kind(), ErrorKind::SchemaChanged);
        assert!(rows.finish().expect("no batch").is_none());
    }

    #[test]
    fn bytes_that_are_no_document_add_nothing() {
        let mut rows =
            Rows::new(columns(&[("_id", Kind::Int32), ("a", Kind::Text)]), Layout::Fields, false).expect("columns");
        let mut bytes = raw(&doc! { "_id": 1, "a": "xyz" }).into_bytes();
        let at = bytes.windows(3).position(|three| three == b"xyz").expect("the text");
        bytes[at] = 0xff;
        let broken = RawDocument::from_bytes(&bytes).expect("a frame");
        assert_eq!(rows.push(broken, None).expect_err("no UTF-8").kind(), ErrorKind::DataInvalid);
        assert!(rows.finish().expect("no batch").is_none());
    }

    #[test]
    fn a_deleted_document_carries_its_key_alone() {
        let kinds = [("a", Kind::Int32), ("_id", Kind::Int32), ("b", Kind::Json)];
        let mut rows = Rows::new(columns(&kinds), Layout::Fields, true).expect("columns");
        rows.push(&raw(&doc! { "_id": 1 }), Some(Change { op: "D", seq: "7", partial: true })).expect("a row");
        let batch = rows.finish().expect("a batch").expect("rows");
        let found = row(&batch, 0);
        assert_eq!(found[1].as_deref(), Some("1"));
        assert_eq!(found[4..], [Some("D".to_owned()), Some("7".into()), Some("05".into())]);
    }

    #[test]
    fn a_whole_document_is_one_column() {
        let kinds = [("_id", Kind::ObjectId), (DOCUMENT, Kind::Json)];
        let mut rows = Rows::new(columns(&kinds), Layout::Whole, false).expect("columns");
        let id = bson::oid::ObjectId::from_bytes([1; 12]);
        rows.push(&raw(&doc! { "_id": id, "document": 1, "x": [] }), None).expect("a row");
        let batch = rows.finish().expect("a batch").expect("rows");
        let document = r#"{"_id":{"$oid":"010101010101010101010101"},"document":{"$numberInt":"1"},"x":[]}"#;
        assert_eq!(row(&batch, 0), [Some("01".repeat(12)), Some(document.to_owned()), None]);
    }
}
