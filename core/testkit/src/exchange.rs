//! One HTTP/1.1 exchange with a server on this machine, as bytes: for setting up stand-ins and for standing between.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends a request line with headers (each ended by CRLF, without the blank line) and a body to `endpoint`
/// (`http://host:port`), and reads the whole answer until the server closes.
pub(crate) async fn send(endpoint: &str, head: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let authority = endpoint.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(authority).await?;
    stream.set_nodelay(true)?;
    let head = format!("{head}host: {authority}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

/// The status of an answer.
pub(crate) fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|b| *b == b'\r').next()?;
    std::str::from_utf8(line).ok()?.split(' ').nth(1)?.parse().ok()
}
