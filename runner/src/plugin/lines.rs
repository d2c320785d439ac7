//! What a plug-in says to people: lines on stderr and `log` frames. Bounded, cleaned, never a control character.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};

use super::redact::Redactor;

/// A line is cut at so many bytes.
const LONGEST: usize = 8 << 10;
/// So many lines of one process are logged; what follows is dropped.
const MOST: u64 = 10_000;
/// So many lines are kept to be shown when the process dies.
const KEPT: usize = 20;

/// The lines of one process.
pub struct Lines {
    name: Arc<str>,
    redactor: Arc<Redactor>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    count: u64,
    last: VecDeque<String>,
}

impl Lines {
    /// Of a plug-in.
    pub fn new(name: Arc<str>, redactor: Arc<Redactor>) -> Self {
        Self { name, redactor, state: Mutex::default() }
    }

    /// Any text of a plug-in: without secrets and control characters, in one line.
    pub fn clean(&self, text: &str) -> String {
        let cleaned = self.redactor.clean(text);
        cleaned.chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect()
    }

    /// Takes a `log` frame.
    pub fn log(&self, level: &str, text: &str) {
        let Some(text) = self.admit(text) else { return };
        let plugin = &*self.name;
        match level {
            "error" => tracing::error!(plugin, "{text}"),
            "warn" => tracing::warn!(plugin, "{text}"),
            "info" => tracing::info!(plugin, "{text}"),
            _ => tracing::debug!(plugin, "{text}"),
        }
    }

    /// Reads stderr to its end.
    pub async fn read(&self, mut stderr: impl AsyncRead + Unpin) {
        let mut line = Vec::new();
        let mut too_long = false;
        let mut buffer = vec![0; 4 << 10];
        // An error is the end as well: the process is gone.
        while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
            for byte in &buffer[..read] {
                match byte {
                    b'\n' => {
                        self.complain(&line, too_long);
                        line.clear();
                        too_long = false;
                    }
                    _ if line.len() < LONGEST => line.push(*byte),
                    _ => too_long = true,
                }
            }
        }
        if !line.is_empty() {
            self.complain(&line, too_long);
        }
    }

    fn complain(&self, line: &[u8], too_long: bool) {
        let mut text = String::from_utf8_lossy(line).into_owned();
        if too_long {
            // The cut may have gone through a secret, and half of one is not recognised: the last word goes too.
            let end = text.rfind(char::is_whitespace).unwrap_or(0);
            text.truncate(end);
            text.push('…');
        }
        let Some(text) = self.admit(&text) else { return };
        tracing::info!(plugin = &*self.name, "stderr: {text}");
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.len() == KEPT {
            state.last.pop_front();
        }
        state.last.push_back(text);
    }

    /// The text as it may be shown; `None` when enough was said.
    fn admit(&self, text: &str) -> Option<String> {
        let count = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.count += 1;
            state.count
        };
        if count == MOST + 1 {
            tracing::warn!(plugin = &*self.name, "it says too much: its further lines are dropped");
        }
        if count > MOST || text.trim().is_empty() {
            return None;
        }
        let cleaned = self.clean(text);
        let end = cleaned.floor_char_boundary(LONGEST);
        Some(cleaned[..end].to_owned())
    }

    /// The last line of stderr.
    pub fn last(&self) -> Option<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).last.back().cloned()
    }

    /// Shows the last lines of stderr again, where a person sees them: the process died.
    pub fn show_last(&self) {
        let last = self.state.lock().unwrap_or_else(PoisonError::into_inner).last.clone();
        for text in last {
            tracing::warn!(plugin = &*self.name, "stderr: {text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn stderr_is_cut_into_lines_and_cleaned() {
        let redactor = Redactor::of(&json!({"password": "hunter22"}), None);
        let lines = Lines::new("acme".into(), Arc::new(redactor));
        let mut text = b"login hunter22\x1b[31m\n".to_vec();
        text.extend(vec![b'x'; LONGEST - 7]);
        text.extend(b" hunter22 and more\nlast");
        lines.read(text.as_slice()).await;
        let state = lines.state.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(state.last[0], "login *** [31m");
        assert!(!state.last[1].contains("hunt") && state.last[1].ends_with('…'), "{}", &state.last[1][LONGEST - 20..]);
        assert_eq!(state.last[2], "last");
    }
}
