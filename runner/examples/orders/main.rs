//! A connector as a program of its own: the whole `main`.

mod connector;

fn main() -> std::process::ExitCode {
    ingest_core::serve::<connector::Orders>()
}
