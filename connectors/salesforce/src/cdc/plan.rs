//! Plans of objects that follow changes: what is there now, and the place from which changes come.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use ingest_core::{Error, ErrorKind, Intent, Plan, Result, Shape, Slice, SliceId};

use super::pubsub::From;
use super::topic;
use crate::plan::Planner;
use crate::state::{Position, Work};

/// Under which an object keeps its place among its changes.
pub(crate) fn feed_id(object: &str) -> SliceId {
    SliceId::new(format!("changes:{object}"))
}

/// Adds what an object needs: a load where its table holds nothing yet, and its changes.
///
/// The place from which changes come is taken before the load. A row may so come as it was loaded, and again as it was changed: in the
/// order of `_ingest_seq` the last one is what the source holds.
pub(crate) async fn plan(mut planner: Planner<'_>, plan: &mut Plan<Work, Position>) -> Result<()> {
    if planner.selected.filter.is_some() {
        return Err(Error::new(ErrorKind::Unsupported, "cdc: `where` cannot be applied to changes")
            .hint("leave `where` out, and filter where the table is read"));
    }
    let (object, name) = (planner.object.name.clone(), planner.selected.stream.name.clone());
    let id = feed_id(&object);
    let feed = Slice {
        id: id.clone(),
        streams: vec![name.clone()],
        shape: Shape::Feed,
        work: Work { topic: Some(topic(&object)), ..planner.work.clone() },
        estimate: ingest_core::Estimate::default(),
    };
    match planner.selected.positions.get(&id) {
        Some(Position::Feed { .. }) => {}
        Some(_) => return Err(crate::extract::foreign(&name)),
        None => {
            let begin = begin(&planner, &object).await?;
            plan.then.insert(name, BTreeMap::from([(id, Some(begin))]));
            planner.work.from = planner.start();
            planner.counted(plan).await?;
        }
    }
    plan.slices.push(feed);
    Ok(())
}

/// The place behind the last change that is there now. A quiet topic may not tell it in time: then everything that is kept is read, and
/// what was committed well before the load is passed over.
async fn begin(planner: &Planner<'_>, object: &str) -> Result<Position> {
    let salesforce = planner.salesforce;
    let since = salesforce.api.now().div_euclid(1_000) - MARGIN;
    let mut place = Position::Feed { replay: None, time: 0, rows: 0, since };
    if planner.request.intent == Intent::Explain {
        return Ok(place);
    }
    let client = salesforce.pubsub.connect(&salesforce.api, None).await?;
    let mut stream = client.subscribe(&topic(object), From::Now, 1).await?;
    if let Ok(answer) = tokio::time::timeout(salesforce.config.quiet.0, stream.next()).await
        && let Some(answer) = answer?
    {
        // An event that came meanwhile is older than the load.
        let last = answer.events.last().map_or(answer.latest_replay_id, |event| event.replay_id.clone());
        if let Position::Feed { replay, .. } = &mut place
            && !last.is_empty()
        {
            *replay = Some(BASE64.encode(last));
        }
    }
    Ok(place)
}

/// Milliseconds before the load within which a change may not be in it: rows become visible after their time.
const MARGIN: i64 = 600_000;
