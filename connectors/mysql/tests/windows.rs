//! Incremental reads: no row is lost, none comes twice, whenever transactions commit.

use ingest_core::{ErrorKind, Mode, Safety};
use ingest_testkit::mysql::Flavour;
use mysql_async::prelude::Queryable;

use crate::support::{How, Shop, assert_range, fails, ids, run, streams, texts};

const TABLE: &str = "CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6), note TEXT, KEY (at))";

#[tokio::test]
async fn each_run_reads_what_is_new_and_what_was_changed() {
    for column in ["TIMESTAMP(6)", "TIMESTAMP", "DATETIME(6)", "DATETIME"] {
        let sql = TABLE.replace("TIMESTAMP(6) NOT", &format!("{column} NOT"));
        let sql = if column.contains('(') { sql } else { sql.replace("CURRENT_TIMESTAMP(6)", "CURRENT_TIMESTAMP") };
        for flavour in Flavour::ALL {
            let Some(shop) = Shop::alone(flavour, &sql).await else { continue };
            let source = shop.open().await;
            let (stream, mut how) = (shop.stream("t"), How::by("at"));
            assert!(run(&*source, &stream, &mut how).await.expect("a run").is_empty());
            let mut first = 1;
            for _ in 0..3 {
                shop.sql("INSERT INTO t (note) VALUES ('a'), ('b'), ('c')").await;
                let batches = run(&*source, &stream, &mut how).await.expect("a run");
                assert_range(&batches, "id", first, first + 2);
                first += 3;
            }
            shop.sql("UPDATE t SET note = 'changed' WHERE id = 2").await;
            let batches = run(&*source, &stream, &mut how).await.expect("a run");
            assert_eq!(ids(&batches, "id"), [2], "{column} on {:?}", shop.flavour());
            assert!(run(&*source, &stream, &mut how).await.expect("a run").is_empty());
        }
    }
}

#[tokio::test]
async fn a_row_that_is_committed_late_arrives_in_a_later_run() {
    for cursor in ["at", "id"] {
        for flavour in Flavour::ALL {
            let Some(shop) = Shop::alone(flavour, TABLE).await else { continue };
            let source = shop.open().await;
            let (stream, mut how) = (shop.stream("t"), How::by(cursor));
            shop.sql("INSERT INTO t (note) VALUES ('before')").await;
            let mut seen = ids(&run(&*source, &stream, &mut how).await.expect("a run"), "id");
            let mut late = shop.server.client().await;
            let name = &shop.database.name;
            late.query_drop(format!("USE {name}; BEGIN; INSERT INTO t (note) VALUES ('late')")).await.expect("SQL");
            shop.sql("INSERT INTO t (note) VALUES ('after')").await;
            let batches = run(&*source, &stream, &mut how).await.expect("a run");
            seen.extend(ids(&batches, "id"));
            late.query_drop("COMMIT").await.expect("SQL");
            seen.extend(ids(&run(&*source, &stream, &mut how).await.expect("a run"), "id"));
            seen.sort_unstable();
            assert_eq!(seen, [1, 2, 3], "by {cursor} on {:?}", shop.flavour());
        }
    }
}

#[tokio::test]
async fn rows_of_writers_that_never_rest_come_once() {
    for cursor in ["at", "id"] {
        for flavour in Flavour::ALL {
            let Some(shop) = Shop::alone(flavour, TABLE).await else { continue };
            let source = shop.open().await;
            let (stream, mut how) = (shop.stream("t"), How::by(cursor));
            let writers: Vec<_> = futures_writers(&shop, 3).await;
            let mut seen = Vec::new();
            for _ in 0..4 {
                seen.extend(ids(&run(&*source, &stream, &mut how).await.expect("a run"), "id"));
            }
            for writer in writers {
                writer.await.expect("a writer");
            }
            seen.extend(ids(&run(&*source, &stream, &mut how).await.expect("a run"), "id"));
            seen.sort_unstable();
            let there: Vec<i64> = shop
                .texts("SELECT id FROM t ORDER BY id")
                .await
                .into_iter()
                .map(|row| row[0].as_ref().expect("not null").parse().expect("a number"))
                .collect();
            assert_eq!(seen, there, "by {cursor} on {:?}", shop.flavour());
        }
    }
}

/// Writers of transactions that take a while, so that they commit out of order.
async fn futures_writers(shop: &Shop, count: u32) -> Vec<tokio::task::JoinHandle<()>> {
    let mut writers = Vec::new();
    for writer in 0..count {
        let mut client = shop.server.client().await;
        let name = shop.database.name.clone();
        writers.push(tokio::spawn(async move {
            client.query_drop(format!("USE {name}")).await.expect("SQL");
            for i in 0..40 {
                let pause = f64::from(i % 5) * 0.02 * f64::from(writer);
                let sql = format!("BEGIN; INSERT INTO t (note) VALUES ('x'); DO SLEEP({pause}); INSERT INTO t (note) VALUES ('y'); COMMIT");
                client.query_drop(sql).await.expect("SQL");
            }
        }));
    }
    writers
}

#[tokio::test]
async fn rows_without_a_cursor_are_read_in_the_first_load() {
    for flavour in Flavour::ALL {
        let Some(shop) = Shop::alone(flavour, "CREATE TABLE t (id INT PRIMARY KEY, at DATETIME NULL); INSERT INTO t VALUES (1, NULL), (2, '2024-01-01'), (3, NULL)").await else { continue };
        let source = shop.open().await;
        let (stream, mut how) = (shop.stream("t"), How::by("at"));
        assert_range(&run(&*source, &stream, &mut how).await.expect("a run"), "id", 1, 3);
        assert!(run(&*source, &stream, &mut how).await.expect("a run").is_empty());
    }
}

#[tokio::test]
async fn rows_of_the_future_wait_for_their_time() {
    for flavour in Flavour::ALL {
        let Some(shop) = Shop::alone(flavour, "CREATE TABLE t (id INT PRIMARY KEY, at DATETIME); INSERT INTO t VALUES (1, '2024-01-01'), (2, '2999-01-01')").await else { continue };
        let source = shop.open().await;
        let (stream, mut how) = (shop.stream("t"), How::by("at"));
        assert_range(&run(&*source, &stream, &mut how).await.expect("a run"), "id", 1, 1);
        shop.sql("INSERT INTO t VALUES (3, '2024-01-02')").await;
        assert_range(&run(&*source, &stream, &mut how).await.expect("a run"), "id", 3, 3);
    }
}

#[tokio::test]
async fn an_interval_gives_its_rows_up_to_the_position() {
    for flavour in Flavour::ALL {
        let Some(shop) = Shop::alone(flavour, "CREATE TABLE t (id INT PRIMARY KEY, at DATETIME); INSERT INTO t VALUES (1, '2024-01-01'), (2, '2024-01-02'), (3, '2024-01-03')").await else { continue };
        let source = shop.open().await;
        let (stream, mut how) = (shop.stream("t"), How::by("at"));
        run(&*source, &stream, &mut how).await.expect("a run");
        shop.sql("INSERT INTO t VALUES (4, '2024-01-02 12:00:00'), (5, '2024-01-03 12:00:00')").await;
        let day = |day: i64| (19_722 + day) * 86_400_000_000;
        let positions = how.positions.clone();
        let mut interval = How { interval: Some((day(2), day(5))), ..how.clone() };
        let batches = run(&*source, &stream, &mut interval).await.expect("a run");
        assert_eq!(ids(&batches, "id"), [2, 3, 4]);
        assert_eq!(interval.positions, positions, "the position stays");
        assert_range(&run(&*source, &stream, &mut how).await.expect("a run"), "id", 5, 5);
    }
}

#[tokio::test]
async fn cursors_say_what_makes_them_safe() {
    for flavour in Flavour::ALL {
        let Some(shop) = Shop::alone(flavour, "CREATE TABLE t (id INT PRIMARY KEY, updated_at DATETIME, made TIMESTAMP NULL, name TEXT); CREATE TABLE plain (note TEXT)").await else { continue };
        let user = format!("reader_{}", shop.database.name);
        shop.sql(&format!(
            "CREATE USER {user}@'%' IDENTIFIED BY 'pw'; GRANT SELECT ON {}.* TO {user}@'%'",
            shop.database.name
        ))
        .await;
        let source = shop.open().await;
        let found = streams(&*source, &[]).await;
        let stream = found.iter().find(|stream| stream.name.as_str().ends_with(".t")).expect("a stream");
        let columns: Vec<&str> = stream.cursors.iter().map(|cursor| cursor.column.as_str()).collect();
        assert_eq!(columns, ["updated_at", "made", "id"]);
        assert_eq!((stream.modes[0], stream.cursors[0].safety), (Mode::Incremental, Safety::Snapshot));
        let plain = found.iter().find(|stream| stream.name.as_str().ends_with(".plain")).expect("a stream");
        assert_eq!(plain.modes[0], Mode::Full);
        let shop = shop.with("user", user).with("password", "pw");
        let source = shop.open().await;
        let stream = &streams(&*source, &[&shop.stream("t")]).await[0];
        assert!(matches!(stream.cursors[0].safety, Safety::Lag(_)), "without PROCESS");
        shop.sql("INSERT INTO t VALUES (1, NOW() - INTERVAL 1 HOUR, NULL, ''), (2, NOW(), NULL, '')").await;
        let batches = run(&*source, &shop.stream("t"), &mut How::by("updated_at")).await.expect("a run");
        assert_eq!(texts(&batches, "id"), [Some("1".into())], "the last minutes are left to the next run");
    }
}

#[tokio::test]
async fn a_cursor_that_is_none_is_refused() {
    for flavour in Flavour::ALL {
        let Some(shop) = Shop::alone(flavour, "CREATE TABLE t (id INT PRIMARY KEY, name TEXT)").await else { continue };
        let source = shop.open().await;
        for cursor in ["name", "nam"] {
            let error = fails(run(&*source, &shop.stream("t"), &mut How::by(cursor)).await);
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{error:?}");
            assert!(error.hint_text().is_some());
        }
    }
}
