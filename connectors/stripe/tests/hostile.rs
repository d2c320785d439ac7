//! Servers that mean harm or are broken, and what the connector gives them: nothing.

use std::sync::Arc;

use ingest_connector_stripe::{Stripe, StripeConfig};
use ingest_core::{Connector, Context, Secret};
use ingest_testkit::hostile::Suite;
use ingest_testkit::stripe::{API_KEY, StripeServer};

use crate::harness::{Lake, NOW};

#[tokio::test(start_paused = true)]
async fn no_hostile_server_gets_the_key_bends_rows_or_holds_a_run_for_ever() {
    let stand_in = Arc::new(StripeServer::start().await);
    stand_in.freeze(NOW);
    stand_in.seed("customers", 250, NOW - 90_000, NOW - 3_600);
    let honest = stand_in.clone();
    let read = |endpoint: String| async move {
        let mut config = StripeConfig::default();
        config.api_key = Secret::new(API_KEY);
        config.endpoint = Some(endpoint);
        let stripe = Stripe::open(config, Context::standalone("stripe")).await?;
        let mut lake = Lake::default();
        lake.run(&stripe, &["customers"]).await?;
        Ok(lake.rows("customers"))
    };
    Suite::new(API_KEY, 250, move |request| honest.answer(request), read).play_all().await;
}
