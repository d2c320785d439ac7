//! Planning: which lists and feeds together give what is asked for. Pure: the time comes from outside.

use std::collections::BTreeMap;

use ingest_core::{
    Error, ErrorKind, Estimate, Intent, Mode, Plan, PlanRequest, Result, Selected, Shape, Slice, SliceId, StreamName,
};

use crate::config::StripeConfig;
use crate::state::{ListWork, Position, Work, created_id, feed_id, listed_id};
use crate::streams::{self, Changes, Def, Origin};

/// Events are kept for 30 days; a feed that stands further back than this has lost some, or is about to.
pub(crate) const EVENTS_KEPT: i64 = 29 * 86_400;

/// Stripe's first day: the lower end of lists that are cut for several machines.
const OLDEST: i64 = 1_317_254_400;

/// The streams whose changes do not all make an event; see [`crate::config::Reconcile`].
const RECONCILED: [&str; 5] =
    ["payment_intents", "setup_intents", "invoice_items", "checkout_sessions", "balance_transactions"];

/// What a plan is made of, besides the request.
pub(crate) struct Planner<'a> {
    pub config: &'a StripeConfig,
    /// The time, by our clock or the server's, whichever is behind.
    pub now: i64,
    lists: BTreeMap<(ListWork, &'static str), Vec<StreamName>>,
    feeds: BTreeMap<Option<String>, Vec<StreamName>>,
    then: BTreeMap<StreamName, BTreeMap<SliceId, Option<Position>>>,
}

/// Makes the plan of a request.
pub(crate) fn plan(config: &StripeConfig, now: i64, request: &PlanRequest<Position>) -> Result<Plan<Work, Position>> {
    let lists = BTreeMap::new();
    let mut planner = Planner { config, now, lists, feeds: BTreeMap::new(), then: BTreeMap::new() };
    for selected in &request.streams {
        let def = stream_def(&selected.stream.name)?;
        let accounts = if def.platform { vec![None] } else { config.accounts() };
        for account in accounts {
            planner.stream(def, selected, account, request.interval)?;
        }
    }
    let parts = if request.intent == Intent::Portable { i64::from(request.min_slices.max(1)) } else { 1 };
    Ok(planner.finish(parts))
}

/// The definition of a stream that was selected.
pub(crate) fn stream_def(name: &StreamName) -> Result<&'static Def> {
    streams::find(name.as_str()).ok_or_else(|| {
        Error::config("there is no such stream").with("stream", name).hint("`ingest discover` lists the streams")
    })
}

impl Planner<'_> {
    fn stream(
        &mut self,
        def: &'static Def,
        selected: &Selected<Position>,
        account: Option<String>,
        interval: Option<(i64, i64)>,
    ) -> Result<()> {
        if let Some((start, end)) = interval {
            // Whole seconds in [start, end).
            let (from, mut to) = ((start - 1).div_euclid(1_000_000) + 1, (end - 1).div_euclid(1_000_000));
            if let Some(Position::Created { through }) = selected.positions.get(&created_id(account.as_deref())) {
                // What was created later is read by the next run.
                to = to.min(*through);
            }
            if from <= to {
                self.list(def, selected, &account, Some(from), to);
            }
            return Ok(());
        }
        match (selected.mode, def.changes) {
            (Mode::Full, _) => self.list(def, selected, &account, self.start(), self.now),
            (Mode::Incremental, Changes::Events) => self.follow(def, selected, account)?,
            (Mode::Incremental, Changes::Created) => self.created(def, selected, account)?,
            (Mode::Incremental, Changes::Unseen) | (Mode::Cdc, _) => {
                let modes: Vec<_> = selected.stream.modes.iter().map(ToString::to_string).collect();
                return Err(Error::new(ErrorKind::Unsupported, "cannot read the stream in this mode")
                    .with("stream", def.name)
                    .with("mode", selected.mode)
                    .hint(format!("its modes are: {}", modes.join(", "))));
            }
        }
        Ok(())
    }

    /// A stream with events: its list first, then the feed, which begins with the second in which the list is planned.
    /// A long load is followed by what changed meanwhile at once.
    fn follow(&mut self, def: &'static Def, selected: &Selected<Position>, account: Option<String>) -> Result<()> {
        let id = feed_id(account.as_deref());
        self.feeds.entry(account.clone()).or_default().push(selected.stream.name.clone());
        let Some(Position::Events { through, .. }) = selected.positions.get(&id) else {
            self.list(def, selected, &account, self.start(), self.now);
            self.leave(selected, id, Position::feed_from(self.now));
            self.listed(def, selected, &account);
            return Ok(());
        };
        kept(self.now, *through).map_err(|error| error.with("stream", def.name))?;
        if let Some(from) = self.due(def, selected, &account) {
            self.list(def, selected, &account, Some(from), self.now);
            self.listed(def, selected, &account);
        }
        Ok(())
    }

    /// A stream that only grows: what was created since the last plan, up to a time that is over.
    fn created(&mut self, def: &'static Def, selected: &Selected<Position>, account: Option<String>) -> Result<()> {
        let id = created_id(account.as_deref());
        let head = head(self.config, self.now);
        let from = match selected.positions.get(&id) {
            Some(Position::Created { through }) => {
                if def.name == "events" {
                    kept(self.now, *through).map_err(|error| error.with("stream", def.name))?;
                }
                Some(through + 1)
            }
            _ => self.start(),
        };
        let again = self.due(def, selected, &account);
        let from = match (from, again) {
            (Some(from), Some(again)) => Some(from.min(again)),
            (from, _) => from,
        };
        if from.is_some_and(|from| from > head) {
            return Ok(());
        }
        self.list(def, selected, &account, from, head);
        self.leave(selected, id.clone(), Position::Created { through: head });
        if again.is_some() || !selected.positions.contains_key(&id) {
            self.listed(def, selected, &account);
        }
        Ok(())
    }

    /// From when on the youngest objects are to be listed again, where it is time for that.
    fn due(&self, def: &Def, selected: &Selected<Position>, account: &Option<String>) -> Option<i64> {
        let every = seconds(self.config.reconcile.every.0);
        let last = match selected.positions.get(&listed_id(account.as_deref())) {
            Some(Position::Created { through }) => *through,
            _ => return None,
        };
        let due = RECONCILED.contains(&def.name) && every > 0 && self.now - last >= every;
        // What was made since the last time is young as well.
        due.then(|| last.min(self.now - seconds(self.config.reconcile.window.0)))
    }

    fn listed(&mut self, def: &Def, selected: &Selected<Position>, account: &Option<String>) {
        if RECONCILED.contains(&def.name) {
            self.leave(selected, listed_id(account.as_deref()), Position::Created { through: self.now });
        }
    }

    fn leave(&mut self, selected: &Selected<Position>, id: SliceId, position: Position) {
        self.then.entry(selected.stream.name.clone()).or_default().insert(id, Some(position));
    }

    fn start(&self) -> Option<i64> {
        self.config.start.map(|start| start.0)
    }

    fn list(
        &mut self,
        def: &'static Def,
        selected: &Selected<Position>,
        account: &Option<String>,
        from: Option<i64>,
        to: i64,
    ) {
        let work = ListWork { list: def.list().name.into(), account: account.clone(), from, to, at: self.now };
        // A stream that costs a call per object of the list would hold up the others of the list.
        let apart = if matches!(def.origin, Origin::Each { .. }) { def.name } else { "" };
        self.lists.entry((work, apart)).or_default().push(selected.stream.name.clone());
    }

    fn finish(self, parts: i64) -> Plan<Work, Position> {
        let mut slices = Vec::new();
        for ((work, apart), streams) in self.lists {
            let name = if apart.is_empty() { &work.list } else { apart };
            let name = match &work.account {
                None => name.to_owned(),
                Some(account) => format!("{name}:{account}"),
            };
            for window in cut(&work, parts) {
                // Windows of one list in one plan differ in their last second.
                let id = SliceId::new(format!("list:{name}:{}", window.to));
                let work = Work::List(window);
                slices.push(Slice {
                    id,
                    streams: streams.clone(),
                    shape: Shape::Window,
                    work,
                    estimate: Estimate::default(),
                });
            }
        }
        for (account, streams) in self.feeds {
            let id = feed_id(account.as_deref());
            let work = Work::Events { account, begin: self.now };
            slices.push(Slice { id, streams, shape: Shape::Feed, work, estimate: Estimate::default() });
        }
        Plan { slices, then: self.then, more: false }
    }
}

/// Parts of a window, equally long. One process reads parts of a window at once anyway; this is for several.
fn cut(work: &ListWork, parts: i64) -> Vec<ListWork> {
    let from = work.from.unwrap_or(OLDEST);
    let length = work.to.saturating_sub(from).saturating_add(1);
    let parts = parts.clamp(1, length.max(1));
    let edge = |i: i64| from + i64::try_from(i128::from(length) * i128::from(i) / i128::from(parts)).unwrap_or(0);
    (0..parts)
        .map(|i| ListWork {
            from: if i == 0 { work.from } else { Some(edge(i)) },
            to: if i + 1 == parts { work.to } else { edge(i + 1) - 1 },
            ..work.clone()
        })
        .collect()
}

/// The last second of which everything can be seen at `now`.
pub(crate) fn head(config: &StripeConfig, now: i64) -> i64 {
    now - seconds(config.lag.0)
}

/// Refuses a place of the event feed from which events may be gone.
pub(crate) fn kept(now: i64, through: i64) -> Result<()> {
    if through >= now - EVENTS_KEPT {
        return Ok(());
    }
    Err(Error::new(ErrorKind::CheckpointInvalid, "the checkpoint is older than the events that Stripe keeps")
        .with("days", (now - through) / 86_400)
        .with("days_kept", 30)
        .hint("changes in between cannot be read any more: load the stream again with `ingest run --resync STREAM`"))
}

fn seconds(span: std::time::Duration) -> i64 {
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_790_000_000;

    fn config() -> StripeConfig {
        StripeConfig { api_key: ingest_core::Secret::new("sk_test_1"), ..StripeConfig::default() }
    }

    fn selected(name: &str, mode: Mode, positions: &[(&str, Position)]) -> Selected<Position> {
        let stream = streams::find(name).expect(name).stream(false, std::time::Duration::from_secs(60));
        let positions = positions.iter().map(|(id, p)| (SliceId::from(*id), p.clone())).collect();
        Selected { stream, mode, cursor: None, columns: None, filter: None, positions }
    }

    fn request(streams: Vec<Selected<Position>>) -> PlanRequest<Position> {
        let now = NOW * 1_000_000;
        PlanRequest { streams, intent: Intent::Here, slice_bytes: 1 << 26, min_slices: 1, interval: None, now }
    }

    fn events(through: i64) -> Position {
        Position::Events { through, nth: 0, seen: Vec::new() }
    }

    fn shapes(plan: &Plan<Work, Position>) -> Vec<(String, Vec<&str>)> {
        let streams = |slice: &Slice<Work>| slice.id.as_str().to_owned();
        plan.slices.iter().map(|s| (streams(s), s.streams.iter().map(StreamName::as_str).collect())).collect()
    }

    #[test]
    fn a_first_load_reads_lists_up_to_the_second_in_which_the_feed_begins() {
        let streams = ["invoices", "invoice_line_items", "customers", "payment_methods"];
        let asked = streams.map(|name| selected(name, Mode::Incremental, &[])).to_vec();
        let plan = plan(&config(), NOW, &request(asked)).expect("a plan");
        let to = NOW.to_string();
        assert_eq!(
            shapes(&plan),
            [
                (format!("list:customers:{to}"), vec!["customers"]),
                (format!("list:payment_methods:{to}"), vec!["payment_methods"]),
                (format!("list:invoices:{to}"), vec!["invoices", "invoice_line_items"]),
                ("events".into(), streams.to_vec()),
            ]
        );
        for stream in plan.then.values() {
            assert_eq!(stream[&SliceId::from("events")], Some(Position::feed_from(NOW)));
        }
    }

    #[test]
    fn a_stream_that_joins_is_loaded_beside_the_feed_of_the_others() {
        let streams = vec![
            selected("charges", Mode::Incremental, &[("events", events(NOW - 500))]),
            selected("refunds", Mode::Incremental, &[]),
            selected("customers", Mode::Full, &[]),
        ];
        let plan = plan(&config(), NOW, &request(streams)).expect("a plan");
        let shapes = shapes(&plan);
        assert_eq!(shapes.len(), 3);
        assert_eq!(shapes[2], ("events".to_owned(), vec!["charges", "refunds"]));
        assert!(!plan.then.contains_key(&StreamName::from("customers")));
    }

    #[test]
    fn a_feed_older_than_the_events_is_refused_with_the_stream_and_the_remedy() {
        let stream = selected("charges", Mode::Incremental, &[("events", events(NOW - EVENTS_KEPT - 1))]);
        let error = plan(&config(), NOW, &request(vec![stream])).expect_err("a hole");
        assert_eq!(error.kind(), ErrorKind::CheckpointInvalid);
        assert!(error.to_string().contains("charges"), "{error}");
        assert!(error.hint_text().expect("a remedy").contains("--resync"));
    }

    #[test]
    fn created_streams_stay_behind_the_clock_and_go_on_where_they_were() {
        let first = plan(&config(), NOW, &request(vec![selected("files", Mode::Incremental, &[])])).expect("a plan");
        let Work::List(work) = &first.slices[0].work else { panic!("a list") };
        assert_eq!((work.from, work.to), (None, NOW - 60));
        let then = first.then[&StreamName::from("files")][&SliceId::from("created")].clone().expect("a position");
        let next = selected("files", Mode::Incremental, &[("created", then.clone())]);
        let next = plan(&config(), NOW + 10, &request(vec![next])).expect("a plan");
        let Work::List(work) = &next.slices[0].work else { panic!("a list") };
        assert_eq!((work.from, work.to), (Some(NOW - 59), NOW - 50));
        let none = selected("files", Mode::Incremental, &[("created", then)]);
        assert!(plan(&config(), NOW, &request(vec![none])).expect("a plan").slices.is_empty());
    }

    #[test]
    fn young_objects_are_listed_again_when_it_is_time() {
        let at = |listed: i64| {
            let listed = Position::Created { through: listed };
            let positions = [("events", events(NOW - 100)), ("listed", listed)];
            plan(&config(), NOW, &request(vec![selected("payment_intents", Mode::Incremental, &positions)]))
        };
        assert_eq!(at(NOW - 3_600).expect("a plan").slices.len(), 1);
        let due = at(NOW - 86_400).expect("a plan");
        let Work::List(work) = &due.slices[0].work else { panic!("a list") };
        assert_eq!((work.from, work.to), (Some(NOW - 7 * 86_400), NOW));
        assert_eq!(due.slices.len(), 2);
    }

    #[test]
    fn accounts_have_slices_and_positions_of_their_own() {
        let config = StripeConfig { accounts: vec!["acct_1".into(), "acct_2".into()], ..config() };
        let known = [("events:acct_1", events(NOW - 100))];
        let plan = plan(&config, NOW, &request(vec![selected("charges", Mode::Incremental, &known)])).expect("a plan");
        let ids: Vec<_> = plan.slices.iter().map(|slice| slice.id.as_str().to_owned()).collect();
        assert_eq!(ids, [&format!("list:charges:acct_2:{NOW}"), "events:acct_1", "events:acct_2"]);
    }

    #[test]
    fn parts_for_several_machines_cover_the_window_without_overlap() {
        let request = PlanRequest {
            intent: Intent::Portable,
            min_slices: 4,
            ..request(vec![selected("charges", Mode::Full, &[])])
        };
        let plan = plan(&config(), NOW, &request).expect("a plan");
        let windows = plan.slices.iter().filter_map(|slice| match &slice.work {
            Work::List(work) => Some((work.from, work.to)),
            Work::Events { .. } => None,
        });
        let mut windows = windows.collect::<Vec<_>>();
        windows.sort_by_key(|window| window.1);
        assert_eq!(windows.len(), 4);
        assert_eq!((windows[0].0, windows[3].1), (None, NOW));
        assert!(windows.windows(2).all(|pair| pair[1].0 == Some(pair[0].1 + 1)));
    }
}
