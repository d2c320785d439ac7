#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod config;
mod connector;
mod control;
mod facts;
mod line;
mod listing;
mod pool;
mod store;

pub use config::{FtpConfig, Protection, TlsMax};
pub use connector::{Ftp, FtpServers};
