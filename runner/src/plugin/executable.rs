//! Finds a plug-in, and asks it what it is.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use ingest_core::{Context, Error, Factory, Json, Result, Source, Spec};

use super::guest::Guest;
use super::process::{Patience, Process, Program};

/// The file names of plug-ins begin so.
const PREFIX: &str = "ingest-connector-";

/// A connector that is a program of its own: the [`Factory`] of its sources.
///
/// ```no_run
/// use ingest_core::Factory;
/// use ingest_runner::plugin::Executable;
/// # fn main() -> ingest_core::Result<()> {
/// let acme = Executable::at("./target/release/ingest-connector-acme")?;
/// println!("{}", acme.spec().title);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Executable {
    program: Program,
    spec: Spec,
}

impl Executable {
    /// The program at a path. It is started, says what it is, and ends.
    ///
    /// # Errors
    /// `ConfigInvalid` when there is no program that can be started; `Unsupported` when it speaks another version of the
    /// protocol; `Unavailable`, `Timeout` or `DataInvalid` when it ends, is silent, or does not speak the protocol.
    pub fn at(path: impl AsRef<Path>) -> Result<Self> {
        Self::patient(path, Patience::default())
    }

    /// Like [`Executable::at`], with limits of one's own.
    pub fn patient(path: impl AsRef<Path>, patience: Patience) -> Result<Self> {
        let path = std::path::absolute(path.as_ref())
            .map_err(|e| Error::config("cannot find the folder of this process").caused_by(e))?;
        startable(&path)?;
        let name = path.file_name().map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy());
        let program = Program { name: Arc::from(&*name), path, patience };
        let spec = hello(&program)?;
        Ok(Self { program, spec })
    }

    /// The program `ingest-connector-<name>` in the folders of `PATH`; `None` where there is none.
    ///
    /// # Errors
    /// As [`Executable::at`]; `ConfigInvalid` when the program is another connector than its name says.
    pub fn named(name: &str) -> Result<Option<Self>> {
        let Some(path) = on_path().remove(name) else { return Ok(None) };
        let found = Self::at(&path)?;
        if found.spec.name != name {
            return Err(Error::config(format!("the plug-in {} is another connector", found.program.name))
                .with("connector", &found.spec.name)
                .hint(format!("name its file {PREFIX}{}", found.spec.name)));
        }
        Ok(Some(found))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.program.path
    }
}

/// The plug-ins in the folders of `PATH`, by the names of their connectors; the first one of a name counts, as in a shell.
/// Relative folders are passed over: what is started must not depend on where one stands.
pub fn on_path() -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let path = std::env::var_os("PATH").unwrap_or_default();
    for folder in std::env::split_paths(&path).filter(|folder| folder.is_absolute()) {
        // Many folders of a PATH do not exist.
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let file = entry.file_name();
            let Some(name) = file.to_str().and_then(|file| file.strip_prefix(PREFIX)) else { continue };
            if is_name(name) && startable(&entry.path()).is_ok() {
                found.entry(name.to_owned()).or_insert_with(|| entry.path());
            }
        }
    }
    found
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_'))
}

fn startable(path: &Path) -> Result<()> {
    let shown = path.display();
    let data = std::fs::metadata(path).map_err(|e| {
        Error::config(format!("there is no plug-in {shown}"))
            .hint("a path is relative to the configuration file")
            .caused_by(e)
    })?;
    if !data.is_file() {
        return Err(Error::config(format!("the plug-in {shown} is no file")).hint("name the program itself"));
    }
    if data.permissions().mode() & 0o111 == 0 {
        return Err(Error::config(format!("the plug-in {shown} is not executable")).hint(format!("chmod +x {shown}")));
    }
    Ok(())
}

/// Starts a program only to hear what it is. Callers may stand inside or outside of a runtime, so it gets one of its own.
fn hello(program: &Program) -> Result<Spec> {
    let on_thread = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::unexpected("cannot start a runtime").caused_by(e))?;
        runtime.block_on(async {
            let (process, spec) = Process::start(program, Arc::default()).await?;
            let calls = Arc::clone(&process.calls);
            drop(process);
            // It ends by itself when its stdin does; if it does not, it is killed with the runtime.
            drop(tokio::time::timeout(program.patience.farewell, calls.exited.cancelled()).await);
            Ok(spec)
        })
    };
    let spec = std::thread::scope(|scope| scope.spawn(on_thread).join())
        .unwrap_or_else(|_| Err(Error::unexpected("asking a plug-in what it is panicked")))?;
    if !is_name(&spec.name) {
        return Err(Error::new(
            ingest_core::ErrorKind::DataInvalid,
            format!("the plug-in {} has no name", program.name),
        )
        .hint("`name` in its `spec` consists of a-z, 0-9, - and _"));
    }
    Ok(spec)
}

#[async_trait]
impl Factory for Executable {
    fn spec(&self) -> Spec {
        self.spec.clone()
    }

    async fn open(&self, config: Json, context: Context) -> Result<Box<dyn Source>> {
        // Its author need not do it again.
        crate::config::check_fields(&config, &self.spec, &format!("sources.{}", context.source))?;
        let guest = Guest::open(self.program.clone(), self.spec.clone(), config, context).await?;
        Ok(Box::new(guest))
    }
}
