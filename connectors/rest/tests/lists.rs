//! Pages, samples, parents and bounds: what is asked for, and what comes out, with small stand-ins.

use ingest_core::{Mode, Safety, Selection};
use ingest_testkit::http::{HttpServer, Request, Response};
use serde_json::json;

use crate::harness::{Table, extract, full, inline, open, plan};

/// A list of so many records by offset or number; counts from `first`.
async fn counted(records: usize, cap: usize) -> HttpServer {
    HttpServer::start(move |request: Request| async move {
        let get = |name: &str| request.param(name).and_then(|text| text.parse::<usize>().ok());
        let size = get("limit").unwrap_or(cap).min(cap);
        let start = get("offset").unwrap_or_else(|| (get("page").unwrap_or(1) - 1) * size);
        let items: Vec<_> = (start..records.min(start + size)).map(|n| json!({"id": n})).collect();
        let body = json!({"items": items, "total": records, "pages": records.div_ceil(size),
            "more": start + size < records});
        Response::json(body.to_string())
    })
    .await
}

#[tokio::test]
async fn stand_in_lists_by_offset_and_number_are_read_whole_however_they_end() {
    for records in [0, 1, 2, 5, 6, 7, 12, 13] {
        for pages in [
            json!({"offset": {"parameter": "offset"}}),
            json!({"offset": {"parameter": "offset", "total": "total"}}),
            json!({"offset": {"parameter": "offset", "more": "more"}}),
            json!({"offset": {"parameter": "offset", "overlap": false}}),
            json!({"offset": {"parameter": "offset"}, "stable": true}),
            json!({"offset": {"parameter": "offset"}, "ends": "short", "size": {"records": 6}}),
            // The server gives 6 where 10 are asked for.
            json!({"offset": {"parameter": "offset"}, "size": {"parameter": "limit", "records": 10}}),
            json!({"number": {"parameter": "page"}}),
            json!({"number": {"parameter": "page", "total": "pages"}}),
            json!({"number": {"parameter": "page", "more": "more"}}),
            json!({"number": {"parameter": "page"}, "ends": "short", "size": {"records": 6}}),
        ] {
            let server = counted(records, 6).await;
            let stream =
                json!({"path": "/x", "records": "items", "key": ["id"], "columns": {"id": "int64"}, "pages": pages});
            let table = full(inline(server.url(), json!({"items": stream})), "items").await.unwrap();
            let ids: Vec<i64> = table.rows.iter().map(|row| row["id"].as_i64().unwrap()).collect();
            assert_eq!(ids, (0..records as i64).collect::<Vec<_>>(), "{records} records, {pages}");
            assert!(server.hits() <= records.div_ceil(5) + 2, "{records} records, {pages}: {}", server.hits());
        }
    }
}

#[tokio::test]
async fn stand_in_lists_by_count_have_marks_only_where_they_are_stable() {
    let server = counted(20, 6).await;
    for (stable, marks) in [(false, false), (true, true)] {
        let pages = json!({"offset": {"parameter": "offset"}, "stable": stable});
        let stream =
            json!({"path": "/x", "records": "items", "key": ["id"], "columns": {"id": "int64"}, "pages": pages});
        let source = open(inline(server.url(), json!({"items": stream}))).await.unwrap();
        let plan = plan(source.as_ref(), "items", Mode::Full, &Default::default()).await.unwrap();
        let out = extract(source.as_ref(), &plan.slices[0], None).await.unwrap();
        assert_eq!((out.rows(), out.last_mark().is_some()), (20, marks));
    }
}

#[tokio::test]
async fn stand_in_sample_shows_columns_and_what_does_not_fit_later_is_rescued() {
    let server = HttpServer::start(|request: Request| async move {
        match request.param("after").as_deref() {
            None => Response::json(
                r#"{"data": [{"id": 1, "price": 1.25, "at": "2026-01-01T00:00:00Z", "tags": ["a"]},
                             {"id": 2, "price": 2, "ok": true, "_ingest_x": 1}]}"#,
            ),
            Some("2") => Response::json(r#"{"data": [{"id": 18446744073709551616, "price": "dear", "late": 1}]}"#),
            Some(_) => Response::json(r#"{"data": []}"#),
        }
    })
    .await;
    let pages = json!({"cursor": {"parameter": "after", "field": "id"}});
    let stream = json!({"path": "/x", "records": "data", "pages": pages, "sample": 2});
    let config = inline(server.url(), json!({"items": stream}));
    let source = open(config.clone()).await.unwrap();
    let schema = source.schema(&Selection::default()).await.unwrap().remove(0).schema;
    let found: Vec<String> = schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
    let zone = r#"at Timestamp(µs, "UTC")"#;
    assert_eq!(found, [zone, "id Int64", "ok Boolean", "price Decimal128(38, 9)", "tags Utf8"]);
    let table = full(config, "items").await.unwrap();
    assert_eq!(table.rows.len(), 3);
    assert_eq!(table.rows[0]["tags"], r#"["a"]"#);
    assert_eq!(table.rows[2]["_ingest_rescued"], r#"{"id":18446744073709551616,"price":"dear","late":1}"#);
}

#[tokio::test]
async fn stand_in_empty_list_shows_no_columns_and_says_what_to_do() {
    let server = HttpServer::start(|_| async { Response::json("[]") }).await;
    let config = inline(server.url(), json!({"items": {"path": "/x"}}));
    let error = full(config.clone(), "items").await.err().unwrap();
    assert!(error.hint_text().unwrap().contains("columns"), "{error:?}");
    let problems = open(config).await.unwrap().check(&Selection::default()).await.unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
}

#[tokio::test]
async fn stand_in_grandchildren_get_what_their_parents_kept() {
    let server = HttpServer::start(|request: Request| async move {
        let list = |items: serde_json::Value| Response::json(items.to_string());
        match request.path.as_str() {
            "/a" => list(json!([{"id": 1, "k": "x y"}, {"id": 2, "k": "z/?"}])),
            "/a/x%20y/b" => list(json!([{"id": 10}, {"id": 11}])),
            "/a/z%2F%3F/b" => list(json!([{"id": 20}])),
            "/b/10/c" | "/b/11/c" | "/b/20/c" => list(json!([{"id": request.param("a").unwrap()}])),
            _ => Response::status(404),
        }
    })
    .await;
    let streams = json!({
        "a": {"path": "/a", "columns": {"id": "int64", "key": {"type": "string", "from": "k"}}},
        "b": {"path": "/a/${parent.key}/b", "columns": {"id": "int64"}, "parent": {"stream": "a", "keep": {"a_id": "id"}}},
        "c": {"path": "/b/${parent.id}/c", "parameters": {"a": "${parent.a_id}"}, "columns": {"id": "string"},
            "parent": {"stream": "b", "keep": {"b_id": "id", "a_id": "a_id"}}, "key": ["a_id", "b_id", "id"]}
    });
    let table = full(inline(server.url(), streams.clone()), "c").await.unwrap();
    assert_eq!(table.column("id"), ["1", "1", "2"]);
    assert_eq!(
        (table.column("a_id"), table.column("b_id")),
        (vec!["1".to_owned(), "1".into(), "2".into()], vec!["10".to_owned(), "11".into(), "20".into()])
    );
    // From the mark after the first parent on, the rest comes.
    let source = open(inline(server.url(), streams)).await.unwrap();
    let plan = plan(source.as_ref(), "c", Mode::Full, &Default::default()).await.unwrap();
    let whole = extract(source.as_ref(), &plan.slices[0], None).await.unwrap();
    let mark =
        whole.events.iter().find_map(|e| if let ingest_core::Event::Mark(at) = e { Some(at.clone()) } else { None });
    let rest = extract(source.as_ref(), &plan.slices[0], mark.as_ref()).await.unwrap();
    assert_eq!((whole.rows(), rest.rows()), (3, 2));
}

#[tokio::test]
async fn stand_in_gets_bounds_as_the_manifest_says_and_rows_outside_are_dropped() {
    let server = HttpServer::start(|_| async {
        Response::json(
            r#"[{"id": 1, "at": "2025-12-31T23:59:59Z"}, {"id": 2, "at": "2026-01-01T00:00:00Z"}, {"id": 3, "at": null},
                {"id": 4, "at": "2026-01-31T00:00:00Z"}, {"id": 5, "at": "2999-01-01T00:00:00Z"}]"#,
        )
        .header("date", "Sat, 31 Jan 2026 12:00:00 GMT")
    })
    .await;
    for (format, from, to, exclusive) in [
        ("date", "2025-12-31", "2026-01-31", true),
        ("date", "2026-01-01", "2026-01-31", false),
        ("rfc3339", "2026-01-01T00:00:00Z", "2026-01-31T11:59:00Z", false),
        ("rfc3339", "2025-12-31T23:59:59Z", "2026-01-31T11:59:00Z", true),
        ("unix_s", "1767225600", "1769860740", false),
        ("unix_ms", "1767225599000", "1769860740000", true),
    ] {
        let incremental = json!({"cursor": "at", "from": "since", "to": "until", "format": format, "safety": "lag(60s)",
            "start": "2026-01-01", "from_is_exclusive": exclusive, "sees_changes": true});
        let columns = json!({"id": "int64", "at": "timestamp"});
        let stream = json!({"path": "/x", "key": ["id"], "columns": columns, "incremental": incremental});
        let source = open(inline(server.url(), json!({"items": stream}))).await.unwrap();
        let described = source.schema(&Selection::default()).await.unwrap().remove(0);
        assert_eq!(described.modes[0], Mode::Incremental);
        assert_eq!(described.cursors[0].safety, Safety::Lag(std::time::Duration::from_secs(60)));
        let mut table = Table::default();
        table.read(source.as_ref(), "items", Mode::Incremental).await.unwrap();
        let ids = if format == "date" { vec!["2"] } else { vec!["2", "4"] };
        assert_eq!(table.column("id"), ids, "{format}");
        let asked = server.requests().pop().unwrap();
        assert_eq!(
            (asked.param("since").as_deref(), asked.param("until").as_deref()),
            (Some(from), Some(to)),
            "{format}"
        );
        assert!(table.warnings[0].contains("\"at\" is null"), "{:?}", table.warnings);
    }
}

#[tokio::test]
async fn stand_in_links_are_kept_without_the_secrets_that_they_carry() {
    let server = HttpServer::start(|request: Request| async move {
        assert_eq!(request.param("key").as_deref(), Some("canary-query-key"));
        match request.param("page").as_deref() {
            None => {
                let host = request.header("host").unwrap().to_owned();
                let link = format!("http://{host}/x?page=2&key=canary-query-key&access_token=canary-other&q=a%26b");
                Response::json(json!({"data": [{"id": 1}], "next": link}).to_string())
            }
            Some(_) => {
                assert_eq!(request.param("q").as_deref(), Some("a&b"));
                Response::json(r#"{"data": [{"id": 2}]}"#)
            }
        }
    })
    .await;
    let stream = json!({"path": "/x", "records": "data", "columns": {"id": "int64"}, "pages": {"next_link": "next"}});
    let mut config = inline(server.url(), json!({"items": stream}));
    config["manifest"]["auth"] = json!({"query": {"name": "key", "value": "${secrets.key}"}});
    config["manifest"]["secrets"] = json!({"key": {"description": "the key"}});
    config["secrets"] = json!({"key": "canary-query-key"});
    let source = open(config).await.unwrap();
    let plan = plan(source.as_ref(), "items", Mode::Full, &Default::default()).await.unwrap();
    let out = extract(source.as_ref(), &plan.slices[0], None).await.unwrap();
    assert_eq!(out.rows(), 2);
    let mark = format!("{:?}", out.last_mark().unwrap());
    assert!(mark.contains("page=2") && !mark.contains("canary"), "{mark}");
    let rest = extract(source.as_ref(), &plan.slices[0], out.last_mark()).await.unwrap();
    assert_eq!(rest.rows(), 1);
}

#[tokio::test]
async fn stand_in_answer_that_is_one_record_is_one_row() {
    let server = HttpServer::start(|_| async { Response::json(r#"{"id": 7, "name": "me", "x": [1]}"#) }).await;
    let stream = json!({"path": "/me", "records": ".", "columns": {"id": "int64", "name": "string"}});
    let table = full(inline(server.url(), json!({"items": stream})), "items").await.unwrap();
    assert_eq!(table.rows.len(), 1);
    assert_eq!(table.rows[0]["_ingest_rescued"], r#"{"x":[1]}"#);
}
