//! What the server or the client says is wrong, as an error of ours. Codes decide, never the text of a message.
//!
//! Codes: `src/mongo/base/error_codes.yml` of the server; which ones a change stream survives: the specification "Change Streams".

use ingest_core::{Error, ErrorKind};
use mongodb::error::{CommandError, ErrorKind as Fault};

/// Labels of the server.
const RESUMABLE: &str = "ResumableChangeStreamError";
const NOT_RESUMABLE: &str = "NonResumableChangeStreamError";
/// What a server that gives no labels means by a code: it goes on elsewhere or later. Unreachable hosts, network faults, elections,
/// shutdowns, stale views of a sharded cluster.
const PASSING: [i32; 21] = [
    6, 7, 43, 63, 89, 91, 133, 134, 150, 189, 234, 237, 262, 9_001, 10_107, 11_600, 11_602, 13_388, 13_435, 13_436, 50,
];
/// The command is not known, or not in this form.
const UNKNOWN: [i32; 5] = [59, 115, 238, 304, 40_324];

/// What the client says of a certificate that it does not trust. The fault is not kept, so the text must do; a test holds it.
const UNTRUSTED: &str = "invalid peer certificate";

/// The error of ours; `attempted` says what we were about to do.
pub(crate) fn error(attempted: &str, cause: mongodb::error::Error) -> Error {
    match cause.kind.as_ref() {
        Fault::Command(fault) => refused(attempted, fault, &cause),
        Fault::Authentication { .. } => wrong_account(&cause.kind),
        Fault::ServerSelection { message, .. } if message.contains(UNTRUSTED) => untrusted(),
        Fault::Io(io) if io.to_string().contains(UNTRUSTED) => untrusted(),
        Fault::ServerSelection { message, .. } if names_account(message) => wrong_account(&cause.kind),
        Fault::Io(_)
        | Fault::ServerSelection { .. }
        | Fault::ConnectionPoolCleared { .. }
        | Fault::DnsResolve { .. } => Error::new(ErrorKind::Unavailable, attempted)
            .hint("see `uri`, and whether the server is running and lets this machine in")
            .caused_by(cause.kind.to_string()),
        Fault::InvalidTlsConfig { .. } => Error::config("the client's side of TLS cannot be set up")
            .hint("see `tls_ca`, `tls_cert` and `tls_key`")
            .caused_by(cause.kind.to_string()),
        Fault::IncompatibleServer { .. } => Error::new(ErrorKind::Unsupported, attempted)
            .hint("MongoDB 4.2 or newer is needed")
            .caused_by(cause.kind.to_string()),
        Fault::InvalidArgument { .. } => Error::config("the client does not take the configuration")
            .hint("see `uri`")
            .caused_by(cause.kind.to_string()),
        Fault::Bson(_) | Fault::InvalidResponse { .. } => {
            Error::new(ErrorKind::DataInvalid, attempted).caused_by(cause.kind.to_string())
        }
        _ => Error::new(ErrorKind::Unexpected, attempted).caused_by(cause.kind.to_string()),
    }
}

/// Whether the server does not know a command or a part of it: another way may do.
pub(crate) fn is_unknown(cause: &mongodb::error::Error) -> bool {
    matches!(cause.kind.as_ref(), Fault::Command(fault) if UNKNOWN.contains(&fault.code) || fault.code == 72 || fault.code == 9)
}

/// The code of what the server refused.
pub(crate) fn code(cause: &mongodb::error::Error) -> Option<i32> {
    match cause.kind.as_ref() {
        Fault::Command(fault) => Some(fault.code),
        _ => None,
    }
}

/// A login that fails while servers are looked for.
fn names_account(message: &str) -> bool {
    message.contains("Authentication failed") || message.contains("SCRAM failure")
}

fn wrong_account(cause: &Fault) -> Error {
    Error::new(ErrorKind::Unauthenticated, "the server does not accept the account")
        .hint("see user and password, `authSource` in `uri` (the database that holds the user, mostly admin) and `authMechanism`")
        .caused_by(cause.to_string())
}

fn untrusted() -> Error {
    Error::new(ErrorKind::Unauthenticated, "the server's certificate is not trusted")
        .hint("set `tls_ca` to the authority that signed it; the certificate must name the host of `uri`")
}

fn refused(attempted: &str, fault: &CommandError, cause: &mongodb::error::Error) -> Error {
    let lost = "load each stream again with `ingest run --resync STREAM`";
    let (kind, hint) = match fault.code {
        18 | 11 | 8_000 => return wrong_account(&cause.kind),
        13 => (
            ErrorKind::PermissionDenied,
            r#"grant the role `read` on the database: db.getSiblingDB("admin").grantRolesToUser(USER, [{role: "read", db: DATABASE}])"#.to_owned(),
        ),
        286 | 136 => (
            ErrorKind::CheckpointInvalid,
            format!(
                "the oplog no longer reaches back to where the stream stands; {lost}, and make the oplog longer than the longest pause \
                 between two runs: db.adminCommand({{replSetResizeOplog: 1, minRetentionHours: 72}})"
            ),
        ),
        260 | 280 | 222 | 40_576 | 50_811 | 40_585 => {
            (ErrorKind::CheckpointInvalid, format!("the server does not know the place where the stream stands: {lost}"))
        }
        10_334 => (
            ErrorKind::LimitExceeded,
            "a change is larger than 16 MiB: leave `full_document_before_change` at off, or leave the collection out".to_owned(),
        ),
        // With `required`, where the collection keeps no images or their time is over.
        47 => (
            ErrorKind::CheckpointInvalid,
            format!(
                "the collection keeps no images of this change: db.runCommand({{collMod: COLLECTION, changeStreamPreAndPostImages: {{enabled: true}}}}), then {lost}"
            ),
        ),
        40_573 => (
            ErrorKind::ConfigInvalid,
            "changes are captured on replica sets and sharded clusters alone: rs.initiate()".to_owned(),
        ),
        _ if cause.contains_label(NOT_RESUMABLE) => (ErrorKind::CheckpointInvalid, lost.to_owned()),
        code if PASSING.contains(&code) || cause.contains_label(RESUMABLE) => {
            (ErrorKind::Unavailable, "the server has changed its role or is stopping; it is tried again".to_owned())
        }
        462 | 202 | 16_500 => (ErrorKind::RateLimited, "the server is overloaded; it is tried again".to_owned()),
        26 => (ErrorKind::NotFound, "`ingest discover` lists the collections".to_owned()),
        code if UNKNOWN.contains(&code) => (ErrorKind::Unsupported, "the server does not know this command; is it MongoDB?".to_owned()),
        2 | 9 | 14 => (ErrorKind::ConfigInvalid, "see `where` of the stream".to_owned()),
        _ => (ErrorKind::Unexpected, "see the server's log".to_owned()),
    };
    Error::new(kind, attempted)
        .with("code", fault.code)
        .with("name", &fault.code_name)
        .hint(hint)
        .caused_by(first(&fault.message))
}

/// The beginning of a message: some servers quote what they were given.
fn first(message: &str) -> String {
    message.chars().take(200).collect()
}
