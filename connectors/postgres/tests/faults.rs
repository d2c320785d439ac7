//! What goes wrong on the way, at the server and in the middle of a run.

use std::time::Duration;

use ingest_core::{ErrorKind, StreamName};
use ingest_testkit::out::Collected;
use ingest_testkit::postgres::{Options, Postgres};
use ingest_testkit::proxy::{Accept, Answers, Faults, Proxy};
use serde_json::json;

use crate::support::{How, Shop, assert_range, fails, open, plan, read, run, streams};

const TABLE: &str = "CREATE TABLE t AS SELECT i AS id, repeat('x', 200) AS name FROM generate_series(1, 50000) i";

/// A source behind a proxy, with short patience.
async fn behind_proxy() -> Option<(Shop, Proxy)> {
    let shop = Shop::new(TABLE).await?;
    let proxy = Proxy::start(format!("127.0.0.1:{}", shop.server.port())).await.expect("a proxy");
    let port = proxy.port();
    let shop = shop.with("port", port).with("timeout", "1s").with("connect_timeout", "2s");
    Some((shop, proxy))
}

#[tokio::test]
async fn a_connection_that_is_cut_is_never_a_whole_slice() {
    let Some((shop, proxy)) = behind_proxy().await else { return };
    let source = shop.open().await;
    let found = streams(&*source, &["public.t"]).await;
    let plan = plan(&*source, &found, &How::full()).await.expect("a plan");
    let whole = 50_000 * 210;
    for after in [20, 1_000, 100_000, whole / 2, whole] {
        for orderly in [true, false] {
            let source = shop.open().await;
            streams(&*source, &["public.t"]).await;
            drop(source);
            let fault = match orderly {
                true => Faults { close_after: Some(after), ..Faults::none() },
                false => Faults { reset_after: Some(after), ..Faults::none() },
            };
            proxy.set(fault);
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
    let found = streams(&*source, &["public.t"]).await;
    let plan = plan(&*source, &found, &How::full()).await.expect("a plan");
    proxy.set(Faults { answers: Answers::Drop, ..Faults::none() });
    let error = fails(source.extract(&plan.slices[0], 1, None, &mut Collected::new()).await);
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    assert!(error.is_exhausted(), "its time is used up");
}

#[tokio::test]
async fn a_trickle_is_no_answer() {
    let Some((shop, proxy)) = behind_proxy().await else { return };
    let source = shop.open().await;
    let found = streams(&*source, &["public.t"]).await;
    let plan = plan(&*source, &found, &How::full()).await.expect("a plan");
    proxy.set(Faults { rate: Some(10), ..Faults::none() });
    let error = fails(source.extract(&plan.slices[0], 1, None, &mut Collected::new()).await);
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
}

#[tokio::test]
async fn a_statement_at_work_is_waited_for() {
    let Some(shop) = Shop::new("CREATE VIEW slow AS SELECT 1 AS id, pg_sleep(9)::text AS nap").await else { return };
    let shop = shop.with("timeout", "3s");
    let source = shop.open().await;
    assert_range(&run(&*source, "public.slow", &mut How::full()).await.expect("a load"), "id", 1, 1);
}

#[tokio::test]
async fn limits_of_the_server_end_a_statement() {
    let Some(shop) =
        Shop::new("CREATE VIEW slow AS SELECT pg_sleep(60)::text AS nap; CREATE TABLE locked (id int)").await
    else {
        return;
    };
    let shop = shop.with("statement_timeout", "100ms").with("lock_timeout", "50ms");
    let source = shop.open().await;
    let error = fails(run(&*source, "public.slow", &mut How::full()).await);
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    shop.sql("BEGIN; LOCK TABLE locked IN ACCESS EXCLUSIVE MODE").await;
    let error = fails(run(&*source, "public.locked", &mut How::full()).await);
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
}

#[tokio::test]
async fn a_dropped_slice_cancels_its_statement() {
    let Some(shop) = Shop::new("CREATE VIEW slow AS SELECT pg_sleep(600)::text AS nap").await else { return };
    let source = shop.open().await;
    let found = streams(&*source, &["public.slow"]).await;
    let plan = plan(&*source, &found, &How::full()).await.expect("a plan");
    let active = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'COPY%' AND state = 'active'";
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

#[tokio::test]
async fn a_table_that_changes_in_mid_run_is_a_classified_error() {
    for (change, kind) in [
        ("DROP TABLE t", ErrorKind::NotFound),
        ("ALTER TABLE t DROP COLUMN name", ErrorKind::SchemaChanged),
        ("ALTER TABLE t RENAME COLUMN name TO other", ErrorKind::SchemaChanged),
        ("ALTER TABLE t ALTER COLUMN id TYPE bigint", ErrorKind::SchemaChanged),
        ("REVOKE ALL ON t FROM reader", ErrorKind::PermissionDenied),
    ] {
        let Some(shop) = Shop::new(&format!("{TABLE}; DO $$ BEGIN CREATE ROLE reader LOGIN PASSWORD 'pw'; EXCEPTION WHEN OTHERS THEN NULL; END $$; GRANT SELECT ON t TO reader")).await else { return };
        let shop = shop.with("user", "reader").with("password", "pw");
        let source = shop.open().await;
        let found = streams(&*source, &["public.t"]).await;
        let plan = plan(&*source, &found, &How::full()).await.expect("a plan");
        shop.sql(change).await;
        let error = fails(source.extract(&plan.slices[0], 1, None, &mut Collected::new()).await);
        assert_eq!(error.kind(), kind, "{change}: {error:?}");
        assert!(error.to_string().contains("stream public.t"), "{error}");
        assert!(error.hint_text().is_some(), "{error}");
        shop.sql("DROP OWNED BY reader").await;
    }
}

#[tokio::test]
async fn a_stream_that_cannot_be_planned_fails_alone() {
    let Some(shop) =
        Shop::new("CREATE TABLE good (id int); INSERT INTO good VALUES (1); CREATE TABLE bad (id int)").await
    else {
        return;
    };
    let source = shop.open().await;
    let found = streams(&*source, &[]).await;
    shop.sql("DROP TABLE bad").await;
    let plan = plan(&*source, &found, &How::by("id")).await.expect("a plan");
    let slice = |name: &str| plan.slices.iter().find(|s| s.streams[0].as_str() == name).expect("a slice");
    assert_eq!(
        fails(source.extract(slice("public.bad"), 1, None, &mut Collected::new()).await).kind(),
        ErrorKind::NotFound
    );
    assert_eq!(read(&*source, slice("public.good"), None, &How::full()).await.expect("a slice").rows(), 1);
}

#[tokio::test]
async fn a_huge_row_is_refused_before_it_is_in_memory() {
    let Some(shop) =
        Shop::new("CREATE TABLE t (id int, name text); INSERT INTO t SELECT 1, repeat('0123456789', 20000000)").await
    else {
        return;
    };
    let source = shop.open().await;
    let error = fails(run(&*source, "public.t", &mut How::full()).await);
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    assert!(error.hint_text().is_some_and(|hint| hint.contains("max_row_bytes")));
    let without = &mut How { columns: Some(vec!["id".into()]), ..How::full() };
    assert_range(&run(&*source, "public.t", without).await.expect("without the column"), "id", 1, 1);
    let shop = shop.with("max_row_bytes", "256MiB");
    let source = shop.open().await;
    let batches = run(&*source, "public.t", &mut How::full()).await.expect("with a higher limit");
    assert_eq!(batches[0].num_rows(), 1);
}

#[tokio::test]
async fn a_server_that_restarts_is_unavailable_and_then_read_again() {
    let Some(server) = Postgres::private(&Options::default()) else { return };
    let client = server.client("postgres").await;
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000); ANALYZE t")
        .await
        .expect("valid SQL");
    let config = json!({"host": "127.0.0.1", "port": server.port(), "database": "postgres", "user": "postgres",
        "password": server.password(), "read": "key", "connect_timeout": "2s"});
    let source = open(config).await.expect("a source");
    let found = streams(&*source, &["public.t"]).await;
    let plan = plan(&*source, &found, &How::full()).await.expect("a plan");
    server.crash();
    let error = fails(source.extract(&plan.slices[0], 1, None, &mut Collected::new()).await);
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.is_retryable());
    server.resume();
    let mut batches = Vec::new();
    for slice in &plan.slices {
        let out = read(&*source, slice, None, &How::full()).await.expect("a slice");
        batches.extend(out.batches(&StreamName::from("public.t")).cloned());
    }
    assert_range(&batches, "id", 1, 1_000);
}
