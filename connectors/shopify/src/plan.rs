//! Planning: which lists together give what is asked for.

use std::collections::BTreeMap;

use ingest_core::{
    Error, ErrorKind, Estimate, Mode, Plan, PlanRequest, Result, Selected, Shape, Slice, SliceId, StreamName,
};
use serde_json::{Value, json};

use crate::Shopify;
use crate::state::{Position, Window, Work, cursor_id};
use crate::streams::{Def, Origin, find};

/// From when to when; microseconds since 1970, half-open.
type Bounds = (Option<i64>, Option<i64>);

/// Makes the plan of a request: all its streams come from one list.
pub(crate) async fn plan(shopify: &Shopify, request: &PlanRequest<Position>) -> Result<Plan<Work, Position>> {
    // The answer tells the time: a clock may be set while a process lives.
    let _: Value = shopify.api.ask("{ shop { id } }", json!({})).await?;
    let at = shopify.api.now();
    let lag = i64::try_from(shopify.config.lag.0.as_micros()).unwrap_or(i64::MAX);
    let head = at.saturating_sub(lag).div_euclid(1_000_000) * 1_000_000;
    let mut lists: BTreeMap<(&'static str, Bounds), Vec<(StreamName, bool)>> = BTreeMap::new();
    let mut plan = Plan::default();
    for selected in &request.streams {
        let name = &selected.stream.name;
        let def = find(name.as_str())?;
        let window =
            window(shopify, def, selected, request.interval, head).map_err(|error| error.with("stream", name))?;
        let Some(bounds) = window else { continue };
        // A table that holds something has to lose what is deleted.
        let follows = selected.mode == Mode::Incremental && selected.positions.contains_key(&cursor_id());
        let deletes = follows && request.interval.is_none() && def.deleted.is_some();
        lists.entry((def.root(), bounds)).or_default().push((name.clone(), deletes));
        if selected.mode == Mode::Incremental && request.interval.is_none() {
            let then = BTreeMap::from([(cursor_id(), Some(Position::Until { to: head }))]);
            plan.then.insert(name.clone(), then);
        }
    }
    for ((list, (from, to)), streams) in lists {
        let is_bulk = matches!(find(list)?.origin, Origin::List(..));
        let names = streams.iter().map(|(name, _)| name.clone()).collect();
        let window = Window { list: list.into(), from, to, deleted: false, at };
        plan.slices.push(slice(window, names, is_bulk));
        let deleted: Vec<_> = streams.into_iter().filter(|(_, deletes)| *deletes).map(|(name, _)| name).collect();
        if !deleted.is_empty() {
            let window = Window { list: list.into(), from, to, deleted: true, at };
            plan.slices.push(slice(window, deleted, false));
        }
    }
    Ok(plan)
}

/// What is read of a stream; `None` = nothing is new.
fn window(
    shopify: &Shopify,
    def: &Def,
    selected: &Selected<Position>,
    interval: Option<(i64, i64)>,
    head: i64,
) -> Result<Option<Bounds>> {
    let held = match selected.positions.get(&cursor_id()) {
        None => None,
        Some(Position::Until { to }) => Some(*to),
        Some(_) => {
            return Err(Error::new(ErrorKind::CheckpointInvalid, "a stream stands at a position of another kind")
                .hint("`ingest state reset` forgets it; the next run loads the stream again"));
        }
    };
    let start =
        shopify.config.start.filter(|_| !def.is_whole_each_time()).map(|start| start.0.saturating_mul(1_000_000));
    match (selected.mode, interval) {
        (_, Some(_)) if def.cursor.is_none() => {
            Err(Error::config("an interval needs a stream that is read by a cursor")
                .hint("leave the stream out of this run"))
        }
        (_, Some((start, end))) => {
            let to = held.map_or(end, |held| end.min(held));
            Ok((start < to).then_some((Some(start), Some(to))))
        }
        (Mode::Full, None) => Ok(Some((start, None))),
        (Mode::Incremental, None) if !def.is_whole_each_time() => {
            let from = held.or(start);
            Ok(from.is_none_or(|from| from < head).then_some((from, Some(head))))
        }
        (Mode::Incremental | Mode::Cdc, None) => {
            let modes: Vec<_> = selected.stream.modes.iter().map(ToString::to_string).collect();
            Err(Error::new(ErrorKind::Unsupported, "cannot read the stream in this mode")
                .with("mode", selected.mode)
                .hint(format!("its modes are: {}", modes.join(", "))))
        }
    }
}

fn slice(window: Window, streams: Vec<StreamName>, is_bulk: bool) -> Slice<Work> {
    let what = if window.deleted { "deleted" } else { "list" };
    let edge = |bound: Option<i64>| bound.map(|bound| bound.to_string()).unwrap_or_default();
    let id = SliceId::new(format!("{what}:{}:{}-{}", window.list, edge(window.from), edge(window.to)));
    // Started, looked at, its result fetched; pages are one at least.
    let calls = Some(if is_bulk { 3 } else { 1 });
    let (shape, work) = match is_bulk {
        // A result lives for a week, and is what the shop was like when it was made.
        true => (Shape::Snapshot, Work::Bulk(window)),
        false => (Shape::Window, Work::Pages(window)),
    };
    Slice { id, streams, shape, work, estimate: Estimate { calls, ..Estimate::default() } }
}

/// The condition of a window, in Shopify's search syntax; empty where there is none.
pub(crate) fn filter(field: &str, work: &Window) -> String {
    // Whole seconds: a bound between two of them means the later one.
    let second = |micros: i64| {
        let seconds = (micros - 1).div_euclid(1_000_000) + 1;
        chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default().format("%Y-%m-%dT%H:%M:%SZ").to_string()
    };
    let mut all = Vec::new();
    if let Some(from) = work.from.filter(|_| !field.is_empty()) {
        all.push(format!("{field}:>='{}'", second(from)));
    }
    if let Some(to) = work.to.filter(|_| !field.is_empty()) {
        all.push(format!("{field}:<'{}'", second(to)));
    }
    all.join(" AND ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_half_open_in_whole_seconds() {
        let mut window = Window { list: "orders".into(), from: None, to: None, deleted: false, at: 0 };
        assert_eq!(filter("updated_at", &window), "");
        (window.from, window.to) = (Some(1_000_000), Some(1_500_000));
        assert_eq!(
            filter("updated_at", &window),
            "updated_at:>='1970-01-01T00:00:01Z' AND updated_at:<'1970-01-01T00:00:02Z'"
        );
        assert_eq!(filter("", &window), "");
    }
}
