//! The suite that every connector passes, with each manifest of `examples/rest` against its stand-in.

use std::future::{Ready, ready};
use std::sync::Arc;

use ingest_connector_rest::Rest;
use ingest_core::{Builtin, ErrorKind, Json, StreamName};
use ingest_testkit::conformance::{self, CanonicalRows, Subject};
use serde_json::{Map, json};

use crate::harness::{github, hubspot, seconds_now, shop};
use crate::stand_ins::{Api, CANARY, GitHub, HubSpot, Shop, StandIn};

/// The server's clock is behind ours and moves with the test; the connector goes by it.
fn now() -> i64 {
    seconds_now() - 10 * 86_400
}

fn row(value: Json) -> Map<String, Json> {
    value.as_object().cloned().unwrap_or_default()
}

fn with_secret(mut config: Json, name: &str) -> Json {
    config["secrets"][name] = "canary-but-wrong".into();
    config
}

/// A hook that does something to a stand-in.
fn act<A: Api>(server: &Arc<StandIn<A>>, what: fn(&StandIn<A>)) -> impl Fn() -> Ready<()> + Send + Sync + use<A> {
    let server = server.clone();
    move || {
        what(&server);
        ready(())
    }
}

fn hits<A: Api>(server: &Arc<StandIn<A>>) -> impl Fn() -> u64 + Send + Sync + use<A> {
    let server = server.clone();
    move || server.hits() as u64
}

/// A hook that changes what a stand-in has.
fn hook<A: Api>(server: &Arc<StandIn<A>>, change: fn(&mut A)) -> impl Fn() -> Ready<()> + Send + Sync + use<A> {
    let server = server.clone();
    move || {
        change(&mut server.state());
        ready(())
    }
}

/// The connector with a manifest, before a stand-in that can fail.
fn subject<A: Api>(server: &Arc<StandIn<A>>, config: Json) -> Subject {
    Subject::new(Builtin::<Rest>::new(), config).secret(CANARY).resumes(10).counterpart(COUNTERPART).outage(
        act(server, StandIn::breaks),
        act(server, StandIn::works),
        hits(server),
    )
}

const COUNTERPART: &str =
    "three manifests of `examples/rest`, each against a stand-in of ours; the table shows the shop's";
const NO_EMPTY_STREAM: &str = "shown with the stand-in of HubSpot";
const NO_LATE_ROWS: &str = "full reads alone; shown with the two others";

#[tokio::test]
async fn stand_in_github_conforms() {
    let server = Arc::new(StandIn::start(GitHub::new(now())).await);
    let config = github(server.url());
    let truth = {
        let server = server.clone();
        move |stream: &StreamName| {
            let api = server.state();
            let rows: CanonicalRows = match stream.as_str() {
                "repos" => api.repos.iter().map(|(id, name)| row(json!({"id": id, "name": name}))).collect(),
                _ => {
                    let shown = api.issues.iter().filter(|issue| issue.visible <= api.now);
                    shown.map(|i| row(json!({"id": i.id, "title": i.title, "repo": i.repo}))).collect()
                }
            };
            async move { rows }
        }
    };
    let change = hook(&server, |api| {
        let now = api.now;
        api.add_issue("repo 3/ü", now, 0);
        api.touch(5);
        // A repository that comes with issues older than what was read.
        let name = format!("moved here {now}");
        api.add_repo(&name);
        api.add_issue(&name, now - 50_000, 0);
        api.now += 100;
    });
    let late = hook(&server, |api| {
        let now = api.now;
        api.add_issue("repo 4/ü", now, 40);
        api.now += 30;
    });
    let subject = subject(&server, config.clone())
        .secret("canary-but-wrong")
        .refused("a wrong token", with_secret(config, "token"), ErrorKind::Unauthenticated)
        .truth(truth)
        .change(change)
        .late(late, hook(&server, |api| api.now += 100))
        .skip("R10", NO_EMPTY_STREAM);
    conformance::run(subject).await.assert_passed();
}

#[tokio::test]
async fn stand_in_hubspot_conforms() {
    let server = Arc::new(StandIn::start(HubSpot::new(now())).await);
    let config = hubspot(server.url());
    let truth = {
        let server = server.clone();
        move |stream: &StreamName| {
            let api = server.state();
            let rows: CanonicalRows = match stream.as_str() {
                "owners" => api.owners.iter().map(|o| row(json!({"id": o["id"], "userId": o["userId"]}))).collect(),
                "contacts_archived" => Vec::new(),
                _ => api.contacts.values().map(|c| row(json!({"id": c["id"], "archived": c["archived"]}))).collect(),
            };
            async move { rows }
        }
    };
    let subject = subject(&server, config.clone())
        .secret("canary-app-secret")
        .secret("access-1")
        .refused("a wrong refresh token", with_secret(config, "refresh_token"), ErrorKind::Unauthenticated)
        .truth(truth)
        .change(|| async {})
        .empty("contacts_archived")
        .skip("D03", "the manifest has full reads alone, and the connector claims both modes")
        .skip("I06", NO_LATE_ROWS);
    conformance::run(subject).await.assert_passed();
}

#[tokio::test]
async fn stand_in_shop_conforms() {
    let server = Arc::new(StandIn::start(Shop::new(now())).await);
    let config = shop(server.url());
    let truth = {
        let server = server.clone();
        move |stream: &StreamName| {
            let api = server.state();
            let orders = || api.orders.iter().filter(|(_, order)| order.visible <= api.now);
            let rows: CanonicalRows = match stream.as_str() {
                "orders" => orders().map(|(id, o)| row(json!({"id": id, "status": o.status}))).collect(),
                "events" => {
                    let shown = api.events.iter().filter(|(_, at)| *at <= api.now);
                    shown.map(|(id, _)| row(json!({"id": id, "kind": "paid"}))).collect()
                }
                _ => {
                    let lines = orders().flat_map(|(id, o)| (0..o.lines).map(move |line| (*id, line)));
                    lines.map(|(id, line)| row(json!({"order_id": id, "line": line, "quantity": 1}))).collect()
                }
            };
            async move { rows }
        }
    };
    let change = hook(&server, |api| {
        let now = api.now;
        api.order(now, 2);
        api.event(now);
        let first = api.orders.values_mut().next().unwrap();
        (first.modified, first.status) = (now, format!("changed {now}"));
        api.now += 100;
    });
    let late = hook(&server, |api| {
        let now = api.now;
        let id = api.order(now, 1);
        api.orders.get_mut(&id).unwrap().visible = now + 25;
        api.now += 20;
    });
    let subject = subject(&server, config.clone())
        .secret("canary-but-wrong")
        .refused("a wrong key", with_secret(config, "api_key"), ErrorKind::Unauthenticated)
        .truth(truth)
        .change(change)
        .late(late, hook(&server, |api| api.now += 100))
        .skip("R10", NO_EMPTY_STREAM);
    conformance::run(subject).await.assert_documented(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/connectors.md"));
}
