//! Names of columns in the table.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Fields, Schema};
use ingest_core::{Error, Result, StreamName, columns, table_name};

/// Characters that the table format forbids in the name of a column. Source: the rules of Delta tables without column
/// mapping, which hold for Parquet files that Spark shall read.
const FORBIDDEN: &str = " ,;{}()\n\t=";

/// The name of a column in the table: the source's spelling, unless it holds a character that the format forbids; then
/// the rule of table names.
pub(crate) fn stored_name(name: &str) -> String {
    if name.contains(|c: char| c.is_control() || FORBIDDEN.contains(c)) { table_name(name) } else { name.to_owned() }
}

/// The column of a table that a name of the source stands for.
pub(crate) fn column_of(schema: &Schema, name: &str) -> Option<String> {
    schema.fields().iter().map(|field| field.name()).find(|field| same_column(field, name)).cloned()
}

/// Whether two names stand for one column of a table, where case does not part names.
pub(crate) fn same_column(a: &str, b: &str) -> bool {
    a == b || folded(a) == folded(b)
}

/// What is compared: the stored name, in lower case.
pub(super) fn folded(name: &str) -> String {
    stored_name(name).to_lowercase()
}

/// The fields of a schema under their stored names, nested ones too.
///
/// # Errors
/// `ConfigInvalid` for an empty name, two columns with one stored name in any case, or a name of ours.
pub(super) fn stored_fields(stream: &StreamName, fields: &Fields) -> Result<Fields> {
    for field in fields {
        if columns::is_reserved(&folded(field.name())) {
            return Err(Error::config("a column of the source has a name that is kept for columns of ours")
                .with("stream", stream)
                .with("column", field.name())
                .hint("names that begin with `_ingest_`, and `_ingested_at`, are ours: rename the column at the source, or leave it out with `columns`"));
        }
    }
    rename(stream, "", fields)
}

fn rename(stream: &StreamName, parent: &str, fields: &Fields) -> Result<Fields> {
    let mut seen: HashMap<String, &str> = HashMap::with_capacity(fields.len());
    let mut renamed = Vec::with_capacity(fields.len());
    for field in fields {
        let path = format!("{parent}{}", field.name());
        if field.name().is_empty() {
            return Err(Error::config("a column of the source has an empty name")
                .with("stream", stream)
                .with("column", format!("{path:?}"))
                .hint("name the column at the source (a header line, an alias), or leave it out with `columns`"));
        }
        if let Some(other) = seen.insert(folded(field.name()), field.name()) {
            return Err(Error::config("two columns of the source get the same name in the table")
                .with("stream", stream)
                .with("column", path)
                .with("other", format!("{parent}{other}"))
                .with("name", stored_name(field.name()))
                .hint(
                    "case does not part names in a table: rename one at the source, or leave it out with `columns`",
                ));
        }
        let data_type = rename_type(stream, &format!("{path}."), field.data_type())?;
        renamed.push(Arc::new(
            Field::new(stored_name(field.name()), data_type, true).with_metadata(field.metadata().clone()),
        ));
    }
    Ok(renamed.into())
}

/// The type with the stored names of the fields in it.
fn rename_type(stream: &StreamName, parent: &str, data_type: &DataType) -> Result<DataType> {
    use DataType as D;
    let inner = |field: &FieldRef| -> Result<FieldRef> {
        let data_type = rename_type(stream, parent, field.data_type())?;
        Ok(Arc::new(field.as_ref().clone().with_data_type(data_type)))
    };
    Ok(match data_type {
        D::Struct(fields) => {
            let renamed = rename(stream, parent, fields)?;
            // Only names change here: nullability within is the array's own.
            let fields = renamed
                .iter()
                .zip(fields)
                .map(|(new, old)| Arc::new(new.as_ref().clone().with_nullable(old.is_nullable())));
            D::Struct(fields.collect())
        }
        D::List(field) => D::List(inner(field)?),
        D::LargeList(field) => D::LargeList(inner(field)?),
        D::ListView(field) => D::ListView(inner(field)?),
        D::LargeListView(field) => D::LargeListView(inner(field)?),
        D::FixedSizeList(field, size) => D::FixedSizeList(inner(field)?, *size),
        // That the keys are sorted is nothing that a table knows.
        D::Map(field, _) => D::Map(inner(field)?, false),
        other => other.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_unless_the_format_forbids_it() {
        for name in ["Id", "ordre_n°", "a.b", "a-b", "名前", "select", "1st", "a\"b", "a/b"] {
            assert_eq!(stored_name(name), name);
        }
        assert_eq!(stored_name("Order Total (EUR)"), "order_total__eur_");
        assert_eq!(stored_name("a\u{7}b"), "a_b");
        assert_eq!(stored_name("a;b"), "a_b");
    }
}
