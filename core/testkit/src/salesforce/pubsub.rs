//! A stand-in for the Pub/Sub API of Salesforce: topics, schemas and subscriptions over gRPC, of the changes that happen to the objects
//! of a [`SalesforceServer`].
//!
//! It keeps to what the documentation says: credentials as metadata, replay ids that say nothing, events that are given as many as
//! were asked for, errors in trailers with their `error-code`. It is not Salesforce.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::answer::ORG;
use super::events::{self, Bus};
use super::{SalesforceServer, State};

/// Milliseconds after which a stream without events says so.
const KEEPALIVE: u64 = 20;
/// Milliseconds between two looks at what has happened.
const LOOK: u64 = 2;

#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct TopicInfo {
    #[prost(string, tag = "1")]
    topic_name: String,
    #[prost(bool, tag = "4")]
    can_subscribe: bool,
}

#[derive(Clone, PartialEq, Message)]
struct SchemaInfo {
    #[prost(string, tag = "1")]
    schema_json: String,
    #[prost(string, tag = "2")]
    schema_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct FetchRequest {
    #[prost(string, tag = "1")]
    topic_name: String,
    #[prost(int32, tag = "2")]
    replay_preset: i32,
    #[prost(bytes = "vec", tag = "3")]
    replay_id: Vec<u8>,
    #[prost(int32, tag = "4")]
    num_requested: i32,
}

#[derive(Clone, PartialEq, Message)]
struct FetchResponse {
    #[prost(message, repeated, tag = "1")]
    events: Vec<ConsumerEvent>,
    #[prost(bytes = "vec", tag = "2")]
    latest_replay_id: Vec<u8>,
    #[prost(string, tag = "3")]
    rpc_id: String,
    #[prost(int32, tag = "4")]
    pending_num_requested: i32,
}

#[derive(Clone, PartialEq, Message)]
struct ConsumerEvent {
    #[prost(message, optional, tag = "1")]
    event: Option<ProducerEvent>,
    #[prost(bytes = "vec", tag = "2")]
    replay_id: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ProducerEvent {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    schema_id: String,
    #[prost(bytes = "vec", tag = "3")]
    payload: Vec<u8>,
}

/// How a call ends that fails: the code of gRPC, and Salesforce's own.
#[derive(Debug, Clone, Copy)]
struct Ended(u32, &'static str);

const UNAUTHENTICATED: Ended = Ended(16, "sfdc.platform.eventbus.grpc.service.auth.error");
const NO_TOPIC: Ended = Ended(5, "sfdc.platform.eventbus.grpc.topic.not.found");
const OLD: Ended = Ended(3, "sfdc.platform.eventbus.grpc.subscription.fetch.replayid.corrupted");
const BROKEN: Ended = Ended(13, "sfdc.platform.eventbus.grpc.internal");

/// The server; it stops when it is dropped.
pub struct PubSubServer {
    url: String,
    accepting: JoinHandle<()>,
}

impl PubSubServer {
    /// Starts it for the objects and sessions of a server.
    ///
    /// # Panics
    /// When no loopback port can be bound.
    pub async fn start(server: &SalesforceServer) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free loopback port");
        let url = format!("http://{}", listener.local_addr().expect("a bound listener has an address"));
        let state = server.shared();
        lock(&state).bus.is_open = true;
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(connection(stream, state.clone()));
            }
        });
        Self { url, accepting }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for PubSubServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

type Shared = Arc<Mutex<State>>;

fn lock(state: &Shared) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn connection(stream: TcpStream, state: Shared) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut calls = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        calls.spawn(call(request, respond, state.clone()));
    }
}

async fn call(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, state: Shared) {
    let head = |status: Option<Ended>| {
        let mut response = Response::builder().header("content-type", "application/grpc");
        if let Some(Ended(status, code)) = status {
            response = response.header("grpc-status", status).header("error-code", code);
        }
        response.body(()).expect("a response")
    };
    if !is_known(&request, &state) {
        let _ = respond.send_response(head(Some(UNAUTHENTICATED)), true);
        return;
    }
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let mut requests = Requests { body: request.into_body(), buffer: BytesMut::new() };
    let Ok(mut send) = respond.send_response(head(None), false) else { return };
    let ended = match method.as_str() {
        "GetTopic" => topic(&mut requests, &mut send, &state).await,
        "GetSchema" => schema(&mut requests, &mut send, &state).await,
        "Subscribe" => subscribe(&mut requests, &mut send, &state).await,
        _ => Err(Ended(12, "sfdc.platform.eventbus.grpc.unimplemented")),
    };
    let mut trailers = HeaderMap::new();
    let Ended(status, code) = ended.err().unwrap_or(Ended(0, ""));
    trailers.insert("grpc-status", HeaderValue::from(status));
    if let Ok(code) = HeaderValue::from_str(code) {
        trailers.insert("error-code", code);
    }
    let _ = send.send_trailers(trailers);
}

/// Whether the metadata name a session that lives, its instance and its org.
fn is_known(request: &Request<RecvStream>, state: &Shared) -> bool {
    let metadata = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let has_session = lock(state).tokens.contains(metadata("accesstoken"));
    has_session && metadata("instanceurl").starts_with("http") && metadata("tenantid") == ORG
}

/// Messages of the client.
struct Requests {
    body: RecvStream,
    buffer: BytesMut,
}

impl Requests {
    async fn next<M: Message + Default>(&mut self) -> Option<M> {
        loop {
            if let Some((head, _)) = self.buffer.split_first_chunk::<5>() {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                if self.buffer.len() >= 5 + length {
                    let frame = self.buffer.split_to(5 + length);
                    return M::decode(&frame[5..]).ok();
                }
            }
            let bytes = self.body.data().await?.ok()?;
            self.body.flow_control().release_capacity(bytes.len()).ok()?;
            self.buffer.extend_from_slice(&bytes);
        }
    }
}

fn send(stream: &mut SendStream<Bytes>, message: &impl Message) -> Result<(), Ended> {
    let body = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
    frame.extend_from_slice(&body);
    stream.send_data(frame.into(), false).map_err(|_| BROKEN)
}

/// The object of a topic, if the org publishes its changes.
fn object_of(state: &State, topic: &str) -> Option<String> {
    let name = topic.strip_prefix("/data/")?.strip_suffix("ChangeEvent")?;
    let name = name.strip_suffix("__").map_or_else(|| name.to_owned(), |custom| format!("{custom}__c"));
    (state.objects.contains_key(&name) && !state.bus.unselected.contains(&name)).then_some(name)
}

async fn topic(requests: &mut Requests, stream: &mut SendStream<Bytes>, state: &Shared) -> Result<(), Ended> {
    let Named { name } = requests.next().await.ok_or(BROKEN)?;
    object_of(&lock(state), &name).ok_or(NO_TOPIC)?;
    send(stream, &TopicInfo { topic_name: name, can_subscribe: true })
}

async fn schema(requests: &mut Requests, stream: &mut SendStream<Bytes>, state: &Shared) -> Result<(), Ended> {
    let Named { name } = requests.next().await.ok_or(BROKEN)?;
    let (object, _) = name.rsplit_once('.').ok_or(NO_TOPIC)?;
    let schema_json = {
        let mut state = lock(state);
        state.bus.schemas += 1;
        events::schema(&state, object)
    };
    send(stream, &SchemaInfo { schema_json, schema_id: name })
}

async fn subscribe(requests: &mut Requests, stream: &mut SendStream<Bytes>, state: &Shared) -> Result<(), Ended> {
    let first: FetchRequest = requests.next().await.ok_or(BROKEN)?;
    let (object, mut at) = begin(&mut lock(state), &first)?;
    let mut owed = first.num_requested;
    let mut spoken = tokio::time::Instant::now();
    loop {
        asked(&mut lock(state), owed);
        let (events, ends) = due(&mut lock(state), &object, &mut at, owed);
        if ends {
            lock(state).end_sessions();
        }
        let keepalive = Duration::from_millis(lock(state).bus.keepalive.unwrap_or(KEEPALIVE));
        if !events.is_empty() || (spoken.elapsed() >= keepalive && !ends) {
            owed -= i32::try_from(events.len()).unwrap_or(i32::MAX);
            let latest_replay_id = Bus::replay(last(&lock(state)));
            let rpc_id = "stand-in".to_owned();
            send(stream, &FetchResponse { events, latest_replay_id, rpc_id, pending_num_requested: owed })?;
            spoken = tokio::time::Instant::now();
        }
        if ends {
            return Err(UNAUTHENTICATED);
        }
        tokio::select! {
            next = requests.next::<FetchRequest>() => match next {
                Some(more) => {
                    lock(state).bus.asked.push(more.num_requested);
                    owed += more.num_requested;
                }
                None => return Ok(()),
            },
            () = tokio::time::sleep(Duration::from_millis(LOOK)) => {}
        }
    }
}

/// The last event that can be seen by now.
fn last(state: &State) -> u64 {
    state.bus.last(state.now() - state.visible_after)
}

fn asked(state: &mut State, owed: i32) {
    state.bus.owed = state.bus.owed.max(owed);
}

/// The object and the event behind which a subscription begins.
fn begin(state: &mut State, first: &FetchRequest) -> Result<(String, u64), Ended> {
    let object = object_of(state, &first.topic_name).ok_or(NO_TOPIC)?;
    state.bus.asked.push(first.num_requested);
    state.bus.subscriptions.push((object.clone(), first.replay_preset == 2));
    let at = match first.replay_preset {
        0 => last(state),
        1 => 0,
        _ => Bus::number(&first.replay_id).filter(|number| state.bus.keeps(*number)).ok_or(OLD)?,
    };
    Ok((object, at))
}

/// The events behind a place that can be seen by now, and whether all sessions end with them.
fn due(state: &mut State, object: &str, at: &mut u64, most: i32) -> (Vec<ConsumerEvent>, bool) {
    let head = state.now() - state.visible_after;
    let most = usize::try_from(most).unwrap_or(0);
    let mut seen = Vec::new();
    let mut ends = false;
    let from = *at;
    for event in state.bus.events.iter().filter(|event| event.number > from) {
        if event.at > head || seen.len() >= most || state.bus.sessions_end_after.is_some_and(|left| seen.len() >= left)
        {
            break;
        }
        *at = event.number;
        if event.object == object {
            let schema_id = format!("{object}.{}", state.bus.schema_version);
            let event_of =
                ProducerEvent { id: format!("e{}", event.number), schema_id, payload: events::payload(state, event) };
            seen.push(ConsumerEvent { event: Some(event_of), replay_id: Bus::replay(event.number) });
        }
    }
    if let Some(left) = state.bus.sessions_end_after.filter(|_| !seen.is_empty()) {
        let left = left.saturating_sub(seen.len());
        ends = left == 0;
        state.bus.sessions_end_after = (left > 0).then_some(left);
    }
    (seen, ends)
}
