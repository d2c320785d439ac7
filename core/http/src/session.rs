//! A token in use, for a protocol of the same service that is not HTTP as this client speaks it: gRPC.

use ingest_core::{Error, Result, Secret};
use url::Url;

use crate::HttpClient;
use crate::auth::Credentials;
use crate::oauth::Token;

/// A token in use, of a client that signs in by OAuth.
#[derive(Clone)]
pub struct Session(Token);

impl Session {
    /// The token itself. It goes to the service that it is for, and nowhere else.
    ///
    /// # Errors
    /// `Unexpected` for a token that is no text, which no header gives.
    pub fn token(&self) -> Result<Secret> {
        let (_, value) = &self.0.header;
        let text = value.to_str().map_err(|_| Error::unexpected("a token is no text"))?;
        Ok(Secret::new(text.strip_prefix("Bearer ").unwrap_or(text)))
    }

    /// The base URL of the API, where the token endpoint named it.
    pub fn api(&self) -> Option<&Url> {
        self.0.api.as_ref()
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl HttpClient {
    /// The session of the moment; a new one where `refused` is the one that a service has just refused.
    ///
    /// # Errors
    /// As [`Request::send`](crate::Request::send) of a token; `Unexpected` for a client that does not sign in by OAuth.
    pub async fn session(&self, refused: Option<&Session>) -> Result<Session> {
        let Credentials::OAuth(tokens) = &self.0.credentials else {
            return Err(Error::unexpected("a client without OAuth has no session"));
        };
        match refused {
            None => tokens.current(self).await.map(Session),
            Some(Session(token)) => tokens.renew(self, token).await.map(Session),
        }
    }
}
