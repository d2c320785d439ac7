//! Text whose fields stand at fixed places of each line.
//!
//! Places are counted in characters. Blanks around a field are not part of it; a line that ends before a field gives null.

use std::io::{BufRead, BufReader, Read};
use std::ops::{ControlFlow, RangeInclusive};

use super::records::Take;
use crate::input::{CHUNK, Limits, Text};
use crate::options::StreamOptions;
use crate::store::{Fault, Reading};

/// A column and its places in a line, counted from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The name of the column.
    pub name: String,
    /// Its characters.
    pub range: RangeInclusive<usize>,
}

impl Place {
    /// Reads `9-38`, `9` or `9-`, counted from 1.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let wrong =
            || format!("\"{text}\" is no place in a line; write e.g. 1-8, 9 or 39-, counted in characters from 1");
        let number = |text: &str| text.trim().parse::<usize>().ok().filter(|n| *n > 0).ok_or_else(wrong);
        let (from, to) = match text.split_once('-') {
            None => (number(text)?, number(text)?),
            Some((from, to)) if to.trim().is_empty() => (number(from)?, usize::MAX),
            Some((from, to)) => (number(from)?, number(to)?),
        };
        if to < from {
            return Err(wrong());
        }
        Ok(Self { name: name.to_owned(), range: from - 1..=to.saturating_sub(1) })
    }
}

/// Gives the records of a file.
pub fn read(reading: &Reading, options: &StreamOptions, limits: Limits, take: &mut dyn Take) -> Result<(), Fault> {
    take.names(options.positions.iter().map(|place| place.name.clone()).collect())?;
    let mut lines = Lines {
        read: BufReader::with_capacity(CHUNK, Text::open(reading, options, limits)?),
        line: Vec::new(),
        number: 0,
        most: limits.record,
    };
    let mut fields = vec![String::new(); options.positions.len()];
    let end = options.positions.iter().map(|place| place.range.end().saturating_add(1)).max().unwrap_or(0);
    while let Some(is_whole) = lines.next()? {
        let line = lines.number;
        if line <= options.skip {
            continue;
        }
        if !is_whole {
            take.bad(&format!("line {line}: LimitExceeded: longer than `max_record`"), &lines.line)?;
            continue;
        }
        let text = match std::str::from_utf8(&lines.line) {
            Ok(text) => text,
            Err(e) => {
                let why = format!("line {line}: invalid UTF-8 at byte {} of it", e.valid_up_to() + 1);
                take.bad(&why, &lines.line)?;
                continue;
            }
        };
        if text.trim().is_empty() {
            continue;
        }
        if !from(text, end).trim().is_empty() {
            take.bad(&format!("line {line}: text behind place {end}, the last one of `positions`"), text.as_bytes())?;
            continue;
        }
        for (field, place) in fields.iter_mut().zip(&options.positions) {
            field.clear();
            field.push_str(within(text, &place.range).trim());
        }
        if let ControlFlow::Break(()) = take.record(&fields)? {
            break;
        }
    }
    Ok(())
}

/// What begins at a character.
fn from(text: &str, at: usize) -> &str {
    if text.is_ascii() {
        return text.get(at..).unwrap_or_default();
    }
    text.char_indices().nth(at).and_then(|(byte, _)| text.get(byte..)).unwrap_or_default()
}

fn within<'t>(text: &'t str, range: &RangeInclusive<usize>) -> &'t str {
    let rest = from(text, *range.start());
    let behind = from(rest, (range.end() - range.start()).saturating_add(1));
    rest.get(..rest.len() - behind.len()).unwrap_or_default()
}

struct Lines {
    read: BufReader<Text>,
    /// Without its end; of one that is too long the beginning.
    line: Vec<u8>,
    /// Its number, from 1.
    number: u64,
    most: usize,
}

impl Lines {
    /// Reads the next line; false where it is longer than it may be, `None` at the end.
    fn next(&mut self) -> Result<Option<bool>, Fault> {
        self.line.clear();
        (&mut self.read).take(self.most as u64 + 1).read_until(b'\n', &mut self.line)?;
        if self.line.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        let is_whole = self.line.len() <= self.most || self.line.ends_with(b"\n");
        if !is_whole {
            self.pass_over()?;
        }
        while let [rest @ .., b'\n' | b'\r'] = self.line.as_slice() {
            self.line.truncate(rest.len());
        }
        Ok(Some(is_whole))
    }

    /// Goes to the end of a line.
    fn pass_over(&mut self) -> Result<(), Fault> {
        loop {
            let chunk = self.read.fill_buf()?;
            let (count, is_end) = match memchr::memchr(b'\n', chunk) {
                Some(at) => (at + 1, true),
                None => (chunk.len(), chunk.is_empty()),
            };
            self.read.consume(count);
            if is_end {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_characters_from_one() {
        let place = |text| Place::parse("a", text);
        assert_eq!(place("2-4").expect("a place").range, 1..=3);
        assert_eq!(place("7").expect("a place").range, 6..=6);
        for wrong in ["0-3", "4-2", "x", "", "-", "1-x"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
        let rest = place("3-").expect("a place").range;
        assert_eq!(within("aäößz", &(1..=2)), "äö");
        assert_eq!(within("aäößz", &rest), "ößz");
        assert_eq!(within("abc", &(1..=9)), "bc");
        assert_eq!((within("abc", &(3..=9)), within("ä", &(1..=1))), ("", ""));
    }
}
