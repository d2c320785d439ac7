//! One connection: put the driver of your database here.
//!
//! The sample speaks one JSON object a line. A driver that blocks belongs on `tokio::task::spawn_blocking`, with a bounded
//! channel to `extract`.

use ingest_core::{Error, ErrorKind, Json, Result};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::AcmeConfig;

/// The longest line: a page of rows.
const LONGEST: u64 = 64 << 20;

/// A table as the database describes it.
#[derive(Debug, Deserialize)]
pub(crate) struct Table {
    pub name: String,
    /// Names and types: `int8`, `text`, `numeric(12,2)`.
    pub columns: Vec<(String, String)>,
    /// The largest key, which is a whole number and called `id`.
    pub last: i64,
}

pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    config: AcmeConfig,
}

impl Client {
    pub async fn connect(config: &AcmeConfig) -> Result<Self> {
        let address = (config.host.as_str(), config.port);
        let stream = timeout(config.timeout.0, TcpStream::connect(address)).await.map_err(|_| silent("connect"))?;
        let stream = stream.map_err(|error| {
            Error::new(ErrorKind::Unavailable, "cannot connect to the database")
                .with("host", &config.host)
                .with("port", config.port)
                .hint("is it running, and is the port the right one?")
                .caused_by(error)
        })?;
        let mut client = Self { stream: BufReader::new(stream), config: config.clone() };
        let login = json!({"user": config.user, "password": config.password.expose(), "database": config.database});
        client.ask("log in", &json!({"login": login})).await?;
        Ok(client)
    }

    pub async fn tables(&mut self) -> Result<Vec<Table>> {
        let answer = self.ask("list the tables", &json!({"tables": {}})).await?;
        serde_json::from_value(answer["tables"].clone()).map_err(|_| unreadable("list the tables"))
    }

    /// The number of the oldest transaction that is still open: no row below it can appear any more.
    pub async fn oldest_open(&mut self) -> Result<i64> {
        let answer = self.ask("ask for open transactions", &json!({"oldest_open": {}})).await?;
        answer["oldest_open"].as_i64().ok_or_else(|| unreadable("ask for open transactions"))
    }

    /// Rows of a query, as JSON objects.
    pub async fn rows(&mut self, query: &Json) -> Result<Vec<Json>> {
        let mut answer = self.ask("read rows", &json!({"rows": query})).await?;
        match answer["rows"].take() {
            Json::Array(rows) => Ok(rows),
            _ => Err(unreadable("read rows")),
        }
    }

    async fn ask(&mut self, what: &str, question: &Json) -> Result<Json> {
        let limit = self.config.timeout.0;
        let line = timeout(limit, exchange(&mut self.stream, question)).await.map_err(|_| silent(what))?;
        let line = line.map_err(|error| {
            Error::new(ErrorKind::Unavailable, format!("cannot {what}: the connection broke")).caused_by(error)
        })?;
        let answer: Json = serde_json::from_str(&line).map_err(|_| unreadable(what))?;
        let Some(code) = answer["error"].as_str() else { return Ok(answer) };
        let (kind, hint) = match code {
            "password" => (ErrorKind::Unauthenticated, "look at `user` and `password` of the source"),
            "rights" => (ErrorKind::PermissionDenied, "let the user read the tables"),
            "no_table" => (ErrorKind::NotFound, "`ingest discover` lists the tables"),
            _ => (ErrorKind::Unavailable, "see the log of the database"),
        };
        Err(Error::new(kind, format!("cannot {what}")).hint(hint))
    }
}

async fn exchange(stream: &mut BufReader<TcpStream>, question: &Json) -> std::io::Result<String> {
    stream.get_mut().write_all(format!("{question}\n").as_bytes()).await?;
    let mut line = String::new();
    let read = stream.take(LONGEST).read_line(&mut line).await?;
    if read == 0 || !line.ends_with('\n') { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(line) }
}

fn silent(what: &str) -> Error {
    Error::new(ErrorKind::Timeout, format!("cannot {what}: no answer in time")).hint("raise `timeout`, or look at the load")
}

fn unreadable(what: &str) -> Error {
    Error::new(ErrorKind::DataInvalid, format!("cannot {what}: the answer is not what was expected"))
}
