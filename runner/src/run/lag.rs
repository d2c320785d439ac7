//! How far a stream is behind its source: what the feed says of its marks, and which of them is in the table.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use ingest_core::{Lag, Seq};

/// Places that are remembered until a commit covers them; at one a second that is a quarter of an hour without a commit.
const MOST: usize = 1_000;

/// What is known of one place of a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The place; none = the feed has no order.
    seq: Option<Seq>,
    /// All that the source committed before this time is covered: microseconds UTC of our clock.
    pub through: i64,
    /// Bytes of the source's log behind it, when it was read.
    pub bytes: Option<u64>,
}

/// The places of a feed that no commit covers yet, and the one before.
#[derive(Debug, Default)]
pub struct Trail(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Where the stream stood when its feed was opened.
    begin: Option<Seq>,
    places: VecDeque<Place>,
}

impl Trail {
    /// Takes what a feed says of the place that it marked last; the stream stood at `begin` when the feed was opened.
    pub fn tell(&self, begin: Option<&Seq>, seq: Option<&Seq>, lag: Lag, now: i64) {
        let age = i64::try_from(lag.age.as_micros()).unwrap_or(i64::MAX);
        let place = Place { seq: seq.cloned(), through: now.saturating_sub(age), bytes: lag.bytes };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.begin = begin.cloned();
        let places = &mut known.places;
        // The same place, later; or a call that was made again from an earlier one.
        while places.back().is_some_and(|last| last.seq >= place.seq) {
            places.pop_back();
        }
        if places.len() >= MOST {
            // The first one stays: nothing after it is known to be in the table.
            places.remove(1);
        }
        places.push_back(place);
    }

    /// What is known of the place up to which everything is in the table.
    pub fn committed(&self, seq: Option<&Seq>) -> Option<Place> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { begin, places } = &mut *known;
        let seq = seq.max(begin.as_ref());
        while places.get(1).is_some_and(|second| second.seq.as_ref() <= seq) {
            places.pop_front();
        }
        places.front().filter(|first| first.seq.as_ref() <= seq).cloned()
    }

    /// What is known of the place that was read last.
    pub fn read(&self) -> Option<Place> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).places.back().cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_table_is_as_old_as_the_place_that_its_last_commit_covers() {
        let trail = Trail::default();
        let seq = |n: u64| Seq::of(&[n]);
        let lag = |seconds| Lag { age: Duration::from_secs(seconds), bytes: Some(seconds) };
        assert_eq!(trail.committed(Some(&seq(9))), None);
        for (place, at) in [(1, 100), (2, 200), (3, 300)] {
            trail.tell(Some(&seq(0)), Some(&seq(place)), lag(10), at * 1_000_000);
        }
        assert_eq!(trail.committed(None), None, "nothing is committed");
        assert_eq!(trail.committed(Some(&seq(2))).map(|place| place.through), Some(190_000_000));
        // The source stands still, and says so again.
        trail.tell(Some(&seq(0)), Some(&seq(3)), lag(0), 400_000_000);
        assert_eq!(trail.committed(Some(&seq(2))).map(|place| place.through), Some(190_000_000));
        let last = Place { seq: Some(seq(3)), through: 400_000_000, bytes: Some(0) };
        assert_eq!((trail.committed(Some(&seq(7))), trail.read()), (Some(last.clone()), Some(last)));
        for place in 4..5_000 {
            trail.tell(Some(&seq(0)), Some(&seq(place)), lag(0), 500_000_000);
        }
        assert_eq!(trail.committed(Some(&seq(3))).map(|place| place.through), Some(400_000_000));
        // Nothing has come since the feed was opened where the table stands.
        let quiet = Trail::default();
        quiet.tell(Some(&seq(5)), Some(&seq(5)), lag(1), 7_000_000);
        assert_eq!(quiet.committed(None).map(|place| place.through), Some(6_000_000));
    }
}
