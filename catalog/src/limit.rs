//! Rates that several processes share, as leases in the lake.
//!
//! Time is cut into windows by the clock, and what a rate allows in a window into a few grants. Whoever creates the document of a
//! grant first has it; it is over with its window. So a rate holds over any number of processes, none of them asks another,
//! and one that dies takes at most one grant with it. Around the border of two windows a burst may be as large as a window's
//! worth; clocks that differ move the windows against each other by as much.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ingest_core::{Clock, Grant, Grants, Rate, Result, async_trait, table_name};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{Created, Documents, FORMAT};

/// Into so many grants a window is cut, where the rate allows.
const PARTS: u32 = 8;

/// The longest window, unless the rate asks for a longer one: seconds.
const LONGEST: f64 = 60.0;

/// Windows that are kept behind the current one.
const KEPT: i64 = 2;

/// Deals out rates by documents in the lake.
pub struct Limits {
    documents: Documents,
    clock: Arc<dyn Clock>,
    run: String,
}

/// Who has a grant; for people.
#[derive(Debug, Serialize, Deserialize)]
struct GrantDocument {
    format: u32,
    run: String,
    times: u32,
}

/// How a rate is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    /// Length of a window: microseconds.
    window: i64,
    /// Grants in a window.
    grants: u32,
    /// So often each.
    times: u32,
}

impl Cut {
    fn of(rate: Rate) -> Self {
        let per_second = if rate.per_second.is_finite() { rate.per_second.max(1e-6) } else { 1e9 };
        let seconds = (f64::from(PARTS) / per_second).clamp(1.0, LONGEST).max(1.0 / per_second);
        // Casts saturate; a hair is added against 0.99999.
        let budget = ((per_second * seconds + 1e-6) as u32).max(1);
        let times = budget.div_ceil(PARTS);
        Self { window: (seconds * 1e6) as i64, grants: budget / times, times }
    }
}

impl Limits {
    /// For one process; `run` is its name in the documents.
    pub fn new(documents: Documents, clock: Arc<dyn Clock>, run: &str) -> Self {
        Self { documents, clock, run: run.to_owned() }
    }

    /// A grant of this window that nobody has yet.
    async fn take(&self, folder: &str, window: i64, cut: Cut, first: u32) -> Result<bool> {
        let grant = GrantDocument { format: FORMAT, run: self.run.clone(), times: cut.times };
        let name = |n: u32| format!("{folder}/{window:020}/{n:04}");
        // Most often the place where we look first is free; a list costs more than a try.
        if self.documents.create(&format!("{}.json", name(first)), &grant).await? == Created::New {
            return Ok(true);
        }
        let taken: HashSet<String> =
            self.documents.list(&format!("{folder}/{window:020}")).await?.into_iter().collect();
        for n in (1..cut.grants).map(|step| (first + step) % cut.grants) {
            if !taken.contains(&format!("{n:04}"))
                && self.documents.create(&format!("{}.json", name(n)), &grant).await? == Created::New
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes windows that are over. What stays is harmless.
    async fn sweep(&self, folder: &str, window: i64) {
        let old = format!("{folder}/{:020}", window - KEPT);
        match self.documents.objects(folder).await {
            Ok(objects) => {
                for (path, _) in objects.into_iter().filter(|(path, _)| *path < old) {
                    if let Err(error) = self.documents.delete(&path).await {
                        tracing::debug!(%error, "an old grant stays");
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "old grants stay"),
        }
    }
}

#[async_trait]
impl Grants for Limits {
    async fn grant(&self, bucket: &str, rate: Rate) -> Result<Grant> {
        let cut = Cut::of(rate);
        let folder = format!("_ingest/limits/{}", table_name(bucket));
        let mut turn = self.run.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
        loop {
            let now = self.clock.now_micros();
            let window = now.div_euclid(cut.window);
            let left = u64::try_from((window + 1) * cut.window - now).unwrap_or(0);
            let until = Instant::now() + Duration::from_micros(left);
            let first = turn % cut.grants;
            if self.take(&folder, window, cut, first).await? {
                // One in each window, as a rule.
                if first == 0 {
                    self.sweep(&folder, window).await;
                }
                return Ok(Grant { times: cut.times, until });
            }
            turn = turn.wrapping_add(1);
            tokio::time::sleep_until(until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use ingest_core::{CancellationToken, Limiter};
    use object_store::memory::InMemory;

    use super::*;

    struct Ticking(Instant);

    impl Clock for Ticking {
        fn now_micros(&self) -> i64 {
            i64::try_from(self.0.elapsed().as_micros()).expect("less than ages")
        }
    }

    #[test]
    fn what_is_dealt_out_is_never_more_than_the_rate() {
        for per_second in [0.001, 0.2, 1.0, 3.3, 10.0, 25.0, 100.0, 999.0] {
            let cut = Cut::of(Rate { per_second, burst: 1.0 });
            let dealt = f64::from(cut.grants * cut.times) / (cut.window as f64 / 1e6);
            assert!(dealt <= per_second * 1.001 && dealt >= per_second * 0.75, "{per_second}: {cut:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_rate_holds_over_many_processes() {
        let documents = Documents::new(Arc::new(InMemory::new()));
        let start = Instant::now();
        let done: Arc<Mutex<Vec<u64>>> = Arc::default();
        let rate = Rate { per_second: 20.0, burst: 5.0 };
        let mut processes = Vec::new();
        for process in 0..12 {
            let limiter = Limiter::default();
            let clock = Arc::new(Ticking(start));
            limiter.share(Arc::new(Limits::new(documents.clone(), clock, &format!("run-{process}"))));
            for _ in 0..3 {
                let (limiter, done) = (limiter.clone(), Arc::clone(&done));
                processes.push(tokio::spawn(async move {
                    let cancel = CancellationToken::new();
                    loop {
                        limiter.acquire("stripe/acct_1", rate, &cancel).await.expect("granted");
                        done.lock()
                            .expect("no panic")
                            .push(u64::try_from(start.elapsed().as_millis()).expect("less than ages"));
                    }
                }));
            }
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        processes.iter().for_each(|process| process.abort());
        let done = done.lock().expect("no panic").clone();
        for second in 0..60 {
            let in_it = done.iter().filter(|at| **at / 1_000 == second).count();
            assert!(in_it <= 20, "{in_it} in second {second}");
        }
        assert!(done.len() >= 800, "{} of 1200", done.len());
        let left = documents.objects("_ingest/limits").await.expect("listed").len();
        assert!(left < 100, "{left} documents are left");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_grant_ends_with_the_run() {
        let documents = Documents::new(Arc::new(InMemory::new()));
        let limiter = Limiter::default();
        limiter.share(Arc::new(Limits::new(documents, Arc::new(Ticking(Instant::now())), "run")));
        let (rate, cancel) = (Rate { per_second: 0.001, burst: 9.0 }, CancellationToken::new());
        limiter.acquire("slow", rate, &cancel).await.expect("the first one");
        let waiting = limiter.acquire("slow", rate, &cancel);
        tokio::pin!(waiting);
        tokio::select! {
            _ = &mut waiting => panic!("the second comes with the next window"),
            () = tokio::time::sleep(Duration::from_secs(5)) => cancel.cancel(),
        }
        assert!(waiting.await.is_err());
    }
}
