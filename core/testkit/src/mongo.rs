//! MongoDB for tests: a FerretDB server ([`Mongo`]), and a script ([`MongoScript`]).
//!
//! The script is a stand-in for a MongoDB replica set of one member: the wire protocol, documents in memory, a log of changes, and a script of what
//! goes wrong. It is not MongoDB: what a test shows here is how a connector goes on after answers that the specifications name.
//!
//! It knows the commands that a reader sends. `find` takes no query but a lower bound of a numeric `_id`; a change stream gives every
//! event of its database, whatever the pipeline says. Facts: the specifications "OP_MSG" and "Change Streams" of the drivers.
//!
//! ```no_run
//! # async fn example() {
//! use bson::doc;
//! use ingest_testkit::mongo::{Fault, MongoScript};
//! let server = MongoScript::start().await;
//! server.state().insert("shop", "orders", doc! { "_id": 1 });
//! server.state().fault("getMore", Fault::code(10107, "NotWritablePrimary"));
//! # }
//! ```

mod ferret;
mod state;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bson::{Bson, Document};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

pub use ferret::{Ferret, Mongo};
pub use state::{Fault, State};

use state::Answer;

/// Operations of the wire protocol.
const REPLY: i32 = 1;
const QUERY: i32 = 2_004;
const MESSAGE: i32 = 2_013;
/// The largest message.
const MOST: usize = 48_000_000;
/// A stream without changes is answered after this time, so that a reader does not ask all the time.
const AWAIT: Duration = Duration::from_millis(5);

/// The server; it stops when it is dropped.
pub struct MongoScript {
    port: u16,
    state: Arc<Mutex<State>>,
    task: AbortHandle,
}

impl MongoScript {
    /// Starts it on a free port of loopback, without a document.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        let state = Arc::new(Mutex::new(State::new(port)));
        let shared = state.clone();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let state = shared.clone();
                // A connection that breaks is the client's matter.
                tokio::spawn(async move { drop(serve(socket, state).await) });
            }
        });
        Self { port, state, task: task.abort_handle() }
    }

    /// Its address, for a client that looks for no other members.
    pub fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}/?directConnection=true", self.port)
    }

    /// The documents, the log and the script; the server waits while the guard lives.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for MongoScript {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(mut socket: TcpStream, state: Arc<Mutex<State>>) -> io::Result<()> {
    loop {
        let mut header = [0; 16];
        socket.read_exact(&mut header).await?;
        let number = |at: usize| i32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (length, request, operation) = (number(0), number(4), number(12));
        let length = usize::try_from(length).ok().and_then(|length| length.checked_sub(16)).filter(|l| *l <= MOST);
        let mut body = vec![0; length.ok_or_else(odd)?];
        socket.read_exact(&mut body).await?;
        let command = match operation {
            MESSAGE => message(&body)?,
            QUERY => query(&body)?,
            _ => return Err(odd()),
        };
        let answer = lock(&state).answer(&command);
        let document = match answer {
            Answer::Document(document) => document,
            Answer::Empty(document) => {
                tokio::time::sleep(AWAIT).await;
                document
            }
            Answer::Close => return Ok(()),
            Answer::Silence => std::future::pending().await,
        };
        let written = if operation == QUERY { reply(request, &document)? } else { answer_to(request, &document)? };
        socket.write_all(&written).await?;
    }
}

fn odd() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no message of the wire protocol")
}

/// The command of an OP_MSG, with the lists of documents that may follow it.
fn message(body: &[u8]) -> io::Result<Document> {
    let mut rest = body.get(4..).ok_or_else(odd)?;
    let mut command = Document::new();
    while let Some((kind, section)) = rest.split_first() {
        let size = i32::from_le_bytes(section.get(..4).and_then(|size| size.try_into().ok()).ok_or_else(odd)?);
        let size = usize::try_from(size).map_err(|_| odd())?;
        let this = section.get(..size).ok_or_else(odd)?;
        match kind {
            0 => command.extend(Document::from_reader(this).map_err(|_| odd())?),
            1 => {
                let end = this.get(4..).and_then(|text| text.iter().position(|byte| *byte == 0)).ok_or_else(odd)? + 4;
                let name = String::from_utf8_lossy(&this[4..end]).into_owned();
                let (mut documents, mut list) = (this.get(end + 1..).unwrap_or_default(), Vec::new());
                while !documents.is_empty() {
                    list.push(Bson::Document(Document::from_reader(&mut documents).map_err(|_| odd())?));
                }
                command.insert(name, list);
            }
            _ => return Err(odd()),
        }
        rest = &section[size..];
    }
    Ok(command)
}

/// The command of an OP_QUERY: the first word of a client, to a server of any age.
fn query(body: &[u8]) -> io::Result<Document> {
    let name = body.get(4..).and_then(|text| text.iter().position(|byte| *byte == 0)).ok_or_else(odd)?;
    let mut document = body.get(4 + name + 1 + 8..).ok_or_else(odd)?;
    Document::from_reader(&mut document).map_err(|_| odd())
}

fn answer_to(request: i32, document: &Document) -> io::Result<Vec<u8>> {
    let mut body = vec![0; 5];
    document.to_writer(&mut body).map_err(|_| odd())?;
    framed(request, MESSAGE, &body)
}

fn reply(request: i32, document: &Document) -> io::Result<Vec<u8>> {
    let mut body = vec![0; 16];
    body.extend_from_slice(&1_i32.to_le_bytes());
    document.to_writer(&mut body).map_err(|_| odd())?;
    framed(request, REPLY, &body)
}

fn framed(request: i32, operation: i32, body: &[u8]) -> io::Result<Vec<u8>> {
    let length = i32::try_from(body.len() + 16).map_err(|_| odd())?;
    let mut written = Vec::with_capacity(body.len() + 16);
    for number in [length, 1, request, operation] {
        written.extend_from_slice(&number.to_le_bytes());
    }
    written.extend_from_slice(body);
    Ok(written)
}
