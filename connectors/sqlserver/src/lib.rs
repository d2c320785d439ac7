#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod builder;
mod catalog;
mod cdc;
mod cells;
mod check;
mod config;
mod extract;
mod faults;
mod incremental;
mod moment;
mod plan;
mod select;
mod server;
mod streams;
mod types;
mod work;

pub use config::{Clock, SqlServerConfig};
pub use streams::SqlServer;
pub use work::{ChangePosition, Edge, Log, Member, Position, Progress, TrackedMember, TrackedPosition, Tracking, Work};
