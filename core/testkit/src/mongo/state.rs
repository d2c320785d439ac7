//! What the stand-in holds, and what it answers.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bson::{Bson, DateTime, Document, Timestamp, doc};

/// Documents of a batch.
const BATCH: usize = 3;

/// What goes wrong with a command.
#[derive(Debug, Clone)]
pub enum Fault {
    /// An error of the server.
    Error {
        /// Its number.
        code: i32,
        /// Its name.
        name: String,
        /// Its labels.
        labels: Vec<String>,
    },
    /// The connection is closed.
    Close,
    /// Nothing is answered.
    Silence,
}

impl Fault {
    /// An error without labels.
    pub fn code(code: i32, name: &str) -> Self {
        Self::Error { code, name: name.to_owned(), labels: Vec::new() }
    }

    /// The same error with a label.
    #[must_use]
    pub fn labelled(self, label: &str) -> Self {
        match self {
            Self::Error { code, name, mut labels } => {
                labels.push(label.to_owned());
                Self::Error { code, name, labels }
            }
            other => other,
        }
    }
}

/// What is sent.
pub(super) enum Answer {
    Document(Document),
    /// An empty batch of a stream, which may wait.
    Empty(Document),
    Close,
    Silence,
}

/// What the server holds, and the script of what goes wrong.
pub struct State {
    port: u16,
    /// Whether it is a member of a replica set.
    pub replica_set: bool,
    collections: BTreeMap<(String, String), Collection>,
    log: Vec<Event>,
    /// Events before this one are forgotten.
    first: usize,
    /// The time of the cluster.
    time: u64,
    /// Changes share one time, as those of a transaction do.
    held: bool,
    cursors: HashMap<i64, Cursor>,
    next_cursor: i64,
    faults: VecDeque<(String, usize, Fault)>,
    commands: Vec<Document>,
}

#[derive(Default)]
struct Collection {
    documents: BTreeMap<i64, Document>,
    options: Document,
    kind: Option<String>,
}

struct Event {
    document: Document,
    time: u64,
    database: String,
    /// The documents after and before, where they are kept.
    images: (Option<Document>, Option<Document>),
}

enum Cursor {
    Documents { namespace: String, rest: VecDeque<Document> },
    Stream(Stream),
}

#[derive(Clone)]
struct Stream {
    /// `None` = all.
    database: Option<String>,
    next: usize,
    asked: Document,
}

impl State {
    pub(super) fn new(port: u16) -> Self {
        Self {
            port,
            replica_set: true,
            collections: BTreeMap::new(),
            log: Vec::new(),
            first: 0,
            time: 1_700_000_000 << 32 | 1,
            held: false,
            cursors: HashMap::new(),
            next_cursor: 100,
            faults: VecDeque::new(),
            commands: Vec::new(),
        }
    }

    /// The next command of this name goes wrong so; then the one after it, in the order of the script. `changes` is a `getMore` of a
    /// change stream.
    pub fn fault(&mut self, command: &str, fault: Fault) {
        self.fault_after(command, 0, fault);
    }

    /// The same, after so many commands of this name that are answered.
    pub fn fault_after(&mut self, command: &str, answered: usize, fault: Fault) {
        self.faults.push_back((command.to_owned(), answered, fault));
    }

    /// What was asked by commands of this name, in order.
    pub fn asked(&self, command: &str) -> Vec<Document> {
        self.commands.iter().filter(|asked| name(asked) == command).cloned().collect()
    }

    /// Makes an empty collection with these options.
    pub fn create(&mut self, database: &str, collection: &str, options: Document) {
        self.collection(database, collection).options = options;
    }

    /// Makes a collection a `view` or `timeseries`.
    pub fn make(&mut self, database: &str, collection: &str, kind: &str) {
        self.collection(database, collection).kind = Some(kind.to_owned());
    }

    /// Adds a document or puts one in the place of another; its `_id` is a number.
    pub fn insert(&mut self, database: &str, collection: &str, document: Document) {
        let id = id_of(&document);
        let before = self.collection(database, collection).documents.insert(id, document.clone());
        let operation = if before.is_some() { "replace" } else { "insert" };
        let extra = doc! { "documentKey": { "_id": id }, "fullDocument": document.clone() };
        self.event(database, collection, operation, extra, (Some(document), before));
    }

    /// Changes a document that is there.
    pub fn update(&mut self, database: &str, collection: &str, document: Document) {
        let id = id_of(&document);
        let before = self.collection(database, collection).documents.insert(id, document.clone());
        let extra = doc! { "documentKey": { "_id": id }, "updateDescription": { "updatedFields": {} } };
        self.event(database, collection, "update", extra, (Some(document), before));
    }

    /// Removes a document.
    pub fn delete(&mut self, database: &str, collection: &str, id: i64) {
        let before = self.collection(database, collection).documents.remove(&id);
        self.event(database, collection, "delete", doc! { "documentKey": { "_id": id } }, (None, before));
    }

    /// Removes a collection.
    pub fn drop_collection(&mut self, database: &str, collection: &str) {
        self.collections.remove(&(database.to_owned(), collection.to_owned()));
        self.event(database, collection, "drop", doc! {}, (None, None));
    }

    /// Gives a collection another name.
    pub fn rename(&mut self, database: &str, from: &str, to: &str) {
        if let Some(collection) = self.collections.remove(&(database.to_owned(), from.to_owned())) {
            self.collections.insert((database.to_owned(), to.to_owned()), collection);
        }
        self.event(database, from, "rename", doc! { "to": { "db": database, "coll": to } }, (None, None));
    }

    /// Removes a database: its collections have events of their own, then streams of it end.
    pub fn drop_database(&mut self, database: &str) {
        let names: Vec<String> =
            self.collections.keys().filter(|(of, _)| of == database).map(|(_, name)| name.clone()).collect();
        names.iter().for_each(|name| self.drop_collection(database, name));
        self.event(database, "", "dropDatabase", doc! {}, (None, None));
        self.event(database, "", "invalidate", doc! {}, (None, None));
    }

    /// An event that changes no document.
    pub fn other(&mut self, database: &str, collection: &str, operation: &str) {
        self.event(database, collection, operation, doc! {}, (None, None));
    }

    /// What is changed by this has one time, as a transaction has.
    pub fn together(&mut self, changes: impl FnOnce(&mut Self)) {
        self.time += 1;
        self.held = true;
        changes(self);
        self.held = false;
    }

    /// Time goes on without a change that anybody sees.
    pub fn pass(&mut self) {
        self.time += 1;
    }

    /// Forgets all events so far, as an oplog that is full does.
    pub fn forget(&mut self) {
        self.first = self.log.len();
        self.time += 1;
    }

    /// Closes every cursor, as a server that starts again does.
    pub fn kill_cursors(&mut self) {
        self.cursors.clear();
    }

    /// The documents of a collection, by `_id`.
    pub fn documents(&self, database: &str, collection: &str) -> Vec<Document> {
        let found = self.collections.get(&(database.to_owned(), collection.to_owned()));
        found.map(|collection| collection.documents.values().cloned().collect()).unwrap_or_default()
    }

    fn collection(&mut self, database: &str, collection: &str) -> &mut Collection {
        self.collections.entry((database.to_owned(), collection.to_owned())).or_default()
    }

    fn event(
        &mut self,
        database: &str,
        collection: &str,
        operation: &str,
        extra: Document,
        images: (Option<Document>, Option<Document>),
    ) {
        if !self.held {
            self.time += 1;
        }
        let mut place = doc! { "db": database };
        if !collection.is_empty() {
            place.insert("coll", collection);
        }
        let mut document = doc! { "operationType": operation, "clusterTime": stamp(self.time), "ns": place };
        document.extend(extra);
        self.log.push(Event { document, time: self.time, database: database.to_owned(), images });
    }

    pub(super) fn answer(&mut self, command: &Document) -> Answer {
        let name = name(command);
        self.commands.push(command.clone());
        let more = if name == "getMore" { command.get("getMore").and_then(number) } else { None };
        let of_changes = more.is_some_and(|id| matches!(self.cursors.get(&id), Some(Cursor::Stream(_))));
        match self.next_fault(if of_changes { "changes" } else { &name }) {
            Some(Fault::Close) => return Answer::Close,
            Some(Fault::Silence) => return Answer::Silence,
            Some(Fault::Error { code, name, labels }) => return Answer::Document(refused(code, &name, &labels)),
            None => {}
        }
        let database = command.get_str("$db").unwrap_or("admin").to_owned();
        let answer = match name.as_str() {
            "hello" | "isMaster" | "ismaster" => Ok(self.hello()),
            "ping" | "endSessions" => Ok(doc! {}),
            "killCursors" => Ok(doc! { "cursorsKilled": [] }),
            "connectionStatus" => {
                Ok(doc! { "authInfo": { "authenticatedUsers": [{ "user": "reader", "db": "admin" }] } })
            }
            "listDatabases" => Ok(self.databases()),
            "listCollections" => Ok(self.list(&database)),
            "listIndexes" => Ok(batch(&database, Vec::new())),
            "collStats" => Ok(self.size(&database, command)),
            "find" => self.find(&database, command),
            "aggregate" => self.watch(&database, command),
            "getMore" => return self.more(command),
            _ => Err(refused(59, "CommandNotFound", &[])),
        };
        Answer::Document(self.finished(answer.unwrap_or_else(|refused| refused)))
    }

    /// What goes wrong with this command.
    fn next_fault(&mut self, command: &str) -> Option<Fault> {
        let at = self.faults.iter().position(|(of, ..)| of == command)?;
        match &mut self.faults[at].1 {
            0 => self.faults.remove(at).map(|(.., fault)| fault),
            left => {
                *left -= 1;
                None
            }
        }
    }

    fn finished(&self, mut answer: Document) -> Document {
        if !answer.contains_key("ok") {
            answer.insert("ok", 1.0);
        }
        if self.replica_set {
            answer.insert("operationTime", stamp(self.time));
        }
        answer
    }

    fn hello(&self) -> Document {
        let address = format!("127.0.0.1:{}", self.port);
        let mut hello = doc! { "helloOk": true, "isWritablePrimary": true, "ismaster": true, "maxBsonObjectSize": 16 << 20,
        "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000, "localTime": DateTime::now(), "minWireVersion": 0,
        "maxWireVersion": 21, "readOnly": false };
        if self.replica_set {
            hello.extend(doc! { "setName": "rs0", "me": &address, "primary": &address, "hosts": [&address] });
        }
        hello
    }

    fn databases(&self) -> Document {
        let mut names: Vec<&str> = self.collections.keys().map(|(database, _)| database.as_str()).collect();
        names.dedup();
        doc! { "databases": names.into_iter().map(|name| doc! { "name": name }).collect::<Vec<_>>() }
    }

    fn list(&self, database: &str) -> Document {
        let of = self.collections.iter().filter(|((of, _), _)| of == database);
        let entry = |((_, name), collection): (&(String, String), &Collection)| {
            let kind = collection.kind.as_deref().unwrap_or("collection");
            doc! { "name": name, "type": kind, "options": collection.options.clone() }
        };
        batch(database, of.map(entry).collect())
    }

    fn size(&self, database: &str, command: &Document) -> Document {
        let documents = self.documents(database, command.get_str("collStats").unwrap_or_default());
        let bytes: usize =
            documents.iter().filter_map(|document| document.to_vec().ok()).map(|bytes| bytes.len()).sum();
        doc! { "count": i64::try_from(documents.len()).unwrap_or(0), "size": i64::try_from(bytes).unwrap_or(0) }
    }

    fn find(&mut self, database: &str, command: &Document) -> Result<Document, Document> {
        let collection = command.get_str("find").unwrap_or_default();
        let unknown = || refused(2, "BadValue", &[]);
        let mut least = i64::MIN;
        for (field, condition) in command.get_document("filter").into_iter().flatten() {
            let above = condition.as_document().filter(|_| field == "_id").and_then(|condition| condition.get("$gt"));
            least = above.and_then(number).ok_or_else(unknown)?;
        }
        let all = self.documents(database, collection);
        let mut found: Vec<Document> =
            all.into_iter().filter(|document| least == i64::MIN || id_of(document) > least).collect();
        if command.get_document("sort").ok().and_then(|sort| sort.get("_id")).and_then(number) == Some(-1) {
            found.reverse();
        }
        let limit = command.get("limit").and_then(number).and_then(|limit| usize::try_from(limit).ok());
        found.truncate(limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX));
        let namespace = format!("{database}.{collection}");
        let mut rest: VecDeque<Document> = found.into();
        let single = command.get_bool("singleBatch").unwrap_or(false);
        let first: Vec<Document> = rest.drain(..rest.len().min(if single { usize::MAX } else { BATCH })).collect();
        let id = if rest.is_empty() { 0 } else { self.open(Cursor::Documents { namespace: namespace.clone(), rest }) };
        Ok(doc! { "cursor": { "id": id, "ns": namespace, "firstBatch": first } })
    }

    fn open(&mut self, cursor: Cursor) -> i64 {
        self.next_cursor += 1;
        self.cursors.insert(self.next_cursor, cursor);
        self.next_cursor
    }

    /// Opens a change stream.
    fn watch(&mut self, database: &str, command: &Document) -> Result<Document, Document> {
        let stage = command.get_array("pipeline").ok().and_then(|stages| stages.first()?.as_document());
        let asked = stage.and_then(|stage| stage.get_document("$changeStream").ok()).cloned();
        let asked = asked.ok_or_else(|| refused(40_324, "UnknownStage", &[]))?;
        if !self.replica_set {
            return Err(refused(40_573, "NotAReplicaSet", &[]));
        }
        let token = asked.get_document("startAfter").or_else(|_| asked.get_document("resumeAfter"));
        let next = match (token, asked.get_timestamp("startAtOperationTime")) {
            (Ok(token), _) => position(token).ok_or_else(|| refused(260, "InvalidResumeToken", &[]))?,
            (_, Ok(time)) => {
                let time = u64::from(time.time) << 32 | u64::from(time.increment);
                self.log.iter().position(|event| event.time >= time).unwrap_or(self.log.len())
            }
            _ => self.log.len(),
        };
        if next < self.first {
            return Err(refused(286, "ChangeStreamHistoryLost", &["NonResumableChangeStreamError".into()]));
        }
        let all = asked.get_bool("allChangesForCluster").unwrap_or(false);
        let stream = Stream { database: (!all).then(|| database.to_owned()), next, asked };
        let token = high(self.time, next);
        let id = self.open(Cursor::Stream(stream));
        let namespace = format!("{database}.$cmd.aggregate");
        Ok(doc! { "cursor": { "id": id, "ns": namespace, "firstBatch": [], "postBatchResumeToken": token } })
    }

    fn more(&mut self, command: &Document) -> Answer {
        let id = command.get("getMore").and_then(number).unwrap_or(0);
        let Some(cursor) = self.cursors.remove(&id) else {
            return Answer::Document(refused(43, "CursorNotFound", &[]));
        };
        match cursor {
            Cursor::Documents { namespace, mut rest } => {
                let next: Vec<Document> = rest.drain(..rest.len().min(BATCH)).collect();
                let open = if rest.is_empty() { 0 } else { id };
                let answer = doc! { "cursor": { "id": open, "ns": &namespace, "nextBatch": next } };
                if open != 0 {
                    self.cursors.insert(id, Cursor::Documents { namespace, rest });
                }
                Answer::Document(self.finished(answer))
            }
            Cursor::Stream(mut stream) => {
                let (events, ended) = match self.events(&mut stream) {
                    Ok(events) => events,
                    Err(refused) => return Answer::Document(refused),
                };
                let token = match events.last() {
                    Some(event) if stream.next < self.log.len() => event.get("_id").cloned().unwrap_or(Bson::Null),
                    _ => high(self.time, stream.next).into(),
                };
                let namespace = format!("{}.$cmd.aggregate", stream.database.as_deref().unwrap_or("admin"));
                let empty = events.is_empty();
                let open = if ended { 0 } else { id };
                let answer = doc! { "cursor": { "id": open, "ns": namespace, "nextBatch": events, "postBatchResumeToken": token } };
                if !ended {
                    self.cursors.insert(id, Cursor::Stream(stream));
                }
                let answer = self.finished(answer);
                if empty { Answer::Empty(answer) } else { Answer::Document(answer) }
            }
        }
    }

    /// The next events of a stream, and whether it ends with them.
    fn events(&self, stream: &mut Stream) -> Result<(Vec<Document>, bool), Document> {
        let mut events = Vec::new();
        while stream.next < self.log.len() && events.len() < BATCH {
            let event = &self.log[stream.next];
            stream.next += 1;
            let operation = event.document.get_str("operationType").unwrap_or_default();
            let of_this = stream.database.as_ref().is_none_or(|database| *database == event.database);
            if !of_this || (operation == "invalidate" && stream.database.is_none()) {
                continue;
            }
            let mut document = doc! { "_id": token(event.time, stream.next) };
            document.extend(event.document.clone());
            if operation == "invalidate" {
                document.remove("ns");
                events.push(document);
                return Ok((events, true));
            }
            self.images(event, &stream.asked, operation, &mut document)?;
            events.push(document);
        }
        Ok((events, false))
    }

    fn images(
        &self,
        event: &Event,
        asked: &Document,
        operation: &str,
        document: &mut Document,
    ) -> Result<(), Document> {
        let place = event.document.get_document("ns").and_then(|place| place.get_str("coll")).unwrap_or_default();
        let collection = self.collections.get(&(event.database.clone(), place.to_owned()));
        let kept = collection.and_then(|c| c.options.get_document("changeStreamPreAndPostImages").ok()).is_some();
        let missing = || refused(47, "NoMatchingDocument", &["NonResumableChangeStreamError".into()]);
        if operation == "update" {
            let full = match asked.get_str("fullDocument") {
                Ok("required") => Some(event.images.0.clone().filter(|_| kept).ok_or_else(missing)?),
                Ok("updateLookup") => {
                    let id = event.images.0.as_ref().map(id_of).unwrap_or_default();
                    collection.and_then(|collection| collection.documents.get(&id)).cloned()
                }
                _ => None,
            };
            document.insert("fullDocument", full.map_or(Bson::Null, Bson::Document));
        }
        let before = event.images.1.clone().filter(|_| kept);
        match asked.get_str("fullDocumentBeforeChange") {
            Ok("required") if event.images.1.is_some() => {
                document.insert("fullDocumentBeforeChange", before.ok_or_else(missing)?);
            }
            Ok("whenAvailable") => {
                document.insert("fullDocumentBeforeChange", before.map_or(Bson::Null, Bson::Document));
            }
            _ => {}
        }
        Ok(())
    }
}

/// The first key of a command is its name.
fn name(command: &Document) -> String {
    command.keys().next().cloned().unwrap_or_default()
}

fn number(value: &Bson) -> Option<i64> {
    value.as_i64().or_else(|| value.as_i32().map(i64::from))
}

fn id_of(document: &Document) -> i64 {
    document.get("_id").and_then(number).expect("documents of the script have numbers as _id")
}

fn stamp(time: u64) -> Timestamp {
    let part = |number: u64| u32::try_from(number & u64::from(u32::MAX)).expect("32 bits");
    Timestamp { time: part(time >> 32), increment: part(time) }
}

/// The token behind the n-th event.
fn token(time: u64, next: usize) -> Document {
    doc! { "_data": format!("82{time:016X}2B{next:08X}") }
}

/// The token behind all up to a time, of which n are events.
fn high(time: u64, next: usize) -> Document {
    doc! { "_data": format!("82{time:016X}29{next:08X}") }
}

/// Where a token leads.
fn position(token: &Document) -> Option<usize> {
    usize::from_str_radix(token.get_str("_data").ok()?.get(20..28)?, 16).ok()
}

fn batch(database: &str, documents: Vec<Document>) -> Document {
    doc! { "cursor": { "id": 0_i64, "ns": format!("{database}.$cmd"), "firstBatch": documents } }
}

fn refused(code: i32, name: &str, labels: &[String]) -> Document {
    doc! { "ok": 0.0, "code": code, "codeName": name, "errmsg": format!("the script says {name}"), "errorLabels": labels.to_vec() }
}
