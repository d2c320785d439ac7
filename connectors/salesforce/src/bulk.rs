//! Jobs of the Bulk API 2.0: made, looked at, read page by page. Any process can take one over by its id.

use std::time::Duration;

use ingest_core::{Done, Error, ErrorKind, Out, Result};
use ingest_http::{PageGuard, word};

use crate::client::{Job, text};
use crate::extract::Reading;
use crate::results::Results;
use crate::soql;
use crate::state::Position;

/// Jobs that may fail before the slice does.
const JOBS: u8 = 3;

/// Makes a job. An object that the Bulk API refuses is read by pages.
pub(crate) async fn begin(reading: &Reading<'_>, failed: u8, out: &mut Out<'_, Position>) -> Result<Done> {
    let soql = soql::whole(reading.work)?;
    match reading.salesforce.api.create_job(&soql, soql::asks_all(reading.work)).await {
        Ok(job) => {
            let wait = wait(reading.salesforce.look(&job.id));
            out.mark(&Position::Job { id: job.id, failed }).await?;
            Ok(Done::Pending(wait))
        }
        Err(error) if error.kind() == ErrorKind::Unsupported => by_pages(failed, out).await,
        Err(error) => Err(error),
    }
}

async fn by_pages(failed: u8, out: &mut Out<'_, Position>) -> Result<Done> {
    out.mark(&Position::Fresh { failed, by_pages: true }).await?;
    Ok(Done::Pending(Duration::ZERO))
}

/// How long until a job is looked at again.
fn wait(looks: u32) -> Duration {
    Duration::from_millis(200_u64 << looks.min(8)).min(Duration::from_secs(30))
}

/// Looks at a job, and reads its results once it is complete.
pub(crate) async fn look(reading: &Reading<'_>, id: &str, failed: u8, out: &mut Out<'_, Position>) -> Result<Done> {
    let job = match reading.salesforce.api.job(id).await {
        Ok(job) => job,
        // Jobs are deleted after a week; nothing of it was read.
        Err(error) if error.kind() == ErrorKind::NotFound => return again(reading, failed, &error, out).await,
        Err(error) => return Err(error),
    };
    match job.state.as_str() {
        "JobComplete" => pages(reading, &job, None, 0, out).await,
        "Failed" | "Aborted" => {
            let message = job.error_message.as_deref().unwrap_or_default();
            if message.contains("not supported") {
                return by_pages(failed, out).await;
            }
            let what =
                if job.state == "Failed" { "a job of the source failed" } else { "a job of the source was aborted" };
            let error = Error::new(ErrorKind::Unavailable, what).with("job", id);
            let code = message.split([':', ' ']).find_map(word);
            again(reading, failed, &if let Some(code) = code { error.with("code", code) } else { error }, out).await
        }
        "UploadComplete" | "InProgress" | "Open" => Ok(Done::Pending(wait(reading.salesforce.look(id)))),
        other => Err(Error::new(ErrorKind::DataInvalid, "a job is in a state that its API does not have")
            .with("state", word(other).unwrap_or("?"))),
    }
}

/// Makes another job in place of one that came to nothing, a few times; the next run begins anew.
async fn again(reading: &Reading<'_>, failed: u8, why: &Error, out: &mut Out<'_, Position>) -> Result<Done> {
    let failed = failed.saturating_add(1);
    if failed < JOBS {
        tracing::warn!(stream = %reading.stream, error = %why, "a job is made again");
        out.mark(&Position::Fresh { failed, by_pages: false }).await?;
        return Ok(Done::Pending(wait(u32::from(failed))));
    }
    out.mark(&Position::Fresh { failed: 0, by_pages: false }).await?;
    Err(why
        .replicate()
        .with("jobs", failed)
        .exhausted()
        .hint("look at the jobs in Setup, Bulk Data Load Jobs; then run again"))
}

/// Reads on behind pages that are committed.
pub(crate) async fn resume(
    reading: &Reading<'_>,
    id: &str,
    locator: &str,
    rows: u64,
    out: &mut Out<'_, Position>,
) -> Result<Done> {
    let job = reading.salesforce.api.job(id).await.map_err(|error| gone(error, id))?;
    pages(reading, &job, Some(locator.to_owned()), rows, out).await
}

/// The results of a job are kept for a week.
fn gone(error: Error, job: &str) -> Error {
    match error.kind() {
        ErrorKind::NotFound => error.of_kind(ErrorKind::SliceExpired).with("job", job),
        _ => error,
    }
}

async fn pages(
    reading: &Reading<'_>,
    job: &Job,
    mut locator: Option<String>,
    mut rows: u64,
    out: &mut Out<'_, Position>,
) -> Result<Done> {
    let mut guard = PageGuard::new();
    let mut results = Results::new(soql::selected(reading.work))?;
    loop {
        let (count, next) = page(reading, &job.id, locator.as_deref(), &mut results, out).await?;
        rows += count;
        let Some(next) = next else { break };
        guard.next(&next)?;
        out.mark(&Position::Results { job: job.id.clone(), locator: next.clone(), rows }).await?;
        locator = Some(next);
    }
    match job.number_records_processed {
        Some(all) if all != rows => {
            Err(Error::new(ErrorKind::DataInvalid, "a job has another number of rows than it says")
                .with("rows", rows)
                .with("expected", all)
                .with("job", &job.id)
                .hint("nothing beyond the last mark was written; run again"))
        }
        _ => Ok(Done::Complete),
    }
}

/// One page of results, straight into batches: how many rows it had, and where the next one is.
async fn page(
    reading: &Reading<'_>,
    job: &str,
    locator: Option<&str>,
    results: &mut Results,
    out: &mut Out<'_, Position>,
) -> Result<(u64, Option<String>)> {
    let (api, config) = (&reading.salesforce.api, &reading.salesforce.config);
    let download = api.results(job, locator, config.bulk_page_size).await;
    let mut download = download.map_err(|error| gone(error, job))?;
    let expected: Option<u64> = text(download.headers(), "sforce-numberofrecords").and_then(|count| count.parse().ok());
    let next = text(download.headers(), "sforce-locator").filter(|next| !next.is_empty() && *next != "null");
    let next = next.map(str::to_owned);
    results.begin();
    loop {
        let piece = download.next().await?;
        let is_last = piece.is_none();
        results.push(piece.as_deref().unwrap_or_default(), is_last)?;
        if results.bytes() >= out.batch_bytes() || (is_last && results.rows() > 0) {
            let batch = results.batch()?;
            reading.give(batch, out).await?;
        }
        if is_last {
            break;
        }
    }
    let page = results.end();
    if page.is_torn || expected.is_some_and(|expected| expected != page.records) {
        return Err(Error::new(ErrorKind::Unavailable, "a page of a job's results ends before its end")
            .with("rows", page.records)
            .with("expected", expected.map_or("unknown".to_owned(), |expected| expected.to_string())));
    }
    for bad in page.bad {
        out.quarantine(reading.stream, bad).await?;
    }
    if page.replaced > 0 {
        let text = format!("{}: {} bytes that are no UTF-8 were replaced by `?`", reading.stream, page.replaced);
        out.warn(Some(reading.stream), text).await?;
    }
    Ok((page.records, next))
}
