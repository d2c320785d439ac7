//! `check`: one page of each selected stream, and what a person should know about the others.

use ingest_core::{ErrorKind, Problem, Result, Selection};

use crate::Rest;
use crate::sample;
use crate::streams::{self, Def};
use crate::walk::{Bounds, Walk, ask};

/// Asks for the first page of each selected stream.
pub(crate) async fn check(rest: &Rest, selection: &Selection) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for def in rest.defs.values().filter(|def| selection.matches(def.name.as_str())) {
        let Err(error) = one(rest, def).await else { continue };
        match error.kind() {
            // Every other stream would say the same.
            ErrorKind::Unauthenticated
            | ErrorKind::Unavailable
            | ErrorKind::Timeout
            | ErrorKind::RateLimited
            | ErrorKind::QuotaExhausted => {
                problems.push(Problem::from_error(None, &error));
                return Ok(problems);
            }
            ErrorKind::Cancelled => return Err(error),
            _ => problems.push(Problem::from_error(Some(def.name.clone()), &error)),
        }
    }
    Ok(problems)
}

/// The first page of a stream, of its first parent's list if it has one, read as a run reads it.
async fn one(rest: &Rest, def: &std::sync::Arc<Def>) -> Result<()> {
    let parent = match &def.parent {
        Some(parent) => match sample::parents(rest, parent, 1).await?.into_iter().next() {
            Some(first) => Some(first),
            None => return Ok(()),
        },
        None => None,
    };
    let fields = sample::fields(rest, def).await?;
    let schema = streams::schema_of(crate::rows::own_fields(def, &fields));
    let first = ask(def, Bounds::default(), parent.as_ref())?;
    let mut walk = Walk::start(&rest.api, def, first, schema, Bounds::default(), None)?;
    sample::page_of(&mut walk, def).await?;
    Ok(())
}
