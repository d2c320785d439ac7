//! What goes wrong on the way, at the server and in the middle of a run.

use std::time::Duration;

use ingest_core::{ErrorKind, StreamName};
use ingest_testkit::mysql::{Flavour, Mysql, Options, PASSWORD};
use ingest_testkit::out::Collected;
use ingest_testkit::proxy::{Accept, Answers, Faults, Proxy};
use serde_json::json;

use crate::support::{How, Shop, assert_range, fails, numbered, open, plan, read, run, streams};

fn table() -> String {
    format!("CREATE TABLE t (id INT PRIMARY KEY, name TEXT); {}", numbered("t", "i, REPEAT('x', 200)", 50_000))
}

/// A source behind a proxy, with short patience.
async fn behind_proxy() -> Option<(Shop, Proxy)> {
    let shop = Shop::on(Flavour::MariaDb, &table()).await?;
    let proxy = Proxy::start(format!("127.0.0.1:{}", shop.server.port())).await.expect("a proxy");
    let port = proxy.port();
    let shop = shop.with("port", port).with("timeout", "1s").with("connect_timeout", "2s");
    Some((shop, proxy))
}

#[tokio::test]
async fn a_connection_that_is_cut_is_never_a_whole_slice() {
    let Some((shop, proxy)) = behind_proxy().await else { return };
    let stream = shop.stream("t");
    let source = shop.open().await;
    let found = streams(&*source, &[&stream]).await;
    let plan = plan(&*source, &found, &How::full()).await.expect("a plan");
    let whole = 50_000 * 210;
    for after in [20, 1_000, 100_000, whole / 2, whole] {
        for orderly in [true, false] {
            proxy.set(match orderly {
                true => Faults { close_after: Some(after), ..Faults::none() },
                false => Faults { reset_after: Some(after), ..Faults::none() },
            });
            let other = open(shop.config.clone()).await.expect("a source");
            let mut out = Collected::new();
            let error = fails(other.extract(&plan.slices[0], 1, None, &mut out).await);
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{after} {orderly}: {error:?}");
            proxy.heal();
        }
    }
    let other = shop.open().await;
    assert_eq!(read(&*other, &plan.slices[0], None, &How::full()).await.expect("a slice").rows(), 50_000);
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let Some((shop, proxy)) = behind_proxy().await else { return };
    proxy.set(Faults { accept: Accept::Silent, ..Faults::none() });
    let source = shop.open().await;
    let error = fails(source.schema(&Default::default()).await);
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    proxy.set(Faults::down());
    let error = fails(source.schema(&Default::default()).await);
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}

#[tokio::test]
async fn answers_that_vanish_end_in_a_timeout() {
    let Some((shop, proxy)) = behind_proxy().await else { return };
    let source = shop.open().await;
    let found = streams(&*source, &[&shop.stream("t")]).await;
    let plan = plan(&*source, &found, &How::full()).await.expect("a plan");
    proxy.set(Faults { answers: Answers::Drop, ..Faults::none() });
    let error = fails(source.extract(&plan.slices[0], 1, None, &mut Collected::new()).await);
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    assert!(error.is_exhausted(), "its time is used up");
}

#[tokio::test]
async fn a_statement_at_work_is_waited_for() {
    for shop in Shop::each("CREATE VIEW slow AS SELECT 1 AS id, SLEEP(3) AS nap").await {
        let (stream, shop) = (shop.stream("slow"), shop.with("timeout", "1s"));
        let source = shop.open().await;
        assert_range(&run(&*source, &stream, &mut How::full()).await.expect("a load"), "id", 1, 1);
    }
}

#[tokio::test]
async fn limits_of_the_server_end_a_statement() {
    for shop in Shop::each("CREATE TABLE t (id INT); INSERT INTO t VALUES (1), (2); CREATE VIEW slow AS SELECT COUNT(*) AS n FROM information_schema.COLUMNS a, information_schema.COLUMNS b, information_schema.COLUMNS c; CREATE TABLE locked (id INT)").await {
        let (slow, locked) = (shop.stream("slow"), shop.stream("locked"));
        let shop = shop.with("statement_timeout", "100ms").with("lock_timeout", "1s");
        let source = shop.open().await;
        let error = fails(run(&*source, &slow, &mut How::full()).await);
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
        let source = shop.with("statement_timeout", "0s");
        let shop = source;
        let source = shop.open().await;
        shop.sql("LOCK TABLE locked WRITE").await;
        let error = fails(run(&*source, &locked, &mut How::full()).await);
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
        shop.sql("UNLOCK TABLES").await;
    }
}

#[tokio::test]
async fn a_dropped_slice_ends_its_statement() {
    for shop in Shop::each("CREATE VIEW slow AS SELECT SLEEP(600) AS nap").await {
        let source = shop.open().await;
        let found = streams(&*source, &[&shop.stream("slow")]).await;
        let plan = plan(&*source, &found, &How::full()).await.expect("a plan");
        let active = "SELECT CAST(COUNT(*) AS CHAR) FROM information_schema.PROCESSLIST WHERE COMMAND = 'Execute' AND INFO LIKE '%`slow`%' AND ID <> CONNECTION_ID()";
        let mut out = Collected::new();
        {
            let mut reading = source.extract(&plan.slices[0], 1, None, &mut out);
            while shop.texts(active).await[0][0].as_deref() != Some("1") {
                let _ = tokio::time::timeout(Duration::from_millis(5), &mut reading).await;
            }
        }
        while shop.texts(active).await[0][0].as_deref() != Some("0") {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_table_that_changes_in_mid_run_is_a_classified_error() {
    for (change, kind) in [
        ("DROP TABLE t", ErrorKind::NotFound),
        ("ALTER TABLE t DROP COLUMN name", ErrorKind::SchemaChanged),
        ("ALTER TABLE t CHANGE name other TEXT", ErrorKind::SchemaChanged),
        ("ALTER TABLE t MODIFY name INT", ErrorKind::SchemaChanged),
    ] {
        for shop in Shop::each("CREATE TABLE t (id INT PRIMARY KEY, name TEXT); INSERT INTO t VALUES (1, '1')").await {
            let source = shop.open().await;
            let stream = shop.stream("t");
            let found = streams(&*source, &[&stream]).await;
            let plan = plan(&*source, &found, &How::full()).await.expect("a plan");
            shop.sql(change).await;
            let error = fails(source.extract(&plan.slices[0], 1, None, &mut Collected::new()).await);
            assert_eq!(error.kind(), kind, "{change} on {:?}: {error:?}", shop.flavour());
            assert!(error.to_string().contains(&format!("stream {stream}")), "{error}");
            assert!(error.hint_text().is_some(), "{error}");
        }
    }
}

#[tokio::test]
async fn a_huge_row_is_refused_before_it_is_in_memory() {
    for shop in Shop::each(
        "CREATE TABLE t (id INT PRIMARY KEY, name LONGTEXT); INSERT INTO t VALUES (1, REPEAT('0123456789', 1000000))",
    )
    .await
    {
        let (stream, shop) = (shop.stream("t"), shop.with("max_row_bytes", "1MiB"));
        let source = shop.open().await;
        let error = fails(run(&*source, &stream, &mut How::full()).await);
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error:?}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("max_row_bytes")));
        let without = &mut How { columns: Some(vec!["id".into()]), ..How::full() };
        assert_range(&run(&*source, &stream, without).await.expect("without the column"), "id", 1, 1);
        let shop = shop.with("max_row_bytes", "64MiB");
        let source = shop.open().await;
        assert_eq!(run(&*source, &stream, &mut How::full()).await.expect("with a higher limit")[0].num_rows(), 1);
    }
}

#[tokio::test]
async fn a_server_that_restarts_is_unavailable_and_then_read_again() {
    let settings = ["--innodb-flush-log-at-trx-commit=1"];
    let options = Options { settings: &settings, ..Options::default() };
    let Some(server) = Mysql::private(Flavour::MariaDb, &options) else { return };
    let database = server.database().await;
    database.sql(&format!("CREATE TABLE t (id INT PRIMARY KEY); {}", numbered("t", "i", 1_000))).await;
    let config = json!({"host": "127.0.0.1", "port": server.port(), "database": database.name, "user": "root",
        "password": PASSWORD, "connect_timeout": "5s"});
    let source = open(config).await.expect("a source");
    let stream = format!("{}.t", database.name);
    let found = streams(&*source, &[&stream]).await;
    let plan = plan(&*source, &found, &How::full()).await.expect("a plan");
    server.crash();
    let error = fails(source.extract(&plan.slices[0], 1, None, &mut Collected::new()).await);
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.is_retryable());
    server.resume();
    let out = read(&*source, &plan.slices[0], None, &How::full()).await.expect("a slice");
    assert_range(&out.batches(&StreamName::from(stream.as_str())).cloned().collect::<Vec<_>>(), "id", 1, 1_000);
}
