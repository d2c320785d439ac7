//! Tests against a genuine PostgreSQL server.

mod loads;
mod support;
mod types;
