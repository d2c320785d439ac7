//! The Pub/Sub API of an org: who we are there, topics, schemas, subscriptions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, HeaderValue};
use ingest_core::{Error, ErrorKind, Result};
use ingest_http::Session;

use super::avro::Type;
use super::grpc::{Channel, Endpoint, Stream};
use super::proto::{FetchRequest, FetchResponse, SchemaInfo, SchemaRequest, TopicInfo, TopicRequest};
use crate::client::Api;
use crate::config::SalesforceConfig;

/// Where every org's changes are published.
const API: &str = "https://api.pubsub.salesforce.com:7443";
/// Events that are asked for beside those that were given; the API takes a hundred.
pub(crate) const WINDOW: i32 = 100;
/// Schemas that are kept: an object has a new one with each new field.
const SCHEMAS: usize = 256;

/// The Pub/Sub API of one org.
pub(crate) struct PubSub {
    endpoint: Endpoint,
    schemas: Mutex<HashMap<String, Arc<Type>>>,
    org: tokio::sync::OnceCell<HeaderValue>,
}

/// A connection with the credentials of a session.
pub(crate) struct Client {
    channel: Channel,
    metadata: HeaderMap,
    pub session: Session,
}

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From<'a> {
    /// With the next event.
    Now,
    /// With the first event that is kept.
    First,
    /// Behind an event.
    Behind(&'a [u8]),
}

impl PubSub {
    pub fn new(config: &SalesforceConfig) -> Result<Self> {
        let address = config.pubsub_endpoint.as_deref().unwrap_or(API);
        let plaintext = config.danger_plaintext;
        let endpoint = Endpoint::new(address, config.tls, config.tls_ca.as_deref(), plaintext, config.timeout.0)?;
        Ok(Self { endpoint, schemas: Mutex::default(), org: tokio::sync::OnceCell::new() })
    }

    /// Connects with the session of the moment, or with another one where that was refused.
    pub async fn connect(&self, api: &Api, refused: Option<&Session>) -> Result<Client> {
        let session = api.session(refused).await?;
        let org = self.org.get_or_try_init(|| async { header(&api.org().await?) }).await?;
        let instance = session.api().map(|url| url.as_str().trim_end_matches('/').to_owned());
        let instance = instance.ok_or_else(|| Error::unexpected("a session names no instance"))?;
        let mut token = header(session.token()?.expose())?;
        token.set_sensitive(true);
        let mut metadata = HeaderMap::new();
        metadata.insert("accesstoken", token);
        metadata.insert("instanceurl", header(&instance)?);
        metadata.insert("tenantid", org.clone());
        Ok(Client { channel: Channel::connect(&self.endpoint).await?, metadata, session })
    }

    /// The schema of an event, asked for once.
    pub async fn schema(&self, client: &Client, id: &str) -> Result<Arc<Type>> {
        if let Some(schema) = self.known().get(id) {
            return Ok(schema.clone());
        }
        let info: SchemaInfo = client.call("GetSchema", &SchemaRequest { schema_id: id.to_owned() }).await?;
        let schema = Arc::new(Type::parse(&info.schema_json)?);
        let mut known = self.known();
        if known.len() >= SCHEMAS {
            known.clear();
        }
        known.insert(id.to_owned(), schema.clone());
        Ok(schema)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Type>>> {
        self.schemas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    async fn call<A: prost::Message + Default>(
        &self,
        method: &'static str,
        message: &impl prost::Message,
    ) -> Result<A> {
        self.channel.call(method, &self.metadata, message).await
    }

    /// Whether the user may read a topic.
    pub async fn may_subscribe(&self, topic: &str) -> Result<bool> {
        let info: TopicInfo = self.call("GetTopic", &TopicRequest { topic_name: topic.to_owned() }).await?;
        Ok(info.can_subscribe)
    }

    /// Subscribes to a topic, and asks for its first events.
    pub async fn subscribe(&self, topic: &str, from: From<'_>, count: i32) -> Result<Stream<FetchResponse>> {
        let (replay_preset, replay_id) = match from {
            From::Now => (super::proto::LATEST, Vec::new()),
            From::First => (super::proto::EARLIEST, Vec::new()),
            From::Behind(id) => (super::proto::CUSTOM, id.to_vec()),
        };
        let first = FetchRequest { topic_name: topic.to_owned(), replay_preset, replay_id, num_requested: count };
        self.channel.stream("Subscribe", &self.metadata, &first).await
    }
}

/// Asks for further events.
pub(crate) fn more(stream: &mut Stream<FetchResponse>, count: i32) -> Result<()> {
    stream.send(&FetchRequest { num_requested: count, ..FetchRequest::default() })
}

fn header(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|_| {
        Error::new(ErrorKind::DataInvalid, "cdc: the org or its session has a name that no header can carry")
    })
}
