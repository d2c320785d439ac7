//! What every table of a change feed holds, and what may be confirmed to the source.

use std::collections::BTreeMap;

use ingest_catalog::{Checkpoint, Claim, Documents, Feed, latest_feed, list_feeds, write_feed};
use ingest_core::{Result, SliceId, Stored, StreamName};

/// The feeds of a source: joins before a plan, claims after commits.
#[derive(Clone)]
pub struct Floor {
    documents: Documents,
    source: String,
}

/// What a table holds of a feed, as its run knows it.
#[derive(Debug, Clone)]
pub struct Held {
    /// The number that the run's handle stands on.
    pub number: Option<i64>,
    /// Number of the commit that adopted the plan from which the position comes.
    pub generation: i64,
    /// The position.
    pub position: Stored,
}

impl Floor {
    /// The feeds of a source.
    pub fn new(documents: Documents, source: &str) -> Self {
        Self { documents, source: source.to_owned() }
    }

    /// All feeds of the source.
    pub async fn feeds(&self) -> Result<Vec<Feed>> {
        list_feeds(&self.documents, &self.source).await
    }

    /// The newest document of a feed.
    pub async fn feed(&self, feed: &SliceId) -> Result<Option<Feed>> {
        latest_feed(&self.documents, &self.source, feed.as_str()).await
    }

    /// Says that tables of a group are about to take a hand-over position from the source, so that nobody confirms past it
    /// (invariant `join_before_plan`). Joining stands beside a claim, it does not erase it.
    pub async fn join(&self, group: &str, joining: &[(StreamName, Option<i64>)]) -> Result<()> {
        for feed in self.feeds().await?.iter().filter(|feed| feed.group.as_deref() == Some(group)) {
            write_feed(&self.documents, &self.source, &feed.feed, |feed| {
                let mut changed = false;
                for (stream, number) in joining {
                    let member = feed.members.entry(stream.clone()).or_default();
                    let number = Some(number.unwrap_or(0));
                    changed |= member.joining_on != number;
                    member.joining_on = number;
                }
                changed
            })
            .await?;
        }
        Ok(())
    }

    /// Takes back that streams are about to join feeds of a group, where no plan came of it: nobody waits for them.
    pub async fn stay_out(&self, group: &str, streams: &[StreamName]) -> Result<()> {
        for feed in self.feeds().await?.iter().filter(|feed| feed.group.as_deref() == Some(group)) {
            let joins = |stream: &&StreamName| feed.members.get(*stream).is_some_and(|m| m.joining_on.is_some());
            if !streams.iter().any(|stream| joins(&stream)) {
                continue;
            }
            write_feed(&self.documents, &self.source, &feed.feed, |feed| {
                let mut changed = false;
                for stream in streams {
                    let Some(member) = feed.members.get_mut(stream) else { continue };
                    changed |= member.joining_on.take().is_some();
                    if member.at.is_none() {
                        feed.members.remove(stream);
                    }
                }
                changed
            })
            .await?;
        }
        Ok(())
    }

    /// Writes down what tables hold of a feed, and answers the feed: its floor may be confirmed to the source.
    ///
    /// Claims only rise (`claim_only_rises`), and a joiner is cleared by a run whose handle stands above the number that it
    /// joined on: that joiner's adoption will conflict (`joining_is_void_once_the_number_moved`).
    pub async fn claim(&self, feed: &SliceId, group: Option<&str>, held: &BTreeMap<StreamName, Held>) -> Result<Feed> {
        write_feed(&self.documents, &self.source, feed.as_str(), |document| {
            let mut changed = false;
            if document.group.is_none() && group.is_some() {
                document.group = group.map(str::to_owned);
                changed = true;
            }
            for (stream, held) in held {
                let member = document.members.entry(stream.clone()).or_default();
                if member.joining_on.is_some_and(|joined| held.number.is_some_and(|n| n > joined)) {
                    member.joining_on = None;
                    changed = true;
                }
                let claim = Claim { generation: held.generation, position: held.position.clone() };
                if member.at.as_ref() != Some(&claim) && claim.supersedes(member.at.as_ref()) {
                    member.at = Some(claim);
                    changed = true;
                }
            }
            changed
        })
        .await
    }

    /// Takes a stream out of all feeds (`state reset`): leaving is explicit, never by not being selected.
    pub async fn leave(&self, stream: &StreamName) -> Result<()> {
        for feed in self.feeds().await? {
            if feed.members.contains_key(stream) {
                write_feed(&self.documents, &self.source, &feed.feed, |feed| feed.members.remove(stream).is_some())
                    .await?;
            }
        }
        Ok(())
    }
}

/// The positions of a stream: its document's, and where a feed has a claim of the same generation, the higher of the two
/// (invariant `effective_position`). A claim of another generation belongs to a past that was reset or rewound.
pub fn effective_positions(checkpoint: &Checkpoint, feeds: &[Feed]) -> BTreeMap<SliceId, Stored> {
    let mut positions = checkpoint.positions.clone();
    let stream = StreamName::from(checkpoint.stream.as_str());
    for feed in feeds {
        let Some(claim) = feed.members.get(&stream).and_then(|member| member.at.as_ref()) else { continue };
        let Some(position) = positions.get_mut(&SliceId::new(feed.feed.clone())) else { continue };
        if Some(claim.generation) == checkpoint.generation && claim.position.seq > position.seq {
            position.clone_from(&claim.position);
        }
    }
    positions
}
