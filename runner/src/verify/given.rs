//! What a source gives: read from beginning to end, made as the table would have it, and not written.

use std::sync::Arc;
use std::time::Duration;

use arrow_schema::SchemaRef;
use async_trait::async_trait;
use ingest_core::lake::{Table, TableFormat};
use ingest_core::{
    Done, Error, ErrorKind, Event, Intent, Json, RawOut, Result, Shape, Slice, Stored, StreamName, WriteMode,
};

use super::sums::{Adder, Sums};
use crate::conform::{Conform, Stamp};
use crate::policy::Examiner;
use crate::run::{self, Ask, Planned, Target, conform_to, part_keyless};
use crate::session::Session;

/// Attempts at a slice.
const ATTEMPTS: u32 = 3;

/// Plans of one stream, at most.
const PLANS: usize = 10_000;

/// What was read.
#[derive(Debug, Default)]
pub struct Given {
    /// What the rows add up to.
    pub sums: Sums,
    /// Rows that a check holds back, and records that cannot be rows: none of them is in the table.
    pub quarantined: u64,
    /// Rows whose key had come before.
    pub repeated: u64,
}

/// Reads a stream and adds its rows up by the table's columns.
///
/// # Errors
/// Whatever the source says, after three attempts at a slice.
pub async fn read(
    session: &Session,
    target: &Target,
    table: &dyn Table,
    columns: &[String],
    key: &[String],
) -> Result<Given> {
    let mut gauge = Gauge::new(session, target, table, columns, key).await?;
    let mut positions = std::collections::BTreeMap::new();
    for _ in 0..PLANS {
        let planned = Planned { target, positions: std::mem::take(&mut positions), base: None, replace: false };
        let question = Ask { intent: Intent::Here, min_slices: 1, interval: None };
        let plan = run::ask(session.source.as_ref(), session.clock.now_micros(), question, &[planned]).await?;
        let then = plan.then.get(&target.stream.name).cloned().unwrap_or_default();
        for slice in plan.slices.iter().filter(|slice| slice.streams.contains(&target.stream.name)) {
            if slice.shape == Shape::Feed {
                return Err(Error::new(ErrorKind::Unsupported, "a change feed cannot be read from its beginning")
                    .with("stream", &target.stream.name));
            }
            gauge.slice(session, slice).await?;
        }
        if !plan.more {
            return Ok(gauge.given());
        }
        positions = then.into_iter().filter_map(|(slice, at)| Some((slice, at?))).collect();
    }
    Err(Error::new(ErrorKind::LimitExceeded, "the source plans for ever").with("plans", PLANS))
}

struct Gauge<'a> {
    target: &'a Target,
    format: Arc<dyn TableFormat>,
    table: SchemaRef,
    conform: Conform,
    examiner: Examiner,
    adder: Adder,
    stamp: Stamp,
    covered: Given,
    /// Since the last mark.
    since: Given,
    mark: Option<Stored>,
}

impl<'a> Gauge<'a> {
    async fn new(
        session: &Session,
        target: &'a Target,
        table: &dyn Table,
        columns: &[String],
        key: &[String],
    ) -> Result<Self> {
        let (format, schema) = (Arc::clone(&session.lake.format), table.schema());
        let conform = conform_to(&format, target, &target.stream.schema, Some(&schema), false)?;
        let quality = target
            .values
            .quality(&session.lake.documents, format.as_ref(), &session.config.name, None, session.memory)
            .await?;
        let mut adder = Adder::new(columns, key);
        // A key that only the configuration names may come more than once: rows with one key are one row of the table.
        if target.options.key.is_some() && target.write != WriteMode::Replace {
            adder = adder.distinct(session.memory / 2);
        }
        Ok(Self {
            target,
            format,
            table: schema,
            conform,
            examiner: Examiner::new(Arc::clone(&target.values), Arc::clone(quality.sets())),
            adder,
            stamp: Stamp { run_id: session.run_id.as_str().into(), ingested_at: session.clock.now_micros() },
            covered: Given::default(),
            since: Given::default(),
            mark: None,
        })
    }

    fn given(self) -> Given {
        Given { repeated: self.adder.repeated(), ..self.covered }
    }

    /// Reads a slice to its end; after an error that may pass, from its last mark on.
    async fn slice(&mut self, session: &Session, slice: &Slice<Json>) -> Result<()> {
        self.mark = None;
        let mut attempt = 1;
        loop {
            let from = self.mark.clone();
            let wait = match session.source.extract(slice, session.spec.state_version, from.as_ref(), self).await {
                Ok(Done::Complete | Done::CaughtUp | Done::Left) => {
                    self.cover();
                    return Ok(());
                }
                Ok(Done::Pending(wait)) => wait,
                // Keys that were seen are not told from those that come again.
                Err(error) if error.is_retryable() && attempt < ATTEMPTS && !self.adder.is_distinct() => {
                    tracing::warn!(error = ?error, attempt, "a slice failed and is read again");
                    attempt += 1;
                    error.retry_delay().unwrap_or(Duration::from_millis(500 << attempt))
                }
                Err(error) => return Err(error),
            };
            self.since = Given::default();
            tokio::select! {
                () = session.cancel.cancelled() => return Err(Error::cancelled()),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn cover(&mut self) {
        let since = std::mem::take(&mut self.since);
        self.covered.sums.add(&since.sums);
        self.covered.quarantined += since.quarantined;
    }

    fn is_ours(&self, stream: &StreamName) -> bool {
        *stream == self.target.stream.name
    }
}

#[async_trait]
impl RawOut for Gauge<'_> {
    async fn put(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Schema(stream, schema) if self.is_ours(&stream) => {
                self.conform = conform_to(&self.format, self.target, &schema, Some(&self.table), false)?;
            }
            Event::Rows(stream, batch) if self.is_ours(&stream) => {
                let examined = self.examiner.examine(batch)?;
                self.since.quarantined += examined.held.len() as u64;
                let conformed = self.conform.batch(examined.batch, &self.stamp)?;
                let mut batch = conformed.batch;
                if let Some(keyed) = &self.target.keyed {
                    let (whole, keyless) = part_keyless(batch, &keyed.stored_key(&self.conform)?)?;
                    self.since.quarantined += keyless.len() as u64;
                    batch = whole;
                }
                let sums = self.adder.add(&batch, None)?;
                self.since.sums.add(&sums);
            }
            Event::Quarantine(stream, _) if self.is_ours(&stream) => self.since.quarantined += 1,
            Event::Mark(position) => {
                self.mark = Some(position);
                self.cover();
            }
            _ => {}
        }
        Ok(())
    }

    fn batch_bytes(&self) -> usize {
        1 << 20
    }

    fn follow(&self) -> bool {
        false
    }
}
