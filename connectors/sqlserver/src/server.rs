//! The server: how to reach it, and the connections that are kept.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ingest_core::config::Tls;
use ingest_core::{Error, ErrorKind, Result};
use tiberius::{AuthMethod, Client, ColumnData, Config, EncryptionLevel, Row, SqlBrowser};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::compat::{Compat, TokioAsyncWriteCompatExt};

use crate::config::SqlServerConfig;
use crate::faults;

/// An idle connection is not used again after this time: firewalls forget it.
const IDLE: Duration = Duration::from_secs(30);
/// Times that a server may send us elsewhere; Azure SQL does so once.
const REDIRECTS: usize = 3;
/// What the client asks to have in one packet: less than a record of TLS.
const PACKET: u32 = 16_000;

/// How to reach the server, and the connections that read from it.
pub(crate) struct Server {
    config: SqlServerConfig,
    client: Config,
    readers: Arc<Semaphore>,
    idle: Mutex<Vec<(Instant, Connection)>>,
}

/// A connection, logged in, with its session set up.
pub(crate) struct Connection {
    client: Client<Compat<TcpStream>>,
    pub(crate) facts: Facts,
}

/// What the server says of itself and of the database.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The session's number.
    pub(crate) session: i64,
    pub(crate) database: String,
    /// The database's user for the login.
    pub(crate) account: String,
    /// Whether a statement can read the database as it was at one time, without locks.
    pub(crate) snapshot: bool,
    /// Whether every statement does so anyway.
    pub(crate) versioned: bool,
    /// Whether it is a copy of another server's.
    pub(crate) read_only: bool,
}

/// A connection of the pool. Given back with [`Lent::give_back`] when its last answer was read to the end; dropped before
/// that, it is closed, which ends the statement at the server.
pub(crate) struct Lent {
    connection: Option<Connection>,
    server: Arc<Server>,
    _permit: OwnedSemaphorePermit,
}

impl Server {
    /// Reads certificates; connects to nothing.
    pub(crate) fn new(config: SqlServerConfig) -> Result<Arc<Self>> {
        let mut client = Config::new();
        client.host(config.host.trim_start_matches('[').trim_end_matches(']'));
        client.port(config.port());
        if let Some(instance) = &config.instance {
            client.instance_name(instance);
        }
        if !config.database.is_empty() {
            client.database(&config.database);
        }
        client.application_name("ingest");
        client.readonly(config.read_only);
        client.packet_size(PACKET);
        // Both are watched from outside, where the reason of a silence can be found out.
        client.handshake_timeout(None);
        client.command_timeout(None);
        // What is no Unicode is counted, and said.
        client.lossy_utf16_decoding(true);
        client.authentication(match &config.access_token {
            Some(token) => AuthMethod::aad_token(token.expose()),
            None => AuthMethod::sql_server(&config.user, config.password.expose()),
        });
        protect(&mut client, &config)?;
        let readers = Arc::new(Semaphore::new(usize::from(config.max_connections)));
        Ok(Arc::new(Self { config, client, readers, idle: Mutex::default() }))
    }

    pub(crate) fn config(&self) -> &SqlServerConfig {
        &self.config
    }

    /// A new connection, logged in.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        let login = async {
            let mut connection = Connection { client: self.dial().await?, facts: Facts::default() };
            connection.set_up(&self.config).await?;
            Ok(connection)
        };
        let connected = tokio::time::timeout(self.config.connect_timeout.0, login).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, "the server does not answer")
                .with("timeout", self.config.connect_timeout)
                .hint("see `host`, `port` and the firewall between"))
        });
        connected.map_err(|e| e.with("host", &self.config.host).with("port", self.config.port()))
    }

    async fn dial(&self) -> Result<Client<Compat<TcpStream>>> {
        const ATTEMPTED: &str = "cannot reach the server";
        let mut client = self.client.clone();
        for _ in 0..REDIRECTS {
            let socket = TcpStream::connect_named(&client).await.map_err(|e| faults::error(ATTEMPTED, e))?;
            match Client::connect(client.clone(), socket.compat_write()).await {
                Err(tiberius::error::Error::Routing { host, port }) => {
                    client.host(host);
                    client.port(port);
                }
                dialled => return dialled.map_err(|e| faults::error(ATTEMPTED, e)),
            }
        }
        Err(Error::new(ErrorKind::Unavailable, ATTEMPTED)
            .hint("the server sends its clients elsewhere, again and again"))
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

    /// Waits for the server, however long a session works on its statement, but not for one that is silent.
    pub(crate) async fn patient<T>(&self, session: i64, waiting: impl Future<Output = T>) -> Result<T> {
        let timeout = self.config.timeout;
        tokio::pin!(waiting);
        loop {
            if let Ok(answer) = tokio::time::timeout(timeout.0, &mut waiting).await {
                return Ok(answer);
            }
            if !self.is_at_work(session).await {
                return Err(Error::new(ErrorKind::Timeout, "the server sends nothing any more")
                    .with("timeout", timeout)
                    .hint("see the network between, and the server's load; `timeout` can be raised")
                    .exhausted());
            }
        }
    }

    /// Whether a session is still working on a statement, and not waiting for us to take its answer. Seen with
    /// VIEW SERVER STATE alone.
    async fn is_at_work(&self, session: i64) -> bool {
        let ask = async {
            let mut connection = self.connect().await?;
            let sql = format!(
                "SELECT COUNT_BIG(*) FROM sys.dm_exec_requests WHERE session_id = {session} AND ISNULL(wait_type, N'') <> N'ASYNC_NETWORK_IO'"
            );
            connection.rows(&sql, "cannot see what the server does").await
        };
        match tokio::time::timeout(self.config.connect_timeout.0, ask).await {
            Ok(Ok(rows)) => rows.first().and_then(|row| integer(row, 0)).is_some_and(|count| count > 0),
            Ok(Err(_)) | Err(_) => false,
        }
    }
}

/// What `tls` and `tls_ca` mean to the client.
fn protect(client: &mut Config, config: &SqlServerConfig) -> Result<()> {
    let Some(tls) = config.login().protection() else {
        if config.tls == Some(Tls::DangerPlaintext) {
            tracing::warn!("the connection is not encrypted: `tls` is `danger_plaintext`");
        }
        client.encryption(EncryptionLevel::NotSupported);
        return Ok(());
    };
    client.encryption(EncryptionLevel::Required);
    if tls == Tls::Require {
        tracing::warn!("the server's certificate is not checked: `tls` is `require`");
        client.trust_cert();
        return Ok(());
    }
    if let Some(authority) = &config.tls_ca {
        let pem = match authority.trim_start().starts_with("-----BEGIN") {
            true => authority.as_bytes().to_vec(),
            false => std::fs::read(authority).map_err(|e| {
                Error::config("tls_ca is neither PEM text nor a readable file").hint("see the path").caused_by(e)
            })?,
        };
        if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE") {
            return Err(Error::config("tls_ca holds no certificate in PEM form"));
        }
        client.trust_cert_ca_bundle(pem);
    }
    Ok(())
}

/// What every session asks first.
const FACTS: &str = "SELECT CONVERT(int, @@SPID), DB_NAME(), USER_NAME(), CONVERT(int, d.snapshot_isolation_state), \
    CONVERT(int, d.is_read_committed_snapshot_on), \
    CONVERT(int, CASE DATABASEPROPERTYEX(DB_NAME(), N'Updateability') WHEN N'READ_ONLY' THEN 1 ELSE 0 END) \
    FROM sys.databases d WHERE d.database_id = DB_ID()";

impl Connection {
    /// What every session sets first: what does not depend on the server's settings, limits, how it reads.
    ///
    /// `TEXTSIZE` cuts every value of unbounded length at the server, before it is sent; one byte more than the limit shows
    /// that it was cut.
    async fn set_up(&mut self, config: &SqlServerConfig) -> Result<()> {
        const ATTEMPTED: &str = "cannot set up a session";
        let size = i32::try_from(config.max_row_bytes.0).unwrap_or(i32::MAX - 2).saturating_add(2);
        let settings = format!(
            "SET NOCOUNT ON; SET ANSI_NULLS, ANSI_PADDING, ANSI_WARNINGS, ARITHABORT, CONCAT_NULL_YIELDS_NULL, \
             QUOTED_IDENTIFIER ON; SET NUMERIC_ROUNDABORT OFF; SET TEXTSIZE {size}; SET LOCK_TIMEOUT {}",
            config.lock_timeout.0.as_millis()
        );
        self.run(&settings, ATTEMPTED).await?;
        let rows = self.rows(FACTS, ATTEMPTED).await?;
        let row = rows.first().ok_or_else(|| Error::unexpected("a session is in no database"))?;
        let flag = |i| integer(row, i).unwrap_or(0);
        self.facts = Facts {
            session: flag(0),
            database: text(row, 1).unwrap_or_default(),
            account: text(row, 2).unwrap_or_default(),
            snapshot: flag(3) == 1,
            versioned: flag(4) == 1,
            read_only: flag(5) == 1,
        };
        if self.facts.snapshot {
            self.run("SET TRANSACTION ISOLATION LEVEL SNAPSHOT", ATTEMPTED).await?;
        }
        Ok(())
    }

    /// The client's own connection, for answers that are read row by row.
    pub(crate) fn client(&mut self) -> &mut Client<Compat<TcpStream>> {
        &mut self.client
    }

    /// Runs statements without an answer.
    pub(crate) async fn run(&mut self, sql: &str, attempted: &str) -> Result<()> {
        let answer = self.client.simple_query(sql).await.map_err(|e| faults::error(attempted, e))?;
        answer.into_results().await.map_err(|e| faults::error(attempted, e))?;
        Ok(())
    }

    /// All rows of a short answer.
    pub(crate) async fn rows(&mut self, sql: &str, attempted: &str) -> Result<Vec<Row>> {
        let answer = self.client.simple_query(sql).await.map_err(|e| faults::error(attempted, e))?;
        answer.into_first_result().await.map_err(|e| faults::error(attempted, e))
    }

    /// Ends the session in good order.
    pub(crate) async fn close(self) {
        if let Err(error) = self.client.close().await {
            tracing::debug!(%error, "a connection could not be closed");
        }
    }
}

/// A whole number or a bit of an answer.
pub(crate) fn integer(row: &Row, column: usize) -> Option<i64> {
    match row.get_column_data(column).ok()? {
        ColumnData::U8(number) => number.map(i64::from),
        ColumnData::I16(number) => number.map(i64::from),
        ColumnData::I32(number) => number.map(i64::from),
        ColumnData::I64(number) => *number,
        ColumnData::Bit(flag) => flag.map(i64::from),
        _ => None,
    }
}

/// A text of an answer.
pub(crate) fn text(row: &Row, column: usize) -> Option<String> {
    match row.get_column_data(column).ok()? {
        ColumnData::String(text) => text.as_deref().map(str::to_owned),
        _ => None,
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
