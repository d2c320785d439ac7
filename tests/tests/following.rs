//! Runs that follow: how far they say that they are behind, and the example.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use ingest_testkit::mysql::{self, Flavour, Mysql};
use ingest_testkit::postgres::{Options, Postgres};
use serde_json::Value;

use crate::cli::{Project, signal, wait};

/// The events of a run as they come.
struct Events(Lines<BufReader<ChildStdout>>);

impl Events {
    fn of(child: &mut Child) -> Self {
        Self(BufReader::new(child.stdout.take().expect("a pipe")).lines())
    }

    /// The first event that is as wanted. The program ends by itself after some time, so that this does too.
    fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        for line in &mut self.0 {
            let event: Value = serde_json::from_str(&line.expect("UTF-8")).expect("JSON");
            if wanted(&event) {
                return event;
            }
        }
        panic!("no event says {what}")
    }
}

fn follow(project: &Project) -> Child {
    // It ends by itself where something goes wrong here.
    let arguments = ["run", "--source", "db", "--progress", "json", "--follow", "--timeout", "90s"];
    project.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program starts")
}

fn has_lag(lag: &Value) -> bool {
    // A minute is more than any machine takes here, and far less than what a wrong clock or zone would give.
    lag["seconds"].as_f64().is_some_and(|seconds| seconds < 60.0) && (lag["bytes"].is_u64() || lag["bytes"].is_null())
}

fn assert_says_how_far_it_is_behind(project: &Project) {
    let mut child = follow(project);
    let mut events = Events::of(&mut child);
    events.until("how far it is behind", |event| event["type"] == "progress" && has_lag(&event["lag"]));
    signal(&child, "TERM");
    let finished = events.until("the end", |event| event["type"] == "run_finished");
    assert!(has_lag(&finished["streams"][0]["lag"]), "{finished}");
    wait(&mut child, Duration::from_secs(20));
    // A run that ends by itself has read all that was there when it began.
    let output = project.good(&["run", "--source", "db", "--progress", "json"]);
    let last: Value = serde_json::from_str(output.stdout.lines().last().expect("a line")).expect("JSON");
    assert!(has_lag(&last["streams"][0]["lag"]), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_says_how_far_it_is_behind_postgres() {
    let Some(server) = Postgres::private(&Options::default()) else { return };
    let database = server.database().await;
    database
        .client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        .await
        .expect("valid SQL");
    let project = Project::new(&format!(
        "lake: {{commit_interval: 1s}}\nsources:\n  db:\n    connector: postgres\n    host: 127.0.0.1\n    port: {}\n    database: {}\n    user: postgres\n    \
         password: ${{DB_PASSWORD}}\n    streams: {{public.t: {{mode: cdc}}}}\n",
        server.port(),
        database.name
    ))
    .set("DB_PASSWORD", server.password());
    tokio::task::block_in_place(|| assert_says_how_far_it_is_behind(&project));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_says_how_far_it_is_behind_mysql_and_mariadb() {
    for flavour in Flavour::ALL {
        let Some(server) = Mysql::private(flavour, &mysql::Options::default()) else { continue };
        let database = server.database().await;
        database.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
        let project = Project::new(&format!(
            "lake: {{commit_interval: 1s}}\nsources:\n  db:\n    connector: mysql\n    host: 127.0.0.1\n    port: {}\n    database: {name}\n    user: root\n    \
             password: ${{DB_PASSWORD}}\n    streams: {{{name}.t: {{mode: cdc}}}}\n",
            server.port(),
            name = database.name
        ))
        .set("DB_PASSWORD", mysql::PASSWORD);
        tokio::task::block_in_place(|| assert_says_how_far_it_is_behind(&project));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_changes_follows_a_shop() {
    let Some(server) = Postgres::private(&Options::default()) else { return };
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/changes");
    let read = |name| std::fs::read_to_string(example.join(name)).expect("a file of the example");
    // Ten minutes are for people.
    let orders = read("orders.sql").replace("CALL trade(600)", "CALL trade(4)");
    let (tables, trade) = orders.split_once("CALL trade").expect("the last statement");
    let client = server.client("postgres").await;
    client.batch_execute(tables).await.expect("valid SQL");
    let project = Project::new(&read("ingest.yaml"))
        .set("SHOP_DB_PASSWORD", server.password())
        .set("INGEST__SOURCES__SHOP_DB__PORT", &server.port().to_string());
    project.good(&["check", "--source", "shop_db"]);
    let arguments = ["run", "--source", "shop_db", "--follow", "--progress", "json", "--timeout", "120s"];
    let mut child =
        project.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program starts");
    // It ends transactions, so it stands alone.
    client.batch_execute(&format!("CALL trade{trade}")).await.expect("valid SQL");
    tokio::task::block_in_place(|| {
        Events::of(&mut child).until("that changes are in the lake", |event| {
            event["type"] == "commit" && event["rows"].as_u64().is_some_and(|rows| rows > 0)
        });
        signal(&child, "INT");
        wait(&mut child, Duration::from_secs(20));
        project.good(&["run", "--source", "shop_db"]);
    });
    let row = client.query_one("SELECT count(*) FROM orders", &[]).await.expect("valid SQL");
    let orders = project.json(&["show", "shop_db.public.orders", "--limit", "100000"]);
    assert_eq!(orders.as_array().map(Vec::len), usize::try_from(row.get::<_, i64>(0)).ok(), "the table as it is");
    assert!(project.good(&["state", "show", "--source", "shop_db"]).stdout.contains("public.orders"));
    let lines = project.json(&["show", "shop_db.public.order_lines", "--limit", "100000"]);
    let deleted = lines.as_array().expect("rows").iter().filter(|row| row["_ingest_op"] == "D").count();
    assert!(deleted > 0, "every change of it, also those that come by a foreign key");
    project.good(&["source", "teardown", "--source", "shop_db"]);
}
