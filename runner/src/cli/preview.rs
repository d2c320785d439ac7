//! `ingest preview`: the first rows of a stream, straight from the source.

use std::time::Duration;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use ingest_core::{
    CancellationToken, Done, Error, ErrorKind, Event, Intent, Json, Mode, RawOut, Result, Selection, Slice, Stored,
    StreamName,
};
use tokio::time::Instant;

use super::App;
use super::args::PreviewArgs;
use super::output::{Outcome, note, print, print_json, safe};
use super::render;
use crate::run::{self, Ask, Planned, Target};
use crate::session::Session;

/// A job at the source that is not ready by then is not waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the verb.
pub async fn run(app: &App, args: &PreviewArgs, cancel: CancellationToken) -> Outcome {
    let config = app.load_source(&args.source)?;
    let session = Session::open(&config, &app.registry, &args.source, None, cancel).await?;
    let selection = Selection { select: vec![args.stream.clone()], exclude: Vec::new() };
    let found = run::discover(&session, &selection).await?;
    let targets = run::targets(&session.config, &session.spec, found, &selection)?;
    let (_, target) = targets.into_iter().next().ok_or_else(|| Error::config("no stream is selected"))?;
    let mut target = target?;
    // The whole stream is looked at from its beginning; a change log begins with its end.
    if target.stream.modes.contains(&Mode::Full) {
        target.mode = Mode::Full;
        target.cursor = None;
    }
    let mut out = Collect::new(&target.stream.name, args.limit as usize);
    collect(&session, &target, &mut out).await?;
    out.warnings.iter().for_each(|text| note(&format!("warning: {}", safe(text))));
    let schema = target.values.masked_schema(&target.stream.schema)?;
    let masked: Vec<RecordBatch> =
        out.batches.iter().map(|batch| target.values.mask_batch(batch)).collect::<Result<_>>()?;
    if app.global.json {
        print_json(&render::rows(&masked)?)?;
    } else {
        print(&render::table(&schema, &masked)?)?;
    }
    Ok(0)
}

/// The first rows of a stream as the source gives them, for whoever looks at values and shows none.
pub(super) async fn sample(session: &Session, target: &Target, rows: usize) -> Result<Vec<RecordBatch>> {
    let mut out = Collect::new(&target.stream.name, rows);
    collect(session, target, &mut out).await?;
    Ok(out.batches)
}

/// Reads slices one after another until there are enough rows.
async fn collect(session: &Session, target: &Target, out: &mut Collect) -> Result<()> {
    let planned = Planned { target, positions: Default::default(), base: None, replace: false };
    let question = Ask { intent: Intent::Here, min_slices: 1, interval: None };
    let plan = run::ask(session.source.as_ref(), session.clock.now_micros(), question, &[planned]).await?;
    for slice in plan.slices.iter().filter(|slice| slice.streams.contains(&target.stream.name)) {
        let position = plan.then.get(&target.stream.name).and_then(|then| then.get(&slice.id)).cloned().flatten();
        let from = (slice.shape == ingest_core::Shape::Feed).then_some(position).flatten();
        read(session, slice, from, out).await?;
        if out.is_full() {
            break;
        }
    }
    Ok(())
}

async fn read(session: &Session, slice: &Slice<Json>, from: Option<Stored>, out: &mut Collect) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    out.mark = from;
    loop {
        let from = out.mark.clone();
        match session.source.extract(slice, session.spec.state_version, from.as_ref(), out).await {
            Ok(Done::Complete | Done::CaughtUp | Done::Left) => return Ok(()),
            Ok(Done::Pending(wait)) if Instant::now() + wait < deadline => tokio::time::sleep(wait).await,
            Ok(Done::Pending(_)) => {
                return Err(Error::new(ErrorKind::Timeout, "the source is still preparing the rows")
                    .with("slice", &slice.id)
                    .hint("`ingest run --limit 20` waits for as long as it takes"));
            }
            // The way out said stop.
            Err(_) if out.is_full() => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Takes rows until there are enough.
struct Collect {
    stream: StreamName,
    limit: usize,
    rows: usize,
    batches: Vec<RecordBatch>,
    warnings: Vec<String>,
    mark: Option<Stored>,
}

impl Collect {
    fn new(stream: &StreamName, limit: usize) -> Self {
        Self { stream: stream.clone(), limit, rows: 0, batches: Vec::new(), warnings: Vec::new(), mark: None }
    }

    fn is_full(&self) -> bool {
        self.rows >= self.limit
    }
}

#[async_trait]
impl RawOut for Collect {
    async fn put(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Rows(stream, batch) if stream == self.stream => {
                let take = batch.num_rows().min(self.limit - self.rows);
                self.rows += take;
                self.batches.push(batch.slice(0, take));
            }
            Event::Mark(position) => self.mark = Some(position),
            Event::Warning { text, .. } if self.warnings.len() < 20 => self.warnings.push(text),
            Event::Quarantine(stream, bad) if stream == self.stream && self.warnings.len() < 20 => {
                self.warnings.push(bad.reason);
            }
            _ => {}
        }
        if self.is_full() { Err(Error::cancelled()) } else { Ok(()) }
    }

    fn batch_bytes(&self) -> usize {
        1 << 20
    }

    fn follow(&self) -> bool {
        false
    }
}
