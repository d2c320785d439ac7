//! The way out of a slice in a plug-in: events become frames, as far as the credit of the call reaches.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::sync::{Notify, mpsc};

use super::batch::{encode, encode_schema};
use super::frame::Message;
use super::message::Reply;
use crate::{Error, Event, RawOut, Result};

/// What a call may still send.
pub struct Credit {
    /// Bytes; below zero after a frame that was larger than what was left.
    bytes: AtomicI64,
    more: Notify,
    batch_bytes: AtomicUsize,
}

impl Credit {
    /// The credit that comes with a call.
    pub fn new(bytes: u64, batch_bytes: u64) -> Arc<Self> {
        let credit = Self { bytes: AtomicI64::new(0), more: Notify::new(), batch_bytes: AtomicUsize::new(0) };
        credit.grant(bytes, batch_bytes);
        Arc::new(credit)
    }

    /// The runner takes more.
    pub fn grant(&self, bytes: u64, batch_bytes: u64) {
        self.batch_bytes.store(usize::try_from(batch_bytes).unwrap_or(usize::MAX), Ordering::Relaxed);
        self.bytes.fetch_add(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::AcqRel);
        // Remembered where nobody waits yet.
        self.more.notify_one();
    }

    async fn wait(&self) {
        while self.bytes.load(Ordering::Acquire) <= 0 {
            self.more.notified().await;
        }
    }
}

/// The way out of one slice.
pub struct PipeOut {
    /// The call.
    pub call: u64,
    /// What it may send.
    pub credit: Arc<Credit>,
    /// To the thread that writes.
    pub outbox: mpsc::Sender<Message>,
    /// Whether the run follows feeds.
    pub follow: bool,
}

impl PipeOut {
    async fn send(&self, message: Message) -> Result<()> {
        self.credit.wait().await;
        self.credit.bytes.fetch_sub(i64::try_from(message.cost()).unwrap_or(i64::MAX), Ordering::AcqRel);
        self.outbox.send(message).await.map_err(|_| Error::cancelled())
    }
}

#[async_trait]
impl RawOut for PipeOut {
    async fn put(&mut self, event: Event) -> Result<()> {
        let call = self.call;
        let message = match event {
            Event::Rows(stream, batch) => {
                // Nothing is encoded before it may be sent.
                self.credit.wait().await;
                for part in encode(&batch)? {
                    let head = Message::new(&Reply::Rows { call, stream: stream.clone() })?;
                    self.send(head.with(part)).await?;
                }
                return Ok(());
            }
            Event::Schema(stream, schema) => {
                Message::new(&Reply::Schema { call, stream })?.with(encode_schema(&schema)?)
            }
            Event::Remove(stream, region, seq) => Message::new(&Reply::Remove { call, stream, region, seq })?,
            Event::Quarantine(stream, bad) => {
                Message::new(&Reply::Quarantine { call, stream, reason: bad.reason, record: bad.record })?
            }
            Event::Mark(position) => Message::new(&Reply::Mark { call, position })?,
            Event::Warning { stream, text, partial } => Message::new(&Reply::Warning { call, stream, text, partial })?,
        };
        self.send(message).await
    }

    fn batch_bytes(&self) -> usize {
        self.credit.batch_bytes.load(Ordering::Relaxed)
    }

    fn follow(&self) -> bool {
        self.follow
    }
}
