//! One running plug-in: started, asked whether it lives, ended with everything that it started.

use std::io::BufReader;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ingest_core::plugin::frame::Message;
use ingest_core::plugin::message::{PROTOCOL, Reply, Request};
use ingest_core::{CancellationToken, Error, ErrorKind, Result, Spec};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::DropGuard;

use super::calls::{Calls, HELLO, Incoming, Opened};
use super::lines::Lines;
use super::redact::Redactor;

/// All that a plug-in finds in its environment. The interpreter of a script is found by it.
const ENVIRONMENT: [(&str, &str); 2] = [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("LANG", "C.UTF-8")];

/// Makes a process die with the thread that started it; part of util-linux.
const SETPRIV: &str = "/usr/bin/setpriv";

/// Rows come in frames of megabytes: a larger pipe saves changes between the two processes.
#[cfg(target_os = "linux")]
const PIPE: usize = 1 << 20;

/// How long a plug-in is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From its start to its `hello`.
    pub hello: Duration,
    /// How often it is asked whether it lives.
    pub beat: Duration,
    /// After so many beats without any frame it hangs, and is killed.
    pub beats: u32,
    /// From the end of its stdin, and from `cancel`, to its end or answer.
    pub farewell: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(60),
            beat: Duration::from_secs(10),
            beats: 6,
            farewell: Duration::from_secs(5),
        }
    }
}

/// A program that is a plug-in.
#[derive(Debug, Clone)]
pub struct Program {
    /// Where it lies.
    pub path: PathBuf,
    /// Its file name, for people.
    pub name: Arc<str>,
    /// How long it is waited for.
    pub patience: Patience,
}

/// One running process of a plug-in. Dropping it ends its stdin, and soon after the process.
pub struct Process {
    /// Its calls.
    pub calls: Arc<Calls>,
    orders: mpsc::UnboundedSender<Vec<u8>>,
    next: AtomicU64,
    patience: Patience,
    _closing: DropGuard,
}

impl Process {
    /// Starts the program and hears what it is.
    ///
    /// # Errors
    /// `Unavailable` when it does not start or ends, `Timeout` when it says nothing, `Unsupported` for another version of
    /// the protocol.
    pub async fn start(program: &Program, redactor: Arc<Redactor>) -> Result<(Arc<Self>, Spec)> {
        let name = &program.name;
        let calls = Arc::new(Calls::new(Arc::clone(name), Lines::new(Arc::clone(name), redactor)));
        let Opened::Free(mut greeting) = calls.open(HELLO, None, None)? else {
            return Err(Error::unexpected("a new process has a call already"));
        };
        let born = spawn(program, &calls).await?;
        let (orders, queue) = mpsc::unbounded_channel();
        let closing = CancellationToken::new();
        let of_ours = |e| Error::unexpected("cannot use the pipes of a plug-in").with("plugin", name).caused_by(e);
        let stdin = tokio::process::ChildStdin::from_std(born.stdin).map_err(of_ours)?;
        let stderr = tokio::process::ChildStderr::from_std(born.stderr).map_err(of_ours)?;
        tokio::spawn(write(stdin, queue));
        let complaints = tokio::spawn(complain(Arc::clone(&calls), stderr));
        tokio::spawn(watch(Arc::clone(&calls), orders.downgrade(), born.leash, program.patience, closing.clone()));
        let process = Self {
            calls,
            orders,
            next: AtomicU64::new(HELLO + 1),
            patience: program.patience,
            _closing: closing.drop_guard(),
        };
        process.send(&Request::Hello { protocol: PROTOCOL })?;
        let hello = tokio::time::timeout(program.patience.hello, greeting.recv()).await;
        let Ok(hello) = hello else {
            let error = Error::new(ErrorKind::Timeout, format!("the plug-in {name} did not say hello"))
                .with("seconds", program.patience.hello.as_secs())
                .hint("run it by hand: it waits for frames on stdin, and for nothing else");
            process.calls.end(error.replicate());
            return Err(error);
        };
        let Some(hello) = hello else { return Err(process.died_early(complaints).await) };
        let spec = process.greeted(&hello)?;
        Ok((Arc::new(process), spec))
    }

    fn greeted(&self, hello: &Incoming) -> Result<Spec> {
        #[derive(serde::Deserialize)]
        struct Version {
            protocol: u32,
        }
        let name = &self.calls.name;
        let version: Version = serde_json::from_slice(&hello.json)
            .map_err(|_| self.calls.broken("a `hello` has a `protocol`, a number, and a `spec`"))?;
        if version.protocol != PROTOCOL {
            let error = Error::new(ErrorKind::Unsupported, format!("the plug-in {name} speaks another protocol"))
                .with("protocol", version.protocol)
                .with("ours", PROTOCOL);
            return Err(error.hint("use a version of the plug-in, or of `ingest`, that fits the other"));
        }
        match serde_json::from_slice(&hello.json) {
            Ok(Reply::Hello { spec, .. }) => Ok(*spec),
            Ok(_) => Err(self.calls.broken("the first frame is `hello`")),
            Err(error) => {
                // It has seen no secret yet.
                let rule = format!("the `spec` of its `hello` has all fields, and cannot be read: {error}");
                Err(self.calls.broken(&self.calls.lines.clean(&rule)))
            }
        }
    }

    /// It ended before it said anything. It has seen no secret yet, so its last words may be shown.
    async fn died_early(&self, complaints: JoinHandle<()>) -> Error {
        // They end with the process; not where it has left somebody behind who holds its stderr.
        drop(tokio::time::timeout(self.patience.farewell, complaints).await);
        let error = self.calls.ended().unwrap_or_else(Error::cancelled);
        if error.kind() != ErrorKind::Unavailable {
            return error;
        }
        let error = error.hint("run it by hand to see what it lacks; it gets no environment but PATH and LANG");
        match self.calls.lines.last() {
            Some(last) => error.caused_by(format!("it said: {last}")),
            None => error,
        }
    }

    /// Whether calls can be made.
    pub fn lives(&self) -> bool {
        self.calls.ended().is_none()
    }

    /// Starts a call. Calls of one key wait for each other; one that was cancelled has to end soon.
    pub async fn call(
        self: &Arc<Self>,
        key: Option<&str>,
        credit: Option<u64>,
        request: impl FnOnce(u64) -> Request,
    ) -> Result<Call> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let frames = loop {
            let closed = self.calls.closed();
            match self.calls.open(id, key, credit)? {
                Opened::Free(frames) => break frames,
                Opened::Occupied { cancelled: false } => closed.await,
                Opened::Occupied { cancelled: true } => {
                    if tokio::time::timeout(self.patience.farewell, closed).await.is_err() {
                        self.calls.end(
                            self.calls.broken("a call that is cancelled is answered soon").of_kind(ErrorKind::Timeout),
                        );
                    }
                }
            }
        };
        let call = Call { id, frames, process: Arc::clone(self), over: false };
        self.send(&request(id))?;
        Ok(call)
    }

    /// Lets a call send more.
    pub fn grant(&self, call: u64, bytes: u64, batch_bytes: usize) -> Result<()> {
        self.calls.grant(call, bytes);
        self.send(&Request::Credit { call, bytes, batch_bytes: batch_bytes as u64 })
    }

    fn send(&self, request: &Request) -> Result<()> {
        // The task that takes it ends with the process; then the call says why.
        drop(self.orders.send(encoded(request)?));
        Ok(())
    }
}

fn encoded(request: &Request) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Message::new(request)?
        .write(&mut bytes)
        .map_err(|e| Error::unexpected("cannot write a frame to memory").caused_by(e))?;
    Ok(bytes)
}

/// A call under way. Dropping it cancels it.
pub struct Call {
    /// Its number.
    pub id: u64,
    frames: mpsc::UnboundedReceiver<Incoming>,
    process: Arc<Process>,
    over: bool,
}

impl Call {
    /// The next frame.
    ///
    /// # Errors
    /// Why the process ended.
    pub async fn next(&mut self) -> Result<Incoming> {
        match self.frames.recv().await {
            Some(frame) => {
                self.over |= frame.last;
                Ok(frame)
            }
            None => {
                self.over = true;
                let error = self.process.calls.ended().unwrap_or_else(Error::cancelled);
                Err(error
                    .hint("its last lines on stderr are in the log; what is committed stays, the same command resumes"))
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.over && self.process.calls.abandon(self.id) {
            // Encoding a number does not fail; where the process is gone, so is the call.
            drop(self.process.send(&Request::Cancel { call: self.id }));
        }
    }
}

/// What the thread of a process hands over once it runs.
struct Born {
    stdin: ChildStdin,
    stderr: ChildStderr,
    leash: Leash,
}

/// Starts the process on a thread of its own, which reads its frames and reaps it.
async fn spawn(program: &Program, calls: &Arc<Calls>) -> Result<Born> {
    let name = &program.name;
    let mut command = bound_to_us(&program.path);
    command.env_clear().envs(ENVIRONMENT).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (answer, born) = oneshot::channel();
    let listener = Arc::clone(calls);
    // The signal that ends an orphan follows the thread that started it, so that thread lives as long as the process.
    std::thread::Builder::new()
        .name("ingest-plugin".into())
        .spawn(move || live(command, answer, &listener))
        .map_err(|e| Error::new(ErrorKind::LimitExceeded, "cannot start a thread").with("plugin", name).caused_by(e))?;
    let born = born.await.map_err(|_| Error::unexpected("the thread of a plug-in ended").with("plugin", name))?;
    born.map_err(|e| {
        Error::new(ErrorKind::Unavailable, format!("cannot start the plug-in {name}"))
            .hint("the file must be executable: a program, or a script whose first line names its interpreter")
            .caused_by(e)
    })
}

/// The command of a plug-in that is killed when we are. Elsewhere than on Linux it is the end of its stdin that ends it.
fn bound_to_us(path: &Path) -> Command {
    if cfg!(target_os = "linux") && Path::new(SETPRIV).is_file() {
        let mut command = Command::new(SETPRIV);
        command.args(["--pdeathsig", "KILL", "--"]).arg(path);
        return command;
    }
    Command::new(path)
}

/// The thread of a process: from its start to its end.
fn live(mut command: Command, answer: oneshot::Sender<std::io::Result<Born>>, calls: &Calls) {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            drop(answer.send(Err(error)));
            calls.exited.cancel();
            return;
        }
    };
    let leash = Leash::of(&child);
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    if let (Some(stdin), Some(stdout), Some(stderr)) = pipes {
        let born = Born { stdin, stderr, leash: leash.clone() };
        // Where nobody wants it any more, what was to be handed over is dropped here, and the process with it.
        if answer.send(Ok(born)).is_ok() {
            listen(stdout, calls);
        }
    }
    let status = leash.reap(&mut child);
    let well = status.as_ref().is_ok_and(ExitStatus::success);
    calls.ended_badly.store(!well, Ordering::Relaxed);
    calls.end(died(&calls.name, status));
    calls.exited.cancel();
}

fn listen(stdout: ChildStdout, calls: &Calls) {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::pipe::fcntl_setpipe_size(&stdout, PIPE) {
        tracing::debug!(%error, "a pipe keeps its size");
    }
    if let Err(error) = calls.listen(&mut BufReader::with_capacity(64 << 10, stdout)) {
        calls.end(error);
    }
}

fn died(name: &str, status: std::io::Result<ExitStatus>) -> Error {
    let error = Error::new(ErrorKind::Unavailable, format!("the plug-in {name} ended while it was needed"));
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => error.with("exit_code", code),
            (None, Some(signal)) => error.with("signal", signal),
            (None, None) => error,
        },
        Err(e) => error.caused_by(e),
    }
}

/// Kills a process and everything in its group.
#[derive(Clone)]
struct Leash {
    group: Option<Pid>,
    /// Its number may belong to another one from then on.
    reaped: Arc<Mutex<bool>>,
}

impl Leash {
    fn of(child: &Child) -> Self {
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Self { group, reaped: Arc::default() }
    }

    fn kill(&self) {
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = self.group.filter(|_| !*reaped) {
            // It fails where the group is empty, which is what is wanted.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    /// Waits a moment for a process that has closed its stdout to end by itself, and reaps it.
    fn reap(&self, child: &mut Child) -> std::io::Result<ExitStatus> {
        let start = Instant::now();
        // A process that has ended keeps its number until it is reaped, so its group is killed before that.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        while let Some(pid) = self.group
            && start.elapsed() < Duration::from_millis(500)
            && matches!(waitid(WaitId::Pid(pid), look), Ok(None))
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        let mut reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        let status = child.wait();
        *reaped = true;
        status
    }
}

/// Kills when it is dropped: with the process's watch, and so with the runtime too.
struct KillOnDrop(Leash);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// Writes requests until there is nobody left who could make one; then stdin ends.
async fn write(mut stdin: tokio::process::ChildStdin, mut queue: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(bytes) = queue.recv().await {
        // The process is gone; the thread that reads says why.
        if stdin.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Reads stderr; shows its last lines again where the process did not end well.
async fn complain(calls: Arc<Calls>, stderr: tokio::process::ChildStderr) {
    calls.lines.read(stderr).await;
    calls.exited.cancelled().await;
    if calls.ended_badly.load(Ordering::Relaxed) {
        calls.lines.show_last();
    }
}

/// Asks a process whether it lives, and ends it when it does not answer or is no longer wanted.
async fn watch(
    calls: Arc<Calls>,
    orders: mpsc::WeakUnboundedSender<Vec<u8>>,
    leash: Leash,
    patience: Patience,
    closing: CancellationToken,
) {
    let _leash = KillOnDrop(leash);
    let mut beat = tokio::time::interval(patience.beat);
    // After a standstill of ours the plug-in gets its full time again.
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    beat.tick().await;
    let (mut heard, mut silent) = (0, 0);
    loop {
        tokio::select! {
            () = closing.cancelled() => break,
            () = calls.exited.cancelled() => return,
            _ = beat.tick() => {}
        }
        let now = calls.heard();
        // Until its `hello` it has a time of its own.
        silent = if now == heard && now > 0 { silent + 1 } else { 0 };
        heard = now;
        if silent > patience.beats {
            let seconds = (patience.beat * patience.beats).as_secs_f32();
            let error = Error::new(ErrorKind::Timeout, format!("the plug-in {} does not answer", calls.name));
            calls.end(error.with("seconds", seconds).hint("it answers each `ping` at once, whatever else it does"));
            return;
        }
        if let (Some(orders), Ok(ping)) = (orders.upgrade(), encoded(&Request::Ping)) {
            // Where the writer is gone, so is the process.
            drop(orders.send(ping));
        }
    }
    // Its stdin has ended. What is left of it after a while is killed.
    drop(tokio::time::timeout(patience.farewell, calls.exited.cancelled()).await);
}
