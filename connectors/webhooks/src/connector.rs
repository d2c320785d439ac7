//! The connector: what the runner calls to load what was received.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_schema::{Field, Schema};
use ingest_core::{
    CLASS, Capabilities, Connector, Context, Deletes, Done, Error, Mode, Out, Plan, PlanRequest, Problem, Replay,
    Result, Selection, Slice, Spec, Stream, async_trait,
};
use ingest_files::{Defaults, FileSource, FileStream, Limits, Position, Work};
use serde_json::json;

use crate::config::WebhooksConfig;
use crate::event::COLUMNS;
use crate::folder::Folder;
use crate::spool::ENDING;

/// The one stream.
const EVENTS: &str = "events";

/// Loads the events that `ingest serve` has received.
pub struct Webhooks(FileSource);

/// The stream as core/files reads it.
fn stream() -> Result<FileStream> {
    let types: BTreeMap<&str, &str> = COLUMNS.into_iter().collect();
    // No name comes twice.
    let stream = json!({"path": format!("*{ENDING}"), "format": "ndjson", "types": types, "on_change": "append"});
    serde_json::from_value(stream).map_err(|e| Error::unexpected("cannot describe the stream of events").caused_by(e))
}

/// The columns in their order; the payload may hold anything.
fn described(stream: Stream) -> Stream {
    let known: HashMap<&str, usize> = COLUMNS.iter().enumerate().map(|(i, (name, _))| (*name, i)).collect();
    let mut fields: Vec<Field> = stream.schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.sort_by_key(|field| known.get(field.name().as_str()).copied().unwrap_or(COLUMNS.len()));
    for field in fields.iter_mut().filter(|field| field.name() == "payload") {
        field.set_metadata(HashMap::from([(CLASS.to_owned(), "pii".to_owned())]));
    }
    Stream { schema: Arc::new(Schema::new(fields)), key: vec!["id".into()], modes: vec![Mode::Incremental], ..stream }
}

#[async_trait]
impl Connector for Webhooks {
    type Config = WebhooksConfig;
    type Work = Work;
    type Position = Position;

    fn spec() -> Spec {
        Spec {
            name: "webhooks".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            title: "Webhooks of Stripe, Shopify and others".into(),
            docs: include_str!("../README.md").into(),
            state_version: 1,
            capabilities: Capabilities {
                modes: vec![Mode::Incremental],
                deletes: Deletes::Unseen,
                replay: Replay::UntilCheckpoint,
                parallel: 4,
                portable: false,
                projection: true,
                filter: false,
            },
            config: None,
        }
    }

    async fn open(config: WebhooksConfig, context: Context) -> Result<Self> {
        config.check()?;
        let streams = ingest_files::streams(&BTreeMap::from([(EVENTS.to_owned(), stream()?)]), &Defaults::default())
            .map_err(|wrong| Error::unexpected(wrong.join("; ")))?;
        let folder = Folder { path: config.folder(&context.source), keeps: config.keep_loaded };
        let limits = Limits::new(ingest_core::config::ByteSize(1 << 30), 1, ingest_core::config::ByteSize(1 << 40));
        Ok(Self(FileSource::new(Arc::new(folder), streams, Defaults::default(), limits, context)))
    }

    async fn check(&self, selection: &Selection) -> Result<Vec<Problem>> {
        let found = self.0.schema(selection).await;
        Ok(found.err().map(|error| Problem::from_error(Some(EVENTS.into()), &error)).into_iter().collect())
    }

    async fn schema(&self, selection: &Selection) -> Result<Vec<Stream>> {
        Ok(self.0.schema(selection).await?.into_iter().map(described).collect())
    }

    async fn plan(&self, request: &PlanRequest<Position>) -> Result<Plan<Work, Position>> {
        self.0.plan(request).await
    }

    async fn extract(&self, slice: &Slice<Work>, from: Option<&Position>, out: &mut Out<'_, Position>) -> Result<Done> {
        self.0.extract(slice, from, out).await
    }
}
