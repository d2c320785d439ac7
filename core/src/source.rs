//! The erased side of the contract: what the runner holds.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use async_trait::async_trait;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;

use crate::out::store;
use crate::{
    Connector, Context, Done, Error, ErrorKind, Json, Out, Plan, PlanRequest, Problem, RawOut, Result, Selected,
    Selection, SetUp, Slice, SourceSums, Spec, Stored, Stream, StreamName,
};

/// Makes a source of a configuration. [`Builtin`] is one for every [`Connector`]; a plug-in is another.
#[async_trait]
pub trait Factory: Send + Sync {
    /// What the connector is, with the JSON Schema of its configuration.
    fn spec(&self) -> Spec;

    /// Opens a source; see [`Connector::open`].
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] with the path of the key.
    async fn open(&self, config: Json, context: Context) -> Result<Box<dyn Source>>;
}

/// The calls of [`Connector`] over JSON and [`Stored`]; `version` = the `state_version` that wrote the slice's work.
#[async_trait]
pub trait Source: Send + Sync {
    /// See [`Connector::check`].
    async fn check(&self, selection: &Selection) -> Result<Vec<Problem>>;
    /// See [`Connector::check_changes`].
    async fn check_changes(&self, _streams: &[StreamName]) -> Result<Vec<Problem>> {
        Ok(Vec::new())
    }
    /// See [`Connector::set_up`].
    async fn set_up(&self, _streams: &[StreamName], _set_up: SetUp, _dry_run: bool) -> Result<Vec<String>> {
        Err(Error::new(ErrorKind::Unsupported, "this connector has nothing to set up at the source"))
    }
    /// See [`Connector::schema`].
    async fn schema(&self, selection: &Selection) -> Result<Vec<Stream>>;
    /// See [`Connector::plan`].
    async fn plan(&self, request: &PlanRequest<Stored>) -> Result<Plan<Json, Stored>>;
    /// See [`Connector::extract`].
    async fn extract(
        &self,
        slice: &Slice<Json>,
        version: u32,
        from: Option<&Stored>,
        out: &mut dyn RawOut,
    ) -> Result<Done>;
    /// See [`Connector::checkpoint`].
    async fn checkpoint(&self, slice: &Slice<Json>, version: u32, committed: &Stored) -> Result<()>;
    /// See [`Connector::count`].
    async fn count(&self, stream: &Stream, filter: Option<&str>) -> Result<Option<u64>> {
        let _ = (stream, filter);
        Ok(None)
    }
    /// See [`Connector::sums`].
    async fn sums(&self, stream: &Stream, filter: Option<&str>, columns: &[String]) -> Result<Option<SourceSums>> {
        let _ = (stream, filter, columns);
        Ok(None)
    }
}

/// The [`Factory`] of a connector that is linked in.
pub struct Builtin<C>(PhantomData<fn(C)>);

impl<C: Connector> Builtin<C> {
    /// The factory.
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<C: Connector> Default for Builtin<C> {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl<C: Connector> Factory for Builtin<C> {
    fn spec(&self) -> Spec {
        let mut spec = C::spec();
        let generator = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true).into_generator();
        spec.config = Some(generator.into_root_schema_for::<C::Config>().into());
        spec
    }

    async fn open(&self, config: Json, context: Context) -> Result<Box<dyn Source>> {
        let source = context.source.clone();
        let config: C::Config = serde_path_to_error::deserialize(config).map_err(|e| {
            Error::config(format!("invalid configuration at sources.{source}.{}: {}", e.path(), e.inner()))
                .hint(format!("`ingest connectors {}` lists every field", C::spec().name))
        })?;
        let connector = C::open(config, context).await?;
        Ok(Box::new(Erased { connector, version: C::spec().state_version }))
    }
}

struct Erased<C> {
    connector: C,
    version: u32,
}

impl<C: Connector> Erased<C> {
    fn read<T: DeserializeOwned>(&self, version: u32, state: &Json, what: &str) -> Result<T> {
        let invalid = |e: serde_json::Error| {
            Error::new(ErrorKind::CheckpointInvalid, format!("cannot read a stored {what}"))
                .with("connector", C::spec().name)
                .hint("`ingest state show` prints it; `ingest state reset` forgets it")
                .caused_by(e)
        };
        if version == self.version {
            return T::deserialize(state).map_err(invalid);
        }
        if version > self.version {
            return Err(Error::new(ErrorKind::CheckpointInvalid, format!("a stored {what} is of a newer version"))
                .with("connector", C::spec().name)
                .with("state_version", version)
                .hint("use the version of `ingest` that wrote it, or a newer one"));
        }
        serde_json::from_value(C::upgrade(version, state.clone())?).map_err(invalid)
    }

    fn slice(&self, slice: &Slice<Json>, version: u32) -> Result<Slice<C::Work>> {
        Ok(Slice {
            id: slice.id.clone(),
            streams: slice.streams.clone(),
            shape: slice.shape,
            work: self.read(version, &slice.work, "slice")?,
            estimate: slice.estimate,
        })
    }

    fn position(&self, stored: &Stored) -> Result<C::Position> {
        self.read(stored.v, &stored.at, "position")
    }
}

#[async_trait]
impl<C: Connector> Source for Erased<C> {
    async fn check(&self, selection: &Selection) -> Result<Vec<Problem>> {
        self.connector.check(selection).await
    }

    async fn check_changes(&self, streams: &[StreamName]) -> Result<Vec<Problem>> {
        self.connector.check_changes(streams).await
    }

    async fn set_up(&self, streams: &[StreamName], set_up: SetUp, dry_run: bool) -> Result<Vec<String>> {
        self.connector.set_up(streams, set_up, dry_run).await
    }

    async fn schema(&self, selection: &Selection) -> Result<Vec<Stream>> {
        self.connector.schema(selection).await
    }

    async fn plan(&self, request: &PlanRequest<Stored>) -> Result<Plan<Json, Stored>> {
        let mut streams = Vec::with_capacity(request.streams.len());
        for selected in &request.streams {
            let mut positions = BTreeMap::new();
            for (id, stored) in &selected.positions {
                positions.insert(id.clone(), self.position(stored)?);
            }
            streams.push(Selected {
                stream: selected.stream.clone(),
                mode: selected.mode,
                cursor: selected.cursor.clone(),
                columns: selected.columns.clone(),
                filter: selected.filter.clone(),
                positions,
            });
        }
        let plan = self
            .connector
            .plan(&PlanRequest {
                streams,
                intent: request.intent,
                slice_bytes: request.slice_bytes,
                min_slices: request.min_slices,
                interval: request.interval,
                now: request.now,
            })
            .await?;
        if plan.slices.len() > 100_000 {
            return Err(Error::new(ErrorKind::LimitExceeded, "a plan has more than 100,000 slices")
                .with("slices", plan.slices.len()));
        }
        let mut slices = Vec::with_capacity(plan.slices.len());
        for slice in plan.slices {
            let work = serde_json::to_value(&slice.work)
                .map_err(|e| Error::unexpected("cannot write a slice as JSON").caused_by(e))?;
            slices.push(Slice {
                id: slice.id,
                streams: slice.streams,
                shape: slice.shape,
                work,
                estimate: slice.estimate,
            });
        }
        let mut then = BTreeMap::new();
        for (stream, positions) in plan.then {
            let mut stored = BTreeMap::new();
            for (id, position) in positions {
                let position = position.map(|p| store(&p, self.version)).transpose()?;
                stored.insert(id, position);
            }
            then.insert(stream, stored);
        }
        Ok(Plan { slices, then, more: plan.more })
    }

    async fn extract(
        &self,
        slice: &Slice<Json>,
        version: u32,
        from: Option<&Stored>,
        out: &mut dyn RawOut,
    ) -> Result<Done> {
        let slice = self.slice(slice, version)?;
        let from = from.map(|stored| self.position(stored)).transpose()?;
        self.connector.extract(&slice, from.as_ref(), &mut Out::new(out, self.version)).await
    }

    async fn checkpoint(&self, slice: &Slice<Json>, version: u32, committed: &Stored) -> Result<()> {
        let slice = self.slice(slice, version)?;
        let committed = self.position(committed)?;
        self.connector.checkpoint(&slice, &committed).await
    }

    async fn count(&self, stream: &Stream, filter: Option<&str>) -> Result<Option<u64>> {
        self.connector.count(stream, filter).await
    }

    async fn sums(&self, stream: &Stream, filter: Option<&str>, columns: &[String]) -> Result<Option<SourceSums>> {
        self.connector.sums(stream, filter, columns).await
    }
}
