//! Servers that mean harm or are broken, and what the connector gives them: nothing.

use std::sync::{Arc, Mutex};

use ingest_core::{Json, Mode};
use ingest_testkit::hostile::Suite;
use ingest_testkit::http::{Request, Response};
use serde_json::json;

use crate::harness::{Table, inline, open, seconds_now, shop};
use crate::stand_ins::{CANARY, GitHub, Shop, answer};

async fn count(config: Json, stream: &str) -> ingest_core::Result<usize> {
    let source = open(config).await?;
    Table::default().read(source.as_ref(), stream, Mode::Full).await
}

#[tokio::test(start_paused = true)]
async fn no_hostile_stand_in_of_github_gets_the_token_bends_rows_or_holds_a_run_for_ever() {
    let api = Arc::new(Mutex::new(GitHub::new(seconds_now())));
    let config = |endpoint: String| {
        let mut config = crate::harness::github(&endpoint);
        // The rate of tests is none; the pauses of the client are what is looked at.
        config["rate"] = 1e6.into();
        config
    };
    let honest = move |request: &Request| answer(&api, request);
    let links = |_: &Request, link: &str| {
        Response::json(r#"[{"id": 1, "name": "a"}]"#).header("link", format!(r#"<{link}>; rel="next""#))
    };
    let read = move |endpoint: String| async move { count(config(endpoint), "repos").await };
    Suite::new(CANARY, 23, honest, read).with_links(links).play_all().await;
}

#[tokio::test(start_paused = true)]
async fn no_hostile_stand_in_of_a_shop_gets_the_key_bends_rows_or_holds_a_run_for_ever() {
    let api = Arc::new(Mutex::new(Shop::new(seconds_now())));
    let honest = move |request: &Request| answer(&api, request);
    let read = |endpoint: String| async move { count(shop(&endpoint), "orders").await };
    Suite::new(CANARY, 37, honest, read).play_all().await;
}

#[tokio::test(start_paused = true)]
async fn no_hostile_server_gets_a_key_in_the_query_by_links_in_the_body() {
    // A page is longer than what is sent before a connection is reset.
    let name = "x".repeat(200);
    let honest = move |request: &Request| match request.param("page").as_deref() {
        None => {
            let body = json!({"data": [{"id": 1, "name": name}, {"id": 2}], "next": "/items?page=2"});
            Response::json(body.to_string())
        }
        Some(_) => Response::json(json!({"data": [{"id": 3, "name": name}], "next": null}).to_string()),
    };
    let links = |_: &Request, link: &str| Response::json(json!({"data": [{"id": 1}], "next": link}).to_string());
    let read = |endpoint: String| async move {
        let stream = json!({"path": "/items", "records": "data", "key": ["id"], "columns": {"id": "int64"},
            "pages": {"next_link": "next"}});
        let mut config = inline(&endpoint, json!({"items": stream}));
        config["manifest"]["auth"] = json!({"query": {"name": "api_key", "value": "${secrets.key}"}});
        config["manifest"]["secrets"] = json!({"key": {}});
        config["secrets"] = json!({"key": CANARY});
        count(config, "items").await
    };
    Suite::new(CANARY, 3, honest, read).with_links(links).play_all().await;
}
