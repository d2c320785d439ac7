//! An OpenSSH server for tests of SFTP, the genuine one, on a free port of loopback.
//!
//! It serves the account `ingest-test`, which `.ci/install` makes: a server that checks passwords runs as root and knows
//! accounts of the machine alone. The account has no shell and no home; its password is random and lies in a file beside
//! the other things that tests need.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::process::{Server, free_port};
use crate::programs;

/// The account that file servers of tests serve.
pub const USER: &str = "ingest-test";

/// The password of [`USER`].
///
/// # Panics
/// When `.ci/install` has not made the account.
pub fn password() -> String {
    let file = programs::home().join("account");
    let text = fs::read_to_string(&file)
        .unwrap_or_else(|e| panic!("{}: {e}: run .ci/install as root, or skip sshd and vsftpd", file.display()));
    text.trim().to_owned()
}

/// A folder that a server serves. Its files belong to [`USER`].
pub struct Folder {
    dir: TempDir,
}

impl Folder {
    /// An empty folder.
    ///
    /// # Panics
    /// When it cannot be made.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("ingest-served-").tempdir().expect("a temporary folder");
        give_away(dir.path(), 0o755);
        Self { dir }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file, with the folders that it lies in. Its time is long past, so that it counts as settled.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let full = self.dir.path().join(path);
        let parent = full.parent().expect("a file lies in a folder");
        let missing: Vec<&Path> = parent.ancestors().take_while(|folder| !folder.exists()).collect();
        for folder in missing.into_iter().rev() {
            fs::create_dir(folder).expect("a folder");
            give_away(folder, 0o755);
        }
        fs::write(&full, content).expect("a file");
        give_away(&full, 0o644);
        self.touch(path, 1_700_000_000);
        full
    }

    /// Sets the time of a file, seconds since 1970.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn touch(&self, path: &str, seconds: u64) {
        let file = fs::File::options().write(true).open(self.dir.path().join(path)).expect("a file");
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).expect("a time");
    }
}

fn give_away(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
    let (user, group) = account();
    chown(path, Some(user), Some(group)).expect("tests of file servers run as root");
}

/// The numbers of [`USER`].
fn account() -> (u32, u32) {
    crate::postgres::account(USER)
}

/// A running server.
pub struct Sshd {
    folder: TempDir,
    port: u16,
    server: Server,
}

impl Sshd {
    /// Starts a server; `None` when `INGEST_TEST_SKIP` names `sshd`. `settings`: further lines of `sshd_config`.
    ///
    /// # Panics
    /// When OpenSSH is not installed or does not start.
    pub async fn start(settings: &[&str]) -> Option<Self> {
        let program = programs::find("sshd", &["/usr/sbin/sshd".into()])?;
        let keygen = programs::find("sshd", &["ssh-keygen".into()])?;
        let folder = tempfile::Builder::new().prefix("ingest-sshd-").tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("our own folder");
        // sshd refuses to start without the folder that it leaves privileges in.
        fs::create_dir_all("/run/sshd").expect("tests of file servers run as root");
        for (name, kind) in [("host", "ed25519"), ("host_ecdsa", "ecdsa"), ("other", "ed25519"), ("client", "ed25519")]
        {
            key(&keygen, &folder.path().join(name), kind, "");
        }
        key(&keygen, &folder.path().join("locked"), "ed25519", "open sesame");
        let public = |name: &str| fs::read_to_string(folder.path().join(name)).expect("a public key");
        let authorized = folder.path().join("authorized");
        fs::write(&authorized, public("client.pub") + &public("locked.pub")).expect("a file");
        fs::set_permissions(&authorized, fs::Permissions::from_mode(0o644)).expect("our own file");
        let port = free_port();
        let config = folder.path().join("sshd_config");
        let own = folder.path().display();
        let mut text = settings.iter().map(|line| format!("{line}\n")).collect::<String>();
        text.push_str(&format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {own}/host\nHostKey {own}/host_ecdsa\nPidFile {own}/pid\n\
             AuthorizedKeysFile {own}/authorized\nStrictModes no\nUsePAM no\nUseDNS no\nPermitRootLogin no\n\
             PasswordAuthentication yes\nKbdInteractiveAuthentication no\nMaxStartups 100\nMaxSessions 100\n\
             Subsystem sftp internal-sftp\nMatch User {USER}\nForceCommand internal-sftp\n"
        ));
        fs::write(&config, text).expect("a file");
        let mut command = Command::new(&program);
        command.arg("-D").arg("-e").arg("-f").arg(&config);
        let server = Server::start("sshd", command);
        server.ready(async || greeting(port).await.is_some_and(|text| text.starts_with("SSH-2.0"))).await;
        Some(Self { folder, port, server })
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A file with the right host keys for `127.0.0.1` and this port, in the form of `known_hosts`.
    pub fn known_hosts(&self) -> PathBuf {
        self.known_hosts_for(self.port, "host.pub")
    }

    /// The same with a key that is not the server's.
    pub fn wrong_known_hosts(&self) -> PathBuf {
        self.known_hosts_for(self.port, "other.pub")
    }

    /// The right key for another port: that of a proxy before the server.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn known_hosts_at(&self, port: u16) -> PathBuf {
        self.known_hosts_for(port, "host.pub")
    }

    fn known_hosts_for(&self, port: u16, key: &str) -> PathBuf {
        let file = self.folder.path().join(format!("known_hosts_{port}_{key}"));
        let text = fs::read_to_string(self.folder.path().join(key)).expect("a public key");
        fs::write(&file, format!("[127.0.0.1]:{port} {text}")).expect("a file");
        file
    }

    /// The fingerprint of its Ed25519 key, as `ssh-keygen -lf` prints it.
    ///
    /// # Panics
    /// When `ssh-keygen` fails.
    pub fn fingerprint(&self) -> String {
        let file = self.folder.path().join("host.pub");
        let output = Command::new("ssh-keygen").arg("-lf").arg(file).output().expect("ssh-keygen runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_whitespace().nth(1).expect("a fingerprint").to_owned()
    }

    /// A private key that the account may log in with.
    pub fn private_key(&self) -> String {
        fs::read_to_string(self.folder.path().join("client")).expect("a private key")
    }

    /// Another one, encrypted, and its passphrase.
    pub fn locked_key(&self) -> (String, &'static str) {
        (fs::read_to_string(self.folder.path().join("locked")).expect("a private key"), "open sesame")
    }

    /// A private key that nobody knows.
    pub fn foreign_key(&self) -> String {
        fs::read_to_string(self.folder.path().join("other")).expect("a private key")
    }

    /// The file of the private key, for an agent.
    pub fn private_key_file(&self) -> PathBuf {
        self.folder.path().join("client")
    }

    /// What the server printed.
    pub fn log(&self) -> String {
        self.server.log()
    }
}

fn key(keygen: &Path, file: &Path, kind: &str, passphrase: &str) {
    let output = Command::new(keygen)
        .args(["-q", "-t", kind, "-N", passphrase, "-C", "test", "-f"])
        .arg(file)
        .output()
        .expect("ssh-keygen runs");
    assert!(output.status.success(), "ssh-keygen fails: {}", String::from_utf8_lossy(&output.stderr));
}

/// The first bytes that a server says by itself.
pub(crate) async fn greeting(port: u16) -> Option<String> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let mut head = [0; 64];
    let count = socket.read(&mut head).await.ok()?;
    Some(String::from_utf8_lossy(head.get(..count)?).into_owned())
}
