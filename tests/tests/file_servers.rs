//! SFTP and FTP from outside, against OpenSSH and vsftpd: files that come, change and are uploaded by halves, under kills.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ingest_testkit::ftp::Ftp;
use ingest_testkit::python::{Reader, rows};
use ingest_testkit::sshd::{Folder, Sshd, USER, password};

use crate::cli::Project;
use crate::survive::{Ended, chance, kills, run_and_kill};

const RUN: [&str; 5] = ["run", "--source", "vendor", "--progress", "off"];

/// Rows of a file at first.
const ROWS: usize = 300;

/// A time of a file that is long settled.
const OLD: u64 = 1_700_000_000;

/// A served folder, and the files in it that shall be in the table: their rows by id.
struct Served {
    folder: Folder,
    project: Project,
    whole: BTreeMap<String, BTreeMap<u64, String>>,
    /// Files that were begun.
    half: Vec<String>,
    made: usize,
    version: u64,
    seed: u64,
}

impl Served {
    /// `connection` are the fields of the source that say where and who; `after` what becomes of files that were read.
    fn new(folder: Folder, connection: &str, secret: &str, after: &str) -> Self {
        let configuration = format!(
            "lake: {{commit_interval: 0s}}\nsources:\n  vendor:\n    user: {USER}\n    \
             path: {}\n    files: {{orders: {{path: \"in/**/*.csv\"}}}}\n    after_commit: {after}\n{connection}",
            folder.path().display()
        );
        let project = Project::new(&configuration).set("SECRET", secret);
        let (whole, half) = (BTreeMap::new(), Vec::new());
        Self { folder, project, whole, half, made: 0, version: 0, seed: 0xd134_2543_de82_ef95 }
    }

    /// The rows of a file. Ids are those of no other file.
    fn content(&mut self, number: usize, rows: usize) -> (String, BTreeMap<u64, String>) {
        self.version += 1;
        let rows: BTreeMap<u64, String> = (0..rows)
            .map(|row| ((number * 10_000 + row) as u64, format!("version {} \"of\" {row}", self.version)))
            .collect();
        let lines: String = rows.iter().map(|(id, text)| format!("{id},\"{}\"\n", text.replace('"', "\"\""))).collect();
        (format!("id,text\n{lines}"), rows)
    }

    fn name(number: usize) -> String {
        format!("in/day {}/part-{number:05}.csv", number % 7)
    }

    fn add(&mut self, files: usize) {
        for _ in 0..files {
            let name = Self::name(self.made);
            let (text, rows) = self.content(self.made, ROWS);
            self.folder.write(&name, text);
            self.whole.insert(name, rows);
            self.made += 1;
        }
    }

    /// Other rows under the name of a file that was read, or is about to be.
    fn change(&mut self) {
        let number = chance(&mut self.seed, self.made as u64) as usize;
        let name = Self::name(number);
        if self.half.contains(&name) {
            return;
        }
        let rows = chance(&mut self.seed, ROWS as u64) as usize + 1;
        let (text, rows) = self.content(number, rows);
        self.put(&name, &text, OLD + self.version);
        self.whole.insert(name, rows);
    }

    /// Uploads that are under way: a young file, and one under the name that uploaders give.
    fn begin(&mut self) {
        let name = Self::name(self.made);
        self.made += 1;
        // A time ahead of ours, so that it does not settle while this test takes its time.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
        self.put(&name, "id,text\n1,\"ha", now + 86_400);
        self.folder.write(&format!("{name}.part"), "id,text\n2,half\n");
        self.half.push(name);
    }

    /// The uploads come to their ends.
    fn finish(&mut self) {
        for name in std::mem::take(&mut self.half) {
            let number = name.rsplit('-').next().and_then(|rest| rest.trim_end_matches(".csv").parse().ok());
            let (text, rows) = self.content(number.expect("a number"), ROWS);
            self.put(&name, &text, OLD + self.version);
            std::fs::remove_file(self.folder.path().join(format!("{name}.part"))).expect("it is there");
            self.whole.insert(name, rows);
        }
    }

    /// Puts a file there at once, as a server does that renames what was uploaded.
    fn put(&self, name: &str, text: &str, time: u64) {
        let staged = self.folder.write("staged", text);
        self.folder.touch("staged", time);
        std::fs::rename(staged, self.folder.write(name, "")).expect("moved");
    }

    /// Runs that are killed at random moments.
    fn kill(&mut self) -> u64 {
        let mut killed = 0;
        for _ in 0..kills().div_ceil(5) {
            let after = Duration::from_millis(chance(&mut self.seed, 900));
            match run_and_kill(&self.project, &RUN, after) {
                Ended::Killed => killed += 1,
                Ended::With(0) => {}
                ended => panic!("{ended:?}"),
            }
        }
        killed
    }

    /// The table holds each row of each whole file once, as it is now, and no other.
    async fn assert_equal(&self, context: &str) {
        let path = self.project.folder.path().join("lake/bronze/vendor/orders");
        let Some(rows) = rows(Reader::DuckDb, path.to_str().expect("UTF-8"), &[]).await else { return };
        let count = rows.len();
        let mut found: BTreeMap<String, BTreeMap<u64, String>> = BTreeMap::new();
        for row in rows {
            let id = row["id"].as_u64().or_else(|| row["id"].as_str()?.parse().ok()).expect("an id");
            let (file, text) = (row["_source_file"].as_str().expect("a file"), row["text"].as_str().expect("a text"));
            found.entry(file.to_owned()).or_default().insert(id, text.to_owned());
        }
        let unique: usize = found.values().map(BTreeMap::len).sum();
        assert_eq!(unique, count, "{context}: a row is there twice");
        assert_eq!(found.keys().collect::<Vec<_>>(), self.whole.keys().collect::<Vec<_>>(), "{context}");
        for (file, rows) in &self.whole {
            assert_eq!(&found[file], rows, "{context}: {file}");
        }
    }
}

/// Files that come, change and are uploaded by halves; after every round the table holds those that are whole.
async fn files_that_change(mut served: Served) {
    served.add(40);
    served.begin();
    let mut killed = served.kill();
    served.project.good(&RUN);
    served.assert_equal("first load").await;
    for round in 1..=3 {
        (0..5).for_each(|_| served.change());
        served.add(2);
        served.begin();
        killed += served.kill();
        served.change();
        served.project.good(&RUN);
        served.assert_equal(&format!("round {round}")).await;
        served.finish();
        killed += served.kill();
        served.project.good(&RUN);
        served.assert_equal(&format!("round {round}, uploads finished")).await;
    }
    assert!(killed > 0, "no run was killed");
}

/// Files that are deleted once they are read: none before its rows are in the table.
async fn files_that_are_deleted(mut served: Served) {
    for round in 0..4 {
        served.add(12);
        served.kill();
        served.project.good(&RUN);
        served.assert_equal(&format!("round {round}")).await;
        for name in served.whole.keys() {
            assert!(!served.folder.path().join(name).exists(), "{name} was read and is still there");
        }
    }
}

async fn sftp(after: &str) -> Option<(Sshd, Served)> {
    let server = Sshd::start(&[]).await?;
    let connection = format!(
        "    connector: sftp\n    host: 127.0.0.1\n    port: {}\n    private_key: ${{SECRET}}\n    host_key: \"{}\"\n",
        server.port(),
        server.fingerprint()
    );
    let served = Served::new(Folder::new(), &connection, &server.private_key(), after);
    Some((server, served))
}

async fn ftp(after: &str) -> Option<(Ftp, Served)> {
    let server = Ftp::vsftpd(&[]).await?;
    let connection = format!(
        "    connector: ftp\n    host: localhost\n    port: {}\n    password: ${{SECRET}}\n    tls_ca: ${{CA}}\n",
        server.port()
    );
    let mut served = Served::new(Folder::new(), &connection, &password(), after);
    served.project = served.project.set("CA", server.authority());
    Some((server, served))
}

#[tokio::test(flavor = "multi_thread")]
async fn sftp_files_that_come_change_and_are_half_uploaded_equal_the_table_after_kills() {
    let Some((_server, served)) = sftp("keep").await else { return };
    files_that_change(served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sftp_files_are_deleted_after_the_commit_and_none_is_lost_by_kills() {
    let Some((_server, served)) = sftp("delete").await else { return };
    files_that_are_deleted(served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ftp_files_that_come_change_and_are_half_uploaded_equal_the_table_after_kills() {
    let Some((_server, served)) = ftp("keep").await else { return };
    files_that_change(served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ftp_files_are_deleted_after_the_commit_and_none_is_lost_by_kills() {
    let Some((_server, served)) = ftp("delete").await else { return };
    files_that_are_deleted(served).await;
}
