//! Windows that a source restates: after what is new, their rows are read again and take the place of those in the table.

use super::Rounds;
use crate::run::work::{State, Work};

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

impl Rounds<'_> {
    /// Reads the windows again that the configuration names, all streams together. Each is replaced in one commit.
    pub(super) async fn restate(&self, mut work: Vec<Work>) -> Vec<Work> {
        let now = self.session.clock.now_micros();
        for w in &mut work {
            let Some(back) = w.target.options.restate else { continue };
            if self.is_up_to_date(w) {
                let back = i64::try_from(back.0.as_micros()).unwrap_or(i64::MAX);
                // Reports are of whole days.
                let from = now.saturating_sub(back).div_euclid(DAY).saturating_mul(DAY);
                w.interval = Some((from, now));
                w.state = State::Due;
            }
        }
        let mut work = self.rounds(work).await;
        work.iter_mut().for_each(|w| w.interval = self.options.interval);
        work
    }

    /// Whether everything new is in, of a run that is not asked for a part alone and that ends by itself.
    pub(super) fn is_up_to_date(&self, w: &Work) -> bool {
        let by_hand = self.options.limit.is_some() || self.options.interval.is_some() || self.options.shared.is_some();
        let whole = w.state == State::Done && w.report.error.is_none() && !w.report.partial;
        // What has just been loaded for the first time is as the source is.
        let is_due = whole && !w.first && !by_hand && !self.options.follow && !self.session.cancel.is_cancelled();
        is_due && w.committer().number().is_some() && w.committer().checkpoint().plan.is_none()
    }
}
