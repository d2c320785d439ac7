//! Changes from the binlog: the log of changes, replayed by its order, is the source.

use ingest_core::{ErrorKind, Mode, StreamName};
use ingest_testkit::capture::{Capture, loaded};
use ingest_testkit::mysql::{Flavour, Mysql, Options, PASSWORD};
use mysql_async::prelude::Queryable;
use serde_json::json;

use crate::support::{How, Shop, fails, numbered, open, plan, streams, texts};

const TABLE: &str =
    "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(100)); INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, 'three')";

#[tokio::test]
async fn inserts_updates_and_deletes_follow_the_first_load() {
    for shop in Shop::each(TABLE).await {
        let (source, stream, mut capture) = (shop.open().await, shop.stream("t"), Capture::default());
        let names = [stream.clone()];
        capture.run(&*source, &names).await.expect("a run");
        assert_eq!(capture.ops(&stream), ["R", "R", "R"]);
        shop.sql("INSERT INTO t VALUES (4, 'four'); UPDATE t SET v = 'zwei' WHERE id = 2; DELETE FROM t WHERE id = 1")
            .await;
        // A change of the key is seen as a row that goes and one that comes.
        shop.sql("UPDATE t SET id = 30 WHERE id = 3").await;
        capture.run(&*source, &names).await.expect("a run");
        assert_eq!(capture.ops(&stream)[3..], ["I", "U", "D", "D", "I"], "{:?}", shop.flavour());
        assert_eq!(capture.replay(&stream, "id", &["v"]), loaded(&*source, &stream, "id", &["v"]).await);
        capture.run(&*source, &names).await.expect("a run");
        assert_eq!(capture.ops(&stream).len(), 8, "nothing comes twice");
    }
}

/// Columns of every kind, and two rows of values for each.
fn every_kind(flavour: Flavour) -> Vec<(&'static str, &'static str, &'static str)> {
    let mut kinds = vec![
        ("TINYINT", "-128", "127"),
        ("TINYINT UNSIGNED", "255", "0"),
        ("YEAR", "2024", "0"),
        ("SMALLINT UNSIGNED", "65535", "1"),
        ("MEDIUMINT", "-8388608", "5"),
        ("MEDIUMINT UNSIGNED", "16777215", "5"),
        ("INT UNSIGNED", "4000000000", "1"),
        ("BIGINT", "-9223372036854775808", "1"),
        ("BIGINT UNSIGNED", "18446744073709551615", "1"),
        ("FLOAT", "1.5", "-0.25"),
        ("DOUBLE", "0.1", "-1e300"),
        ("DECIMAL(10,3)", "-12.345", "0"),
        ("DECIMAL(38,30)", "-99999999.999999999999999999999999999999", "1e-30"),
        ("DECIMAL(65,20)", "-123456789012345678901234567890.12345678901234567890", "0"),
        ("DECIMAL(9,9)", "0.123456789", "-0.5"),
        ("BIT(1)", "b'1'", "b'0'"),
        ("BIT(13)", "b'1000000000001'", "b'10'"),
        ("DATE", "'2024-02-29'", "'0000-00-00'"),
        ("DATETIME", "'2024-02-29 12:34:56'", "'1000-01-01 00:00:00'"),
        ("DATETIME(1)", "'2024-02-29 12:34:56.7'", "'9999-12-31 23:59:59.9'"),
        ("DATETIME(6)", "'2024-02-29 12:34:56.123456'", "'2024-02-30 00:00:00'"),
        ("TIMESTAMP(3) NULL", "'2024-02-29 12:34:56.123'", "'1970-01-02 00:00:00'"),
        ("TIMESTAMP NULL", "'2038-01-19 03:14:07'", "'0000-00-00 00:00:00'"),
        ("TIME", "'-838:59:59'", "'11:39:56'"),
        ("TIME(2)", "'-00:00:00.01'", "'838:59:59.00'"),
        ("TIME(6)", "'-12:34:56.000001'", "'00:00:00.999999'"),
        ("CHAR(5)", "'é  '", "''"),
        ("CHAR(200)", "REPEAT('é', 200)", "'x'"),
        ("VARCHAR(20) CHARACTER SET latin1", "'naïve €'", "''"),
        ("VARCHAR(300)", "REPEAT('日', 300)", "'x'"),
        ("VARCHAR(20) CHARACTER SET ucs2", "'日本'", "'x'"),
        ("VARCHAR(20) CHARACTER SET utf32", "'😀'", "'x'"),
        ("TEXT CHARACTER SET sjis", "'日本'", "'x'"),
        ("LONGTEXT", "REPEAT('😀 end ', 20000)", "''"),
        ("ENUM('a','b''c','é')", "'b''c'", "'é'"),
        ("SET('x','y','z')", "'z,x'", "''"),
        ("BINARY(4)", "'a'", "X'00000000'"),
        ("VARBINARY(10)", "X'00ff00'", "''"),
        ("BLOB", "X'c3'", "REPEAT('x', 60000)"),
        ("POINT", "ST_GeomFromText('POINT(1 2)')", "ST_GeomFromText('POINT(-1 0.5)')"),
        ("GEOMETRY", "ST_GeomFromText('LINESTRING(1 2, 3 4)')", "ST_GeomFromText('POINT(0 0)')"),
        (
            "JSON",
            "'{\"k\": [1, -70000, 5000000000, 18446744073709551615, 1.5, true, null, \"é\\\\n\"], \"\": {}}'",
            "'[]'",
        ),
    ];
    if flavour == Flavour::MariaDb {
        kinds.push(("INET6", "'2001:db8::'", "'::1'"));
        kinds.push(("INET4", "'127.0.0.0'", "'0.0.0.0'"));
        kinds.push(("UUID", "'123e4567-e89b-12d3-a456-426614174000'", "'00000000-0000-7000-8000-000000000000'"));
    } else {
        kinds.push(("JSON", "CAST(JSON_OBJECT('d', CAST('2024-01-02 03:04:05.6' AS DATETIME(6)), 'n', CAST(-1.25 AS DECIMAL(10,4)), 't', CAST('-01:02:03' AS TIME)) AS JSON)", "CAST(REPEAT('[', 50) AS CHAR)"));
    }
    kinds
}

#[tokio::test]
async fn values_of_every_kind_are_the_same_from_the_binlog_as_from_the_table() {
    for shop in Shop::each("SELECT 1").await {
        let kinds: Vec<_> =
            every_kind(shop.flavour()).into_iter().filter(|(_, _, b)| !b.starts_with("CAST(REPEAT")).collect();
        let columns: Vec<String> = kinds.iter().enumerate().map(|(i, (sql, _, _))| format!("c{i} {sql}")).collect();
        shop.sql(&format!(
            "CREATE TABLE t (id INT PRIMARY KEY, {}, made INT AS (id + 1) VIRTUAL, kept INT AS (id + 2) STORED)",
            columns.join(", ")
        ))
        .await;
        let (source, stream, mut capture) = (shop.open().await, shop.stream("t"), Capture::default());
        capture.run(&*source, std::slice::from_ref(&stream)).await.expect("a run");
        let names: Vec<String> = (0..kinds.len()).map(|i| format!("c{i}")).collect();
        let first: Vec<&str> = kinds.iter().map(|(_, a, _)| *a).collect();
        let second: Vec<&str> = kinds.iter().map(|(_, _, b)| *b).collect();
        shop.sql(&format!(
            "INSERT INTO t (id, {}) VALUES (1, {}), (2, {})",
            names.join(","),
            first.join(","),
            second.join(",")
        ))
        .await;
        shop.sql("INSERT INTO t (id) VALUES (3)").await;
        for (i, (_, a, b)) in kinds.iter().enumerate() {
            shop.sql(&format!(
                "INSERT INTO t (id, c{i}) VALUES ({0}, {a}); UPDATE t SET c{i} = {b} WHERE id = {0}",
                10 + i
            ))
            .await;
        }
        capture.run(&*source, std::slice::from_ref(&stream)).await.expect("a run");
        let mut shown: Vec<&str> = names.iter().map(String::as_str).collect();
        shown.extend(["made", "kept", "_ingest_rescued"]);
        let fresh = shop.open().await;
        let (found, truth) = (capture.replay(&stream, "id", &shown), loaded(&*fresh, &stream, "id", &shown).await);
        assert_eq!(found.len(), truth.len());
        for (key, row) in &truth {
            for (i, name) in shown.iter().enumerate() {
                let sql = kinds.get(i).map_or("", |(sql, _, _)| sql);
                let short = |text: &Option<String>| text.as_ref().map(|text| text.chars().take(80).collect::<String>());
                let (a, b) = (short(&row[i]), short(&found[key][i]));
                assert!(
                    row[i] == found[key][i],
                    "{name} {sql} of row {key} on {:?}: table {a:?}, binlog {b:?}",
                    shop.flavour()
                );
            }
        }
    }
}

#[tokio::test]
async fn one_feed_serves_many_tables_and_one_that_joins_later() {
    let tables: String = (0..5)
        .map(|i| format!("CREATE TABLE t{i} (id INT PRIMARY KEY, v INT); INSERT INTO t{i} VALUES (1, {i});"))
        .collect();
    for shop in Shop::each(&tables).await {
        let (source, mut capture) = (shop.open().await, Capture::default());
        let names: Vec<String> = (0..5).map(|i| shop.stream(&format!("t{i}"))).collect();
        capture.run(&*source, &names[..3]).await.expect("a run");
        for i in 0..5 {
            shop.sql(&format!("INSERT INTO t{i} VALUES (2, 0); UPDATE t{i} SET v = v + 10")).await;
        }
        capture.run(&*source, &names[..2]).await.expect("a run of some");
        shop.sql("UPDATE t2 SET v = v + 100; UPDATE t4 SET v = v + 100").await;
        capture.run(&*source, &names).await.expect("a run of all");
        for name in &names {
            assert_eq!(capture.replay(name, "id", &["v"]), loaded(&*source, name, "id", &["v"]).await, "{name}");
            let mut order = capture.order(name);
            let count = order.len();
            order.sort_unstable();
            order.dedup();
            assert_eq!(order.len(), count, "{name}: changes came twice");
        }
    }
}

#[tokio::test]
async fn a_table_that_is_truncated_or_altered_is_followed() {
    for shop in Shop::each(TABLE).await {
        let (source, stream, mut capture) = (shop.open().await, shop.stream("t"), Capture::default());
        let names = [stream.clone()];
        capture.run(&*source, &names).await.expect("a run");
        for (ddl, dml) in [
            ("TRUNCATE TABLE t", "INSERT INTO t (id, v) VALUES (5, 'five'), (6, 'six')"),
            ("ALTER TABLE t ADD COLUMN extra INT FIRST", "INSERT INTO t (extra, id, v) VALUES (7, 7, 'seven')"),
            (
                "ALTER TABLE t MODIFY id BIGINT, ADD COLUMN later DATE",
                "INSERT INTO t (id, v, later) VALUES (5000000000, 'big', '2024-01-01')",
            ),
            ("ALTER TABLE t DROP COLUMN extra", "UPDATE t SET v = 'changed' WHERE id = 5"),
        ] {
            shop.sql(ddl).await;
            shop.sql(dml).await;
            capture.run(&*source, &names).await.expect(ddl);
            let fresh = shop.open().await;
            assert_eq!(capture.replay(&stream, "id", &["v"]), loaded(&*fresh, &stream, "id", &["v"]).await, "{ddl}");
        }
        let last = capture.replay(&stream, "id", &["later"]);
        assert_eq!(last["5000000000"], [Some("2024-01-01".into())]);
    }
}

#[tokio::test]
async fn a_log_that_was_removed_is_an_error_with_its_remedy() {
    for shop in Shop::each(TABLE).await {
        let (source, stream, mut capture) = (shop.open().await, shop.stream("t"), Capture::default());
        let names = [stream.clone()];
        capture.run(&*source, &names).await.expect("a run");
        let held = capture.positions[&stream].values().next().expect("a position").at["log"].clone();
        let mut gone = capture.positions[&stream].values().next().expect("a position").clone();
        gone.at = json!({"log": {"server": held["server"], "file": "binlog.000000", "pos": 4}});
        capture.positions.get_mut(&stream).expect("a position").insert("binlog".into(), gone.clone());
        shop.sql("INSERT INTO t VALUES (9, '')").await;
        let error = fails(capture.run(&*source, &names).await);
        assert_eq!(error.kind(), ErrorKind::CheckpointInvalid, "{error:?}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("--resync")), "{error:?}");
        gone.at = json!({"log": {"server": "another", "file": held["file"], "pos": held["pos"]}});
        capture.positions.get_mut(&stream).expect("a position").insert("binlog".into(), gone);
        assert_eq!(fails(capture.run(&*source, &names).await).kind(), ErrorKind::CheckpointInvalid);
    }
}

#[tokio::test]
async fn a_server_that_does_not_log_rows_is_refused_with_every_remedy() {
    let options = Options {
        settings: &["--binlog-format=MIXED", "--binlog-row-image=MINIMAL", "--binlog-row-metadata=MINIMAL"],
        ..Options::default()
    };
    for flavour in Flavour::ALL {
        let Some(server) = Mysql::private(flavour, &options) else { continue };
        let database = server.database().await;
        database.sql("CREATE TABLE t (id INT PRIMARY KEY)").await;
        let config = json!({"host": "127.0.0.1", "port": server.port(), "user": "root", "password": PASSWORD});
        let source = open(config).await.expect("a source");
        let found = streams(&*source, &[&format!("{}.t", database.name)]).await;
        let error = fails(plan(&*source, &found, &How { mode: Mode::Cdc, ..How::full() }).await);
        let refused = format!("{error} {}", error.hint_text().unwrap_or_default());
        let problems = source.check_changes(&[found[0].name.clone()]).await.expect("a check");
        assert!(problems.iter().all(|problem| problem.exit_code == 2), "{problems:?}");
        let checked: String = problems.iter().map(|problem| format!("{} {}; ", problem.what, problem.remedy)).collect();
        for word in
            ["cdc:", "SET GLOBAL binlog_format = 'ROW'", "binlog_row_image = 'FULL'", "binlog_row_metadata = 'FULL'"]
        {
            assert!(refused.contains(word) && checked.contains(word), "{word}: {refused}, {checked}");
        }
    }
}

#[tokio::test]
async fn an_account_that_may_not_see_the_log_is_told_so_before_it_runs() {
    for flavour in Flavour::ALL {
        let Some(server) = Mysql::private(flavour, &Options::default()) else { continue };
        let database = server.database().await;
        database.sql("CREATE TABLE t (id INT PRIMARY KEY)").await;
        database.sql("CREATE USER reader@'%' IDENTIFIED BY 'readers'").await;
        database.sql(&format!("GRANT SELECT ON {}.* TO reader@'%'", database.name)).await;
        let config = json!({"host": "127.0.0.1", "port": server.port(), "user": "reader", "password": "readers"});
        let source = open(config).await.expect("a source");
        let name = StreamName::from(format!("{}.t", database.name));
        let problems = source.check_changes(std::slice::from_ref(&name)).await.expect("a check");
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].exit_code, ErrorKind::PermissionDenied.exit_code(), "{problems:?}");
        database.sql("GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO reader@'%'").await;
        let source = open(json!({"host": "127.0.0.1", "port": server.port(), "user": "reader", "password": "readers"}));
        assert_eq!(source.await.expect("a source").check_changes(&[name]).await.expect("a check"), []);
    }
}

#[tokio::test]
async fn compressed_and_partial_events_are_read() {
    let settings = ["--log-bin-compress=1", "--log-bin-compress-min-len=10"];
    let Some(server) = Mysql::private(Flavour::MariaDb, &Options { settings: &settings, ..Options::default() }) else {
        return;
    };
    let database = server.database().await;
    database.sql("CREATE TABLE t (id INT PRIMARY KEY, a TEXT, b TEXT); INSERT INTO t VALUES (1, 'a', 'b')").await;
    let config = json!({"host": "127.0.0.1", "port": server.port(), "user": "root", "password": PASSWORD});
    let (source, stream, mut capture) =
        (open(config).await.expect("a source"), format!("{}.t", database.name), Capture::default());
    let names = [stream.clone()];
    capture.run(&*source, &names).await.expect("a run");
    database
        .sql("INSERT INTO t VALUES (2, REPEAT('x', 5000), REPEAT('y', 5000)); UPDATE t SET a = REPEAT('z', 3000)")
        .await;
    capture.run(&*source, &names).await.expect("a run");
    assert_eq!(capture.replay(&stream, "id", &["a", "b"]), loaded(&*source, &stream, "id", &["a", "b"]).await);
    // A session that logs less than it should: what is not in the log is said to be absent.
    database.sql("SET SESSION binlog_row_image = MINIMAL; UPDATE t SET a = 'partly' WHERE id = 1; DELETE FROM t WHERE id = 2").await;
    capture.run(&*source, &names).await.expect("a run");
    let batch = capture.batches(&stream).last().expect("rows");
    assert_eq!(texts(std::slice::from_ref(batch), "a"), [Some("partly".into()), None]);
    assert_eq!(texts(std::slice::from_ref(batch), "_ingest_absent"), [Some("04".into()), Some("06".into())]);
}

#[tokio::test]
async fn a_load_under_fire_and_its_changes_are_the_source_after_restarts() {
    for flavour in Flavour::ALL {
        let settings = ["--sync-binlog=1", "--innodb-flush-log-at-trx-commit=1"];
        let Some(server) = Mysql::private(flavour, &Options { settings: &settings, ..Options::default() }) else {
            continue;
        };
        let database = server.database().await;
        let tables: Vec<String> = (0..4)
            .map(|i| {
                format!(
                    "CREATE TABLE t{i} (id INT PRIMARY KEY, v INT, pad VARCHAR(200)); {}",
                    numbered(&format!("t{i}"), "i, 0, REPEAT('x', 100)", 3_000)
                )
            })
            .collect();
        database.sql(&tables.join(";")).await;
        let config = json!({"host": "127.0.0.1", "port": server.port(), "user": "root", "password": PASSWORD, "connect_timeout": "5s"});
        let names: Vec<String> = (0..4).map(|i| format!("{}.t{i}", database.name)).collect();
        let mut capture = Capture::default();
        for restart in 0..4 {
            let mut client = server.client().await;
            let name = database.name.clone();
            let writer = tokio::spawn(async move {
                let _ = client.query_drop(format!("USE {name}")).await;
                for i in 0..120_u32 {
                    let (table, id) = (i % 4, (i * 7_919 + restart * 31) % 3_100 + 1);
                    let sql = match i % 6 {
                        0 => format!(
                            "BEGIN; UPDATE t{table} SET v = v + 1 WHERE id < {id}; DELETE FROM t{table} WHERE id = {id}; ROLLBACK"
                        ),
                        1 => format!("INSERT IGNORE INTO t{table} VALUES ({id}, -1, '')"),
                        2 => format!("DELETE FROM t{table} WHERE id = {id}"),
                        3 => format!("UPDATE IGNORE t{table} SET id = id + 3000 WHERE id = {id}"),
                        _ => format!(
                            "BEGIN; UPDATE t{table} SET v = v + 1 WHERE id BETWEEN {id} AND {id} + 40; REPLACE INTO t{table} VALUES ({id}, {i}, 'r'); COMMIT"
                        ),
                    };
                    if client.query_drop(sql).await.is_err() {
                        break;
                    }
                }
            });
            let source = open(config.clone()).await.expect("a source");
            capture.run(&*source, &names).await.expect("a run while rows change");
            if restart % 2 == 1 {
                server.crash();
                let _ = writer.await;
                server.resume();
            } else {
                writer.await.expect("a writer");
            }
        }
        let source = open(config).await.expect("a source");
        capture.run(&*source, &names).await.expect("the last run");
        for name in &names {
            let (found, truth) =
                (capture.replay(name, "id", &["v", "pad"]), loaded(&*source, name, "id", &["v", "pad"]).await);
            assert!(found == truth, "{name} on {flavour:?}: {} rows replayed, {} there", found.len(), truth.len());
        }
    }
}
