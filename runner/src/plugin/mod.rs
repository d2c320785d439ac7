//! Connectors that are programs of their own: found, started, spoken to over pipes, held to the rules, ended.
//!
//! | module | what it does |
//! | --- | --- |
//! | `executable` | finds the program, asks what it is; the factory |
//! | `process` | one running program: starts it, feels its pulse, ends it |
//! | `calls` | takes its frames apart and hands them to the calls they answer |
//! | `guest` | the source: its calls as requests, started again after a death |
//! | `rules` | what must hold of streams, plans and slices that come over a pipe |
//! | `lines` | stderr and `log` frames, bounded |
//! | `redact` | keeps secrets out of every text that a plug-in sends |
//!
//! The frames are those of [`ingest_core::plugin`]. A plug-in is a foreign program: it gets the configuration of its own source on
//! stdin and no environment of ours, and nothing that it sends is believed before it was looked at.

mod calls;
mod executable;
mod guest;
mod lines;
mod process;
mod redact;
mod rules;

pub use executable::{Executable, on_path};
pub use process::Patience;
