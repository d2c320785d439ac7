//! The HTTP server that takes deliveries: `POST /webhooks/<source>`.
//!
//! It speaks plain HTTP/1.1, to stand behind whatever ends TLS. Connections, bodies, the memory of all bodies together and the
//! time of everything are bounded. An answer of 200 is given once the delivery is durable; to all others senders try again.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use ingest_core::{CancellationToken, Error, ErrorKind, Json, Result, table_name};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::config::WebhooksConfig;
use crate::event;
use crate::signature::{self, Refusal};
use crate::spool::{Kept, Spool};

/// Where sources are found.
const PREFIX: &str = "/webhooks/";
/// Connections at once; further ones wait to be accepted.
const CONNECTIONS: usize = 512;
/// Memory of all bodies together, in KiB.
const BODIES: usize = 128 << 10;
/// Bytes of a head at most.
const HEAD: usize = 64 << 10;
/// A head that takes longer ends its connection, and so does a connection that is idle for so long.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// A request is done in this time or given up.
const REQUEST_TIME: Duration = Duration::from_secs(20);
/// A connection is used for so long.
const CONNECTION_TIME: Duration = Duration::from_secs(600);
/// Refusals are told so often.
const TOLD: Duration = Duration::from_secs(60);

/// The sources that receive, by the folder names of their tables.
pub type Endpoints = BTreeMap<String, Endpoint>;

/// A source that receives.
#[derive(Debug)]
pub struct Endpoint {
    source: String,
    config: WebhooksConfig,
    spool: Spool,
    refused: Mutex<Refused>,
}

/// Refusals that were not told yet.
#[derive(Debug, Default)]
struct Refused {
    count: u64,
    told: Option<Instant>,
}

impl Endpoint {
    /// Makes the folder of a source ready. `fields` are those of its configuration. Gives the name in its address too.
    ///
    /// # Errors
    /// `ConfigInvalid` for a wrong field; what keeps the folder from being made.
    pub fn open(source: &str, fields: &Json) -> Result<(String, Self)> {
        let config: WebhooksConfig = serde_json::from_value(fields.clone())
            .map_err(|e| Error::config("the fields of a source cannot be read").with("source", source).caused_by(e))?;
        config.check().map_err(|error| error.with("source", source))?;
        let spool = Spool::open(config.folder(source), config.max_waiting.0).map_err(|e| e.with("source", source))?;
        let endpoint = Self { source: source.to_owned(), config, spool, refused: Mutex::default() };
        Ok((table_name(source), endpoint))
    }

    /// Takes a delivery whose body is whole.
    async fn take(&self, headers: &HeaderMap, body: &Bytes) -> StatusCode {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        if let Err(refusal) = signature::verify(&self.config, headers, body, seconds) {
            self.refuse(refusal);
            return StatusCode::UNAUTHORIZED;
        }
        let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
        let Some(line) = event::line(&self.config, headers, body, micros) else {
            return StatusCode::BAD_REQUEST;
        };
        match self.spool.keep(line).await {
            Kept::Safe => StatusCode::OK,
            Kept::Full => {
                tracing::error!(
                    source = self.source,
                    "deliveries are refused: `max_waiting` is reached; run the source"
                );
                StatusCode::SERVICE_UNAVAILABLE
            }
            Kept::Failed => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Tells of refusals once a minute: whoever sends them does not decide how much is written.
    fn refuse(&self, refusal: Refusal) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.count += 1;
        if refused.told.is_none_or(|told| told.elapsed() >= TOLD) {
            let why = match refusal {
                Refusal::Unsigned => "no signature that can be read",
                Refusal::Wrong => "a signature that is not of `secret`",
                Refusal::Stale => "a time stamp too far from this machine's clock",
            };
            tracing::warn!(source = self.source, deliveries = refused.count, why, "deliveries were refused");
            *refused = Refused { count: 0, told: Some(Instant::now()) };
        }
    }
}

/// The server.
#[derive(Debug)]
pub struct Receiver {
    listener: TcpListener,
}

impl Receiver {
    /// Listens on an address: `127.0.0.1:8080`.
    ///
    /// # Errors
    /// `ConfigInvalid` when that cannot be done.
    pub async fn bind(address: &str) -> Result<Self> {
        let listener = TcpListener::bind(address).await.map_err(|e| {
            Error::new(ErrorKind::ConfigInvalid, "cannot listen for webhooks")
                .with("address", address)
                .hint("`--listen` takes an address of this machine with a free port, such as 127.0.0.1:8080")
                .caused_by(e)
        })?;
        Ok(Self { listener })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(|e| Error::unexpected("a listener without an address").caused_by(e))
    }

    /// Takes deliveries until `stop` fires; requests that are under way then are answered. Another value of `endpoints` holds
    /// from the next request on.
    pub async fn serve(self, endpoints: watch::Receiver<Arc<Endpoints>>, stop: CancellationToken) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let shared = Arc::new(Shared { endpoints, room: Semaphore::new(BODIES) });
        let mut connections = JoinSet::new();
        loop {
            let accepted = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (slot, self.listener.accept().await)
            };
            let (slot, accepted) = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accepted => accepted,
            };
            while connections.try_join_next().is_some() {}
            match accepted {
                Ok((stream, _)) => {
                    let (shared, stop) = (Arc::clone(&shared), stop.clone());
                    connections.spawn(async move {
                        connection(stream, shared, stop).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, for example: some will be free again.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(self.listener);
        while connections.join_next().await.is_some() {}
    }
}

struct Shared {
    endpoints: watch::Receiver<Arc<Endpoints>>,
    /// KiB of bodies that may be held.
    room: Semaphore,
}

async fn connection(stream: TcpStream, shared: Arc<Shared>, stop: CancellationToken) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(&shared, request).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(HEAD);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // How it ended is the sender's affair.
        _ = connection.as_mut() => return,
        () = stop.cancelled() => {}
        () = tokio::time::sleep(CONNECTION_TIME) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(REQUEST_TIME, connection).await;
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let status = tokio::time::timeout(REQUEST_TIME, taken(shared, request)).await;
    let mut response = Response::new(Full::default());
    *response.status_mut() = status.unwrap_or(StatusCode::REQUEST_TIMEOUT);
    response
}

async fn taken(shared: &Shared, request: Request<Incoming>) -> StatusCode {
    let endpoints = Arc::clone(&shared.endpoints.borrow());
    let Some(endpoint) = request.uri().path().strip_prefix(PREFIX).and_then(|name| endpoints.get(name)) else {
        return StatusCode::NOT_FOUND;
    };
    if request.method() != Method::POST {
        return StatusCode::METHOD_NOT_ALLOWED;
    }
    let most = endpoint.config.max_body.0;
    let length = request.body().size_hint().upper().unwrap_or(most);
    if length > most {
        return StatusCode::PAYLOAD_TOO_LARGE;
    }
    // Thrice the body: itself, what is found in it, and the line that it becomes.
    let room = u32::try_from(3 * length / 1_024 + 1).unwrap_or(u32::MAX).min(BODIES as u32);
    let Ok(_room) = shared.room.acquire_many(room).await else { return StatusCode::SERVICE_UNAVAILABLE };
    let (head, body) = request.into_parts();
    let limited = Limited::new(body, usize::try_from(most).unwrap_or(usize::MAX));
    match limited.collect().await {
        Ok(body) => endpoint.take(&head.headers, &body.to_bytes()).await,
        Err(error) if error.is::<LengthLimitError>() => StatusCode::PAYLOAD_TOO_LARGE,
        Err(_) => StatusCode::BAD_REQUEST,
    }
}
