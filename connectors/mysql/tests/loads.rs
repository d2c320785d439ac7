//! Full loads: ranges of keys, marks, columns and filters, names, views.

use ingest_core::{ErrorKind, Event, Intent, Json, StreamName};
use ingest_testkit::out::Collected;

use crate::support::{How, Shop, assert_range, fails, ids, numbered, plan, read, run, streams, texts};

/// A table of 20,000 rows with a key of this type, and the expression of its value.
fn keyed(key: &str, value: &str) -> String {
    let rows = numbered("t", &format!("{value}, i, REPEAT('x', 100)"), 20_000);
    format!("CREATE TABLE t (k {key} PRIMARY KEY, id INT, pad VARCHAR(200)); {rows}; ANALYZE TABLE t")
}

#[tokio::test]
async fn ranges_of_an_integer_key_hold_every_row_once() {
    for (key, value) in [
        ("INT", "i"),
        ("BIGINT", "i * 1000000007 - 9000000000000"),
        ("TINYINT UNSIGNED", "i % 250"),
        ("BIGINT UNSIGNED", "18446744073709551615 - i"),
        ("SMALLINT", "i - 10000"),
    ] {
        let sql = keyed(key, value).replace("INSERT INTO", "INSERT IGNORE INTO");
        for shop in Shop::each(&sql).await {
            let source = shop.open().await;
            let stream = shop.stream("t");
            let found = streams(&*source, &[&stream]).await;
            let bytes = found[0].estimate.bytes.expect("an estimate");
            let how = How { slice_bytes: bytes / 6, ..How::full() };
            let plan = plan(&*source, &found, &how).await.expect("a plan");
            assert!(plan.slices.len() > 3, "{key} on {:?}: {} slices", shop.flavour(), plan.slices.len());
            let mut batches = Vec::new();
            for slice in &plan.slices {
                let out = read(&*source, slice, None, &how).await.expect("a slice");
                batches.extend(out.batches(&StreamName::from(stream.as_str())).cloned());
            }
            let wanted: Vec<i64> = shop
                .texts("SELECT id FROM t ORDER BY id")
                .await
                .into_iter()
                .map(|row| row[0].as_ref().expect("not null").parse().expect("a number"))
                .collect();
            assert_eq!(ids(&batches, "id"), wanted, "{key} on {:?}", shop.flavour());
        }
    }
}

#[tokio::test]
async fn a_slice_resumes_behind_every_mark_by_any_kind_of_key() {
    for sql in [
        keyed("INT", "i * 3"),
        keyed("VARCHAR(40) COLLATE utf8mb4_unicode_ci", "CONCAT(CHAR(97 + i % 26), ' ', i)"),
        keyed("BINARY(16)", "UNHEX(MD5(i))"),
        keyed("DECIMAL(30,5)", "i / 7"),
        keyed("VARCHAR(20) CHARACTER SET latin1", "CONCAT('é', i)"),
        keyed("INT", "i")
            .replace("k INT PRIMARY KEY, id INT", "k INT, id INT, PRIMARY KEY (k, id)")
            .replace("SELECT i, i", "SELECT i DIV 300, i"),
    ] {
        for shop in Shop::each(&sql).await {
            let source = shop.open().await;
            let stream = shop.stream("t");
            let found = streams(&*source, &[&stream]).await;
            let how = How { batch_bytes: 300_000, ..How::full() };
            let plan = plan(&*source, &found, &how).await.expect("a plan");
            assert_eq!(plan.slices.len(), 1);
            let name = StreamName::from(stream.as_str());
            let whole = read(&*source, &plan.slices[0], None, &how).await.expect("a slice");
            assert_range(&whole.batches(&name).cloned().collect::<Vec<_>>(), "id", 1, 20_000);
            let mut given = Vec::new();
            let mut marks = 0;
            for event in &whole.events {
                match event {
                    Event::Rows(_, batch) => given.push(batch.clone()),
                    Event::Mark(at) => {
                        marks += 1;
                        let rest = read(&*source, &plan.slices[0], Some(at), &how).await.expect("the rest");
                        let mut all = given.clone();
                        all.extend(rest.batches(&name).cloned());
                        assert_range(&all, "id", 1, 20_000);
                    }
                    _ => {}
                }
            }
            assert!(marks > 4, "{marks} marks on {:?}: {sql}", shop.flavour());
        }
    }
}

#[tokio::test]
async fn columns_and_filters_are_the_servers_work() {
    for shop in Shop::each(&keyed("INT", "i")).await {
        let source = shop.open().await;
        let stream = shop.stream("t");
        let how = How { columns: Some(vec!["id".into()]), filter: Some("k <= 10 -- the first".into()), ..How::full() };
        let batches = run(&*source, &stream, &mut how.clone()).await.expect("rows");
        assert_range(&batches, "id", 1, 10);
        assert!(batches.iter().all(|batch| batch.num_columns() == 1), "the key is read for the marks alone");
        let wrong = How { columns: Some(vec!["idd".into()]), ..How::full() };
        let error = fails(run(&*source, &stream, &mut wrong.clone()).await);
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert_eq!(error.hint_text(), Some("did you mean `id`?"));
        let wrong = How { filter: Some("nonsense nonsense".into()), ..How::full() };
        assert_eq!(fails(run(&*source, &stream, &mut wrong.clone()).await).kind(), ErrorKind::ConfigInvalid);
    }
}

#[tokio::test]
async fn names_of_any_spelling_are_read() {
    let names = ["a`b", "select", "Ünïcode", "with space", "1st", "a.b", "per%cent", "quote'\"", "日本"];
    let mut sql = String::new();
    for name in names {
        let quoted = format!("`{}`", name.replace('`', "``"));
        sql.push_str(&format!(
            "CREATE TABLE {quoted} ({quoted} INT PRIMARY KEY, v INT); INSERT INTO {quoted} VALUES (1, 7);"
        ));
    }
    for shop in Shop::each(&sql).await {
        let source = shop.open().await;
        for name in names {
            let batches = run(&*source, &shop.stream(name), &mut How::full()).await.expect(name);
            assert_eq!(texts(&batches, name), [Some("1".into())], "{name} on {:?}", shop.flavour());
        }
    }
}

#[tokio::test]
async fn views_keyless_and_empty_tables_and_hidden_columns_are_read() {
    for shop in Shop::each(
        "CREATE TABLE keyless (id INT); INSERT INTO keyless VALUES (1), (2), (2);
         CREATE VIEW seen AS SELECT id, 'x' AS mark FROM keyless WHERE id < 2;
         CREATE TABLE empty_one (id INT PRIMARY KEY);
         CREATE TABLE made (id INT PRIMARY KEY, twice INT AS (id * 2) VIRTUAL, thrice INT AS (id * 3) STORED);
         INSERT INTO made (id) VALUES (5);
         CREATE TABLE by_unique (a INT NOT NULL, b INT NOT NULL, id INT NOT NULL, UNIQUE (a, b), UNIQUE only_one (id));
         INSERT INTO by_unique VALUES (1, 1, 1), (1, 2, 2)",
    )
    .await
    {
        let source = shop.open().await;
        let ids_of = async |table: &str| {
            let batches = run(&*source, &shop.stream(table), &mut How::full()).await.expect("rows");
            ids(&batches, "id")
        };
        assert_eq!(ids_of("keyless").await, [1, 2, 2]);
        assert_eq!(ids_of("seen").await, [1]);
        assert!(run(&*source, &shop.stream("empty_one"), &mut How::full()).await.expect("rows").is_empty());
        let made = run(&*source, &shop.stream("made"), &mut How::full()).await.expect("rows");
        assert_eq!((texts(&made, "twice"), texts(&made, "thrice")), (vec![Some("10".into())], vec![Some("15".into())]));
        let found = streams(&*source, &[&shop.stream("by_unique")]).await;
        assert_eq!(found[0].key, ["id"], "the shortest");
        assert_eq!(ids_of("by_unique").await, [1, 2]);
    }
}

#[tokio::test]
async fn a_plan_is_read_by_another_process() {
    for shop in Shop::each(&keyed("INT", "i")).await {
        let source = shop.open().await;
        let stream = shop.stream("t");
        let found = streams(&*source, &[&stream]).await;
        let how = How { intent: Intent::Portable, min_slices: 4, ..How::full() };
        let plan = plan(&*source, &found, &how).await.expect("a plan");
        assert!(plan.slices.len() >= 4);
        drop(source);
        let other = shop.open().await;
        let mut batches = Vec::new();
        for slice in &plan.slices {
            // What crosses processes is JSON.
            let work: Json = serde_json::from_str(&slice.work.to_string()).expect("JSON");
            let slice = ingest_core::Slice { work, ..slice.clone() };
            let mut out = Collected::new();
            other.extract(&slice, 1, None, &mut out).await.expect("a slice");
            batches.extend(out.batches(&StreamName::from(stream.as_str())).cloned());
        }
        assert_range(&batches, "id", 1, 20_000);
    }
}

#[tokio::test]
async fn estimates_are_near_the_truth() {
    for shop in Shop::each(&keyed("INT", "i")).await {
        let source = shop.open().await;
        let found = streams(&*source, &[&shop.stream("t")]).await;
        let rows = found[0].estimate.rows.expect("an estimate");
        assert!((10_000..40_000).contains(&rows), "{rows} on {:?}", shop.flavour());
        assert!(found[0].estimate.bytes.expect("an estimate") > 1_000_000);
    }
}
