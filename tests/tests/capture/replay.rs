//! What a log of changes comes to, and whether every version of a row came once.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use serde_json::{Map, Value};

/// What replays need to know of a table.
pub struct Shape<'a> {
    /// All columns, in their order.
    pub names: &'a [String],
    /// Those that tell rows apart.
    pub key: &'a [String],
    /// Whether they do: without a key, equal rows stand beside each other.
    pub is_keyed: bool,
    /// Whether the log goes on exactly where the first load ends, so that every change meets the row that it is about.
    pub is_exact: bool,
}

/// What a log of changes comes to: each row in the order of `_ingest_seq`; what a row does not carry stays as it was. Where the
/// key changed, that is in the row that goes at the place right before.
pub fn replay(stream: &str, shape: &Shape<'_>, mut log: Vec<Map<String, Value>>) -> Vec<Map<String, Value>> {
    for row in &log {
        let ordered = row.get("_ingest_seq").is_some_and(Value::is_string);
        assert!(ordered, "{stream}: a row without an order: {row:?}");
    }
    log.sort_by_key(|row| row["_ingest_seq"].as_str().map(str::to_owned));
    let mut table: BTreeMap<String, Vec<Map<String, Value>>> = BTreeMap::new();
    let mut gone: Option<(String, Map<String, Value>)> = None;
    for mut row in log {
        let id = shape.key.iter().map(|column| row[column].to_string()).collect::<Vec<_>>().join(", ");
        let there = table.entry(id.clone()).or_default();
        if row["_ingest_op"] == "D" {
            let last = there.pop();
            let fits = last.is_some() || (shape.is_keyed && !shape.is_exact);
            assert!(fits, "{stream}: row {id} goes that is not there");
            gone = last.map(|last| (place(&row), last));
            continue;
        }
        let bits = row.get("_ingest_absent").and_then(Value::as_str).unwrap_or_default();
        let bits = base64::engine::general_purpose::STANDARD.decode(bits).expect("base64");
        for (i, name) in shape.names.iter().enumerate() {
            if bits.get(i / 8).is_some_and(|byte| byte >> (i % 8) & 1 == 1) {
                let moved = gone.as_ref().filter(|(at, _)| is_next(at, &place(&row))).map(|(_, row)| row);
                let before = moved.or(there.last()).unwrap_or_else(|| panic!("{stream}: {row:?} adds to nothing"));
                row.insert(name.clone(), before[name].clone());
            }
        }
        if shape.is_keyed {
            let is_new = row["_ingest_op"] == "I" || row["_ingest_op"] == "R";
            assert!(!(shape.is_exact && is_new && !there.is_empty()), "{stream}: row {id} comes that is there");
            there.clear();
        }
        there.push(row);
    }
    table.into_values().flatten().collect()
}

fn place(row: &Map<String, Value>) -> String {
    row["_ingest_seq"].as_str().expect("an order").to_owned()
}

/// Whether two places of a transaction lie right beside each other.
fn is_next(a: &str, b: &str) -> bool {
    let number = |text: &str| u64::from_str_radix(text, 16).expect("a number");
    let parts = a.rsplit_once('.').zip(b.rsplit_once('.'));
    parts.is_some_and(|((a, m), (b, n))| a == b && number(m) + 1 == number(n))
}

/// Fails unless the log has every version that the source made since the load, each once and under a place of its own.
/// `history` are the numbers of all versions that were committed; each row has its own in the column `ver`.
pub fn assert_once(stream: &str, log: &[Map<String, Value>], history: &[i64]) {
    let mut places = BTreeSet::new();
    let mut found = BTreeSet::new();
    for row in log.iter().filter(|row| row["_ingest_op"] != "R") {
        let place = row["_ingest_seq"].as_str().expect("an order");
        assert!(places.insert(place), "{stream}: two changes have the place {place}");
        if row["_ingest_op"] != "D" {
            let version = row["ver"].as_i64().expect("a number");
            assert!(found.insert(version), "{stream}: version {version} came twice");
        }
    }
    let Some(first) = found.first() else { return };
    let made: BTreeSet<i64> = history.iter().copied().filter(|version| version >= first).collect();
    let lost: Vec<&i64> = made.difference(&found).take(5).collect();
    let unknown: Vec<&i64> = found.difference(&made).take(5).collect();
    assert!(
        lost.is_empty() && unknown.is_empty(),
        "{stream}: versions lost {lost:?}, unknown to the source {unknown:?}"
    );
}
