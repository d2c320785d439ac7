//! The command line as types: what stands everywhere, and the verbs. What each verb takes is in `verbs`.

mod verbs;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::verbs::*;

/// Moves data from databases, APIs and files into a data lake, exactly once.
#[derive(Debug, Parser)]
#[command(
    name = "ingest",
    version,
    max_term_width = 100,
    propagate_version = false,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:
  ingest init                              write a commented ingest.yaml
  ingest check --source files              is everything reachable and allowed?
  ingest run --source files                load what is new
  ingest show files.orders                 look at a table

Every flag is also an environment variable: --log-level is INGEST_LOG_LEVEL.
Data goes to stdout, everything else to stderr.
Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 refused by the source, 4 partial,
5 contract or quality violation, 6 another run holds the stream, 130 interrupted."
)]
pub struct Cli {
    /// Flags of every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags that stand before or after the verb.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The configuration file; left out, ingest.yaml is searched from here upwards
    #[arg(
        long,
        global = true,
        env = "INGEST_CONFIG",
        value_name = "FILE",
        hide_env = true,
        help_heading = "Everywhere"
    )]
    pub config: Option<PathBuf>,
    /// Overlay ingest.NAME.yaml
    #[arg(long, global = true, env = "INGEST_ENV", value_name = "NAME", hide_env = true, help_heading = "Everywhere")]
    pub env: Option<String>,
    /// How much is logged to stderr
    #[arg(
        long,
        global = true,
        env = "INGEST_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "warn",
        hide_env = true,
        help_heading = "Everywhere"
    )]
    pub log_level: LogLevel,
    /// How logs and errors look on stderr
    #[arg(
        long,
        global = true,
        env = "INGEST_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text",
        hide_env = true,
        help_heading = "Everywhere"
    )]
    pub log_format: LogFormat,
    /// Print data (and errors) as JSON
    #[arg(long, global = true, env = "INGEST_JSON", hide_env = true, help_heading = "Everywhere")]
    pub json: bool,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What a person must act on.
    Error,
    /// What was recovered.
    Warn,
    /// The course of things.
    Info,
    /// Every request and decision.
    Debug,
    /// Everything.
    Trace,
}

/// How logs and errors look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Write a commented ingest.yaml
    #[command(after_help = "Examples:
  ingest init                      an ingest.yaml that reads the files in ./data
  ingest init warehouse            the same in the folder ./warehouse
  ingest init --connector stripe   add a source with every field explained")]
    Init(InitArgs),
    /// List the connectors, or explain one
    #[command(after_help = "Examples:
  ingest connectors                what is built in
  ingest connectors postgres       its fields, modes and documentation
  ingest connectors stripe --json  the JSON Schema of its fields")]
    Connectors(ConnectorsArgs),
    /// Check that a source and the lake are reachable, authorised and complete
    #[command(after_help = "Examples:
  ingest check --source shop_db
  ingest check --source shop_db --json

Every problem comes with its remedy. The exit code is the one that a run would end with; warnings alone are 0.")]
    Check(SourceArgs),
    /// Show the streams of a source: columns, keys, cursors, modes
    #[command(after_help = "Examples:
  ingest discover --source shop_db
  ingest discover --source shop_db --select 'public.*' --json
  ingest discover --source shop_db --sample        what do values look like?")]
    Discover(DiscoverArgs),
    /// Show the first rows of a stream; writes nothing
    #[command(after_help = "Examples:
  ingest preview --source files --stream orders
  ingest preview --source files --stream orders --limit 3 --json")]
    Preview(PreviewArgs),
    /// Show what a run would do; changes nothing
    #[command(after_help = "Examples:
  ingest plan --source shop_db
  ingest plan --source shop_db --select public.orders --slices 8 --json
  ingest plan --source shop_db --select public.orders --slices 8 -o plan.json

With -o, eight processes can share the work: `ingest run --plan plan.json --slice 0` to 7, in any order, on any machine,
any number of times; then `ingest run --plan plan.json --finish` makes all rows visible in one commit.")]
    Plan(PlanArgs),
    /// Load what is new into the lake
    #[command(after_help = "Examples:
  ingest run --source shop_db
  ingest run --source shop_db --select 'public.*' --exclude public.audit
  ingest run --source stripe --progress json
  ingest run --source shop_db --resync public.orders
  ingest run --source shop_db --select public.orders --interval-start 2024-01-01 --interval-end 2024-02-01
  ingest run --plan plan.json --slice 3
  ingest run --plan plan.json --finish

The same command again, also after a crash, goes on where the last commit ended and adds nothing twice.
SIGINT or SIGTERM stops within 10 seconds with all commits whole (exit 130); a second one stops at once.")]
    Run(RunArgs),
    /// Look at and change what a source's tables remember
    #[command(after_help = "Examples:
  ingest state show --source stripe
  ingest state log --source stripe --stream charges
  ingest state rewind --source stripe --stream charges --to 1763668800123456
  ingest state export --source stripe > state.json
  ingest state reset --source stripe --stream charges")]
    State(StateArgs),
    /// Show the history of runs, or one run
    #[command(after_help = "Examples:
  ingest runs
  ingest runs 01939f4c8c0a7bd2 --json")]
    Runs(RunsArgs),
    /// Show rows of a lake table
    #[command(after_help = "Examples:
  ingest show files.orders
  ingest show shop_db.public_orders --limit 5 --json")]
    Show(ShowArgs),
    /// Show the columns of a lake table and how they came to be
    #[command(after_help = "Examples:
  ingest schema files.orders
  ingest schema files.orders --json")]
    Schema(TableArgs),
    /// Compact tables, write log checkpoints, remove dead files
    #[command(after_help = "Examples:
  ingest maintain
  ingest maintain --table files.orders
  ingest maintain --dry-run")]
    Maintain(MaintainArgs),
    /// Show the configuration that holds, or its JSON Schema
    #[command(after_help = "Examples:
  ingest config show --origin
  ingest config schema > ingest.schema.json
  ingest config schema --events            what a line of `run --progress json` may be")]
    Config(ConfigArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Examples:
  ingest completions bash > /etc/bash_completion.d/ingest
  ingest completions zsh > ~/.zfunc/_ingest")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Start a connector of your own: a crate that compiles and passes the conformance suite
    #[command(after_help = "Examples:
  ingest new connector acme
  ingest new connector acme --kind database
  ingest new connector acme --path ~/src/ingest   with the crates of a checkout

The crate reads a sample that comes with it. docs/write-a-connector.md goes on from there.")]
    New(NewArgs),
    /// Try what the contract of a connector promises
    #[command(after_help = "Examples:
  ingest connector test                          the crate in this folder
  ingest connector test ./acme --only I02
  ingest connector test stripe --source stripe   a connector that is built in, on a source of ingest.yaml
  ingest connector test ./ingest-connector-acme --conformance acme/conformance.yaml --junit report.xml

Every failure is shown with what was sent, what came, and what the contract says. Exit codes: 0 all hold,
5 one does not, 2 the connector cannot be built, started or configured.")]
    Connector(ConnectorArgs),
    /// Refused: not built in yet.
    #[command(hide = true, disable_help_flag = true)]
    Query(Rest),
    /// Start what is due by the schedules of ingest.yaml, until it is stopped
    #[command(after_help = "Examples:
  ingest serve
  ingest serve --at-once 8 --progress json
  ingest serve --dry-run           what is due when; nothing is started

Start it on two machines and one of them leads; the other takes over within a minute. SIGHUP reads the configuration
again. SIGINT or SIGTERM stops the runs with all commits whole; what was due is run for when it is started again.")]
    Serve(ServeArgs),
    /// Compare a source with its tables: counts, hashes of keys, checksums of columns
    #[command(after_help = "Examples:
  ingest verify --source shop_db
  ingest verify --source shop_db --select public.orders --counts
  ingest verify --source shop_db --json

The source is read as a load reads it, and nothing is written but the receipt, under _ingest/verified. What changes at the
source after the last run shows as a difference.
Exit codes: 0 equal, 5 unequal, others as of `ingest run` where a stream could not be compared.")]
    Verify(VerifyArgs),
    /// Show records that are in quarantine, or put them into their tables after a repair
    #[command(after_help = "Examples:
  ingest quarantine show --source shop_db
  ingest quarantine show --source shop_db --stream public.customers --json
  ingest quarantine replay --source shop_db        rows that pass the checks as they are now go to their tables")]
    Quarantine(QuarantineArgs),
    /// Erase people from tables, their history and the quarantine, and show that nothing is left
    #[command(after_help = "Examples:
  ingest forget --table shop_db.public_customers --key 42
  ingest forget --column email ada@example.com
  ingest forget --source shop_db --anywhere - < values.txt
  ingest forget --column email ada@example.com --dry-run

Values are found in clear and as the masks hash and token make them. Older versions of the tables that hold a row can no
longer be read afterwards. The receipt is kept under _ingest/forgotten. What the source still has comes back with the next run
that reads it: erase it there first.
Exit codes: 0 nothing that can be read holds a value, 4 something does, or could not be searched.")]
    Forget(ForgetArgs),
    /// Print the values of tokens (columns with `mask: token`); needs the mask key
    #[command(after_help = "Examples:
  ingest reveal tok1_…
  ingest show shop_db.customers --json | jq -r '.[].email' | ingest reveal -")]
    Reveal(RevealArgs),
    /// Make what change capture needs at a source (publication, slot), or remove it
    #[command(after_help = "Examples:
  ingest source setup --source shop_db --dry-run     prints the statements
  ingest source setup --source shop_db
  ingest source teardown --source shop_db            the source keeps no more log for the lake")]
    Source(SetUpArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_or_after_the_verb() {
        for line in [["ingest", "--env", "x", "runs"], ["ingest", "runs", "--env", "x"]] {
            assert_eq!(Cli::try_parse_from(line).expect("parses").global.env.as_deref(), Some("x"));
        }
    }

    #[test]
    fn every_flag_is_an_environment_variable() {
        fn visit(command: &clap::Command) {
            for argument in command.get_arguments().filter(|a| !a.is_positional() && !a.is_hide_set()) {
                let Some(long) = argument.get_long().filter(|long| !matches!(*long, "help" | "version")) else {
                    continue;
                };
                // What `--path` of `new connector` is about is said by its variable.
                let name = match (command.get_name(), long) {
                    ("connector", "path") => "INGEST_CHECKOUT".to_owned(),
                    _ => format!("INGEST_{}", long.to_uppercase().replace('-', "_")),
                };
                assert_eq!(argument.get_env().and_then(|e| e.to_str()), Some(name.as_str()), "{}", command.get_name());
            }
            command.get_subcommands().for_each(visit);
        }
        visit(&Cli::command());
    }
}
