//! The server: how to reach it, and what is asked of it.

use std::sync::Arc;
use std::time::Duration;

use bson::raw::RawDocumentBuf;
use bson::{Bson, Document, Timestamp, doc};
use futures::StreamExt;
use ingest_core::config::Tls;
use ingest_core::{Context, Error, ErrorKind, Result};
use mongodb::options::{ClientOptions, Tls as ClientTls};
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use mongodb::{Client, Database};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use crate::config::Settings;
use crate::tls::Files;
use crate::{extended, faults};

/// How to reach the server. Nothing is connected before something is asked.
pub(crate) struct Server {
    settings: Settings,
    files: Files,
    client: OnceCell<Client>,
    readers: Arc<Semaphore>,
}

/// What the server says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Hello {
    /// The name of the replica set, `sharded` for a sharded cluster; `None` where there is no oplog that could be followed.
    pub(crate) set: Option<String>,
    /// Its clock, in milliseconds.
    pub(crate) now: i64,
}

/// The batches of an answer.
pub(crate) struct Batches {
    cursor: RawBatchCursor,
    timeout: Duration,
    attempted: &'static str,
    /// Held while the answer is read.
    _turn: Option<OwnedSemaphorePermit>,
}

impl Server {
    /// Reads certificates; connects to nothing.
    pub(crate) fn new(settings: Settings, context: &Context) -> Result<Self> {
        if settings.config.tls == Some(Tls::DangerPlaintext) {
            tracing::warn!("the connection is not encrypted: `tls` is `danger_plaintext`");
        }
        let files = Files::new(&settings, &context.temp_dir)?;
        let readers = Arc::new(Semaphore::new(usize::from(settings.config.max_connections)));
        Ok(Self { settings, files, client: OnceCell::new(), readers })
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    async fn client(&self) -> Result<&Client> {
        self.client
            .get_or_try_init(|| async {
                let connect = || async {
                    let mut options = ClientOptions::parse(self.settings.uri.clone()).await?;
                    self.configure(&mut options);
                    Client::with_options(options)
                };
                let limit = self.settings.config.connect_timeout.0;
                let client = tokio::time::timeout(limit, connect()).await.map_err(|_| {
                    Error::new(ErrorKind::Unavailable, "the address of the server cannot be looked up")
                        .hint("see `uri`")
                })?;
                client.map_err(|e| faults::error("cannot set up the client", e))
            })
            .await
    }

    fn configure(&self, options: &mut ClientOptions) {
        let config = &self.settings.config;
        options.app_name.get_or_insert_with(|| "ingest".into());
        options.tls = Some(match &self.files.options {
            Some(tls) => ClientTls::Enabled(tls.clone()),
            None => ClientTls::Disabled,
        });
        if !config.user.is_empty() {
            let credential = options.credential.get_or_insert_default();
            credential.username = Some(config.user.clone());
            credential.password = Some(config.password.expose().to_owned()).filter(|password| !password.is_empty());
        }
        options.connect_timeout = Some(config.connect_timeout.0);
        options.server_selection_timeout = Some(config.connect_timeout.0);
        // One for planning beside those that read.
        options.max_pool_size = Some(u32::from(config.max_connections) + 2);
        // What fails is repeated by the runner, which counts.
        options.retry_reads = Some(false);
    }

    pub(crate) async fn database(&self, name: &str) -> Result<Database> {
        Ok(self.client().await?.database(name))
    }

    /// Runs a command with a short answer.
    ///
    /// # Errors
    /// The client's own, for callers that know what to make of a code; the outer one where there is no client.
    pub(crate) async fn try_run(
        &self,
        database: &str,
        command: Document,
    ) -> Result<std::result::Result<Document, mongodb::error::Error>> {
        let database = self.database(database).await?;
        let limit = self.settings.config.timeout.0.max(self.settings.config.connect_timeout.0);
        tokio::time::timeout(limit, async { database.run_command(command).await }).await.map_err(|_| silent(limit))
    }

    /// Runs a command with a short answer.
    pub(crate) async fn run(&self, database: &str, command: Document, attempted: &str) -> Result<Document> {
        self.try_run(database, command).await?.map_err(|e| faults::error(attempted, e))
    }

    /// Runs a command whose answer comes in batches. `wait`: how long the server may wait for the next change, where it is asked for changes.
    pub(crate) async fn try_batches(
        &self,
        database: &str,
        command: Document,
        wait: Option<Duration>,
        attempted: &'static str,
    ) -> Result<std::result::Result<Batches, mongodb::error::Error>> {
        let client = self.client().await?;
        let database = client.database(database);
        let mut asked = database.run_cursor_command(command);
        if let Some(criteria) = client.selection_criteria() {
            asked = asked.selection_criteria(criteria.clone());
        }
        if let Some(wait) = wait {
            asked = asked.max_time(wait);
        }
        let timeout = self.settings.config.timeout.0;
        let limit = timeout.max(self.settings.config.connect_timeout.0);
        let opened = tokio::time::timeout(limit, asked.batch()).await.map_err(|_| silent(limit))?;
        Ok(opened.map(|cursor| Batches { cursor, timeout, attempted, _turn: None }))
    }

    /// The same, for many documents: waits while `max_connections` are at work.
    pub(crate) async fn batches(
        &self,
        database: &str,
        command: Document,
        wait: Option<Duration>,
        attempted: &'static str,
    ) -> Result<Batches> {
        let turn = self.readers.clone().acquire_owned().await.map_err(|_| Error::cancelled())?;
        let mut batches =
            self.try_batches(database, command, wait, attempted).await?.map_err(|e| faults::error(attempted, e))?;
        batches._turn = Some(turn);
        Ok(batches)
    }

    /// The documents of a short answer, at most so many.
    pub(crate) async fn documents(
        &self,
        database: &str,
        command: Document,
        most: usize,
        attempted: &'static str,
    ) -> Result<std::result::Result<Vec<RawDocumentBuf>, mongodb::error::Error>> {
        let mut batches = match self.try_batches(database, command, None, attempted).await? {
            Ok(batches) => batches,
            Err(error) => return Ok(Err(error)),
        };
        let mut documents = Vec::new();
        while let Some(batch) = batches.next().await? {
            for document in batch.doc_slices().map_err(|e| faults::error(attempted, e))? {
                let document = document.map_err(extended::unreadable)?;
                documents.extend(document.as_document().map(|document| document.to_owned()));
                if documents.len() == most {
                    return Ok(Ok(documents));
                }
            }
        }
        Ok(Ok(documents))
    }

    /// What the server says of itself.
    pub(crate) async fn hello(&self) -> Result<Hello> {
        let answer = self.run("admin", doc! { "hello": 1 }, "cannot ask the server what it is").await?;
        let now = match answer.get("localTime") {
            Some(Bson::DateTime(time)) => time.timestamp_millis(),
            _ => return Err(Error::new(ErrorKind::DataInvalid, "the server does not say what time it is")),
        };
        let sharded = answer.get_str("msg").is_ok_and(|word| word == "isdbgrid");
        let set = if sharded { Some("sharded") } else { answer.get_str("setName").ok() };
        Ok(Hello { set: set.map(str::to_owned), now })
    }

    /// The time of the cluster: everything that happened before has a lower or the same one.
    pub(crate) async fn time(&self) -> Result<u64> {
        let answer = self.run("admin", doc! { "ping": 1 }, "cannot ask for the time of the cluster").await?;
        answer.get_timestamp("operationTime").map(number).map_err(|_| {
            Error::new(ErrorKind::Unsupported, "cdc: the server has no time of a cluster")
                .hint("changes are captured on replica sets and sharded clusters alone: rs.initiate()")
        })
    }
}

impl Batches {
    /// The next batch; `None` where the server has closed the answer.
    pub(crate) async fn next(&mut self) -> Result<Option<RawBatch>> {
        let next = tokio::time::timeout(self.timeout, self.cursor.next()).await.map_err(|_| silent(self.timeout))?;
        next.transpose().map_err(|e| faults::error(self.attempted, e))
    }
}

fn silent(limit: Duration) -> Error {
    Error::new(ErrorKind::Timeout, "the server does not answer any more")
        .with("timeout", ingest_core::config::Span(limit))
        .hint("see the network between, and the server's load; `timeout` can be raised")
}

/// A time of the cluster as one number, in order.
pub(crate) fn number(time: Timestamp) -> u64 {
    u64::from(time.time) << 32 | u64::from(time.increment)
}

/// The time of a number.
pub(crate) fn timestamp(number: u64) -> Timestamp {
    let [time, increment] =
        [number >> 32, number & u64::from(u32::MAX)].map(|part| u32::try_from(part).unwrap_or(u32::MAX));
    Timestamp { time, increment }
}
