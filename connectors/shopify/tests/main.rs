//! The connector against the stand-in of the testkit.
#![allow(clippy::unwrap_used)]

mod conformance;
mod faults;
mod harness;
mod loads;
