//! The command line: `ingest VERB`.
//!
//! Data goes to stdout, everything else to stderr. Nothing is set up before the arguments are read, so that `--help` is
//! quick.

mod args;
mod config;
mod connector;
mod connectors;
mod forget;
mod init;
mod inspect;
mod logging;
mod maintain;
mod new;
mod output;
mod pipes;
mod plan;
mod preview;
mod progress;
mod quarantine;
mod receive;
mod refused;
mod render;
mod reveal;
mod run;
mod runs;
mod serve;
mod source;
mod state;
mod table;
mod tables;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use ingest_core::{CancellationToken, Error, ErrorKind, Result};

use self::args::{Cli, Global, LogFormat, LogLevel, Verb};
use self::output::{Outcome, Stop, note, print, print_error, print_problems};
use crate::config::{Config, DEFAULT_MEMORY, LoadOptions, Loaded};
use crate::registry::Registry;

/// Runs the command line of this process with these connectors.
///
/// ```no_run
/// # use ingest_runner::registry::Registry;
/// fn main() -> std::process::ExitCode {
///     ingest_runner::cli(Registry::builtin())
/// }
/// ```
pub fn cli(registry: Registry) -> ExitCode {
    ingest_heap::fit(DEFAULT_MEMORY.0);
    cli_from(registry, std::env::args_os())
}

fn cli_from(registry: Registry, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let parsed = match Cli::try_parse_from(&arguments) {
        Ok(parsed) => parsed,
        Err(error) => return usage(&error, &arguments),
    };
    report_panics(&parsed.global);
    logging::start(&parsed.global);
    let app = App { registry, global: parsed.global };
    // A panic was reported by the hook; what is left to do is to end with the right code.
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| app.dispatch(&parsed.verb)));
    ExitCode::from(match outcome {
        Ok(Ok(code)) => code,
        Ok(Err(stop)) => app.stopped(&stop),
        Err(_) => 1,
    })
}

/// Help and version go to stdout; wrong usage goes to stderr and is exit 2.
fn usage(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    use clap::error::ErrorKind as Usage;
    if matches!(error.kind(), Usage::DisplayHelp | Usage::DisplayVersion) {
        drop(error.print());
        return ExitCode::SUCCESS;
    }
    let environment = |name: &str, word: &str| std::env::var(name).is_ok_and(|value| value == word);
    let follows = |flag: &str, word: &str| arguments.windows(2).any(|pair| pair[0] == flag && pair[1] == word);
    let json = arguments.iter().any(|word| word == "--json" || word == "--log-format=json")
        || follows("--log-format", "json")
        || environment("INGEST_LOG_FORMAT", "json");
    if json && error.kind() != Usage::DisplayHelpOnMissingArgumentOrSubcommand {
        let text = error.to_string();
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let message = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let rest = lines.map(str::trim).collect::<Vec<_>>().join("; ");
        let error = Error::config(message).hint(rest);
        note(&serde_json::json!({ "error": crate::events::ErrorReport::from(&error) }).to_string());
    } else {
        drop(error.print());
    }
    ExitCode::from(2)
}

/// A panic is a bug: it is reported as an error, in the form that errors have.
fn report_panics(global: &Global) {
    let global = global.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        let what = panic
            .payload()
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.payload().downcast_ref::<String>().cloned())
            .unwrap_or_default();
        let error = Error::unexpected(format!("this is a bug in ingest: {what}"))
            .with("place", place)
            .hint("please report it with this line; all commits are whole, the same command goes on from the last one");
        print_error(&error, &global);
    }));
}

/// The program: its connectors and the flags of every verb.
struct App {
    registry: Registry,
    global: Global,
}

impl App {
    fn dispatch(&self, verb: &Verb) -> Outcome {
        match verb {
            Verb::Init(args) => init::run(self, args),
            Verb::Connectors(args) => connectors::run(self, args),
            Verb::Check(args) => self.block_on(|cancel| inspect::check(self, args, cancel)),
            Verb::Discover(args) => self.block_on(|cancel| inspect::discover(self, args, cancel)),
            Verb::Preview(args) => self.block_on(|cancel| preview::run(self, args, cancel)),
            Verb::Plan(args) => plan::run(self, args),
            Verb::Run(args) => run::run(self, args),
            Verb::State(args) => self.block_on(|cancel| state::run(self, &args.verb, cancel)),
            Verb::Runs(args) => self.block_on(|_| runs::run(self, args)),
            Verb::Show(args) => self.block_on(|_| tables::show(self, args)),
            Verb::Schema(args) => self.block_on(|_| tables::schema(self, args)),
            Verb::Maintain(args) => self.block_on(|cancel| maintain::run(self, args, cancel)),
            Verb::Config(args) => config::run(self, &args.verb),
            Verb::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(*shell, &mut Cli::command(), "ingest", &mut script);
                print(&String::from_utf8_lossy(&script))?;
                Ok(0)
            }
            Verb::New(args) => new::run(&args.verb),
            Verb::Connector(args) => self.block_on(|_| connector::run(self, &args.verb)),
            Verb::Query(_) => refused::verb("query"),
            Verb::Serve(args) => serve::run(self, args),
            Verb::Verify(args) => self.block_on(|cancel| verify::run(self, args, cancel)),
            Verb::Quarantine(args) => self.block_on(|cancel| quarantine::run(self, &args.verb, cancel)),
            Verb::Forget(args) => self.block_on(|_| forget::run(self, args)),
            Verb::Reveal(args) => reveal::run(self, args),
            Verb::Source(args) => self.block_on(|cancel| source::run(self, &args.verb, cancel)),
        }
    }

    /// Says why a verb ended early, and answers its exit code.
    fn stopped(&self, stop: &Stop) -> u8 {
        match stop {
            Stop::PipeClosed => 0,
            Stop::Config(problems) => {
                print_problems(problems, &self.global);
                2
            }
            Stop::Error(error) => {
                print_error(error, &self.global);
                error.kind().exit_code()
            }
        }
    }

    /// How the configuration is loaded for a source, or for the lake alone.
    fn load_options(&self, source: Option<&str>) -> LoadOptions {
        LoadOptions {
            // A variable that is set to nothing, as job templates do, says nothing.
            config: self.global.config.clone().filter(|file| !file.as_os_str().is_empty()),
            env: self.global.env.clone().filter(|name| !name.is_empty()),
            source: source.map(str::to_owned),
            ..LoadOptions::of_process()
        }
    }

    fn load(&self, options: &LoadOptions) -> Result<Loaded, Stop> {
        let loaded = Config::load(options, &self.registry)?;
        ingest_heap::fit(loaded.config.memory.0);
        Ok(loaded)
    }

    /// Loads the configuration for a source.
    fn load_source(&self, source: &str) -> Result<Config, Stop> {
        Ok(self.load(&self.load_options(Some(source)))?.config)
    }

    /// Loads the configuration for the lake alone.
    fn load_lake(&self) -> Result<Config, Stop> {
        Ok(self.load(&self.load_options(None))?.config)
    }

    /// Runs a verb that may be given up at any time: the first SIGINT or SIGTERM ends it.
    fn block_on<F: Future<Output = Outcome>>(&self, verb: impl FnOnce(CancellationToken) -> F) -> Outcome {
        self.with_runtime(|cancel| async move {
            let work = verb(cancel.clone());
            tokio::select! {
                outcome = work => outcome,
                () = cancel.cancelled() => Err(Error::new(ErrorKind::Cancelled, "interrupted").into()),
            }
        })
    }

    /// Runs a future on a runtime of its own; the token fires at the first SIGINT or SIGTERM, the second ends the process.
    fn with_runtime<F: Future<Output = Outcome>>(&self, work: impl FnOnce(CancellationToken) -> F) -> Outcome {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::unexpected("cannot start the threads of the program").caused_by(e))?;
        let outcome = runtime.block_on(async {
            let cancel = CancellationToken::new();
            let signals = watch_signals(cancel.clone())?;
            let outcome = work(cancel).await;
            signals.abort();
            outcome
        });
        // Blocking calls under way have nothing left to say.
        runtime.shutdown_timeout(Duration::from_millis(200));
        outcome
    }
}

/// Watches for SIGINT and SIGTERM. The watch is armed when this returns.
fn watch_signals(cancel: CancellationToken) -> Result<tokio::task::JoinHandle<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| {
        signal(kind).map_err(|e| Error::unexpected("cannot listen for signals of the operating system").caused_by(e))
    };
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(tokio::spawn(async move {
        let mut first = true;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if !std::mem::take(&mut first) {
                // Commits are atomic: there is nothing to tidy up that the next run would not.
                std::process::exit(130);
            }
            cancel.cancel();
        }
    }))
}
