//! Checks of what goes wrong: other writers, stores that refuse, processes that stop in the middle.

use std::collections::HashSet;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ingest_core::lake::{Commit, CommitError, Compression, Maintenance};

use super::bench::{APP, Bench, committed, numbered, ok, orders, replacing, same};
use super::{Check, check};
use crate::{Checked, Fault, wrong};

pub(super) const CHECKS: &[Check] = &[
    check!(
        "W19",
        "of two commits of one writer on one version, one is refused",
        "`commit` builds on the version of its handle; another commit of the same application id is `Conflict`",
        fence
    ),
    check!(
        "W21",
        "many writers at once lose nothing and double nothing",
        "commits of other writers are passed over when they do not touch what this one depends on",
        writers
    ),
    check!(
        "W22",
        "who creates a table that somebody else just created has the same table",
        "`create` opens a table that exists by then as it is; the creating commit carries no rows",
        creators
    ),
    check!(
        "W13",
        "a commit that is dropped at any await has happened or has not",
        "a commit is one atomic change: number and rows together, or neither; repeated on a new handle it comes in once",
        dropped
    ),
    check!(
        "W14",
        "a store that refuses writes loses nothing and doubles nothing",
        "`Conflict` and `Failed` = certainly not applied; `Unknown` = open again and look",
        outage
    ),
    check!(
        "W23",
        "maintenance changes no row, and disturbs nobody who writes",
        "`maintain` keeps the rows and the numbers, spares staged files, and appends pass over it",
        maintenance
    ),
];

async fn fence(bench: &Bench) -> Checked {
    let rows = orders(0..10, "row")?;
    let mut first = bench.create("fence", &rows, &[]).await?;
    bench.append(first.as_mut(), 1, &rows).await?;
    let mut second = bench.open("fence").await?;
    let (won, lost) = (orders(10..20, "won")?, orders(10..20, "lost")?);
    let late = bench.upload(second.as_ref(), std::slice::from_ref(&lost)).await?;
    bench.append(first.as_mut(), 2, &won).await?;
    for commit in [numbered(late.clone(), 2), numbered(late.clone(), 3), replacing(late, 4)] {
        match second.commit(commit).await {
            Err(CommitError::Conflict(_)) => {}
            other => return wrong(format!("the second writer of one number is told {other:?}, not Conflict")),
        }
    }
    same("after the conflict", &bench.rows("fence").await?, &bench.expected([&rows, &won])?)
}

async fn writers(bench: &Bench) -> Checked {
    const WRITERS: i64 = 8;
    let like = orders(0..1, "row")?;
    bench.create("writers", &like, &[]).await?;
    let mut all = Vec::new();
    let work = (0..WRITERS).map(|writer| {
        let range = writer * 100..writer * 100 + 50;
        async move {
            let mut table = bench.open("writers").await?;
            let app = format!("writer {writer}");
            for (round, number) in (1_i64..=3).enumerate() {
                let step = i64::try_from(round).unwrap_or(0) * 1_000;
                let rows = orders(range.start + step..range.end + step, "row")?;
                let add = bench.upload(table.as_ref(), std::slice::from_ref(&rows)).await?;
                let commit = Commit { add, transactions: vec![(app.clone(), number)], ..Commit::default() };
                committed(table.commit(commit).await)?;
            }
            Ok::<_, Fault>(())
        }
    });
    for result in futures::future::join_all(work).await {
        result?;
    }
    for (writer, round) in (0..WRITERS).flat_map(|writer| (0..3).map(move |round| (writer, round))) {
        let start = writer * 100 + round * 1_000;
        all.push(orders(start..start + 50, "row")?);
    }
    same("after eight writers", &bench.rows("writers").await?, &bench.expected(&all)?)
}

async fn creators(bench: &Bench) -> Checked {
    let rows = orders(0..10, "row")?;
    let made = futures::future::join_all((0..5).map(|_| bench.create("creators", &rows, &[]))).await;
    let mut ids = HashSet::new();
    for table in made {
        ids.insert(table?.id().to_owned());
    }
    if ids.len() != 1 {
        return wrong(format!("five creators have {} tables", ids.len()));
    }
    let mut table = bench.open("creators").await?;
    bench.append(table.as_mut(), 1, &rows).await?;
    let again = bench.create("creators", &rows, &[]).await?;
    if Some(again.id()) != ids.iter().next().map(String::as_str) {
        return wrong("a table that is there was created again");
    }
    same("after it was created again", &bench.rows("creators").await?, &bench.expected([&rows])?)
}

/// At most so many awaits of a commit are tried.
const AWAITS: usize = 200;

async fn dropped(bench: &Bench) -> Checked {
    for (kind, replaces) in [("append", false), ("replacement", true)] {
        let mut polls = 1;
        while polls <= AWAITS && !dropped_after(bench, &format!("dropped/{kind}_{polls}"), polls, replaces).await? {
            polls += 1;
        }
    }
    Ok(())
}

/// Drops a commit after so many polls, and repeats it where it did not happen. Whether it ended by itself.
async fn dropped_after(bench: &Bench, folder: &str, polls: usize, replaces: bool) -> Result<bool, Fault> {
    let (first, second) = (orders(0..10, "first")?, orders(10..20, "second")?);
    let mut table = bench.create(folder, &first, &[]).await?;
    bench.append(table.as_mut(), 1, &first).await?;
    let mut table = bench.open(folder).await?;
    let add = bench.upload(table.as_ref(), std::slice::from_ref(&second)).await?;
    let change = || if replaces { replacing(add.clone(), 2) } else { numbered(add.clone(), 2) };
    let mut left = polls;
    let finished = {
        let mut commit = pin!(table.commit(change()));
        poll_fn(|context| match commit.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if left <= 1 => Poll::Ready(None),
            Poll::Pending => {
                left -= 1;
                Poll::Pending
            }
        })
        .await
    };
    if finished.is_none() {
        // What it has sent may still be on its way.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if bench.number(folder).await? != Some(2) {
        if finished.is_some() {
            return wrong("a commit that ended is not in the table");
        }
        let what = format!("a commit dropped after {polls} polls, of which the number is not there");
        same(&what, &bench.rows(folder).await?, &bench.expected([&first])?)?;
        match bench.open(folder).await?.commit(change()).await {
            // It came in after all, between the two looks.
            Err(CommitError::Conflict(_)) if bench.number(folder).await? == Some(2) => {}
            result => drop(committed(result)?),
        }
    }
    let all: &[_] = if replaces { &[second] } else { &[first, second] };
    same(&format!("a commit dropped after {polls} polls"), &bench.rows(folder).await?, &bench.expected(all)?)?;
    finished.map(committed).transpose().map(|done| done.is_some())
}

async fn outage(bench: &Bench) -> Checked {
    let Some((begin, end)) = &bench.subject.outage else { return Err(Fault::Needs("outage(…)")) };
    let (rows, more) = (orders(0..10, "row")?, orders(10..20, "more")?);
    let mut table = bench.create("outage", &rows, &[]).await?;
    bench.append(table.as_mut(), 1, &rows).await?;
    let add = bench.upload(table.as_ref(), std::slice::from_ref(&more)).await?;
    begin().await?;
    let refused = table.commit(numbered(add.clone(), 2)).await;
    let uploaded = bench.upload(table.as_ref(), std::slice::from_ref(&more)).await;
    end().await?;
    match refused {
        Ok(_) => return wrong("a commit succeeded while the store refused all writes"),
        Err(CommitError::Conflict(error)) => {
            return wrong(format!("nobody else wrote, and the commit says so: {error}"));
        }
        Err(CommitError::Failed(_) | CommitError::Unknown(_)) => {}
    }
    if uploaded.is_ok() {
        return wrong("data files were written while the store refused all writes");
    }
    if bench.number("outage").await? == Some(1) {
        let mut again = bench.open("outage").await?;
        committed(again.commit(numbered(add, 2)).await)?;
    }
    same("after the outage", &bench.rows("outage").await?, &bench.expected([&rows, &more])?)
}

async fn maintenance(bench: &Bench) -> Checked {
    const COMMITS: i64 = 40;
    let like = orders(0..1, "row")?;
    let mut table = bench.create("maintenance", &like, &[]).await?;
    for number in 0..COMMITS {
        bench.append(table.as_mut(), number + 1, &orders(number * 10..number * 10 + 10, "row")?).await?;
    }
    let before = ok("files", table.files().await)?.len();
    let staged_rows = orders(1_000..1_010, "staged")?;
    let staged = bench.upload(table.as_ref(), std::slice::from_ref(&staged_rows)).await?;
    let options = Maintenance {
        target_file_bytes: 16 << 20,
        retention: Duration::ZERO,
        staged: Arc::new(staged.iter().map(|file| file.path.clone()).collect()),
        memory_bytes: 8 << 20,
        compression: Compression::Zstd,
        expire: Vec::new(),
        cluster_by: vec!["id".into()],
        dry_run: true,
    };
    let all = orders(0..COMMITS * 10, "row")?;
    ok("maintain", bench.open("maintenance").await?.maintain(&options).await)?;
    let after_dry = ok("files", bench.open("maintenance").await?.files().await)?.len();
    if after_dry != before {
        return wrong(format!("a dry run leaves {after_dry} of {before} files"));
    }
    let options = Maintenance { dry_run: false, ..options };
    let (mut one, mut two) = (bench.open("maintenance").await?, bench.open("maintenance").await?);
    let (first, second) = futures::join!(one.maintain(&options), two.maintain(&options));
    if let (Err(first), Err(second)) = (&first, &second) {
        return wrong(format!("of two that maintain a table at once neither could: {first:?}; {second:?}"));
    }
    same("after two maintained at once", &bench.rows("maintenance").await?, &bench.expected([&all])?)?;
    let after = ok("files", bench.open("maintenance").await?.files().await)?.len();
    if after * 2 > before {
        return wrong(format!("{after} of {before} small files are left"));
    }
    if bench.number("maintenance").await? != Some(COMMITS) {
        return wrong("maintenance changed the number of a writer");
    }
    // The handle is older than the compaction, and its staged file is still there.
    committed(table.commit(numbered(staged, COMMITS + 1)).await)?;
    ok("maintain", bench.open("maintenance").await?.maintain(&options).await)?;
    same("after a staged file came in", &bench.rows("maintenance").await?, &bench.expected([&all, &staged_rows])?)?;
    match ok("number", table.number(APP).await)? {
        Some(number) if number == COMMITS + 1 => Ok(()),
        number => wrong(format!("the handle holds {number:?}")),
    }
}
