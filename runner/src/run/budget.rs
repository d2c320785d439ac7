//! The memory of a run: one budget for batches on their way, and a share for each writer.

use std::sync::Arc;

use ingest_core::{Error, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits are counted in units of this many bytes.
const UNIT: u64 = 4 << 10;

/// The memory of a run, shared by all lanes.
#[derive(Clone)]
pub struct Budget {
    /// Batches between the source and the encoder.
    queue: Arc<Semaphore>,
    queue_units: u32,
    lanes: u64,
    total: u64,
    merges: Arc<Semaphore>,
}

impl Budget {
    /// Cuts `total` bytes for so many lanes: an eighth for batches on their way, the rest for encoders, uploads and the
    /// program itself.
    pub fn new(total: u64, lanes: usize) -> Self {
        let queue_units = u32::try_from((total / 8).min(32 << 20) / UNIT).unwrap_or(u32::MAX).max(1);
        Self {
            queue: Arc::new(Semaphore::new(queue_units as usize)),
            queue_units,
            lanes: lanes.max(1) as u64,
            total,
            merges: Arc::new(Semaphore::new(1)),
        }
    }

    /// Waits until a batch of so many bytes may be on its way. A batch larger than the whole share takes all of it.
    pub async fn acquire(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes as u64 / UNIT + 1).unwrap_or(u32::MAX).min(self.queue_units);
        Arc::clone(&self.queue).acquire_many_owned(units).await.map_err(|_| Error::cancelled())
    }

    /// Wanted size of a batch: several of each lane fit the queue's share.
    pub fn batch_bytes(&self) -> usize {
        let share = u64::from(self.queue_units) * UNIT / (self.lanes * 4);
        share.clamp(256 << 10, 4 << 20) as usize
    }

    /// Rows that a stream may hold back until a mark says that they count.
    pub fn pending_bytes(&self) -> u64 {
        (u64::from(self.queue_units) * UNIT / (self.lanes * 2)).min(8 << 20)
    }

    /// What lets one merge at a time into the memory that is meant for it.
    pub fn merges(&self) -> Arc<Semaphore> {
        Arc::clone(&self.merges)
    }

    /// What the keys of a merge may take.
    pub fn merge_bytes(&self) -> u64 {
        self.total / 8
    }

    /// What one writer may hold in memory: the encoded pages of a row group. More would make few files smaller (8 MiB
    /// against 16: half a percent) and cost as much memory a lane, taken and cleared anew for each group.
    pub fn writer_bytes(&self) -> u64 {
        (self.total / 4 / self.lanes).clamp(4 << 20, 8 << 20)
    }
}
