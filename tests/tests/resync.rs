//! One stream whose changes are lost is loaded again, by the command that its error names, while the others go on.

use std::collections::BTreeMap;
use std::path::Path;

use ingest_testkit::mysql::{self, Flavour, Mysql};
use ingest_testkit::oracle::newest;
use ingest_testkit::postgres::{Options, Postgres};
use ingest_testkit::python::{Reader, rows};
use serde_json::Value;

use crate::cli::{Output, Project};
use crate::sample_database::folder;

const RUN: [&str; 5] = ["run", "--source", "db", "--progress", "off"];
const NAMES: [&str; 3] = ["a", "b", "c"];

/// What a table holds: key to value.
type Rows = BTreeMap<i64, i64>;

fn project(server: &str, prefix: &str, password: &str) -> Project {
    let streams: String = NAMES.iter().map(|name| format!("      {prefix}.{name}: {{mode: cdc}}\n")).collect();
    let text = format!(
        "lake: {{commit_interval: 0s}}\nsources:\n  db:\n    password: ${{DB_PASSWORD}}\n{server}    streams:\n{streams}"
    );
    Project::new(&text).set("DB_PASSWORD", password)
}

fn number(value: &Value) -> i64 {
    value.as_i64().expect("a number")
}

/// The table that a log in the lake comes to, and how many rows of the log are of a load.
async fn replayed(project: &Project, stream: &str) -> Option<(Rows, usize)> {
    let path = project.folder.path().join("lake/bronze/db").join(folder(stream));
    let log = rows(Reader::DuckDb, Path::to_str(&path).expect("UTF-8"), &[]).await?;
    let loaded = log.iter().filter(|row| row["_ingest_op"] == "R").count();
    let rows = newest(&["id"], log).iter().map(|row| (number(&row["id"]), number(&row["n"]))).collect();
    Some((rows, loaded))
}

/// What a run that failed says of one stream.
fn assert_names_the_remedy(output: &Output, stream: &str, why: &str) {
    assert_eq!(output.code, Some(1), "{output:?}");
    let command = format!("`ingest run --source db --resync {stream}`");
    assert!(output.stderr.contains(&command) && output.stderr.contains(why), "{command}, {why}: {}", output.stderr);
}

/// Three tables of ten rows.
fn schema() -> String {
    let ten: Vec<String> = (1..=10).map(|id| format!("({id}, 0)")).collect();
    let table = |name| {
        format!("CREATE TABLE {name} (id int PRIMARY KEY, n int); INSERT INTO {name} VALUES {}; ", ten.join(", "))
    };
    NAMES.iter().map(table).collect()
}

/// A change of each kind in each table.
fn changes(id: i64) -> String {
    let of = |name| {
        format!(
            "INSERT INTO {name} VALUES ({id}, 0); UPDATE {name} SET n = n + 1 WHERE id = {id} - 5; DELETE FROM {name} WHERE id = {id} - 7; "
        )
    };
    NAMES.iter().map(of).collect()
}

struct OnPostgres {
    server: Postgres,
    database: String,
    project: Project,
}

impl OnPostgres {
    async fn new() -> Option<Self> {
        let server = Postgres::private(&Options::default())?;
        let database = server.database().await.name;
        let at = format!(
            "    connector: postgres\n    host: 127.0.0.1\n    port: {}\n    database: {database}\n    user: postgres\n",
            server.port()
        );
        let project = project(&at, "public", server.password());
        let lab = Self { server, database, project };
        lab.sql(&schema()).await;
        lab.project.good(&RUN);
        Some(lab)
    }

    async fn sql(&self, sql: &str) {
        self.server.client(&self.database).await.batch_execute(sql).await.expect("valid SQL");
    }

    /// Fails unless the lake has these tables as the server has them. Gives how many rows of each were loaded.
    async fn assert_equal(&self, names: &[&str], context: &str) -> Option<Vec<usize>> {
        let client = self.server.client(&self.database).await;
        let mut loads = Vec::new();
        for name in names {
            let truth = client.query(&format!("SELECT id::int8, n::int8 FROM {name}"), &[]).await.expect("valid SQL");
            let truth: Rows = truth.iter().map(|row| (row.get(0), row.get(1))).collect();
            let (found, loaded) = replayed(&self.project, &format!("public.{name}")).await?;
            assert_eq!(found, truth, "{context}: {name}");
            loads.push(loaded);
        }
        Some(loads)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_loaded_again_while_the_others_go_on_from_their_changes() {
    let Some(lab) = OnPostgres::new().await else { return };
    lab.sql(&changes(11)).await;
    let resync = [&RUN[..], &["--resync", "public.a"]].concat();
    lab.project.good(&resync);
    lab.sql(&changes(12)).await;
    lab.project.good(&RUN);
    if let Some(loads) = lab.assert_equal(&NAMES, "after one was loaded again").await {
        // The log of the one begins anew with the rows of that time, those of the others go on.
        assert_eq!(loads, [10, 10, 10]);
        let path = lab.project.folder.path().join("lake/bronze/db");
        for (name, first) in [("public_a", 3), ("public_b", 6)] {
            let log = rows(Reader::DuckDb, path.join(name).to_str().expect("UTF-8"), &[]).await.expect("a reader");
            assert_eq!(log.len() - 10, first, "{name}: changes in the log");
        }
    }
    let unknown = lab.project.run(&[&RUN[..], &["--resync", "public.aa"]].concat());
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    assert!(unknown.stderr.contains("public.aa") && unknown.stderr.contains("public.a"), "{unknown:?}");
    let both = lab.project.run(&[&resync[..], &["--full-refresh"]].concat());
    assert_eq!(both.code, Some(2), "{both:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_lost_slot_come_back_one_after_the_other() {
    let Some(lab) = OnPostgres::new().await else { return };
    lab.sql("SELECT pg_drop_replication_slot('ingest')").await;
    lab.sql(&changes(11)).await;
    let stopped = lab.project.run(&RUN);
    for name in NAMES {
        assert_names_the_remedy(&stopped, &format!("public.{name}"), "the replication slot is gone");
    }
    let partly = lab.project.run(&[&RUN[..], &["--resync", "public.a"]].concat());
    assert_names_the_remedy(&partly, "public.b", "the replication slot is gone");
    assert!(!partly.stderr.contains("--resync public.a`"), "{partly:?}");
    lab.assert_equal(&["a"], "the first one").await;
    // It goes on while the others still wait.
    lab.sql(&changes(12)).await;
    let again = lab.project.run(&RUN);
    assert_names_the_remedy(&again, "public.c", "made again");
    lab.assert_equal(&["a"], "the first one goes on").await;
    lab.project.good(&[&RUN[..], &["--resync", "public.b", "--resync", "public.c"]].concat());
    lab.sql(&changes(13)).await;
    lab.project.good(&RUN);
    lab.assert_equal(&NAMES, "all of them").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_was_restored_from_a_backup_is_told_from_the_one_that_was_read() {
    let Some(lab) = OnPostgres::new().await else { return };
    lab.server.back_up();
    lab.sql(&changes(11)).await;
    lab.project.good(&RUN);
    lab.server.restore();
    // It goes on, beyond the place to which the lake has read the log of the server that is no more.
    lab.sql("CREATE TABLE filler AS SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i").await;
    lab.sql(&changes(12)).await;
    let stopped = lab.project.run(&RUN);
    for name in NAMES {
        assert_names_the_remedy(&stopped, &format!("public.{name}"), "restored from a backup");
    }
    let all = ["--resync", "public.a", "--resync", "public.b", "--resync", "public.c"];
    lab.project.good(&[&RUN[..], &all[..]].concat());
    lab.sql(&changes(13)).await;
    lab.project.good(&RUN);
    lab.assert_equal(&NAMES, "after the backup").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_purged_or_reset_binlog_come_back_one_after_the_other() {
    for flavour in Flavour::ALL {
        let Some(server) = Mysql::private(flavour, &mysql::Options::default()) else { continue };
        let database = server.database().await;
        let at = format!(
            "    connector: mysql\n    host: 127.0.0.1\n    port: {}\n    database: {}\n    user: root\n",
            server.port(),
            database.name
        );
        let project = project(&at, &database.name, mysql::PASSWORD);
        let stream = |name: &str| format!("{}.{name}", database.name);
        let assert_equal = async |names: &[&str], context: &str| {
            for name in names {
                let value = |text: &Option<String>| text.as_deref().expect("not null").parse().expect("a number");
                let truth = database.texts(&format!("SELECT id, n FROM {name}")).await;
                let truth: Rows = truth.iter().map(|row| (value(&row[0]), value(&row[1]))).collect();
                let Some((found, _)) = replayed(&project, &stream(name)).await else { return };
                assert_eq!(found, truth, "{flavour:?}, {context}: {name}");
            }
        };
        database.sql(&schema()).await;
        project.good(&RUN);
        database.sql(&changes(11)).await;
        database.sql("FLUSH BINARY LOGS").await;
        let last = database.texts("SHOW MASTER STATUS").await[0][0].clone().expect("a file");
        // What a reader is sent stays; the server notices a little later that it has gone.
        for attempt in 0.. {
            database.sql(&format!("PURGE BINARY LOGS TO '{last}'")).await;
            if database.texts("SHOW BINARY LOGS").await.len() == 1 {
                break;
            }
            assert!(attempt < 1_000, "{flavour:?} keeps its log");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let stopped = project.run(&RUN);
        for name in NAMES {
            assert_names_the_remedy(&stopped, &stream(name), "removed a part of the binlog");
        }
        let partly = project.run(&[&RUN[..], &["--resync", &stream("a")]].concat());
        assert_names_the_remedy(&partly, &stream("b"), "removed a part of the binlog");
        database.sql(&changes(12)).await;
        assert_eq!(project.run(&RUN).code, Some(1));
        assert_equal(&["a"], "the first one goes on").await;
        project.good(&[&RUN[..], &["--resync", &stream("b"), "--resync", &stream("c")]].concat());
        database.sql(&changes(13)).await;
        project.good(&RUN);
        assert_equal(&NAMES, "after the purge").await;
        // As a server that was restored: its log begins anew.
        database.sql("RESET MASTER").await;
        database.sql(&changes(14)).await;
        let reset = project.run(&RUN);
        for name in NAMES {
            assert_names_the_remedy(&reset, &stream(name), "binlog");
        }
        let all = NAMES.map(|name| format!("--resync={}", stream(name)));
        project.good(&[&RUN[..], &all.each_ref().map(String::as_str)[..]].concat());
        assert_equal(&NAMES, "after the reset").await;
    }
}
