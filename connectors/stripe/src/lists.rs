//! Slices of lists: the rows of a list, and of the streams that live inside its objects.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use ingest_core::{Done, Error, ErrorKind, Out, Result, Seq, StreamName};
use ingest_http::PageGuard;
use serde::Deserialize;

use crate::Stripe;
use crate::pages::{Entries, Object, Page, Pages, escaped, stamped};
use crate::plan::stream_def;
use crate::state::{ListWork, Position, row_seq};
use crate::streams::{Def, Origin};
use crate::walk::{List, Walk};

/// What a slice gives of each page.
struct Outputs<'a> {
    work: &'a ListWork,
    /// The list's own stream.
    own: Option<&'a StreamName>,
    nested: Vec<(&'a StreamName, Entries)>,
    each: Vec<(&'a StreamName, &'static str, Pages)>,
}

/// Reads a window of a list, newest first. Marks stand where a second is over: everything created then and later is out.
pub(crate) async fn read(
    stripe: &Stripe,
    work: &ListWork,
    streams: &[StreamName],
    from: Option<&Position>,
    out: &mut Out<'_, Position>,
) -> Result<Done> {
    let to = match from {
        None => work.to,
        Some(Position::List { below, .. }) => work.to.min(below.saturating_sub(1)),
        Some(_) => return Err(Error::new(ErrorKind::CheckpointInvalid, "a list stands at a position of another kind")),
    };
    if work.from.is_some_and(|from| from > to) {
        return Ok(Done::Complete);
    }
    let def = stream_def(&StreamName::from(work.list.as_str()))?;
    let mut outputs = outputs(stripe, work, def, streams)?;
    let field = outputs.nested.first().and_then(|(_, entries)| nested_field(entries.def));
    let account = if def.platform { None } else { work.account.clone() };
    let mut walk = Walk::new(List { api: stripe.api.clone(), def, account, field }, work.from, to);
    let (mut order, mut told) = (Order::default(), false);
    while let Some(page) = walk.next().await? {
        if let Some(below) = order.done_before(&page.objects) {
            out.mark(&Position::List { below, at: work.at }).await?;
        }
        if order.broken && !std::mem::replace(&mut told, true) {
            tracing::warn!(stream = def.name, "a list is not in the order of creation; it cannot be resumed inside");
        }
        outputs.page(stripe, &page, out).await?;
    }
    Ok(Done::Complete)
}

fn outputs<'a>(
    stripe: &Stripe,
    work: &'a ListWork,
    list: &'static Def,
    streams: &'a [StreamName],
) -> Result<Outputs<'a>> {
    let mut outputs = Outputs { work, own: None, nested: Vec::new(), each: Vec::new() };
    for stream in streams {
        let def = stream_def(stream)?;
        match def.origin {
            _ if def.name == list.name => outputs.own = Some(stream),
            Origin::Nested { .. } => {
                if let Some(entries) = Entries::new(def)? {
                    outputs.nested.push((stream, entries));
                }
            }
            Origin::Each { path, .. } => {
                let pages = Pages::new(stripe.api.clone(), def, work.account.clone(), None)?;
                outputs.each.push((stream, path, pages));
            }
            Origin::List => return Err(Error::unexpected("a slice holds a stream of another list")),
        }
    }
    Ok(outputs)
}

/// The field of its parent in which a nested stream lives.
pub(crate) fn nested_field(def: &Def) -> Option<&'static str> {
    match def.origin {
        Origin::Nested { field, .. } => Some(field),
        Origin::List | Origin::Each { .. } => None,
    }
}

/// Where the seconds of a list are over.
#[derive(Default)]
struct Order {
    last: Option<i64>,
    broken: bool,
}

impl Order {
    /// The second from which on everything is out before this page, if the page begins in an earlier one.
    fn done_before(&mut self, page: &[Object]) -> Option<i64> {
        let first = page.first()?.created;
        let done = self.last.filter(|last| first < *last && !self.broken);
        for object in page {
            self.broken |= self.last.is_some_and(|last| object.created > last);
            self.last = Some(object.created);
        }
        done.filter(|_| !self.broken)
    }
}

impl Outputs<'_> {
    async fn page(&mut self, stripe: &Stripe, page: &Page, out: &mut Out<'_, Position>) -> Result<()> {
        let account = stripe.row_account(self.work.account.as_deref());
        if let Some(stream) = self.own {
            let account = account.filter(|_| !stream_def(stream).is_ok_and(|def| def.platform));
            let rows = stamped(&page.rows, account, &self.seqs(page.objects.iter().map(|o| (o, 1))), None)?;
            out.rows(stream, rows).await?;
        }
        for i in 0..self.nested.len() {
            let mut counts = Vec::with_capacity(page.objects.len());
            let (stream, entries) = &mut self.nested[i];
            for object in &page.objects {
                counts.push((object, entries.add(object)?.len()));
            }
            let (stream, rows) = (*stream, entries.rows()?);
            out.rows(stream, stamped(&rows, account, &self.seqs(counts), None)?).await?;
        }
        for i in 0..self.each.len() {
            let (stream, path, _) = &self.each[i];
            let (stream, path) = (*stream, *path);
            let account_read = self.work.account.as_deref();
            let calls: Vec<_> =
                page.objects.iter().map(|object| list_of_one(stripe, account_read, path, object)).collect();
            let mut lists = futures::stream::iter(calls).buffered(stripe.at_once());
            while let Some((object, bodies)) = lists.try_next().await? {
                for body in bodies {
                    let rows = self.each[i].2.page(&body).await?.rows;
                    let seqs = self.seqs([(object, rows.num_rows())]);
                    out.rows(stream, stamped(&rows, account, &seqs, None)?).await?;
                }
            }
        }
        Ok(())
    }

    /// The places of rows: for each object, as many as it has.
    fn seqs<'o>(&self, objects: impl IntoIterator<Item = (&'o Object, usize)>) -> Vec<Seq> {
        let mut seqs = Vec::new();
        for (object, count) in objects {
            let seq = row_seq(self.work.at, object.created);
            seqs.extend(std::iter::repeat_n(seq, count));
        }
        seqs
    }
}

/// All pages of the list that belongs to one object. An object that is gone has none.
async fn list_of_one<'o>(
    stripe: &Stripe,
    account: Option<&str>,
    template: &str,
    object: &'o Object,
) -> Result<(&'o Object, Vec<Bytes>)> {
    #[derive(Deserialize)]
    struct Head {
        data: Vec<Entry>,
        #[serde(default)]
        has_more: bool,
    }
    #[derive(Deserialize)]
    struct Entry {
        id: String,
    }
    let path = template.replace("{}", &escaped(&object.id));
    let (mut bodies, mut query, mut guard, mut again) = (Vec::new(), Vec::new(), PageGuard::new(), 3);
    loop {
        let body = match stripe.api.list(account, template, &path, &query).await {
            Ok(body) => body,
            // Deleted since the page of its list was read.
            Err(error) if error.kind() == ErrorKind::NotFound && query.is_empty() => return Ok((object, Vec::new())),
            // What the list should go on after was taken away: from its beginning.
            Err(error) if error.kind() == ErrorKind::NotFound && again > 0 => {
                (bodies, query, guard, again) = (Vec::new(), Vec::new(), PageGuard::new(), again - 1);
                continue;
            }
            Err(error) => return Err(error),
        };
        let head: Head = serde_json::from_slice(&body).map_err(|_| {
            Error::new(ErrorKind::DataInvalid, "an answer is not the list that was asked for").with("path", template)
        })?;
        bodies.push(body);
        let Some(last) = head.data.into_iter().next_back().filter(|_| head.has_more) else {
            return Ok((object, bodies));
        };
        guard.next(&last.id)?;
        query = vec![("starting_after", last.id)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(created: &[i64]) -> Vec<Object> {
        created.iter().map(|created| Object { id: "x".into(), created: *created, nested: None }).collect()
    }

    #[test]
    fn marks_stand_only_where_a_second_is_over() {
        let mut order = Order::default();
        assert_eq!(order.done_before(&page(&[9, 8])), None);
        assert_eq!(order.done_before(&page(&[8, 7])), None, "8 goes on");
        assert_eq!(order.done_before(&page(&[6, 6])), Some(7));
        assert_eq!(order.done_before(&page(&[6, 6])), None);
        assert_eq!(order.done_before(&page(&[5])), Some(6));
    }

    #[test]
    fn a_list_out_of_order_has_no_marks_any_more() {
        let mut order = Order::default();
        assert_eq!(order.done_before(&page(&[9, 8])), None);
        assert_eq!(order.done_before(&page(&[7, 9])), None);
        assert_eq!(order.done_before(&page(&[6])), None);
        assert!(order.broken);
    }
}
