//! Connections that are kept, each used for one thing at a time.
//!
//! A reader that waits for its turn to give rows holds its connection, and with few connections the reader whose turn it
//! is could wait for them for ever. So a connection that has lain idle in a reader's hands for a while can be taken from
//! it: it is closed, and that reader goes on later, at the same place, over another one.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use ingest_core::{CancellationToken, Error, Result};

use crate::control::{Control, Route};
use crate::line::Line;

/// A connection that nobody has used for so long may have been cut on the way without a word.
const STALE: Duration = Duration::from_secs(45);
/// A transfer of which nothing was read for so long may be given up for another reader.
const IDLE: Duration = Duration::from_secs(1);
/// How often those who wait look again.
const LOOK: Duration = Duration::from_millis(100);

/// The connections of a source.
pub struct Pool {
    route: Route,
    size: usize,
    cancel: CancellationToken,
    state: Mutex<State>,
    changed: Condvar,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("host", &self.route.host).field("size", &self.size).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    free: Vec<(Control, Instant)>,
    /// Connections that are open, free ones too.
    open: usize,
    transfers: Vec<Weak<Slot>>,
}

/// Where a reader keeps its transfer between two reads; another reader may empty it.
pub type Slot = Mutex<Option<Transfer>>;

/// A transfer under way.
pub struct Transfer {
    /// Where the bytes come. Closed before the connection for commands.
    pub data: Line,
    /// The connection that it was asked for on.
    pub lease: Lease,
    /// When bytes were last taken.
    pub used: Instant,
}

/// A connection that is in use.
pub struct Lease {
    pool: Arc<Pool>,
    control: Option<Control>,
}

impl Lease {
    /// The connection.
    ///
    /// # Errors
    /// None, while it is held.
    pub fn control(&mut self) -> Result<&mut Control> {
        self.control.as_mut().ok_or_else(|| Error::unexpected("a connection was used after it was given back"))
    }

    /// Gives the connection back, for it stands between two commands. Dropped without that, it is closed.
    pub fn give_back(mut self) {
        if let Some(control) = self.control.take() {
            let mut state = self.pool.lock();
            state.free.push((control, Instant::now()));
            drop(state);
            self.pool.changed.notify_all();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(control) = self.control.take() {
            drop(control);
            self.pool.lock().open -= 1;
            self.pool.changed.notify_all();
        }
    }
}

impl Pool {
    /// A pool of `size` connections, none of them open yet.
    pub fn new(route: Route, size: u16, cancel: CancellationToken) -> Arc<Self> {
        let size = usize::from(size.max(1));
        Arc::new(Self { route, size, cancel, state: Mutex::default(), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a reader's transfer be taken from it when it lies idle.
    pub fn keep(&self, slot: &Arc<Slot>) {
        let mut state = self.lock();
        state.transfers.retain(|known| known.strong_count() > 0);
        state.transfers.push(Arc::downgrade(slot));
    }

    /// A connection; waits for one, opens it where there is none. Blocking.
    ///
    /// # Errors
    /// Those of [`Control::open`]; `Cancelled`.
    pub fn lease(self: &Arc<Self>) -> Result<Lease> {
        let mut state = self.lock();
        loop {
            if self.cancel.is_cancelled() {
                return Err(Error::cancelled());
            }
            if let Some((control, used)) = state.free.pop() {
                if used.elapsed() < STALE {
                    return Ok(Lease { pool: self.clone(), control: Some(control) });
                }
                state.open -= 1;
                continue;
            }
            if state.open < self.size {
                state.open += 1;
                drop(state);
                let opened = Control::open(&self.route);
                if opened.is_err() {
                    self.lock().open -= 1;
                    self.changed.notify_all();
                }
                return Ok(Lease { pool: self.clone(), control: Some(opened?) });
            }
            let idle = state.idle();
            if let Some(transfer) = idle {
                // Closing takes the lock that is held here.
                drop(state);
                drop(transfer);
                state = self.lock();
                continue;
            }
            state = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    /// Takes the transfer that has lain idle for longest, if any has for long enough.
    fn idle(&self) -> Option<Transfer> {
        let slots: Vec<Arc<Slot>> = self.transfers.iter().filter_map(Weak::upgrade).collect();
        // A slot that is locked is being read.
        let since = |slot: &Arc<Slot>| slot.try_lock().ok()?.as_ref().map(|transfer| transfer.used);
        let (_, slot) = slots.iter().filter_map(|slot| Some((since(slot)?, slot))).min_by_key(|(used, _)| *used)?;
        let mut held = slot.try_lock().ok()?;
        if held.as_ref().is_some_and(|transfer| transfer.used.elapsed() >= IDLE) { held.take() } else { None }
    }
}
