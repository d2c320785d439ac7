//! Delta tables for `ingest`: the table format behind [`ingest_core::lake`].
//!
//! A table is a folder of Parquet files and a log, `_delta_log`, whose numbered JSON files say which of them are live.
//! A commit is one such file, made by create-if-absent: whoever makes version 17 first has it. What `ingest` needs of
//! that is little, and all of it decides whether rows are lost or doubled, so this crate reads and writes the log
//! itself; it is tested against other readers of the format.
//!
//! - **A commit costs the same at every age of the table.** A handle holds the schema and the application ids, not the
//!   list of files; that is read when a commit removes something.
//! - **Durable before visible.** On a local disk data files and their folder are flushed before the commit is made, and
//!   the commit before it is reported. Object stores promise that by themselves.
//! - **A lost answer is looked up.** When nobody knows whether a commit was made, the version is read back and compared
//!   byte by byte; every commit carries an id of its own.
//!
//! [`DeltaFormat`] is the way in.

mod action;
mod checkpoint;
mod cluster;
mod commit;
mod erase;
mod format;
mod log;
mod maintain;
mod merge;
mod protocol;
mod read;
mod region;
mod rewrite;
mod schema;
mod snapshot;
mod store;
mod table;
mod types;
mod writer;

pub use format::DeltaFormat;
pub use types::CUT;
