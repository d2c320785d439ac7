//! Plans of streams that follow changes: what is there now, and the time from which changes come.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ingest_core::{Error, ErrorKind, Estimate, Plan, Result, Selected, Shape, Slice, SliceId, StreamName};

use crate::catalog::{Collection, Sort};
use crate::plan::{Planner, wanted};
use crate::work::{Feed, FeedPosition, Part, Position, Work};

/// The feed, and the name of each collection's position in it.
pub(crate) const FEED: &str = "changes";

/// Plans all streams together: one feed serves them.
///
/// Collections that hold nothing yet are loaded by ranges of `_id` while they change; the feed starts before. A document may so come
/// as it was loaded, and again as it was changed: in the order of `_ingest_seq` the last one is what the source holds.
pub(crate) async fn plan(
    planner: &Planner<'_>,
    collections: &HashMap<StreamName, Arc<Collection>>,
) -> Result<Plan<Work, Position>> {
    let (mut plan, request) = (Plan::default(), planner.request);
    let scope = super::scope(planner.server, &planner.hello)?;
    let (mut columns, mut streams) = (BTreeMap::new(), Vec::new());
    let mut begin = None;
    for selected in &request.streams {
        let name = &selected.stream.name;
        let collection = collections.get(name).ok_or_else(|| crate::streams::missing().with("stream", name))?;
        expect_captured(collection, selected).map_err(|error| error.with("stream", name))?;
        wanted(selected, planner.server.settings().config.documents)?;
        if let Some(wanted) = &selected.columns {
            columns.insert(name.clone(), wanted.clone());
        }
        streams.push(name.clone());
        if let Some(position) = selected.positions.get(&SliceId::from(FEED)) {
            expect_scope(position, &scope)?;
            continue;
        }
        // One time for all: it lies before whatever is read after it.
        let begin = match &begin {
            Some(begin) => begin,
            None => &*begin.insert(FeedPosition::before(scope.clone(), planner.server.time().await?)),
        };
        let work = Work { start: Some(begin.clone()), ..planner.work(selected)? };
        let slices = planner.all(collection, work).await.map_err(|error| error.with("stream", name))?;
        plan.slices.extend(slices);
        let position = Some(Position::Feed(begin.clone()));
        plan.then.insert(name.clone(), BTreeMap::from([(SliceId::from(FEED), position)]));
    }
    plan.slices.push(Slice {
        id: SliceId::from(FEED),
        streams,
        shape: Shape::Feed,
        work: Work { feed: Some(Feed { columns }), part: Part::Unordered, ..Work::default() },
        estimate: Estimate::default(),
    });
    Ok(plan)
}

/// A position is worth nothing in another stream of the server.
pub(crate) fn expect_scope(position: &Position, scope: &str) -> Result<()> {
    match position {
        Position::Feed(at) if at.scope == scope => Ok(()),
        Position::Feed(at) => {
            Err(Error::new(ErrorKind::CheckpointInvalid, "cdc: the position is one of another replica set or database")
                .with("was", &at.scope)
                .with("is", scope)
                .hint("correct `uri` and `database`, or load each stream again with `ingest run --resync STREAM`"))
        }
        _ => Err(crate::select::foreign()),
    }
}

fn expect_captured(collection: &Collection, selected: &Selected<Position>) -> Result<()> {
    if collection.sort != Sort::Collection {
        return Err(Error::config("cdc: views and time series have no changes")
            .hint("capture the collections that a view reads, or use `mode: full`"));
    }
    if selected.filter.is_some() {
        return Err(Error::new(ErrorKind::Unsupported, "cdc: `where` cannot be applied to changes")
            .hint("leave `where` out, and filter where the table is read"));
    }
    Ok(())
}
