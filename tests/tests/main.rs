//! Tests of the whole, in one binary.

#![allow(clippy::unwrap_used)]

mod cli;
mod structure;
mod survive;
mod workspace;
