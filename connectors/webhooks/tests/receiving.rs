//! The receiver: what it takes, what it refuses, and how it ends.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ingest_connector_webhooks::{Endpoint, Endpoints, Receiver};
use ingest_core::{CancellationToken, Json};
use ingest_testkit::signers::hmac_sha256;
use reqwest::Client;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const SECRET: &str = "canary";

struct Lab {
    dir: tempfile::TempDir,
    address: SocketAddr,
    endpoints: watch::Sender<Arc<Endpoints>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Lab {
    async fn new(more: Json) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let stop = CancellationToken::new();
        let server = Receiver::bind("127.0.0.1:0").await.expect("bound");
        let address = server.address().expect("an address");
        let (endpoints, receiver) = watch::channel(Arc::new(Endpoints::from([endpoint(&dir, more)])));
        let task = tokio::spawn(server.serve(receiver, stop.clone()));
        Self { dir, address, endpoints, stop, task }
    }

    fn url(&self) -> String {
        format!("http://{}/webhooks/hooks", self.address)
    }

    async fn post(&self, body: impl Into<reqwest::Body>, signature: &str) -> u16 {
        self.try_post(body, signature).await.expect("an answer")
    }

    async fn try_post(&self, body: impl Into<reqwest::Body>, signature: &str) -> reqwest::Result<u16> {
        let request = Client::new().post(self.url()).header("X-Signature", signature).body(body);
        Ok(request.send().await?.status().as_u16())
    }

    fn kept(&self) -> Vec<String> {
        let folder: PathBuf = self.dir.path().join("hooks");
        let files = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        files
            .flat_map(|path| {
                std::fs::read_to_string(path).expect("a file").lines().map(str::to_owned).collect::<Vec<_>>()
            })
            .collect()
    }
}

fn endpoint(dir: &tempfile::TempDir, more: Json) -> (String, Endpoint) {
    let mut fields = json!({"secret": SECRET, "path": dir.path()});
    fields.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
    Endpoint::open("hooks", &fields).expect("an endpoint")
}

fn sign(body: &[u8]) -> String {
    hmac_sha256(SECRET.as_bytes(), body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_kept_byte_for_byte_and_one_that_is_too_large_or_no_text_is_refused() {
    let lab = Lab::new(json!({"max_body": 1_000})).await;
    let body = "{\"a\": \"\u{2116}\\n\",\r\n\t\"b\": 1.50}";
    assert_eq!(lab.post(body, &sign(body.as_bytes())).await, 200);
    let large = "x".repeat(1_001);
    assert_eq!(lab.post(large.clone(), &sign(large.as_bytes())).await, 413);
    // Without a length the body is read no further than it may be long; whoever goes on writing may miss the answer.
    let endless = futures_of(vec![b'x'; 500], 10_000);
    let answer = lab.try_post(reqwest::Body::wrap_stream(endless), "00").await;
    assert!(answer.as_ref().map_or(true, |status| *status == 413), "{answer:?}");
    assert_eq!(lab.post(b"\xff".to_vec(), &sign(b"\xff")).await, 400);
    assert_eq!(lab.post("", &sign(b"")).await, 200);
    let kept = lab.kept();
    assert_eq!(kept.len(), 2);
    let rows: Vec<Json> = kept.iter().map(|line| serde_json::from_str(line).expect("an event")).collect();
    assert!(rows.iter().any(|row| row["payload"] == body), "{rows:?}");
}

/// A stream of so many pieces.
fn futures_of(piece: Vec<u8>, pieces: usize) -> impl futures::Stream<Item = std::io::Result<Vec<u8>>> {
    futures::stream::iter(std::iter::repeat_n(piece, pieces).map(Ok))
}

#[tokio::test(flavor = "multi_thread")]
async fn when_too_much_waits_deliveries_are_refused_so_that_their_senders_try_again() {
    let lab = Lab::new(json!({"max_waiting": 1_000})).await;
    let body = "x".repeat(600);
    assert_eq!(lab.post(body.clone(), &sign(body.as_bytes())).await, 200);
    assert_eq!(lab.post(body.clone(), &sign(body.as_bytes())).await, 503);
    assert_eq!(lab.kept().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_secret_holds_from_the_next_delivery_on() {
    let lab = Lab::new(json!({})).await;
    assert_eq!(lab.post("{}", &sign(b"{}")).await, 200);
    let changed = endpoint(&lab.dir, json!({"secret": "other"}));
    lab.endpoints.send_replace(Arc::new(Endpoints::from([changed])));
    assert_eq!(lab.post("{}", &sign(b"{}")).await, 401);
    assert_eq!(lab.post("{}", &hmac_sha256(b"other", b"{}")).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_under_way_is_answered_when_the_server_stops_and_no_other_is_taken() {
    let lab = Lab::new(json!({})).await;
    let body = b"{\"id\": 1}";
    let mut line = TcpStream::connect(lab.address).await.expect("connected");
    let signature = sign(body);
    let length = body.len();
    let head = format!(
        "POST /webhooks/hooks HTTP/1.1\r\nHost: x\r\nX-Signature: {signature}\r\nContent-Length: {length}\r\n\r\n"
    );
    line.write_all(head.as_bytes()).await.expect("sent");
    line.write_all(&body[..3]).await.expect("sent");
    // Another answer says that this line was accepted before.
    assert_eq!(lab.post("{}", &sign(b"{}")).await, 200);
    lab.stop.cancel();
    while TcpStream::connect(lab.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    line.write_all(&body[3..]).await.expect("sent");
    let mut answer = String::new();
    line.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    tokio::time::timeout(Duration::from_secs(60), lab.task).await.expect("it ends").expect("no panic");
}
