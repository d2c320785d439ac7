//! Checks of rows that meet the table's rows by key.

use std::collections::BTreeMap;

use ingest_core::columns;
use ingest_core::lake::{Commit, Meeting, Merge, Sweep, Table};
use serde_json::json;

use super::bench::{Bench, ChangeRow, Texts, changes, committed, merge, ok, same, texts};
use super::{Check, check};
use crate::{Checked, Fault, wrong};

pub(super) const CHECKS: &[Check] = &[
    check!(
        "W02",
        "of rows with one key the newest holds, whatever order they come in",
        "`Meeting::Update`: rows are applied in the order of `rows`; where both have a value of `order`, the greater one is newer",
        upserts
    ),
    check!(
        "W03",
        "deleted rows go, or stay with their mark, and may come again",
        "`_ingest_op` = `D` removes a row; with `soft_delete` it stays, marked",
        deletes
    ),
    check!(
        "W04",
        "versions of a row follow each other without gap or overlap, and one holds",
        "`Meeting::History`: a new version begins where a tracked column differs; effective inclusive, expiry exclusive",
        history
    ),
    check!(
        "W05",
        "insert-only keeps what is there",
        "`Meeting::Keep`: the row that is there stays, only new keys come in",
        keeps
    ),
    check!(
        "W12",
        "a sweep takes what the source no longer has",
        "`sweep`: `rows` are all that the source has; what the table has beside them is deleted",
        sweep
    ),
];

/// Numbers that look random and are the same in every run (Knuth's MMIX).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

const REGIONS: [&str; 3] = ["", "nörth", "south/west"];

fn random_changes(dice: &mut Dice, round: u64) -> Vec<ChangeRow> {
    let count = dice.below(60);
    let mut rows: Vec<ChangeRow> = Vec::new();
    for n in 0..count {
        // One in eight comes late: older than what the table may hold.
        let late = if dice.below(8) == 0 { dice.below(80) } else { 0 };
        let seq = (round * 100 + n + 100).saturating_sub(late);
        rows.push(ChangeRow {
            region: REGIONS[usize::try_from(dice.below(3)).unwrap_or(0)],
            id: dice.below(40).cast_signed(),
            note: format!("round {round} change {n}"),
            op: ["I", "U", "U", "D"][usize::try_from(dice.below(4)).unwrap_or(0)],
            seq: seq * 1_000 + n,
            at: (round + 1).cast_signed() * 1_000_000,
        });
        if dice.below(10) == 0 {
            rows.extend(rows.last().cloned());
        }
    }
    rows
}

async fn apply(
    bench: &Bench,
    table: &mut dyn Table,
    rows: &[ChangeRow],
    shape: impl FnOnce(Merge) -> Merge,
    meeting: Meeting,
) -> Checked {
    // In two files, so that the order of files counts.
    let (front, back) = rows.split_at(rows.len() / 2);
    let mut files = bench.upload(table, &[changes(front)?]).await?;
    files.extend(bench.upload(table, &[changes(back)?]).await?);
    let came = files.clone();
    committed(table.commit(Commit { merge: Some(shape(merge(files, meeting))), ..Commit::default() }).await)?;
    if table.merged().is_none() {
        return wrong("a handle that has merged does not say what it did");
    }
    ok("discard", table.discard(&came).await)
}

/// The columns of a source, and the mark of a deletion.
fn told(rows: Texts) -> Result<Texts, Fault> {
    let mut told = Vec::new();
    for row in rows {
        let row: BTreeMap<String, ingest_core::Json> =
            serde_json::from_str(&row).map_err(|error| Fault::Wrong(format!("a row cannot be read: {error}")))?;
        let gone = row.contains_key(columns::DELETED_AT);
        let of = |name: &str| row.get(name).cloned().unwrap_or_default();
        told.push(json!([of("region"), of("id"), of("note"), gone]).to_string());
    }
    told.sort_unstable();
    Ok(told)
}

#[derive(Clone)]
struct Held {
    note: String,
    seq: u64,
    gone: bool,
}

/// What a table should hold by key.
type Model = BTreeMap<(&'static str, i64), Held>;

fn model(model: &mut Model, rows: &[ChangeRow], soft: bool) {
    // A batch remembers what it deletes.
    let mut gone: BTreeMap<(&str, i64), u64> = BTreeMap::new();
    for row in rows {
        let key = (row.region, row.id);
        let newest = model.get(&key).map(|held| held.seq).or(gone.get(&key).copied());
        if newest.is_some_and(|there| row.seq < there) {
            continue;
        }
        match (row.op, soft) {
            ("D", false) => {
                model.remove(&key);
                gone.insert(key, row.seq);
            }
            ("D", true) => {
                let note = model.get(&key).map_or_else(|| row.note.clone(), |held| held.note.clone());
                model.insert(key, Held { note, seq: row.seq, gone: true });
            }
            _ => drop(model.insert(key, Held { note: row.note.clone(), seq: row.seq, gone: false })),
        }
    }
}

fn modelled(model: &Model) -> Texts {
    let rows = model.iter().map(|((region, id), held)| json!([region, id, held.note, held.gone]).to_string());
    let mut rows: Texts = rows.collect();
    rows.sort_unstable();
    rows
}

async fn rounds(bench: &Bench, folder: &str, soft: bool) -> Checked {
    let mut table = bench.create(folder, &changes(&[])?, &[]).await?;
    let (mut expected, mut dice) = (Model::new(), Dice(if soft { 11 } else { 7 }));
    for round in 0..12 {
        let rows = random_changes(&mut dice, round);
        apply(bench, table.as_mut(), &rows, |merge| merge, Meeting::Update { soft_delete: soft }).await?;
        model(&mut expected, &rows, soft);
        same(&format!("after merge {round}"), &told(bench.rows(folder).await?)?, &modelled(&expected))?;
    }
    Ok(())
}

async fn upserts(bench: &Bench) -> Checked {
    rounds(bench, "upserts", false).await
}

async fn deletes(bench: &Bench) -> Checked {
    rounds(bench, "soft_deletes", true).await?;
    // Deleted, and there again.
    let mut table = bench.create("deletes", &changes(&[])?, &[]).await?;
    let row = |op, seq: u64| ChangeRow { region: "", id: 1, note: format!("as of {seq}"), op, seq, at: 1_000_000 };
    let update = || Meeting::Update { soft_delete: true };
    for (op, seq, gone) in [("I", 1, false), ("D", 2, true), ("D", 2, true), ("I", 3, false)] {
        apply(bench, table.as_mut(), &[row(op, seq)], |merge| merge, update()).await?;
        let rows = told(bench.rows("deletes").await?)?;
        if rows.len() != 1 || rows[0].ends_with("true]") != gone {
            return wrong(format!("after {op} at {seq} the table holds {rows:?}"));
        }
    }
    Ok(())
}

async fn keeps(bench: &Bench) -> Checked {
    let mut table = bench.create("keeps", &changes(&[])?, &[]).await?;
    let (mut expected, mut dice) = (Model::new(), Dice(3));
    for round in 0..5 {
        let mut rows = random_changes(&mut dice, round);
        rows.retain(|row| row.op != "D");
        apply(bench, table.as_mut(), &rows, |merge| Merge { order: None, ..merge }, Meeting::Keep).await?;
        for row in &rows {
            let held = Held { note: row.note.clone(), seq: row.seq, gone: false };
            expected.entry((row.region, row.id)).or_insert(held);
        }
        same(&format!("after merge {round}"), &told(bench.rows("keeps").await?)?, &modelled(&expected))?;
    }
    Ok(())
}

async fn sweep(bench: &Bench) -> Checked {
    let row = |id: i64, seq| ChangeRow { region: "", id, note: format!("{id} at {seq}"), op: "R", seq, at: 1_000_000 };
    for (folder, soft) in [("sweep", false), ("soft_sweep", true)] {
        let mut table = bench.create(folder, &changes(&[])?, &[]).await?;
        let first: Vec<ChangeRow> = (0..200).map(|id| row(id, 1)).collect();
        apply(bench, table.as_mut(), &first, |merge| merge, Meeting::Update { soft_delete: soft }).await?;
        let second: Vec<ChangeRow> = (0..250).filter(|id| id % 10 != 0).map(|id| row(id, 2)).collect();
        let whole = |merge| Merge { sweep: Sweep::Rows, ..merge };
        apply(bench, table.as_mut(), &second, whole, Meeting::Update { soft_delete: soft }).await?;
        let gone = first.iter().filter(|row| row.id % 10 == 0 && soft).map(|row| (row, true));
        let held = second.iter().map(|row| (row, false)).chain(gone);
        let mut expected: Texts = held.map(|(row, gone)| json!(["", row.id, row.note, gone]).to_string()).collect();
        expected.sort_unstable();
        same("after a sweep", &told(bench.rows(folder).await?)?, &expected)?;
    }
    Ok(())
}

async fn history(bench: &Bench) -> Checked {
    let like = changes(&[])?;
    let added = [columns::EFFECTIVE, columns::EXPIRY, columns::CURRENT].map(columns::field);
    let fields: Vec<_> = like.schema().fields().iter().cloned().chain(added.map(std::sync::Arc::new)).collect();
    let like = arrow_array::RecordBatch::new_empty(std::sync::Arc::new(arrow_schema::Schema::new(fields)));
    let mut table = bench.create("history", &like, &[]).await?;
    let row = |note: &str, op, at: i64| ChangeRow {
        region: "",
        id: 1,
        note: note.into(),
        op,
        seq: at.unsigned_abs(),
        at: at * 1_000_000,
    };
    // Said, said again, changed, deleted, there again; and a version that comes late.
    let said = [("a", "I", 10), ("a", "U", 20), ("b", "U", 30), ("b", "D", 40), ("c", "I", 50), ("late", "U", 35)];
    for (note, op, at) in said {
        let meeting = Meeting::History { time: "at".into(), tracked: vec!["note".into()] };
        let shape = |merge| Merge { order: None, ..merge };
        apply(bench, table.as_mut(), &[row(note, op, at)], shape, meeting).await?;
    }
    let found = texts(&ok("read", bench.open("history").await?.read(usize::MAX).await)?)?;
    let mut versions = Vec::new();
    for row in &found {
        let row: ingest_core::Json =
            serde_json::from_str(row).map_err(|error| Fault::Wrong(format!("a row cannot be read: {error}")))?;
        let time = |name: &str| row[name].as_str().and_then(|time| time.get(17..19)).unwrap_or("").to_owned();
        let current = row[columns::CURRENT].as_bool().unwrap_or_default();
        versions.push((time(columns::EFFECTIVE), time(columns::EXPIRY), row["note"].to_string(), current));
    }
    versions.sort();
    let version =
        |from: &str, to: &str, note: &str| (from.to_owned(), to.to_owned(), format!("\"{note}\""), to.is_empty());
    let expected =
        [version("10", "30", "a"), version("30", "35", "b"), version("35", "40", "late"), version("50", "", "c")];
    if versions != expected {
        return wrong(format!("the versions (from, to, value, current) are {versions:?}, expected {expected:?}"));
    }
    Ok(())
}
