//! The connection for commands (RFC 959), TLS around it (RFC 4217), and the connections for data that it opens.
//!
//! Blocking. A connection does one thing at a time; after a failure in mid-transfer nobody knows where it stands, so it is
//! dropped and not mended.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ingest_core::{Error, ErrorKind, Result, Secret};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use crate::config::Protection;
use crate::line::{Line, Tls, connect, dial};

/// The longest line that a server may say, and the most lines of one answer.
const LINE: u64 = 8 << 10;
const LINES: usize = 1_000;

/// How the server is reached.
#[derive(Debug, Clone)]
pub struct Route {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The account.
    pub user: String,
    /// Its password.
    pub password: Option<Secret>,
    /// When TLS begins, and how the server's certificate is checked; `None` = there is none.
    pub tls: Option<(Protection, ClientConfig)>,
    /// A server that says nothing for so long is given up.
    pub timeout: Duration,
    /// The root as the configuration writes it.
    pub path: String,
}

/// What the server answers to a command.
#[derive(Debug)]
pub struct Answer {
    /// Three digits.
    pub code: u16,
    /// All lines, without the code.
    pub text: String,
}

impl Answer {
    /// Done, or go on with the transfer or the next command of a pair.
    pub fn is_good(&self) -> bool {
        self.code < 400
    }

    /// As an error of ours; the text is the server's own and may name files.
    pub fn refused(&self, what: &str) -> Error {
        let kind = match self.code {
            530 | 331 | 332 | 532 => ErrorKind::Unauthenticated,
            534..=536 | 431 | 521 | 522 => ErrorKind::PermissionDenied,
            550 => ErrorKind::NotFound,
            500..=504 => ErrorKind::Unsupported,
            _ => ErrorKind::Unavailable,
        };
        let error = Error::new(kind, what).with("answer", self.code).caused_by(self.text.trim().to_owned());
        match self.code {
            // 522 is RFC 4217's; 425 is what vsftpd says when the handshake of the data connection fails.
            425 | 522 => error.hint(
                "the server may want connections for data to continue the session of TLS: try `tls_max: \"1.2\"`; and it must \
                 be reachable on its passive ports",
            ),
            _ => error,
        }
    }
}

/// A connection for commands that is logged in and stands in the root.
pub struct Control {
    line: BufReader<Line>,
    tls: Option<Tls>,
    peer: IpAddr,
    timeout: Duration,
    /// The root, absolute.
    pub root: String,
    /// Whether folders can be listed as RFC 3659 says; unknown until one was.
    pub lists_facts: bool,
    /// Whether passive mode is to be asked for in the old way.
    old_passive: bool,
    /// The server speaks UTF-8.
    pub utf8: bool,
}

impl Control {
    /// Connects, logs in, and goes to the root.
    ///
    /// # Errors
    /// `Unavailable` and `Timeout` for what may pass; `Unauthenticated`; `NotFound` when there is no root.
    pub fn open(route: &Route) -> Result<Self> {
        let failed =
            |e: io::Error| broken(&e, "cannot reach the server").with("host", &route.host).with("port", route.port);
        let socket = connect(&route.host, route.port, route.timeout).map_err(failed)?;
        let peer = socket.peer_addr().map_err(failed)?.ip();
        let tls = match &route.tls {
            None => None,
            Some((_, config)) => {
                let name = ServerName::try_from(route.host.clone())
                    .map_err(|e| Error::config("host: is no name that a certificate could have").caused_by(e))?;
                Some(Tls::new(config, name))
            }
        };
        let implicit = matches!(route.tls, Some((Protection::Implicit, _)));
        let line = match &tls {
            Some(tls) if implicit => tls.around(socket).map_err(failed)?,
            _ => Line::Plain(socket),
        };
        let mut control = Self {
            line: BufReader::new(line),
            tls,
            peer,
            timeout: route.timeout,
            root: String::new(),
            lists_facts: true,
            old_passive: false,
            utf8: false,
        };
        control.begin(route, implicit).map_err(|e| e.with("host", &route.host))?;
        Ok(control)
    }

    fn begin(&mut self, route: &Route, implicit: bool) -> Result<()> {
        let greeting = self.answer()?;
        if greeting.code != 220 {
            return Err(greeting.refused("the server does not want us now"));
        }
        if let Some(tls) = self.tls.clone().filter(|_| !implicit) {
            let answer = self.ask("AUTH TLS")?;
            if answer.code != 234 {
                let hint =
                    "plain FTP is for networks that nobody else can listen to; `danger_plaintext: true` allows it";
                return Err(answer.refused("the server does not begin TLS").hint(hint));
            }
            // What came behind the answer in the clear would be taken for a part of what is protected.
            if !self.line.buffer().is_empty() {
                return Err(Error::new(ErrorKind::DataInvalid, "the server sent more than an answer before TLS began"));
            }
            let socket = self.line.get_ref().socket().try_clone().map_err(|e| broken(&e, "cannot begin TLS"))?;
            self.line = BufReader::new(tls.around(socket).map_err(|e| broken(&e, "cannot begin TLS"))?);
        }
        self.login(route)?;
        if self.tls.is_some() {
            self.want("PBSZ 0", "the server does not protect connections for data")?;
            self.want("PROT P", "the server does not protect connections for data")?;
        }
        self.want("TYPE I", "the server does not send bytes as they are")?;
        let features = self.ask("FEAT")?;
        let has = |name: &str| features.text.lines().any(|line| line.trim().to_ascii_uppercase().starts_with(name));
        if features.code == 211 {
            (self.utf8, self.lists_facts) = (has("UTF8"), has("MLST") || has("MLSD"));
            if self.utf8 {
                // Servers that speak UTF-8 anyway may not know how to be asked for it.
                self.ask("OPTS UTF8 ON")?;
            }
        }
        let answer = self.ask(&format!("CWD {}", route.path))?;
        if !answer.is_good() {
            let hint = "`path` must be a folder that exists and can be read; relative ones begin at the account's own";
            return Err(answer.refused("cannot go to the folder").with("path", &route.path).hint(hint));
        }
        let answer = self.want("PWD", "the server does not say where we are")?;
        self.root = quoted(&answer.text)
            .filter(|path| path.starts_with('/'))
            .ok_or_else(|| Error::new(ErrorKind::DataInvalid, "the server does not say where we are"))?;
        Ok(())
    }

    fn login(&mut self, route: &Route) -> Result<()> {
        let mut answer = self.ask(&format!("USER {}", route.user))?;
        if answer.code == 331 {
            let password = route.password.as_ref().map_or("", Secret::expose);
            answer = self.ask(&format!("PASS {password}"))?;
        }
        match answer.code {
            230 | 202 => Ok(()),
            code if (500..600).contains(&code) => {
                Err(Error::new(ErrorKind::Unauthenticated, "the server refuses our credentials")
                    .with("user", &route.user)
                    .with("answer", code)
                    .hint("check `user` and `password`, and whether the server wants TLS"))
            }
            _ => Err(answer.refused("cannot log in").with("user", &route.user)),
        }
    }

    /// Says a command and takes the answer.
    ///
    /// # Errors
    /// Those of the connection. A path with a line break cannot be said.
    pub fn ask(&mut self, command: &str) -> Result<Answer> {
        self.say(command)?;
        self.answer()
    }

    fn want(&mut self, command: &str, what: &str) -> Result<Answer> {
        let answer = self.ask(command)?;
        if answer.is_good() { Ok(answer) } else { Err(answer.refused(what)) }
    }

    fn say(&mut self, command: &str) -> Result<()> {
        if command.contains(['\r', '\n', '\0']) {
            return Err(Error::new(ErrorKind::Unsupported, "FTP cannot name a file with a line break in its name"));
        }
        let line = self.line.get_mut();
        line.write_all(format!("{command}\r\n").as_bytes())
            .and_then(|()| line.flush())
            .map_err(|e| broken(&e, "the connection to the server is cut"))
    }

    /// Takes one answer, which may have many lines.
    ///
    /// # Errors
    /// Those of the connection; `DataInvalid` for what is no answer.
    pub fn answer(&mut self) -> Result<Answer> {
        let nonsense = || Error::new(ErrorKind::DataInvalid, "the server says something that is no answer of FTP");
        let mut text = String::new();
        let mut code = None;
        for _ in 0..LINES {
            let line = self.next_line()?;
            let digits = line.get(..3).and_then(|digits| digits.parse::<u16>().ok()).filter(|n| (100..600).contains(n));
            let rest = line.get(4..).unwrap_or_default();
            let last = match (code, digits, line.as_bytes().get(3)) {
                (None, Some(digits), None | Some(b' ')) => Some(digits),
                (None, Some(digits), Some(b'-')) => {
                    code = Some(digits);
                    None
                }
                (None, ..) => return Err(nonsense()),
                (Some(code), Some(digits), None | Some(b' ')) if code == digits => Some(code),
                _ => None,
            };
            text.push_str(if last.is_some() || code == digits { rest } else { &line });
            text.push('\n');
            if let Some(code) = last {
                // 421: the server says good-bye, whatever was asked.
                return match code {
                    421 => Err(Answer { code, text }.refused("the server ends the connection")),
                    _ => Ok(Answer { code, text }),
                };
            }
        }
        Err(nonsense())
    }

    fn next_line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        let count = (&mut self.line)
            .take(LINE)
            .read_until(b'\n', &mut line)
            .map_err(|e| broken(&e, "the server stopped answering"))?;
        if count == 0 {
            return Err(Error::new(ErrorKind::Unavailable, "the server closed the connection"));
        }
        if line.last() != Some(&b'\n') {
            return Err(Error::new(ErrorKind::DataInvalid, "the server says something that is no answer of FTP"));
        }
        Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
    }

    /// Begins a transfer to us: the bytes come on a connection of their own, and [`Control::answer`] says behind them
    /// whether they were all. The inner `Err` is the server's refusal, after which the connection is as before.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn transfer(&mut self, offset: u64, command: &str) -> Result<std::result::Result<Line, Answer>> {
        let address = self.passive()?;
        let socket = dial(address, self.timeout).map_err(|e| {
            broken(&e, "cannot open a connection for data")
                .with("port", address.port())
                .hint("the server must be reachable on its passive ports")
        })?;
        if offset > 0 {
            let answer = self.ask(&format!("REST {offset}"))?;
            if answer.code != 350 {
                return Ok(Err(answer));
            }
        }
        let answer = self.ask(command)?;
        if !(100..200).contains(&answer.code) {
            // Some answer at once where there is nothing to send; then nothing comes behind it either.
            return Ok(Err(answer));
        }
        match &self.tls {
            None => Ok(Ok(Line::Plain(socket))),
            Some(tls) => Ok(Ok(tls.around(socket).map_err(|e| broken(&e, "cannot begin TLS"))?)),
        }
    }

    /// Asks for a port to which data comes. The address in an old-style answer is passed over: behind a translation of
    /// addresses it is wrong, and it could send us to somebody else.
    fn passive(&mut self) -> Result<SocketAddr> {
        let unreadable = || Error::new(ErrorKind::DataInvalid, "the server names no port for data");
        if !self.old_passive {
            let answer = self.ask("EPSV")?;
            if answer.code == 229 {
                let port = extended_port(&answer.text).ok_or_else(unreadable)?;
                return Ok(SocketAddr::new(self.peer, port));
            }
            self.old_passive = true;
        }
        let answer = self.want("PASV", "the server does not open connections for data")?;
        Ok(SocketAddr::new(self.peer, old_port(&answer.text).ok_or_else(unreadable)?))
    }

    /// The path of a file below the root.
    pub fn full(&self, path: &str) -> String {
        format!("{}/{path}", self.root.trim_end_matches('/'))
    }
}

/// An error of a connection.
pub fn broken(error: &io::Error, what: &str) -> Error {
    if let Some(cause) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        let hint =
            "the server's certificate must be good for `host`, by an authority of the operating system or `tls_ca`";
        let kind = match cause {
            rustls::Error::InvalidCertificate(_) => ErrorKind::Unauthenticated,
            _ => ErrorKind::Unavailable,
        };
        return Error::new(kind, "cannot agree on TLS with the server").hint(hint).caused_by(cause.to_string());
    }
    let kind = match error.kind() {
        // Both are what a socket says when its time is up.
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => ErrorKind::Timeout,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, what).caused_by(error.to_string())
}

/// The path in `"/a ""b"""  is the current directory`.
fn quoted(text: &str) -> Option<String> {
    let mut path = String::new();
    let mut rest = text.split_once('"')?.1.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' if rest.peek() == Some(&'"') => {
                rest.next();
                path.push('"');
            }
            '"' => return Some(path),
            c => path.push(c),
        }
    }
    None
}

/// The port in `Entering Extended Passive Mode (|||6446|)` (RFC 2428).
fn extended_port(text: &str) -> Option<u16> {
    let inside = text.split_once('(')?.1.split_once(')')?.0;
    let mark = inside.chars().next()?;
    inside.trim_matches(mark).rsplit(mark).next()?.parse().ok().filter(|port| *port > 0)
}

/// The port in `Entering Passive Mode (h1,h2,h3,h4,p1,p2)`.
fn old_port(text: &str) -> Option<u16> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let numbers: Vec<u16> = text
        .get(start..)?
        .split(|c: char| !c.is_ascii_digit())
        .take(6)
        .map(|number| number.parse::<u8>().map(u16::from))
        .collect::<std::result::Result<_, _>>()
        .ok()?;
    match numbers.as_slice() {
        [_, _, _, _, high, low] => Some(high << 8 | low).filter(|port| *port > 0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_paths_are_read_from_answers() {
        assert_eq!(extended_port("Entering Extended Passive Mode (|||6446|)"), Some(6446));
        assert_eq!(extended_port("Entering (!!!1!)"), Some(1));
        assert_eq!(extended_port("no (x)"), None);
        assert_eq!(old_port("Entering Passive Mode (10,0,0,1,4,1)."), Some(1025));
        assert_eq!(old_port("Entering Passive Mode 10,0,0,1,4,1"), Some(1025));
        for text in ["(1,2,3,4,5)", "(1,2,3,4,256,1)", "()", "(1,2,3,4,0,0)"] {
            assert_eq!(old_port(text), None, "{text}");
        }
        assert_eq!(quoted("\"/a \"\"b\"\"\" is it").as_deref(), Some("/a \"b\""));
        assert_eq!(quoted("\"/a"), None);
    }
}
