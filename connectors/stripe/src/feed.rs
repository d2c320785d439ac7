//! The event feed of an account: which objects changed, in which order, and what became of them.
//!
//! Events are taken as a feed of ids: `data.object` has the shape of the API version that the account had when the
//! event was made, so each object is read again. Stripe lists events newest first, so the feed goes from window to
//! window; inside one, only the latest event of an object counts.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use ingest_core::{Done, Error, ErrorKind, Out, Result, StreamName};
use ingest_http::PageGuard;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::Stripe;
use crate::apply::Apply;
use crate::plan::{kept, stream_def};
use crate::state::Position;
use crate::streams::{Def, TOLD};

/// Events of a window that are kept at once; more, and the window is made shorter.
const EVENTS: usize = 20_000;

/// Bytes of their payloads that are kept at once.
const PAYLOADS: usize = 16 << 20;

/// Even a window of one second ends somewhere.
const EVENTS_OF_A_SECOND: usize = 500_000;

/// Ids of a second that a position holds; beyond it the second counts as over.
const SEEN: usize = 10_000;

/// `types[]` takes so many values; beyond it all events are listed.
const TYPES: usize = 20;

/// What one event says.
#[derive(Debug)]
struct Event {
    id: String,
    created: i64,
    /// The objects it tells of: of which definition, and whether they are gone.
    told: Vec<(&'static Def, bool)>,
    object: String,
    fresh: bool,
    /// The object as it is in the event, where that is wanted.
    payload: Option<String>,
    /// Ids that nested lists had before.
    previous: Vec<String>,
}

/// What became of an object within a window.
#[derive(Debug)]
pub(crate) struct Change {
    pub def: &'static Def,
    pub id: String,
    pub created: i64,
    /// Which event of its second.
    pub nth: u64,
    pub deleted: bool,
    /// Made and changed within the window.
    pub fresh: bool,
    /// Two events of one second disagree whether the object is there.
    pub disputed: bool,
    pub payload: Option<String>,
    pub previous: BTreeSet<String>,
    /// Some of `previous` is known from an earlier event alone.
    carried: bool,
}

/// The place that was reached: all events of earlier seconds, and those named of this one.
#[derive(Debug, Clone)]
struct Place {
    through: i64,
    nth: u64,
    seen: Vec<String>,
}

impl Place {
    fn of(position: &Position) -> Result<Self> {
        match position {
            Position::Events { through, nth, seen } => Ok(Self { through: *through, nth: *nth, seen: seen.clone() }),
            _ => Err(Error::new(ErrorKind::CheckpointInvalid, "the event feed stands at a position of another kind")
                .hint("load each stream again with `ingest run --resync STREAM`")),
        }
    }

    /// The first second that is still to be listed.
    fn from(&self) -> i64 {
        // Where a second had too many events to be named it counts as over; so does the one before a feed begins.
        if usize::try_from(self.nth) == Ok(self.seen.len()) { self.through } else { self.through + 1 }
    }

    fn position(&self) -> Position {
        Position::Events { through: self.through, nth: self.nth, seen: self.seen.clone() }
    }
}

/// Reads events after `from` up to a time at which they all can be seen, and the objects they tell of.
pub(crate) async fn follow(
    stripe: &Stripe,
    account: Option<&str>,
    streams: &[StreamName],
    from: &Position,
    out: &mut Out<'_, Position>,
) -> Result<Done> {
    let mut place = Place::of(from)?;
    stripe.learn_time("events", account).await?;
    kept(stripe.api.now(), place.through)?;
    let head = stripe.head();
    let defs = streams.iter().map(stream_def).collect::<Result<Vec<_>>>()?;
    let feed = Feed { stripe, account, types: types(&defs), defs };
    let mut apply = Apply::new(stripe, account, streams)?;
    let mut length = head.saturating_sub(place.from());
    while place.through < head {
        let to = head.min(place.from().saturating_add(length.max(0)));
        let events = match feed.window(place.from(), to, &place.seen).await? {
            Window::Whole(events) => events,
            Window::TooLarge(next) => {
                length = next;
                continue;
            }
        };
        // As of the answers that just came: what was too old by then is missing in them.
        kept(stripe.api.now(), place.through)?;
        place = apply_window(&mut apply, events, place, to, out).await?;
        out.mark(&place.position()).await?;
        length = length.saturating_mul(2).max(1);
    }
    Ok(Done::CaughtUp)
}

/// Event types that tell of the streams; none where there are more than the API takes.
fn types(defs: &[&'static Def]) -> Vec<String> {
    let types: BTreeSet<String> = defs.iter().flat_map(|def| def.event_types()).collect();
    if types.len() > TYPES { Vec::new() } else { types.into_iter().collect() }
}

struct Feed<'a> {
    stripe: &'a Stripe,
    account: Option<&'a str>,
    defs: Vec<&'static Def>,
    types: Vec<String>,
}

enum Window {
    /// All events, newest first.
    Whole(Vec<Event>),
    /// There are too many: a window of so many seconds more should do.
    TooLarge(i64),
}

impl Feed<'_> {
    /// The events of `[from, to]`, but for those that were seen.
    async fn window(&self, from: i64, to: i64, seen: &[String]) -> Result<Window> {
        let seen: HashSet<&str> = seen.iter().map(String::as_str).collect();
        let (mut events, mut bytes) = (Vec::new(), 0);
        let (mut after, mut guard): (Option<String>, _) = (None, PageGuard::new());
        loop {
            let mut query: Vec<(&str, String)> = self.types.iter().map(|kind| ("types[]", kind.clone())).collect();
            query.push(("created[gte]", from.to_string()));
            query.push(("created[lte]", to.to_string()));
            if let Some(after) = &after {
                query.push(("starting_after", after.clone()));
            }
            let body = match self.stripe.api.list(self.account, "events", "events", &query).await {
                Ok(body) => body,
                Err(error) if error.kind() == ErrorKind::NotFound && after.is_some() => {
                    return Err(Error::new(ErrorKind::CheckpointInvalid, "events grew too old while they were read")
                        .hint("load each stream again with `ingest run --resync STREAM`")
                        .caused_by(error));
                }
                Err(error) => return Err(error.with("stream", "events")),
            };
            let page = self.page(&body)?;
            after = page.last;
            for event in page.events {
                if event.created != from || !seen.contains(event.id.as_str()) {
                    bytes += event.payload.as_ref().map_or(0, String::len);
                    events.push(event);
                }
            }
            let Some(last) = after.as_deref().filter(|_| page.more) else { return Ok(Window::Whole(events)) };
            guard.next(last)?;
            if events.len() > EVENTS || bytes > PAYLOADS {
                let oldest = events.last().map_or(from, |event| event.created);
                // The events seen so far cover the end of the window: half of that time holds half as many.
                if oldest > from || to > from {
                    return Ok(Window::TooLarge(((to - oldest) / 2).min((to - from) / 2)));
                }
                if events.len() > EVENTS_OF_A_SECOND {
                    return Err(Error::new(ErrorKind::LimitExceeded, "one second has more events than the limit")
                        .with("limit", EVENTS_OF_A_SECOND));
                }
            }
        }
    }

    fn page(&self, body: &[u8]) -> Result<EventPage> {
        #[derive(Deserialize)]
        struct Raw<'a> {
            #[serde(borrow)]
            data: Vec<RawEvent<'a>>,
            #[serde(default)]
            has_more: bool,
        }
        let page: Raw<'_> = serde_json::from_slice(body).map_err(|error| {
            Error::new(ErrorKind::DataInvalid, "a page of events has not the shape that was expected")
                .with("line", error.line())
                .with("column", error.column())
        })?;
        let last = page.data.last().map(|event| event.id.clone());
        let events = page.data.into_iter().map(|raw| self.event(raw)).collect();
        Ok(EventPage { events, last, more: page.has_more })
    }

    fn event(&self, raw: RawEvent<'_>) -> Event {
        let mut event = Event {
            fresh: raw.kind.ends_with(".created"),
            id: raw.id,
            created: raw.created,
            told: Vec::new(),
            object: String::new(),
            payload: None,
            previous: Vec::new(),
        };
        let Some(object) = raw.data.object else { return event };
        let head: ObjectHead = serde_json::from_str(object.get()).unwrap_or_default();
        for told in TOLD.get(&raw.kind).into_iter().flatten() {
            let reread = told.def.reread();
            if self.defs.iter().any(|def| def.name == told.def.name)
                && !event.told.iter().any(|(def, _)| def.name == reread.name)
            {
                event.told.push((reread, told.deleted));
            }
        }
        // The event of a refunded application fee shows the refund, which names its fee.
        let id = if head.object.as_deref() == Some("fee_refund") { head.fee } else { head.id };
        let Some(id) = id.filter(|id| !id.is_empty()) else {
            event.told.clear();
            return event;
        };
        event.object = id;
        let deleted = event.told.iter().any(|(_, deleted)| *deleted);
        if !event.told.is_empty() && (deleted || !self.stripe.config.hydrate) {
            event.payload = Some(object.get().to_owned());
        }
        if let Some(previous) = raw.data.previous_attributes {
            event.previous = previous_ids(previous.get(), &event.told);
        }
        event
    }
}

struct EventPage {
    events: Vec<Event>,
    last: Option<String>,
    more: bool,
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    id: String,
    created: i64,
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    data: RawData<'a>,
}

#[derive(Deserialize)]
struct RawData<'a> {
    #[serde(borrow, default)]
    object: Option<&'a RawValue>,
    #[serde(borrow, default)]
    previous_attributes: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ObjectHead {
    id: Option<String>,
    object: Option<String>,
    fee: Option<String>,
}

/// The ids that the nested list of an object had before a change.
fn previous_ids(previous: &str, told: &[(&'static Def, bool)]) -> Vec<String> {
    #[derive(Deserialize)]
    struct List {
        #[serde(default)]
        data: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        id: Option<String>,
    }
    let Ok(members) = serde_json::from_str::<HashMap<String, &RawValue>>(previous) else { return Vec::new() };
    let lists = told.iter().flat_map(|(def, _)| def.nested).filter_map(|nested| members.get(nested.field));
    lists
        .filter_map(|list| serde_json::from_str::<List>(list.get()).ok())
        .flat_map(|list| list.data.into_iter().filter_map(|entry| entry.id))
        .collect()
}

/// Numbers the events of a window, reduces them to the latest of each object, and gives out what became of those.
async fn apply_window(
    apply: &mut Apply<'_>,
    mut events: Vec<Event>,
    before: Place,
    to: i64,
    out: &mut Out<'_, Position>,
) -> Result<Place> {
    // Newest first from the server; inside a second that is the only order there is.
    events.reverse();
    events.sort_by_key(|event| event.created);
    let (mut places, mut changes) = (Vec::<Place>::new(), BTreeMap::<(&str, String), Change>::new());
    let mut place = before.clone();
    for event in events {
        if event.created > place.through {
            let finished = std::mem::replace(&mut place, Place { through: event.created, nth: 0, seen: Vec::new() });
            places.push(finished);
        }
        place.nth += 1;
        if place.seen.len() < SEEN {
            place.seen.push(event.id.clone());
        }
        for (def, deleted) in &event.told {
            note(&mut changes, def, *deleted, &event, place.nth);
        }
    }
    places.push(place.clone());
    let mut changes: Vec<Change> = changes.into_values().collect();
    changes.sort_by_key(|change| (change.created, change.nth));
    // A mark between the two events would forget what only the earlier one says.
    let carried = changes.iter().any(|change| change.carried);
    let mut places = places.into_iter().peekable();
    apply
        .changes(changes, out, |created| {
            // The last place before the second of what comes next: all up to there is out.
            let mut reached = None;
            while let Some(place) = places.next_if(|place| place.through < created && !carried) {
                reached = Some(place.position());
            }
            reached
        })
        .await?;
    Ok(if place.through < to { Place { through: to, nth: 0, seen: Vec::new() } } else { place })
}

fn note(
    changes: &mut BTreeMap<(&'static str, String), Change>,
    def: &'static Def,
    deleted: bool,
    event: &Event,
    nth: u64,
) {
    let key = (def.name, event.object.clone());
    let earlier = changes.remove(&key);
    let mut change = Change {
        def,
        id: event.object.clone(),
        created: event.created,
        nth,
        deleted,
        fresh: event.fresh,
        disputed: false,
        payload: event.payload.clone(),
        previous: event.previous.iter().cloned().collect(),
        carried: false,
    };
    if let Some(earlier) = earlier {
        change.fresh |= earlier.fresh;
        change.disputed = earlier.created == event.created && (earlier.disputed || earlier.deleted != deleted);
        change.carried = earlier.carried || !earlier.previous.is_empty();
        change.previous.extend(earlier.previous);
    }
    changes.insert(key, change);
}
