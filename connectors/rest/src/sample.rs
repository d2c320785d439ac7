//! What streams look like: their declared columns, and those that a sample of records shows; and the rows of parents.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, Field};
use futures::future::BoxFuture;
use ingest_core::json::{FORMAT, SOURCE_NAME};
use ingest_core::{Error, ErrorKind, Result, columns};
use serde_json::value::RawValue;

use crate::Rest;
use crate::manifest::Missing;
use crate::state::ParentRow;
use crate::streams::{Def, Parent, kept_fields, schema_of, takes};
use crate::walk::{Bounds, Page, Walk, ask};

/// Columns that a sample may show: they are part of every slice, whose work has a limit.
const MOST_COLUMNS: usize = 500;
/// Parents whose lists are looked at for a sample.
const MOST_PARENTS: usize = 20;

/// All columns of a stream; asks the source only where a sample is wanted.
///
/// # Errors
/// `DataInvalid` where there is nothing to take a sample of, and what requests fail with.
pub(crate) fn fields<'a>(rest: &'a Rest, def: &'a Arc<Def>) -> BoxFuture<'a, Result<Vec<Field>>> {
    Box::pin(async move {
        let kept = match &def.parent {
            Some(parent) => kept_fields(parent, &fields(rest, rest.def(parent.stream.as_str())?).await?),
            None => Vec::new(),
        };
        let sampled = if def.sample > 0 { sampled(rest, def).await? } else { Vec::new() };
        let fields = def.arranged(kept, sampled);
        for key in def.key.iter().chain(&def.deleted) {
            if !fields.iter().any(|field| field.name() == key) {
                return Err(Error::config("a column that the manifest names is in no record of the sample")
                    .with("stream", &def.name)
                    .with("column", key)
                    .hint("correct its name, or declare it under `columns`"));
            }
        }
        if fields.is_empty() {
            return Err(Error::config("a stream without records shows no columns")
                .with("stream", &def.name)
                .hint("declare them under `columns` in the manifest"));
        }
        Ok(fields)
    })
}

/// The fields that are seen in the first records, those that are not declared.
async fn sampled(rest: &Rest, def: &Arc<Def>) -> Result<Vec<Field>> {
    let mut seen: BTreeMap<String, crate::types::Seen> = BTreeMap::new();
    let mut left = def.sample as usize;
    let parents = match &def.parent {
        Some(parent) => parents(rest, parent, MOST_PARENTS).await?.into_iter().map(Some).collect(),
        None => vec![None],
    };
    // The records come whole in `_ingest_rescued`, but for the field that leads to the next page.
    let lead: Vec<Field> = def.lead().map(raw_field).into_iter().collect();
    for parent in parents {
        if left == 0 {
            break;
        }
        let first = ask(def, Bounds::default(), parent.as_ref())?;
        let mut walk = Walk::start(&rest.api, def, first, schema_of(lead.clone()), Bounds::default(), None)?;
        while let Some(page) = page_of(&mut walk, def).await? {
            for row in 0..page.rows.num_rows().min(left) {
                look(&page.rows, row, &mut seen)?;
            }
            left = left.saturating_sub(page.rows.num_rows());
            if left == 0 {
                break;
            }
            if seen.len() > MOST_COLUMNS {
                return Err(Error::new(
                    ErrorKind::LimitExceeded,
                    "records have more fields than a table may have columns",
                )
                .with("stream", &def.name)
                .hint("declare those that matter under `columns`; the others go to _ingest_rescued"));
            }
        }
    }
    let declared = |name: &str| def.fields.iter().any(|field| takes(field) == name);
    let fields =
        seen.into_iter().filter(|(name, _)| !name.is_empty() && !columns::is_reserved(name) && !declared(name));
    Ok(fields.map(|(name, seen)| seen.column_type().field(&name, true)).collect())
}

/// The next page; none where the list of a parent is not there and need not be.
pub(crate) async fn page_of(walk: &mut Walk, def: &Def) -> Result<Option<Page>> {
    let skips = def.parent.as_ref().is_some_and(|parent| parent.missing == Missing::Skip);
    match walk.next().await {
        Err(error) if skips && error.kind() == ErrorKind::NotFound && walk.at_start() => Ok(None),
        page => page,
    }
}

fn look(rows: &RecordBatch, row: usize, seen: &mut BTreeMap<String, crate::types::Seen>) -> Result<()> {
    for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        let texts = column.as_string::<i32>();
        if texts.is_null(row) {
            continue;
        }
        if field.name() != columns::RESCUED {
            seen.entry(field.name().clone()).or_default().look(texts.value(row));
            continue;
        }
        let record: BTreeMap<String, &RawValue> = serde_json::from_str(texts.value(row))
            .map_err(|_| Error::unexpected("a record of a sample is no JSON object"))?;
        for (name, value) in record {
            seen.entry(name).or_default().look(value.get());
        }
    }
    Ok(())
}

/// A column that holds the JSON text of a field.
fn raw_field(from: &str) -> Field {
    let metadata = [(FORMAT.to_owned(), "json".to_owned()), (SOURCE_NAME.to_owned(), from.to_owned())];
    Field::new(from, DataType::Utf8, true).with_metadata(metadata.into_iter().collect())
}

/// The rows of a parent stream, cut to the columns that its children need; the first `most` of them.
///
/// # Errors
/// What requests fail with.
pub(crate) fn parents<'a>(rest: &'a Rest, needed: &'a Parent, most: usize) -> BoxFuture<'a, Result<Vec<ParentRow>>> {
    Box::pin(async move {
        let def = rest.def(needed.stream.as_str())?;
        let above = match &def.parent {
            Some(above) => parents(rest, above, most).await?.into_iter().map(Some).collect(),
            None => vec![None],
        };
        let own: Vec<Field> = needed
            .needs
            .iter()
            .filter(|column| def.parent.as_ref().is_none_or(|parent| !parent.keep.contains_key(*column)))
            .map(|column| {
                let from = def.fields.iter().find(|field| field.name() == column).map_or(column.as_str(), |f| takes(f));
                raw_field(from).with_name(column)
            })
            .collect();
        let mut fields = own.clone();
        // What leads to the next page has to be read as well.
        if let Some(from) = def.lead().filter(|from| !own.iter().any(|field| takes(field) == *from)) {
            fields.push(raw_field(from));
        }
        let mut rows = Vec::new();
        for grand in &above {
            let first = ask(def, Bounds::default(), grand.as_ref())?;
            let schema = schema_of(fields.clone());
            let mut walk = Walk::start(&rest.api, def, first, schema, Bounds::default(), None)?;
            while let Some(page) = page_of(&mut walk, def).await? {
                for row in 0..page.rows.num_rows() {
                    rows.push(parent_row(&page.rows, row, own.len(), def, needed, grand.as_ref()));
                    if rows.len() >= most {
                        return Ok(rows);
                    }
                }
            }
        }
        Ok(rows)
    })
}

fn parent_row(
    rows: &RecordBatch,
    row: usize,
    columns: usize,
    def: &Def,
    needed: &Parent,
    grand: Option<&ParentRow>,
) -> ParentRow {
    let mut out = ParentRow::new();
    for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()).take(columns) {
        let texts = column.as_string::<i32>();
        if texts.is_valid(row) {
            out.insert(field.name().clone(), texts.value(row).to_owned());
        }
    }
    let kept = def.parent.iter().flat_map(|parent| &parent.keep);
    for (name, column) in kept.filter(|(name, _)| needed.needs.contains(name)) {
        if let Some(raw) = grand.and_then(|grand| grand.get(column)) {
            out.insert(name.clone(), raw.clone());
        }
    }
    out
}
