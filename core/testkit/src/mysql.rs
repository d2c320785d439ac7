//! Private MariaDB and MySQL servers for tests.
//!
//! The genuine servers: MariaDB of the system's packages, MySQL 8.0 as `.ci/install` unpacks it. Each has a data folder of
//! its own, a copy of an empty one that `.ci/install` has made, and listens on a free port of loopback. It ends with the
//! process that started it, also when that is killed.
//!
//! ```no_run
//! # async fn example() {
//! use ingest_testkit::mysql::{Flavour, Mysql};
//! let Some(server) = Mysql::shared(Flavour::MariaDb) else { return };
//! let database = server.database().await;
//! database.sql("CREATE TABLE t (id int)").await;
//! # }
//! ```

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Row, Value};

use crate::certificates::Authority;
use crate::process::free_port;
use crate::programs;

/// Whose server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// MariaDB 10.11.
    MariaDb,
    /// MySQL 8.0. Its build is so old that it offers no TLS that is accepted today.
    Mysql,
}

/// A running server.
pub struct Mysql {
    flavour: Flavour,
    program: PathBuf,
    folder: PathBuf,
    port: u16,
    settings: Vec<String>,
    server: Mutex<Option<Child>>,
    /// Waits for its standard input to close: then it stops the server and removes the folder.
    guardian: Child,
    databases: AtomicU32,
}

/// A database of its own, with a client that may do everything.
pub struct Database {
    /// Its name.
    pub name: String,
    client: tokio::sync::Mutex<Conn>,
}

/// What a server shall be like.
#[derive(Default)]
pub struct Options<'a> {
    /// TLS with a certificate of this authority for `localhost`; connections over TCP must then use it.
    pub tls: Option<&'a Authority>,
    /// Further settings: `--max-connections=5`.
    pub settings: &'a [&'a str],
}

/// The password of `root`.
pub const PASSWORD: &str = "r00t'pw";

impl Flavour {
    /// Both.
    pub const ALL: [Self; 2] = [Self::MariaDb, Self::Mysql];

    /// The word in `INGEST_TEST_SKIP`.
    fn word(self) -> &'static str {
        match self {
            Self::MariaDb => "mariadb",
            Self::Mysql => "mysql",
        }
    }

    fn program(self) -> Option<PathBuf> {
        let candidates = match self {
            Self::MariaDb => vec!["/usr/sbin/mariadbd".into(), "mariadbd".into()],
            Self::Mysql => vec![programs::home().join("mysql/bin/mysqld")],
        };
        programs::find(self.word(), &candidates)
    }
}

impl Mysql {
    /// The server that all tests of a process share; `None` where `INGEST_TEST_SKIP` names `mariadb` or `mysql`.
    ///
    /// # Panics
    /// When the server's programs are missing or do not start.
    pub fn shared(flavour: Flavour) -> Option<&'static Self> {
        static SHARED: [OnceLock<Option<Mysql>>; 2] = [OnceLock::new(), OnceLock::new()];
        let shared = &SHARED[usize::from(flavour == Flavour::Mysql)];
        shared.get_or_init(|| Self::private(flavour, &Options::default())).as_ref()
    }

    /// A server of one's own; `None` where `INGEST_TEST_SKIP` names it.
    ///
    /// # Panics
    /// When the server's programs are missing or do not start.
    pub fn private(flavour: Flavour, options: &Options<'_>) -> Option<Self> {
        let program = flavour.program()?;
        let folder = tempfile::Builder::new().prefix("ingest-mysql-").tempdir().expect("a folder").keep();
        let guardian = guard(&folder);
        let template = programs::home().join(format!("{}-data", flavour.word()));
        assert!(template.is_dir(), "{} is missing: run .ci/install", template.display());
        let copied = Command::new("cp").arg("-r").arg(&template).arg(folder.join("data")).status();
        assert!(copied.expect("cp runs").success(), "{} cannot be copied", template.display());
        let mut settings: Vec<String> = options.settings.iter().map(|setting| (*setting).to_owned()).collect();
        if let Some(authority) = options.tls {
            let identity = authority.identity(&["localhost"]);
            for (setting, text) in
                [("cert", identity.certificate.as_str()), ("key", identity.key.as_str()), ("ca", authority.pem())]
            {
                let path = folder.join(setting);
                fs::write(&path, text).expect("our own folder");
                settings.push(format!("--ssl-{setting}={}", path.display()));
            }
            settings.push("--require-secure-transport=ON".into());
        }
        let mut server = Self {
            flavour,
            program,
            folder,
            port: 0,
            settings,
            server: Mutex::default(),
            guardian,
            databases: AtomicU32::new(0),
        };
        for attempt in 1.. {
            server.port = free_port();
            if server.launch() {
                break;
            }
            // Somebody else may have taken the port.
            assert!(attempt < 4, "{flavour:?} does not start: {}", server.log());
        }
        Some(server)
    }

    /// Starts the program; true once it answers on its socket.
    fn launch(&self) -> bool {
        let data = self.folder.join("data");
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log")).expect("our own folder");
        let mut command = Command::new(&self.program);
        command.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
        if self.flavour == Flavour::Mysql {
            let base = self.program.parent().and_then(Path::parent).expect("a program in a folder `bin`");
            command.arg(format!("--basedir={}", base.display()));
            command.args(["--mysqlx=OFF", "--gtid-mode=ON", "--enforce-gtid-consistency=ON"]);
        } else {
            command.arg("--gtid-strict-mode=1");
        }
        command.arg(format!("--socket={}", self.socket().display()));
        command.arg(format!("--pid-file={}", self.folder.join("pid").display()));
        command.arg(format!("--tmpdir={}", self.folder.display()));
        command.arg(format!("--port={}", self.port));
        command.args([
            "--user=root",
            "--bind-address=127.0.0.1",
            "--server-id=7",
            "--log-bin=binlog",
            "--binlog-format=ROW",
            "--binlog-row-image=FULL",
            "--binlog-row-metadata=FULL",
            "--performance-schema=OFF",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=8M",
            "--innodb-flush-log-at-trx-commit=0",
            "--sync-binlog=0",
            "--skip-name-resolve",
            "--character-set-server=utf8mb4",
            "--sql-mode=",
        ]);
        command.args(&self.settings).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // Of a group of its own: an interrupt at the terminal is for the tests, and the guardian ends it in order.
        let mut child = command.process_group(0).spawn().expect("the server's program runs");
        fs::write(self.folder.join("process"), child.id().to_string()).expect("our own folder");
        for _ in 0..600 {
            if std::os::unix::net::UnixStream::connect(self.socket()).is_ok() {
                *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
                return true;
            }
            if child.try_wait().expect("our own child").is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        child.kill().expect("our own child");
        false
    }

    /// Stops the server as a crash does.
    ///
    /// # Panics
    /// When it is not running.
    pub fn crash(&self) {
        let child = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut child = child.expect("a running server");
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        let _ = fs::remove_file(self.socket());
    }

    /// Starts a stopped server again on its port.
    ///
    /// # Panics
    /// When it does not start.
    pub fn resume(&self) {
        assert!(self.launch(), "{:?} does not start: {}", self.flavour, self.log());
    }

    /// What the server wrote into its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// The path of its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// Its port, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whose server it is.
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// A client of `root`, over the Unix socket.
    ///
    /// # Panics
    /// When it cannot connect.
    pub async fn client(&self) -> Conn {
        let options = OptsBuilder::default()
            .socket(self.socket().to_str())
            .prefer_socket(true)
            .user(Some("root"))
            .pass(Some(PASSWORD))
            .init(vec!["SET time_zone = '+00:00'", "SET NAMES utf8mb4"]);
        Conn::new(options).await.expect("a running server")
    }

    /// A new database.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn database(&self) -> Database {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut client = self.client().await;
        client.query_drop(format!("CREATE DATABASE {name}; USE {name}")).await.expect("a new name");
        Database { name, client: tokio::sync::Mutex::new(client) }
    }

    /// Another client of a database that is there.
    ///
    /// # Panics
    /// When it cannot connect.
    pub async fn open(&self, name: &str) -> Database {
        let mut client = self.client().await;
        client.query_drop(format!("USE {name}")).await.expect("a database");
        Database { name: name.to_owned(), client: tokio::sync::Mutex::new(client) }
    }
}

impl Database {
    /// Runs statements.
    ///
    /// # Panics
    /// When one fails.
    pub async fn sql(&self, sql: &str) {
        self.attempt(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// Runs statements, where some may fail or the server may be gone.
    ///
    /// # Errors
    /// What the server says of the first statement that fails.
    pub async fn attempt(&self, sql: &str) -> Result<(), mysql_async::Error> {
        self.client.lock().await.query_drop(sql).await
    }

    /// All values of a query, as the server prints them.
    ///
    /// # Panics
    /// When it fails.
    pub async fn texts(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let rows: Vec<Row> = self.client.lock().await.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        let text = |value: Value| match value {
            Value::NULL => None,
            Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            other => Some(other.as_sql(true)),
        };
        rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect()).collect()
    }
}

impl Drop for Mysql {
    fn drop(&mut self) {
        drop(self.guardian.stdin.take());
        // It stops the server and removes the folder; a failure leaves both behind and nothing to do.
        let _ = self.guardian.wait();
        if let Some(mut child) = self.server.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = child.wait();
        }
    }
}

/// A shell that outlives us: when our end of its input closes, because we are done or dead, it cleans up.
fn guard(folder: &Path) -> Child {
    const SCRIPT: &str = "cat >/dev/null; kill -9 \"$(cat \"$1/process\")\" 2>/dev/null; rm -rf \"$1\"";
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", SCRIPT, "sh"]).arg(folder).current_dir("/").process_group(0);
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    shell.spawn().expect("a shell")
}
