//! Records that come as fields: sheets of workbooks that openpyxl has written, and lines of fixed width.

use std::io::Write;

use ingest_core::Json;
use serde_json::json;

use crate::support::{Folder, Table, load, open, stream, types};

const ORDERS: &[u8] = include_bytes!("data/orders.xlsx");

async fn read(name: &str, content: &[u8], options: Json) -> (Vec<(String, String)>, Table) {
    let folder = Folder::new();
    folder.write(name, content);
    let source = folder.source(json!({"t": options})).await;
    let mut types = types(&stream(source.as_ref(), "t").await);
    assert_eq!(types.pop().expect("last").0, "_source_file");
    (types, load(source.as_ref(), "t").await)
}

fn reasons(table: &Table) -> Vec<&str> {
    table.bad.iter().map(|bad| bad.reason.as_str()).collect()
}

fn rescued(table: &Table) -> Vec<Json> {
    let text = |row: &Json| row["_ingest_rescued"].as_str().map(|t| serde_json::from_str(t).expect("JSON"));
    table.rows.iter().filter_map(text).collect()
}

#[tokio::test]
async fn a_sheet_below_its_title_is_read_with_dates_times_numbers_and_texts_as_they_are() {
    let options = json!({"path": "*.xlsx", "sheet": "Orders", "skip": 2, "types": {"note": "string"}});
    let (types, table) = read("orders.xlsx", ORDERS, options).await;
    let types: Vec<(&str, &str)> = types.iter().map(|(name, ty)| (name.as_str(), ty.as_str())).collect();
    assert_eq!(types[0], ("id", "Int64"));
    assert_eq!(types[3], ("ordered", "Date32"));
    assert!(types[4].1.starts_with("Timestamp"), "{types:?}");
    assert_eq!(types[5], ("paid", "Boolean"));
    assert_eq!(types[7], ("note", "Utf8"));
    assert_eq!(table.column("id"), ["1", "2", "4", "6", "9007199254740992"]);
    assert_eq!(table.rows[0]["name"], "Zo\u{eb} \"Z\"\nM\u{fc}ller");
    assert_eq!(table.rows[0]["ordered"], "2024-02-29");
    assert_eq!(table.rows[1]["ordered"], "1900-03-01");
    assert_eq!(table.rows[2]["ordered"], "9999-12-31");
    assert!(table.rows[0]["shipped"].as_str().is_some_and(|text| text.starts_with("2024-03-01T10:20:30")));
    assert!(table.rows[1]["shipped"].as_str().is_some_and(|text| text.starts_with("2024-03-02T00:00:00")));
    assert!(table.rows[2]["shipped"].as_str().is_some_and(|text| text.starts_with("2024-03-01T10:20:30.5")));
    assert_eq!((&table.rows[0]["at"], &table.rows[1]["at"]), (&json!("08:30:00"), &json!("23:59:59")));
    assert_eq!((&table.rows[0]["note"], &table.rows[1]["note"]), (&json!("007"), &Json::Null));
    assert_eq!((&table.rows[0]["paid"], &table.rows[2]["paid"]), (&json!("true"), &Json::Null));
    assert!(table.rows[2]["amount"].as_str().is_some_and(|text| text.starts_with("-1234567890123.25")));
    // An error of a formula is no number; a row with more cells than the header is no row.
    assert_eq!(rescued(&table), [json!({"amount": "#N/A"})]);
    assert_eq!(reasons(&table), ["orders.xlsx sheet \"Orders\", row 9: 9 cells, expected 8"]);
}

#[tokio::test]
async fn sheets_are_found_by_number_and_a_workbook_without_the_sheet_is_named_with_those_it_has() {
    let (types, table) = read("orders.xlsx", ORDERS, json!({"path": "*.xlsx", "sheet": "1", "header": false})).await;
    assert_eq!(types[0], ("column_1".to_owned(), "Utf8".to_owned()));
    assert_eq!(table.column("column_1"), ["Orders of 2024", "made by hand"]);
    let folder = Folder::new();
    folder.write("orders.xlsx", ORDERS);
    let source = folder.source(json!({"t": {"path": "*.xlsx", "sheet": "Order"}})).await;
    let problems = source.check(&ingest_core::Selection::default()).await.expect("check");
    let text = format!("{problems:?}");
    assert!(text.contains("no sheet") && text.contains("Read me, Orders"), "{text}");
}

#[tokio::test]
async fn a_workbook_that_counts_days_from_1904_has_the_same_dates() {
    let (_, table) = read("a.xlsx", include_bytes!("data/since_1904.xlsx"), json!({"path": "*.xlsx"})).await;
    assert_eq!(table.column("day"), ["2024-02-29"]);
}

#[tokio::test]
async fn a_workbook_that_is_cut_or_swells_is_left_out_and_named() {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let deflated = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    archive.start_file("xl/sharedStrings.xml", deflated).expect("begun");
    for _ in 0..600 {
        archive.write_all(&vec![b' '; 1 << 20]).expect("written");
    }
    let bomb = archive.finish().expect("finished").into_inner();
    let folder = Folder::new();
    folder.write("a.xlsx", &ORDERS[..ORDERS.len() - 100]);
    folder.write("b.xlsx", b"not a workbook");
    folder.write("c.xlsx", bomb);
    folder.write("d.xlsx", ORDERS);
    let files = json!({"t": {"path": "*.xlsx", "sheet": "Orders", "skip": 2}});
    let mut config = folder.config(files);
    config["max_ratio"] = json!(100_000);
    let source = open(config).await.expect("open");
    let problems = format!("{:?}", source.check(&ingest_core::Selection::default()).await.expect("check"));
    for part in ["a.xlsx cannot be read", "b.xlsx cannot be read", "c.xlsx cannot be read: LimitExceeded"] {
        assert!(problems.contains(part), "{part}: {problems}");
    }
    assert!(!problems.contains("d.xlsx cannot"), "{problems}");
}

#[tokio::test]
async fn fields_at_fixed_places_are_read_and_lines_that_are_none_are_quarantined_with_their_number() {
    let line = |id: u32, name: &str, amount: &str, day: &str| format!("{id:08}{name:<11}{amount:>7}{day}");
    let lines = [
        "HEADER 2024-01-31".to_owned(),
        line(1, "M\u{fc}ller", "12.50", "2024-02-29"),
        String::new(),
        line(2, "  b, \"c\"", "-3.00", "2024-03-01\r"),
        "00000003short".to_owned(),
        line(4, "name", "abc1", "2024-03-02"),
        line(5, "name", "1.00", "2024-03-03 and more"),
        line(6, "last", "7.25", "2024-03-04"),
    ];
    let content = lines.join("\n");
    let options = json!({
        "path": "*.txt", "format": "fixed", "skip": 1, "types": {"id": "int64", "amount": "decimal(9,2)"},
        "positions": {"id": "1-8", "name": "9-19", "amount": "20-26", "day": "27-36"},
    });
    let (types, table) = read("t.txt", content.as_bytes(), options).await;
    let names: Vec<&str> = types.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["id", "name", "amount", "day"], "in the order of the line");
    assert_eq!(table.column("id"), ["1", "2", "3", "4", "6"]);
    assert_eq!(table.column("name"), ["M\u{fc}ller", "b, \"c\"", "last", "name", "short"]);
    assert_eq!(table.rows[0]["amount"], "12.50");
    assert_eq!((&table.rows[0]["day"], &table.rows[2]["day"]), (&json!("2024-02-29"), &Json::Null));
    assert_eq!(rescued(&table), [json!({"amount": "abc1"})]);
    assert_eq!(reasons(&table), ["t.txt line 7: text behind place 36, the last one of `positions`"]);
}

#[tokio::test]
async fn lines_of_another_encoding_are_cut_by_characters() {
    let (text, _, _) = encoding_rs::WINDOWS_1252.encode("\u{e4}\u{f6}\u{fc}1\nabc2\n");
    let options = json!({
        "path": "*.txt", "format": "fixed", "encoding": "windows-1252", "positions": {"name": "1-3", "n": "4"},
    });
    let (_, table) = read("t.txt", &text, options).await;
    assert_eq!((&table.rows[0]["name"], &table.rows[1]["name"]), (&json!("\u{e4}\u{f6}\u{fc}"), &json!("abc")));
    assert_eq!(table.column("n"), ["1", "2"]);
}

#[tokio::test]
async fn options_of_another_format_and_wrong_places_are_refused_at_once() {
    let error = open(json!({"path": "/", "files": {
        "a": {"path": "*.csv", "sheet": "x", "skip": 1, "positions": {"id": "1"}},
        "b": {"path": "*.txt", "format": "fixed"},
        "c": {"path": "*.txt", "format": "fixed", "positions": {"id": "8-1"}},
    }}))
    .await
    .err()
    .expect("wrong")
    .to_string();
    for part in
        ["files.a.sheet", "files.a.skip", "files.a.positions", "files.b.positions: is missing", "files.c.positions.id"]
    {
        assert!(error.contains(part), "{part}: {error}");
    }
}
