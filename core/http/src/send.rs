//! One request, its attempts, its redirects.

use std::time::Duration;

use bytes::Bytes;
use ingest_core::{Error, ErrorKind, Result};
use oauth2::{HttpRequest, HttpResponse};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Response};
use tokio::time::{Instant, timeout};

use crate::auth::Credentials;
use crate::body::{collect, collect_refusal};
use crate::classify::transport;
use crate::client::{Expects, Inner, Request};
use crate::hosts::Target;
use crate::oauth::Token;
use crate::retry::{Next, decide, retry_after};
use crate::{Download, HttpClient, Refusal, Reply};

/// What a first attempt gets even if waiting has used the budget up.
const FIRST_ATTEMPT: Duration = Duration::from_secs(5);

/// What a request wants of the body.
#[derive(Clone, Copy)]
enum Want {
    Whole,
    Pieces,
}

enum Got {
    Whole(Box<Reply>),
    Pieces(Box<Download>),
}

/// Sends a request and collects its answer.
pub(crate) async fn collected(request: &Request) -> Result<Reply> {
    match repeated(request, Want::Whole).await? {
        Got::Whole(reply) => Ok(*reply),
        Got::Pieces(_) => Err(Error::unexpected("a collected answer came in pieces")),
    }
}

/// Sends a request and gives out its body unread.
pub(crate) async fn streamed(request: &Request) -> Result<Download> {
    match repeated(request, Want::Pieces).await? {
        Got::Pieces(download) => Ok(*download),
        Got::Whole(_) => Err(Error::unexpected("an answer in pieces came collected")),
    }
}

async fn attempt(request: &Request, target: &Target, token: Option<&Token>, left: Duration, want: Want) -> Result<Got> {
    let inner = &request.client.0;
    match want {
        Want::Pieces => {
            let (response, _) = answered(request, target, token, left).await?;
            Download::new(response, &inner.ceilings, inner.timeouts.idle).map(Box::new).map(Got::Pieces)
        }
        Want::Whole => {
            let limit = inner.timeouts.total.min(left);
            let whole = timeout(limit, whole(request, target, token, left)).await;
            whole.unwrap_or_else(|_| Err(too_slow(limit))).map(Box::new).map(Got::Whole)
        }
    }
}

async fn whole(request: &Request, target: &Target, token: Option<&Token>, left: Duration) -> Result<Reply> {
    let inner = &request.client.0;
    let (mut response, url) = answered(request, target, token, left).await?;
    let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
    let body = collect(response, &headers, &inner.ceilings, inner.timeouts.idle).await?;
    let reply = Reply { status, headers, body, url };
    if request.expects == Expects::Json {
        refuse_html(&reply.headers, &reply.body)?;
    }
    inner.dialect.inspect(&reply).map_err(|error| told_when(error, &reply.headers, inner))?;
    Ok(reply)
}

fn too_slow(limit: Duration) -> Error {
    Error::new(ErrorKind::Timeout, "an answer took too long").with("limit_s", limit.as_secs())
}

/// Repeats attempts within the budget. Waiting because the server throttles the account is part of it, waiting for a
/// token of our own rate limit is not.
async fn repeated(request: &Request, want: Want) -> Result<Got> {
    let inner = &request.client.0;
    let target = match &request.target {
        Ok(target) => target,
        // The error of a request that could not be built; it is made again, for errors cannot be cloned.
        Err(error) => return Err(restated(error).with("request", &request.label)),
    };
    let host = target.url.host_str().unwrap_or_default();
    let place = |error: Error| error.with("request", &request.label).with("host", host);
    let at = |token: Option<&Token>| match token.and_then(|token| token.api.as_ref()) {
        Some(api) if target.relative => inner.hosts.moved(target, api),
        _ => target.clone(),
    };
    let (mut spent, mut number, mut renewed) = (Duration::ZERO, 1, false);
    let mut token = if target.credentials { token_for(&request.client).await.map_err(place)? } else { None };
    loop {
        // Were the throttling of another call not counted, calls would end one budget after the other.
        spent += inner.blocked(&request.buckets);
        inner.acquire(&request.buckets).await?;
        let begun = Instant::now();
        let floor = if number == 1 { FIRST_ATTEMPT.min(inner.retry.budget) } else { Duration::ZERO };
        let left = inner.retry.budget.saturating_sub(spent).max(floor);
        let target = at(token.as_ref());
        let done = {
            let _permit = inner.in_flight.acquire().await.map_err(|_| Error::cancelled())?;
            tokio::select! {
                done = attempt(request, &target, token.as_ref(), left, want) => done,
                () = inner.cancel.cancelled() => Err(Error::cancelled()),
            }
        };
        spent += begun.elapsed();
        let error = match done {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        // A token may have been revoked or have expired early: one new one, then the refusal counts.
        if error.kind() == ErrorKind::Unauthenticated
            && !renewed
            && let (Credentials::OAuth(tokens), Some(stale)) = (&inner.credentials, &token)
        {
            renewed = true;
            token = Some(tokens.renew(&request.client, stale).await.map_err(place)?);
            continue;
        }
        let error = if request.repeatable || certainly_not_done(&error) { error } else { error.exhausted() };
        let throttled = error.kind() == ErrorKind::RateLimited;
        match decide(&inner.retry, number, spent, error) {
            Next::GiveUp(error) => return Err(place(error)),
            Next::Wait(pause, error) => {
                if throttled {
                    inner.block(&request.buckets, pause);
                }
                let pause_ms = pause.as_millis();
                tracing::warn!(request = %request.label, attempt = number, %error, pause_ms, "repeating a request");
                inner.pause(pause).await?;
                spent += pause;
            }
        }
        number += 1;
    }
}

fn restated(error: &Error) -> Error {
    let again = Error::new(error.kind(), error.message());
    let again = error.context().iter().fold(again, |again, (key, value)| again.with(key, value));
    match error.hint_text() {
        Some(hint) => again.hint(hint),
        None => again,
    }
}

/// Whether the server cannot have acted on a request that failed so.
fn certainly_not_done(error: &Error) -> bool {
    let refused_to_connect = error.message() == crate::classify::CANNOT_CONNECT;
    error.kind() == ErrorKind::RateLimited || refused_to_connect
}

async fn token_for(client: &HttpClient) -> Result<Option<Token>> {
    match &client.0.credentials {
        Credentials::OAuth(tokens) => tokens.current(client).await.map(Some),
        _ => Ok(None),
    }
}

/// Sends one attempt, follows redirects, and gives back a success.
async fn answered(
    request: &Request,
    first: &Target,
    token: Option<&Token>,
    left: Duration,
) -> Result<(Response, url::Url)> {
    let inner = &request.client.0;
    let mut target = first.clone();
    let mut seen = Vec::new();
    loop {
        let limit = inner.timeouts.first_byte.min(left);
        inner.requests.sent();
        let sent = timeout(limit, inner.http.execute(made(request, &target, token)?)).await;
        let response = match sent {
            Err(_) => {
                return Err(
                    Error::new(ErrorKind::Timeout, "the source does not answer").with("limit_s", limit.as_secs())
                );
            }
            Ok(Err(error)) => return Err(transport(error, "waiting for an answer")),
            Ok(Ok(response)) => response,
        };
        if target.credentials {
            inner.compare_clocks(response.headers());
        }
        if response.status().is_success() {
            return Ok((response, target.url));
        }
        let location = response.headers().get(LOCATION).filter(|_| response.status().is_redirection()).cloned();
        let Some(location) = location else { return Err(refused(inner, response).await) };
        seen.push(target.url.clone());
        target = redirected(request, &target, location.to_str().unwrap_or("\\"), &seen)?;
    }
}

fn redirected(request: &Request, from: &Target, location: &str, seen: &[url::Url]) -> Result<Target> {
    let inner = &request.client.0;
    if request.method != Method::GET && request.method != Method::HEAD {
        return Err(Error::new(ErrorKind::DataInvalid, "the source redirects a request that is not a GET")
            .hint("the endpoint has moved; write its new address"));
    }
    let mut target = inner.hosts.link(&from.url, location)?;
    // Once a chain has left its origin, whoever answered there steers it: no credentials any more.
    target.credentials &= from.credentials && target.url.origin() == from.url.origin();
    if seen.contains(&target.url) {
        return Err(Error::new(ErrorKind::DataInvalid, "the source redirects in a circle"));
    }
    if seen.len() > inner.ceilings.redirects {
        return Err(
            Error::new(ErrorKind::LimitExceeded, "the source redirects too often").with("limit", seen.len() - 1)
        );
    }
    Ok(target)
}

fn made(request: &Request, target: &Target, token: Option<&Token>) -> Result<reqwest::Request> {
    let mut made = reqwest::Request::new(request.method.clone(), target.url.clone());
    *made.headers_mut() = request.headers_for(target);
    if target.credentials {
        match &request.client.0.credentials {
            Credentials::None => {}
            Credentials::Header(name, value) => {
                made.headers_mut().insert(name.clone(), value.clone());
            }
            Credentials::Query(name, secret) => {
                // Links that a server makes of our own request often carry the key already.
                if !target.url.query_pairs().any(|(key, _)| key == name.as_str()) {
                    made.url_mut().query_pairs_mut().append_pair(name, secret.expose());
                }
            }
            Credentials::OAuth(_) => {
                let token = token.ok_or_else(|| Error::unexpected("a request has no token"))?;
                let (name, value) = &token.header;
                made.headers_mut().insert(name.clone(), value.clone());
            }
        }
    }
    if let Some(body) = &request.body {
        *made.body_mut() = Some(body.clone().into());
    }
    Ok(made)
}

/// Makes an error of an answer that is not a success.
async fn refused(inner: &Inner, response: Response) -> Error {
    let (status, headers) = (response.status(), response.headers().clone());
    let body: Bytes = collect_refusal(response, inner.timeouts.idle).await;
    let refusal = Refusal { status, headers: &headers, body: &body };
    let error = inner.dialect.refusal(&refusal).unwrap_or_else(|| refusal.by_status());
    told_when(error, &headers, inner).with("status", status.as_u16())
}

/// Adds the delay that the server asked for, unless the dialect knew better.
fn told_when(error: Error, headers: &HeaderMap, inner: &Inner) -> Error {
    if error.retry_delay().is_some() || !error.is_retryable() {
        return error;
    }
    let delay = retry_after(headers, inner.clock.now_micros());
    error.retry_after(delay)
}

/// A login page, a proxy or a maintenance page with status 200 is not data.
fn refuse_html(headers: &HeaderMap, body: &[u8]) -> Result<()> {
    let html = match headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) {
        Some(content) => {
            let media = content.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            matches!(media.as_str(), "text/html" | "application/xhtml+xml")
        }
        None => body.trim_ascii_start().first() == Some(&b'<'),
    };
    if !html {
        return Ok(());
    }
    Err(Error::new(ErrorKind::DataInvalid, "the source answered with a web page in place of data")
        .hint("the endpoint is wrong, or a login page or proxy stands before it"))
}

/// Sends a request to the token endpoint within the budget. Only answers that end the exchange are given back: a token,
/// or the reason why there is none.
pub(crate) async fn token(inner: &Inner, request: HttpRequest) -> Result<HttpResponse> {
    let (mut spent, mut number) = (Duration::ZERO, 1);
    loop {
        let begun = Instant::now();
        let limit = inner.timeouts.first_byte.min(inner.retry.budget.saturating_sub(spent));
        let done = timeout(limit, token_attempt(inner, &request)).await.unwrap_or_else(|_| Err(too_slow(limit)));
        spent += begun.elapsed();
        match done {
            Ok(answer) => return Ok(answer),
            Err(error) => match decide(&inner.retry, number, spent, error) {
                Next::GiveUp(error) => return Err(error.with("request", "POST to the token endpoint")),
                Next::Wait(pause, error) => {
                    tracing::warn!(attempt = number, %error, "repeating a request to the token endpoint");
                    inner.pause(pause).await?;
                    spent += pause;
                }
            },
        }
        number += 1;
    }
}

async fn token_attempt(inner: &Inner, request: &HttpRequest) -> Result<HttpResponse> {
    let url =
        url::Url::parse(&request.uri().to_string()).map_err(|_| Error::config("the token endpoint is not a URL"))?;
    let mut made = reqwest::Request::new(request.method().clone(), url);
    *made.headers_mut() = request.headers().clone();
    *made.body_mut() = Some(request.body().clone().into());
    let response = inner.http.execute(made).await.map_err(|error| transport(error, "waiting for a token"))?;
    let status = response.status();
    if status.is_redirection() {
        return Err(Error::new(ErrorKind::DataInvalid, "the token endpoint redirects, which is not followed"));
    }
    if !status.is_success() && !matches!(status.as_u16(), 400 | 401 | 403) {
        return Err(refused(inner, response).await);
    }
    let ceilings = crate::Ceilings { page_bytes: 1 << 20, ..inner.ceilings };
    let headers = response.headers().clone();
    let body = collect(response, &headers, &ceilings, inner.timeouts.idle).await?;
    let mut answer = HttpResponse::new(body.to_vec());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(answer)
}
