//! What is tested: a name, a folder or a file becomes a connector and what it is tested with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ingest_conformance::Subject;
use ingest_conformance::file::File;
use ingest_core::{Error, Factory, Result};

use super::super::args::ConnectorTestArgs;
use super::super::{App, Stop};
use super::{build, processes};
use crate::plugin::Executable;

/// The file that says what a connector is tested with.
const FILE: &str = "conformance.yaml";
/// Why checks are left out that need more than a source of somebody.
const ONLY_READ: &str = "needs a server that may be changed, or its truth; a source of ingest.yaml is only read";

/// A connector, and where it came from.
struct Target {
    factory: Arc<dyn Factory>,
    /// The program, where it is one of its own.
    program: Option<PathBuf>,
    /// Where its `conformance.yaml` may be.
    folders: Vec<PathBuf>,
}

/// The subject that the arguments name.
pub async fn of(app: &App, args: &ConnectorTestArgs) -> Result<Subject, Stop> {
    let target = target(app, args).await?;
    let subject = match &args.source {
        Some(source) => of_source(app, source, &target)?,
        None => of_file(args.conformance.as_deref(), &target).await?,
    };
    Ok(match target.program {
        None => subject,
        Some(program) => in_process(subject, &program)?,
    })
}

async fn target(app: &App, args: &ConnectorTestArgs) -> Result<Target> {
    let here = Path::new(".");
    let path = args.connector.as_deref().unwrap_or(here);
    if path.join("Cargo.toml").is_file() {
        let program = build::program(path).await?;
        return executable(program, vec![path.to_owned()]);
    }
    if path.is_file() {
        let beside = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(here);
        return executable(path.to_owned(), vec![beside.to_owned(), here.to_owned()]);
    }
    if path.is_dir() {
        return Err(Error::config("this folder holds no crate")
            .with("folder", path.display())
            .hint("name a folder with a Cargo.toml, an executable, or a connector that is built in"));
    }
    let Some(name) = path.to_str().filter(|name| !name.contains(['/', '\\'])) else {
        return Err(Error::config("there is nothing to test at this path").with("path", path.display()));
    };
    let built_in = app.registry.names().any(|known| known == name);
    match if built_in { None } else { Executable::named(name)? } {
        Some(found) => {
            let program = found.path().to_owned();
            Ok(Target { factory: Arc::new(found), program: Some(program), folders: vec![here.to_owned()] })
        }
        // What is not there is an error that lists what is.
        None => Ok(Target { factory: app.registry.get(name)?, program: None, folders: Vec::new() }),
    }
}

fn executable(program: PathBuf, folders: Vec<PathBuf>) -> Result<Target> {
    let factory: Arc<dyn Factory> = Arc::new(Executable::at(&program)?);
    Ok(Target { factory, program: Some(program), folders })
}

/// A source of `ingest.yaml`: it is read and nothing else.
fn of_source(app: &App, name: &str, target: &Target) -> Result<Subject, Stop> {
    let config = app.load_source(name)?;
    let source = config.sources.get(name).ok_or_else(|| {
        Error::config(format!("there is no source {name:?}")).hint("`ingest config show` lists the sources")
    })?;
    let connector = target.factory.spec().name;
    let by_path = source.connector.contains('/');
    if source.connector != connector && !by_path {
        return Err(Error::config(format!("the source {name:?} is of the connector {:?}", source.connector))
            .with("tested", connector)
            .into());
    }
    let streams: Vec<&str> = source.streams.iter().map(|(name, _)| name.as_str()).collect();
    Ok(Subject::of(Arc::clone(&target.factory), source.fields.clone())
        .streams(&streams)
        .counterpart(&format!("the source {name}"))
        .skip_what_is_not_given(ONLY_READ))
}

async fn of_file(named: Option<&Path>, target: &Target) -> Result<Subject> {
    let found = target.folders.iter().map(|folder| folder.join(FILE)).find(|file| file.is_file());
    let Some(path) = named.map(Path::to_owned).or(found) else {
        return Err(Error::config("nothing says what the connector is tested with").hint(format!(
            "--source NAME tries it on a source of ingest.yaml; --conformance FILE names a {FILE}, which \
             docs/write-a-connector.md explains"
        )));
    };
    let file = File::read(&path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let server = file.start(folder).await?;
    file.subject(Arc::clone(&target.factory), server)
}

/// What only a connector in a process of its own can be tried with: it is killed, and its memory is its own.
fn in_process(subject: Subject, program: &Path) -> Result<Subject> {
    let program = program
        .canonicalize()
        .map_err(|error| Error::config("cannot find the program").with("path", program.display()).caused_by(error))?;
    let measured = program.clone();
    Ok(subject.kill(move || processes::kill(&program)).memory(move || processes::memory(&measured)))
}
