//! Salesforce from outside, against the stand-in of the test kit: what only the real service knows is not shown here.

use ingest_testkit::salesforce::{CLIENT_ID, CLIENT_SECRET, Fault, PubSubServer, SalesforceServer};
use serde_json::json;

use crate::against::{assert_table, run, run_and_kill, run_and_kill_at};
use crate::cli::Project;
use crate::survive::chance;

const RUN: [&str; 5] = ["run", "--source", "salesforce", "--progress", "off"];
const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;

/// Each object with the number of its rows at first. The larger ones are read by jobs of the Bulk API.
const OBJECTS: [(&str, usize); 3] = [("Account", 4_000), ("Contact", 3_000), ("Invoice__c", 3_500)];

struct Lab {
    server: SalesforceServer,
    project: Project,
    seed: u64,
}

impl Lab {
    async fn new() -> Self {
        let server = SalesforceServer::start().await;
        // Behind the clock of this machine, so that time that passes at the server passes for the program.
        let now = server.state().now() - 60 * MINUTE;
        server.freeze(now);
        for (object, rows) in OBJECTS {
            server.seed(object, rows, now - 60 * DAY, now - DAY);
        }
        let configuration = format!(
            "lake: {{commit_interval: 0s}}\nsources:\n  salesforce:\n    endpoint: {}\n    client_id: {CLIENT_ID}\n    \
             client_secret: ${{SECRET}}\n    bulk_from: 3200\n    bulk_page_size: 500\n    \
             defaults: {{write: merge}}\n    streams: {{Account: {{}}, Contact: {{}}, Invoice__c: {{}}}}\n",
            server.url()
        );
        let project = Project::new(&configuration).set("SECRET", CLIENT_SECRET);
        Self { server, project, seed: 0x9e37_79b9_7f4a_7c15 }
    }

    /// A run under too many requests, errors of the server, broken lines and a session that ends in the middle.
    async fn run(&mut self) {
        self.server.chaos(chance(&mut self.seed, u64::MAX), 0.02);
        self.server.faults([Fault::Concurrent, Fault::Status(500), Fault::SessionEnds]);
        let late = chance(&mut self.seed, 8) as usize + 4;
        self.server.before(late, |state| state.fail(Fault::SessionEnds));
        run(&self.project, &RUN).await;
        self.server.chaos(0, 0.0);
        self.server.no_faults();
    }

    async fn kill(&mut self) {
        run_and_kill(&self.project, &RUN, self.server.http(), &mut self.seed, 20).await;
    }

    fn change(&self, round: usize) {
        for (object, _) in OBJECTS {
            let ids: Vec<String> = self.server.truth(object).into_keys().collect();
            for id in ids.iter().skip(round).step_by(37) {
                self.server.update(object, id, json!({"Name": format!("round {round}")}));
            }
            for id in ids.iter().skip(round).step_by(53) {
                self.server.delete(object, id);
            }
            for _ in 0..15 {
                self.server.insert(object, json!({}));
            }
        }
        self.server.advance(6 * MINUTE);
    }

    async fn assert_equal(&self, context: &str) {
        for (object, _) in OBJECTS {
            let table = format!("salesforce/{}", object.to_lowercase());
            assert_table(&self.project, &table, "Id", &self.server.truth(object), context).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stand_in_with_10500_rows_that_change_under_faults_and_kills_equals_the_lake_after_every_run() {
    let mut lab = Lab::new().await;
    lab.kill().await;
    lab.run().await;
    lab.assert_equal("first load").await;
    for round in 1..=3 {
        lab.change(round);
        lab.kill().await;
        lab.run().await;
        lab.assert_equal(&format!("round {round}")).await;
    }
    for request in lab.server.http().requests() {
        assert!(!request.query.contains(CLIENT_SECRET) && !request.path.contains(CLIENT_SECRET), "{}", request.path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stand_in_requests_are_told_beside_the_estimate_of_the_plan() {
    let server = SalesforceServer::start().await;
    let now = server.state().now() - 60 * MINUTE;
    server.freeze(now);
    server.seed("Account", 4_500, now - 60 * DAY, now - DAY);
    let configuration = format!(
        "sources:\n  salesforce:\n    endpoint: {}\n    client_id: {CLIENT_ID}\n    client_secret: ${{SECRET}}\n    \
         streams: {{Account: {{}}}}\n",
        server.url()
    );
    let project = Project::new(&configuration).set("SECRET", CLIENT_SECRET);
    let mut command = project.command(&["run", "--source", "salesforce", "--progress", "json"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it starts");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let last: serde_json::Value = serde_json::from_str(text.lines().last().expect("an event")).expect("JSON");
    assert_eq!(last["type"], "run_finished", "{last}");
    // A description and a count; three pages of 2,000.
    assert_eq!(last["requests"], json!({"sent": 5, "estimated": 3}), "{last}");
    assert_eq!(server.calls().len(), 5);
    let mut command = project.command(&["run", "--source", "salesforce", "--progress", "plain"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it starts");
    let told = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(told.contains("requests of the source's API"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stand_in_change_events_between_runs_and_kills_come_to_what_the_org_holds() {
    let server = SalesforceServer::start().await;
    let bus = PubSubServer::start(&server).await;
    let now = server.state().now() - 60 * MINUTE;
    server.freeze(now);
    for object in ["Account", "Contact"] {
        server.seed(object, 900, now - 60 * DAY, now - DAY);
    }
    let configuration = format!(
        "lake: {{commit_interval: 0s}}\nsources:\n  salesforce:\n    endpoint: {}\n    pubsub_endpoint: {}\n    \
         client_id: {CLIENT_ID}\n    client_secret: ${{SECRET}}\n    quiet: 2s\n    defaults: {{mode: cdc, write: merge}}\n    \
         streams: {{Account: {{}}, Contact: {{}}}}\n",
        server.url(),
        bus.url()
    );
    let project = Project::new(&configuration).set("SECRET", CLIENT_SECRET);
    for round in 0..3 {
        for requests in [2, 5] {
            run_and_kill_at(&project, &RUN, server.http(), requests).await;
        }
        run(&project, &RUN).await;
        for object in ["Account", "Contact"] {
            let mut truth = server.truth(object);
            // Events do not carry it.
            truth.values_mut().for_each(|row| drop(row.remove("SystemModstamp")));
            let table = format!("salesforce/{}", object.to_lowercase());
            assert_table(&project, &table, "Id", &truth, &format!("round {round}")).await;
            server.state().bus.gaps = round;
            let ids: Vec<String> = truth.into_keys().collect();
            for id in ids.iter().skip(round).step_by(37) {
                server.update(object, id, json!({"Name": format!("round {round}")}));
            }
            for id in ids.iter().skip(round).step_by(101) {
                server.delete(object, id);
            }
            for _ in 0..5 {
                server.insert(object, json!({}));
            }
        }
        server.advance(6 * MINUTE);
    }
}
