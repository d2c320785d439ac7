//! Lines that are cut, and readers that wait for one another.

use ingest_core::{Event, Mode, RawOut, Result, async_trait};
use ingest_testkit::ftp::Protection;
use ingest_testkit::proxy::Proxy;
use ingest_testkit::sshd::Folder;
use ingest_testkit::table::{Given, Table, load, plan, stream};
use serde_json::json;

use crate::support::{open, pyftpdlib, vsftpd, with};

fn large(rows: u64) -> String {
    let mut text = String::from("id,text\n");
    for i in 0..rows {
        text.push_str(&format!("{i},{:016x}{:016x}\n", i.wrapping_mul(0x9e37_79b9_7f4a_7c15), i.rotate_left(17)));
    }
    text
}

fn sorted(table: &Table) -> Vec<u64> {
    let mut ids: Vec<u64> = table.column("id").iter().map(|id| id.parse().expect("id")).collect();
    ids.sort_unstable();
    ids
}

/// One connection, and files that do not fit into what is held back: the readers that wait must let go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_files_are_read_over_one_connection() {
    let folder = Folder::new();
    for i in 0..3 {
        folder.write(&format!("in/{i}.csv"), large(200_000));
    }
    let Some((_server, config)) = pyftpdlib(&folder, Protection::Explicit).await else { return };
    let source = open(with(config, json!({"connections": 1}))).await.expect("open");
    let table = load(source.as_ref(), "in").await;
    assert_eq!(table.rows.len(), 600_000);
    assert_eq!(table.skipped, Vec::<String>::new());
}

/// Cuts the connection for commands after some of the rows have come.
struct Cutting<'a> {
    given: Given,
    batches: usize,
    proxy: &'a Proxy,
}

#[async_trait]
impl RawOut for Cutting<'_> {
    async fn put(&mut self, event: Event) -> Result<()> {
        if matches!(event, Event::Rows(..)) {
            self.batches += 1;
            if matches!(self.batches, 1 | 4) {
                self.proxy.cut();
            }
        }
        self.given.put(event).await
    }

    fn batch_bytes(&self) -> usize {
        self.given.batch_bytes()
    }

    fn follow(&self) -> bool {
        false
    }
}

/// pyftpdlib ends the connection for data with the one for commands; vsftpd sends on, and cannot say that it is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_in_mid_file_is_replaced_and_nothing_is_read_twice() {
    let folder = Folder::new();
    folder.write("t.csv", large(800_000));
    let Some((one, first)) = pyftpdlib(&folder, Protection::Explicit).await else { return };
    let Some((two, second)) = vsftpd(&folder, &[]).await else { return };
    for (port, config) in [(one.port(), first), (two.port(), second)] {
        let proxy = Proxy::start(format!("127.0.0.1:{port}")).await.expect("proxy");
        let source = open(with(config, json!({"port": proxy.port(), "connections": 1}))).await.expect("open");
        let listed = stream(source.as_ref(), "t").await;
        let planned =
            plan(source.as_ref(), &listed, Mode::Incremental, &Default::default(), 1 << 30).await.expect("plan");
        let before = proxy.accepted();
        let mut out = Cutting { given: Given::default(), batches: 0, proxy: &proxy };
        let done = source.extract(&planned.slices[0], 1, None, &mut out).await;
        done.expect("the rest comes over new connections");
        assert!(proxy.accepted() > before, "no connection was replaced");
        let mut table = Table::default();
        table.apply(out.given.events);
        assert!(sorted(&table).into_iter().eq(0..800_000));
    }
}
