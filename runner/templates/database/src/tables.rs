//! Tables as streams.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use ingest_core::{CursorColumn, Error, ErrorKind, Estimate, Mode, Result, Safety, Stream};

use crate::client::Table;

/// The key of every table.
pub(crate) const ID: &str = "id";
/// The number of the transaction that wrote a row last: grows, and says what is new.
pub(crate) const CHANGED: &str = "changed";

/// The type of the source as Arrow's. A type that is not known is refused: nothing is bent in silence.
fn arrow(kind: &str) -> Result<DataType> {
    let decimal = kind.strip_prefix("numeric(").and_then(|rest| rest.strip_suffix(')'));
    if let Some((precision, scale)) = decimal.and_then(|digits| digits.split_once(',')) {
        let digits = (precision.trim().parse(), scale.trim().parse());
        if let (Ok(precision @ 1..=38), Ok(scale)) = digits {
            return Ok(DataType::Decimal128(precision, scale));
        }
    }
    Ok(match kind {
        "int8" => DataType::Int64,
        "text" => DataType::Utf8,
        "bool" => DataType::Boolean,
        "timestamptz" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        _ => {
            return Err(Error::new(ErrorKind::Unsupported, "a column has a type that is not known").with("type", kind));
        }
    })
}

pub(crate) fn stream(table: &Table) -> Result<Stream> {
    let required = |name: &str| name == ID || name == CHANGED;
    let field = |(name, kind): &(String, String)| Ok(Field::new(name, arrow(kind)?, !required(name)));
    let fields: Vec<Field> = table.columns.iter().map(field).collect::<Result<_>>()?;
    Ok(Stream {
        name: table.name.as_str().into(),
        schema: Arc::new(Schema::new(fields)),
        key: vec![ID.into()],
        modes: vec![Mode::Incremental, Mode::Full],
        // What is still open bounds what is read, so that no late transaction is missed.
        cursors: vec![CursorColumn { column: CHANGED.into(), safety: Safety::Snapshot }],
        group: None,
        estimate: Estimate { rows: Some(table.last.max(0).cast_unsigned()), ..Estimate::default() },
    })
}

/// The schema with the wanted columns alone.
pub(crate) fn cut(schema: &SchemaRef, wanted: Option<&[String]>) -> SchemaRef {
    let Some(wanted) = wanted else { return Arc::clone(schema) };
    let fields: Vec<_> = schema.fields().iter().filter(|field| wanted.contains(field.name())).cloned().collect();
    Arc::new(Schema::new(fields))
}
