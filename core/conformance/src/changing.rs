//! Checks of a source that changes while it is read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ingest_core::{Event, Json, Mode, RawOut, Stream, StreamName, async_trait};
use serde_json::Map;

use super::positions::come_to;
use super::reading::equals_truth;
use super::suite::{Positions, Read, Suite};
use super::{CanonicalRows, Check, Checked, Fault, Hook, check, wrong};
use crate::out::Collected;

pub(super) const CHECKS: &[Check] = &[check!(
    "R09",
    "what changes during a read is seen now or next time, and nothing else is lost",
    "`plan` fixes bounds before reading; every row that is there all the time is given, and what is written meanwhile comes \
     with this read or the next one",
    during_a_read
)];

/// A change that is to come after so many events of a read.
#[derive(Clone, Default)]
pub(super) struct Meanwhile(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    due: Option<(usize, Hook)>,
    fault: Option<String>,
}

impl Meanwhile {
    fn arm(&self, after: usize, hook: &Hook) {
        *self.state() = State { due: Some((after, Arc::clone(hook))), fault: None };
    }

    /// Ends the wait; says why the test could not change the source.
    fn disarm(&self) -> Option<String> {
        let mut state = self.state();
        state.due = None;
        state.fault.take()
    }

    fn is_armed(&self) -> bool {
        self.state().due.is_some()
    }

    /// Counts an event; gives the change when it is due.
    fn next(&self) -> Option<Hook> {
        let mut state = self.state();
        let (left, _) = state.due.as_mut()?;
        if *left > 0 {
            *left -= 1;
            return None;
        }
        state.due.take().map(|(_, hook)| hook)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A way out on which the source changes in the middle.
pub(super) struct Through<'a> {
    pub out: &'a mut Collected,
    pub meanwhile: &'a Meanwhile,
}

#[async_trait]
impl RawOut for Through<'_> {
    async fn put(&mut self, event: Event) -> ingest_core::Result<()> {
        if let Some(hook) = self.meanwhile.next() {
            let changed = hook().await;
            self.meanwhile.state().fault = changed.err();
        }
        self.out.put(event).await
    }

    fn batch_bytes(&self) -> usize {
        // Small batches, so that there is something left to read after the change.
        if self.meanwhile.is_armed() { 4 << 10 } else { RawOut::batch_bytes(self.out) }
    }

    fn follow(&self) -> bool {
        self.out.follow()
    }
}

async fn during_a_read(suite: &Suite) -> Checked {
    let Some(change) = &suite.subject.change else { return Err(Fault::Needs("change(at the source)")) };
    if suite.subject.truth.is_none() {
        return Err(Fault::Needs("truth(rows of a stream)"));
    }
    let source = suite.open().await?;
    for (mode, streams) in suite.modes(source.as_ref()).await? {
        for after in [0, 1, 3] {
            let mut before = BTreeMap::new();
            for stream in &streams {
                before.insert(stream.name.clone(), suite.truth(&stream.name).await?);
            }
            let source = suite.open().await?;
            suite.meanwhile.arm(after, change);
            let read = suite.read(source.as_ref(), &streams, mode, &Positions::new()).await;
            if let Some(why) = suite.meanwhile.disarm() {
                return wrong(format!("the test cannot change the source: {why}"));
            }
            let read = read?;
            look(suite, &streams, mode, &before, read).await?;
        }
    }
    Ok(())
}

async fn look(
    suite: &Suite,
    streams: &[Stream],
    mode: Mode,
    before: &BTreeMap<StreamName, CanonicalRows>,
    first: Read,
) -> Checked {
    if mode == Mode::Full {
        for stream in streams.iter().filter(|stream| !stream.key.is_empty()) {
            let after = suite.truth(&stream.name).await?;
            let none = Vec::new();
            kept(stream, before.get(&stream.name).unwrap_or(&none), &after, first.rows(&stream.name)?)?;
        }
        return Ok(());
    }
    let held = first.positions.clone();
    let source = suite.open().await?;
    let reads = [first, suite.read(source.as_ref(), streams, mode, &held).await?];
    for stream in streams {
        let truth = suite.truth(&stream.name).await?;
        equals_truth(stream, come_to(&reads, stream, mode)?, truth).map_err(|fault| match fault {
            Fault::Wrong(text) => Fault::Wrong(format!("in mode {mode}, after a change during the read: {text}")),
            other => other,
        })?;
    }
    Ok(())
}

/// Rows that were there before and after, unchanged, must have been read once.
fn kept(stream: &Stream, before: &CanonicalRows, after: &CanonicalRows, found: CanonicalRows) -> Checked {
    let key = |row: &Map<String, Json>| -> Vec<String> {
        stream.key.iter().map(|column| row.get(column).unwrap_or(&Json::Null).to_string()).collect()
    };
    let after: BTreeMap<_, _> = after.iter().map(|row| (key(row), row)).collect();
    let mut times: BTreeMap<_, usize> = BTreeMap::new();
    for row in &found {
        *times.entry(key(row)).or_default() += 1;
    }
    for row in before.iter().filter(|row| after.get(&key(row)) == Some(row)) {
        match times.get(&key(row)) {
            Some(1) => {}
            times => {
                return wrong(format!(
                    "stream {}: the row {} did not change and comes {} times from a full read during which others did",
                    stream.name,
                    key(row).join(", "),
                    times.unwrap_or(&0)
                ));
            }
        }
    }
    Ok(())
}
