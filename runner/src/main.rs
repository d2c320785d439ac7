//! The program `ingest`: the command line with every connector that this build contains.

use std::process::ExitCode;

use ingest_runner::registry::Registry;

fn main() -> ExitCode {
    // It fails only where a provider was installed before, and nothing runs before this.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    ingest_runner::cli(Registry::builtin())
}
