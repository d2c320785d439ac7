//! `ingest check` and `ingest discover`.

use std::sync::Arc;

use ingest_catalog::ColumnDocument;
use ingest_core::{CancellationToken, Error, Json, Problem, Result, Selection, Severity, Stream};
use ingest_lake_delta::DeltaFormat;
use serde_json::json;

use super::App;
use super::args::SourceArgs;
use super::output::{Outcome, print, print_json, safe, worst};
use super::table::{Table, bytes, count, maybe};
use crate::config::Config;
use crate::run;
use crate::session::{Lake, Session};

/// `ingest check`: the source and the lake, all problems at once. Exits with the code that a run would.
pub async fn check(app: &App, args: &SourceArgs, cancel: CancellationToken) -> Outcome {
    let config = app.load_source(&args.source)?;
    let mut problems = Vec::new();
    check_lake(&config, &mut problems).await;
    if let Err(error) = check_source(app, &config, args, cancel, &mut problems).await {
        problems.push(Problem::from_error(None, &error));
    }
    let ok = problems.iter().all(|problem| problem.severity == Severity::Warning);
    if app.global.json {
        print_json(&json!({ "source": args.source, "ok": ok, "problems": problems }))?;
    } else {
        print(&report(&args.source, &problems))?;
    }
    let codes = problems.iter().filter(|p| p.severity == Severity::Error);
    Ok(worst(codes.map(|problem| if problem.exit_code == 0 { 1 } else { problem.exit_code })))
}

/// The lake must be writable and honour create-if-absent, on which every commit stands.
async fn check_lake(config: &Config, problems: &mut Vec<Problem>) {
    let probed = match DeltaFormat::open(&config.lake.url, &config.lake.options) {
        Ok(delta) => delta.probe().await,
        Err(error) => Err(error),
    };
    if let Err(error) = probed {
        problems.push(Problem::from_error(None, &error.hint("look at `lake` in the configuration")));
    }
}

async fn check_source(
    app: &App,
    config: &Config,
    args: &SourceArgs,
    cancel: CancellationToken,
    problems: &mut Vec<Problem>,
) -> Result<()> {
    // A lake that cannot be opened was reported; the source is looked at all the same.
    let lake = match Lake::open(&config.lake) {
        Ok(lake) => lake,
        Err(_) => memory_lake(config)?,
    };
    let session = Session::open_in(lake, config, &app.registry, &args.source, None, cancel).await?;
    let selection = run::selection(&session.config, &args.selection());
    let found = session.source.check(&selection).await?;
    let failed = found.iter().any(|problem| problem.severity == Severity::Error);
    problems.extend(found);
    if !failed {
        check_streams(&session, &selection, args, problems).await?;
    }
    Ok(())
}

/// The streams that a run would fail on because of how they are configured.
async fn check_streams(
    session: &Session,
    selection: &Selection,
    args: &SourceArgs,
    problems: &mut Vec<Problem>,
) -> Result<()> {
    let streams = run::discover(session, selection).await?;
    for (name, target) in run::targets(&session.config, &session.spec, streams, &args.selection())? {
        if let Err(error) = target {
            problems.push(Problem::from_error(Some(name), &error));
        }
    }
    Ok(())
}

/// A lake that holds nothing and is never written to.
fn memory_lake(config: &Config) -> Result<Lake> {
    let store = Arc::new(object_store::memory::InMemory::new());
    let url = url::Url::parse("memory:///").map_err(|e| Error::unexpected("cannot name a lake").caused_by(e))?;
    Ok(Lake {
        format: Arc::new(DeltaFormat::new(store.clone(), url)),
        documents: ingest_catalog::Documents::new(store.clone()),
        store,
        config: config.lake.clone(),
    })
}

fn report(source: &str, problems: &[Problem]) -> String {
    if problems.is_empty() {
        return format!("{}: ok\n", safe(source));
    }
    let mut out = String::new();
    for problem in problems {
        let severity = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let stream = problem.stream.as_ref().map_or_else(String::new, |stream| format!("{}: ", safe(stream.as_str())));
        out.push_str(&format!("{severity}: {stream}{}\n", safe(&problem.what)));
        out.push_str(&format!("  remedy: {}\n", safe(&problem.remedy)));
    }
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let warnings = problems.len() - errors;
    out.push_str(&format!("{}: {errors} error(s), {warnings} warning(s)\n", safe(source)));
    out
}

/// `ingest discover`: what the source offers.
pub async fn discover(app: &App, args: &SourceArgs, cancel: CancellationToken) -> Outcome {
    let config = app.load_source(&args.source)?;
    let session = Session::open(&config, &app.registry, &args.source, None, cancel).await?;
    // The configuration says which streams are loaded; here one looks for those that are not.
    let asked = args.selection();
    let mut streams = run::discover(&session, &asked).await?;
    streams.retain(|stream| asked.matches(stream.name.as_str()));
    streams.sort_by(|a, b| a.name.cmp(&b.name));
    for stream in &mut streams {
        let options = session.config.options_of(stream.name.as_str());
        if let Some(classes) = options.and_then(|options| options.classify) {
            stream.schema = run::classified(stream, &classes)?;
        }
    }
    for name in asked.select.iter().filter(|name| !name.contains(['*', '?'])) {
        if !streams.iter().any(|stream| stream.name.as_str() == name) {
            let error = Error::config(format!("there is no stream {name:?}"));
            return Err(error.hint("`ingest discover` without --select lists all streams").into());
        }
    }
    if app.global.json {
        let list: Vec<Json> = streams.iter().map(|stream| stream_json(&args.source, stream)).collect();
        print_json(&json!({ "source": args.source, "streams": list }))?;
    } else {
        print(&streams_text(&streams))?;
    }
    Ok(0)
}

fn stream_json(source: &str, stream: &Stream) -> Json {
    let cursors: Vec<Json> = stream
        .cursors
        .iter()
        .map(|cursor| json!({ "column": cursor.column, "safety": cursor.safety.to_string() }))
        .collect();
    json!({
        "name": stream.name,
        "table": format!("{source}.{}", stream.name.table()),
        "columns": ColumnDocument::of(&stream.schema),
        "key": stream.key,
        "cursors": cursors,
        "modes": stream.modes,
        "estimate": stream.estimate,
    })
}

fn streams_text(streams: &[Stream]) -> String {
    let mut table = Table::new(["stream", "table", "modes", "key", "cursors", "rows", "bytes", "columns"]);
    (5..8).for_each(|column| table.align_right(column));
    for stream in streams {
        let modes: Vec<String> = stream.modes.iter().map(ToString::to_string).collect();
        let cursors: Vec<String> =
            stream.cursors.iter().map(|cursor| format!("{} ({})", cursor.column, cursor.safety)).collect();
        table.row([
            stream.name.to_string(),
            stream.name.table(),
            modes.join(", "),
            stream.key.join(", "),
            cursors.join(", "),
            maybe(stream.estimate.rows, count),
            maybe(stream.estimate.bytes, bytes),
            stream.schema.fields().len().to_string(),
        ]);
    }
    let mut out = table.render();
    for stream in streams {
        out.push_str(&format!("\n{}\n", safe(stream.name.as_str())));
        for column in ColumnDocument::of(&stream.schema) {
            let null = if column.nullable { "" } else { ", not null" };
            let class = column.class.map_or_else(String::new, |class| format!(", {class}"));
            out.push_str(&format!("  {} {}{null}{class}\n", safe(&column.name), safe(&column.data_type)));
        }
    }
    out
}
