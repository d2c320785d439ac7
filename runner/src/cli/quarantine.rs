//! `ingest quarantine`: records that could not become rows, and rows that a check holds back.

use std::sync::Arc;

use ingest_core::lake::WriterOptions;
use ingest_core::{CancellationToken, Json, Result, StreamName, SystemClock};

use super::App;
use super::args::{QuarantineVerb, StateOf};
use super::output::{Outcome, print, print_json, safe};
use super::render;
use super::table::count;
use crate::commit::Author;
use crate::config::{Config, SourceConfig};
use crate::policy::replay::{Replayed, replay};
use crate::run::quarantine::{Quarantine, schema};
use crate::session::Lake;
use crate::state;

/// Runs the verb.
pub async fn run(app: &App, verb: &QuarantineVerb, _cancel: CancellationToken) -> Outcome {
    match verb {
        QuarantineVerb::Show { of, limit } => show(app, of, *limit).await?,
        QuarantineVerb::Replay { of, force } => replay_all(app, of, *force).await?,
    }
    Ok(0)
}

fn author(config: &Config, of: &StateOf) -> Result<Author> {
    let lake = Lake::open(&config.lake)?;
    Ok(Author {
        documents: lake.documents,
        format: lake.format,
        source: of.source.clone(),
        run: uuid::Uuid::now_v7().simple().to_string(),
        connector: format!("ingest {}", env!("CARGO_PKG_VERSION")),
        clock: Arc::new(SystemClock),
    })
}

async fn show(app: &App, of: &StateOf, limit: usize) -> Result<(), super::Stop> {
    let author = author(&app.load_lake()?, of)?;
    let mut rows = Vec::new();
    let mut text = String::new();
    for stream in state::streams(&author, of.stream.as_deref()).await? {
        let quarantine = Quarantine::new(Arc::clone(&author.format), &author.source, &stream);
        let Some(table) = quarantine.open().await? else { continue };
        let batches = table.read(limit).await?;
        let total: u64 = table.files().await?.iter().map(|file| file.rows).sum();
        if total == 0 {
            continue;
        }
        for batch in &batches {
            for row in 0..batch.num_rows() {
                let mut object = crate::rows::object(batch, row)?;
                object["stream"] = Json::from(stream.as_str());
                rows.push(object);
            }
        }
        let records = if total == 1 { "record" } else { "records" };
        let table = render::table(&schema(), &batches)?;
        text.push_str(&format!("{}: {} {records}\n{table}", safe(stream.as_str()), count(total)));
    }
    if app.global.json {
        return print_json(&rows);
    }
    print(if text.is_empty() { "the quarantine is empty\n" } else { &text })
}

async fn replay_all(app: &App, of: &StateOf, force: bool) -> Result<(), super::Stop> {
    let config = app.load_source(&of.source)?;
    let author = author(&config, of)?;
    let source = config.sources.get(&of.source).cloned().unwrap_or_else(|| SourceConfig::named(&of.source));
    let options = WriterOptions {
        target_file_bytes: config.lake.file_size.0,
        memory_bytes: config.memory.0 / 8,
        compression: config.lake.compression,
        runtime: tokio::runtime::Handle::current(),
    };
    let streams: Vec<StreamName> = state::streams(&author, of.stream.as_deref()).await?;
    let mut done = Vec::new();
    for stream in &streams {
        done.push(replay(&author, &source, stream, &options, force).await?);
    }
    if app.global.json {
        return print_json(&done);
    }
    print(&done.iter().map(line).collect::<String>())
}

fn line(done: &Replayed) -> String {
    let records = if done.replayed == 1 { "record" } else { "records" };
    format!("{}: {} {records} replayed, {} kept\n", safe(done.stream.as_str()), count(done.replayed), count(done.kept))
}
