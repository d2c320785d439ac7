//! Certificates for tests: an authority that exists for one test, and servers with good and bad certificates of it.
//!
//! ```
//! let authority = ingest_testkit::certificates::Authority::new();
//! let config = authority.server(&["localhost"]);
//! # let _ = config;
//! assert!(authority.pem().starts_with("-----BEGIN CERTIFICATE-----"));
//! ```

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _,
    date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// A certificate and its key, as PEM texts.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS#8.
    pub key: String,
}

/// A new RSA key in PEM, and its public half as it stands in a certificate, to check what the key has signed.
///
/// # Panics
/// When the machine has no randomness.
pub fn rsa_key() -> (String, Vec<u8>) {
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key pair");
    (key.serialize_pem(), key.der_bytes().to_vec())
}

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

impl Authority {
    /// Makes a new authority.
    ///
    /// # Panics
    /// When the machine has no randomness.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key pair");
        let mut params = CertificateParams::new(Vec::new()).expect("no names to refuse");
        params.distinguished_name.push(DnType::CommonName, "ingest test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).expect("a self-signed certificate");
        Self { der: certificate.der().clone(), pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    /// Its certificate as PEM text: what a client is told to trust (`tls_ca`).
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A server whose certificate is good for these names.
    pub fn server(&self, names: &[&str]) -> Arc<ServerConfig> {
        self.configured(&self.issue(names, false), false)
    }

    /// A server whose certificate ended in 2021.
    pub fn expired_server(&self, names: &[&str]) -> Arc<ServerConfig> {
        self.configured(&self.issue(names, true), false)
    }

    /// A server that asks the client for a certificate of this authority.
    pub fn mutual_server(&self, names: &[&str]) -> Arc<ServerConfig> {
        self.configured(&self.issue(names, false), true)
    }

    /// A client certificate of this authority.
    pub fn client(&self) -> Identity {
        self.identity(&["client.test"])
    }

    /// A certificate of this authority as PEM texts, for servers that are not in this process.
    pub fn identity(&self, names: &[&str]) -> Identity {
        let (certificate, key) = self.issue(names, false);
        Identity { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    fn issue(&self, names: &[&str], expired: bool) -> (rcgen::Certificate, KeyPair) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("valid host names");
        if expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().expect("a key pair");
        let certificate = params.signed_by(&key, &self.issuer).expect("a signed certificate");
        (certificate, key)
    }

    fn configured(&self, identity: &(rcgen::Certificate, KeyPair), mutual: bool) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions");
        let builder = if mutual {
            let mut roots = RootCertStore::empty();
            roots.add(self.der.clone()).expect("our own certificate");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .expect("one trusted authority");
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.1.serialize_der()));
        Arc::new(
            builder.with_single_cert(vec![identity.0.der().clone()], key).expect("certificate and key belong together"),
        )
    }
}
