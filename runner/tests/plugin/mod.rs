//! Plug-ins: the example connector linked in, as a program, and in Python; broken ones; kills; secrets.

mod broken;
mod kills;
mod rogue;
mod secrets;
mod ways;

#[path = "../../examples/orders/connector.rs"]
mod orders;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use arrow::compute::{concat_batches, sort_to_indices, take_record_batch};
use arrow_array::RecordBatch;
use ingest_core::{CancellationToken, Factory, Json};
use ingest_lake_delta::DeltaFormat;
use ingest_runner::config::{Config, LakeConfig, SourceConfig};
use ingest_runner::events::{RunReport, Silent};
use ingest_runner::registry::Registry;
use ingest_runner::run::{RunOptions, run};
use ingest_runner::session::{Lake, Session};
use object_store::ObjectStore;
use object_store::memory::InMemory;

/// The example connector as a program. The first test that asks builds it, as cargo does so only where all targets are built;
/// it is taken from beside `INGEST_TEST_PROGRAM` where it lies there.
pub fn program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let named =
            std::env::var_os("INGEST_TEST_PROGRAM").map(|named| Path::new(&named).with_file_name("examples/orders"));
        if let Some(built) = named.filter(|built| built.exists()) {
            return built;
        }
        // This test lies in `<target>/<profile>/deps`.
        let own = std::env::current_exe().expect("this process has a program");
        let profile = own.ancestors().nth(2).expect("a folder of the profile").to_owned();
        let mut build = std::process::Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "ingest-runner", "--example", "orders"]);
        build.env("CARGO_TARGET_DIR", profile.parent().expect("the target folder"));
        if profile.file_name().is_some_and(|name| name == "release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo runs").success(), "the example does not build");
        profile.join("examples/orders")
    };
    PROGRAM.get_or_init(build).clone()
}

/// The example in Python as a program of this machine; `None` where Python is not wanted.
pub fn in_python(folder: &Path) -> Option<PathBuf> {
    let text = include_str!("../../../examples/plugin-python/orders.py");
    script(folder, "orders.py", text)
}

/// A Python script as a program: its first line names the Python that the tests have.
pub fn script(folder: &Path, name: &str, text: &str) -> Option<PathBuf> {
    let python = ingest_testkit::python::program("python")?;
    let rest = text.split_once('\n').expect("a first line").1;
    let path = folder.join(name);
    std::fs::write(&path, format!("#!{}\n{rest}", python.display())).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("made executable");
    Some(path)
}

/// A source over a lake in memory.
pub struct Shop {
    pub factory: Arc<dyn Factory>,
    pub fields: Json,
    pub store: Arc<dyn ObjectStore>,
}

impl Shop {
    pub fn new(factory: impl Factory + 'static, fields: Json) -> Self {
        Self { factory: Arc::new(factory), fields, store: Arc::new(InMemory::new()) }
    }

    fn lake(&self) -> Lake {
        let delta = DeltaFormat::new(Arc::clone(&self.store), "memory:///lake".parse().expect("a URL"));
        Lake {
            format: Arc::new(delta),
            store: Arc::clone(&self.store),
            documents: ingest_catalog::Documents::new(Arc::clone(&self.store)),
            config: LakeConfig::default(),
        }
    }

    pub async fn run(&self) -> RunReport {
        self.try_run().await.expect("the source opens")
    }

    /// `None` where the source could not be opened.
    pub async fn try_run(&self) -> Option<RunReport> {
        let source =
            SourceConfig { connector: "guest".into(), fields: self.fields.clone(), ..SourceConfig::named("shop") };
        let config = Config {
            lake: LakeConfig::default(),
            memory: ingest_core::config::ByteSize(64 << 20),
            sources: BTreeMap::from([("shop".to_owned(), source)]),
            file: None,
            common: Default::default(),
        };
        let registry = Registry::empty().with_factory("guest", Arc::clone(&self.factory));
        let cancel = CancellationToken::new();
        let session = Session::open_in(self.lake(), &config, &registry, "shop", None, cancel).await;
        Some(run(&session.ok()?, &RunOptions::default(), Arc::new(Silent)).await)
    }

    /// All rows of a stream as its source knows them, by the first column.
    pub async fn rows(&self, stream: &str) -> Option<RecordBatch> {
        rows(&self.lake(), stream).await
    }
}

/// All rows of a stream of the source `shop`, without the columns that are ours, by the column `by`.
pub async fn rows(lake: &Lake, stream: &str) -> Option<RecordBatch> {
    let table = lake.format.open(&format!("bronze/shop/{stream}")).await.expect("the table opens")?;
    let batches = table.read(usize::MAX).await.expect("the table can be read");
    let all = concat_batches(&batches.first()?.schema(), &batches).expect("batches of one table");
    let by = if stream == "changes" { "value" } else { "id" };
    let order = sort_to_indices(all.column_by_name(by).expect("the column"), None, None).expect("sorts");
    let sorted = take_record_batch(&all, &order).expect("rows");
    let own: Vec<usize> =
        (0..sorted.num_columns()).filter(|i| !sorted.schema().field(*i).name().starts_with("_ingest")).collect();
    Some(sorted.project(&own).expect("columns"))
}

/// The error of the only stream that failed, or of the run: kind and text.
pub fn error(report: &RunReport) -> (String, String) {
    let of_streams = report.streams.iter().filter_map(|stream| stream.error.as_ref());
    let error = of_streams.chain(&report.error).next().unwrap_or_else(|| panic!("it went well: {report:?}"));
    (error.kind.clone(), format!("{} {:?} {:?}", error.message, error.context, error.hint))
}
