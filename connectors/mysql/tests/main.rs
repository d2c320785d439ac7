//! Tests against genuine MariaDB and MySQL servers.

mod access;
mod changes;
mod conformance;
mod faults;
mod loads;
mod support;
mod types;
mod windows;
