//! The streams: name, columns, key, cursor.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::DataType::{self, Decimal128, Int64, Timestamp, Utf8};
use arrow_schema::{Field, Schema, SchemaRef, TimeUnit};
use ingest_core::{CLASS, CursorColumn, Error, Estimate, Mode, Result, Safety, Stream, StreamName};

/// The column by which every list can be asked for what is new.
pub(crate) const UPDATED: &str = "updated_at";

/// A stream: its name is its path below `/v1/`. `id` and `updated_at` are in all of them.
pub(crate) struct Def {
    name: &'static str,
    columns: &'static [(&'static str, DataType)],
    /// Columns of personal data.
    personal: &'static [&'static str],
}

pub(crate) const STREAMS: &[Def] = &[
    Def { name: "customers", columns: &[("name", Utf8), ("email", Utf8)], personal: &["name", "email"] },
    Def { name: "orders", columns: &[("customer_id", Int64), ("total", Decimal128(12, 2))], personal: &[] },
    Def { name: "refunds", columns: &[("order_id", Int64), ("amount", Decimal128(12, 2))], personal: &[] },
];

/// The stream of a name.
pub(crate) fn find(name: &StreamName) -> Result<&'static Def> {
    STREAMS.iter().find(|def| def.name == name.as_str()).ok_or_else(|| {
        Error::config(format!("there is no stream {name:?}")).hint("`ingest discover` lists the streams")
    })
}

impl Def {
    pub(crate) fn schema(&self) -> SchemaRef {
        let personal = |name: &str| self.personal.contains(&name);
        let class = |name: &str| personal(name).then(|| (CLASS.to_owned(), "pii".to_owned()));
        let field = |name: &str, kind: &DataType| {
            Field::new(name, kind.clone(), true).with_metadata(HashMap::from_iter(class(name)))
        };
        let mut fields = vec![Field::new("id", Int64, false)];
        fields.extend(self.columns.iter().map(|(name, kind)| field(name, kind)));
        fields.push(Field::new(UPDATED, Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false));
        Arc::new(Schema::new(fields))
    }

    pub(crate) fn stream(&self) -> Stream {
        Stream {
            name: self.name.into(),
            schema: self.schema(),
            key: vec!["id".into()],
            modes: vec![Mode::Incremental, Mode::Full],
            // The API says up to when its lists are complete. One that does not: `Safety::Lag`, or `Safety::Unsafe`.
            cursors: vec![CursorColumn { column: UPDATED.into(), safety: Safety::Watermark }],
            group: None,
            estimate: Estimate::default(),
        }
    }
}
