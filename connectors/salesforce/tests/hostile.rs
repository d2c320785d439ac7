//! Servers that mean harm or are broken, and what the connector gives them: nothing.

use std::sync::Arc;

use ingest_core::Mode;
use ingest_testkit::hostile::Suite;
use ingest_testkit::http::{Request, Response};
use ingest_testkit::lake::Lake;
use ingest_testkit::salesforce::{CLIENT_SECRET, SalesforceServer};
use serde_json::json;

use crate::harness::{DAY, MINUTE, NOW, config, open};

#[tokio::test(start_paused = true)]
async fn no_hostile_instance_gets_the_secret_bends_rows_or_holds_a_run_for_ever() {
    // Sign-in is honest and names the instance, which is not.
    let login = Arc::new(SalesforceServer::start().await);
    login.freeze(NOW);
    login.seed("Account", 500, NOW - DAY, NOW - 10 * MINUTE);
    login.state().page_rows = 200;
    let honest = {
        let login = login.clone();
        move |request: &Request| login.answer(request)
    };
    let links = {
        let login = login.clone();
        move |request: &Request, link: &str| match request.param("q") {
            Some(soql) if !soql.contains("COUNT") => {
                Response::json(json!({"done": false, "records": [], "nextRecordsUrl": link}).to_string())
            }
            _ => login.answer(request),
        }
    };
    let read = move |endpoint: String| {
        let login = login.clone();
        async move {
            login.state().instance = Some(endpoint);
            let source = open(config(login.url())).await?;
            let mut lake = Lake::new(1);
            lake.run(source.as_ref(), &["Account"], Mode::Full).await?;
            Ok(lake.rows("Account").len())
        }
    };
    Suite::new(CLIENT_SECRET, 500, honest, read).with_links(links).play_all().await;
}
