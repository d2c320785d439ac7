//! Tests against a genuine PostgreSQL server.

mod access;
mod changes;
mod faults;
mod loads;
mod support;
mod types;
mod windows;
