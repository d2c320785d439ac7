//! Merges: rows meet the table's rows by key, in one commit and with little memory.
//!
//! ```text
//! files with the rows that come      files of the table
//!        │ keys, operation, order           │ chosen by partition, statistics, a probe of the key column
//!        └──────────────┬───────────────────┘
//!                  decide: one bit a row (`fates`), in several passes where the keys do not fit into memory
//!                       │
//!                  write (`output`): what stays of touched files, row group by row group; what comes in
//! ```
//!
//! | module | what it does |
//! | --- | --- |
//! | `keys` | keys as numbers of 128 bits |
//! | `scene` | the files that are worked on, and which of them may meet |
//! | `sift` | the rows of the table that may meet those that come |
//! | `update` | decides for `merge`: the newest row of each key |
//! | `history` | decides for `scd2`: the versions of each key |
//! | `fates`, `output` | what was decided, and how it is written |
//!
//! A row is written at most once, a file of the table rewritten at most once, whatever the number of rows that come. A file
//! whose rows all come in as they are becomes part of the table without being written again: a first load costs a look at
//! its keys.

mod fates;
mod history;
mod keys;
mod output;
mod scene;
mod sift;
mod update;

use std::sync::Arc;

use arrow_schema::{Schema, SchemaRef};
use async_trait::async_trait;
use chrono::Utc;
use ingest_core::lake::{CommitError, Meeting, Merge, Merged, Removal};
use ingest_core::{Error, Region, Result};

use crate::action::Add;
use crate::commit::{Change, Removing};
use crate::log::Log;
use crate::region::Regions;
use crate::rewrite::discard;
use crate::table::DeltaTable;
pub(crate) use keys::converter;
use scene::{Made, Scene};

/// A merge that is being committed; worked out again when another writer was first.
pub(crate) struct Merging {
    merge: Arc<Merge>,
    /// The table's, with the columns that the same commit brings.
    schema: SchemaRef,
    regions: Option<Regions>,
    /// What was made, and the files of the table that it was made for.
    made: Option<(Vec<String>, Made)>,
}

impl Merging {
    /// # Errors
    /// A key or a region with a column that the table does not have.
    pub fn new(merge: Merge, remove: Removal, schema: &SchemaRef) -> Result<Self> {
        let regions = match remove {
            Removal::Nothing => None,
            Removal::All => Some(vec![Region::All]),
            Removal::Regions(regions) => Some(regions),
            Removal::Files(_) => return Err(Error::unexpected("a merge cannot remove files by name")),
        };
        keys::Keys::new(schema, &merge.key)?;
        check_columns(schema, &merge)?;
        let regions = regions.map(|regions| Regions::new(&regions, schema)).transpose()?;
        Ok(Self { merge: Arc::new(merge), schema: Arc::clone(schema), regions, made: None })
    }

    /// What it did, once it is committed.
    pub fn figures(&self) -> Merged {
        self.made.as_ref().map(|(_, made)| made.figures).unwrap_or_default()
    }

    async fn work_out(&mut self, table: &mut DeltaTable) -> Result<Change> {
        let live: Vec<String> = table.live_files().await?.keys().cloned().collect();
        if self.made.as_ref().is_none_or(|(base, _)| *base != live) {
            self.forget(&table.log).await;
            let scene = Scene::of(table, &self.schema, &self.merge).await?;
            let mut made = Made::default();
            let result = self.make(&scene, &mut made).await;
            self.made = Some((live, made));
            result?;
        }
        let Some((_, made)) = &self.made else { return Err(Error::unexpected("a merge that made nothing")) };
        let now = Utc::now().timestamp_millis();
        Ok(Change {
            remove: made.removed.iter().map(|file| file.tombstone(now, true)).collect(),
            add: made.written.iter().chain(&made.adopted).map(|file| Add::of(file, true)).collect(),
        })
    }

    async fn make(&self, scene: &Scene, made: &mut Made) -> Result<()> {
        let mut fates = scene.fates();
        if let Some(regions) = &self.regions {
            scene.cut(regions, &mut fates).await?;
        }
        match self.merge.meeting {
            Meeting::Update { .. } | Meeting::Keep => update::decide(scene, &mut fates).await?,
            Meeting::History { .. } => history::decide(scene, &mut fates).await?,
        }
        output::write(scene, fates, made).await
    }

    /// Removes what was written; the files that came stay, for another attempt.
    async fn forget(&mut self, log: &Log) {
        if let Some((_, made)) = self.made.take() {
            discard(log, &made.written).await;
        }
    }
}

/// The columns that a write mode needs.
fn check_columns(schema: &Schema, merge: &Merge) -> Result<()> {
    use ingest_core::columns::{CURRENT, DELETED_AT, EFFECTIVE, EXPIRY, OP};
    let needed: &[&str] = match merge.meeting {
        Meeting::Update { soft_delete: true } => &[OP, DELETED_AT],
        Meeting::Update { soft_delete: false } | Meeting::Keep => &[],
        Meeting::History { .. } => &[EFFECTIVE, EXPIRY, CURRENT],
    };
    match needed.iter().find(|name| schema.column_with_name(name).is_none()) {
        Some(name) => Err(Error::config("the table lacks a column of its write mode")
            .with("column", name)
            .hint("load the stream again with `ingest run --full-refresh`")),
        None => Ok(()),
    }
}

#[async_trait]
impl Removing for Merging {
    async fn change(&mut self, table: &mut DeltaTable) -> Result<Change, CommitError> {
        self.work_out(table).await.map_err(|e| CommitError::Failed(e.with("table", &table.log.folder)))
    }

    async fn give_up(&mut self, log: &Log) {
        self.forget(log).await;
    }
}
