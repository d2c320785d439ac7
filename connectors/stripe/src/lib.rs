#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod apply;
mod check;
mod client;
mod config;
mod feed;
mod lists;
mod objects;
mod pages;
mod plan;
mod state;
mod streams;
mod walk;

use std::sync::Arc;

use ingest_core::{
    Capabilities, Connector, Context, Deletes, Done, ErrorKind, Mode, Out, Plan, PlanRequest, Problem, Replay, Result,
    Selection, Slice, Spec, Stream, async_trait,
};

use crate::client::Api;
pub use crate::config::{Reconcile, Start, StripeConfig};
pub use crate::state::{ListWork, Position, Work};
use crate::streams::{Changes, STREAMS};

/// The connector.
pub struct Stripe {
    config: StripeConfig,
    api: Arc<Api>,
}

#[async_trait]
impl Connector for Stripe {
    type Config = StripeConfig;
    type Work = Work;
    type Position = Position;

    fn spec() -> Spec {
        Spec {
            name: "stripe".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            title: "Stripe".into(),
            docs: include_str!("../README.md").into(),
            state_version: 1,
            capabilities: Capabilities {
                modes: vec![Mode::Incremental, Mode::Full],
                deletes: Deletes::Events,
                replay: Replay::Retention,
                parallel: 8,
                portable: true,
                projection: false,
                filter: false,
            },
            config: None,
        }
    }

    async fn open(config: StripeConfig, context: Context) -> Result<Self> {
        config.validate()?;
        let api = Arc::new(Api::open(&config, &context)?);
        Ok(Self { config, api })
    }

    async fn check(&self, selection: &Selection) -> Result<Vec<Problem>> {
        check::check(self, selection).await
    }

    async fn schema(&self, selection: &Selection) -> Result<Vec<Stream>> {
        let accounts = self.has_accounts();
        let selected = STREAMS.iter().filter(|def| selection.matches(def.name));
        Ok(selected.map(|def| def.stream(accounts, self.config.lag.0)).collect())
    }

    async fn plan(&self, request: &PlanRequest<Position>) -> Result<Plan<Work, Position>> {
        let accounts = self.config.accounts();
        let account = accounts.first().and_then(Option::as_deref);
        for selected in &request.streams {
            let def = plan::stream_def(&selected.stream.name)?;
            if def.changes == Changes::Events && selected.mode == Mode::Incremental {
                // Refused here, before hours of lists, where the key may not read events. The time is asked for again
                // with each plan: a clock may be set while a process lives.
                self.ask_time("events", account).await?;
                break;
            }
        }
        if let Some(selected) = request.streams.first() {
            let def = plan::stream_def(&selected.stream.name)?.list();
            let account = account.filter(|_| !def.platform);
            match self.learn_time(def.path, account).await {
                // The slices of the stream will tell; others of its group may be read.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
                learnt => learnt?,
            }
        }
        plan::plan(&self.config, self.api.now(), request)
    }

    async fn extract(&self, slice: &Slice<Work>, from: Option<&Position>, out: &mut Out<'_, Position>) -> Result<Done> {
        match &slice.work {
            Work::List(work) => lists::read(self, work, &slice.streams, from, out).await,
            Work::Events { account, begin } => {
                let begin = Position::feed_from(*begin);
                let from = from.unwrap_or(&begin);
                feed::follow(self, account.as_deref(), &slice.streams, from, out).await
            }
        }
    }
}

impl Stripe {
    /// Makes sure that an answer has told the server's time: bounds that are fixed by a clock ahead of it lose rows.
    async fn learn_time(&self, list: &str, account: Option<&str>) -> Result<()> {
        if self.api.knows_time() { Ok(()) } else { self.ask_time(list, account).await }
    }

    async fn ask_time(&self, list: &str, account: Option<&str>) -> Result<()> {
        let limit = [("limit", "1".to_owned())];
        self.api.get(account, list, list, &limit).await.map_err(|error| error.with("stream", list))?;
        Ok(())
    }

    /// The last second of which all events and objects can be seen.
    fn head(&self) -> i64 {
        plan::head(&self.config, self.api.about_now())
    }

    fn has_accounts(&self) -> bool {
        self.config.accounts().iter().any(Option::is_some)
    }

    /// The account that rows name.
    fn row_account<'a>(&self, account: Option<&'a str>) -> Option<&'a str> {
        account.filter(|_| self.has_accounts())
    }

    /// Calls that one slice has under way at once.
    fn at_once(&self) -> usize {
        usize::from(self.config.concurrency)
    }
}
