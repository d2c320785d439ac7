//! The only HTTP client of `ingest`: a connector says what to ask for, this crate sees to it that nothing else happens.
//!
//! ```no_run
//! use ingest_core::json::{Decoder, PageShape};
//! use ingest_http::{Auth, ClientConfig, HttpClient, PageGuard};
//! # async fn read(context: ingest_core::Context, schema: arrow_schema::SchemaRef, key: ingest_core::Secret) -> ingest_core::Result<()> {
//! let mut config = ClientConfig::new("https://api.example.com", None)?;
//! config.auth = Auth::Bearer(key);
//! let client = HttpClient::new(config, &context)?;
//! let (mut decoder, shape) = (Decoder::new(schema)?, PageShape::at("data").pick("next"));
//! let mut guard = PageGuard::new();
//! let mut fetch = client.get("/v1/charges").query("limit", 100).start();
//! loop {
//!     let reply = fetch.await?;
//!     let next = decoder.page(reply.body(), &shape)?.text("next")?;
//!     let rows = decoder.flush()?; // hand them on while the next page travels
//!     let Some(next) = next else { break };
//!     guard.next(&next)?;
//!     fetch = client.follow(&reply, &next).start();
//! #   drop(rows);
//! }
//! # Ok(()) }
//! ```
//!
//! What it holds to:
//! - **Where requests go.** To the endpoint's origin and to hosts that the connector lists. Redirects and links are
//!   resolved and checked before any header is attached; credentials never follow to another origin by redirect.
//!   Private and link-local addresses are refused after the name was resolved, unless the user wrote the endpoint.
//!   Plain HTTP stays on this machine unless `danger_plaintext` is set.
//! - **How much comes back.** Pages, downloads, ratios of packed to unpacked bytes and redirects have ceilings
//!   ([`Ceilings`]); repeated cursors and endless pages are found by [`PageGuard`].
//! - **How long it takes.** At most three attempts within one budget of 90 s, pauses included ([`Retry`]). A longer
//!   `Retry-After` ends the call as `QuotaExhausted`; what was repeated in vain is marked exhausted, so that nobody
//!   starts again. An answer 429 keeps everybody away from the account's bucket.
//! - **What is told.** Errors and logs hold the method, the connector's own path, host, status and counts; never a
//!   header, a body, a query or a link.

mod auth;
mod body;
mod classify;
mod client;
mod config;
mod hosts;
mod oauth;
mod pages;
mod retry;
mod send;
mod session;
mod statement;
mod transport;

pub use auth::Auth;
pub use body::Download;
pub use classify::{Dialect, Refusal, word};
pub use client::{HttpClient, Reply, Request};
pub use config::{Ceilings, ClientConfig, Retry, Timeouts, TlsOptions};
pub use hosts::HostRule;
pub use oauth::{Grant, Habits, OAuth, RefreshTokens};
pub use pages::{Fetch, PageGuard};
pub use reqwest::{Method, StatusCode, header::HeaderMap};
pub use session::Session;
pub use statement::Statement;
pub use url::Url;
