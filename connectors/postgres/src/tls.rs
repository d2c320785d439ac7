//! TLS as the configuration describes it.

use std::sync::Arc;

use ingest_core::Result;
use ingest_core::config::Tls;
use ingest_tls::Material;
use rustls::ClientConfig;

use crate::config::PostgresConfig;

/// Makes the client side of TLS. Files are read here, once, before anything connects.
pub(crate) fn client(config: &PostgresConfig, tls: Tls) -> Result<Arc<ClientConfig>> {
    let material = Material {
        ca: config.tls_ca.as_deref(),
        certificate: config.tls_cert.as_deref(),
        key: config.tls_key.as_ref(),
        ..Material::default()
    };
    ingest_tls::client(tls, &material).map(Arc::new)
}
