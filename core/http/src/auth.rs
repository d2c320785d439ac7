//! How requests prove who we are.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use ingest_core::{Error, Result, Secret};
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};

use crate::OAuth;

/// How requests prove who we are. Credentials go to the endpoint and to hosts that are listed for it, nowhere else.
#[derive(Clone, Default)]
pub enum Auth {
    /// Not at all.
    #[default]
    None,
    /// `Authorization: Bearer …`.
    Bearer(Secret),
    /// `Authorization: Basic …`.
    Basic {
        /// The user; some APIs put the key here.
        user: Secret,
        /// The password; empty for those.
        password: Secret,
    },
    /// A header of the API's own, e.g. `X-Shopify-Access-Token`.
    Header {
        /// Its name.
        name: String,
        /// Its value.
        value: Secret,
    },
    /// A query parameter. Such URLs appear in logs of servers and proxies: only where an API knows nothing better.
    Query {
        /// Its name.
        name: String,
        /// Its value.
        value: Secret,
    },
    /// A token that expires and is fetched anew.
    OAuth(Box<OAuth>),
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Bearer(_) => "Bearer(***)",
            Self::Basic { .. } => "Basic(***)",
            Self::Header { .. } => "Header(***)",
            Self::Query { .. } => "Query(***)",
            Self::OAuth(_) => "OAuth(***)",
        })
    }
}

/// Credentials ready to be attached.
pub(crate) enum Credentials {
    None,
    Header(HeaderName, HeaderValue),
    Query(String, Secret),
    OAuth(crate::oauth::Tokens),
}

impl Credentials {
    pub(crate) fn new(auth: Auth) -> Result<Self> {
        Ok(match auth {
            Auth::None => Self::None,
            Auth::Bearer(secret) => Self::Header(AUTHORIZATION, bearer(&secret)?),
            Auth::Basic { user, password } => {
                let pair = format!("{}:{}", user.expose(), password.expose());
                Self::Header(AUTHORIZATION, sensitive(&format!("Basic {}", BASE64.encode(pair)))?)
            }
            Auth::Header { name, value } => {
                let name = HeaderName::try_from(name)
                    .map_err(|_| Error::unexpected("the name of the credential header is not a header name"))?;
                Self::Header(name, sensitive(value.expose())?)
            }
            Auth::Query { name, value } => Self::Query(name, value),
            Auth::OAuth(oauth) => Self::OAuth(crate::oauth::Tokens::new(*oauth)?),
        })
    }
}

/// The value of `Authorization` for a token.
///
/// # Errors
/// `ConfigInvalid` when the token holds characters that no header can carry.
pub(crate) fn bearer(token: &Secret) -> Result<HeaderValue> {
    sensitive(&format!("Bearer {}", token.expose()))
}

/// A header value that no log shows.
pub(crate) fn sensitive(text: &str) -> Result<HeaderValue> {
    // The library's error would be harmless, but a value must not even be near an error.
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        Error::config("a credential holds characters that a header cannot carry (it is not shown)")
            .hint("look for a line break at its end, e.g. from a file")
    })?;
    value.set_sensitive(true);
    Ok(value)
}
