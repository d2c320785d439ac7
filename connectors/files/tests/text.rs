//! CSV, TSV and NDJSON with everything that people put into them.

use serde_json::{Value as Json, json};

use crate::support::{Folder, Table, load, stream, types};

async fn csv(content: impl AsRef<[u8]>, options: Json) -> (Vec<(String, String)>, Table) {
    let folder = Folder::new();
    folder.write("t.csv", content);
    let mut stream_options = json!({"path": "*.csv"});
    if let (Some(all), Some(more)) = (stream_options.as_object_mut(), options.as_object()) {
        all.extend(more.clone());
    }
    let source = folder.source(json!({"t": stream_options})).await;
    let mut types = types(&stream(source.as_ref(), "t").await);
    assert_eq!(types.pop().expect("last").0, "_source_file");
    (types, load(source.as_ref(), "t").await)
}

fn rescued(table: &Table) -> Vec<Json> {
    let text = |row: &Json| row["_ingest_rescued"].as_str().map(|t| serde_json::from_str(t).expect("JSON"));
    table.rows.iter().filter_map(text).collect()
}

fn reasons(table: &Table) -> Vec<&str> {
    table.bad.iter().map(|bad| bad.reason.as_str()).collect()
}

#[tokio::test]
async fn bad_records_are_quarantined_with_their_line_and_the_others_are_read() {
    let content = "id,name,city,note\n1,a,b,c\n2,a,b,c,d\n3,a\n4,\"x\ny\",b,c\n5,\"a\"z,b,c\n6,a,b,c\n";
    let (_, table) = csv(content, json!({})).await;
    assert_eq!(table.column("id"), ["1", "4", "6"]);
    assert_eq!(
        reasons(&table),
        [
            "t.csv line 3: 5 fields, expected 4",
            "t.csv line 4: 2 fields, expected 4",
            "t.csv line 7: text behind a closing quote"
        ]
    );
    assert_eq!(table.bad[0].record, "2,a,b,c,d");
}

#[tokio::test]
async fn a_quote_that_is_not_closed_costs_its_own_line_alone() {
    let (_, table) = csv("id,name\n1,a\n2,\"b\n3,c\n4,d\n", json!({})).await;
    assert_eq!(table.column("id"), ["1", "3", "4"]);
    assert_eq!(reasons(&table), ["t.csv line 3: a quote that is not closed"]);
}

#[tokio::test]
async fn values_that_do_not_fit_are_rescued_and_nothing_is_bent() {
    let mut content = String::from("id,price,day,code,big\n");
    for i in 0..40_000 {
        content.push_str(&format!("{i},1.25,2025-01-31,{i},1\n"));
    }
    content.push_str("x7,1.255,31.01.2025,007,92233720368547758080\n9007199254740993,0.1,,1,9223372036854775807\n");
    let (types, table) = csv(&content, json!({"sample_bytes": 4096})).await;
    let expected =
        [("id", "Int64"), ("price", "Decimal128(38, 2)"), ("day", "Date32"), ("code", "Int64"), ("big", "Int64")];
    assert_eq!(types, expected.map(|(n, t)| (n.to_owned(), t.to_owned())));
    assert_eq!(table.rows.len(), 40_002);
    let expected = json!({
        "id": "x7", "price": "1.255", "day": "31.01.2025", "code": "007", "big": "92233720368547758080"
    });
    assert_eq!(rescued(&table), [expected]);
    let odd = &table.rows[40_000];
    for column in ["id", "price", "day", "code", "big"] {
        assert!(odd[column].is_null(), "{column}");
    }
    assert_eq!(table.rows[40_001]["id"], "9007199254740993");
    assert_eq!(table.rows[40_001]["big"], "9223372036854775807");
}

#[tokio::test]
async fn declared_types_win_over_what_a_sample_says() {
    let options = json!({"types": {"id": "int64", "zip": "string", "total": "decimal(10,3)", "at": "timestamp", "ok": "boolean"}});
    let (types, table) =
        csv("id,zip,total,at,ok\n007,10115,2.5,2025-01-31,yes\nabc,2,3,2025-01-31 10:00,0\n", options).await;
    let expected = [
        ("id", "Int64"),
        ("zip", "Utf8"),
        ("total", "Decimal128(10, 3)"),
        ("at", "Timestamp(µs, \"UTC\")"),
        ("ok", "Boolean"),
    ];
    assert_eq!(types, expected.map(|(n, t)| (n.to_owned(), t.to_owned())));
    assert_eq!(table.column("id"), ["7", "null"]);
    assert_eq!(table.column("total"), ["2.500", "3.000"]);
    assert_eq!(table.column("at"), ["2025-01-31T00:00:00Z", "2025-01-31T10:00:00Z"]);
    assert_eq!(table.column("ok"), ["false", "true"]);
    assert_eq!(rescued(&table), [json!({"id": "abc"})]);
}

#[tokio::test]
async fn bytes_that_are_no_utf8_are_quarantined_and_their_neighbours_stay() {
    let (_, table) = csv(b"id,name\n1,caf\xc3\xa9\n2,caf\xe9\n3,ok\n4,\xff\xfe,x\n5,fin\n", json!({})).await;
    assert_eq!(table.column("id"), ["1", "3", "5"]);
    assert_eq!(table.column("name"), ["café", "fin", "ok"]);
    let mut reasons = reasons(&table);
    reasons.sort_unstable();
    assert_eq!(reasons, ["t.csv line 3: invalid UTF-8 at byte 6 of it", "t.csv line 5: 3 fields, expected 2"]);
}

#[tokio::test]
async fn other_encodings_are_read_by_their_label_and_by_their_byte_order_mark() {
    let (_, table) = csv(b"id,name\n1,caf\xe9\n", json!({"encoding": "windows-1252"})).await;
    assert_eq!(table.column("name"), ["café"]);
    let utf16: Vec<u8> = "\u{feff}id,name\r\n1,café\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(csv(&utf16, json!({})).await.1.column("name"), ["café"]);
    let (_, table) = csv(b"id,name\n1,\x81\n2,\x82\xa0\n", json!({"encoding": "shift_jis"})).await;
    assert_eq!(table.column("name"), ["あ"]);
    assert_eq!(table.bad.len(), 1, "{:?}", table.bad);
}

#[tokio::test]
async fn byte_order_mark_line_ends_and_embedded_breaks_are_no_data() {
    let (types, table) = csv("\u{feff}id,note\r\n1,\"a\r\nb\"\r\n\r\n2,\"c \"\"d\"\"\"", json!({})).await;
    assert_eq!(types[0].0, "id");
    assert_eq!(table.column("note"), ["a\r\nb", "c \"d\""]);
    assert_eq!(csv("id,b\r1,2\r3,4\r", json!({})).await.1.column("id"), ["1", "3"]);
}

#[tokio::test]
async fn empty_and_repeated_names_of_columns_are_made_unique_with_a_warning() {
    let (types, table) = csv("id,ID, name ,,name\n1,2,a,b,c\n", json!({})).await;
    let names: Vec<&str> = types.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["id", "ID_2", "name", "column_4", "name_2"]);
    assert_eq!(table.warnings, ["t: the header has empty or repeated names; those columns got numbers"]);
    assert_eq!(table.column("ID_2"), ["2"]);
}

#[tokio::test]
async fn dialects_are_read_as_told() {
    let options = json!({"delimiter": ";", "quote": "'", "header": false, "null_values": ["", "NULL", "\\N"]});
    let (_, table) = csv("1;'a;b'\n2;NULL\n3;\\N\n", options).await;
    assert_eq!(table.column("column_1"), ["1", "2", "3"]);
    assert_eq!(table.column("column_2"), ["a;b", "null", "null"]);
    let folder = Folder::new();
    folder.write("t.tsv", "id\tname\n1\ta,b\n");
    let source = folder.source(json!({})).await;
    assert_eq!(load(source.as_ref(), "t").await.column("name"), ["a,b"]);
}

#[tokio::test]
async fn files_of_different_shape_make_one_table() {
    let folder = Folder::new();
    folder.write("in/a.csv", "id,name\n1,x\n");
    folder.write("in/b.csv", "name,id,extra\ny,2,5\n");
    folder.write("in/c.csv", "id\nseven\n");
    folder.write("in/empty.csv", "");
    folder.write("in/header.csv", "id,name,extra,more\n");
    let source = folder.source(json!({})).await;
    let mut names = types(&stream(source.as_ref(), "in").await);
    names.sort();
    let expected = [("_source_file", "Utf8"), ("extra", "Int64"), ("id", "Utf8"), ("more", "Utf8"), ("name", "Utf8")];
    assert_eq!(names, expected.map(|(n, t)| (n.to_owned(), t.to_owned())));
    let table = load(source.as_ref(), "in").await;
    assert_eq!(table.column("id"), ["1", "2", "seven"]);
    assert_eq!(table.column("name"), ["null", "x", "y"]);
    assert_eq!(table.column("extra"), ["5", "null", "null"]);
    assert!(table.bad.is_empty() && rescued(&table).is_empty());
}

#[tokio::test]
async fn columns_that_no_sample_showed_are_rescued() {
    let folder = Folder::new();
    for i in 0..40 {
        let more = if i == 13 { (",surprise", ",9") } else { ("", "") };
        folder.write(&format!("in/{i:02}.csv"), format!("id{}\n{i}{}\n", more.0, more.1));
        folder.touch(&format!("in/{i:02}.csv"), 1_000_000 + i);
    }
    let source = folder.source(json!({})).await;
    let table = load(source.as_ref(), "in").await;
    assert_eq!(table.rows.len(), 40);
    assert_eq!(rescued(&table), [json!({"surprise": "9"})]);
}

#[tokio::test]
async fn bad_lines_of_ndjson_are_quarantined_and_numbers_stay_exact() {
    let folder = Folder::new();
    let lines = [
        r#"{"id": 9007199254740993, "amount": 0.10, "tags": ["a", {"b": 1.50}]}"#,
        r#"{"id": 2, "amount": "#,
        "",
        "[1, 2]",
        r#"{"id": 3, "amount": 2.25, "other": true}"#,
        r#"{"id": 4, "id": 5, "amount": null}"#,
    ];
    let mut content = lines.join("\r\n").into_bytes();
    content.extend(b"\n{\"id\": 6, \"amount\": 1, \"x\": \"\xff\"}\n");
    folder.write("t.ndjson", content);
    let source = folder.source(json!({})).await;
    let table = load(source.as_ref(), "t").await;
    assert_eq!(table.column("id"), ["3", "5", "9007199254740993"]);
    assert_eq!(table.column("amount"), ["0.100000000", "2.250000000", "null"]);
    assert_eq!(table.column("tags"), ["[\"a\",{\"b\":1.50}]", "null", "null"]);
    let places: Vec<&str> = table.bad.iter().map(|b| b.reason.split(": ").next().expect("place")).collect();
    assert_eq!(places, ["t.ndjson line 2", "t.ndjson line 4", "t.ndjson line 7"], "{:?}", reasons(&table));
    assert!(table.bad[2].reason.contains("invalid UTF-8"), "{:?}", table.bad[2]);
}

#[tokio::test]
async fn a_record_beyond_the_limit_is_quarantined_without_being_held() {
    let folder = Folder::new();
    let huge = "x".repeat(12 << 20);
    folder.write("c/a.csv", format!("id,name\n1,a\n2,{huge}\n3,\"{huge}\n4,d\n"));
    folder.write("n/a.ndjson", format!("{{\"id\":1}}\n{{\"id\":2,\"t\":\"{huge}\"}}\n{{\"id\":3}}\n"));
    folder.write("j/a.json", format!("[{{\"id\":1}},{{\"id\":2,\"t\":\"{huge}\"}},{{\"id\":3}}]"));
    let mut config = folder.config(json!({
        "c": {"path": "c/*.csv"}, "n": {"path": "n/*.ndjson"}, "j": {"path": "j/*.json"}
    }));
    config["max_record"] = json!("1MiB");
    let source = crate::support::open(config).await.expect("open");
    for (name, ids, bad) in [("c", vec!["1", "4"], 2), ("n", vec!["1", "3"], 1), ("j", vec!["1", "3"], 1)] {
        let table = load(source.as_ref(), name).await;
        assert_eq!(table.column("id"), ids, "{name}");
        assert_eq!(table.bad.len(), bad, "{name}: {:?}", reasons(&table));
        assert!(table.bad.iter().all(|b| b.record.len() <= 64 << 10 && b.reason.contains("line")), "{name}");
    }
}

#[tokio::test]
async fn deep_json_is_refused_record_by_record() {
    let folder = Folder::new();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    folder.write("t.ndjson", format!("{{\"id\":1}}\n{{\"id\":2,\"x\":{deep}}}\n{{\"id\":3}}\n"));
    let source = folder.source(json!({})).await;
    let table = load(source.as_ref(), "t").await;
    assert_eq!(table.column("id"), ["1", "3"]);
    assert_eq!(table.bad.len(), 1);
}
