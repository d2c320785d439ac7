//! `ingest maintain`: retention, compaction, log checkpoints, removal of dead files.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use ingest_catalog::{Checkpoint, Lease, PartDocument, PlanDocument, checkpoint_path, list_checkpoints};
use ingest_core::lake::{DataFile, Maintained, Maintenance};
use ingest_core::{
    CancellationToken, Clock, Error, Json, Region, Result, StreamName, SystemClock, nearest, table_name,
};
use serde_json::json;

use super::App;
use super::args::MaintainArgs;
use super::output::{Outcome, print, print_error, print_json, worst};
use super::table::{Table, bytes, count};
use super::tables::names;
use crate::commit::{Author, Change, Committer, bronze};
use crate::config::Config;
use crate::policy::keeping::Keeping;
use crate::run::quarantine::Quarantine;
use crate::session::Lake;

/// Runs the verb: every table, or one. A table that fails does not keep the others from it.
pub async fn run(app: &App, args: &MaintainArgs, cancel: CancellationToken) -> Outcome {
    let config = app.load_lake()?;
    let lake = Lake::open(&config.lake)?;
    let tables = chosen(&lake, args.table.as_slice()).await?;
    let streams = streams(&lake).await?;
    let mut codes = Vec::new();
    let mut done: Vec<(String, Maintained)> = Vec::new();
    for name in tables {
        if cancel.is_cancelled() {
            break;
        }
        match maintain(&config, &lake, &streams, &name, args.dry_run).await {
            Ok(maintained) => done.push((name, maintained)),
            Err(error) => {
                let error = error.with("table", &name);
                print_error(&error, &app.global);
                codes.push(error.kind().exit_code());
            }
        }
    }
    report(app, &done)?;
    Ok(worst(codes))
}

/// The tables of the lake, or those that are named.
pub(super) async fn chosen(lake: &Lake, wanted: &[String]) -> Result<Vec<String>> {
    let known = names(lake).await?;
    let mut tables = Vec::new();
    for wanted in wanted {
        let Some(found) = known.iter().find(|name| *name == wanted || **name == folder_name(wanted)) else {
            let hint = match nearest(wanted, known.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("tables: {}", known.join(", ")),
            };
            return Err(Error::config(format!("there is no table {wanted:?} in the lake")).hint(hint));
        };
        tables.push(found.clone());
    }
    Ok(if wanted.is_empty() { known } else { tables })
}

/// `shop.Public.Orders` as folders spell it.
fn folder_name(name: &str) -> String {
    match name.split_once('.') {
        Some((source, table)) => format!("{}.{}", table_name(source), table_name(table)),
        None => name.to_owned(),
    }
}

/// The streams that have checkpoints, by the name of their table: source and stream in their own spelling.
pub(super) async fn streams(lake: &Lake) -> Result<BTreeMap<String, (String, StreamName)>> {
    let mut streams = BTreeMap::new();
    for source in lake.documents.folders("_ingest/checkpoints").await? {
        for folder in lake.documents.folders(&format!("_ingest/checkpoints/{source}")).await? {
            let Some(newest) = list_checkpoints(&lake.documents, &source, &folder).await?.pop() else { continue };
            let path = checkpoint_path(&source, &folder, newest);
            let Some(document) = lake.documents.get::<Checkpoint>(&path).await? else { continue };
            let name = format!("{}.{folder}", table_name(&source));
            streams.insert(name, (document.source, StreamName::new(document.stream)));
        }
    }
    Ok(streams)
}

async fn maintain(
    config: &Config,
    lake: &Lake,
    streams: &BTreeMap<String, (String, StreamName)>,
    name: &str,
    dry_run: bool,
) -> Result<Maintained> {
    let mut total = Maintained::default();
    let (folder_of_source, folder) = name.split_once('.').unwrap_or((name, ""));
    let mut staged: Vec<DataFile> = Vec::new();
    let mut quarantined: Vec<DataFile> = Vec::new();
    if let Some((source, stream)) = streams.get(name) {
        let mut committer = committer(lake, source, stream).await?;
        if !dry_run {
            abandon_old_plan(config, lake, source, &mut committer).await?;
        }
        staged = committer.staged().await?;
        let checkpoint = committer.checkpoint();
        quarantined.clone_from(&checkpoint.quarantine);
        let swept = checkpoint.sweep.as_ref().and_then(|sweep| sweep.plan.as_ref());
        for plan in checkpoint.plan.as_ref().map(|plan| &plan.id).into_iter().chain(swept) {
            for part in PartDocument::all(&lake.documents, plan, &stream.table()).await? {
                staged.extend(part.files);
                quarantined.extend(part.quarantine);
            }
        }
        if !dry_run && !checkpoint.released.is_empty() {
            // Compaction would put records that are released together with others.
            Quarantine::new(Arc::clone(&lake.format), source, stream).commit(checkpoint).await?;
        }
    }
    let options = |staged: &[DataFile], expire: Vec<Region>, cluster_by: Vec<String>| Maintenance {
        target_file_bytes: config.lake.file_size.0,
        retention: config.lake.retention.0,
        staged: Arc::new(staged.iter().map(|file| file.path.clone()).collect::<HashSet<_>>()),
        memory_bytes: config.memory.0,
        compression: config.lake.compression,
        expire,
        cluster_by,
        dry_run,
    };
    let keeping = match streams.get(name) {
        Some((source, stream)) => Keeping::of(config, &lake.documents, source, stream).await?,
        None => Keeping::default(),
    };
    let now = SystemClock.now_micros();
    if let Some(mut table) = lake.format.open(&bronze(folder_of_source, folder)).await? {
        let expired = keeping.expired(&table.schema(), now)?;
        let key = keeping.stored_key(&table.schema());
        add(&mut total, &table.maintain(&options(&staged, expired, key)).await?);
    }
    if let Some(mut table) = lake.format.open(&format!("quarantine/{folder_of_source}/{folder}")).await? {
        let expired = keeping.expired_records(now);
        let mut maintained = table.maintain(&options(&quarantined, expired, Vec::new())).await?;
        maintained.log_checkpoint = None;
        add(&mut total, &maintained);
    }
    Ok(total)
}

async fn committer(lake: &Lake, source: &str, stream: &StreamName) -> Result<Committer> {
    let author = Author {
        documents: lake.documents.clone(),
        format: Arc::clone(&lake.format),
        source: source.to_owned(),
        run: uuid::Uuid::now_v7().simple().to_string(),
        connector: format!("ingest {}", env!("CARGO_PKG_VERSION")),
        clock: Arc::new(SystemClock),
    };
    Committer::open(author, stream.clone()).await
}

/// An open plan older than the retention of files is given up, so that its staged files may go (invariant
/// `staged_files_survive_maintenance`). Not while somebody works on the stream.
async fn abandon_old_plan(config: &Config, lake: &Lake, source: &str, committer: &mut Committer) -> Result<()> {
    let Some(plan) = committer.checkpoint().plan.clone() else { return Ok(()) };
    let made_at = PlanDocument::read(&lake.documents, source, &plan.id).await?.made_at;
    let retention = i64::try_from(config.lake.retention.0.as_micros()).unwrap_or(i64::MAX);
    if SystemClock.now_micros().saturating_sub(made_at) <= retention {
        return Ok(());
    }
    let (run, folder) = (uuid::Uuid::now_v7().simple().to_string(), committer.stream().table());
    let lease = Lease::take(&lake.documents, source, &folder, &run, &SystemClock).await?;
    let abandoned = committer.commit(Change::default(), |edit| edit.abandon()).await;
    lease.release(&lake.documents).await?;
    abandoned.map(drop)
}

fn add(total: &mut Maintained, one: &Maintained) {
    total.rows_expired += one.rows_expired;
    total.files_compacted += one.files_compacted;
    total.files_written += one.files_written;
    total.files_deleted += one.files_deleted;
    total.bytes_deleted += one.bytes_deleted;
    total.log_checkpoint = one.log_checkpoint.or(total.log_checkpoint);
}

fn report(app: &App, done: &[(String, Maintained)]) -> Result<(), super::Stop> {
    if app.global.json {
        let list: Vec<Json> = done
            .iter()
            .map(|(name, maintained)| {
                let mut object = json!(maintained);
                object["table"] = name.as_str().into();
                object
            })
            .collect();
        return print_json(&list);
    }
    let mut table = Table::new(["table", "expired", "compacted", "into", "deleted", "freed", "log checkpoint"]);
    (1..7).for_each(|column| table.align_right(column));
    for (name, maintained) in done {
        table.row([
            name.clone(),
            count(maintained.rows_expired),
            count(maintained.files_compacted),
            count(maintained.files_written),
            count(maintained.files_deleted),
            bytes(maintained.bytes_deleted),
            maintained.log_checkpoint.map_or_else(String::new, |version| version.to_string()),
        ]);
    }
    print(&table.render())
}
