//! Webhooks from outside: deliveries to `ingest serve`, loaded by runs, under kills.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ingest_testkit::python::{Reader, rows};
use ingest_testkit::signers;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::cli::Project;
use crate::survive::{Ended, chance, kills, run_and_kill};

const STRIPE_SECRET: &str = "whsec_canary_of_stripe";
const SHOPIFY_SECRET: &str = "canary_of_shopify";
const HMAC_SECRET: &str = "canary of anybody";

/// A running `ingest serve`.
struct Serving {
    child: Child,
    address: String,
    said: tokio::task::JoinHandle<String>,
}

impl Serving {
    async fn start(project: &Project) -> Self {
        let mut command = project.command(&["serve", "--listen", "127.0.0.1:0"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = Command::from(command).kill_on_drop(true).spawn().expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let mut text = String::new();
        let address = loop {
            let line = lines.next_line().await.expect("UTF-8").unwrap_or_else(|| panic!("it ended: {text}"));
            text.push_str(&line);
            text.push('\n');
            if let Some((_, rest)) = line.split_once("http://") {
                break rest.split('/').next().expect("an address").to_owned();
            }
        };
        let said = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                text.push_str(&line);
                text.push('\n');
            }
            text
        });
        Self { child, address, said }
    }

    async fn kill(mut self) {
        self.child.kill().await.expect("it runs");
    }

    /// Ends it as an operator does; gives what it said.
    async fn stop(mut self) -> String {
        let id = self.child.id().expect("it runs").to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().await.expect("kill runs").success());
        let status = tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await.expect("it ends");
        assert_eq!(status.expect("a child of ours").code(), Some(0));
        self.said.await.expect("no panic")
    }
}

/// Sends a request; `None` when no answer comes.
async fn send(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Option<u16> {
    let mut line = TcpStream::connect(address).await.ok()?;
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    // A server that refuses a body by its length may not read it.
    let _ = line.write_all(format!("{head}\r\n{body}").as_bytes()).await;
    let mut answer = Vec::new();
    let _ = line.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).split(' ').nth(1)?.parse().ok()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs()
}

async fn events(project: &Project, source: &str) -> Option<Vec<Map<String, Value>>> {
    let path = project.folder.path().join("lake/bronze").join(source).join("events");
    rows(Reader::DuckDb, path.to_str().expect("UTF-8"), &[]).await
}

/// Files that wait to be loaded.
fn waiting(project: &Project, source: &str) -> usize {
    std::fs::read_dir(project.folder.path().join("waiting").join(source)).map_or(0, Iterator::count)
}

fn project() -> Project {
    Project::new(
        "lake: {commit_interval: 0s}
sources:
  payments:
    connector: webhooks
    sender: stripe
    secret: ${STRIPE}
    path: ./waiting
    defaults: {write: insert}
  shop:
    connector: webhooks
    sender: shopify
    secret: ${SHOPIFY}
    path: ./waiting
    max_body: 64KiB
    defaults: {write: insert}
  other:
    connector: webhooks
    secret: ${HMAC}
    path: ./waiting
    id_field: id
    timestamp_header: X-Time
    defaults: {write: insert}
",
    )
    .set("STRIPE", STRIPE_SECRET)
    .set("SHOPIFY", SHOPIFY_SECRET)
    .set("HMAC", HMAC_SECRET)
}

#[tokio::test(flavor = "multi_thread")]
async fn stripe_deliveries_signed_by_its_library_are_loaded_once_and_altered_ones_refused() {
    let project = project();
    let bodies: Vec<String> = (0..50)
        .map(|n| format!("{{\n  \"id\": \"evt_{n}\", \"type\": \"charge.updated\", \"created\": 17000000{n:02}, \"x\": \"\u{2116}\"}}"))
        .collect();
    let Some(signed) = signers::stripe(STRIPE_SECRET, now(), &bodies).await else { return };
    let Some(stale) = signers::stripe(STRIPE_SECRET, now() - 900, &bodies).await else { return };
    let Some(foreign) = signers::stripe("whsec_other", now(), &bodies).await else { return };
    let server = Serving::start(&project).await;
    let post = async |header: &str, body: &str| {
        send(&server.address, "POST", "/webhooks/payments", &[("Stripe-Signature", header)], body).await
    };
    for (header, body) in signed.iter().zip(&bodies) {
        assert_eq!(post(header, body).await, Some(200));
        assert_eq!(post(header, body).await, Some(200), "a delivery that comes again is welcome");
    }
    assert_eq!(post(&signed[0], &bodies[1]).await, Some(401), "another body");
    assert_eq!(post(&signed[0], &bodies[0].replace("updated", "refunded")).await, Some(401), "an altered body");
    assert_eq!(post(&signed[0].replace("t=", "t=1"), &bodies[0]).await, Some(401), "an altered time");
    assert_eq!(post(&stale[0], &bodies[0]).await, Some(401), "an old one");
    assert_eq!(post(&foreign[0], &bodies[0]).await, Some(401), "another secret");
    assert_eq!(send(&server.address, "POST", "/webhooks/payments", &[], &bodies[0]).await, Some(401));
    assert_eq!(send(&server.address, "GET", "/webhooks/payments", &[], "").await, Some(405));
    assert_eq!(send(&server.address, "POST", "/webhooks/nobody", &[], "{}").await, Some(404));
    project.good(&["run", "--source", "payments", "--progress", "off"]);
    assert_eq!(waiting(&project, "payments"), 0, "what is loaded is deleted");
    // Days later Stripe sends one again.
    assert_eq!(post(&signed[7], &bodies[7]).await, Some(200));
    project.good(&["run", "--source", "payments", "--progress", "off"]);
    let said = server.stop().await;
    assert!(said.contains("deliveries were refused") && !said.contains(STRIPE_SECRET), "{said}");
    let Some(rows) = events(&project, "payments").await else { return };
    assert_eq!(rows.len(), bodies.len());
    let found: BTreeMap<&str, &Map<String, Value>> =
        rows.iter().map(|row| (row["id"].as_str().expect("an id"), row)).collect();
    for (n, body) in bodies.iter().enumerate() {
        let row = found[format!("evt_{n}").as_str()];
        assert_eq!((&row["payload"], &row["type"]), (&json!(body), &json!("charge.updated")), "value for value");
        assert!(row["created"].as_str().is_some_and(|time| time.starts_with("2023-11-14")), "{}", row["created"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shopify_deliveries_that_its_library_takes_for_signed_are_loaded_once_and_altered_ones_refused() {
    let project = project();
    let bodies: Vec<String> = (0..20).map(|n| format!("{{\"id\": {n}, \"name\": \"M\u{fc}ller\"}}")).collect();
    let Some(signed) = signers::shopify(SHOPIFY_SECRET, &bodies).await else { return };
    let server = Serving::start(&project).await;
    let post = async |signature: &str, id: &str, body: &str| {
        let headers = [
            ("X-Shopify-Hmac-Sha256", signature),
            ("X-Shopify-Webhook-Id", id),
            ("X-Shopify-Topic", "orders/create"),
            ("X-Shopify-Shop-Domain", "acme.myshopify.com"),
            ("X-Shopify-Triggered-At", "2026-01-02T03:04:05.678901234Z"),
        ];
        send(&server.address, "POST", "/webhooks/shop", &headers, body).await
    };
    for (n, (signature, body)) in signed.iter().zip(&bodies).enumerate() {
        assert_eq!(post(signature, &format!("delivery-{n}"), body).await, Some(200));
        assert_eq!(post(signature, &format!("delivery-{n}"), body).await, Some(200));
    }
    assert_eq!(post(&signed[0], "altered", &bodies[1]).await, Some(401));
    assert_eq!(post("", "unsigned", &bodies[1]).await, Some(401));
    assert_eq!(post(&signed[0], "large", &"x".repeat(70_000)).await, Some(413));
    project.good(&["run", "--source", "shop", "--progress", "off"]);
    server.stop().await;
    let Some(rows) = events(&project, "shop").await else { return };
    assert_eq!(rows.len(), bodies.len());
    for row in &rows {
        let n: usize = row["id"].as_str().and_then(|id| id.strip_prefix("delivery-")?.parse().ok()).expect("an id");
        assert_eq!(row["payload"], json!(bodies[n]));
        assert_eq!((&row["type"], &row["account"]), (&json!("orders/create"), &json!("acme.myshopify.com")));
        assert!(row["created"].as_str().is_some_and(|time| time.starts_with("2026-01-02T03:04:05.678901")), "{row:?}");
    }
}

/// Sends deliveries, one after another, until the server is gone; gives the ids that were answered with 200.
async fn sender(address: String, next: Arc<AtomicU64>) -> BTreeSet<u64> {
    let mut taken = BTreeSet::new();
    loop {
        let id = next.fetch_add(1, Ordering::Relaxed);
        let (body, time) = (format!("{{\"id\": {id}}}"), now().to_string());
        let signature = signers::hmac_sha256(HMAC_SECRET.as_bytes(), format!("{time}.{body}").as_bytes());
        let headers = [("X-Signature", signature.as_str()), ("X-Time", time.as_str())];
        match send(&address, "POST", "/webhooks/other", &headers, &body).await {
            Some(200) => drop(taken.insert(id)),
            None => return taken,
            Some(other) => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_that_were_answered_with_200_are_loaded_once_whatever_is_killed() {
    let project = Arc::new(project());
    let next = Arc::new(AtomicU64::new(0));
    let (mut taken, mut seed) = (BTreeSet::new(), 0xd6e8_feb8_6659_fd93);
    for _ in 0..kills().div_ceil(5) {
        let server = Serving::start(&project).await;
        let senders: Vec<_> = (0..8).map(|_| tokio::spawn(sender(server.address.clone(), Arc::clone(&next)))).collect();
        let wanted = next.load(Ordering::Relaxed) + chance(&mut seed, 300);
        // A run is killed while deliveries come in.
        let after = Duration::from_millis(chance(&mut seed, 600));
        let killed = Arc::clone(&project);
        let run = move || run_and_kill(&killed, &["run", "--source", "other", "--progress", "off"], after);
        let ended = tokio::task::spawn_blocking(run).await.expect("no panic");
        assert!(matches!(ended, Ended::Killed | Ended::With(0)), "{ended:?}");
        while next.load(Ordering::Relaxed) < wanted {
            tokio::task::yield_now().await;
        }
        server.kill().await;
        for sender in senders {
            taken.extend(sender.await.expect("no panic"));
        }
    }
    assert!(!taken.is_empty(), "no delivery was taken");
    project.good(&["run", "--source", "other", "--progress", "off"]);
    let Some(rows) = events(&project, "other").await else { return };
    let found: BTreeSet<u64> =
        rows.iter().map(|row| row["id"].as_str().expect("an id").parse().expect("a number")).collect();
    assert_eq!(found.len(), rows.len(), "an event is there twice");
    let lost: Vec<_> = taken.difference(&found).take(5).collect();
    assert!(lost.is_empty(), "lost {lost:?} of {}", taken.len());
    assert_eq!(waiting(&project, "other"), unfinished(&project), "what is loaded is deleted");
}

/// Files that a killed server had begun.
fn unfinished(project: &Project) -> usize {
    let folder = std::fs::read_dir(project.folder.path().join("waiting/other")).expect("a folder");
    folder
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with('.')))
        .count()
}
