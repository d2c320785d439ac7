//! The runner of `ingest`: plan, pipeline, budget, policies, retry, commits; and the command line on top.

pub mod config;
pub mod events;
pub mod registry;
pub mod run;
pub mod session;
