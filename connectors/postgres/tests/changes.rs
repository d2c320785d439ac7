//! Changes from the log: what concerns the slot and its place. The rows are in `tests/tests/changes.rs` and `tests/tests/capture`.

use ingest_core::SetUp;
use ingest_testkit::capture::{Capture, loaded};

use crate::support::Shop;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 100) i; \
    CREATE TABLE other (id int)";

async fn version(shop: &Shop) -> u32 {
    let rows = shop.texts("SELECT current_setting('server_version_num')").await;
    rows[0][0].as_deref().expect("a version").parse().expect("a number")
}

#[tokio::test]
async fn messages_of_applications_are_no_rows_and_a_quiet_table_follows_the_log() {
    let Some(shop) = Shop::alone(TABLE).await else { return };
    let shop = shop.with("slot", "quiet");
    let (source, mut capture) = (shop.open().await, Capture::default());
    capture.run(&*source, &["public.t"]).await.expect("a run");
    shop.sql(
        "UPDATE t SET v = 'new' WHERE id = 1; SELECT pg_logical_emit_message(true, 'app', 'within a transaction')",
    )
    .await;
    shop.sql("SELECT pg_logical_emit_message(false, 'app', 'outside of any'); DELETE FROM t WHERE id = 2").await;
    capture.run(&*source, &["public.t"]).await.expect("a run");
    assert_eq!(capture.ops("public.t")[100..], ["U", "D"]);
    assert_eq!(capture.replay("public.t", "id", &["v"]), loaded(&*source, "public.t", "id", &["v"]).await);
    // Nothing comes, but the place that may be confirmed goes on: no table is written for that.
    let place = |capture: &Capture| capture.positions["public.t"].values().next().expect("a position").seq.clone();
    let before = place(&capture);
    shop.sql("INSERT INTO other SELECT generate_series(1, 10000)").await;
    capture.run(&*source, &["public.t"]).await.expect("a run");
    assert!(place(&capture) > before, "{before:?}");
    assert_eq!(capture.ops("public.t").len(), 102);
}

#[tokio::test]
async fn a_slot_is_carried_over_to_standbys_where_the_server_can_do_that() {
    let Some(shop) = Shop::alone(TABLE).await else { return };
    let shop = shop.with("slot", "carried");
    let can = version(&shop).await >= 170_000;
    let (source, mut capture) = (shop.open().await, Capture::default());
    let statements = source.set_up(&["public.t".into()], SetUp::Make, true).await.expect("statements");
    assert_eq!(statements.iter().any(|statement| statement.contains("failover => true")), can, "{statements:?}");
    let carried = "SELECT to_jsonb(s) ->> 'failover' FROM pg_replication_slots s WHERE slot_name = 'carried'";
    let expected = vec![vec![can.then(|| "true".to_owned())]];
    capture.run(&*source, &["public.t"]).await.expect("a run");
    assert_eq!(shop.texts(carried).await, expected);
    source.set_up(&["public.t".into()], SetUp::Remove, false).await.expect("statements");
    source.set_up(&["public.t".into()], SetUp::Make, false).await.expect("statements");
    assert_eq!(shop.texts(carried).await, expected);
}
