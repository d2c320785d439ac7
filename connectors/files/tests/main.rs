//! Tests of the files connector against real files and real stores.

mod incremental;
mod support;
