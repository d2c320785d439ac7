//! Full loads: ranges of `_id`, marks, columns and filters, names.

use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Document, doc};
use ingest_core::{ErrorKind, Event, StreamName};
use serde_json::json;

use crate::support::{How, Shop, assert_range, fails, numbered, plan, read, run, streams, texts};

/// The n-th `_id`.
type Id = fn(i32) -> Bson;

/// Values of `_id` of one class each, in its order.
fn classes() -> Vec<(&'static str, Id)> {
    vec![
        ("int", |i| Bson::Int32(i * 3 - 900)),
        ("long", |i| Bson::Int64(i64::from(i) * 1_000_000_007 - (1 << 40))),
        ("double", |i| Bson::Double(f64::from(i) / 7.0)),
        ("text", |i| Bson::String(format!("{}-{i}é", char::from(b'a' + u8::try_from(i % 26).expect("a letter"))))),
        ("objectid", |i| {
            Bson::ObjectId(ObjectId::from_bytes({
                let mut bytes = [7; 12];
                bytes[8..].copy_from_slice(&i.to_be_bytes());
                bytes
            }))
        }),
        ("date", |i| Bson::DateTime(DateTime::from_millis(i64::from(i) * 86_400_000 - 1))),
        ("binary", |i| Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: i.to_be_bytes().to_vec() })),
        ("document", |i| Bson::Document(doc! { "a": i % 10, "b": i })),
    ]
}

#[tokio::test]
async fn ranges_of_every_class_of_id_hold_every_document_once() {
    let Some(shop) = Shop::new().await else { return };
    let source = shop.open().await;
    for (name, id) in classes() {
        // FerretDB over SQLite does not compare documents.
        if name == "document" && !shop.server.genuine {
            continue;
        }
        shop.insert(name, numbered(600, id)).await;
        let found = streams(&*source, &[name]).await;
        let how = How { min_slices: 5, ..How::full() };
        let plan = plan(&*source, &found, &how).await.expect("a plan");
        assert!(plan.slices.len() >= 5, "{name}: {} slices", plan.slices.len());
        let mut batches = Vec::new();
        for slice in &plan.slices {
            let out = read(&*source, slice, None, &how).await.expect("a slice");
            batches.extend(out.batches(&StreamName::from(name)).cloned());
        }
        assert_range(&batches, "n", 1, 600);
    }
}

#[tokio::test]
async fn a_slice_resumes_behind_every_mark_by_any_class_of_id() {
    let Some(shop) = Shop::new().await else { return };
    let source = shop.open().await;
    for (name, id) in classes() {
        if name == "document" && !shop.server.genuine {
            continue;
        }
        shop.insert(name, numbered(300, id)).await;
        let found = streams(&*source, &[name]).await;
        let how = How { batch_bytes: 9_000, min_slices: 2, ..How::full() };
        let plan = plan(&*source, &found, &how).await.expect("a plan");
        let stream = StreamName::from(name);
        let (mut marks, mut others) = (0, Vec::new());
        for slice in &plan.slices[1..] {
            others.extend(read(&*source, slice, None, &how).await.expect("a slice").batches(&stream).cloned());
        }
        let (mut given, slice) = (Vec::new(), &plan.slices[0]);
        for event in read(&*source, slice, None, &how).await.expect("a slice").events {
            match event {
                Event::Rows(_, batch) => given.push(batch),
                Event::Mark(at) => {
                    marks += 1;
                    let rest = read(&*source, slice, Some(&at), &how).await.expect("the rest");
                    let all: Vec<_> = given.iter().chain(rest.batches(&stream)).chain(&others).cloned().collect();
                    assert_range(&all, "n", 1, 300);
                }
                _ => {}
            }
        }
        assert!(marks > 1, "{name}: {marks} marks");
    }
}

#[tokio::test]
async fn a_collection_with_ids_of_many_classes_is_read_whole() {
    let Some(shop) = Shop::new().await else { return };
    let mut documents: Vec<Document> = Vec::new();
    for (at, (_, id)) in classes().into_iter().enumerate().filter(|(at, _)| shop.server.genuine || *at < 7) {
        // The three kinds of numbers are one class, and some of them are equal.
        if !(1..=2).contains(&at) {
            documents.extend((1..=50).map(|i| doc! { "_id": id(i), "n": i32::try_from(at).expect("few") * 50 + i }));
        }
    }
    documents.extend([true, false].map(|flag| doc! { "_id": flag, "n": 1_000 + i32::from(flag) }));
    let count = documents.len();
    shop.insert("mixed", documents).await;
    let source = shop.open().await;
    let found = streams(&*source, &["mixed"]).await;
    for min_slices in [1, 8] {
        let how = How { min_slices, batch_bytes: 1_000, ..How::full() };
        let plan = plan(&*source, &found, &how).await.expect("a plan");
        assert!(plan.slices.len() > 3, "a slice for each class");
        let mut numbers = Vec::new();
        for slice in &plan.slices {
            let out = read(&*source, slice, None, &how).await.expect("a slice");
            let batches: Vec<_> = out.batches(&StreamName::from("mixed")).cloned().collect();
            numbers.extend(texts(&batches, "n"));
        }
        numbers.sort();
        assert_eq!(numbers.len(), count);
        numbers.dedup();
        assert_eq!(numbers.len(), count, "nothing comes twice");
    }
    let ids = texts(&run(&*source, "mixed", &mut How::full()).await.expect("rows"), "_id");
    assert!(ids.contains(&Some(r#"{"$numberInt":"-897"}"#.into())) && ids.contains(&Some("true".into())), "{ids:?}");
}

#[tokio::test]
async fn columns_and_filters_are_asked_of_the_server() {
    let Some(shop) = Shop::new().await else { return };
    shop.insert("t", (1..=20).map(|i| doc! { "_id": i, "a": i * 2, "b": "x", "new": { "c": i } })).await;
    let source = shop.open().await;
    let mut how = How { columns: Some(vec!["a".into()]), filter: Some(r#"{"a": {"$gt": 30}}"#.into()), ..How::full() };
    let batches = run(&*source, "t", &mut how).await.expect("rows");
    let names: Vec<String> = batches[0].schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["a", "_ingest_rescued"]);
    assert_eq!(texts(&batches, "a"), ["32", "34", "36", "38", "40"].map(|text| Some(text.to_owned())));
    let mut wrong = How { filter: Some("a > 30".into()), ..How::full() };
    assert_eq!(fails(run(&*source, "t", &mut wrong).await).kind(), ErrorKind::ConfigInvalid);
    let mut wrong = How { columns: Some(vec!["aa".into()]), ..How::full() };
    assert_eq!(fails(run(&*source, "t", &mut wrong).await).kind(), ErrorKind::ConfigInvalid);
}

#[tokio::test]
async fn an_empty_collection_has_a_key_and_no_rows() {
    let Some(shop) = Shop::new().await else { return };
    shop.database.create_collection("nothing").await.expect("a collection");
    let source = shop.open().await;
    assert!(run(&*source, "nothing", &mut How::full()).await.expect("no rows").is_empty());
    let found = streams(&*source, &["nothing"]).await;
    assert_eq!((found[0].key.as_slice(), found[0].schema.fields().len()), (["_id".to_owned()].as_slice(), 1));
}

#[tokio::test]
async fn without_a_database_streams_are_those_of_all() {
    let Some(shop) = Shop::new().await else { return };
    shop.insert("a.b", numbered(3, |i| i.into())).await;
    let shop = shop.with("database", "");
    let source = shop.open().await;
    let stream = format!("{}.a.b", shop.database.name());
    assert_range(&run(&*source, &stream, &mut How::full()).await.expect("rows"), "n", 1, 3);
    let found = streams(&*source, &["*"]).await;
    assert!(found.iter().all(|found| !found.name.as_str().starts_with("admin.")), "{found:?}");
}

#[tokio::test]
async fn a_whole_document_can_be_one_column() {
    let Some(shop) = Shop::new().await else { return };
    shop.insert("t", [doc! { "_id": 1, "a": { "b": 2_i64 }, "c": null }]).await;
    let source = shop.with("documents", "json").open().await;
    let batches = run(&*source, "t", &mut How::full()).await.expect("rows");
    assert_eq!(texts(&batches, "_id"), [Some("1".to_owned())]);
    let document = r#"{"_id":{"$numberInt":"1"},"a":{"b":{"$numberLong":"2"}},"c":null}"#;
    assert_eq!(texts(&batches, "document"), [Some(document.to_owned())]);
    assert_eq!(texts(&batches, "_ingest_rescued"), [None]);
}

#[tokio::test]
async fn documents_are_counted_at_the_server() {
    let Some(shop) = Shop::new().await else { return };
    shop.insert("t", numbered(30, |i| i.into())).await;
    let source = shop.open().await;
    let found = streams(&*source, &["t"]).await;
    assert_eq!(source.count(&found[0], None).await.expect("a count"), Some(30));
    assert_eq!(source.count(&found[0], Some(r#"{"n": {"$lte": 7}}"#)).await.expect("a count"), Some(7));
    assert_eq!(found[0].estimate.rows, Some(30));
}

#[tokio::test]
async fn check_names_streams_that_are_not_there() {
    let Some(shop) = Shop::new().await else { return };
    shop.insert("orders", numbered(1, |i| i.into())).await;
    let source = shop.open().await;
    let selection = ingest_core::Selection { select: vec!["orders".into(), "oders".into()], exclude: Vec::new() };
    let problems = source.check(&selection).await.expect("a list");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].remedy.contains("`orders`"));
    let empty = shop.with("database", json!("nowhere")).open().await;
    let problems = empty.check(&ingest_core::Selection::default()).await.expect("a list");
    assert!(problems[0].what.contains("no collection"), "{problems:?}");
}
