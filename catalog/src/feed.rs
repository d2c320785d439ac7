//! Feed documents: what every table of a change feed holds, and who is about to join it.

use std::collections::BTreeMap;

use ingest_core::{Result, Stored, StreamName};
use serde::{Deserialize, Serialize};

use crate::documents::numbered;
use crate::{Created, Documents, FORMAT};

/// What every member of a feed holds: number `k + 1` is created if absent on what `k` said.
///
/// It says three things: which tables the source must wait for (also those not selected today), where a quiet table
/// stands without a commit of its own, and what may be confirmed to the source.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Feed {
    /// Format of the document.
    pub format: u32,
    /// The number of the document.
    pub k: i64,
    /// The feed: the id of its slice.
    pub feed: String,
    /// The group of streams that it serves.
    #[serde(default)]
    pub group: Option<String>,
    /// The tables.
    pub members: BTreeMap<StreamName, Member>,
}

/// A table of a feed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// What it claims to hold.
    #[serde(default)]
    pub at: Option<Claim>,
    /// The number of its table when it set out to take a hand-over position from the source: nobody confirms past a
    /// position that is about to be adopted (invariant `join_before_plan`). Zero stands for a table without a number.
    #[serde(default)]
    pub joining_on: Option<i64>,
}

/// What a table holds of a feed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// Number of the commit that adopted the plan from which the position comes.
    pub generation: i64,
    /// The position.
    pub position: Stored,
}

impl Claim {
    /// Whether this claim may take the place of another: within a generation positions rise, and an older generation never
    /// overwrites a newer one (invariant `claim_only_rises`).
    pub fn supersedes(&self, other: Option<&Self>) -> bool {
        other.is_none_or(|other| {
            self.generation > other.generation
                || (self.generation == other.generation && self.position.seq >= other.position.seq)
        })
    }
}

impl Feed {
    /// What may be confirmed to the source: the lowest position of all members, if every member has one and none is joining
    /// (invariant `ack_is_the_floor_of_all_members`).
    pub fn floor(&self) -> Option<&Stored> {
        if self.members.values().any(|member| member.joining_on.is_some()) {
            return None;
        }
        let claims: Option<Vec<&Claim>> = self.members.values().map(|member| member.at.as_ref()).collect();
        claims?.into_iter().map(|claim| &claim.position).min_by(|a, b| a.seq.cmp(&b.seq))
    }
}

fn folder(source: &str, feed: &str) -> String {
    format!("_ingest/feeds/{source}/{}", ingest_core::table_name(feed))
}

/// The newest document of a feed; `None` when nobody has joined it yet.
pub async fn latest_feed(documents: &Documents, source: &str, feed: &str) -> Result<Option<Feed>> {
    let folder = folder(source, feed);
    // A newer document may appear, and the one we saw may be swept, between listing and reading: look again.
    for _ in 0..5 {
        let names = documents.list(&folder).await?;
        let Some(newest) = names.last() else { return Ok(None) };
        if let Some(found) = documents.get(&format!("{folder}/{newest}.json")).await? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The newest document of every feed of a source.
pub async fn list_feeds(documents: &Documents, source: &str) -> Result<Vec<Feed>> {
    let root = format!("_ingest/feeds/{source}");
    let mut feeds = Vec::new();
    for name in documents.folders(&root).await? {
        feeds.extend(latest_feed(documents, source, &name).await?);
    }
    Ok(feeds)
}

/// Changes a feed document: reads the newest, lets `change` alter it, and creates the next number; repeats when somebody
/// else was first. `change` answers whether anything changed.
///
/// # Errors
/// `CheckpointConflict` when others are first ten times in a row.
pub async fn write_feed(
    documents: &Documents,
    source: &str,
    feed: &str,
    mut change: impl FnMut(&mut Feed) -> bool,
) -> Result<Feed> {
    let folder = folder(source, feed);
    for _ in 0..10 {
        let newest = latest_feed(documents, source, feed).await?;
        let mut next = newest.clone().unwrap_or_else(|| Feed { feed: feed.to_owned(), ..Feed::default() });
        if !change(&mut next) {
            return Ok(next);
        }
        next.format = FORMAT;
        next.k += 1;
        // An error leaves it open whether the document exists; reading the newest again settles it, since our change
        // is then found to be there, or is made again on what is there.
        match documents.create(&numbered(&folder, next.k), &next).await {
            Ok(Created::New) => {
                if let Some(old) = newest {
                    documents.sweep(&folder, &[format!("{:020}", old.k)]).await;
                }
                return Ok(next);
            }
            Ok(Created::Exists) => {}
            Err(error) => tracing::warn!(%error, feed, "the answer to a feed document was lost; looking again"),
        }
    }
    Err(ingest_core::Error::new(
        ingest_core::ErrorKind::CheckpointConflict,
        "cannot write what the tables of a feed hold",
    )
    .with("feed", feed)
    .hint("other runs of this source write it all the time; run again"))
}
