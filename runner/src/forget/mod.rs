//! `ingest forget`: a person is erased from tables, their history and the quarantine; and that nothing is left is shown by
//! a search of everything that can be read.
//!
//! | module | what it does |
//! | --- | --- |
//! | `trace` | finds the rows of a person |
//! | `words` | finds values in texts: statistics, documents |
//! | `documents` | removes old documents that hold one |
//!
//! Broken off at any point, the same call goes on where it stands.

mod documents;
mod trace;
mod words;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ingest_catalog::{Checkpoint, FORMAT, ForgetDocument, ForgottenTable, Lease, checkpoint_path, latest_stream};
use ingest_core::lake::{Erased, Erasing, Erasure, RowFilter, Table, Traces, WriterOptions};
use ingest_core::{CancellationToken, Clock, Error, ErrorKind, Json, Result, Secret, StreamName, SystemClock};
use serde_json::json;

use crate::commit::{Author, Change, Committer};
use crate::events::ErrorReport;
use crate::failpoint;
use crate::policy::{MaskKey, hex};
use crate::run::quarantine::Quarantine;
use crate::run::renew_leases;
use crate::session::Lake;
use documents::Needed;
use trace::{Forms, Trace, plain, resolve};
use words::Words;

pub use trace::Place;

/// A document that is not written after this time never will be.
const WRITTEN_BY_NOW: Duration = Duration::from_secs(600);

/// Who is forgotten.
#[derive(Debug, Clone)]
pub struct Request {
    /// One for each person.
    pub values: Vec<Secret>,
    /// Where their rows are found.
    pub sought: Sought,
    /// Leave older versions until `ingest maintain` removes their files.
    pub keep_history: bool,
    /// Only look.
    pub dry_run: bool,
    /// How files are written.
    pub options: WriterOptions,
}

/// Where a person's rows are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sought {
    /// By the value of a column, or of a field of a struct by its path.
    Column(String),
    /// By the key of the table.
    Key,
    /// By a text anywhere in a row.
    Anywhere,
}

impl std::fmt::Display for Sought {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Column(name) => write!(f, "column {name}"),
            Self::Key => f.write_str("key"),
            Self::Anywhere => f.write_str("anywhere"),
        }
    }
}

/// A table of the lake.
#[derive(Debug, Clone)]
pub struct Known {
    /// `shop.orders`: as folders spell it.
    pub name: String,
    /// Source and stream in their own spelling, where the lake has a checkpoint of it.
    pub stream: Option<(String, StreamName)>,
}

/// Erases people from tables.
///
/// # Errors
/// `ConfigInvalid` for values that cannot be a key; whatever the lake says where nothing was begun. What fails with one table
/// stands in the receipt.
pub async fn forget(
    lake: &Lake,
    key: &MaskKey,
    tables: &[Known],
    all: &[Known],
    request: &Request,
) -> Result<ForgetDocument> {
    let started_at = SystemClock.now_micros();
    let run = uuid::Uuid::now_v7().simple().to_string();
    let work = Work { lake, run: &run, request, people: people(request, key)?, words: words(request, key)? };
    let mut receipt = ForgetDocument {
        format: FORMAT,
        run_id: run.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at,
        finished_at: started_at,
        sought: request.sought.to_string(),
        values: request.values.len(),
        fingerprints: match key.is_given() {
            true => request.values.iter().map(|value| hex(&key.hash(value.expose().as_bytes()))).collect(),
            false => Vec::new(),
        },
        tables: Vec::new(),
        documents_removed: 0,
        documents_searched: 0,
        left: Vec::new(),
        vacuumed_at: None,
        proven: false,
    };
    let mut needed = Needed::default();
    for table in tables {
        if let Err(error) = work.erase(table, &mut receipt, &mut needed).await {
            if error.kind() == ErrorKind::ConfigInvalid {
                return Err(error.with("table", &table.name));
            }
            receipt.left.push(format!("{}: {error}", table.name));
            receipt.tables.push(ForgottenTable {
                table: table.name.clone(),
                erased: Erased::default(),
                searched: Traces::default(),
                error: Some(json!(ErrorReport::from(&error))),
            });
        }
    }
    if !request.dry_run {
        work.sweep(all, needed, &mut receipt).await?;
        if !request.keep_history {
            receipt.vacuumed_at = Some(SystemClock.now_micros());
        }
    }
    for table in receipt.tables.iter().filter(|table| !table.searched.is_clean()) {
        receipt.left.push(format!("{}: {}", table.table, said(&table.searched)));
    }
    receipt.finished_at = SystemClock.now_micros();
    receipt.proven = receipt.left.is_empty();
    if !request.dry_run {
        receipt.record(&lake.documents).await?;
    }
    Ok(receipt)
}

/// What a search found, in words.
fn said(traces: &Traces) -> String {
    let parts = [
        (traces.rows, "rows of the newest version"),
        (traces.old_files, "files of older versions"),
        (traces.log_files, "files of the log"),
        (traces.unreadable_files, "files that cannot be read"),
    ];
    let parts: Vec<String> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    parts.join(", ")
}

/// For each person, for each column, all forms of the value.
fn people(request: &Request, key: &MaskKey) -> Result<Vec<Vec<Forms>>> {
    let mut people = Vec::new();
    for value in &request.values {
        let texts = match request.sought {
            Sought::Key => key_texts(value.expose())?,
            _ => vec![value.expose().to_owned()],
        };
        people.push(texts.iter().map(|text| forms(text, key)).collect::<Result<Vec<_>>>()?);
    }
    Ok(people)
}

/// The values of a key: a JSON array for several columns, else one.
fn key_texts(value: &str) -> Result<Vec<String>> {
    match serde_json::from_str::<Json>(value) {
        Ok(Json::Array(values)) => values.iter().map(plain).collect::<Option<Vec<_>>>().ok_or_else(|| {
            Error::config("a key is written as a JSON array of texts and numbers").hint("for instance '[\"de\", 42]'")
        }),
        _ => Ok(vec![value.to_owned()]),
    }
}

/// In clear, as `hash` with and without the key, as `token`.
fn forms(text: &str, key: &MaskKey) -> Result<Forms> {
    let mut forms = vec![text.to_owned(), hex(&MaskKey::new(None).hash(text.as_bytes()))];
    if key.is_given() {
        forms.push(hex(&key.hash(text.as_bytes())));
        let mut token = String::new();
        key.tokens()?.write(text.as_bytes(), &mut token)?;
        forms.push(token);
    }
    Ok(forms)
}

/// What is searched for in texts. A part of a key is no trace of anybody.
fn words(request: &Request, key: &MaskKey) -> Result<Words> {
    let people = people(request, key)?;
    let whole = people.iter().filter(|columns| columns.len() == 1).flatten().flatten();
    Ok(Words::new(whole.map(String::as_str)))
}

struct Work<'a> {
    lake: &'a Lake,
    run: &'a str,
    request: &'a Request,
    people: Vec<Vec<Forms>>,
    words: Words,
}

impl Work<'_> {
    fn author(&self, source: &str) -> Author {
        Author {
            documents: self.lake.documents.clone(),
            format: Arc::clone(&self.lake.format),
            source: source.to_owned(),
            run: self.run.to_owned(),
            connector: format!("ingest {}", env!("CARGO_PKG_VERSION")),
            clock: Arc::new(SystemClock),
        }
    }

    /// Erases the rows of a table and its quarantine, while no run works on the stream.
    async fn erase(&self, table: &Known, receipt: &mut ForgetDocument, needed: &mut Needed) -> Result<()> {
        let Some((source, stream)) = &table.stream else { return self.erase_held(table, None, receipt).await };
        let author = self.author(source);
        let held = Held::take(&author, stream).await?;
        let erase = async {
            let mut committer = Committer::open(author.clone(), stream.clone()).await?;
            if committer.checkpoint().plan.is_some() && !self.request.dry_run {
                return Err(Error::new(ErrorKind::Unsupported, "a load of this stream is not finished")
                    .hint("finish it with `ingest run`, then forget"));
            }
            if !self.request.dry_run {
                self.renew_checkpoint(&author, &mut committer).await?;
                failpoint::reach("forget_renewed");
            }
            if let Some(number) = committer.number() {
                let folder = format!("_ingest/checkpoints/{source}/{}/", stream.table());
                needed.checkpoints.push((folder, checkpoint_path(source, &stream.table(), number)));
            }
            self.erase_held(table, Some((source, stream)), receipt).await
        };
        let result = held.during(erase).await;
        held.release(&author).await;
        result
    }

    /// A checkpoint that lists files with their statistics is followed by one that lists none.
    async fn renew_checkpoint(&self, author: &Author, committer: &mut Committer) -> Result<()> {
        Quarantine::new(Arc::clone(&author.format), &author.source, committer.stream())
            .commit(committer.checkpoint())
            .await?;
        let checkpoint = committer.checkpoint();
        // Keys that are staged are the person's too: the sweep begins anew.
        let swept = checkpoint.sweep.as_ref().is_some_and(|sweep| sweep.plan.is_some());
        let traces = checkpoint.names_files() || swept || self.words.are_in(&text(checkpoint)?);
        if committer.number().is_some() && traces {
            committer.commit(Change::default(), |edit| edit.end_sweep(None)).await?;
        }
        Ok(())
    }

    async fn erase_held(
        &self,
        known: &Known,
        stream: Option<(&String, &StreamName)>,
        receipt: &mut ForgetDocument,
    ) -> Result<()> {
        let folders = known.name.split_once('.').unwrap_or((&known.name, ""));
        let folder = format!("bronze/{}/{}", folders.0, folders.1);
        let Some(table) = self.lake.format.open(&folder).await? else { return Ok(()) };
        if !self.request.dry_run && !self.request.keep_history {
            self.remove_torn(folders, stream).await?;
        }
        let Some((place, names)) = self.place(table.as_ref(), folders, stream).await? else { return Ok(()) };
        let rows = Trace::of_table(place.clone(), self.people.clone(), self.words.clone());
        let quarantined = match place {
            Place::Columns(_) => Place::Columns(names),
            place => place,
        };
        receipt.tables.push(self.erase_from(table.as_ref(), folder, Arc::new(rows)).await?);
        let folder = format!("quarantine/{}/{}", folders.0, folders.1);
        if let Some(table) = self.lake.format.open(&folder).await? {
            let rows = Trace::of_quarantine(quarantined, self.people.clone(), self.words.clone());
            receipt.tables.push(self.erase_from(table.as_ref(), folder, Arc::new(rows)).await?);
        }
        Ok(())
    }

    /// Removes what killed processes left half written of a table, its quarantine and its checkpoints. Nobody else is at work
    /// on them: the stream's lease is ours.
    async fn remove_torn(&self, (source, folder): (&str, &str), stream: Option<(&String, &StreamName)>) -> Result<()> {
        let format = &self.lake.format;
        for kind in ["bronze", "quarantine"] {
            format.remove_torn(&format!("{kind}/{source}/{folder}"), Duration::ZERO).await?;
        }
        if let Some((source, stream)) = stream {
            let checkpoints = format!("_ingest/checkpoints/{source}/{}", stream.table());
            format.remove_torn(&checkpoints, Duration::ZERO).await?;
        }
        // Others may be writing documents of theirs; none takes so long.
        format.remove_torn("_ingest", WRITTEN_BY_NOW).await.map(drop)
    }

    /// Where the rows of a table are found: its columns, and the same as the source spells them. `None` = it has none.
    async fn place(
        &self,
        table: &dyn Table,
        (source, folder): (&str, &str),
        stream: Option<(&String, &StreamName)>,
    ) -> Result<Option<(Place, Vec<String>)>> {
        let schema = table.schema();
        let source = stream.map_or(source, |(source, _)| source.as_str());
        let names = match &self.request.sought {
            Sought::Anywhere => return Ok(Some((Place::Anywhere, Vec::new()))),
            Sought::Column(name) => vec![name.clone()],
            Sought::Key => {
                let document = latest_stream(&self.lake.documents, source, folder).await?;
                let key = document.map(|document| document.key).unwrap_or_default();
                if key.is_empty() || self.people.iter().any(|person| person.len() != key.len()) {
                    return Err(Error::config("the values do not fit the key of the table")
                        .with("key", if key.is_empty() { "none".to_owned() } else { key.join(", ") })
                        .hint("several columns are written as a JSON array; without a key use --column"));
                }
                key
            }
        };
        let columns: Option<Vec<String>> = names.iter().map(|name| resolve(&schema, name)).collect();
        Ok(columns.map(|columns| (Place::Columns(columns), names)))
    }

    async fn erase_from(&self, table: &dyn Table, folder: String, rows: Arc<dyn RowFilter>) -> Result<ForgottenTable> {
        let mut erased = Erased::default();
        if !self.request.dry_run {
            let keep_history = self.request.keep_history;
            let options = self.request.options.clone();
            let told = |step: Erasing| {
                failpoint::reach(match step {
                    Erasing::Committed => "forget_committed",
                    Erasing::LogCleaned => "forget_log_cleaned",
                    Erasing::Deleted => "forget_deleted",
                })
            };
            erased = table.erase(&Erasure { rows: Arc::clone(&rows), keep_history, options, told }).await?;
        }
        let searched = table.search(&rows).await?;
        failpoint::reach("forget_searched");
        Ok(ForgottenTable { table: folder, erased, searched, error: None })
    }

    async fn sweep(&self, all: &[Known], mut needed: Needed, receipt: &mut ForgetDocument) -> Result<()> {
        let mut sources: BTreeMap<&str, Vec<&StreamName>> = BTreeMap::new();
        for (source, stream) in all.iter().filter_map(|known| known.stream.as_ref()) {
            sources.entry(source).or_default().push(stream);
        }
        for (source, streams) in sources {
            let author = self.author(source);
            for stream in streams {
                let committer = Committer::open(author.clone(), stream.clone()).await?;
                let checkpoint = committer.checkpoint();
                needed.plans.extend(checkpoint.plan.as_ref().map(|plan| plan.id.clone()));
                needed.plans.extend(checkpoint.sweep.as_ref().and_then(|sweep| sweep.plan.clone()));
            }
        }
        // A call that was broken off may have erased the rows: then this one finds none, and their statistics stand there yet.
        needed.erased = !receipt.tables.is_empty();
        let swept = documents::sweep(&self.lake.documents, &self.words, &needed).await?;
        receipt.documents_removed = swept.removed;
        receipt.documents_searched = swept.searched;
        receipt.left.extend(swept.left);
        Ok(())
    }
}

fn text(checkpoint: &Checkpoint) -> Result<Vec<u8>> {
    serde_json::to_vec(checkpoint).map_err(|e| Error::unexpected("cannot write a checkpoint as JSON").caused_by(e))
}

/// The lease of a stream, kept alive for as long as it takes.
struct Held {
    leases: Arc<tokio::sync::Mutex<Vec<Lease>>>,
    renewal: tokio::task::JoinHandle<()>,
    gone: CancellationToken,
    lost: Arc<Mutex<Option<Error>>>,
}

impl Held {
    async fn take(author: &Author, stream: &StreamName) -> Result<Self> {
        let clock = author.clock.as_ref();
        let lease = Lease::take(&author.documents, &author.source, &stream.table(), &author.run, clock).await?;
        let leases = Arc::new(tokio::sync::Mutex::new(vec![lease]));
        let (gone, lost) = (CancellationToken::new(), Arc::new(Mutex::new(None)));
        let renewal = tokio::spawn(renew_leases(
            Arc::clone(&leases),
            author.documents.clone(),
            Arc::clone(&author.clock),
            gone.clone(),
            Arc::clone(&lost),
        ));
        Ok(Self { leases, renewal, gone, lost })
    }

    /// Ends the work when somebody else has taken over.
    async fn during(&self, work: impl Future<Output = Result<()>>) -> Result<()> {
        tokio::select! {
            result = work => result,
            () = self.gone.cancelled() => {
                let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner).take();
                Err(lost.unwrap_or_else(Error::cancelled))
            }
        }
    }

    async fn release(self, author: &Author) {
        self.renewal.abort();
        for lease in self.leases.lock().await.drain(..) {
            if let Err(error) = lease.release(&author.documents).await {
                tracing::warn!(%error, "a lease could not be released; it expires by itself");
            }
        }
    }
}
