//! Requests of the stand-in and their answers.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use serde_json::{Map, Value, json};

use super::soql::{Query, Select};
use super::state::{State, time};
use super::{CLIENT_ID, CLIENT_SECRET, Fault, REFRESH_TOKEN, jobs};
use crate::http::{Request, Response};
use crate::stand_in::count;

/// The org.
pub(super) const ORG: &str = "00D000000000001AAA";
/// Bytes of a request's line and headers that are taken.
const URL_BYTES: usize = 16_384;

/// Faults that a client may repeat, for chaos.
pub(super) const PASSING: [Fault; 5] =
    [Fault::Concurrent, Fault::Status(500), Fault::Status(503), Fault::Reset, Fault::Cut];

pub(super) fn answer(state: &mut State, request: &Request) -> Response {
    if request.path == "/services/oauth2/token" {
        return token(state, request);
    }
    count(state);
    state.usage.0 += 1;
    let fault = state.script.next_fault();
    let response = match fault {
        Some(Fault::Concurrent) => {
            refused(403, "REQUEST_LIMIT_EXCEEDED", "ConcurrentRequests (Concurrent API Requests) Limit exceeded.")
        }
        Some(Fault::Quota) => refused(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded."),
        Some(Fault::Status(status)) => refused(status, "UNKNOWN_EXCEPTION", "An unexpected error occurred"),
        Some(Fault::Html) => Response::html("<html>Maintenance</html>"),
        Some(Fault::SessionEnds) => {
            state.end_sessions();
            route(state, request)
        }
        Some(Fault::Reset | Fault::Cut) | None => route(state, request),
    };
    let now = chrono::DateTime::from_timestamp_millis(state.now()).unwrap_or_default();
    let response = response
        .header("date", now.format("%a, %d %b %Y %H:%M:%S GMT").to_string())
        .header("sforce-limit-info", format!("api-usage={}/{}", state.usage.0, state.usage.1));
    match fault {
        Some(Fault::Reset) => response.reset_after(400),
        Some(Fault::Cut) => response.cut(),
        _ => response,
    }
}

/// An error of the API: a list of codes.
pub(super) fn refused(status: u16, code: &str, message: &str) -> Response {
    let body = json!([{"errorCode": code, "message": message}]).to_string();
    Response::status(status).header("content-type", "application/json;charset=UTF-8").body(body)
}

fn token(state: &mut State, request: &Request) -> Response {
    let form = request.form();
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let refuse = |code: &str| {
        let body = json!({"error": code, "error_description": format!("refused {form:?}")}).to_string();
        Response::status(400).header("content-type", "application/json").body(body)
    };
    let known = field("client_id") == CLIENT_ID && field("client_secret") == CLIENT_SECRET;
    let mut more = Map::new();
    match field("grant_type") {
        "client_credentials" if known => {}
        "client_credentials" => return refuse("invalid_client"),
        "refresh_token" if known && field("refresh_token") == REFRESH_TOKEN => {
            if state.rotates {
                more.insert("refresh_token".into(), "canary-of-the-next-run".into());
            }
        }
        "urn:ietf:params:oauth:grant-type:jwt-bearer" if is_signed(state, field("assertion")) => {}
        "refresh_token" | "urn:ietf:params:oauth:grant-type:jwt-bearer" => return refuse("invalid_grant"),
        _ => return refuse("unsupported_grant_type"),
    }
    let token = format!("00D!session-{}", state.next());
    state.tokens.insert(token.clone());
    let own = format!("http://{}", request.header("host").unwrap_or_default());
    let instance = state.instance.clone().unwrap_or(own);
    // There is no `expires_in`.
    let mut answer = json!({"access_token": token, "instance_url": instance, "token_type": "Bearer",
        "id": "https://login.salesforce.com/id/00D000000000001AAA/005000000000001AAA",
        "issued_at": state.now().to_string(), "signature": "c2ln", "scope": "api"});
    if let Some(answer) = answer.as_object_mut() {
        answer.extend(more);
    }
    Response::json(answer.to_string())
}

/// Whether a statement is signed by the key that the server holds, for it, by the client, and not too old.
fn is_signed(state: &State, assertion: &str) -> bool {
    let (Some(key), Some((signed, signature))) = (&state.key, assertion.rsplit_once('.')) else { return false };
    let Some((head, claims)) = signed.split_once('.') else { return false };
    let json = |text: &str| -> Option<Value> { serde_json::from_slice(&BASE64.decode(text).ok()?).ok() };
    let (Some(head), Some(claims), Ok(signature)) = (json(head), json(claims), BASE64.decode(signature)) else {
        return false;
    };
    let scheme = rustls::SignatureScheme::RSA_PKCS1_SHA256;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let algorithms = provider.signature_verification_algorithms.mapping;
    let holds = algorithms.iter().filter(|(known, _)| *known == scheme).any(|(_, algorithms)| {
        algorithms.iter().any(|algorithm| algorithm.verify_signature(key, signed.as_bytes(), &signature).is_ok())
    });
    let left = claims["exp"].as_i64().unwrap_or(0) - state.now() / 1_000;
    holds
        && head["alg"] == "RS256"
        && claims["iss"] == CLIENT_ID
        && claims["sub"] == "user@example.com"
        && claims["aud"] == "https://login.salesforce.com"
        && (1..=300).contains(&left)
}

fn route(state: &mut State, request: &Request) -> Response {
    let length = request.path.len()
        + request.query.len()
        + request.headers.iter().map(|(n, v)| n.len() + v.len() + 4).sum::<usize>();
    if length > URL_BYTES {
        return refused(414, "URI_TOO_LONG", "URI Too Long");
    }
    let authorization = request.header("authorization").unwrap_or_default();
    let token = authorization.strip_prefix("Bearer ").unwrap_or_default();
    if !state.tokens.contains(token) {
        return refused(401, "INVALID_SESSION_ID", "Session expired or invalid");
    }
    let Some(path) = request.path.strip_prefix("/services/data/v62.0/") else {
        return refused(404, "NOT_FOUND", "The requested resource does not exist");
    };
    if state.ended {
        return refused(410, "GONE", "This API version has been retired");
    }
    let parts: Vec<&str> = path.split('/').collect();
    match (request.method.as_str(), &parts[..]) {
        ("GET", ["limits"]) => limits(state),
        ("GET", ["sobjects"]) => {
            let objects = state.objects.keys().map(|name| json!({"name": name, "queryable": true}));
            Response::json(json!({"encoding": "UTF-8", "sobjects": objects.collect::<Vec<_>>()}).to_string())
        }
        ("GET", ["sobjects", name, "describe"]) => describe(state, name),
        ("GET", ["query"]) => query(state, request, false),
        ("GET", ["queryAll"]) => query(state, request, true),
        ("GET", ["query", locator]) => more(state, locator, request),
        ("POST", ["jobs", "query"]) => jobs::create(state, request),
        ("GET", ["jobs", "query", id]) => jobs::look(state, id),
        ("GET", ["jobs", "query", id, "results"]) => jobs::results(state, id, request),
        _ => refused(404, "NOT_FOUND", "The requested resource does not exist"),
    }
}

fn limits(state: &State) -> Response {
    let (used, limit) = state.usage;
    let daily = json!({"Max": limit, "Remaining": limit.saturating_sub(used)});
    Response::json(
        json!({"DailyApiRequests": daily, "DailyBulkV2QueryJobs": {"Max": 10000, "Remaining": 10000}}).to_string(),
    )
}

fn describe(state: &State, name: &str) -> Response {
    // Paths do not tell cases apart.
    let found = state.objects.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    let Some((name, object)) = found else {
        return refused(404, "NOT_FOUND", "The requested resource does not exist");
    };
    let fields = object.fields.iter().filter(|(field, ..)| !object.hidden.contains(*field)).map(|(field, kind, more)| {
        let mut described = json!({"name": field, "type": kind, "soapType": "xsd:string", "nillable": *field != "Id",
            "precision": 0, "scale": 0, "calculated": false});
        if let (Some(described), Some(more)) = (described.as_object_mut(), more.as_object()) {
            described.extend(more.clone());
        }
        described
    });
    Response::json(json!({"name": name, "queryable": true, "fields": fields.collect::<Vec<_>>()}).to_string())
}

fn query(state: &mut State, request: &Request, all: bool) -> Response {
    let query = match Query::parse(&request.param("q").unwrap_or_default(), state) {
        Ok(query) => query,
        Err((code, message)) => return refused(400, code, &message),
    };
    if query.object == "Organization" {
        return Response::json(json!({"totalSize": 1, "done": true, "records": [{"Id": ORG}]}).to_string());
    }
    if query.object == "FieldDefinition" {
        let object = query.compared().and_then(|name| state.objects.get(name));
        let fields = object.into_iter().flat_map(|object| &object.fields);
        let records: Vec<_> = fields.map(|(name, ..)| json!({"QualifiedApiName": name})).collect();
        return Response::json(json!({"totalSize": records.len(), "done": true, "records": records}).to_string());
    }
    let rows = matching(state, &query, all);
    let total = rows.len();
    match &query.select {
        Select::Count => Response::json(json!({"totalSize": total, "done": true, "records": []}).to_string()),
        Select::Min(field, name) => {
            let least = rows.iter().filter_map(|row| row[field].as_i64()).min();
            let least = least.map_or(Value::Null, |millis| time(millis, "+0000").into());
            let record = json!({"attributes": {"type": "AggregateResult"}, name: least});
            Response::json(json!({"totalSize": 1, "done": true, "records": [record]}).to_string())
        }
        Select::Fields(fields) => {
            let records = rows.iter().map(|row| record(state, &query.object, fields, row)).collect();
            let locator = format!("01g{:015}", state.next());
            state.locators.insert(locator.clone(), records);
            let mut page = page(state, &locator, request);
            page["totalSize"] = total.into();
            Response::json(page.to_string())
        }
    }
}

/// The rows of a query, in the order of their ids; without one an order of the server's own.
pub(super) fn matching(state: &State, query: &Query, all: bool) -> Vec<Map<String, Value>> {
    let is_live = |row: &Map<String, Value>| {
        row.get("IsDeleted") != Some(&Value::Bool(true)) && row.get("IsArchived") != Some(&Value::Bool(true))
    };
    let rows = state.visible(&query.object).filter(|row| (all || is_live(row)) && query.takes(row));
    let mut rows: Vec<_> = rows.cloned().collect();
    if !query.ordered {
        rows.reverse();
    }
    rows
}

fn record(state: &State, object: &str, fields: &[String], row: &Map<String, Value>) -> Value {
    let mut record = Map::new();
    record.insert("attributes".into(), json!({"type": object, "url": "https://evil.example.net/x"}));
    for field in fields {
        let kind = state.objects[object].fields.iter().find(|(name, ..)| name == field).map(|(_, kind, _)| *kind);
        let value = match (kind, &row[field]) {
            (Some("datetime"), Value::Number(millis)) => time(millis.as_i64().unwrap_or(0), "+0000").into(),
            (_, Value::String(text)) if text.is_empty() => Value::Null,
            (_, value) => value.clone(),
        };
        record.insert(field.clone(), value);
    }
    Value::Object(record)
}

fn more(state: &mut State, locator: &str, request: &Request) -> Response {
    let Some((id, skip)) = locator.rsplit_once('-') else {
        return refused(400, "INVALID_QUERY_LOCATOR", "invalid query locator");
    };
    let (Some(_), Ok(_)) = (state.locators.get(id), skip.parse::<usize>()) else {
        return refused(400, "INVALID_QUERY_LOCATOR", "invalid query locator");
    };
    Response::json(page(state, locator, request).to_string())
}

/// A page from a locator on: `01g…` or `01g…-2000`.
fn page(state: &State, locator: &str, request: &Request) -> Value {
    let (id, skip) = locator.rsplit_once('-').unwrap_or((locator, "0"));
    let skip: usize = skip.parse().unwrap_or(0);
    let asked = request.header("sforce-query-options").and_then(|options| options.strip_prefix("batchSize="));
    let asked = asked.and_then(|rows| rows.parse().ok()).unwrap_or(2_000);
    let rows = state.page_rows.min(asked);
    let all = state.locators.get(id);
    let records: Vec<&Value> = all.into_iter().flatten().skip(skip).take(rows).collect();
    let end = skip + records.len();
    let done = end >= all.map_or(0, std::collections::VecDeque::len);
    let mut page = json!({"totalSize": end, "done": done, "records": records});
    if !done {
        page["nextRecordsUrl"] = format!("/services/data/v62.0/query/{id}-{end}").into();
    }
    page
}
