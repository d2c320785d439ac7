//! Slices of a key range.

use serde::{Deserialize, Serialize};

/// A range of key values: above `after`, up to and including `upto`. An end that is `None` is open.
///
/// Values are texts as the server prints them; the connector writes them into SQL with
/// [`Dialect::text`](crate::Dialect::text), and the server compares them as what the column is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRange {
    /// Exclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Inclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upto: Option<String>,
}

impl KeyRange {
    /// The conditions, with `column` already quoted and `literal` writing a value.
    ///
    /// # Errors
    /// Those of `literal`.
    pub fn conditions<E>(
        &self,
        column: &str,
        literal: impl Fn(&str) -> std::result::Result<String, E>,
    ) -> std::result::Result<Vec<String>, E> {
        let mut conditions = Vec::with_capacity(2);
        if let Some(after) = &self.after {
            conditions.push(format!("{column} > {}", literal(after)?));
        }
        if let Some(upto) = &self.upto {
            conditions.push(format!("{column} <= {}", literal(upto)?));
        }
        Ok(conditions)
    }
}

/// Cuts the whole range of keys at bounds that are sorted as the server sorts them.
///
/// Bounds that repeat count once. The first and the last range are open, so that together they hold every key, also
/// those that were not there when the bounds were taken.
///
/// ```
/// let ranges = ingest_sql::cut(["10", "10", "20"].map(String::from));
/// assert_eq!(ranges.len(), 3);
/// assert_eq!((ranges[1].after.as_deref(), ranges[1].upto.as_deref()), (Some("10"), Some("20")));
/// assert_eq!((ranges[2].after.as_deref(), ranges[2].upto.as_deref()), (Some("20"), None));
/// ```
pub fn cut(bounds: impl IntoIterator<Item = String>) -> Vec<KeyRange> {
    let mut ranges = Vec::new();
    let mut after: Option<String> = None;
    for bound in bounds {
        if after.as_ref() == Some(&bound) {
            continue;
        }
        ranges.push(KeyRange { after: after.take(), upto: Some(bound.clone()) });
        after = Some(bound);
    }
    ranges.push(KeyRange { after, upto: None });
    ranges
}

/// Cuts integer keys of up to 64 bits, with or without sign, between the smallest and the largest into ranges of equal width:
/// right for keys without large gaps where no statistics are at hand.
///
/// ```
/// let ranges = ingest_sql::cut_integers(1, 100, 4);
/// assert_eq!(ranges.len(), 4);
/// assert_eq!(ranges[0].upto.as_deref(), Some("25"));
/// ```
pub fn cut_integers(least: impl Into<i128>, greatest: impl Into<i128>, ranges: u32) -> Vec<KeyRange> {
    let (least, greatest) = (least.into(), greatest.into());
    let ranges = i128::from(ranges.max(1));
    let width = greatest - least + 1;
    let bounds = (1..ranges).map(|i| least - 1 + width * i / ranges).filter(|bound| *bound >= least);
    cut(bounds.map(|bound| bound.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(range: &KeyRange, key: i64) -> bool {
        let number = |text: &String| text.parse::<i64>().expect("a number");
        range.after.as_ref().is_none_or(|after| key > number(after))
            && range.upto.as_ref().is_none_or(|upto| key <= number(upto))
    }

    #[test]
    fn every_key_is_in_exactly_one_range() {
        for (least, greatest, count) in [(1, 10, 3), (-5, 5, 11), (0, 0, 4), (i64::MIN, i64::MAX, 7)] {
            let ranges = cut_integers(least, greatest, count);
            for key in [i64::MIN, -6, -5, -1, 0, 1, 2, 3, 4, 5, 9, 10, 11, i64::MAX] {
                assert_eq!(ranges.iter().filter(|range| holds(range, key)).count(), 1, "{least} {greatest} {key}");
            }
        }
    }

    #[test]
    fn keys_without_a_sign_are_cut_up_to_the_largest() {
        let ranges = cut_integers(u64::MAX - 99, u64::MAX, 4);
        assert_eq!(ranges[0].upto.as_deref(), Some("18446744073709551540"));
        assert_eq!(ranges.len(), 4);
    }

    #[test]
    fn no_bounds_give_one_open_range() {
        assert_eq!(cut([]), vec![KeyRange::default()]);
    }
}
