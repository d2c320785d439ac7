//! Full and incremental loads of PostgreSQL that are killed.

use std::fmt::Write;
use std::time::Duration;

use ingest_testkit::postgres::{Database, Options, Postgres};

use super::{Ended, assert_exactly, chance, counts, kills, run_and_kill, run_to_failpoint};
use crate::cli::Project;

const RUN: [&str; 5] = ["run", "--source", "db", "--progress", "off"];

pub async fn project(server: &Postgres, database: &Database) -> Project {
    let mut text = String::from("lake: {commit_interval: 0s}\nsources:\n  db:\n    connector: postgres\n");
    writeln!(
        text,
        "    host: 127.0.0.1\n    port: {}\n    database: {}\n    user: postgres",
        server.port(),
        database.name
    )
    .expect("to memory");
    text.push_str(
        "    password: ${DB_PASSWORD}\n    streams:\n      public.copied: {mode: full}\n      \
         public.logged: {mode: incremental, cursor: updated_at}\n",
    );
    database
        .client
        .batch_execute(
            "CREATE TABLE copied (id bigint PRIMARY KEY, text text); \
             CREATE TABLE logged (id bigserial PRIMARY KEY, updated_at timestamptz DEFAULT clock_timestamp(), text text)",
        )
        .await
        .expect("valid SQL");
    Project::new(&text).set("DB_PASSWORD", server.password())
}

pub async fn grow(database: &Database, rows: i64) {
    let sql = format!(
        "INSERT INTO copied SELECT n, 'row ' || n FROM generate_series((SELECT count(*) FROM copied), \
         (SELECT count(*) FROM copied) + {rows} - 1) n; \
         INSERT INTO logged (text) SELECT 'row ' || n FROM generate_series(1, {rows}) n"
    );
    database.client.batch_execute(&sql).await.expect("valid SQL");
}

pub async fn assert_whole(project: &Project, database: &Database, context: &str) {
    let rows: i64 = database.client.query_one("SELECT count(*) FROM copied", &[]).await.expect("valid SQL").get(0);
    if let Some(found) = counts(project, "db/public_copied", "id").await {
        assert_exactly(&found, 0..rows, context);
    }
    if let Some(found) = counts(project, "db/public_logged", "id").await {
        assert_exactly(&found, 1..=rows, context);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_survives_kills_at_random_moments() {
    // Alone: a transaction that another test holds open would hold rows back here.
    let Some(server) = Postgres::private(&Options::default()) else { return };
    let database = server.database().await;
    let project = project(&server, &database).await;
    let (mut killed, mut seed) = (0, 0x2545_f491_4f6c_dd1d);
    grow(&database, 40_000).await;
    while killed < kills() {
        let after = Duration::from_millis(chance(&mut seed, 600));
        match run_and_kill(&project, &RUN, after) {
            Ended::Killed => killed += 1,
            Ended::With(0) => {}
            ended => panic!("{ended:?}"),
        }
        if chance(&mut seed, 3) == 0 {
            grow(&database, 2_000).await;
        }
    }
    project.good(&RUN);
    assert_whole(&project, &database, "after random kills").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_survives_a_kill_at_every_failpoint() {
    // Alone: a transaction that another test holds open would hold rows back here.
    let Some(server) = Postgres::private(&Options::default()) else { return };
    for place in ["lease_taken", "extract", "file_closed", "document_written", "committed"] {
        let database = server.database().await;
        let project = project(&server, &database).await;
        grow(&database, 5_000).await;
        let mut reached = 0;
        for n in 1..=3 {
            reached += u32::from(run_to_failpoint(&project, &RUN, place, n));
            grow(&database, 500).await;
        }
        assert!(reached > 0, "no run has passed {place}");
        project.good(&RUN);
        assert_whole(&project, &database, place).await;
    }
}
