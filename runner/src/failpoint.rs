//! Places where a test can kill the process: in debug builds alone, steered by `INGEST_FAILPOINT=name:n`.
//!
//! The process aborts at the n-th time that it reaches the place (the first where `n` is left out), as `kill -9` would end
//! it: nothing is flushed, nothing is cleaned up.

/// All places: in the order in which a commit passes them, then those of `forget`.
pub const PLACES: [&str; 17] = [
    "extract",
    "file_closed",
    "plan_written",
    "document_written",
    "committed",
    "quarantined",
    "feed_written",
    "acknowledged",
    "lease_taken",
    "part_staged",
    "forget_renewed",
    "forget_looked",
    "forget_committed",
    "forget_log_cleaned",
    "forget_deleted",
    "forget_searched",
    "forget_swept",
];

/// Says that a place is reached.
#[cfg(debug_assertions)]
pub fn reach(place: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static REACHED: AtomicU64 = AtomicU64::new(0);

    debug_assert!(PLACES.contains(&place), "{place} is not a failpoint");
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("INGEST_FAILPOINT").ok()?;
        let (name, n) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), n.parse().ok()?))
    });
    if let Some((name, n)) = wanted
        && name == place
        && REACHED.fetch_add(1, Ordering::SeqCst) + 1 == *n
    {
        std::process::abort();
    }
}

/// Says that a place is reached. Release builds have no failpoints.
#[cfg(not(debug_assertions))]
pub fn reach(_: &str) {}
