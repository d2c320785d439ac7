//! The plug-in's side: reads calls from stdin, answers them on stdout.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::frame::{self, Frame, Message};
use super::log::Lines;
use super::message::{Failure, PROTOCOL, Plan, Problem, Reply, Request, Stream};
use super::out::{Credit, PipeOut};
use crate::{
    Builtin, CancellationToken, Connector, Context, Error, ErrorKind, Factory, Limiter, Result, Source, Stored,
    SystemClock,
};

/// Serves a connector over stdin and stdout until stdin ends: the whole `main` of a plug-in.
///
/// stdout belongs to the protocol; what the connector or a library prints there goes to stderr, which the runner logs.
/// A panic of a call is an error of that call. The process ends when stdin does, so it never outlives the runner.
pub fn serve<C: Connector>() -> ExitCode {
    serve_factory(Builtin::<C>::new())
}

/// Like [`serve`], for a factory.
pub fn serve_factory(factory: impl Factory + 'static) -> ExitCode {
    if std::io::stdin().is_terminal() {
        eprintln!(
            "this is the connector {:?} of ingest and speaks with it over a pipe;\n\
             put `connector: ./path/to/this/program` under a source in ingest.yaml",
            factory.spec().name
        );
        return ExitCode::from(2);
    }
    match run(Arc::new(factory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

fn run(factory: Arc<dyn Factory>) -> Result<()> {
    let pipe = take_stdout().map_err(|e| Error::unexpected("cannot take stdout for the protocol").caused_by(e))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::unexpected("cannot start the threads of the plug-in").caused_by(e))?;
    let (outbox, queue) = mpsc::channel(16);
    std::thread::Builder::new()
        .name("ingest-pipe".into())
        .spawn(move || write_all(pipe, queue))
        .map_err(|e| Error::unexpected("cannot start the threads of the plug-in").caused_by(e))?;
    // Another subscriber, where the program has one, goes on.
    drop(tracing::subscriber::set_global_default(Lines(outbox.clone())));
    let server = Arc::new(Server {
        factory,
        source: OnceLock::new(),
        calls: Mutex::default(),
        outbox,
        cancel: CancellationToken::new(),
    });
    let result = server.listen(&runtime, std::io::stdin().lock());
    server.cancel.cancel();
    // Calls under way are dropped; threads that do not look up end with the process.
    runtime.shutdown_timeout(Duration::from_millis(500));
    result
}

/// The pipe of the protocol. Whoever prints to stdout from here on prints to stderr.
fn take_stdout() -> std::io::Result<File> {
    let pipe = std::io::stdout().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdout(std::io::stderr())?;
    Ok(File::from(pipe))
}

fn write_all(pipe: File, mut queue: mpsc::Receiver<Message>) {
    let mut pipe = BufWriter::with_capacity(128 << 10, pipe);
    while let Some(message) = queue.blocking_recv() {
        let mut written = message.write(&mut pipe);
        if queue.is_empty() {
            written = written.and_then(|()| pipe.flush());
        }
        if written.is_err() {
            // Nobody listens: the runner is gone, and with it every reason to go on.
            std::process::exit(0);
        }
    }
}

struct Server {
    factory: Arc<dyn Factory>,
    source: OnceLock<Arc<dyn Source>>,
    calls: Mutex<HashMap<u64, Call>>,
    outbox: mpsc::Sender<Message>,
    cancel: CancellationToken,
}

/// A call under way.
struct Call {
    cancel: CancellationToken,
    credit: Option<Arc<Credit>>,
}

impl Server {
    /// Takes requests until stdin ends.
    fn listen(self: &Arc<Self>, runtime: &Runtime, stdin: impl Read) -> Result<()> {
        let mut stdin = BufReader::new(stdin);
        loop {
            let request = match frame::read(&mut stdin) {
                Ok(Some(Frame::Json(json))) => serde_json::from_slice::<Request>(&json).map_err(|e| {
                    Error::new(ErrorKind::DataInvalid, "cannot read a request of the runner").caused_by(e)
                })?,
                Ok(Some(Frame::Arrow(_))) => {
                    return Err(Error::new(ErrorKind::DataInvalid, "the runner sent an Arrow frame"));
                }
                Ok(None) => return Ok(()),
                // The runner was killed in the middle of a word.
                Err(error) if error.kind() == ErrorKind::Unavailable => return Ok(()),
                Err(error) => return Err(error),
            };
            self.take(runtime, request)?;
        }
    }

    fn take(self: &Arc<Self>, runtime: &Runtime, request: Request) -> Result<()> {
        match request {
            Request::Hello { .. } => {
                // The runner decides whether the versions go together.
                let spec = Box::new(self.factory.spec());
                self.send_now(Message::new(&Reply::Hello { protocol: PROTOCOL, spec })?);
            }
            Request::Ping => self.send_now(Message::new(&Reply::Pong)?),
            Request::Credit { call, bytes, batch_bytes } => {
                if let Some(credit) = self.calls().get(&call).and_then(|call| call.credit.as_ref()) {
                    credit.grant(bytes, batch_bytes);
                }
            }
            Request::Cancel { call } => {
                if let Some(call) = self.calls().get(&call) {
                    call.cancel.cancel();
                }
            }
            Request::Extract { call, slice, version, from, follow, credit, batch_bytes } => {
                let credit = Credit::new(credit, batch_bytes);
                let mut out = PipeOut { call, credit: Arc::clone(&credit), outbox: self.outbox.clone(), follow };
                let server = Arc::clone(self);
                self.start(runtime, call, Some(credit), async move {
                    let done = server.source()?.extract(&slice, version, from.as_ref(), &mut out).await?;
                    Message::new(&Reply::done(call, done))
                });
            }
            Request::Open { call, .. }
            | Request::Check { call, .. }
            | Request::Schema { call, .. }
            | Request::Plan { call, .. }
            | Request::Checkpoint { call, .. } => {
                let server = Arc::clone(self);
                self.start(runtime, call, None, async move { Message::new(&server.answer(request).await?) });
            }
        }
        Ok(())
    }

    /// The calls that have one answer.
    async fn answer(&self, request: Request) -> Result<Reply> {
        Ok(match request {
            Request::Open { call, config, source, run_id, temp_dir } => {
                let context = Context {
                    source,
                    run_id,
                    clock: Arc::new(SystemClock),
                    cancel: self.cancel.clone(),
                    limiter: Limiter::default(),
                    requests: crate::Requests::default(),
                    temp_dir,
                };
                let source = self.factory.open(config, context).await?;
                if self.source.set(Arc::from(source)).is_err() {
                    return Err(Error::unexpected("the source is open already"));
                }
                Reply::Opened { call }
            }
            Request::Check { call, selection } => {
                let problems = self.source()?.check(&selection).await?;
                Reply::Problems { call, problems: problems.into_iter().map(Problem::from).collect() }
            }
            Request::Schema { call, selection } => {
                let streams = self.source()?.schema(&selection).await?;
                Reply::Streams { call, streams: streams.iter().map(Stream::of).collect::<Result<_>>()? }
            }
            Request::Plan { call, request } => {
                let plan = self.source()?.plan(&request.read()?).await?;
                Reply::Plan { call, plan: Plan::from(plan) }
            }
            Request::Checkpoint { call, slice, version, committed } => {
                let committed: Stored = committed;
                self.source()?.checkpoint(&slice, version, &committed).await?;
                Reply::Ok { call }
            }
            Request::Hello { .. }
            | Request::Ping
            | Request::Extract { .. }
            | Request::Credit { .. }
            | Request::Cancel { .. } => return Err(Error::unexpected("this request has no single answer")),
        })
    }

    fn source(&self) -> Result<Arc<dyn Source>> {
        let source = self.source.get().map(Arc::clone);
        source.ok_or_else(|| Error::unexpected("the source is not open: `open` comes before any other call"))
    }

    /// Runs a call beside the others. It is answered exactly once, whatever becomes of it.
    fn start(
        self: &Arc<Self>,
        runtime: &Runtime,
        call: u64,
        credit: Option<Arc<Credit>>,
        work: impl Future<Output = Result<Message>> + Send + 'static,
    ) {
        let cancel = CancellationToken::new();
        self.calls().insert(call, Call { cancel: cancel.clone(), credit });
        let server = Arc::clone(self);
        runtime.spawn(async move {
            let mut work = tokio::spawn(work);
            let ended = tokio::select! {
                ended = &mut work => ended,
                () = cancel.cancelled() => {
                    work.abort();
                    // The answer says that the call is over, so it must be.
                    work.await
                }
            };
            let answer = match ended {
                Ok(Ok(message)) => Ok(message),
                Ok(Err(error)) => failed(call, &error),
                Err(ended) if ended.is_cancelled() => failed(call, &Error::cancelled()),
                // The text of the panic is on stderr; it may hold anything.
                Err(_) => failed(
                    call,
                    &Error::unexpected("the connector panicked").hint("its last lines on stderr say where"),
                ),
            };
            server.calls().remove(&call);
            match answer {
                // A closed channel means that the process is ending.
                Ok(message) => drop(server.outbox.send(message).await),
                Err(error) => eprintln!("{error:?}"),
            }
        });
    }

    /// From the thread that reads, which is no async thread.
    fn send_now(&self, message: Message) {
        // A closed channel means that the process is ending.
        drop(self.outbox.blocking_send(message));
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<u64, Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(call: u64, error: &Error) -> Result<Message> {
    Message::new(&Reply::Error(Failure::of(Some(call), error)))
}
