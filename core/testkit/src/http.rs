//! A scriptable HTTP/1.1 server for tests: every answer, right or wrong, is a value.
//!
//! ```
//! use ingest_testkit::http::{HttpServer, Response};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let server = HttpServer::start(|request| async move {
//!     match request.path.as_str() {
//!         "/v1/charges" => Response::json(r#"{"data":[],"has_more":false}"#),
//!         _ => Response::status(404),
//!     }
//! })
//! .await;
//! assert!(server.url().starts_with("http://127.0.0.1:"));
//! assert_eq!(server.requests().len(), 0);
//! # }
//! ```

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// The longest head and body of a request that the server takes.
const MAX_REQUEST: usize = 64 << 20;

/// A request as it came in.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `GET`, `POST`.
    pub method: String,
    /// The path, still percent-encoded, without the query.
    pub path: String,
    /// The query as it came, without the `?`; empty when there is none.
    pub query: String,
    /// Names in lower case, in the order in which they came.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// How many requests came before this one, over all connections.
    pub nth: usize,
    /// Which connection it came over; the first is 0.
    pub connection: usize,
}

impl Request {
    /// The first header of a name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The decoded value of a query parameter.
    pub fn param(&self, name: &str) -> Option<String> {
        self.params().into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// All decoded query parameters, in order.
    pub fn params(&self) -> Vec<(String, String)> {
        url::form_urlencoded::parse(self.query.as_bytes()).into_owned().collect()
    }

    /// The decoded fields of a form body.
    pub fn form(&self) -> HashMap<String, String> {
        url::form_urlencoded::parse(&self.body).into_owned().collect()
    }
}

/// A piece of a body and the pause before it.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// How long to wait before it is sent.
    pub delay: Duration,
    /// What is sent.
    pub bytes: Bytes,
}

#[derive(Debug, Clone)]
enum Body {
    /// With `content-length`.
    Whole(Bytes),
    /// With `transfer-encoding: chunked`.
    Chunks(Vec<Chunk>),
    /// One pattern again and again, chunked, until this many bytes are out: bodies too large to hold.
    Repeated(Bytes, u64),
    /// Exactly these bytes on the wire, head included; then the connection closes.
    Raw(Bytes),
}

/// An answer: a well-formed one, or one with faults.
#[derive(Debug, Clone)]
pub struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
    delay: Duration,
    declared_length: Option<u64>,
    reset_after: Option<usize>,
    pace: Option<Duration>,
    never: bool,
    close: bool,
}

impl Response {
    /// An empty answer with a status.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Body::Whole(Bytes::new()),
            delay: Duration::ZERO,
            declared_length: None,
            reset_after: None,
            pace: None,
            never: false,
            close: false,
        }
    }

    /// 200 with a JSON body.
    pub fn json(body: impl Into<Bytes>) -> Self {
        Self::status(200).header("content-type", "application/json").body(body)
    }

    /// 200 with an HTML body, as a login page or a proxy answers.
    pub fn html(body: impl Into<Bytes>) -> Self {
        Self::status(200).header("content-type", "text/html; charset=utf-8").body(body)
    }

    /// A redirect.
    pub fn redirect(status: u16, location: impl Into<String>) -> Self {
        Self::status(status).header("location", location)
    }

    /// Takes the request and never answers; the connection stays open.
    pub fn never() -> Self {
        Self { never: true, ..Self::status(200) }
    }

    /// Exactly these bytes, the head included; then the connection closes.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Self { body: Body::Raw(bytes.into()), close: true, ..Self::status(200) }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body, sent with its length.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Body::Whole(body.into());
        self
    }

    /// Sets the body, sent chunked, with a pause before each chunk.
    #[must_use]
    pub fn chunks(mut self, chunks: Vec<Chunk>) -> Self {
        self.body = Body::Chunks(chunks);
        self
    }

    /// Sets a body of `total` bytes, made of `pattern` again and again, sent chunked.
    #[must_use]
    pub fn repeated(mut self, pattern: impl Into<Bytes>, total: u64) -> Self {
        self.body = Body::Repeated(pattern.into(), total);
        self
    }

    /// Compresses the body that was set before and says so.
    ///
    /// # Panics
    /// When the body is not one of [`Response::body`].
    #[must_use]
    pub fn gzip(self) -> Self {
        let Body::Whole(plain) = &self.body else { panic!("only a whole body can be compressed") };
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(plain).expect("writing to memory");
        let packed = encoder.finish().expect("writing to memory");
        self.body(packed).header("content-encoding", "gzip")
    }

    /// A gzip body that unpacks to `mebibytes` of blanks: members of one each, one after another.
    #[must_use]
    pub fn gzip_bomb(self, mebibytes: usize) -> Self {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![b' '; 1 << 20]).expect("writing to memory");
        let member = encoder.finish().expect("writing to memory");
        self.body(member.repeat(mebibytes)).header("content-encoding", "gzip")
    }

    /// Cuts the body of [`Response::body`] off after half of it.
    #[must_use]
    pub fn cut(mut self) -> Self {
        if let Body::Whole(body) = &mut self.body {
            body.truncate(body.len() / 2);
        }
        self
    }

    /// Appends bytes to the body of [`Response::body`].
    #[must_use]
    pub fn then(mut self, bytes: &[u8]) -> Self {
        if let Body::Whole(body) = &mut self.body {
            *body = [body.as_ref(), bytes].concat().into();
        }
        self
    }

    /// Waits before the first byte of the answer.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Declares another length than the body has. A longer one ends with the connection closed.
    #[must_use]
    pub fn content_length(mut self, length: u64) -> Self {
        self.declared_length = Some(length);
        self
    }

    /// Resets the connection (RST) after so many bytes of the answer, head included.
    #[must_use]
    pub fn reset_after(mut self, bytes: usize) -> Self {
        self.reset_after = Some(bytes);
        self
    }

    /// Sends the body one byte at a time with this pause before each: a slow-loris.
    #[must_use]
    pub fn trickle(mut self, pause: Duration) -> Self {
        self.pace = Some(pause);
        self
    }

    /// Closes the connection after the answer.
    #[must_use]
    pub fn close(mut self) -> Self {
        self.close = true;
        self
    }

    fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match (&self.body, self.declared_length) {
            (_, Some(length)) => head.push_str(&format!("content-length: {length}\r\n")),
            (Body::Whole(_), None) if self.status == 204 || self.status == 304 => {}
            (Body::Whole(body), None) => head.push_str(&format!("content-length: {}\r\n", body.len())),
            _ => head.push_str("transfer-encoding: chunked\r\n"),
        }
        if self.close {
            head.push_str("connection: close\r\n");
        }
        head.push_str("\r\n");
        head
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        302 => "Found",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

type Handler = dyn Fn(Request) -> Pin<Box<dyn Future<Output = Response> + Send>> + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    requests: Mutex<Vec<Request>>,
    arrived: Notify,
    nth: AtomicUsize,
    connections: AtomicUsize,
    record: bool,
}

/// A server on a free loopback port. It stops when it is dropped.
pub struct HttpServer {
    url: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl HttpServer {
    /// Starts a plain server; the handler is called for each request.
    ///
    /// # Panics
    /// When no loopback port can be bound.
    pub async fn start<H, F>(handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        Self::listen(handler, None, "127.0.0.1", true).await
    }

    /// Starts a plain server that keeps no list of requests, for load tests: [`HttpServer::hits`] still counts.
    pub async fn start_unrecorded<H, F>(handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        Self::listen(handler, None, "127.0.0.1", false).await
    }

    /// Starts a TLS server; see [`crate::certificates`]. Its URL names `localhost`.
    pub async fn start_tls<H, F>(config: Arc<rustls::ServerConfig>, handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        Self::listen(handler, Some(TlsAcceptor::from(config)), "localhost", true).await
    }

    async fn listen<H, F>(handler: H, tls: Option<TlsAcceptor>, host: &str, record: bool) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free loopback port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = Arc::new(Shared {
            handler: Box::new(move |request| Box::pin(handler(request))),
            requests: Mutex::new(Vec::new()),
            arrived: Notify::new(),
            nth: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            record,
        });
        let accepting = tokio::spawn(accept(listener, tls, shared.clone()));
        Self { url: format!("{scheme}://{host}:{}", address.port()), address, shared, accepting }
    }

    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All requests so far, in the order in which they arrived.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// How many requests arrived so far.
    pub fn hits(&self) -> usize {
        self.shared.nth.load(Ordering::Relaxed)
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Waits until at least `n` requests have arrived.
    pub async fn wait_for(&self, n: usize) {
        loop {
            let arrived = self.shared.arrived.notified();
            if self.hits() >= n {
                return;
            }
            arrived.await;
        }
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl fmt::Debug for HttpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpServer").field("url", &self.url).field("hits", &self.hits()).finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    // Connections live in this set, so that they end with the server.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let id = shared.connections.fetch_add(1, Ordering::Relaxed);
        let (shared, tls) = (shared.clone(), tls.clone());
        connections.spawn(async move {
            // A small answer must not wait for the acknowledgement of the one before it.
            if stream.set_nodelay(true).is_err() {
                return;
            }
            match tls {
                None => serve(stream, id, &shared).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, id, &shared).await;
                    }
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// A stream that can be torn down so that the peer sees a reset.
trait Abort {
    fn abort(self);
}

impl Abort for TcpStream {
    fn abort(self) {
        let lingering = self.set_zero_linger();
        debug_assert!(lingering.is_ok(), "SO_LINGER can be set on a connected socket");
    }
}

impl Abort for tokio_rustls::server::TlsStream<TcpStream> {
    fn abort(self) {
        self.into_inner().0.abort();
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Abort + Unpin>(mut stream: S, connection: usize, shared: &Shared) {
    let mut buffer = Vec::with_capacity(8 << 10);
    while let Some(mut request) = read_request(&mut stream, &mut buffer).await {
        request.connection = connection;
        request.nth = shared.nth.fetch_add(1, Ordering::Relaxed);
        if shared.record {
            lock(&shared.requests).push(request.clone());
        }
        shared.arrived.notify_waiters();
        let response = (shared.handler)(request).await;
        match answer(&mut stream, &response).await {
            Ok(Next::KeepAlive) => {}
            Ok(Next::Close) => {
                // The peer may be gone already; then there is nothing left to close.
                drop(stream.shutdown().await);
                return;
            }
            Ok(Next::Reset) => return stream.abort(),
            // The client went away in the middle: its right.
            Err(_) => return,
        }
    }
}

enum Next {
    KeepAlive,
    Close,
    Reset,
}

async fn answer<S: AsyncWrite + Unpin>(stream: &mut S, response: &Response) -> std::io::Result<Next> {
    if response.never {
        std::future::pending::<()>().await;
    }
    if !response.delay.is_zero() {
        tokio::time::sleep(response.delay).await;
    }
    if let Body::Raw(bytes) = &response.body {
        stream.write_all(bytes).await?;
        stream.flush().await?;
        return Ok(if response.reset_after.is_some() { Next::Reset } else { Next::Close });
    }
    let head = response.head();
    if let Some(limit) = response.reset_after {
        let mut all = head.into_bytes();
        match &response.body {
            Body::Whole(body) => all.extend_from_slice(body),
            Body::Chunks(chunks) => chunks.iter().for_each(|chunk| all.extend(framed(&chunk.bytes))),
            Body::Repeated(pattern, _) => all.extend(framed(pattern)),
            Body::Raw(_) => {}
        }
        stream.write_all(&all[..limit.min(all.len())]).await?;
        stream.flush().await?;
        return Ok(Next::Reset);
    }
    match &response.body {
        Body::Whole(body) => {
            if let Some(pause) = response.pace {
                stream.write_all(head.as_bytes()).await?;
                for byte in body.chunks(1) {
                    stream.flush().await?;
                    tokio::time::sleep(pause).await;
                    stream.write_all(byte).await?;
                }
            } else {
                write_both(stream, head.as_bytes(), body).await?;
            }
        }
        Body::Chunks(chunks) => {
            stream.write_all(head.as_bytes()).await?;
            for chunk in chunks {
                stream.flush().await?;
                if !chunk.delay.is_zero() {
                    tokio::time::sleep(chunk.delay).await;
                }
                stream.write_all(&framed(&chunk.bytes)).await?;
            }
            stream.write_all(b"0\r\n\r\n").await?;
        }
        Body::Repeated(pattern, total) => {
            stream.write_all(head.as_bytes()).await?;
            let mut sent = 0;
            let frame = framed(pattern);
            while sent < *total && !pattern.is_empty() {
                stream.write_all(&frame).await?;
                sent += pattern.len() as u64;
            }
            stream.write_all(b"0\r\n\r\n").await?;
        }
        Body::Raw(_) => {}
    }
    stream.flush().await?;
    Ok(if response.close || response.declared_length.is_some() { Next::Close } else { Next::KeepAlive })
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    let mut frame = format!("{:x}\r\n", bytes.len()).into_bytes();
    frame.extend_from_slice(bytes);
    frame.extend_from_slice(b"\r\n");
    frame
}

/// Head and body in one system call where the stream can do it.
async fn write_both<S: AsyncWrite + Unpin>(stream: &mut S, head: &[u8], body: &[u8]) -> std::io::Result<()> {
    let mut sent = 0;
    while sent < head.len() {
        let parts = [std::io::IoSlice::new(&head[sent..]), std::io::IoSlice::new(body)];
        let n = stream.write_vectored(&parts).await?;
        if n == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        sent += n;
    }
    stream.write_all(&body[sent - head.len()..]).await
}

/// Reads one request; `None` when the connection ends or what came is not HTTP.
async fn read_request<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> Option<Request> {
    let end = loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            break end + 4;
        }
        if buffer.len() > MAX_REQUEST || stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = std::str::from_utf8(buffer.get(..end)?).ok()?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    buffer.drain(..end);
    let mut request = Request { method, path, query, headers, ..Request::default() };
    let length: usize = request.header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
    if length > MAX_REQUEST {
        return None;
    }
    while buffer.len() < length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    request.body = buffer.drain(..length).collect::<Vec<u8>>().into();
    Some(request)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
