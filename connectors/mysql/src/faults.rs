//! What the server or the client says is wrong, as an error of ours. Numbers decide, never the text of a message.

use ingest_core::{Error, ErrorKind};
use mysql_async::{DriverError, IoError, ServerError, TlsError};

/// The error of ours; `attempted` says what we were about to do.
pub(crate) fn error(attempted: &str, cause: mysql_async::Error) -> Error {
    match cause {
        mysql_async::Error::Server(fault) => refused(attempted, &fault),
        mysql_async::Error::Io(IoError::Io(cause)) => broken(attempted, cause),
        mysql_async::Error::Io(IoError::Tls(TlsError::Tls(cause))) => untrusted(attempted, &cause),
        mysql_async::Error::Io(IoError::Tls(cause)) => Error::config("the client's side of TLS cannot be set up")
            .hint("see `tls_ca`, `tls_cert`, `tls_key` and `host`")
            .caused_by(cause),
        mysql_async::Error::Driver(cause) => driver(attempted, &cause),
        other => Error::new(ErrorKind::Unexpected, attempted).caused_by(other.to_string()),
    }
}

/// What the client's reader says of a packet above its limit. Its type is not exported, so the text must do; a test with a
/// large row holds it.
const TOO_LARGE: &str = "Packet is larger than max_allowed_packet";

/// The client wraps faults of TLS and of its own reader in those of the socket.
fn broken(attempted: &str, cause: std::io::Error) -> Error {
    let inner = cause.get_ref();
    if let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return untrusted(attempted, tls);
    }
    if inner.is_some_and(|inner| inner.to_string() == TOO_LARGE) {
        return driver(attempted, &DriverError::PacketTooLarge);
    }
    Error::new(ErrorKind::Unavailable, attempted)
        .hint("see `host` and `port`, and whether the server is running")
        .caused_by(cause)
}

fn untrusted(attempted: &str, cause: &rustls::Error) -> Error {
    if matches!(cause, rustls::Error::InvalidCertificate(_)) {
        return Error::new(ErrorKind::Unauthenticated, "the server's certificate is not trusted")
            .hint("set `tls_ca` to the authority that signed it; the certificate must name `host`")
            .caused_by(cause.to_string());
    }
    Error::new(ErrorKind::Unavailable, attempted)
        .hint("the two sides agree on no way to set up TLS")
        .caused_by(cause.to_string())
}

fn driver(attempted: &str, cause: &DriverError) -> Error {
    match cause {
        DriverError::NoClientSslFlagFromServer => Error::new(ErrorKind::Unavailable, "the server does not offer TLS")
            .hint("set up certificates at the server; `tls: danger_plaintext` sends password and data in the clear")
            .exhausted(),
        DriverError::PacketTooLarge => Error::new(ErrorKind::LimitExceeded, attempted)
            .hint("a row is larger than `max_row_bytes`: raise it, or leave the column out with `columns`"),
        DriverError::ConnectionClosed | DriverError::PacketOutOfOrder => {
            Error::new(ErrorKind::Unavailable, attempted).caused_by(cause.to_string())
        }
        DriverError::UnknownAuthPlugin { .. }
        | DriverError::MysqlOldPasswordDisabled
        | DriverError::CleartextPluginDisabled
        | DriverError::NoKeyFound => Error::new(ErrorKind::Unauthenticated, attempted)
            .hint("the account uses a way to log in that is not supported; see \"Rights\" in the connector's page")
            .caused_by(cause.to_string()),
        // These quote what the server sent.
        DriverError::FromValue { .. } | DriverError::FromRow { .. } | DriverError::UnexpectedPacket { .. } => {
            Error::new(ErrorKind::DataInvalid, attempted).caused_by("the server's answer cannot be understood")
        }
        _ => Error::new(ErrorKind::Unexpected, attempted).caused_by(cause.to_string()),
    }
}

fn refused(attempted: &str, fault: &ServerError) -> Error {
    let (kind, hint) = classify(fault.code, &fault.state);
    let mut error = Error::new(kind, attempted).with("code", fault.code);
    if let Some(hint) = hint {
        error = error.hint(hint);
    }
    // Messages of data exceptions quote the value that was wrong.
    if fault.state.starts_with("22") || kind == ErrorKind::DataInvalid {
        return error.caused_by("the server refused a value (its message is left out, it quotes the value)");
    }
    error.caused_by(fault.message.clone())
}

/// Error number to kind, with what to do next. Sources: "Server Error Message Reference" of MySQL 8.0 and 8.4, and
/// "MariaDB Error Code Reference".
fn classify(code: u16, state: &str) -> (ErrorKind, Option<&'static str>) {
    use ErrorKind as K;
    match code {
        1045 | 1698 | 1251 | 1820 | 1862 | 3118 | 4151 => {
            (K::Unauthenticated, Some("the user name or the password is wrong, or the account is locked or expired"))
        }
        1129 | 1130 => {
            (K::Unauthenticated, Some("the server refuses this user from here: see the host of the account"))
        }
        3159 => (K::Unauthenticated, Some("the server demands TLS: leave `tls` out, or set it to `verify-full`")),
        1044 | 1142 | 1143 | 1227 | 1370 | 1449 | 1356 => {
            (K::PermissionDenied, Some("`ingest check` prints the grants that are missing"))
        }
        1049 => (K::NotFound, Some("`database` names a database that does not exist")),
        1051 | 1146 | 1109 => (K::NotFound, Some("it was dropped or renamed; `ingest discover` lists what is there")),
        1054 => (K::SchemaChanged, Some("a column was dropped or renamed, or `where` names one that does not exist")),
        1064 | 1052 | 1111 | 1241 | 1242 | 1305 | 1582 | 1583 | 3730 => {
            (K::ConfigInvalid, Some("`where` must be one expression of the server's SQL over the table's columns"))
        }
        1040 | 1203 | 1226 => (
            K::RateLimited,
            Some("the server has no connection left: lower `max_connections` here, or raise its limit there"),
        ),
        1317 | 1969 | 3024 => (
            K::Timeout,
            Some("the statement was ended: by `statement_timeout`, by an administrator, or by the server's own limit"),
        ),
        1205 => (K::Timeout, Some("somebody holds a lock on the table for longer than `lock_timeout`")),
        1236 => (
            K::CheckpointInvalid,
            Some(
                "the server no longer has this part of its binlog, or never had it; `ingest run --source SOURCE --resync STREAM` loads the stream again",
            ),
        ),
        1412 | 1213 | 1053 | 1077 | 1080 | 1152 | 1153 | 1158..=1161 | 1184 | 1927 | 3169 | 4031 => {
            (K::Unavailable, None)
        }
        1290 | 1235 | 1295 => (K::Unsupported, None),
        1194 | 1195 | 1034 | 1035 | 1712 => {
            (K::DataInvalid, Some("the server reports damaged data; an administrator must look"))
        }
        _ if state.starts_with("22") => (K::DataInvalid, None),
        _ if state.starts_with("08") => (K::Unavailable, None),
        _ if state.starts_with("28") => (K::Unauthenticated, None),
        _ => (K::Unexpected, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_log_names_the_command_that_repairs_it() {
        assert!(classify(1236, "HY000").1.is_some_and(|hint| hint.contains(ingest_core::RESYNC)));
    }

    #[test]
    fn numbers_map_to_kinds() {
        for (code, state, kind) in [
            (1045, "28000", ErrorKind::Unauthenticated),
            (1142, "42000", ErrorKind::PermissionDenied),
            (1049, "42000", ErrorKind::NotFound),
            (1146, "42S02", ErrorKind::NotFound),
            (1054, "42S22", ErrorKind::SchemaChanged),
            (1064, "42000", ErrorKind::ConfigInvalid),
            (1040, "08004", ErrorKind::RateLimited),
            (3024, "HY000", ErrorKind::Timeout),
            (1205, "HY000", ErrorKind::Timeout),
            (1236, "HY000", ErrorKind::CheckpointInvalid),
            (1053, "08S01", ErrorKind::Unavailable),
            (1292, "22007", ErrorKind::DataInvalid),
            (9999, "HY000", ErrorKind::Unexpected),
        ] {
            assert_eq!(classify(code, state).0, kind, "{code}");
        }
    }

    #[test]
    fn a_value_in_a_message_is_left_out() {
        let fault = ServerError { code: 1292, state: "22007".into(), message: "Incorrect value: 'canary'".into() };
        let error = error("cannot read", mysql_async::Error::Server(fault));
        assert!(!format!("{error:?}").contains("canary"));
    }
}
