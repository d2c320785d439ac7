//! A plug-in that answers what its script says: good answers, unless a test changes one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ingest_core::plugin::batch::{encode, schema_text};
use ingest_core::{Json, Result};
use ingest_runner::plugin::{Executable, Patience};
use serde_json::json;

use super::{Shop, script};

/// A plug-in with one stream `orders` of the columns `id` and `_ingest_seq`.
pub struct Rogue {
    pub folder: tempfile::TempDir,
    steps: Json,
    patience: Patience,
}

impl Rogue {
    /// One slice of a shape, `window` or `feed`, whose `extract` takes these steps.
    pub fn new(shape: &str, extract: Json) -> Self {
        let mode = if shape == "feed" { "incremental" } else { "full" };
        let schema = schema_text(&ids(&[1]).schema()).expect("a schema");
        let streams = json!([{"name": "orders", "schema": schema, "modes": [mode]}]);
        let then = if shape == "feed" { json!({"orders": {"s": {"v": 1, "seq": "0", "at": 0}}}) } else { json!({}) };
        let plan = json!({"slices": [{"id": "s", "streams": ["orders"], "shape": shape, "work": 1}], "then": then});
        let steps = json!({
            "hello": [{"json": hello()}],
            "open": [{"json": {"type": "opened"}}],
            "check": [{"json": {"type": "problems", "problems": []}}],
            "schema": [{"json": {"type": "streams", "streams": streams}}],
            "plan": [{"json": {"type": "plan", "plan": plan}}],
            "extract": extract,
            "checkpoint": [{"json": {"type": "ok"}}],
        });
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder, steps, patience: Patience { farewell: Duration::from_secs(2), ..Patience::default() } }
    }

    /// Other steps for a request.
    pub fn on(mut self, request: &str, steps: Json) -> Self {
        self.steps[request] = steps;
        self
    }

    /// Is waited for a moment only.
    pub fn hasty(mut self) -> Self {
        self.patience.beat = Duration::from_millis(200);
        self.patience.hello = Duration::from_millis(1_500);
        self.patience.farewell = Duration::from_millis(300);
        self
    }

    pub fn path(&self) -> Option<PathBuf> {
        let json = self.steps.to_string();
        std::fs::write(self.folder.path().join("rogue.json"), json).expect("written");
        script(self.folder.path(), "rogue.py", include_str!("rogue.py"))
    }

    /// `None` where Python is not wanted.
    pub fn executable(&self) -> Option<Result<Executable>> {
        Some(Executable::patient(self.path()?, self.patience))
    }

    /// A source of it over a lake.
    pub fn shop(&self) -> Option<Shop> {
        Some(Shop::new(self.executable()?.expect("it says hello"), json!({})))
    }

    /// How often it was started.
    pub fn starts(&self) -> u64 {
        let text = std::fs::read_to_string(self.folder.path().join("rogue.starts")).expect("it was started");
        text.parse().expect("a number")
    }
}

/// A good greeting.
pub fn hello() -> Json {
    let capabilities = json!({"modes": ["full", "incremental"], "deletes": "unseen", "replay": "always", "parallel": 1,
        "portable": true, "projection": false, "filter": false});
    let config = json!({"type": "object", "properties": {"password": {"type": "string", "writeOnly": true}}});
    json!({"type": "hello", "protocol": 1, "spec": {"name": "rogue", "version": "1", "title": "Rogue", "docs": "",
        "state_version": 1, "capabilities": capabilities, "config": config}})
}

/// Rows as the stream declares them.
pub fn ids(ids: &[i64]) -> RecordBatch {
    let array: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
    RecordBatch::try_from_iter_with_nullable([("id", array, false)]).expect("a batch")
}

/// Rows of a feed.
pub fn events(numbers: &[i64]) -> RecordBatch {
    let id: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
    let seq: ArrayRef = Arc::new(StringArray::from_iter_values(numbers.iter().map(|n| n.to_string())));
    RecordBatch::try_from_iter_with_nullable([("id", id, false), ("_ingest_seq", seq, true)]).expect("a batch")
}

/// The step that sends rows.
pub fn rows(batch: &RecordBatch) -> Json {
    let encoded = encode(batch).expect("encodes");
    let bytes: Vec<u8> = encoded[0].pieces().iter().flat_map(|piece| piece.to_vec()).collect();
    json!({"json": {"type": "rows", "stream": "orders"}, "arrow": BASE64_STANDARD.encode(bytes)})
}

/// The step that sends a mark.
pub fn mark(at: i64) -> Json {
    json!({"json": {"type": "mark", "position": {"v": 1, "seq": at.to_string(), "at": at}}})
}

/// The step that ends a slice.
pub fn done(end: &str) -> Json {
    json!({"json": {"type": "done", "end": end}})
}

/// Bytes that are no frame.
pub fn raw(bytes: &[u8]) -> Json {
    json!({"raw": BASE64_STANDARD.encode(bytes)})
}
