//! Tests of Delta tables: over a store in memory, in temporary folders, beside other readers of the format.

#![allow(missing_docs)]

mod append;
mod faults;
mod readers;
mod removal;
mod support;
mod types;
