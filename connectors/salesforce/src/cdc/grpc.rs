//! gRPC over HTTP/2, as far as the Pub/Sub API needs it: calls of one message, and one stream both ways.
//!
//! A message is framed by five bytes: whether it is compressed, which is never asked for, and its length. How a call ended stands in
//! the trailers.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request};
use ingest_core::config::{Tls, is_loopback};
use ingest_core::{Error, ErrorKind, Result};
use ingest_http::{Url, word};
use prost::Message;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// The longest message: a hundred events of a megabyte fit.
const MESSAGE: usize = 128 << 20;
/// Bytes that the server may send before they were read.
const WINDOW: u32 = 2 << 20;

/// Where the service is, and how the way there is protected.
pub(crate) struct Endpoint {
    url: Url,
    host: String,
    port: u16,
    tls: Option<Arc<rustls::ClientConfig>>,
    timeout: Duration,
}

impl Endpoint {
    /// Checks an address that stands in a configuration.
    ///
    /// # Errors
    /// `ConfigInvalid` for what is no URL of a server, and for plain HTTP to another machine.
    pub fn new(text: &str, tls: Option<Tls>, ca: Option<&str>, plaintext: bool, timeout: Duration) -> Result<Self> {
        let wrong = |what: &str| {
            Error::config(format!("pubsub_endpoint: {what}")).hint("write it as https://api.pubsub.salesforce.com:7443")
        };
        let url = Url::parse(text).map_err(|_| wrong("is not a URL"))?;
        let host = url.host_str().ok_or_else(|| wrong("names no host"))?.to_owned();
        let port = url.port_or_known_default().ok_or_else(|| wrong("names no port"))?;
        let has_more = url.path().len() > 1 || url.query().is_some() || !url.username().is_empty();
        if has_more || url.password().is_some() {
            return Err(wrong("is more than scheme, host and port"));
        }
        let tls = match url.scheme() {
            "https" => {
                let material = ingest_tls::Material { ca, ..ingest_tls::Material::default() };
                let mut client = ingest_tls::client(tls.unwrap_or(Tls::VerifyFull), &material)?;
                client.alpn_protocols = vec![b"h2".to_vec()];
                Some(Arc::new(client))
            }
            "http" if plaintext || is_loopback(&host) => None,
            "http" => return Err(wrong("plain HTTP to another machine would show the token to everyone on the way")),
            _ => return Err(wrong("is not an https URL")),
        };
        Ok(Self { url, host, port, tls, timeout })
    }
}

/// A connection. It ends when this is dropped.
pub(crate) struct Channel {
    send: SendRequest<Bytes>,
    base: String,
    timeout: Duration,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Channel {
    /// Connects.
    pub async fn connect(endpoint: &Endpoint) -> Result<Self> {
        let failed =
            |what: &str| Error::new(ErrorKind::Unavailable, format!("cdc: {what}")).with("host", &endpoint.host);
        let connected = timeout(endpoint.timeout, async {
            let socket = TcpStream::connect((endpoint.host.as_str(), endpoint.port))
                .await
                .map_err(|e| failed("cannot connect to the Pub/Sub API").caused_by(e))?;
            socket.set_nodelay(true).map_err(|e| failed("cannot set up a connection").caused_by(e))?;
            match &endpoint.tls {
                None => Self::over(socket, endpoint).await,
                Some(tls) => {
                    let name = ServerName::try_from(endpoint.host.clone())
                        .map_err(|e| Error::config("pubsub_endpoint: names no host of a certificate").caused_by(e))?;
                    let stream = TlsConnector::from(tls.clone()).connect(name, socket).await.map_err(untrusted)?;
                    Self::over(stream, endpoint).await
                }
            }
        });
        connected.await.map_err(|_| Error::new(ErrorKind::Timeout, "cdc: the Pub/Sub API does not answer"))?
    }

    async fn over(socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, endpoint: &Endpoint) -> Result<Self> {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).enable_push(false);
        let (send, connection) = builder.handshake(socket).await.map_err(|e| broken(&e))?;
        let connection = tokio::spawn(async move {
            // What was wrong with it is told to the calls on it.
            let _ = connection.await;
        });
        let base = endpoint.url.as_str().trim_end_matches('/').to_owned();
        Ok(Self { send, base, timeout: endpoint.timeout, connection })
    }

    /// A call of one message that is answered by one.
    pub async fn call<A: Message + Default>(
        &self,
        method: &'static str,
        metadata: &HeaderMap,
        message: &impl Message,
    ) -> Result<A> {
        let answered = timeout(self.timeout, async {
            let mut stream = self.begin::<A>(method, metadata).await?;
            stream.send(message)?;
            stream.close()?;
            let answer = stream.next().await?;
            answer.ok_or_else(|| Error::new(ErrorKind::DataInvalid, "cdc: an answer of the Pub/Sub API is empty"))
        });
        answered.await.map_err(|_| slow())?.map_err(|error| error.with("call", method))
    }

    /// Opens a stream of messages both ways.
    pub async fn stream<A: Message + Default>(
        &self,
        method: &'static str,
        metadata: &HeaderMap,
        message: &impl Message,
    ) -> Result<Stream<A>> {
        let opened = timeout(self.timeout, async {
            let mut stream = self.begin(method, metadata).await?;
            stream.send(message)?;
            Ok(stream)
        });
        opened.await.map_err(|_| slow())?
    }

    async fn begin<A>(&self, method: &'static str, metadata: &HeaderMap) -> Result<Stream<A>> {
        let mut request = Request::post(format!("{}/eventbus.v1.PubSub/{method}", self.base))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", concat!("ingest/", env!("CARGO_PKG_VERSION")))
            .body(())
            .map_err(|e| Error::unexpected("cannot make a request of the Pub/Sub API").caused_by(e))?;
        request.headers_mut().extend(metadata.clone());
        let mut send = self.send.clone().ready().await.map_err(|e| broken(&e))?;
        let (response, send) = send.send_request(request, false).map_err(|e| broken(&e))?;
        Ok(Stream {
            send,
            response: Some(response),
            receive: None,
            buffer: BytesMut::new(),
            message: std::marker::PhantomData,
        })
    }
}

/// Messages both ways.
pub(crate) struct Stream<A> {
    send: SendStream<Bytes>,
    response: Option<ResponseFuture>,
    receive: Option<RecvStream>,
    buffer: BytesMut,
    message: std::marker::PhantomData<fn() -> A>,
}

impl<A: Message + Default> Stream<A> {
    /// Sends a message.
    pub fn send(&mut self, message: &impl Message) -> Result<()> {
        let body = message.encode_to_vec();
        let length = u32::try_from(body.len()).map_err(|_| Error::unexpected("a request is too long"))?;
        let mut frame = Vec::with_capacity(body.len() + 5);
        frame.push(0);
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&body);
        self.send.send_data(frame.into(), false).map_err(|e| broken(&e))
    }

    fn close(&mut self) -> Result<()> {
        self.send.send_data(Bytes::new(), true).map_err(|e| broken(&e))
    }

    /// The next message; `None` once the server has ended the stream. A caller who gives up waiting loses nothing.
    pub async fn next(&mut self) -> Result<Option<A>> {
        loop {
            if let Some(message) = self.message()? {
                return Ok(Some(message));
            }
            if let Some(response) = &mut self.response {
                let response = response.await.map_err(|e| broken(&e))?;
                self.response = None;
                if response.status() != http::StatusCode::OK {
                    return Err(Error::new(ErrorKind::Unavailable, "cdc: the Pub/Sub API refuses a call")
                        .with("status", response.status().as_u16()));
                }
                // A call that fails at once has no body, and its trailers are the headers.
                if response.headers().contains_key("grpc-status") {
                    ended(response.headers())?;
                }
                self.receive = Some(response.into_body());
            }
            let Some(receive) = &mut self.receive else { return Ok(None) };
            match receive.data().await {
                Some(bytes) => {
                    let bytes = bytes.map_err(|e| broken(&e))?;
                    receive.flow_control().release_capacity(bytes.len()).map_err(|e| broken(&e))?;
                    self.buffer.extend_from_slice(&bytes);
                }
                None => {
                    let trailers = receive.trailers().await.map_err(|e| broken(&e))?;
                    self.receive = None;
                    let cut =
                        || Error::new(ErrorKind::Unavailable, "cdc: a stream of the Pub/Sub API ends in its middle");
                    ended(&trailers.ok_or_else(cut)?)?;
                    return if self.buffer.is_empty() { Ok(None) } else { Err(cut()) };
                }
            }
        }
    }

    /// A whole message that has come.
    fn message(&mut self) -> Result<Option<A>> {
        let Some((head, _)) = self.buffer.split_first_chunk::<5>() else { return Ok(None) };
        let [compressed, length @ ..] = *head;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if compressed != 0 || length > MESSAGE {
            return Err(Error::new(
                ErrorKind::DataInvalid,
                "cdc: a message of the Pub/Sub API is compressed or too long",
            )
            .with("bytes", length));
        }
        if self.buffer.len() - 5 < length {
            return Ok(None);
        }
        self.buffer.advance(5);
        let message = A::decode(self.buffer.split_to(length).freeze());
        message.map(Some).map_err(|e| {
            Error::new(ErrorKind::DataInvalid, "cdc: a message of the Pub/Sub API cannot be read").caused_by(e)
        })
    }
}

fn slow() -> Error {
    Error::new(ErrorKind::Timeout, "cdc: the Pub/Sub API does not answer in time")
}

fn broken(error: &h2::Error) -> Error {
    // The library's text may quote what the server sent.
    let reason = error.reason();
    let reason = reason.as_ref().map_or("the connection broke", h2::Reason::description);
    Error::new(ErrorKind::Unavailable, "cdc: the connection to the Pub/Sub API failed").with("reason", reason)
}

fn untrusted(error: std::io::Error) -> Error {
    let certificate = error.get_ref().is_some_and(|inner| {
        matches!(inner.downcast_ref::<rustls::Error>(), Some(rustls::Error::InvalidCertificate(_)))
    });
    match certificate {
        true => Error::new(ErrorKind::Unauthenticated, "cdc: the certificate of the Pub/Sub API is not trusted")
            .hint("set `tls_ca` to the authority that signed it; the certificate must name the host")
            .caused_by(error),
        false => Error::new(ErrorKind::Unavailable, "cdc: cannot set up TLS with the Pub/Sub API").caused_by(error),
    }
}

/// What the end of a call means.
///
/// Facts: the codes of gRPC; the trailer `error-code` of the Pub/Sub API, "Handle Errors".
fn ended(trailers: &HeaderMap) -> Result<()> {
    let text = |name: &str| trailers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    let status = text("grpc-status");
    if status == "0" {
        return Ok(());
    }
    let code = text("error-code");
    let error = match status {
        _ if code.contains("replayid") => Error::new(
            ErrorKind::CheckpointInvalid,
            "cdc: the source does not keep changes from this position on any more",
        )
        .hint("changes are kept for 72 hours: load the stream again with `ingest run --resync STREAM`"),
        "16" => Error::new(ErrorKind::Unauthenticated, "cdc: the Pub/Sub API refused the session")
            .hint("the session was refused, and a new one as well: check the user and the app"),
        "7" => Error::new(ErrorKind::PermissionDenied, "cdc: the user may not read changes of the object")
            .hint("give the integration user read rights on the object, or \"View All Data\""),
        "5" => Error::new(ErrorKind::NotFound, "cdc: the org publishes no changes of the object")
            .hint("select the object in Setup, Change Data Capture"),
        "8" => {
            Error::new(ErrorKind::QuotaExhausted, "cdc: the org's deliveries of events or its subscribers are used up")
                .hint("what was read is committed; run again later, or buy more")
        }
        "3" => Error::new(ErrorKind::ConfigInvalid, "cdc: the Pub/Sub API does not take a request"),
        "4" => Error::new(ErrorKind::Timeout, "cdc: the Pub/Sub API gave a call up"),
        _ => Error::new(ErrorKind::Unavailable, "cdc: the Pub/Sub API failed"),
    };
    let error = error.with("grpc_status", word(status).unwrap_or("?"));
    let code = code.rsplit("grpc.").next().unwrap_or_default();
    let is_plain = !code.is_empty()
        && code.len() < 100
        && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'_');
    Err(if is_plain { error.with("code", code) } else { error })
}
