//! The servers and readers of the testkit, as tests of other crates use them.

#![allow(clippy::unwrap_used)]

mod cassette;
mod conformance;
mod model;
mod object_stores;
mod readers;
