//! What watches over a run: leases, progress, and the watchdog.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ingest_catalog::{Documents, Lease};
use ingest_core::{CancellationToken, Clock, Error, ErrorKind};

use super::stream::StreamShared;
use crate::events::{Event, Observer};

/// Leases are renewed this often; they expire after 60 s.
const RENEWAL: Duration = Duration::from_secs(20);

/// How long a stream that has nothing new says nothing.
const QUIET: Duration = Duration::from_secs(10);

/// Renews leases until it is cancelled. A lease that somebody took over ends the run.
pub async fn renew_leases(
    leases: Arc<tokio::sync::Mutex<Vec<Lease>>>,
    documents: Documents,
    clock: Arc<dyn Clock>,
    cancel: CancellationToken,
    lost: Arc<Mutex<Option<Error>>>,
) {
    loop {
        tokio::time::sleep(RENEWAL).await;
        for lease in leases.lock().await.iter_mut() {
            match lease.renew(&documents, clock.as_ref()).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::CheckpointConflict => {
                    lost.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    cancel.cancel();
                    return;
                }
                // The store is away for a moment; the fence is the commit, not the lease.
                Err(error) => tracing::warn!(%error, "a lease could not be renewed"),
            }
        }
    }
}

/// Tells once a second how far streams are, and ends the run when nothing has moved for too long.
pub async fn watch(
    streams: Vec<Arc<StreamShared>>,
    slices: Vec<usize>,
    observer: Arc<dyn Observer>,
    activity: Arc<AtomicU64>,
    clock: Arc<dyn Clock>,
    stall: Duration,
    stop: impl Fn(Error),
) {
    let mut told = vec![(u64::MAX, None::<Instant>); streams.len()];
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick.tick().await;
    let mut merged = 0;
    loop {
        tick.tick().await;
        // A large merge takes its time, and moves.
        let merging = streams.iter().map(|stream| stream.counters.merging.load(Ordering::Relaxed)).sum();
        if std::mem::replace(&mut merged, merging) != merging {
            activity.store(clock.now_micros().unsigned_abs(), Ordering::Relaxed);
        }
        for (i, stream) in streams.iter().enumerate() {
            let rows_read = stream.counters.rows_read.load(Ordering::Relaxed);
            let lag = stream.lag();
            // A quiet stream says now and then how far behind it is.
            let quiet = lag.is_some() && told[i].1.is_none_or(|at| at.elapsed() >= QUIET);
            if (rows_read != told[i].0 && rows_read > 0) || quiet {
                told[i] = (rows_read, Some(Instant::now()));
                observer.event(&Event::Progress {
                    stream: stream.name.to_string(),
                    rows_read,
                    bytes_read: stream.counters.bytes_read.load(Ordering::Relaxed),
                    slices_done: usize::try_from(stream.counters.slices_done.load(Ordering::Relaxed))
                        .unwrap_or(usize::MAX),
                    slices: slices[i],
                    lag,
                });
            }
        }
        let idle = clock.now_micros().unsigned_abs().saturating_sub(activity.load(Ordering::Relaxed)) / 1_000_000;
        if idle >= stall.as_secs() {
            stop(
                Error::new(ErrorKind::Timeout, "nothing has moved for too long")
                    .with("seconds", idle)
                    .hint("the source or the lake hangs; what is committed stays, the same command resumes")
                    .exhausted(),
            );
            return;
        }
    }
}
