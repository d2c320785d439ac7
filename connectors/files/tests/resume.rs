//! From every mark the rest is read, and only the rest.

use ingest_core::{Event, Mode};
use serde_json::json;

use crate::support::{Folder, Table, extract, plan, run, stream};

#[tokio::test]
async fn resuming_from_every_mark_gives_the_uninterrupted_read() {
    let folder = Folder::new();
    for file in 0..12 {
        // Large enough that marks fall between files.
        let rows: String =
            (0..9_000).map(|i| format!("{},\"text\nof {i}\",{}\n", file * 9_000 + i, "y".repeat(60))).collect();
        folder.write(&format!("in/{file:02}.csv"), format!("id,text,more\n{rows}"));
        folder.touch(&format!("in/{file:02}.csv"), 1_000_000 + file);
    }
    folder.write("in/00.csv", "id,text,more\n-1,a\n-2,b,c\n");
    folder.touch("in/00.csv", 1_000_000);
    let source = folder.source(json!({})).await;
    let listed = stream(source.as_ref(), "in").await;
    let planned = plan(source.as_ref(), &listed, Mode::Incremental, &Default::default(), 1 << 30).await.expect("plan");
    assert_eq!(planned.slices.len(), 1);
    let (given, done) = extract(source.as_ref(), &planned.slices[0], None).await;
    done.expect("whole");
    let mut whole = Table::default();
    whole.apply(given.events.clone());
    assert_eq!((whole.rows.len(), whole.bad.len()), (11 * 9_000 + 1, 1));
    let mut marks = 0;
    let mut head = Table::default();
    for event in given.events {
        let Event::Mark(mark) = event else {
            head.apply([event]);
            continue;
        };
        marks += 1;
        let mut table = head.clone();
        let (rest, done) = extract(source.as_ref(), &planned.slices[0], Some(&mark)).await;
        done.expect("rest");
        table.apply(rest.events);
        assert_eq!(table.rows, whole.rows, "mark {marks}");
        assert_eq!(table.bad, whole.bad, "mark {marks}");
    }
    assert!(marks >= 5, "{marks} marks");
}

#[tokio::test]
async fn a_huge_file_is_resumed_inside() {
    for (ending, header, compress) in [("csv", "id,pad\n", false), ("ndjson", "", false), ("csv.zst", "id,pad\n", true)]
    {
        let folder = Folder::new();
        let pad = "z".repeat(1_000);
        let row = |i: usize| match ending {
            "ndjson" => format!("{{\"id\":{i},\"pad\":\"{pad}\"}}\n"),
            _ => format!("{i},\"{pad}\"\n"),
        };
        let mut content = String::from(header);
        (0..150_000).for_each(|i| content.push_str(&row(i)));
        let content = if compress { crate::formats::zstd(content.as_bytes()) } else { content.into_bytes() };
        folder.write(&format!("t.{ending}"), content);
        let mut config = folder.config(json!({}));
        config["max_ratio"] = json!(100_000);
        let source = crate::support::open(config).await.expect("open");
        let listed = stream(source.as_ref(), "t").await;
        let planned =
            plan(source.as_ref(), &listed, Mode::Incremental, &Default::default(), 1 << 30).await.expect("plan");
        let (given, done) = extract(source.as_ref(), &planned.slices[0], None).await;
        done.expect("whole");
        let (mut before, mut inside) = (0, Vec::new());
        for event in &given.events {
            match event {
                Event::Rows(_, batch) => before += batch.num_rows(),
                Event::Mark(mark) => inside.push((before, mark)),
                _ => {}
            }
        }
        assert_eq!(before, 150_000, "{ending}");
        assert!(inside.len() >= 3, "{ending}: marks about every 64 MiB, {} came", inside.len());
        for (before, mark) in inside {
            let (rest, done) = extract(source.as_ref(), &planned.slices[0], Some(mark)).await;
            done.expect("rest");
            let mut next = before;
            for event in rest.events {
                if let Event::Rows(_, batch) = event {
                    let ids = arrow_array::cast::AsArray::as_primitive::<arrow_array::types::Int64Type>(
                        batch.column_by_name("id").expect("id"),
                    )
                    .values()
                    .to_vec();
                    assert_eq!(ids, (next as i64..(next + ids.len()) as i64).collect::<Vec<_>>(), "{ending}");
                    next += ids.len();
                }
            }
            assert_eq!(next, 150_000, "{ending}");
        }
    }
}

#[tokio::test]
async fn many_files_are_read_in_slices_and_each_once() {
    let folder = Folder::new();
    for i in 0..100 {
        folder.write(&format!("in/{i}.csv"), format!("id\n{i}\n"));
    }
    let source = folder.source(json!({})).await;
    let listed = stream(source.as_ref(), "in").await;
    let planned = plan(source.as_ref(), &listed, Mode::Full, &Default::default(), 40).await.expect("plan");
    assert!(planned.slices.len() >= 10, "{}", planned.slices.len());
    let reads = planned.slices.iter().map(|slice| extract(source.as_ref(), slice, None));
    let mut table = Table::default();
    for (given, done) in futures::future::join_all(reads).await {
        done.expect("slice");
        table.apply(given.events);
    }
    let mut ids: Vec<i64> = table.column("id").iter().map(|id| id.parse().expect("id")).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..100).collect::<Vec<_>>());
    let mut table = Table::default();
    assert_eq!(run(source.as_ref(), "in", &mut table).await.expect("run"), 1);
    assert_eq!(table.rows.len(), 100);
}

#[tokio::test]
async fn slices_of_many_files_stay_below_their_size() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path().join("in")).expect("mkdir");
    for i in 0..3_000 {
        std::fs::write(folder.path().join(format!("in/{}-{i}.csv", "long-name-".repeat(10))), "id\n1\n")
            .expect("write");
    }
    let source = folder.source(json!({})).await;
    let listed = stream(source.as_ref(), "in").await;
    let planned = plan(source.as_ref(), &listed, Mode::Incremental, &Default::default(), 1 << 30).await.expect("plan");
    assert!(planned.slices.len() >= 3);
    assert!(planned.slices.iter().all(|slice| slice.work.to_string().len() <= 64 << 10));
    assert_eq!(planned.slices.iter().map(|slice| crate::support::work(slice).files.len()).sum::<usize>(), 3_000);
}
