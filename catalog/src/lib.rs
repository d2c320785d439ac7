//! What `ingest` remembers, as JSON documents under `_ingest/` in the lake. There is no other state.
//!
//! ```text
//! _ingest/checkpoints/<source>/<stream>/<number>.json   positions of a stream, one document per commit
//! _ingest/plans/<source>/<plan id>.json                 the slices of a plan
//! _ingest/parts/<plan id>/<part>/<stream>/<k>.json       what processes that share a plan have staged
//! _ingest/feeds/<source>/<feed>/<k>.json                what every table of a change feed holds
//! _ingest/leases/<source>/<stream>/<k>.json             who works on a stream
//! _ingest/streams/<source>/<stream>/<k>.json            schema history
//! _ingest/schedules/<source>/<job>/<k>.json             what `ingest serve` has done of a schedule
//! _ingest/limits/<bucket>/<window>/<k>.json             requests that a process may make, of a rate that many share
//! _ingest/runs/<start>-<run id>.json                    run history
//! _ingest/forgotten/<start>-<run id>.json               receipts of `ingest forget`
//! _ingest/verified/<start>-<run id>.json                receipts of `ingest verify`
//! ```
//!
//! `<stream>` is the table's folder name; documents keep the source's spelling. Each document has `format` first; a
//! reader refuses a higher one.

mod checkpoint;
mod documents;
mod feed;
mod forgotten;
mod lease;
mod limit;
mod part;
mod plan;
mod ranges;
mod run;
mod schedule;
mod stream;
mod verified;

pub use checkpoint::{Checkpoint, PlanProgress, Sweeping, checkpoint_path, list_checkpoints};
pub use documents::{Created, Documents, FORMAT};
pub use feed::{Claim, Feed, Member, latest_feed, list_feeds, write_feed};
pub use forgotten::{ForgetDocument, ForgottenTable};
pub use lease::{Holder, Lease};
pub use limit::Limits;
pub use part::PartDocument;
pub use plan::{Parts, PlanDocument, PlannedStream, plan_path};
pub use ranges::Ranges;
pub use run::{RunDocument, RunStream, find_runs, find_runs_since, list_runs, run_path};
pub use schedule::{Ended, ScheduleDocument, Taken};
pub use stream::{CURSOR, ColumnDocument, MASK_KEY, StreamDocument, latest_stream, record_stream};
pub use verified::{Compared, ComparedColumn, VerifiedStream, VerifyDocument};
