//! Problems that `check` finds at every database alike.

use ingest_core::config::is_loopback;
use ingest_core::{ErrorKind, Problem, Selection, StreamName, nearest};

use crate::Login;

/// Streams that are named in a selection and are not among those that are there. `what` says why that may be.
pub fn unknown_streams<'a>(
    selection: &Selection,
    there: impl Iterator<Item = &'a StreamName> + Clone,
    what: &str,
) -> Vec<Problem> {
    let names = selection.select.iter().filter(|name| !name.contains(['*', '?']));
    let unknown = names.filter(|name| !there.clone().any(|stream| stream.as_str() == name.as_str()));
    unknown
        .map(|name| {
            let near = nearest(name, there.clone().map(StreamName::as_str));
            let remedy =
                near.map_or("`ingest discover` lists the streams".into(), |near| format!("did you mean `{near}`?"));
            Problem::error(Some(StreamName::from(name.as_str())), what, remedy, ErrorKind::ConfigInvalid)
        })
        .collect()
}

/// A connection that anyone on the way can read. `remedy` says how the server is made to encrypt.
pub fn plaintext(login: &Login<'_>, remedy: &str) -> Option<Problem> {
    let open = login.protection().is_none() && !is_loopback(login.host);
    let what = "the connection is not encrypted: anyone on the way can read the password and the data";
    open.then(|| Problem::warning(None, what, remedy))
}

/// The first names of many.
///
/// ```
/// assert_eq!(ingest_sql::few(&["a", "b"]), "a, b");
/// assert_eq!(ingest_sql::few(&["a", "b", "c", "d", "e"]), "a, b, c and 2 more");
/// ```
pub fn few(names: &[&str]) -> String {
    match names {
        [a, b, c, _, ..] => format!("{a}, {b}, {c} and {} more", names.len() - 3),
        names => names.join(", "),
    }
}
