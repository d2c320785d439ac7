//! `ingest connector test`: the conformance suite against somebody's connector.

mod build;
mod processes;
mod subject;

use std::io::IsTerminal;
use std::path::Path;

use ingest_conformance::{Line, Outcome as Checked, Report, run_showing};
use ingest_core::{Error, ErrorKind, Result};

use super::App;
use super::args::{ConnectorTestArgs, ConnectorVerb};
use super::connectors::wrap;
use super::output::{Outcome, note, print, print_json, safe};

/// The exit code of a connector that breaks its contract.
const VIOLATION: u8 = 5;
/// Texts of failures are wrapped at this width.
const WIDTH: usize = 100;

/// Runs the verb.
pub async fn run(app: &App, verb: &ConnectorVerb) -> Outcome {
    let ConnectorVerb::Test(args) = verb;
    test(app, args).await.map_err(|stop| match stop {
        // Whatever keeps the suite from being run is a matter of how it was called.
        super::Stop::Error(error) if error.kind() != ErrorKind::Cancelled => {
            super::Stop::Error(error.of_kind(ErrorKind::ConfigInvalid))
        }
        other => other,
    })
}

async fn test(app: &App, args: &ConnectorTestArgs) -> Outcome {
    known(&args.only)?;
    let mut subject = subject::of(app, args).await?;
    if !args.only.is_empty() {
        subject = subject.only(&args.only.iter().map(String::as_str).collect::<Vec<_>>());
    }
    // The suite reports a panic as a finding of its own.
    std::panic::set_hook(Box::new(|_| {}));
    let shown = std::io::stderr().is_terminal() && !app.global.json;
    let report = run_showing(subject, |line| {
        if shown {
            note(&format!("{} {}", line.id, word(line)));
        }
    })
    .await;
    if let Some(file) = args.junit.as_deref().filter(|file| !file.as_os_str().is_empty()) {
        write_junit(file, &report)?;
    }
    if app.global.json {
        print_json(&report.to_json())?;
    } else {
        print(&text(&report))?;
    }
    Ok(if report.failed().is_empty() { 0 } else { VIOLATION })
}

fn known(ids: &[String]) -> Result<()> {
    match ids.iter().find(|id| !ingest_conformance::checks().any(|(known, ..)| known == id.as_str())) {
        None => Ok(()),
        Some(id) => Err(Error::config(format!("there is no check {id:?}"))
            .hint("docs/connectors.md lists them; so does the command without --only")),
    }
}

fn write_junit(file: &Path, report: &Report) -> Result<()> {
    std::fs::write(file, report.to_junit())
        .map_err(|error| Error::config("cannot write the report").with("file", file.display()).caused_by(error))
}

fn word(line: &Line) -> &'static str {
    match line.outcome {
        Checked::Passed => "ok",
        Checked::Failed(_) => "FAILED",
        Checked::Skipped(_) => "skipped",
        Checked::DoesNotApply(_) => "-",
    }
}

/// A table of all checks, then each failure in full, then the sum.
fn text(report: &Report) -> String {
    let mut out = String::new();
    for line in &report.lines {
        out.push_str(&format!("{:<4} {:<8} {}\n", line.id, word(line), line.title));
    }
    for (heading, wanted) in [("Skipped", "skipped"), ("Does not apply", "does_not_apply")] {
        let lines: Vec<&Line> = report.lines.iter().filter(|line| line.outcome.word() == wanted).collect();
        if !lines.is_empty() {
            out.push_str(&format!("\n{heading}\n"));
        }
        for line in lines {
            out.push_str(&format!("  {} {}\n", line.id, safe(line.outcome.text().unwrap_or_default())));
        }
    }
    for line in &report.lines {
        let Checked::Failed(came) = &line.outcome else { continue };
        out.push_str(&format!("\n{} FAILED: {}\n", line.id, line.title));
        block("sent", line.sent.as_deref().unwrap_or("nothing yet"), &mut out);
        block("came", came, &mut out);
        block("contract", line.contract, &mut out);
    }
    let [passed, failed, skipped, does_not_apply] = report.counts();
    out.push_str(&format!(
        "\n{}: {passed} passed, {failed} failed, {skipped} skipped, {does_not_apply} do not apply\n",
        safe(&report.connector)
    ));
    out
}

/// A text under a word, wrapped.
fn block(word: &str, text: &str, out: &mut String) {
    let mut word = format!("{word}:");
    for paragraph in text.lines() {
        for line in wrap(paragraph, WIDTH) {
            out.push_str(&format!("  {word:<9} {}\n", safe(&line)));
            word.clear();
        }
    }
}
