//! FTP servers for tests, the genuine ones, on free ports of loopback.
//!
//! | server | what it is good for |
//! | --- | --- |
//! | [`Ftp::vsftpd`] | TLS whose sessions must be continued for data; knows no `MLSD` |
//! | [`Ftp::pyftpdlib`] | `MLSD`, implicit TLS, plain FTP, no account of the machine |

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::certificates::Authority;
use crate::process::{Server, free_port};
use crate::sshd::{USER, greeting};
use crate::{programs, python};

/// How a server protects what is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Not at all.
    Plain,
    /// TLS after `AUTH TLS`, and nothing without.
    Explicit,
    /// TLS from the first byte.
    Implicit,
}

/// A running server.
pub struct Ftp {
    port: u16,
    authority: Authority,
    server: Server,
    _folder: TempDir,
}

impl Ftp {
    /// vsftpd, with explicit TLS for everything; connections for data must continue the session of the one for commands.
    /// It serves the whole machine to the account [`USER`], as far as the account may see it. `None` when
    /// `INGEST_TEST_SKIP` names `vsftpd`.
    ///
    /// # Panics
    /// When vsftpd is not installed or does not start.
    pub async fn vsftpd(settings: &[&str]) -> Option<Self> {
        let program = programs::find("vsftpd", &["/usr/sbin/vsftpd".into()])?;
        let (folder, authority) = prepared();
        let port = free_port();
        let own = folder.path().display();
        let mut text = format!(
            "listen=YES\nlisten_address=127.0.0.1\nlisten_port={port}\nbackground=NO\nanonymous_enable=NO\n\
             local_enable=YES\nwrite_enable=YES\nchroot_local_user=NO\nseccomp_sandbox=NO\npasv_address=127.0.0.1\n\
             connect_from_port_20=NO\nxferlog_enable=NO\nssl_enable=YES\nforce_local_logins_ssl=YES\n\
             force_local_data_ssl=YES\nrequire_ssl_reuse=YES\nssl_ciphers=HIGH\nrsa_cert_file={own}/cert.pem\n\
             rsa_private_key_file={own}/key.pem\nsecure_chroot_dir={own}/empty\npam_service_name={USER}\n\
             max_per_ip=200\nmax_clients=200\ncheck_shell=NO\n"
        );
        settings.iter().for_each(|line| text.push_str(&format!("{line}\n")));
        let config = folder.path().join("vsftpd.conf");
        fs::write(&config, text).expect("a file");
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).expect("our own file");
        let mut command = Command::new(program);
        command.arg(&config);
        let server = Server::start("vsftpd", command);
        server.ready(async || greeting(port).await.is_some_and(|text| text.starts_with("220"))).await;
        Some(Self { port, authority, server, _folder: folder })
    }

    /// pyftpdlib, which serves `root` to [`USER`] with `password`. `None` when `INGEST_TEST_SKIP` names `pyftpdlib`.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    pub async fn pyftpdlib(root: &Path, password: &str, protection: Protection) -> Option<Self> {
        let program = python::program("pyftpdlib")?;
        let (folder, authority) = prepared();
        let mut command = Command::new(program);
        let kind = match protection {
            Protection::Plain => "plain",
            Protection::Explicit => "explicit",
            Protection::Implicit => "implicit",
        };
        command.args(["-u", "-c", include_str!("python/ftp_server.py"), kind]).arg(root).arg(folder.path());
        command.args([USER, password]);
        let (server, port) = Server::start_announced("pyftpdlib", command, "listening on ").await;
        let port = port.parse().expect("a port");
        Some(Self { port, authority, server, _folder: folder })
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The authority that its certificate for `localhost` and `127.0.0.1` is of, as PEM text.
    pub fn authority(&self) -> &str {
        self.authority.pem()
    }

    /// What the server printed.
    pub fn log(&self) -> String {
        self.server.log()
    }
}

/// A folder with a certificate and its key.
fn prepared() -> (TempDir, Authority) {
    let folder = tempfile::Builder::new().prefix("ingest-ftp-").tempdir().expect("a temporary folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("our own folder");
    fs::create_dir(folder.path().join("empty")).expect("a folder");
    let authority = Authority::new();
    let identity = authority.identity(&["localhost", "127.0.0.1"]);
    fs::write(folder.path().join("cert.pem"), &identity.certificate).expect("a file");
    fs::write(folder.path().join("key.pem"), &identity.key).expect("a file");
    fs::write(folder.path().join("both.pem"), identity.certificate + &identity.key).expect("a file");
    (folder, authority)
}
