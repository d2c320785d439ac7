//! What a connector gets from the runner when it is opened.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{Error, Result};

/// What a connector gets from the runner when it is opened.
#[derive(Clone)]
pub struct Context {
    /// The name of the source in the configuration.
    pub source: String,
    /// The run.
    pub run_id: String,
    /// The clock: tests set it.
    pub clock: Arc<dyn Clock>,
    /// Fires when the run ends. `extract` is dropped then anyway; blocking threads must look at it.
    pub cancel: CancellationToken,
    /// Shared rate limits: one bucket per account and endpoint in the whole process.
    pub limiter: Limiter,
    /// Counts the requests of an API; the HTTP client does it for connectors that use it.
    pub requests: Requests,
    /// A folder for temporary files, mode 0700, removed when the process ends.
    pub temp_dir: PathBuf,
}

impl Context {
    /// A context for tests and for tools that open one source: system clock, no limits yet, the system's temporary
    /// folder.
    pub fn standalone(source: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            run_id: "standalone".into(),
            clock: Arc::new(SystemClock),
            cancel: CancellationToken::new(),
            limiter: Limiter::default(),
            requests: Requests::default(),
            temp_dir: std::env::temp_dir(),
        }
    }
}

/// How many requests of an API a source has sent, repeats among them: what the estimate of a plan is compared with.
#[derive(Debug, Clone, Default)]
pub struct Requests(Arc<AtomicU64>);

impl Requests {
    /// One more is sent.
    pub fn sent(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So many were sent.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A clock.
pub trait Clock: Send + Sync {
    /// Microseconds since 1970-01-01 UTC.
    fn now_micros(&self) -> i64;
}

/// The clock of the operating system.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_micros(&self) -> i64 {
        chrono::Utc::now().timestamp_micros()
    }
}

/// Token buckets by name, shared by all slices of a process: `stripe/acct_1/charges`. With [`Limiter::share`] their rates also
/// hold over all processes that share them.
#[derive(Clone, Default)]
pub struct Limiter {
    buckets: Arc<Mutex<HashMap<String, Bucket>>>,
    grants: Arc<OnceLock<Arc<dyn Grants>>>,
    held: Arc<Mutex<HashMap<String, Held>>>,
}

/// What a process still has of a bucket that it shares; whoever asks for more holds the lock.
type Held = Arc<tokio::sync::Mutex<Option<Grant>>>;

/// Deals out the rate of a bucket to the processes that share it.
#[async_trait]
pub trait Grants: Send + Sync {
    /// Waits until this process may do something again, and says how often. Called again when that is used up or over, by one
    /// task at a time for each bucket.
    async fn grant(&self, bucket: &str, rate: Rate) -> Result<Grant>;
}

/// What a process may do of a rate that it shares.
#[derive(Debug, Clone, Copy)]
pub struct Grant {
    /// So often.
    pub times: u32,
    /// Until then.
    pub until: Instant,
}

/// How often something may be done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Sustained rate per second.
    pub per_second: f64,
    /// How many may be done at once after a pause.
    pub burst: f64,
}

struct Bucket {
    tokens: f64,
    filled: Instant,
    blocked_until: Option<Instant>,
}

impl Limiter {
    /// Takes one token of a bucket, waiting until there is one.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) when `cancel` fires first.
    pub async fn acquire(&self, name: &str, rate: Rate, cancel: &CancellationToken) -> Result<()> {
        let wait = self.reserve(name, rate);
        if wait.is_zero() && self.grants.get().is_none() {
            return Ok(());
        }
        let turn = async {
            tokio::time::sleep(wait).await;
            match self.grants.get() {
                Some(grants) => self.granted(grants.as_ref(), name, rate).await,
                None => Ok(()),
            }
        };
        tokio::select! {
            turn = turn => turn,
            () = cancel.cancelled() => Err(Error::cancelled()),
        }
    }

    /// From here on, rates are shared with other processes. The first one to be named stays.
    pub fn share(&self, grants: Arc<dyn Grants>) {
        drop(self.grants.set(grants));
    }

    /// Takes one of what is granted to this process, asking for more where it is used up.
    async fn granted(&self, grants: &dyn Grants, name: &str, rate: Rate) -> Result<()> {
        let held = {
            let mut held = self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            Arc::clone(held.entry(name.to_owned()).or_default())
        };
        let mut held = held.lock().await;
        loop {
            if let Some(grant) = held.as_mut().filter(|grant| grant.times > 0 && grant.until > Instant::now()) {
                grant.times -= 1;
                return Ok(());
            }
            *held = Some(grants.grant(name, rate).await?);
        }
    }

    /// Lets nobody take a token of a bucket before `delay` has passed: the server said so.
    pub fn block(&self, name: &str, delay: Duration) {
        let until = Instant::now() + delay;
        let mut buckets = self.lock();
        let bucket = buckets.entry(name.to_owned()).or_insert_with(|| Bucket {
            tokens: 0.0,
            filled: Instant::now(),
            blocked_until: None,
        });
        bucket.blocked_until = Some(bucket.blocked_until.map_or(until, |earlier| earlier.max(until)));
    }

    /// How long a bucket still lets nobody through because the server said so; zero when it does not.
    pub fn blocked(&self, name: &str) -> Duration {
        let until = self.lock().get(name).and_then(|bucket| bucket.blocked_until);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Takes a token, possibly one that does not exist yet, and says how long to wait for it.
    fn reserve(&self, name: &str, rate: Rate) -> Duration {
        let now = Instant::now();
        let mut buckets = self.lock();
        let bucket = buckets.entry(name.to_owned()).or_insert_with(|| Bucket {
            tokens: rate.burst,
            filled: now,
            blocked_until: None,
        });
        let elapsed = now.saturating_duration_since(bucket.filled).as_secs_f64();
        bucket.tokens = (bucket.tokens + elapsed * rate.per_second).min(rate.burst) - 1.0;
        bucket.filled = now;
        let missing = if bucket.tokens < 0.0 { -bucket.tokens / rate.per_second } else { 0.0 };
        let blocked = bucket.blocked_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        blocked.max(Duration::from_secs_f64(missing))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Bucket>> {
        self.buckets.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_limiter_shares_one_bucket_among_clones() {
        let limiter = Limiter::default();
        let other = limiter.clone();
        let rate = Rate { per_second: 10.0, burst: 2.0 };
        let cancel = CancellationToken::new();
        let start = Instant::now();
        for i in 0..12 {
            let one = if i % 2 == 0 { &limiter } else { &other };
            one.acquire("account", rate, &cancel).await.expect("not cancelled");
        }
        assert_eq!(start.elapsed().as_millis(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_blocked_bucket_waits_as_the_server_said() {
        let limiter = Limiter::default();
        let rate = Rate { per_second: 100.0, burst: 100.0 };
        limiter.block("account", Duration::from_secs(7));
        assert_eq!(limiter.blocked("account").as_secs(), 7);
        let start = Instant::now();
        limiter.acquire("account", rate, &CancellationToken::new()).await.expect("not cancelled");
        assert_eq!(start.elapsed().as_secs(), 7);
        assert_eq!((limiter.blocked("account"), limiter.blocked("another")), (Duration::ZERO, Duration::ZERO));
    }
}
