//! A model source: a connector whose server lives in the test, for tests and measurements of everything around it.
//!
//! A [`Model`] holds streams of rows, a change log, and a list of troubles to come. [`ModelConnector`] reads it by every
//! shape of slice: windows of a live table, a frozen snapshot, windows of a cursor, a change feed over all streams.
//! Every value of a row is computed from its stream, id and version ([`rows`]), so that loss, double and corruption can be
//! told apart.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use ingest_core::{Builtin, Context, Factory, Selection};
//! use ingest_testkit::source::{Model, ModelConfig, ModelConnector};
//! let model = Model::new(ModelConfig { rows: 100, ..ModelConfig::default() });
//! let source = Builtin::<ModelConnector>::new().open(model.config(), Context::standalone("shop")).await.unwrap();
//! assert_eq!(source.schema(&Selection::default()).await.unwrap().len(), 1);
//! # });
//! ```

mod connector;
mod defects;
mod reading;
pub mod rows;
mod server;

pub use connector::{At, ModelConfig, ModelConnector, Reading, Work};
pub use defects::Defect;
pub use server::{Call, LateRows, Model, Trouble};
