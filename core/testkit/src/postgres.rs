//! A private PostgreSQL server for tests.
//!
//! The genuine server of `/usr/lib/postgresql/15/bin` (or of the folder `INGEST_TEST_POSTGRES_BIN`), with a data folder
//! of its own, on a free port of loopback. It ends with the process that started it, also when that is killed.
//!
//! ```no_run
//! # async fn example() {
//! let Some(server) = ingest_testkit::postgres::Postgres::shared() else { return };
//! let database = server.database().await;
//! database.client.batch_execute("CREATE TABLE t (id int)").await.expect("valid SQL");
//! # }
//! ```

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::{Client, Config, NoTls};

use crate::certificates::Authority;
use crate::process::free_port;

const BIN: &str = "/usr/lib/postgresql/15/bin";

/// A running server.
pub struct Postgres {
    folder: PathBuf,
    bin: PathBuf,
    port: u16,
    password: String,
    account: Option<(u32, u32)>,
    /// Waits for its standard input to close: then it stops the server and removes the folder.
    guardian: Child,
    databases: AtomicU32,
}

/// A database of its own, with a client that may do everything.
pub struct Database {
    /// Its name.
    pub name: String,
    /// A client of the superuser.
    pub client: Client,
}

/// What a server shall be like.
#[derive(Default)]
pub struct Options<'a> {
    /// TLS with a certificate of this authority for `localhost`; connections over TCP must then use it.
    pub tls: Option<&'a Authority>,
    /// Clients over TCP must show a certificate of the authority, too.
    pub client_certificates: bool,
    /// Further lines of `postgresql.conf`.
    pub settings: &'a [(&'a str, &'a str)],
    /// Lines of `pg_hba.conf` that come before the usual ones.
    pub rules: &'a [&'a str],
}

impl Postgres {
    /// The server that all tests of a process share; `None` where `INGEST_TEST_SKIP` names `postgres`.
    ///
    /// # Panics
    /// When the server's programs are missing or do not start.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Postgres>> = OnceLock::new();
        SHARED
            .get_or_init(|| (!crate::programs::skipped("postgres")).then(|| Self::start(&Options::default())))
            .as_ref()
    }

    /// A server of one's own; `None` where `INGEST_TEST_SKIP` names `postgres`.
    ///
    /// # Panics
    /// When the server's programs are missing or do not start.
    pub fn private(options: &Options<'_>) -> Option<Self> {
        (!crate::programs::skipped("postgres")).then(|| Self::start(options))
    }

    /// A read replica of this server, which has all that was committed when it returns.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn replica(&self) -> Self {
        let mut replica = Self::prepare(self.bin.clone());
        replica.password.clone_from(&self.password);
        // By the statements that a backup is made of: not every distribution of the server has `pg_basebackup`.
        let client = self.client("postgres").await;
        client.execute("SELECT pg_backup_start('replica', true)", &[]).await.expect("a backup");
        let mut copy = command(Path::new("cp"), &replica.folder, replica.account);
        let output = copy.arg("-a").arg(self.data()).arg(replica.data()).output().expect("cp runs");
        assert!(output.status.success(), "the copy fails: {}", String::from_utf8_lossy(&output.stderr));
        let label = client.query_one("SELECT labelfile FROM pg_backup_stop(false)", &[]).await.expect("a backup");
        replica.write("data/backup_label", label.get(0));
        replica.write("data/standby.signal", "");
        fs::remove_file(replica.data().join("postmaster.pid")).expect("our own copy");
        let password = self.password.replace('\'', "\\'");
        let primary = format!("host={} port={} user=postgres password='{password}'", self.folder.display(), self.port);
        replica.configure(&format!(
            "unix_socket_directories='{}'\nprimary_conninfo='{}'\n",
            replica.folder.display(),
            primary.replace('\\', "\\\\").replace('\'', "''")
        ));
        replica.launch()
    }

    fn start(options: &Options<'_>) -> Self {
        let bin = PathBuf::from(std::env::var_os("INGEST_TEST_POSTGRES_BIN").unwrap_or_else(|| BIN.into()));
        assert!(
            bin.join("initdb").exists(),
            "{} holds no PostgreSQL: install postgresql-15, set INGEST_TEST_POSTGRES_BIN, or set INGEST_TEST_SKIP=postgres",
            bin.display()
        );
        let server = Self::prepare(bin);
        server.initialise(options);
        server.launch()
    }

    /// A folder of its own, and what cleans it up.
    fn prepare(bin: PathBuf) -> Self {
        let folder = tempfile::Builder::new().prefix("ingest-postgres-").tempdir().expect("a folder").keep();
        // The server refuses to run as root.
        let account = (fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m)).ok() == Some(0))
            .then(|| account("postgres"));
        if let Some((user, group)) = account {
            chown(&folder, Some(user), Some(group)).expect("our own folder");
        }
        let guardian = guard(&folder, &bin, account);
        let password = format!("p{:016x}'é", rand::random::<u64>());
        Self { folder, bin, port: 0, password, account, guardian, databases: AtomicU32::new(0) }
    }

    fn launch(mut self) -> Self {
        for attempt in 1.. {
            self.port = free_port();
            if self.control(&["start", "-w", "-t", "60", "-o", &format!("-p {}", self.port)]) {
                break;
            }
            // Somebody else may have taken the port.
            assert!(attempt < 4, "PostgreSQL does not start: {}", self.log());
        }
        self
    }

    fn configure(&self, settings: &str) {
        let path = self.data().join("postgresql.conf");
        fs::OpenOptions::new()
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(settings.as_bytes()))
            .expect("the server's settings");
    }

    fn initialise(&self, options: &Options<'_>) {
        let secret = self.write("password", &self.password);
        let mut initdb = self.program("initdb");
        initdb.args(["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "-N", "--pwfile"]);
        let output = initdb.arg(&secret).arg("-D").arg(self.data()).output().expect("initdb runs");
        assert!(output.status.success(), "initdb fails: {}", String::from_utf8_lossy(&output.stderr));
        let mut settings = format!(
            "listen_addresses='127.0.0.1'\nunix_socket_directories='{}'\nwal_level=logical\nfsync=off\n\
             max_connections=60\nmax_wal_senders=8\nmax_replication_slots=8\nmax_prepared_transactions=8\n",
            self.folder.display()
        );
        let mut over_tcp = "host";
        if let Some(authority) = options.tls {
            let identity = authority.identity(&["localhost"]);
            let certificate = self.write("server.crt", &identity.certificate);
            let key = self.write("server.key", &identity.key);
            let ca = self.write("ca.crt", authority.pem());
            settings.push_str(&format!(
                "ssl=on\nssl_cert_file='{}'\nssl_key_file='{}'\nssl_ca_file='{}'\n",
                certificate.display(),
                key.display(),
                ca.display()
            ));
            over_tcp = "hostssl";
        }
        for (key, value) in options.settings {
            settings.push_str(&format!("{key}='{value}'\n"));
        }
        self.configure(&settings);
        let verify = if options.client_certificates { " clientcert=verify-ca" } else { "" };
        let mut rules: String = options.rules.iter().map(|rule| format!("{rule}\n")).collect();
        for database in ["all", "replication"] {
            rules.push_str(&format!("local {database} all scram-sha-256\n"));
            rules.push_str(&format!("{over_tcp} {database} all 127.0.0.1/32 scram-sha-256{verify}\n"));
        }
        fs::write(self.data().join("pg_hba.conf"), rules).expect("the server's rules");
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, text).expect("our own folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("our own file");
        if let Some((user, group)) = self.account {
            chown(&path, Some(user), Some(group)).expect("our own file");
        }
        path
    }

    fn program(&self, name: &str) -> Command {
        command(&self.bin.join(name), &self.folder, self.account)
    }

    fn control(&self, arguments: &[&str]) -> bool {
        let mut control = self.program("pg_ctl");
        control.arg("-D").arg(self.data()).arg("-l").arg(self.folder.join("log")).args(arguments);
        control.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        control.status().expect("pg_ctl runs").success()
    }

    /// Stops the server as a crash does, without waiting for clients.
    ///
    /// # Panics
    /// When it does not stop.
    pub fn crash(&self) {
        assert!(self.control(&["stop", "-w", "-m", "immediate"]), "PostgreSQL does not stop: {}", self.log());
    }

    /// Keeps a copy of the server as it is now, as a snapshot of its disk is one. The clients that it has lose it.
    ///
    /// # Panics
    /// When it cannot be copied.
    pub fn back_up(&self) {
        self.crash();
        self.copy("data", "backup");
        self.resume();
    }

    /// Brings the copy back, as an administrator does: the server goes on along a timeline of its own.
    ///
    /// # Panics
    /// When there is none.
    pub fn restore(&self) {
        self.crash();
        fs::remove_dir_all(self.data()).expect("our own folder");
        self.copy("backup", "data");
        self.configure("restore_command='false'\n");
        let mut touch = command(Path::new("touch"), &self.folder, self.account);
        assert!(touch.arg("data/recovery.signal").status().expect("touch runs").success(), "no signal was left");
        self.resume();
    }

    fn copy(&self, from: &str, to: &str) {
        let mut copy = command(Path::new("cp"), &self.folder, self.account);
        assert!(copy.args(["-a", from, to]).status().expect("cp runs").success(), "{from} cannot be copied");
    }

    /// Starts a stopped server again on its port.
    ///
    /// # Panics
    /// When it does not start.
    pub fn resume(&self) {
        let port = format!("-p {}", self.port);
        assert!(self.control(&["start", "-w", "-t", "60", "-o", &port]), "PostgreSQL does not start: {}", self.log());
    }

    /// What the server wrote into its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// The folder with its data.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The folder of its Unix socket.
    pub fn socket(&self) -> &Path {
        &self.folder
    }

    /// Its port, on 127.0.0.1 and as part of the socket's name.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The password of the superuser `postgres`.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// A client of the superuser, over the Unix socket.
    ///
    /// # Panics
    /// When it cannot connect.
    pub async fn client(&self, database: &str) -> Client {
        let mut config = Config::new();
        config.host_path(&self.folder).port(self.port).user("postgres").password(&self.password).dbname(database);
        let (client, connection) = config.connect(NoTls).await.expect("a running server");
        tokio::spawn(connection);
        client
    }

    /// A new database.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn database(&self) -> Database {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let client = self.client("postgres").await;
        client.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a new name");
        Database { client: self.client(&name).await, name }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.guardian.stdin.take());
        // It stops the server and removes the folder; a failure leaves both behind and nothing to do.
        let _ = self.guardian.wait();
    }
}

fn command(program: &Path, folder: &Path, account: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).env("LC_ALL", "C.UTF-8");
    if let Some((user, group)) = account {
        command.uid(user).gid(group);
    }
    command
}

/// A shell that outlives us: when our end of its input closes, because we are done or dead, it cleans up.
fn guard(folder: &Path, bin: &Path, account: Option<(u32, u32)>) -> Child {
    const SCRIPT: &str =
        "cat >/dev/null; \"$1/pg_ctl\" -D \"$2/data\" -w -m immediate stop >/dev/null 2>&1; rm -rf \"$2\"";
    let mut shell = command(Path::new("/bin/sh"), Path::new("/"), account);
    shell.args(["-c", SCRIPT, "sh"]).arg(bin).arg(folder).process_group(0);
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    shell.spawn().expect("a shell")
}

pub(crate) fn account(name: &str) -> (u32, u32) {
    let accounts = fs::read_to_string("/etc/passwd").expect("the accounts of this machine");
    let numbers = accounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        match fields.as_slice() {
            [found, _, user, group, ..] if *found == name => Some((user.parse().ok()?, group.parse().ok()?)),
            _ => None,
        }
    });
    numbers.unwrap_or_else(|| panic!("there is no account `{name}`: run .ci/install as root"))
}
