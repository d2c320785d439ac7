//! What `tls`, `tls_ca`, `tls_cert` and `tls_key` mean to the client, which reads files alone.

use std::io::Write;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ingest_core::config::Tls;
use ingest_core::{Error, Result};
use mongodb::options::TlsOptions;
use tempfile::NamedTempFile;

use crate::config::Settings;

/// The client's side of TLS, and the files that it is made of, which nobody else may read.
#[derive(Default)]
pub(crate) struct Files {
    pub(crate) options: Option<TlsOptions>,
    _kept: Vec<NamedTempFile>,
}

impl Files {
    /// Reads certificates, and writes what the client needs into a folder of our own.
    ///
    /// # Errors
    /// `ConfigInvalid` that names the key whose text or file cannot be used.
    pub(crate) fn new(settings: &Settings, folder: &Path) -> Result<Self> {
        let Some(tls) = settings.protection else { return Ok(Self::default()) };
        let (config, mut kept) = (&settings.config, Vec::new());
        let mut options = match &settings.uri.tls {
            Some(mongodb::options::Tls::Enabled(options)) => options.clone(),
            _ => TlsOptions::default(),
        };
        if tls == Tls::Require {
            tracing::warn!("the server's certificate is not checked: `tls` is `require`");
            options.allow_invalid_certificates = Some(true);
        }
        let authorities = match (&config.tls_ca, &options.ca_file_path) {
            (Some(authorities), _) => Some(expect("CERTIFICATE", &pem(authorities, "tls_ca")?, "tls_ca")?),
            (None, None) if tls != Tls::Require => Some(system()?),
            (None, _) => None,
        };
        if let Some(authorities) = authorities {
            let file = written(&authorities, folder)?;
            options.ca_file_path = Some(file.path().to_owned());
            kept.push(file);
        }
        if let (Some(certificate), Some(key)) = (&config.tls_cert, &config.tls_key) {
            let certificate = expect("CERTIFICATE", &pem(certificate, "tls_cert")?, "tls_cert")?;
            let key = expect("PRIVATE KEY", &pem(key.expose(), "tls_key")?, "tls_key")?;
            let file = written(&format!("{certificate}\n{key}\n"), folder)?;
            options.cert_key_file_path = Some(file.path().to_owned());
            kept.push(file);
        }
        Ok(Self { options: Some(options), _kept: kept })
    }
}

/// PEM text as it is, anything else as the path of a file.
fn pem(value: &str, key: &str) -> Result<String> {
    if value.trim_start().starts_with("-----BEGIN") {
        return Ok(value.to_owned());
    }
    // A key that is not PEM must not appear in a message as if it were a path.
    std::fs::read_to_string(value).map_err(|e| {
        Error::config(format!("{key} is neither PEM text nor a readable file")).hint("see the path").caused_by(e)
    })
}

fn expect(what: &str, text: &str, key: &str) -> Result<String> {
    let begins =
        text.lines().any(|line| line.starts_with("-----BEGIN") && line.trim_end().ends_with(&format!("{what}-----")));
    match begins {
        true => Ok(text.to_owned()),
        false => Err(Error::config(format!("{key} holds no {} in PEM form", what.to_lowercase()))),
    }
}

/// The authorities of the operating system.
fn system() -> Result<String> {
    use std::fmt::Write;
    let mut text = String::new();
    for certificate in rustls_native_certs::load_native_certs().certs {
        // Writing to a String cannot fail.
        let _ = write!(text, "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines(&certificate));
    }
    if text.is_empty() {
        return Err(Error::config("the operating system has no trusted certificate authorities")
            .hint("set `tls_ca` to the certificate of the server's authority"));
    }
    Ok(text)
}

fn lines(bytes: &[u8]) -> String {
    let parts: Vec<String> = bytes.chunks(48).map(|part| BASE64_STANDARD.encode(part)).collect();
    parts.join("\n")
}

fn written(text: &str, folder: &Path) -> Result<NamedTempFile> {
    let write = || {
        let mut file = NamedTempFile::with_prefix_in("mongodb-", folder)?;
        file.write_all(text.as_bytes())?;
        file.flush()?;
        Ok::<_, std::io::Error>(file)
    };
    write().map_err(|e| Error::unexpected("cannot write certificates into a temporary file").caused_by(e))
}
