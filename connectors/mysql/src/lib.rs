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
mod sums;
mod tls;
mod types;
mod work;

pub use config::MysqlConfig;
pub use streams::Mysql;
pub use work::{Edge, Log, LogPosition, Position, Progress, Work};
