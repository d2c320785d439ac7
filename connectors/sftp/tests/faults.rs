//! Lines that are cut, files that are cut short.

use ingest_core::{Event, Selection};
use ingest_testkit::proxy::{Faults, Proxy};
use ingest_testkit::sshd::{Folder, Sshd};
use ingest_testkit::table::{Table, extract, load, plan, run, stream, streams};
use serde_json::json;

use crate::support::{config_at, open, with};

/// 40 MB in rows that no compression of the line would shorten.
fn large() -> String {
    let mut text = String::from("id,text\n");
    for i in 0_u64..800_000 {
        text.push_str(&format!("{i},{:016x}{:016x}\n", i.wrapping_mul(0x9e37_79b9_7f4a_7c15), i.rotate_left(17)));
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_in_mid_file_is_replaced_and_nothing_is_read_twice() {
    let Some(server) = Sshd::start(&[]).await else { return };
    let folder = Folder::new();
    folder.write("t.csv", large());
    let proxy = Proxy::start(format!("127.0.0.1:{}", server.port())).await.expect("proxy");
    let base = with(config_at(&server, &folder, proxy.port()), json!({"connections": 1}));
    let source = open(base).await.expect("open");
    let listed = stream(source.as_ref(), "t").await;
    let planned = plan(source.as_ref(), &listed, ingest_core::Mode::Incremental, &Default::default(), 1 << 30)
        .await
        .expect("plan");
    // What is open now ends, the next three die after some megabytes of their own.
    proxy.cut();
    for bytes in [3_000_000, 9_000_000, 5_000_000] {
        proxy.next(Faults { reset_after: Some(bytes), ..Faults::none() });
    }
    let (given, done) = extract(source.as_ref(), &planned.slices[0], None).await;
    done.expect("the rest comes over new connections");
    let rows: usize =
        given.events.iter().map(|e| if let Event::Rows(_, batch) = e { batch.num_rows() } else { 0 }).sum();
    assert_eq!(rows, 800_000);
    assert!(proxy.accepted() >= 4, "{} connections", proxy.accepted());
    let mut table = Table::default();
    table.apply(given.events);
    let mut ids: Vec<u64> = table.column("id").iter().map(|id| id.parse().expect("id")).collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..800_000));
}

#[tokio::test]
async fn a_server_that_goes_away_for_good_ends_the_slice_with_an_error_that_may_be_repeated() {
    let Some(server) = Sshd::start(&[]).await else { return };
    let folder = Folder::new();
    folder.write("t.csv", "id\n1\n");
    let proxy = Proxy::start(format!("127.0.0.1:{}", server.port())).await.expect("proxy");
    let source = open(config_at(&server, &folder, proxy.port())).await.expect("open");
    assert_eq!(streams(source.as_ref()).await.len(), 1);
    proxy.set(Faults::down());
    proxy.cut();
    let error = source.schema(&Selection::default()).await.expect_err("down");
    assert!(error.is_retryable(), "{error:?}");
    proxy.heal();
    assert_eq!(load(source.as_ref(), "t").await.column("id"), ["1"]);
}

#[tokio::test]
async fn a_truncated_file_is_named_and_the_others_are_read() {
    let Some(server) = Sshd::start(&[]).await else { return };
    let folder = Folder::new();
    folder.write("in/whole.json", r#"[{"id": 1}, {"id": 2}]"#);
    folder.write("in/cut.json", r#"[{"id": 3}, {"id":"#);
    let base = with(config_at(&server, &folder, server.port()), json!({"files": {"t": {"path": "in/*.json"}}}));
    let source = open(base).await.expect("open");
    let mut table = Table::default();
    run(source.as_ref(), "t", &mut table).await.expect("run");
    assert_eq!(table.column("id"), ["1", "2"]);
    assert!(
        table.skipped.len() == 1 && table.skipped[0].starts_with("in/cut.json could not be read"),
        "{:?}",
        table.skipped
    );
    folder.write("in/cut.json", r#"[{"id": 3}]"#);
    run(source.as_ref(), "t", &mut table).await.expect("run");
    assert_eq!(table.column("id"), ["1", "2", "3"]);
}
