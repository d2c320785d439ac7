//! Incremental reads by a cursor.

use bson::{DateTime, Document, doc};
use ingest_core::{ErrorKind, Mode, Safety};

use crate::support::{How, Shop, assert_range, fails, ids, run, streams};

const DAY: i64 = 86_400_000;

fn at(days: i64) -> DateTime {
    DateTime::from_millis(1_750_000_000_000 + days * DAY)
}

#[tokio::test]
async fn only_what_is_new_comes_and_what_has_no_cursor_comes_once() {
    for indexed in [false, true] {
        let Some(shop) = Shop::new().await else { return };
        shop.insert("t", (1..=40).map(|i| doc! { "_id": i, "n": i, "updated_at": at(i64::from(i) / 3) })).await;
        shop.insert("t", [doc! { "_id": 41, "n": 41 }, doc! { "_id": 42, "n": 42, "updated_at": "soon" }]).await;
        if indexed {
            let command = doc! { "createIndexes": "t", "indexes": [{ "key": { "updated_at": 1 }, "name": "by_time" }] };
            shop.database.run_command(command).await.expect("an index");
        }
        let shop = shop.with("types", serde_json::json!({"t": {"updated_at": "timestamp"}}));
        let source = shop.open().await;
        let mut how = How { min_slices: 3, batch_bytes: 500, ..How::by("updated_at") };
        assert_range(&run(&*source, "t", &mut how).await.expect("rows"), "n", 1, 42);
        assert!(run(&*source, "t", &mut how).await.expect("none").is_empty(), "nothing is new");
        shop.insert("t", (43..=60).map(|i| doc! { "_id": i, "n": i, "updated_at": at(i64::from(i)) })).await;
        let changed = shop.database.collection::<Document>("t");
        changed.update_one(doc! { "_id": 1 }, doc! { "$set": { "updated_at": at(50) } }).await.expect("an update");
        let batches = run(&*source, "t", &mut how).await.expect("rows");
        let mut expected: Vec<i64> = (43..=60).collect();
        expected.insert(0, 1);
        assert_eq!(ids(&batches, "n"), expected, "indexed: {indexed}");
        assert!(run(&*source, "t", &mut how).await.expect("none").is_empty());
    }
}

#[tokio::test]
async fn what_is_too_new_waits() {
    let Some(shop) = Shop::new().await else { return };
    let now = DateTime::now().timestamp_millis();
    shop.insert(
        "t",
        [doc! { "_id": 1, "n": 1, "at": at(0) }, doc! { "_id": 2, "n": 2, "at": DateTime::from_millis(now) }],
    )
    .await;
    shop.insert("t", [doc! { "_id": 3, "n": 3, "at": DateTime::from_millis(now + 3_600_000) }]).await;
    let shop = shop.with("lag", "10m");
    let mut how = How::by("at");
    assert_eq!(ids(&run(&*shop.open().await, "t", &mut how).await.expect("rows"), "n"), [1]);
    assert!(run(&*shop.open().await, "t", &mut how).await.expect("none").is_empty());
    let shop = shop.with("lag", "0s");
    assert_eq!(ids(&run(&*shop.open().await, "t", &mut how).await.expect("rows"), "n"), [2]);
}

#[tokio::test]
async fn dates_are_offered_first_and_numbers_are_not_safe() {
    let Some(shop) = Shop::new().await else { return };
    shop.insert("t", [doc! { "_id": 1, "created": at(0), "modified": at(0), "n": 1 }]).await;
    let found = streams(&*shop.open().await, &["t"]).await;
    let cursors: Vec<(&str, bool)> =
        found[0].cursors.iter().map(|cursor| (cursor.column.as_str(), cursor.safety == Safety::Unsafe)).collect();
    assert_eq!(cursors, [("modified", false), ("created", false), ("_id", true), ("n", true)]);
    assert_eq!(found[0].modes[..2], [Mode::Full, Mode::Incremental]);
}

#[tokio::test]
async fn a_number_as_a_cursor_is_read_to_its_highest_value() {
    let Some(shop) = Shop::new().await else { return };
    shop.insert("t", (1..=10).map(|i| doc! { "_id": i, "n": i })).await;
    let source = shop.open().await;
    let mut how = How::by("n");
    assert_range(&run(&*source, "t", &mut how).await.expect("rows"), "n", 1, 10);
    shop.insert("t", (11..=15).map(|i| doc! { "_id": i, "n": i64::from(i) })).await;
    assert_range(&run(&*source, "t", &mut how).await.expect("rows"), "n", 11, 15);
}

#[tokio::test]
async fn an_interval_holds_its_documents_and_leaves_the_position_alone() {
    let Some(shop) = Shop::new().await else { return };
    shop.insert("t", (1..=30).map(|i| doc! { "_id": i, "n": i, "at": at(i64::from(i)) })).await;
    let source = shop.open().await;
    let micros = |days: i64| at(days).timestamp_millis() * 1_000;
    let mut how = How { interval: Some((micros(5), micros(8))), ..How::by("at") };
    assert_range(&run(&*source, "t", &mut how).await.expect("rows"), "n", 5, 7);
    assert!(how.positions.is_empty());
}

#[tokio::test]
async fn a_cursor_that_is_none_is_refused() {
    let Some(shop) = Shop::new().await else { return };
    shop.insert("t", [doc! { "_id": 1, "name": "x", "at": at(0) }]).await;
    let source = shop.open().await;
    for wrong in ["name", "nothing"] {
        assert_eq!(fails(run(&*source, "t", &mut How::by(wrong)).await).kind(), ErrorKind::ConfigInvalid, "{wrong}");
    }
    let mut how = How::by("at");
    run(&*source, "t", &mut how).await.expect("rows");
    how.cursor = Some("_id".into());
    assert_eq!(fails(run(&*source, "t", &mut how).await).kind(), ErrorKind::CheckpointInvalid);
}
