//! The command line from outside: the built program in a folder of its own.

mod canary;
mod configuration;
mod documentation;
mod example;
mod init;
mod scaffold;
mod usage;
mod verbs;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The program. It is built by the first test that asks for it; `INGEST_TEST_PROGRAM` names another one.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(named) = std::env::var_os("INGEST_TEST_PROGRAM") {
            return named.into();
        }
        // This test lies in `<target>/<profile>/deps`.
        let own = std::env::current_exe().expect("this process has a program");
        let profile = own.ancestors().nth(2).expect("a folder of the profile").to_owned();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "ingest-runner", "--bin", "ingest"]);
        build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace"));
        build.env("CARGO_TARGET_DIR", profile.parent().expect("the target folder"));
        if profile.file_name().is_some_and(|name| name == "release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo runs").success(), "the program does not build");
        profile.join("ingest")
    })
}

/// A folder with a configuration, in which the program is run.
pub struct Project {
    pub folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

/// What a run of the program left behind.
#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Project {
    /// A folder without anything.
    pub fn empty() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), environment: Vec::new() }
    }

    /// A folder with this `ingest.yaml`.
    pub fn new(configuration: &str) -> Self {
        Self::empty().file("ingest.yaml", configuration)
    }

    /// A project with two files to read.
    pub fn shop() -> Self {
        Self::new("sources:\n  files:\n    path: ./data\n")
            .file(
                "data/orders.csv",
                "id,total,paid_at\n1,9.50,2024-03-01T10:00:00Z\n2,120.00,\n3,7.25,2024-03-02T08:30:00Z\n",
            )
            .file(
                "data/customers.ndjson",
                "{\"id\": 9007199254740993, \"name\": \"Zoë\"}\n{\"id\": 2, \"name\": \"\\u001b[31mred\"}\n",
            )
    }

    pub fn file(self, name: &str, text: &str) -> Self {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
        self
    }

    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The command, with nothing of this process's own settings.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("INGEST_") {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the program to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().expect("the program starts");
        Output {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }

    /// Runs the program and wants it to succeed.
    pub fn good(&self, arguments: &[&str]) -> Output {
        let output = self.run(arguments);
        assert_eq!(output.code, Some(0), "{arguments:?}: {output:#?}");
        output
    }

    /// Runs the program with `--json` and reads what it says.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.good(&[arguments, &["--json"]].concat());
        serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:#?}"))
    }
}

/// Waits for a process at most so long. A process that goes on is ended, and the test with it.
pub fn wait(child: &mut Child, limit: Duration) -> (i32, Duration) {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return (status.code().unwrap_or(-1), start.elapsed());
        }
        if start.elapsed() > limit {
            child.kill().expect("a child of ours");
            panic!("the program went on for more than {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends a signal to a process that we started.
pub fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(status.expect("kill runs").success());
}

/// Everything that a pipe still gives.
pub fn rest(mut pipe: impl Read) -> String {
    let mut text = String::new();
    pipe.read_to_string(&mut text).expect("UTF-8");
    text
}
