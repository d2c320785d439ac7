//! A stand-in, and sources that read it.

use std::sync::Arc;

use ingest_connector_shopify::Shopify;
use ingest_core::{Builtin, Clock, Context, Factory, Json, Result, Source};
use ingest_testkit::shopify::{ACCESS_TOKEN, ShopifyServer};
use serde_json::json;

/// When the tests take place: behind the clock of this machine, which the connector compares with the server's.
pub const NOW: i64 = 1_780_000_000;
pub const MINUTE: i64 = 60;
pub const DAY: i64 = 24 * 60 * MINUTE;

/// The streams of the lists that tests fill.
pub const STREAMS: [&str; 10] = [
    "customers",
    "fulfillments",
    "inventory_items",
    "inventory_levels",
    "order_line_items",
    "orders",
    "product_variants",
    "products",
    "refunds",
    "transactions",
];

pub struct Lab {
    pub server: Arc<ShopifyServer>,
}

impl Lab {
    pub async fn start() -> Self {
        let server = Arc::new(ShopifyServer::start().await);
        server.freeze(NOW);
        Self { server }
    }

    /// The configuration with further fields.
    pub fn config(&self, more: Json) -> Json {
        let mut config = json!({"shop": "acme", "access_token": ACCESS_TOKEN, "endpoint": self.server.url()});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }

    pub async fn open(&self) -> Box<dyn Source> {
        open(self.config(json!({}))).await.unwrap()
    }
}

/// A clock that stands.
struct Standing(i64);

impl Clock for Standing {
    fn now_micros(&self) -> i64 {
        self.0 * 1_000_000
    }
}

/// As [`open`], at another time, in seconds since 1970.
pub async fn open_at(config: Json, seconds: i64) -> Result<Box<dyn Source>> {
    let context = Context { clock: Arc::new(Standing(seconds)), ..Context::standalone("shopify") };
    Builtin::<Shopify>::new().open(config, context).await
}

pub async fn open(config: Json) -> Result<Box<dyn Source>> {
    Builtin::<Shopify>::new().open(config, Context::standalone("shopify")).await
}
