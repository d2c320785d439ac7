//! The suite that every connector passes, against the stand-in.

use ingest_connector_salesforce::Salesforce;
use ingest_core::{Builtin, ErrorKind, Json, StreamName};
use ingest_testkit::conformance::{self, Subject};
use ingest_testkit::salesforce::{CLIENT_SECRET, Fault, PubSubServer, SalesforceServer};
use serde_json::json;

use crate::harness::{DAY, Lab, MINUTE, NOW};

const OBJECTS: [&str; 4] = ["Account", "AccountHistory", "Contact", "Rate__c"];

fn change(server: &SalesforceServer) {
    server.advance(MINUTE);
    for object in OBJECTS {
        server.insert(object, json!({}));
    }
    let id = server.truth("Account").into_keys().next().unwrap();
    server.update("Account", &id, json!({"Name": "changed"}));
    let id = server.truth("Contact").into_keys().nth(1).unwrap();
    server.delete("Contact", &id);
    server.advance(6 * MINUTE);
}

#[tokio::test]
async fn stand_in_salesforce_conforms() {
    let lab = Lab::start().await;
    let server = lab.server.clone();
    for object in OBJECTS {
        server.seed(object, 450, NOW - 30 * DAY, NOW - DAY);
    }
    server.state().page_rows = 200;
    let act = |what: fn(&SalesforceServer)| {
        let server = server.clone();
        move || {
            what(&server);
            async {}
        }
    };
    // Account and Contact become jobs, the others are read by pages.
    server.seed("Account", 200, NOW - 30 * DAY, NOW - DAY);
    server.seed("Contact", 200, NOW - 30 * DAY, NOW - DAY);
    // Events carry nothing, so that their records are read again and rows are whole, as the suite compares them; those that carry
    // values are in changes.rs.
    let bus = PubSubServer::start(&server).await;
    {
        let mut state = server.state();
        (state.bus.gaps, state.bus.keepalive) = (usize::MAX, Some(3));
    }
    let config = |more: Json| {
        let mut config = lab.config(more);
        config["pubsub_endpoint"] = json!(bus.url());
        config["quiet"] = json!("1s");
        config
    };
    let subject = Subject::new(Builtin::<Salesforce>::new(), config(json!({"bulk_from": 600, "bulk_page_size": 150})))
        .streams(&["Account", "AccountHistory", "Contact", "Rate__c", "Task"])
        .secret(CLIENT_SECRET)
        .refused("a wrong secret", config(json!({"client_secret": "canary-wrong"})), ErrorKind::Unauthenticated)
        .refused("no secret", config(json!({"client_secret": ""})), ErrorKind::ConfigInvalid)
        .empty("Task")
        .filtered("Account", "NumberOfEmployees <= 25", 25)
        .truth({
            let server = server.clone();
            move |stream: &StreamName| {
                let rows = server.truth(stream.as_str()).into_values().collect();
                async move { rows }
            }
        })
        .change(act(change))
        .late(
            act(|server| {
                server.state().visible_after = 4 * MINUTE;
                server.insert("Account", json!({"Name": "late"}));
                server.advance(MINUTE);
            }),
            act(|server| server.advance(10 * MINUTE)),
        )
        .lose_log(act(|server| server.state().bus.expire()))
        .resumes(12)
        .counterpart("a stand-in of ours")
        .outage(act(|server| server.faults([Fault::Status(503); 1_000])), act(SalesforceServer::no_faults), {
            let server = server.clone();
            move || server.http().hits() as u64
        });
    conformance::run(subject).await.assert_documented(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/connectors.md"));
}
