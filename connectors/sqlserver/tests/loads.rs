//! Full loads: ranges of keys, marks, columns and filters.

use ingest_core::{ErrorKind, Event, StreamName};

use crate::support::{How, Shop, assert_range, fails, ids, numbered, plan, read, run, streams};

/// A table with a key of this type, and how its values are written.
fn keyed(key: &str, rows: u32, value: impl Fn(u32) -> String) -> String {
    let rows = numbered("$.t", "k, id, pad", rows, |i| format!("{}, {i}, N'{}'", value(i), "x".repeat(100)));
    format!("CREATE TABLE $.t (k {key} PRIMARY KEY, id int, pad nvarchar(200));\n{rows}")
}

#[tokio::test]
async fn ranges_of_an_integer_key_hold_every_row_once() {
    let integer = |key, value: &dyn Fn(i64) -> i64, rows| keyed(key, rows, |i| value(i.into()).to_string());
    for sql in [
        integer("int", &|i| i, 5_000),
        integer("bigint", &|i| i * 1_000_000_007 - 2_000_000_000_000, 5_000),
        integer("tinyint", &|i| i, 250),
        integer("smallint", &|i| i - 2_500, 5_000),
    ] {
        let shop = Shop::new(&sql).await;
        let source = shop.open().await;
        let stream = shop.stream("t");
        let found = streams(&*source, &[&stream]).await;
        let bytes = found[0].estimate.bytes.expect("an estimate");
        let how = How { slice_bytes: bytes / 6, ..How::full() };
        let plan = plan(&*source, &found, &how).await.expect("a plan");
        assert!(plan.slices.len() > 3, "{} slices", plan.slices.len());
        let mut batches = Vec::new();
        for slice in &plan.slices {
            let out = read(&*source, slice, None, &how).await.expect("a slice");
            batches.extend(out.batches(&StreamName::from(stream.as_str())).cloned());
        }
        assert_range(&batches, "id", 1, if sql.contains("tinyint") { 250 } else { 5_000 });
    }
}

#[tokio::test]
async fn a_slice_resumes_behind_every_mark_by_any_kind_of_key() {
    let uuid = |i: u32| format!("'{:08X}-0000-4000-8000-{:012X}'", i.wrapping_mul(2_654_435_761), i);
    for sql in [
        keyed("int", 2_000, |i| (i * 3).to_string()),
        keyed("nvarchar(40)", 2_000, |i| format!("N'{} {i}'", char::from(b'a' + (i % 26) as u8))),
        keyed("varchar(40) COLLATE Latin1_General_CI_AS", 2_000, |i| format!("'é{i}'")),
        keyed("binary(4)", 2_000, |i| format!("0x{:08x}", i.wrapping_mul(2_654_435_761))),
        keyed("uniqueidentifier", 2_000, uuid),
        keyed("decimal(30, 5)", 2_000, |i| format!("{i}.{:05}", i % 7)),
        keyed("int", 2_000, |i| (i / 300).to_string())
            .replace("k int PRIMARY KEY, id int", "k int NOT NULL, id int NOT NULL")
            .replace("pad nvarchar(200))", "pad nvarchar(200), PRIMARY KEY (k, id))"),
    ] {
        let shop = Shop::new(&sql).await;
        let source = shop.open().await;
        let stream = shop.stream("t");
        let name = StreamName::from(stream.as_str());
        let how = How { batch_bytes: 30_000, ..How::full() };
        let plan = plan(&*source, &streams(&*source, &[&stream]).await, &how).await.expect("a plan");
        let whole = read(&*source, &plan.slices[0], None, &how).await.expect("a slice");
        assert!(whole.marks().count() > 2, "{} marks: {}", whole.marks().count(), &sql[..120]);
        let mut before = 0;
        for event in &whole.events {
            match event {
                Event::Rows(_, batch) => before += batch.num_rows(),
                Event::Mark(mark) => {
                    let rest = read(&*source, &plan.slices[0], Some(mark), &how).await.expect("the rest");
                    let all: Vec<_> = whole.batches(&name).cloned().collect();
                    let first = ids(&all, "id").len() - rest.rows();
                    assert!(first <= before, "a mark covers {first} rows, given are {before}: {}", &sql[..120]);
                }
                _ => {}
            }
        }
        assert_eq!(whole.rows(), 2_000);
    }
}

#[tokio::test]
async fn columns_and_filters_are_the_servers_work() {
    let shop = Shop::new(&keyed("int", 100, |i| i.to_string())).await;
    let source = shop.open().await;
    let columns = Some(vec!["pad".to_owned(), "id".to_owned()]);
    let mut how = How { columns, filter: Some("k <= 10 -- and no more".into()), ..How::full() };
    let batches = run(&*source, &shop.stream("t"), &mut how).await.expect("rows");
    assert_range(&batches, "id", 1, 10);
    let names: Vec<String> = batches[0].schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["pad", "id"]);
    let mut how = How { filter: Some("no such condition".into()), ..How::full() };
    let error = fails(run(&*source, &shop.stream("t"), &mut how).await);
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{error:?}");
}

#[tokio::test]
async fn names_of_all_kinds_are_quoted() {
    let shop = Shop::new(
        "CREATE TABLE $.[o]]dd 'name'] ([a \"b\"] int PRIMARY KEY, [select] int, [ü.x] nvarchar(10));
         INSERT INTO $.[o]]dd 'name'] ([a \"b\"], [select], [ü.x]) VALUES (1, 2, N'x')"
            .replace(";\n         ", ";\n")
            .as_str(),
    )
    .await;
    let source = shop.open().await;
    let batches = run(&*source, &shop.stream("o]dd 'name'"), &mut How::full()).await.expect("rows");
    assert_eq!(ids(&batches, "select"), [2]);
}

#[tokio::test]
async fn a_session_reads_under_snapshot_isolation_where_the_database_allows_it_on_the_script() {
    for allowed in [true, false] {
        let shop = Shop::scripted("CREATE TABLE $.t (id int PRIMARY KEY);\nINSERT INTO $.t (id) VALUES (1)").await;
        shop.script().state().snapshot = allowed;
        let source = shop.open().await;
        assert_range(&run(&*source, &shop.stream("t"), &mut How::full()).await.expect("rows"), "id", 1, 1);
        let state = shop.script().state();
        let set = state.statements().iter().filter(|sql| sql.contains("ISOLATION LEVEL SNAPSHOT")).count();
        assert_eq!(set > 0, allowed);
    }
}

#[tokio::test]
async fn rows_are_counted_by_the_server() {
    let shop = Shop::new(&keyed("int", 100, |i| i.to_string())).await;
    let source = shop.open().await;
    let found = streams(&*source, &[&shop.stream("t")]).await;
    assert_eq!(source.count(&found[0], None).await.expect("a count"), Some(100));
    assert_eq!(source.count(&found[0], Some("k > 90")).await.expect("a count"), Some(10));
}

#[tokio::test]
async fn a_table_that_is_dropped_after_the_plan_is_named() {
    let shop = Shop::new(&keyed("int", 10, |i| i.to_string())).await;
    let source = shop.open().await;
    let stream = shop.stream("t");
    let plan = plan(&*source, &streams(&*source, &[&stream]).await, &How::full()).await.expect("a plan");
    shop.sql("DROP TABLE $.t").await;
    let error = fails(read(&*source, &plan.slices[0], None, &How::full()).await);
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    assert!(error.context().iter().any(|(key, value)| (*key, value) == ("stream", &stream)), "{error:?}");
}

#[tokio::test]
async fn the_largest_value_is_a_limit() {
    let shop =
        Shop::new("CREATE TABLE $.t (id int PRIMARY KEY, big varbinary(max))").await.with("max_row_bytes", "64KiB");
    shop.sql(&format!("INSERT INTO $.t (id, big) VALUES (1, 0x{})", "ab".repeat(65_536))).await;
    let source = shop.open().await;
    assert_eq!(run(&*source, &shop.stream("t"), &mut How::full()).await.expect("rows").len(), 1);
    shop.sql(&format!("INSERT INTO $.t (id, big) VALUES (2, 0x{})", "ab".repeat(65_537))).await;
    let error = fails(run(&*source, &shop.stream("t"), &mut How::full()).await);
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error:?}");
}
