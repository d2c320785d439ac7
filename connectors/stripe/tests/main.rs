//! The connector against the stand-in of the testkit, and its requests against stripe-mock.
#![allow(clippy::unwrap_used)]

mod changes;
mod conformance;
mod faults;
mod harness;
mod hostile;
mod loads;
mod readme;
mod resume;
mod stripe_mock;
