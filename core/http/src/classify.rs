//! What a failed request means.

use std::error::Error as StdError;

use ingest_core::{Error, ErrorKind, Result};
use reqwest::StatusCode;
use reqwest::header::HeaderMap;

use crate::Reply;
use crate::hosts::PrivateAddress;

/// An answer that is not a success.
#[derive(Debug)]
pub struct Refusal<'a> {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The first 64 KiB of the body. It may quote what was sent: take codes from it, never put its text into an error.
    pub body: &'a [u8],
}

impl Refusal<'_> {
    /// What the status alone says; the start of an answer of one's own.
    pub fn by_status(&self) -> Error {
        let (kind, message, hint) = match self.status.as_u16() {
            401 => (ErrorKind::Unauthenticated, "the source refused the credentials", "check the key or token"),
            403 => (ErrorKind::PermissionDenied, "the source refused access", "grant the missing right or scope"),
            404 | 410 => (ErrorKind::NotFound, "the source does not know what was asked for", ""),
            408 => (ErrorKind::Timeout, "the source gave up waiting for the request", ""),
            425 => (ErrorKind::Unavailable, "the source is not ready for the request yet", ""),
            429 => (ErrorKind::RateLimited, "the source asks to slow down", "lower the rate, or run fewer at once"),
            400..=499 => (ErrorKind::DataInvalid, "the source refused the request", ""),
            500..=599 => (ErrorKind::Unavailable, "the source answered with a fault of its own", ""),
            300..=399 => (ErrorKind::DataInvalid, "the source answered with a redirect that leads nowhere", ""),
            _ => (ErrorKind::DataInvalid, "the source answered with an unknown status", ""),
        };
        let error = Error::new(kind, message);
        if hint.is_empty() { error } else { error.hint(hint) }
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A short code out of an answer, to be put into an error; anything longer could quote data.
///
/// ```
/// assert_eq!(ingest_http::word("INVALID_FIELD"), Some("INVALID_FIELD"));
/// assert_eq!(ingest_http::word("no such row: Jane Doe"), None);
/// ```
pub fn word(text: &str) -> Option<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.[]".contains(c);
    (!text.is_empty() && text.len() <= 64 && text.chars().all(plain)).then_some(text)
}

/// What an API's answers mean beyond the plain rules of HTTP. All methods have defaults.
///
/// The kind of the error decides what happens: `RateLimited`, `Timeout` and `Unavailable` are repeated, all others end
/// the call. `Retry-After` is read by the client; a dialect that knows better sets `retry_after` itself.
pub trait Dialect: Send + Sync {
    /// What an answer other than 2xx means; `None` = what its status says.
    fn refusal(&self, _refusal: &Refusal<'_>) -> Option<Error> {
        None
    }

    /// Finds an error inside a 2xx answer, as GraphQL services send it.
    ///
    /// # Errors
    /// The error that the answer carries.
    fn inspect(&self, _reply: &Reply) -> Result<()> {
        Ok(())
    }
}

/// Plain HTTP.
pub(crate) struct Plain;

impl Dialect for Plain {}

/// The message of an error after which the server certainly did nothing.
pub(crate) const CANNOT_CONNECT: &str = "cannot connect to the source";

/// What a failure below HTTP means. The cause is attached without the URL.
pub(crate) fn transport(error: reqwest::Error, doing: &str) -> Error {
    let causes = || {
        let mut next = error.source();
        std::iter::from_fn(move || {
            let cause = next?;
            next = cause.source();
            Some(cause)
        })
    };
    let private = causes().any(|cause| cause.is::<PrivateAddress>());
    let tls = causes().find_map(tls_cause);
    let made = if private {
        Error::new(ErrorKind::DataInvalid, "refused to connect: the host's name leads to a private address")
            .hint("a host inside your network has to be named in `endpoint`")
    } else if let Some(tls) = tls {
        tls_error(tls)
    } else if error.is_timeout() && error.is_connect() {
        Error::new(ErrorKind::Timeout, "cannot connect to the source in time")
            .hint("check the endpoint, the network and the proxy")
    } else if error.is_timeout() {
        Error::new(ErrorKind::Timeout, format!("no answer in time while {doing}"))
    } else if error.is_connect() {
        Error::new(ErrorKind::Unavailable, CANNOT_CONNECT).hint("check the endpoint, the network and the proxy")
    } else if error.is_builder() {
        Error::unexpected("cannot build a request")
    } else {
        Error::new(ErrorKind::Unavailable, format!("the connection broke while {doing}"))
    };
    made.caused_by(without_url(error))
}

/// The TLS error inside a cause: TLS streams wrap it into errors of input and output, once or twice.
fn tls_cause<'a>(cause: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = cause.downcast_ref() {
        return Some(tls);
    }
    let mut io = cause.downcast_ref::<std::io::Error>()?;
    loop {
        let inner = io.get_ref()?;
        if let Some(tls) = inner.downcast_ref() {
            return Some(tls);
        }
        io = inner.downcast_ref()?;
    }
}

/// A certificate that is refused now is refused again in a second: not repeated.
fn tls_error(error: &rustls::Error) -> Error {
    match error {
        rustls::Error::InvalidCertificate(_) => Error::config("refused the certificate of the source")
            .hint("if it is of an authority of your own, name that in `tls_ca`"),
        rustls::Error::AlertReceived(_) => {
            Error::new(ErrorKind::Unauthenticated, "the source refused our TLS handshake")
                .hint("if it asks for a client certificate, set `tls_cert` and `tls_key`")
        }
        _ => Error::new(ErrorKind::Unavailable, "the TLS handshake failed"),
    }
}

/// Takes the URL out of an error: its query may hold a key.
pub(crate) fn without_url(error: reqwest::Error) -> reqwest::Error {
    error.without_url()
}
