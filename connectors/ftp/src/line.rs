//! A connection's bytes, plain or within TLS.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;

/// A connection to the server.
pub enum Line {
    /// Without TLS.
    Plain(TcpStream),
    /// Within TLS.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// How connections are protected: the sessions in it belong to one connection for commands and those for its data.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// Begins with no session to continue.
    pub fn new(config: &ClientConfig, name: ServerName<'static>) -> Self {
        let mut config = config.clone();
        config.resumption = rustls::client::Resumption::in_memory_sessions(16);
        Self { config: Arc::new(config), name }
    }

    /// Puts TLS around a connection. The handshake happens with the first bytes.
    pub fn around(&self, socket: TcpStream) -> io::Result<Line> {
        let session = ClientConnection::new(self.config.clone(), self.name.clone()).map_err(io::Error::other)?;
        Ok(Line::Tls(Box::new(StreamOwned::new(session, socket))))
    }
}

/// Connects to the first address that answers.
pub fn connect(host: &str, port: u16, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match dial(address, timeout) {
            Ok(socket) => return Ok(socket),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Connects to an address.
pub fn dial(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, timeout.min(Duration::from_secs(20)))?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

impl Line {
    /// The socket below.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.sock,
        }
    }

    /// Tells the other side that nothing more comes, where TLS has a word for that.
    pub fn close(&mut self) {
        if let Self::Tls(stream) = self {
            stream.conn.send_close_notify();
            // It may have gone already.
            let _ = stream.flush();
        }
    }
}

impl Read for Line {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(into),
            Self::Tls(stream) => match stream.read(into) {
                // Many servers end without TLS's word for it. Whether a file is whole is known by its size and by what
                // the server says on the other connection.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof && !stream.conn.is_handshaking() => Ok(0),
                done => done,
            },
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
