//! Change capture under fire, one test for all databases: random changes of twenty tables with types of every kind, while the
//! program is killed and the server crashes. Afterwards the log of changes comes to what the source holds, and every version of
//! every row is in it once.
//!
//! `INGEST_TEST_KILLS=50` kills so often (default 3), with a crash of the server for every fifth kill, at least one.

mod kinds;
mod load;
mod many;
pub mod replay;
mod shop;

use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use ingest_testkit::mysql::Flavour;
use ingest_testkit::oracle::Rows;
use ingest_testkit::python::{Reader, rows};
use serde_json::{Map, Value};
use tokio::task::JoinHandle;

use self::load::{Load, Table};
use self::replay::{Shape, assert_once, replay};
use self::shop::{Client, Shop};
use crate::cli::{Project, rest, signal, wait};
use crate::sample_database::folder;
use crate::survive::chance;

const RUN: [&str; 5] = ["run", "--source", "db", "--progress", "off"];
const FOLLOW: [&str; 6] = ["run", "--source", "db", "--progress", "off", "--follow"];
/// So many clients change rows at once, each those of its own tables.
const WRITERS: usize = 2;
/// A transaction of each comes this often: a debug build must be able to follow.
const PAUSE: Duration = Duration::from_millis(15);

/// What goes wrong next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Crash,
}

/// The clients that change rows until they are told to stop, or their server is gone.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Load>>,
}

impl Writers {
    async fn start(shop: &Shop, loads: Vec<Load>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for load in loads {
            tasks.push(tokio::spawn(write(shop.client().await, load, Arc::clone(&stop))));
        }
        Self { stop, tasks }
    }

    async fn stop(self) -> Vec<Load> {
        self.stop.store(true, Ordering::Relaxed);
        let mut loads = Vec::new();
        for task in self.tasks {
            loads.push(task.await.expect("a writer does not fail"));
        }
        loads
    }
}

async fn write(client: Client, mut load: Load, stop: Arc<AtomicBool>) -> Load {
    while !stop.load(Ordering::Relaxed) {
        if client.attempt(&load.transaction()).await.is_err() {
            // A statement may be refused, a value too long for instance; a server that is gone refuses the next one too.
            if client.attempt("ROLLBACK").await.is_err() {
                break;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    load
}

/// A database under load, and a project that captures its changes.
struct Lab {
    shop: Shop,
    tables: Vec<Table>,
    project: Project,
    writers: Option<Writers>,
    seed: u64,
}

impl Lab {
    async fn new(shop: Shop) -> Self {
        let tables = Table::all(shop.kinds());
        for table in &tables {
            shop.create(table).await;
        }
        let project = shop.project(&tables);
        let mut loads = Vec::new();
        for writer in 0..WRITERS {
            let own = |table: &Table| table.number % WRITERS == writer;
            let mut load =
                Load::new(writer as u64, Table::all(shop.kinds()).into_iter().filter(own).collect(), shop.insert());
            shop.client().await.attempt(&load.fill()).await.expect("rows that the server takes");
            loads.push(load);
        }
        let writers = Some(Writers::start(&shop, loads).await);
        Self { shop, tables, project, writers, seed: 0x9e37_79b9_7f4a_7c15 }
    }

    fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.project.command(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts")
    }

    async fn some_time(&mut self, longest: u64) {
        tokio::time::sleep(Duration::from_millis(chance(&mut self.seed, longest))).await;
    }

    /// Kills a run at a random moment, as `kill -9` does. False: it had ended by itself.
    async fn kill(&mut self, longest: u64) -> bool {
        let follows = chance(&mut self.seed, 3) > 0;
        let mut child = self.start(if follows { &FOLLOW } else { &RUN });
        self.some_time(longest).await;
        // It may have ended by itself.
        let _ = child.kill();
        let status = child.wait().expect("a child of ours");
        let text = rest(child.stderr.take().expect("a pipe"));
        assert!(matches!(status.code(), None | Some(0)), "{status}: {text}");
        status.code().is_none()
    }

    /// Crashes the server under a run that follows. The run may wait until it is back, or give up.
    async fn crash(&mut self) {
        let mut child = self.start(&FOLLOW);
        self.some_time(3_000).await;
        let writers = self.writers.take().expect("writers");
        self.shop.restart().await;
        let loads = writers.stop().await;
        self.writers = Some(Writers::start(&self.shop, loads).await);
        self.some_time(2_000).await;
        if child.try_wait().expect("a child of ours").is_none() {
            signal(&child, "TERM");
        }
        let (code, _) = tokio::task::block_in_place(|| wait(&mut child, Duration::from_secs(60)));
        let text = rest(child.stderr.take().expect("a pipe"));
        assert!(matches!(code, 0 | 1 | 130), "{code}: {text}");
        assert!(!text.contains("load the stream"), "a crash loses nothing: {text}");
    }

    /// Runs until everything is there. A server that has just crashed may refuse once.
    async fn catch_up(&self) {
        tokio::task::block_in_place(|| self.project.good(&RUN));
    }

    /// Fails unless the lake's log of each table comes to what the table holds, with every version once.
    async fn assert_equal(&self) -> Option<()> {
        let truth = self.shop.truth(&self.tables).await;
        let lake = self.project.folder.path().join("lake/bronze/db");
        let logs: Vec<Option<Vec<Map<String, Value>>>> =
            futures::stream::iter(self.tables.iter().map(|table| log(&lake, self.shop.stream(table))))
                .buffered(2)
                .collect()
                .await;
        let mut changes = 0;
        for ((table, log), truth) in self.tables.iter().zip(logs).zip(truth) {
            let (stream, log) = (self.shop.stream(table), log?);
            changes += log.iter().filter(|row| row["_ingest_op"] != "R").count();
            assert_once(&stream, &log, &self.shop.history(table).await);
            let (names, key) = (shop::names(table), table.key.columns());
            let owned: Vec<String> = key.iter().map(|column| (*column).to_owned()).collect();
            let shape = Shape { names: &names, key: &owned, is_keyed: true, is_exact: self.shop.is_exact() };
            let copy = replay(&stream, &shape, log).into_iter().map(|row| self.shop.normal(row));
            if let Err(difference) = Rows::of(key, copy).compare(&Rows::of(key, truth)) {
                panic!("{stream}: {difference}");
            }
        }
        assert!(changes > 1_000, "only {changes} changes were captured");
        println!("{changes} changes, each once");
        Some(())
    }
}

/// The log of a stream as another program reads it.
async fn log(lake: &Path, stream: String) -> Option<Vec<Map<String, Value>>> {
    rows(Reader::DuckDb, lake.join(folder(&stream)).to_str().expect("UTF-8"), &[]).await
}

async fn changes_come_once_whatever_dies(shop: Option<Shop>) {
    let Some(shop) = shop else { return };
    let kills: usize = std::env::var("INGEST_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let mut faults = vec![Fault::Kill; kills];
    let mut lab = Lab::new(shop).await;
    // The first third meets the first load.
    for nth in 0..(kills / 5).max(1) {
        let least = kills / 3 + nth;
        let at =
            least + usize::try_from(chance(&mut lab.seed, (faults.len() - least) as u64 + 1)).expect("a small number");
        faults.insert(at, Fault::Crash);
    }
    let began = Instant::now();
    for (nth, fault) in faults.iter().enumerate() {
        if nth == kills / 3 {
            lab.catch_up().await;
        }
        match fault {
            Fault::Kill => while !lab.kill(if nth < kills / 3 { 1_500 } else { 4_000 }).await {},
            Fault::Crash => lab.crash().await,
        }
    }
    lab.writers.take().expect("writers").stop().await;
    lab.catch_up().await;
    println!("{kills} kills, {} crashes in {:?}", faults.len() - kills, began.elapsed());
    lab.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_postgres_come_once_whatever_dies() {
    changes_come_once_whatever_dies(Shop::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_mariadb_come_once_whatever_dies() {
    changes_come_once_whatever_dies(Shop::mysql(Flavour::MariaDb).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_mysql_come_once_whatever_dies() {
    changes_come_once_whatever_dies(Shop::mysql(Flavour::Mysql).await).await;
}
