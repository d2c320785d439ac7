//! The connection pool: certificates, proxies, names.

use ingest_core::config::Tls;
use ingest_core::{Error, Result};
use reqwest::{Certificate, Client, ClientBuilder, Identity};

use crate::classify::without_url;
use crate::hosts::Hosts;
use crate::{ClientConfig, TlsOptions};

const USER_AGENT: &str = concat!("ingest/", env!("CARGO_PKG_VERSION"));

/// Builds the pool: redirects, retries and unpacking are ours, cookies there are none.
pub(crate) fn build(config: &ClientConfig, hosts: &Hosts) -> Result<Client> {
    let builder = Client::builder()
        .user_agent(USER_AGENT)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_gzip()
        .connect_timeout(config.timeouts.connect)
        .tcp_nodelay(true)
        .pool_max_idle_per_host(config.in_flight.max(1))
        .dns_resolver(hosts.resolver());
    // A proxy of the environment is for the world outside.
    let builder = if hosts.endpoint_is_local() { builder.no_proxy() } else { builder };
    let builder = tls(builder, &config.tls, hosts)?;
    builder.build().map_err(|error| {
        Error::config("cannot set up the HTTP client")
            .hint("check `tls_ca`, `tls_cert`, `tls_key` and the certificates of the system")
            .caused_by(without_url(error))
    })
}

fn tls(builder: ClientBuilder, options: &TlsOptions, hosts: &Hosts) -> Result<ClientBuilder> {
    let mut builder = match &options.ca {
        Some(ca) => {
            let pem = pem("tls_ca", ca)?;
            let certificates = Certificate::from_pem_bundle(pem.as_bytes()).unwrap_or_default();
            if certificates.is_empty() {
                return Err(Error::config("`tls_ca` holds no PEM certificate"));
            }
            builder.tls_certs_only(certificates)
        }
        // Reading the system's certificates takes longer than a small job: not where nothing is encrypted.
        None if !hosts.needs_tls() => builder.tls_certs_only([]),
        None => builder,
    };
    match options.mode {
        None | Some(Tls::VerifyFull | Tls::DangerPlaintext) => {}
        Some(Tls::VerifyCa) if options.ca.is_none() => {
            return Err(Error::config(
                "`tls: verify-ca` needs `tls_ca`: the authorities of the system vouch for anyone",
            )
            .hint("name the certificate of your authority in `tls_ca`"));
        }
        Some(Tls::VerifyCa) => builder = builder.tls_danger_accept_invalid_hostnames(true),
        Some(Tls::Require) => {
            tracing::warn!("`tls: require` does not check who the server is");
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
    }
    match (&options.cert, &options.key) {
        (None, None) => Ok(builder),
        (Some(cert), Some(key)) => {
            let both = format!("{}\n{}", pem("tls_cert", cert)?, pem("tls_key", key.expose())?);
            // The cause could quote the key.
            let identity = Identity::from_pem(both.as_bytes())
                .map_err(|_| Error::config("`tls_cert` and `tls_key` are not a PEM certificate and its private key"))?;
            Ok(builder.identity(identity))
        }
        _ => Err(Error::config("`tls_cert` and `tls_key` belong together")),
    }
}

/// PEM text as it is, or the file that the text names.
fn pem(field: &'static str, value: &str) -> Result<String> {
    if value.contains("-----BEGIN") {
        return Ok(value.to_owned());
    }
    std::fs::read_to_string(value).map_err(|error| {
        Error::config("cannot read a PEM file")
            .with("field", field)
            .hint("write a path or the PEM text")
            .caused_by(error)
    })
}
