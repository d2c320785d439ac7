//! Changes from the Pub/Sub API: replayed in their order over what was loaded, they come to what the org holds. Against a stand-in.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use ingest_core::{
    Builtin, Context, Done, Error, ErrorKind, Event, Factory, Json, Mode, RawOut, Result, Shape, SliceId, Source,
    Stored, StreamName, async_trait, columns,
};
use ingest_testkit::oracle::canonical_rows;
use ingest_testkit::reading::{How, plan, streams};
use ingest_testkit::salesforce::PubSubServer;
use serde_json::{Map, json};

use crate::harness::{DAY, Lab, MINUTE, NOW};

type Row = Map<String, Json>;

struct Changes {
    lab: Lab,
    bus: PubSubServer,
}

impl Changes {
    async fn start() -> Self {
        let lab = Lab::start().await;
        let bus = PubSubServer::start(&lab.server).await;
        Self { lab, bus }
    }

    async fn source(&self) -> Box<dyn Source> {
        self.lab.open_with(json!({"pubsub_endpoint": self.bus.url(), "quiet": "2s"})).await.expect("a source")
    }

    fn ids(&self, object: &str) -> Vec<String> {
        self.lab.server.truth(object).into_keys().collect()
    }
}

/// A table in small, with what was given of one object and its place.
#[derive(Default)]
struct Table {
    /// Rows as they came, with the names of the columns that they do not carry.
    log: Vec<(Row, Vec<String>)>,
    positions: BTreeMap<SliceId, Stored>,
    loads: usize,
}

impl Table {
    /// One run. `marks`: it is killed when so many of its changes are committed.
    async fn run(&mut self, source: &dyn Source, object: &str, marks: usize) -> Result<()> {
        let found = streams(source, &[object]).await;
        let how = How { mode: Mode::Cdc, positions: self.positions.clone(), ..How::full() };
        let plan = plan(source, &found, &how).await?;
        for slice in plan.slices.iter().filter(|slice| slice.shape != Shape::Feed) {
            let mut out = Sink { table: self, pending: Vec::new(), place: None, left: usize::MAX };
            assert_eq!(source.extract(slice, 1, None, &mut out).await?, Done::Complete);
            out.commit();
            self.loads += 1;
        }
        for (id, position) in plan.then.into_values().flatten() {
            self.positions.insert(id, position.expect("a place"));
        }
        let feed = plan.slices.iter().find(|slice| slice.shape == Shape::Feed).expect("changes");
        let from = self.positions.get(&feed.id).cloned();
        let mut out = Sink { table: self, pending: Vec::new(), place: Some(feed.id.clone()), left: marks };
        let done = source.extract(feed, 1, from.as_ref(), &mut out).await?;
        assert!(out.pending.is_empty(), "rows behind the last mark");
        assert_eq!(done, Done::CaughtUp);
        Ok(())
    }

    /// What the log comes to: by id, in the order of `_ingest_seq`.
    fn rows(&self) -> BTreeMap<String, Row> {
        let mut log: Vec<_> = self.log.iter().collect();
        log.sort_by_key(|(row, _)| row[columns::SEQ].as_str().expect("an order"));
        let mut rows = BTreeMap::new();
        for (row, absent) in log {
            let id = row["Id"].as_str().expect("an id").to_owned();
            if row.get(columns::OP).is_some_and(|op| op == "D") {
                rows.remove(&id);
                continue;
            }
            let held: &mut Row = match absent.is_empty() {
                true => rows.entry(id).and_modify(Row::clear).or_default(),
                false => rows.get_mut(&id).expect("a partial row has a whole one before it"),
            };
            held.extend(row.iter().filter(|(name, _)| !absent.contains(name)).map(|(n, v)| (n.clone(), v.clone())));
        }
        rows
    }

    /// Compares with the org. `SystemModstamp` is no part of an event: it is that of the last load.
    fn assert_equals(&self, changes: &Changes, object: &str, exactly: bool) {
        let (rows, truth) = (self.rows(), changes.lab.server.truth(object));
        assert_eq!(rows.keys().collect::<Vec<_>>(), truth.keys().collect::<Vec<_>>());
        for (id, want) in truth {
            for (column, value) in want.iter().filter(|(column, _)| exactly || *column != "SystemModstamp") {
                assert_eq!(&rows[&id][column], value, "{object} {id} {column}");
            }
        }
    }
}

struct Sink<'a> {
    table: &'a mut Table,
    pending: Vec<RecordBatch>,
    place: Option<SliceId>,
    left: usize,
}

impl Sink<'_> {
    fn commit(&mut self) {
        for batch in self.pending.drain(..) {
            let schema = batch.schema();
            let names: Vec<&String> =
                schema.fields().iter().map(|f| f.name()).filter(|name| !columns::is_reserved(name)).collect();
            let bits = batch.column_by_name(columns::ABSENT).map(|bits| bits.as_binary::<i32>().clone());
            for (nth, row) in canonical_rows(&batch).expect("rows").into_iter().enumerate() {
                let bits = bits.as_ref().filter(|bits| bits.is_valid(nth)).map(|bits| bits.value(nth));
                let is_absent =
                    |i: usize| bits.is_some_and(|bits| bits.get(i / 8).is_some_and(|b| b >> (i % 8) & 1 == 1));
                let absent = (0..names.len()).filter(|i| is_absent(*i)).map(|i| names[i].clone()).collect();
                self.table.log.push((row, absent));
            }
        }
    }
}

#[async_trait]
impl RawOut for Sink<'_> {
    async fn put(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Rows(_, batch) => self.pending.push(batch),
            Event::Mark(stored) => {
                self.commit();
                if let Some(id) = &self.place {
                    self.table.positions.insert(id.clone(), stored);
                }
                self.left = self.left.saturating_sub(1);
                if self.left == 0 {
                    return Err(Error::cancelled());
                }
            }
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    fn batch_bytes(&self) -> usize {
        // A mark behind every answer.
        1
    }

    fn follow(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn stand_in_changes_between_runs_come_to_what_the_org_holds() {
    let changes = Changes::start().await;
    let server = &changes.lab.server;
    for object in ["Account", "Contact", "Invoice__c"] {
        server.seed(object, 120, NOW - 30 * DAY, NOW - DAY);
        let mut table = Table::default();
        for round in 0..3 {
            table.run(changes.source().await.as_ref(), object, usize::MAX).await.expect("a run");
            table.assert_equals(&changes, object, false);
            server.advance(MINUTE);
            let ids = changes.ids(object);
            for id in ids.iter().skip(round).step_by(7) {
                server.update(object, id, json!({"Name": format!("round {round}")}));
            }
            for id in ids.iter().skip(round).step_by(17) {
                server.update(object, id, json!({"Name": null}));
            }
            for id in ids.iter().skip(round).step_by(31) {
                server.delete(object, id);
            }
            if object == "Account" {
                server.update(object, &ids[5], json!({"BillingCity": "Graz", "AnnualRevenue": 17.5}));
            }
            server.insert(object, json!({"Name": "new"}));
        }
        assert_eq!(table.loads, 1, "{object} is loaded once");
        assert!(table.log.iter().any(|(_, absent)| absent.iter().any(|name| name == "CreatedDate")), "partial rows");
    }
}

#[tokio::test]
async fn stand_in_what_changes_while_the_load_is_read_is_neither_lost_nor_overtaken() {
    let changes = Changes::start().await;
    let server = changes.lab.server.clone();
    server.seed("Account", 500, NOW - 30 * DAY, NOW - DAY);
    server.state().page_rows = 100;
    let ids = changes.ids("Account");
    // Between two pages: one that was read, one that will be, one that goes, one that comes.
    let (first, last, gone) = (ids[3].clone(), ids[480].clone(), ids[490].clone());
    server.before(5, move |state| {
        state.freeze(NOW + MINUTE);
        state.update("Account", &first, json!({"Name": "late"}));
        state.update("Account", &last, json!({"Name": "late"}));
        state.update("Account", &gone, json!({"IsDeleted": true}));
        state.insert("Account", json!({"Name": "new"}));
    });
    let mut table = Table::default();
    for _ in 0..2 {
        table.run(changes.source().await.as_ref(), "Account", usize::MAX).await.expect("a run");
    }
    assert_eq!(server.truth("Account").len(), 500);
    table.assert_equals(&changes, "Account", false);
}

#[tokio::test]
async fn stand_in_a_run_that_is_killed_at_any_mark_goes_on_from_its_replay_id() {
    for marks in 1..6 {
        let changes = Changes::start().await;
        let server = &changes.lab.server;
        server.seed("Account", 40, NOW - 30 * DAY, NOW - DAY);
        let mut table = Table::default();
        table.run(changes.source().await.as_ref(), "Account", usize::MAX).await.expect("a run");
        let ids = changes.ids("Account");
        for nth in 0..450 {
            server.advance(i64::from(nth % 3 == 0));
            server.update("Account", &ids[nth % ids.len()], json!({"NumberOfEmployees": nth}));
        }
        server.advance(MINUTE);
        let killed = table.run(changes.source().await.as_ref(), "Account", marks).await;
        if let Err(error) = killed {
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{error:?}");
        }
        table.run(changes.source().await.as_ref(), "Account", usize::MAX).await.expect("a run");
        table.assert_equals(&changes, "Account", false);
        assert_eq!(table.log.len(), 40 + 450, "killed at mark {marks}: each change comes once");
        assert!(server.state().bus.subscriptions.iter().skip(1).all(|(_, from_replay)| *from_replay));
    }
}

#[tokio::test]
async fn stand_in_records_of_gaps_are_read_again_and_are_whole() {
    let changes = Changes::start().await;
    let server = &changes.lab.server;
    server.seed("Invoice__c", 50, NOW - 30 * DAY, NOW - DAY);
    let mut table = Table::default();
    table.run(changes.source().await.as_ref(), "Invoice__c", usize::MAX).await.expect("a run");
    server.advance(MINUTE);
    server.state().bus.gaps = usize::MAX;
    let ids = changes.ids("Invoice__c");
    for id in &ids[..30] {
        server.update("Invoice__c", id, json!({"Name": "in a gap", "Label__c": "formula"}));
    }
    server.delete("Invoice__c", &ids[40]);
    server.insert("Invoice__c", json!({"Name": "new"}));
    let before = server.calls().len();
    table.run(changes.source().await.as_ref(), "Invoice__c", usize::MAX).await.expect("a run");
    // Also what events never carry: the time of the system and formulas.
    table.assert_equals(&changes, "Invoice__c", true);
    assert!(server.calls().len() - before <= 3, "a description, the org, one query for all records");
}

#[tokio::test]
async fn stand_in_a_session_that_ends_while_events_come_is_renewed_and_nothing_comes_twice() {
    let changes = Changes::start().await;
    let server = &changes.lab.server;
    server.seed("Account", 20, NOW - 30 * DAY, NOW - DAY);
    let mut table = Table::default();
    table.run(changes.source().await.as_ref(), "Account", usize::MAX).await.expect("a run");
    server.advance(MINUTE);
    for (nth, id) in changes.ids("Account").iter().enumerate() {
        server.update("Account", id, json!({"NumberOfEmployees": nth}));
    }
    server.state().bus.sessions_end_after = Some(7);
    let exchanges = server.exchanges().len();
    table.run(changes.source().await.as_ref(), "Account", usize::MAX).await.expect("a run");
    table.assert_equals(&changes, "Account", false);
    assert_eq!(table.log.len(), 40);
    assert_eq!(server.exchanges().len() - exchanges, 2, "one session for the run, one in its middle");
}

#[tokio::test]
async fn stand_in_a_session_that_is_refused_for_good_stops_the_run() {
    let changes = Changes::start().await;
    changes.lab.server.seed("Account", 5, NOW - 30 * DAY, NOW - DAY);
    let mut table = Table::default();
    table.run(changes.source().await.as_ref(), "Account", usize::MAX).await.expect("a run");
    changes.lab.server.update("Account", &changes.ids("Account")[0], json!({"Name": "x"}));
    let source = changes.source().await;
    let found = streams(source.as_ref(), &["Account"]).await;
    let how = How { mode: Mode::Cdc, positions: table.positions.clone(), ..How::full() };
    let plan = plan(source.as_ref(), &found, &how).await.expect("a plan");
    // Every event ends the session; the next stream comes a little further each time, and ends as well.
    changes.lab.server.state().bus.unselected.insert("Account".into());
    let mut out = Sink { table: &mut table, pending: Vec::new(), place: None, left: usize::MAX };
    let from = how.positions.values().next();
    let error = source.extract(&plan.slices[0], 1, from, &mut out).await.expect_err("no topic");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint_text().is_some_and(|hint| hint.contains("Change Data Capture")), "{error:?}");
}

#[tokio::test]
async fn stand_in_a_replay_id_that_is_too_old_and_a_change_without_names_stop_with_the_remedy() {
    let changes = Changes::start().await;
    let server = &changes.lab.server;
    server.seed("Account", 5, NOW - 30 * DAY, NOW - DAY);
    let mut table = Table::default();
    table.run(changes.source().await.as_ref(), "Account", usize::MAX).await.expect("a run");
    server.state().bus.overflow = true;
    server.update("Account", &changes.ids("Account")[0], json!({"Name": "x"}));
    let many = table.run(changes.source().await.as_ref(), "Account", usize::MAX).await.expect_err("not named");
    server.update("Account", &changes.ids("Account")[0], json!({"Name": "y"}));
    server.state().bus.expire();
    let old = table.run(changes.source().await.as_ref(), "Account", usize::MAX).await.expect_err("too old");
    for error in [many, old] {
        assert_eq!(error.kind(), ErrorKind::CheckpointInvalid, "{error:?}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("--resync")), "{error:?}");
    }
}

#[tokio::test]
async fn stand_in_no_more_events_are_asked_for_than_can_be_held_and_a_schema_once() {
    let changes = Changes::start().await;
    let server = &changes.lab.server;
    server.seed("Account", 20, NOW - 30 * DAY, NOW - DAY);
    let mut table = Table::default();
    table.run(changes.source().await.as_ref(), "Account", usize::MAX).await.expect("a run");
    let ids = changes.ids("Account");
    (0..1_200).for_each(|nth| server.update("Account", &ids[nth % 20], json!({"NumberOfEmployees": nth})));
    server.advance(MINUTE);
    table.run(changes.source().await.as_ref(), "Account", usize::MAX).await.expect("a run");
    assert_eq!(table.log.len(), 20 + 1_200);
    let state = server.state();
    assert!(state.bus.asked.iter().all(|count| (1..=100).contains(count)), "{:?}", state.bus.asked);
    assert!(state.bus.owed <= 100, "{}", state.bus.owed);
    assert_eq!(state.bus.schemas, 1);
}

#[tokio::test]
async fn stand_in_a_topic_that_says_nothing_is_read_from_its_first_event_without_what_the_load_has() {
    let changes = Changes::start().await;
    let server = &changes.lab.server;
    server.state().bus.keepalive = Some(600_000);
    server.freeze(NOW - DAY);
    server.insert("Account", json!({"Name": "yesterday"}));
    server.freeze(NOW - 5 * MINUTE);
    let id = server.insert("Account", json!({"Name": "just now"}));
    server.freeze(NOW);
    let config = json!({"pubsub_endpoint": changes.bus.url(), "quiet": "200ms"});
    let mut table = Table::default();
    let source = changes.lab.open_with(config).await.expect("a source");
    table.run(source.as_ref(), "Account", usize::MAX).await.expect("a run");
    table.assert_equals(&changes, "Account", true);
    assert_eq!(table.log.len(), 3, "two rows of the load, and the change that could have been missing in it");
    server.advance(MINUTE);
    server.update("Account", &id, json!({"Name": "later"}));
    table.run(source.as_ref(), "Account", usize::MAX).await.expect("a run");
    table.assert_equals(&changes, "Account", false);
}

#[tokio::test]
async fn stand_in_objects_that_publish_nothing_are_named_with_the_remedy() {
    let changes = Changes::start().await;
    changes.lab.server.state().bus.unselected.insert("Contact".into());
    let source = changes.source().await;
    let names = [StreamName::from("Account"), StreamName::from("Contact")];
    let problems = source.check_changes(&names).await.expect("problems");
    assert_eq!(problems.len(), 1, "{problems:?}");
    let text = format!("{problems:?}");
    assert!(text.contains("Contact") && text.contains("Change Data Capture"), "{text}");
}

#[tokio::test]
async fn tokens_go_to_no_other_machine_in_the_clear() {
    for endpoint in ["http://pubsub.example.com:7443", "https://user@pubsub.example.com", "ftp://x", "https://x/path"] {
        let mut config = crate::harness::config("http://127.0.0.1:1");
        config["pubsub_endpoint"] = json!(endpoint);
        let opened = Builtin::<ingest_connector_salesforce::Salesforce>::new();
        let error = opened.open(config, Context::standalone("salesforce")).await.err().expect("refused");
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{endpoint}");
        assert!(error.to_string().contains("pubsub_endpoint"), "{error}");
    }
}
