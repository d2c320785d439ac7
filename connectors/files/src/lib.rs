#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod clients;
mod config;
mod connector;
mod listing;
mod store;

pub use config::FilesConfig;
pub use connector::{Files, Roots};
pub use ingest_files::{
    At, ColumnType, Compression, FileRef, FileStream, Format, Inside, OnChange, Planned, Position, Seen, Work,
};
