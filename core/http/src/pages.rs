//! Walking through pages: where it must end, and how the next page travels while this one is written.

use std::collections::HashSet;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::task::{Context, Poll};

use ingest_core::{Error, ErrorKind, Result};
use tokio::task::JoinHandle;

use crate::Reply;

/// Ends walks through pages that would not end by themselves: a cursor that comes again, more pages than can be.
///
/// It keeps 8 bytes a page. Cursors can hold keys of rows, so errors show their hash alone.
///
/// ```
/// let mut guard = ingest_http::PageGuard::new();
/// guard.next("page-2").unwrap();
/// guard.next("page-3").unwrap();
/// assert!(guard.next("page-2").is_err());
/// ```
#[derive(Debug, Clone)]
pub struct PageGuard {
    seen: HashSet<u64>,
    limit: usize,
}

impl PageGuard {
    /// A guard with a limit of 1,000,000 pages.
    pub fn new() -> Self {
        Self::with_limit(1_000_000)
    }

    /// A guard with another limit, e.g. twice what an API says there is.
    pub fn with_limit(pages: usize) -> Self {
        Self { seen: HashSet::new(), limit: pages }
    }

    /// Notes the cursor or link of the page that is asked for next.
    ///
    /// # Errors
    /// `DataInvalid` when it was asked for before; `LimitExceeded` when there are too many.
    pub fn next(&mut self, cursor: &str) -> Result<()> {
        let mut hasher = DefaultHasher::new();
        cursor.hash(&mut hasher);
        let hash = hasher.finish();
        if !self.seen.insert(hash) {
            return Err(Error::new(ErrorKind::DataInvalid, "the source repeats a page: it would never end")
                .with("cursor_hash", format_args!("{hash:016x}"))
                .with("page", self.seen.len() + 1)
                .hint("nothing beyond the last mark was written; ask the source's operator"));
        }
        if self.seen.len() > self.limit {
            return Err(Error::new(ErrorKind::LimitExceeded, "the source sends more pages than the limit")
                .with("cursor_hash", format_args!("{hash:016x}"))
                .with("limit", self.limit));
        }
        Ok(())
    }

    /// How many cursors were noted.
    pub fn pages(&self) -> usize {
        self.seen.len()
    }
}

impl Default for PageGuard {
    fn default() -> Self {
        Self::new()
    }
}

/// A request under way on a task of its own; awaiting it gives the answer, dropping it gives it up.
#[must_use = "a fetch that is dropped is given up"]
#[derive(Debug)]
pub struct Fetch(JoinHandle<Result<Reply>>);

impl Fetch {
    pub(crate) fn new(task: JoinHandle<Result<Reply>>) -> Self {
        Self(task)
    }
}

impl Future for Fetch {
    type Output = Result<Reply>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|joined| match joined {
            Ok(reply) => reply,
            Err(error) if error.is_cancelled() => Err(Error::cancelled()),
            Err(_) => Err(Error::unexpected("a request panicked")),
        })
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The target of `rel="next"` in one `Link` header: `<https://…>; rel="next", <…>; rel="last"`.
pub(crate) fn next_of(header: &str) -> Option<String> {
    let mut rest = header;
    loop {
        let (_, after) = rest.split_once('<')?;
        let (link, parameters) = after.split_once('>')?;
        let end = parameters.find('<').unwrap_or(parameters.len());
        let (own, following) = parameters.split_at(end);
        let next = own.split(';').any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or_default();
            let value = value.trim().trim_end_matches(',').trim().trim_matches('"');
            name.trim().eq_ignore_ascii_case("rel") && value.split(' ').any(|rel| rel.eq_ignore_ascii_case("next"))
        });
        if next {
            return Some(link.to_owned());
        }
        rest = following;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_of_two_cursors_is_found_and_only_its_hash_shown() {
        let mut guard = PageGuard::new();
        guard.next("canary-a").expect("new");
        guard.next("canary-b").expect("new");
        let error = guard.next("canary-a").expect_err("seen");
        assert_eq!(error.kind(), ErrorKind::DataInvalid);
        assert!(error.to_string().contains("cursor_hash") && !error.to_string().contains("canary"));
    }

    #[test]
    fn pages_without_end_reach_the_limit() {
        let mut guard = PageGuard::with_limit(3);
        for page in 0..3 {
            guard.next(&page.to_string()).expect("within the limit");
        }
        assert_eq!(guard.next("3").expect_err("beyond").kind(), ErrorKind::LimitExceeded);
    }

    #[test]
    fn the_next_link_is_found_among_others() {
        let header = r#"<https://a/1>; rel="prev", <https://a/3?x=1,2>; title="a"; rel="last next""#;
        assert_eq!(next_of(header).as_deref(), Some("https://a/3?x=1,2"));
        assert_eq!(next_of(r#"<https://a/1>; rel=prev"#), None);
        assert_eq!(next_of("<https://a/2>; rel=next").as_deref(), Some("https://a/2"));
        assert_eq!(next_of("<<<>"), None);
    }
}
