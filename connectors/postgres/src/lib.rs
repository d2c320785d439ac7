#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod builder;
mod catalog;
mod cdc;
mod check;
mod config;
mod decode;
mod extract;
mod faults;
mod incremental;
mod moment;
mod plan;
mod select;
mod server;
mod streams;
mod sums;
mod text;
mod tls;
mod types;
mod values;
mod wire;
mod work;

pub use config::{PostgresConfig, Read};
pub use streams::Postgres;
pub use work::{Log, LogPosition, Position, Progress, Work};
