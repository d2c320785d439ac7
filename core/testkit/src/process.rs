//! Server processes of tests: started on a free port, ready when they say so, gone when the test is over.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a server may take to say that it is ready; a busy machine with two cores needs some of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running server process. Dropping it ends the process; so does the end of the test process, however it comes.
pub struct Server {
    name: String,
    child: Mutex<Child>,
    folder: TempDir,
}

impl Server {
    /// Starts a process, its output going to a log file.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(name: &str, command: Command) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = File::create(folder.path().join("log")).expect("a file in a folder of our own");
        let errors = log.try_clone().expect("a second handle of an open file");
        let mut command = bound_to_us(command);
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = spawn(command).unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name: name.to_owned(), child: Mutex::new(child), folder }
    }

    /// Starts a process that chooses its port, and waits until it prints `announces`; gives what follows on that line, up
    /// to the next blank: `http://127.0.0.1:41235` of `Running on http://127.0.0.1:41235`.
    ///
    /// # Panics
    /// When the process ends before, or says nothing in time; the message holds its output.
    pub async fn start_announced(name: &str, command: Command, announces: &str) -> (Self, String) {
        let server = Self::start(name, command);
        let mut found = None;
        server
            .ready(async || {
                found = announced(&server.log(), announces);
                found.is_some()
            })
            .await;
        (server, found.expect("ready means found"))
    }

    /// Asks `probe` until it says yes.
    ///
    /// # Panics
    /// When the process ends before, or the answer is no for too long; the message holds its output.
    pub async fn ready(&self, mut probe: impl AsyncFnMut() -> bool) {
        let start = Instant::now();
        while !probe().await {
            let ended = self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait();
            if let Ok(Some(status)) = ended {
                panic!("{} ended ({status}) before it was ready:\n{}", self.name, self.log());
            }
            assert!(start.elapsed() < PATIENCE, "{} is not ready in time:\n{}", self.name, self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// Everything that it printed so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        // It may have ended by itself; then there is nothing to do.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A port of 127.0.0.1 that nobody has now. Somebody may take it before the server does.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
}

fn announced(log: &str, text: &str) -> Option<String> {
    // Only whole lines: the port of a line that is still being written could be cut.
    let whole = &log[..log.rfind('\n')? + 1];
    let rest = &whole[whole.find(text)? + text.len()..];
    rest.split_whitespace().next().map(str::to_owned)
}

/// Wraps a command so that its process is killed when ours ends. Statics are never dropped and a test that is killed
/// drops nothing, so `Drop` is not enough.
fn bound_to_us(command: Command) -> Command {
    if !Path::new("/usr/bin/setpriv").is_file() {
        return command;
    }
    let mut wrapped = Command::new("/usr/bin/setpriv");
    wrapped.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    wrapped
}

type Job = (Command, Sender<io::Result<Child>>);

/// Spawns from a thread that lives as long as the process: the death signal above follows the thread that spawned, and
/// threads of tests end early.
fn spawn(command: Command) -> io::Result<Child> {
    static KEEPER: OnceLock<Sender<Job>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (sender, jobs) = channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in jobs {
                // The asker waits for the answer; if it is gone, the child is nobody's and ends with us.
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let (sender, answer) = channel();
    let gone = || io::Error::other("the thread that starts servers is gone");
    keeper.send((command, sender)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_server_is_ready_when_it_says_so_and_gone_when_dropped() {
        let script = "echo starting; echo 'Running on http://127.0.0.1:1 (press x)'; exec sleep 1000";
        let (server, address) = Server::start_announced("sleeper", shell(script), "Running on ").await;
        assert_eq!(address, "http://127.0.0.1:1");
        let process = format!("/proc/{}", server.id());
        assert!(Path::new(&process).exists());
        drop(server);
        assert!(!Path::new(&process).exists());
    }

    #[tokio::test]
    #[should_panic(expected = "port is taken")]
    async fn a_server_that_ends_early_shows_its_output() {
        Server::start_announced("failing", shell("echo port is taken; exit 3"), "Running on ").await;
    }

    #[test]
    fn half_a_line_announces_nothing() {
        assert_eq!(announced("on http://h:12", "on "), None);
        assert_eq!(announced("on http://h:1234\n", "on ").as_deref(), Some("http://h:1234"));
    }
}
