//! The API: where it is, how requests prove who we are, what a page looks like.

use ingest_core::json::PageShape;
use ingest_core::{Context, Result, StreamName};
use ingest_http::{Auth, ClientConfig, HttpClient, Reply, Timeouts};
use serde::Deserialize;

use crate::{AcmeConfig, Work};

/// Where the API is when `endpoint` is left out.
const BASE: &str = "https://api.acme.example";

pub(crate) struct Api {
    client: HttpClient,
    page_size: u32,
}

impl Api {
    /// Makes the client: it repeats what may be repeated, keeps the key to the endpoint, and bounds every answer.
    pub fn open(config: &AcmeConfig, context: &Context) -> Result<Self> {
        let mut client = ClientConfig::new(BASE, config.endpoint.as_deref())?;
        client.auth = Auth::Bearer(config.api_key.clone());
        client.timeouts = Timeouts::of(config.timeout.0);
        Ok(Self { client: HttpClient::new(client, context)?, page_size: config.page_size.clamp(1, 1000) })
    }

    /// The smallest request that shows whether a list may be read.
    pub async fn probe(&self, stream: &StreamName) -> Result<()> {
        self.client.get(&format!("/v1/{stream}")).query("limit", 1).send().await.map(drop)
    }

    /// The time before which no record can appear any more: the upper bound that is safe.
    pub async fn complete_until(&self) -> Result<String> {
        #[derive(Deserialize)]
        struct Watermark {
            complete_until: String,
        }
        Ok(self.client.get("/v1/watermark").send().await?.json::<Watermark>()?.complete_until)
    }

    /// A page of a window of a list; `cursor` is what the page before gave as `next`.
    pub async fn page(&self, stream: &StreamName, window: &Work, cursor: Option<&str>) -> Result<Reply> {
        let mut page = self.client.get(&format!("/v1/{stream}")).query("limit", self.page_size);
        page = page.query("updated_to", &window.to);
        if let Some(from) = &window.from {
            page = page.query("updated_from", from);
        }
        if let Some(cursor) = cursor {
            page = page.query("cursor", cursor);
        }
        page.send().await
    }
}

/// Where a page holds its records, and what stands beside them.
pub(crate) fn shape() -> PageShape {
    PageShape::at("data").pick("next").pick("has_more")
}
