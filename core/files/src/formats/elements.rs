//! The records of a JSON document, one after another, without the document in memory.

use std::io::Read;

use crate::input::CHUNK;
use crate::store::Fault;

/// Members that hold the records where an object has several members.
const WRAPPERS: [&str; 8] = ["data", "items", "records", "results", "rows", "value", "values", "entries"];

/// A value that was found.
pub enum Found<'a> {
    /// Its text, and the line on which it begins.
    Whole {
        /// The text.
        record: &'a [u8],
        /// The line on which it begins.
        line: u64,
    },
    /// The first bytes of one that is longer than it may be.
    TooLong {
        /// The first bytes.
        head: Vec<u8>,
        /// The line on which it begins.
        line: u64,
    },
}

/// Where the records are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// In the array that was just opened.
    Array,
    /// The values of the top level.
    Top,
    /// Nowhere: the document holds no record.
    None,
}

/// The records of a document.
pub struct Elements<R> {
    scan: Scan<R>,
    layout: Layout,
    first: bool,
}

impl<R: Read> Elements<R> {
    /// Finds out where the records are; reads the document up to the first one. An object without a given path is read
    /// once more for that.
    pub fn find(open: impl Fn() -> Result<R, Fault>, path: Option<&[String]>, most: usize) -> Result<Self, Fault> {
        let mut scan = Scan::new(open()?, most);
        let layout = match (scan.peek()?, path) {
            (None, _) => Layout::None,
            (Some(b'['), None | Some([])) => {
                scan.bump();
                Layout::Array
            }
            (Some(_), Some([])) => Layout::Top,
            (Some(b'{'), None) => match wrapper(&mut scan)? {
                Some(member) => {
                    scan = Scan::new(open()?, most);
                    descend(&mut scan, std::slice::from_ref(&member))?
                }
                None => {
                    scan = Scan::new(open()?, most);
                    Layout::Top
                }
            },
            (Some(_), Some(path)) => descend(&mut scan, path)?,
            (Some(_), None) => Layout::Top,
        };
        Ok(Self { scan, layout, first: true })
    }

    /// The next record.
    pub fn next(&mut self) -> Result<Option<Found<'_>>, Fault> {
        let first = std::mem::take(&mut self.first);
        match self.layout {
            Layout::None => return Ok(None),
            Layout::Array => match (self.scan.peek()?, first) {
                (Some(b']'), _) => return self.end(),
                (Some(b','), false) => self.scan.bump(),
                (Some(_), true) => {}
                (Some(_), false) => return Err(self.scan.broken("expected `,` or `]` between two records")),
                (None, _) => return Err(self.scan.broken("the document ends inside its array")),
            },
            Layout::Top => {
                if self.scan.peek()?.is_none() {
                    return Ok(None);
                }
            }
        }
        self.scan.value(true).map(Some)
    }

    fn end(&mut self) -> Result<Option<Found<'_>>, Fault> {
        self.scan.bump();
        self.layout = Layout::None;
        Ok(None)
    }
}

/// Reads an object to its end and says which of its members holds the records, if one does.
fn wrapper<R: Read>(scan: &mut Scan<R>) -> Result<Option<String>, Fault> {
    let mut arrays = Vec::new();
    let mut count = 0;
    scan.bump();
    while let Some(key) = scan.key(count == 0)? {
        count += 1;
        if scan.is_array_of_objects()? {
            arrays.push(key);
        }
    }
    if scan.peek()?.is_some() {
        return Ok(None);
    }
    if let ([only], 1) = (arrays.as_slice(), count) {
        return Ok(Some(only.clone()));
    }
    let mut named = arrays.into_iter().filter(|key| WRAPPERS.contains(&key.to_ascii_lowercase().as_str()));
    Ok(named.next().filter(|_| named.next().is_none()))
}

/// Goes down a path of members to the array at its end; a value that is no array is the one record.
fn descend<R: Read>(scan: &mut Scan<R>, path: &[String]) -> Result<Layout, Fault> {
    for part in path {
        if scan.peek()? != Some(b'{') {
            return Err(scan.broken(&format!("there is no object with a member \"{part}\"")));
        }
        scan.bump();
        let mut first = true;
        loop {
            match scan.key(first)? {
                Some(key) if key == *part => break,
                Some(_) => scan.value(false)?,
                None => return Err(scan.broken(&format!("there is no member \"{part}\""))),
            };
            first = false;
        }
    }
    match scan.peek()? {
        Some(b'[') => {
            scan.bump();
            Ok(Layout::Array)
        }
        _ => Err(scan.broken("the member that `records` names is no array")),
    }
}

/// Walks over JSON text. Knows strings and brackets, and leaves the rest to the parser of the records.
struct Scan<R> {
    read: R,
    bytes: Vec<u8>,
    at: usize,
    last: bool,
    most: usize,
    line: u64,
}

impl<R: Read> Scan<R> {
    fn new(read: R, most: usize) -> Self {
        Self { read, bytes: Vec::new(), at: 0, last: false, most, line: 1 }
    }

    fn broken(&self, why: &str) -> Fault {
        Fault::Damaged(format!("line {}: {why}", self.line))
    }

    /// The next byte that is no white space.
    fn peek(&mut self) -> Result<Option<u8>, Fault> {
        loop {
            while let Some(byte) = self.bytes.get(self.at) {
                match byte {
                    b'\n' => self.line += 1,
                    b' ' | b'\t' | b'\r' => {}
                    byte => return Ok(Some(*byte)),
                }
                self.at += 1;
            }
            if self.last {
                return Ok(None);
            }
            self.more(self.at)?;
        }
    }

    fn bump(&mut self) {
        self.at += 1;
    }

    /// Reads on, letting go of all before `keep`.
    fn more(&mut self, keep: usize) -> Result<(), Fault> {
        self.bytes.drain(..keep);
        self.at -= keep;
        let before = self.bytes.len();
        let wanted = before.clamp(CHUNK, (self.most + CHUNK).saturating_sub(before).max(CHUNK));
        self.bytes.reserve_exact(wanted);
        (&mut self.read).take(wanted as u64).read_to_end(&mut self.bytes)?;
        self.last = self.bytes.len() - before < wanted;
        Ok(())
    }

    /// Inside an object: the next key, with its colon; `None` behind the last one.
    fn key(&mut self, first: bool) -> Result<Option<String>, Fault> {
        match (self.peek()?, first) {
            (Some(b'}'), _) => {
                self.bump();
                return Ok(None);
            }
            (Some(b','), false) => self.bump(),
            (Some(b'"'), true) => {}
            (None, _) => return Err(self.broken("the document ends inside an object")),
            _ => return Err(self.broken("expected `,` or `}` behind a member")),
        }
        if self.peek()? != Some(b'"') {
            return Err(self.broken("expected a key"));
        }
        let key = match self.value(true)? {
            Found::Whole { record, .. } => serde_json::from_slice(record).ok(),
            Found::TooLong { .. } => None,
        };
        let Some(key) = key else { return Err(self.broken("a key is no text")) };
        if self.peek()? != Some(b':') {
            return Err(self.broken("expected `:` behind a key"));
        }
        self.bump();
        Ok(Some(key))
    }

    /// Reads the next value. One that is not kept is let go as it is read.
    fn value(&mut self, keep: bool) -> Result<Found<'_>, Fault> {
        let span = self.scan(keep)?;
        Ok(match span.head {
            Some(head) => Found::TooLong { head, line: span.line },
            None => Found::Whole { record: self.bytes.get(span.range).unwrap_or_default(), line: span.line },
        })
    }

    /// Reads the next value, lets it go, and says whether it was an array of objects, perhaps an empty one.
    fn is_array_of_objects(&mut self) -> Result<bool, Fault> {
        self.scan(false).map(|span| span.of_objects)
    }

    fn scan(&mut self, keep: bool) -> Result<Span, Fault> {
        let opening = self.peek()?;
        let mut span = Span { range: self.at..self.at, line: self.line, head: None, of_objects: false };
        let mut state =
            State { first_inside: opening.filter(|b| *b == b'[' && !keep).map(|_| None), ..State::default() };
        let mut keep = keep;
        let mut from = self.at;
        let mut length = 0;
        loop {
            let fresh = self.bytes.get(from..).unwrap_or_default();
            let end = state.end_in(fresh);
            let looked = end.unwrap_or(fresh.len());
            self.line += memchr::memchr_iter(b'\n', fresh.get(..looked).unwrap_or_default()).count() as u64;
            from += looked;
            length += looked;
            if end.is_none() && !self.last {
                if keep && from - self.at > self.most {
                    let head = self.bytes.get(self.at..from).unwrap_or_default();
                    span.head = Some(head.get(..super::BAD_BYTES).unwrap_or(head).to_vec());
                    keep = false;
                }
                if !keep {
                    self.at = from;
                }
                let kept = self.at;
                self.more(kept)?;
                self.bytes.shrink_to(self.bytes.len() + CHUNK);
                from -= kept;
                continue;
            }
            if state.depth > 0 || state.in_string {
                return Err(self.broken("the document ends inside a record"));
            }
            if length == 0 {
                return Err(self.broken("expected a value"));
            }
            span.range = self.at..from;
            self.at = from;
            span.of_objects = matches!(state.first_inside, Some(Some(b'{' | b']')));
            return Ok(span);
        }
    }
}

/// A value that was read.
struct Span {
    range: std::ops::Range<usize>,
    line: u64,
    head: Option<Vec<u8>>,
    of_objects: bool,
}

/// How far into a value a scan is.
#[derive(Default)]
struct State {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The first byte inside the outermost bracket, where it is asked for.
    first_inside: Option<Option<u8>>,
}

impl State {
    /// How many of the bytes belong to the value; `None` = all, and it goes on.
    fn end_in(&mut self, bytes: &[u8]) -> Option<usize> {
        for (i, byte) in bytes.iter().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => {
                        self.in_string = false;
                        if self.depth == 0 {
                            return Some(i + 1);
                        }
                    }
                    _ => {}
                }
                continue;
            }
            if self.depth == 1 && self.first_inside == Some(None) && !byte.is_ascii_whitespace() {
                self.first_inside = Some(Some(*byte));
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth == 0 => return Some(i),
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Some(i + 1);
                    }
                }
                b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' if self.depth == 0 => return Some(i),
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(document: &str, path: Option<&[&str]>) -> Result<Vec<String>, String> {
        let path: Option<Vec<String>> = path.map(|p| p.iter().map(|s| (*s).to_owned()).collect());
        let text = |fault| match fault {
            Fault::Damaged(text) => text,
            other => format!("{other:?}"),
        };
        let mut elements = Elements::find(|| Ok(document.as_bytes()), path.as_deref(), 1000).map_err(text)?;
        let mut records = Vec::new();
        while let Some(found) = elements.next().map_err(text)? {
            records.push(match found {
                Found::Whole { record, .. } => String::from_utf8_lossy(record).into_owned(),
                Found::TooLong { head, .. } => format!("too long: {}", head.len()),
            });
        }
        Ok(records)
    }

    #[test]
    fn records_are_found_in_every_layout() {
        let two = ["{\"a\":1}", "{\"a\":\"]}\\\"\"}"];
        let list = format!(" [ {} ,\n{} ] ", two[0], two[1]);
        assert_eq!(records(&list, None).expect("array"), two);
        assert_eq!(records(&format!("{{\"orders\": {list}}}"), None).expect("only member"), two);
        assert_eq!(records(&format!("{{\"n\": 2, \"data\": {list}, \"next\": null}}"), None).expect("wrapper"), two);
        assert_eq!(records(&format!("{{\"x\": {{\"y\": {list}}}}}"), Some(&["x", "y"])).expect("path"), two);
        let invoice = format!("{{\"id\": 7, \"lines\": {list}}}");
        assert_eq!(records(&invoice, None).expect("one record"), [invoice.trim()]);
        assert_eq!(records(&format!("{}\n{}", two[0], two[1]), None).expect("several documents"), two);
        assert_eq!(records("[]", None).expect("empty"), Vec::<String>::new());
        assert_eq!(records("{\"data\": []}", None).expect("empty wrapper"), Vec::<String>::new());
        assert_eq!(records(" ", None).expect("blank"), Vec::<String>::new());
        assert_eq!(
            records("{\"data\": [{}], \"more\": 1}", Some(&[])).expect("told"),
            ["{\"data\": [{}], \"more\": 1}"]
        );
    }

    #[test]
    fn a_document_that_is_cut_short_is_damaged() {
        for document in ["[{\"a\":1},", "[{\"a\":1}", "[{\"a\":", "{\"a\": [1, 2", "[{} {}]", "{\"a\" 1}", "[,]"] {
            assert!(records(document, None).is_err(), "{document}");
        }
        assert!(records("{\"a\": 1}", Some(&["b"])).is_err());
    }

    #[test]
    fn a_record_that_is_too_long_is_passed_over() {
        let long = "x".repeat(2 * CHUNK);
        let found = records(&format!("[{{\"a\":\"{long}\"}},{{\"b\":1}}]"), None).expect("read");
        assert_eq!(found, ["too long: 65536", "{\"b\":1}"]);
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = "[".repeat(1_000_000);
        assert!(records(&deep, None).is_err());
    }
}
