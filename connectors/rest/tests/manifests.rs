//! Manifests: what is refused, with its place and remedy; secrets that are not shown; the examples.

use ingest_connector_rest::Rest;
use ingest_core::{Builtin, ErrorKind, Factory, Json};
use serde_json::json;

use crate::harness::{example, inline, open, refused};

/// A file with a manifest.
fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("acme.yaml");
    std::fs::write(&path, text).unwrap();
    (folder, path.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn all_faults_of_a_file_are_told_at_once_with_their_lines() {
    let (_folder, path) = file(
        "base_url: https://api.acme.com\nauth:\n  bearer: sk-literal-canary\nstreams:\n  items:\n    path: /x?limit=1\n    \
         key: [idd]\n    columns: {id: int64}\n    pages:\n      link_header: true\n      cursor: {parameter: after}\n    \
         incremental: {cursor: id, window: 30d}\n  lines:\n    path: /y\n    columns: {n: int64}\n    parent: {stream: item}\n",
    );
    let error = refused(json!({"manifest": path})).await;
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    let text = format!("{error} {:?}", error.hint_text());
    for part in [
        "acme.yaml:3: auth.bearer: must be a secret of the source",
        "acme.yaml:6: streams.items.path: ",
        "acme.yaml:7: streams.items.key: there is no column \"idd\"; did you mean `id`?",
        "acme.yaml:9: streams.items.pages: takes one of",
        "acme.yaml:11: streams.items.pages.cursor: needs one of `at` and `field`",
        "acme.yaml:12: streams.items.incremental.cursor: must be a column of type timestamp",
        "acme.yaml:12: streams.items.incremental.safety: is missing",
        "acme.yaml:12: streams.items.incremental.window: needs `start`",
        "acme.yaml:16: streams.lines.parent: neither",
        "acme.yaml:16: streams.lines.parent.stream: there is no stream \"item\"; did you mean `items`?",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("canary"), "{text}");
}

#[tokio::test]
async fn values_and_secrets_have_to_be_declared_and_set() {
    let manifest = json!({"base_url": "https://${values.shop}.example.com", "auth": {"bearer": "${secrets.token}"},
        "values": {"shop": {"description": "its name"}}, "secrets": {"token": {"description": "Settings, Keys"}},
        "streams": {"a": {"path": "/a", "columns": {"id": "int64"}}}});
    let error = refused(json!({"manifest": manifest, "values": {"shp": "x"}})).await.to_string();
    for part in
        ["values.shop: is missing (its name)", "secrets.token: is missing (Settings, Keys)", "did you mean `shop`?"]
    {
        assert!(error.contains(part), "{part} in {error}");
    }
    for value in ["evil.net/", "a@evil.net", "evil.net#", "..", ""] {
        let config = json!({"manifest": manifest, "values": {"shop": value}, "secrets": {"token": "t"}});
        let error = refused(config).await;
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{value}");
    }
    open(json!({"manifest": manifest, "values": {"shop": "my-shop"}, "secrets": {"token": "t"}})).await.unwrap();
}

#[tokio::test]
async fn a_manifest_cannot_point_at_this_machine_by_itself() {
    for url in ["http://127.0.0.1:9", "https://localhost", "http://api.example.com", "ftp://x", "https://u:p@x.com"] {
        let manifest = json!({"base_url": url, "streams": {"a": {"path": "/a", "columns": {"id": "int64"}}}});
        assert_eq!(refused(json!({"manifest": manifest})).await.kind(), ErrorKind::ConfigInvalid, "{url}");
    }
}

#[tokio::test]
async fn secrets_stand_in_auth_alone() {
    for (key, text) in [("path", "/x/${secrets.k}"), ("description", "")] {
        let mut config = inline("http://127.0.0.1:9", json!({"a": {"path": "/a", "columns": {"id": "int64"}}}));
        config["manifest"]["secrets"] = json!({"k": {}});
        config["secrets"] = json!({"k": "canary"});
        config["manifest"]["streams"]["a"][key] = text.into();
        match key {
            "path" => assert!(refused(config).await.to_string().contains("`auth` alone")),
            _ => drop(open(config).await.unwrap()),
        }
    }
}

#[tokio::test]
async fn what_is_no_manifest_is_refused_with_a_hint() {
    let (_folder, broken) = file("a: [1");
    let folder = std::env::temp_dir();
    for manifest in [json!("/no/such/file.yaml"), json!(broken), json!(folder), Json::Null, json!([1]), json!({})] {
        let error = refused(json!({"manifest": manifest})).await;
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{manifest}");
        assert!(error.hint_text().is_some(), "{manifest}");
    }
    assert!(refused(json!({})).await.to_string().contains("manifest: is missing"));
}

#[tokio::test]
async fn secrets_are_not_shown_by_a_configuration() {
    let config: ingest_connector_rest::RestConfig =
        serde_json::from_value(json!({"manifest": "x.yaml", "secrets": {"k": "canary-secret"}})).unwrap();
    assert!(!format!("{config:?}").contains("canary"));
}

#[tokio::test]
async fn the_examples_are_whole_and_the_readme_shows_every_key() {
    for name in ["github.yaml", "hubspot.yaml", "shop.yaml"] {
        let text = std::fs::read_to_string(example(name)).unwrap();
        let values = if text.contains("values.org") { json!({"org": "a"}) } else { json!({}) };
        let values = if text.contains("values.client_id") { json!({"client_id": "a"}) } else { values };
        let secrets: serde_json::Map<String, Json> = ["token", "api_key", "client_secret", "refresh_token"]
            .into_iter()
            .filter(|name| text.contains(&format!("secrets.{name}")))
            .map(|name| (name.to_owned(), "x".into()))
            .collect();
        open(json!({"manifest": example(name), "values": values, "secrets": secrets})).await.unwrap();
    }
    let readme = include_str!("../README.md");
    let schema = Builtin::<Rest>::new().spec().config.unwrap();
    let mut missing = Vec::new();
    keys(&schema["properties"]["manifest"]["anyOf"][1], &mut missing);
    keys(&schema, &mut missing);
    missing.retain(|key| !readme.contains(&format!("`{key}`")) && !readme.contains(&format!("{key}:")));
    missing.sort();
    missing.dedup();
    assert!(missing.is_empty(), "README.md does not explain: {}", missing.join(", "));
}

/// The names of all properties of a schema.
fn keys(schema: &Json, out: &mut Vec<String>) {
    match schema {
        Json::Object(object) => {
            for (name, inner) in object {
                if let (true, Some(properties)) = (name == "properties", inner.as_object()) {
                    out.extend(properties.keys().cloned());
                    properties.values().for_each(|inner| keys(inner, out));
                } else {
                    keys(inner, out);
                }
            }
        }
        Json::Array(items) => items.iter().for_each(|item| keys(item, out)),
        _ => {}
    }
}
