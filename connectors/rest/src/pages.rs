//! How a list goes on: what the page that came says about the next one.

use ingest_core::json::Envelope;
use ingest_core::{Error, ErrorKind, Result};

use crate::manifest::Ends;
use crate::state::Next;
use crate::streams::{Def, Style};

/// The parameter that carries the token, offset or number of a page.
pub(crate) fn parameter(style: &Style) -> Option<&str> {
    match style {
        Style::Cursor { parameter, .. } | Style::Offset { parameter, .. } | Style::Number { parameter, .. } => {
            Some(parameter)
        }
        Style::One | Style::LinkHeader | Style::NextLink => None,
    }
}

/// What a page said.
pub(crate) struct Said<'a> {
    /// What stood beside the records; `None` where the answer is one record.
    pub envelope: Option<&'a Envelope>,
    pub records: usize,
    /// The same with a record that came a second time.
    pub came: usize,
    /// The link of the header.
    pub link: Option<String>,
    /// The JSON text of the field of the last record that the style wants.
    pub last: Option<&'a str>,
    /// What the page was asked for by.
    pub asked: Option<&'a Next>,
}

/// What comes after a page; `None` at the end. Links are as the server wrote them.
///
/// # Errors
/// `DataInvalid` where the page does not say what its style promises.
pub(crate) fn after(def: &Def, said: &Said<'_>) -> Result<Option<Next>> {
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    let picked = |name: &str| said.envelope.map(|envelope| envelope.text(name)).transpose().map(Option::flatten);
    let next = match &def.pages {
        Style::One => None,
        Style::LinkHeader => filled(said.link.clone()).map(Next::Link),
        Style::NextLink => filled(picked("next")?).map(Next::Link),
        Style::Cursor { more, .. } if *more && !says_more(said)? => None,
        Style::Cursor { field: None, .. } => filled(picked("next")?).map(Next::Token),
        Style::Cursor { field: Some(_), .. } if is_last(def, said) => None,
        Style::Cursor { field: Some(field), .. } => {
            let text = said.last.and_then(literal).ok_or_else(|| {
                Error::new(ErrorKind::DataInvalid, "the last record of a page lacks the field that leads to the next")
                    .with("field", field)
            })?;
            Some(Next::Token(text))
        }
        Style::Offset { more, total, .. } => {
            let at = number(said.asked, 0) + said.records as u64;
            let through = *total && total_of(said)?.is_some_and(|total| at >= total);
            let end = through || (*more && !says_more(said)?) || is_last(def, said);
            (!end).then_some(Next::Number(at))
        }
        Style::Number { first, more, total, .. } => {
            let at = number(said.asked, *first) + 1;
            let through = *total && total_of(said)?.is_some_and(|total| at.saturating_sub(*first) >= total);
            let end = through || (*more && !says_more(said)?) || is_last(def, said);
            (!end).then_some(Next::Number(at))
        }
    };
    Ok(next)
}

fn says_more(said: &Said<'_>) -> Result<bool> {
    let flag = said.envelope.map(|envelope| envelope.flag("more")).transpose()?.flatten();
    flag.ok_or_else(|| {
        Error::new(ErrorKind::DataInvalid, "a page does not say whether there is more")
            .hint("compare `more` in the manifest with the API")
    })
}

fn total_of(said: &Said<'_>) -> Result<Option<u64>> {
    let total = said.envelope.map(|envelope| envelope.integer("total")).transpose()?.flatten();
    Ok(total.and_then(|total| u64::try_from(total).ok()))
}

fn is_last(def: &Def, said: &Said<'_>) -> bool {
    let short = || def.size.as_ref().is_some_and(|(_, size)| said.came < *size as usize);
    said.records == 0 || (def.ends == Ends::Short && short())
}

fn number(asked: Option<&Next>, first: u64) -> u64 {
    match asked {
        Some(Next::Number(number)) => *number,
        _ => first,
    }
}

/// The text of a JSON string or number; `None` for anything else.
pub(crate) fn literal(raw: &str) -> Option<String> {
    match raw.as_bytes().first()? {
        b'"' => serde_json::from_str(raw).ok(),
        b'-' | b'0'..=b'9' => Some(raw.to_owned()),
        b't' | b'f' => Some(raw.to_owned()),
        _ => None,
    }
}
