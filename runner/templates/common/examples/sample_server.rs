//! The sample server as a program: what `ingest connector test` starts.

use ingest_testkit::conformance::server::serve;

#[path = "../tests/sample.rs"]
mod sample;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    serve(sample::SampleServer::start().await).await
}
