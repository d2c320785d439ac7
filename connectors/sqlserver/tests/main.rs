//! Tests against a scripted stand-in for SQL Server, or against the server that `INGEST_TEST_MSSQL_URL` names; those that need
//! the script say so in their names.

mod access;
mod changes;
mod conformance;
mod loads;
mod support;
mod tracking;
mod types;
mod windows;
