//! What a handle knows of the version that it stands on.

use arrow_schema::SchemaRef;
use ingest_core::{Error, Result};
use std::time::Duration;

use crate::action::{Line, Metadata};
use crate::log::State;
use crate::schema::StructType;
use crate::writer::INDEXED_COLUMNS;

/// Commits between two checkpoints of the log, where the table does not say.
const CHECKPOINT_INTERVAL: u64 = 100;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A version of a table, without its files.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub state: State,
    pub columns: StructType,
    pub schema: SchemaRef,
}

impl Snapshot {
    pub fn new(state: State) -> Result<Self> {
        let columns = StructType::parse(&state.metadata.schema_string)?;
        let schema = columns.to_arrow()?;
        Ok(Self { state, columns, schema })
    }

    pub fn version(&self) -> u64 {
        self.state.version
    }

    pub fn partition_by(&self) -> &[String] {
        &self.state.metadata.partition_columns
    }

    /// Goes on to the next version.
    pub fn apply(&mut self, version: u64, lines: &[Line]) -> Result<()> {
        if version != self.state.version + 1 {
            return Err(Error::unexpected("versions of a table were skipped").with("version", version));
        }
        for line in lines {
            if let Some(protocol) = &line.protocol {
                self.state.protocol = protocol.clone();
            }
            if let Some(metadata) = &line.meta_data {
                self.set_metadata(metadata.clone())?;
            }
            if let Some(txn) = &line.txn {
                self.state.transactions.insert(txn.app_id.clone(), txn.version);
            }
        }
        self.state.version = version;
        Ok(())
    }

    pub fn set_metadata(&mut self, metadata: Metadata) -> Result<()> {
        self.columns = StructType::parse(&metadata.schema_string)?;
        self.schema = self.columns.to_arrow()?;
        self.state.metadata = metadata;
        Ok(())
    }

    pub fn checkpoint_interval(&self) -> u64 {
        let interval = self.state.metadata.property("delta.checkpointInterval").and_then(|v| v.parse().ok());
        interval.filter(|n| *n > 0).unwrap_or(CHECKPOINT_INTERVAL)
    }

    /// How long files of the log are kept.
    pub fn log_retention(&self) -> Duration {
        self.interval("delta.logRetentionDuration").unwrap_or(DAY * 30)
    }

    /// How long the log remembers removed files.
    pub fn tombstone_retention(&self) -> Duration {
        self.interval("delta.deletedFileRetentionDuration").unwrap_or(DAY * 7)
    }

    /// Columns that get statistics.
    pub fn indexed_columns(&self) -> usize {
        match self.state.metadata.property("delta.dataSkippingNumIndexedCols").map(str::parse::<i64>) {
            Some(Ok(n)) => usize::try_from(n).unwrap_or(usize::MAX),
            _ => INDEXED_COLUMNS,
        }
    }

    fn interval(&self, key: &str) -> Option<Duration> {
        interval(self.state.metadata.property(key)?)
    }
}

/// Reads a property of the form `interval 30 days`.
fn interval(text: &str) -> Option<Duration> {
    let mut words = text.split_whitespace().map(str::to_ascii_lowercase);
    let mut word = words.next()?;
    if word == "interval" {
        word = words.next()?;
    }
    let count: u64 = word.parse().ok()?;
    let unit = words.next()?;
    let seconds = match unit.trim_end_matches('s') {
        "week" => 7 * 24 * 60 * 60,
        "day" => 24 * 60 * 60,
        "hour" => 60 * 60,
        "minute" => 60,
        "second" => 1,
        "millisecond" => return Some(Duration::from_millis(count)),
        _ => return None,
    };
    if words.next().is_some() {
        return None;
    }
    Some(Duration::from_secs(count.saturating_mul(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_in_every_unit() {
        assert_eq!(interval("interval 30 days"), Some(DAY * 30));
        assert_eq!(interval("interval 1 week"), Some(DAY * 7));
        assert_eq!(interval("168 hours"), Some(DAY * 7));
        assert_eq!(interval("interval 0 seconds"), Some(Duration::ZERO));
        assert_eq!(interval("interval 1 month"), None);
        assert_eq!(interval("soon"), None);
    }
}
