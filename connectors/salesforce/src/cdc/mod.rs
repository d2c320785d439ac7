//! Changes, read from the change events of an object (Change Data Capture) through the Pub/Sub API.

mod avro;
mod event;
pub(crate) mod feed;
mod grpc;
pub(crate) mod plan;
mod proto;
mod pubsub;
mod reread;
mod rows;

use ingest_core::{Error, ErrorKind, Problem, Result, StreamName};

use crate::Salesforce;
pub(crate) use pubsub::PubSub;

/// The topic on which changes of an object are published.
pub(crate) fn topic(object: &str) -> String {
    match object.strip_suffix("__c") {
        Some(custom) => format!("/data/{custom}__ChangeEvent"),
        None => format!("/data/{object}ChangeEvent"),
    }
}

/// Finds what keeps changes from being read; changes nothing.
pub(crate) async fn check(salesforce: &Salesforce, streams: &[StreamName]) -> Result<Vec<Problem>> {
    let client = match salesforce.pubsub.connect(&salesforce.api, None).await {
        Ok(client) => client,
        Err(error) => return Ok(vec![Problem::from_error(None, &error)]),
    };
    let mut problems = Vec::new();
    for stream in streams {
        let fault = match client.may_subscribe(&topic(stream.as_str())).await {
            Ok(true) => continue,
            Ok(false) => Error::new(ErrorKind::PermissionDenied, "cdc: the user may not read changes of the object")
                .hint("give the integration user read rights on the object, or \"View All Data\""),
            Err(error) => error,
        };
        problems.push(Problem::from_error(Some(stream.clone()), &fault));
    }
    Ok(problems)
}
