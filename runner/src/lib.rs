//! The runner of `ingest`: plan, pipeline, budget, policies, retry, commits; and the command line on top.

mod cli;
pub mod commit;
pub mod config;
pub mod conform;
pub mod events;
pub mod failpoint;
pub mod forget;
pub mod plugin;
pub mod policy;
pub mod registry;
pub mod rows;
pub mod run;
pub mod serve;
pub mod session;
pub mod state;
pub mod verify;

pub use cli::cli;

/// The programs of the documentation compile.
#[cfg(doctest)]
#[doc = include_str!("../../docs/write-a-connector.md")]
mod write_a_connector {}
