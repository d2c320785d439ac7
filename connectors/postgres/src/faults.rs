//! What the server says is wrong, as an error of ours. SQLSTATE decides, never the text of a message.

use ingest_core::{Error, ErrorKind};

/// An ErrorResponse of the server.
#[derive(Debug, Default, Clone)]
pub(crate) struct Fault {
    /// SQLSTATE, five characters.
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Fault {
    /// Reads the fields of an ErrorResponse or NoticeResponse: type byte and zero-terminated text, repeated.
    pub(crate) fn parse(mut body: &[u8]) -> Self {
        let mut fault = Self::default();
        while let [field, rest @ ..] = body {
            let Some(end) = rest.iter().position(|b| *b == 0) else { break };
            let text = String::from_utf8_lossy(&rest[..end]).into_owned();
            match field {
                b'C' => fault.code = text,
                b'M' => fault.message = text,
                b'H' => fault.hint = Some(text),
                _ => {}
            }
            body = &rest[end + 1..];
        }
        fault
    }

    /// The error of ours; `attempted` says what we were about to do.
    pub(crate) fn error(&self, attempted: impl Into<String>) -> Error {
        let (kind, hint) = classify(&self.code);
        let mut error = Error::new(kind, attempted).with("sqlstate", &self.code);
        if let Some(hint) = hint {
            error = error.hint(hint);
        }
        // Messages of data exceptions quote the value that was wrong.
        if self.code.starts_with("22") {
            return error.caused_by("the server refused a value (its message is left out, it quotes the value)");
        }
        if let Some(hint) = &self.hint {
            error = error.hint(hint.as_str());
        }
        error.caused_by(self.message.as_str())
    }
}

/// SQLSTATE to kind, with what to do next. Sources: appendix "PostgreSQL Error Codes" of the manual.
fn classify(code: &str) -> (ErrorKind, Option<&'static str>) {
    use ErrorKind as K;
    let class = code.get(..2).unwrap_or_default();
    match (code, class) {
        ("28P01", _) => (K::Unauthenticated, Some("the user name or the password is wrong")),
        (_, "28") => (
            K::Unauthenticated,
            Some("the server refuses this user from here: see pg_hba.conf, and `tls` where it demands encryption"),
        ),
        ("42501", _) => (K::PermissionDenied, Some("`ingest check` prints the grants that are missing")),
        ("3D000", _) => (K::NotFound, Some("`database` names a database that does not exist")),
        ("42P01" | "3F000" | "42704", _) => {
            (K::NotFound, Some("it was dropped or renamed; `ingest discover` lists what is there"))
        }
        ("42703", _) => {
            (K::SchemaChanged, Some("a column was dropped or renamed, or `where` names one that does not exist"))
        }
        ("42601" | "42804" | "42883" | "42803" | "42P20" | "42725", _) => {
            (K::ConfigInvalid, Some("`where` must be one boolean expression of PostgreSQL over the table's columns"))
        }
        ("53300" | "53400", _) => (
            K::RateLimited,
            Some("the server has no connection left: lower `max_connections` here, or raise its limit there"),
        ),
        ("57014", _) => (
            K::Timeout,
            Some(
                "the statement was cancelled: by `statement_timeout`, by an administrator, or by the server's own limit",
            ),
        ),
        ("55P03", _) => (K::Timeout, Some("somebody holds a lock on the table for longer than `lock_timeout`")),
        ("72000", _) => (K::SliceExpired, Some("the snapshot became too old for the server; the plan is made again")),
        ("0A000", _) => (K::Unsupported, None),
        ("XX001" | "XX002", _) => (K::DataInvalid, Some("the server reports damaged data; an administrator must look")),
        // Conflict with recovery on a replica, deadlock: the same slice may succeed the next time.
        (_, "40") => (K::Unavailable, Some("on a replica: raise `max_standby_streaming_delay`, or read the primary")),
        (_, "08" | "53" | "57" | "58" | "XX") => (K::Unavailable, None),
        (_, "22") => (K::DataInvalid, None),
        (_, "54") => (K::LimitExceeded, None),
        _ => (K::Unexpected, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_map_to_kinds() {
        for (code, kind) in [
            ("28P01", ErrorKind::Unauthenticated),
            ("28000", ErrorKind::Unauthenticated),
            ("42501", ErrorKind::PermissionDenied),
            ("42P01", ErrorKind::NotFound),
            ("42703", ErrorKind::SchemaChanged),
            ("53300", ErrorKind::RateLimited),
            ("53200", ErrorKind::Unavailable),
            ("57014", ErrorKind::Timeout),
            ("57P01", ErrorKind::Unavailable),
            ("08006", ErrorKind::Unavailable),
            ("40001", ErrorKind::Unavailable),
            ("55P03", ErrorKind::Timeout),
            ("22P02", ErrorKind::DataInvalid),
            ("", ErrorKind::Unexpected),
            ("é", ErrorKind::Unexpected),
        ] {
            assert_eq!(classify(code).0, kind, "{code}");
        }
    }

    #[test]
    fn a_value_in_a_message_is_left_out() {
        let fault = Fault::parse(b"SERROR\0C22P02\0Minvalid input syntax for type integer: \"canary\"\0\0");
        let error = fault.error("cannot read");
        assert!(!format!("{error:?}").contains("canary"));
    }

    #[test]
    fn a_cut_message_does_not_panic() {
        for end in 0..20 {
            let body = b"C42P01\0Mmissing\0\0";
            Fault::parse(&body[..end.min(body.len())]);
        }
    }
}
