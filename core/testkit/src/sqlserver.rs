//! A scripted stand-in for SQL Server: the protocol (MS-TDS 7.4), tables in memory, transactions, and a script of what goes wrong.
//!
//! It is not SQL Server: what a test shows here is how a connector goes on after answers that Microsoft's documentation names.
//! It reads the part of Transact-SQL that the connector and its tests speak, so that the same tests run against a real server,
//! where the tests of the connector are told of one.
//!
//! ```no_run
//! # async fn example() {
//! use ingest_testkit::sqlserver::Script;
//! let server = Script::start().await;
//! server.sql("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders (id) VALUES (1), (2)");
//! # }
//! ```

mod capture;
mod catalog;
mod eval;
mod lex;
mod parse;
mod state;
mod tls;
mod tokens;
mod tracking;
mod value;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::AbortHandle;

pub use state::{Fault, State};

use state::FaultKind;

/// The account of the stand-in that may log in.
pub const USER: &str = "reader";
/// Its password.
pub const PASSWORD: &str = "c0rrect-Horse";
/// The access token that the stand-in accepts.
pub const TOKEN: &str = "eyJ0eXAi.canary.token";

/// Kinds of messages.
const BATCH: u8 = 0x01;
const LOGIN: u8 = 0x10;
const PRELOGIN: u8 = 0x12;
/// The largest message.
const MOST: usize = 64 << 20;

/// The stand-in; it stops when it is dropped.
pub struct Script {
    port: u16,
    state: Arc<Mutex<State>>,
    sessions: Arc<AtomicU64>,
    task: AbortHandle,
}

impl Script {
    /// Starts it on a free port of loopback, without a table.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start() -> Self {
        Self::serving(None).await
    }

    /// The same with a certificate; clients may do without.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn with_tls(config: Arc<ServerConfig>) -> Self {
        Self::serving(Some(config)).await
    }

    async fn serving(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        let state = Arc::new(Mutex::new(State::default()));
        let sessions = Arc::new(AtomicU64::new(50));
        let (shared, counter) = (state.clone(), sessions.clone());
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (state, session) = (shared.clone(), counter.fetch_add(1, Ordering::Relaxed));
                let tls = tls.clone();
                tokio::spawn(async move {
                    // A connection that breaks is the client's matter.
                    drop(begin(socket, tls.as_ref(), &state, session).await);
                    lock(&state).forget(session);
                });
            }
        });
        Self { port, state, sessions, task: task.abort_handle() }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The tables and the script; the server waits while the guard lives.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Runs statements in a session of their own.
    ///
    /// # Panics
    /// When one fails.
    pub fn sql(&self, sql: &str) {
        self.session().sql(sql);
    }

    /// Starts a SQL Server Browser that knows this server as an instance of a name; gives its port. It answers once.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn browser(&self, instance: &str) -> u16 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let port = socket.local_addr().expect("a bound socket").port();
        let text =
            format!("ServerName;HOST;InstanceName;{instance};IsClustered;No;Version;16.0.1000.6;tcp;{};;", self.port);
        let asked = [&[4][..], instance.as_bytes()].concat();
        tokio::spawn(async move {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                if buffer[..length] == asked {
                    let length = u16::try_from(text.len()).expect("short").to_le_bytes();
                    let answer = [&[5][..], &length, text.as_bytes()].concat();
                    return socket.send_to(&answer, from).await.is_ok();
                }
            }
            false
        });
        port
    }

    /// A session, for statements of one transaction.
    pub fn session(&self) -> Session {
        Session { state: self.state.clone(), number: self.sessions.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A session of the test itself.
pub struct Session {
    state: Arc<Mutex<State>>,
    number: u64,
}

impl Session {
    /// Runs statements.
    ///
    /// # Panics
    /// When one fails.
    pub fn sql(&self, sql: &str) {
        lock(&self.state).answer(self.number, sql).expect("statements that the stand-in knows");
    }

    /// The rows of a query as the server prints them.
    ///
    /// # Panics
    /// When it fails.
    pub fn texts(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let outputs = lock(&self.state).answer(self.number, sql).expect("a query that the stand-in knows");
        let output = outputs.into_iter().next_back().unwrap_or_default();
        let printed = |(column, cell): (&state::OutputColumn, &value::Value)| match cell {
            value::Value::Null => None,
            cell => Some(value::print(cell, column.ty)),
        };
        output.rows.iter().map(|row| output.columns.iter().zip(row).map(printed).collect()).collect()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn odd() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no message of the protocol")
}

/// The first message of a client, and TLS where it asks for it.
async fn begin(
    mut socket: TcpStream,
    tls: Option<&Arc<ServerConfig>>,
    state: &Mutex<State>,
    session: u64,
) -> io::Result<()> {
    let (PRELOGIN, message) = receive(&mut socket).await? else { return Err(odd()) };
    let tls = tls.filter(|_| asks_for_tls(&message));
    send(&mut socket, &prelogin(&message, tls.is_some()), 4_096).await?;
    match tls {
        Some(config) => serve(tls::accept(socket, config).await?, state, session).await,
        None => serve(socket, state, session).await,
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut socket: S, state: &Mutex<State>, session: u64) -> io::Result<()> {
    let mut packet = 4_096;
    loop {
        let (kind, message) = receive(&mut socket).await?;
        let mut out = Vec::new();
        match kind {
            LOGIN => {
                let login = Login::read(&message).ok_or_else(odd)?;
                let accepted = {
                    let state = lock(state);
                    match &login.token {
                        Some(token) => *token == state.token,
                        None => state.logins.get(&login.user) == Some(&login.password),
                    }
                };
                if accepted {
                    packet = login.packet.clamp(512, 32_767);
                    tokens::accepted(&mut out, packet, login.token.is_some());
                } else {
                    refuse(&mut out, &Fault::error(18_456, &format!("Login failed for user '{}'.", login.user)));
                }
            }
            BATCH => {
                let sql = batch(&message).ok_or_else(odd)?;
                let answered = lock(state).answer(session, &sql);
                match answered {
                    Ok(outputs) => answer(&mut out, &outputs),
                    Err(fault) if fault.kind == FaultKind::Close => return Ok(()),
                    Err(fault) if fault.kind == FaultKind::Silence => std::future::pending().await,
                    Err(fault) => refuse(&mut out, &fault),
                }
            }
            _ => return Err(odd()),
        }
        send(&mut socket, &out, packet as usize).await?;
    }
}

fn answer(out: &mut Vec<u8>, outputs: &[state::Output]) {
    for (i, output) in outputs.iter().enumerate() {
        tokens::rows(out, output);
        tokens::done(out, 0xfd, i + 1 < outputs.len(), false, output.rows.len() as u64);
    }
    if outputs.is_empty() {
        tokens::done(out, 0xfd, false, false, 0);
    }
}

fn refuse(out: &mut Vec<u8>, fault: &Fault) {
    tokens::error(out, fault);
    tokens::done(out, 0xfd, false, true, 0);
}

/// A message: the packets up to the one that says it is the last.
async fn receive<S: AsyncRead + Unpin>(socket: &mut S) -> io::Result<(u8, Vec<u8>)> {
    let mut message = Vec::new();
    loop {
        let mut header = [0; 8];
        socket.read_exact(&mut header).await?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]])).checked_sub(8).ok_or_else(odd)?;
        let start = message.len();
        if start + length > MOST {
            return Err(odd());
        }
        message.resize(start + length, 0);
        socket.read_exact(&mut message[start..]).await?;
        if header[1] & 1 == 1 {
            return Ok((header[0], message));
        }
    }
}

async fn send<S: AsyncWrite + Unpin>(socket: &mut S, message: &[u8], packet: usize) -> io::Result<()> {
    let mut pieces = message.chunks(packet - 8).enumerate().peekable();
    while let Some((number, piece)) = pieces.next() {
        let length = u16::try_from(piece.len() + 8).map_err(|_| odd())?;
        let mut framed = vec![0x04, u8::from(pieces.peek().is_none())];
        framed.extend(length.to_be_bytes());
        framed.extend([0, 0, (number % 256) as u8, 0]);
        framed.extend(piece);
        socket.write_all(&framed).await?;
    }
    socket.flush().await
}

/// The options that a client names: number, place, length.
fn options(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    message.chunks_exact(5).take_while(|option| option[0] != 0xff)
}

fn asks_for_tls(message: &[u8]) -> bool {
    let place = options(message)
        .find(|option| option[0] == 1)
        .map(|option| usize::from(u16::from_be_bytes([option[1], option[2]])));
    place.and_then(|place| message.get(place)).is_some_and(|level| *level != 2)
}

/// Says whether there is TLS; a token is wanted where the client has one.
fn prelogin(message: &[u8], tls: bool) -> Vec<u8> {
    let federated = options(message).any(|option| option[0] == 6);
    let encrypted = if tls { 3 } else { 2 };
    let mut options: Vec<(u8, Vec<u8>)> =
        vec![(0, vec![16, 0, 0, 0, 0, 0]), (1, vec![encrypted]), (2, vec![0]), (3, vec![]), (4, vec![0])];
    if federated {
        options.push((6, vec![1]));
    }
    let (mut table, mut data) = (Vec::new(), Vec::new());
    let start = options.len() * 5 + 1;
    for (option, value) in options {
        table.push(option);
        table.extend(u16::try_from(start + data.len()).expect("short").to_be_bytes());
        table.extend(u16::try_from(value.len()).expect("short").to_be_bytes());
        data.extend(value);
    }
    table.push(0xff);
    [table, data].concat()
}

/// What a client says of itself (MS-TDS 2.2.6.4).
struct Login {
    packet: u32,
    user: String,
    password: String,
    token: Option<String>,
}

impl Login {
    fn read(message: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_le_bytes(message.get(at..at + 4)?.try_into().ok()?));
        let field = |at: usize| {
            let (start, length) = (number(at)? & 0xffff, number(at)? >> 16);
            message.get(start as usize..start as usize + length as usize * 2)
        };
        let hidden: Vec<u8> = field(44)?.iter().map(|byte| (byte ^ 0xa5).rotate_left(4)).collect();
        // The features stand where the extension says.
        let token = match message.get(27)? & 0x10 {
            0 => None,
            _ => {
                let features = message.get(number((number(56)? & 0xffff) as usize)? as usize..)?;
                federated(features)
            }
        };
        Some(Self { packet: number(8)?, user: utf16(field(40)?), password: utf16(&hidden), token })
    }
}

/// The token among the features of a login.
fn federated(mut features: &[u8]) -> Option<String> {
    while let [kind, rest @ ..] = features {
        if *kind == 0xff {
            return None;
        }
        let length = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let data = rest.get(4..4 + length)?;
        if *kind == 0x02 {
            let length = u32::from_le_bytes(data.get(1..5)?.try_into().ok()?) as usize;
            return Some(utf16(data.get(5..5 + length)?));
        }
        features = rest.get(4 + length..)?;
    }
    None
}

/// The text of a batch, behind its headers.
fn batch(message: &[u8]) -> Option<String> {
    let headers = u32::from_le_bytes(message.get(..4)?.try_into().ok()?) as usize;
    Some(utf16(message.get(headers..)?))
}

fn utf16(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    String::from_utf16_lossy(&units)
}
