//! Tests against FerretDB over SQLite, a server of another vendor that speaks MongoDB's protocol, or against MongoDB itself where
//! `INGEST_TEST_MONGODB_URL` names one; and against a scripted stand-in, where a test's name says so.

mod changes;
mod conformance;
mod faults;
mod loads;
mod support;
mod types;
mod windows;
