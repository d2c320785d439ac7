//! Bounds of windows: times as microseconds since 1970, and how an API wants them written.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, SecondsFormat};
use ingest_core::{Error, ErrorKind, Result};

use crate::manifest::BoundFormat;

pub(crate) const SECOND: i64 = 1_000_000;
pub(crate) const DAY: i64 = 86_400 * SECOND;

impl BoundFormat {
    /// The step of bounds: what lies between two of them cannot be asked for.
    pub(crate) fn unit(self) -> i64 {
        match self {
            Self::Date => DAY,
            Self::Rfc3339 | Self::UnixS | Self::UnixMs => SECOND,
        }
    }

    /// A bound as it is sent.
    ///
    /// # Errors
    /// `DataInvalid` for a time that no calendar has.
    pub(crate) fn write(self, micros: i64) -> Result<String> {
        let none = || Error::new(ErrorKind::DataInvalid, "a bound of a window is out of range").with("micros", micros);
        Ok(match self {
            Self::UnixS => micros.div_euclid(SECOND).to_string(),
            Self::UnixMs => micros.div_euclid(1_000).to_string(),
            Self::Rfc3339 => {
                DateTime::from_timestamp_micros(micros).ok_or_else(none)?.to_rfc3339_opts(SecondsFormat::Secs, true)
            }
            Self::Date => DateTime::from_timestamp_micros(micros).ok_or_else(none)?.format("%Y-%m-%d").to_string(),
        })
    }
}

/// A date or a time as people write it.
pub(crate) fn parse_start(text: &str) -> Option<i64> {
    let date = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.timestamp_micros())
        .ok()
        .or_else(|| date().map(|time| time.and_utc().timestamp_micros()))
}

/// The upper bound of what can be read at `now`: so far behind it, and a whole step.
pub(crate) fn head(now: i64, lag: Duration, format: BoundFormat) -> i64 {
    let lag = i64::try_from(lag.as_micros()).unwrap_or(i64::MAX);
    let unit = format.unit();
    now.saturating_sub(lag).div_euclid(unit).saturating_mul(unit)
}

/// The most windows of one plan; the next plan goes on.
pub(crate) const MOST_WINDOWS: usize = 1_000;

/// Cuts a time into windows, and says whether there is more.
pub(crate) fn windows(
    from: Option<i64>,
    to: i64,
    length: Option<Duration>,
    format: BoundFormat,
) -> (Vec<(Option<i64>, i64)>, bool) {
    let (Some(start), Some(length)) = (from, length) else { return (vec![(from, to)], false) };
    let unit = format.unit();
    let length = i64::try_from(length.as_micros()).unwrap_or(i64::MAX).div_euclid(unit).max(1).saturating_mul(unit);
    let (mut windows, mut low) = (Vec::new(), start);
    while low < to && windows.len() < MOST_WINDOWS {
        // All ends but the last lie on whole steps, wherever the first begins.
        let high = low.saturating_add(length).div_euclid(unit).saturating_mul(unit).min(to);
        windows.push((Some(low), high));
        low = high;
    }
    (windows, low < to)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_790_000_000 * SECOND; // 2026-09-21T14:13:20Z

    #[test]
    fn bounds_are_written_as_the_api_wants_them() {
        assert_eq!(BoundFormat::Rfc3339.write(NOON).expect("a time"), "2026-09-21T14:13:20Z");
        assert_eq!(BoundFormat::Date.write(NOON).expect("a date"), "2026-09-21");
        assert_eq!(BoundFormat::UnixS.write(NOON).expect("seconds"), "1790000000");
        assert_eq!(BoundFormat::UnixMs.write(NOON).expect("milliseconds"), "1790000000000");
        assert!(BoundFormat::Date.write(i64::MAX).is_err());
    }

    #[test]
    fn the_head_is_a_whole_step_behind_the_lag() {
        let lag = Duration::from_secs(60);
        assert_eq!(head(NOON + 1, lag, BoundFormat::Rfc3339), NOON - 60 * SECOND);
        assert_eq!(head(NOON, lag, BoundFormat::Date).rem_euclid(DAY), 0);
    }

    #[test]
    fn windows_join_without_gap_and_end_at_the_head() {
        let (windows, more) = windows(Some(7), 10 * SECOND, Some(Duration::from_secs(4)), BoundFormat::UnixS);
        assert_eq!(windows, [(Some(7), 4 * SECOND), (Some(4 * SECOND), 8 * SECOND), (Some(8 * SECOND), 10 * SECOND)]);
        assert!(!more);
        let (many, more) = super::windows(Some(0), i64::MAX, Some(Duration::from_secs(1)), BoundFormat::UnixS);
        assert!(many.len() == MOST_WINDOWS && more);
        assert_eq!(super::windows(None, 5, Some(Duration::from_secs(1)), BoundFormat::UnixS).0, [(None, 5)]);
    }
}
