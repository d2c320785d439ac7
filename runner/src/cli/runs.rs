//! `ingest runs`: the history of runs.

use ingest_catalog::{RunDocument, RunStream, list_runs};
use ingest_core::{Error, Json, Result, table_name};
use serde_json::json;

use super::App;
use super::args::RunsArgs;
use super::output::{Outcome, print, print_json, safe};
use super::table::{Table, count, duration, time};
use crate::session::Lake;

/// How far back a source's runs are looked for.
const HORIZON: usize = 1_000;

/// Runs the verb.
pub async fn run(app: &App, args: &RunsArgs) -> Outcome {
    let lake = Lake::open(&app.load_lake()?.lake)?;
    if let Some(id) = &args.run_id {
        let document = find(&lake, id).await?;
        if app.global.json {
            print_json(&one_json(&document))?;
        } else {
            print(&one_text(&document))?;
        }
        return Ok(0);
    }
    let horizon = if args.source.is_some() { HORIZON } else { args.limit };
    let mut runs = list_runs(&lake.documents, horizon).await?;
    runs.retain(|run| args.source.as_ref().is_none_or(|source| run.source == *source));
    runs.truncate(args.limit);
    if app.global.json {
        print_json(&runs.iter().map(run_json).collect::<Vec<_>>())?;
    } else {
        print(&list_text(&runs))?;
    }
    Ok(0)
}

async fn find(lake: &Lake, id: &str) -> Result<RunDocument> {
    let ending = format!("-{}", table_name(id));
    for name in lake.documents.list("_ingest/runs").await?.iter().rev().filter(|name| name.ends_with(&ending)) {
        let document: Option<RunDocument> = lake.documents.get(&format!("_ingest/runs/{name}.json")).await?;
        if let Some(document) = document.filter(|document| document.run_id == id) {
            return Ok(document);
        }
    }
    Err(Error::config(format!("there is no run {id:?} in the history")).hint("`ingest runs` lists the newest"))
}

fn total(run: &RunDocument, each: fn(&RunStream) -> u64) -> u64 {
    run.streams.iter().map(each).sum()
}

fn run_json(run: &RunDocument) -> Json {
    json!({
        "run_id": run.run_id,
        "source": run.source,
        "started_at": time(run.started_at),
        "finished_at": run.finished_at.map(time),
        "outcome": run.outcome,
        "exit_code": run.exit_code,
        "totals": {
            "rows_read": total(run, |s| s.rows_read),
            "rows_written": total(run, |s| s.rows_written),
            "rows_rescued": total(run, |s| s.rows_rescued),
            "rows_quarantined": total(run, |s| s.rows_quarantined),
            "bytes_written": total(run, |s| s.bytes_written),
        },
    })
}

fn one_json(run: &RunDocument) -> Json {
    let mut object = run_json(run);
    object["connector"] = run.connector.as_str().into();
    object["version"] = run.version.as_str().into();
    object["streams"] = json!(run.streams);
    if let Some(error) = &run.error {
        object["error"] = error.clone();
    }
    object
}

fn outcome(run: &RunDocument) -> String {
    run.outcome.clone().unwrap_or_else(|| "under way or killed".to_owned())
}

fn took(run: &RunDocument) -> String {
    let millis = run.finished_at.map(|end| u64::try_from((end - run.started_at) / 1000).unwrap_or(0));
    millis.map_or_else(String::new, duration)
}

fn list_text(runs: &[RunDocument]) -> String {
    let mut table = Table::new(["run", "source", "started", "took", "outcome", "exit", "read", "written"]);
    [3, 5, 6, 7].into_iter().for_each(|column| table.align_right(column));
    for run in runs {
        table.row([
            run.run_id.clone(),
            run.source.clone(),
            time(run.started_at),
            took(run),
            outcome(run),
            run.exit_code.map_or_else(String::new, |code| code.to_string()),
            count(total(run, |s| s.rows_read)),
            count(total(run, |s| s.rows_written)),
        ]);
    }
    table.render()
}

fn one_text(run: &RunDocument) -> String {
    let mut out = format!(
        "run {}\nsource {} ({}), ingest {}\nstarted {}, took {}\noutcome {}{}\n\n",
        safe(&run.run_id),
        safe(&run.source),
        safe(&run.connector),
        safe(&run.version),
        time(run.started_at),
        took(run),
        safe(&outcome(run)),
        run.exit_code.map_or_else(String::new, |code| format!(", exit {code}"))
    );
    let mut table = Table::new(["stream", "read", "written", "rescued", "quarantined", "commit", "took", "error"]);
    (1..7).for_each(|column| table.align_right(column));
    for stream in &run.streams {
        let error = stream.error.as_ref().map(|error| error["message"].as_str().unwrap_or_default().to_owned());
        table.row([
            stream.stream.clone(),
            count(stream.rows_read),
            count(stream.rows_written),
            count(stream.rows_rescued),
            count(stream.rows_quarantined),
            stream.commit_version.map_or_else(String::new, |version| version.to_string()),
            duration(stream.duration_ms),
            error.unwrap_or_default(),
        ]);
    }
    out.push_str(&table.render());
    for stream in &run.streams {
        for check in &stream.checks {
            let text = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
            let failed = check["failed"].as_u64().unwrap_or(0);
            let note = if check["note"].is_null() { format!("{failed} rows") } else { text("note") };
            let line = format!("{}: check {} {}: {note}", stream.stream, text("check"), text("outcome"));
            out.push_str(&format!("{}\n", safe(&line)));
        }
    }
    if let Some(error) = &run.error {
        out.push_str(&format!("error: {}\n", safe(error["message"].as_str().unwrap_or_default())));
    }
    out
}
