//! Sheets of Excel workbooks (`.xlsx`, `.xlsm`).
//!
//! A workbook is a ZIP archive, which is read with random access; a sheet is read cell by cell. Texts that cells share are held
//! in memory, so the archive is measured before anything of it is parsed.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::ops::{ControlFlow, Range};

use calamine::{DataRef, ExcelDateTime, Reader, Xlsx};

use super::records::Take;
use crate::input::Limits;
use crate::options::StreamOptions;
use crate::store::{Fault, Reading};

/// What a workbook decompresses to at most beside its sheets: the texts that cells share above all.
const SHARED: u64 = 512 << 20;
/// Columns of a sheet, by the format.
const COLUMNS: usize = 16_384;

/// The days that Excel knows, to the end of the year 9999.
const DAYS: Range<f64> = 0.0..2_958_466.0;

/// Gives the rows of a sheet.
pub fn read(reading: &Reading, options: &StreamOptions, limits: Limits, take: &mut dyn Take) -> Result<(), Fault> {
    let file = reading.whole()?;
    measure(file.try_clone()?, reading.file.size, limits)?;
    let mut file = BufReader::new(file);
    file.rewind()?;
    let mut book = Xlsx::new(file).map_err(|e| Fault::Damaged(format!("it is no workbook that can be read: {e}")))?;
    let sheet = sheet(&book.sheet_names(), options.sheet.as_deref())?;
    let failed = |e| Fault::Damaged(format!("sheet \"{sheet}\": {e}"));
    let mut cells = book.worksheet_cells_reader(&sheet).map_err(failed)?;
    let last = cells.dimensions().end.1 as usize;
    let mut rows = Rows { sheet: &sheet, options, take, at: 0, fields: Vec::new(), width: None, last };
    loop {
        let cell = cells
            .next_cell()
            .map_err(|e| Fault::Damaged(format!("sheet \"{sheet}\", row {} or behind it: {e}", rows.at + 1)))?;
        let Some(cell) = cell else { break };
        let (row, column) = cell.get_position();
        if let ControlFlow::Break(()) = rows.cell(row, column as usize, cell.get_value())? {
            return Ok(());
        }
    }
    rows.end().map(|_| ())
}

/// The sheet of this name or number, the first one if none is asked for.
fn sheet(names: &[String], wanted: Option<&str>) -> Result<String, Fault> {
    let found = match wanted {
        None => names.first(),
        Some(wanted) => names.iter().find(|name| *name == wanted).or_else(|| {
            let number: usize = wanted.parse().ok()?;
            names.get(number.checked_sub(1)?)
        }),
    };
    found.cloned().ok_or_else(|| {
        let wanted = wanted.map_or_else(|| "no sheet".to_owned(), |wanted| format!("no sheet \"{wanted}\""));
        Fault::Damaged(format!("it has {wanted}; its sheets are {}", names.join(", ")))
    })
}

/// Decompresses everything to nowhere: what an archive says of its sizes need not be true.
fn measure(file: File, size: u64, limits: Limits) -> Result<(), Fault> {
    let ceiling = limits.ceiling(size);
    let damaged = |e: zip::result::ZipError| Fault::Damaged(format!("it is no workbook that can be read: {e}"));
    let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(damaged)?;
    let (mut left, mut shared) = (ceiling, SHARED);
    for n in 0..archive.len() {
        let entry = archive.by_index(n).map_err(damaged)?;
        let is_sheet = entry.name().starts_with("xl/worksheets/");
        let most = if is_sheet { left } else { left.min(shared) };
        let count = io::copy(&mut entry.take(most.saturating_add(1)), &mut io::sink())?;
        if count > most {
            return Err(Fault::Damaged(format!(
                "LimitExceeded: it decompresses to more than {} MiB; raise `max_ratio` or `max_decompressed` if that is meant",
                if count > left { ceiling >> 20 } else { SHARED >> 20 }
            )));
        }
        left -= count;
        shared -= if is_sheet { 0 } else { count };
    }
    Ok(())
}

/// The cells of a sheet on their way to records.
struct Rows<'a> {
    sheet: &'a str,
    options: &'a StreamOptions,
    take: &'a mut dyn Take,
    /// The row that is being filled, from 0.
    at: u32,
    fields: Vec<String>,
    /// The number of columns, once the names are known.
    width: Option<usize>,
    /// The last column that the sheet says it has.
    last: usize,
}

impl Rows<'_> {
    fn cell(&mut self, row: u32, column: usize, value: &DataRef<'_>) -> Result<ControlFlow<()>, Fault> {
        if row != self.at {
            if row < self.at {
                return Err(self.damaged("its rows are in no order"));
            }
            if let ControlFlow::Break(()) = self.end()? {
                return Ok(ControlFlow::Break(()));
            }
            self.at = row;
        }
        if column >= COLUMNS {
            return Err(self.damaged("it has more columns than a sheet can have"));
        }
        let text = text(value);
        if text.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        if self.fields.len() <= column {
            self.fields.resize(column + 1, String::new());
        }
        if let Some(field) = self.fields.get_mut(column) {
            *field = text;
        }
        Ok(ControlFlow::Continue(()))
    }

    fn damaged(&self, what: &str) -> Fault {
        Fault::Damaged(format!("sheet \"{}\", row {}: {what}", self.sheet, self.at + 1))
    }

    /// Gives the row that is filled; rows without a value are passed over.
    fn end(&mut self) -> Result<ControlFlow<()>, Fault> {
        let fields = std::mem::take(&mut self.fields);
        if fields.is_empty() || u64::from(self.at) < self.options.skip {
            return Ok(ControlFlow::Continue(()));
        }
        let Some(width) = self.width else {
            if self.options.header {
                self.width = Some(fields.len());
                self.take.names(fields)?;
                return Ok(ControlFlow::Continue(()));
            }
            let width = fields.len().max((self.last + 1).min(COLUMNS));
            self.width = Some(width);
            self.take.names(vec![String::new(); width])?;
            return self.give(fields, width);
        };
        self.give(fields, width)
    }

    fn give(&mut self, mut fields: Vec<String>, width: usize) -> Result<ControlFlow<()>, Fault> {
        if fields.len() > width {
            let why =
                format!("sheet \"{}\", row {}: {} cells, expected {width}", self.sheet, self.at + 1, fields.len());
            self.take.bad(&why, fields.join("\t").as_bytes())?;
            return Ok(ControlFlow::Continue(()));
        }
        fields.resize(width, String::new());
        let more = self.take.record(&fields);
        fields.clear();
        self.fields = fields;
        more
    }
}

/// A value as the text that a CSV file would have.
fn text(value: &DataRef<'_>) -> String {
    match value {
        DataRef::Empty => String::new(),
        DataRef::Int(number) => number.to_string(),
        DataRef::Float(number) => float(*number),
        DataRef::String(text) => text.clone(),
        DataRef::SharedString(text) => (*text).to_owned(),
        DataRef::Bool(truth) => truth.to_string(),
        DataRef::DateTime(time) => date_time(time),
        DataRef::DateTimeIso(text) | DataRef::DurationIso(text) => text.clone(),
        // What Excel shows: it fits a column of texts alone.
        DataRef::Error(error) => error.to_string(),
    }
}

/// Whether a text is what a cell shows whose formula fails: it says nothing of the type of its column.
pub fn is_error(text: &str) -> bool {
    text == "#N/A" || (text.starts_with('#') && text.ends_with(['!', '?']) && !text.contains(' '))
}

/// The shortest text that is this number. One that no person has typed gets an exponent, so that its column is one of
/// doubles.
fn float(number: f64) -> String {
    let plain = number.to_string();
    let digits = plain.bytes().filter(u8::is_ascii_digit).count();
    if digits > 16 && number.fract() != 0.0 || digits > 18 { format!("{number:e}") } else { plain }
}

/// A date, a time of day, both, or a span of time, by what the cell says that it is.
fn date_time(time: &ExcelDateTime) -> String {
    let serial = time.as_f64();
    if time.is_duration() || (0.0..1.0).contains(&serial) {
        return clock((serial * 86_400_000.0).round());
    }
    if !DAYS.contains(&serial) {
        return float(serial);
    }
    let (year, month, day, hour, minute, second, milli) = time.to_ymd_hms_milli();
    let date = format!("{year:04}-{month:02}-{day:02}");
    match (hour, minute, second, milli) {
        (0, 0, 0, 0) => date,
        (_, _, _, 0) => format!("{date}T{hour:02}:{minute:02}:{second:02}"),
        _ => format!("{date}T{hour:02}:{minute:02}:{second:02}.{milli:03}"),
    }
}

/// Milliseconds as `26:30:00`.
fn clock(millis: f64) -> String {
    let sign = if millis < 0.0 { "-" } else { "" };
    let millis = millis.abs() as u64;
    let (seconds, rest) = (millis / 1_000, millis % 1_000);
    let text = format!("{sign}{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60);
    if rest == 0 { text } else { format!("{text}.{rest:03}") }
}
