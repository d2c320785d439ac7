//! What a server can do to a client.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use ingest_core::ErrorKind;

use crate::http::{Request, Response};

/// What a server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Attack {
    /// Redirects to another host.
    RedirectToAnotherHost,
    /// Redirects to another host by a URL without a scheme.
    RedirectWithoutScheme,
    /// Redirects to itself.
    RedirectToItself,
    /// Redirects to ever new paths.
    RedirectForEver,
    /// Redirects to a file.
    RedirectToFile,
    /// Redirects to the address where clouds keep the credentials of machines.
    RedirectToMetadata,
    /// Links the next page on another host.
    LinkToAnotherHost,
    /// Links the next page on another host, without a scheme.
    LinkWithoutScheme,
    /// Links the next page on another host, with backslashes.
    LinkWithBackslashes,
    /// Links the next page on another host, with ours as the user name.
    LinkWithUser,
    /// Links the next page by `file:`.
    LinkToFile,
    /// Links the next page on another port.
    LinkToAnotherPort,
    /// Links the next page in a private network.
    LinkToPrivateNetwork,
    /// Links the page that it just gave.
    LinkToItself,
    /// Gives the same page for ever, whatever is asked for.
    SamePageForEver,
    /// A web page with status 200.
    HtmlWithStatus200,
    /// JSON that ends in its middle, with the right length.
    TruncatedJson,
    /// No body at all.
    EmptyBody,
    /// Text in Latin-1.
    NotUtf8,
    /// A hundred thousand lists inside each other.
    DeepJson,
    /// A small answer that unpacks to a gigabyte.
    GzipBomb,
    /// Says gzip, sends something else.
    NotGzip,
    /// Gzip that ends in its middle.
    TruncatedGzip,
    /// A body without end.
    EndlessBody,
    /// Declares more than it sends.
    LongerThanSent,
    /// Resets the connection in the body, once.
    ResetOnce,
    /// Resets the connection in the body, always.
    ResetAlways,
    /// Closes the connection instead of answering.
    ClosesAtOnce,
    /// Speaks something else than HTTP.
    NotHttp,
    /// Takes the request and never answers.
    Silence,
    /// Sends a byte a second.
    Trickle,
    /// A fault of its own, once.
    FaultOnce,
    /// A fault of its own, always.
    FaultAlways,
    /// Throttles once, without saying for how long.
    Throttled,
    /// Throttles once, for two seconds.
    ThrottledForSeconds,
    /// Throttles once, until a date.
    ThrottledUntilDate,
    /// Throttles once, until a date in the past.
    ThrottledUntilPast,
    /// Throttles for a year.
    ThrottledForAYear,
    /// Throttles always.
    ThrottledAlways,
    /// Refuses the credentials and quotes the whole request.
    RefusesAndQuotes,
    /// Fails and quotes the whole request in body and headers.
    FailsAndQuotes,
}

/// What a connector should make of an attack.
#[derive(Debug, Clone, Copy)]
pub enum Outcome {
    /// It gets through with all rows.
    AllRows,
    /// It fails with one of these kinds.
    Fails(&'static [ErrorKind]),
    /// It fails with one of these kinds, or does not notice because it never asked again.
    RowsOr(&'static [ErrorKind]),
}

use Attack as A;
use ErrorKind as K;

const REFUSED_DATA: &[ErrorKind] = &[K::DataInvalid];
const BROKEN: &[ErrorKind] = &[K::Unavailable, K::Timeout];

impl Attack {
    /// All of them.
    pub const ALL: [Self; 41] = [
        A::RedirectToAnotherHost,
        A::RedirectWithoutScheme,
        A::RedirectToItself,
        A::RedirectForEver,
        A::RedirectToFile,
        A::RedirectToMetadata,
        A::LinkToAnotherHost,
        A::LinkWithoutScheme,
        A::LinkWithBackslashes,
        A::LinkWithUser,
        A::LinkToFile,
        A::LinkToAnotherPort,
        A::LinkToPrivateNetwork,
        A::LinkToItself,
        A::SamePageForEver,
        A::HtmlWithStatus200,
        A::TruncatedJson,
        A::EmptyBody,
        A::NotUtf8,
        A::DeepJson,
        A::GzipBomb,
        A::NotGzip,
        A::TruncatedGzip,
        A::EndlessBody,
        A::LongerThanSent,
        A::ResetOnce,
        A::ResetAlways,
        A::ClosesAtOnce,
        A::NotHttp,
        A::Silence,
        A::Trickle,
        A::FaultOnce,
        A::FaultAlways,
        A::Throttled,
        A::ThrottledForSeconds,
        A::ThrottledUntilDate,
        A::ThrottledUntilPast,
        A::ThrottledForAYear,
        A::ThrottledAlways,
        A::RefusesAndQuotes,
        A::FailsAndQuotes,
    ];

    /// What a connector should make of it.
    pub fn outcome(self) -> Outcome {
        match self {
            A::RedirectToAnotherHost
            | A::RedirectWithoutScheme
            | A::RedirectToItself
            | A::RedirectToFile
            | A::RedirectToMetadata
            | A::LinkToAnotherHost
            | A::LinkWithoutScheme
            | A::LinkWithBackslashes
            | A::LinkWithUser
            | A::LinkToFile
            | A::LinkToAnotherPort
            | A::LinkToPrivateNetwork
            | A::LinkToItself
            | A::HtmlWithStatus200
            | A::NotGzip => Outcome::Fails(REFUSED_DATA),
            // A body that is cut short may be asked for again before it is refused.
            A::TruncatedJson | A::EmptyBody | A::NotUtf8 => Outcome::Fails(&[K::DataInvalid, K::Unavailable]),
            A::RedirectForEver | A::DeepJson | A::GzipBomb | A::EndlessBody => {
                Outcome::Fails(&[K::LimitExceeded, K::DataInvalid])
            }
            A::SamePageForEver => Outcome::RowsOr(&[K::DataInvalid, K::LimitExceeded]),
            A::TruncatedGzip
            | A::LongerThanSent
            | A::ResetAlways
            | A::ClosesAtOnce
            | A::NotHttp
            | A::Silence
            | A::Trickle
            | A::FaultAlways
            | A::ThrottledAlways
            | A::FailsAndQuotes => Outcome::Fails(BROKEN),
            A::ResetOnce
            | A::FaultOnce
            | A::Throttled
            | A::ThrottledForSeconds
            | A::ThrottledUntilDate
            | A::ThrottledUntilPast => Outcome::AllRows,
            A::ThrottledForAYear => Outcome::Fails(&[K::QuotaExhausted]),
            A::RefusesAndQuotes => Outcome::Fails(&[K::Unauthenticated]),
        }
    }

    /// The link that the pages of this attack carry.
    pub(super) fn link(self, evil: &str) -> Option<String> {
        let host = evil.trim_start_matches("http://");
        Some(match self {
            A::LinkToAnotherHost => "https://evil.example/next".into(),
            A::LinkWithoutScheme => format!("//{host}/next"),
            A::LinkWithBackslashes => format!("\\\\{host}\\next"),
            A::LinkWithUser => format!("http://api.example.com@{host}/next"),
            A::LinkToFile => "file:///etc/passwd".into(),
            A::LinkToAnotherPort => format!("{evil}/next"),
            A::LinkToPrivateNetwork => "http://10.0.0.1/next".into(),
            A::LinkToItself => "?page=again".into(),
            _ => return None,
        })
    }

    /// Bends an honest answer. `nth` counts the requests.
    pub(super) fn answer(self, request: &Request, nth: usize, honest: Response, evil: &str) -> Response {
        let host = evil.trim_start_matches("http://");
        let throttled = |value: &str| Response::status(429).header("retry-after", value);
        let once = |bent: Response, honest: Response| if nth == 0 { bent } else { honest };
        match self {
            A::RedirectToAnotherHost => Response::redirect(302, format!("{evil}{}", request.path)),
            A::RedirectWithoutScheme => Response::redirect(307, format!("//{host}/")),
            A::RedirectToItself => Response::redirect(301, format!("{}?{}", request.path, request.query)),
            A::RedirectForEver => Response::redirect(302, format!("/hop/{nth}")),
            A::RedirectToFile => Response::redirect(302, "file:///etc/passwd"),
            A::RedirectToMetadata => Response::redirect(302, "http://169.254.169.254/latest/meta-data/"),
            A::HtmlWithStatus200 => Response::html("<html><body>please sign in</body></html>"),
            A::TruncatedJson => honest.cut(),
            A::EmptyBody => Response::json(""),
            A::NotUtf8 => honest.then(b" \xe9"),
            A::DeepJson => Response::json(format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))),
            A::GzipBomb => Response::json("").gzip_bomb(1 << 10),
            A::NotGzip => honest.header("content-encoding", "gzip"),
            A::TruncatedGzip => honest.gzip().cut(),
            A::EndlessBody => Response::json("").repeated(Bytes::from(vec![b' '; 64 << 10]), u64::MAX),
            A::LongerThanSent => honest.content_length(10 << 20),
            A::ResetOnce => once(honest.clone().reset_after(150), honest),
            A::ResetAlways => honest.reset_after(150),
            A::ClosesAtOnce => Response::raw(""),
            A::NotHttp => Response::raw("SSH-2.0-OpenSSH_9.6\r\n"),
            A::Silence => Response::never(),
            A::Trickle => honest.then(&[b' '; 4 << 10]).trickle(Duration::from_secs(1)),
            A::FaultOnce => once(Response::status(503), honest),
            A::FaultAlways => Response::status(500).body("internal"),
            A::Throttled => once(Response::status(429), honest),
            A::ThrottledForSeconds => once(throttled("2"), honest),
            A::ThrottledUntilDate => once(throttled(&date(3)), honest),
            A::ThrottledUntilPast => once(throttled(&date(-3_600)), honest),
            A::ThrottledForAYear => throttled("31536000"),
            A::ThrottledAlways => throttled("5"),
            A::RefusesAndQuotes => quoting(401, request),
            A::FailsAndQuotes => quoting(500, request),
            _ => honest,
        }
    }
}

/// An HTTP date some seconds from now.
fn date(seconds: i64) -> String {
    let now: DateTime<Utc> = SystemTime::now().into();
    (now + chrono::TimeDelta::seconds(seconds)).format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// An error that quotes everything it was sent, as debug pages of servers do.
fn quoting(status: u16, request: &Request) -> Response {
    let quoted = format!("{request:?}").replace(['\r', '\n'], " ");
    let response = Response::status(status).header("x-request", quoted.clone());
    response.header("content-type", "application/json").body(format!("{{\"error\": {{\"message\": {quoted:?}}}}}"))
}
