//! Jobs of the Bulk API 2.0.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::answer::{matching, refused};
use super::soql::{Query, Select};
use super::state::{JobFault, State, time};
use crate::http::{Request, Response};

/// A job with its rows, as they were when it was made.
pub(super) struct Job {
    header: String,
    lines: Vec<String>,
    looks: u32,
    fault: Option<JobFault>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct New {
    operation: String,
    query: String,
    content_type: String,
    column_delimiter: String,
    line_ending: String,
}

pub(super) fn create(state: &mut State, request: &Request) -> Response {
    let Ok(new) = serde_json::from_slice::<New>(&request.body) else {
        return refused(400, "JSON_PARSER_ERROR", "Unrecognized field");
    };
    if [new.content_type.as_str(), &new.column_delimiter, &new.line_ending] != ["CSV", "COMMA", "LF"] {
        return refused(400, "INVALIDJOB", "unknown format");
    }
    let query = match Query::parse(&new.query, state) {
        Ok(query) => query,
        Err((code, message)) => return refused(400, code, &message),
    };
    let Select::Fields(fields) = &query.select else {
        return refused(400, "FUNCTIONALITY_NOT_ENABLED", "Aggregate Relationships not supported in Bulk Query");
    };
    let fault = state.job_faults.pop_front();
    if !state.objects[&query.object].bulk || fault == Some(JobFault::Refused) {
        let message = format!("Entity '{}' is not supported by the Bulk API.", query.object);
        return refused(400, "INVALIDENTITY", &message);
    }
    let kinds: Vec<&str> = fields.iter().map(|field| kind(state, &query.object, field)).collect();
    if kinds.iter().any(|kind| matches!(*kind, "address" | "location" | "base64")) {
        return refused(400, "API_ERROR", "Selecting compound data not supported in Bulk Query");
    }
    let line = |row: &Map<String, Value>| {
        let cells = fields.iter().zip(&kinds).map(|(field, kind)| cell(kind, &row[field]));
        cells.collect::<Vec<_>>().join(",") + "\n"
    };
    let lines = matching(state, &query, new.operation == "queryAll").iter().map(line).collect();
    let header = fields.iter().map(|field| format!("\"{field}\"")).collect::<Vec<_>>().join(",") + "\n";
    let id = format!("750{:012}AAA", state.next());
    let looks = state.looks;
    state.jobs.insert(id.clone(), Job { header, lines, looks, fault });
    Response::json(
        json!({"id": id, "state": "UploadComplete", "object": query.object, "operation": new.operation}).to_string(),
    )
}

fn kind(state: &State, object: &str, field: &str) -> &'static str {
    state.objects[object].fields.iter().find(|(name, ..)| *name == field).map_or("string", |(_, kind, _)| kind)
}

/// A cell: quoted, empty for null, large numbers with an exponent.
fn cell(kind: &str, value: &Value) -> String {
    let text = match (kind, value) {
        (_, Value::Null) => String::new(),
        (_, Value::String(text)) => text.replace('"', "\"\""),
        ("datetime", Value::Number(millis)) => time(millis.as_i64().unwrap_or(0), "Z"),
        ("currency" | "double", Value::Number(number)) => match number.as_f64() {
            Some(value) if value >= 1e7 => format!("{value:E}"),
            _ => number.to_string(),
        },
        (_, value) => value.to_string(),
    };
    format!("\"{text}\"")
}

fn unknown() -> Response {
    refused(404, "NOT_FOUND", "The requested resource does not exist")
}

pub(super) fn look(state: &mut State, id: &str) -> Response {
    let Some(job) = state.jobs.get_mut(id) else { return unknown() };
    let (name, more) = match job.fault {
        _ if job.looks > 1 => {
            job.looks -= 1;
            ("InProgress", json!({}))
        }
        Some(JobFault::Failed) => ("Failed", json!({"errorMessage": "InternalServerError : row of canary-customer"})),
        Some(JobFault::Aborted) => ("Aborted", json!({})),
        Some(JobFault::Refused) | None => {
            ("JobComplete", json!({"numberRecordsProcessed": job.lines.len(), "retries": 0}))
        }
    };
    let mut answer = json!({"id": id, "state": name});
    if let (Some(answer), Some(more)) = (answer.as_object_mut(), more.as_object()) {
        answer.extend(more.clone());
    }
    Response::json(answer.to_string())
}

pub(super) fn results(state: &mut State, id: &str, request: &Request) -> Response {
    let cut = std::mem::take(&mut state.cut_results);
    let Some(job) = state.jobs.get(id) else { return unknown() };
    let skip = match request.param("locator") {
        None => 0,
        Some(locator) => match locator.strip_prefix("MT").and_then(|skip| skip.parse::<usize>().ok()) {
            Some(skip) if skip < job.lines.len() => skip,
            _ => return refused(400, "INVALIDJOB", "invalid locator"),
        },
    };
    let rows = request.param("maxRecords").and_then(|rows| rows.parse().ok()).unwrap_or(10_000);
    let lines: Vec<&str> = job.lines.iter().skip(skip).take(rows).map(String::as_str).collect();
    let end = skip + lines.len();
    let locator = if end < job.lines.len() { format!("MT{end}") } else { "null".into() };
    let count = lines.len();
    let kept = count.saturating_sub(cut);
    // A page that is cut ends inside a record.
    let torn = if cut > 0 { lines.get(kept).map_or("", |line| &line[..line.len().min(5)]) } else { "" };
    let body = format!("{}{}{torn}", job.header, lines[..kept].concat());
    Response::status(200)
        .header("content-type", "text/csv")
        .header("sforce-numberofrecords", count.to_string())
        .header("sforce-locator", locator)
        .body(body)
        .gzip()
}
