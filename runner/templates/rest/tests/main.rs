//! The conformance suite against the sample server, with what `conformance.yaml` says; and servers that mean harm.

mod hostile;
mod sample;

use std::path::Path;
use std::sync::Arc;

use ingest_connector_acme::Acme;
use ingest_core::Builtin;
use ingest_testkit::conformance::{self, file::File};

#[tokio::test]
async fn the_connector_conforms() {
    let file = File::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance.yaml")).expect("a readable file");
    let server = Arc::new(sample::SampleServer::start().await);
    let subject = file.subject(Arc::new(Builtin::<Acme>::new()), Some(server)).expect("a subject");
    conformance::run(subject).await.assert_passed();
}
