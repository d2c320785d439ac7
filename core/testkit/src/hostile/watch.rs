//! Where a secret may show up.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use ingest_core::Error;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// The texts by which a secret can be recognised: as it is, percent-encoded, in hex, and inside any base64 text.
pub fn forms(secret: &str) -> Vec<String> {
    let encoded: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let hex = secret.bytes().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to memory");
        hex
    });
    let mut forms = vec![secret.to_owned(), encoded, hex];
    for lead in 0..3 {
        // Inside a longer text a secret starts at one of three places of a base64 group; the groups at its edges
        // depend on its neighbours.
        let mut bytes = vec![b'x'; lead];
        bytes.extend_from_slice(secret.as_bytes());
        for text in [BASE64_STANDARD.encode(&bytes), BASE64_URL_SAFE.encode(&bytes)] {
            let inner = text.trim_end_matches('=');
            let start = if lead == 0 { 0 } else { 4 };
            let end = inner.len().saturating_sub(2).max(start);
            forms.push(inner[start..end].to_owned());
        }
    }
    forms.retain(|form| form.len() >= 6);
    forms.dedup();
    forms
}

/// All that an error says, in every way in which it can be printed.
pub fn report_of(error: &Error) -> String {
    let mut report = format!("{error} {error:?} {error:#?} {:?} {:?}", error.hint_text(), error.context());
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        write!(report, " {cause} {cause:?}").expect("writing to memory");
        next = cause.source();
    }
    report
}

/// Everything that is logged on this thread, whatever its level.
#[derive(Debug, Clone, Default)]
pub struct Logs(Arc<Mutex<String>>);

impl Logs {
    /// Listens on this thread until the guard is dropped.
    pub fn listen(&self) -> tracing::subscriber::DefaultGuard {
        tracing::subscriber::set_default(self.clone())
    }

    /// What was logged so far.
    pub fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        writeln!(self.0, "{field}={value:?}").expect("writing to memory");
    }
}

impl Subscriber for Logs {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        span.record(&mut Fields(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        values.record(&mut Fields(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Fields(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_recognised_wherever_it_stands_in_base64() {
        let secret = "canary/7f3a+b";
        for before in ["", "u", "us", "user:", "abcd:"] {
            for after in ["", ":", ":x", ":xyz"] {
                let text = BASE64_STANDARD.encode(format!("{before}{secret}{after}"));
                assert!(forms(secret).iter().any(|form| text.contains(form)), "{before} {after}");
            }
        }
        assert!(forms(secret).contains(&"canary%2F7f3a%2Bb".to_owned()));
    }

    #[test]
    fn logs_of_every_level_are_seen() {
        let logs = Logs::default();
        let guard = logs.listen();
        tracing::trace!(key = "canary", "told");
        drop(guard);
        tracing::error!("not seen");
        assert!(logs.text().contains("canary") && logs.text().contains("told") && !logs.text().contains("not seen"));
    }
}
