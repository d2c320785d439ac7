//! When a request is repeated, and how long to wait before that.

use std::time::Duration;

use chrono::{DateTime, Utc};
use ingest_core::{Error, ErrorKind};
use rand::Rng;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::Retry;

/// The longest time that a `Retry-After` is taken to mean; beyond it nobody waits anyway.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// What the server asked for: seconds or a date (RFC 9110, 10.2.3). A date in the past is zero; anything else, e.g. a
/// negative number, is as if it were absent.
pub(crate) fn retry_after(headers: &HeaderMap, now_micros: i64) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Some(text.parse().map_or(LONGEST, Duration::from_secs).min(LONGEST));
    }
    // Some services send fractions of a second.
    if let Some((whole, fraction)) = text.split_once('.')
        && !fraction.is_empty()
        && fraction.bytes().all(|b| b.is_ascii_digit())
        && let Ok(seconds) = whole.parse::<u64>()
    {
        return Some(Duration::from_secs(seconds.saturating_add(1)).min(LONGEST));
    }
    let date = DateTime::parse_from_rfc2822(text).ok()?.with_timezone(&Utc);
    let now = DateTime::<Utc>::from_timestamp_micros(now_micros)?;
    Some((date - now).to_std().unwrap_or(Duration::ZERO).min(LONGEST))
}

/// What to do after an attempt failed.
#[derive(Debug)]
pub(crate) enum Next {
    /// Wait so long, then try again.
    Wait(Duration, Error),
    /// Give this error to the caller.
    GiveUp(Error),
}

/// Decides after attempt number `attempt` (from 1), `elapsed` after the first one began.
///
/// | the error | what is done |
/// | --- | --- |
/// | not of a retryable kind | given up |
/// | the server asks for more than the budget | given up as `QuotaExhausted` with that delay |
/// | attempts or budget used up, or the pause would not fit into it | given up as `Unavailable` or `Timeout`, exhausted |
/// | else | wait: as the server said, else exponentially with jitter |
pub(crate) fn decide(retry: &Retry, attempt: u32, elapsed: Duration, error: Error) -> Next {
    if !error.is_retryable() {
        return Next::GiveUp(error);
    }
    if let Some(delay) = error.retry_delay().filter(|delay| *delay > retry.budget) {
        return Next::GiveUp(
            error
                .of_kind(ErrorKind::QuotaExhausted)
                .with("retry_after_s", delay.as_secs())
                .hint("what was read is committed; run again when the source allows it"),
        );
    }
    let base = if error.kind() == ErrorKind::RateLimited { retry.throttled_pause } else { retry.pause };
    let pause = match error.retry_delay() {
        // Many clients are told the same moment: a little later is kinder.
        Some(delay) => delay + jittered(retry.pause / 4),
        None => jittered(base.saturating_mul(4_u32.saturating_pow(attempt.saturating_sub(1)))),
    };
    if attempt >= retry.attempts || elapsed + pause >= retry.budget {
        let kind = match error.kind() {
            ErrorKind::Timeout => ErrorKind::Timeout,
            _ => ErrorKind::Unavailable,
        };
        return Next::GiveUp(error.of_kind(kind).with("attempts", attempt).exhausted());
    }
    Next::Wait(pause, error)
}

/// Between half of a pause and all of it.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_763_720_430_000_000; // 2025-11-21T10:20:30Z

    fn header(text: &str) -> HeaderMap {
        [(RETRY_AFTER, text.parse().expect("a header value"))].into_iter().collect()
    }

    #[test]
    fn every_form_of_retry_after_is_understood_or_ignored() {
        for (text, want) in [
            ("0", Some(0)),
            ("7", Some(7)),
            ("31536000", Some(31_536_000)),
            ("99999999999999999999999", Some(LONGEST.as_secs())),
            ("1.5", Some(2)),
            ("Fri, 21 Nov 2025 10:21:00 GMT", Some(30)),
            ("Fri, 21 Nov 2025 10:20:00 GMT", Some(0)),
            ("Thu, 21 Nov 2999 10:20:00 GMT", Some(LONGEST.as_secs())),
            ("-5", None),
            ("", None),
            ("soon", None),
        ] {
            assert_eq!(retry_after(&header(text), NOW).map(|d| d.as_secs()), want, "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), NOW), None);
    }

    fn error(kind: ErrorKind, delay: Option<u64>) -> Error {
        Error::new(kind, "cannot read").retry_after(delay.map(Duration::from_secs))
    }

    #[test]
    fn pauses_grow_and_stay_within_their_bounds() {
        let retry = Retry::default();
        for (attempt, kind, low, high) in [
            (1, ErrorKind::Unavailable, 500, 1_000),
            (2, ErrorKind::Timeout, 2_000, 4_000),
            (1, ErrorKind::RateLimited, 2_000, 4_000),
            (2, ErrorKind::RateLimited, 8_000, 16_000),
        ] {
            for _ in 0..50 {
                let Next::Wait(pause, _) = decide(&retry, attempt, Duration::ZERO, error(kind, None)) else {
                    panic!("{kind} is repeated")
                };
                assert!((low..=high).contains(&pause.as_millis()), "{kind} {attempt}: {pause:?}");
            }
        }
    }

    #[test]
    fn retry_after_is_obeyed_up_to_the_budget_and_ends_the_call_beyond_it() {
        let retry = Retry::default();
        let Next::Wait(pause, _) = decide(&retry, 1, Duration::ZERO, error(ErrorKind::RateLimited, Some(80))) else {
            panic!("80 s fit into the budget")
        };
        assert!(pause >= Duration::from_secs(80) && pause < Duration::from_secs(81));
        let Next::GiveUp(error) = decide(&retry, 1, Duration::ZERO, error(ErrorKind::Unavailable, Some(91))) else {
            panic!("nobody waits 91 s")
        };
        assert_eq!(error.kind(), ErrorKind::QuotaExhausted);
        assert_eq!(error.retry_delay(), Some(Duration::from_secs(91)));
    }

    #[test]
    fn what_is_given_up_is_marked_so() {
        let retry = Retry::default();
        let late = Duration::from_secs(89);
        let cases = [
            (3, Duration::ZERO, error(ErrorKind::RateLimited, None), ErrorKind::Unavailable, true),
            (3, Duration::ZERO, error(ErrorKind::Timeout, None), ErrorKind::Timeout, true),
            (1, late, error(ErrorKind::RateLimited, Some(30)), ErrorKind::Unavailable, true),
            (1, Duration::ZERO, error(ErrorKind::NotFound, None), ErrorKind::NotFound, false),
            (1, Duration::ZERO, error(ErrorKind::Unavailable, None).exhausted(), ErrorKind::Unavailable, true),
        ];
        for (attempt, elapsed, error, kind, exhausted) in cases {
            let Next::GiveUp(error) = decide(&retry, attempt, elapsed, error) else { panic!("given up: {kind}") };
            assert_eq!((error.kind(), error.is_exhausted()), (kind, exhausted));
        }
    }
}
