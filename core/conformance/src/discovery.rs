//! Checks of what a connector says about its streams.

use std::collections::{BTreeMap, BTreeSet};

use ingest_core::{CLASS, ErrorKind, Json, Selection, Stream, columns};

use super::suite::{Positions, Suite, json, request};
use super::{Check, Checked, check, wrong};

pub(super) const CHECKS: &[Check] = &[
    check!(
        "D01",
        "there are streams, each with a name and a table of its own",
        "`schema` describes every selected stream once; two streams never share a table",
        names
    ),
    check!(
        "D02",
        "keys and cursors are columns of the schema",
        "keys and cursors name columns of the stream's schema",
        keys_and_cursors
    ),
    check!(
        "D03",
        "modes of streams are those that the connector claims",
        "the modes of streams are those of `Capabilities::modes`, and each claimed mode is had by a stream",
        modes
    ),
    check!(
        "D04",
        "schemas are sound",
        "column names are distinct and not reserved, classes are known ones, and a schema passes through JSON unchanged",
        sound
    ),
    check!(
        "D05",
        "the schema is the same at every call and in every process",
        "`schema` is the same for every call and process: positions and tables are kept for months",
        stable
    ),
    check!(
        "D07",
        "exactly the selected streams are described",
        "`schema` describes exactly the streams that the selection names",
        selected
    ),
    check!(
        "R07",
        "a stream that does not exist is an error, not an empty read",
        "a stream that does not exist is ConfigInvalid or NotFound; it never reads as empty",
        unknown_stream
    ),
];

async fn names(suite: &Suite) -> Checked {
    let streams = suite.streams(suite.open().await?.as_ref()).await?;
    if streams.is_empty() {
        return wrong("no stream is described");
    }
    let mut tables: BTreeMap<String, &Stream> = BTreeMap::new();
    for stream in &streams {
        if stream.name.as_str().is_empty() {
            return wrong("a stream has an empty name");
        }
        if let Some(other) = tables.insert(stream.name.table(), stream) {
            return wrong(format!("{} and {} would have one table", other.name, stream.name));
        }
    }
    Ok(())
}

async fn keys_and_cursors(suite: &Suite) -> Checked {
    for stream in suite.streams(suite.open().await?.as_ref()).await? {
        let cursors = stream.cursors.iter().map(|cursor| &cursor.column);
        for column in stream.key.iter().chain(cursors) {
            if stream.schema.field_with_name(column).is_err() {
                return wrong(format!("stream {} has no column {column:?}", stream.name));
            }
        }
    }
    Ok(())
}

async fn modes(suite: &Suite) -> Checked {
    let streams = suite.streams(suite.open().await?.as_ref()).await?;
    let claimed = &suite.spec.capabilities.modes;
    for stream in &streams {
        if stream.modes.is_empty() {
            return wrong(format!("stream {} has no mode", stream.name));
        }
        if let Some(mode) = stream.modes.iter().find(|mode| !claimed.contains(mode)) {
            return wrong(format!("stream {} has mode {mode}, which the connector does not claim", stream.name));
        }
    }
    // A claim may need another configuration (a log that is switched on), so all streams are asked only by their sum.
    let had: BTreeSet<_> = streams.iter().flat_map(|stream| &stream.modes).collect();
    match claimed.iter().find(|mode| !had.contains(mode)) {
        Some(mode) => wrong(format!("no stream under test has mode {mode}, which the connector claims")),
        None => Ok(()),
    }
}

async fn sound(suite: &Suite) -> Checked {
    for stream in suite.streams(suite.open().await?.as_ref()).await? {
        let name = &stream.name;
        let mut seen = BTreeSet::new();
        if stream.schema.fields().is_empty() {
            return wrong(format!("stream {name} has no columns"));
        }
        for field in stream.schema.fields() {
            if field.name().is_empty() || !seen.insert(field.name()) {
                return wrong(format!("stream {name} has the column {:?} twice, or without a name", field.name()));
            }
            if columns::is_reserved(field.name()) {
                return wrong(format!("column {:?} of stream {name} has a reserved name", field.name()));
            }
            if let Some(class) = field.metadata().get(CLASS)
                && !["pii", "sensitive", "restricted"].contains(&class.as_str())
            {
                return wrong(format!("column {:?} of stream {name} has the unknown class {class:?}", field.name()));
            }
        }
        let back: Result<Stream, _> = serde_json::from_str(&json(&stream)?);
        match back {
            Ok(back) if back.schema == stream.schema => {}
            Ok(_) => return wrong(format!("the schema of stream {name} is another one after JSON")),
            Err(error) => return wrong(format!("stream {name} cannot be read back from JSON: {error}")),
        }
    }
    Ok(())
}

async fn stable(suite: &Suite) -> Checked {
    let source = suite.open().await?;
    let first = suite.streams(source.as_ref()).await?;
    let again = suite.streams(source.as_ref()).await?;
    let elsewhere = suite.streams(suite.open().await?.as_ref()).await?;
    for (second, what) in [(again, "a second call"), (elsewhere, "another process")] {
        // Values, not texts: the metadata of a field has no order.
        let shape = |streams: &[Stream]| -> Result<Json, super::Fault> {
            // Estimates may change at any time.
            let described = streams.iter().map(|s| (&s.name, &s.schema, &s.key, &s.modes, &s.cursors, &s.group));
            serde_json::to_value(described.collect::<Vec<_>>())
                .map_err(|error| super::Fault::Wrong(format!("cannot be written as JSON: {error}")))
        };
        if shape(&first)? != shape(&second)? {
            return wrong(format!("{what} describes the streams differently"));
        }
    }
    Ok(())
}

async fn selected(suite: &Suite) -> Checked {
    let source = suite.open().await?;
    let all = suite.streams(source.as_ref()).await?;
    let Some(one) = all.first().map(|stream| stream.name.as_str().to_owned()) else {
        return wrong("no stream is described");
    };
    let names = |streams: Vec<Stream>| streams.into_iter().map(|s| s.name.as_str().to_owned()).collect::<BTreeSet<_>>();
    let mut others: BTreeSet<String> = all.iter().map(|s| s.name.as_str().to_owned()).collect();
    others.remove(&one);
    let only = Selection { select: vec![one.clone()], exclude: Vec::new() };
    let found = names(suite.schema(source.as_ref(), &only).await?);
    if found != BTreeSet::from([one.clone()]) {
        return wrong(format!("`select: [{one}]` describes {found:?}"));
    }
    let without = Selection { select: suite.subject.selection.select.clone(), exclude: vec![one.clone()] };
    let found = names(suite.schema(source.as_ref(), &without).await?);
    if found != others {
        return wrong(format!("`exclude: [{one}]` describes {found:?}, not {others:?}"));
    }
    Ok(())
}

async fn unknown_stream(suite: &Suite) -> Checked {
    let source = suite.open().await?;
    let streams = suite.streams(source.as_ref()).await?;
    let Some(mut stream) = streams.into_iter().next() else { return wrong("no stream is described") };
    let mode = *stream.modes.first().unwrap_or(&ingest_core::Mode::Full);
    stream.name = format!("{}_that_does_not_exist", stream.name).into();
    let request = request(&[&stream], mode, &Positions::new());
    let error = match suite.call("plan", source.plan(&request)).await? {
        Err(error) => error,
        Ok(plan) => {
            let Some(slice) = plan.slices.first() else {
                return wrong("`plan` finds nothing to do for a stream that does not exist");
            };
            let mut out = crate::out::Collected::new();
            let version = suite.spec.state_version;
            match suite.call("extract", source.extract(slice, version, None, &mut out)).await? {
                Err(error) => error,
                Ok(done) => return wrong(format!("a stream that does not exist reads as empty: {done:?}")),
            }
        }
    };
    match error.kind() {
        ErrorKind::ConfigInvalid | ErrorKind::NotFound => Ok(()),
        kind => wrong(format!("a stream that does not exist fails as {kind}, not as ConfigInvalid or NotFound")),
    }
}
