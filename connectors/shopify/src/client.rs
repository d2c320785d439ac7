//! Requests: GraphQL, what it costs, what its errors mean. No knowledge of streams.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ingest_core::config::Tls;
use ingest_core::{Context, Error, ErrorKind, Limiter, Result};
use ingest_http::{
    Auth, ClientConfig, Dialect, Download, Grant, Habits, HostRule, HttpClient, OAuth, Refusal, Reply, Timeouts, word,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::ShopifyConfig;

/// The header that carries the token.
const TOKEN: &str = "x-shopify-access-token";

/// Requests of one shop.
pub(crate) struct Api {
    http: HttpClient,
    path: String,
    version: String,
    /// Calls of one shop share its points.
    bucket: String,
    limiter: Limiter,
    /// The version that answered in place of ours, which has ended.
    fallen: Mutex<Option<String>>,
}

impl Api {
    pub fn open(config: &ShopifyConfig, context: &Context) -> Result<Self> {
        let own = format!("https://{}.myshopify.com", config.shop);
        let mut http = ClientConfig::new(&own, config.endpoint.as_deref())?;
        http.auth = if config.access_token.is_empty() {
            Auth::OAuth(Box::new(oauth(config, &http)?))
        } else {
            Auth::Header { name: TOKEN.into(), value: config.access_token.clone() }
        };
        http.hosts = ["storage.googleapis.com", "*.storage.googleapis.com"].map(HostRule::download).into();
        http.timeouts = Timeouts::of(config.timeout.0);
        http.in_flight = 4;
        http.danger_plaintext = config.danger_plaintext || config.tls == Some(Tls::DangerPlaintext);
        http.tls.mode = config.tls;
        http.tls.ca.clone_from(&config.tls_ca);
        http.dialect = Arc::new(ShopifyErrors);
        let bucket = format!("shopify/{}", config.shop);
        http.bucket = Some(bucket.clone());
        Ok(Self {
            http: HttpClient::new(http, context)?,
            path: format!("admin/api/{}/graphql.json", config.api_version),
            version: config.api_version.clone(),
            bucket,
            limiter: context.limiter.clone(),
            fallen: Mutex::new(None),
        })
    }

    /// Sends a query. One that is sent twice does no harm: a bulk operation that was started is found under way.
    pub async fn graphql(&self, query: &str, variables: Value) -> Result<Reply> {
        let body = json!({"query": query, "variables": variables});
        let reply = self.http.post(&self.path).json(&body).repeatable().label("POST /graphql.json").send().await?;
        if let Some(version) = reply.header("x-shopify-api-version").filter(|version| *version != self.version) {
            *self.fallen.lock().unwrap_or_else(PoisonError::into_inner) = word(version).map(str::to_owned);
        }
        self.pace(&reply);
        Ok(reply)
    }

    /// The `data` of an answer.
    pub async fn ask<T: for<'de> Deserialize<'de>>(&self, query: &str, variables: Value) -> Result<T> {
        #[derive(Deserialize)]
        struct Answer<T> {
            data: T,
        }
        Ok(self.graphql(query, variables).await?.json::<Answer<T>>()?.data)
    }

    /// The result of an operation. Its address is signed; it gets no token.
    pub async fn result(&self, url: &str) -> Result<Download> {
        self.http.follow_stored(url).anonymous().download().await
    }

    /// The time in microseconds: ours, or the server's where that is behind.
    pub fn now(&self) -> i64 {
        self.http.now_micros()
    }

    /// The version that answers in place of ours.
    pub fn fallen(&self) -> Option<String> {
        self.fallen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets nobody ask again before there are points for a query like the last one.
    fn pace(&self, reply: &Reply) {
        let cost = reply.json::<Head>().ok().and_then(|head| head.extensions).and_then(|all| all.cost);
        if let Some(wait) = cost.and_then(|cost| cost.wait()) {
            self.limiter.block(&self.bucket, wait);
        }
    }
}

fn oauth(config: &ShopifyConfig, http: &ClientConfig) -> Result<OAuth> {
    let url = http.endpoint.join("admin/oauth/access_token").map_err(|_| Error::config("endpoint: is not a URL"))?;
    Ok(OAuth {
        token_url: url.into(),
        client_id: config.client_id.clone(),
        client_secret: config.client_secret.clone(),
        grant: Grant::ClientCredentials,
        scopes: Vec::new(),
        parameters: Vec::new(),
        secret_in_form: true,
        rotated: None,
        habits: Habits {
            header: Some(TOKEN),
            hint: Some(
                "check shop, client_id and client_secret; the app must be of the shop's organisation and installed",
            ),
            ..Habits::default()
        },
    })
}

/// What stands beside the data.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    errors: Option<Value>,
    #[serde(default)]
    extensions: Option<Extensions>,
}

#[derive(Deserialize)]
struct Extensions {
    #[serde(default)]
    cost: Option<Cost>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cost {
    requested_query_cost: f64,
    throttle_status: Throttle,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Throttle {
    currently_available: f64,
    restore_rate: f64,
}

impl Cost {
    /// How long until there are points for the query again.
    fn wait(&self) -> Option<Duration> {
        let missing = self.requested_query_cost - self.throttle_status.currently_available;
        let seconds = missing / self.throttle_status.restore_rate;
        (seconds.is_finite() && seconds > 0.0).then(|| Duration::from_secs_f64(seconds.min(3_600.0)))
    }
}

/// What Shopify's answers mean.
struct ShopifyErrors;

impl Dialect for ShopifyErrors {
    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Error> {
        let denied = |what: &str, hint: &str| Some(Error::new(ErrorKind::PermissionDenied, what).hint(hint));
        match refusal.status.as_u16() {
            401 => Some(refusal.by_status().hint(
                "the access token is wrong, has expired, or the app was uninstalled; make a new one, or use `client_id` \
                 and `client_secret`, which renew theirs",
            )),
            402 => denied("the shop is frozen", "its owner has to pay a bill"),
            403 => denied("the source refused access", "give the app the scope that the stream needs"),
            404 => Some(refusal.by_status().hint("check `shop` and `api_version`")),
            423 => denied("the shop is locked", "ask Shopify"),
            _ => None,
        }
    }

    /// Errors come with status 200, sometimes beside data.
    fn inspect(&self, reply: &Reply) -> Result<()> {
        reply.refuse_cut_json()?;
        let Ok(head) = serde_json::from_slice::<Head>(reply.body()) else { return Ok(()) };
        let first = match &head.errors {
            None | Some(Value::Null) => return Ok(()),
            Some(Value::Array(errors)) => errors.first().cloned().unwrap_or_default(),
            Some(other) => other.clone(),
        };
        let code = first["extensions"]["code"].as_str().and_then(word).unwrap_or("unknown");
        let field = first["path"].as_array().and_then(|path| path.iter().rev().find_map(Value::as_str)).and_then(word);
        let error = match code {
            "THROTTLED" => {
                let wait = head.extensions.and_then(|all| all.cost).and_then(|cost| cost.wait());
                Error::new(ErrorKind::RateLimited, "the shop has no points left for a query").retry_after(wait)
            }
            "ACCESS_DENIED" => Error::new(ErrorKind::PermissionDenied, "the source refused access to a field")
                .hint("give the app the scope that the stream needs, and access to protected customer data"),
            "SHOP_INACTIVE" => Error::new(ErrorKind::PermissionDenied, "the shop is not active"),
            "INTERNAL_SERVER_ERROR" => {
                Error::new(ErrorKind::Unavailable, "the source answered with a fault of its own")
            }
            "MAX_COST_EXCEEDED" => {
                Error::new(ErrorKind::LimitExceeded, "a query costs more than one may").hint("lower `page_size`")
            }
            _ => Error::new(ErrorKind::DataInvalid, "the source refused the query")
                .hint("`api_version` may not know a field that is asked for"),
        };
        let error = error.with("code", code);
        Err(if let Some(field) = field { error.with("field", field) } else { error })
    }
}
