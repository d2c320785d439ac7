//! What the server or the client says is wrong, as an error of ours. Numbers decide, never the text of a message.

use ingest_core::{Error, ErrorKind};
use tiberius::error::{IoErrorKind, TokenError};

/// The error of ours; `attempted` says what we were about to do.
pub(crate) fn error(attempted: &str, cause: tiberius::error::Error) -> Error {
    use tiberius::error::Error as Fault;
    match cause {
        Fault::Server(fault) => refused(attempted, &fault),
        Fault::Io { kind: IoErrorKind::TimedOut, message } => {
            Error::new(ErrorKind::Timeout, attempted).caused_by(message)
        }
        Fault::Io { message, .. } => Error::new(ErrorKind::Unavailable, attempted)
            .hint("see `host` and `port`, and whether the server is running")
            .caused_by(message),
        Fault::Tls(message) => Error::new(ErrorKind::Unauthenticated, "the server's certificate is not trusted")
            .hint("set `tls_ca` to the authority that signed it; the certificate must name `host`")
            .caused_by(message),
        Fault::Protocol(message) if message.contains("encryption level") => {
            Error::new(ErrorKind::Unavailable, "the server does not offer TLS")
                .hint(
                    "set up a certificate at the server; `tls: danger_plaintext` sends password and data in the clear",
                )
                .exhausted()
        }
        Fault::Utf8 | Fault::Utf16 | Fault::Encoding(_) => Error::new(ErrorKind::DataInvalid, attempted)
            .hint("a text is not valid in the code page of its column; leave the column out with `columns`"),
        Fault::Conversion(message) if message.contains("browser") => {
            Error::new(ErrorKind::Unavailable, "the SQL Server Browser does not know the instance")
                .hint("see `instance`, whether the browser is running, and whether UDP reaches it; or set `port` alone")
                .caused_by(message.into_owned())
        }
        Fault::Routing { .. } => Error::new(ErrorKind::Unavailable, attempted)
            .hint("the server sends its clients elsewhere, again and again"),
        Fault::Protocol(message) => Error::new(ErrorKind::Unavailable, attempted)
            .hint("is this SQL Server 2016 or newer, or Azure SQL?")
            .caused_by(message.into_owned()),
        other => Error::new(ErrorKind::Unexpected, attempted).caused_by(other.to_string()),
    }
}

fn refused(attempted: &str, fault: &TokenError) -> Error {
    let (kind, hint) = classify(fault.code());
    let mut error = Error::new(kind, attempted).with("code", fault.code());
    if let Some(hint) = hint {
        error = error.hint(hint);
    }
    // Messages of data exceptions quote the value that was wrong.
    if kind == ErrorKind::DataInvalid {
        return error.caused_by("the server refused a value (its message is left out, it quotes the value)");
    }
    error.caused_by(fault.message().to_owned())
}

/// Error number to kind, with what to do next. Source: "Database Engine events and errors" of Microsoft's documentation.
fn classify(code: u32) -> (ErrorKind, Option<&'static str>) {
    use ErrorKind as K;
    match code {
        18452 | 18456 | 18461 | 18463..=18468 | 18470 | 18486..=18488 => (
            K::Unauthenticated,
            Some("the login or the password is wrong, the login is locked or disabled, or the token has expired"),
        ),
        4060 | 4063 | 4064 | 911 => {
            (K::NotFound, Some("`database` does not exist, or the login has no user in it: CREATE USER … FOR LOGIN …"))
        }
        40615 => (K::PermissionDenied, Some("the firewall of the Azure SQL server does not let this address in")),
        229 | 230 | 262 | 297 | 300 | 371 | 916 | 15247 => {
            (K::PermissionDenied, Some("`ingest check` prints the grants that are missing"))
        }
        208 => (K::NotFound, Some("it was dropped or renamed; `ingest discover` lists what is there")),
        207 => (K::SchemaChanged, Some("a column was dropped or renamed, or `where` names one that does not exist")),
        102 | 105 | 107 | 137 | 156 | 170 | 174 | 195 | 206 | 245 | 319 | 402 | 4104 | 4145 | 8114 | 8115 | 8116
        | 8117 => (K::ConfigInvalid, Some("`where` must be one condition of Transact-SQL over the table's columns")),
        241 | 242 | 295 | 8152 | 9420 | 6522 => {
            (K::DataInvalid, Some("a value cannot be converted; leave the column out with `columns`"))
        }
        313 | 22_985 | 22_981 => (
            K::CheckpointInvalid,
            Some(
                "the changes behind the position are gone, or not captured any more; `ingest run --resync STREAM` loads the stream again",
            ),
        ),
        3952 => (K::ConfigInvalid, Some("ALTER DATABASE … SET ALLOW_SNAPSHOT_ISOLATION ON")),
        1222 => (K::Timeout, Some("somebody holds a lock on the table for longer than `lock_timeout`")),
        1205 | 3960 | 3961 | 3966 => (K::Unavailable, None),
        701 | 8645 | 8651 | 10928 | 10929 | 17809 | 18451 | 40501 | 49918..=49920 => {
            (K::RateLimited, Some("the server has no resources left: lower `max_connections` here"))
        }
        40197 | 40540 | 40613 | 6005 | 617 | 983 | 596 | 10053 | 10054 | 10060 | 233 | 4221 => (K::Unavailable, None),
        823 | 824 | 825 | 605 => {
            (K::DataInvalid, Some("the server reports damaged data; an administrator must look (DBCC CHECKDB)"))
        }
        _ => (K::Unexpected, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_map_to_kinds() {
        for (code, kind) in [
            (18456, ErrorKind::Unauthenticated),
            (229, ErrorKind::PermissionDenied),
            (4060, ErrorKind::NotFound),
            (208, ErrorKind::NotFound),
            (207, ErrorKind::SchemaChanged),
            (102, ErrorKind::ConfigInvalid),
            (1222, ErrorKind::Timeout),
            (1205, ErrorKind::Unavailable),
            (40501, ErrorKind::RateLimited),
            (241, ErrorKind::DataInvalid),
            (313, ErrorKind::CheckpointInvalid),
            (99_999, ErrorKind::Unexpected),
        ] {
            assert_eq!(classify(code).0, kind, "{code}");
        }
    }
}
