//! Checks of what happens when something breaks, and of memory.

use std::process;

use ingest_core::{Event, RawOut, Shape, async_trait};

use super::reading::whole;
use super::suite::{Positions, Suite, groups, same_rows};
use super::{Check, Checked, Fault, Hook, check, wrong};
use crate::out::Collected;

pub(super) const CHECKS: &[Check] = &[
    check!(
        "R15",
        "memory stays within bounds while reading",
        "everything is bounded: a connector holds what is on its way, never the whole of a stream",
        memory
    ),
    check!(
        "F01",
        "a fault of the source is not repeated inside the connector",
        "a connector holds no retry loop: the HTTP client makes at most three attempts and marks the error exhausted, all \
         else is the runner's",
        outage
    ),
    check!(
        "F02",
        "the connector's process may be killed at any moment",
        "the end of the process is Unavailable, never the end of a slice; what follows the last mark is given again",
        killed
    ),
];

/// What an HTTP client may make of one request.
const ATTEMPTS: u64 = 3;
/// After how many events the process is killed.
const KILLS: [usize; 5] = [0, 1, 2, 5, 11];

/// The resident memory of this process in bytes, where the system says it.
pub(super) fn resident() -> Option<u64> {
    resident_of(process::id())
}

/// The resident memory of a process in bytes, where the system says it.
pub fn resident_of(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes << 10)
}

/// A way out that keeps nothing and watches the memory.
struct Watching<'a> {
    suite: &'a Suite,
    peak: u64,
    rows: usize,
}

#[async_trait]
impl RawOut for Watching<'_> {
    async fn put(&mut self, event: Event) -> ingest_core::Result<()> {
        tokio::task::yield_now().await;
        if let Event::Rows(_, batch) = &event {
            self.rows += batch.num_rows();
            self.peak = self.peak.max((self.suite.subject.memory)().unwrap_or(0));
        }
        match self.rows > self.suite.subject.most_rows {
            true => Err(ingest_core::Error::cancelled()),
            false => Ok(()),
        }
    }

    fn batch_bytes(&self) -> usize {
        1 << 20
    }

    fn follow(&self) -> bool {
        false
    }
}

async fn memory(suite: &Suite) -> Checked {
    let source = suite.open().await?;
    let (mode, streams) = whole(suite, source.as_ref()).await?;
    let Some(before) = (suite.subject.memory)() else {
        return Err(Fault::DoesNotApply("this system does not say how much memory a process has".into()));
    };
    for group in groups(&streams) {
        let plan = suite.plan(source.as_ref(), &group, mode, &Positions::new()).await?;
        for slice in plan.slices.iter().filter(|slice| slice.shape != Shape::Feed) {
            let mut out = Watching { suite, peak: 0, rows: 0 };
            let call = source.extract(slice, suite.spec.state_version, None, &mut out);
            let ended = suite.call("extract", call).await?;
            let (more, limit) = (out.peak.saturating_sub(before), suite.subject.memory_limit);
            if more > limit {
                return wrong(format!(
                    "slice {} took {} MiB of memory, the limit is {} MiB",
                    slice.id,
                    more >> 20,
                    limit >> 20
                ));
            }
            if out.rows > suite.subject.most_rows {
                return wrong(super::suite::endless(&format!("slice {}", slice.id), suite.subject.most_rows));
            }
            if let Err(error) = ended {
                return wrong(format!("extract of slice {} failed: {error:?}", slice.id));
            }
        }
    }
    Ok(())
}

async fn outage(suite: &Suite) -> Checked {
    let Some(outage) = &suite.subject.outage else {
        return Err(Fault::Needs("outage(begin, end, requests)"));
    };
    let source = suite.open().await?;
    let (mode, streams) = whole(suite, source.as_ref()).await?;
    let read = suite.read(source.as_ref(), &streams, mode, &Positions::new()).await?;
    let Some(run) = read.runs.iter().find(|run| super::suite::has_rows(&run.events)) else {
        return wrong("nothing is read, so nothing can fail");
    };
    let before = suite.count("count requests", &outage.requests).await?;
    suite.act("make the source fail", &outage.begin).await?;
    let mut out = Collected::new();
    let call = source.extract(&run.slice, suite.spec.state_version, run.from.as_ref(), &mut out);
    let ended = suite.call("extract", call).await;
    suite.act("make the source work again", &outage.end).await?;
    let requests = suite.count("count requests", &outage.requests).await?.saturating_sub(before);
    let error = match ended? {
        Err(error) => error,
        Ok(done) => return wrong(format!("a source that fails gives {done:?}, after {requests} requests")),
    };
    if !error.kind().is_retryable() && error.kind() != ingest_core::ErrorKind::QuotaExhausted {
        return wrong(format!("a source that fails gives {error:?}, which nobody would repeat"));
    }
    if requests == 0 {
        return wrong("the slice failed without a request: the test does not see them, or the connector remembers");
    }
    if requests > ATTEMPTS {
        return wrong(format!("{requests} requests were made of one call, at most {ATTEMPTS} may be"));
    }
    if requests > 1 && !error.is_exhausted() {
        return wrong(format!("{requests} requests were made, and the error is not marked exhausted: {error:?}"));
    }
    let from = out.last_mark().or(run.from.as_ref());
    let (rest, _) = suite.extract(source.as_ref(), &run.slice, from).await?;
    same_rows("after the fault", &streams, &[out.covered(), &rest].concat(), &run.events)
}

/// A way out that kills the connector's process before an event.
struct Killing<'a> {
    out: Collected,
    left: usize,
    hook: &'a Hook,
    fault: Option<String>,
    killed: bool,
}

#[async_trait]
impl RawOut for Killing<'_> {
    async fn put(&mut self, event: Event) -> ingest_core::Result<()> {
        if self.left == 0 && !self.killed {
            self.killed = true;
            self.fault = (self.hook)().await.err();
        }
        self.left = self.left.saturating_sub(1);
        self.out.put(event).await
    }

    fn batch_bytes(&self) -> usize {
        RawOut::batch_bytes(&self.out)
    }

    fn follow(&self) -> bool {
        false
    }
}

async fn killed(suite: &Suite) -> Checked {
    let Some(hook) = &suite.subject.kill else {
        return Err(Fault::DoesNotApply("the connector is linked in and has no process of its own".into()));
    };
    let streams = suite.streams(suite.open().await?.as_ref()).await?;
    for (mode, of_mode) in suite.modes(suite.open().await?.as_ref()).await? {
        let source = suite.open().await?;
        let read = suite.read(source.as_ref(), &of_mode, mode, &Positions::new()).await?;
        // A snapshot dies with its process.
        let runs = read.runs.iter().filter(|run| run.slice.shape != Shape::Snapshot && !run.events.is_empty());
        for run in runs.take(3) {
            for after in KILLS.into_iter().filter(|after| *after < run.events.len()) {
                let source = suite.open().await?;
                let mut out = Killing { out: Collected::new(), left: after, hook, fault: None, killed: false };
                let call = source.extract(&run.slice, suite.spec.state_version, run.from.as_ref(), &mut out);
                let ended = suite.call("extract", call).await?;
                if let Some(why) = out.fault {
                    return wrong(format!("the test cannot kill the process: {why}"));
                }
                let what = format!("slice {} in mode {mode}, killed before event {}", run.slice.id, after + 1);
                let out = out.out;
                match ended {
                    Err(error) if error.kind() == ingest_core::ErrorKind::Unavailable => {}
                    Err(error) => return wrong(format!("{what}: {error:?}, not Unavailable")),
                    // Everything was on its way already.
                    Ok(_) => {
                        same_rows(&what, &streams, &out.events, &run.events)?;
                        continue;
                    }
                }
                let other = suite.open().await?;
                let (rest, _) =
                    suite.extract(other.as_ref(), &run.slice, out.last_mark().or(run.from.as_ref())).await?;
                same_rows(&format!("{what} and read on"), &streams, &[out.covered(), &rest].concat(), &run.events)?;
            }
        }
    }
    Ok(())
}
