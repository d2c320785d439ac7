//! TLS by rustls for connectors that speak a protocol of their own: what `tls`, `tls_ca`, `tls_cert` and `tls_key` mean.

#![deny(missing_docs)]

use std::sync::Arc;

use ingest_core::config::Tls;
use ingest_core::{Error, Result, Secret};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// What a configuration says about TLS beside how strict it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Material<'a> {
    /// `tls_ca`: authorities to trust in place of the operating system's, as PEM text or the path of a PEM file.
    pub ca: Option<&'a str>,
    /// `tls_cert`: a certificate to show, likewise.
    pub certificate: Option<&'a str>,
    /// `tls_key`: its private key.
    pub key: Option<&'a Secret>,
    /// TLS 1.2 alone, for servers that get 1.3 wrong.
    pub only_tls12: bool,
}

/// Makes the client side of TLS. Files are read here, once, before anything connects.
///
/// # Errors
/// `ConfigInvalid` that names the key whose text or file cannot be used.
pub fn client(tls: Tls, material: &Material<'_>) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions: &[&SupportedProtocolVersion] = match material.only_tls12 {
        true => &[&rustls::version::TLS12],
        false => rustls::DEFAULT_VERSIONS,
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(|e| Error::unexpected("cannot set up TLS").caused_by(e))?;
    let lenient = |authorities| Arc::new(Lenient { authorities, provider: Arc::clone(&provider) });
    let builder = match tls {
        Tls::VerifyFull => builder.with_root_certificates(roots(material.ca)?),
        Tls::VerifyCa => {
            let authorities =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots(material.ca)?), provider.clone())
                    .build()
                    .map_err(|e| Error::config("tls_ca holds no usable certificate").caused_by(e))?;
            builder.dangerous().with_custom_certificate_verifier(lenient(Some(authorities)))
        }
        Tls::Require | Tls::DangerPlaintext => {
            tracing::warn!("the server's certificate is not checked: `tls` is `require`");
            builder.dangerous().with_custom_certificate_verifier(lenient(None))
        }
    };
    match (material.certificate, material.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate, "tls_cert")?;
            let key = PrivateKeyDer::from_pem_slice(&pem(key.expose(), "tls_key")?)
                .map_err(|_| Error::config("tls_key holds no private key in PEM form"))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| Error::config("tls_cert and tls_key do not belong together").caused_by(e))
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

/// PEM text as it is, anything else as the path of a file.
fn pem(value: &str, key: &str) -> Result<Vec<u8>> {
    if value.trim_start().starts_with("-----BEGIN") {
        return Ok(value.as_bytes().to_vec());
    }
    // A key that is not PEM must not appear in a message as if it were a path.
    std::fs::read(value).map_err(|e| {
        Error::config(format!("{key} is neither PEM text nor a readable file")).hint("see the path").caused_by(e)
    })
}

fn certificates(value: &str, key: &str) -> Result<Vec<CertificateDer<'static>>> {
    let invalid = || Error::config(format!("{key} holds no certificate in PEM form"));
    let text = pem(value, key)?;
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&text).collect::<std::result::Result<_, _>>().map_err(|_| invalid())?;
    if chain.is_empty() { Err(invalid()) } else { Ok(chain) }
}

fn roots(ca: Option<&str>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(authority) => {
            for certificate in certificates(authority, "tls_ca")? {
                roots
                    .add(certificate)
                    .map_err(|e| Error::config("tls_ca holds a certificate that cannot be used").caused_by(e))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(Error::config("the operating system has no trusted certificate authorities")
                    .hint("set `tls_ca` to the certificate of the server's authority"));
            }
        }
    }
    Ok(roots)
}

/// Less than the whole check of a certificate. A connection is encrypted all the same, by whoever holds its key.
#[derive(Debug)]
struct Lenient {
    /// `verify-ca`: one of these authorities has signed, the name does not matter. `require`: nothing is asked.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let Some(authorities) = &self.authorities else { return Ok(ServerCertVerified::assertion()) };
        // The verifier looks at the name last, so a wrong one means that all else is right.
        match authorities.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
