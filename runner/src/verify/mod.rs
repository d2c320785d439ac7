//! `ingest verify`: compares streams of a source with their tables, by counts, hashes of keys and checksums of columns.
//!
//! The source is read as a load reads it, checks, masks and types included, and added up instead of written; or it adds up by
//! itself; or it is asked for a count alone. Sums do not depend on the order of rows, so nothing is sorted and nothing is kept.
//!
//! | module | what it does |
//! | --- | --- |
//! | `sums` | adds rows up |
//! | `given` | what the source gives |
//! | `summed`, `texts` | sources that add up by themselves, and tables as these do it |
//! | `held` | what the table holds |

mod given;
mod held;
mod summed;
mod sums;
mod texts;

use std::sync::Arc;

use arrow_schema::{FieldRef, Schema};
use ingest_catalog::{Compared, ComparedColumn, VerifiedStream};
use ingest_core::columns::{CURRENT, EFFECTIVE, EXPIRY, RESCUED, is_reserved};
use ingest_core::lake::Table;
use ingest_core::{Error, ErrorKind, Mode, Result, Stream};

use crate::commit::bronze;
use crate::config::{OnFail, StreamOptions};
use crate::conform::{column_of, same_column};
use crate::run::{Target, conform_to};
use crate::session::Session;
use given::Given;
use summed::{Summed, summed};
use sums::{Adder, Sums};

/// Compares a stream with its table.
///
/// # Errors
/// `NotFound` where there is no table; `Unsupported` for a stream that cannot be read in full; whatever source and lake say.
pub async fn verify(session: &Session, target: &Target, counts: bool) -> Result<VerifiedStream> {
    let name = &target.stream.name;
    let folder = bronze(&session.config.name, &name.table());
    let Some(table) = session.lake.format.open(&folder).await? else {
        return Err(Error::new(ErrorKind::NotFound, "the stream has no table yet")
            .with("stream", name)
            .hint("`ingest run` loads it"));
    };
    if !target.stream.modes.contains(&Mode::Full) {
        return Err(Error::new(ErrorKind::Unsupported, "the stream cannot be read in full")
            .with("stream", name)
            .hint("leave it out with --exclude"));
    }
    let whole = Target { mode: Mode::Full, cursor: None, ..target.clone() };
    let schema = table.schema();
    let conform = conform_to(&session.lake.format, &whole, &whole.stream.schema, Some(&schema), false)?;
    let key: Option<Vec<String>> = target.stream.key.iter().map(|name| column_of(&schema, name)).collect();
    let key = key.unwrap_or_default();
    let columns = if counts { Vec::new() } else { compared(&schema, conform.storage()) };
    let mut report = VerifiedStream {
        stream: name.to_string(),
        table_version: Some(table.version()),
        how: "read".to_owned(),
        ..VerifiedStream::default()
    };
    report.notes.extend(lacking(&schema, conform.storage()));
    let cursor = target.cursor.as_ref().and_then(|cursor| column_of(&schema, &cursor.column));
    let cursor = cursor.as_deref();
    if counts {
        if let Some(rows) = counted(session, &whole).await? {
            report.how = "counted".to_owned();
            let given = Given { sums: Sums { rows, ..Sums::default() }, ..Given::default() };
            let held = held(session, table.as_ref(), target, (&columns, &key), cursor).await?;
            judge(&mut report, &given, &held, &[], false);
            return Ok(report);
        }
    } else {
        match summed(session, &whole, table.as_ref(), &columns, &key, cursor).await? {
            Summed::No(note) => report.notes.extend(note),
            Summed::Differs => report.notes.push("the sums that the source made by itself differ: it was read".into()),
            Summed::Equal { sums, columns: equal } => {
                return by_both(session, &whole, table.as_ref(), &columns, &key, cursor, report, (sums, equal)).await;
            }
        }
    }
    let given = given::read(session, &whole, table.as_ref(), &columns, &key).await?;
    let held = held(session, table.as_ref(), target, (&columns, &key), cursor).await?;
    judge(&mut report, &given, &held, &columns, !key.is_empty());
    Ok(report)
}

/// Compares the columns that the source could not add up, where there are any, and reports them with those that it did.
#[expect(clippy::too_many_arguments, reason = "the rest of one comparison")]
async fn by_both(
    session: &Session,
    target: &Target,
    table: &dyn Table,
    columns: &[String],
    key: &[String],
    cursor: Option<&str>,
    mut report: VerifiedStream,
    (sums, equal): (Sums, Vec<String>),
) -> Result<VerifiedStream> {
    let keyed = !key.is_empty();
    let rest: Vec<String> = columns.iter().filter(|column| !equal.contains(column)).cloned().collect();
    let unread = rest.iter().all(|column| column == RESCUED);
    if unread {
        report.how = "summed".to_owned();
        let given = Given { sums: sums.clone(), ..Given::default() };
        judge(&mut report, &given, &sums, &equal, keyed);
    } else {
        report.how = "summed and read".to_owned();
        let names: Vec<&str> = rest.iter().map(String::as_str).filter(|name| *name != RESCUED).collect();
        report.notes.push(format!("read, since the source cannot add them up as the table does: {}", names.join(", ")));
        let narrow = narrowed(session, target, &rest);
        let given = given::read(session, &narrow, table, &rest, key).await?;
        let held = held(session, table, target, (&rest, key), cursor).await?;
        judge(&mut report, &given, &held, &rest, keyed);
        let read = std::mem::take(&mut report.columns);
        let both = Given { sums: sums.clone(), ..Given::default() };
        let counts = (
            report.source_rows,
            report.table_rows,
            report.quarantined_rows,
            report.keys.clone(),
            report.outcome.clone(),
        );
        judge(&mut report, &both, &sums, &equal, keyed);
        (report.source_rows, report.table_rows, report.quarantined_rows, report.keys, report.outcome) = counts;
        report.columns.extend(read);
    }
    for column in report.columns.iter_mut().filter(|column| equal.contains(&column.column)) {
        column.how = "summed".to_owned();
    }
    let place = |name: &str| columns.iter().position(|column| column == name);
    report.columns.sort_by_key(|column| place(&column.column));
    Ok(report)
}

/// The stream with some of its columns alone, and its key, where the connector can leave others out.
fn narrowed(session: &Session, target: &Target, columns: &[String]) -> Target {
    if !session.spec.capabilities.projection {
        return target.clone();
    }
    let wanted =
        |name: &String| target.stream.key.contains(name) || columns.iter().any(|column| same_column(column, name));
    let fields: Vec<FieldRef> =
        target.stream.schema.fields().iter().filter(|field| wanted(field.name())).cloned().collect();
    let schema = Schema::new_with_metadata(fields, target.stream.schema.metadata().clone());
    let names = schema.fields().iter().map(|field| field.name().clone()).collect();
    let stream = Stream { schema: Arc::new(schema), ..target.stream.clone() };
    Target { stream, options: StreamOptions { columns: Some(names), ..target.options.clone() }, ..target.clone() }
}

async fn held(
    session: &Session,
    table: &dyn Table,
    target: &Target,
    (columns, key): (&[String], &[String]),
    cursor: Option<&str>,
) -> Result<Sums> {
    let mut adder = Adder::new(columns, key);
    held::sums(table, target.write, columns, key, cursor, session.memory, &mut |batch, only| adder.add(batch, only))
        .await
}

/// Whether rows of the source may be missing in the table by intention.
fn holds_back(target: &Target) -> bool {
    target.values.checks().iter().any(|check| check.on_fail == OnFail::Quarantine)
}

/// What the source counts by itself, where that says the same as reading would.
async fn counted(session: &Session, target: &Target) -> Result<Option<u64>> {
    if holds_back(target) {
        return Ok(None);
    }
    session.source.count(&target.stream, target.options.filter.as_deref()).await
}

/// The columns whose values come from the source.
fn compared(table: &Schema, rows: &Schema) -> Vec<String> {
    let ours = |name: &str| (is_reserved(name) && name != RESCUED) || [EFFECTIVE, EXPIRY, CURRENT].contains(&name);
    let names = table.fields().iter().map(|field| field.name());
    names.filter(|name| !ours(name) && rows.column_with_name(name).is_some()).cloned().collect()
}

/// Columns of the source that no run has brought into the table yet.
fn lacking(table: &Schema, rows: &Schema) -> Option<String> {
    let names = rows.fields().iter().map(|field| field.name().as_str());
    let missing: Vec<&str> =
        names.filter(|name| table.column_with_name(name).is_none() && !is_reserved(name)).collect();
    (!missing.is_empty()).then(|| format!("not compared, since the table does not have it yet: {}", missing.join(", ")))
}

fn judge(report: &mut VerifiedStream, given: &Given, held: &Sums, columns: &[String], keyed: bool) {
    let compared = |source: u128, table: u128| Compared {
        source: format!("{source:032x}"),
        table: format!("{table:032x}"),
        equal: source == table,
    };
    report.source_rows = given.sums.rows;
    report.table_rows = held.rows;
    report.quarantined_rows = given.quarantined;
    report.keys = keyed.then(|| compared(given.sums.keys, held.keys));
    if given.repeated > 0 {
        // Which of several rows with one key the table has depends on the order in which they came.
        report.notes.push(format!("{} rows repeat a key: values were not compared", given.repeated));
    } else {
        let sum = |sums: &Sums, place: usize| sums.columns.get(place).copied().unwrap_or_default();
        let one = |(place, column): (usize, &String)| ComparedColumn {
            column: column.clone(),
            how: String::new(),
            sums: compared(sum(&given.sums, place), sum(held, place)),
        };
        report.columns = columns.iter().enumerate().map(one).collect();
    }
    let equal = report.source_rows == report.table_rows
        && report.keys.as_ref().is_none_or(|keys| keys.equal)
        && report.columns.iter().all(|column| column.sums.equal);
    report.outcome = if equal { "equal" } else { "unequal" }.to_owned();
}
