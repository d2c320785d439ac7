//! A REST source from outside: a manifest beside the configuration, a stand-in of its API, tables in the lake.

use ingest_testkit::http::{HttpServer, Request, Response};
use serde_json::{Value, json};

use crate::cli::{Output, Project};

const CANARY: &str = "canary-rest-token";

const MANIFEST: &str = "\
base_url: https://api.example.com
auth: {bearer: \"${secrets.token}\"}
secrets: {token: {description: the key}}
streams:
  items:
    path: /items
    records: data
    key: [id]
    columns: {id: int64, price: \"decimal(18,2)\"}
    pages: {next_link: next}
  parts:
    path: /items/${parent.id}/parts
    parent: {stream: items, keep: {item_id: id}}
    key: [item_id, n]
    columns: {n: int64}
";

/// Three pages of two items, one of which has no parts.
async fn stand_in() -> HttpServer {
    HttpServer::start(|request: Request| async move {
        if request.header("authorization") != Some(&format!("Bearer {CANARY}")) {
            return Response::status(401);
        }
        if request.path == "/items" {
            let page = request.param("page").map_or(0, |page| page.parse::<i64>().unwrap());
            let item = |id: i64| json!({"id": id, "price": format!("{id}.10"), "colour": "red"});
            let next = (page < 2).then(|| format!("/items?page={}", page + 1));
            return Response::json(json!({"data": [item(page * 2), item(page * 2 + 1)], "next": next}).to_string());
        }
        let id = request.path.trim_start_matches("/items/").trim_end_matches("/parts");
        let parts: Vec<Value> = (0..id.parse::<i64>().unwrap()).map(|n| json!({"n": n})).collect();
        Response::json(Value::from(parts).to_string())
    })
    .await
}

async fn run(project: &Project, arguments: &[&str]) -> Output {
    let mut command = project.command(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    let output = output.expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Output { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

fn project(server: &HttpServer, manifest: &str) -> Project {
    let configuration = format!(
        "sources:\n  acme:\n    connector: rest\n    manifest: ./apis/acme.yaml\n    endpoint: {}\n    \
         secrets: {{token: \"${{TOKEN}}\"}}\n",
        server.url()
    );
    Project::new(&configuration).set("TOKEN", CANARY).file("apis/acme.yaml", manifest)
}

#[tokio::test]
async fn manifest_beside_the_configuration_fills_tables_from_a_stand_in_and_again_the_same() {
    let server = stand_in().await;
    let project = project(&server, MANIFEST);
    for _ in 0..2 {
        let done = run(&project, &["run", "--source", "acme", "--progress", "off"]).await;
        assert_eq!(done.code, Some(0), "{done:?}");
        let shown = run(&project, &["show", "acme.items", "--json"]).await;
        let rows: Vec<Value> = serde_json::from_str(&shown.stdout).unwrap();
        let mut prices: Vec<String> = rows.iter().map(|row| row["price"].as_str().unwrap().to_owned()).collect();
        prices.sort();
        assert_eq!(prices, ["0.10", "1.10", "2.10", "3.10", "4.10", "5.10"]);
        assert_eq!(rows[0]["_ingest_rescued"], r#"{"colour":"red"}"#);
        let shown = run(&project, &["show", "acme.parts", "--json"]).await;
        let rows: Vec<Value> = serde_json::from_str(&shown.stdout).unwrap();
        assert_eq!(rows.len(), 15);
        assert!(rows.iter().all(|row| row["n"].as_i64() < row["item_id"].as_i64()));
    }
}

#[tokio::test]
async fn slip_in_a_manifest_is_told_with_its_line_and_the_secret_is_shown_nowhere() {
    let server = stand_in().await;
    let project = project(&server, &MANIFEST.replace("next_link", "nextlink"));
    let refused = run(&project, &["run", "--source", "acme"]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    let told = "acme.yaml:10: streams.items.pages.nextlink: unknown key; did you mean `next_link`?";
    assert!(refused.stderr.contains(told), "{refused:?}");
    let shown = run(&project, &["config", "show"]).await;
    assert!(shown.stdout.contains("***"), "{shown:?}");
    for output in [&refused, &shown] {
        assert!(!output.stdout.contains(CANARY) && !output.stderr.contains(CANARY), "{output:?}");
    }
}

#[tokio::test]
async fn schema_of_a_manifest_is_where_the_readme_says() {
    let project = Project::empty();
    let printed = run(&project, &["connectors", "rest", "--json"]).await;
    let spec: Value = serde_json::from_str(&printed.stdout).unwrap();
    let manifest = &spec["properties"]["manifest"]["anyOf"][1];
    assert!(manifest["properties"]["streams"].is_object(), "{spec}");
}
