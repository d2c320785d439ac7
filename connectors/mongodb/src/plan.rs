//! The slices of a plan.

use std::collections::BTreeMap;

use bson::raw::{RawBsonRef, RawDocumentBuf};
use bson::{Bson, Document, doc};
use ingest_core::{Error, Estimate, Json, Mode, Plan, PlanRequest, Result, Selected, Shape, Slice, SliceId};

use crate::catalog::{Collection, Size, Sort, size};
use crate::config::Documents;
use crate::incremental::{self, Planned};
use crate::rows::{Column, ID, Layout};
use crate::sample::value_of;
use crate::select::{Class, all_of, can_follow, first};
use crate::server::{Hello, Server};
use crate::types::Kind;
use crate::work::{Part, Position, Window, Work};
use crate::{extended, faults};

/// Ranges of one stream; the runner's limit is 100,000 slices a plan.
const MOST_RANGES: u64 = 10_000;
/// Documents that are looked at for one bound, where the server picks them.
const PICKED: u64 = 20;
/// Bytes of a document, where the server does not say how many a collection has.
const USUAL: u64 = 1 << 10;

/// What planning a stream needs.
pub(crate) struct Planner<'a> {
    pub(crate) server: &'a Server,
    pub(crate) request: &'a PlanRequest<Position>,
    pub(crate) hello: Hello,
}

impl Planner<'_> {
    /// Adds the slices of a stream to the plan.
    pub(crate) async fn stream(
        &self,
        collection: &Collection,
        selected: &Selected<Position>,
        plan: &mut Plan<Work, Position>,
    ) -> Result<()> {
        let work = self.work(selected)?;
        match (selected.mode, self.request.interval) {
            (Mode::Full, None) => {
                plan.slices.extend(self.all(collection, work).await?);
                Ok(())
            }
            (_, Some(interval)) => self.interval(collection, selected, work, interval, plan),
            (Mode::Incremental, None) => self.incremental(collection, selected, work, plan).await,
            (Mode::Cdc, None) => Err(Error::unexpected("changes are planned apart from other reads")),
        }
    }

    /// What all slices of a stream say alike.
    pub(crate) fn work(&self, selected: &Selected<Position>) -> Result<Work> {
        let (columns, layout) = wanted(selected, self.server.settings().config.documents)?;
        if let Some(filter) = &selected.filter {
            extended::filter(filter)?;
        }
        Ok(Work { columns, layout, filter: selected.filter.clone(), ..Work::default() })
    }

    async fn incremental(
        &self,
        collection: &Collection,
        selected: &Selected<Position>,
        mut work: Work,
        plan: &mut Plan<Work, Position>,
    ) -> Result<()> {
        let before = incremental::progress(selected)?;
        let Planned { window, progress } = incremental::window(self, collection, selected).await?;
        if before.is_some_and(|before| *before == progress) {
            return Ok(());
        }
        work.window = Some(window);
        let slices = match before {
            Some(before) if before.after.is_some() => {
                vec![self.slice(collection, 0, Work { part: Part::Unordered, ..work }, Estimate::default())]
            }
            _ => self.all(collection, work).await?,
        };
        plan.slices.extend(slices);
        let position = Some(Position::Read(progress));
        plan.then.insert(collection.stream.clone(), BTreeMap::from([(SliceId::from(incremental::CURSOR), position)]));
        Ok(())
    }

    fn interval(
        &self,
        collection: &Collection,
        selected: &Selected<Position>,
        mut work: Work,
        interval: (i64, i64),
        plan: &mut Plan<Work, Position>,
    ) -> Result<()> {
        let column = incremental::cursor(selected)?;
        if column.kind != Kind::Timestamp {
            return Err(Error::config("an interval needs a cursor that is a date")
                .with("stream", &collection.stream)
                .with("cursor", &column.name));
        }
        // A date has milliseconds: those from the first on that is not before the bound.
        let millis = |micros: i64| micros.div_euclid(1_000) + i64::from(micros.rem_euclid(1_000) != 0);
        work.part = Part::Interval { column: column.name.clone(), from: millis(interval.0), to: millis(interval.1) };
        // What lies beyond the position is the next window's.
        work.window = incremental::progress(selected)?.map(|progress| Window {
            column: column.name.clone(),
            upto: progress.after.clone(),
            ..Window::default()
        });
        plan.slices.push(self.slice(collection, 0, work, Estimate::default()));
        Ok(())
    }

    /// Slices that together hold all documents: ranges of `_id` in each class that it has.
    pub(crate) async fn all(&self, collection: &Collection, work: Work) -> Result<Vec<Slice<Work>>> {
        if collection.sort != Sort::Collection {
            return Ok(vec![self.slice(collection, 0, work, Estimate::default())]);
        }
        let size = size(self.server, collection).await?;
        let classes = self.classes(collection).await?;
        let bytes = size.bytes.or(size.documents.map(|documents| documents.saturating_mul(USUAL))).unwrap_or(0);
        let wanted = bytes.div_ceil(self.target(bytes)).clamp(1, MOST_RANGES);
        if classes.len() <= 1 && wanted == 1 {
            let work = Work { part: Part::Whole, ..work };
            return Ok(vec![self.slice(collection, 0, work, estimate(size, 1))]);
        }
        let mut parts = Vec::new();
        let cuts = self.cuts(collection, &classes, wanted, size).await?;
        for (class, cuts) in classes.iter().zip(cuts) {
            let lower = std::iter::once(None).chain(cuts.iter().cloned().map(Some));
            let upper = cuts.iter().cloned().map(Some).chain(std::iter::once(None));
            parts.extend(lower.zip(upper).map(|(after, upto)| Part::Ids { class: *class, after, upto }));
        }
        let share = estimate(size, u64::try_from(parts.len()).unwrap_or(1).max(1));
        let slices = parts.into_iter().enumerate();
        Ok(slices.map(|(i, part)| self.slice(collection, i, Work { part, ..work.clone() }, share)).collect())
    }

    fn target(&self, bytes: u64) -> u64 {
        let slices = u64::from(self.request.min_slices.max(1));
        self.request.slice_bytes.min(bytes.div_ceil(slices)).max(bytes / MOST_RANGES).max(1)
    }

    fn slice(&self, collection: &Collection, number: usize, work: Work, estimate: Estimate) -> Slice<Work> {
        Slice {
            id: SliceId::new(format!("{}#{number}", collection.stream)),
            streams: vec![collection.stream.clone()],
            shape: Shape::Window,
            work,
            estimate,
        }
    }

    /// The classes that `_id` has. The first and the last document mostly have the same.
    async fn classes(&self, collection: &Collection) -> Result<Vec<Class>> {
        let (least, most) = (self.end(collection, 1).await?, self.end(collection, -1).await?);
        let (Some(least), Some(most)) = (least, most) else { return Ok(Vec::new()) };
        let mut classes = vec![least];
        for class in Class::ALL.into_iter().filter(|class| least < *class && *class < most) {
            let command = first(&collection.name, class.range(None, None), ID, 1);
            if !self.found(collection, command).await?.is_empty() {
                classes.push(class);
            }
        }
        if most > least {
            classes.push(most);
        }
        Ok(classes)
    }

    /// The class of the first `_id`, or of the last.
    async fn end(&self, collection: &Collection, order: i32) -> Result<Option<Class>> {
        let found = self.found(collection, first(&collection.name, doc! {}, ID, order)).await?;
        let Some(document) = found.first() else { return Ok(None) };
        let id = document.get(ID).map_err(extended::unreadable)?.unwrap_or(RawBsonRef::Null);
        Class::of(id).map(Some).ok_or_else(|| Error::unexpected("a document has an _id of a type that no _id can have"))
    }

    pub(crate) async fn found(&self, collection: &Collection, command: Document) -> Result<Vec<RawDocumentBuf>> {
        const ATTEMPTED: &str = "cannot look into the collection";
        let found = self.server.documents(&collection.database, command, 1, ATTEMPTED).await?;
        found.map_err(|e| faults::error(ATTEMPTED, e))
    }

    /// Values of `_id` between ranges of about the same size, for each class.
    async fn cuts(
        &self,
        collection: &Collection,
        classes: &[Class],
        wanted: u64,
        size: Size,
    ) -> Result<Vec<Vec<Json>>> {
        let mut cuts = vec![Vec::new(); classes.len()];
        let documents = size.documents.unwrap_or(0);
        if wanted < 2 || documents < 2 {
            return Ok(cuts);
        }
        // A server picks few documents of many without looking at all of them.
        if documents / wanted > PICKED * 20
            && let Some(picked) = self.picked(collection, wanted * PICKED).await?
        {
            for document in
                picked.iter().skip(usize::try_from(PICKED).unwrap_or(0)).step_by(usize::try_from(PICKED).unwrap_or(1))
            {
                let Some(id) = document.get(ID).map_err(extended::unreadable)? else { continue };
                let place = Class::of(id).and_then(|class| classes.iter().position(|known| *known == class));
                if let Some(place) = place.filter(|_| can_follow(id)) {
                    let cut = extended::key(id)?;
                    if cuts[place].last() != Some(&cut) {
                        cuts[place].push(cut);
                    }
                }
            }
            return Ok(cuts);
        }
        let step = i64::try_from(documents.div_ceil(wanted)).unwrap_or(i64::MAX).max(1);
        for (class, cuts) in classes.iter().zip(&mut cuts).filter(|(class, _)| class.is_large()) {
            *cuts = self.walked(collection, *class, step).await?;
        }
        Ok(cuts)
    }

    /// Documents picked by chance, in the order of `_id`; `None` where the server cannot.
    async fn picked(&self, collection: &Collection, count: u64) -> Result<Option<Vec<RawDocumentBuf>>> {
        const ATTEMPTED: &str = "cannot pick documents of the collection";
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let pipeline =
            vec![doc! { "$sample": { "size": count } }, doc! { "$project": { ID: 1 } }, doc! { "$sort": { ID: 1 } }];
        let command = doc! { "aggregate": &collection.name, "pipeline": pipeline, "cursor": {}, "allowDiskUse": true };
        let most = usize::try_from(count).unwrap_or(usize::MAX);
        match self.server.documents(&collection.database, command, most, ATTEMPTED).await? {
            Ok(picked) => Ok(Some(picked)),
            Err(cause) if faults::is_unknown(&cause) => Ok(None),
            Err(cause) => Err(faults::error(ATTEMPTED, cause)),
        }
    }

    /// Every so many documents, by a walk through the index.
    async fn walked(&self, collection: &Collection, class: Class, step: i64) -> Result<Vec<Json>> {
        let mut cuts: Vec<Json> = Vec::new();
        while u64::try_from(cuts.len()).unwrap_or(u64::MAX) < MOST_RANGES {
            let after: Option<Bson> = cuts.last().map(extended::value).transpose()?;
            let mut command = first(&collection.name, all_of(vec![class.range(after, None)]), ID, 1);
            command.insert("skip", step - 1);
            let found = self.found(collection, command).await?;
            let follows = |document: &RawDocumentBuf| document.get(ID).ok().flatten().is_some_and(can_follow);
            if !found.first().is_some_and(follows) {
                break;
            }
            cuts.extend(value_of(&found, ID)?);
        }
        Ok(cuts)
    }
}

fn estimate(size: Size, parts: u64) -> Estimate {
    Estimate {
        rows: size.documents.map(|documents| documents / parts),
        bytes: size.bytes.map(|bytes| bytes / parts),
        calls: None,
    }
}

/// The columns of a stream that are read, and how.
pub(crate) fn wanted(selected: &Selected<Position>, documents: Documents) -> Result<(Vec<Column>, Layout)> {
    let all: Vec<Column> = columns_of(&selected.stream);
    for name in selected.columns.iter().flatten() {
        if !all.iter().any(|column| column.name == *name) {
            let near = ingest_core::nearest(name, all.iter().map(|column| column.name.as_str()));
            return Err(Error::config("a selected column is no column of the collection").with("column", name).hint(
                near.map_or("`ingest discover` lists the columns; `types` of the source adds one".to_owned(), |near| {
                    format!("did you mean `{near}`?")
                }),
            ));
        }
    }
    let is_wanted = |name: &String| selected.columns.as_ref().is_none_or(|wanted| wanted.contains(name));
    let layout = match (documents, &selected.columns) {
        (Documents::Json, _) => Layout::Whole,
        (Documents::Columns, Some(_)) => Layout::Some,
        (Documents::Columns, None) => Layout::Fields,
    };
    Ok((all.into_iter().filter(|column| is_wanted(&column.name)).collect(), layout))
}

/// The columns of a stream as it was described.
pub(crate) fn columns_of(stream: &ingest_core::Stream) -> Vec<Column> {
    let column = |field: &arrow_schema::FieldRef| {
        // A description of elsewhere has lost what this connector noted: text holds every value.
        let kind = Kind::of(field).unwrap_or(Kind::Json);
        Column { name: field.name().clone(), kind }
    };
    stream.schema.fields().iter().map(column).collect()
}
