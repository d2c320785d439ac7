#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod catalog;
mod cdc;
mod check;
mod config;
mod extended;
mod extract;
mod faults;
mod incremental;
mod plan;
mod rows;
mod sample;
mod select;
mod server;
mod streams;
mod tls;
mod types;
mod work;

pub use config::{BeforeChange, Documents, FullDocument, MongodbConfig};
pub use streams::Mongodb;
pub use types::Kind;
pub use work::{FeedPosition, Position, Progress, Work};
