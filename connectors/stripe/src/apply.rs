//! What became of changed objects: they are read again, several at once, and given out in the order of their events.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use ingest_core::{ErrorKind, Out, Result, Seq, StreamName};
use serde::Deserialize;
use serde_json::json;

use crate::Stripe;
use crate::feed::Change;
use crate::lists::nested_field;
use crate::pages::{Entries, Object, Pages, escaped, stamped};
use crate::plan::stream_def;
use crate::state::{Position, event_seq};
use crate::streams::Def;

/// Changes whose rows are kept at once.
const CHUNK: usize = 256;

/// What an object turned out to be.
enum Found {
    There(Bytes),
    /// Gone; what the event showed of it, or at least its id.
    Gone(String),
}

/// Gives out the changes of the streams of one feed.
pub(crate) struct Apply<'a> {
    stripe: &'a Stripe,
    account: Option<&'a str>,
    objects: Vec<Objects<'a>>,
}

/// The objects of one list: its own stream, and the stream that is nested in it.
struct Objects<'a> {
    def: &'static Def,
    own: Option<&'a StreamName>,
    nested: Option<(&'a StreamName, Entries)>,
    pages: Pages,
}

impl<'a> Apply<'a> {
    pub fn new(stripe: &'a Stripe, account: Option<&'a str>, streams: &'a [StreamName]) -> Result<Self> {
        let mut objects: Vec<Objects<'a>> = Vec::new();
        let mut defs = BTreeSet::new();
        for stream in streams {
            let def = stream_def(stream)?.reread();
            if !defs.insert(def.name) {
                continue;
            }
            let (mut own, mut nested) = (None, None);
            for stream in streams {
                let member = stream_def(stream)?;
                if member.name == def.name {
                    own = Some(stream);
                } else if member.reread().name == def.name {
                    nested = Entries::new(member)?.map(|entries| (stream, entries));
                }
            }
            let field = nested.as_ref().and_then(|(_, entries)| nested_field(entries.def));
            let pages = Pages::new(stripe.api.clone(), def, account.map(str::to_owned), field)?;
            objects.push(Objects { def, own, nested, pages });
        }
        Ok(Self { stripe, account, objects })
    }

    /// Gives out changes, which stand in the order of their events. `reached` says which position holds before the
    /// events of a second.
    pub async fn changes(
        &mut self,
        changes: Vec<Change>,
        out: &mut Out<'_, Position>,
        mut reached: impl FnMut(i64) -> Option<Position> + Send,
    ) -> Result<()> {
        let (stripe, account) = (self.stripe, self.account);
        for chunk in changes.chunks(CHUNK) {
            let calls: Vec<_> = chunk.iter().map(|change| find(stripe, account, change)).collect();
            let found: Vec<Found> = futures::stream::iter(calls).buffered(stripe.at_once()).try_collect().await?;
            if let Some(position) = chunk.first().and_then(|change| reached(change.created)) {
                out.mark(&position).await?;
            }
            for objects in &mut self.objects {
                let chunk: Vec<_> =
                    chunk.iter().zip(&found).filter(|(change, _)| change.def.name == objects.def.name).collect();
                if !chunk.is_empty() {
                    objects.rows(stripe, account, &chunk, out).await?;
                }
            }
        }
        Ok(())
    }
}

/// Reads an object again, where the event does not tell enough.
async fn find(stripe: &Stripe, account: Option<&str>, change: &Change) -> Result<Found> {
    let gone = || Found::Gone(change.payload.clone().unwrap_or_else(|| json!({"id": change.id}).to_string()));
    if change.deleted && !change.disputed {
        return Ok(gone());
    }
    if !stripe.config.hydrate
        && !change.disputed
        && let Some(payload) = &change.payload
    {
        return Ok(Found::There(payload.clone().into()));
    }
    let path = format!("{}/{}", change.def.path, escaped(&change.id));
    match stripe.api.get(account, &format!("{}/:id", change.def.path), &path, &[]).await {
        Ok(body) if is_deleted(&body) => Ok(gone()),
        Ok(body) => Ok(Found::There(body)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(gone()),
        Err(error) => Err(error.with("stream", change.def.name)),
    }
}

/// Some objects can be looked up after their end.
fn is_deleted(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        deleted: Option<bool>,
    }
    // A body that is not such an object is told by the decoder.
    serde_json::from_slice::<Head>(body).is_ok_and(|head| head.deleted == Some(true))
}

impl Objects<'_> {
    async fn rows(
        &mut self,
        stripe: &Stripe,
        account: Option<&str>,
        chunk: &[(&Change, &Found)],
        out: &mut Out<'_, Position>,
    ) -> Result<()> {
        let (mut body, mut seqs, mut ops) = (br#"{"data":["#.to_vec(), Vec::new(), Vec::new());
        for (change, found) in chunk {
            if body.last() != Some(&b'[') {
                body.push(b',');
            }
            let (object, op): (&[u8], _) = match found {
                Found::There(object) => (object, if change.fresh { "I" } else { "U" }),
                Found::Gone(object) => (object.as_bytes(), "D"),
            };
            body.extend_from_slice(object);
            seqs.push(event_seq(change.created, change.nth));
            ops.push(op);
        }
        body.extend_from_slice(b"]}");
        let page = self.pages.page(&body).await?;
        let account = stripe.row_account(account);
        if let Some(stream) = self.own {
            out.rows(stream, stamped(&page.rows, account, &seqs, Some(&ops))?).await?;
        }
        let Some((stream, entries)) = &mut self.nested else { return Ok(()) };
        let (mut entry_seqs, mut entry_ops) = (Vec::new(), Vec::new());
        for (((change, _), object), (seq, op)) in chunk.iter().zip(&page.objects).zip(seqs.iter().zip(&ops)) {
            let there = entries.add(object)?;
            entry_ops.extend(std::iter::repeat_n(*op, there.len()));
            entry_seqs.extend(std::iter::repeat_n(seq.clone(), there.len()));
            // What the list had before and has no more was taken out of it.
            let out_of_it: Vec<_> = change.previous.iter().filter(|id| !there.contains(id)).collect();
            let list = json!({"data": out_of_it.iter().map(|id| json!({"id": id})).collect::<Vec<_>>()});
            entries.add(&Object { nested: Some(list.to_string()), ..object.clone() })?;
            entry_ops.extend(std::iter::repeat_n("D", out_of_it.len()));
            entry_seqs.extend(std::iter::repeat_n(Seq::clone(seq), out_of_it.len()));
        }
        out.rows(stream, stamped(&entries.rows()?, account, &entry_seqs, Some(&entry_ops))?).await
    }
}
