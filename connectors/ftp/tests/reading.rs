//! Listings of both kinds, many files, changes between runs, and what becomes of files that were read.

use ingest_core::Mode;
use ingest_testkit::ftp::Protection;
use ingest_testkit::sshd::Folder;
use ingest_testkit::table::{Table, finish, load, plan, run, stream};
use serde_json::json;

use crate::support::{open, pyftpdlib, vsftpd, with};

#[tokio::test]
async fn both_kinds_of_listings_show_the_same_tree() {
    let folder = Folder::new();
    folder.write("in/a.csv", "id\n1\n");
    folder.write("in/deep/er/b.csv", "id\n2\n");
    folder.write("in/sp ace ü 'q'.csv", "id\n3\n");
    folder.write("in/.hidden.csv", "id\n9\n");
    folder.write("in/c.csv.part", "id\n9\n");
    folder.write("in/two\nlines.csv", "id\n9\n");
    let link = |to: &str, from: &str| {
        std::os::unix::fs::symlink(to, folder.path().join(from)).expect("link");
    };
    link("a.csv", "in/same.csv");
    link("..", "in/up");
    link("nothing.csv", "in/dead.csv");
    let files = json!({"files": {"t": {"path": "in/*.csv"}, "deep": {"path": "in/deep/**/*.csv"}}});
    let Some((_first, one)) = pyftpdlib(&folder, Protection::Explicit).await else { return };
    let Some((_second, two)) = vsftpd(&folder, &[]).await else { return };
    for config in [one, two] {
        let source = open(with(config, files.clone())).await.expect("open");
        let table = load(source.as_ref(), "t").await;
        assert_eq!(table.column("_source_file"), ["in/a.csv", "in/same.csv", "in/sp ace ü 'q'.csv"]);
        assert_eq!(table.column("id"), ["1", "1", "3"]);
        assert_eq!(load(source.as_ref(), "deep").await.column("_source_file"), ["in/deep/er/b.csv"]);
    }
}

#[tokio::test]
async fn links_that_go_in_circles_end() {
    let folder = Folder::new();
    folder.write("in/a.csv", "id\n1\n");
    for name in ["one", "two", "three"] {
        std::os::unix::fs::symlink(".", folder.path().join("in").join(name)).expect("link");
    }
    let Some((_server, config)) = pyftpdlib(&folder, Protection::Plain).await else { return };
    let source = open(with(config, json!({"files": {"t": {"path": "in/**/*.csv"}}}))).await.expect("open");
    assert_eq!(load(source.as_ref(), "t").await.column("_source_file"), ["in/a.csv"]);
}

#[tokio::test]
async fn only_what_is_new_or_changed_is_read() {
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
    let Some((_first, one)) = pyftpdlib(&folder, Protection::Explicit).await else { return };
    let Some((_second, two)) = vsftpd(&folder, &[]).await else { return };
    let mut sources = Vec::new();
    for config in [one, two] {
        let source = open(config).await.expect("open");
        let mut table = Table::default();
        assert_eq!(run(source.as_ref(), "in", &mut table).await.expect("first"), 1);
        assert_eq!(table.column("id"), ["1", "2"], "a file of this minute waits");
        assert_eq!(run(source.as_ref(), "in", &mut table).await.expect("nothing new"), 0);
        sources.push((source, table));
    }
    folder.touch("in/young.csv", 1_700_000_000);
    folder.write("in/b.csv", "id\n20\n21\n");
    folder.touch("in/b.csv", 1_710_000_000);
    for (source, mut table) in sources {
        assert_eq!(run(source.as_ref(), "in", &mut table).await.expect("changed"), 1);
        assert_eq!(table.column("id"), ["1", "20", "21", "3"]);
    }
}

#[tokio::test]
async fn files_that_change_shrink_or_go_between_plan_and_reading_are_left_for_the_next_run() {
    let folder = Folder::new();
    for name in ["a", "b", "c", "d"] {
        folder.write(&format!("in/{name}.csv"), format!("id\n{name}1\n{name}2\n"));
    }
    let Some((_server, config)) = pyftpdlib(&folder, Protection::Explicit).await else { return };
    let source = open(config).await.expect("open");
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
    for after in ["archive", "delete"] {
        let folder = Folder::new();
        folder.write("in/deep/a.csv", "id\n1\n");
        folder.write("in/b.csv", "id\n2\n");
        let Some((_server, config)) = pyftpdlib(&folder, Protection::Explicit).await else { return };
        let more = json!({"after_commit": after, "files": {"t": {"path": "in/**/*.csv"}}});
        let source = open(with(config, more)).await.expect("open");
        let there = |path: &str| folder.path().join(path).exists();
        let mut table = Table::default();
        run(source.as_ref(), "t", &mut table).await.expect("run");
        assert!(!there("in/b.csv") && !there("in/deep/a.csv"));
        assert_eq!(there("archive/in/deep/a.csv"), after == "archive");
        folder.write("in/b.csv", "id\n3\n4\n");
        run(source.as_ref(), "t", &mut table).await.expect("run");
        assert_eq!(table.column("id"), ["1", "3", "4"]);
        if after == "archive" {
            assert_eq!(std::fs::read_dir(folder.path().join("archive/in")).expect("archive").count(), 3);
        }
    }
}

#[tokio::test]
async fn thousands_of_small_files_are_all_read_once_over_two_connections() {
    let folder = Folder::new();
    for i in 0..3_000 {
        folder.write(&format!("in/{}/{i}.csv", i % 30), format!("id\n{i}\n"));
    }
    let Some((_server, config)) = pyftpdlib(&folder, Protection::Plain).await else { return };
    let source = open(config).await.expect("open");
    let mut table = Table::default();
    run(source.as_ref(), "in", &mut table).await.expect("run");
    let mut ids: Vec<u32> = table.column("id").iter().map(|id| id.parse().expect("id")).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..3_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn xml_documents_small_and_large_are_read_and_a_cut_one_is_named() {
    let folder = Folder::new();
    folder.write("in/a.xml", b"<?xml version='1.0' encoding='ISO-8859-1'?><r><x><id>1</id><n>\xe4</n></x></r>");
    let many: String = (2..=40_000).map(|id| format!("<x><id>{id}</id><n>{id:064}</n></x>\n")).collect();
    folder.write("in/b.xml", format!("<r>{many}</r>"));
    folder.write("in/cut.xml", "<r><x><id>0</id></x><x><id>");
    let Some((_server, config)) = pyftpdlib(&folder, Protection::Explicit).await else { return };
    let source = open(with(config, json!({"files": {"t": {"path": "in/*.xml"}}}))).await.expect("open");
    let mut table = Table::default();
    run(source.as_ref(), "t", &mut table).await.expect("run");
    assert_eq!(table.column("n").iter().filter(|n| n.as_str() == "\u{e4}").count(), 1);
    let mut ids: Vec<u32> = table.column("id").iter().map(|id| id.parse().expect("id")).collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(1..=40_000));
    assert!(table.skipped.len() == 1 && table.skipped[0].starts_with("in/cut.xml"), "{:?}", table.skipped);
}
