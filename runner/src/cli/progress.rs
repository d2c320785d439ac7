//! A run as bars, as lines, or as JSON events.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

use super::args::ProgressMode;
use super::output::{note, safe};
use super::table::{bytes, count, duration};
use crate::events::{ErrorReport, Event, LagReport, Observer, RequestReport, RunReport, StreamReport};

/// A line about a stream comes this often.
const EVERY: Duration = Duration::from_secs(10);

/// The observer of a run.
pub fn observer(mode: ProgressMode, run_id: &str) -> Arc<dyn Observer> {
    let bars = match mode {
        ProgressMode::Json => return Arc::new(JsonEvents::new(run_id)),
        ProgressMode::Off => return Arc::new(Quiet),
        ProgressMode::Plain => false,
        ProgressMode::Bar => true,
        ProgressMode::Auto => std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb"),
    };
    if bars { Arc::new(Bars::default()) } else { Arc::new(Lines { run_id: run_id.to_owned(), ..Lines::default() }) }
}

/// One JSON object per event on stdout.
struct JsonEvents {
    run_id: String,
    /// `run_finished` is the last event, whatever tasks still say.
    finished: Mutex<bool>,
}

impl JsonEvents {
    fn new(run_id: &str) -> Self {
        Self { run_id: run_id.to_owned(), finished: Mutex::new(false) }
    }
}

impl Observer for JsonEvents {
    fn event(&self, event: &Event) {
        let line = json_line(event, &self.run_id, &now());
        let mut finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        if *finished {
            return;
        }
        *finished = matches!(event, Event::RunFinished(_));
        let mut stdout = std::io::stdout().lock();
        // A run goes on when nobody listens any more.
        drop(stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()));
    }
}

fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

/// An event as a line: `type`, `time`, `run_id` first.
fn json_line(event: &Event, run_id: &str, time: &str) -> String {
    let text = serde_json::to_string(event).unwrap_or_default();
    // The tag comes first, and the name of a type holds neither a comma nor a brace.
    let end = text.find([',', '}']).unwrap_or(text.len());
    let (kind, rest) = text.split_at(end);
    format!("{kind},\"time\":{},\"run_id\":{}{rest}\n", json!(time), json!(run_id))
}

/// Nothing but warnings.
struct Quiet;

impl Observer for Quiet {
    fn event(&self, event: &Event) {
        if let Event::Warning { stream, message } = event {
            note(&warning(stream.as_deref(), message));
        }
    }
}

fn warning(stream: Option<&str>, message: &str) -> String {
    match stream {
        Some(stream) => format!("warning: {}: {}", safe(stream), safe(message)),
        None => format!("warning: {}", safe(message)),
    }
}

/// What is going to happen with a stream.
fn started(event: &Event) -> Option<String> {
    let Event::StreamStarted { stream, mode, write, slices, slices_done, rows, bytes: size, note } = event else {
        return None;
    };
    let mut line = format!("{}: {mode}, {write}; {slices} {}", safe(stream), plural(*slices as u64, "slice"));
    if *slices_done > 0 {
        line.push_str(&format!(", {slices_done} done before"));
    }
    if let Some(rows) = rows {
        line.push_str(&format!("; about {} rows", count(*rows)));
    }
    if let Some(size) = size {
        line.push_str(&format!("; about {}", bytes(*size)));
    }
    if let Some(note) = note {
        line.push_str(&format!("; {}", safe(note)));
    }
    Some(line)
}

/// How far a stream is behind its source, where that is known.
fn behind(lag: Option<LagReport>) -> String {
    let Some(LagReport { seconds, bytes: size }) = lag else { return String::new() };
    let size = size.filter(|size| *size > 0).map_or_else(String::new, |size| format!(", {} of its log", bytes(size)));
    format!("; {seconds:.1} s behind{size}")
}

fn plural(number: u64, word: &str) -> String {
    if number == 1 { word.to_owned() } else { format!("{word}s") }
}

/// A line on stderr about each stream every ten seconds.
#[derive(Default)]
struct Lines {
    run_id: String,
    said: Mutex<HashMap<String, (Instant, u64)>>,
}

impl Lines {
    fn progress(&self, stream: &str, (rows, size): (u64, u64), (done, slices): (usize, usize), lag: Option<LagReport>) {
        let now = Instant::now();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, before) = said.entry(stream.to_owned()).or_insert((now, rows));
        let elapsed = now.duration_since(*since);
        if elapsed < EVERY {
            return;
        }
        let rate = (rows.saturating_sub(*before) as f64 / elapsed.as_secs_f64()) as u64;
        (*since, *before) = (now, rows);
        note(&format!(
            "{}: slice {done} of {slices}; {} rows, {}; {} rows/s{}",
            safe(stream),
            count(rows),
            bytes(size),
            count(rate),
            behind(lag)
        ));
    }
}

impl Observer for Lines {
    fn event(&self, event: &Event) {
        match event {
            Event::RunStarted { source, connector, lake, version } => note(&format!(
                "ingest {version}: run {}; {} ({connector}) into {}",
                safe(&self.run_id),
                safe(source),
                safe(lake)
            )),
            Event::StreamStarted { stream, .. } => {
                let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
                said.insert(stream.clone(), (Instant::now(), 0));
                drop(said);
                started(event).iter().for_each(|line| note(line));
            }
            Event::Progress { stream, rows_read, bytes_read, slices_done, slices, lag } => {
                self.progress(stream, (*rows_read, *bytes_read), (*slices_done, *slices), *lag);
            }
            Event::Warning { stream, message } => note(&warning(stream.as_deref(), message)),
            Event::Heartbeat { idle_seconds } if *idle_seconds >= 30 => {
                note(&format!("nothing has moved for {idle_seconds} s; still waiting"));
            }
            _ => {}
        }
    }
}

/// A bar on stderr for each stream.
#[derive(Default)]
struct Bars {
    all: MultiProgress,
    streams: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    fn start(&self, stream: &str, rows: Option<u64>) {
        let template = match rows {
            Some(_) => "{prefix} [{bar:24}] {human_pos}/{human_len} rows, {per_sec}, {elapsed}{msg}",
            None => "{prefix} {spinner} {human_pos} rows, {per_sec}, {elapsed}{msg}",
        };
        let bar = rows.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(safe(stream).into_owned());
        let bar = self.all.add(bar);
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).insert(stream.to_owned(), bar);
    }

    fn on(&self, stream: &str, act: impl Fn(&ProgressBar)) {
        if let Some(bar) = self.streams.lock().unwrap_or_else(PoisonError::into_inner).get(stream) {
            act(bar);
        }
    }
}

impl Observer for Bars {
    fn event(&self, event: &Event) {
        match event {
            Event::StreamStarted { stream, rows, .. } => self.start(stream, *rows),
            Event::Progress { stream, rows_read, slices_done, slices, lag, .. } => self.on(stream, |bar| {
                bar.set_message(format!(", slice {slices_done} of {slices}{}", behind(*lag)));
                // An estimate is no promise.
                if bar.length().is_some_and(|length| length < *rows_read) {
                    bar.set_length(*rows_read);
                }
                bar.set_position(*rows_read);
            }),
            Event::StreamFinished(report) => self.on(&report.stream, ProgressBar::finish_and_clear),
            Event::Warning { stream, message } => {
                self.all.suspend(|| note(&warning(stream.as_deref(), message)));
            }
            Event::RunFinished(_) => drop(self.all.clear()),
            _ => {}
        }
    }
}

/// The last words about a stream: its figures on one line.
pub fn summary(report: &StreamReport) -> String {
    let version = match report.commit_version {
        Some(version) => format!("commit version {version}"),
        None if report.error.is_some() => "no commit".to_owned(),
        None if report.rows_staged > 0 => format!("{} staged", count(report.rows_staged)),
        None => "nothing new".to_owned(),
    };
    let end = match (&report.error, report.partial) {
        (Some(_), _) => "; failed",
        (None, true) => "; partial, the rest is for the next run",
        (None, false) => "",
    };
    let merge = report.merge.filter(|merge| merge.rows_changed > 0).map_or_else(String::new, |merge| {
        format!(
            ", {} of the table rewritten, {} rows with them, {} for each changed row",
            count(merge.files_touched),
            count(merge.rows_rewritten),
            bytes(merge.bytes_per_changed_row.unwrap_or(0))
        )
    });
    let sweep = report.sweep.map_or_else(String::new, |sweep| match sweep.ended {
        true => format!("; {} gone at the source", count(sweep.rows_deleted)),
        false => format!("; swept {} of {} slices", count(sweep.slices_done), count(sweep.slices)),
    });
    let checks: Vec<String> = report
        .checks
        .iter()
        .filter(|check| check.outcome != "passed")
        .map(|check| match &check.note {
            Some(_) => format!("{} {}", check.check, check.outcome),
            None => format!("{} {} ({})", check.check, check.outcome, count(check.failed)),
        })
        .collect();
    let checks = if checks.is_empty() { String::new() } else { format!("; checks: {}", safe(&checks.join(", "))) };
    format!(
        "{}: {} rows read, {} written, {} rescued, {} quarantined; {} {}{merge}{sweep}; {version}; {}{checks}{end}\n",
        safe(if report.table.is_empty() { &report.stream } else { &report.table }),
        count(report.rows_read),
        count(report.rows_written),
        count(report.rows_rescued),
        count(report.rows_quarantined),
        count(report.files),
        plural(report.files, "file"),
        duration(report.duration_ms)
    )
}

/// What a run cost at the API of its source.
pub fn requests_line(requests: RequestReport) -> String {
    let estimated = requests
        .estimated
        .map_or_else(String::new, |calls| format!("; the plan estimated {} for its slices", count(calls)));
    format!("{} {} of the source's API{estimated}", count(requests.sent), plural(requests.sent, "request"))
}

/// What went wrong in a run, on stderr.
pub fn print_failures(report: &RunReport, json: bool) {
    let streams =
        report.streams.iter().filter_map(|stream| Some((Some(stream.stream.as_str()), stream.error.as_ref()?)));
    for (stream, error) in report.error.iter().map(|error| (None, error)).chain(streams) {
        print_failure(stream, error, json);
    }
}

fn print_failure(stream: Option<&str>, error: &ErrorReport, as_json: bool) {
    if as_json {
        let mut value = json!(error);
        if let Some(stream) = stream {
            value["context"]["stream"] = stream.into();
        }
        note(&json!({ "error": value }).to_string());
        return;
    }
    let context: Vec<String> = error
        .context
        .iter()
        .filter(|(key, value)| !(*key == "stream" && value.as_str() == stream))
        .map(|(key, value)| format!("{key} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        .collect();
    let context = if context.is_empty() { String::new() } else { format!(" ({})", safe(&context.join(", "))) };
    let stream = stream.map_or_else(String::new, |stream| format!("{}: ", safe(stream)));
    note(&format!("error: {stream}{}{context}", safe(&error.message)));
    if let Some(hint) = &error.hint {
        note(&format!("hint: {}", safe(hint)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Outcome;

    #[test]
    fn an_event_is_one_line_with_type_time_and_run_first() {
        let event = Event::Warning { stream: Some("a".into()), message: "x\ny".into() };
        assert_eq!(
            json_line(&event, "r1", "2024-01-01T00:00:00.000Z"),
            "{\"type\":\"warning\",\"time\":\"2024-01-01T00:00:00.000Z\",\"run_id\":\"r1\",\"stream\":\"a\",\"message\":\"x\\ny\"}\n"
        );
    }

    #[test]
    fn how_far_a_stream_is_behind_is_said_where_it_is_known() {
        assert_eq!(behind(None), "");
        assert_eq!(behind(Some(LagReport { seconds: 0.25, bytes: Some(0) })), "; 0.2 s behind");
        assert_eq!(
            behind(Some(LagReport { seconds: 75.0, bytes: Some(3 << 20) })),
            "; 75.0 s behind, 3.0 MiB of its log"
        );
    }

    #[test]
    fn the_last_event_carries_the_figures() {
        let stream =
            StreamReport { stream: "a".into(), rows_read: 2, commit_version: Some(3), ..StreamReport::default() };
        let report = RunReport {
            run_id: "r1".into(),
            source: "s".into(),
            outcome: Outcome::Succeeded,
            exit_code: 0,
            duration_ms: 5,
            rows_read: 2,
            rows_written: 2,
            rows_rescued: 0,
            rows_quarantined: 0,
            requests: None,
            streams: vec![stream],
            error: None,
        };
        let line = json_line(&Event::RunFinished(report), "r1", "t");
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["type"], "run_finished");
        assert_eq!(value["outcome"], "succeeded");
        assert_eq!(value["streams"][0]["commit_version"], 3);
        assert_eq!(value["rows_written"], 2);
    }

    #[test]
    fn a_summary_is_one_line() {
        let report = StreamReport {
            stream: "orders".into(),
            table: "files.orders".into(),
            rows_read: 1_200,
            rows_written: 1_199,
            rows_quarantined: 1,
            files: 1,
            commit_version: Some(1),
            duration_ms: 420,
            ..StreamReport::default()
        };
        assert_eq!(
            summary(&report),
            "files.orders: 1,200 rows read, 1,199 written, 0 rescued, 1 quarantined; 1 file; commit version 1; 420 ms\n"
        );
    }
}
