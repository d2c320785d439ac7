#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod config;
mod connector;
mod event;
mod folder;
mod receiver;
mod signature;
mod spool;

pub use config::{Encoding, Sender, WebhooksConfig};
pub use connector::Webhooks;
pub use receiver::{Endpoint, Endpoints, Receiver};
