//! Rows that commit late, stand at the edge of a run, or share a cursor: each version is in the lake once.

use std::collections::BTreeMap;

use ingest_testkit::postgres::{Database, Options, Postgres};
use ingest_testkit::python::{Reader, rows};

use crate::cli::Project;

pub(crate) const RUN: [&str; 5] = ["run", "--source", "db", "--progress", "off"];

/// A growing table `entry` on a server of its own, and a log of every version of its rows.
pub(crate) struct Lab {
    pub(crate) server: &'static Postgres,
    pub(crate) database: Database,
    pub(crate) project: Project,
}

impl Lab {
    pub(crate) async fn new(cursor: &str) -> Option<Self> {
        // Alone: a transaction that another test holds open would hold rows back here. It ends with this process.
        let server: &'static Postgres = Box::leak(Box::new(Postgres::private(&Options::default())?));
        let database = server.database().await;
        let configuration = format!(
            "sources:\n  db:\n    connector: postgres\n    host: 127.0.0.1\n    port: {}\n    database: {}\n    \
             user: postgres\n    password: ${{DB_PASSWORD}}\n    streams:\n      \
             public.entry: {{mode: incremental, cursor: {cursor}, write: append}}\n",
            server.port(),
            database.name
        );
        let project = Project::new(&configuration).set("DB_PASSWORD", server.password());
        let lab = Self { server, database, project };
        // Every version of a row has a text of its own, kept in a log of versions.
        lab.sql(
            "CREATE TABLE entry (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(), \
               number bigint NOT NULL DEFAULT 0, version text NOT NULL); CREATE INDEX ON entry (at); \
             CREATE TABLE versions (version text); \
             CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS \
               'BEGIN INSERT INTO versions VALUES (NEW.version); RETURN NEW; END'; \
             CREATE TRIGGER keep AFTER INSERT OR UPDATE ON entry FOR EACH ROW EXECUTE FUNCTION keep()",
        )
        .await;
        Some(lab)
    }

    pub(crate) async fn sql(&self, sql: &str) {
        self.database.client.batch_execute(sql).await.expect("valid SQL");
    }

    /// Begins a transaction on a connection of its own, which stays open until it is told to end.
    pub(crate) async fn begin(&self, sql: &str) -> Database {
        let client = self.server.client(&self.database.name).await;
        client.batch_execute(&format!("BEGIN; {sql}")).await.expect("valid SQL");
        Database { name: self.database.name.clone(), client }
    }

    /// Fails unless each version that was committed is in the lake exactly once, and nothing else is.
    pub(crate) async fn assert_each_version_once(&self) {
        let path = self.project.folder.path().join("lake/bronze/db/public_entry");
        let Some(found) = rows(Reader::DuckDb, path.to_str().expect("UTF-8"), &[]).await else { return };
        let mut counts: BTreeMap<String, i64> = BTreeMap::new();
        for row in found {
            *counts.entry(row["version"].as_str().expect("a text").to_owned()).or_default() += 1;
        }
        for row in self.database.client.query("SELECT version FROM versions", &[]).await.expect("valid SQL") {
            *counts.entry(row.get(0)).or_default() -= 1;
        }
        counts.retain(|_, count| *count != 0);
        assert!(counts.is_empty(), "lost (below zero), double or unknown (above): {counts:?}");
    }
}

async fn commit(transaction: Database) {
    transaction.client.batch_execute("COMMIT").await.expect("a commit");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_commit_below_the_highest_cursor_after_one_and_after_two_runs_come_once() {
    for cursor in ["at", "number"] {
        let Some(lab) = Lab::new(cursor).await else { return };
        lab.sql("INSERT INTO entry (number, version) SELECT i, 'first ' || i FROM generate_series(1, 3000) i").await;
        let one = lab
            .begin("INSERT INTO entry (number, version) SELECT 3000 + i, 'one ' || i FROM generate_series(1, 50) i")
            .await;
        let two = lab
            .begin("SAVEPOINT s; INSERT INTO entry (number, version) SELECT 2000 + i, 'two ' || i FROM generate_series(1, 50) i; RELEASE s")
            .await;
        let never = lab.begin("INSERT INTO entry (number, version) VALUES (1, 'never')").await;
        lab.sql("INSERT INTO entry (number, version) SELECT 9000 + i, 'quick ' || i FROM generate_series(1, 500) i")
            .await;
        lab.project.good(&RUN);
        commit(one).await;
        lab.sql("UPDATE entry SET at = clock_timestamp(), number = number + 10000, version = 'changed ' || id WHERE id <= 100").await;
        lab.project.good(&RUN);
        lab.project.good(&RUN);
        commit(two).await;
        never.client.batch_execute("ROLLBACK").await.expect("a rollback");
        lab.sql("INSERT INTO entry (number, version) SELECT 30000 + i, 'last ' || i FROM generate_series(1, 500) i")
            .await;
        // What is committed when no transaction is open is read by this run; the next one finds nothing.
        lab.project.good(&RUN);
        lab.assert_each_version_once().await;
        lab.project.good(&RUN);
        lab.assert_each_version_once().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_with_equal_cursors_at_the_edge_of_a_run_come_once() {
    const BELOW: &str = "- interval '1 microsecond'";
    const ABOVE: &str = "+ interval '1 microsecond'";
    // The same cursor in each run: one of long ago, which is no clock's any more, and one of now with the neighbours
    // a microsecond away.
    for (edge, offsets) in
        [("timestamptz '2020-01-01 12:00:00.123456+00'", vec![""]), ("now()", vec![BELOW, "", ABOVE])]
    {
        let Some(lab) = Lab::new("at").await else { return };
        lab.sql(&format!("CREATE TABLE edge AS SELECT {edge} AS at")).await;
        for round in 0..4 {
            for offset in &offsets {
                lab.sql(&format!(
                    "INSERT INTO entry (at, version) SELECT at {offset}, 'round {round} {} ' || i FROM edge, generate_series(1, 400) i",
                    offset.replace('\'', "")
                ))
                .await;
            }
            lab.project.good(&RUN);
            lab.assert_each_version_once().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_written_by_many_hands_while_runs_go_on_come_once() {
    let Some(lab) = Lab::new("at").await else { return };
    let mut writers = Vec::new();
    for writer in 0..3 {
        let client = lab.server.client(&lab.database.name).await;
        writers.push(tokio::spawn(async move {
            for round in 0..150 {
                // now() is the beginning of the transaction: it commits behind others that began later.
                let end = if (writer + round) % 5 == 0 { "ROLLBACK" } else { "COMMIT" };
                let sql = format!(
                    "BEGIN; INSERT INTO entry (at, version) SELECT now(), 'w{writer} r{round} ' || i FROM generate_series(1, 5) i; \
                     SELECT pg_sleep(0.0{writer}); \
                     INSERT INTO entry (at, version) VALUES (now(), 'w{writer} r{round} end'); {end}"
                );
                client.batch_execute(&sql).await.expect("valid SQL");
            }
        }));
    }
    let mut runs = 0;
    while writers.iter().any(|writer| !writer.is_finished()) || runs < 3 {
        tokio::task::block_in_place(|| lab.project.good(&RUN));
        runs += 1;
    }
    for writer in writers {
        writer.await.expect("no writer fails");
    }
    lab.project.good(&RUN);
    lab.assert_each_version_once().await;
}
