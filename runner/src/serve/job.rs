//! The jobs of a configuration: what is run together, and when.

use ingest_core::{glob_matches, table_name};
use sha2::{Digest, Sha256};

use super::timing::Timing;
use crate::config::{Config, ScheduleOptions, SourceConfig};

/// What is run together: a source, or those of its streams that have a schedule of their own.
#[derive(Debug, Clone)]
pub struct Job {
    /// `shop_db`, or `shop_db/public.orders`.
    pub id: String,
    /// The source.
    pub source: String,
    /// Its streams, as names or globs; empty = all.
    pub select: Vec<String>,
    /// Without these.
    pub exclude: Vec<String>,
    /// When.
    pub timing: Timing,
    /// The higher starts first.
    pub priority: i32,
    /// So many runs of its source at once.
    pub concurrency: usize,
}

impl Job {
    /// The folder of its documents in the lake. Two globs may have one name, so that a hash tells them apart.
    pub fn folder(&self) -> String {
        let hash = Sha256::digest(self.id.as_bytes());
        let hash: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let stream = self.id.strip_prefix(&self.source).unwrap_or_default();
        format!("_ingest/schedules/{}/{}-{hash}", table_name(&self.source), table_name(stream))
    }
}

/// The jobs of all sources, by id. What is wrong with a schedule was said when the configuration was loaded.
pub fn jobs(config: &Config) -> Vec<Job> {
    let mut jobs: Vec<Job> = config.sources.values().flat_map(of_source).collect();
    jobs.sort_by(|a, b| a.id.cmp(&b.id));
    jobs
}

fn of_source(source: &SourceConfig) -> Vec<Job> {
    let of_source = source.schedule.as_ref().map(|schedule| schedule.options()).unwrap_or_default();
    let defaults = source.defaults.schedule.as_ref().map(|schedule| schedule.options()).unwrap_or_default();
    let defaults = defaults.over(&of_source);
    let concurrency = of_source.concurrency.map_or(1, |number| usize::from(number.get()));
    let make = |id: String, select: Vec<String>, exclude: Vec<String>, options: &ScheduleOptions| {
        let timing = Timing::new(options).ok()?;
        let priority = options.priority.unwrap_or(0);
        Some(Job { id, source: source.name.clone(), select, exclude, timing, priority, concurrency })
    };
    let mut jobs = Vec::new();
    let (own, rest): (Vec<_>, Vec<_>) = source.streams.iter().partition(|(_, options)| options.schedule.is_some());
    for (name, options) in &own {
        let Some(schedule) = &options.schedule else { continue };
        let id = format!("{}/{name}", source.name);
        jobs.extend(make(id, vec![name.clone()], before(source, name), &schedule.options().over(&defaults)));
    }
    // The others are due with their source.
    let all = source.streams.is_empty();
    if defaults.at.is_some() && (all || !rest.is_empty()) {
        let select = rest.iter().map(|(name, _)| name.clone()).collect();
        let mut exclude: Vec<String> = own.iter().map(|(name, _)| name.clone()).collect();
        // A name of its own wins over a glob with a schedule.
        exclude.retain(|glob| !rest.iter().any(|(name, _)| name != glob && glob_matches(glob, name)));
        jobs.extend(make(source.name.clone(), select, exclude, &defaults));
    }
    jobs
}

/// What a glob matches and does not get: an exact name wins over it, and so does an earlier glob.
fn before(source: &SourceConfig, glob: &str) -> Vec<String> {
    let place = source.streams.iter().position(|(name, _)| name == glob).unwrap_or(0);
    let is_glob = |name: &str| name.contains(['*', '?', '[']);
    if !is_glob(glob) {
        return Vec::new();
    }
    let others =
        source.streams.iter().enumerate().filter(|(i, (name, _))| *i != place && (!is_glob(name) || *i < place));
    others.map(|(_, (name, _))| name.clone()).collect()
}
