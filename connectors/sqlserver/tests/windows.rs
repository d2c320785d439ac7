//! Incremental reads: what is new by a rowversion or a clock, and late commits.

use ingest_core::{ErrorKind, Mode, Safety};

use crate::support::{How, Shop, assert_range, fails, ids, numbered, plan, read, run, streams, warnings};

fn versioned(rows: u32) -> String {
    format!(
        "CREATE TABLE $.t (id int PRIMARY KEY, name nvarchar(20), changed rowversion);\nCREATE INDEX by_change ON $.t (changed);\n{}",
        numbered("$.t", "id, name", rows, |i| format!("{i}, N'n{i}'"))
    )
}

#[tokio::test]
async fn a_rowversion_brings_what_is_new_and_what_is_changed_once() {
    let shop = Shop::new(&versioned(1_000)).await;
    let source = shop.open().await;
    let found = streams(&*source, &[&shop.stream("t")]).await;
    assert_eq!(found[0].modes.first(), Some(&Mode::Incremental), "a rowversion is the default");
    assert_eq!(found[0].cursors[0].safety, Safety::Snapshot);
    let mut how = How::by("changed");
    assert_range(&run(&*source, &shop.stream("t"), &mut how).await.expect("rows"), "id", 1, 1_000);
    assert!(run(&*source, &shop.stream("t"), &mut how).await.expect("nothing").is_empty());
    shop.sql("INSERT INTO $.t (id, name) VALUES (1001, N'new');\nUPDATE $.t SET name = N'other' WHERE id = 5").await;
    let batches = run(&*source, &shop.stream("t"), &mut how).await.expect("rows");
    assert_eq!(ids(&batches, "id"), [5, 1_001]);
}

#[tokio::test]
async fn a_rowversion_never_passes_a_transaction_that_is_open() {
    let shop = Shop::new(&versioned(10)).await;
    let source = shop.open().await;
    let mut how = How::by("changed");
    run(&*source, &shop.stream("t"), &mut how).await.expect("rows");
    let late = shop.session().await;
    let late_sql = "INSERT INTO $.t (id, name) VALUES (11, N'late')".replace('$', &shop.schema);
    late.sql("BEGIN TRANSACTION").await;
    late.sql(&late_sql).await;
    shop.sql("INSERT INTO $.t (id, name) VALUES (12, N'committed')").await;
    let found = streams(&*source, &[&shop.stream("t")]).await;
    let waiting = plan(&*source, &found, &how).await.expect("a plan");
    let mut said = Vec::new();
    for slice in &waiting.slices {
        let out = read(&*source, slice, None, &how).await.expect("a slice");
        assert_eq!(out.rows(), 0, "what is above the open transaction waits");
        said.extend(warnings(&out));
    }
    assert!(said.iter().any(|text| text.contains("wait for a later run")), "{said:?}");
    late.sql("COMMIT").await;
    let batches = run(&*source, &shop.stream("t"), &mut how).await.expect("rows");
    assert_eq!(ids(&batches, "id"), [11, 12]);
}

#[tokio::test]
async fn every_clock_is_a_cursor() {
    for declared in
        ["datetime2(7)", "datetime2(3)", "datetime", "smalldatetime", "datetimeoffset(7)", "datetimeoffset(0)", "date"]
    {
        let rows = numbered("$.t", "id, at", 500, |i| {
            let time = if declared == "date" { String::new() } else { format!("T{:02}:{:02}:00", i / 60, i % 60) };
            format!("{i}, N'2024-03-{:02}{time}'", i % 28 + 1)
        });
        let shop = Shop::new(&format!(
            "CREATE TABLE $.t (id int PRIMARY KEY, at {declared});\nCREATE INDEX by_at ON $.t (at);\n{rows}"
        ))
        .await;
        let source = shop.open().await;
        let mut how = How::by("at");
        assert_range(&run(&*source, &shop.stream("t"), &mut how).await.expect(declared), "id", 1, 500);
        assert!(run(&*source, &shop.stream("t"), &mut how).await.expect("nothing").is_empty(), "{declared}");
        shop.sql("INSERT INTO $.t (id, at) VALUES (501, N'2024-04-01'), (502, N'2024-04-02'), (503, N'9000-01-01')")
            .await;
        let batches = run(&*source, &shop.stream("t"), &mut how).await.expect(declared);
        assert_eq!(ids(&batches, "id"), [501, 502], "{declared}: what lies in the future waits");
    }
}

#[tokio::test]
async fn the_seventh_digit_of_a_clock_is_in_the_position() {
    let shop = Shop::new(
        "CREATE TABLE $.t (id int PRIMARY KEY, at datetime2(7));\nINSERT INTO $.t (id, at) VALUES (1, N'2024-03-01T00:00:00.0000001')",
    )
    .await;
    let source = shop.open().await;
    let mut how = How::by("at");
    assert_range(&run(&*source, &shop.stream("t"), &mut how).await.expect("rows"), "id", 1, 1);
    shop.sql("INSERT INTO $.t (id, at) VALUES (2, N'2024-03-01T00:00:00.0000002')").await;
    assert_eq!(ids(&run(&*source, &shop.stream("t"), &mut how).await.expect("rows"), "id"), [2]);
    assert!(run(&*source, &shop.stream("t"), &mut how).await.expect("nothing").is_empty());
}

#[tokio::test]
async fn a_late_commit_of_a_clock_is_read_later() {
    let shop = Shop::new("CREATE TABLE $.t (id int PRIMARY KEY, at datetime2(6) NOT NULL DEFAULT SYSUTCDATETIME())")
        .await
        .with("clock", "utc");
    let source = shop.open().await;
    let mut how = How::by("at");
    let late = shop.session().await;
    late.sql("BEGIN TRANSACTION").await;
    late.sql(&"INSERT INTO $.t (id) VALUES (1)".replace('$', &shop.schema)).await;
    shop.sql("INSERT INTO $.t (id) VALUES (2)").await;
    let first = ids(&run(&*source, &shop.stream("t"), &mut how).await.expect("rows"), "id");
    assert!(first.is_empty(), "{first:?} is above what is open");
    late.sql("COMMIT").await;
    assert_range(&run(&*source, &shop.stream("t"), &mut how).await.expect("rows"), "id", 1, 2);
}

#[tokio::test]
async fn a_window_resumes_behind_every_mark() {
    let shop = Shop::new(&versioned(10)).await;
    let source = shop.open().await;
    let mut how = How { batch_bytes: 5_000, ..How::by("changed") };
    run(&*source, &shop.stream("t"), &mut how).await.expect("rows");
    shop.sql(&numbered("$.t", "id, name", 900, |i| format!("{}, N'x{i}'", i + 10))).await;
    let plan = plan(&*source, &streams(&*source, &[&shop.stream("t")]).await, &how).await.expect("a plan");
    let whole = read(&*source, &plan.slices[0], None, &how).await.expect("a window");
    assert_eq!(whole.rows(), 900);
    assert!(whole.marks().count() > 2);
    for mark in whole.marks() {
        assert!(read(&*source, &plan.slices[0], Some(mark), &how).await.expect("the rest").rows() < 900);
    }
}

#[tokio::test]
async fn an_interval_is_read_from_its_first_to_before_its_last_time() {
    let rows = numbered("$.t", "id, at", 10, |i| format!("{i}, N'1970-01-01T00:00:{i:02}'"));
    let shop = Shop::new(&format!("CREATE TABLE $.t (id int PRIMARY KEY, at datetime2(7));\n{rows}")).await;
    let source = shop.open().await;
    let mut how = How { interval: Some((3_000_000, 7_000_000)), ..How::by("at") };
    assert_range(&run(&*source, &shop.stream("t"), &mut how).await.expect("rows"), "id", 3, 6);
}

#[tokio::test]
async fn a_number_is_no_cursor() {
    let shop = Shop::new(&versioned(1)).await;
    let source = shop.open().await;
    let error = fails(run(&*source, &shop.stream("t"), &mut How::by("id")).await);
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    assert!(error.hint_text().is_some_and(|hint| hint.contains("rowversion")), "{error:?}");
    let error = fails(run(&*source, &shop.stream("t"), &mut How::by("chnged")).await);
    assert!(error.hint_text().is_some_and(|hint| hint.contains("`changed`")), "{error:?}");
}
