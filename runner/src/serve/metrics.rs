//! What a server counts, as Prometheus reads it: text over HTTP, at `/metrics`.
//!
//! Counters are of this server since it was started. The lag also stands in the lake, so that a server that takes over knows it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ingest_catalog::RunDocument;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::{Job, Told};

/// A metric: its name, its type, what it says.
type Metric = (&'static str, &'static str, &'static str);

const LEADER: Metric = ("ingest_leader", "gauge", "1 where this server leads, 0 where it waits for another one.");
const TROUBLES: Metric = ("ingest_troubles_total", "counter", "Times that the lake was away, or something like that.");
const RUNS: Metric = ("ingest_runs_total", "counter", "Runs that have ended, by outcome.");
const ACTIVE: Metric = ("ingest_runs_active", "gauge", "Runs under way.");
const SECONDS: Metric = ("ingest_run_seconds_total", "counter", "How long runs took, together.");
const FAILURES: Metric =
    ("ingest_consecutive_failures", "gauge", "Runs that have failed since one did not: alert where it stays above 0.");
const PASSED: Metric = ("ingest_passed_over_total", "counter", "Times that due times were missed and passed over.");
const LAG: Metric = (
    "ingest_source_lag_seconds",
    "gauge",
    "Seconds since the due time of the last run that succeeded: what the source held then is in the lake.",
);
const CHANGE_LAG: Metric = (
    "ingest_change_lag_seconds",
    "gauge",
    "Seconds since the source was where the change feed stands in the lake, of the stream that is furthest behind.",
);
const CHANGE_BYTES: Metric = (
    "ingest_change_lag_bytes",
    "gauge",
    "Bytes of the source's log that were left when the last run ended, of the stream that is furthest behind.",
);
const ROWS: Metric = ("ingest_rows_total", "counter", "Rows that were read, written, rescued, quarantined.");
const BYTES: Metric = ("ingest_bytes_written_total", "counter", "Bytes of the files that became visible.");

/// How runs end, in the order of the page.
const OUTCOMES: [&str; 5] = ["succeeded", "partial", "failed", "held", "interrupted"];

/// What becomes of rows, in the order of the page.
const KINDS: [&str; 4] = ["read", "written", "rescued", "quarantined"];

/// A client that is slower is cut off.
const PATIENCE: Duration = Duration::from_secs(5);

/// A longer request is none of Prometheus.
const MAX_REQUEST: usize = 8 << 10;

/// So many clients at once; the others wait.
const CLIENTS: usize = 16;

/// The figures of a server.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Figures>);

#[derive(Debug, Default)]
struct Figures {
    leads: bool,
    troubles: u64,
    jobs: BTreeMap<String, OfJob>,
}

#[derive(Debug, Default)]
struct OfJob {
    source: String,
    outcomes: [u64; OUTCOMES.len()],
    /// When runs under way began, by id: microseconds UTC.
    active: BTreeMap<String, i64>,
    micros: i64,
    failures: u64,
    passed_over: u64,
    succeeded: Option<i64>,
    /// All that the source committed before this time is in the lake, of streams with a change feed.
    through: Option<i64>,
    /// What was left of the source's log then.
    behind: Option<u64>,
    rows: [u64; KINDS.len()],
    bytes: u64,
}

impl Metrics {
    /// Counts what a server told, at this time.
    pub fn told(&self, told: &Told<'_>, now: i64) {
        let mut figures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match told {
            Told::Leads(leads) => {
                figures.leads = *leads;
                if !leads {
                    // Another server's runs are not heard of here, so that the lag would only grow.
                    figures.jobs.values_mut().for_each(|job| {
                        (job.succeeded, job.through, job.behind) = (None, None, None);
                    });
                }
            }
            Told::Trouble(_) => figures.troubles += 1,
            Told::Jobs(jobs) => figures.know(jobs),
            Told::Started(start) => {
                figures.job(&start.job).active.insert(start.run.clone(), now);
            }
            Told::PassedOver(job, _) => figures.job(job).passed_over += 1,
            Told::Ended(start, code) => {
                let job = figures.job(&start.job);
                if let Some(began) = job.active.remove(&start.run) {
                    job.micros += now.saturating_sub(began).max(0);
                }
                job.ended(*code, start.due);
            }
        }
    }

    /// Counts what a run has left in the history.
    pub fn ran(&self, job: &Job, run: &RunDocument) {
        let mut figures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let job = figures.job(job);
        for stream in &run.streams {
            let rows = [stream.rows_read, stream.rows_written, stream.rows_rescued, stream.rows_quarantined];
            job.rows.iter_mut().zip(rows).for_each(|(sum, rows)| *sum += rows);
            job.bytes += stream.bytes_written;
        }
        let lags = || run.streams.iter().filter_map(|stream| i64::try_from(stream.lag_ms?).ok());
        if let (Some(ended), Some(lag)) = (run.finished_at, lags().max()) {
            job.through = Some(ended.saturating_sub(lag.saturating_mul(1_000)));
            job.behind = run.streams.iter().filter_map(|stream| stream.lag_bytes).max();
        }
    }

    /// The page, in Prometheus' text format 0.0.4.
    pub fn render(&self, now: i64) -> String {
        let figures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut page = Page(String::new());
        page.metric(LEADER, [(String::new(), u64::from(figures.leads).to_string())]);
        page.metric(TROUBLES, [(String::new(), figures.troubles.to_string())]);
        let each = |value: &dyn Fn(&OfJob) -> Option<String>| -> Vec<(String, String)> {
            let line = |(id, job): (&String, &OfJob)| Some((labels(id, job, None), value(job)?));
            figures.jobs.iter().filter_map(line).collect()
        };
        let all = |name: &str, names: &[&str], values: &dyn Fn(&OfJob) -> Vec<u64>| -> Vec<(String, String)> {
            let lines = |(id, job): (&String, &OfJob)| -> Vec<(String, String)> {
                let line = |(word, value): (&&str, u64)| (labels(id, job, Some((name, *word))), value.to_string());
                names.iter().zip(values(job)).map(line).collect()
            };
            figures.jobs.iter().flat_map(lines).collect()
        };
        page.metric(RUNS, all("outcome", &OUTCOMES, &|job| job.outcomes.to_vec()));
        page.metric(ACTIVE, each(&|job| Some(job.active.len().to_string())));
        page.metric(SECONDS, each(&|job| Some(seconds(job.micros))));
        page.metric(FAILURES, each(&|job| Some(job.failures.to_string())));
        page.metric(PASSED, each(&|job| Some(job.passed_over.to_string())));
        page.metric(LAG, each(&|job| Some(seconds(now.saturating_sub(job.succeeded?).max(0)))));
        page.metric(CHANGE_LAG, each(&|job| Some(seconds(now.saturating_sub(job.through?).max(0)))));
        page.metric(CHANGE_BYTES, each(&|job| job.behind.map(|bytes| bytes.to_string())));
        page.metric(ROWS, all("kind", &KINDS, &|job| job.rows.to_vec()));
        page.metric(BYTES, each(&|job| Some(job.bytes.to_string())));
        page.0
    }
}

impl Figures {
    /// Jobs that are no longer in the configuration leave the page when their runs have ended.
    fn know(&mut self, jobs: &[(&Job, Option<i64>)]) {
        self.jobs.retain(|id, of| !of.active.is_empty() || jobs.iter().any(|(job, _)| job.id == *id));
        for (job, succeeded) in jobs {
            let of = self.job(job);
            of.succeeded = of.succeeded.max(*succeeded);
        }
    }

    fn job(&mut self, job: &Job) -> &mut OfJob {
        let of = self.jobs.entry(job.id.clone()).or_default();
        of.source.clone_from(&job.source);
        of
    }
}

impl OfJob {
    fn ended(&mut self, code: u8, due: i64) {
        let outcome = match code {
            0 => 0,
            4 => 1,
            6 => 3,
            130 => 4,
            _ => 2,
        };
        if let Some(count) = self.outcomes.get_mut(outcome) {
            *count += 1;
        }
        match code {
            0 => {
                self.failures = 0;
                self.succeeded = self.succeeded.max(Some(due));
            }
            // What is committed is whole, and the next run goes on.
            4 => self.failures = 0,
            6 | 130 => {}
            _ => self.failures += 1,
        }
    }
}

struct Page(String);

impl Page {
    fn metric(&mut self, metric: Metric, values: impl IntoIterator<Item = (String, String)>) {
        let (name, kind, help) = metric;
        // Writing to a text does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }
}

fn labels(id: &str, job: &OfJob, more: Option<(&str, &str)>) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let more = more.map_or_else(String::new, |(name, value)| format!(",{name}=\"{value}\""));
    format!("{{job=\"{}\",source=\"{}\"{more}}}", escaped(id), escaped(&job.source))
}

fn seconds(micros: i64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

/// Answers HTTP requests for the page until it is dropped. Only `GET /metrics` is known; clients are bounded in number, time and
/// length.
pub async fn answer(listener: TcpListener, render: impl Fn() -> String + Send + Sync + 'static) -> Infallible {
    let (render, places) = (Arc::new(render), Arc::new(Semaphore::new(CLIENTS)));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes the semaphore");
        match listener.accept().await {
            Ok((client, _)) => {
                let render = Arc::clone(&render);
                tokio::spawn(async move {
                    let answered = tokio::time::timeout(PATIENCE, one(client, render.as_ref())).await;
                    tracing::debug!(?answered, "metrics were asked for");
                    drop(place);
                });
            }
            Err(error) => {
                // No file handle is left, for instance: others give theirs back.
                tracing::warn!(%error, "a client of the metrics was not accepted");
                tokio::time::sleep(PATIENCE).await;
            }
        }
    }
}

async fn one(mut client: TcpStream, render: &(impl Fn() -> String + ?Sized)) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut chunk = [0; 1024];
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        let read = client.read(&mut chunk).await?;
        if read == 0 || request.len() + read > MAX_REQUEST {
            return Ok(());
        }
        request.extend(chunk.iter().take(read));
    }
    let first = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = first.split(|byte| *byte == b' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.split(|byte| *byte == b'?').next().unwrap_or_default();
    let (status, body) = match (method, path) {
        (b"GET" | b"HEAD", b"/metrics") => ("200 OK", render()),
        (b"GET" | b"HEAD", _) => ("404 Not Found", "see /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "see /metrics\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes()).await?;
    if method != b"HEAD" {
        client.write_all(body.as_bytes()).await?;
    }
    client.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::super::Start;
    use super::*;
    use crate::config::ScheduleOptions;
    use crate::serve::Timing;
    use ingest_catalog::{FORMAT, RunStream};

    fn job(id: &str) -> Job {
        let options = ScheduleOptions { at: Some("hourly".into()), ..ScheduleOptions::default() };
        let timing = Timing::new(&options).expect("a schedule");
        Job {
            id: id.into(),
            source: "shop".into(),
            select: vec![],
            exclude: vec![],
            timing,
            priority: 0,
            concurrency: 1,
        }
    }

    fn start(id: &str, run: &str, due: i64) -> Start {
        Start { job: job(id), due, run: run.into() }
    }

    #[test]
    fn runs_rows_lag_and_failures_stand_on_the_page() {
        let metrics = Metrics::default();
        let (orders, odd) = (job("shop/orders"), job("shop/a\"b"));
        metrics.told(&Told::Leads(true), 0);
        metrics.told(&Told::Jobs(&[(&orders, Some(1_000_000)), (&odd, None)]), 0);
        let page = metrics.render(5_500_000);
        assert!(page.contains("# TYPE ingest_leader gauge\ningest_leader 1\n"), "{page}");
        assert!(page.contains("ingest_source_lag_seconds{job=\"shop/orders\",source=\"shop\"} 4.500000\n"), "{page}");
        assert!(!page.contains("ingest_source_lag_seconds{job=\"shop/a"), "never ran: {page}");
        assert!(
            page.contains("ingest_runs_total{job=\"shop/a\\\"b\",source=\"shop\",outcome=\"failed\"} 0\n"),
            "{page}"
        );

        for (run, code) in [("a", 1), ("b", 6), ("c", 3)] {
            let start = start("shop/orders", run, 2_000_000);
            metrics.told(&Told::Started(&start), 2_000_000);
            assert!(metrics.render(0).contains("ingest_runs_active{job=\"shop/orders\",source=\"shop\"} 1\n"));
            metrics.told(&Told::Ended(&start, code), 3_250_000);
        }
        let page = metrics.render(0);
        assert!(page.contains("ingest_consecutive_failures{job=\"shop/orders\",source=\"shop\"} 2\n"), "{page}");
        assert!(page.contains("outcome=\"held\"} 1\n") && page.contains("outcome=\"failed\"} 2\n"), "{page}");
        assert!(page.contains("ingest_run_seconds_total{job=\"shop/orders\",source=\"shop\"} 3.750000\n"), "{page}");

        let run = start("shop/orders", "d", 4_000_000);
        metrics.told(&Told::Started(&run), 4_000_000);
        metrics.told(&Told::Ended(&run, 0), 4_000_000);
        let stream = |read, written| RunStream { rows_read: read, rows_written: written, ..RunStream::default() };
        let document = RunDocument {
            format: FORMAT,
            run_id: "d".into(),
            source: "shop".into(),
            connector: String::new(),
            version: String::new(),
            started_at: 0,
            finished_at: None,
            outcome: None,
            exit_code: None,
            streams: vec![stream(10, 9), stream(1, 1)],
            error: None,
        };
        metrics.ran(&run.job, &document);
        assert!(!metrics.render(0).contains("ingest_change_lag_seconds{"), "no stream has a change feed");
        let feed = |lag_ms, lag_bytes| RunStream { lag_ms, lag_bytes, ..RunStream::default() };
        let streams = vec![feed(Some(500), Some(7)), feed(Some(250), Some(9)), feed(None, None)];
        metrics.ran(&run.job, &RunDocument { finished_at: Some(5_000_000), streams, ..document });
        let page = metrics.render(6_000_000);
        assert!(page.contains("ingest_change_lag_seconds{job=\"shop/orders\",source=\"shop\"} 1.500000\n"), "{page}");
        assert!(page.contains("ingest_change_lag_bytes{job=\"shop/orders\",source=\"shop\"} 9\n"), "{page}");
        assert!(page.contains("ingest_consecutive_failures{job=\"shop/orders\",source=\"shop\"} 0\n"), "{page}");
        assert!(page.contains("kind=\"read\"} 11\n") && page.contains("kind=\"written\"} 10\n"), "{page}");
        assert!(page.contains("ingest_source_lag_seconds{job=\"shop/orders\",source=\"shop\"} 2.000000\n"), "{page}");
        metrics.told(&Told::Leads(false), 0);
        assert!(!metrics.render(0).contains("ingest_source_lag_seconds{"), "another server knows it");
        // The configuration no longer has it.
        metrics.told(&Told::Jobs(&[(&odd, None)]), 0);
        assert!(!metrics.render(0).contains("shop/orders"));
    }

    #[tokio::test]
    async fn foreign_requests_are_refused_and_no_client_stops_the_others() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let server = tokio::spawn(answer(listener, || "ingest_leader 1\n".to_owned()));
        // It says nothing, and stays.
        let _silent = TcpStream::connect(address).await.expect("reached");
        for (request, wanted) in [
            ("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n", Some("200 OK")),
            ("GET /metrics?name=x HTTP/1.0\r\n\r\n", Some("200 OK")),
            ("GET /etc/passwd HTTP/1.1\r\n\r\n", Some("404 Not Found")),
            ("POST /metrics HTTP/1.1\r\n\r\n", Some("405 Method Not Allowed")),
            ("\u{1}\u{2}\r\n\r\n", Some("405 Method Not Allowed")),
            (&"x".repeat(MAX_REQUEST + 1), None),
        ] {
            let mut client = TcpStream::connect(address).await.expect("reached");
            // A request that is too long is cut off while it is sent.
            let _ = client.write_all(request.as_bytes()).await;
            let mut said = Vec::new();
            let _ = client.read_to_end(&mut said).await;
            let said = String::from_utf8(said).expect("UTF-8");
            match wanted {
                Some(status) => assert!(said.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request:?}: {said}"),
                None => assert_eq!(said, ""),
            }
            assert_eq!(said.ends_with("\r\n\r\ningest_leader 1\n"), wanted == Some("200 OK"), "{said}");
        }
        server.abort();
    }
}
