//! Connections that are kept, each used by several readers at once.
//!
//! A reader never holds a connection for itself: the library locks it for one call at a time. So readers that wait for
//! their turn to give rows cannot keep others from reading.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ingest_core::{Error, ErrorKind, Result};
use ssh2::{Session, Sftp};

use crate::client::{self, Route};

/// A connection that nobody has used for so long may have been cut on the way without a word.
const STALE: Duration = Duration::from_secs(45);

/// Milliseconds that a good-bye may take on a connection that broke.
const FAREWELL: u32 = 200;

/// The connections of a source.
#[derive(Debug)]
pub struct Pool {
    route: Route,
    /// The root as the configuration writes it.
    path: String,
    slots: Vec<Arc<Slot>>,
}

#[derive(Default)]
struct Slot {
    /// Readers that use it.
    load: AtomicUsize,
    connection: Mutex<Option<(Arc<Connection>, Instant)>>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("load", &self.load).finish_non_exhaustive()
    }
}

/// A connection with its root.
pub struct Connection {
    // Goes before its session.
    sftp: Sftp,
    session: Session,
    /// The root as the server knows it: absolute, without links.
    pub root: PathBuf,
    is_broken: AtomicBool,
}

/// A connection that is in use.
pub struct Lease {
    slot: Arc<Slot>,
    connection: Arc<Connection>,
}

impl Lease {
    /// The client.
    pub fn sftp(&self) -> &Sftp {
        &self.connection.sftp
    }

    /// The root as the server knows it.
    pub fn root(&self) -> &PathBuf {
        &self.connection.root
    }

    /// Nobody uses this connection any more.
    pub fn give_up(&self) {
        self.connection.is_broken.store(true, Ordering::Relaxed);
        // Closing a session says good-bye, and waits for an answer that may never come.
        self.connection.session.set_timeout(FAREWELL);
    }

    /// Gives the connection up where an error says that it is at fault, and makes an error of ours of it.
    pub fn failed(&self, error: &ssh2::Error, what: &str) -> Error {
        if client::is_broken(error) {
            self.give_up();
        }
        client::failed(error, what)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some((_, used)) = self.slot.connection.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            *used = Instant::now();
        }
        self.slot.load.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// A pool of `size` connections, none of them open yet.
    pub fn new(route: Route, path: String, size: u16) -> Self {
        let slots = (0..size.max(1)).map(|_| Arc::default()).collect();
        Self { route, path, slots }
    }

    /// How many connections there are at most.
    pub fn size(&self) -> usize {
        self.slots.len()
    }

    /// A connection, the one with the fewest users; opens it where it is not open or of no use. Blocking.
    ///
    /// # Errors
    /// Those of [`Route::connect`]; `NotFound` when there is no root.
    pub fn lease(&self) -> Result<Lease> {
        let least = self.slots.iter().min_by_key(|slot| slot.load.load(Ordering::Relaxed));
        let slot = least.ok_or_else(|| Error::unexpected("a pool without connections"))?.clone();
        let users = slot.load.fetch_add(1, Ordering::Relaxed);
        match self.connection(&slot, users) {
            Ok(connection) => Ok(Lease { slot, connection }),
            Err(error) => {
                slot.load.fetch_sub(1, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    fn connection(&self, slot: &Slot, users: usize) -> Result<Arc<Connection>> {
        let mut kept = slot.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((connection, used)) = kept.as_ref() {
            let is_stale = users == 0 && used.elapsed() > STALE;
            if !connection.is_broken.load(Ordering::Relaxed) && !is_stale {
                return Ok(connection.clone());
            }
        }
        *kept = None;
        let connection = Arc::new(self.open()?);
        *kept = Some((connection.clone(), Instant::now()));
        Ok(connection)
    }

    fn open(&self) -> Result<Connection> {
        let session = self.route.connect()?;
        let host = &self.route.login.host;
        let sftp = session.sftp().map_err(|e| {
            client::failed(&e, "the server does not speak SFTP with this account")
                .with("host", host)
                .hint("ask the operator whether the account may use SFTP")
        })?;
        let path = PathBuf::from(&self.path);
        let root = sftp.realpath(&path).map_err(|e| no_root(&e, &self.path, host))?;
        // OpenSSH resolves the path of what does not exist.
        let found = sftp.stat(&root).map_err(|e| no_root(&e, &self.path, host))?;
        if found.perm.is_some() && !found.is_dir() {
            return Err(
                Error::config("invalid configuration: path: is not a folder of the server").with("path", &self.path)
            );
        }
        Ok(Connection { sftp, session, root, is_broken: AtomicBool::new(false) })
    }
}

fn no_root(error: &ssh2::Error, path: &str, host: &str) -> Error {
    let error = client::failed(error, "cannot list the folder").with("path", path).with("host", host);
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::PermissionDenied => {
            error.hint("`path` must be a folder that exists and can be read; relative ones begin at the account's own")
        }
        _ => error,
    }
}
