//! A source that remembers the last call: what a failure shows as sent.

use std::sync::{Arc, Mutex, PoisonError};

use ingest_core::{
    Done, Json, Plan, PlanRequest, Problem, RawOut, Result, Selection, Slice, Source, Stored, Stream, async_trait,
};
use serde_json::json;

/// A call is shown up to this length.
const LONGEST: usize = 1_500;

/// The last call.
#[derive(Clone, Default)]
pub(super) struct Sent(Arc<Mutex<Option<String>>>);

impl Sent {
    pub fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Notes a call with its arguments.
    pub fn note(&self, call: &str, arguments: &Json) {
        let mut text = format!("{call} {arguments}");
        if text.len() > LONGEST {
            let end = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(end);
            text.push('…');
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }

    pub fn last(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A source whose calls are noted.
pub(super) struct Watched {
    pub source: Box<dyn Source>,
    pub sent: Sent,
}

fn slice_json(slice: &Slice<Json>) -> Json {
    json!({"id": slice.id, "streams": slice.streams, "shape": slice.shape, "work": slice.work})
}

#[async_trait]
impl Source for Watched {
    async fn check(&self, selection: &Selection) -> Result<Vec<Problem>> {
        self.sent.note("check", &json!(selection));
        self.source.check(selection).await
    }

    async fn schema(&self, selection: &Selection) -> Result<Vec<Stream>> {
        self.sent.note("schema", &json!(selection));
        self.source.schema(selection).await
    }

    async fn plan(&self, request: &PlanRequest<Stored>) -> Result<Plan<Json, Stored>> {
        let streams: Vec<Json> = request
            .streams
            .iter()
            .map(|s| {
                json!({"stream": s.stream.name, "mode": s.mode, "cursor": s.cursor, "columns": s.columns,
                       "filter": s.filter, "positions": s.positions})
            })
            .collect();
        self.sent.note("plan", &json!({"streams": streams, "interval": request.interval, "now": request.now}));
        self.source.plan(request).await
    }

    async fn extract(
        &self,
        slice: &Slice<Json>,
        version: u32,
        from: Option<&Stored>,
        out: &mut dyn RawOut,
    ) -> Result<Done> {
        self.sent.note("extract", &json!({"slice": slice_json(slice), "from": from}));
        self.source.extract(slice, version, from, out).await
    }

    async fn checkpoint(&self, slice: &Slice<Json>, version: u32, committed: &Stored) -> Result<()> {
        self.sent.note("checkpoint", &json!({"slice": slice_json(slice), "committed": committed}));
        self.source.checkpoint(slice, version, committed).await
    }
}
