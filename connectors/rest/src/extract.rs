//! Reading a slice: page by page, with a mark where a restart is safe.

use arrow_array::RecordBatch;
use ingest_core::{Done, Error, ErrorKind, Out, Result, StreamName};

use crate::Rest;
use crate::manifest::Missing;
use crate::rows::{Dress, fields_from, own_fields};
use crate::sample;
use crate::state::{Next, ParentRow, Position, Work};
use crate::streams::{self, schema_of};
use crate::walk::{Bounds, Walk, ask};

/// Reads a slice from a position to its end.
pub(crate) async fn read(
    rest: &Rest,
    work: &Work,
    from: Option<&Position>,
    out: &mut Out<'_, Position>,
) -> Result<Done> {
    let (done, page) = match from {
        None => (0, None),
        Some(Position::At { parent, page }) => (*parent as usize, page.clone()),
        Some(Position::Until { .. }) => {
            return Err(Error::new(ErrorKind::CheckpointInvalid, "a slice stands at a position of another kind")
                .with("stream", &work.stream)
                .hint("`ingest state reset` forgets it; the next run loads the stream again"));
        }
    };
    let mut reading = Reading::new(rest, work, out).await?;
    match &work.parents {
        None => reading.list(0, None, page).await?,
        Some(parents) => {
            let mut page = page;
            for (nth, parent) in parents.iter().enumerate().skip(done) {
                reading.list(nth, Some(parent), page.take()).await?;
                let next = u32::try_from(nth + 1).unwrap_or(u32::MAX);
                reading.out.mark(&Position::At { parent: next, page: None }).await?;
            }
        }
    }
    reading.tell().await?;
    Ok(Done::Complete)
}

/// A slice while it is read.
struct Reading<'a, 'o, 'p> {
    rest: &'a Rest,
    work: &'a Work,
    def: &'a std::sync::Arc<streams::Def>,
    stream: StreamName,
    fields: Vec<arrow_schema::Field>,
    out: &'o mut Out<'p, Position>,
    /// Rows that were left out because their cursor is null.
    undated: usize,
    /// Parents whose list is not there.
    missing: usize,
}

impl<'a, 'o, 'p> Reading<'a, 'o, 'p> {
    async fn new(rest: &'a Rest, work: &'a Work, out: &'o mut Out<'p, Position>) -> Result<Self> {
        let def = rest.def(&work.stream)?;
        if work.parents.is_some() != def.parent.is_some() {
            return Err(Error::new(ErrorKind::SliceExpired, "the manifest has changed since the slice was planned")
                .with("stream", &work.stream)
                .hint("it is planned again"));
        }
        let fields = match (&work.columns, def.declared(&rest.defs)) {
            (Some(columns), _) => {
                let parent = def.parent.as_ref().and_then(|parent| rest.defs.get(parent.stream.as_str()));
                let parent = parent.and_then(|parent| parent.declared(&rest.defs));
                fields_from(def, parent.as_deref(), columns)
            }
            (None, Some(fields)) => fields,
            (None, None) => sample::fields(rest, def).await?,
        };
        let stream = def.name.clone();
        Ok(Self { rest, work, def, stream, fields, out, undated: 0, missing: 0 })
    }

    /// Reads one list from a page on.
    async fn list(&mut self, nth: usize, parent: Option<&ParentRow>, page: Option<Next>) -> Result<()> {
        let bounds = Bounds { from: self.work.from, to: self.work.to };
        let first = ask(self.def, bounds, parent)?;
        let dress = Dress::new(self.def, &self.fields, parent)?;
        let schema = schema_of(own_fields(self.def, &self.fields));
        let skips = self.def.parent.as_ref().is_some_and(|parent| parent.missing == Missing::Skip);
        let mut walk = Walk::start(&self.rest.api, self.def, first, schema, bounds, page)?;
        loop {
            let page = match walk.next().await {
                Ok(Some(page)) => page,
                Ok(None) => return Ok(()),
                Err(error) if skips && error.kind() == ErrorKind::NotFound && walk.at_start() => {
                    self.missing += 1;
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            self.undated += page.undated;
            self.rows(dress.put_on(page.rows)?).await?;
            if let Some(next) = page.next.filter(|_| self.def.resumes_pages()) {
                let parent = u32::try_from(nth).unwrap_or(u32::MAX);
                self.out.mark(&Position::At { parent, page: Some(next) }).await?;
            }
        }
    }

    /// Hands rows on, large pages in several batches.
    async fn rows(&mut self, rows: RecordBatch) -> Result<()> {
        let (count, bytes) = (rows.num_rows(), rows.get_array_memory_size());
        let batches = bytes.div_ceil(self.out.batch_bytes().max(1)).clamp(1, count.max(1));
        let each = count.div_ceil(batches).max(1);
        for start in (0..count).step_by(each) {
            self.out.rows(&self.stream, rows.slice(start, each.min(count - start))).await?;
        }
        Ok(())
    }

    /// Tells what was left out.
    async fn tell(&mut self) -> Result<()> {
        if self.undated > 0 {
            let column = self.def.window.as_ref().map_or("", |window| window.cursor.as_str());
            let text = format!(
                "{} rows whose cursor \"{column}\" is null were left out: nobody can tell whether they are new. A load with \
                 `mode: full` reads them",
                self.undated
            );
            self.out.warn(Some(&self.stream), text).await?;
        }
        if self.missing > 0 {
            let text = format!("{} parents have no such list, or were deleted since they were listed", self.missing);
            self.out.warn(Some(&self.stream), text).await?;
        }
        Ok(())
    }
}
