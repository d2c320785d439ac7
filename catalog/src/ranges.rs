//! A set of slice numbers written as ranges: a million finished slices cost a few bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A set of numbers, written as `0-17,19`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u32, u32)>);

impl Ranges {
    /// Adds a number.
    pub fn insert(&mut self, n: u32) {
        let at = self.0.partition_point(|(_, end)| end.checked_add(1).is_some_and(|next| next < n));
        match self.0.get_mut(at) {
            Some((start, end)) if *start <= n && n <= *end => return,
            Some((start, _)) if start.checked_sub(1) == Some(n) => *start = n,
            Some((_, end)) if end.checked_add(1) == Some(n) => *end = n,
            _ => self.0.insert(at, (n, n)),
        }
        if let Some(&(next, next_end)) = self.0.get(at + 1)
            && self.0[at].1.checked_add(1) == Some(next)
        {
            self.0[at].1 = next_end;
            self.0.remove(at + 1);
        }
    }

    /// Whether a number is in the set.
    pub fn contains(&self, n: u32) -> bool {
        let at = self.0.partition_point(|(_, end)| *end < n);
        self.0.get(at).is_some_and(|(start, _)| *start <= n)
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(|(start, end)| (end - start) as usize + 1).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (start, end)) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            if start == end { write!(f, "{comma}{start}")? } else { write!(f, "{comma}{start}-{end}")? }
        }
        Ok(())
    }
}

impl FromStr for Ranges {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (start, end) = part.split_once('-').unwrap_or((part, part));
            let number = |n: &str| n.parse::<u32>().map_err(|_| format!("\"{part}\" is not a range of numbers"));
            let (start, end) = (number(start)?, number(end)?);
            if start > end || ranges.last().is_some_and(|(_, last)| *last >= start) {
                return Err(format!("\"{part}\" is out of order"));
            }
            ranges.push((start, end));
        }
        Ok(Self(ranges))
    }
}

impl Serialize for Ranges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ranges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_any_order_become_the_same_ranges() {
        let mut ranges = Ranges::default();
        for n in [5, 3, 4, 0, 9, 1, 2, 4] {
            ranges.insert(n);
        }
        assert_eq!(ranges.to_string(), "0-5,9");
        assert_eq!(ranges.len(), 7);
        assert!(ranges.contains(0) && ranges.contains(5) && ranges.contains(9));
        assert!(!ranges.contains(6) && !ranges.contains(10));
        assert_eq!("0-5,9".parse::<Ranges>(), Ok(ranges));
        assert!("5-3".parse::<Ranges>().is_err());
    }
}
