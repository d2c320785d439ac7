//! Random batches into tables with a key, each killed at some failpoint and run again: after every one the table is what the
//! model has.
//!
//! `INGEST_TEST_BATCHES=200` sets the number of batches of each write mode (default 42: each failpoint six times).

use std::collections::BTreeMap;
use std::fmt::Write;

use ingest_testkit::python::{Reader, rows};
use serde_json::{Map, Value};

use super::{PLACES, batches, chance, run_to_failpoint};
use crate::cli::Project;

const RUN: [&str; 5] = ["run", "--source", "shop", "--progress", "off"];

/// Keys, so few that they come again and again.
const KEYS: u64 = 60;

/// From this batch on rows have a column more.
const WIDER: usize = 12;

/// A value of a key: text, and the column that comes later.
type Held = (String, Option<i64>);

/// A value, and the file that it came in.
type Came = (Held, (usize, usize));

/// A version as a reader shows it: from, to, whether it is current, its value.
type Version = (String, Option<String>, bool, Held);

struct Shop {
    project: Project,
    seed: u64,
    model: BTreeMap<i64, Held>,
    /// Every value that a key has had, one after another, with the file that it came in: that is a column too.
    history: BTreeMap<i64, Vec<Came>>,
}

impl Shop {
    fn new(options: &str, seed: u64) -> Self {
        let configuration = format!(
            "lake: {{commit_interval: 0s}}\nsources:\n  shop:\n    connector: files\n    path: ./data\n    \
             files: {{orders: {{path: \"*.ndjson\"}}}}\n    streams: {{orders: {options}}}\n"
        );
        let project = Project::new(&configuration);
        std::fs::create_dir_all(project.folder.path().join("data")).expect("made");
        Self { project, seed, model: BTreeMap::new(), history: BTreeMap::new() }
    }

    fn file(&self, batch: usize, part: usize) -> std::path::PathBuf {
        self.project.folder.path().join("data").join(format!("batch-{batch:05}-{part}.ndjson"))
    }

    fn row(&mut self, batch: usize, wide: bool) -> (i64, Held) {
        let id = chance(&mut self.seed, KEYS).cast_signed();
        // Some values come again: a row that says what is known changes nothing.
        let text = format!("value {}", chance(&mut self.seed, 5) + batch as u64 / 3);
        (id, (text, wide.then(|| chance(&mut self.seed, 3).cast_signed())))
    }

    /// A few files with new rows; of rows with one key the last counts. The last line of each cannot be read.
    fn add(&mut self, batch: usize) {
        for part in 0..=(chance(&mut self.seed, 3) as usize) {
            let mut text = String::new();
            for _ in 0..chance(&mut self.seed, 20) + 1 {
                let (id, held) = self.row(batch, batch >= WIDER);
                line(&mut text, id, &held);
                let history = self.history.entry(id).or_default();
                let version = (held.clone(), (batch, part));
                if history.last() != Some(&version) {
                    history.push(version);
                }
                self.model.insert(id, held);
            }
            writeln!(text, "bad {batch} {part}").expect("to memory");
            std::fs::write(self.file(batch, part), text).expect("written");
        }
    }

    /// The whole of the source again: some keys are gone, some are back.
    fn replace(&mut self, batch: usize) {
        self.model.clear();
        for id in 0..KEYS.cast_signed() {
            if chance(&mut self.seed, 3) > 0 {
                let (_, held) = self.row(batch, batch >= WIDER);
                self.model.insert(id, held);
            }
        }
        let mut text = String::new();
        self.model.iter().for_each(|(id, held)| line(&mut text, *id, held));
        let staged = self.project.folder.path().join("staged");
        std::fs::write(&staged, text).expect("written");
        std::fs::rename(staged, self.file(0, 0)).expect("moved");
    }

    /// Killed at a failpoint as often as that is reached, then run to the end.
    fn run(&mut self, batch: usize) -> bool {
        let place = PLACES[batch % PLACES.len()];
        let n = u32::try_from(chance(&mut self.seed, 3)).expect("small") + 1;
        let killed = run_to_failpoint(&self.project, &RUN, place, n);
        self.project.good(&RUN);
        killed
    }

    /// The rows as our own reader has them.
    fn shown(&self) -> Vec<Map<String, Value>> {
        let rows = self.project.json(&["show", "shop.orders", "--limit", "100000"]);
        serde_json::from_value(rows).expect("rows")
    }

    async fn read_by_another(&self) -> Option<Vec<Map<String, Value>>> {
        let path = self.project.folder.path().join("lake/bronze/shop/orders");
        rows(Reader::DuckDb, path.to_str().expect("UTF-8"), &[]).await
    }
}

fn line(text: &mut String, id: i64, (value, more): &Held) {
    match more {
        Some(more) => writeln!(text, "{{\"id\": {id}, \"text\": \"{value}\", \"more\": {more}}}"),
        None => writeln!(text, "{{\"id\": {id}, \"text\": \"{value}\"}}"),
    }
    .expect("to memory");
}

fn number(value: Option<&Value>) -> Option<i64> {
    let value = value?;
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

fn held(row: &Map<String, Value>) -> (i64, Held) {
    let id = number(row.get("id")).expect("a key");
    (id, (row["text"].as_str().expect("a text").to_owned(), number(row.get("more"))))
}

/// Each key once, with the values of the model.
fn assert_equal(shop: &Shop, rows: &[Map<String, Value>], context: &str) {
    let found: BTreeMap<i64, Held> = rows.iter().map(held).collect();
    assert_eq!(found.len(), rows.len(), "{context}: a key is there twice");
    assert_eq!(found, shop.model, "{context}");
}

async fn merged(options: &str, seed: u64, whole: bool) {
    let mut shop = Shop::new(options, seed);
    let mut killed = 0;
    for batch in 0..batches() {
        if whole {
            shop.replace(batch)
        } else {
            shop.add(batch)
        }
        killed += usize::from(shop.run(batch));
        assert_equal(&shop, &shop.shown(), &format!("batch {batch}"));
        if batch % 16 == 15 {
            shop.project.good(&["maintain"]);
            assert_equal(&shop, &shop.shown(), &format!("batch {batch}, maintained"));
        }
    }
    assert!(killed >= batches() / 3, "only {killed} runs were killed");
    if let Some(rows) = shop.read_by_another().await {
        assert_equal(&shop, &rows, "as another program reads it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_batches_into_a_merged_table_equal_the_model_after_every_kill() {
    merged("{write: merge, key: [id]}", 0x9e37_79b9_7f4a_7c15, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn complete_reads_that_sweep_equal_the_model_after_every_kill() {
    merged("{mode: full, write: merge, key: [id]}", 0x2545_f491_4f6c_dd1d, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_batches_of_which_new_keys_are_inserted_equal_the_model_after_every_kill() {
    let mut shop = Shop::new("{write: insert, key: [id]}", 0x6c62_272e_07bb_0142);
    let mut killed = 0;
    for batch in 0..batches() {
        shop.add(batch);
        // Of each key the first that ever came is there.
        shop.model = shop.history.iter().filter_map(|(id, all)| Some((*id, all.first()?.0.clone()))).collect();
        killed += usize::from(shop.run(batch));
        assert_equal(&shop, &shop.shown(), &format!("batch {batch}"));
    }
    assert!(killed >= batches() / 3, "only {killed} runs were killed");
    if let Some(rows) = shop.read_by_another().await {
        assert_equal(&shop, &rows, "as another program reads it");
    }
}

/// Keys that live in the files that are there, one file each.
struct Shelf {
    shop: Shop,
    files: BTreeMap<usize, std::ops::Range<i64>>,
    next: i64,
}

impl Shelf {
    /// A file with new keys comes, and one or two go without a word.
    fn change(&mut self, batch: usize) {
        let keys = self.next..self.next + 5 + chance(&mut self.shop.seed, 20).cast_signed();
        self.next = keys.end;
        let mut text = String::new();
        keys.clone().for_each(|id| line(&mut text, id, &(format!("of {batch}"), None)));
        std::fs::write(self.shop.file(batch, 0), text).expect("written");
        self.files.insert(batch, keys);
        while self.files.len() > 4 && chance(&mut self.shop.seed, 2) == 0 {
            let at = usize::try_from(chance(&mut self.shop.seed, self.files.len() as u64)).expect("small");
            let gone = *self.files.keys().nth(at).expect("within");
            self.files.remove(&gone);
            std::fs::remove_file(self.shop.file(gone, 0)).expect("removed");
        }
    }

    fn alive(&self) -> Vec<i64> {
        self.files.values().cloned().flatten().collect()
    }

    /// Each key that is alive is there, none twice, and none that never was.
    fn assert_nothing_lost(&self, context: &str) -> Vec<i64> {
        let mut found: Vec<i64> = self.shop.shown().iter().map(|row| held(row).0).collect();
        found.sort_unstable();
        let all = found.len();
        found.dedup();
        assert_eq!(found.len(), all, "{context}: a key is there twice");
        for id in self.alive() {
            assert!(found.binary_search(&id).is_ok(), "{context}: {id} is at the source and not in the table");
        }
        assert!(found.last().is_none_or(|last| *last < self.next), "{context}");
        found
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_whose_file_is_gone_vanish_over_runs_and_none_is_lost_after_every_kill() {
    const SWEPT: [&str; 6] = ["part_staged", "plan_written", "document_written", "committed", "extract", "file_closed"];
    let options = "{mode: incremental, write: merge, key: [id], sweep: {every: 0s, budget: 40}}";
    let shop = Shop::new(options, 0x5851_f42d_4c95_7f2d);
    let mut shelf = Shelf { shop, files: BTreeMap::new(), next: 0 };
    let (mut killed, mut deleted) = (0, 0);
    for batch in 0..batches() {
        shelf.change(batch);
        let n = u32::try_from(chance(&mut shelf.shop.seed, 4)).expect("small") + 1;
        killed += usize::from(run_to_failpoint(&shelf.shop.project, &RUN, SWEPT[batch % SWEPT.len()], n));
        let before = shelf.shop.shown().len();
        shelf.shop.project.good(&RUN);
        let found = shelf.assert_nothing_lost(&format!("batch {batch}"));
        deleted += usize::from(found.len() < before);
        if batch % 16 == 15 {
            shelf.shop.project.good(&["maintain"]);
            shelf.assert_nothing_lost(&format!("batch {batch}, maintained"));
        }
    }
    assert!(killed >= batches() / 3, "only {killed} runs were killed");
    assert!(deleted > 0, "no run deleted anything");
    // The source is quiet: the sweep that is under way ends, and a whole one after it.
    let mut ended = 0;
    for run in 0..100 {
        let output = shelf.shop.project.good(&["run", "--source", "shop", "--progress", "json"]);
        let last: Value = serde_json::from_str(output.stdout.lines().last().expect("a line")).expect("JSON");
        ended += u32::from(last["streams"][0]["sweep"]["ended"] == true);
        if ended == 2 {
            break;
        }
        assert!(run < 99, "the sweep never ends: {last}");
    }
    assert_eq!(shelf.assert_nothing_lost("at the end"), shelf.alive());
}

#[tokio::test(flavor = "multi_thread")]
async fn random_batches_into_a_history_equal_the_model_after_every_kill() {
    let mut shop = Shop::new("{write: scd2, key: [id]}", 0xd134_2543_de82_ef95);
    let mut killed = 0;
    for batch in 0..batches() {
        shop.add(batch);
        killed += usize::from(shop.run(batch));
        assert_versions(&shop, &shop.shown(), &format!("batch {batch}"));
    }
    assert!(killed >= batches() / 3, "only {killed} runs were killed");
    if let Some(rows) = shop.read_by_another().await {
        assert_versions(&shop, &rows, "as another program reads it");
    }
}

/// One version for each value that a key has had, one after another, without gaps, the last of them current.
fn assert_versions(shop: &Shop, rows: &[Map<String, Value>], context: &str) {
    let mut found: BTreeMap<i64, Vec<Version>> = BTreeMap::new();
    for row in rows {
        let (id, held) = held(row);
        let time = |name: &str| row[name].as_str().map(str::to_owned);
        let is_current = row["is_current_record"] == true || row["is_current_record"] == "true";
        let from = time("effective_date").expect("a beginning");
        found.entry(id).or_default().push((from, time("expiry_date"), is_current, held));
    }
    assert_eq!(found.keys().collect::<Vec<_>>(), shop.history.keys().collect::<Vec<_>>(), "{context}");
    for (id, versions) in &mut found {
        versions.sort();
        let values: Vec<&Held> = versions.iter().map(|(.., held)| held).collect();
        assert_eq!(
            values,
            shop.history[id].iter().map(|(held, _)| held).collect::<Vec<_>>(),
            "{context}: id {id}: {versions:?}"
        );
        for pair in versions.windows(2) {
            assert_eq!(pair[0].1.as_ref(), Some(&pair[1].0), "{context}: id {id} has a gap: {versions:?}");
        }
        let current: Vec<bool> = versions.iter().map(|(_, end, current, _)| *current && end.is_none()).collect();
        assert_eq!(current.iter().filter(|current| **current).count(), 1, "{context}: id {id}: {versions:?}");
        assert_eq!(current.last(), Some(&true), "{context}: id {id}: {versions:?}");
    }
}
