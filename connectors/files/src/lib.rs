#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod clients;
mod config;
mod connector;
mod extract;
mod formats;
mod input;
mod listing;
mod plan;
mod schema;
mod state;
mod store;
mod streams;
mod types;

pub use config::{Compression, FileStream, FilesConfig, Format, OnChange};
pub use connector::Files;
pub use state::{At, Inside, Planned, Position, Seen, Work};
pub use store::FileRef;
pub use types::ColumnType;
