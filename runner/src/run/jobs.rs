//! The slices that lanes take: which are left, which streams they serve, and where they start.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ingest_catalog::Feed;
use ingest_core::{Error, Shape, SliceId, Stored};

use super::lane::{SliceJob, lowest};
use super::stream::SliceKey;
use super::work::Line;
use super::writer::{Removals, SliceStream};

/// Jobs of all bounded slices that at least one stream still wants, stream by stream.
pub fn bounded_jobs(lines: &[Line]) -> Vec<SliceJob> {
    let mut jobs = Vec::new();
    let mut seen: HashSet<(String, u32)> = HashSet::new();
    for line in lines {
        for index in &line.left {
            if !seen.insert((line.plan.id().to_owned(), *index)) {
                continue;
            }
            let slice = &line.plan.slices()[*index as usize];
            // Streams that have the slice already neither get its rows again nor wait for it.
            let serving: Vec<&Line> = lines
                .iter()
                .filter(|other| Arc::ptr_eq(&other.plan, &line.plan) && slice.streams.contains(&other.shared.name))
                .filter(|other| other.left.binary_search(index).is_ok())
                .collect();
            let streams = serving
                .iter()
                .map(|other| SliceStream {
                    shared: Arc::clone(&other.shared),
                    from: other.open.get(index).cloned(),
                    removals: other.removals,
                })
                .collect();
            let remaining = serving.iter().map(|other| Arc::clone(&other.remaining)).collect();
            jobs.push(SliceJob {
                plan: Arc::clone(&line.plan),
                index: *index as usize,
                key: SliceKey::Bounded(*index),
                streams,
                remaining,
            });
        }
    }
    jobs
}

/// Jobs of all feeds, for the streams whose bounded part is closed.
pub fn feed_jobs(lines: &[Line], feeds: &[Feed]) -> Vec<SliceJob> {
    let mut jobs = Vec::new();
    let mut seen: HashSet<(String, usize)> = HashSet::new();
    for line in lines {
        for (index, slice) in line.plan.slices().iter().enumerate() {
            if slice.shape != Shape::Feed || !seen.insert((line.plan.id().to_owned(), index)) {
                continue;
            }
            let streams: Vec<SliceStream> = lines
                .iter()
                .filter(|other| Arc::ptr_eq(&other.plan, &line.plan) && slice.streams.contains(&other.shared.name))
                .filter(|other| other.closed && !other.shared.failed.load(Ordering::Acquire))
                .filter_map(|other| {
                    let from = feed_position(other, &slice.id, feeds);
                    if from.is_none() {
                        other.shared.fail(
                            Error::unexpected("the connector planned a feed and gave the stream no position in it")
                                .with("stream", &other.shared.name)
                                .with("slice", &slice.id),
                        );
                    }
                    let from = Some(from?);
                    Some(SliceStream { shared: Arc::clone(&other.shared), from, removals: Removals::Apply })
                })
                .collect();
            if streams.is_empty() || lowest(&streams).is_none() {
                continue;
            }
            jobs.push(SliceJob {
                plan: Arc::clone(&line.plan),
                index,
                key: SliceKey::Feed(slice.id.clone()),
                streams,
                remaining: Vec::new(),
            });
        }
    }
    jobs
}

/// Where a table stands in a feed: what its plan has just handed over, else what it held before.
fn feed_position(line: &Line, feed: &SliceId, feeds: &[Feed]) -> Option<Stored> {
    if let Some(then) = line.plan.then(&line.shared.name).get(feed) {
        return then.clone();
    }
    let committed = line.positions.get(feed)?;
    let claim = feeds
        .iter()
        .filter(|document| document.feed == feed.as_str())
        .filter_map(|document| document.members.get(&line.shared.name)?.at.as_ref())
        .find(|claim| Some(claim.generation) == line.generation);
    Some(
        claim
            .map_or(committed, |claim| if claim.position.seq > committed.seq { &claim.position } else { committed })
            .clone(),
    )
}
