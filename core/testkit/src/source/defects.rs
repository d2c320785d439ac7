//! Deliberate mistakes of the model, each of which the conformance suite must find.

use ingest_core::JsonSchema;
use serde::{Deserialize, Serialize};

/// A mistake that connectors make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Defect {
    /// After a restart one row is missing.
    SkipsOnResume,
    /// After a restart everything comes again.
    RestartsOnResume,
    /// After a restart rows with the cursor value of the mark are missing.
    SkipsEqualCursor,
    /// A mark comes before the rows that it covers.
    MarksBeforeRows,
    /// What was read before a call was dropped is taken for delivered.
    ForgetsOnCancel,
    /// The runner's refusal is ignored.
    SwallowsCancel,
    /// A feed says that it caught up, with rows after its last mark.
    NoMarkAtTheEnd,
    /// The order of events does not grow.
    SeqGoesBack,
    /// `checkpoint` with a position that is confirmed already fails.
    RefusesRepeatedCheckpoint,
    /// The log is gone, and the feed starts where it begins now.
    StartsLateInSilence,
    /// The upper bound of a window is what can be seen, not what is safe.
    LosesLateRows,
    /// The schema's columns change places between calls.
    UnstableSchema,
    /// Rows have a column that the schema does not have.
    ColumnOutsideSchema,
    /// A column has another type than the schema says.
    WrongType,
    /// A key is null.
    NullKey,
    /// A key comes twice.
    DuplicateKey,
    /// Two reads give different values.
    DifferentEachTime,
    /// A stream that does not exist reads as an empty one.
    AcceptsUnknownStream,
    /// Streams that were not selected are described too.
    IgnoresSelection,
    /// An empty stream fails.
    EmptyStreamFails,
    /// The key of the configuration is logged.
    LogsKey,
    /// The key of the configuration is in an error.
    ErrorShowsKey,
    /// Wrong credentials pass every check.
    AcceptsAnyKey,
    /// Batches are as large as the source likes.
    HugeBatches,
    /// The estimate of a full read is far off.
    WildEstimate,
    /// A full read panics.
    Panics,
    /// A job is never ready.
    NeverReady,
    /// The first row of every page but the first is missing.
    SkipsAtPageBorder,
    /// After a restart the row of the mark comes again.
    RepeatsOnResume,
    /// The cursor is not sent: every read in mode `incremental` is a whole one.
    IgnoresCursor,
    /// What follows the first page is never asked for.
    OnlyFirstPage,
    /// The end of the list is not seen: the last page comes again and again.
    MissesTheEnd,
    /// A stream without rows panics.
    PanicsOnEmpty,
    /// Rows that come unsorted are marked as if they were sorted by the cursor.
    TrustsUnsorted,
    /// Pages are counted off a list whose order changes.
    PagesByOffset,
    /// A request that failed is made again, and again.
    RetriesInside,
    /// A stream is held in memory as a whole.
    HoldsEverything,
    /// A window by hand moves the position.
    IntervalMovesPosition,
    /// `check` writes something to see whether it can.
    CheckWrites,
}
