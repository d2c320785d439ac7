//! Requests of the stand-in and their answers.

use serde::Deserialize;
use serde_json::{Value, json};

use super::graphql::{Field, Selected, find, parse, project};
use super::state::{Operation, OperationFault, State};
use super::{ACCESS_TOKEN, CLIENT_ID, CLIENT_SECRET, Fault};
use crate::http::{Request, Response};
use crate::stand_in::count;

/// Faults that a client may repeat, for chaos.
pub(super) const PASSING: [Fault; 7] = [
    Fault::RateLimited,
    Fault::Throttled,
    Fault::Internal,
    Fault::Status(500),
    Fault::Status(503),
    Fault::Reset,
    Fault::Cut,
];

#[derive(Deserialize)]
struct Body {
    query: String,
    #[serde(default)]
    variables: Value,
}

pub(super) fn answer(state: &mut State, request: &Request) -> Response {
    if request.path == "/admin/oauth/access_token" {
        return token(state, request);
    }
    count(state);
    let fault = state.script.next_fault();
    let error =
        |code: &str| Response::json(json!({"errors": [{"message": "x", "extensions": {"code": code}}]}).to_string());
    let response = match fault {
        Some(Fault::RateLimited) => Response::status(429).header("retry-after", "2.0"),
        Some(Fault::Throttled) => error("THROTTLED"),
        Some(Fault::Internal) => error("INTERNAL_SERVER_ERROR"),
        Some(Fault::Denied) => error("ACCESS_DENIED"),
        Some(Fault::Status(status)) => Response::status(status),
        Some(Fault::Reset | Fault::Cut) | None => route(state, request),
    };
    let now = chrono::DateTime::from_timestamp(state.now(), 0).unwrap_or_default();
    let asked = request.path.split('/').nth(3).unwrap_or_default().to_owned();
    let response = response
        .header("date", now.format("%a, %d %b %Y %H:%M:%S GMT").to_string())
        .header("x-shopify-api-version", state.version.clone().unwrap_or(asked));
    match fault {
        Some(Fault::Reset) => response.reset_after(250),
        Some(Fault::Cut) => response.cut(),
        _ => response,
    }
}

fn token(state: &mut State, request: &Request) -> Response {
    let form = request.form();
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let asked = [field("grant_type"), field("client_id"), field("client_secret")];
    if asked != ["client_credentials", CLIENT_ID, CLIENT_SECRET] {
        return Response::status(400).header("content-type", "application/json").body(r#"{"error": "invalid_client"}"#);
    }
    let token = format!("shpca_{}", state.next());
    state.tokens.insert(token.clone());
    // There is no `token_type`.
    Response::json(
        json!({"access_token": token, "scope": "read_orders,read_products", "expires_in": 86_399}).to_string(),
    )
}

fn route(state: &mut State, request: &Request) -> Response {
    let token = request.header("x-shopify-access-token");
    if let Some(id) = request.path.strip_prefix("/bulk/") {
        // A signed address refuses credentials.
        if token.is_some() || request.header("authorization").is_some() {
            return Response::status(400);
        }
        return result(state, id.trim_end_matches(".jsonl"));
    }
    if !token.is_some_and(|token| token == ACCESS_TOKEN || state.tokens.contains(token)) {
        return Response::status(401).body(r#"{"errors": "[API] Invalid API key or access token"}"#);
    }
    let is_graphql =
        request.method == "POST" && request.path.starts_with("/admin/api/") && request.path.ends_with("/graphql.json");
    let body = serde_json::from_slice::<Body>(&request.body).ok();
    let Some((body, fields)) =
        body.filter(|_| is_graphql).and_then(|body| parse(&body.query).map(|fields| (body, fields)))
    else {
        return Response::json(r#"{"errors": [{"message": "syntax", "extensions": {"code": "BAD_REQUEST"}}]}"#);
    };
    let cost = 10.0;
    if state.points.0 < cost {
        let errors = json!([{"message": "Throttled", "extensions": {"code": "THROTTLED"}}]);
        let answer = json!({"errors": errors, "extensions": extensions(state, cost)});
        // The pause that the client makes brings points back.
        state.points.0 += 2.0 * cost;
        return Response::json(answer.to_string());
    }
    state.points.0 -= cost;
    let host = request.header("host").unwrap_or_default().to_owned();
    let mut data = serde_json::Map::new();
    for selected in &fields {
        let Selected::Field(field) = selected else { continue };
        data.insert(field.name.clone(), value(state, field, &body.variables, &host));
    }
    Response::json(json!({"data": data, "extensions": extensions(state, cost)}).to_string())
}

fn extensions(state: &State, cost: f64) -> Value {
    let (available, rate) = state.points;
    json!({"cost": {"requestedQueryCost": cost, "actualQueryCost": cost,
        "throttleStatus": {"maximumAvailable": 2000.0, "currentlyAvailable": available, "restoreRate": rate}}})
}

fn value(state: &mut State, field: &Field, variables: &Value, host: &str) -> Value {
    match field.name.as_str() {
        "shop" => json!({"id": "gid://shopify/Shop/1", "myshopifyDomain": "acme.myshopify.com"}),
        "currentAppInstallation" => {
            json!({"accessScopes": state.scopes.iter().map(|scope| json!({"handle": scope})).collect::<Vec<_>>()})
        }
        "bulkOperationRunQuery" => start(state, variables["query"].as_str().unwrap_or_default()),
        "node" => look(state, variables["id"].as_str().unwrap_or_default(), host),
        list => page(state, list, field, variables),
    }
}

fn page(state: &State, list: &str, field: &Field, variables: &Value) -> Value {
    let all = state.found(list, variables["query"].as_str().unwrap_or_default());
    let first = usize::try_from(variables["first"].as_u64().unwrap_or(0)).unwrap_or(0).min(250);
    let skip = variables["after"].as_str().and_then(|after| after.strip_prefix("cursor-")?.parse().ok()).unwrap_or(0);
    let nodes = field.find("nodes").map(|nodes| nodes.selection.clone()).unwrap_or_default();
    let shown: Vec<Value> = all.iter().skip(skip).take(first).map(|value| project(value, &nodes)).collect();
    let end = skip + shown.len();
    json!({"nodes": shown, "pageInfo": {"hasNextPage": end < all.len(), "endCursor": format!("cursor-{end}")}})
}

fn start(state: &mut State, query: &str) -> Value {
    let refuse = |message: &str| json!({"bulkOperation": null, "userErrors": [{"field": null, "message": message, "code": "INVALID"}]});
    if state.busy > 0 {
        state.busy -= 1;
        return refuse(
            "A bulk query operation for this app and shop is already in progress: gid://shopify/BulkOperation/7.",
        );
    }
    let parsed = parse(query);
    let root = parsed.as_deref().and_then(|fields| match fields {
        [Selected::Field(root)] => Some(root),
        _ => None,
    });
    let Some((root, node)) = root.and_then(|root| Some((root, root.find("edges")?.find("node")?))) else {
        return refuse("Bulk queries must contain at least one connection.");
    };
    let mut lines = Vec::new();
    for object in state.found(&root.name, root.text("query").unwrap_or_default()) {
        lines.push(project(object, &node.selection).to_string());
        children(object, &node.selection, &mut lines);
    }
    let id = format!("gid://shopify/BulkOperation/{}", state.next());
    let count = lines.len();
    let mut lines = lines.into_iter().map(|line| line + "\n").collect::<String>();
    let mut end = lines.len().saturating_sub(std::mem::take(&mut state.cut));
    while !lines.is_char_boundary(end) {
        end -= 1;
    }
    lines.truncate(end);
    let operation = Operation { lines, count, looks: state.looks, fault: state.operation_faults.pop_front() };
    state.operations.insert(id.clone(), operation);
    json!({"bulkOperation": {"id": id, "status": "CREATED"}, "userErrors": []})
}

/// What belongs to an object, a line each, right behind it.
fn children(object: &Value, selection: &[Selected], lines: &mut Vec<String>) {
    for selected in selection {
        let Selected::Field(field) = selected else { continue };
        let Some(node) = field.find("edges").and_then(|edges| find(&edges.selection, "node")) else { continue };
        for child in object[&field.name].as_array().into_iter().flatten() {
            let mut line = project(child, &node.selection);
            line["__parentId"] = object["id"].clone();
            lines.push(line.to_string());
        }
    }
}

fn look(state: &mut State, id: &str, host: &str) -> Value {
    let Some(operation) = state.operations.get_mut(id) else { return Value::Null };
    let n = id.rsplit('/').next().unwrap_or_default();
    let (status, error) = match operation.fault {
        _ if operation.looks > 1 => {
            operation.looks -= 1;
            ("RUNNING", None)
        }
        Some(OperationFault::Failed) => ("FAILED", Some("INTERNAL_SERVER_ERROR")),
        Some(OperationFault::Canceled) => ("CANCELED", None),
        Some(OperationFault::Denied) => ("FAILED", Some("ACCESS_DENIED")),
        None => ("COMPLETED", None),
    };
    // An operation that found nothing has no file.
    let url = (status == "COMPLETED" && operation.count > 0).then(|| format!("http://{host}/bulk/{n}.jsonl"));
    json!({"id": id, "status": status, "errorCode": error, "objectCount": operation.count.to_string(), "url": url})
}

fn result(state: &State, n: &str) -> Response {
    match state.operations.get(&format!("gid://shopify/BulkOperation/{n}")) {
        Some(operation) => {
            Response::status(200).header("content-type", "application/jsonl").body(operation.lines.clone())
        }
        None => Response::status(404),
    }
}
