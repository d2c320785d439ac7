//! `check`: asks for the shop, the scopes of the app, and whether the version still is what it says.

use std::collections::BTreeSet;

use ingest_core::{Error, ErrorKind, Problem, Result, Selection, StreamName};
use serde::Deserialize;
use serde_json::json;

use crate::Shopify;
use crate::config::ends;
use crate::streams::STREAMS;

/// A version is worth a word so many days before it may end.
const NOTICE: i64 = 90;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    current_app_installation: Installation,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Installation {
    access_scopes: Vec<Scope>,
}

#[derive(Deserialize)]
struct Scope {
    handle: String,
}

/// Finds everything that is wrong, all at once.
pub(crate) async fn check(shopify: &Shopify, selection: &Selection) -> Result<Vec<Problem>> {
    let query = "{ shop { id myshopifyDomain } currentAppInstallation { accessScopes { handle } } }";
    let answer: Answer = match shopify.api.ask(query, json!({})).await {
        Ok(answer) => answer,
        // Nothing else can be asked.
        Err(error) => return Ok(vec![Problem::from_error(None, &error)]),
    };
    let scopes: BTreeSet<String> =
        answer.current_app_installation.access_scopes.into_iter().map(|s| s.handle).collect();
    // The right to write holds the one to read.
    let has = |scope: &str| scopes.contains(scope) || scopes.contains(&scope.replacen("read_", "write_", 1));
    let mut problems = Vec::new();
    for def in STREAMS.iter().filter(|def| selection.matches(def.name)) {
        let stream = || Some(StreamName::from(def.name));
        if !has(def.scope) {
            let error = Error::new(ErrorKind::PermissionDenied, "the app lacks a scope")
                .with("scope", def.scope)
                .hint(format!("give the app the scope {}, or leave the stream out under `streams`", def.scope));
            problems.push(Problem::from_error(stream(), &error));
        }
        if def.name == "orders" && has(def.scope) && !scopes.contains("read_all_orders") {
            problems.push(Problem::warning(
                stream(),
                "without the scope read_all_orders only the orders of the last 60 days are seen",
                "ask Shopify for read_all_orders, if older ones are needed",
            ));
        }
    }
    problems.extend(version(shopify));
    Ok(problems)
}

fn version(shopify: &Shopify) -> Option<Problem> {
    let asked = &shopify.config.api_version;
    if let Some(fallen) = shopify.api.fallen() {
        return Some(Problem::warning(
            None,
            format!("version {asked} of the API has ended: it answers as {fallen}"),
            "set `api_version` to a version of this year, or use a newer `ingest`",
        ));
    }
    let today = chrono::DateTime::from_timestamp_micros(shopify.api.now())?.date_naive();
    let left = (ends(asked)? - today).num_days();
    (left < NOTICE).then(|| {
        Problem::warning(
            None,
            format!("version {asked} of the API may end in {} days", left.max(0)),
            "set `api_version` to a newer version, or use a newer `ingest`",
        )
    })
}
