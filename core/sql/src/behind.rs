//! How far a reader of a database's log is behind the database.

use std::time::{Duration, Instant};

/// A log is asked again where it ends after this time.
const PACE: Duration = Duration::from_secs(1);

/// What is known of where a log ends, in places `P` of it, and of the times at which what was read was committed.
#[derive(Debug)]
pub struct Behind<P> {
    /// Where the log ended at that moment.
    head: P,
    measured: Instant,
    /// All that was committed before this moment is read.
    through: Option<Instant>,
    /// The last commit that was read: microseconds of the server's clock.
    committed: Option<i64>,
    /// Our clock less the server's.
    skew: i64,
}

impl<P: PartialOrd> Behind<P> {
    /// A reader that knows where the log ends now.
    pub fn new(head: P) -> Self {
        Self { head, measured: Instant::now(), through: None, committed: None, skew: 0 }
    }

    /// Whether it is time to ask the server again.
    pub fn is_due(&self) -> bool {
        self.measured.elapsed() >= PACE
    }

    /// Takes where the log ended at a moment, and what the server's clock said soon after: microseconds since 1970.
    pub fn measure(&mut self, head: P, at: Instant, server: i64) {
        (self.head, self.measured, self.skew) = (head, at, now() - server);
    }

    /// Where the log ended when the server was asked last.
    pub fn head(&self) -> &P {
        &self.head
    }

    /// A commit of this time was read: microseconds since 1970 by the server's clock.
    pub fn committed(&mut self, at: i64) {
        self.committed = Some(at);
    }

    /// How long ago the database was where the reader is; `None` while nothing tells.
    pub fn age(&mut self, at: &P) -> Option<Duration> {
        if *at >= self.head {
            self.through = Some(self.measured);
        }
        let by_head = self.through.map(|through| through.elapsed());
        let since = |at: i64| u64::try_from(now() - self.skew - at).unwrap_or(0);
        let by_commit = self.committed.map(|at| Duration::from_micros(since(at)));
        by_head.into_iter().chain(by_commit).min()
    }
}

fn now() -> i64 {
    chrono::Utc::now().timestamp_micros()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_is_that_of_the_last_commit_or_of_the_end_that_was_reached() {
        let mut behind = Behind::new(100_u64);
        assert_eq!(behind.age(&50), None, "nothing is known of what lies between");
        behind.committed(now() - 3_600_000_000);
        assert!(behind.age(&60).is_some_and(|age| age >= Duration::from_secs(3_600)));
        assert!(behind.age(&100).is_some_and(|age| age < Duration::from_secs(600)), "the end was reached");
        // A server whose clock is an hour ahead.
        let mut behind = Behind::new(100_u64);
        behind.measure(200, Instant::now(), now() + 3_600_000_000);
        behind.committed(now() + 3_600_000_000);
        assert!(behind.age(&150).is_some_and(|age| age < Duration::from_secs(600)));
        assert_eq!(*behind.head(), 200);
    }
}
