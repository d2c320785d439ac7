//! How fast one large file comes through the connector to whoever decodes it, beside `sftp get` of the same file, in turns.
//!
//! `cargo bench -p ingest-connector-sftp`; `SIZE=256 RUNS=5` change megabytes and rounds. Needs what the tests need: root,
//! OpenSSH and the account that `.ci/install` makes. Bytes are fetched to /dev/shm where there is one.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use ingest_connector_sftp::SftpServers;
use ingest_core::Context;
use ingest_files::Place;
use ingest_testkit::sshd::{Folder, Sshd, USER};

fn main() {
    let number =
        |name: &str, default: usize| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (size, runs) = (number("SIZE", 512) * 1_000_000, number("RUNS", 3));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let Some(server) = runtime.block_on(Sshd::start(&[])) else { return };
    let folder = Folder::new();
    folder.write("large.csv", text(size));
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let begun = Instant::now();
        get(&server, &folder.path().join("large.csv"), size);
        theirs.push(begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        assert_eq!(runtime.block_on(drain(&server, &folder)), size as u64);
        ours.push(begun.elapsed().as_secs_f64());
    }
    let (theirs, ours) = (median(theirs), median(ours));
    let rate = |seconds: f64| size as f64 / seconds / 1e6;
    println!(
        "sftp, one file of {} MB: sftp get {:.0} MB/s, through the connector {:.0} MB/s",
        size / 1_000_000,
        rate(theirs),
        rate(ours)
    );
    println!("sftp, one file: rate of reading to rate of sftp get: {:.2}", theirs / ours);
}

fn text(size: usize) -> Vec<u8> {
    let mut text = b"id,name\n".to_vec();
    for n in 0_u64.. {
        if text.len() >= size {
            break;
        }
        text.extend_from_slice(format!("{n},customer {:016x}\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).as_bytes());
    }
    text.truncate(size);
    text
}

/// Reads through the connector, the login included.
async fn drain(server: &Sshd, folder: &Folder) -> u64 {
    let config = serde_json::json!({
        "host": "127.0.0.1", "port": server.port(), "user": USER, "private_key": server.private_key(),
        "known_hosts": server.known_hosts(), "path": folder.path(),
    });
    let config = serde_json::from_value(config).expect("a configuration");
    let source = SftpServers::open(config, Context::standalone("drop")).await.expect("a source");
    source.drain().await.expect("the file")
}

/// Fetches by OpenSSH's own client.
fn get(server: &Sshd, path: &Path, size: usize) {
    let memory = Path::new("/dev/shm");
    let target = tempfile::tempdir_in(if memory.is_dir() { memory } else { Path::new("/tmp") }).expect("a folder");
    let batch = target.path().join("batch");
    let copy = target.path().join("copy");
    std::fs::write(&batch, format!("get {} {}\n", path.display(), copy.display())).expect("a file");
    let output = Command::new("sftp")
        .args(["-q", "-P", &server.port().to_string(), "-i"])
        .arg(server.private_key_file())
        .arg("-b")
        .arg(&batch)
        .args(["-o", &format!("UserKnownHostsFile={}", server.known_hosts().display())])
        .arg(format!("{USER}@127.0.0.1"))
        .output()
        .expect("OpenSSH's client");
    assert!(output.status.success(), "sftp fails: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::metadata(copy).expect("a copy").len(), size as u64);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
