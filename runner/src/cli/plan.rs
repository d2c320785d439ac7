//! `ingest plan`: what a run would do.

use std::collections::BTreeMap;
use std::path::Path;

use arrow_schema::SchemaRef;
use ingest_core::{CancellationToken, Error, Estimate, Intent, Json, Result, Slice, StreamName, WriteMode};
use serde_json::json;

use super::App;
use super::args::PlanArgs;
use super::output::{Outcome, note, print, print_error, print_json, safe, worst};
use super::table::{Table, bytes, count, maybe};
use crate::commit::Committer;
use crate::policy::MaskedColumn;
use crate::run::{self, Ask, Planned, SharedPlan, Target};
use crate::session::Session;

/// Runs the verb.
pub fn run(app: &App, args: &PlanArgs) -> Outcome {
    app.block_on(|cancel| plan(app, args, cancel))
}

/// What would be done with a stream.
struct Explained {
    target: Target,
    slices: usize,
    done: usize,
    estimate: Estimate,
    changes: Vec<String>,
    note: Option<&'static str>,
    masks: Vec<MaskedColumn>,
}

async fn plan(app: &App, args: &PlanArgs, cancel: CancellationToken) -> Outcome {
    let config = app.load_source(&args.source.source)?;
    let session = Session::open(&config, &app.registry, &args.source.source, None, cancel).await?;
    let asked = args.source.selection();
    let selection = run::selection(&session.config, &asked);
    let found = run::discover(&session, &selection).await?;
    if let Some(path) = &args.output {
        let mut opened = Vec::new();
        for (name, target) in run::targets(&session.config, &session.spec, found, &asked)? {
            opened.push(open(&session, target.map_err(|error| error.with("stream", name))?).await?);
        }
        let targets = opened.iter().map(|(target, _)| target.clone()).collect();
        let mut plan = run::make_shared(&session, targets, args.slices).await?;
        for (target, committer) in &opened {
            let found = plan.plans.iter().find(|plan| plan.streams.contains_key(&target.stream.name));
            let (slices, more) = found.map_or((&[][..], false), |plan| (&plan.slices[..], plan.more));
            plan.streams.push(as_json(&of_slices(&session, target, committer, slices, more)?));
        }
        return write(app, path, &plan);
    }
    let mut codes = Vec::new();
    let mut opened = Vec::new();
    for (name, target) in run::targets(&session.config, &session.spec, found, &asked)? {
        let result = match target {
            Ok(target) => open(&session, target).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(pair) => opened.push(pair),
            Err(error) => codes.push(failed(app, &name, error)),
        }
    }
    let mut explained = Vec::new();
    for members in run::by_group(opened, |(target, _)| run::group_key(&target.stream)) {
        let names: Vec<StreamName> = members.iter().map(|(target, _)| target.stream.name.clone()).collect();
        match explain(&session, members, args.slices).await {
            Ok(streams) => explained.extend(streams),
            Err(error) => codes.extend(names.iter().map(|name| failed(app, name, error.replicate()))),
        }
    }
    explained.sort_by(|a, b| a.target.stream.name.cmp(&b.target.stream.name));
    if app.global.json {
        let streams: Vec<Json> = explained.iter().map(as_json).collect();
        print_json(&json!({ "source": args.source.source, "streams": streams }))?;
    } else {
        print(&as_text(&explained))?;
    }
    Ok(worst(codes))
}

/// Writes a plan for other processes.
fn write(app: &App, path: &Path, plan: &SharedPlan) -> Outcome {
    let failed =
        |error: std::io::Error| Error::config("cannot write the plan").with("path", path.display()).caused_by(error);
    let mut text = serde_json::to_string_pretty(plan)
        .map_err(|error| Error::unexpected("a plan cannot be written as JSON").caused_by(error))?;
    text.push('\n');
    // Processes that wait for the file must never see a half of it.
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, path)).map_err(failed)?;
    let slices: usize = plan.plans.iter().map(|plan| plan.slices.len()).sum();
    let streams: usize = plan.plans.iter().map(|plan| plan.streams.len()).sum();
    if app.global.json {
        let path = path.display().to_string();
        print_json(
            &json!({"source": plan.source, "path": path, "parts": plan.parts, "busy_parts": plan.busy_parts(), "slices": slices,
                    "streams": streams, "explained": plan.streams}),
        )?;
    } else {
        let last = plan.parts.saturating_sub(1);
        note(&format!(
            "{}: {streams} streams in {slices} slices; `ingest run --plan` it with --slice 0 to {last}, then with --finish",
            path.display()
        ));
    }
    Ok(0)
}

fn failed(app: &App, name: &StreamName, error: Error) -> u8 {
    let error = error.with("stream", name);
    print_error(&error, &app.global);
    error.kind().exit_code()
}

async fn open(session: &Session, target: Target) -> Result<(Target, Committer)> {
    let committer = Committer::open(session.author(), target.stream.name.clone()).await?;
    let replaces = target.write == WriteMode::Replace && committer.checkpoint().plan.is_none();
    target.values.guard(&session.lake.documents, &session.config, replaces).await?;
    Ok((target, committer))
}

async fn explain(session: &Session, members: Vec<(Target, Committer)>, slices: u32) -> Result<Vec<Explained>> {
    let (open, fresh): (Vec<_>, Vec<_>) =
        members.into_iter().partition(|(_, committer)| committer.checkpoint().plan.is_some());
    let mut explained: Vec<Explained> =
        open.into_iter().map(|member| resumed(session, member)).collect::<Result<_>>()?;
    if fresh.is_empty() {
        return Ok(explained);
    }
    let planned: Vec<Planned<'_>> = fresh
        .iter()
        .map(|(target, committer)| Planned {
            target,
            positions: committer.checkpoint().positions.clone(),
            base: committer.number(),
            replace: committer.checkpoint().limited || committer.checkpoint().intervals,
        })
        .collect();
    let question = Ask { intent: Intent::Explain, min_slices: slices, interval: None };
    let plan = run::ask(session.source.as_ref(), session.clock.now_micros(), question, &planned).await?;
    for (target, committer) in &fresh {
        explained.push(of_slices(session, target, committer, &plan.slices, plan.more)?);
    }
    Ok(explained)
}

/// What the slices of a new plan mean for a stream.
fn of_slices(
    session: &Session,
    target: &Target,
    committer: &Committer,
    slices: &[Slice<Json>],
    more: bool,
) -> Result<Explained> {
    let own: Vec<_> = slices.iter().filter(|slice| slice.streams.contains(&target.stream.name)).collect();
    let known = |each: fn(&Estimate) -> Option<u64>| -> Option<u64> {
        let sum: Option<u64> = own.iter().map(|slice| each(&slice.estimate)).sum();
        // No slice at all is nothing to do, which is known.
        sum.or_else(|| each(&target.stream.estimate))
    };
    Ok(Explained {
        slices: own.len(),
        done: 0,
        estimate: Estimate { rows: known(|e| e.rows), bytes: known(|e| e.bytes), calls: known(|e| e.calls) },
        changes: changes(session, target, committer.table().map(|table| table.schema())),
        note: more.then_some("more is planned when this is done"),
        masks: target.values.masked_columns(&target.stream.schema)?,
        target: target.clone(),
    })
}

/// A plan that an earlier run has left open goes on.
fn resumed(session: &Session, (target, committer): (Target, Committer)) -> Result<Explained> {
    let progress = committer.checkpoint().plan.clone();
    Ok(Explained {
        masks: target.values.masked_columns(&target.stream.schema)?,
        slices: progress.as_ref().map_or(0, |plan| plan.slices),
        done: progress.map_or(0, |plan| plan.done.len()),
        estimate: target.stream.estimate,
        changes: changes(session, &target, committer.table().map(|table| table.schema())),
        note: Some("goes on with the plan of an earlier run"),
        target,
    })
}

/// How the table's schema will change, in words.
fn changes(session: &Session, target: &Target, table: Option<SchemaRef>) -> Vec<String> {
    let Some(table) = table else { return vec!["the table is created".to_owned()] };
    let wanted = match run::conform_to(&session.lake.format, target, &target.stream.schema, Some(&table), false) {
        Ok(conform) => conform.storage().clone(),
        Err(error) => return vec![error.to_string()],
    };
    let mut changes = Vec::new();
    for field in wanted.fields() {
        match table.field_with_name(field.name()) {
            Err(_) => changes.push(format!("column {} added as {}", field.name(), field.data_type())),
            Ok(old) if old.data_type() != field.data_type() => {
                changes.push(format!(
                    "column {} widened from {} to {}",
                    field.name(),
                    old.data_type(),
                    field.data_type()
                ));
            }
            Ok(_) => {}
        }
    }
    changes
}

fn as_json(explained: &Explained) -> Json {
    let target = &explained.target;
    let masks: BTreeMap<&str, &str> =
        explained.masks.iter().map(|column| (column.path.as_str(), column.mask.as_str())).collect();
    let types: BTreeMap<&str, &Option<String>> =
        explained.masks.iter().map(|column| (column.path.as_str(), &column.data_type)).collect();
    json!({
        "stream": target.stream.name,
        "mode": target.mode,
        "write": target.write,
        "cursor": target.cursor.as_ref().map(|cursor| &cursor.column),
        "slices": explained.slices - explained.done.min(explained.slices),
        "rows": explained.estimate.rows,
        "bytes": explained.estimate.bytes,
        "requests": explained.estimate.calls,
        "schema_changes": explained.changes,
        "masks": masks,
        "masked_types": types,
    })
}

fn as_text(explained: &[Explained]) -> String {
    let mut table = Table::new(["stream", "mode", "write", "cursor", "slices", "rows", "bytes", "requests"]);
    (4..8).for_each(|column| table.align_right(column));
    for one in explained {
        let target = &one.target;
        let slices = match one.done {
            0 => one.slices.to_string(),
            done => format!("{} of {}", one.slices - done.min(one.slices), one.slices),
        };
        table.row([
            target.stream.name.to_string(),
            target.mode.to_string(),
            target.write.to_string(),
            target.cursor.as_ref().map_or_else(String::new, |cursor| format!("{} ({})", cursor.column, cursor.safety)),
            slices,
            maybe(one.estimate.rows, count),
            maybe(one.estimate.bytes, bytes),
            maybe(one.estimate.calls, count),
        ]);
    }
    let mut out = if table.is_empty() { String::new() } else { table.render() };
    for one in explained {
        let masked = one.masks.iter().map(|column| match &column.data_type {
            Some(after) => format!("column {} is masked with {}, and is {after} then", column.path, column.mask),
            None => format!("column {} is left out", column.path),
        });
        let masked: Vec<String> = masked.chain(one.target.clear_positions()).collect();
        let notes = one.changes.iter().chain(&masked).map(String::as_str).chain(one.note);
        for text in notes {
            out.push_str(&format!("{}: {}\n", safe(one.target.stream.name.as_str()), safe(text)));
        }
    }
    if explained.is_empty() {
        note("there is nothing to plan");
    }
    out
}
