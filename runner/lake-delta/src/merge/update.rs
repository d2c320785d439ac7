//! Decides for each key which row is the newest: that of the table, or one of those that came.
//!
//! Only keys are held in memory, and what they need to be compared; of rows there is but a number. The columns that decide
//! are read once for each class of keys.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use futures::TryStreamExt;
use ingest_core::lake::{Meeting, Sweep};
use ingest_core::{Error, ErrorKind, Result, columns};

use super::fates::{At, Chain, Fates, Patch};
use super::keys::{Classes, KeyId, KeyMap, map};
use super::scene::{Facts, Reach, Reader, Scene, row_number};
use super::sift::{Sift, Sifted, files};

/// Memory for a key: its entries, and the text of its order where there is one.
const KEY_BYTES: u64 = 68;
const ORDER_BYTES: u64 = 96;

/// The newest that came of a key.
#[derive(Debug, Clone, Copy)]
struct Latest {
    at: At,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Whole,
    Deleted,
    /// What is under way stands in `chains`.
    Chained,
    /// The row of the table stays.
    Beaten,
}

/// A row that is made of several.
#[derive(Debug, Default)]
struct Parts {
    /// It begins with the row of the table, or with the first that came.
    table: Option<At>,
    begin: Begin,
    rows: Vec<Part>,
}

/// What the first row that came is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// A whole row: that of the table does not count.
    #[default]
    Whole,
    /// It says `D`: the row of the table is kept, and it stands for itself where there is none.
    Deleted,
    /// It does not carry all columns.
    Lacking,
}

/// A row that came, with its order.
type Part = (At, Option<Box<[u8]>>);

impl Parts {
    /// Puts the row of the table before the others; those that are older than it do not count.
    fn begin_with(&mut self, table: At, order: Option<&[u8]>) {
        let first = self.rows.first().map(|(at, _)| *at);
        if let Some(there) = order {
            self.rows.retain(|(_, came)| came.as_deref().is_none_or(|came| came >= there));
        }
        let kept_first = self.rows.first().map(|(at, _)| *at) == first;
        if self.begin != Begin::Whole || !kept_first {
            // Files come side by side: of a key that is there twice it is always the same row.
            self.table = self.table.max(Some(table));
        }
    }
}

/// The keys of one class.
struct Pass<'a> {
    scene: &'a Scene,
    reader: &'a Arc<Reader>,
    classes: &'a Classes,
    class: u64,
    latest: KeyMap<Latest>,
    orders: KeyMap<Box<[u8]>>,
    parts: KeyMap<Parts>,
}

/// Decides all.
pub(super) async fn decide(scene: &Scene, fates: &mut Fates) -> Result<()> {
    let reader = Arc::new(Reader::new(scene)?);
    let soft = matches!(scene.merge.meeting, Meeting::Update { soft_delete: true });
    let of_source = scene.project(|name| reader.is_needed(name) || name == columns::OP || name == columns::ABSENT);
    let sweep = scene.merge.sweep;
    let of_table = scene.project(|name| {
        reader.is_needed(name)
            || (soft && sweep.deletes() && name == columns::OP)
            || (matches!(sweep, Sweep::Keys { .. }) && name == columns::INGESTED_AT)
    });
    let each = KEY_BYTES + if scene.merge.order.is_some() { ORDER_BYTES } else { 0 };
    let classes = Classes::new(scene.source_rows(), each, scene.merge.memory_bytes)?;
    let mut reach = Reach::new(scene)?;
    for class in 0..classes.count() {
        let mut pass =
            Pass { scene, reader: &reader, classes: &classes, class, latest: map(), orders: map(), parts: map() };
        pass.read(&of_source, &mut reach).await?;
        pass.meet(&of_table, &reach, fates).await?;
        pass.settle(fates)?;
    }
    // Neighbours in the table are read together.
    fates.chains.sort_by_key(|chain| (chain.table, chain.rows.first().copied()));
    Ok(())
}

impl Pass<'_> {
    /// Takes the rows that came.
    async fn read(&mut self, schema: &SchemaRef, reach: &mut Reach) -> Result<()> {
        for (file, number) in self.scene.source.iter().zip(0_u32..) {
            let mut batches = self.scene.scan(file, schema).await?;
            while let Some((start, batch)) = batches.try_next().await? {
                if self.class == 0 {
                    reach.observe(&batch)?;
                }
                let facts = self.reader.facts(&batch)?;
                for row in 0..batch.num_rows() {
                    if self.classes.has(self.class, facts.ids[row]) {
                        let id = self.reader.key(facts.ids[row])?;
                        self.take(id, At { file: number, row: row_number(start, row)? }, &facts, row)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Applies one row that came to what came before it.
    fn take(&mut self, id: KeyId, at: At, facts: &Facts, row: usize) -> Result<()> {
        if matches!(self.scene.merge.sweep, Sweep::Keys { .. }) {
            // It is there, and that is all.
            self.latest.insert(id, Latest { at, state: State::Beaten });
            return Ok(());
        }
        let deleted = facts.is_deleted(row);
        let soft = match self.scene.merge.meeting {
            // The first stays, and nothing is taken away.
            Meeting::Keep if deleted || self.latest.contains_key(&id) => return Ok(()),
            Meeting::Keep => false,
            Meeting::Update { soft_delete } => soft_delete,
            Meeting::History { .. } => return Err(Error::unexpected("a history is not decided as an update")),
        };
        let order = facts.order(row);
        if let (Some(order), Some(before)) = (order, self.orders.get(&id))
            && order < before.as_ref()
        {
            return Ok(());
        }
        let ordered_before = match order {
            Some(order) => self.orders.insert(id, order.into()),
            None => self.orders.remove(&id),
        };
        let adds_to = (deleted && soft) || (!deleted && facts.is_partial(row));
        let mut entry = self.latest.entry(id);
        let before = match &mut entry {
            Entry::Occupied(before) => Some(*before.get()),
            Entry::Vacant(_) => None,
        };
        if !adds_to {
            self.parts.remove(&id);
            entry.insert_entry(Latest { at, state: if deleted { State::Deleted } else { State::Whole } });
            return Ok(());
        }
        entry.insert_entry(Latest { at, state: State::Chained });
        let parts = self.parts.entry(id).or_default();
        match before {
            Some(Latest { state: State::Deleted, .. }) if !deleted => return Err(orphans(1)),
            Some(Latest { at, state: State::Whole }) => parts.rows.push((at, ordered_before)),
            None => parts.begin = if deleted { Begin::Deleted } else { Begin::Lacking },
            _ => {}
        }
        parts.rows.push((at, order.map(Into::into)));
        Ok(())
    }

    /// Compares what came with the files of the table that may hold its keys.
    async fn meet(&mut self, schema: &SchemaRef, reach: &Reach, fates: &mut Fates) -> Result<()> {
        let scene = self.scene;
        let files = files(scene, reach, self.reader, self.latest.keys().copied(), fates)?;
        let sift = Sift::new(self.reader, self.classes, self.class, scene.merge.sweep, self.latest.keys());
        let mut found = Arc::new(sift).through(scene, schema, files);
        while let Some(Sifted { facts, rows, .. }) = found.try_next().await? {
            for (row, at) in rows {
                // A region has taken it away.
                if !fates.is_dropped(at) {
                    self.meet_row(facts.ids[row], at, &facts, row, fates);
                }
            }
        }
        Ok(())
    }

    fn meet_row(&mut self, id: Option<KeyId>, at: At, facts: &Facts, row: usize, fates: &mut Fates) {
        let Some((id, latest)) = id.and_then(|id| Some((id, self.latest.get_mut(&id)?))) else {
            if facts.is_swept(self.scene.merge.sweep, row) {
                self.sweep(at, facts, row, fates);
            }
            return;
        };
        let newer = match (facts.order(row), self.orders.get(&id)) {
            (Some(there), Some(came)) => came.as_ref() < there,
            _ => false,
        };
        if newer || self.scene.merge.meeting == Meeting::Keep {
            latest.state = State::Beaten;
            return;
        }
        match latest.state {
            State::Beaten => return,
            State::Deleted => fates.changed += 1,
            State::Chained => {
                if let Some(parts) = self.parts.get_mut(&id) {
                    parts.begin_with(at, facts.order(row));
                }
            }
            State::Whole => {}
        }
        fates.drop_row(at);
    }

    /// The source no longer has the row.
    fn sweep(&self, at: At, facts: &Facts, row: usize, fates: &mut Fates) {
        match self.scene.merge.meeting {
            Meeting::Update { soft_delete: true } if facts.is_deleted(row) => return,
            Meeting::Update { soft_delete: true } => fates.patch(at, Patch::Deleted(self.scene.merge.now)),
            Meeting::Update { soft_delete: false } => fates.drop_row(at),
            Meeting::Keep | Meeting::History { .. } => return,
        }
        fates.changed += 1;
    }

    fn settle(mut self, fates: &mut Fates) -> Result<()> {
        let mut lacking = 0;
        for (id, latest) in self.latest {
            match latest.state {
                State::Beaten | State::Deleted => continue,
                State::Whole => fates.keep(latest.at),
                State::Chained => {
                    let Some(parts) = self.parts.remove(&id) else { continue };
                    if parts.table.is_none() && parts.begin == Begin::Lacking {
                        lacking += 1;
                        continue;
                    }
                    let rows = parts.rows.into_iter().map(|(at, _)| at).collect();
                    fates.chains.push(Chain { table: parts.table, rows });
                }
            }
            fates.changed += 1;
        }
        if lacking > 0 { Err(orphans(lacking)) } else { Ok(()) }
    }
}

/// Absent is not null: what such rows do not carry is nowhere.
fn orphans(rows: u64) -> Error {
    Error::new(ErrorKind::DataInvalid, "partial rows came for keys that the table does not have")
        .with("rows", rows)
        .hint("the table has lost step with its source: load the stream again with `ingest run --full-refresh`")
}
