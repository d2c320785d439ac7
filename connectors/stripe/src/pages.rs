//! Answers to rows: pages and single objects, decoded, with nested lists made whole and secrets left out.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use arrow_schema::{DataType, Field, Fields, Schema};
use futures::{StreamExt, TryStreamExt};
use ingest_core::json::{Decoder, PageShape};
use ingest_core::{Error, ErrorKind, Result, Seq, columns};
use ingest_http::PageGuard;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::client::Api;
use crate::streams::{ACCOUNT_ID, Def, Nested, Origin};

/// Calls for the rest of nested lists that one page has under way at once.
const NESTED_AT_ONCE: usize = 8;

/// What is known of an object besides its row.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub id: String,
    /// Seconds; 0 where the object does not say.
    pub created: i64,
    /// The list in which a nested stream has its objects: its JSON text, whole.
    pub nested: Option<String>,
}

/// The objects of a page, with a row for each.
pub(crate) struct Page {
    pub objects: Vec<Object>,
    pub rows: RecordBatch,
    pub more: bool,
}

/// Reads answers of one stream for one account.
pub(crate) struct Pages {
    api: Arc<Api>,
    pub def: &'static Def,
    pub account: Option<String>,
    decoder: Decoder,
    shape: PageShape,
    /// The nested list that is wanted with each object.
    field: Option<&'static str>,
}

impl Pages {
    /// `field` is the nested list that is kept beside the rows, for the stream that lives in it.
    pub fn new(api: Arc<Api>, def: &'static Def, account: Option<String>, field: Option<&'static str>) -> Result<Self> {
        let decoder = Decoder::new(def.columns())?.taking(def.secrets.iter().copied());
        Ok(Self { api, def, account, decoder, shape: PageShape::at("data").pick("has_more"), field })
    }

    /// Decodes a page. Lists inside its objects that show only their beginning are completed by further calls.
    ///
    /// # Errors
    /// `DataInvalid` when it is no list of objects with ids; what the calls return.
    pub async fn page(&mut self, body: &[u8]) -> Result<Page> {
        let body = without_secrets(self.def, body);
        let (page, cut) = self.decode(&body)?;
        if !cut {
            return Ok(page);
        }
        // Rare: the rows are made again from a page in which the lists are whole.
        let raw: RawPage<'_> = serde_json::from_slice(&body).map_err(unreadable)?;
        let (this, nested) = (&*self, self.def.nested);
        let calls: Vec<_> = raw.data.into_iter().map(|object| this.completed(object.get(), nested)).collect();
        let whole: Vec<String> = futures::stream::iter(calls).buffered(NESTED_AT_ONCE).try_collect().await?;
        let body = format!(r#"{{"has_more":{},"data":[{}]}}"#, page.more, whole.join(","));
        let (page, cut) = self.decode(body.as_bytes())?;
        match cut {
            false => Ok(page),
            true => Err(Error::unexpected("a nested list was not completed").with("stream", self.def.name)),
        }
    }

    /// The page as it stands, and whether a nested list in it shows only its beginning.
    fn decode(&mut self, body: &[u8]) -> Result<(Page, bool)> {
        let (def, field) = (self.def, self.field);
        let (mut objects, mut cut) = (Vec::new(), false);
        let envelope = self.decoder.page_with(body, &self.shape, |record| {
            let id = record.text("id").filter(|id| !id.is_empty());
            let id = id.ok_or_else(|| Error::new(ErrorKind::DataInvalid, "an object has no id"))?;
            cut |= def.nested.iter().any(|nested| record.raw(nested.field).is_some_and(has_more));
            objects.push(Object {
                id: id.into_owned(),
                created: record.integer(def.created).unwrap_or(0),
                nested: field.and_then(|field| record.raw(field)).map(str::to_owned),
            });
            Ok(())
        });
        let envelope = envelope.map_err(|error| error.with("stream", def.name))?;
        let rows = self.decoder.flush()?;
        let more = envelope.flag("has_more")?.unwrap_or(false);
        Ok((Page { objects, rows, more }, cut))
    }

    /// An object whose nested lists are whole.
    async fn completed(&self, object: &str, lists: &[Nested]) -> Result<String> {
        let mut members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(object).map_err(unreadable)?;
        let id = members.get("id").and_then(|id| serde_json::from_str::<String>(id.get()).ok()).unwrap_or_default();
        for nested in lists {
            let Some(list) = members.get(nested.field).filter(|list| has_more(list.get())) else { continue };
            let whole = self.whole(list.get(), &id, nested).await?;
            members.insert(nested.field.to_owned(), whole);
        }
        serde_json::to_string(&members).map_err(|_| Error::unexpected("cannot write an object as JSON"))
    }

    /// All entries of a nested list. Its path is our own: the link that the list carries is not followed.
    async fn whole(&self, list: &str, id: &str, nested: &Nested) -> Result<Box<RawValue>> {
        let list: NestedList = serde_json::from_str(list).map_err(unreadable)?;
        let (shown, mut more) = (list.data.clone(), list.has_more);
        let mut entries = list.data;
        let (path, mut guard, mut again) = (nested.path.replace("{}", &escaped(id)), PageGuard::new(), 3);
        while more {
            let last = entries.last().map(|entry| entry_id(entry.get())).transpose()?;
            let mut query = Vec::new();
            if let Some(parent) = nested.parent {
                query.push((parent, id.to_owned()));
            }
            if let Some(last) = last {
                guard.next(&last)?;
                query.push(("starting_after", last));
            }
            let body = match self.api.list(self.account.as_deref(), nested.path, &path, &query).await {
                Ok(body) => body,
                // The entry after which the list should go on was taken away: from its beginning.
                Err(error) if error.kind() == ErrorKind::NotFound && again > 0 && !entries.is_empty() => {
                    (entries, guard, again) = (Vec::new(), PageGuard::new(), again - 1);
                    continue;
                }
                // The object itself is gone: what it showed is all there is to know.
                Err(error) if error.kind() == ErrorKind::NotFound && entries.is_empty() => {
                    entries = shown;
                    break;
                }
                Err(error) => return Err(error.with("stream", self.def.name)),
            };
            let next: NestedList = serde_json::from_slice(&without_secrets(self.def, &body)).map_err(unreadable)?;
            more = next.has_more && !next.data.is_empty();
            entries.extend(next.data);
        }
        let entries: Vec<&str> = entries.iter().map(|entry| entry.get()).collect();
        let text = format!(r#"{{"object":"list","has_more":false,"data":[{}]}}"#, entries.join(","));
        RawValue::from_string(text).map_err(unreadable)
    }
}

/// The objects of a nested stream, out of the objects of its parent.
pub(crate) struct Entries {
    pub def: &'static Def,
    names: &'static str,
    decoder: Decoder,
}

impl Entries {
    /// `None` for a stream that is not nested.
    pub fn new(def: &'static Def) -> Result<Option<Self>> {
        let Origin::Nested { names, .. } = def.origin else { return Ok(None) };
        Ok(Some(Self { def, names, decoder: Decoder::new(def.columns())?.taking(def.secrets.iter().copied()) }))
    }

    /// Adds the entries of one parent; gives their ids.
    ///
    /// # Errors
    /// `DataInvalid` when the list is none, or an entry has no id.
    pub fn add(&mut self, parent: &Object) -> Result<Vec<String>> {
        let Some(list) = parent.nested.as_deref().filter(|list| *list != "null") else { return Ok(Vec::new()) };
        let list: NestedList = serde_json::from_str(list).map_err(unreadable)?;
        let parent = to_raw_value(&parent.id).map_err(unreadable)?;
        let mut ids = Vec::with_capacity(list.data.len());
        for entry in list.data {
            ids.push(entry_id(entry.get())?);
            // Not every version names the parent in the entry. A name that is there stands later, and wins.
            let rest = entry.get().trim_start_matches('{').trim_start();
            let comma = if rest.starts_with('}') { "" } else { "," };
            let text = format!(r#"{{"{}":{}{comma}{rest}"#, self.names, parent.get());
            self.decoder.object(text.as_bytes()).map_err(|error| error.with("stream", self.def.name))?;
        }
        Ok(ids)
    }

    /// The rows that were added since the last call.
    pub fn rows(&mut self) -> Result<RecordBatch> {
        self.decoder.flush()
    }
}

/// Adds the account, the place in the order of the source, and what happened to each row (`None` = read from a list).
pub(crate) fn stamped(
    rows: &RecordBatch,
    account: Option<&str>,
    seqs: &[Seq],
    ops: Option<&[&str]>,
) -> Result<RecordBatch> {
    let count = rows.num_rows();
    let mut fields: Vec<Arc<Field>> = rows.schema().fields().iter().cloned().collect();
    let mut arrays: Vec<ArrayRef> = rows.columns().to_vec();
    if let Some(account) = account {
        // Before `_ingest_rescued`, which stands with our own columns at the end.
        let at = fields.len().saturating_sub(1);
        fields.insert(at, Arc::new(Field::new(ACCOUNT_ID, DataType::Utf8, true)));
        arrays.insert(at, Arc::new(StringArray::from_iter_values(std::iter::repeat_n(account, count))));
    }
    if let Some(ops) = ops {
        fields.push(Arc::new(columns::field(columns::OP)));
        arrays.push(Arc::new(StringArray::from_iter_values(ops)));
    }
    fields.push(Arc::new(columns::field(columns::SEQ)));
    arrays.push(Arc::new(StringArray::from_iter_values(seqs.iter().map(Seq::as_str))));
    let options = RecordBatchOptions::new().with_row_count(Some(count));
    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(Fields::from(fields))), arrays, &options)?)
}

#[derive(Deserialize)]
struct RawPage<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct NestedList {
    data: Vec<Box<RawValue>>,
    #[serde(default)]
    has_more: bool,
}

/// Whether a nested list has entries that it does not show.
fn has_more(list: &str) -> bool {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        has_more: bool,
    }
    list.starts_with('{') && serde_json::from_str::<Head>(list).is_ok_and(|head| head.has_more)
}

fn entry_id(entry: &str) -> Result<String> {
    #[derive(Deserialize)]
    struct Entry {
        id: String,
    }
    serde_json::from_str::<Entry>(entry)
        .map(|entry| entry.id)
        .map_err(|_| Error::new(ErrorKind::DataInvalid, "an entry of a nested list has no id"))
}

/// An id as a part of a path. Ids of coupons, plans and products are chosen by users.
pub(crate) fn escaped(id: &str) -> String {
    let mut text = String::with_capacity(id.len());
    for byte in id.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => text.push(char::from(byte)),
            // A lone dot, or two, would be taken as a step in the path.
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

fn unreadable(error: serde_json::Error) -> Error {
    // The library's text could quote the data.
    Error::new(ErrorKind::DataInvalid, "an answer has not the shape that was expected")
        .with("line", error.line())
        .with("column", error.column())
}

/// A field by whose value one can act on the object, wherever it stands.
const CLIENT_SECRET: &[u8] = b"\"client_secret\"";

/// The same in what some events carry: ephemeral keys, endpoints of webhooks.
const SECRET: &[u8] = b"\"secret\"";

/// The body with the values of such fields replaced by null. A key is told from a text by what surrounds it: inside a
/// text its quotes would be escaped.
fn without_secrets<'a>(def: &Def, body: &'a [u8]) -> Cow<'a, [u8]> {
    let keys: &[&[u8]] = if def.name == "events" { &[CLIENT_SECRET, SECRET] } else { &[CLIENT_SECRET] };
    let mut body = Cow::Borrowed(body);
    for key in keys {
        let found: Vec<usize> = memchr::memmem::find_iter(&body, key).map(|at| at + key.len()).collect();
        for end in found {
            if let Some((from, to)) = text_after_colon(&body, end) {
                let body = body.to_mut();
                body[from..to].fill(b' ');
                // At least the two quotes and a character were there; a shorter text holds no secret.
                body[from..from + 4].copy_from_slice(b"null");
            }
        }
    }
    body
}

/// Where the text stands that follows a key; `None` when it is no text, or too short to be a secret.
fn text_after_colon(body: &[u8], key_end: usize) -> Option<(usize, usize)> {
    let blank = |at: usize| body.get(at..)?.iter().position(|b| !b.is_ascii_whitespace()).map(|n| at + n);
    let colon = blank(key_end).filter(|at| body[*at] == b':')?;
    let from = blank(colon + 1).filter(|at| body[*at] == b'"')?;
    let mut at = from + 1;
    loop {
        match body.get(at)? {
            b'"' => break,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    (at + 1 - from >= 4).then_some((from, at + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_blanked_wherever_they_stand_and_nothing_else() {
        let body = br#"{"client_secret": "pi_1_secret_x", "a": {"client_secret":"y\"z\\", "n": 1e400},
            "text": "\"client_secret\":\"kept\"", "secret" : "whsec_1", "secrets": "kept", "client_secret": null}"#;
        let events = crate::streams::find("events").expect("a stream");
        let clean = String::from_utf8(without_secrets(events, body).into_owned()).expect("text");
        assert!(!clean.contains("pi_1_secret_x") && !clean.contains("whsec_1") && !clean.contains(r#"y\"z"#));
        assert!(clean.contains(r#"\"client_secret\":\"kept\""#) && clean.contains(r#""secrets": "kept""#));
        assert!(clean.contains("1e400"));
        let value: serde_json::Value = serde_json::from_str(&clean.replace("1e400", "1")).expect("still JSON");
        assert!(value["a"]["client_secret"].is_null());
        assert!(matches!(without_secrets(events, br#"{"a":1}"#), Cow::Borrowed(_)));
        // Not even a cut body makes it panic.
        for end in 0..body.len() {
            without_secrets(events, &body[..end]);
        }
    }

    #[test]
    fn ids_cannot_leave_their_place_in_a_path() {
        assert_eq!(escaped("../a b?c#d/ü"), "%2E%2E%2Fa%20b%3Fc%23d%2F%C3%BC");
        assert_eq!(escaped("cus_1-a~B"), "cus_1-a~B");
    }

    #[test]
    fn entries_carry_the_id_of_their_parent() {
        let def = crate::streams::find("invoice_line_items").expect("a stream");
        let mut entries = Entries::new(def).expect("a schema").expect("nested");
        let nested = r#"{"data": [{"id":"il_1"}, {"id":"il_2","invoice":"in_of_the_entry"}], "has_more": false}"#;
        let parent = Object { id: "in_\"1".into(), created: 1, nested: Some(nested.into()) };
        assert_eq!(entries.add(&parent).expect("entries"), ["il_1", "il_2"]);
        let rows = entries.rows().expect("rows");
        let invoices = rows.column_by_name("invoice").expect("a column");
        let invoices = invoices.as_any().downcast_ref::<StringArray>().expect("texts");
        assert_eq!(invoices.iter().collect::<Vec<_>>(), [Some("in_\"1"), Some("in_of_the_entry")]);
    }
}
