//! Cuts delimited text into records and fields. Fields are places in the buffer; nothing is copied.

/// The flag in [`Field::end`] of a field that holds doubled quotes.
const ESCAPED: u32 = 1 << 31;

/// A field: where it stands in the buffer, without its quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    start: u32,
    end: u32,
}

impl Field {
    /// The bytes as they stand, quotes inside still doubled.
    #[inline]
    pub fn range(self) -> std::ops::Range<usize> {
        self.start as usize..(self.end & !ESCAPED) as usize
    }

    /// Whether quotes inside are doubled.
    #[inline]
    pub fn is_escaped(self) -> bool {
        self.end & ESCAPED != 0
    }
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// So many fields instead of those expected.
    Fields(usize),
    /// Text behind a closing quote.
    TextAfterQuote,
    /// The text ends inside quotes.
    OpenQuote,
}

/// A record that is no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// Where it stands in the buffer, without the line break at its end.
    pub range: std::ops::Range<usize>,
    /// Number of its first line.
    pub line: u64,
    /// What is wrong.
    pub flaw: Flaw,
}

/// The shape of delimited text.
#[derive(Debug, Clone)]
pub struct Dialect {
    delimiter: u8,
    quote: Option<u8>,
    stops: [bool; 256],
}

impl Dialect {
    /// Makes a dialect. Records end with LF, CRLF or CR.
    pub fn new(delimiter: u8, quote: Option<u8>) -> Self {
        let mut stops = [false; 256];
        for byte in [delimiter, b'\n', b'\r'] {
            stops[usize::from(byte)] = true;
        }
        Self { delimiter, quote, stops }
    }
}

/// What was found in a buffer.
#[derive(Debug, Default)]
pub struct Tokens {
    /// The fields of all good records, one record after another.
    pub fields: Vec<Field>,
    /// Line and start of each good record.
    pub records: Vec<(u64, u32)>,
    /// The others.
    pub bad: Vec<Bad>,
    /// Bytes that were used up: whole records.
    pub consumed: usize,
    /// Lines before `consumed`, counted from the start of the file.
    pub line: u64,
    /// Whether the rest begins a record that is open inside quotes.
    pub inside_quotes: bool,
}

/// How a record ended.
enum End {
    /// With a line break; the next record begins there.
    At(usize),
    /// Not in this buffer.
    Cut { inside_quotes: bool },
}

impl Tokens {
    /// Cuts `data` into records of `expected` fields (`None` = the first record decides and is the only one looked at).
    /// `last`: the text ends with `data`. `line`: lines before it.
    pub fn cut(&mut self, dialect: &Dialect, data: &[u8], expected: Option<usize>, last: bool, line: u64, most: usize) {
        self.fields.clear();
        self.records.clear();
        self.bad.clear();
        self.inside_quotes = false;
        self.line = line;
        self.consumed = 0;
        while self.consumed < data.len() && self.records.len() < most {
            let start = self.consumed;
            let first = self.fields.len();
            let before = self.line;
            let (end, flaw) = self.record(dialect, data, start, last);
            let next = match end {
                End::At(next) => next,
                End::Cut { inside_quotes } => {
                    self.fields.truncate(first);
                    self.line = before;
                    self.inside_quotes = inside_quotes;
                    if inside_quotes && last {
                        self.give_up_line(data, start, before, Flaw::OpenQuote);
                        continue;
                    }
                    return;
                }
            };
            let count = self.fields.len() - first;
            let is_blank =
                count == 1 && self.fields.last().is_some_and(|f| f.range().is_empty() && f.start as usize == start);
            match flaw {
                None if is_blank => self.fields.truncate(first),
                None if expected.is_none_or(|n| n == count) => {
                    self.records.push((before + 1, start as u32));
                }
                None => {
                    self.fields.truncate(first);
                    let range = start..without_break(data, start, next);
                    self.bad.push(Bad { range, line: before + 1, flaw: Flaw::Fields(count) });
                }
                // A stray quote may have swallowed good lines: only its own line is given up.
                Some(flaw) => {
                    self.fields.truncate(first);
                    self.give_up_line(data, start, before, flaw);
                    continue;
                }
            }
            self.consumed = next;
            if expected.is_none() && !self.records.is_empty() {
                return;
            }
        }
    }

    /// Takes the first line of a record that went wrong for bad, and goes on behind it.
    fn give_up_line(&mut self, data: &[u8], start: usize, before: u64, flaw: Flaw) {
        let rest = data.get(start..).unwrap_or_default();
        let end = memchr::memchr2(b'\n', b'\r', rest).map_or(data.len(), |at| start + at);
        self.bad.push(Bad { range: start..end, line: before + 1, flaw });
        self.consumed = after_break(data, end);
        self.line = before + 1;
    }

    /// Reads the fields of one record.
    #[inline]
    fn record(&mut self, dialect: &Dialect, data: &[u8], start: usize, last: bool) -> (End, Option<Flaw>) {
        let mut at = start;
        let mut flaw = None;
        loop {
            let quoted = data.get(at).is_some_and(|b| Some(*b) == dialect.quote);
            if quoted {
                match self.quoted(dialect, data, at + 1) {
                    Some(behind) => at = behind,
                    None => return (End::Cut { inside_quotes: true }, None),
                }
            }
            let rest = data.get(at..).unwrap_or_default();
            let length = rest.iter().position(|b| dialect.stops[usize::from(*b)]).unwrap_or(rest.len());
            if quoted && length > 0 {
                flaw = Some(Flaw::TextAfterQuote);
            } else if !quoted {
                self.fields.push(Field { start: at as u32, end: (at + length) as u32 });
            }
            at += length;
            match data.get(at) {
                Some(b) if *b == dialect.delimiter => at += 1,
                Some(b'\r') if at + 1 == data.len() && !last => return (End::Cut { inside_quotes: false }, None),
                Some(_) => {
                    self.line += 1;
                    return (End::At(after_break(data, at)), flaw);
                }
                None if last => {
                    self.line += 1;
                    return (End::At(data.len()), flaw);
                }
                None => return (End::Cut { inside_quotes: false }, None),
            }
        }
    }

    /// Reads a field behind its opening quote; gives the place behind the closing one.
    fn quoted(&mut self, dialect: &Dialect, data: &[u8], start: usize) -> Option<usize> {
        let quote = dialect.quote?;
        let mut at = start;
        let mut escaped = 0;
        loop {
            let rest = data.get(at..)?;
            let length = memchr::memchr2(quote, b'\n', rest)?;
            at += length;
            if data.get(at) == Some(&b'\n') {
                self.line += 1;
                at += 1;
            } else if data.get(at + 1) == Some(&quote) {
                escaped = ESCAPED;
                at += 2;
            } else {
                self.fields.push(Field { start: start as u32, end: at as u32 | escaped });
                return Some(at + 1);
            }
        }
    }
}

/// The place behind a line break at `at`.
fn after_break(data: &[u8], at: usize) -> usize {
    match (data.get(at), data.get(at + 1)) {
        (Some(b'\r'), Some(b'\n')) => at + 2,
        (Some(_), _) => at + 1,
        (None, _) => data.len(),
    }
}

/// The end of a record without its line break.
fn without_break(data: &[u8], start: usize, next: usize) -> usize {
    let record = data.get(start..next).unwrap_or_default();
    let end =
        record.strip_suffix(b"\r\n").or_else(|| record.strip_suffix(b"\n")).or_else(|| record.strip_suffix(b"\r"));
    start + end.unwrap_or(record).len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(data: &str, expected: Option<usize>, last: bool) -> (Vec<Vec<String>>, Tokens) {
        let mut tokens = Tokens::default();
        tokens.cut(&Dialect::new(b',', Some(b'"')), data.as_bytes(), expected, last, 0, usize::MAX);
        let width = if tokens.records.is_empty() { 1 } else { tokens.fields.len() / tokens.records.len() };
        let text = |f: &Field| data[f.range()].replace("\"\"", "\"");
        (tokens.fields.chunks(width).map(|r| r.iter().map(text).collect()).collect(), tokens)
    }

    #[test]
    fn records_end_with_any_line_break() {
        for data in ["a,b\nc,d\n", "a,b\r\nc,d\r\n", "a,b\rc,d\r", "a,b\nc,d", "a,b\n\nc,d\n\n"] {
            let (rows, tokens) = cut(data, Some(2), true);
            assert_eq!(rows, [["a", "b"], ["c", "d"]], "{data:?}");
            assert_eq!(tokens.consumed, data.len(), "{data:?}");
        }
    }

    #[test]
    fn quotes_hold_delimiters_breaks_and_doubled_quotes() {
        let (rows, tokens) = cut("\"a,1\",\"b\n\"\"2\"\"\"\nc,\"\"\n", Some(2), true);
        assert_eq!(rows, [["a,1", "b\n\"2\""], ["c", ""]]);
        assert_eq!(tokens.records.iter().map(|r| r.0).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(cut("a\"b,c\n", Some(2), true).0, [["a\"b", "c"]]);
    }

    #[test]
    fn a_record_that_is_not_whole_waits_for_more() {
        for (data, consumed) in [("a,b\nc,", 4), ("a,b\nc,d\r", 4), ("a,b\n\"c", 4), ("a,b\n\"c\"", 4), ("a,b", 0)] {
            let (rows, tokens) = cut(data, Some(2), false);
            assert_eq!(tokens.consumed, consumed, "{data:?}");
            assert_eq!(rows.len(), usize::from(consumed > 0), "{data:?}");
        }
        assert!(cut("a,b\n\"c", Some(2), false).1.inside_quotes);
    }

    #[test]
    fn a_stray_quote_costs_its_own_line_alone() {
        let (rows, tokens) = cut("1,\"a\n2,b\n3,\"c\"\n4,\"d\n", Some(2), true);
        assert_eq!(rows, [["2", "b"], ["3", "c"]]);
        let bad: Vec<_> = tokens.bad.iter().map(|b| (b.line, b.flaw)).collect();
        assert_eq!(bad, [(1, Flaw::TextAfterQuote), (4, Flaw::OpenQuote)]);
    }

    #[test]
    fn another_number_of_fields_is_bad() {
        let (rows, tokens) = cut("a,b\nc\nd,e,f\ng,h\n", Some(2), true);
        assert_eq!(rows, [["a", "b"], ["g", "h"]]);
        let bad: Vec<_> = tokens.bad.iter().map(|b| (b.line, b.flaw, b.range.clone())).collect();
        assert_eq!(bad, [(2, Flaw::Fields(1), 4..5), (3, Flaw::Fields(3), 6..11)]);
    }

    #[test]
    fn the_first_record_alone_is_the_header() {
        let (rows, tokens) = cut("\n\nx,y,z\n1,2,3\n", None, false);
        assert_eq!(rows, [["x", "y", "z"]]);
        assert_eq!((tokens.consumed, tokens.line), (8, 3));
    }
}
