//! Error rules: what the answers of an API mean beyond the plain rules of HTTP.

use std::sync::Arc;
use std::time::Duration;

use ingest_core::{Clock, Error, ErrorKind, Result, SystemClock};
use ingest_http::{Dialect, Refusal, Reply};
use regex::bytes::{Regex, RegexBuilder};

use crate::manifest::{Class, ErrorRule, Wait, WaitFormat};
use crate::streams::Problems;

/// A compiled pattern may take so many bytes.
const PATTERN_BYTES: usize = 1 << 20;

/// The rules of a manifest, in their order.
pub(crate) struct Rules {
    rules: Vec<Rule>,
    clock: Arc<dyn Clock>,
}

struct Rule {
    status: Vec<u16>,
    body: Option<Regex>,
    headers: Vec<(String, Regex)>,
    kind: ErrorKind,
    hint: Option<String>,
    wait: Option<Wait>,
}

impl Rules {
    pub fn read(rules: &[ErrorRule], problems: &mut Problems) -> Self {
        let rules = rules.iter().enumerate().map(|(i, rule)| read(rule, &format!("errors.{i}"), problems)).collect();
        Self { rules, clock: Arc::new(SystemClock) }
    }

    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    fn find<'a>(&self, status: u16, body: &[u8], header: impl Fn(&str) -> Option<&'a str>) -> Option<&Rule> {
        let success = (200..300).contains(&status);
        self.rules.iter().find(|rule| {
            let named = if rule.status.is_empty() { !success } else { rule.status.contains(&status) };
            named
                && rule.body.as_ref().is_none_or(|pattern| pattern.is_match(body))
                && rule
                    .headers
                    .iter()
                    .all(|(name, pattern)| header(name).is_some_and(|v| pattern.is_match(v.as_bytes())))
        })
    }

    fn error<'a>(&self, rule: &Rule, header: impl Fn(&str) -> Option<&'a str>) -> Error {
        let (message, hint) = told(rule.kind);
        let error = Error::new(rule.kind, message).hint(rule.hint.clone().unwrap_or_else(|| hint.to_owned()));
        let wait = rule.wait.as_ref().and_then(|wait| {
            let number: i64 = header(&wait.header)?.trim().parse().ok()?;
            let millis = match wait.format {
                WaitFormat::Seconds => number.checked_mul(1_000)?,
                WaitFormat::Milliseconds => number,
                // The second itself may not be over yet where our clock is ahead.
                WaitFormat::UnixS => number.checked_mul(1_000)? - self.clock.now_micros().div_euclid(1_000) + 1_000,
            };
            Some(Duration::from_millis(u64::try_from(millis).unwrap_or(0)))
        });
        if wait.is_some() { error.retry_after(wait) } else { error }
    }
}

/// What an error of a rule says, where the manifest has no hint of its own.
fn told(kind: ErrorKind) -> (&'static str, &'static str) {
    match kind {
        ErrorKind::Unauthenticated => ("the source refused the credentials", "check `secrets` of the source"),
        ErrorKind::PermissionDenied => ("the source refused access", "grant the missing right or scope"),
        ErrorKind::NotFound => ("the source does not know what was asked for", "check `values` and the stream's path"),
        ErrorKind::RateLimited => ("the source asks to slow down", "lower `rate`, or run fewer at once"),
        ErrorKind::QuotaExhausted => {
            ("a quota of the source is used up", "what was read is committed; run again later")
        }
        ErrorKind::Unavailable => ("the source answered with a fault of its own", "run again later"),
        ErrorKind::SliceExpired => ("the source has given up the list that was read", "it is read again"),
        _ => ("the source refused the request", "compare the manifest with the documentation of the API"),
    }
}

fn read(rule: &ErrorRule, path: &str, problems: &mut Problems) -> Rule {
    let mut wrong = |key: &str, what: String| problems.push((format!("{path}.{key}"), what));
    if rule.status.iter().any(|status| (200..300).contains(status)) && rule.body.is_none() {
        wrong("body", "a rule for a success needs a pattern of the body".into());
    }
    if rule.status.iter().any(|status| !(100..600).contains(status)) {
        wrong("status", "a status is a number from 100 to 599".into());
    }
    let mut pattern = |key: &str, text: &str| match RegexBuilder::new(text).size_limit(PATTERN_BYTES).build() {
        Ok(pattern) => Some(pattern),
        Err(_) => {
            wrong(key, "is not a regular expression".into());
            None
        }
    };
    let body = rule.body.as_ref().and_then(|text| pattern("body", text));
    let headers = rule
        .header
        .iter()
        .filter_map(|(name, text)| Some((name.clone(), pattern(&format!("header.{name}"), text)?)))
        .collect();
    let kind = match rule.class {
        Some(Class::Unauthenticated) => ErrorKind::Unauthenticated,
        Some(Class::PermissionDenied) => ErrorKind::PermissionDenied,
        Some(Class::NotFound) => ErrorKind::NotFound,
        Some(Class::RateLimited) => ErrorKind::RateLimited,
        Some(Class::QuotaExhausted) => ErrorKind::QuotaExhausted,
        Some(Class::Unavailable) => ErrorKind::Unavailable,
        Some(Class::Expired) => ErrorKind::SliceExpired,
        Some(Class::DataInvalid) => ErrorKind::DataInvalid,
        None => {
            wrong("class", "is missing".into());
            ErrorKind::DataInvalid
        }
    };
    Rule { status: rule.status.clone(), body, headers, kind, hint: rule.hint.clone(), wait: rule.wait.clone() }
}

impl Dialect for Rules {
    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Error> {
        let header = |name: &str| refusal.header(name);
        let rule = self.find(refusal.status.as_u16(), refusal.body, header)?;
        Some(self.error(rule, header))
    }

    fn inspect(&self, reply: &Reply) -> Result<()> {
        // A body that was cut on its way is worth another try; one that is no JSON at all is told by the decoder.
        let body = reply.body().trim_ascii();
        let cut = |open: &[u8], close: &[u8]| body.starts_with(open) && !body.ends_with(close);
        if cut(b"{", b"}") || cut(b"[", b"]") {
            return Err(Error::new(ErrorKind::Unavailable, "an answer ends in the middle of its JSON"));
        }
        if self.rules.iter().all(|rule| rule.status.iter().all(|status| !(200..300).contains(status))) {
            return Ok(());
        }
        let header = |name: &str| reply.header(name);
        match self.find(reply.status().as_u16(), reply.body(), header) {
            Some(rule) => Err(self.error(rule, header).with("inside", "an answer of success")),
            None => Ok(()),
        }
    }
}
