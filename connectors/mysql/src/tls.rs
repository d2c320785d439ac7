//! What `tls`, `tls_ca`, `tls_cert` and `tls_key` mean to the client.

use std::path::PathBuf;

use ingest_core::config::Tls;
use ingest_core::{Error, Result};
use mysql_async::{ClientIdentity, SslOpts};
use rustls::CertificateError;

use crate::config::MysqlConfig;

/// Makes the client's options. Only the authorities that were named, or those of the operating system, are trusted; the
/// list that is built into the client is not.
pub(crate) fn options(config: &MysqlConfig, tls: Tls) -> Result<SslOpts> {
    // The client takes the process's provider, and panics where two are linked in and none was chosen. A second choice
    // fails, and the first one stays.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut options = SslOpts::default().with_disable_built_in_roots(true);
    match tls {
        Tls::VerifyFull => {}
        Tls::VerifyCa => options = options.with_danger_skip_domain_validation(true),
        Tls::Require | Tls::DangerPlaintext => {
            tracing::warn!("the server's certificate is not checked: `tls` is `require`");
            options = options.with_danger_skip_domain_validation(true).with_danger_accept_invalid_certs(true);
        }
    }
    let authorities: Vec<Vec<u8>> = match &config.tls_ca {
        Some(authority) => vec![pem(authority, "tls_ca")?],
        None => rustls_native_certs::load_native_certs().certs.iter().map(|der| der.as_ref().to_vec()).collect(),
    };
    if authorities.is_empty() {
        return Err(Error::config("the operating system has no trusted certificate authorities")
            .hint("set `tls_ca` to the certificate of the server's authority"));
    }
    options = options.with_root_certs(authorities.into_iter().map(Into::into).collect());
    if let (Some(certificate), Some(key)) = (&config.tls_cert, &config.tls_key) {
        let (certificate, key) = (pem(certificate, "tls_cert")?, pem(key.expose(), "tls_key")?);
        options = options.with_client_identity(Some(ClientIdentity::new(certificate.into(), key.into())));
    }
    Ok(options)
}

/// A name that the certificate is good for, where only the name was wrong: with it, `verify-ca` checks all but the name. The
/// client's own switch for that overlooks how rustls says it today.
pub(crate) fn presented(error: &mysql_async::Error) -> Option<String> {
    let mysql_async::Error::Io(mysql_async::IoError::Io(cause)) = error else { return None };
    match cause.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) => {
            presented.iter().find_map(|name| name_of(name))
        }
        _ => None,
    }
}

/// Reads `DnsName("*.example.com")` and `IpAddress(127.0.0.1)`; a wildcard stands for any name.
fn name_of(presented: &str) -> Option<String> {
    let inner = presented.split_once('(')?.1.strip_suffix(')')?;
    let name = inner.trim_matches('"');
    Some(name.strip_prefix("*.").map_or_else(|| name.to_owned(), |rest| format!("any.{rest}")))
}

/// PEM text as it is, anything else as the path of a file. Read once, before anything connects.
fn pem(value: &str, key: &str) -> Result<Vec<u8>> {
    let text = if value.trim_start().starts_with("-----BEGIN") {
        value.as_bytes().to_vec()
    } else {
        // A key that is not PEM must not appear in a message as if it were a path.
        std::fs::read(PathBuf::from(value)).map_err(|e| {
            Error::config(format!("{key} is neither PEM text nor a readable file")).hint("see the path").caused_by(e)
        })?
    };
    if !String::from_utf8_lossy(&text).contains("-----BEGIN") {
        return Err(Error::config(format!("{key} holds nothing in PEM form")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_certificates_are_read() {
        assert_eq!(name_of("DnsName(\"db.example.com\")").as_deref(), Some("db.example.com"));
        assert_eq!(name_of("DnsName(\"*.example.com\")").as_deref(), Some("any.example.com"));
        assert_eq!(name_of("IpAddress(127.0.0.1)").as_deref(), Some("127.0.0.1"));
        assert_eq!(name_of("Unsupported"), None);
    }
}
