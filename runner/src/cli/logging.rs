//! Logs on stderr.

use tracing_subscriber::EnvFilter;

use super::{Global, LogFormat, LogLevel};

/// Libraries whose detailed logs would show headers, queries or parameters: they say no more than warnings.
const QUIET: [&str; 12] = [
    "h2",
    "hyper",
    "hyper_util",
    "reqwest",
    "rustls",
    "tokio_postgres",
    "postgres_protocol",
    "object_store",
    "tower",
    "mio",
    "want",
    "oauth2",
];

/// Starts logging. Does nothing where somebody else has started it, as in a program that links this one.
pub fn start(global: &Global) {
    if global.log_level == LogLevel::Off {
        return;
    }
    let level = match global.log_level {
        LogLevel::Off => "off",
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    let cap = if global.log_level == LogLevel::Error { "error" } else { "warn" };
    let quiet = QUIET.map(|library| format!("{library}={cap}")).join(",");
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(format!("{level},{quiet}")))
        .with_writer(std::io::stderr)
        .with_ansi(false);
    // Another subscriber, where there is one, goes on.
    drop(match global.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    });
}
