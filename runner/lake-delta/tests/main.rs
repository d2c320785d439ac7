//! Tests of Delta tables: over a store in memory, in temporary folders, beside other readers of the format.

#![allow(missing_docs, clippy::unwrap_used)]

mod append;
mod conformance;
mod erase;
mod evolution;
mod faults;
mod history;
mod maintenance;
mod merge;
mod merge_races;
mod parity;
mod readers;
mod removal;
mod stores;
mod support;
mod types;
mod writer;
