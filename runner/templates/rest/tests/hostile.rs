//! Servers that mean harm or are merely broken, and what the connector gives them: nothing.

use ingest_connector_acme::Acme;
use ingest_core::{Builtin, Context, Factory, Intent, Mode, PlanRequest, Result, Selected, Selection};
use ingest_testkit::hostile::Suite;
use ingest_testkit::out::Collected;
use serde_json::json;

use crate::sample::{API_KEY, SampleServer};

/// Reads all customers and counts them.
async fn read(endpoint: String) -> Result<usize> {
    let config = json!({"endpoint": endpoint, "api_key": API_KEY, "page_size": 7});
    let source = Builtin::<Acme>::new().open(config, Context::standalone("acme")).await?;
    let selection = Selection { select: vec!["customers".into()], ..Selection::default() };
    let selected = |stream| Selected {
        stream,
        mode: Mode::Full,
        cursor: None,
        columns: None,
        filter: None,
        positions: Default::default(),
    };
    let request = PlanRequest {
        streams: source.schema(&selection).await?.into_iter().map(selected).collect(),
        intent: Intent::Here,
        slice_bytes: 64 << 20,
        min_slices: 1,
        interval: None,
        now: 0,
    };
    let mut out = Collected::new();
    for slice in &source.plan(&request).await?.slices {
        source.extract(slice, 1, None, &mut out).await?;
    }
    Ok(out.rows())
}

#[tokio::test(start_paused = true)]
async fn no_hostile_server_gets_the_key_bends_rows_or_holds_a_run_for_ever() {
    let server = SampleServer::start().await;
    let api = server.api.clone();
    Suite::new(API_KEY, 60, move |request| api.answer(request), read).play_all().await;
}
