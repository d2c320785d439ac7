//! Trees, links, odd names, many files, changes between runs, and what becomes of files that were read.

use ingest_core::{Mode, Selection};
use ingest_testkit::sshd::{Folder, Sshd};
use ingest_testkit::table::{Table, finish, load, plan, run, stream};
use serde_json::json;

use crate::support::{config, open, with};

#[tokio::test]
async fn a_tree_is_listed_with_odd_names_and_without_links_that_lead_astray() {
    let Some(server) = Sshd::start(&[]).await else { return };
    let folder = Folder::new();
    folder.write("in/a.csv", "id\n1\n");
    folder.write("in/deep/er/b.csv", "id\n2\n");
    folder.write("in/two\nlines.csv", "id\n3\n");
    folder.write("in/sp ace ü 'q' \"d\" *?[x].csv", "id\n4\n");
    folder.write("in/.hidden.csv", "id\n9\n");
    folder.write("in/c.csv.part", "id\n9\n");
    folder.write("other/secret.csv", "id\n9\n");
    let link = |to: &str, from: &str| {
        std::os::unix::fs::symlink(to, folder.path().join(from)).expect("link");
    };
    link("a.csv", "in/same.csv");
    link("..", "in/up");
    link("loop.csv", "in/loop.csv");
    link("/etc/passwd", "in/out.csv");
    link("nothing.csv", "in/dead.csv");
    let base =
        with(config(&server, &folder), json!({"path": folder.path().join("in"), "files": {"t": {"path": "**/*.csv"}}}));
    let source = open(base).await.expect("open");
    let table = load(source.as_ref(), "t").await;
    assert_eq!(table.column("id"), ["1", "1", "2", "3", "4"]);
    let files = table.column("_source_file");
    assert_eq!(files, ["a.csv", "deep/er/b.csv", "same.csv", "sp ace ü 'q' \"d\" *?[x].csv", "two\nlines.csv"]);
    let problems = source.check(&Selection::default()).await.expect("check");
    assert!(problems.iter().any(|p| p.what.contains("out.csv") && p.what.contains("leads out")), "{problems:?}");
}

#[tokio::test]
async fn only_what_is_new_or_changed_is_read_and_half_uploads_wait() {
    let Some(server) = Sshd::start(&[]).await else { return };
    let folder = Folder::new();
    folder.write("in/a.csv", "id\n1\n");
    folder.write("in/b.csv", "id\n2\n");
    let young = folder.write("in/young.csv", "id\n3\n");
    std::fs::File::options()
        .write(true)
        .open(&young)
        .expect("open")
        .set_modified(std::time::SystemTime::now())
        .expect("touch");
    folder.write("marked/x.csv", "id\n10\n");
    folder.write("marked/y.csv", "id\n20\n");
    folder.write("marked/y.csv.done", "");
    folder.write("marked/test.csv", "id\n30\n");
    folder.write("marked/test.csv.done", "");
    let files = json!({
        "in": {"path": "in/*.csv"},
        "marked": {"path": "marked/*.csv", "marker": "{name}.done", "exclude": ["marked/test*"]},
    });
    let source = open(with(config(&server, &folder), json!({"files": files}))).await.expect("open");
    let mut table = Table::default();
    assert_eq!(run(source.as_ref(), "in", &mut table).await.expect("first"), 1);
    assert_eq!(table.column("id"), ["1", "2"], "a file of this minute waits");
    assert_eq!(run(source.as_ref(), "in", &mut table).await.expect("nothing new"), 0);
    folder.touch("in/young.csv", 1_700_000_000);
    folder.write("in/b.csv", "id\n20\n21\n");
    assert_eq!(run(source.as_ref(), "in", &mut table).await.expect("changed"), 1);
    assert_eq!(table.column("id"), ["1", "20", "21", "3"]);

    let mut marked = Table::default();
    run(source.as_ref(), "marked", &mut marked).await.expect("run");
    assert_eq!(marked.column("id"), ["20"], "only what is marked, and not what is excluded");
    folder.write("marked/x.csv.done", "");
    run(source.as_ref(), "marked", &mut marked).await.expect("run");
    assert_eq!(marked.column("id"), ["10", "20"]);
}

#[tokio::test]
async fn files_that_change_shrink_or_go_between_plan_and_reading_are_left_for_the_next_run() {
    let Some(server) = Sshd::start(&[]).await else { return };
    let folder = Folder::new();
    for name in ["a", "b", "c", "d"] {
        folder.write(&format!("in/{name}.csv"), format!("id\n{name}1\n{name}2\n"));
    }
    let source = open(config(&server, &folder)).await.expect("open");
    let mut table = Table::default();
    let listed = stream(source.as_ref(), "in").await;
    let planned = plan(source.as_ref(), &listed, Mode::Incremental, &table.positions, 1 << 30).await.expect("plan");
    folder.write("in/b.csv", "id\nb1\nb2\nb3\n");
    folder.write("in/c.csv", "id\nc1\n");
    std::fs::remove_file(folder.path().join("in/d.csv")).expect("remove");
    for slice in &planned.slices {
        finish(source.as_ref(), slice, None, &mut table).await.expect("slice");
    }
    assert_eq!(table.column("id"), ["a1", "a2"]);
    assert!(table.skipped.is_empty(), "files that change do not make a run partial: {:?}", table.skipped);
    for (id, position) in planned.then.values().next().expect("then") {
        table.positions.insert(id.clone(), position.clone().expect("seen"));
    }
    run(source.as_ref(), "in", &mut table).await.expect("next run");
    assert_eq!(table.column("id"), ["a1", "a2", "b1", "b2", "b3", "c1"]);
}

#[tokio::test]
async fn read_files_are_archived_or_deleted_once_they_are_committed() {
    let Some(server) = Sshd::start(&[]).await else { return };
    for after in ["archive", "delete"] {
        let folder = Folder::new();
        folder.write("in/deep/a.csv", "id\n1\n");
        folder.write("in/b.csv", "id\n2\n");
        folder.write("in/bad.csv.gz", b"\x1f\x8bno gzip");
        let more = json!({"after_commit": after, "files": {"t": {"path": "in/**/*.csv*", "format": "csv"}}});
        let source = open(with(config(&server, &folder), more)).await.expect("open");
        let there = |path: &str| folder.path().join(path).exists();
        let mut table = Table::default();
        let listed = stream(source.as_ref(), "t").await;
        let planned = plan(source.as_ref(), &listed, Mode::Incremental, &table.positions, 1 << 30).await.expect("plan");
        for slice in &planned.slices {
            finish(source.as_ref(), slice, None, &mut table).await.expect("slice");
        }
        assert!(there("in/b.csv") && planned.more, "nothing is touched before the commit");
        for (id, position) in planned.then.values().next().expect("then") {
            table.positions.insert(id.clone(), position.clone().expect("seen"));
        }
        run(source.as_ref(), "t", &mut table).await.expect("run");
        assert!(!there("in/b.csv") && !there("in/deep/a.csv"));
        assert_eq!(there("archive/in/deep/a.csv"), after == "archive");
        assert!(there("in/bad.csv.gz"), "what could not be read stays");
        assert_eq!(table.column("id"), ["1", "2"]);

        // The name comes again: its content is another one, and the archive keeps both.
        folder.write("in/b.csv", "id\n3\n4\n");
        run(source.as_ref(), "t", &mut table).await.expect("run");
        assert_eq!(table.column("id"), ["1", "3", "4"]);
        assert!(!there("in/b.csv"));
        if after == "archive" {
            let kept = std::fs::read_dir(folder.path().join("archive/in")).expect("archive").count();
            assert_eq!(kept, 3, "b.csv twice, and the folder deep");
        }
    }
}

#[tokio::test]
async fn ten_thousand_small_files_are_all_read_once() {
    let Some(server) = Sshd::start(&[]).await else { return };
    let folder = Folder::new();
    for i in 0..10_000 {
        folder.write(&format!("in/{}/{i}.csv", i % 100), format!("id\n{i}\n"));
    }
    let source = open(config(&server, &folder)).await.expect("open");
    let mut table = Table::default();
    let listed = stream(source.as_ref(), "in").await;
    let planned = plan(source.as_ref(), &listed, Mode::Incremental, &table.positions, 1 << 30).await.expect("plan");
    assert!(planned.slices.len() >= 10);
    let mut tables = vec![Table::default(); planned.slices.len()];
    for (slices, tables) in planned.slices.chunks(4).zip(tables.chunks_mut(4)) {
        let reads = slices.iter().zip(tables).map(|(slice, table)| finish(source.as_ref(), slice, None, table));
        for done in futures::future::join_all(reads).await {
            done.expect("slice");
        }
    }
    tables.into_iter().for_each(|other| table.rows.extend(other.rows));
    let mut ids: Vec<u32> = table.column("id").iter().map(|id| id.parse().expect("id")).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..10_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn xml_documents_small_and_large_are_read_and_a_cut_one_is_named() {
    let folder = Folder::new();
    folder.write("in/a.xml", b"<?xml version='1.0' encoding='ISO-8859-1'?><r><x><id>1</id><n>\xe4</n></x></r>");
    let many: String = (2..=40_000).map(|id| format!("<x><id>{id}</id><n>{id:064}</n></x>\n")).collect();
    folder.write("in/b.xml", format!("<r>{many}</r>"));
    folder.write("in/cut.xml", "<r><x><id>0</id></x><x><id>");
    let Some(server) = Sshd::start(&[]).await else { return };
    let config = with(config(&server, &folder), json!({"files": {"t": {"path": "in/*.xml"}}}));
    let source = open(config).await.expect("open");
    let mut table = Table::default();
    run(source.as_ref(), "t", &mut table).await.expect("run");
    assert_eq!(table.column("n").iter().filter(|n| n.as_str() == "\u{e4}").count(), 1);
    let mut ids: Vec<u32> = table.column("id").iter().map(|id| id.parse().expect("id")).collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(1..=40_000));
    assert!(table.skipped.len() == 1 && table.skipped[0].starts_with("in/cut.xml"), "{:?}", table.skipped);
}
