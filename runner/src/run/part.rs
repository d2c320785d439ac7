//! Parts of a plan that several processes share: each stages files, and one commit closes the plan.

use std::collections::BTreeMap;

use arrow_schema::Schema;
use ingest_catalog::{Documents, PartDocument, Parts, Ranges};
use ingest_core::lake::DataFile;
use ingest_core::{Error, ErrorKind, Region, Result, SliceId, Stored};

use super::stream::{Cover, SliceKey, Unit};

/// What this process does of a part, for one stream: a log of documents beside the table (invariant `parts_stage`).
pub struct PartLog {
    documents: Documents,
    last: PartDocument,
    writer: String,
}

impl PartLog {
    /// Goes on where the part was left.
    pub async fn open(documents: &Documents, plan: &str, part: u32, stream: &str, run: &str) -> Result<Self> {
        let last = PartDocument::latest(documents, plan, part, stream).await?;
        let mut last = last.unwrap_or_else(|| PartDocument::empty(plan, part, stream, run));
        run.clone_into(&mut last.run);
        Ok(Self { documents: documents.clone(), last, writer: uuid::Uuid::now_v7().simple().to_string() })
    }

    /// Slices that are finished.
    pub fn done(&self) -> &Ranges {
        &self.last.done
    }

    /// Where slices that were begun stand.
    pub fn open_slices(&self) -> &BTreeMap<u32, Stored> {
        &self.last.open
    }

    /// Everything that this part has staged.
    pub async fn gathered(&self, parts: Parts, slices: &[u32]) -> Result<Gathered> {
        Gathered::read(&self.documents, &self.last.plan, &self.last.stream, parts, slices).await
    }

    /// Stages what has come.
    ///
    /// # Errors
    /// `CheckpointConflict` when another process works on the same part.
    pub async fn stage(&mut self, group: Unit) -> Result<()> {
        if group.files.is_empty() && group.quarantine.is_empty() && group.region.is_none() && group.covers.is_empty() {
            return Ok(());
        }
        let mut next = PartDocument {
            number: self.last.number + 1,
            writer: self.writer.clone(),
            files: group.files,
            quarantine: group.quarantine,
            regions: group.region.into_iter().collect(),
            schema: group.schema.map(|schema| schema.as_ref().clone()),
            ..self.last.clone()
        };
        for (key, cover) in group.covers {
            // Feeds are read by runs of the whole stream.
            let SliceKey::Bounded(slice) = key else { continue };
            match cover {
                Cover::At(position) => drop(next.open.insert(slice, position)),
                Cover::Done => next.done.insert(slice),
                Cover::Left(id, position) => {
                    next.done.insert(slice);
                    next.left.insert(id, position);
                }
            }
            if next.done.contains(slice) {
                next.open.remove(&slice);
            }
        }
        next.create(&self.documents).await?;
        self.last = next;
        Ok(())
    }
}

/// Everything that the parts of a plan have staged for a stream.
#[derive(Debug, Clone, Default)]
pub struct Gathered {
    /// Slices that are finished.
    pub done: Ranges,
    /// Positions that they leave behind.
    pub left: BTreeMap<SliceId, Stored>,
    /// Data files.
    pub files: Vec<DataFile>,
    /// Files of the quarantine.
    pub quarantine: Vec<DataFile>,
    /// Regions that go.
    pub regions: Vec<Region>,
    /// The widest storage schema of the files.
    pub schema: Option<Schema>,
}

impl Gathered {
    /// Reads the documents of all parts, and sees which of these slices are done.
    pub async fn read(documents: &Documents, plan: &str, stream: &str, parts: Parts, slices: &[u32]) -> Result<Self> {
        let mut gathered = Self::default();
        let mut done: BTreeMap<u32, Ranges> = BTreeMap::new();
        for document in PartDocument::all(documents, plan, stream).await? {
            gathered.files.extend(document.files);
            gathered.quarantine.extend(document.quarantine);
            gathered.regions.extend(document.regions);
            gathered.left.extend(document.left);
            if let Some(schema) = document.schema {
                let both = gathered.schema.take().into_iter().chain([schema]);
                gathered.schema = Some(Schema::try_merge(both).map_err(|error| {
                    Error::new(ErrorKind::SchemaChanged, "two parts of the plan saw a column with different types")
                        .caused_by(error)
                        .hint("give the plan up with `ingest run --full-refresh`, or declare the type of the column")
                })?);
            }
            done.insert(document.part, document.done);
        }
        for slice in slices {
            if done.get(&parts.part(*slice)).is_some_and(|done| done.contains(*slice)) {
                gathered.done.insert(*slice);
            }
        }
        Ok(gathered)
    }
}
