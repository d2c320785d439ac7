//! `ingest forget`: people are erased, and a receipt is kept.

use std::io::BufRead;

use ingest_core::lake::WriterOptions;
use ingest_core::{Error, ErrorKind, Secret, table_name};

use super::App;
use super::args::ForgetArgs;
use super::maintain::{chosen, streams};
use super::output::{Outcome, note, print, print_json, safe};
use super::table::{Table, bytes, count, time};
use crate::forget::{Known, Request, Sought, forget};
use crate::policy::MaskKey;
use crate::session::Lake;

/// A longer line is no value of a column.
const MAX_LINE: usize = 64 << 10;

/// Runs the verb.
pub async fn run(app: &App, args: &ForgetArgs) -> Outcome {
    let config = app.load_lake()?;
    let lake = Lake::open(&config.lake)?;
    let streams = streams(&lake).await?;
    let known = |name: &String| Known { name: name.clone(), stream: streams.get(name).cloned() };
    let all: Vec<Known> = chosen(&lake, &[]).await?.iter().map(known).collect();
    let mut tables: Vec<Known> = chosen(&lake, &args.table).await?.iter().map(known).collect();
    if let Some(source) = &args.source {
        let folder = format!("{}.", table_name(source));
        tables.retain(|table| table.name.starts_with(&folder));
    }
    if tables.is_empty() {
        return Err(Error::config("no table of the lake is meant")
            .hint("`--source` and `--table` name tables together; without them all are searched")
            .into());
    }
    let sought = match &args.column {
        Some(column) => Sought::Column(column.clone()),
        None if args.key => Sought::Key,
        None => Sought::Anywhere,
    };
    let request = Request {
        values: values(&args.values)?,
        sought,
        keep_history: args.keep_history,
        dry_run: args.dry_run,
        options: WriterOptions {
            target_file_bytes: config.lake.file_size.0,
            memory_bytes: config.memory.0 / 8,
            compression: config.lake.compression,
            runtime: tokio::runtime::Handle::current(),
        },
    };
    let key = MaskKey::new(config.common.mask_key.as_ref());
    let receipt = forget(&lake, &key, &tables, &all, &request).await?;
    if receipt.tables.is_empty() && receipt.left.is_empty() {
        let what = format!("no table has what was asked for: {}", request.sought);
        return Err(Error::config(what).hint("`ingest schema TABLE` lists the columns of a table").into());
    }
    let code = if receipt.proven || args.dry_run { 0 } else { ErrorKind::QuotaExhausted.exit_code() };
    if app.global.json {
        print_json(&receipt)?;
        return Ok(code);
    }
    let mut shown =
        Table::new(["table", "rows erased", "files rewritten", "old files deleted", "freed", "found again"]);
    (1..6).for_each(|column| shown.align_right(column));
    for table in &receipt.tables {
        shown.row([
            table.table.clone(),
            count(table.erased.rows),
            count(table.erased.files_rewritten),
            count(table.erased.files_deleted),
            bytes(table.erased.bytes_deleted),
            count(table.searched.rows + table.searched.old_files + table.searched.log_files),
        ]);
    }
    print(&shown.render())?;
    for left in &receipt.left {
        note(&format!("left: {}", safe(left)));
    }
    if args.dry_run {
        return Ok(code);
    }
    let searched = |each: fn(&ingest_core::lake::Traces) -> u64| -> String {
        count(receipt.tables.iter().map(|table| each(&table.searched)).sum())
    };
    let files = searched(|traces| traces.files_searched);
    let log = searched(|traces| traces.log_files_searched);
    let vacuum = receipt.vacuumed_at.map_or("older versions kept".to_owned(), |at| format!("vacuumed {}", time(at)));
    let proof = if receipt.proven { "nothing is left" } else { "something is left" };
    print(&format!(
        "{proof}: searched {files} data files, {log} files of the log, {} documents; {vacuum}\nreceipt: {}\n",
        count(receipt.documents_searched),
        receipt.path()
    ))?;
    Ok(code)
}

/// The values of the command line, and of standard input for `-`.
fn values(given: &[String]) -> Result<Vec<Secret>, Error> {
    let mut values = Vec::new();
    for value in given {
        if value != "-" {
            values.push(Secret::new(value.as_str()));
            continue;
        }
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|e| {
                Error::new(ErrorKind::Unavailable, "cannot read values from standard input").caused_by(e)
            })?;
            if line.len() > MAX_LINE {
                return Err(Error::new(ErrorKind::LimitExceeded, "a line of standard input is too long for a value"));
            }
            if !line.is_empty() {
                values.push(Secret::new(line));
            }
        }
    }
    if values.iter().any(|value| value.expose().is_empty()) || values.is_empty() {
        return Err(Error::config("there is no value to search for").hint("an empty value would be everywhere"));
    }
    Ok(values)
}
