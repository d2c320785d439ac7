//! What stands around the records of a page.

use super::literal;
use crate::{Error, ErrorKind, Result};

/// Where a page holds its records, and which fields around them the caller wants.
///
/// ```
/// use ingest_core::json::PageShape;
/// let stripe = PageShape::at("data").pick("has_more");
/// let hubspot = PageShape::at("results").pick_at("after", &["paging", "next", "after"]);
/// let bare_list = PageShape::root();
/// # let _ = (stripe, hubspot, bare_list);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageShape {
    pub(super) records: Vec<String>,
    pub(super) picks: Vec<(String, Vec<String>)>,
    pub(super) optional: bool,
}

impl PageShape {
    /// The page is itself the list of records.
    pub fn root() -> Self {
        Self::default()
    }

    /// The records are the list under this key.
    pub fn at(key: impl Into<String>) -> Self {
        Self { records: vec![key.into()], ..Self::default() }
    }

    /// The records are the list under these nested keys, outermost first.
    pub fn at_path(path: &[&str]) -> Self {
        Self { records: path.iter().map(|key| (*key).to_owned()).collect(), ..Self::default() }
    }

    /// Picks a field beside the records.
    #[must_use]
    pub fn pick(self, key: &str) -> Self {
        self.pick_at(key, &[key])
    }

    /// Picks a field under nested keys, outermost first, and calls it `name`.
    #[must_use]
    pub fn pick_at(mut self, name: &str, path: &[&str]) -> Self {
        self.picks.push((name.to_owned(), path.iter().map(|key| (*key).to_owned()).collect()));
        self
    }

    /// A page without its list, or with null in its place, is a page without records, not an error.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

/// What was picked from around the records of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// How many records the page held.
    pub records: usize,
    pub(super) picked: Vec<(String, Option<String>)>,
}

impl Envelope {
    /// The JSON text of a field; `None` when it was absent, null, or not picked.
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.picked.iter().find(|(key, _)| key == name)?.1.as_deref().filter(|raw| *raw != "null")
    }

    /// A text or number as text: cursors and links.
    ///
    /// # Errors
    /// `DataInvalid` when it is neither.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        let text = literal::string(raw).map(Into::into).or_else(|| literal::number(raw).map(str::to_owned));
        text.map(Some).ok_or_else(|| wrong(name, "a text"))
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// `DataInvalid` when it is neither.
    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        match self.raw(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(wrong(name, "true or false")),
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// `DataInvalid` when it is not.
    pub fn integer(&self, name: &str) -> Result<Option<i64>> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        literal::integer(raw).map(Some).ok_or_else(|| wrong(name, "a whole number"))
    }
}

fn wrong(name: &str, expected: &str) -> Error {
    Error::new(ErrorKind::DataInvalid, format!("a field beside the records is not {expected}")).with("field", name)
}
