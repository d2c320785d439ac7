//! Change data capture: every insert, update and delete from the server's log, in the order of commits.
//!
//! | module | what it does |
//! | --- | --- |
//! | `state` | what the server says: settings, slot, publication, how tables take part |
//! | `slot` | what is changed there |
//! | `past` | whether a place in the log is one of the server's own past |
//! | `plan` | full loads in the snapshot of a slot, then one feed for all tables |
//! | `message` | `pgoutput`, byte by byte |
//! | `rows` | changes of a table into batches |
//! | `tables` | which table a change belongs to, and what it looks like then |
//! | `spill` | large transactions, until they are committed |
//! | `setup` | `ingest source setup` and `teardown` |
//! | `feed` | the stream: transactions, marks, what is confirmed |
//!
//! **Order.** A position is a place `P` in the log, such that every transaction whose commit record lies before `P` is read
//! and none of the others. Rows carry (place of the commit record, number in the transaction), from 1 on; `P` sorts as
//! (`P`, 0). Transactions come in the order of their commits, so both grow.

pub(crate) mod check;
pub(crate) mod feed;
pub(crate) mod message;
mod past;
pub(crate) mod plan;
mod rows;
pub(crate) mod setup;
pub(crate) mod slot;
mod spill;
pub(crate) mod state;
mod tables;

pub(crate) use tables::Wanted;

use ingest_core::{Error, ErrorKind, RESYNC, SliceId};

use crate::config::PostgresConfig;

/// The feed's id, under which each table keeps its position.
pub(crate) fn feed_id(config: &PostgresConfig) -> SliceId {
    SliceId::new(format!("slot:{}", config.slot))
}

/// Changes are gone that a table still needs.
pub(crate) fn lost(why: &str) -> Error {
    Error::new(ErrorKind::CheckpointInvalid, format!("cdc: {why}: changes since the last run cannot be read any more"))
        .hint(format!("load the stream again with `{RESYNC}`"))
}
