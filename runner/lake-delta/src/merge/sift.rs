//! Finds the rows of the table that may meet those that came. What meets none is passed over on the threads that decode,
//! several files side by side.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use ingest_core::Result;
use ingest_core::lake::Sweep;

use super::fates::{At, Fates};
use super::keys::{Classes, KeyId, Sieve};
use super::scene::{Facts, Reach, Reader, Scene, row_number};
use crate::action::Add;

/// Files that are looked through side by side.
pub(super) const FILES: usize = 2;

/// What tells the rows of one class that may matter from the others.
pub(super) struct Sift {
    reader: Arc<Reader>,
    classes: Classes,
    class: u64,
    /// `None` where every row matters.
    sieve: Option<Sieve>,
}

/// A batch of a file of the table, and those of its rows that may matter.
pub(super) struct Sifted {
    pub batch: RecordBatch,
    pub facts: Facts,
    /// Rows of the batch, with their places in the table.
    pub rows: Vec<(usize, At)>,
}

impl Sift {
    /// A sift for the keys of one class that came.
    pub fn new<'k>(
        reader: &Arc<Reader>,
        classes: &Classes,
        class: u64,
        sweep: Sweep,
        keys: impl ExactSizeIterator<Item = &'k KeyId>,
    ) -> Self {
        let sieve = (!sweep.deletes()).then(|| Sieve::of(keys.copied()));
        Self { reader: Arc::clone(reader), classes: classes.clone(), class, sieve }
    }

    fn matters(&self, id: Option<KeyId>) -> bool {
        let meets = match (&self.sieve, id) {
            (None, _) => true,
            (Some(sieve), Some(id)) => sieve.may_hold(id),
            (Some(_), None) => false,
        };
        meets && self.classes.has(self.class, id)
    }

    fn take(&self, file: u32, start: u32, batch: RecordBatch) -> Result<Sifted> {
        let facts = self.reader.facts(&batch)?;
        let mattering = facts.ids.iter().enumerate().filter(|(_, id)| self.matters(**id));
        let rows = mattering.map(|(row, _)| Ok((row, At { file, row: row_number(start, row)? })));
        let rows = rows.collect::<Result<_>>()?;
        Ok(Sifted { batch, facts, rows })
    }

    /// The rows of files that may matter, in `schema`; batches of different files come as they are read.
    pub fn through<'s>(
        self: &Arc<Self>,
        scene: &'s Scene,
        schema: &'s SchemaRef,
        files: Vec<(u32, Add)>,
    ) -> BoxStream<'s, Result<Sifted>> {
        let sift = Arc::clone(self);
        let open = move |(number, file): (u32, Add)| {
            let sift = Arc::clone(&sift);
            async move { scene.sift(&file, schema, move |start, batch| sift.take(number, start, batch)).await }
        };
        futures::stream::iter(files).then(open).try_flatten_unordered(FILES).boxed()
    }
}

/// The files of the table that may hold one of the keys that came, with their numbers.
pub(super) fn files(
    scene: &Scene,
    reach: &Reach,
    reader: &Reader,
    keys: impl Iterator<Item = KeyId>,
    fates: &Fates,
) -> Result<Vec<(u32, Add)>> {
    let sorted = reader.keys.is_ordered().then(|| {
        let mut ids: Vec<KeyId> = keys.collect();
        ids.sort_unstable();
        ids
    });
    let all = scene.merge.sweep.deletes();
    let mut chosen = Vec::new();
    for ((file, fate), number) in scene.table.iter().zip(&fates.table).zip(0_u32..) {
        let may = !fate.gone && (all || reach.may_meet(file, &scene.partition_by, &reader.keys, sorted.as_deref())?);
        if may {
            chosen.push((number, file.clone()));
        }
    }
    Ok(chosen)
}
