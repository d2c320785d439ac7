//! How the model reads a slice.

use std::sync::{Arc, PoisonError};

use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{Field, Schema};
use ingest_core::{Done, Error, ErrorKind, Out, Region, Result, Seq, Slice, StreamName};

use super::connector::{At, ModelConnector, Work, foreign_position};
use super::defects::Defect;
use super::rows::{self, Row};
use super::server::{Call, Change, Trouble, failure};

/// Reads a slice from a position.
pub(super) async fn extract(
    connector: &ModelConnector,
    slice: &Slice<Work>,
    from: Option<&At>,
    trouble: Option<Trouble>,
    out: &mut Out<'_, At>,
) -> Result<Done> {
    let reading = Reading { connector, slice, trouble, given: 0, unmarked: 0, out };
    match &slice.work {
        Work::Log => reading.feed(from).await,
        _ => reading.bounded(from).await,
    }
}

struct Reading<'a, 'o> {
    connector: &'a ModelConnector,
    slice: &'a Slice<Work>,
    trouble: Option<Trouble>,
    /// Rows given by this call.
    given: u64,
    /// Rows given since the last mark.
    unmarked: u64,
    out: &'a mut Out<'o, At>,
}

impl Reading<'_, '_> {
    /// Reads a window or a range of a snapshot.
    async fn bounded(mut self, from: Option<&At>) -> Result<Done> {
        let mut at = self.start(from)?;
        let Some(name) = self.slice.streams.first().cloned() else {
            return Err(Error::unexpected("a bounded slice without a stream"));
        };
        let held = if self.has(Defect::HoldsEverything) { self.whole(&at)? } else { Vec::new() };
        if self.has(Defect::NeverReady) {
            return Ok(Done::Pending(std::time::Duration::from_millis(1)));
        }
        loop {
            if let Some(done) = self.trouble_that_is_due(&at).await? {
                return Ok(done);
            }
            let (stream, mut rows) = self.page(&at)?;
            if rows.is_empty() && at == self.start(None)? {
                self.empty()?;
            }
            let Some(last) = rows.last() else {
                self.memory().remove(&self.slice.id);
                drop(held);
                return Ok(Done::Complete);
            };
            at = match at {
                At::Key(_) => At::Key(last.id),
                _ => At::Row { changed: last.changed, id: last.id },
            };
            if self.given > 0 && self.has(Defect::SkipsAtPageBorder) {
                rows.remove(0);
            }
            if self.has(Defect::ForgetsOnCancel) {
                self.memory().insert(self.slice.id.clone(), at);
            }
            let first = self.given == 0 && from.is_none();
            let batch = self.batch(stream, &rows, first)?;
            let marks = self.unmarked + rows.len() as u64 >= self.connector.config().mark_every;
            if marks && self.has(Defect::MarksBeforeRows) {
                self.out.mark(&at).await?;
            }
            match self.out.rows(&name, batch).await {
                Err(_) if self.has(Defect::SwallowsCancel) => return Ok(Done::Complete),
                given => given?,
            }
            self.given += rows.len() as u64;
            self.unmarked += rows.len() as u64;
            if self.has(Defect::OnlyFirstPage) {
                return Ok(Done::Complete);
            }
            if marks {
                self.unmarked = 0;
                if !self.has(Defect::MarksBeforeRows) {
                    self.out.mark(&at).await?;
                }
            }
        }
    }

    /// Where a bounded slice starts.
    fn start(&self, from: Option<&At>) -> Result<At> {
        let from = if self.has(Defect::RestartsOnResume) { None } else { from };
        let skipped = i64::from(self.has(Defect::SkipsOnResume)) - i64::from(self.has(Defect::RepeatsOnResume));
        let remembered = self.memory().get(&self.slice.id).copied();
        Ok(match (&self.slice.work, remembered.as_ref().or(from)) {
            (Work::Keys { above, .. }, None) => At::Key(*above),
            (Work::Keys { .. }, Some(At::Key(id))) => At::Key(*id + skipped),
            (Work::Changed { above, .. }, None) => At::Row { changed: *above, id: i64::MAX },
            (Work::Changed { .. }, Some(At::Row { changed, .. })) if self.has(Defect::SkipsEqualCursor) => {
                At::Row { changed: *changed, id: i64::MAX }
            }
            (Work::Changed { .. }, Some(At::Row { changed, id })) => At::Row { changed: *changed, id: *id + skipped },
            _ => return Err(foreign_position(&self.slice.id)),
        })
    }

    /// How many rows the next batch shall have.
    fn chunk(&self) -> usize {
        let config = self.connector.config();
        // About what the columns of a row take, its text aside.
        let row_bytes = config.payload_bytes + 64;
        let fitting = (self.out.batch_bytes() / row_bytes).max(1) as u64;
        let to_mark = config.mark_every.max(1) - self.unmarked;
        let to_trouble = self.trouble.and_then(row_of_trouble).map_or(u64::MAX, |row| row - self.given);
        let rows = if self.has(Defect::HugeBatches) { u64::MAX } else { config.batch_rows.min(fitting) };
        usize::try_from(rows.min(to_mark).min(to_trouble)).unwrap_or(usize::MAX).max(1)
    }

    /// The page after a position.
    fn page(&self, at: &At) -> Result<(u32, Vec<Row>)> {
        let limit = self.chunk();
        let mut attempts = if self.has(Defect::RetriesInside) { 10 } else { 1 };
        loop {
            attempts -= 1;
            match self.fetch(at, limit) {
                Err(error) if error.is_retryable() && attempts > 0 => {}
                Ok((stream, rows)) if rows.is_empty() && self.given > 0 && self.has(Defect::MissesTheEnd) => {
                    let (_, all) = self.fetch(&self.start(None)?, usize::MAX)?;
                    return Ok((stream, all[all.len().saturating_sub(limit)..].to_vec()));
                }
                fetched => return fetched,
            }
        }
    }

    /// What a mistaken connector does about a stream without rows.
    fn empty(&self) -> Result<()> {
        match self.connector.config().defect {
            Some(Defect::EmptyStreamFails) => Err(Error::new(ErrorKind::DataInvalid, "the page has no rows")),
            Some(Defect::PanicsOnEmpty) => panic!("the first row of a page that has none"),
            _ => Ok(()),
        }
    }

    /// Everything that a slice has, at once.
    fn whole(&self, at: &At) -> Result<Vec<RecordBatch>> {
        let (stream, rows) = self.fetch(at, usize::MAX)?;
        rows.chunks(1).map(|row| Ok(rows::batch(stream, row, self.connector.config().payload_bytes)?)).collect()
    }

    fn fetch(&self, at: &At, limit: usize) -> Result<(u32, Vec<Row>)> {
        let model = &self.connector.model;
        model.request()?;
        let offset = usize::try_from(self.given).unwrap_or(usize::MAX);
        match (&self.slice.work, at) {
            (Work::Keys { stream, above, to, .. }, _) if self.has(Defect::PagesByOffset) => {
                let mut rows = model.by_change(*stream, (0, 0), u64::MAX, usize::MAX);
                rows.retain(|row| (above + 1..*to).contains(&row.id));
                return Ok((*stream, rows.into_iter().skip(offset).take(limit).collect()));
            }
            (Work::Changed { stream, above, to }, _) if self.has(Defect::TrustsUnsorted) => {
                let mut rows = model.by_change(*stream, (*above, i64::MAX), *to, usize::MAX);
                rows.sort_by_key(|row| row.id);
                let resumed = match at {
                    At::Row { changed, id } if self.given == 0 => (*changed, *id),
                    _ => (*above, i64::MAX),
                };
                rows.retain(|row| (row.changed, row.id) > resumed);
                return Ok((*stream, rows.into_iter().skip(offset).take(limit).collect()));
            }
            _ => {}
        }
        match (&self.slice.work, at) {
            (Work::Keys { stream, snapshot, to, .. }, At::Key(after)) => {
                Ok((*stream, model.by_key(*snapshot, *stream, *after, *to, limit)?))
            }
            (Work::Changed { stream, to, .. }, At::Row { changed, id }) => {
                Ok((*stream, model.by_change(*stream, (*changed, *id), *to, limit)))
            }
            _ => Err(foreign_position(&self.slice.id)),
        }
    }

    fn batch(&self, stream: u32, rows: &[Row], first: bool) -> Result<RecordBatch> {
        let mut rows = rows.to_vec();
        match self.connector.config().defect {
            Some(Defect::DuplicateKey) if first => rows.push(rows[0]),
            Some(Defect::DifferentEachTime) => {
                let calls = self.connector.model.calls(Call::Plan);
                rows.iter_mut().for_each(|row| row.version += u32::try_from(calls).unwrap_or(0));
            }
            Some(Defect::Panics) => panic!("a bug of this connector"),
            _ => {}
        }
        let batch = rows::batch(stream, &rows, self.connector.config().payload_bytes)?;
        match self.connector.config().defect {
            Some(Defect::ColumnOutsideSchema) => {
                with_column(&batch, batch.num_columns(), Field::new("surprise", ID_TYPE, true), batch.column(0))
            }
            Some(Defect::WrongType) => with_column(&batch, 2, Field::new("version", ID_TYPE, false), batch.column(0)),
            Some(Defect::NullKey) if first => {
                let ids: ArrayRef = Arc::new(Int64Array::new_null(batch.num_rows()));
                with_column(&batch, 0, Field::new(rows::ID, ID_TYPE, true), &ids)
            }
            _ => Ok(batch),
        }
    }

    /// Reads the change log.
    async fn feed(mut self, from: Option<&At>) -> Result<Done> {
        let model = &self.connector.model;
        let Some(&At::Commit(mut commit)) = from else { return Err(foreign_position(&self.slice.id)) };
        let mut marked = commit;
        let mut seen = model.0.head.subscribe();
        let head = *seen.borrow_and_update();
        loop {
            if let Some(done) = self.trouble_that_is_due(&At::Commit(commit)).await? {
                return Ok(done);
            }
            model.request()?;
            let next = match model.next_transaction(commit) {
                Err(_) if self.has(Defect::StartsLateInSilence) => {
                    commit += 1;
                    continue;
                }
                next => next?,
            };
            let next = next.filter(|transaction| self.out.follow() || transaction.commit <= head);
            if let Some(transaction) = &next {
                self.transaction(transaction.commit, &transaction.changes).await?;
                commit = transaction.commit;
            }
            let is_end = next.is_none();
            let due = self.unmarked >= self.connector.config().mark_every;
            if commit > marked && (due || is_end && !self.has(Defect::NoMarkAtTheEnd)) {
                self.out.mark(&At::Commit(commit)).await?;
                (marked, self.unmarked) = (commit, 0);
            }
            if !is_end {
                continue;
            }
            // The sender lives as long as the model does, and this holds the model.
            if !self.out.follow() || seen.changed().await.is_err() {
                return Ok(Done::CaughtUp);
            }
        }
    }

    /// Gives the changes of one transaction, those of selected streams.
    async fn transaction(&mut self, commit: u64, changes: &[Change]) -> Result<()> {
        let selected: Vec<(usize, &Change, StreamName)> = changes
            .iter()
            .enumerate()
            .map(|(n, change)| (n, change, rows::stream_name(change.stream)))
            .filter(|(_, _, name)| self.slice.streams.contains(name))
            .collect();
        let limit = usize::try_from(self.connector.config().batch_rows).unwrap_or(usize::MAX).max(1);
        let backwards = self.has(Defect::SeqGoesBack);
        for run in selected.chunk_by(|(_, a, _), (_, b, _)| a.stream == b.stream && a.op != "T" && b.op != "T") {
            let Some((_, change, name)) = run.first() else { continue };
            if change.op == "T" {
                self.out.remove(name, Region::All).await?;
                continue;
            }
            for chunk in run.chunks(limit) {
                let rows: Vec<Row> = chunk.iter().map(|(_, change, _)| change.row).collect();
                let order = if backwards { u64::MAX - commit } else { commit };
                let seq = |n: usize| Seq::of(&[order, n as u64]);
                let events: Vec<_> = chunk.iter().map(|(n, change, _)| (change.op, seq(*n))).collect();
                let batch = rows::batch(change.stream, &rows, self.connector.config().payload_bytes)?;
                self.out.rows(name, rows::with_events(&batch, &events)?).await?;
                self.given += rows.len() as u64;
                self.unmarked += rows.len() as u64;
            }
        }
        Ok(())
    }

    /// The trouble whose row has come.
    async fn trouble_that_is_due(&mut self, at: &At) -> Result<Option<Done>> {
        let Some(trouble) = self.trouble else { return Ok(None) };
        if row_of_trouble(trouble).is_none_or(|row| self.given < row) {
            return Ok(None);
        }
        match trouble {
            Trouble::FailAfter(_, kind) => Err(failure(kind)),
            Trouble::PanicAfter(_) => panic!("a test asked for this panic"),
            Trouble::Pending(_, delay) => {
                if self.unmarked > 0 {
                    self.out.mark(at).await?;
                }
                Ok(Some(Done::Pending(delay)))
            }
            _ => Ok(None),
        }
    }

    fn has(&self, defect: Defect) -> bool {
        self.connector.has(defect)
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<ingest_core::SliceId, At>> {
        self.connector.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const ID_TYPE: arrow_schema::DataType = arrow_schema::DataType::Int64;

/// After how many rows a trouble comes.
fn row_of_trouble(trouble: Trouble) -> Option<u64> {
    match trouble {
        Trouble::FailAfter(rows, _) | Trouble::PanicAfter(rows) | Trouble::Pending(rows, _) => Some(rows),
        _ => None,
    }
}

/// The batch with another column at a place.
fn with_column(batch: &RecordBatch, at: usize, field: Field, column: &ArrayRef) -> Result<RecordBatch> {
    let mut fields: Vec<_> = batch.schema().fields().iter().cloned().collect();
    let mut columns = batch.columns().to_vec();
    if at < columns.len() {
        fields[at] = Arc::new(field);
        columns[at] = Arc::clone(column);
    } else {
        fields.push(Arc::new(field));
        columns.push(Arc::clone(column));
    }
    debug_assert!(columns.iter().all(|c| c.len() == batch.num_rows()));
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}
