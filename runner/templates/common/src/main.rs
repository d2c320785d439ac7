//! Acme as a program of its own, which `ingest` starts: `connector: acme` with this on PATH, or `connector: ./path`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ingest_core::serve::<ingest_connector_acme::Acme>()
}
