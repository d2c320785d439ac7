//! Files that cannot be read, that are still growing, that change: named, left out, read later; the others go on.

use std::sync::Arc;

use arrow_array::{Int64Array, StringArray};
use ingest_core::{Done, ErrorKind, Event, Mode, RawOut, async_trait};
use serde_json::json;

use crate::formats::{batch, bzip2, gzip, parquet, zstd};
use crate::support::{Folder, Table, finish, open, plan, run, stream};

#[tokio::test]
async fn damaged_files_are_named_the_others_read_and_tried_again_by_the_next_run() {
    let folder = Folder::new();
    let rows: String = (0..2_000).map(|i| format!("{i},{}\n", i * 7919)).collect();
    let csv = format!("id,n\n{rows}");
    let numbers = batch(vec![("id", Arc::new(Int64Array::from_iter_values(0..2_000)))]);
    let whole: [(&str, Vec<u8>); 6] = [
        ("a.csv.gz", gzip(csv.as_bytes())),
        ("b.csv.zst", zstd(csv.as_bytes())),
        ("c.csv.bz2", bzip2(csv.as_bytes())),
        ("d.json", format!("[{}]", (0..2_000).map(|i| format!("{{\"id\":{i}}}")).collect::<Vec<_>>().join(",")).into()),
        ("e.parquet", parquet(&numbers)),
        ("f.avro", avro(&numbers)),
    ];
    for (name, content) in &whole {
        let ending = name.split_once('.').expect("ending").1;
        folder.write(&format!("in/broken.{ending}"), &content[..content.len() - content.len() / 3]);
        folder.write(&format!("in/good.{ending}"), content);
    }
    for (name, content) in &whole {
        let (_, ending) = name.split_once('.').expect("ending");
        let glob = format!("in/*.{ending}");
        let source = folder.source(json!({"t": {"path": glob}})).await;
        let mut table = Table::default();
        run(source.as_ref(), "t", &mut table).await.expect(name);
        assert_eq!(table.rows.len(), 2_000, "{name}");
        assert_eq!(table.skipped.len(), 1, "{name}: {:?}", table.skipped);
        assert!(
            table.skipped[0].starts_with(&format!("in/broken.{ending} could not be read: ")),
            "{:?}",
            table.skipped
        );

        run(source.as_ref(), "t", &mut table).await.expect(name);
        assert_eq!((table.rows.len(), table.skipped.len()), (2_000, 2), "{name}: it is still broken");

        folder.write(&format!("in/broken.{ending}"), content);
        run(source.as_ref(), "t", &mut table).await.expect(name);
        assert_eq!((table.rows.len(), table.skipped.len()), (4_000, 2), "{name}: it was repaired");
        assert_eq!(run(source.as_ref(), "t", &mut table).await.expect(name), 0, "{name}");
        assert_eq!(table.positions.len(), 1, "{name}: what was left is forgotten once it is read");
    }
}

fn avro(rows: &arrow_array::RecordBatch) -> Vec<u8> {
    let mut writer = arrow_avro::writer::AvroWriter::new(Vec::new(), rows.schema().as_ref().clone()).expect("writer");
    writer.write(rows).expect("write");
    writer.finish().expect("finish");
    writer.into_inner()
}

#[tokio::test]
async fn a_large_file_that_breaks_after_its_first_rows_leaves_none_of_them() {
    let folder = Folder::new();
    // Poorly compressible, so that much is given before the end is missed.
    let noise = |i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let csv: String = (0..150_000).map(|i| format!("{i},{:016x}{:016x}\n", noise(i), noise(i + 1))).collect();
    let content = zstd(format!("id,text\n{csv}").as_bytes());
    folder.write("in/1.csv.zst", zstd(b"id,text\n-1,a\n"));
    folder.write("in/2.csv.zst", &content[..content.len() - 100]);
    folder.write("in/3.csv.zst", &content[..content.len() - 50]);
    folder.write("in/4.csv.zst", zstd(b"id,text\n-2,b\n"));
    let source = folder.source(json!({})).await;
    let mut table = Table::default();
    run(source.as_ref(), "in", &mut table).await.expect("run");
    assert_eq!(table.column("id"), ["-1", "-2"]);
    assert_eq!(table.skipped.len(), 2, "{:?}", table.skipped);
    folder.write("in/2.csv.zst", &content);
    run(source.as_ref(), "in", &mut table).await.expect("run");
    assert_eq!(table.rows.len(), 150_002);
}

#[tokio::test]
async fn a_file_that_changes_between_plan_and_reading_is_left_for_the_next_run() {
    let folder = Folder::new();
    folder.write("in/a.csv", "id\n1\n");
    folder.write("in/b.csv", "id\n2\n");
    folder.write("in/c.csv", "id\n3\n");
    let source = folder.source(json!({})).await;
    let mut table = Table::default();
    let listed = stream(source.as_ref(), "in").await;
    let planned = plan(source.as_ref(), &listed, Mode::Incremental, &table.positions, 1 << 30).await.expect("plan");
    folder.write("in/b.csv", "id\n2\n20\n");
    std::fs::remove_file(folder.path().join("in/c.csv")).expect("remove");
    for slice in &planned.slices {
        assert_eq!(finish(source.as_ref(), slice, None, &mut table).await.expect("slice"), Done::Left);
    }
    for (id, position) in planned.then.values().next().expect("then") {
        table.positions.insert(id.clone(), position.clone().expect("seen"));
    }
    assert_eq!(table.column("id"), ["1"]);
    assert!(table.skipped.is_empty(), "growing files do not make a run partial");
    run(source.as_ref(), "in", &mut table).await.expect("run");
    assert_eq!(table.column("id"), ["1", "2", "20"]);
    assert_eq!(run(source.as_ref(), "in", &mut table).await.expect("run"), 0);
}

/// Cuts a file when its first rows come.
struct Cutting {
    path: std::path::PathBuf,
    given: usize,
}

#[async_trait]
impl RawOut for Cutting {
    async fn put(&mut self, event: Event) -> ingest_core::Result<()> {
        if let Event::Rows(_, batch) = event {
            if self.given == 0 {
                std::fs::File::options().write(true).open(&self.path).expect("open").set_len(1 << 20).expect("cut");
            }
            self.given += batch.num_rows();
        }
        Ok(())
    }

    fn batch_bytes(&self) -> usize {
        64 << 10
    }

    fn follow(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_read_leaves_no_row_and_is_read_by_the_next_run() {
    let folder = Folder::new();
    let line = "x".repeat(2_000);
    let rows = |count: usize| (0..count).map(|i| format!("{i},{line}\n")).collect::<String>();
    let path = folder.write("in/a.csv", format!("id,text\n{}", rows(20_000)));
    let source = folder.source(json!({"t": {"path": "in/*.csv"}})).await;
    let mut table = Table::default();
    let listed = stream(source.as_ref(), "t").await;
    let planned = plan(source.as_ref(), &listed, Mode::Incremental, &table.positions, 1 << 30).await.expect("plan");
    let mut out = Cutting { path, given: 0 };
    let error = source.extract(&planned.slices[0], 1, None, &mut out).await.expect_err("it shrank");
    assert!(error.is_retryable() && out.given > 0, "{error:?} after {} rows", out.given);
    assert_eq!(finish(source.as_ref(), &planned.slices[0], None, &mut table).await.expect("again"), Done::Left);
    assert!(table.rows.is_empty());
    for (id, position) in planned.then.values().next().expect("then") {
        table.positions.insert(id.clone(), position.clone().expect("seen"));
    }
    folder.write("in/a.csv", format!("id,text\n{}", rows(100)));
    run(source.as_ref(), "t", &mut table).await.expect("run");
    assert_eq!(table.rows.len(), 100);
}

#[tokio::test]
async fn names_with_line_breaks_and_links_in_circles_are_read_and_passed_over() {
    let folder = Folder::new();
    folder.write("in/two\nlines.csv", "id\n1\n");
    folder.write("in/deep/a.csv", "id\n2\n");
    for (to, from) in
        [("loop.csv", "in/loop.csv"), ("..", "in/deep/up"), (".", "in/self"), ("b", "in/a"), ("a", "in/b")]
    {
        std::os::unix::fs::symlink(to, folder.path().join(from)).expect("link");
    }
    let source = folder.source(json!({"t": {"path": "in/**/*.csv"}})).await;
    let mut table = Table::default();
    run(source.as_ref(), "t", &mut table).await.expect("run");
    assert_eq!(table.column("_source_file"), ["in/deep/a.csv", "in/two\nlines.csv"]);
    assert_eq!(run(source.as_ref(), "t", &mut table).await.expect("run"), 0);
}

#[tokio::test]
async fn young_and_unfinished_files_wait() {
    let folder = Folder::new();
    folder.write("in/old.csv", "id\n1\n");
    folder.touch("in/old.csv", 1_000_000);
    folder.write("in/young.csv", "id\n2\n");
    for name in [".hidden.csv", "_staged.csv", "x.csv.tmp", "y.csv.part", "~z.csv"] {
        folder.write(&format!("in/{name}"), "id\n9\n");
    }
    folder.write("in/zero.csv", "");
    let source = folder.source(json!({"t": {"path": "in/*", "format": "csv", "settle": "1h"}})).await;
    let mut table = Table::default();
    run(source.as_ref(), "t", &mut table).await.expect("run");
    assert_eq!(table.column("id"), ["1"]);
    folder.touch("in/young.csv", 2_000_000);
    folder.write("in/zero.csv", "id\n3\n");
    folder.touch("in/zero.csv", 2_000_000);
    run(source.as_ref(), "t", &mut table).await.expect("run");
    assert_eq!(table.column("id"), ["1", "2", "3"], "also with times before what was read");
}

#[tokio::test]
async fn changed_files_are_treated_as_told() {
    for (policy, expected) in
        [("replace", vec!["10", "2"]), ("append", vec!["1", "10", "2"]), ("ignore", vec!["1", "2"])]
    {
        let folder = Folder::new();
        folder.write("in/a.csv", "id\n1\n");
        folder.write("in/b.csv", "id\n2\n");
        let source = folder.source(json!({"t": {"path": "in/*.csv", "on_change": policy}})).await;
        let mut table = Table::default();
        run(source.as_ref(), "t", &mut table).await.expect("first");
        folder.write("in/a.csv", "id\n10\n");
        folder.touch("in/a.csv", 1_000_000);
        run(source.as_ref(), "t", &mut table).await.expect("second");
        assert_eq!(table.column("id"), expected, "{policy}");
        run(source.as_ref(), "t", &mut table).await.expect("third");
        assert_eq!(table.column("id"), expected, "{policy}");
    }
    let folder = Folder::new();
    folder.write("a.csv", "id\n1\n");
    let source = folder.source(json!({"t": {"path": "*.csv", "on_change": "fail"}})).await;
    let mut table = Table::default();
    run(source.as_ref(), "t", &mut table).await.expect("first");
    folder.write("a.csv", "id\n1\n2\n");
    let error = run(source.as_ref(), "t", &mut table).await.expect_err("changed");
    assert_eq!(error.kind(), ErrorKind::DataInvalid);
    assert!(error.to_string().contains("a.csv"), "{error}");
}

#[tokio::test]
async fn a_changed_file_that_is_broken_keeps_its_old_rows() {
    let folder = Folder::new();
    folder.write("in/a.csv.gz", gzip(b"id\n1\n"));
    let source = folder.source(json!({})).await;
    let mut table = Table::default();
    run(source.as_ref(), "in", &mut table).await.expect("first");
    let next = gzip(b"id\n10\n11\n");
    folder.write("in/a.csv.gz", &next[..next.len() - 9]);
    run(source.as_ref(), "in", &mut table).await.expect("second");
    assert_eq!((table.column("id"), table.skipped.len()), (vec!["1".to_owned()], 1));
    folder.write("in/a.csv.gz", next);
    run(source.as_ref(), "in", &mut table).await.expect("third");
    assert_eq!(table.column("id"), ["10", "11"]);
}

#[tokio::test]
async fn a_bomb_is_refused_and_the_others_are_read() {
    let folder = Folder::new();
    let mut bomb = b"id,x\n1,".to_vec();
    bomb.resize(65 << 20, b'0');
    folder.write("in/bomb.csv.zst", zstd(&bomb));
    folder.write("in/good.csv.gz", gzip(b"id,x\n7,a\n"));
    let mut config = folder.config(json!({}));
    config["max_record"] = json!("1MiB");
    let source = open(config).await.expect("open");
    let mut table = Table::default();
    run(source.as_ref(), "in", &mut table).await.expect("run");
    assert_eq!(table.column("id"), ["7"]);
    assert!(
        table.skipped[0].contains("in/bomb.csv.zst") && table.skipped[0].contains("LimitExceeded"),
        "{:?}",
        table.skipped
    );
}

#[tokio::test]
async fn foreign_bytes_never_stop_the_others() {
    let folder = Folder::new();
    let rows = batch(vec![
        ("id", Arc::new(Int64Array::from_iter_values(0..500))),
        ("t", Arc::new(StringArray::from_iter_values((0..500).map(|i| format!("text {i}"))))),
    ]);
    let csv: String = std::iter::once("id,t\n".to_owned()).chain((0..500).map(|i| format!("{i},text {i}\n"))).collect();
    let json: String = (0..500).map(|i| format!("{{\"id\":{i},\"t\":\"text {i}\"}}\n")).collect();
    let whole = [
        ("parquet", parquet(&rows)),
        ("avro", avro(&rows)),
        ("csv.gz", gzip(csv.as_bytes())),
        ("csv.zst", zstd(csv.as_bytes())),
        ("ndjson", json.clone().into_bytes()),
        ("json", format!("[{}]", json.trim().replace('\n', ",")).into_bytes()),
        (
            "xml",
            format!("<r>{}</r>", (0..500).map(|i| format!("<x><id>{i}</id></x>")).collect::<String>()).into_bytes(),
        ),
    ];
    for (ending, content) in whole {
        // A byte overwritten here and there; the seed is fixed so that a failure can be repeated.
        let mut seed = 42_u64;
        for round in 0..40 {
            let mut bytes = content.clone();
            for _ in 0..=round % 4 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (seed >> 33) as usize % bytes.len();
                bytes[at] = (seed >> 24) as u8;
            }
            folder.write(&format!("{ending}/{round}.{ending}"), bytes);
        }
        folder.write(&format!("{ending}/whole.{ending}"), &content);
        let source =
            folder.source(json!({"t": {"path": format!("{ending}/*"), "format": ending.split('.').next()}})).await;
        let mut table = Table::default();
        run(source.as_ref(), "t", &mut table).await.unwrap_or_else(|e| panic!("{ending}: {e:?}"));
        let whole = format!("{ending}/whole.{ending}");
        assert_eq!(table.rows.iter().filter(|row| row["_source_file"] == whole).count(), 500, "{ending}");
    }
}
