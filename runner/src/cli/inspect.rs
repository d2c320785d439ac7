//! `ingest check` and `ingest discover`.

use std::collections::BTreeMap;
use std::sync::Arc;

use ingest_catalog::{ColumnDocument, RunDocument, RunStream, list_runs};
use ingest_core::{CLASS, CancellationToken, Error, Json, Problem, Result, Selection, Severity, Stream, StreamName};
use ingest_lake_delta::DeltaFormat;
use serde_json::json;

use super::App;
use super::args::{DiscoverArgs, SourceArgs};
use super::output::{Outcome, note, print, print_json, safe, worst};
use super::table::{Table, bytes, count, maybe, time};
use crate::config::{Common, Config, SourceConfig, StreamOptions};
use crate::events::named;
use crate::policy::{Guess, Policy, guess_by_name, guess_by_values};
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
    for problem in &mut problems {
        problem.remedy = named(&problem.remedy, &args.source, problem.stream.as_ref().map(StreamName::as_str));
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
    match check_streams(&session, &selection, args, !failed, problems).await {
        // What was found already says why.
        Err(_) if failed => Ok(()),
        checked => checked,
    }
}

/// The streams that a run would fail on because of how they are configured.
async fn check_streams(
    session: &Session,
    selection: &Selection,
    args: &SourceArgs,
    report: bool,
    problems: &mut Vec<Problem>,
) -> Result<()> {
    let streams = run::discover(session, selection).await?;
    let targets = run::targets(&session.config, &session.spec, streams, &args.selection())?;
    let is_timed = |(_, target): &(_, Result<run::Target>)| target.as_ref().is_ok_and(|t| t.options.sla.is_some());
    let history = match targets.iter().any(is_timed) {
        true => list_runs(&session.lake.documents, RUNS).await?,
        false => Vec::new(),
    };
    let mut changes = Vec::new();
    for (name, target) in targets {
        let result = match target {
            Ok(target) => {
                if target.mode == ingest_core::Mode::Cdc {
                    changes.push(name.clone());
                }
                problems.extend(of_masks(&target));
                problems.extend(of_age(&target, &session.config.name, &history, session.clock.now_micros()));
                let replaces = target.write == ingest_core::WriteMode::Replace;
                target.values.guard(&session.lake.documents, &session.config, replaces).await
            }
            Err(error) => Err(error),
        };
        if let Some(error) = result.err().filter(|_| report) {
            problems.push(Problem::from_error(Some(name), &error));
        }
    }
    if !changes.is_empty() {
        problems.extend(session.source.check_changes(&changes).await?);
    }
    Ok(())
}

/// Runs that are looked at for the last one that brought a stream up to date.
const RUNS: usize = 1000;

/// What a person should know of the age of a table.
fn of_age(target: &run::Target, source: &str, history: &[RunDocument], now: i64) -> Option<Problem> {
    let sla = target.options.sla?;
    let name = &target.stream.name;
    let brought = |run: &&RunDocument| {
        let of_stream = |stream: &RunStream| stream.stream == name.as_str() && stream.error.is_none();
        run.source == source && run.streams.iter().any(of_stream)
    };
    let ended = history.iter().filter(brought).find_map(|run| run.finished_at);
    let allowed = i64::try_from(sla.0.as_micros()).unwrap_or(i64::MAX);
    let what = match ended {
        Some(at) if now.saturating_sub(at) <= allowed => return None,
        Some(at) => format!("the table was brought up to date last at {}; `sla` allows {sla}", time(at)),
        None => format!("no run has brought the table up to date; `sla` allows {sla}"),
    };
    let remedy = "`ingest run` brings it up to date; `ingest runs` says what became of the last ones";
    Some(Problem::warning(Some(name.clone()), what, remedy))
}

/// What a person should know of the masks of a stream.
fn of_masks(target: &run::Target) -> Vec<Problem> {
    let warning = |what: String, remedy: &str| Problem {
        severity: Severity::Warning,
        stream: Some(target.stream.name.clone()),
        what,
        remedy: remedy.to_owned(),
        exit_code: 0,
    };
    let mut problems = Vec::new();
    let key = target.values.key();
    if target.values.is_keyed() && !key.is_given() {
        let what = "the mask `hash` without `mask_key` is plain SHA-256: values that can be guessed, as e-mails and phone \
            numbers, can be found by trying";
        problems.push(warning(what.to_owned(), "write `mask_key: ${MASK_KEY}` at the top, before the first load"));
    }
    if target.values.is_keyed() && key.is_short() {
        let what = "`mask_key` is so short that it can be guessed".to_owned();
        problems.push(warning(what, "use 32 random characters: `openssl rand -base64 24`"));
    }
    if let Some(what) = target.clear_positions() {
        problems.push(warning(what, "read by another cursor, or allow few to read `_ingest/` in the lake"));
    }
    problems
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
pub async fn discover(app: &App, args: &DiscoverArgs, cancel: CancellationToken) -> Outcome {
    let (sample, args) = (args.sample, &args.source);
    let config = app.load_source(&args.source)?;
    let session = Session::open(&config, &app.registry, &args.source, None, cancel).await?;
    // The configuration says which streams are loaded; here one looks for those that are not.
    let asked = args.selection();
    let mut streams = run::discover(&session, &asked).await?;
    streams.retain(|stream| asked.matches(stream.name.as_str()));
    streams.sort_by(|a, b| a.name.cmp(&b.name));
    for stream in &mut streams {
        let options = session.config.options_of(stream.name.as_str()).unwrap_or_default();
        stream.schema = Policy::described(&session.config, stream, &options);
    }
    for name in asked.select.iter().filter(|name| !name.contains(['*', '?'])) {
        if !streams.iter().any(|stream| stream.name.as_str() == name) {
            let error = Error::config(format!("there is no stream {name:?}"));
            return Err(error.hint("`ingest discover` without --select lists all streams").into());
        }
    }
    let guesses = guesses(&session, &streams, sample).await;
    if app.global.json {
        let list: Vec<Json> =
            streams.iter().zip(&guesses).map(|(stream, guesses)| stream_json(&args.source, stream, guesses)).collect();
        print_json(&json!({ "source": args.source, "streams": list }))?;
    } else {
        print(&streams_text(&streams, &guesses))?;
    }
    Ok(0)
}

/// Data classes that names, and values of a sample, hint at, for columns that have none.
async fn guesses(session: &Session, streams: &[Stream], sample: Option<u32>) -> Vec<BTreeMap<String, Guess>> {
    let mut all = Vec::new();
    for stream in streams {
        let mut guesses = BTreeMap::new();
        if let Some(rows) = sample {
            match sampled(session, stream, rows as usize).await {
                Ok(found) => guesses = found,
                Err(error) => {
                    note(&format!("warning: {}: no sample: {}", safe(stream.name.as_str()), safe(&error.to_string())))
                }
            }
        }
        for field in stream.schema.fields() {
            if let Some(guess) = guess_by_name(field.name()) {
                guesses.entry(field.name().clone()).or_insert(guess);
            }
        }
        let known = |name: &String| stream.schema.field_with_name(name).is_ok_and(|f| f.metadata().contains_key(CLASS));
        let options = session.config.options_of(stream.name.as_str()).unwrap_or_default();
        let looked_at = options.classify.unwrap_or_default();
        guesses.retain(|name, _| !known(name) && !looked_at.contains_key(name));
        all.push(guesses);
    }
    all
}

async fn sampled(session: &Session, stream: &Stream, rows: usize) -> Result<BTreeMap<String, Guess>> {
    // As it is by itself: whatever the configuration says of it may be what one is about to write.
    let bare = SourceConfig { streams: Vec::new(), defaults: StreamOptions::default(), ..session.config.clone() };
    let bare = SourceConfig { common: Common::default(), ..bare };
    let only = Selection { select: vec![stream.name.to_string()], exclude: Vec::new() };
    let targets = run::targets(&bare, &session.spec, vec![stream.clone()], &only)?;
    let (_, target) = targets.into_iter().next().ok_or_else(|| Error::config("no stream is selected"))?;
    let mut target = target?;
    if target.stream.modes.contains(&ingest_core::Mode::Full) {
        target.mode = ingest_core::Mode::Full;
        target.cursor = None;
    }
    guess_by_values(&super::preview::sample(session, &target, rows).await?)
}

fn stream_json(source: &str, stream: &Stream, guesses: &BTreeMap<String, Guess>) -> Json {
    let columns: Vec<Json> = ColumnDocument::of(&stream.schema)
        .iter()
        .map(|column| {
            let mut object = json!(column);
            if let Some(guess) = guesses.get(&column.name) {
                object["looks_like"] = json!({ "class": guess.class.name(), "kind": guess.kind });
            }
            object
        })
        .collect();
    let cursors: Vec<Json> = stream
        .cursors
        .iter()
        .map(|cursor| json!({ "column": cursor.column, "safety": cursor.safety.to_string() }))
        .collect();
    json!({
        "name": stream.name,
        "table": format!("{source}.{}", stream.name.table()),
        "columns": columns,
        "key": stream.key,
        "cursors": cursors,
        "modes": stream.modes,
        "estimate": stream.estimate,
    })
}

fn streams_text(streams: &[Stream], guesses: &[BTreeMap<String, Guess>]) -> String {
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
    for (stream, guesses) in streams.iter().zip(guesses) {
        out.push_str(&format!("\n{}\n", safe(stream.name.as_str())));
        for column in ColumnDocument::of(&stream.schema) {
            let null = if column.nullable { "" } else { ", not null" };
            let class = column.class.map_or_else(String::new, |class| format!(", {class}"));
            let mask = column.mask.map_or_else(String::new, |mask| format!(", mask {mask}"));
            let guess = guesses.get(&column.name);
            let guess =
                guess.map_or_else(String::new, |guess| format!(", looks like {} ({})", guess.class.name(), guess.kind));
            out.push_str(&format!("  {} {}{null}{class}{mask}{guess}\n", safe(&column.name), safe(&column.data_type)));
        }
    }
    out
}
