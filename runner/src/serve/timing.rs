//! When a job is due: cron expressions and words in a time zone, with jitter.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;

use crate::config::{Missed, ScheduleOptions};

/// `realtime` is due this often.
const REALTIME: i64 = 10_000_000;

/// How far back the last due time is looked for, step by step: an hour, a day, a week, a month, a year, all leap years. Seconds.
const LOOK_BACK: [i64; 6] = [3_600, 86_400, 8 * 86_400, 32 * 86_400, 367 * 86_400, 9 * 366 * 86_400];

/// When a job is due. Times are microseconds UTC.
#[derive(Debug, Clone)]
pub struct Timing {
    beat: Beat,
    zone: Tz,
    /// Microseconds.
    jitter: u64,
    missed: Missed,
}

#[derive(Debug, Clone)]
enum Beat {
    Cron(Box<Cron>),
    /// So many microseconds after one another.
    Every(i64),
}

impl Timing {
    /// Reads a schedule.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn new(options: &ScheduleOptions) -> Result<Self, String> {
        let at = options.at.as_deref().unwrap_or_default().trim();
        let cron = match at {
            "realtime" => None,
            "hourly" => Some("0 * * * *"),
            "daily" => Some("0 0 * * *"),
            "weekly" => Some("0 0 * * 1"),
            "monthly" => Some("0 0 1 * *"),
            "" => return Err("`at` is missing: write e.g. `hourly`".to_owned()),
            cron => Some(cron),
        };
        let beat = match cron {
            None => Beat::Every(REALTIME),
            Some(cron) if cron.split_whitespace().count() != 5 => {
                return Err(format!(
                    "{at:?} is no schedule: write hourly, daily, weekly, monthly, realtime, or a cron expression of five fields"
                ));
            }
            Some(cron) => {
                let parsed = Cron::from_str(cron);
                Beat::Cron(Box::new(parsed.map_err(|error| format!("{at:?} is no cron expression: {error}"))?))
            }
        };
        let zone = options.zone.as_deref().unwrap_or("UTC");
        let zone = zone.parse().map_err(|_| format!("{zone:?} is no time zone: write e.g. `Europe/Berlin`"))?;
        let jitter = options.jitter.map_or(0, |jitter| u64::try_from(jitter.0.as_micros()).unwrap_or(u64::MAX));
        let missed = match beat {
            Beat::Cron(_) => options.missed.unwrap_or_default(),
            // What was missed of a poll is in the next one.
            Beat::Every(_) => Missed::Once,
        };
        let timing = Self { beat, zone, jitter, missed };
        if timing.next_after(Utc::now().timestamp_micros()).is_none() {
            return Err(format!("{at:?} is never due"));
        }
        Ok(timing)
    }

    /// What becomes of due times that were missed.
    pub fn missed(&self) -> Missed {
        self.missed
    }

    /// The first due time after this time.
    pub fn next_after(&self, time: i64) -> Option<i64> {
        match &self.beat {
            Beat::Every(every) => Some((time.div_euclid(*every) + 1) * every),
            Beat::Cron(cron) => {
                let found = cron.find_next_occurrence(&self.local(time)?, false).ok()?;
                Some(found.timestamp_micros()).filter(|found| *found > time)
            }
        }
    }

    /// The last due time that is not after this time.
    pub fn last_until(&self, time: i64) -> Option<i64> {
        match &self.beat {
            Beat::Every(every) => Some(time.div_euclid(*every) * every),
            Beat::Cron(_) => {
                // Forwards only: the library's search backwards finds other times where clocks are changed.
                let starts = LOOK_BACK.iter().map(|seconds| time.saturating_sub(seconds * 1_000_000));
                let mut last = starts.filter_map(|start| self.next_after(start)).find(|due| *due <= time)?;
                while let Some(next) = self.next_after(last).filter(|next| *next <= time) {
                    last = next;
                }
                Some(last)
            }
        }
    }

    /// How much later than its due time a job starts: the same for the same job and time, whoever asks.
    pub fn delay(&self, job: &str, due: i64) -> i64 {
        if self.jitter == 0 {
            return 0;
        }
        // FNV-1a, which every version computes alike.
        let hash = job
            .bytes()
            .chain(due.to_le_bytes())
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        i64::try_from(hash % self.jitter).unwrap_or(0)
    }

    /// Whole seconds are what expressions know.
    fn local(&self, time: i64) -> Option<DateTime<Tz>> {
        Some(DateTime::from_timestamp(time.div_euclid(1_000_000), 0)?.with_timezone(&self.zone))
    }
}

#[cfg(test)]
mod tests {
    use ingest_core::config::Span;

    use super::*;

    fn micros(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).expect(text).timestamp_micros()
    }

    fn timing(at: &str, zone: &str) -> Timing {
        let options = ScheduleOptions { at: Some(at.into()), zone: Some(zone.into()), ..ScheduleOptions::default() };
        Timing::new(&options).expect(at)
    }

    /// All due times between two, as text.
    fn between(timing: &Timing, from: &str, to: &str) -> Vec<String> {
        let (mut at, to) = (micros(from), micros(to));
        let mut found = Vec::new();
        while let Some(next) = timing.next_after(at).filter(|next| *next <= to) {
            found.push(DateTime::from_timestamp_micros(next).expect("a time").to_rfc3339());
            at = next;
        }
        found
    }

    #[test]
    fn words_and_expressions_are_due_when_they_say() {
        let first = |at: &str| between(&timing(at, "UTC"), "2024-01-31T10:30:00Z", "2024-02-29T23:59:59Z")[0].clone();
        assert_eq!(first("hourly"), "2024-01-31T11:00:00+00:00");
        assert_eq!(first("daily"), "2024-02-01T00:00:00+00:00");
        assert_eq!(first("weekly"), "2024-02-05T00:00:00+00:00");
        assert_eq!(first("monthly"), "2024-02-01T00:00:00+00:00");
        assert_eq!(first("realtime"), "2024-01-31T10:30:10+00:00");
        assert_eq!(first("*/15 6-8 * * MON-FRI"), "2024-02-01T06:00:00+00:00");
        assert_eq!(first("0 12 29 2 *"), "2024-02-29T12:00:00+00:00");
    }

    #[test]
    fn the_last_due_time_is_the_one_before_the_next() {
        for at in ["hourly", "daily", "*/7 * * * *", "realtime", "30 2 * * SUN"] {
            let timing = timing(at, "America/New_York");
            let mut due = micros("2024-03-08T00:00:00Z");
            for _ in 0..200 {
                let next = timing.next_after(due).expect("a next one");
                assert_eq!(timing.last_until(next), Some(next), "{at}");
                assert_eq!(timing.last_until(next + 1_500_000), Some(next), "{at}");
                assert!(timing.last_until(next - 1).is_none_or(|last| last < next), "{at}");
                due = next;
            }
        }
    }

    #[test]
    fn a_daily_time_comes_once_a_day_also_when_clocks_are_changed() {
        let berlin = timing("30 2 * * *", "Europe/Berlin");
        // 02:30 does not exist on the 31st of March, and comes twice on the 27th of October.
        for (from, to) in
            [("2024-03-29T12:00:00Z", "2024-04-02T12:00:00Z"), ("2024-10-25T12:00:00Z", "2024-10-29T12:00:00Z")]
        {
            let found = between(&berlin, from, to);
            let days: std::collections::BTreeSet<&str> = found.iter().map(|time| &time[..10]).collect();
            assert_eq!((found.len(), days.len()), (4, 4), "{found:?}");
        }
        assert_eq!(
            between(&timing("0 6 * * *", "Europe/Berlin"), "2024-07-01T00:00:00Z", "2024-07-01T12:00:00Z"),
            ["2024-07-01T04:00:00+00:00"]
        );
    }

    #[test]
    fn jitter_is_the_same_for_the_same_due_time() {
        let options = ScheduleOptions {
            at: Some("hourly".into()),
            jitter: Some(Span::seconds(300)),
            ..ScheduleOptions::default()
        };
        let timing = Timing::new(&options).expect("a schedule");
        let delays: Vec<i64> = (0..50).map(|hour| timing.delay("shop", hour * 3_600_000_000)).collect();
        assert!(delays.iter().all(|delay| (0..300_000_000).contains(delay)));
        assert!(delays.iter().collect::<std::collections::BTreeSet<_>>().len() > 40);
        assert_eq!(timing.delay("shop", 0), timing.delay("shop", 0));
        assert_ne!(timing.delay("shop", 0), timing.delay("crm", 0));
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_what_to_write() {
        for (at, zone, wanted) in [
            ("often", "UTC", "five fields"),
            ("* * * * * *", "UTC", "five fields"),
            ("61 * * * *", "UTC", "no cron expression"),
            ("0 0 30 2 *", "UTC", "never due"),
            ("hourly", "Mars/Base", "Europe/Berlin"),
            ("", "UTC", "`at` is missing"),
        ] {
            let options =
                ScheduleOptions { at: Some(at.into()), zone: Some(zone.into()), ..ScheduleOptions::default() };
            let error = Timing::new(&options).expect_err(at);
            assert!(error.contains(wanted), "{at}: {error}");
        }
    }
}
