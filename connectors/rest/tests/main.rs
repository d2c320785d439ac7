//! The connector against stand-ins of three APIs, and the manifests of `examples/rest` themselves.
#![allow(clippy::unwrap_used)]

mod conformance;
mod faults;
mod harness;
mod hostile;
mod lists;
mod manifests;
mod shapes;
mod stand_ins;
