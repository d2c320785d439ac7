//! TLS of the protocol: the handshake travels in packets, what follows does not (MS-TDS 2.2.6.5).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{PRELOGIN, odd};

/// Takes a connection over at the end of its first two messages.
pub(super) async fn accept(socket: TcpStream, config: &Arc<ServerConfig>) -> io::Result<TlsStream<DuplexStream>> {
    let mut config = ServerConfig::clone(config);
    // They would come behind the handshake, when the client expects no packets any more.
    config.send_tls13_tickets = 0;
    let (inner, outer) = tokio::io::duplex(64 << 10);
    // It ends with either side.
    tokio::spawn(async move { drop(pump(socket, outer).await) });
    TlsAcceptor::from(Arc::new(config)).accept(inner).await
}

/// Takes packets apart and makes them, until the client sends bytes that are none.
async fn pump(socket: TcpStream, outer: DuplexStream) -> io::Result<()> {
    let (mut from, mut to) = socket.into_split();
    let (mut answers, mut inner) = tokio::io::split(outer);
    let raw = AtomicBool::new(false);
    let read = async {
        loop {
            let first = from.read_u8().await?;
            if first != PRELOGIN {
                raw.store(true, Ordering::Relaxed);
                inner.write_all(&[first]).await?;
                tokio::io::copy(&mut from, &mut inner).await?;
                return inner.shutdown().await;
            }
            let mut header = [0; 7];
            from.read_exact(&mut header).await?;
            let length = usize::from(u16::from_be_bytes([header[1], header[2]])).checked_sub(8).ok_or_else(odd)?;
            let mut body = vec![0; length];
            from.read_exact(&mut body).await?;
            inner.write_all(&body).await?;
        }
    };
    let write = async {
        let mut piece = vec![0; 4_000];
        loop {
            let length = answers.read(&mut piece).await?;
            if length == 0 {
                return to.shutdown().await;
            }
            if !raw.load(Ordering::Relaxed) {
                let total = u16::try_from(length + 8).map_err(|_| odd())?.to_be_bytes();
                to.write_all(&[PRELOGIN, 1, total[0], total[1], 0, 0, 0, 0]).await?;
            }
            to.write_all(&piece[..length]).await?;
        }
    };
    tokio::try_join!(read, write).map(drop)
}
