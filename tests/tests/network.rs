//! A database behind a bad network, from outside.

use std::process::Stdio;
use std::time::Duration;

use ingest_testkit::postgres::{Database, Postgres};
use ingest_testkit::proxy::{Faults, Proxy};

use crate::cli::{Output, Project, wait};
use crate::survive::{assert_exactly, counts};

const RUN: [&str; 5] = ["run", "--source", "db", "--progress", "off"];
const ROWS: i64 = 60_000;

/// A database of one big table behind a proxy; `options` are lines of the source.
async fn behind_proxy(options: &str) -> Option<(Database, Proxy, Project)> {
    let server = Postgres::shared()?;
    let database = server.database().await;
    let sql = format!(
        "CREATE TABLE big (id bigint PRIMARY KEY, text text); \
         INSERT INTO big SELECT i, repeat('text ', 30) || i FROM generate_series(1, {ROWS}) i; ANALYZE"
    );
    database.client.batch_execute(&sql).await.expect("valid SQL");
    let proxy = Proxy::start(format!("127.0.0.1:{}", server.port())).await.expect("a proxy");
    let configuration = format!(
        "sources:\n  db:\n    connector: postgres\n    host: 127.0.0.1\n    port: {}\n    database: {}\n    \
         user: postgres\n    password: ${{DB_PASSWORD}}\n{options}",
        proxy.port(),
        database.name
    );
    let project = Project::new(&configuration).set("DB_PASSWORD", server.password());
    Some((database, proxy, project))
}

/// Runs the program beside the proxy, which lives in this process.
async fn run(project: &Project) -> Output {
    tokio::task::block_in_place(|| project.run(&RUN))
}

async fn assert_whole(project: &Project, context: &str) {
    if let Some(found) = counts(project, "db/public_big", "id").await {
        assert_exactly(&found, 1..=ROWS, context);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_reset_in_the_middle_of_the_rows_is_repeated_and_the_copy_is_whole() {
    for read in ["ctid", "key"] {
        let Some((_database, proxy, project)) = behind_proxy(&format!("    read: {read}\n")).await else { return };
        // Far below the size of the rows, far above what planning needs.
        let mut command = project.command(&RUN);
        proxy.set(Faults { rate: Some(4 << 20), ..Faults::none() });
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
        proxy.until(|proxy| proxy.answer_bytes() > 2 << 20).await;
        let before = proxy.accepted();
        proxy.cut();
        proxy.heal();
        let (code, _) = tokio::task::block_in_place(|| wait(&mut child, Duration::from_secs(180)));
        assert_eq!(code, 0, "{read}");
        assert!(proxy.accepted() > before, "{read}: it has connected again");
        assert_whole(&project, read).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_breaks_every_copy_fails_the_run_and_the_next_one_makes_it_whole() {
    let Some((_database, proxy, project)) = behind_proxy("").await else { return };
    proxy.set(Faults { reset_after: Some(1 << 20), ..Faults::none() });
    let output = run(&project).await;
    assert_eq!(output.code, Some(1), "{output:#?}");
    assert!(output.stderr.contains("public.big"), "the stream is named: {output:#?}");
    proxy.heal();
    let output = run(&project).await;
    assert_eq!(output.code, Some(0), "{output:#?}");
    assert_whole(&project, "after the next run").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_accepts_and_never_answers_is_given_up_with_a_clear_error() {
    let Some((_database, proxy, project)) = behind_proxy("    connect_timeout: 2s\n    timeout: 2s\n").await else {
        return;
    };
    proxy.set(Faults::silent());
    let mut command = project.command(&RUN);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let (code, _) = tokio::task::block_in_place(|| wait(&mut child, Duration::from_secs(100)));
    let text = crate::cli::rest(child.stderr.take().expect("piped"));
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("timeout") || text.contains("timed out") || text.contains("time"), "{text}");
    assert!(text.contains("127.0.0.1"), "the host is named: {text}");
    assert!(proxy.accepted() >= 1);
}
