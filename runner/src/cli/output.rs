//! What is printed: data to stdout, everything else to stderr, nothing that could steer a terminal.

use std::borrow::Cow;
use std::io::{ErrorKind as IoKind, Write};

use ingest_core::{Error, ErrorKind, Json};
use serde::Serialize;
use serde_json::json;

use super::args::{Global, LogFormat};
use crate::config::{ConfigProblem, as_error};
use crate::events::ErrorReport;

/// Why a verb ended early.
#[derive(Debug)]
pub enum Stop {
    /// With an error.
    Error(Error),
    /// With problems in the configuration.
    Config(Vec<ConfigProblem>),
    /// The reader of stdout has gone, as `head` does: it has what it wanted.
    PipeClosed,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<Vec<ConfigProblem>> for Stop {
    fn from(problems: Vec<ConfigProblem>) -> Self {
        Self::Config(problems)
    }
}

/// What a verb returns: its exit code.
pub type Outcome = Result<u8, Stop>;

/// Writes data to stdout.
///
/// # Errors
/// [`Stop::PipeClosed`] when nobody reads any more.
pub fn print(text: &str) -> Result<(), Stop> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        IoKind::BrokenPipe => Stop::PipeClosed,
        _ => Error::new(ErrorKind::Unavailable, "cannot write to stdout").caused_by(error).into(),
    })
}

/// Writes a JSON value to stdout, for people to read.
///
/// # Errors
/// As [`print`].
pub fn print_json<T: Serialize>(value: &T) -> Result<(), Stop> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::unexpected("cannot write the answer as JSON").caused_by(e))?;
    print(&(text + "\n"))
}

/// Writes a line to stderr. A closed stderr is nobody's loss.
pub fn note(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// A text that comes from elsewhere, made safe for a terminal: control characters and those that turn the direction of
/// writing become `\u{…}`.
pub fn safe(text: &str) -> Cow<'_, str> {
    let unsafe_char = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
    };
    if !text.contains(unsafe_char) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if unsafe_char(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Prints an error to stderr: message, causes, hint; or `{error: …}` where JSON is wanted.
pub fn print_error(error: &Error, global: &Global) {
    if wants_json(global) {
        note(&json!({ "error": ErrorReport::from(error) }).to_string());
        return;
    }
    note(&format!("error: {}", safe(&error.to_string())));
    for cause in error.causes() {
        note(&format!("cause: {}", safe(&cause)));
    }
    if let Some(hint) = error.hint_text() {
        note(&format!("hint: {}", safe(hint)));
    }
}

/// Prints all problems of a configuration to stderr.
pub fn print_problems(problems: &[ConfigProblem], global: &Global) {
    if wants_json(global) {
        let mut report = json!(ErrorReport::from(&as_error(problems)));
        let list: Vec<Json> = problems.iter().map(problem_json).collect();
        report["context"] = json!({ "problems": list });
        note(&json!({ "error": report }).to_string());
        return;
    }
    for problem in problems {
        note(&format!("error: {}", safe(&problem.to_string())));
        if let Some(hint) = &problem.hint {
            note(&format!("hint: {}", safe(hint)));
        }
    }
    if problems.len() > 1 {
        note(&format!("{} problems in the configuration; nothing was done", problems.len()));
    }
}

fn problem_json(problem: &ConfigProblem) -> Json {
    use crate::config::Origin;
    let mut object = json!({ "path": problem.path, "what": problem.what });
    match &problem.origin {
        Origin::File { file, line } => {
            object["file"] = file.to_string_lossy().into();
            object["line"] = (*line).into();
        }
        Origin::Environment(name) => object["variable"] = name.as_ref().into(),
        Origin::Default => {}
    }
    if let Some(hint) = &problem.hint {
        object["hint"] = hint.as_str().into();
    }
    object
}

/// Whether errors are wanted as JSON.
pub fn wants_json(global: &Global) -> bool {
    global.json || global.log_format == LogFormat::Json
}

/// The exit code of several: the first of 130, 1, 3, 5, 6, 4 that occurred; 2 where there is nothing but wrong usage.
pub fn worst(codes: impl IntoIterator<Item = u8>) -> u8 {
    let codes: Vec<u8> = codes.into_iter().collect();
    [130, 1, 3, 5, 6, 4, 2].into_iter().find(|code| codes.contains(code)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_steer_a_terminal() {
        assert_eq!(safe("plain ünïcode"), "plain ünïcode");
        assert_eq!(safe("a\u{1b}[31mb\r\n\u{202e}c\u{9b}"), "a\\u{1b}[31mb\\r\\n\\u{202e}c\\u{9b}");
    }

    #[test]
    fn the_worst_exit_code_wins_by_the_documented_order() {
        assert_eq!(worst([0, 0]), 0);
        assert_eq!(worst([4, 6, 5]), 5);
        assert_eq!(worst([2, 4]), 4);
        assert_eq!(worst([3, 1, 2]), 1);
        assert_eq!(worst([1, 130]), 130);
        assert_eq!(worst([0, 2]), 2);
    }
}
