#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod client;
mod config;
mod connector;
mod hosts;
mod jump;
mod listing;
mod pool;
mod store;

pub use config::{Login, SftpConfig};
pub use connector::{Sftp, SftpServers};
