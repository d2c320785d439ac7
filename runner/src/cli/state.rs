//! `ingest state`.

use std::path::Path;
use std::sync::Arc;

use ingest_catalog::Checkpoint;
use ingest_core::{CancellationToken, Error, Json, Result, StreamName, SystemClock};
use serde_json::json;

use super::App;
use super::args::{StateOf, StateVerb};
use super::output::{Outcome, note, print, print_json, safe};
use super::table::{Table, count, time};
use crate::commit::Author;
use crate::session::Lake;
use crate::state;

/// An export larger than this is none of ours.
const MAX_IMPORT: u64 = 256 << 20;

/// Runs the verb.
pub async fn run(app: &App, verb: &StateVerb, _cancel: CancellationToken) -> Outcome {
    match verb {
        StateVerb::Show(of) => show(app, of).await?,
        StateVerb::Log { of, limit } => log(app, of, *limit).await?,
        StateVerb::Reset(of) => reset(app, of).await?,
        StateVerb::Export(of) => {
            let author = author(app, of)?;
            print_json(&state::export(&author, &streams(&author, of).await?).await?)?;
        }
        StateVerb::Import { of, file } => import(app, of, file).await?,
        StateVerb::Rewind { of, to } => rewind(app, of, *to).await?,
    }
    Ok(0)
}

/// Who changes the state: this command, in the name of the source.
fn author(app: &App, of: &StateOf) -> Result<Author, super::Stop> {
    let lake = Lake::open(&app.load_lake()?.lake)?;
    Ok(Author {
        documents: lake.documents,
        format: lake.format,
        source: of.source.clone(),
        run: uuid::Uuid::now_v7().simple().to_string(),
        connector: format!("ingest {}", env!("CARGO_PKG_VERSION")),
        clock: Arc::new(SystemClock),
    })
}

async fn streams(author: &Author, of: &StateOf) -> Result<Vec<StreamName>> {
    state::streams(author, of.stream.as_deref()).await
}

async fn show(app: &App, of: &StateOf) -> Result<(), super::Stop> {
    let author = author(app, of)?;
    let mut checkpoints = Vec::new();
    for stream in streams(&author, of).await? {
        checkpoints.extend(state::show(&author, &stream).await?);
    }
    let documents = &author.documents;
    for checkpoint in &mut checkpoints {
        state::mask_positions(documents, checkpoint).await?;
    }
    if app.global.json {
        return print_json(&as_json(&checkpoints)?);
    }
    let mut table = Table::new(["stream", "number", "written", "run", "plan", "position"]);
    table.align_right(1);
    for checkpoint in &checkpoints {
        let plan = checkpoint.plan.as_ref();
        let plan = plan.map_or_else(String::new, |plan| format!("{} of {} slices", plan.done.len(), plan.slices));
        let mut positions =
            checkpoint.positions.iter().map(|(slice, stored)| (slice.to_string(), stored.at.to_string()));
        let (slice, at) = positions.next().unwrap_or_default();
        table.row([
            checkpoint.stream.clone(),
            checkpoint.number.to_string(),
            time(checkpoint.written_at),
            checkpoint.run.clone(),
            plan,
            if slice.is_empty() { String::new() } else { format!("{slice}: {at}") },
        ]);
        for (slice, at) in positions {
            table.row(["", "", "", "", "", &format!("{slice}: {at}")].map(str::to_owned));
        }
    }
    print(&table.render())
}

async fn log(app: &App, of: &StateOf, limit: usize) -> Result<(), super::Stop> {
    let author = author(app, of)?;
    let mut checkpoints = Vec::new();
    for stream in streams(&author, of).await? {
        checkpoints.extend(state::log(&author, &stream, limit).await?);
    }
    for checkpoint in &mut checkpoints {
        state::mask_positions(&author.documents, checkpoint).await?;
    }
    if app.global.json {
        return print_json(&as_json(&checkpoints)?);
    }
    let mut table = Table::new(["stream", "number", "written", "run", "rows", "plan"]);
    [1, 4].into_iter().for_each(|column| table.align_right(column));
    for checkpoint in &checkpoints {
        let plan = checkpoint.plan.as_ref();
        table.row([
            checkpoint.stream.clone(),
            checkpoint.number.to_string(),
            time(checkpoint.written_at),
            checkpoint.run.clone(),
            count(checkpoint.rows),
            plan.map_or_else(String::new, |plan| format!("{} of {} slices", plan.done.len(), plan.slices)),
        ]);
    }
    print(&table.render())
}

fn as_json(checkpoints: &[Checkpoint]) -> Result<Json> {
    serde_json::to_value(checkpoints).map_err(|e| Error::unexpected("cannot write checkpoints as JSON").caused_by(e))
}

/// What was done with each stream: lines for people, or `[{stream, …}]`.
fn done(app: &App, changed: &[(StreamName, Json)], what: &str) -> Result<(), super::Stop> {
    if app.global.json {
        let list: Vec<Json> = changed
            .iter()
            .map(|(stream, more)| {
                let mut object = json!({ "stream": stream, "done": what });
                for (key, value) in more.as_object().into_iter().flatten() {
                    object[key] = value.clone();
                }
                object
            })
            .collect();
        return print_json(&list);
    }
    let lines: Vec<String> = changed.iter().map(|(stream, _)| format!("{}: {what}\n", safe(stream.as_str()))).collect();
    print(&lines.concat())
}

async fn reset(app: &App, of: &StateOf) -> Result<(), super::Stop> {
    let author = author(app, of)?;
    let mut changed = Vec::new();
    for stream in streams(&author, of).await? {
        state::reset(&author, &stream).await?;
        changed.push((stream, json!({})));
    }
    note("rows were kept: streams that are appended to will hold them twice after the next run");
    done(app, &changed, "reset")
}

async fn import(app: &App, of: &StateOf, file: &Path) -> Result<(), super::Stop> {
    let author = author(app, of)?;
    let cannot = |e: std::io::Error| Error::config("cannot read the export").with("file", file.display()).caused_by(e);
    let size = std::fs::metadata(file).map_err(cannot)?.len();
    if size > MAX_IMPORT {
        return Err(Error::config("this file is too large to be an export").with("file", file.display()).into());
    }
    let bytes = std::fs::read(file).map_err(cannot)?;
    let mut exported: Json = serde_json::from_slice(&bytes)
        .map_err(|e| Error::config("the export is not JSON").with("file", file.display()).caused_by(e))?;
    if let (Some(stream), Some(list)) = (&of.stream, exported.as_array_mut()) {
        list.retain(|checkpoint| checkpoint["stream"] == stream.as_str());
    }
    let imported = state::import(&author, exported).await?;
    if imported.is_empty() {
        return Err(Error::config("the export holds nothing to import").with("file", file.display()).into());
    }
    let changed: Vec<_> = imported.into_iter().map(|stream| (stream, json!({}))).collect();
    done(app, &changed, "imported")
}

async fn rewind(app: &App, of: &StateOf, number: i64) -> Result<(), super::Stop> {
    let Some(name) = &of.stream else {
        return Err(Error::config("rewind needs --stream: numbers are a stream's own")
            .hint("`ingest state log --source NAME` lists streams and numbers")
            .into());
    };
    let author = author(app, of)?;
    let stream = streams(&author, of).await?.into_iter().find(|stream| stream.as_str() == name);
    let stream = stream.ok_or_else(|| Error::config(format!("there is no stream {name:?} in the lake")))?;
    let version = state::rewind(&author, &stream, number).await?;
    let what = format!("rewound to {number}");
    done(app, &[(stream, json!({ "number": number, "commit_version": version }))], &what)
}
