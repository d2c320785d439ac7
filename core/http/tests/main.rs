//! Tests of the client against servers that this process plays: see `ingest_testkit::http` and `::hostile`.

mod hostile;
mod hosts;
mod limits;
mod oauth;
mod requests;
mod tls;

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};
use ingest_core::json::{Decoder, PageShape};
use ingest_core::{Context, Result, Secret};
use ingest_http::{Auth, ClientConfig, HttpClient, PageGuard};

/// The secret of all tests: it must turn up nowhere.
const CANARY: &str = "canary/7f3a91+c2";

/// A configuration for a server of this process.
fn config(endpoint: &str) -> ClientConfig {
    let mut config = ClientConfig::new("https://api.example.com", Some(endpoint)).expect("a good endpoint");
    config.auth = Auth::Bearer(Secret::new(CANARY));
    config
}

fn open(config: ClientConfig) -> HttpClient {
    HttpClient::new(config, &Context::standalone("test")).expect("a good configuration")
}

fn client(endpoint: &str) -> HttpClient {
    open(config(endpoint))
}

fn schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Utf8, true)]))
}

/// Reads all pages by links.
async fn read_all(client: &HttpClient, path: &str) -> Result<usize> {
    let (mut decoder, shape) = (Decoder::new(schema())?, PageShape::at("data").pick("next"));
    let (mut guard, mut rows) = (PageGuard::new(), 0);
    let mut fetch = client.get(path).query("limit", 2).start();
    loop {
        let reply = fetch.await?;
        let next = decoder.page(reply.body(), &shape)?.text("next")?;
        rows += decoder.flush()?.num_rows();
        let Some(next) = next else { return Ok(rows) };
        guard.next(&next)?;
        fetch = client.follow(&reply, &next).start();
    }
}
