//! `ingest source setup` and `ingest source teardown`.

use ingest_core::{CancellationToken, Error, Mode, SetUp};
use serde_json::json;

use super::App;
use super::args::SetUpVerb;
use super::output::{Outcome, note, print, print_json};
use crate::run;
use crate::session::Session;

/// Runs the verb: the statements go to stdout, as a person would run them.
pub async fn run(app: &App, verb: &SetUpVerb, cancel: CancellationToken) -> Outcome {
    let (args, set_up) = match verb {
        SetUpVerb::Setup(args) => (args, SetUp::Make),
        SetUpVerb::Teardown(args) => (args, SetUp::Remove),
    };
    let name = &args.source.source;
    let config = app.load_source(name)?;
    let session = Session::open(&config, &app.registry, name, None, cancel).await?;
    let asked = args.source.selection();
    let discovered = run::discover(&session, &run::selection(&session.config, &asked)).await?;
    let mut streams = Vec::new();
    for (stream, target) in run::targets(&session.config, &session.spec, discovered, &asked)? {
        if target?.mode == Mode::Cdc {
            streams.push(stream);
        }
    }
    if streams.is_empty() && set_up == SetUp::Make {
        return Err(Error::config("no stream of the source captures changes")
            .with("source", name)
            .hint("write `mode: cdc` at the streams, or under `defaults`")
            .into());
    }
    let statements = session.source.set_up(&streams, set_up, args.dry_run).await?;
    if app.global.json {
        print_json(&json!({ "source": name, "statements": statements, "done": !args.dry_run }))?;
        return Ok(0);
    }
    let lines: String = statements.iter().map(|statement| format!("{statement};\n")).collect();
    print(&lines)?;
    match (statements.is_empty(), args.dry_run) {
        (true, _) => note("nothing to do"),
        (false, true) => note("nothing was changed"),
        (false, false) => note("done"),
    }
    Ok(0)
}
