//! Leases: who works on a stream. A courtesy that keeps two runs from wasting work; the fence is the commit itself.

use std::time::Duration;

use ingest_core::{Clock, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::documents::numbered;
use crate::{Created, Documents, FORMAT};

/// A lease that was not renewed for this long may be taken over.
const EXPIRY: Duration = Duration::from_secs(60);

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Format of the document.
    pub format: u32,
    /// The run.
    pub run: String,
    /// The machine's name, for people.
    pub host: String,
    /// The boot of that machine: a process of another boot is dead.
    pub boot: String,
    /// The process.
    pub pid: u32,
    /// When that process was started, as the kernel counts: a number that was given again is another process.
    pub started: u64,
    /// Microseconds UTC by the holder's clock.
    pub renewed_at: i64,
    /// The holder is done.
    #[serde(default)]
    pub released: bool,
}

/// A held lease. Renew it every 20 s; release it at the end.
#[derive(Debug, Clone)]
pub struct Lease {
    folder: String,
    k: i64,
    holder: Holder,
}

impl Holder {
    /// This process.
    pub fn me(run: &str, clock: &dyn Clock) -> Self {
        let pid = std::process::id();
        Self {
            format: FORMAT,
            run: run.to_owned(),
            host: read_trimmed("/proc/sys/kernel/hostname"),
            boot: read_trimmed("/proc/sys/kernel/random/boot_id"),
            pid,
            started: process_start(pid).unwrap_or(0),
            renewed_at: clock.now_micros(),
            released: false,
        }
    }

    /// Whether somebody else may take over.
    fn is_over(&self, now: i64, me: &Self) -> bool {
        if self.released || now.saturating_sub(self.renewed_at) > i64::try_from(EXPIRY.as_micros()).unwrap_or(i64::MAX)
        {
            return true;
        }
        // Only what runs on this machine, in this boot, can be looked up.
        let here = !self.boot.is_empty() && self.boot == me.boot && self.host == me.host;
        here && process_start(self.pid) != Some(self.started)
    }
}

impl Lease {
    /// Takes the lease of a stream, or says who holds it.
    ///
    /// # Errors
    /// `CheckpointConflict` (exit 6) with the holder.
    pub async fn take(documents: &Documents, source: &str, stream: &str, run: &str, clock: &dyn Clock) -> Result<Self> {
        let folder = format!("_ingest/leases/{source}/{stream}");
        let holder = Holder::me(run, clock);
        for _ in 0..10 {
            let names = documents.list(&folder).await?;
            let newest = names.last().and_then(|name| name.parse::<i64>().ok());
            if let Some(k) = newest
                && let Some(held) = documents.get::<Holder>(&numbered(&folder, k)).await?
                && !held.is_over(clock.now_micros(), &holder)
            {
                return Err(held_error(&held, stream));
            }
            let k = newest.unwrap_or(0) + 1;
            if documents.create(&numbered(&folder, k), &holder).await? == Created::New {
                documents.sweep(&folder, &names).await;
                return Ok(Self { folder, k, holder });
            }
        }
        Err(Error::new(ErrorKind::CheckpointConflict, "cannot take the lease of a stream")
            .with("stream", stream)
            .hint("other runs take it all the time; run again"))
    }

    /// Says that we are alive.
    ///
    /// # Errors
    /// `CheckpointConflict` when somebody has taken over.
    pub async fn renew(&mut self, documents: &Documents, clock: &dyn Clock) -> Result<()> {
        if documents.get::<Holder>(&numbered(&self.folder, self.k + 1)).await?.is_some() {
            return Err(Error::new(
                ErrorKind::CheckpointConflict,
                "another run has taken over the lease of this stream",
            )
            .with("lease", &self.folder)
            .hint("this process stood still for more than a minute; the other run goes on"));
        }
        self.holder.renewed_at = clock.now_micros();
        documents.put(&numbered(&self.folder, self.k), &self.holder).await
    }

    /// Lets go.
    pub async fn release(mut self, documents: &Documents) -> Result<()> {
        self.holder.released = true;
        documents.put(&numbered(&self.folder, self.k), &self.holder).await
    }
}

fn held_error(held: &Holder, stream: &str) -> Error {
    Error::new(ErrorKind::CheckpointConflict, "another run holds the stream")
        .with("stream", stream)
        .with("run", &held.run)
        .with("host", &held.host)
        .with("pid", held.pid)
        .hint("wait for it, or stop it; a lease is free 60 s after its holder has died")
}

fn read_trimmed(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// When a process was started, in clock ticks since the boot; `None` when there is no such process.
///
/// Field 22 of `/proc/<pid>/stat` (proc(5)); the name in field 2 may hold spaces and parentheses.
fn process_start(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use object_store::memory::InMemory;

    use super::*;

    struct Hands(AtomicI64);

    impl Clock for Hands {
        fn now_micros(&self) -> i64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn a_second_run_is_refused_until_the_first_is_silent_for_a_minute() {
        let documents = Documents::new(Arc::new(InMemory::new()));
        let clock = Hands(AtomicI64::new(1_000_000_000));
        let mut first = Lease::take(&documents, "shop", "orders", "run-1", &clock).await.expect("free");
        let refused = Lease::take(&documents, "shop", "orders", "run-2", &clock).await.expect_err("held");
        assert_eq!(refused.kind(), ErrorKind::CheckpointConflict);
        clock.0.fetch_add(61_000_000, Ordering::Relaxed);
        let second = Lease::take(&documents, "shop", "orders", "run-2", &clock).await.expect("expired");
        assert_eq!(
            first.renew(&documents, &clock).await.expect_err("taken over").kind(),
            ErrorKind::CheckpointConflict
        );
        second.release(&documents).await.expect("released");
        Lease::take(&documents, "shop", "orders", "run-3", &clock).await.expect("released");
    }

    #[tokio::test]
    async fn the_lease_of_a_dead_process_of_this_machine_is_taken_at_once() {
        let documents = Documents::new(Arc::new(InMemory::new()));
        let clock = Hands(AtomicI64::new(1_000_000_000));
        let mut dead = Holder::me("run-1", &clock);
        dead.started += 1;
        documents.create("_ingest/leases/shop/orders/00000000000000000007.json", &dead).await.expect("written");
        let lease = Lease::take(&documents, "shop", "orders", "run-2", &clock).await.expect("its holder is dead");
        assert_eq!(lease.k, 8);
    }
}
