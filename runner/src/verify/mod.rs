//! `ingest verify`: compares streams of a source with their tables, by counts, hashes of keys and checksums of columns.
//!
//! The source is read as a load reads it, checks, masks and types included, and added up instead of written; or it is asked for
//! a count alone. Sums do not depend on the order of rows, so nothing is sorted and nothing is kept.
//!
//! | module | what it does |
//! | --- | --- |
//! | `sums` | adds rows up |
//! | `given` | what the source gives |
//! | `held` | what the table holds |

mod given;
mod held;
mod sums;

use arrow_schema::Schema;
use ingest_catalog::{Compared, ComparedColumn, VerifiedStream};
use ingest_core::columns::{CURRENT, EFFECTIVE, EXPIRY, RESCUED, is_reserved};
use ingest_core::{Error, ErrorKind, Mode, Result};

use crate::commit::bronze;
use crate::config::OnFail;
use crate::conform::column_of;
use crate::run::{Target, conform_to};
use crate::session::Session;
use given::Given;
use sums::Sums;

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
    let given = match counted(session, &whole, counts).await? {
        Some(rows) => {
            report.how = "counted".to_owned();
            Given { sums: Sums { rows, ..Sums::default() }, ..Given::default() }
        }
        None => given::read(session, &whole, table.as_ref(), &columns, &key).await?,
    };
    let cursor = target.cursor.as_ref().and_then(|cursor| column_of(&schema, &cursor.column));
    let held = held::sums(table.as_ref(), target.write, &columns, &key, cursor.as_deref(), session.memory).await?;
    let is_counted = report.how == "counted";
    judge(&mut report, &given, &held, if is_counted { &[] } else { &columns }, !key.is_empty() && !is_counted);
    Ok(report)
}

/// What the source counts by itself, where that is asked for and says the same as reading would.
async fn counted(session: &Session, target: &Target, counts: bool) -> Result<Option<u64>> {
    let holds_back = target.values.checks().iter().any(|check| check.on_fail == OnFail::Quarantine);
    if !counts || holds_back {
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
            sums: compared(sum(&given.sums, place), sum(held, place)),
        };
        report.columns = columns.iter().enumerate().map(one).collect();
    }
    let equal = report.source_rows == report.table_rows
        && report.keys.as_ref().is_none_or(|keys| keys.equal)
        && report.columns.iter().all(|column| column.sums.equal);
    report.outcome = if equal { "equal" } else { "unequal" }.to_owned();
}
