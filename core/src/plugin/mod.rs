//! A connector as a program of its own: it speaks over stdin and stdout with the runner, in any language.
//!
//! A program around a connector is three lines; named `ingest-connector-acme` and on `PATH`, it serves
//! `connector: acme`, and where it lies elsewhere `connector: ./path/to/it`:
//!
//! ```no_run
//! # use ingest_core::*;
//! # struct Acme;
//! # #[derive(Clone, serde::Serialize, serde::Deserialize)] struct At;
//! # impl Cursor for At {}
//! # #[async_trait] impl Connector for Acme {
//! #     type Config = std::collections::BTreeMap<String, String>; type Work = (); type Position = At;
//! #     fn spec() -> Spec { unimplemented!() }
//! #     async fn open(_: Self::Config, _: Context) -> Result<Self> { Ok(Acme) }
//! #     async fn check(&self, _: &Selection) -> Result<Vec<Problem>> { Ok(vec![]) }
//! #     async fn schema(&self, _: &Selection) -> Result<Vec<Stream>> { Ok(vec![]) }
//! #     async fn plan(&self, _: &PlanRequest<At>) -> Result<Plan<(), At>> { Ok(Plan::default()) }
//! #     async fn extract(&self, _: &Slice<()>, _: Option<&At>, _: &mut Out<'_, At>) -> Result<Done> { Ok(Done::Complete) }
//! # }
//! fn main() -> std::process::ExitCode {
//!     ingest_core::serve::<Acme>()
//! }
//! ```
//!
//! | module | what it is |
//! | --- | --- |
//! | [`frame`] | frames on the pipe, for both sides |
//! | [`batch`] | Arrow in frames |
//! | [`message`] | what the frames say |
//!
//! The protocol, for other languages, is in `docs/plugins.md`.

pub mod batch;
pub mod frame;
mod log;
pub mod message;
mod out;
mod serve;

pub use serve::{serve, serve_factory};
