//! Requests of the stand-in and their answers.

use std::ops::Bound;

use serde_json::{Value, json};

use super::kinds::{self, KINDS, Kind};
use super::state::{State, Table};
use super::{API_KEY, Fault};
use crate::http::{Request, Response};
use crate::stand_in::count;

/// Faults that a client may repeat, for chaos.
pub(super) const PASSING: [Fault; 6] =
    [Fault::RateLimited(None), Fault::Status(500), Fault::Status(503), Fault::ShouldRetry, Fault::Reset, Fault::Cut];

pub(super) fn answer(state: &mut State, request: &Request) -> Response {
    let id = format!("req_{:08}", count(state));
    let fault = state.script.next_fault();
    let response = match fault {
        Some(Fault::Reset | Fault::Cut) | None => route(state, request),
        Some(fault) => Err(faulty(fault)),
    };
    let (status, body, headers) = match response {
        Ok(body) => (200, body, Vec::new()),
        Err(refusal) => (refusal.status, refusal.body, refusal.headers),
    };
    let cut = fault == Some(Fault::Cut);
    let half = body.len() / 2;
    let mut response = Response::status(status)
        .header("content-type", if body.starts_with('<') { "text/html" } else { "application/json" })
        .header("date", date(state.now()))
        .header("request-id", id)
        .body(if cut { body[..floor(&body, half)].to_owned() } else { body });
    for (name, value) in headers {
        response = response.header(name, value);
    }
    if fault == Some(Fault::Reset) {
        response = response.reset_after(100 + half);
    }
    response
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// An answer other than 200.
struct Refusal {
    status: u16,
    body: String,
    headers: Vec<(&'static str, String)>,
}

impl Refusal {
    fn new(status: u16, error: Value) -> Self {
        Self { status, body: json!({"error": error}).to_string(), headers: Vec::new() }
    }

    fn invalid(message: String, param: &str) -> Self {
        Self::new(400, json!({"type": "invalid_request_error", "message": message, "param": param}))
    }

    fn missing(status: u16, object: &str, id: &str, param: &str) -> Self {
        let message = format!("No such {object}: '{id}'");
        let error = json!({"type": "invalid_request_error", "code": "resource_missing", "message": message,
            "param": param});
        Self::new(status, error)
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

fn faulty(fault: Fault) -> Refusal {
    let api_error = json!({"type": "api_error", "message": "An unknown error occurred"});
    match fault {
        Fault::RateLimited(after) => {
            let error = json!({"type": "invalid_request_error", "code": "rate_limit", "message": "Request rate limit exceeded."});
            let refusal = Refusal::new(429, error).header("stripe-rate-limited-reason", "endpoint-rate");
            match after {
                Some(seconds) => refusal.header("retry-after", seconds.to_string()),
                None => refusal,
            }
        }
        Fault::Status(status) => Refusal::new(status, api_error),
        Fault::ShouldRetry => {
            let error = json!({"type": "invalid_request_error", "code": "lock_timeout", "message": "Held."});
            Refusal::new(409, error).header("stripe-should-retry", "true")
        }
        Fault::ShouldNotRetry => Refusal::new(500, api_error).header("stripe-should-retry", "false"),
        Fault::Html => Refusal { status: 200, body: "<html>Sign in</html>".into(), headers: Vec::new() },
        Fault::Redirect => Refusal::new(302, json!({})).header("location", "http://localhost:1/v1/charges"),
        Fault::Reset | Fault::Cut => Refusal::new(500, api_error),
    }
}

type Answer = Result<String, Refusal>;

fn route(state: &State, request: &Request) -> Answer {
    let authorization = request.header("authorization").unwrap_or_default();
    if authorization != format!("Bearer {API_KEY}") {
        let error = json!({"type": "invalid_request_error", "message": "Invalid API Key provided: sk_test_****andin"});
        return Err(Refusal::new(401, error));
    }
    let account = request.header("stripe-account").unwrap_or_default();
    if !state.knows(account) {
        let error = json!({"type": "invalid_request_error", "code": "account_invalid",
            "message": "The provided key does not have access to the account (or that account does not exist)."});
        return Err(Refusal::new(403, error));
    }
    let unknown = || Refusal::new(404, json!({"type": "invalid_request_error", "message": "Unrecognized request URL"}));
    if request.method != "GET" {
        return Err(unknown());
    }
    let path = request.path.strip_prefix("/v1/").ok_or_else(unknown)?;
    if path == "account" {
        let id = if account.is_empty() { "acct_own" } else { account };
        return Ok(json!({"id": id, "object": "account", "created": 1_400_000_000, "country": "AT"}).to_string());
    }
    let (kind, rest) = resolve(path).ok_or_else(unknown)?;
    let allowed = state.restricted.get(kind.path);
    if let Some(permission) = allowed {
        let error = json!({"type": "invalid_request_error", "message": format!(
            "The provided key 'rk_test_****' does not have the required permissions for this endpoint on account \
             'acct_own'. Having the '{permission}' permission would allow this request to continue.")});
        return Err(Refusal::new(403, error));
    }
    let at = At { state, account, request };
    let parts: Vec<String> = rest.split('/').filter(|part| !part.is_empty()).map(decoded).collect();
    match parts.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => at.list(kind),
        [id] => at.one(kind, id),
        [id, "payment_methods"] if kind.path == "customers" => at.methods_of(id),
        [id, field] => at.nested(kind, id, field),
        _ => Err(unknown()),
    }
}

fn decoded(part: &str) -> String {
    let pair = format!("part={}", part.replace('+', "%2B"));
    url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

/// The list that a path begins with, and what follows.
fn resolve(path: &str) -> Option<(&'static Kind, &str)> {
    if path == "subscription_items" {
        return Some((kinds::find("subscriptions")?, "?/items"));
    }
    KINDS.iter().find_map(|kind| {
        let rest = path.strip_prefix(kind.path)?;
        (rest.is_empty() || rest.starts_with('/')).then_some((kind, rest))
    })
}

/// A request to an account.
struct At<'a> {
    state: &'a State,
    account: &'a str,
    request: &'a Request,
}

/// The window and page that a list was asked for.
#[derive(Debug)]
struct Wanted {
    from: i64,
    to: i64,
    after: Option<String>,
    limit: usize,
    types: Vec<String>,
}

impl At<'_> {
    fn table(&self, path: &str) -> Option<&Table> {
        self.state.table(self.account, path)
    }

    fn wanted(&self, extra: &[&str]) -> Result<Wanted, Refusal> {
        let mut wanted = Wanted { from: i64::MIN, to: i64::MAX, after: None, limit: 10, types: Vec::new() };
        for (name, value) in self.request.params() {
            let number =
                || value.parse::<i64>().map_err(|_| Refusal::invalid(format!("Invalid integer: {value}"), &name));
            match name.as_str() {
                "limit" => {
                    wanted.limit = number()?.try_into().unwrap_or(0);
                    if !(1..=100).contains(&wanted.limit) {
                        return Err(Refusal::invalid("Limit must be between 1 and 100".into(), "limit"));
                    }
                }
                "created[gte]" => wanted.from = wanted.from.max(number()?),
                "created[gt]" => wanted.from = wanted.from.max(number()? + 1),
                "created[lte]" => wanted.to = wanted.to.min(number()?),
                "created[lt]" => wanted.to = wanted.to.min(number()? - 1),
                "starting_after" => wanted.after = Some(value),
                "types[]" => wanted.types.push(value),
                other if extra.contains(&other) => {}
                other => return Err(Refusal::invalid(format!("Received unknown parameter: {other}"), other)),
            }
        }
        if wanted.types.len() > 20 {
            return Err(Refusal::invalid("types: at most 20 values".into(), "types"));
        }
        Ok(wanted)
    }

    fn list(&self, kind: &'static Kind) -> Answer {
        let extra: &[&str] = match kind.path {
            "subscriptions" => &["status"],
            "events" => &["types[]"],
            _ => &[],
        };
        let mut wanted = self.wanted(extra)?;
        if kind.path == "events" {
            let (from, to) = self.state.events_shown();
            (wanted.from, wanted.to) = (wanted.from.max(from), wanted.to.min(to));
        }
        let canceled = self.request.param("status").is_some_and(|status| status == "all");
        let Some(table) = self.table(kind.path) else { return Ok(page(Vec::new(), false, kind.path)) };
        let mut start = Bound::Unbounded;
        if let Some(after) = &wanted.after {
            let place = table.place(after).filter(|place| kind.path != "events" || place.0.0 >= wanted.from);
            let missing = || Refusal::missing(400, kind.object, after, "starting_after");
            start = Bound::Excluded(place.ok_or_else(missing)?);
        }
        let mut rows = table.rows.range((start, Bound::Unbounded)).filter(|((created, _), row)| {
            (wanted.from..=wanted.to).contains(&created.0)
                && (kind.path != "subscriptions" || canceled || row.value["status"] != "canceled")
                && (wanted.types.is_empty() || wanted.types.iter().any(|kind| row.value["type"] == kind.as_str()))
        });
        let texts: Vec<&str> = rows.by_ref().take(wanted.limit).map(|(_, row)| row.text.as_str()).collect();
        Ok(page(texts, rows.next().is_some(), kind.path))
    }

    fn one(&self, kind: &'static Kind, id: &str) -> Answer {
        if let Some(row) = self.table(kind.path).and_then(|table| table.get(id)) {
            return Ok(row.text.clone());
        }
        // Customers can still be looked up after their end; most other objects cannot.
        if kind.path == "customers" && self.state.was_deleted(self.account, id) {
            return Ok(json!({"id": id, "object": kind.object, "deleted": true}).to_string());
        }
        Err(Refusal::missing(404, kind.object, id, "id"))
    }

    fn methods_of(&self, customer: &str) -> Answer {
        if self.table("customers").and_then(|table| table.get(customer)).is_none() {
            return Err(Refusal::missing(404, "customer", customer, "customer"));
        }
        let rows = self.table("payment_methods").into_iter().flat_map(|table| table.rows.values());
        let texts = rows
            .filter(|row| row.value["customer"] == customer)
            .map(|row| (row.value["id"].as_str().unwrap_or_default().to_owned(), row.text.clone()));
        self.slice(texts.collect(), "payment_method")
    }

    fn nested(&self, kind: &'static Kind, id: &str, field: &str) -> Answer {
        let parent = self.request.param("subscription");
        let id = if id == "?" { parent.as_deref().unwrap_or_default() } else { id };
        let missing = || Refusal::missing(404, kind.object, id, "id");
        let row = self.table(kind.path).and_then(|table| table.get(id)).ok_or_else(missing)?;
        let entries = row.value[field]["data"].as_array().ok_or_else(missing)?;
        let texts =
            entries.iter().map(|entry| (entry["id"].as_str().unwrap_or_default().to_owned(), entry.to_string()));
        self.slice(texts.collect(), "entry")
    }

    /// A page of entries that stand in order.
    fn slice(&self, entries: Vec<(String, String)>, object: &str) -> Answer {
        let wanted = self.wanted(&["subscription"])?;
        let skip = match &wanted.after {
            None => 0,
            Some(after) => {
                let at = entries.iter().position(|(id, _)| id == after);
                at.ok_or_else(|| Refusal::missing(400, object, after, "starting_after"))? + 1
            }
        };
        let texts: Vec<&str> = entries.iter().skip(skip).take(wanted.limit).map(|(_, text)| text.as_str()).collect();
        let more = skip + texts.len() < entries.len();
        Ok(page(texts, more, object))
    }
}

fn page(texts: Vec<&str>, more: bool, path: &str) -> String {
    // The link names another host: a client that follows it gives its key away.
    let url = format!("http://localhost:1/v1/{path}");
    format!(r#"{{"object":"list","url":"{url}","has_more":{more},"data":[{}]}}"#, texts.join(","))
}

/// The date of a header.
fn date(now: i64) -> String {
    chrono::DateTime::from_timestamp(now, 0).unwrap_or_default().format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
