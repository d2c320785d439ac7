//! Decides how the versions of each key follow one another (scd2).
//!
//! | a row comes for time t, and | then |
//! | --- | --- |
//! | the version of t is equal | nothing |
//! | it differs in columns alone that are not tracked | the row takes its place, from its beginning to its end |
//! | it differs | it ends at t; the row holds from t to where it ended |
//! | there is no version of t | the row holds from t to the next version, or until further notice |
//! | the row says `D` | the version of t ends at t |
//!
//! A version that would hold for no time at all is left out. A row that is older than what the key has, by the order of the
//! source, changes nothing unless its own time lies before.
//!
//! Rows without a time of their own hold from when they were read. Clocks may differ and go back: such a row never begins
//! before, or with, what was read before it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arrow::row::RowConverter;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, ListArray, RecordBatch, TimestampMicrosecondArray};
use arrow_cast::cast;
use arrow_schema::{DataType, TimeUnit};
use futures::{StreamExt, TryStreamExt};
use ingest_core::lake::{Meeting, Sweep};
use ingest_core::{Error, ErrorKind, Result, columns};
use parquet::arrow::arrow_reader::RowSelection;

use super::fates::{At, Fates, Patch, Span};
use super::keys::{Classes, Digest, KeyId, KeyMap, converter, map};
use super::scene::{Facts, Reach, Reader, Scene, row_number};
use super::sift::{FILES, Sift, Sifted, files};
use crate::read::{Part, selected};

/// Memory for a row that comes and for a version that is there, one each.
const ROW_BYTES: u64 = 320;

/// A row that came.
#[derive(Debug, Clone)]
struct Event {
    time: i64,
    order: Option<Box<[u8]>>,
    at: At,
    prints: Prints,
    deleted: bool,
}

/// What stands for the values of a row: those that are tracked, and all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Prints {
    tracked: u128,
    all: u128,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Where it stands, and when it ended.
    Table(At, Option<i64>),
    /// Where it stands, and its own time.
    Came(At, i64),
}

impl Origin {
    fn place(self) -> At {
        match self {
            Self::Table(at, _) | Self::Came(at, _) => at,
        }
    }
}

/// A version of a key.
#[derive(Debug, Clone)]
struct Version {
    span: Span,
    origin: Origin,
    prints: Prints,
    order: Option<Box<[u8]>>,
}

/// A version of a key that came, of whose values nothing is known yet.
struct Met {
    id: KeyId,
    at: At,
    span: Span,
    order: Option<Box<[u8]>>,
}

/// The versions of a key in order of time, and those that are no more.
#[derive(Debug, Default)]
struct Timeline {
    /// Times are those of reading; the order of rows is that of the source, or of their coming.
    read_times: bool,
    versions: Vec<Version>,
    removed: Vec<At>,
}

/// Decides all.
pub(super) async fn decide(scene: &Scene, fates: &mut Fates) -> Result<()> {
    let Meeting::History { time, tracked } = &scene.merge.meeting else {
        return Err(Error::unexpected("only a history is decided as one"));
    };
    let reader = Arc::new(Reader::new(scene)?);
    let prints = Arc::new(Printer::new(scene, tracked)?);
    let classes = Classes::new(scene.source_rows(), ROW_BYTES, scene.merge.memory_bytes)?;
    let mut reach = Reach::new(scene)?;
    for class in 0..classes.count() {
        let mut pass = Pass {
            scene,
            time,
            reader: &reader,
            prints: &prints,
            classes: &classes,
            class,
            events: map(),
            lines: map(),
        };
        pass.read(&mut reach).await?;
        pass.meet(&reach, fates).await?;
        pass.settle(fates);
    }
    Ok(())
}

/// The keys of one class.
struct Pass<'a> {
    scene: &'a Scene,
    time: &'a str,
    reader: &'a Arc<Reader>,
    prints: &'a Arc<Printer>,
    classes: &'a Classes,
    class: u64,
    events: KeyMap<Vec<Event>>,
    lines: KeyMap<Timeline>,
}

impl Pass<'_> {
    async fn read(&mut self, reach: &mut Reach) -> Result<()> {
        let ours = [columns::OP, columns::ABSENT, columns::INGESTED_AT];
        let wanted = |n: &str| self.reader.is_needed(n) || self.prints.has(n) || n == self.time || ours.contains(&n);
        let schema = self.scene.project(wanted);
        for (file, number) in self.scene.source.iter().zip(0_u32..) {
            let mut batches = self.scene.scan(file, &schema).await?;
            while let Some((start, batch)) = batches.try_next().await? {
                if self.class == 0 {
                    reach.observe(&batch)?;
                }
                let facts = self.reader.facts(&batch)?;
                if matches!(self.scene.merge.sweep, Sweep::Keys { .. }) {
                    self.take_keys(&facts)?;
                    continue;
                }
                let times = times(&batch, self.time, self.scene.merge.now)?;
                let prints = self.prints.of(&batch)?;
                for (row, prints) in prints.into_iter().enumerate() {
                    if !self.classes.has(self.class, facts.ids[row]) {
                        continue;
                    }
                    if facts.is_partial(row) && !facts.is_deleted(row) {
                        return Err(Error::new(ErrorKind::Unsupported, "partial rows cannot become versions (scd2)")
                            .hint("use `write: merge`, or have the source send whole rows"));
                    }
                    let event = Event {
                        time: times.value(row),
                        order: facts.order(row).map(Into::into),
                        at: At { file: number, row: row_number(start, row)? },
                        prints,
                        deleted: facts.is_deleted(row),
                    };
                    self.events.entry(self.reader.key(facts.ids[row])?).or_default().push(event);
                }
            }
        }
        Ok(())
    }

    /// Of keys alone it is known that they are there, and nothing comes of them.
    fn take_keys(&mut self, facts: &Facts) -> Result<()> {
        for id in facts.ids.iter().filter(|id| self.classes.has(self.class, **id)) {
            self.events.entry(self.reader.key(*id)?).or_default();
        }
        Ok(())
    }

    /// Finds the versions that there are of the keys that came. Few rows are met as a rule, so that what stands for their
    /// values is read of them alone.
    async fn meet(&mut self, reach: &Reach, fates: &mut Fates) -> Result<()> {
        let (scene, sweep) = (self.scene, self.scene.merge.sweep);
        let by_time = matches!(sweep, Sweep::Keys { .. });
        let known = scene.project(|name| {
            self.reader.is_needed(name)
                || [columns::EFFECTIVE, columns::EXPIRY].contains(&name)
                || (by_time && name == columns::INGESTED_AT)
        });
        let files = files(scene, reach, self.reader, self.events.keys().copied(), fates)?;
        let sift = Sift::new(self.reader, self.classes, self.class, sweep, self.events.keys());
        let mut found = Arc::new(sift).through(scene, &known, files);
        let mut met: BTreeMap<u32, VecDeque<Met>> = BTreeMap::new();
        while let Some(sifted) = found.try_next().await? {
            self.meet_batch(&sifted, fates, &mut met)?;
        }
        drop(found);
        self.print(met).await
    }

    fn meet_batch(
        &self,
        Sifted { batch, facts, rows }: &Sifted,
        fates: &mut Fates,
        met: &mut BTreeMap<u32, VecDeque<Met>>,
    ) -> Result<()> {
        let (from, to) = (moments(batch, columns::EFFECTIVE)?, moments(batch, columns::EXPIRY)?);
        for &(row, at) in rows {
            if fates.is_dropped(at) {
                continue;
            }
            if from.is_null(row) {
                return Err(Error::new(
                    ErrorKind::CheckpointInvalid,
                    "the table has rows that are not versions (scd2)",
                )
                .hint("load the stream again with `ingest run --full-refresh`"));
            }
            if let Some(id) = facts.ids[row].filter(|id| self.events.contains_key(id)) {
                let span = Span { from: from.value(row), to: to.is_valid(row).then(|| to.value(row)) };
                let order = facts.order(row).map(Into::into);
                met.entry(at.file).or_default().push_back(Met { id, at, span, order });
            } else if facts.is_swept(self.scene.merge.sweep, row) && to.is_null(row) {
                fates.changed += 1;
                // A clock may have gone back.
                fates.patch(at, Patch::Close(self.scene.merge.now.max(from.value(row).saturating_add(1))));
            }
        }
        Ok(())
    }

    /// Makes versions of the rows that are met.
    async fn print(&mut self, mut met: BTreeMap<u32, VecDeque<Met>>) -> Result<()> {
        let scene = self.scene;
        let schema = scene.project(|name| self.prints.has(name));
        let files: Vec<_> =
            met.iter().map(|(file, rows)| (*file, selected(rows.iter().map(|met| met.at.row)))).collect();
        let (prints, schema) = (self.prints, &schema);
        let open = |(number, selection): (u32, RowSelection)| async move {
            let file = scene.table.get(number as usize);
            let file = file.ok_or_else(|| Error::unexpected("a row was met in a file that is not there"))?;
            let prints = Arc::clone(prints);
            scene.sift_part(file, schema, Part::Rows(selection), move |_, batch| Ok((number, prints.of(&batch)?))).await
        };
        let mut printed = futures::stream::iter(files).then(open).try_flatten_unordered(FILES).boxed();
        while let Some((file, prints)) = printed.try_next().await? {
            let mut rows = met.get_mut(&file);
            for prints in prints {
                let Some(Met { id, at, span, order }) = rows.as_mut().and_then(|rows| rows.pop_front()) else {
                    return Err(Error::unexpected("more rows were read than were met"));
                };
                let origin = Origin::Table(at, span.to);
                self.lines.entry(id).or_default().versions.push(Version { span, origin, prints, order });
            }
        }
        match met.values().all(VecDeque::is_empty) {
            true => Ok(()),
            false => Err(Error::unexpected("fewer rows were read than were met")),
        }
    }

    fn settle(self, fates: &mut Fates) {
        let mut lines = self.lines;
        for (id, mut events) in self.events {
            let mut line = lines.remove(&id).unwrap_or_default();
            line.versions.sort_by_key(|version| (version.span.from, version.origin.place()));
            line.read_times = self.time == columns::INGESTED_AT;
            // What is equal keeps the order in which it came.
            match line.read_times {
                true => events.sort_by(|a, b| a.order.cmp(&b.order)),
                false => events.sort_by(|a, b| (a.time, &a.order).cmp(&(b.time, &b.order))),
            }
            events.into_iter().for_each(|event| line.apply(event));
            line.write(fates);
        }
    }
}

impl Timeline {
    fn apply(&mut self, event: Event) {
        let newest = self.versions.last().filter(|_| self.read_times).map(|version| version.span);
        let least = newest.map(|span| span.to.unwrap_or_else(|| span.from.saturating_add(1)));
        let t = least.map_or(event.time, |least| event.time.max(least));
        // The last version that began by then; it covers t unless it ended before.
        let next = self.versions.partition_point(|version| version.span.from <= t);
        let last = next.checked_sub(1);
        let covering = last.filter(|last| self.versions[*last].span.to.is_none_or(|to| t < to));
        // Late by the order of the source: what is newer held, or holds, already.
        if let Some((there, came)) = last.and_then(|last| self.versions[last].order.as_ref()).zip(event.order.as_ref())
            && (came < there || (covering.is_none() && came == there))
        {
            return;
        }
        match covering {
            Some(at) if event.deleted => self.end(at, t),
            Some(at) if self.versions[at].prints.all == event.prints.all => {}
            Some(at) if self.versions[at].prints.tracked == event.prints.tracked => self.restate(at, event),
            Some(at) if self.versions[at].span.from == t => self.restate(at, event),
            Some(at) => {
                let to = self.versions[at].span.to.replace(t);
                self.insert(at + 1, event, Span { from: t, to });
            }
            None if event.deleted => {}
            None => {
                let to = self.versions.get(next).map(|version| version.span.from);
                self.insert(next, event, Span { from: t, to });
            }
        }
    }

    fn insert(&mut self, place: usize, event: Event, span: Span) {
        let origin = Origin::Came(event.at, event.time);
        let version = Version { span, origin, prints: event.prints, order: event.order };
        self.versions.insert(place, version);
    }

    /// The row takes the place of a version, for as long as that holds.
    fn restate(&mut self, at: usize, event: Event) {
        let span = self.versions[at].span;
        self.remove(at);
        self.insert(at, event, span);
    }

    fn end(&mut self, at: usize, t: i64) {
        if self.versions[at].span.from == t {
            self.remove(at);
        } else {
            self.versions[at].span.to = Some(t);
        }
    }

    fn remove(&mut self, at: usize) {
        if let Origin::Table(row, _) = self.versions.remove(at).origin {
            self.removed.push(row);
        }
    }

    /// Writes down what differs from before.
    fn write(self, fates: &mut Fates) {
        for at in self.removed {
            fates.drop_row(at);
            fates.changed += 1;
        }
        for version in self.versions {
            match version.origin {
                Origin::Came(at, own) => {
                    fates.keep(at);
                    fates.changed += 1;
                    if own != version.span.from || version.span.to.is_some() {
                        fates.span(at, version.span);
                    }
                }
                Origin::Table(at, was) => {
                    if let Some(to) = version.span.to.filter(|to| Some(*to) != was) {
                        fates.patch(at, Patch::Close(to));
                        fates.changed += 1;
                    }
                }
            }
        }
    }
}

/// Makes numbers that stand for the values of rows.
struct Printer {
    tracked: Columns,
    /// Beside those that are tracked.
    others: Option<Columns>,
    digest: Digest,
}

struct Columns {
    names: Vec<String>,
    types: Vec<DataType>,
    converter: RowConverter,
}

impl Printer {
    fn new(scene: &Scene, tracked: &[String]) -> Result<Self> {
        let is_data = |name: &str| {
            let ours = [columns::EFFECTIVE, columns::EXPIRY, columns::CURRENT];
            name == columns::RESCUED
                || !(columns::is_reserved(name)
                    || ours.contains(&name)
                    || scene.partition_by.iter().any(|p| p == name)
                    || scene.merge.key.iter().any(|key| key == name))
        };
        let names = |wanted: bool| -> Vec<String> {
            let fields = scene.schema.fields().iter().map(|f| f.name().clone());
            fields.filter(|name| is_data(name) && tracked.contains(name) == wanted).collect()
        };
        let others = names(false);
        Ok(Self {
            tracked: Columns::new(scene, names(true))?,
            others: (!others.is_empty()).then(|| Columns::new(scene, others)).transpose()?,
            digest: Digest::new(),
        })
    }

    fn has(&self, name: &str) -> bool {
        let among = |columns: &Columns| columns.names.iter().any(|column| column == name);
        among(&self.tracked) || self.others.as_ref().is_some_and(among)
    }

    fn of(&self, batch: &RecordBatch) -> Result<Vec<Prints>> {
        let tracked = self.tracked.rows(batch)?;
        let others = self.others.as_ref().map(|others| others.rows(batch)).transpose()?;
        let print = |row: usize| {
            let tracked = self.digest.of(tracked.row(row).as_ref());
            let others = others.as_ref().map_or(0, |others| self.digest.of(others.row(row).as_ref()));
            Prints { tracked, all: tracked.rotate_left(1) ^ others }
        };
        Ok((0..batch.num_rows()).map(print).collect())
    }
}

impl Columns {
    fn new(scene: &Scene, names: Vec<String>) -> Result<Self> {
        let mut types = Vec::with_capacity(names.len());
        for name in &names {
            let data_type = plain_type(scene.schema.field_with_name(name)?.data_type());
            let sort = arrow::row::SortField::new(data_type.clone());
            if !RowConverter::supports_fields(std::slice::from_ref(&sort)) {
                return Err(Error::config("versions cannot be told apart by a column of this type")
                    .with("column", name)
                    .with("type", &data_type)
                    .hint("leave the column out with `columns`"));
            }
            types.push(data_type);
        }
        Ok(Self { converter: converter(types.clone())?, names, types })
    }

    fn rows(&self, batch: &RecordBatch) -> Result<arrow::row::Rows> {
        if self.names.is_empty() {
            // A converter of no columns gives no rows.
            let none: ArrayRef = std::sync::Arc::new(arrow_array::NullArray::new(batch.num_rows()));
            return Ok(converter(vec![DataType::Null])?.convert_columns(&[none])?);
        }
        let arrays = self.names.iter().zip(&self.types).map(|(name, data_type)| match batch.column_by_name(name) {
            Some(array) => plain(array),
            None => Ok(arrow_array::new_null_array(data_type, batch.num_rows())),
        });
        Ok(self.converter.convert_columns(&arrays.collect::<Result<Vec<_>>>()?)?)
    }
}

/// Maps are compared as the lists that they are made of.
fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Map(entries, _) => DataType::List(entries.clone()),
        other => other.clone(),
    }
}

fn plain(array: &ArrayRef) -> Result<ArrayRef> {
    let DataType::Map(entries, _) = array.data_type() else { return Ok(array.clone()) };
    let map = array.as_map();
    let values: ArrayRef = std::sync::Arc::new(map.entries().clone());
    let list = ListArray::try_new(entries.clone(), map.offsets().clone(), values, map.nulls().cloned())?;
    Ok(std::sync::Arc::new(list))
}

/// When rows begin to hold: their own time, else when they were read, else now.
pub(super) fn times(batch: &RecordBatch, column: &str, now: i64) -> Result<TimestampMicrosecondArray> {
    let own = moments(batch, column)?;
    if own.null_count() == 0 {
        return Ok(own);
    }
    let read = moments(batch, columns::INGESTED_AT)?;
    let pick = |row: usize| {
        let of = |array: &TimestampMicrosecondArray| array.is_valid(row).then(|| array.value(row));
        of(&own).or_else(|| of(&read)).unwrap_or(now)
    };
    Ok((0..batch.num_rows()).map(|row| Some(pick(row))).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

/// A column as moments in UTC; all null where the batch does not have it.
fn moments(batch: &RecordBatch, column: &str) -> Result<TimestampMicrosecondArray> {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let array = match batch.column_by_name(column) {
        Some(array) => cast(array, &utc)?,
        None => arrow_array::new_null_array(&utc, batch.num_rows()),
    };
    Ok(array.as_primitive::<TimestampMicrosecondType>().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(time: i64, value: u128, row: u32) -> Event {
        Event {
            time,
            order: None,
            at: At { file: 0, row },
            prints: Prints { tracked: value, all: value },
            deleted: false,
        }
    }

    fn ordered(order: u8, event: Event) -> Event {
        Event { order: Some(Box::from([order])), ..event }
    }

    fn delete(time: i64) -> Event {
        Event { deleted: true, ..event(time, 0, 99) }
    }

    fn line(events: impl IntoIterator<Item = Event>) -> Vec<(i64, Option<i64>, u128)> {
        line_of(false, events)
    }

    fn line_of(read_times: bool, events: impl IntoIterator<Item = Event>) -> Vec<(i64, Option<i64>, u128)> {
        let mut line = Timeline { read_times, ..Timeline::default() };
        events.into_iter().for_each(|event| line.apply(event));
        line.versions.iter().map(|v| (v.span.from, v.span.to, v.prints.tracked)).collect()
    }

    #[test]
    fn versions_follow_one_another_without_a_gap() {
        assert_eq!(line([event(10, 1, 0), event(20, 2, 1)]), [(10, Some(20), 1), (20, None, 2)]);
    }

    #[test]
    fn an_equal_row_changes_nothing() {
        assert_eq!(line([event(10, 1, 0), event(20, 1, 1)]), [(10, None, 1)]);
    }

    #[test]
    fn a_late_row_finds_its_place() {
        let expected = [(10, Some(15), 1), (15, Some(20), 3), (20, None, 2)];
        assert_eq!(line([event(10, 1, 0), event(20, 2, 1), event(15, 3, 2)]), expected);
        assert_eq!(line([event(10, 1, 0), event(5, 4, 1)]), [(5, Some(10), 4), (10, None, 1)]);
    }

    #[test]
    fn a_delete_closes_and_a_row_after_it_opens_anew() {
        assert_eq!(line([event(10, 1, 0), delete(20)]), [(10, Some(20), 1)]);
        let expected = [(10, Some(20), 1), (30, None, 1)];
        assert_eq!(line([event(10, 1, 0), delete(20), event(30, 1, 1)]), expected);
        assert_eq!(line([event(10, 1, 0), delete(10)]), [], "it held for no time");
        assert_eq!(line([delete(10)]), []);
    }

    #[test]
    fn a_row_of_the_same_moment_takes_the_place_of_the_one_before() {
        assert_eq!(line([event(10, 1, 0), event(10, 2, 1)]), [(10, None, 2)]);
    }

    #[test]
    fn a_row_that_is_late_by_its_order_changes_nothing() {
        let newer = ordered(2, event(20, 2, 0));
        assert_eq!(line([newer.clone(), ordered(1, event(30, 1, 1))]), [(20, None, 2)]);
        // Sent again after its key was deleted.
        let closed = ordered(3, delete(25));
        assert_eq!(line([newer.clone(), closed, ordered(2, event(30, 2, 1))]), [(20, Some(25), 2)]);
        // Its own time lies before.
        assert_eq!(line([newer, ordered(1, event(10, 1, 1))]), [(10, Some(20), 1), (20, None, 2)]);
    }

    #[test]
    fn a_clock_that_goes_back_moves_no_row_into_the_past() {
        let later = ordered(2, event(5, 2, 1));
        assert_eq!(line_of(true, [ordered(1, event(10, 1, 0)), later]), [(10, Some(11), 1), (11, None, 2)]);
        let again = [event(10, 1, 0), delete(20), event(5, 1, 1)];
        assert_eq!(line_of(true, again), [(10, Some(20), 1), (20, None, 1)]);
        assert_eq!(line_of(true, [event(10, 1, 0), event(10, 2, 1)]), [(10, Some(11), 1), (11, None, 2)]);
        assert_eq!(line_of(true, [event(10, 1, 0), delete(10)]), [(10, Some(11), 1)]);
    }

    #[test]
    fn what_is_not_tracked_is_restated() {
        let mut other = event(20, 1, 1);
        other.prints.all = 7;
        let mut line = Timeline::default();
        line.apply(event(10, 1, 0));
        line.apply(other);
        assert_eq!(line.versions.len(), 1);
        assert_eq!((line.versions[0].span, line.versions[0].prints.all), (Span { from: 10, to: None }, 7));
    }
}
