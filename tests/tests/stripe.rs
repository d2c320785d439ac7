//! Stripe from outside, against the stand-in of the test kit: what only the real service knows is not shown here.

use std::collections::{BTreeMap, BTreeSet};

use ingest_testkit::http::{HttpServer, Response};
use ingest_testkit::oracle::newest;
use ingest_testkit::python::{Reader, rows};
use ingest_testkit::stripe::{API_KEY, Fault, StripeServer};
use serde_json::{Map, Value, json};

use crate::cli::Project;

const RUN: [&str; 5] = ["run", "--source", "stripe", "--progress", "off"];
const DAY: i64 = 86_400;

/// Each list with the number of its objects at first, and columns that are compared.
const LISTS: [(&str, usize, &[&str]); 6] = [
    ("charges", 2_500, &["amount", "currency", "customer", "status", "description", "captured"]),
    ("customers", 1_500, &["email", "name", "balance"]),
    ("products", 400, &["object", "livemode"]),
    ("prices", 300, &["currency", "livemode"]),
    ("refunds", 500, &["amount", "currency", "status"]),
    ("invoices", 400, &["status", "total", "currency"]),
];
const DELETABLE: [&str; 4] = ["customers", "products", "prices", "invoices"];

struct Lab {
    server: StripeServer,
    project: Project,
}

impl Lab {
    async fn new() -> Self {
        let server = StripeServer::start().await;
        // Behind the clock of this machine, so that time that passes at the server passes for the program.
        let now = server.state().now() - 3_600;
        server.freeze(now);
        for (list, objects, _) in LISTS {
            server.seed(list, objects, now - 60 * DAY, now - 3_600);
        }
        let streams: Vec<String> = LISTS.iter().map(|(list, ..)| format!("{list}: {{}}")).collect();
        let configuration = format!(
            "sources:\n  stripe:\n    api_key: ${{STRIPE_KEY}}\n    endpoint: {}\n    streams: {{{}}}\n",
            server.url(),
            streams.join(", ")
        );
        Self { server, project: Project::new(&configuration).set("STRIPE_KEY", API_KEY) }
    }

    /// Runs the program; faults come at once, and again in the middle.
    async fn run(&self, seed: u64) {
        let first = self.server.http().hits();
        self.server.chaos(seed, 0.02);
        self.server.faults([Fault::RateLimited(None), Fault::Status(500)]);
        let burst = async {
            self.server.http().wait_for(first + 12).await;
            self.server.faults([Fault::RateLimited(Some(1)), Fault::Status(500), Fault::RateLimited(None)]);
        };
        let mut command = self.project.command(&RUN);
        let run = async {
            let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
            output.expect("the program starts")
        };
        tokio::pin!(run);
        // A run that makes fewer calls than that is not waited for: it ends, well or not.
        let output = tokio::select! {
            output = &mut run => output,
            () = burst => run.await,
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.server.chaos(0, 0.0);
    }

    /// Objects that are made, changed and deleted; then so much time passes that their events are read.
    fn change(&self, round: usize) -> usize {
        let mut objects = 0;
        for (list, ..) in LISTS {
            let ids: Vec<String> = self.server.truth(list).into_keys().collect();
            for id in ids.iter().skip(round).step_by(37) {
                let fields = json!({"status": "changed", "description": format!("round {round}"), "name": format!("name {round}")});
                self.server.update(list, id, fields);
                objects += 1;
            }
            if DELETABLE.contains(&list) {
                for id in ids.iter().skip(round).step_by(53) {
                    self.server.delete(list, id);
                    objects += 1;
                }
            }
            for n in 0..15 {
                let id = self.server.create(list, json!({"amount": n, "email": format!("new{n}@example.com")}));
                self.server.update(list, &id, json!({"amount": n + 1000}));
                // An object that comes and goes between two runs.
                if n == 0 && DELETABLE.contains(&list) {
                    self.server.delete(list, &id);
                }
                objects += 1;
            }
            self.server.advance(1);
        }
        self.server.advance(120);
        objects
    }

    async fn assert_equal(&self, context: &str) {
        for (list, _, columns) in LISTS {
            let path = self.project.folder.path().join("lake/bronze/stripe").join(list);
            let Some(found) = rows(Reader::DuckDb, path.to_str().expect("UTF-8"), &[]).await else { return };
            let found: BTreeMap<String, Map<String, Value>> = newest(&["id"], found)
                .into_iter()
                .map(|row| (row["id"].as_str().expect("an id").to_owned(), row))
                .collect();
            let truth = self.server.truth(list);
            let (have, want): (BTreeSet<_>, BTreeSet<_>) = (found.keys().collect(), truth.keys().collect());
            let lost: Vec<_> = want.difference(&have).take(5).collect();
            let unknown: Vec<_> = have.difference(&want).take(5).collect();
            assert!(lost.is_empty() && unknown.is_empty(), "{context}: {list}: lost {lost:?}, unknown {unknown:?}");
            for (id, object) in &truth {
                for column in columns {
                    let value = found[id].get(*column).unwrap_or_else(|| panic!("{list} has no column {column}"));
                    // What the object does not say is null.
                    assert_eq!(value, object.get(*column).unwrap_or(&Value::Null), "{context}: {list} {id} {column}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stand_in_with_5600_objects_that_change_under_429_and_500_equals_the_lake_after_three_runs() {
    let lab = Lab::new().await;
    let objects: usize = LISTS.iter().map(|(_, objects, _)| objects).sum();
    lab.run(1).await;
    lab.assert_equal("first load").await;
    // Twice the pages, a few calls for each list to begin, and what was repeated.
    let first = lab.server.http().hits();
    assert!(first <= 2 * objects / 100 + 12 * LISTS.len() + 60, "{first} requests for {objects} objects");
    for round in 1..=2 {
        let before = lab.server.http().hits();
        let changed = lab.change(round);
        lab.run(10 + round as u64).await;
        lab.assert_equal(&format!("run {}", round + 1)).await;
        // A call for each changed object, pages of events for each of their types, and what was repeated.
        let calls = lab.server.http().hits() - before;
        assert!(calls <= 2 * changed + 12 * LISTS.len() + 60, "{calls} requests for {changed} changed objects");
    }
    for request in lab.server.http().requests() {
        assert!(!request.query.contains(API_KEY) && !request.path.contains(API_KEY), "the key stands in no address");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stand_in_that_redirects_to_another_host_gets_no_credential_there() {
    let lab = Lab::new().await;
    let other = HttpServer::start(|_| async { Response::status(200) }).await;
    let target = format!("{}/v1/charges", other.url());
    let redirecting = HttpServer::start(move |_| {
        let target = target.clone();
        async move { Response::redirect(307, target) }
    })
    .await;
    let text = std::fs::read_to_string(lab.project.folder.path().join("ingest.yaml")).expect("a file");
    let project = Project::new(&text.replace(lab.server.url(), redirecting.url())).set("STRIPE_KEY", API_KEY);
    let mut command = project.command(&RUN);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it starts");
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(redirecting.hits() > 0, "it was asked");
    for request in other.requests() {
        assert!(request.headers.iter().all(|(_, value)| !value.contains(API_KEY)), "{request:?}");
    }
    assert_eq!(other.hits(), 0, "a redirect to another host is not followed");
}
