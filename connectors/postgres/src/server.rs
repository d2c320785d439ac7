//! The server: how to reach it, and the connections that are kept.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ingest_core::config::Tls;
use ingest_core::{Error, ErrorKind, Result};
use postgres_protocol::message::frontend;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsConnector;

use crate::config::PostgresConfig;
use crate::tls;
use crate::wire::{Connection, Role, lost};

/// An idle connection is not used again after this time: firewalls forget it.
const IDLE: Duration = Duration::from_secs(30);

/// What a connection is made of: TCP, TLS over it, or a Unix socket.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Socket for T {}

/// How to reach the server, and the connections that read from it.
pub(crate) struct Server {
    config: PostgresConfig,
    tls: Option<Arc<rustls::ClientConfig>>,
    readers: Arc<Semaphore>,
    idle: Mutex<Vec<(Instant, Connection)>>,
}

/// A connection of the pool. Given back with [`Lent::give_back`] when its last answer was read to the end; dropped, the
/// connection ends.
pub(crate) struct Lent {
    pub(crate) connection: Connection,
    _permit: OwnedSemaphorePermit,
}

impl Server {
    /// Reads certificates; connects to nothing.
    pub(crate) fn new(config: PostgresConfig) -> Result<Arc<Self>> {
        let tls = config.protection().map(|tls| tls::client(&config, tls)).transpose()?;
        if config.tls == Some(Tls::DangerPlaintext) {
            tracing::warn!("the connection is not encrypted: `tls` is `danger_plaintext`");
        }
        let readers = Arc::new(Semaphore::new(usize::from(config.max_connections)));
        Ok(Arc::new(Self { config, tls, readers, idle: Mutex::new(Vec::new()) }))
    }

    pub(crate) fn config(&self) -> &PostgresConfig {
        &self.config
    }

    /// A new connection, logged in.
    pub(crate) async fn connect(self: &Arc<Self>) -> Result<Connection> {
        self.connect_as(Role::Reader).await
    }

    /// A new connection for a purpose, logged in.
    pub(crate) async fn connect_as(self: &Arc<Self>, role: Role) -> Result<Connection> {
        let login = async {
            let socket = self.dial().await?;
            Connection::login(self.clone(), socket, role).await
        };
        let connected = tokio::time::timeout(self.config.connect_timeout.0, login).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, "the server does not answer")
                .with("timeout", self.config.connect_timeout)
                .hint("see `host`, `port` and the firewall between"))
        });
        connected.map_err(|e| e.with("host", &self.config.host).with("port", self.config.port))
    }

    /// A connection for reading: one that is kept, or a new one. Waits while `max_connections` are lent.
    pub(crate) async fn lend(self: &Arc<Self>) -> Result<Lent> {
        let permit = self.readers.clone().acquire_owned().await.map_err(|_| Error::cancelled())?;
        let kept = {
            let mut idle = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            idle.retain(|(since, _)| since.elapsed() < IDLE);
            idle.pop()
        };
        let connection = match kept {
            Some((_, connection)) => connection,
            None => self.connect().await?,
        };
        Ok(Lent { connection, _permit: permit })
    }

    /// Ends the connections that are kept.
    pub(crate) fn disconnect(&self) {
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
    }

    async fn dial(&self) -> Result<Box<dyn Socket>> {
        let unreachable = |e: std::io::Error| {
            Error::new(ErrorKind::Unavailable, "cannot reach the server")
                .hint("see `host` and `port`, and whether the server is running")
                .caused_by(e)
        };
        let host = self.config.host.trim_start_matches('[').trim_end_matches(']');
        if host.starts_with('/') {
            let path = format!("{host}/.s.PGSQL.{}", self.config.port);
            let socket = UnixStream::connect(path).await.map_err(unreachable)?;
            return match &self.tls {
                None => Ok(Box::new(socket)),
                Some(_) => Err(Error::config("`tls` has no meaning on a Unix socket").hint("leave `tls` out")),
            };
        }
        let socket = TcpStream::connect((host, self.config.port)).await.map_err(unreachable)?;
        socket.set_nodelay(true).map_err(lost)?;
        let keepalive = socket2::TcpKeepalive::new()
            .with_time(Duration::from_secs(30))
            .with_interval(Duration::from_secs(10))
            .with_retries(3);
        socket2::SockRef::from(&socket).set_tcp_keepalive(&keepalive).map_err(lost)?;
        match &self.tls {
            None => Ok(Box::new(socket)),
            Some(client) => self.encrypt(socket, host, client.clone()).await,
        }
    }

    /// Asks for TLS (`SSLRequest`); the server answers with one byte before anything is encrypted.
    async fn encrypt(
        &self,
        mut socket: TcpStream,
        host: &str,
        client: Arc<rustls::ClientConfig>,
    ) -> Result<Box<dyn Socket>> {
        let mut request = bytes::BytesMut::new();
        frontend::ssl_request(&mut request);
        socket.write_all(&request).await.map_err(lost)?;
        // One byte and not more: what follows it in the clear could have been put there by somebody else.
        match socket.read_u8().await.map_err(lost)? {
            b'S' => {}
            b'N' => {
                return Err(Error::new(ErrorKind::Unavailable, "the server does not offer TLS")
                    .hint("switch `ssl` on at the server; `tls: danger_plaintext` sends password and data in the clear")
                    .exhausted());
            }
            _ => {
                return Err(Error::new(ErrorKind::DataInvalid, "the server does not answer as PostgreSQL")
                    .hint("is this a PostgreSQL server? see `host` and `port`"));
            }
        }
        let name = ServerName::try_from(host.to_owned())
            .map_err(|e| Error::config("`host` is no name that a certificate can have").caused_by(e))?;
        let stream = TlsConnector::from(client).connect(name, socket).await.map_err(|e| {
            let certificate = e.get_ref().is_some_and(|inner| {
                matches!(inner.downcast_ref::<rustls::Error>(), Some(rustls::Error::InvalidCertificate(_)))
            });
            if certificate {
                Error::new(ErrorKind::Unauthenticated, "the server's certificate is not trusted")
                    .hint("set `tls_ca` to the authority that signed it; the certificate must name `host`")
                    .caused_by(e)
            } else {
                Error::new(ErrorKind::Unavailable, "cannot set up TLS with the server").caused_by(e)
            }
        })?;
        Ok(Box::new(stream))
    }

    /// Asks the server to cancel what a backend is doing. Nobody waits for it; it may come too late.
    pub(crate) async fn cancel(&self, pid: i32, key: i32) {
        let ask = async {
            let mut socket = self.dial().await?;
            let mut message = bytes::BytesMut::new();
            frontend::cancel_request(pid, key, &mut message);
            socket.write_all(&message).await.map_err(lost)?;
            // The server closes when the request was handled.
            let _ = socket.read_u8().await;
            Ok::<_, Error>(())
        };
        if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(5), ask).await {
            tracing::debug!(%error, "a statement that nobody reads could not be cancelled");
        }
    }

    /// What every session sets first: texts that do not depend on the role or the database, limits, no writing.
    pub(crate) fn session(&self) -> String {
        format!(
            "SET DateStyle TO 'ISO, YMD'; SET TimeZone TO 'UTC'; SET IntervalStyle TO 'iso_8601'; \
             SET extra_float_digits TO 3; SET bytea_output TO 'hex'; SET default_transaction_read_only TO on; \
             SET statement_timeout TO {}; SET lock_timeout TO {}; SET idle_in_transaction_session_timeout TO 0; \
             SET row_security TO {}",
            millis(self.config.statement_timeout.0),
            millis(self.config.lock_timeout.0),
            if self.config.row_security { "on" } else { "off" },
        )
    }
}

impl Lent {
    /// Keeps the connection for the next reader.
    pub(crate) fn give_back(self, server: &Server) {
        let mut idle = server.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if idle.len() < usize::from(server.config.max_connections) {
            idle.push((Instant::now(), self.connection));
        }
    }
}

/// Milliseconds as a setting of the server takes them.
fn millis(span: Duration) -> i32 {
    i32::try_from(span.as_millis()).unwrap_or(i32::MAX)
}
