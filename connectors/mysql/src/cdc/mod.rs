//! Changes, read from the binlog.

mod bytes;
mod captured;
mod charset;
pub(crate) mod check;
pub(crate) mod feed;
mod image;
mod json;
pub(crate) mod log;
mod map;
pub(crate) mod plan;
mod statement;
