//! Signed statements (JWT, RFC 7519) that are exchanged for a token (RFC 7523), signed with RSA and SHA-256 (RS256).

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ingest_core::{Error, Result, Secret};
use rustls::SignatureScheme;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::SigningKey;
use serde::Serialize;

use crate::Grant;

/// What a statement says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Who says it: the client.
    pub issuer: String,
    /// For whom it acts: the user.
    pub subject: String,
    /// Who is to believe it: the authorisation server.
    pub audience: String,
    /// Seconds for which it holds.
    pub lifetime: i64,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    exp: i64,
}

impl Statement {
    /// The grant that exchanges this statement, signed anew each time, for a token. `key` is an RSA key in PEM (PKCS#1 or
    /// PKCS#8, without a passphrase).
    ///
    /// # Errors
    /// `ConfigInvalid` when the key is none.
    pub fn grant(self, key: &Secret) -> Result<Grant> {
        let key = rsa(key)?;
        Ok(Grant::JwtBearer(Arc::new(move |now| self.signed(key.as_ref(), now))))
    }

    fn signed(&self, key: &dyn SigningKey, now: i64) -> Result<Secret> {
        let claims = Claims { iss: &self.issuer, sub: &self.subject, aud: &self.audience, exp: now + self.lifetime };
        let claims = serde_json::to_vec(&claims).map_err(|_| Error::unexpected("cannot write claims as JSON"))?;
        let mut text = format!("{}.{}", BASE64.encode(br#"{"alg":"RS256","typ":"JWT"}"#), BASE64.encode(claims));
        let signer = key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]).ok_or_else(not_rsa)?;
        let signature =
            signer.sign(text.as_bytes()).map_err(|_| Error::config("the private key cannot sign a statement"))?;
        text.push('.');
        text.push_str(&BASE64.encode(signature));
        Ok(Secret::new(text))
    }
}

fn rsa(pem: &Secret) -> Result<Arc<dyn SigningKey>> {
    // The library's error could quote the key.
    let der = PrivateKeyDer::from_pem_slice(pem.expose().as_bytes()).map_err(|_| not_rsa())?;
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).map_err(|_| not_rsa())?;
    match key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]) {
        Some(_) => Ok(key),
        None => Err(not_rsa()),
    }
}

fn not_rsa() -> Error {
    Error::config("the private key is not an RSA key in PEM (it is not shown)")
        .hint("write the text of the file, e.g. `${file:/run/secrets/key.pem}`; it must have no passphrase")
}
