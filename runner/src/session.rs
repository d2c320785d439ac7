//! An opened source beside an opened lake: what every verb works with.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use ingest_catalog::Documents;
use ingest_core::lake::TableFormat;
use ingest_core::{CancellationToken, Clock, Context, Limiter, Requests, Result, Source, Spec, SystemClock};
use ingest_lake_delta::DeltaFormat;
use object_store::ObjectStore;

use crate::commit::Author;
use crate::config::{Config, LakeConfig, LakeFormat, SourceConfig};
use crate::registry::Registry;

/// An opened lake.
#[derive(Clone)]
pub struct Lake {
    /// The table format.
    pub format: Arc<dyn TableFormat>,
    /// The store, rooted at the lake.
    pub store: Arc<dyn ObjectStore>,
    /// The JSON documents under `_ingest/`.
    pub documents: Documents,
    /// How it was configured.
    pub config: LakeConfig,
}

impl Lake {
    /// Opens a lake. Nothing is created yet.
    ///
    /// # Errors
    /// `ConfigInvalid` for a URL or options that make no store; `Unsupported` for a format that is not built in.
    pub fn open(config: &LakeConfig) -> Result<Self> {
        if config.format != LakeFormat::Delta {
            return Err(ingest_core::Error::new(
                ingest_core::ErrorKind::Unsupported,
                "this table format is not built in yet",
            )
            .hint("use `lake.format: delta`"));
        }
        let delta = DeltaFormat::open(&config.url, &config.options)?;
        let store = delta.store();
        Ok(Self {
            format: Arc::new(delta),
            documents: Documents::new(Arc::clone(&store)),
            store,
            config: config.clone(),
        })
    }
}

/// An opened source beside an opened lake.
pub struct Session {
    /// The configuration of the source.
    pub config: SourceConfig,
    /// What the connector is.
    pub spec: Spec,
    /// The source.
    pub source: Arc<dyn Source>,
    /// The lake.
    pub lake: Lake,
    /// The memory of the run in bytes.
    pub memory: u64,
    /// The run.
    pub run_id: String,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The rates of the source's account.
    pub limiter: Limiter,
    /// Requests of the source's API so far.
    pub requests: Requests,
    /// Requests that plans have estimated for their slices.
    pub estimated: AtomicU64,
    /// Fires when the run shall end.
    pub cancel: CancellationToken,
    /// Holds the folder of temporary files; dropping it removes them.
    _temp_dir: tempfile::TempDir,
}

impl Session {
    /// Opens the source `name` of a configuration, or the connector of that name with its defaults.
    ///
    /// # Errors
    /// `ConfigInvalid` for an unknown connector or a bad field; whatever `open` of the connector says.
    pub async fn open(
        config: &Config,
        registry: &Registry,
        name: &str,
        run_id: Option<String>,
        cancel: CancellationToken,
    ) -> Result<Self> {
        let lake = Lake::open(&config.lake)?;
        Self::open_in(lake, config, registry, name, run_id, cancel).await
    }

    /// Like [`Session::open`], in a lake that is open already.
    pub async fn open_in(
        lake: Lake,
        config: &Config,
        registry: &Registry,
        name: &str,
        run_id: Option<String>,
        cancel: CancellationToken,
    ) -> Result<Self> {
        let source_config = config.sources.get(name).cloned().unwrap_or_else(|| SourceConfig::named(name));
        let factory = registry.get(&source_config.connector)?;
        let spec = factory.spec();
        let run_id = run_id.unwrap_or_else(|| uuid::Uuid::now_v7().simple().to_string());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        sweep_temp_dirs(&std::env::temp_dir());
        // Mode 0700 is what tempfile gives a folder.
        let temp_dir = tempfile::Builder::new()
            .prefix(&format!("{TEMP_PREFIX}{}-", std::process::id()))
            .tempdir()
            .map_err(|e| ingest_core::Error::unexpected("cannot make a folder for temporary files").caused_by(e))?;
        let limiter = Limiter::default();
        let requests = Requests::default();
        let context = Context {
            source: name.to_owned(),
            run_id: run_id.clone(),
            clock: Arc::clone(&clock),
            cancel: cancel.clone(),
            limiter: limiter.clone(),
            requests: requests.clone(),
            temp_dir: temp_dir.path().to_owned(),
        };
        let source = factory.open(source_config.fields.clone(), context).await?;
        Ok(Self {
            config: source_config,
            spec,
            source: Arc::from(source),
            lake,
            memory: config.memory.0,
            run_id,
            clock,
            limiter,
            requests,
            estimated: AtomicU64::new(0),
            cancel,
            _temp_dir: temp_dir,
        })
    }
}

impl Session {
    /// Who commits in this run.
    pub fn author(&self) -> Author {
        Author {
            documents: self.lake.documents.clone(),
            format: Arc::clone(&self.lake.format),
            source: self.config.name.clone(),
            run: self.run_id.clone(),
            connector: format!("{} {}", self.spec.name, self.spec.version),
            clock: Arc::clone(&self.clock),
        }
    }
}

/// Folders of temporary files are named after the process that they belong to.
const TEMP_PREFIX: &str = "ingest-run-";

/// Removes the folders of processes that were killed before they could. What cannot be removed stays for the next run.
fn sweep_temp_dirs(parent: &std::path::Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(TEMP_PREFIX)?.split('-').next());
        let Some(Ok(pid)) = owner.map(str::parse::<u32>) else { continue };
        let dead = cfg!(target_os = "linux") && !std::path::Path::new(&format!("/proc/{pid}")).exists();
        if dead && let Err(error) = std::fs::remove_dir_all(entry.path()) {
            tracing::debug!(%error, "the temporary files of a dead run stay");
        }
    }
}
