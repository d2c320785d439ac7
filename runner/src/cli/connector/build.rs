//! Builds the program of a crate.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use ingest_core::{Error, Json, Result};

/// The file names of plug-ins begin so.
const PREFIX: &str = "ingest-connector-";

/// Builds a crate with cargo and gives its plug-in. What cargo says goes to stderr.
pub async fn program(folder: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = tokio::process::Command::new(cargo)
        .args(["build", "--message-format=json-render-diagnostics"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| {
            Error::config("cannot start cargo").hint("install Rust from https://rustup.rs").caused_by(error)
        })?;
    if !output.status.success() {
        return Err(Error::config("the crate does not build").with("folder", folder.display()).hint("see cargo above"));
    }
    let manifest = folder
        .join("Cargo.toml")
        .canonicalize()
        .map_err(|error| Error::config("cannot find the manifest").with("folder", folder.display()).caused_by(error))?;
    let programs: Vec<PathBuf> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Json>(line).ok())
        .filter(|message| message["manifest_path"].as_str().is_some_and(|path| Path::new(path) == manifest))
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect();
    let is_plugin =
        |path: &&PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PREFIX));
    match (programs.iter().find(is_plugin), programs.as_slice()) {
        (Some(program), _) => Ok(program.clone()),
        (None, [only]) => Ok(only.clone()),
        (None, _) => Err(Error::config("the crate has no program that ingest could start")
            .with("folder", folder.display())
            .hint(format!("add a [[bin]] named {PREFIX}NAME whose main is `ingest_core::serve::<Connector>()`"))),
    }
}
