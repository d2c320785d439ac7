#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod ahead;
mod connector;
mod extract;
mod formats;
mod input;
mod options;
mod patterns;
mod plan;
mod schema;
mod source;
mod state;
mod store;
mod streams;
mod types;

pub use ahead::ahead;
pub use connector::{FileConnector, Place};
pub use formats::SOURCE_FILE;
pub use input::Limits;
pub use options::{AfterCommit, Compression, Defaults, FileStream, Format, OnChange, StreamOptions, streams};
pub use patterns::{Marker, Patterns};
pub use source::FileSource;
pub use state::{At, Inside, Planned, Position, Seen, Work};
pub use store::{Fault, FileRef, Found, Reading, Store};
pub use types::ColumnType;
