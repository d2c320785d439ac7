//! A source in another process: its calls are requests, and a process that died is started again by the next call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_schema::SchemaRef;
use async_trait::async_trait;
use ingest_core::plugin::message::{PlanRequest as WirePlanRequest, Reply, Request};
use ingest_core::{
    Context, Done, Error, ErrorKind, Event, Json, Plan, PlanRequest, Problem, RawOut, Result, Selection, Slice, Source,
    Spec, Stored, Stream, StreamName,
};

use super::calls::{Incoming, broken};
use super::process::{Call, Process, Program};
use super::redact::Redactor;
use super::rules::{self, SliceRules};

/// A source in another process.
pub struct Guest {
    program: Program,
    spec: Spec,
    config: Json,
    context: Context,
    redactor: Arc<Redactor>,
    process: tokio::sync::Mutex<Option<Arc<Process>>>,
    /// How streams were declared.
    schemas: Mutex<HashMap<StreamName, SchemaRef>>,
}

impl Guest {
    /// Starts the process and opens the source in it.
    pub async fn open(program: Program, spec: Spec, config: Json, context: Context) -> Result<Self> {
        let redactor = Arc::new(Redactor::of(&config, spec.config.as_ref()));
        let guest = Self {
            program,
            spec,
            config,
            context,
            redactor,
            process: tokio::sync::Mutex::new(None),
            schemas: Mutex::default(),
        };
        guest.process().await?;
        Ok(guest)
    }

    /// The running process; a new one where the last one is gone.
    async fn process(&self) -> Result<Arc<Process>> {
        let mut current = self.process.lock().await;
        if let Some(process) = current.as_ref().filter(|process| process.lives()) {
            return Ok(Arc::clone(process));
        }
        *current = None;
        let (process, spec) = Process::start(&self.program, Arc::clone(&self.redactor)).await?;
        if (&spec.name, spec.state_version) != (&self.spec.name, self.spec.state_version) {
            return Err(Error::new(ErrorKind::Unsupported, "the plug-in is another one than before")
                .with("plugin", &self.program.name)
                .hint("it was replaced while it was used; start the command again"));
        }
        let mut call = process
            .call(None, None, |call| Request::Open {
                call,
                config: self.config.clone(),
                source: self.context.source.clone(),
                run_id: self.context.run_id.clone(),
                temp_dir: self.context.temp_dir.clone(),
            })
            .await?;
        let answer = call.next().await?;
        match self.read(&answer)? {
            Reply::Opened { .. } => {}
            _ => return Err(self.broken(&wrong_answer("open"))),
        }
        *current = Some(Arc::clone(&process));
        Ok(process)
    }

    /// Makes a call that has one answer.
    async fn ask(&self, key: Option<&str>, request: impl FnOnce(u64) -> Request) -> Result<Reply> {
        let process = self.process().await?;
        let mut call = process.call(key, None, request).await?;
        let answer = call.next().await?;
        self.read(&answer)
    }

    /// What a frame says; an `error` as the error that it is.
    fn read(&self, frame: &Incoming) -> Result<Reply> {
        // The text of the fault could quote a value.
        let reply = serde_json::from_slice(&frame.json)
            .map_err(|_| self.broken(&Error::new(ErrorKind::DataInvalid, "a frame has the fields of its type")))?;
        match reply {
            Reply::Error(failure) => Err(failure.read(|text| self.redactor.clean(text))),
            reply => Ok(reply),
        }
    }

    fn broken(&self, rule: &Error) -> Error {
        broken(&self.program.name, rule)
    }

    /// What a plan is asked for was discovered, and its positions can be read.
    fn knows(&self, request: &PlanRequest<Stored>) -> Result<()> {
        let schemas = self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        for selected in &request.streams {
            let name = &selected.stream.name;
            if !schemas.is_empty() && !schemas.contains_key(name) {
                return Err(Error::new(ErrorKind::NotFound, "the source has no such stream")
                    .with("stream", name)
                    .hint("`ingest discover` lists its streams"));
            }
            for position in selected.positions.values() {
                rules::not_newer(&self.spec, position.v, Some(position)).map_err(|error| error.with("stream", name))?;
            }
        }
        Ok(())
    }

    /// Hands one frame on; what it comes to where it is the last one.
    async fn take(&self, frame: Incoming, rules: &mut SliceRules<'_>, out: &mut dyn RawOut) -> Result<Option<Done>> {
        let reply = self.read(&frame)?;
        if let Reply::Done { end, after_ms, .. } = reply {
            return rules.done(end.with(after_ms)).map(Some).map_err(|rule| self.broken(&rule));
        }
        match rules.event(reply, frame.data).map_err(|rule| self.broken(&rule))? {
            Some(Event::Warning { stream, text, partial }) => {
                out.put(Event::Warning { stream, text: self.redactor.clean(&text), partial }).await?;
            }
            Some(event) => out.put(event).await?,
            None => {}
        }
        Ok(None)
    }

    async fn drive(
        &self,
        process: &Process,
        call: &mut Call,
        credit: u64,
        mut rules: SliceRules<'_>,
        out: &mut dyn RawOut,
    ) -> Result<Done> {
        let mut taken = 0;
        loop {
            let frame = call.next().await?;
            let cost = frame.cost();
            if let Some(done) = self.take(frame, &mut rules, out).await? {
                return Ok(done);
            }
            taken += cost;
            // Not for every mark: a quarter of the credit at a time.
            if taken >= credit / 4 {
                process.grant(call.id, taken, out.batch_bytes())?;
                taken = 0;
            }
        }
    }
}

fn wrong_answer(call: &'static str) -> Error {
    Error::new(ErrorKind::DataInvalid, "a call is answered by the frame of its kind").with("call", call)
}

#[async_trait]
impl Source for Guest {
    async fn check(&self, selection: &Selection) -> Result<Vec<Problem>> {
        let selection = selection.clone();
        match self.ask(None, |call| Request::Check { call, selection }).await? {
            Reply::Problems { problems, .. } => {
                let clean = |problem| {
                    let mut problem = Problem::from(problem);
                    problem.what = self.redactor.clean(&problem.what);
                    problem.remedy = self.redactor.clean(&problem.remedy);
                    problem
                };
                Ok(problems.into_iter().map(clean).collect())
            }
            _ => Err(self.broken(&wrong_answer("check"))),
        }
    }

    async fn schema(&self, selection: &Selection) -> Result<Vec<Stream>> {
        let asked = selection.clone();
        let request = |call| Request::Schema { call, selection: asked };
        let Reply::Streams { streams, .. } = self.ask(None, request).await? else {
            return Err(self.broken(&wrong_answer("schema")));
        };
        let read = || {
            let mut streams = streams.into_iter().map(|stream| stream.read()).collect::<Result<Vec<Stream>>>()?;
            rules::streams(&streams)?;
            // Its author need not do it: one that always lists everything is as good.
            streams.retain(|stream| selection.matches(stream.name.as_str()));
            Ok(streams)
        };
        let streams = read().map_err(|rule| self.broken(&rule))?;
        let mut schemas = self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        schemas.extend(streams.iter().map(|stream| (stream.name.clone(), SchemaRef::clone(&stream.schema))));
        Ok(streams)
    }

    async fn plan(&self, request: &PlanRequest<Stored>) -> Result<Plan<Json, Stored>> {
        self.knows(request)?;
        let wire = WirePlanRequest::of(request)?;
        let Reply::Plan { plan, .. } = self.ask(Some("plan"), |call| Request::Plan { call, request: wire }).await?
        else {
            return Err(self.broken(&wrong_answer("plan")));
        };
        let plan = Plan::from(plan);
        rules::plan(request, &plan, self.spec.state_version).map_err(|rule| self.broken(&rule))?;
        Ok(plan)
    }

    async fn extract(
        &self,
        slice: &Slice<Json>,
        version: u32,
        from: Option<&Stored>,
        out: &mut dyn RawOut,
    ) -> Result<Done> {
        rules::not_newer(&self.spec, version, from)?;
        let process = self.process().await?;
        // One batch on its way to the table, one in the pipe.
        let batch_bytes = out.batch_bytes() as u64;
        let credit = (batch_bytes * 2).clamp(1 << 20, 16 << 20);
        let follow = out.follow();
        let key = format!("extract {}", slice.id);
        let (of_slice, start) = (slice.clone(), from.cloned());
        let request =
            |call| Request::Extract { call, slice: of_slice, version, from: start, follow, credit, batch_bytes };
        let mut call = process.call(Some(&key), Some(credit), request).await?;
        let schemas = self.schemas.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let rules = SliceRules::new(slice, self.spec.state_version, from, schemas);
        self.drive(&process, &mut call, credit, rules, out).await
    }

    async fn checkpoint(&self, slice: &Slice<Json>, version: u32, committed: &Stored) -> Result<()> {
        rules::not_newer(&self.spec, version, Some(committed))?;
        let key = format!("checkpoint {}", slice.id);
        let (slice, committed) = (slice.clone(), committed.clone());
        match self.ask(Some(&key), |call| Request::Checkpoint { call, slice, version, committed }).await? {
            Reply::Ok { .. } => Ok(()),
            _ => Err(self.broken(&wrong_answer("checkpoint"))),
        }
    }
}
