//! Tests of the whole, in one binary.

#![allow(clippy::unwrap_used)]

mod bad_input;
mod changes;
mod cli;
mod events;
mod forget;
mod intervals;
mod late_rows;
mod merge;
mod mysql;
mod network;
mod orchestration;
mod policies;
mod rest;
mod sample_database;
mod stripe;
mod structure;
mod survive;
mod sweeps;
mod verify;
mod workspace;
