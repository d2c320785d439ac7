//! XML documents, element by element: each record becomes a JSON object, and a row as those of JSON do.
//!
//! Nothing is fetched and nothing is expanded but what XML itself defines (`&amp;`, `&#10;`): a document that declares
//! entities of its own is refused. Names are taken without their prefixes.

mod tree;

use std::io::{self, BufRead, BufReader, Read};

use quick_xml::errors::IllFormedError;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::{Reader, escape};

use self::tree::Tree;
use super::json::{Rows, members};
use super::{BAD_BYTES, Columns, Sink, Target};
use crate::input::{CHUNK, Limits, Text};
use crate::options::StreamOptions;
use crate::state::Inside;
use crate::store::{Fault, Reading};
use crate::types::Seen;

/// Decodes one document.
pub fn decode(reading: &Reading, target: &Target, sink: &Sink) -> Result<(), Fault> {
    let path = reading.file.path.as_str();
    let mut records =
        Records::new(Text::open(reading, &target.options, target.limits)?, &target.options, target.limits);
    let mut rows = Rows::new(target, path, sink)?;
    while let Some(found) = records.next()? {
        let place = || format!("record {} (line {})", found.number, found.line);
        match found.wrong {
            None => rows.take(found.record, place)?,
            Some(why) => sink.bad(path, &format!("{}: {why}", place()), found.record)?,
        }
        if rows.is_full() {
            rows.flush(Inside::default())?;
        }
    }
    rows.flush(Inside::default())
}

/// Looks at the first records of a document.
pub fn sample(reading: &Reading, options: &StreamOptions, limits: Limits) -> Result<Columns, Fault> {
    let mut records = Records::new(Text::open(reading, options, limits)?, options, limits);
    let (mut columns, mut bytes) = (Columns::default(), 0);
    while bytes < options.sample_bytes {
        let Some(found) = records.next()? else { break };
        bytes += found.record.len() as u64;
        for (name, raw) in members(found.record).filter(|_| found.wrong.is_none()).unwrap_or_default() {
            columns.saw(name, &seen(raw));
        }
    }
    Ok(columns)
}

/// What a value shows of the type of its column: texts alone, which count as what they spell where JSON spells it so.
fn seen(raw: &str) -> Seen {
    let mut seen = Seen::default();
    match raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(text @ ("true" | "false")) => seen.text(text),
        Some(text) if serde_json::from_str::<serde_json::Number>(text).is_ok() => seen.text(text),
        // A date or a time of day at a date; what else begins with a digit is no number that columns take.
        Some(text) if text.as_bytes().get(4) == Some(&b'-') && !text.contains('\\') => seen.text(text),
        _ => seen.json(raw),
    }
    seen
}

/// A record that was found.
struct Found<'a> {
    /// The record as a JSON object; of one that is no row, its first bytes as they came.
    record: &'a [u8],
    /// Why it is no row.
    wrong: Option<&'a str>,
    number: u64,
    /// The line on which it begins.
    line: u64,
}

/// The records of a document, one after another, without the document in memory.
struct Records<'a, R> {
    xml: Reader<Meter<R>>,
    options: &'a StreamOptions,
    most: usize,
    buffer: Vec<u8>,
    tree: Tree,
    json: Vec<u8>,
    /// Elements that are open around the records.
    around: usize,
    /// How many of them are those of the path, from the root on.
    matched: usize,
    /// How deep the path was ever followed.
    deepest: usize,
    /// Elements that are open inside the record, itself among them.
    inside: usize,
    has_root: bool,
    /// The name of the records, where nobody told it.
    name: Option<Vec<u8>>,
    number: u64,
    line: u64,
    wrong: Option<String>,
}

impl<'a, R: Read> Records<'a, R> {
    fn new(text: R, options: &'a StreamOptions, limits: Limits) -> Self {
        let mut xml = Reader::from_reader(Meter::new(text, limits.record));
        xml.config_mut().expand_empty_elements = true;
        Self {
            xml,
            options,
            most: limits.record,
            buffer: Vec::new(),
            tree: Tree::new(),
            json: Vec::new(),
            around: 0,
            matched: 0,
            deepest: 0,
            inside: 0,
            has_root: false,
            name: None,
            number: 0,
            line: 1,
            wrong: None,
        }
    }

    fn broken(&self, why: &str) -> Fault {
        Fault::Damaged(format!("line {}: {why}", self.xml.get_ref().line))
    }

    /// The next record.
    fn next(&mut self) -> Result<Option<Found<'_>>, Fault> {
        self.tree.clear();
        self.json.clear();
        self.wrong = None;
        let mut buffer = std::mem::take(&mut self.buffer);
        let is_found = self.walk(&mut buffer)?;
        buffer.clear();
        buffer.shrink_to(4 << 20);
        self.buffer = buffer;
        if !is_found {
            return Ok(None);
        }
        self.number += 1;
        if self.wrong.is_none() {
            self.tree.write(&self.options.null_values, &self.options.lists, &mut self.json)?;
        }
        let record = if self.wrong.is_none() { &self.json } else { &self.xml.get_ref().head };
        Ok(Some(Found { record, wrong: self.wrong.as_deref(), number: self.number, line: self.line }))
    }

    /// Reads up to the end of a record, or of the document.
    fn walk(&mut self, buffer: &mut Vec<u8>) -> Result<bool, Fault> {
        loop {
            buffer.clear();
            let line = self.xml.get_ref().line;
            self.xml.get_mut().begin(self.inside > 0);
            match self.xml.read_event_into(buffer) {
                Ok(Event::Start(tag)) => {
                    if self.inside == 0 {
                        self.line = line;
                    }
                    self.start(&tag)?;
                }
                Ok(Event::End(_)) => {
                    if self.end()? {
                        return Ok(true);
                    }
                }
                Ok(Event::Text(text)) => self.text(&text)?,
                Ok(Event::CData(text)) => self.text(&text)?,
                Ok(Event::GeneralRef(name)) => self.reference(&name),
                Ok(Event::DocType(text)) => self.declarations(&text)?,
                // Empty elements come as a start and an end.
                Ok(Event::Empty(_) | Event::Decl(_) | Event::PI(_) | Event::Comment(_)) => {}
                Ok(Event::Eof) => return self.eof().map(|()| false),
                // What follows can be told from it.
                Err(quick_xml::Error::IllFormed(IllFormedError::UnclosedReference)) => {
                    self.refuse("a `&` that begins no entity; it is written `&amp;`");
                }
                Err(quick_xml::Error::Io(_)) => return Err(self.xml.get_mut().failure()),
                Err(error) => return Err(self.broken(&syntax(&error))),
            }
        }
    }

    /// The record that is being read is no row.
    fn refuse(&mut self, why: &str) {
        if self.inside > 0 && self.wrong.is_none() {
            self.wrong = Some(why.to_owned());
            self.tree.clear();
        }
    }

    /// Puts something into the record, unless it is no row.
    fn put(&mut self, put: impl FnOnce(&mut Tree) -> Result<(), String>) {
        if self.inside == 0 || self.wrong.is_some() {
            return;
        }
        match put(&mut self.tree) {
            Err(why) => self.refuse(&why),
            Ok(()) if self.tree.size() > self.most => self.refuse("LimitExceeded: longer than `max_record`"),
            Ok(()) => {}
        }
    }

    fn start(&mut self, tag: &BytesStart<'_>) -> Result<(), Fault> {
        let name = tag.local_name();
        if self.inside == 0 && !self.is_record(name.as_ref())? {
            self.around += 1;
            return Ok(());
        }
        self.inside += 1;
        match std::str::from_utf8(name.as_ref()) {
            Ok(name) => self.put(|tree| tree.start(name)),
            Err(_) => self.refuse("a name that is no UTF-8"),
        }
        for attribute in tag.attributes() {
            match attribute {
                Ok(attribute) => {
                    let (prefix, name) = (attribute.key.prefix(), attribute.key.local_name());
                    self.attribute(prefix.map(|p| p.into_inner()), name.as_ref(), &attribute.value);
                }
                Err(error) => self.refuse(&format!("a broken attribute: {error}")),
            }
        }
        Ok(())
    }

    fn attribute(&mut self, prefix: Option<&[u8]>, name: &[u8], value: &[u8]) {
        let names = std::str::from_utf8(name).ok().zip(std::str::from_utf8(value).ok());
        let Some((name, value)) = names else { return self.refuse("an attribute that is no UTF-8") };
        match (prefix, name) {
            (Some(b"xmlns"), _) | (None, "xmlns") => {}
            (Some(b"xsi"), "nil") => {
                if matches!(value.trim(), "true" | "1") {
                    self.tree.nil();
                }
            }
            (Some(b"xsi"), _) => {}
            _ => match escape::unescape(value) {
                Ok(value) => self.put(|tree| tree.attribute(&format!("@{name}"), &value)),
                Err(_) => self.refuse("an attribute with an entity that XML does not define"),
            },
        }
    }

    /// Whether an element around the records, or beside them, is a record.
    fn is_record(&mut self, name: &[u8]) -> Result<bool, Fault> {
        if self.around == 0 && std::mem::replace(&mut self.has_root, true) {
            return Err(self.broken("a second root element"));
        }
        let Some(path) = &self.options.records else {
            if self.around == 0 {
                return Ok(false);
            }
            return match &self.name {
                Some(known) if known != name => Err(self.broken(
                    "its root holds elements of several names; say in `records` which are the records, e.g. orders/order",
                )),
                Some(_) => Ok(true),
                None => {
                    self.name = Some(name.to_vec());
                    Ok(true)
                }
            };
        };
        if path.is_empty() {
            return Ok(true);
        }
        if self.matched == self.around && path.get(self.matched).is_some_and(|part| part.as_bytes() == name) {
            if self.matched + 1 == path.len() {
                return Ok(true);
            }
            self.matched += 1;
            self.deepest = self.deepest.max(self.matched);
        }
        Ok(false)
    }

    /// Whether a record has ended.
    fn end(&mut self) -> Result<bool, Fault> {
        if self.inside == 0 {
            self.around = self.around.saturating_sub(1);
            self.matched = self.matched.min(self.around);
            return Ok(false);
        }
        self.put(Tree::end);
        self.inside -= 1;
        Ok(self.inside == 0)
    }

    fn text(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if self.inside == 0 {
            let is_outside = self.around == 0 && !bytes.trim_ascii().is_empty();
            return if is_outside { Err(self.broken("it is no XML: text outside of a root element")) } else { Ok(()) };
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => self.put(|tree| {
                // A line break is one character, however it was written.
                match text.contains('\r') {
                    true => tree.text(&text.replace("\r\n", "\n").replace('\r', "\n")),
                    false => tree.text(text),
                }
                Ok(())
            }),
            Err(e) => self.refuse(&format!("invalid UTF-8 at byte {} of a text", e.valid_up_to() + 1)),
        }
        Ok(())
    }

    fn reference(&mut self, name: &[u8]) {
        let name = std::str::from_utf8(name).unwrap_or_default();
        let known = escape::resolve_predefined_entity(name);
        let character = || BytesRef::new(name).resolve_char_ref().ok().flatten();
        match (known, known.is_none().then(character).flatten()) {
            (Some(text), _) => self.put(|tree| {
                tree.text(text);
                Ok(())
            }),
            (None, Some(character)) => self.put(|tree| {
                tree.text(character.encode_utf8(&mut [0; 4]));
                Ok(())
            }),
            (None, None) => self.refuse("an entity that XML does not define"),
        }
    }

    fn declarations(&self, text: &[u8]) -> Result<(), Fault> {
        match memchr::memmem::find(text, b"<!ENTITY") {
            Some(_) => Err(self.broken("it declares entities of its own, which are never expanded or fetched")),
            None => Ok(()),
        }
    }

    fn eof(&self) -> Result<(), Fault> {
        if self.inside > 0 {
            return Err(self.broken("the document ends inside a record"));
        }
        if self.around > 0 {
            return Err(self.broken("the document ends inside its root element"));
        }
        let path = self.options.records.as_deref().unwrap_or_default();
        match path.get(self.deepest) {
            Some(part) if self.has_root && self.number == 0 && self.deepest + 1 < path.len() => {
                Err(self.broken(&format!("there is no element \"{part}\" where `records` says")))
            }
            Some(part) if self.has_root && self.number == 0 && path.len() == 1 => {
                Err(self.broken(&format!("its root element is not \"{part}\"")))
            }
            _ => Ok(()),
        }
    }
}

/// What is wrong with the markup, without what the document says.
fn syntax(error: &quick_xml::Error) -> String {
    match error {
        quick_xml::Error::Syntax(error) => format!("{error}"),
        quick_xml::Error::IllFormed(IllFormedError::MismatchedEndTag { .. } | IllFormedError::UnmatchedEndTag(_)) => {
            "an end tag that does not belong to the element that is open".to_owned()
        }
        _ => "markup that is not well-formed".to_owned(),
    }
}

/// Counts what the parser reads, stops it where one piece of markup or text is too long, and keeps the first bytes of the
/// record.
struct Meter<R> {
    read: BufReader<R>,
    most: usize,
    /// Bytes of the piece that is being read.
    piece: usize,
    line: u64,
    head: Vec<u8>,
    failed: Option<Fault>,
}

impl<R: Read> Meter<R> {
    fn new(read: R, most: usize) -> Self {
        let read = BufReader::with_capacity(CHUNK, read);
        Self { read, most, piece: 0, line: 1, head: Vec::new(), failed: None }
    }

    /// The next piece begins.
    fn begin(&mut self, is_inside: bool) {
        self.piece = 0;
        if !is_inside {
            self.head.clear();
        }
    }

    fn failure(&mut self) -> Fault {
        self.failed.take().unwrap_or_else(|| Fault::Damaged(format!("line {}: it cannot be read on", self.line)))
    }

    /// The parser makes errors of its own of those that it sees.
    fn fail(&mut self, fault: Fault) -> io::Error {
        self.failed = Some(fault);
        io::ErrorKind::Other.into()
    }
}

impl<R: Read> Read for Meter<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: Read> BufRead for Meter<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.piece > self.most {
            let text = format!("line {}: LimitExceeded: a text or tag longer than `max_record`", self.line);
            return Err(self.fail(Fault::Damaged(text)));
        }
        if self.read.buffer().is_empty()
            && let Err(error) = self.read.fill_buf()
        {
            return match error.kind() {
                io::ErrorKind::Interrupted => Err(error),
                _ => Err(self.fail(error.into())),
            };
        }
        Ok(self.read.buffer())
    }

    fn consume(&mut self, count: usize) {
        let bytes = self.read.buffer().get(..count).unwrap_or_default();
        self.line += memchr::memchr_iter(b'\n', bytes).count() as u64;
        let room = BAD_BYTES.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(bytes.get(..room).unwrap_or_default());
        self.piece += count;
        self.read.consume(count);
    }
}
