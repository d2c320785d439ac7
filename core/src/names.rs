//! Names of streams, and the one function that makes a folder or column name of them.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The name of a stream in the source's own spelling: `public.orders`, `charges`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamName(Arc<str>);

impl StreamName {
    /// Takes a name as the source spells it.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The source's spelling.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the table's folder in the lake; see [`table_name`].
    pub fn table(&self) -> String {
        table_name(&self.0)
    }
}

impl From<&str> for StreamName {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for StreamName {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

impl AsRef<str> for StreamName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// The folder name of a stream: lower case, and each character outside `[a-z0-9_]` becomes one `_`.
///
/// Two streams of a source with one folder name are a plan error; nothing is hashed or cut in silence.
///
/// ```
/// assert_eq!(ingest_core::table_name("public.Orders"), "public_orders");
/// assert_eq!(ingest_core::table_name("../x"), "___x");
/// ```
pub fn table_name(name: &str) -> String {
    name.chars()
        .flat_map(char::to_lowercase)
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' { c } else { '_' })
        .collect()
}

/// The first word of `candidates` within a small edit distance of `word`: what an error suggests for a typo.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements, and swaps of neighbours: the commonest slip of a keyboard counts once.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1; b.len() + 1];
        for j in 0..b.len() {
            row[j + 1] = (last[j] + usize::from(a[i] != b[j])).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_safe_folders() {
        assert_eq!(table_name("Ünï.cø∂e"), "_n__c__e");
        assert_eq!(table_name("a/..%2f\0b"), "a_..%2f_b".replace(['.', '%'], "_"));
        assert_eq!(table_name("checkout/sessions"), "checkout_sessions");
    }

    #[test]
    fn nearest_finds_a_typo_and_nothing_else() {
        assert_eq!(nearest("pasword", ["host", "password"]), Some("password"));
        assert_eq!(nearest("hots", ["host", "password"]), Some("host"));
        assert_eq!(nearest("", ["host"]), None);
        assert_eq!(nearest("elephant", ["host", "password"]), None);
    }
}
