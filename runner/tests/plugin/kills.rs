//! kill -9 of the plug-in and of the runner at random moments. `INGEST_TEST_KILLS=1000` sets how many (default 12).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ingest_core::Builtin;
use ingest_runner::config::LakeConfig;
use ingest_runner::plugin::Executable;
use ingest_runner::session::Lake;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::orders::Orders;
use super::rogue::Rogue;
use super::{Shop, program, rows};

fn kills() -> u64 {
    std::env::var("INGEST_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

/// The processes that were started from this file.
fn processes(program: &Path) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("Linux").flatten() {
        // It may end while one looks.
        let Ok(arguments) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let wanted = program.as_os_str().as_encoded_bytes();
        if arguments.split(|byte| *byte == 0).any(|argument| argument == wanted) {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            found.extend(pid);
        }
    }
    found
}

/// The example under a path of its own, so that its processes can be told from those of other tests.
fn own_program(folder: &Path) -> PathBuf {
    let path = folder.join("orders");
    std::fs::hard_link(program(), &path).or_else(|_| std::fs::copy(program(), &path).map(drop)).expect("a copy");
    path
}

async fn gone(program: &Path, what: &str) {
    for _ in 0..2_000 {
        if processes(program).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("a plug-in outlives {what}");
}

fn chance(seed: &mut u64, below: u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed % below
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plug_in_that_is_killed_at_random_moments_loses_and_doubles_nothing() {
    let config = json!({"rows": 20_000, "changes": 20_000, "page_size": 100});
    let linked = Shop::new(Builtin::<Orders>::new(), config.clone());
    assert_eq!(linked.run().await.exit_code, 0);

    let folder = tempfile::tempdir().expect("a folder");
    let path = own_program(folder.path());
    let shop = Shop::new(Executable::at(&path).expect("a plug-in"), config);
    let mut seed = 0x5eed_0000_0000_0001;
    let mut killed = 0;
    for _ in 0..kills() {
        let killer = {
            let (path, after) = (path.clone(), Duration::from_millis(chance(&mut seed, 400)));
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                // It may have ended by itself.
                processes(&path).into_iter().filter(|pid| kill_process(*pid, Signal::KILL).is_ok()).count()
            })
        };
        // It goes on after a death, or fails when it died too often: both are fine as long as the table is right.
        let report = tokio::time::timeout(Duration::from_secs(120), shop.try_run()).await.expect("it ends");
        killed += killer.await.expect("it does not panic");
        if let Some(report) = report.filter(|report| report.exit_code != 0) {
            let kinds: Vec<_> = report.streams.iter().filter_map(|s| s.error.as_ref()).map(|e| &e.kind).collect();
            assert!(kinds.iter().all(|kind| *kind == "Unavailable"), "{report:?}");
        }
        if let Some(changes) = shop.rows("changes").await {
            let values = changes.column_by_name("value").expect("the column").clone();
            assert_eq!(
                values.as_ref(),
                linked.rows("changes").await.expect("rows").column(1).slice(0, values.len()).as_ref()
            );
        }
    }
    assert!(killed > 0, "no process was met alive");
    assert_eq!(shop.run().await.exit_code, 0);
    for stream in ["orders", "changes"] {
        assert_eq!(shop.rows(stream).await, linked.rows(stream).await, "{stream}");
    }
    drop(shop);
    gone(&path, "its source").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_is_killed_at_random_moments_takes_its_plug_in_with_it() {
    let linked = Shop::new(Builtin::<Orders>::new(), json!({"rows": 20_000, "changes": 20_000, "page_size": 100}));
    assert_eq!(linked.run().await.exit_code, 0);

    let folder = tempfile::tempdir().expect("a folder");
    let path = own_program(folder.path());
    let yaml = "sources: {shop: {connector: ./orders, rows: 20000, changes: 20000, page_size: 100}}\n";
    std::fs::write(folder.path().join("ingest.yaml"), yaml).expect("written");
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ingest"));
        command.args(["run", "--source", "shop"]).current_dir(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let mut seed = 0x5eed_0000_0000_0002;
    for _ in 0..kills() {
        let mut child = command().stderr(Stdio::null()).spawn().expect("the program starts");
        tokio::time::sleep(Duration::from_millis(chance(&mut seed, 1_500))).await;
        // It may have ended by itself.
        let _ = child.kill();
        child.wait().expect("a child of ours");
        gone(&path, "its runner").await;
    }
    let last = command().output().expect("the program starts");
    assert!(last.status.success(), "{}", String::from_utf8_lossy(&last.stderr));
    let config =
        LakeConfig { url: folder.path().join("lake").to_str().expect("UTF-8").into(), ..LakeConfig::default() };
    let lake = Lake::open(&config).expect("a lake");
    for stream in ["orders", "changes"] {
        assert_eq!(rows(&lake, stream).await, linked.rows(stream).await, "{stream}");
    }
}

/// One that neither reads nor writes does not see the end of its stdin.
#[tokio::test(flavor = "multi_thread")]
async fn a_plug_in_that_hangs_does_not_outlive_its_runner() {
    let rogue = Rogue::new("window", json!([{"hang": true}]));
    let Some(path) = rogue.path() else { return };
    let yaml = format!("sources: {{shop: {{connector: {}}}}}\n", path.display());
    std::fs::write(rogue.folder.path().join("ingest.yaml"), yaml).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ingest"));
    command.args(["run", "--source", "shop"]).current_dir(rogue.folder.path()).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    // The second start is that of the run.
    let hangs = async {
        while !rogue.folder.path().join("rogue.starts").exists() || rogue.starts() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), hangs).await.expect("it starts");
    child.kill().expect("a child of ours");
    child.wait().expect("a child of ours");
    gone(&path, "its runner").await;
}
