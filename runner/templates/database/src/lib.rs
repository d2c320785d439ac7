#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod client;
mod config;
mod tables;

use std::collections::BTreeMap;

use ingest_core::json::Decoder;
use ingest_core::{
    Capabilities, Connector, Context, Cursor, Deletes, Done, Error, ErrorKind, Estimate, Mode, Out, Plan, PlanRequest,
    Problem, Replay, Result, Selected, Selection, Shape, Slice, Spec, Stream, StreamName, async_trait,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use client::Client;
pub use config::AcmeConfig;
use tables::{CHANGED, ID};

/// What a row takes, about: pages follow the memory that there is.
const ROW_BYTES: usize = 256;

/// The connector.
pub struct Acme {
    config: AcmeConfig,
}

/// What a slice says to this connector; all bounds are fixed before anything is read.
#[derive(Debug, Serialize, Deserialize)]
pub struct Work {
    range: Range,
    columns: Option<Vec<String>>,
}

/// Which rows a slice has.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Range {
    /// Rows with `above < id <= to`, of a full read.
    Keys { above: i64, to: i64 },
    /// Rows with `from <= changed < to`.
    Changed { from: i64, to: i64 },
}

/// Where a slice has been read to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// In a range of keys: the last one.
    Key(i64),
    /// In a window of changes: the last row.
    Row {
        /// Its transaction.
        changed: i64,
        /// Its key.
        id: i64,
    },
    /// Between runs: all transactions below this one have been read.
    Below(i64),
}

impl Cursor for Position {}

/// Where a row stands.
#[derive(Deserialize)]
struct Place {
    id: i64,
    changed: i64,
}

impl Acme {
    async fn find(&self, client: &mut Client, name: &StreamName) -> Result<Stream> {
        let tables = client.tables().await?;
        let table = tables.iter().find(|table| table.name == name.as_str()).ok_or_else(|| {
            Error::config(format!("there is no table {name:?}")).hint("`ingest discover` lists the tables")
        })?;
        tables::stream(table)
    }
}

/// Where the last run ended.
fn held(selected: &Selected<Position>) -> Result<i64> {
    match selected.positions.get(&CHANGED.into()) {
        None => Ok(0),
        Some(Position::Below(transaction)) => Ok(*transaction),
        Some(_) => Err(foreign()),
    }
}

fn foreign() -> Error {
    Error::new(ErrorKind::CheckpointInvalid, "the position is of another kind")
        .hint("`ingest state reset` forgets it and the next run loads everything")
}

/// Ranges of keys, `parts` of them, that together hold all keys up to `last`.
fn ranges(last: i64, parts: u32) -> Vec<Range> {
    let parts = i64::from(parts).clamp(1, last.max(1));
    let bound = |n: i64| if n == 0 { i64::MIN } else { last / parts * n + last % parts * n / parts };
    let to = |n: i64| if n + 1 == parts { last.max(0) } else { bound(n + 1) };
    (0..parts).map(|n| Range::Keys { above: bound(n), to: to(n) }).collect()
}

#[async_trait]
impl Connector for Acme {
    type Config = AcmeConfig;
    type Work = Work;
    type Position = Position;

    fn spec() -> Spec {
        Spec {
            name: "acme".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            title: "Acme".into(),
            docs: include_str!("../README.md").into(),
            state_version: 1,
            capabilities: Capabilities {
                modes: vec![Mode::Incremental, Mode::Full],
                deletes: Deletes::Unseen,
                replay: Replay::Always,
                parallel: 4,
                portable: true,
                projection: true,
                filter: false,
            },
            config: None,
        }
    }

    async fn open(config: AcmeConfig, _context: Context) -> Result<Self> {
        config.validate()?;
        Ok(Self { config })
    }

    async fn check(&self, _selection: &Selection) -> Result<Vec<Problem>> {
        match Client::connect(&self.config).await {
            Ok(mut client) => {
                let tables = client.tables().await?;
                let problems = tables.iter().filter_map(|table| {
                    let error = tables::stream(table).err()?;
                    Some(Problem::from_error(Some(table.name.as_str().into()), &error))
                });
                Ok(problems.collect())
            }
            Err(error) => Ok(vec![Problem::from_error(None, &error)]),
        }
    }

    async fn schema(&self, selection: &Selection) -> Result<Vec<Stream>> {
        let tables = Client::connect(&self.config).await?.tables().await?;
        tables.iter().filter(|table| selection.matches(&table.name)).map(tables::stream).collect()
    }

    async fn plan(&self, request: &PlanRequest<Position>) -> Result<Plan<Work, Position>> {
        if request.interval.is_some() {
            return Err(Error::new(ErrorKind::Unsupported, "the cursor of this source is not a time"));
        }
        let mut client = Client::connect(&self.config).await?;
        let safe = client.oldest_open().await?;
        let tables = client.tables().await?;
        let mut plan = Plan::default();
        for selected in &request.streams {
            let name = &selected.stream.name;
            let table = tables.iter().find(|table| table.name == name.as_str()).ok_or_else(|| {
                Error::config(format!("there is no table {name:?}")).hint("`ingest discover` lists the tables")
            })?;
            let ranges = if selected.mode == Mode::Full {
                ranges(table.last, request.min_slices)
            } else {
                let from = held(selected)?;
                plan.then.insert(name.clone(), BTreeMap::from([(CHANGED.into(), Some(Position::Below(safe)))]));
                vec![Range::Changed { from, to: safe }]
            };
            plan.slices.extend(ranges.into_iter().enumerate().map(|(n, range)| Slice {
                id: format!("{name}/{n}").into(),
                streams: vec![name.clone()],
                shape: Shape::Window,
                work: Work { range, columns: selected.columns.clone() },
                estimate: Estimate::default(),
            }));
        }
        Ok(plan)
    }

    async fn extract(
        &self,
        slice: &Slice<Work>,
        from: Option<&Position>,
        out: &mut Out<'_, Position>,
    ) -> Result<Done> {
        let Some(name) = slice.streams.first() else { return Err(Error::unexpected("a slice without a table")) };
        let mut client = Client::connect(&self.config).await?;
        let stream = self.find(&mut client, name).await?;
        let mut decoder = Decoder::new(tables::cut(&stream.schema, slice.work.columns.as_deref()))?;
        decoder = decoder.taking([ID, CHANGED]);
        let mut at = match (&slice.work.range, from) {
            (_, None) => None,
            (Range::Keys { .. }, Some(at @ Position::Key(_))) => Some(at.clone()),
            (Range::Changed { .. }, Some(at @ Position::Row { .. })) => Some(at.clone()),
            _ => return Err(foreign()),
        };
        loop {
            let limit = (out.batch_bytes() / ROW_BYTES).clamp(1, 10_000);
            let query = json!({"table": name, "columns": slice.work.columns, "limit": limit,
                               "range": slice.work.range, "after": at});
            let rows = client.rows(&query).await?;
            let Some(last) = rows.last() else { return Ok(Done::Complete) };
            let unreadable = |_| Error::new(ErrorKind::DataInvalid, "a row has no key or no transaction");
            let place = Place::deserialize(last).map_err(unreadable)?;
            for row in &rows {
                decoder.object(row.to_string().as_bytes())?;
            }
            out.rows(name, decoder.flush()?).await?;
            let position = match slice.work.range {
                Range::Keys { .. } => Position::Key(place.id),
                Range::Changed { .. } => Position::Row { changed: place.changed, id: place.id },
            };
            // All rows before are out: a restart may begin after this one.
            out.mark(&position).await?;
            at = Some(position);
        }
    }
}
