//! `check`: every missing right at once, found by asking for one object of each list.

use std::collections::BTreeMap;

use futures::StreamExt;
use ingest_core::{Error, ErrorKind, Problem, Result, Selection, StreamName};
use serde::Deserialize;

use crate::Stripe;
use crate::pages::escaped;
use crate::streams::{Changes, Def, Origin, STREAMS};

/// Asks for the account, then for one object of the list of each selected stream, in each account.
pub(crate) async fn check(stripe: &Stripe, selection: &Selection) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let selected: Vec<&'static Def> = STREAMS.iter().filter(|def| selection.matches(def.name)).collect();
    for account in stripe.config.accounts() {
        let account = account.as_deref();
        match stripe.api.get(account, "account", "account", &[]).await {
            Ok(_) => {}
            // A restricted key can do without this right, unless it is the account itself that is refused.
            Err(error) if error.kind() == ErrorKind::PermissionDenied && account.is_none() => {}
            Err(error) => {
                problems.push(Problem::from_error(None, &error));
                continue;
            }
        }
        lists(stripe, account, &selected, &mut problems).await;
    }
    Ok(problems)
}

async fn lists(stripe: &Stripe, account: Option<&str>, selected: &[&'static Def], problems: &mut Vec<Problem>) {
    let mut needed: BTreeMap<&'static str, (&'static Def, Vec<&'static Def>)> = BTreeMap::new();
    for def in selected {
        let list = def.list();
        needed.entry(list.path).or_insert((list, Vec::new())).1.push(def);
    }
    let calls: Vec<_> = needed.values().map(|(list, streams)| one(stripe, account, list, streams)).collect();
    let answers: Vec<_> = futures::stream::iter(calls).buffered(stripe.at_once()).collect().await;
    for (answer, (_, streams)) in answers.into_iter().zip(needed.into_values()) {
        let Err(error) = answer else { continue };
        for def in streams {
            problems.push(Problem::from_error(Some(StreamName::from(def.name)), &error));
        }
    }
    // The feed is needed by every stream that follows it; told once.
    if selected.iter().any(|def| def.changes == Changes::Events)
        && !selected.iter().any(|def| def.name == "events")
        && let Err(error) = ask(stripe, account, "events", "events").await
    {
        problems.push(Problem::from_error(None, &error));
    }
}

/// One object of a list, and what belongs to it where a stream is listed so.
async fn one(stripe: &Stripe, account: Option<&str>, list: &Def, streams: &[&'static Def]) -> Result<()> {
    let account = account.filter(|_| !list.platform);
    let first = ask(stripe, account, list.path, list.path).await?;
    let Some(first) = first else { return Ok(()) };
    for def in streams {
        if let Origin::Each { path, .. } = def.origin {
            ask(stripe, account, path, &path.replace("{}", &escaped(&first))).await?;
        }
    }
    Ok(())
}

/// The id of the first object of a list.
async fn ask(stripe: &Stripe, account: Option<&str>, endpoint: &str, path: &str) -> Result<Option<String>> {
    #[derive(Deserialize)]
    struct Page {
        data: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        id: String,
    }
    let body = stripe.api.get(account, endpoint, path, &[("limit", "1".into())]).await?;
    let page: Page = serde_json::from_slice(&body).map_err(|_| {
        Error::new(ErrorKind::DataInvalid, "an answer is not the list that was asked for")
            .with("path", endpoint)
            .hint("`endpoint` does not lead to Stripe's API")
    })?;
    Ok(page.data.into_iter().next().map(|entry| entry.id))
}
