//! `conformance.yaml`: what a connector is tested with, beside its crate. `ingest connector test` reads it, and so does
//! the crate's own test.
//!
//! ```yaml
//! # The program to test against, started in this folder; see `ingest_conformance::server`. Left out: none is needed.
//! server: [cargo, run, --quiet, --example, sample_server]
//! # A configuration that works. ${server} is the server's address (a port alone is a number), ${NAME} a variable of the
//! # environment.
//! config: {endpoint: "${server}", api_key: sample-key-7d1f}
//! # Only these streams, names or globs. Left out: all.
//! streams: [customers, orders]
//! # Configurations that must be refused, and as what.
//! refused:
//!   - {what: a wrong key, config: {endpoint: "${server}", api_key: wrong}, kind: Unauthenticated}
//! # Streams without rows.
//! empty: [refunds]
//! # A row filter and how many rows it lets through, where filters are claimed.
//! filtered: {stream: orders, filter: "total > 5", rows: 3}
//! # Texts that must be seen nowhere, beside the secret fields of the configurations.
//! secrets: [sample-key-7d1f]
//! # Checks that are left out, each with its reason.
//! skip: {F07: there is no log that could be lost}
//! # What the server is, for reports.
//! counterpart: the sample server of this crate
//! # How long one call may take, how many rows a slice may have. Left out: 60s and 1,000,000.
//! timeout: 60s
//! most_rows: 1000000
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures::FutureExt;
use ingest_core::config::Span;
use ingest_core::{Error, ErrorKind, Factory, Json, Result};
use serde::Deserialize;
use serde_json::Map;

use crate::server::{Command, Process, Server};
use crate::{CanonicalRows, Filtered, Hook, Outage, Subject};

/// What a connector is tested with.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The program to test against.
    #[serde(default)]
    pub server: Vec<String>,
    /// A configuration that works.
    pub config: Json,
    /// Only these streams.
    #[serde(default)]
    pub streams: Vec<String>,
    /// Configurations that must be refused.
    #[serde(default)]
    pub refused: Vec<Refused>,
    /// Streams without rows.
    #[serde(default)]
    pub empty: Vec<String>,
    /// A row filter.
    #[serde(default)]
    pub filtered: Option<Filter>,
    /// Texts that must be seen nowhere.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// Checks that are left out, and why.
    #[serde(default)]
    pub skip: BTreeMap<String, String>,
    /// What the server is.
    #[serde(default)]
    pub counterpart: Option<String>,
    /// How long one call may take.
    #[serde(default)]
    pub timeout: Option<Span>,
    /// How many rows a slice may have.
    #[serde(default)]
    pub most_rows: Option<usize>,
}

/// A configuration that must be refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// What is wrong with it, in words.
    pub what: String,
    /// The configuration.
    pub config: Json,
    /// The name of an [`ErrorKind`].
    pub kind: String,
}

/// A row filter, and how many rows it lets through.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The stream.
    pub stream: String,
    /// The filter, in the source's own language.
    pub filter: String,
    /// The rows that it lets through.
    pub rows: usize,
}

impl File {
    /// Reads a file.
    ///
    /// # Errors
    /// `ConfigInvalid` when it is not there or says something else than it may.
    pub fn read(path: &Path) -> Result<Self> {
        let place = |error: Error| error.with("file", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| {
            place(Error::config("cannot read what the connector is tested with").caused_by(error))
                .hint("`ingest new connector` writes such a file; docs/write-a-connector.md explains it")
        })?;
        Self::parse(&text).map_err(place)
    }

    /// Reads a text.
    ///
    /// # Errors
    /// As [`File::read`].
    pub fn parse(text: &str) -> Result<Self> {
        let file: Self = serde_json::from_value(crate::yaml::parse(text)?)
            .map_err(|error| Error::config("the file is not a conformance.yaml").caused_by(error))?;
        let unknown = file.skip.keys().find(|id| !crate::checks().any(|(known, ..)| known == id.as_str()));
        match unknown {
            Some(id) => Err(Error::config(format!("there is no check {id:?} that could be skipped"))),
            None => Ok(file),
        }
    }

    /// Starts the program to test against, in the folder of the file; `None` where there is none.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub async fn start(&self, folder: &Path) -> Result<Option<Arc<dyn Server>>> {
        match self.server.is_empty() {
            true => Ok(None),
            false => Ok(Some(Arc::new(Process::start(&self.server, folder).await?))),
        }
    }

    /// What is tested: a connector, with what this file says and the server can do.
    ///
    /// # Errors
    /// `ConfigInvalid` when `${…}` has no value, or a kind is unknown.
    pub fn subject(&self, factory: Arc<dyn Factory>, server: Option<Arc<dyn Server>>) -> Result<Subject> {
        let address = server.as_ref().map(|server| server.address());
        let filled = |config: &Json| filled(config, address.as_deref());
        let mut subject = Subject::of(factory, filled(&self.config)?);
        subject.selection.select.clone_from(&self.streams);
        for refused in &self.refused {
            let kind = ErrorKind::ALL.into_iter().find(|kind| kind.name() == refused.kind).ok_or_else(|| {
                let known: Vec<&str> = ErrorKind::ALL.iter().map(|kind| kind.name()).collect();
                Error::config(format!("{:?} is no kind of a refusal", refused.kind)).hint(known.join(", "))
            })?;
            subject = subject.refused(&refused.what, filled(&refused.config)?, kind);
        }
        subject.empty = self.empty.iter().map(|name| name.as_str().into()).collect();
        subject.filtered = self.filtered.as_ref().map(|given| Filtered {
            stream: given.stream.as_str().into(),
            filter: given.filter.clone(),
            rows: given.rows,
        });
        subject.secrets.clone_from(&self.secrets);
        subject.skips.clone_from(&self.skip);
        subject.counterpart.clone_from(&self.counterpart);
        subject.timeout = self.timeout.map_or(subject.timeout, |span| span.0);
        subject.most_rows = self.most_rows.unwrap_or(subject.most_rows);
        if let Some(server) = server {
            wire(&mut subject, &server);
        }
        Ok(subject)
    }
}

/// Gives a subject what its server can do.
fn wire(subject: &mut Subject, server: &Arc<dyn Server>) {
    let can = server.can();
    let can = |word: &str| can.iter().any(|known| known == word);
    let told = |command: Command| -> Hook {
        let server = Arc::clone(server);
        Arc::new(move || {
            let (server, command) = (Arc::clone(&server), command.clone());
            async move { server.tell(command).await.map(drop) }.boxed()
        })
    };
    if can("truth") {
        let server = Arc::clone(server);
        subject.truth = Some(Arc::new(move |stream| {
            let (server, stream) = (Arc::clone(&server), stream.to_string());
            async move { rows(server.tell(Command::Truth { stream }).await?) }.boxed()
        }));
    }
    if can("change") {
        subject.change = Some(told(Command::Change));
    }
    if can("late") {
        subject.late = Some((told(Command::LateBegin), told(Command::LateCommit)));
    }
    if can("lose_log") {
        subject.lose_log = Some(told(Command::LoseLog));
    }
    if can("outage") {
        let server = Arc::clone(server);
        let requests = Arc::new(move || {
            let server = Arc::clone(&server);
            let count = async move {
                let answer = server.tell(Command::Requests).await?;
                answer.get("count").and_then(Json::as_u64).ok_or_else(|| "the answer has no count".to_owned())
            };
            count.boxed()
        });
        subject.outage = Some(Outage { begin: told(Command::OutageBegin), end: told(Command::OutageEnd), requests });
    }
}

fn rows(mut answer: Json) -> Result<CanonicalRows, String> {
    let rows = answer.get_mut("rows").map(Json::take).unwrap_or_default();
    serde_json::from_value::<Vec<Map<String, Json>>>(rows).map_err(|error| format!("the answer has no rows: {error}"))
}

/// A configuration with a value for each `${…}`.
fn filled(config: &Json, server: Option<&str>) -> Result<Json> {
    Ok(match config {
        // A port is a number.
        Json::String(text) if text == "${server}" => {
            let address = fill(text, server)?;
            address.parse::<u16>().map_or_else(|_| Json::String(address), Json::from)
        }
        Json::String(text) => fill(text, server)?.into(),
        Json::Array(list) => Json::Array(list.iter().map(|inner| filled(inner, server)).collect::<Result<_>>()?),
        Json::Object(map) => Json::Object(
            map.iter().map(|(name, inner)| Ok((name.clone(), filled(inner, server)?))).collect::<Result<_>>()?,
        ),
        other => other.clone(),
    })
}

fn fill(text: &str, server: Option<&str>) -> Result<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, after)) = after.split_once('}') else { break };
        let value = match name {
            "server" => server.map(str::to_owned),
            name => std::env::var(name).ok(),
        };
        let value = value.ok_or_else(|| {
            Error::config(format!("${{{name}}} has no value"))
                .hint("${server} needs a `server` in the file, every other name a variable of the environment")
        })?;
        out.push_str(before);
        out.push_str(&value);
        rest = after;
    }
    Ok(out + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_documentation_can_be_read() {
        let page = include_str!("file.rs");
        let lines =
            page.lines().skip_while(|line| *line != "//! ```yaml").skip(1).take_while(|line| *line != "//! ```");
        let text: Vec<&str> = lines.map(|line| line.trim_start_matches("//!").trim_start_matches(' ')).collect();
        // The one line whose indent matters.
        let text = text.join("\n").replace("refused:\n-", "refused:\n  -");
        let file = File::parse(&text).expect("a conformance.yaml");
        assert_eq!((file.refused.len(), file.skip.len(), file.server.len()), (1, 1, 5));
    }

    #[test]
    fn places_are_filled_at_every_depth() {
        let config = serde_json::json!({"a": ["${server}/x", {"b": "${server}"}], "n": 1});
        let expected = serde_json::json!({"a": ["http://h/x", {"b": "http://h"}], "n": 1});
        assert_eq!(filled(&config, Some("http://h")).expect("filled"), expected);
        let error = filled(&config, None).expect_err("no server");
        assert!(error.to_string().contains("${server}"), "{error}");
    }

    #[test]
    fn a_check_that_does_not_exist_cannot_be_skipped() {
        let error = File::parse("config: {}\nskip: {Z99: a typo}\n").expect_err("unknown");
        assert!(error.to_string().contains("Z99"), "{error}");
    }
}
