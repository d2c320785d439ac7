//! Logging in: start-up, passwords, and what the server says of itself.

use ingest_core::{Error, ErrorKind, Result};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;

use super::{Connection, Role, broken};
use crate::faults::Fault;

const NOT_POSTGRES: &str = "is this a PostgreSQL server? see `host` and `port`";

impl Connection {
    pub(super) async fn start_up(&mut self) -> Result<()> {
        let config = self.server.config();
        let parameters = [
            ("user", config.user.as_str()),
            ("database", config.database.as_str()),
            ("application_name", config.application_name.as_str()),
            ("client_encoding", "UTF8"),
        ];
        let mut message = bytes::BytesMut::new();
        // `database`: commands of replication, and SQL by the simple protocol, in this database.
        let replication = (self.role == Role::Replication).then_some(("replication", "database"));
        frontend::startup_message(parameters.into_iter().chain(replication), &mut message)
            .map_err(|e| Error::unexpected("cannot write the start-up message").caused_by(e))?;
        self.send(&message).await
    }

    pub(super) async fn authenticate(&mut self) -> Result<()> {
        loop {
            let (tag, body) = self.message().await?;
            let body = &self.buffer[body];
            match (tag, code(body)) {
                (b'E', _) => return Err(Fault::parse(body).error("cannot log in")),
                (b'R', Some(0)) => return Ok(()),
                (b'R', Some(3)) => {
                    let password = self.password()?;
                    self.send_password(password.as_bytes()).await?;
                }
                (b'R', Some(5)) => {
                    let salt: [u8; 4] =
                        body.get(4..8).and_then(|salt| salt.try_into().ok()).ok_or_else(|| broken("no salt"))?;
                    let password = self.password()?;
                    let hash = md5_hash(self.server.config().user.as_bytes(), password.as_bytes(), salt);
                    self.send_password(hash.as_bytes()).await?;
                }
                (b'R', Some(10)) => {
                    if !body[4..].split(|b| *b == 0).any(|name| name == SCRAM_SHA_256.as_bytes()) {
                        return Err(unsupported_login("SASL without SCRAM-SHA-256"));
                    }
                    return self.scram().await;
                }
                (b'R', Some(other)) => return Err(unsupported_login(&format!("method {other}"))),
                (b'N', _) => {}
                _ => return Err(broken("an answer that does not belong to a login").hint(NOT_POSTGRES)),
            }
        }
    }

    /// SCRAM-SHA-256 in both directions: the server proves that it knows the password, too.
    async fn scram(&mut self) -> Result<()> {
        let invalid = |e: std::io::Error| {
            Error::new(ErrorKind::Unauthenticated, "the server's half of the password exchange is wrong").caused_by(e)
        };
        let password = self.password()?;
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let mut message = bytes::BytesMut::new();
        frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut message).map_err(invalid)?;
        self.send(&message).await?;
        for (step, wanted) in [11, 12, 0].into_iter().enumerate() {
            let (tag, body) = self.message().await?;
            let body = &self.buffer[body];
            match (tag, code(body)) {
                (b'E', _) => return Err(Fault::parse(body).error("cannot log in")),
                (b'R', Some(code)) if code == wanted => {}
                _ => return Err(broken("a login that leaves its order").of_kind(ErrorKind::Unauthenticated)),
            }
            match step {
                0 => {
                    scram.update(&body[4..]).map_err(invalid)?;
                    let mut message = bytes::BytesMut::new();
                    frontend::sasl_response(scram.message(), &mut message).map_err(invalid)?;
                    self.send(&message).await?;
                }
                1 => scram.finish(&body[4..]).map_err(invalid)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn password(&self) -> Result<String> {
        let password = &self.server.config().password;
        if password.is_empty() {
            return Err(Error::new(
                ErrorKind::Unauthenticated,
                "the server asks for a password and none is configured",
            )
            .hint("set `password`"));
        }
        Ok(password.expose().to_owned())
    }

    async fn send_password(&mut self, password: &[u8]) -> Result<()> {
        let mut message = bytes::BytesMut::new();
        frontend::password_message(password, &mut message)
            .map_err(|e| Error::unexpected("cannot write the password").caused_by(e))?;
        self.send(&message).await
    }

    /// Reads what follows a login: settings of the server, the key for cancelling, readiness.
    pub(super) async fn settle(&mut self) -> Result<()> {
        loop {
            let (tag, body) = self.message().await?;
            let body = &self.buffer[body];
            match tag {
                b'S' => {
                    let mut parts = body.split(|b| *b == 0).map(String::from_utf8_lossy);
                    match (parts.next().as_deref(), parts.next()) {
                        (Some("server_version"), Some(text)) => self.version = version_number(&text),
                        (Some("server_encoding"), Some(text)) => self.encoding = text.into_owned(),
                        _ => {}
                    }
                }
                b'K' => {
                    let number =
                        |at: usize| body.get(at..at + 4).and_then(|b| b.try_into().ok()).map(i32::from_be_bytes);
                    self.backend = number(0).zip(number(4));
                }
                b'E' => return Err(Fault::parse(body).error("cannot log in")),
                b'Z' => {
                    self.running = false;
                    return Ok(());
                }
                _ => {}
            }
        }
    }
}

fn code(body: &[u8]) -> Option<i32> {
    body.get(..4).and_then(|b| b.try_into().ok()).map(i32::from_be_bytes)
}

fn unsupported_login(method: &str) -> Error {
    Error::new(ErrorKind::Unsupported, "the server asks for a way to log in that is not supported")
        .with("method", method)
        .hint("supported are SCRAM-SHA-256, md5, a password over TLS, and client certificates")
}

/// `15.18 (Debian 15.18-1)` -> 150018; `16beta1` -> 160000; `9.6.24` -> 90624.
fn version_number(text: &str) -> u32 {
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()
        .unwrap_or_default()
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0).min(9_999));
    match (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) {
        (major, minor, _) if major >= 10 => major * 10_000 + minor,
        (major, minor, patch) => major * 10_000 + minor * 100 + patch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        assert_eq!(version_number("15.18 (Debian 15.18-0+deb12u1)"), 150_018);
        assert_eq!(version_number("18beta1"), 180_000);
        assert_eq!(version_number("9.6.24"), 90_624);
        assert_eq!(version_number(""), 0);
    }
}
