//! Full loads.

use ingest_core::Shape;

use crate::support::{How, Shop, assert_range, plan, run, streams};

#[tokio::test]
async fn a_table_is_read_whole() {
    let Some(shop) =
        Shop::new("CREATE TABLE t AS SELECT i AS id, 'row ' || i AS name FROM generate_series(1, 10000) i").await
    else {
        return;
    };
    let source = shop.open().await;
    let batches = run(&*source, "public.t", &mut How::full()).await.expect("a load");
    assert_range(&batches, "id", 1, 10_000);
}

#[tokio::test]
async fn ctid_slices_share_one_point_in_time() {
    let Some(shop) =
        Shop::new("CREATE TABLE t AS SELECT i AS id, repeat('x', 100) AS name FROM generate_series(1, 20000) i").await
    else {
        return;
    };
    let source = shop.open().await;
    let found = streams(&*source, &["public.t"]).await;
    let how = How { min_slices: 4, ..How::full() };
    let plan = plan(&*source, &found, &how).await.expect("a plan");
    assert_eq!(plan.slices.len(), 4);
    assert!(plan.slices.iter().all(|slice| slice.shape == Shape::Snapshot));
    shop.sql("DELETE FROM t WHERE id % 3 = 0; UPDATE t SET name = 'new'; INSERT INTO t SELECT generate_series(20001, 30000), 'new'").await;
    let mut batches = Vec::new();
    for slice in &plan.slices {
        let out = crate::support::read(&*source, slice, None, &how).await.expect("a slice");
        batches.extend(out.batches(&found[0].name).cloned());
    }
    assert_range(&batches, "id", 1, 20_000);
}
