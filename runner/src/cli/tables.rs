//! `ingest show` and `ingest schema`: tables of the lake.

use ingest_catalog::{ColumnDocument, StreamDocument};
use ingest_core::lake::Table as LakeTable;
use ingest_core::{Error, Json, Result, nearest, table_name};
use serde_json::json;

use super::App;
use super::args::{ShowArgs, TableArgs};
use super::output::{Outcome, print, print_json, safe};
use super::render;
use super::table::{Table, count, time};
use crate::commit::bronze;
use crate::session::Lake;

/// Schema changes that are shown.
const HISTORY: usize = 100;

/// A table that was found by its name.
struct Found {
    /// Name of the source's folder.
    source: String,
    /// Name of the table's folder.
    folder: String,
    table: Box<dyn LakeTable>,
}

/// `ingest show`: rows, ours last, then how many there are.
pub async fn show(app: &App, args: &ShowArgs) -> Outcome {
    let lake = Lake::open(&app.load_lake()?.lake)?;
    let found = find(&lake, &args.table).await?;
    let batches = found.table.read(args.limit as usize).await?;
    if app.global.json {
        print_json(&render::rows(&batches)?)?;
        return Ok(0);
    }
    let shown: usize = batches.iter().map(arrow_array::RecordBatch::num_rows).sum();
    let total: u64 = found.table.files().await?.iter().map(|file| file.rows).sum();
    let rows = if total == 1 { "row" } else { "rows" };
    let shown = if shown as u64 == total { String::new() } else { format!(", {} shown", count(shown as u64)) };
    print(&format!("{}{} {rows}{shown}\n", render::table(&found.table.schema(), &batches)?, count(total)))?;
    Ok(0)
}

/// `ingest schema`: columns, key, and how they came to be.
pub async fn schema(app: &App, args: &TableArgs) -> Outcome {
    let lake = Lake::open(&app.load_lake()?.lake)?;
    let found = find(&lake, &args.table).await?;
    let history = history(&lake, &found).await?;
    let newest = history.last();
    let mut columns = ColumnDocument::of(&found.table.schema());
    for column in &mut columns {
        let known = newest.and_then(|document| document.columns.iter().find(|c| c.name == column.name));
        column.class = column.class.take().or_else(|| known.and_then(|known| known.class.clone()));
    }
    columns.sort_by_key(|column| ingest_core::columns::is_reserved(&column.name));
    let key = newest.map(|document| document.key.clone()).unwrap_or_default();
    if app.global.json {
        let history: Vec<Json> = history
            .iter()
            .map(|d| json!({ "seen_at": time(d.seen_at), "run_id": d.run, "changes": d.changes }))
            .collect();
        print_json(&json!({
            "table": format!("{}.{}", found.source, found.folder),
            "stream": newest.map(|document| &document.stream),
            "version": found.table.version(),
            "columns": columns,
            "key": key,
            "history": history,
        }))?;
        return Ok(0);
    }
    let mut table = Table::new(["column", "type", "null", "class"]);
    for column in &columns {
        let name = if key.contains(&column.name) { format!("{} (key)", column.name) } else { column.name.clone() };
        let null = if column.nullable { "yes" } else { "no" };
        table.row([name, column.data_type.clone(), null.to_owned(), column.class.clone().unwrap_or_default()]);
    }
    let mut out = format!("{}version {}\n", table.render(), found.table.version());
    for document in history.iter().filter(|document| !document.changes.is_empty()) {
        out.push_str(&format!("{}: {}\n", time(document.seen_at), safe(&document.changes.join(", "))));
    }
    print(&out)?;
    Ok(0)
}

/// The schema history of a table, oldest first.
async fn history(lake: &Lake, found: &Found) -> Result<Vec<StreamDocument>> {
    let mut documents = Vec::new();
    // Documents are kept under the source's own spelling, tables under the folder's.
    for source in lake.documents.folders("_ingest/streams").await? {
        if table_name(&source) != found.source {
            continue;
        }
        let root = format!("_ingest/streams/{source}/{}", found.folder);
        let names = lake.documents.list(&root).await?;
        for name in names.iter().skip(names.len().saturating_sub(HISTORY)) {
            documents.extend(lake.documents.get::<StreamDocument>(&format!("{root}/{name}.json")).await?);
        }
    }
    Ok(documents)
}

/// Finds the table `SOURCE.TABLE`; the stream's own name does as well: `shop_db.public.orders`.
async fn find(lake: &Lake, name: &str) -> Result<Found> {
    for (dot, _) in name.match_indices('.') {
        let (source, folder) = (table_name(&name[..dot]), table_name(&name[dot + 1..]));
        if source.is_empty() || folder.is_empty() {
            continue;
        }
        if let Some(table) = lake.format.open(&bronze(&source, &folder)).await? {
            return Ok(Found { source, folder, table });
        }
    }
    let known = names(lake).await?;
    let hint = match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "the lake has no tables yet; `ingest run --source NAME` makes them".to_owned(),
        None => format!("tables: {}", known.iter().take(20).map(String::as_str).collect::<Vec<_>>().join(", ")),
    };
    Err(Error::config(format!("there is no table {name:?} in the lake")).hint(hint))
}

/// The names of all tables, `source.table`.
pub async fn names(lake: &Lake) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for source in lake.documents.folders("bronze").await? {
        for folder in lake.documents.folders(&format!("bronze/{source}")).await? {
            names.push(format!("{source}.{folder}"));
        }
    }
    Ok(names)
}
