//! What is due: decided from documents and a clock, without doing anything.

use std::collections::BTreeMap;

use ingest_catalog::{Ended, ScheduleDocument, Taken};

use super::job::Job;
use crate::config::Missed;

/// A due time that is taken up later than this was missed.
const PUNCTUAL: i64 = 60_000_000;

/// A run that failed is tried again so often; what it committed stays.
const ATTEMPTS: u32 = 3;

/// The wait before a run is tried again: microseconds. It doubles.
const AGAIN: i64 = 60_000_000;

/// The jobs, where they stand, and which run.
#[derive(Debug, Default)]
pub struct Agenda {
    entries: BTreeMap<String, Entry>,
    /// So many runs at once, of all sources.
    at_once: usize,
}

#[derive(Debug)]
struct Entry {
    job: Job,
    document: ScheduleDocument,
    running: bool,
    /// Not before this time.
    wait: Option<i64>,
    /// No longer in the configuration; stays until its run has ended.
    gone: bool,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Run a job for a due time.
    Start {
        /// The job.
        job: String,
        /// The due time.
        due: i64,
    },
    /// Note that due times up to this one are not run for.
    PassOver {
        /// The job.
        job: String,
        /// The due time.
        due: i64,
    },
}

/// When something is to be done about a job.
enum When {
    Now(Step),
    At(i64),
    Never,
}

impl Agenda {
    /// Nothing to do yet, and so many runs at once.
    pub fn new(at_once: usize) -> Self {
        Self { entries: BTreeMap::new(), at_once: at_once.max(1) }
    }

    /// Takes a job up, or takes over what has changed of it.
    pub fn put(&mut self, job: Job, document: Option<ScheduleDocument>) {
        match (self.entries.get_mut(&job.id), document) {
            (Some(entry), _) => {
                entry.job = job;
                entry.gone = false;
            }
            (None, Some(document)) => {
                let entry = Entry { job, document, running: false, wait: None, gone: false };
                self.entries.insert(entry.job.id.clone(), entry);
            }
            (None, None) => {}
        }
    }

    /// Forgets the jobs that are not among these; one that runs is forgotten when it ends.
    pub fn keep(&mut self, ids: &[&str]) {
        self.entries.values_mut().for_each(|entry| entry.gone = !ids.contains(&entry.job.id.as_str()));
        self.entries.retain(|_, entry| entry.running || !entry.gone);
    }

    /// Whether a job is known.
    pub fn knows(&self, id: &str) -> bool {
        self.entries.contains_key(id)
    }

    /// A job, and where it stands.
    pub fn get(&self, id: &str) -> Option<(&Job, &ScheduleDocument)> {
        self.entries.get(id).map(|entry| (&entry.job, &entry.document))
    }

    /// What to do now, the most urgent first; and when to look again.
    pub fn steps(&self, now: i64) -> (Vec<Step>, Option<i64>) {
        let mut steps = Vec::new();
        let mut wake: Option<i64> = None;
        for entry in self.entries.values() {
            match entry.when(now) {
                When::Now(step) => steps.push((entry, step)),
                When::At(at) => wake = Some(wake.map_or(at, |wake| wake.min(at))),
                When::Never => {}
            }
        }
        let due = |step: &Step| match step {
            Step::Start { due, .. } | Step::PassOver { due, .. } => *due,
        };
        steps.sort_by(|(a, x), (b, y)| (b.job.priority, due(x)).cmp(&(a.job.priority, due(y))));
        let mut running = self.entries.values().filter(|entry| entry.running).count();
        let mut of_source: BTreeMap<&str, usize> = BTreeMap::new();
        for entry in self.entries.values().filter(|entry| entry.running) {
            *of_source.entry(&entry.job.source).or_default() += 1;
        }
        let mut chosen = Vec::new();
        for (entry, step) in steps {
            if matches!(step, Step::Start { .. }) {
                let own = of_source.entry(&entry.job.source).or_default();
                // What must wait is looked at again when a run ends.
                if running >= self.at_once || *own >= entry.job.concurrency {
                    continue;
                }
                *own += 1;
                running += 1;
            }
            chosen.push(step);
        }
        (chosen, wake)
    }

    /// The next document of a job that takes a due time. A due time that was taken before keeps the id of its run.
    pub fn take(&self, id: &str, due: i64, server: &str, run: &str) -> Option<ScheduleDocument> {
        let entry = self.entries.get(id)?;
        let before = entry.document.taken.as_ref().filter(|taken| taken.due == due);
        let taken = before.cloned().unwrap_or_else(|| Taken { due, run: run.to_owned(), failed: 0 });
        Some(entry.next(server, |document| document.taken = Some(taken)))
    }

    /// The next document of a job that passes a due time over.
    pub fn pass_over(&self, id: &str, due: i64, server: &str, now: i64) -> Option<ScheduleDocument> {
        let entry = self.entries.get(id)?;
        Some(entry.next(server, |document| {
            document.settled = due;
            document.ended = Some(Ended { due, run: None, exit_code: None, at: now });
        }))
    }

    /// The next document of a job whose run has ended; `None` where nothing is to be written, because the same due time is
    /// run for again: the run was interrupted, or another one holds the stream.
    pub fn ended(&mut self, id: &str, code: u8, server: &str, now: i64) -> Option<ScheduleDocument> {
        let entry = self.entries.get_mut(id)?;
        entry.running = false;
        let mut taken = entry.document.taken.clone()?;
        if matches!(code, 6 | 130) {
            entry.wait = Some(now + AGAIN);
            return None;
        }
        if code == 1 && taken.failed + 1 < ATTEMPTS {
            entry.wait = Some(now + (AGAIN << taken.failed));
            taken.failed += 1;
            return Some(entry.next(server, |document| document.taken = Some(taken)));
        }
        Some(entry.next(server, |document| {
            document.settled = taken.due;
            document.taken = None;
            if code == 0 {
                document.succeeded = Some(taken.due);
            }
            document.ended = Some(Ended { due: taken.due, run: Some(taken.run), exit_code: Some(code), at: now });
        }))
    }

    /// A document was written.
    pub fn wrote(&mut self, id: &str, document: ScheduleDocument) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.document = document;
        }
    }

    /// A job runs.
    pub fn started(&mut self, id: &str) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.running = true;
            entry.wait = None;
        }
    }

    /// Forgets jobs that have ended and are no longer in the configuration.
    pub fn tidy(&mut self) {
        self.entries.retain(|_, entry| entry.running || !entry.gone);
    }
}

impl Entry {
    fn next(&self, server: &str, change: impl FnOnce(&mut ScheduleDocument)) -> ScheduleDocument {
        let mut next = self.document.clone();
        next.number += 1;
        server.clone_into(&mut next.server);
        change(&mut next);
        next
    }

    fn when(&self, now: i64) -> When {
        if self.running || self.gone {
            return When::Never;
        }
        if let Some(wait) = self.wait.filter(|wait| *wait > now) {
            return When::At(wait);
        }
        let job = || self.job.id.clone();
        // Taken and not ended: by a server that is gone, or by an attempt that failed.
        if let Some(taken) = &self.document.taken {
            return When::Now(Step::Start { job: job(), due: taken.due });
        }
        let timing = &self.job.timing;
        let ready = |due: i64| due.saturating_add(timing.delay(&self.job.id, due));
        let Some(first) = timing.next_after(self.document.settled) else { return When::Never };
        if ready(first) > now {
            return When::At(ready(first));
        }
        if timing.missed() == Missed::Each {
            return When::Now(Step::Start { job: job(), due: first });
        }
        let mut last = timing.last_until(now).unwrap_or(first).max(first);
        while last > first && ready(last) > now {
            last = timing.last_until(last - 1).unwrap_or(first).max(first);
        }
        let missed = now.saturating_sub(ready(last)) > PUNCTUAL;
        When::Now(match timing.missed() {
            Missed::Skip if missed => Step::PassOver { job: job(), due: last },
            _ => Step::Start { job: job(), due: last },
        })
    }
}
