//! Tests of the whole, in one binary.

#![allow(clippy::unwrap_used)]

mod against;
mod bad_input;
mod capture;
mod changes;
mod cli;
mod events;
mod file_servers;
mod following;
mod forget;
mod intervals;
mod late_rows;
mod merge;
mod mysql;
mod network;
mod orchestration;
mod policies;
mod rest;
mod resync;
mod salesforce;
mod sample_database;
mod shopify;
mod stripe;
mod structure;
mod survive;
mod sweeps;
mod verify;
mod webhooks;
mod workspace;
