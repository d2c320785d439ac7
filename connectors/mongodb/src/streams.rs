//! The connector: what each call of the contract does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_schema::Schema;
use futures::{StreamExt, TryStreamExt};
use ingest_core::{
    Capabilities, Connector, Context, Deletes, Done, Error, ErrorKind, Estimate, Mode, Out, Plan, PlanRequest, Problem,
    Replay, Result, Selected, Selection, Slice, Spec, Stream, StreamName, async_trait,
};

use crate::catalog::{self, Collection, Sort};
use crate::cdc::feed::{Asked, Wanted};
use crate::config::{Documents, MongodbConfig};
use crate::plan::Planner;
use crate::rows::{Column, ID, Layout};
use crate::server::{Hello, Server};
use crate::types::Kind;
use crate::work::{Feed, Position, Work};
use crate::{cdc, check, extended, extract, incremental, sample};

/// Streams that are planned together.
const GROUP: &str = "server";
/// Collections that are described at once.
const AT_ONCE: usize = 4;

/// A MongoDB deployment as a source.
pub struct Mongodb {
    server: Server,
    /// As they were described; changes are read as such.
    described: Mutex<HashMap<StreamName, Described>>,
}

/// A collection and its columns.
#[derive(Debug, Clone)]
struct Described {
    collection: Arc<Collection>,
    columns: Vec<Column>,
}

#[async_trait]
impl Connector for Mongodb {
    type Config = MongodbConfig;
    type Work = Work;
    type Position = Position;

    fn spec() -> Spec {
        Spec {
            name: "mongodb".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            title: "MongoDB".into(),
            docs: include_str!("../README.md").into(),
            state_version: 1,
            capabilities: Capabilities {
                modes: vec![Mode::Full, Mode::Incremental, Mode::Cdc],
                deletes: Deletes::Events,
                replay: Replay::Retention,
                parallel: 4,
                portable: true,
                projection: true,
                filter: true,
            },
            config: None,
        }
    }

    async fn open(config: Self::Config, context: Context) -> Result<Self> {
        let settings = config.settings(&context.source)?;
        Ok(Self { server: Server::new(settings, &context)?, described: Mutex::default() })
    }

    async fn check(&self, selection: &Selection) -> Result<Vec<Problem>> {
        check::check(&self.server, selection).await
    }

    async fn check_changes(&self, streams: &[StreamName]) -> Result<Vec<Problem>> {
        cdc::check::check(&self.server, streams).await
    }

    async fn schema(&self, selection: &Selection) -> Result<Vec<Stream>> {
        let hello = self.server.hello().await?;
        let described = self.describe(selection).await?;
        let (hello, server) = (&hello, &self.server);
        futures::stream::iter(described)
            .map(|described| async move { stream(server, hello, &described).await })
            .buffered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn plan(&self, request: &PlanRequest<Position>) -> Result<Plan<Work, Position>> {
        let names: Vec<&StreamName> = request.streams.iter().map(|selected| &selected.stream.name).collect();
        let collections = self.collections(&names).await?;
        let planner = Planner { server: &self.server, request, hello: self.server.hello().await? };
        let capture = |selected: &Selected<Position>| request.interval.is_none() && selected.mode == Mode::Cdc;
        if request.streams.iter().any(capture) {
            if !request.streams.iter().all(capture) {
                return Err(Error::config("cdc: streams that follow changes are planned apart from others"));
            }
            return cdc::plan::plan(&planner, &collections).await;
        }
        let mut plan = Plan::default();
        for selected in &request.streams {
            let name = &selected.stream.name;
            let planned = match collections.get(name) {
                Some(collection) => planner.stream(collection, selected, &mut plan).await,
                None => Err(missing()),
            };
            planned.map_err(|error| error.with("stream", name))?;
        }
        Ok(plan)
    }

    async fn extract(&self, slice: &Slice<Work>, from: Option<&Position>, out: &mut Out<'_, Position>) -> Result<Done> {
        if let Some(feed) = &slice.work.feed {
            return self.follow(slice, feed, from, out).await;
        }
        let name = slice.stream()?;
        let read = async {
            let collections = self.collections(&[name]).await?;
            let collection = collections.get(name).ok_or_else(missing)?;
            extract::extract(&self.server, collection, &slice.work, from, out).await
        };
        read.await.map_err(|error| error.with("stream", name))
    }

    async fn count(&self, stream: &Stream, filter: Option<&str>) -> Result<Option<u64>> {
        let collections = self.collections(&[&stream.name]).await?;
        let collection = collections.get(&stream.name).ok_or_else(|| missing().with("stream", &stream.name))?;
        let filter = filter.map(extended::filter).transpose()?.unwrap_or_default();
        catalog::count(&self.server, collection, filter).await.map(Some)
    }
}

impl Mongodb {
    /// Reads the change stream.
    async fn follow(
        &self,
        slice: &Slice<Work>,
        feed: &Feed,
        from: Option<&Position>,
        out: &mut Out<'_, Position>,
    ) -> Result<Done> {
        let Some(from @ Position::Feed(at)) = from else {
            return Err(Error::new(ErrorKind::CheckpointInvalid, "cdc: the feed has no place to begin with")
                .hint("load each stream again with `ingest run --resync STREAM`"));
        };
        let scope = cdc::scope(&self.server, &self.server.hello().await?)?;
        cdc::plan::expect_scope(from, &scope)?;
        let names: Vec<&StreamName> = slice.streams.iter().collect();
        let known = self.known(&names);
        let unknown: Vec<String> =
            names.iter().filter(|name| !known.contains_key(**name)).map(|name| name.to_string()).collect();
        if !unknown.is_empty() {
            // Names may hold characters that mean something in a glob; what else matches does no harm.
            self.describe(&Selection { select: unknown, exclude: Vec::new() }).await?;
        }
        let all = self.known(&names);
        let mut collections = Vec::with_capacity(names.len());
        for name in names {
            // A collection that was dropped may come again, and its last changes are still in the log.
            let described = match all.get(name) {
                Some(described) => described.clone(),
                None => self.dropped(name),
            };
            let some = feed.columns.get(name);
            let columns = described.columns.into_iter();
            collections.push(Wanted {
                columns: columns.filter(|column| some.is_none_or(|some| some.contains(&column.name))).collect(),
                collection: described.collection,
                some: some.is_some(),
                fresh: !known.contains_key(name),
            });
        }
        let layout = match self.server.settings().config.documents {
            Documents::Json => Layout::Whole,
            Documents::Columns => Layout::Fields,
        };
        cdc::feed::follow(Asked { server: &self.server, collections, layout, from: at }, out).await
    }

    /// A collection that is not there any more.
    fn dropped(&self, name: &StreamName) -> Described {
        let (database, collection) = self.place(name);
        let collection = Collection {
            stream: name.clone(),
            database: database.to_owned(),
            name: collection.to_owned(),
            sort: Sort::Collection,
            images: false,
        };
        Described { collection: Arc::new(collection), columns: vec![Column { name: ID.into(), kind: Kind::ObjectId }] }
    }

    /// The database and the collection of a stream.
    fn place<'a>(&'a self, name: &'a StreamName) -> (&'a str, &'a str) {
        match &self.server.settings().database {
            Some(database) => (database, name.as_str()),
            // The name of a database has no dot.
            None => name.as_str().split_once('.').unwrap_or(("", name.as_str())),
        }
    }

    /// Describes collections, and remembers them.
    async fn describe(&self, selection: &Selection) -> Result<Vec<Described>> {
        let collections = catalog::load(&self.server, selection).await?;
        let server = &self.server;
        let described: Vec<Described> = futures::stream::iter(collections)
            .map(|collection| async move {
                let columns = sample::columns(server, &collection).await;
                let columns = columns.map_err(|error| error.with("stream", &collection.stream))?;
                Ok::<_, Error>(Described { collection: Arc::new(collection), columns })
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let mut known = self.described.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(described.iter().map(|described| (described.collection.stream.clone(), described.clone())));
        Ok(described)
    }

    fn known(&self, names: &[&StreamName]) -> HashMap<StreamName, Described> {
        let known = self.described.lock().unwrap_or_else(PoisonError::into_inner);
        names.iter().filter_map(|name| Some(((*name).clone(), known.get(*name)?.clone()))).collect()
    }

    /// Collections as they were described in this process; what was not is looked up, without a sample.
    async fn collections(&self, names: &[&StreamName]) -> Result<HashMap<StreamName, Arc<Collection>>> {
        let known = self.known(names).into_iter();
        let mut found: HashMap<_, _> = known.map(|(name, described)| (name, described.collection)).collect();
        let missing: Vec<String> =
            names.iter().filter(|name| !found.contains_key(**name)).map(|name| name.to_string()).collect();
        if !missing.is_empty() {
            let loaded = catalog::load(&self.server, &Selection { select: missing, exclude: Vec::new() }).await?;
            found.extend(loaded.into_iter().map(|collection| (collection.stream.clone(), Arc::new(collection))));
        }
        Ok(found)
    }
}

pub(crate) fn missing() -> Error {
    Error::new(ErrorKind::NotFound, "the collection is not there")
        .hint("it was dropped or renamed, or the account may not see it; `ingest discover` lists what is there")
}

/// What `discover` shows of a collection.
async fn stream(server: &Server, hello: &Hello, described: &Described) -> Result<Stream> {
    let collection = &described.collection;
    let cursors = incremental::cursors(&described.columns, server.settings().config.lag.0);
    let mut modes = vec![Mode::Full];
    if !cursors.is_empty() {
        modes.push(Mode::Incremental);
    }
    if hello.set.is_some() && collection.sort == Sort::Collection {
        modes.push(Mode::Cdc);
    }
    let size = catalog::size(server, collection).await?;
    let fields: Vec<_> = described.columns.iter().map(Column::field).collect();
    Ok(Stream {
        name: collection.stream.clone(),
        schema: Arc::new(Schema::new(fields)),
        // Measurements have an _id that nobody keeps unique.
        key: if collection.sort == Sort::TimeSeries { Vec::new() } else { vec![ID.into()] },
        modes,
        cursors,
        group: Some(GROUP.to_owned()),
        estimate: Estimate { rows: size.documents, bytes: size.bytes.filter(|bytes| *bytes > 0), calls: None },
    })
}
