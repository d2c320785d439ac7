//! One connection: TCP, key exchange, the server's key, who we are. Blocking.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use ingest_core::{Error, ErrorKind, Result, Secret};
use ssh2::{ErrorCode, KeyboardInteractivePrompt, MethodType, Prompt, Session};
use tokio::runtime::Handle;

use crate::config::Login;
use crate::hosts::Trusted;
use crate::jump;

/// How servers are reached.
#[derive(Debug, Clone)]
pub struct Route {
    /// The server.
    pub login: Login,
    /// The one in between.
    pub jump: Option<Login>,
    /// A server that says nothing for so long is given up.
    pub timeout: Duration,
    /// Whether SHA-1 and CBC are good enough.
    pub legacy: bool,
    /// Where the bytes of a jump host are carried to and fro.
    pub handle: Handle,
}

// The best that the library has comes first. Names that it does not know are passed over by it.
const EXCHANGES: &str = "curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256,ecdh-sha2-nistp384,\
    ecdh-sha2-nistp521,diffie-hellman-group-exchange-sha256,diffie-hellman-group16-sha512,\
    diffie-hellman-group18-sha512,diffie-hellman-group14-sha256";
const CIPHERS: &str = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr,aes192-ctr,\
    aes256-ctr";
const CODES: &str = "hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com,hmac-sha2-256,hmac-sha2-512";

impl Route {
    /// Connects and logs in.
    ///
    /// # Errors
    /// `Unavailable` and `Timeout` for what may pass, `Unauthenticated` for a wrong key of the server and for wrong
    /// credentials of ours.
    pub fn connect(&self) -> Result<Session> {
        let Some(jump) = &self.jump else { return self.session(&self.login, tcp(&self.login, self.timeout)?) };
        let socket = tcp(jump, self.timeout)?;
        let copy = socket.try_clone().map_err(|e| unreachable(jump).caused_by(e))?;
        let first = self.session(jump, socket)?;
        self.session(&self.login, jump::through(first, copy, &self.login, &self.handle)?)
    }

    fn session<S: std::os::fd::AsRawFd + 'static>(&self, login: &Login, socket: S) -> Result<Session> {
        let mut session = Session::new().map_err(|e| failed(&e, "cannot begin a session"))?;
        session.set_timeout(u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX).max(1));
        session.set_tcp_stream(socket);
        let trusted = Trusted::of(login, &session)?;
        let mut preferred = vec![(MethodType::HostKey, trusted.methods(self.legacy))];
        if !self.legacy {
            preferred.extend([
                (MethodType::Kex, EXCHANGES.to_owned()),
                (MethodType::CryptCs, CIPHERS.to_owned()),
                (MethodType::CryptSc, CIPHERS.to_owned()),
                (MethodType::MacCs, CODES.to_owned()),
                (MethodType::MacSc, CODES.to_owned()),
            ]);
        }
        for (method, names) in preferred {
            session.method_pref(method, &names).map_err(|e| failed(&e, "cannot choose algorithms"))?;
        }
        session.handshake().map_err(|e| {
            failed(&e, "cannot agree on keys with the server")
                .with("host", &login.host)
                .hint("an old server may need `legacy_algorithms: true`")
        })?;
        let key = session.host_key().map(|(key, _)| key);
        trusted.check(key.ok_or_else(|| unreachable(login))?, login)?;
        authenticate(&session, login)?;
        Ok(session)
    }
}

fn tcp(login: &Login, timeout: Duration) -> Result<TcpStream> {
    let addresses = (login.host.as_str(), login.port).to_socket_addrs().map_err(|e| {
        Error::new(ErrorKind::Unavailable, "cannot find the server").with("host", &login.host).caused_by(e)
    })?;
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout.min(Duration::from_secs(20))) {
            Ok(socket) => {
                // Small requests must not wait for one another.
                socket.set_nodelay(true).map_err(|e| unreachable(login).caused_by(e))?;
                return Ok(socket);
            }
            Err(e) => last = Some(e),
        }
    }
    Err(match last {
        Some(e) => unreachable(login).caused_by(e),
        None => unreachable(login),
    })
}

fn unreachable(login: &Login) -> Error {
    Error::new(ErrorKind::Unavailable, "cannot reach the server")
        .with("host", &login.host)
        .with("port", login.port)
        .hint("check `host` and `port`, and whether a firewall lets us through")
}

/// Tries what the configuration gives, in this order: key, agent, password.
fn authenticate(session: &Session, login: &Login) -> Result<()> {
    // The list comes with a refused attempt without credentials; a server that takes that attempt is content.
    let methods = session.auth_methods(&login.user).unwrap_or_default().to_owned();
    let allows = |method: &str| methods.is_empty() || methods.split(',').any(|name| name == method);
    let mut last = None;
    if !session.authenticated()
        && let Some(key) = login.private_key.as_ref().filter(|_| allows("publickey"))
    {
        let passphrase = login.passphrase.as_ref().map(Secret::expose);
        last = session.userauth_pubkey_memory(&login.user, None, key.expose(), passphrase).err();
    }
    if !session.authenticated() && login.agent && allows("publickey") {
        last = by_agent(session, login).err().or(last);
    }
    if !session.authenticated()
        && let Some(password) = &login.password
    {
        last = if allows("password") {
            session.userauth_password(&login.user, password.expose()).err()
        } else {
            session.userauth_keyboard_interactive(&login.user, &mut Answer(password)).err()
        };
    }
    if session.authenticated() {
        return Ok(());
    }
    if let Some(error) = last.as_ref().filter(|e| is_broken(e)) {
        return Err(failed(error, "the connection ended while we logged in").with("host", &login.host));
    }
    let error = Error::new(ErrorKind::Unauthenticated, "the server refuses our credentials")
        .with("host", &login.host)
        .with("user", &login.user)
        .with("methods", if methods.is_empty() { "unknown" } else { &methods })
        .hint("check `user`, `password`, `private_key` with its `passphrase`, and which methods the server allows");
    Err(match last {
        Some(cause) => error.caused_by(cause),
        None => error,
    })
}

/// Tries every key of the agent.
fn by_agent(session: &Session, login: &Login) -> Result<(), ssh2::Error> {
    let mut agent = session.agent()?;
    agent.connect()?;
    agent.list_identities()?;
    let mut last = ssh2::Error::new(ErrorCode::Session(-42), "the agent holds no key that the server takes");
    for identity in agent.identities()? {
        match agent.userauth(&login.user, &identity) {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Answers every question with the password: servers that ask in place of taking one ask for it alone.
struct Answer<'a>(&'a Secret);

impl KeyboardInteractivePrompt for Answer<'_> {
    fn prompt<'a>(&mut self, _: &str, _: &str, prompts: &[Prompt<'a>]) -> Vec<String> {
        prompts.iter().map(|_| self.0.expose().to_owned()).collect()
    }
}

/// The status of SFTP in an error: what the server said about one file. `None` = the connection itself is at fault.
pub fn status(error: &ssh2::Error) -> Option<i32> {
    match error.code() {
        ErrorCode::SFTP(status) => Some(status),
        ErrorCode::Session(_) => None,
    }
}

/// No such file, no such path.
pub fn is_gone(error: &ssh2::Error) -> bool {
    matches!(status(error), Some(2 | 10))
}

/// Whether the connection is of no use any more.
pub fn is_broken(error: &ssh2::Error) -> bool {
    match error.code() {
        // No connection, connection lost.
        ErrorCode::SFTP(status) => matches!(status, 6 | 7),
        // Authentication failed, key unverified, key file, method not supported, agent: the line is well.
        ErrorCode::Session(code) => !matches!(code, -18 | -19 | -48 | -33 | -42 | -16 | -31),
    }
}

/// An error of the library as one of ours.
pub fn failed(error: &ssh2::Error, what: &str) -> Error {
    // Codes of libssh2.h and of draft-ietf-secsh-filexfer-02, section 7.
    let kind = match error.code() {
        ErrorCode::SFTP(2 | 10) => ErrorKind::NotFound,
        ErrorCode::SFTP(3) => ErrorKind::PermissionDenied,
        ErrorCode::SFTP(8) => ErrorKind::Unsupported,
        ErrorCode::Session(-9 | -30) => ErrorKind::Timeout,
        ErrorCode::Session(-18 | -19 | -48) => ErrorKind::Unauthenticated,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, what).caused_by(error.message().to_owned())
}

/// A path below the root on the server.
pub fn full(root: &Path, path: &str) -> std::path::PathBuf {
    if path.is_empty() { root.to_owned() } else { root.join(path) }
}
