//! The connector against the stand-in of the testkit.
#![allow(clippy::unwrap_used)]

mod changes;
mod conformance;
mod faults;
mod harness;
mod hostile;
mod loads;
mod signing_in;
