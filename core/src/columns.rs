//! The columns that we add, and those that a connector may put at the end of a batch.

use arrow_schema::{DataType, Field, TimeUnit};

/// The run that wrote the row: text.
pub const RUN_ID: &str = "_ingest_run_id";
/// When the row was written: timestamp in microseconds, UTC.
pub const INGESTED_AT: &str = "_ingested_at";
/// `R` read in a full or incremental load; `I`, `U`, `D` from a change log or an event feed. A connector may set it;
/// absent = `R`.
pub const OP: &str = "_ingest_op";
/// Text that sorts in source order. Required in feeds and in slices of several streams.
pub const SEQ: &str = "_ingest_seq";
/// Bit i set = column i of the stream's schema was not carried by the source; null = the row is whole.
pub const ABSENT: &str = "_ingest_absent";
/// JSON object of fields that have no column or a value that does not fit; null when there is nothing to rescue.
/// A connector fills it with what it could not fit itself.
pub const RESCUED: &str = "_ingest_rescued";

/// When a row was deleted, where deleted rows are kept: timestamp in microseconds, UTC; null = it is there.
pub const DELETED_AT: &str = "_ingest_deleted_at";
/// scd2: when the version began to hold, inclusive: timestamp in microseconds, UTC.
pub const EFFECTIVE: &str = "effective_date";
/// scd2: when the version ceased to hold, exclusive: timestamp in microseconds, UTC; null = it holds.
pub const EXPIRY: &str = "expiry_date";
/// scd2: whether the version holds.
pub const CURRENT: &str = "is_current_record";

/// Whether a name is one of ours.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with("_ingest_") || name == INGESTED_AT
}

/// The Arrow field of a reserved column.
pub fn field(name: &str) -> Field {
    let data_type = match name {
        INGESTED_AT | DELETED_AT | EFFECTIVE | EXPIRY => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        ABSENT => DataType::Binary,
        CURRENT => DataType::Boolean,
        _ => DataType::Utf8,
    };
    Field::new(name, data_type, true)
}
