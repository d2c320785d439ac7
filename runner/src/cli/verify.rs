//! `ingest verify`: source and tables compared, and a receipt kept.

use ingest_catalog::{FORMAT, VerifiedStream, VerifyDocument};
use ingest_core::{CancellationToken, Clock, Error, ErrorKind, SystemClock};
use serde_json::json;

use super::App;
use super::args::VerifyArgs;
use super::output::{Outcome, note, print, print_error, print_json, safe, worst};
use super::table::{Table, count};
use crate::events::ErrorReport;
use crate::run;
use crate::session::Session;
use crate::verify::verify;

/// Runs the verb. A stream that fails does not keep the others from it.
pub async fn run(app: &App, args: &VerifyArgs, cancel: CancellationToken) -> Outcome {
    let config = app.load_source(&args.source.source)?;
    let session = Session::open(&config, &app.registry, &args.source.source, None, cancel).await?;
    let asked = args.source.selection();
    let found = run::discover(&session, &run::selection(&session.config, &asked)).await?;
    let targets = run::targets(&session.config, &session.spec, found, &asked)?;
    let started_at = SystemClock.now_micros();
    let (mut streams, mut codes) = (Vec::new(), Vec::new());
    for (name, target) in targets {
        let verified = match target {
            Ok(target) => verify(&session, &target, args.counts).await,
            Err(error) => Err(error),
        };
        streams.push(match verified {
            Ok(verified) => {
                if verified.outcome == "unequal" {
                    codes.push(ErrorKind::QualityFailed.exit_code());
                }
                verified
            }
            Err(error) => {
                print_error(&error, &app.global);
                codes.push(error.kind().exit_code());
                failed(name.as_str(), &error)
            }
        });
    }
    let receipt = VerifyDocument {
        format: FORMAT,
        run_id: session.run_id.clone(),
        source: args.source.source.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at,
        finished_at: SystemClock.now_micros(),
        equal: streams.iter().all(|stream| stream.outcome == "equal"),
        streams,
    };
    receipt.record(&session.lake.documents).await?;
    report(app, &receipt)?;
    Ok(worst(codes))
}

fn failed(stream: &str, error: &Error) -> VerifiedStream {
    let outcome = if error.kind() == ErrorKind::Unsupported { "unsupported" } else { "failed" };
    VerifiedStream {
        stream: stream.to_owned(),
        outcome: outcome.to_owned(),
        error: Some(json!(ErrorReport::from(error))),
        ..VerifiedStream::default()
    }
}

fn report(app: &App, receipt: &VerifyDocument) -> Result<(), super::Stop> {
    if app.global.json {
        return print_json(receipt);
    }
    let mut table = Table::new(["stream", "source rows", "table rows", "held back", "keys", "columns", "outcome"]);
    (1..4).for_each(|column| table.align_right(column));
    for stream in &receipt.streams {
        let word = |equal: bool| if equal { "equal" } else { "unequal" }.to_owned();
        let unequal: Vec<&str> = stream.columns.iter().filter(|c| !c.sums.equal).map(|c| c.column.as_str()).collect();
        let columns = match stream.columns.len() {
            0 => "-".to_owned(),
            all if unequal.is_empty() => format!("{all} equal"),
            _ => format!("unequal: {}", safe(&unequal.join(", "))),
        };
        table.row([
            safe(&stream.stream).into_owned(),
            count(stream.source_rows),
            count(stream.table_rows),
            count(stream.quarantined_rows),
            stream.keys.as_ref().map_or_else(|| "-".to_owned(), |keys| word(keys.equal)),
            columns,
            stream.outcome.clone(),
        ]);
        stream.notes.iter().for_each(|text| note(&format!("note: {}: {}", safe(&stream.stream), safe(text))));
    }
    print(&format!("{}receipt: {}\n", table.render(), receipt.path()))
}
