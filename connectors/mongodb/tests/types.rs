//! Values of every type, exactly; and what a sample shows.

use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Decimal128, Document, Timestamp, doc};
use ingest_core::ErrorKind;
use serde_json::json;

use crate::support::{How, Shop, fails, run, streams, texts};

fn binary(subtype: BinarySubtype, byte: u8) -> Bson {
    Bson::Binary(Binary { subtype, bytes: vec![byte; 16] })
}

/// A value of each type that FerretDB keeps too: its column, and its text there.
fn values() -> Vec<(&'static str, Bson, &'static str, &'static str)> {
    vec![
        ("flag", Bson::Boolean(true), "boolean", "true"),
        ("int", Bson::Int32(i32::MIN), "int32", "-2147483648"),
        ("long", Bson::Int64(i64::MAX), "int64", "9223372036854775807"),
        ("double", Bson::Double(0.1), "float64", "0.1"),
        ("large", Bson::Double(-1e300), "float64", "-1e300"),
        ("text", Bson::String("naïve \"日本\" \n".into()), "string", "naïve \"日本\" \n"),
        ("oid", Bson::ObjectId(ObjectId::from_bytes([10; 12])), "objectid", "0a0a0a0a0a0a0a0a0a0a0a0a"),
        ("bytes", binary(BinarySubtype::Generic, 255), "binary(0)", "ffffffffffffffffffffffffffffffff"),
        ("uuid", binary(BinarySubtype::Uuid, 1), "uuid", "01010101-0101-0101-0101-010101010101"),
        ("md5", binary(BinarySubtype::Md5, 2), "binary(5)", "02020202020202020202020202020202"),
        ("stamp", Bson::Timestamp(Timestamp { time: 7, increment: 8 }), "json", r#"{"$timestamp":{"t":7,"i":8}}"#),
        (
            "object",
            Bson::Document(doc! { "b": 1, "a": { "c": 1_i64 } }),
            "json",
            r#"{"b":{"$numberInt":"1"},"a":{"c":{"$numberLong":"1"}}}"#,
        ),
        (
            "list",
            Bson::Array(vec![1.5.into(), "x".into(), Bson::Null]),
            "json",
            r#"[{"$numberDouble":"1.5"},"x",null]"#,
        ),
        (
            "regex",
            Bson::RegularExpression(bson::Regex {
                pattern: bson::raw::CString::try_from("^a").expect("no zero"),
                options: bson::raw::CString::try_from("i").expect("no zero"),
            }),
            "json",
            r#"{"$regularExpression":{"pattern":"^a","options":"i"}}"#,
        ),
    ]
}

/// Those that MongoDB alone keeps.
fn more() -> Vec<(&'static str, Bson, &'static str, &'static str)> {
    let decimal: Decimal128 = "123456789012345678901234567890.1234".parse().expect("a decimal");
    vec![
        ("decimal", decimal.into(), "number", "123456789012345678901234567890.1234"),
        ("nested", Bson::Array(vec![Bson::Array(vec![1.into()])]), "json", r#"[[{"$numberInt":"1"}]]"#),
        ("least", Bson::MinKey, "json", r#"{"$minKey":1}"#),
        ("most", Bson::MaxKey, "json", r#"{"$maxKey":1}"#),
        ("code", Bson::JavaScriptCode("f()".into()), "json", r#"{"$code":"f()"}"#),
    ]
}

#[tokio::test]
async fn every_type_is_kept_exactly() {
    let Some(shop) = Shop::new().await else { return };
    let mut values = values();
    if shop.server.genuine {
        values.extend(more());
    }
    let mut document = doc! { "_id": 1, "date": DateTime::from_millis(1_709_210_096_123), "none": Bson::Null };
    document.extend(values.iter().map(|(name, value, ..)| ((*name).to_owned(), value.clone())));
    shop.insert("t", [document]).await;
    let source = shop.open().await;
    let found = streams(&*source, &["t"]).await;
    let schema = &found[0].schema;
    let batches = run(&*source, "t", &mut How::full()).await.expect("rows");
    for (name, _, kind, text) in &values {
        let field = schema.field_with_name(name).expect("a column");
        assert_eq!(field.metadata().get("ingest.mongodb").map(String::as_str), Some(*kind), "{name}");
        assert_eq!(texts(&batches, name), [Some((*text).to_owned())], "{name}");
    }
    use arrow_array::cast::AsArray;
    let date = batches[0].column_by_name("date").expect("a column");
    let date = date.as_primitive::<arrow_array::types::TimestampMicrosecondType>().value(0);
    assert_eq!(date, 1_709_210_096_123_000);
    assert!(schema.field_with_name("none").is_err(), "what is always null has no column");
    assert_eq!(texts(&batches, "_ingest_rescued"), [None]);
}

#[tokio::test]
async fn what_the_sample_does_not_show_is_rescued_and_then_has_a_column() {
    let Some(shop) = Shop::new().await else { return };
    shop.insert("t", (1..=20).map(|i| doc! { "_id": i, "a": i })).await;
    let shop = shop.with("sample", 4);
    let middle = |id: i32, document: Document| {
        let documents = shop.database.collection::<Document>("t");
        async move { documents.replace_one(doc! { "_id": id }, document).await.expect("a document") }
    };
    middle(10, doc! { "a": "text" }).await;
    middle(11, doc! { "a": 11, "late": { "x": 1 } }).await;
    let source = shop.open().await;
    let batches = run(&*source, "t", &mut How::full()).await.expect("rows");
    let (ids, a, rescued) = (texts(&batches, "_id"), texts(&batches, "a"), texts(&batches, "_ingest_rescued"));
    let of = |id: &str| ids.iter().position(|found| found.as_deref() == Some(id)).expect("a row");
    assert_eq!((a[of("10")].as_deref(), rescued[of("10")].as_deref()), (None, Some(r#"{"a":"text"}"#)));
    assert_eq!(rescued[of("11")].as_deref(), Some(r#"{"late":{"x":{"$numberInt":"1"}}}"#));
    assert_eq!(rescued.iter().flatten().count(), 2);
    // A later look sees them.
    middle(20, doc! { "a": 20, "late": "y" }).await;
    let found = streams(&*shop.open().await, &["t"]).await;
    assert!(found[0].schema.field_with_name("late").is_ok());
}

#[tokio::test]
async fn declared_types_win_over_the_sample() {
    let Some(shop) = Shop::new().await else { return };
    shop.insert("t", [doc! { "_id": 1, "a": 1, "b": 7, "c": { "d": 1 } }, doc! { "_id": 2, "a": 2_i64, "b": "x" }])
        .await;
    let types = json!({"t": {"a": "decimal(10,2)", "b": "string", "c": "json", "later": "timestamp"}});
    let source = shop.with("types", types).open().await;
    let batches = run(&*source, "t", &mut How::full()).await.expect("rows");
    let names: Vec<String> = batches[0].schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["_id", "a", "b", "c", "later", "_ingest_rescued"]);
    assert_eq!(texts(&batches, "a"), [Some("1.00".to_owned()), Some("2.00".into())]);
    assert_eq!(texts(&batches, "b"), [None, Some("x".to_owned())]);
    assert_eq!(texts(&batches, "_ingest_rescued"), [Some(r#"{"b":{"$numberInt":"7"}}"#.to_owned()), None]);
}

#[tokio::test]
async fn an_id_that_its_column_does_not_hold_ends_the_stream_with_the_remedy() {
    let Some(shop) = Shop::new().await else { return };
    shop.insert("t", (1..=9).map(|i| doc! { "_id": i })).await;
    shop.insert("t", [doc! { "_id": 4.5 }]).await;
    let shop = shop.with("sample", 2);
    let error = fails(run(&*shop.open().await, "t", &mut How::full()).await);
    assert_eq!(error.kind(), ErrorKind::SchemaChanged);
    assert!(error.hint_text().is_some_and(|hint| hint.contains("_id: json")));
    let shop = shop.with("types", json!({"t": {"_id": "json"}}));
    let batches = run(&*shop.open().await, "t", &mut How::full()).await.expect("rows");
    assert!(texts(&batches, "_id").contains(&Some(r#"{"$numberDouble":"4.5"}"#.into())));
}
