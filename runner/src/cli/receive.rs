//! The part of `ingest serve` that takes deliveries of webhooks: on every machine that serves, whoever leads.

use ingest_core::{CancellationToken, Result};

use crate::config::{Config, SourceConfig};

/// The sources that receive.
pub fn sources(config: &Config) -> impl Iterator<Item = &SourceConfig> {
    config.sources.values().filter(|source| cfg!(feature = "webhooks") && source.connector == "webhooks")
}

#[cfg(feature = "webhooks")]
mod built_in {
    use std::sync::Arc;

    use ingest_connector_webhooks::{Endpoint, Endpoints, Receiver};
    use ingest_core::Error;
    use tokio::sync::watch;
    use tokio::task::JoinHandle;

    use super::{CancellationToken, Config, Result, sources};
    use crate::cli::output::{note, safe};

    /// A server that takes deliveries, where a source receives any.
    pub struct Receiving {
        endpoints: watch::Sender<Arc<Endpoints>>,
        task: Option<JoinHandle<()>>,
    }

    impl Receiving {
        /// Starts to listen. Ends when `stop` fires.
        pub async fn start(config: &Config, listen: &str, stop: &CancellationToken) -> Result<Self> {
            let (endpoints, receiver) = watch::channel(Arc::new(endpoints(config)?));
            if endpoints.borrow().is_empty() {
                return Ok(Self { endpoints, task: None });
            }
            let server = Receiver::bind(listen).await?;
            let address = server.address()?;
            for name in receiver.borrow().keys() {
                note(&format!("deliveries are taken at http://{address}/webhooks/{}", safe(name)));
            }
            let task = tokio::spawn(server.serve(receiver, stop.clone()));
            Ok(Self { endpoints, task: Some(task) })
        }

        /// Takes a new configuration over.
        pub fn reload(&self, config: &Config) -> Result<()> {
            let endpoints = endpoints(config)?;
            if self.task.is_none() && !endpoints.is_empty() {
                return Err(Error::config("no source received webhooks when this server was started")
                    .hint("start `ingest serve` again"));
            }
            self.endpoints.send_replace(Arc::new(endpoints));
            Ok(())
        }

        /// Waits until every delivery that is under way is answered.
        pub async fn end(self) -> Result<()> {
            match self.task {
                Some(task) => task.await.map_err(|e| Error::unexpected("the receiver of webhooks died").caused_by(e)),
                None => Ok(()),
            }
        }
    }

    fn endpoints(config: &Config) -> Result<Endpoints> {
        let mut endpoints = Endpoints::new();
        for source in sources(config) {
            let (name, endpoint) = Endpoint::open(&source.name, &source.fields)?;
            if endpoints.insert(name, endpoint).is_some() {
                return Err(Error::config("two sources receive at one address")
                    .with("source", &source.name)
                    .hint("the address is made of the name, and the two become one there: rename a source"));
            }
            let has_schedule = source.schedule.is_some()
                || source.defaults.schedule.is_some()
                || source.streams.iter().any(|(_, options)| options.schedule.is_some());
            if !has_schedule {
                note(&format!("{}: it has no schedule, so that nothing loads what it receives", safe(&source.name)));
            }
        }
        Ok(endpoints)
    }
}

#[cfg(feature = "webhooks")]
pub use built_in::Receiving;

/// Nothing receives in this build.
#[cfg(not(feature = "webhooks"))]
pub struct Receiving;

#[cfg(not(feature = "webhooks"))]
impl Receiving {
    /// Does nothing.
    pub async fn start(_: &Config, _: &str, _: &CancellationToken) -> Result<Self> {
        Ok(Self)
    }

    /// Does nothing.
    pub fn reload(&self, _: &Config) -> Result<()> {
        Ok(())
    }

    /// Does nothing.
    pub async fn end(self) -> Result<()> {
        Ok(())
    }
}
