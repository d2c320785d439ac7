//! `check`: signs in, looks at the org's budget, and finds what the user may not see.

use std::collections::BTreeMap;

use ingest_core::{Problem, Result, Selection, StreamName};
use serde::Deserialize;

use crate::streams::{self, Object};
use crate::{Salesforce, client};

/// Streams whose fields are compared with what the org has: a call each.
const COMPARED: usize = 25;
/// From this share of our budget on it is worth a word.
const NEAR: f64 = 0.9;

/// One allowance of the org.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Allowance {
    max: u64,
    remaining: u64,
}

/// Finds everything that is wrong, all at once.
pub(crate) async fn check(salesforce: &Salesforce, selection: &Selection) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    match budget(salesforce).await {
        Ok(found) => problems.extend(found),
        // Nothing else can be asked.
        Err(error) => return Ok(vec![Problem::from_error(None, &error)]),
    }
    let objects = match streams::selected(salesforce, selection).await {
        Ok(objects) => objects,
        Err(error) => {
            problems.push(Problem::from_error(None, &error));
            return Ok(problems);
        }
    };
    for object in &objects {
        if !object.formulas.is_empty() && salesforce.config.formula_sweep.0.is_zero() && !object.cursors().is_empty() {
            problems.push(Problem::warning(
                Some(StreamName::from(object.name.as_str())),
                format!("{} formula fields change without a trace in the row", object.formulas.len()),
                "set `formula_sweep: 1d` to read the rows whole once a day, or leave the fields out of `columns`",
            ));
        }
    }
    if objects.len() <= COMPARED {
        for object in &objects {
            problems.extend(hidden(salesforce, object).await);
        }
    }
    Ok(problems)
}

async fn budget(salesforce: &Salesforce) -> Result<Option<Problem>> {
    let limits: BTreeMap<String, serde_json::Value> = salesforce.api.get("limits").await?.json()?;
    let daily = limits.get("DailyApiRequests").and_then(|limit| Allowance::deserialize(limit).ok());
    let Some(Allowance { max, remaining }) = daily.filter(|daily| daily.max > 0) else { return Ok(None) };
    let usage = client::Usage { used: max.saturating_sub(remaining), limit: max };
    tracing::info!(used = usage.used, limit = usage.limit, "the org's daily requests so far");
    let is_near = usage.share() >= NEAR * salesforce.config.daily_share;
    Ok(is_near.then(|| {
        Problem::warning(
            None,
            format!("the org has used {} of its {max} daily requests", usage.used),
            "runs end as partial at `daily_share`; run later, read fewer streams, or buy more calls",
        )
    }))
}

/// Fields that the org has and the user does not see, one by one.
async fn hidden(salesforce: &Salesforce, object: &Object) -> Vec<Problem> {
    #[derive(Deserialize)]
    struct Page {
        records: Vec<Definition>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Definition {
        qualified_api_name: String,
    }
    let soql = format!(
        "SELECT QualifiedApiName FROM FieldDefinition WHERE EntityDefinition.QualifiedApiName = '{}'",
        object.name
    );
    let answer = salesforce.api.sent(salesforce.api.query(&soql, false)).await;
    let page: Page = match answer.and_then(|reply| reply.json()) {
        Ok(page) => page,
        // Not every user may ask this; what can be read is read all the same.
        Err(error) => {
            tracing::debug!(stream = %object.name, %error, "the fields of an object cannot be compared");
            return Vec::new();
        }
    };
    let fields = page.records.into_iter().map(|definition| definition.qualified_api_name);
    fields
        .filter(|field| streams::is_name(field) && !object.shows(field))
        .map(|field| {
            Problem::warning(
                Some(StreamName::from(object.name.as_str())),
                format!("the field {field} is hidden from the user: it has no column"),
                format!("give the integration user read rights on {}.{field} (field-level security)", object.name),
            )
        })
        .collect()
}
