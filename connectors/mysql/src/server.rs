//! The server: how to reach it, and the connections that are kept.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ingest_core::config::Tls;
use ingest_core::{Error, ErrorKind, Result};
use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, Opts, OptsBuilder, Row};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::MysqlConfig;
use crate::{faults, tls};

/// An idle connection is not used again after this time: firewalls forget it.
const IDLE: Duration = Duration::from_secs(30);
/// How long the server waits for us to take rows while the lake is slow.
const PATIENCE: u64 = 24 * 3_600;

/// How to reach the server, and the connections that read from it.
pub(crate) struct Server {
    config: MysqlConfig,
    opts: Opts,
    readers: Arc<Semaphore>,
    idle: Mutex<Vec<(Instant, Connection)>>,
}

/// A connection, logged in, with its session set up.
pub(crate) struct Connection {
    conn: Conn,
    pub(crate) flavour: Flavour,
}

/// Whose server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    Mysql,
    MariaDb,
}

/// A connection of the pool. Given back with [`Lent::give_back`] when its last answer was read to the end; dropped before
/// that, the statement is ended at the server.
pub(crate) struct Lent {
    connection: Option<Connection>,
    server: Arc<Server>,
    _permit: OwnedSemaphorePermit,
}

impl Server {
    /// Reads certificates; connects to nothing.
    pub(crate) fn new(config: MysqlConfig) -> Result<Arc<Self>> {
        if config.tls == Some(Tls::DangerPlaintext) {
            tracing::warn!("the connection is not encrypted: `tls` is `danger_plaintext`");
        }
        let tls = config.protection().map(|tls| tls::options(&config, tls)).transpose()?;
        let host = config.host.trim_start_matches('[').trim_end_matches(']');
        let mut opts = OptsBuilder::default()
            .tcp_port(config.port)
            .prefer_socket(false)
            .tcp_keepalive(Some(Duration::from_secs(30)))
            .user(Some(config.user.as_str()))
            .pass(Some(config.password.expose()).filter(|password| !password.is_empty()))
            // Asked of the server otherwise, at the cost of a round trip; the second only matters to the client's own pool.
            .max_allowed_packet(usize::try_from(config.max_row_bytes.0).ok())
            .wait_timeout(Some(28_800))
            .stmt_cache_size(0)
            .ssl_opts(tls)
            .connect_attribute("program_name", "ingest");
        opts = if host.starts_with('/') { opts.socket(Some(host)) } else { opts.ip_or_hostname(host) };
        let readers = Arc::new(Semaphore::new(usize::from(config.max_connections)));
        Ok(Arc::new(Self { config, opts: opts.into(), readers, idle: Mutex::default() }))
    }

    pub(crate) fn config(&self) -> &MysqlConfig {
        &self.config
    }

    /// The number by which the server knows this reader of its binlog. Two readers of one number take the stream from each
    /// other, and people give their replicas small ones.
    pub(crate) fn replica_id(&self) -> u32 {
        use std::hash::{BuildHasher, Hasher};
        let chance = std::collections::hash_map::RandomState::new().build_hasher().finish() as u32;
        self.config.server_id.unwrap_or(chance | 1 << 31)
    }

    /// A new connection, logged in.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        let login = async {
            let conn = self.dial().await?;
            let mut connection = Connection { conn, flavour: Flavour::Mysql };
            connection.set_up(&self.config).await?;
            Ok(connection)
        };
        let connected = tokio::time::timeout(self.config.connect_timeout.0, login).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, "the server does not answer")
                .with("timeout", self.config.connect_timeout)
                .hint("see `host`, `port` and the firewall between"))
        });
        connected.map_err(|e| e.with("host", &self.config.host).with("port", self.config.port))
    }

    async fn dial(&self) -> Result<Conn> {
        let mut dialled = Conn::new(self.opts.clone()).await;
        if let (Err(error), Some(Tls::VerifyCa)) = (&dialled, self.config.protection())
            && let (Some(name), Some(tls)) = (tls::presented(error), self.opts.ssl_opts())
        {
            let tls = tls.clone().with_danger_tls_hostname_override(Some(name));
            dialled = Conn::new(OptsBuilder::from_opts(self.opts.clone()).ssl_opts(tls)).await;
        }
        dialled.map_err(|e| faults::error("cannot reach the server", e))
    }

    /// A connection for reading: one that is kept, or a new one. Waits while `max_connections` are lent.
    pub(crate) async fn lend(self: &Arc<Self>) -> Result<Lent> {
        let permit = self.readers.clone().acquire_owned().await.map_err(|_| Error::cancelled())?;
        let kept = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|(since, _)| since.elapsed() < IDLE);
            idle.pop()
        };
        let connection = match kept {
            Some((_, connection)) => connection,
            None => self.connect().await?,
        };
        Ok(Lent { connection: Some(connection), server: self.clone(), _permit: permit })
    }

    /// Whether a session is still working on a statement, and not waiting for us to take its answer.
    pub(crate) async fn is_at_work(&self, id: u32) -> bool {
        let ask = async {
            let mut connection = self.connect().await?;
            let sql =
                format!("SELECT COMMAND, COALESCE(STATE, '') FROM information_schema.PROCESSLIST WHERE ID = {id}");
            let rows: Vec<(String, String)> = connection.rows(&sql, "cannot see what the server does").await?;
            connection.close().await;
            Ok::<_, Error>(rows)
        };
        let working = |(command, state): &(String, String)| {
            let sending = ["writing to net", "sending to client"].iter().any(|s| state.to_lowercase().contains(s));
            matches!(command.as_str(), "Query" | "Execute") && !sending
        };
        match tokio::time::timeout(self.config.connect_timeout.0, ask).await {
            Ok(Ok(rows)) => rows.iter().any(working),
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Ends a session at the server. Nobody waits for it; it may come too late.
    async fn kill(&self, id: u32) {
        let ask = async {
            let mut connection = self.connect().await?;
            connection.run(&format!("KILL {id}"), "cannot end a session").await?;
            connection.close().await;
            Ok::<_, Error>(())
        };
        if let Ok(Err(error)) = tokio::time::timeout(self.config.connect_timeout.0, ask).await {
            tracing::debug!(%error, "a statement that nobody reads could not be ended");
        }
    }
}

impl Connection {
    /// What every session sets first: texts and times that do not depend on the server's settings, limits, no writing.
    async fn set_up(&mut self, config: &MysqlConfig) -> Result<()> {
        let rows: Vec<(String,)> = self.rows("SELECT VERSION()", "cannot set up a session").await?;
        let mariadb = rows.first().is_some_and(|(version,)| version.to_lowercase().contains("mariadb"));
        self.flavour = if mariadb { Flavour::MariaDb } else { Flavour::Mysql };
        let limit = config.statement_timeout.0;
        let limit = match self.flavour {
            Flavour::MariaDb => format!("max_statement_time = {:.3}", limit.as_secs_f64()),
            Flavour::Mysql => {
                format!("max_execution_time = {}, information_schema_stats_expiry = 0", limit.as_millis())
            }
        };
        self.run("SET NAMES utf8mb4", "cannot set up a session").await?;
        let settings = format!(
            "SET time_zone = '+00:00', sql_mode = '', net_write_timeout = {PATIENCE}, lock_wait_timeout = {}, {limit}",
            config.lock_timeout.0.as_secs()
        );
        match self.run(&settings, "cannot set up a session").await {
            // MySQL 5.7 keeps no statistics for `information_schema`.
            Err(_) if self.flavour == Flavour::Mysql => {
                self.run(&settings.replace(", information_schema_stats_expiry = 0", ""), "cannot set up a session")
                    .await?;
            }
            other => other?,
        }
        self.run("SET SESSION TRANSACTION READ ONLY", "cannot set up a session").await
    }

    /// The session's number at the server.
    pub(crate) fn id(&self) -> u32 {
        self.conn.id()
    }

    /// The client's own connection, for answers that are read row by row.
    pub(crate) fn client(&mut self) -> &mut Conn {
        &mut self.conn
    }

    /// The same, for good: what it becomes is read until it ends.
    pub(crate) fn into_client(self) -> Conn {
        self.conn
    }

    /// Runs a statement without an answer.
    pub(crate) async fn run(&mut self, sql: &str, attempted: &str) -> Result<()> {
        self.conn.query_drop(sql).await.map_err(|e| faults::error(attempted, e))
    }

    /// All rows of a short answer.
    ///
    /// # Errors
    /// Also `DataInvalid`, where a row is not of the type that was asked for.
    pub(crate) async fn rows<T: FromRow>(&mut self, sql: &str, attempted: &str) -> Result<Vec<T>> {
        let rows: Vec<Row> = self.conn.query(sql).await.map_err(|e| faults::error(attempted, e))?;
        let unreadable = |_| {
            Error::new(ErrorKind::DataInvalid, "cannot read the server's catalog")
                .hint("is this MySQL 5.7, MariaDB 10.3 or newer, and not another server that speaks their protocol?")
        };
        rows.into_iter().map(|row| mysql_async::from_row_opt(row).map_err(unreadable)).collect()
    }

    /// Ends the session in good order.
    pub(crate) async fn close(self) {
        if let Err(error) = self.conn.disconnect().await {
            tracing::debug!(%error, "a connection could not be closed");
        }
    }
}

impl Lent {
    pub(crate) fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("taken only by `give_back`, which takes all")
    }

    /// Keeps the connection for the next reader.
    pub(crate) fn give_back(mut self) {
        let Some(connection) = self.connection.take() else { return };
        let mut idle = self.server.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < usize::from(self.server.config.max_connections) {
            idle.push((Instant::now(), connection));
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // The client would read the rest of the answer before it closes; the server shall not have to send it.
        let Some(connection) = self.connection.take() else { return };
        let (id, server) = (connection.id(), self.server.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { server.kill(id).await });
        }
    }
}
