//! Checks of rows that come in and go: appends, replacements, regions.

use ingest_core::lake::{Commit, Removal};
use ingest_core::{ErrorKind, Json, Region};
use serde_json::json;

use super::bench::{APP, Bench, committed, numbered, ok, orders, path, replacing, same};
use super::{Check, check};
use crate::{Checked, Fault, wrong};

pub(super) const CHECKS: &[Check] = &[
    check!(
        "W01",
        "rows that were committed are there, once, and empty commits change nothing",
        "a commit makes its files visible in one step; versions only grow",
        appends
    ),
    check!(
        "W10",
        "a replacement shows the old rows until it is committed, and then the new ones alone",
        "files are invisible until they are committed; `Removal::All` and `add` are one commit",
        replacement
    ),
    check!(
        "W11",
        "the number and the rows come from one snapshot",
        "`number` is of the version that the handle stands on; a handle does not see what others commit",
        snapshot
    ),
    check!(
        "W16",
        "a region takes its own rows, and no others",
        "`Removal::Regions` removes the rows of the regions; rows in `add` stay",
        regions
    ),
    check!(
        "W18",
        "a table can be brought back to what it was",
        "`files_at` gives the files that were live after a number; `Removal::All` with them is that table again",
        look_back
    ),
    check!(
        "W20",
        "what a writer gave up is not there",
        "`abort` gives everything up; only files that `finish` returned and a commit named are part of the table",
        given_up
    ),
];

async fn appends(bench: &Bench) -> Checked {
    let (first, second) = (orders(0..1_000, "first")?, orders(1_000..1_010, "second")?);
    let mut table = bench.create("appends", &first, &[]).await?;
    let mut versions = vec![table.version()];
    versions.push(bench.append(table.as_mut(), 1, &first).await?);
    versions.push(committed(table.commit(numbered(Vec::new(), 2)).await)?);
    versions.push(bench.append(table.as_mut(), 3, &second).await?);
    if !versions.is_sorted_by(|a, b| a < b) || table.version() != versions[3] {
        return wrong(format!("versions do not grow from commit to commit: {versions:?}, then {}", table.version()));
    }
    same("after two appends", &bench.rows("appends").await?, &bench.expected([&first, &second])?)?;
    let live = ok("files", table.files().await)?;
    let counted: u64 = live.iter().map(|file| file.rows).sum();
    if counted != 1_010 {
        return wrong(format!("the log counts {counted} rows in its files, and 1010 were written"));
    }
    let few = ok("read", table.read(7).await)?.iter().map(|batch| batch.num_rows()).sum::<usize>();
    if few != 7 {
        return wrong(format!("read(7) gives {few} rows of 1010"));
    }
    Ok(())
}

async fn replacement(bench: &Bench) -> Checked {
    let (old, new) = (orders(0..500, "old")?, orders(100..150, "new")?);
    let mut table = bench.create("replacement", &old, &[]).await?;
    bench.append(table.as_mut(), 1, &old).await?;
    let staged = bench.upload(table.as_ref(), std::slice::from_ref(&new)).await?;
    same("while the new rows are staged", &bench.rows("replacement").await?, &bench.expected([&old])?)?;
    committed(table.commit(replacing(staged, 2)).await)?;
    same("after the replacement", &bench.rows("replacement").await?, &bench.expected([&new])?)?;
    committed(table.commit(replacing(Vec::new(), 3)).await)?;
    same("after a replacement by nothing", &bench.rows("replacement").await?, &Vec::new())
}

async fn snapshot(bench: &Bench) -> Checked {
    let (first, second) = (orders(0..10, "first")?, orders(10..20, "second")?);
    let mut table = bench.create("snapshot", &first, &[]).await?;
    let number = ok("number", table.number(APP).await)?;
    if number.is_some() {
        return wrong(format!("a table that was just created holds the number {number:?}"));
    }
    bench.append(table.as_mut(), 41, &first).await?;
    let before = bench.open("snapshot").await?;
    bench.append(table.as_mut(), 42, &second).await?;
    let (held, opened) = (ok("number", before.number(APP).await)?, bench.number("snapshot").await?);
    if (held, opened) != (Some(41), Some(42)) {
        return wrong(format!("the older handle holds {held:?} and a new one {opened:?}, not 41 and 42"));
    }
    if ok("number", table.number("somebody else").await)?.is_some() {
        return wrong("an application id that never committed has a number");
    }
    let again = ok("reopen", before.reopen().await)?;
    if (again.version(), again.id()) != (table.version(), table.id()) {
        return wrong("a handle that is opened again does not stand on the newest version of the same table");
    }
    let rows = ok("read", before.read(usize::MAX).await)?;
    same("the older handle", &super::bench::texts(&rows)?, &bench.expected([&first])?)
}

async fn regions(bench: &Bench) -> Checked {
    let all = orders(0..100, "row")?;
    for (partition_by, folder) in [(&[][..], "regions"), (&["note"][..], "regions_by_partition")] {
        let rows = if partition_by.is_empty() { all.clone() } else { orders(0..10, "row")? };
        let mut table = bench.create(folder, &rows, partition_by).await?;
        bench.append(table.as_mut(), 1, &rows).await?;
        let last = i64::try_from(rows.num_rows()).unwrap_or(i64::MAX);
        let restated = orders(2..4, "restated")?;
        let region = Region::Range { column: "id".into(), from: json!(2), to: json!(5), also: Default::default() };
        let add = bench.upload(table.as_ref(), std::slice::from_ref(&restated)).await?;
        let commit = Commit { remove: Removal::Regions(vec![region]), ..numbered(add, 2) };
        committed(table.commit(commit).await)?;
        let kept = [orders(0..2, "row")?, restated, orders(5..last, "row")?];
        same("after a range was restated", &bench.rows(folder).await?, &bench.expected(&kept)?)?;
        let one = Region::Equals([("id".to_owned(), json!(5)), ("note".to_owned(), json!("row 5"))].into());
        let none = Region::Equals([("id".to_owned(), json!(6)), ("note".to_owned(), Json::Null)].into());
        let commit = Commit { remove: Removal::Regions(vec![one, none]), ..numbered(Vec::new(), 3) };
        committed(table.commit(commit).await)?;
        // Row 6 has no note: id % 5 == 1.
        let kept = [orders(0..2, "row")?, orders(2..4, "restated")?, orders(7..last, "row")?];
        same("after two rows were removed by their values", &bench.rows(folder).await?, &bench.expected(&kept)?)?;
    }
    Ok(())
}

async fn look_back(bench: &Bench) -> Checked {
    let (first, second) = (orders(0..20, "first")?, orders(50..60, "second")?);
    let mut table = bench.create("look_back", &first, &[]).await?;
    bench.append(table.as_mut(), 1, &first).await?;
    let staged = bench.upload(table.as_ref(), std::slice::from_ref(&second)).await?;
    committed(table.commit(replacing(staged, 2)).await)?;
    let files = match table.files_at(APP, 1).await {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            return Err(Fault::DoesNotApply("the format does not look back".into()));
        }
        files => ok("files_at", files)?,
    };
    let Some(files) = files else { return wrong("the log does not reach back over one commit") };
    committed(table.commit(replacing(files, 3)).await)?;
    same("after going back", &bench.rows("look_back").await?, &bench.expected([&first])?)?;
    match ok("files_at", table.files_at(APP, 77).await)? {
        None => Ok(()),
        Some(_) => wrong("a number that was never committed has files"),
    }
}

async fn given_up(bench: &Bench) -> Checked {
    let rows = orders(0..10, "row")?;
    let table = bench.create("given_up", &rows, &[]).await?;
    let stored = bench.stored(&rows)?;
    let mut writer = ok("writer", table.writers().writer(stored.schema(), &super::bench::options()))?;
    let written = tokio::task::spawn_blocking(move || {
        let written = writer.write(&stored);
        writer.abort();
        written
    });
    match written.await {
        Ok(written) => ok("writing a batch", written)?,
        Err(error) => return wrong(format!("a writer panicked: {error}")),
    }
    bench.upload(table.as_ref(), std::slice::from_ref(&rows)).await?;
    same("what was never committed", &bench.rows("given_up").await?, &Vec::new())?;
    match ok("open", bench.format().open(&path("never_created")).await)? {
        None => Ok(()),
        Some(_) => wrong("open finds a table that nobody created"),
    }
}
