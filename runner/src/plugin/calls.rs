//! Takes the frames of a plug-in apart and hands them to the calls that they answer.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ingest_core::plugin::frame::{self, Frame};
use ingest_core::plugin::message::Reply;
use ingest_core::{CancellationToken, Error, ErrorKind, Result};
use serde::Deserialize;
use tokio::sync::{Notify, mpsc};

use super::lines::Lines;

/// The call number of the greeting, which carries none.
pub const HELLO: u64 = 0;

/// A frame for a call, not looked at further.
pub struct Incoming {
    /// The JSON frame.
    pub json: Vec<u8>,
    /// The Arrow frame that belongs to it.
    pub data: Option<Vec<u8>>,
    /// Whether it is the last one.
    pub last: bool,
}

impl Incoming {
    /// What it took of the credit of its call.
    pub fn cost(&self) -> u64 {
        (self.json.len() + self.data.as_ref().map_or(0, Vec::len)) as u64
    }
}

/// All calls of one process.
pub struct Calls {
    /// The plug-in, for people.
    pub name: Arc<str>,
    /// What it says to people.
    pub lines: Lines,
    /// Fires when the process is gone and reaped.
    pub exited: CancellationToken,
    /// Whether the process ended otherwise than by itself and with success; known once it has exited.
    pub ended_badly: AtomicBool,
    state: Mutex<State>,
    closed: Notify,
    heard: AtomicU64,
}

#[derive(Default)]
struct State {
    open: HashMap<u64, Open>,
    /// Why there will be no more frames.
    ended: Option<Error>,
}

struct Open {
    /// Nobody waits any more where there is none: the call was cancelled.
    to: Option<mpsc::UnboundedSender<Incoming>>,
    /// Bytes that may still come; calls of one answer have none. It bounds what waits in the channel.
    credit: Option<i64>,
    /// Calls of one key never run at once.
    key: Option<String>,
}

/// The beginning of every JSON frame.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    call: Option<u64>,
}

impl Calls {
    /// Of a process that is about to start.
    pub fn new(name: Arc<str>, lines: Lines) -> Self {
        Self {
            name,
            lines,
            exited: CancellationToken::new(),
            ended_badly: AtomicBool::new(false),
            state: Mutex::default(),
            closed: Notify::new(),
            heard: AtomicU64::new(0),
        }
    }

    /// An error of this plug-in.
    pub fn broken(&self, rule: &str) -> Error {
        broken(&self.name, &Error::new(ErrorKind::DataInvalid, rule))
    }

    /// So many frames came.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Why the process cannot be used any more; `None` while it can.
    pub fn ended(&self) -> Option<Error> {
        self.state().ended.as_ref().map(Error::replicate)
    }

    /// Ends all calls with an error. The first one counts.
    pub fn end(&self, error: Error) {
        let mut state = self.state();
        state.ended.get_or_insert(error);
        // Receivers take what has come, and then see the end.
        state.open.clear();
        drop(state);
        self.closed.notify_waiters();
    }

    /// Opens a call. Where one of the same key is under way, this says so, and [`Calls::closed`] says when to try again.
    pub fn open(&self, call: u64, key: Option<&str>, credit: Option<u64>) -> Result<Opened> {
        let mut state = self.state();
        if let Some(error) = &state.ended {
            return Err(error.replicate());
        }
        if let Some(other) = state.open.values().find(|open| key.is_some() && open.key.as_deref() == key) {
            return Ok(Opened::Occupied { cancelled: other.to.is_none() });
        }
        let (to, frames) = mpsc::unbounded_channel();
        let credit = credit.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        state.open.insert(call, Open { to: Some(to), credit, key: key.map(str::to_owned) });
        Ok(Opened::Free(frames))
    }

    /// Fires at the next end of a call. Make it before asking.
    pub fn closed(&self) -> tokio::sync::futures::Notified<'_> {
        self.closed.notified()
    }

    /// More may come for a call.
    pub fn grant(&self, call: u64, bytes: u64) {
        if let Some(credit) = self.state().open.get_mut(&call).and_then(|open| open.credit.as_mut()) {
            *credit = credit.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// Nobody waits for a call any more. True where the plug-in must be told.
    pub fn abandon(&self, call: u64) -> bool {
        self.state().open.get_mut(&call).is_some_and(|open| open.to.take().is_some())
    }

    /// Reads frames until the pipe ends.
    ///
    /// # Errors
    /// The rule that was broken; nothing that follows can be trusted.
    pub fn listen(&self, pipe: &mut impl Read) -> Result<()> {
        while let Some(frame) = self.frame(pipe)? {
            self.heard.fetch_add(1, Ordering::Relaxed);
            let Frame::Json(json) = frame else {
                return Err(self.broken("an Arrow frame follows the JSON frame that it belongs to, and one came alone"));
            };
            let head: Head<'_> = serde_json::from_slice(&json).map_err(|_| {
                self.broken("a frame of kind 0 is a JSON object with a `type`, and something else came")
            })?;
            let (call, last) = match (&*head.r#type, head.call) {
                ("pong", _) => continue,
                ("log", _) => {
                    self.log(&json)?;
                    continue;
                }
                ("error", None) => return Err(self.failed(&json)?),
                ("hello", _) => (HELLO, true),
                ("opened" | "problems" | "streams" | "plan" | "ok" | "done" | "error", Some(call)) => (call, true),
                ("schema" | "rows" | "remove" | "quarantine" | "mark" | "warning", Some(call)) => (call, false),
                (_, Some(_)) => return Err(self.broken("a frame has one of the types of the protocol")),
                (_, None) => return Err(self.broken("a frame names the call that it answers")),
            };
            let data = match &*head.r#type {
                "rows" | "schema" => match self.frame(pipe)? {
                    Some(Frame::Arrow(data)) => Some(data),
                    Some(Frame::Json(_)) => {
                        return Err(self.broken("an Arrow frame follows `rows` and `schema` at once, and none came"));
                    }
                    None => return Ok(()),
                },
                _ => None,
            };
            self.hand_over(call, Incoming { json, data, last })?;
        }
        Ok(())
    }

    fn frame(&self, pipe: &mut impl Read) -> Result<Option<Frame>> {
        match frame::read(pipe) {
            // Where a process dies in the middle of a frame, its death is what happened.
            Err(error) if error.kind() == ErrorKind::Unavailable => Ok(None),
            frame => frame.map_err(|error| broken(&self.name, &error)),
        }
    }

    fn hand_over(&self, call: u64, frame: Incoming) -> Result<()> {
        let mut state = self.state();
        let Some(open) = state.open.get_mut(&call) else {
            drop(state);
            return match self.ended() {
                Some(error) => Err(error),
                None => Err(self.broken("a frame answers a call that is under way, once").with("call", call)),
            };
        };
        if frame.last {
            let open = state.open.remove(&call);
            drop(state);
            if let Some(to) = open.and_then(|open| open.to) {
                // Nobody waits: then it was cancelled in this moment.
                drop(to.send(frame));
            }
            self.closed.notify_waiters();
            return Ok(());
        }
        let Some(credit) = open.credit.as_mut() else {
            drop(state);
            return Err(self.broken("rows and marks are sent for `extract` alone").with("call", call));
        };
        if *credit <= 0 {
            drop(state);
            let rule = Error::new(ErrorKind::LimitExceeded, "nothing is sent beyond the credit of a call");
            return Err(broken(&self.name, &rule).with("call", call));
        }
        *credit = credit.saturating_sub(i64::try_from(frame.cost()).unwrap_or(i64::MAX));
        if let Some(to) = &open.to {
            // Nobody waits: then it was cancelled in this moment.
            drop(to.send(frame));
        }
        Ok(())
    }

    fn log(&self, json: &[u8]) -> Result<()> {
        match serde_json::from_slice(json) {
            Ok(Reply::Log { level, text }) => {
                self.lines.log(&level, &text);
                Ok(())
            }
            _ => Err(self.broken("a `log` has a `level` and a `text`")),
        }
    }

    /// The plug-in says that it cannot go on.
    fn failed(&self, json: &[u8]) -> Result<Error> {
        match serde_json::from_slice(json) {
            Ok(Reply::Error(failure)) => Ok(failure.read(|text| self.lines.clean(text)).with("plugin", &self.name)),
            _ => Err(self.broken("an `error` has a `kind` and a `message`")),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How opening a call went.
pub enum Opened {
    /// Its frames.
    Free(mpsc::UnboundedReceiver<Incoming>),
    /// Another call of its key is not over.
    Occupied {
        /// It was cancelled, and its end is due.
        cancelled: bool,
    },
}

/// A plug-in broke a rule.
pub fn broken(name: &str, rule: &Error) -> Error {
    let error = Error::new(rule.kind(), format!("the plug-in {name} broke a rule of the protocol: {}", rule.message()));
    let error = rule.context().iter().fold(error, |error, (key, value)| error.with(key, value));
    error
        .hint(rule.hint_text().unwrap_or("it must be repaired by its author; docs/plugins.md has the rules").to_owned())
}
