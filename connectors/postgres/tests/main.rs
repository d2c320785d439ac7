//! Tests against a genuine PostgreSQL server.

mod access;
mod faults;
mod loads;
mod support;
mod types;
mod windows;
