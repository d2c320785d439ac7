//! Tests of the files connector against real files and real stores.

mod conformance;
mod damage;
mod fields;
mod formats;
mod incremental;
mod objects;
mod resume;
mod support;
mod text;
mod xml;
