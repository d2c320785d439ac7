//! Pages over loopback: the client and its decoder, against a client that only drains the same pages.
//!
//! `cargo bench -p ingest-http --bench pages`. The server is another process, so that the CPU time shown is the
//! client's alone; the ways take turns and medians are shown, for the machine is shared.

mod pages_of;

use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ingest_core::json::{Decoder, PageShape};
use ingest_core::{Context, Secret};
use ingest_http::{Auth, ClientConfig, HttpClient, PageGuard};
use ingest_testkit::http::{HttpServer, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use pages_of::{OBJECTS_PER_PAGE, cpu_time, page, schema};

const PAGES: usize = 2_000;
const ROUNDS: usize = 7;

fn main() {
    if std::env::args().any(|argument| argument == "--serve") {
        return serve();
    }
    let (mut server, endpoint) = spawn();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut ways: [(&str, Vec<Cost>); 4] =
        [("drain", vec![]), ("client", vec![]), ("client + decoder", vec![]), ("the same, next page ahead", vec![])];
    for _ in 0..ROUNDS {
        ways[0].1.push(runtime.block_on(measured(drain(&endpoint))));
        ways[1].1.push(runtime.block_on(measured(collect(&endpoint))));
        ways[2].1.push(runtime.block_on(measured(decode(&endpoint))));
        ways[3].1.push(runtime.block_on(measured(decode_ahead(&endpoint))));
    }
    server.kill().expect("the server of this bench");
    let objects = PAGES * OBJECTS_PER_PAGE;
    println!(
        "{PAGES} pages of {OBJECTS_PER_PAGE} objects, {} bytes each, {ROUNDS} rounds in turns, medians",
        page(0, true).len() / OBJECTS_PER_PAGE
    );
    let floor = median(&mut ways[0].1);
    for (name, costs) in &mut ways {
        let cost = median(costs);
        println!(
            "{name:>26}: {:4.0} k objects/s, {:5.2} us CPU/object; time {:4.2}, CPU {:4.2} of drain",
            objects as f64 / cost.wall.as_secs_f64() / 1e3,
            cost.cpu.as_secs_f64() * 1e6 / objects as f64,
            cost.wall.as_secs_f64() / floor.wall.as_secs_f64(),
            cost.cpu.as_secs_f64() / floor.cpu.as_secs_f64(),
        );
    }
}

#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
}

async fn measured(work: impl Future<Output = usize>) -> Cost {
    let (begun, cpu) = (Instant::now(), cpu_time());
    let objects = work.await;
    assert_eq!(objects, PAGES * OBJECTS_PER_PAGE);
    Cost { wall: begun.elapsed(), cpu: cpu_time() - cpu }
}

fn median(costs: &mut [Cost]) -> Cost {
    let middle = costs.len() / 2;
    costs.sort_unstable_by_key(|cost| cost.cpu);
    let cpu = costs[middle].cpu;
    costs.sort_unstable_by_key(|cost| cost.wall);
    Cost { wall: costs[middle].wall, cpu }
}

/// Keep-alive, no parse: what the kernel and a loop cost.
async fn drain(endpoint: &str) -> usize {
    let address = endpoint.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("the server");
    let mut buffer = vec![0; 256 << 10];
    for n in 0..PAGES {
        let request = format!("GET /items?page={n} HTTP/1.1\r\nhost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let (mut filled, mut wanted) = (0, usize::MAX);
        while filled < wanted {
            filled += stream.read(&mut buffer[filled..]).await.expect("an answer");
            if wanted == usize::MAX
                && let Some(end) = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n")
            {
                let head = std::str::from_utf8(&buffer[..end]).expect("a head");
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
                wanted = end + 4 + length.parse::<usize>().expect("a number");
            }
        }
        black_box(&buffer[..filled]);
    }
    PAGES * OBJECTS_PER_PAGE
}

fn client(endpoint: &str) -> HttpClient {
    let mut config = ClientConfig::new("https://api.example.com", Some(endpoint)).expect("a good endpoint");
    config.auth = Auth::Bearer(Secret::new("key"));
    HttpClient::new(config, &Context::standalone("bench")).expect("a client")
}

async fn collect(endpoint: &str) -> usize {
    let client = client(endpoint);
    for n in 0..PAGES {
        black_box(client.get("/items").query("page", n).send().await.expect("a page").into_body());
    }
    PAGES * OBJECTS_PER_PAGE
}

async fn decode(endpoint: &str) -> usize {
    let client = client(endpoint);
    let (mut decoder, shape, mut guard) = (decoder(), PageShape::at("data").pick("has_more"), PageGuard::new());
    let mut objects = 0;
    for n in 0..PAGES {
        guard.next(&n.to_string()).expect("new");
        let reply = client.get("/items").query("page", n).send().await.expect("a page");
        objects += decoder.page(reply.body(), &shape).expect("a page").records;
        flush_when_full(&mut decoder);
    }
    objects
}

async fn decode_ahead(endpoint: &str) -> usize {
    let client = client(endpoint);
    let (mut decoder, shape, mut guard) = (decoder(), PageShape::at("data").pick("has_more"), PageGuard::new());
    let mut objects = 0;
    let mut fetch = client.get("/items").query("page", 0).start();
    for n in 1..=PAGES {
        guard.next(&n.to_string()).expect("new");
        let reply = fetch.await.expect("a page");
        fetch = client.get("/items").query("page", n).start();
        // The request goes out before the page is decoded.
        tokio::task::yield_now().await;
        objects += decoder.page(reply.body(), &shape).expect("a page").records;
        flush_when_full(&mut decoder);
    }
    objects
}

fn decoder() -> Decoder {
    Decoder::new(schema()).expect("a decoder")
}

fn flush_when_full(decoder: &mut Decoder) {
    if decoder.rows() >= 16_384 {
        black_box(decoder.flush().expect("a batch"));
    }
}

/// The server process: the same few pages again and again, made beforehand.
fn serve() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let pages: Vec<Bytes> = (0..50).map(|n| page(n * OBJECTS_PER_PAGE, true).into()).collect();
        let server = HttpServer::start_unrecorded(move |request| {
            let n: usize = request.query.trim_start_matches("page=").parse().unwrap_or(0);
            let page = pages[n % pages.len()].clone();
            async move { Response::json(page) }
        })
        .await;
        println!("{}", server.url());
        std::future::pending::<()>().await;
    });
}

fn spawn() -> (Child, String) {
    let program = std::env::current_exe().expect("this program");
    let mut child =
        Command::new(program).arg("--serve").stdout(Stdio::piped()).spawn().expect("a child of this program");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("the server's address");
    (child, line.trim().to_owned())
}
