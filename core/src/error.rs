//! The one error type of the project.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// A boxed cause.
pub type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// What every fallible function of this project returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of thing went wrong. Retry, exit code and hint hang on it, never on the text of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The configuration is wrong: unknown key, wrong type, missing secret, unknown stream. Exit 2.
    ConfigInvalid,
    /// The source does not know who we are: wrong or expired credentials. Exit 3.
    Unauthenticated,
    /// The source knows who we are and refuses: a missing grant or scope. Exit 3.
    PermissionDenied,
    /// Something that was named does not exist (any more).
    NotFound,
    /// The source asks to slow down. Retried after the delay it names.
    RateLimited,
    /// A quota is used up: what is committed stays, the rest waits for the next run. Exit 4.
    QuotaExhausted,
    /// No answer in time. Retried.
    Timeout,
    /// The other side cannot be reached, closed the connection, or answers with a server fault. Retried.
    Unavailable,
    /// The schema changed in a way that the stream's policy forbids. Exit 5.
    SchemaChanged,
    /// The source sent something that cannot be read as what it claims to be.
    DataInvalid,
    /// A check on the data failed with `on_fail: fail`. Exit 5.
    QualityFailed,
    /// Another run holds the stream or has moved its checkpoint. Exit 6.
    CheckpointConflict,
    /// The checkpoint cannot be used: lost, from another table, from a newer version. Needs a person.
    CheckpointInvalid,
    /// A slice can no longer be read as planned (snapshot or job gone). The runner plans again.
    SliceExpired,
    /// A limit of this program was reached: size of a row, of a page, of a document.
    LimitExceeded,
    /// The request makes no sense for this connector, format or build.
    Unsupported,
    /// The run is ending; the call was given up.
    Cancelled,
    /// A bug, of ours or of a library.
    Unexpected,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 18] = [
        Self::ConfigInvalid,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::NotFound,
        Self::RateLimited,
        Self::QuotaExhausted,
        Self::Timeout,
        Self::Unavailable,
        Self::SchemaChanged,
        Self::DataInvalid,
        Self::QualityFailed,
        Self::CheckpointConflict,
        Self::CheckpointInvalid,
        Self::SliceExpired,
        Self::LimitExceeded,
        Self::Unsupported,
        Self::Cancelled,
        Self::Unexpected,
    ];

    /// Whether the runner may repeat a slice that failed with this kind.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::RateLimited | Self::Timeout | Self::Unavailable)
    }

    /// The exit code of a process that ends with this kind.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::ConfigInvalid | Self::Unsupported => 2,
            Self::Unauthenticated | Self::PermissionDenied => 3,
            Self::QuotaExhausted => 4,
            Self::SchemaChanged | Self::QualityFailed => 5,
            Self::CheckpointConflict => 6,
            Self::Cancelled => 130,
            _ => 1,
        }
    }

    /// The name as it appears in JSON errors and logs, e.g. `ConfigInvalid`.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConfigInvalid => "ConfigInvalid",
            Self::Unauthenticated => "Unauthenticated",
            Self::PermissionDenied => "PermissionDenied",
            Self::NotFound => "NotFound",
            Self::RateLimited => "RateLimited",
            Self::QuotaExhausted => "QuotaExhausted",
            Self::Timeout => "Timeout",
            Self::Unavailable => "Unavailable",
            Self::SchemaChanged => "SchemaChanged",
            Self::DataInvalid => "DataInvalid",
            Self::QualityFailed => "QualityFailed",
            Self::CheckpointConflict => "CheckpointConflict",
            Self::CheckpointInvalid => "CheckpointInvalid",
            Self::SliceExpired => "SliceExpired",
            Self::LimitExceeded => "LimitExceeded",
            Self::Unsupported => "Unsupported",
            Self::Cancelled => "Cancelled",
            Self::Unexpected => "Unexpected",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The command that loads one stream again and goes on from its change feed, for hints. Whoever shows a hint puts the names of
/// source and stream in the place of `SOURCE` and `STREAM`, where it knows them.
pub const RESYNC: &str = "ingest run --source SOURCE --resync STREAM";

/// An error: what was attempted and on what, why it failed, what to do next.
///
/// The message is lowercase, without a full stop, and names what was attempted: `cannot read page`. Names, counts
/// and positions go into the context; never a row value, a header, a body, a query string or a password.
///
/// ```
/// use ingest_core::{Error, ErrorKind};
/// let error = Error::new(ErrorKind::NotFound, "cannot read the table")
///     .with("stream", "public.orders")
///     .hint("it was dropped or renamed; run `ingest discover`");
/// assert_eq!(error.to_string(), "cannot read the table (stream public.orders)");
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    retry_after: Option<Duration>,
    exhausted: bool,
    context: Vec<(&'static str, String)>,
    source: Option<BoxError>,
}

impl Error {
    /// Makes an error of a kind. The message says what was attempted.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            hint: None,
            retry_after: None,
            exhausted: false,
            context: Vec::new(),
            source: None,
        }))
    }

    /// Shorthand for [`ErrorKind::ConfigInvalid`].
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::ConfigInvalid, message)
    }

    /// Shorthand for [`ErrorKind::Unexpected`]: an invariant of this program does not hold.
    pub fn unexpected(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unexpected, message)
    }

    /// Shorthand for [`ErrorKind::Cancelled`].
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "the run is ending")
    }

    /// Adds a name, a count or a position. The first value of a key wins: the place nearest to the fault knows best.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        if !self.0.context.iter().any(|(k, _)| *k == key) {
            self.0.context.push((key, value.to_string()));
        }
        self
    }

    /// Says what to do next. An earlier hint stays.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// How long the source asked to wait.
    #[must_use]
    pub fn retry_after(mut self, delay: Option<Duration>) -> Self {
        self.0.retry_after = delay;
        self
    }

    /// Marks that a lower layer has retried and given up: no outer layer starts again.
    #[must_use]
    pub fn exhausted(mut self) -> Self {
        self.0.exhausted = true;
        self
    }

    /// Attaches the cause. It is printed after the message by the command line, not inside it.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Changes the kind, where a caller knows better what the fault means.
    #[must_use]
    pub fn of_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// The same error for another stream or place: kind, message with causes, hint and context; no chain of causes.
    #[must_use]
    pub fn replicate(&self) -> Self {
        let mut message = self.0.message.clone();
        for cause in self.causes() {
            message.push_str(": ");
            message.push_str(&cause);
        }
        Self(Box::new(Inner {
            kind: self.0.kind,
            message,
            hint: self.0.hint.clone(),
            retry_after: self.0.retry_after,
            exhausted: self.0.exhausted,
            context: self.0.context.clone(),
            source: None,
        }))
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message without context or causes.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do next, when it is known.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// How long the source asked to wait.
    pub fn retry_delay(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether a lower layer has retried and given up.
    pub fn is_exhausted(&self) -> bool {
        self.0.exhausted
    }

    /// Whether the runner may repeat the slice.
    pub fn is_retryable(&self) -> bool {
        self.0.kind.is_retryable() && !self.0.exhausted
    }

    /// Names, counts and positions, in the order in which they were added.
    pub fn context(&self) -> &[(&'static str, String)] {
        &self.0.context
    }

    /// The texts of all causes, outermost first.
    pub fn causes(&self) -> Vec<String> {
        let mut texts = Vec::new();
        let mut next = StdError::source(self);
        while let Some(cause) = next {
            let text = cause.to_string();
            // Many libraries repeat the text of their cause; once is enough for a reader.
            if !texts.iter().any(|t: &String| t.contains(&text)) {
                texts.push(text);
            }
            next = cause.source();
        }
        texts
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        for (i, (key, value)) in self.0.context.iter().enumerate() {
            write!(f, "{}{key} {value}", if i == 0 { " (" } else { ", " })?;
        }
        if !self.0.context.is_empty() {
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.0.kind)?;
        for cause in self.causes() {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<arrow_schema::ArrowError> for Error {
    fn from(error: arrow_schema::ArrowError) -> Self {
        Self::new(ErrorKind::DataInvalid, "cannot build an Arrow batch").caused_by(error)
    }
}
