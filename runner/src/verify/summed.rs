//! Sources that add their rows up by themselves.

use std::collections::BTreeMap;

use arrow_array::Array;
use arrow_schema::{DataType, Schema};
use ingest_core::columns::RESCUED;
use ingest_core::lake::Table;
use ingest_core::{Result, SourceSums};

use super::sums::Sums;
use super::{held, holds_back, texts};
use crate::conform::column_of;
use crate::run::Target;
use crate::session::Session;

/// What a source and its table have added up to, each by itself.
#[derive(Debug)]
pub enum Summed {
    /// The source does not do that, or does not say why: it is read.
    No(Option<String>),
    /// Something differs: it may be a spelling, so the source is read.
    Differs,
    /// The rows have the same values in these columns.
    Equal {
        /// What they add up to.
        sums: Sums,
        /// The columns, in the order of the sums.
        columns: Vec<String>,
    },
}

/// Asks the source, where it would say the same as reading it, and adds up the table.
///
/// # Errors
/// Whatever the lake says, and `Cancelled`.
pub async fn summed(
    session: &Session,
    target: &Target,
    table: &dyn Table,
    columns: &[String],
    key: &[String],
    cursor: Option<&str>,
) -> Result<Summed> {
    // Rows that are held back are not in the table; of rows with one key, which only the configuration names, one is.
    let masked_key = target.stream.key.iter().any(|name| target.values.is_masked(name));
    if holds_back(target) || target.options.key.is_some() || masked_key || key.len() < target.stream.key.len() {
        return Ok(Summed::No(None));
    }
    let names = spelled(target, &table.schema(), columns);
    if names.is_empty() || !key.iter().all(|name| names.values().any(|spelled| spelled == name)) {
        return Ok(Summed::No(None));
    }
    let asked: Vec<String> = names.keys().cloned().collect();
    let answer = session.source.sums(&target.stream, target.options.filter.as_deref(), &asked).await;
    let given = match answer {
        Ok(Some(given)) => given,
        Ok(None) => return Ok(Summed::No(None)),
        Err(error) if session.cancel.is_cancelled() => return Err(error),
        Err(error) => {
            tracing::warn!(error = ?error, stream = %target.stream.name, "a source could not add up its rows");
            return Ok(Summed::No(Some(format!(
                "the source could not add up its rows, and was read: {}",
                error.message()
            ))));
        }
    };
    compare(table, target, given, &names, key, cursor, session.memory).await
}

/// The columns that can be asked for: the table's names by the source's.
fn spelled(target: &Target, table: &Schema, columns: &[String]) -> BTreeMap<String, String> {
    let one = |name: &String| {
        let spelled = column_of(table, name).filter(|spelled| columns.contains(spelled))?;
        let has_text = texts::has_text(table.field_with_name(&spelled).ok()?.data_type());
        (has_text && !target.values.is_masked(name)).then(|| (name.clone(), spelled))
    };
    target.stream.schema.fields().iter().filter_map(|field| one(field.name())).collect()
}

async fn compare(
    table: &dyn Table,
    target: &Target,
    given: SourceSums,
    names: &BTreeMap<String, String>,
    key: &[String],
    cursor: Option<&str>,
    memory: u64,
) -> Result<Summed> {
    let answered = given.columns.iter().filter_map(|(name, sum)| Some((names.get(name)?.clone(), *sum)));
    let (columns, sums): (Vec<String>, Vec<u128>) = answered.unzip();
    let given = Sums { rows: given.rows, keys: given.keys, columns: sums };
    let schema = table.schema();
    let rescues = schema.column_with_name(RESCUED).is_some_and(|(_, field)| *field.data_type() != DataType::Null);
    let rescued: &[String] = if rescues { &[RESCUED.to_owned()] } else { &[] };
    let read: Vec<String> = columns.iter().chain(rescued).cloned().collect();
    let mut all_fit = true;
    let held = held::sums(table, target.write, &read, key, cursor, memory, &mut |batch, only| {
        if let Some(rescued) = batch.column_by_name(RESCUED) {
            // A value that did not fit stands there, and null in its column.
            all_fit &=
                (0..batch.num_rows()).all(|row| rescued.is_null(row) || only.is_some_and(|only| !only.value(row)));
        }
        texts::add(batch, &columns, key, only)
    })
    .await?;
    Ok(if all_fit && held == given { Summed::Equal { sums: given, columns } } else { Summed::Differs })
}
