//! Pages of a job's results: CSV that comes in pieces, straight into columns.

use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions, StringArray, new_null_array};
use arrow_schema::{DataType, Schema};
use ingest_core::csv::tokens::{Dialect, Flaw, Tokens};
use ingest_core::csv::{Finished, Rows, Stretch, blank_invalid_bytes};
use ingest_core::{BadRecord, Error, ErrorKind, Result, columns};

/// Bytes of one record.
const RECORD_BYTES: usize = 32 << 20;
/// Records that are cut at once.
const STRETCH: usize = 2_048;
/// How much of a bad record is kept.
const BAD_BYTES: usize = 64 << 10;

/// The columns of a job's results, and the page that is read.
pub(crate) struct Results {
    columns: Vec<(String, DataType)>,
    dialect: Dialect,
    tokens: Tokens,
    rows: Rows,
    bytes: Vec<u8>,
    line: u64,
    has_header: bool,
    page: Page,
}

/// What a page was.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub records: u64,
    /// Records that are no rows.
    pub bad: Vec<BadRecord>,
    /// Bytes that were no text.
    pub replaced: usize,
    /// It ends inside a record.
    pub is_torn: bool,
}

impl Results {
    pub fn new(columns: Vec<(String, DataType)>) -> Result<Self> {
        // An empty field is null: Salesforce does not tell the two apart.
        let mut rows = Rows::new(&[String::new()]);
        for (index, (name, data_type)) in columns.iter().enumerate() {
            rows.column(name, index, data_type, false)?;
        }
        Ok(Self {
            columns,
            dialect: Dialect::new(b',', Some(b'"')),
            tokens: Tokens::default(),
            rows,
            bytes: Vec::new(),
            line: 0,
            has_header: false,
            page: Page::default(),
        })
    }

    /// Begins a page: its first record names the columns.
    pub fn begin(&mut self) {
        self.bytes.clear();
        (self.line, self.has_header, self.page) = (0, false, Page::default());
    }

    /// Takes a piece of a page.
    ///
    /// # Errors
    /// `DataInvalid` when the columns are others than were asked for; `LimitExceeded` for a record that does not end.
    pub fn push(&mut self, piece: &[u8], is_last: bool) -> Result<()> {
        self.bytes.extend_from_slice(piece);
        let mut at = 0;
        loop {
            let expected = self.has_header.then_some(self.columns.len());
            let rest = self.bytes.get(at..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            self.tokens.cut(&self.dialect, rest, expected, is_last, self.line, STRETCH);
            let consumed = self.tokens.consumed;
            if consumed == 0 {
                break;
            }
            self.line = self.tokens.line;
            if self.has_header {
                self.take(at, consumed);
            } else {
                self.header(at)?;
            }
            at += consumed;
        }
        self.bytes.drain(..at);
        if self.bytes.len() > RECORD_BYTES {
            return Err(Error::new(ErrorKind::LimitExceeded, "a record of a job's results is larger than the limit")
                .with("limit_bytes", RECORD_BYTES));
        }
        Ok(())
    }

    fn header(&mut self, at: usize) -> Result<()> {
        if self.tokens.records.is_empty() {
            return Ok(());
        }
        let page = self.bytes.get(at..).unwrap_or_default();
        let names = self.tokens.fields.iter().map(|field| page.get(field.range()).unwrap_or_default());
        if !names.eq(self.columns.iter().map(|(name, _)| name.as_bytes())) {
            return Err(Error::new(
                ErrorKind::DataInvalid,
                "the results of a job have other columns than were asked for",
            )
            .with("columns", self.tokens.fields.len())
            .with("expected", self.columns.len()));
        }
        self.has_header = true;
        Ok(())
    }

    fn take(&mut self, at: usize, consumed: usize) {
        let stretch = self.bytes.get_mut(at..at + consumed).unwrap_or_default();
        for bad in &self.tokens.bad {
            // Every whole record ends with a line break.
            self.page.is_torn |= bad.flaw == Flaw::OpenQuote || bad.range.end == stretch.len();
            let record = stretch.get(bad.range.clone()).unwrap_or_default();
            let record = String::from_utf8_lossy(record.get(..BAD_BYTES).unwrap_or(record)).into_owned();
            let what = match bad.flaw {
                Flaw::Fields(count) => format!("{count} fields, expected {}", self.columns.len()),
                Flaw::TextAfterQuote => "text behind a closing quote".to_owned(),
                Flaw::OpenQuote => "a quote that is not closed".to_owned(),
            };
            self.page.bad.push(BadRecord { reason: format!("line {} of a page of results: {what}", bad.line), record });
        }
        self.page.records += (self.tokens.records.len() + self.tokens.bad.len()) as u64;
        self.page.replaced += blank_invalid_bytes(stretch);
        self.rows.take(&Stretch::new(stretch, &self.tokens, '"'));
    }

    /// Rows that are not in a batch yet.
    pub fn rows(&self) -> usize {
        self.rows.count()
    }

    /// Bytes of those rows, about.
    pub fn bytes(&self) -> usize {
        self.rows.bytes()
    }

    /// Takes those rows.
    pub fn batch(&mut self) -> Result<RecordBatch> {
        let Finished { rows, columns: taken, rescued } = self.rows.finish();
        let (mut fields, mut arrays): (Vec<_>, Vec<_>) = taken.into_iter().unzip();
        fields.push(columns::field(columns::RESCUED));
        let texts = |texts: StringArray| -> arrow_array::ArrayRef { Arc::new(texts) };
        arrays.push(rescued.map_or_else(|| new_null_array(&DataType::Utf8, rows), texts));
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?)
    }

    /// Ends a page.
    pub fn end(&mut self) -> Page {
        std::mem::take(&mut self.page)
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use arrow_array::types::Decimal128Type;

    use super::*;

    fn columns() -> Vec<(String, DataType)> {
        vec![("Id".into(), DataType::Utf8), ("Amount".into(), DataType::Decimal128(18, 2))]
    }

    /// A page in pieces of so many bytes.
    fn read(text: &[u8], piece: usize) -> Result<(RecordBatch, Page)> {
        let mut results = Results::new(columns())?;
        results.begin();
        for piece in text.chunks(piece) {
            results.push(piece, false)?;
        }
        results.push(&[], true)?;
        Ok((results.batch()?, results.end()))
    }

    #[test]
    fn pieces_of_any_size_give_the_same_rows() {
        let text = "\"Id\",\"Amount\"\n\"1\",\"1.0E7\"\n\"2, \"\"two\"\"\nlines\",\"\"\n\"3ü\",\"odd\"\n";
        let whole = read(text.as_bytes(), 1_000).expect("rows");
        for piece in 1..40 {
            let (rows, page) = read(text.as_bytes(), piece).expect("rows");
            assert_eq!(rows, whole.0, "pieces of {piece}");
            assert_eq!((page.records, page.bad.len()), (3, 0));
        }
        let ids = whole.0.column(0).as_string::<i32>();
        assert_eq!((ids.value(1), ids.value(2)), ("2, \"two\"\nlines", "3ü"));
        let amounts = whole.0.column(1).as_primitive::<Decimal128Type>();
        assert_eq!(amounts.value(0), 1_000_000_000);
        assert!(amounts.is_null(1) && amounts.is_null(2));
        assert_eq!(whole.0.column(2).as_string::<i32>().value(2), r#"{"Amount":"odd"}"#);
    }

    #[test]
    fn other_columns_than_were_asked_for_are_refused() {
        for text in ["\"Amount\",\"Id\"\n\"1\",\"2\"\n", "1,2\n", "Id\n1\n"] {
            assert_eq!(read(text.as_bytes(), 7).expect_err(text).kind(), ErrorKind::DataInvalid);
        }
    }

    #[test]
    fn bad_records_and_bytes_that_are_no_text_are_counted_and_cost_nobody_else() {
        let (rows, page) = read(b"Id,Amount\n1,2\n1,2,3\n\xff4,5\n", 3).expect("rows");
        assert_eq!(rows.num_rows(), 2);
        assert_eq!((page.records, page.bad.len(), page.replaced), (3, 1, 1));
        assert_eq!(rows.column(0).as_string::<i32>().value(1), "?4");
        // A page that was cut has fewer records than its header says.
        for torn in [&b"Id,Amount\n1,2\n\"3"[..], b"Id,Amount\n1,2\n3"] {
            assert!(read(torn, 5).expect("rows").1.is_torn, "{torn:?}");
        }
    }

    #[test]
    fn an_empty_page_has_no_rows() {
        let (rows, page) = read(b"\"Id\",\"Amount\"\n", 5).expect("rows");
        assert_eq!((rows.num_rows(), page.records), (0, 0));
    }
}
