//! Changes as rows: partial where an event is, in the order of the events.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use ingest_core::json::Decoder;
use ingest_core::{Error, Result, Seq, columns};

use super::event::Value;
use crate::streams::Object;

/// The rows of a batch in the making.
pub(crate) struct Rows {
    decoder: Decoder,
    object: Arc<Object>,
    /// The columns that are given.
    wanted: Vec<(String, DataType)>,
    ops: Vec<&'static str>,
    seqs: Vec<String>,
    json: Vec<u8>,
}

impl Rows {
    pub fn new(object: Arc<Object>, wanted: Vec<(String, DataType)>) -> Result<Self> {
        // Bits of `_ingest_absent` count all columns of the stream, whichever are wanted.
        let decoder = Decoder::new(Arc::new(Schema::new(object.fields().to_vec())))?.tracking_absent();
        Ok(Self { decoder, object, wanted, ops: Vec::new(), seqs: Vec::new(), json: Vec::new() })
    }

    /// Adds a row of what an event carries; what it does not carry is absent.
    pub fn push(&mut self, op: &'static str, seq: Seq, id: &str, values: &[Value]) -> Result<()> {
        self.json.clear();
        self.json.extend_from_slice(b"{\"Id\":");
        self.text(id)?;
        for value in values {
            let Some(column) = self.column(value) else { continue };
            self.json.push(b',');
            self.text(&column)?;
            self.json.push(b':');
            self.json.extend_from_slice(&value.json);
        }
        self.json.push(b'}');
        self.decoder.object(&self.json)?;
        self.ops.push(op);
        self.seqs.push(seq.as_str().to_owned());
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<()> {
        serde_json::to_writer(&mut self.json, text)
            .map_err(|e| Error::unexpected("cannot write a text as JSON").caused_by(e))
    }

    /// The column of a value. One without a column goes along under its own name, and is rescued: a field that is new.
    fn column(&self, value: &Value) -> Option<String> {
        let has = |name: &String| self.object.has(name);
        let Some(outer) = &value.outer else { return Some(value.name.clone()) };
        let inner = &value.name;
        let of_address = outer.strip_suffix("Address").map(|prefix| format!("{prefix}{inner}"));
        let of_custom = outer.strip_suffix("__c").map(|name| format!("{name}__{inner}__s"));
        of_address.filter(has).or(of_custom.filter(has)).or(Some(inner.clone()).filter(has))
    }

    /// Whether a column is given.
    pub fn wants(&self, column: &str) -> bool {
        self.wanted.iter().any(|(name, _)| name == column)
    }

    /// Whether an event that carries these values leaves columns out that are given.
    pub fn lacks(&self, values: &[Value]) -> bool {
        let carried: Vec<String> = values.iter().filter_map(|value| self.column(value)).collect();
        self.wanted.iter().any(|(name, _)| name != "Id" && !carried.contains(name))
    }

    pub fn bytes(&self) -> usize {
        self.decoder.bytes() + self.seqs.len() * 64
    }

    /// Takes the rows as a batch; `None` where there is none.
    pub fn finish(&mut self) -> Result<Option<RecordBatch>> {
        if self.decoder.rows() == 0 {
            return Ok(None);
        }
        let rows = self.decoder.flush()?;
        let (mut fields, mut arrays): (Vec<Arc<Field>>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
        for (field, array) in rows.schema_ref().fields().iter().zip(rows.columns()) {
            if columns::is_reserved(field.name()) || self.wants(field.name()) {
                fields.push(field.clone());
                arrays.push(array.clone());
            }
        }
        fields.extend([columns::OP, columns::SEQ].map(|name| Arc::new(columns::field(name))));
        arrays.push(Arc::new(StringArray::from_iter_values(std::mem::take(&mut self.ops))));
        arrays.push(Arc::new(StringArray::from_iter_values(std::mem::take(&mut self.seqs))));
        Ok(Some(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?))
    }
}
