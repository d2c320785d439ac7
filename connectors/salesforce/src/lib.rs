#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod bulk;
mod cdc;
mod check;
mod client;
mod config;
mod extract;
mod plan;
mod query;
mod results;
mod soql;
mod state;
mod streams;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use ingest_core::{
    Capabilities, Connector, Context, Deletes, Done, Mode, Out, Plan, PlanRequest, Problem, Replay, Result, Selection,
    Slice, Spec, Stream, StreamName, async_trait,
};

use crate::client::Api;
pub use crate::config::SalesforceConfig;
pub use crate::state::{Part, Position, Which, Work};
use crate::streams::Object;

/// The connector.
pub struct Salesforce {
    config: SalesforceConfig,
    api: Arc<Api>,
    pubsub: cdc::PubSub,
    /// What was described, by name.
    objects: Mutex<BTreeMap<String, Arc<Object>>>,
    /// How often each job was looked at: the longer it takes, the longer the pauses.
    looks: Mutex<HashMap<String, u32>>,
}

#[async_trait]
impl Connector for Salesforce {
    type Config = SalesforceConfig;
    type Work = Work;
    type Position = Position;

    fn spec() -> Spec {
        Spec {
            name: "salesforce".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            title: "Salesforce".into(),
            docs: include_str!("../README.md").into(),
            state_version: 1,
            capabilities: Capabilities {
                modes: vec![Mode::Incremental, Mode::Full, Mode::Cdc],
                deletes: Deletes::Flagged,
                replay: Replay::Always,
                parallel: 8,
                portable: true,
                projection: true,
                filter: true,
            },
            config: None,
        }
    }

    async fn open(config: SalesforceConfig, context: Context) -> Result<Self> {
        config.validate()?;
        let api = Arc::new(Api::open(&config, &context)?);
        let pubsub = cdc::PubSub::new(&config)?;
        Ok(Self { config, api, pubsub, objects: Mutex::default(), looks: Mutex::default() })
    }

    async fn check(&self, selection: &Selection) -> Result<Vec<Problem>> {
        check::check(self, selection).await
    }

    async fn check_changes(&self, streams: &[StreamName]) -> Result<Vec<Problem>> {
        cdc::check(self, streams).await
    }

    async fn schema(&self, selection: &Selection) -> Result<Vec<Stream>> {
        let objects = streams::selected(self, selection).await?;
        Ok(objects.iter().map(|object| object.stream(self.config.lag.0)).collect())
    }

    async fn plan(&self, request: &PlanRequest<Position>) -> Result<Plan<Work, Position>> {
        plan::plan(self, request).await
    }

    async fn extract(&self, slice: &Slice<Work>, from: Option<&Position>, out: &mut Out<'_, Position>) -> Result<Done> {
        extract::read(self, slice, from, out).await
    }
}

/// For the bench: a page of results in the pieces in which it comes, to nowhere. Gives the number of its rows.
///
/// # Errors
/// What is wrong with the page.
#[doc(hidden)]
pub fn decode_results(columns: Vec<(String, arrow_schema::DataType)>, page: &[u8]) -> Result<usize> {
    let mut results = results::Results::new(columns)?;
    results.begin();
    let mut rows = 0;
    for piece in page.chunks(64 << 10) {
        results.push(piece, false)?;
        if results.bytes() >= 8 << 20 {
            rows += results.batch()?.num_rows();
        }
    }
    results.push(&[], true)?;
    Ok(rows + results.batch()?.num_rows())
}

impl Salesforce {
    /// An object as it was described; asked for where it was not yet.
    async fn object(&self, name: &str) -> Result<Arc<Object>> {
        let known = self.known().get(name).cloned();
        if let Some(object) = known {
            return Ok(object);
        }
        let object = Arc::new(streams::describe(&self.api, name).await?);
        self.known().insert(name.to_owned(), object.clone());
        Ok(object)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Object>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often a job was looked at before.
    fn look(&self, job: &str) -> u32 {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let count = looks.entry(job.to_owned()).or_insert(0);
        *count = count.saturating_add(1);
        *count - 1
    }
}
