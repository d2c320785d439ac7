//! Planning: windows of cursors, their bounds fixed before reading, and the parents whose lists are read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ingest_core::{
    Error, ErrorKind, Estimate, Mode, Plan, PlanRequest, Result, Safety, Selected, Shape, Slice, SliceId,
};

use crate::Rest;
use crate::bounds::{head, windows};
use crate::sample;
use crate::state::{ParentRow, Position, Work, cursor_id};
use crate::streams::{self, Def, Window};
use crate::types::ColumnType;
use crate::walk::{Bounds, ask};

/// Parents of one slice, at most.
const PARENTS: usize = 100;
/// Bytes of their rows, at most: the work of a slice has a limit.
const PARENT_BYTES: usize = 32 << 10;
/// Parents that the position of an incremental stream can name.
const KNOWN_PARENTS: usize = 20_000;
/// Slices of one plan.
const MOST_SLICES: usize = 100_000;

/// Makes the plan of a request.
pub(crate) async fn plan(rest: &Rest, request: &PlanRequest<Position>) -> Result<Plan<Work, Position>> {
    let mut plan = Plan::default();
    for selected in &request.streams {
        let def = rest.def(selected.stream.name.as_str())?;
        let whole = Whole::read(rest, def, selected).await?;
        match (selected.mode, &def.window, request.interval) {
            (_, Some(_), Some(interval)) => whole.interval(&mut plan, interval)?,
            (_, None, Some(_)) => {
                return Err(Error::config("an interval needs a stream that is read by a cursor")
                    .with("stream", &def.name)
                    .hint("say `incremental` in the manifest, or leave the stream out of this run"));
            }
            (Mode::Full, _, None) => {
                whole.slices(&mut plan, Shape::Snapshot, Bounds::default(), whole.parents())?;
            }
            (Mode::Incremental, Some(window), None) => whole.windows(rest, &mut plan, window).await?,
            (Mode::Incremental, None, None) | (Mode::Cdc, _, None) => {
                let modes: Vec<_> = selected.stream.modes.iter().map(ToString::to_string).collect();
                return Err(Error::new(ErrorKind::Unsupported, "cannot read the stream in this mode")
                    .with("stream", &def.name)
                    .with("mode", selected.mode)
                    .hint(format!("its modes are: {}", modes.join(", "))));
            }
        }
        if plan.slices.len() > MOST_SLICES {
            return Err(Error::new(ErrorKind::LimitExceeded, "a plan needs more slices than it may have")
                .with("stream", &def.name)
                .with("limit", MOST_SLICES)
                .hint("make `incremental.window` longer in the manifest"));
        }
    }
    Ok(plan)
}

/// A stream with all that its slices need.
struct Whole<'a> {
    def: &'a Arc<Def>,
    selected: &'a Selected<Position>,
    columns: Option<Vec<(String, ColumnType)>>,
    parents: Option<Vec<ParentRow>>,
}

impl<'a> Whole<'a> {
    async fn read(rest: &Rest, def: &'a Arc<Def>, selected: &'a Selected<Position>) -> Result<Self> {
        let columns = match def.declared(&rest.defs) {
            Some(_) => None,
            // What was discovered may have been cut to the columns that are wanted; the others must not turn up as unknown.
            None if selected.columns.is_some() => Some(streams::as_text(&sample::fields(rest, def).await?)),
            None => {
                let fields = selected.stream.schema.fields().iter();
                Some(streams::as_text(&fields.map(|field| field.as_ref().clone()).collect::<Vec<_>>()))
            }
        };
        let parents = match &def.parent {
            Some(parent) => Some(listed(rest, def, parent).await?),
            None => None,
        };
        Ok(Self { def, selected, columns, parents })
    }

    fn parents(&self) -> Option<&[ParentRow]> {
        self.parents.as_deref()
    }

    /// One slice, or one for every so many parents.
    fn slices(
        &self,
        plan: &mut Plan<Work, Position>,
        shape: Shape,
        bounds: Bounds,
        parents: Option<&[ParentRow]>,
    ) -> Result<()> {
        let name = &self.def.name;
        let edge = |bound: Option<i64>| bound.map(|bound| bound.to_string()).unwrap_or_default();
        let id = match bounds {
            Bounds { from: None, to: None } => name.to_string(),
            Bounds { from, to } => format!("{name}:{}-{}", edge(from), edge(to)),
        };
        let mut add = |id: String, parents: Option<Vec<ParentRow>>| {
            let Bounds { from, to } = bounds;
            let work = Work { stream: name.to_string(), from, to, columns: self.columns.clone(), parents };
            let streams = vec![name.clone()];
            plan.slices.push(Slice { id: SliceId::new(id), streams, shape, work, estimate: Estimate::default() });
        };
        let Some(parents) = parents else {
            add(id, None);
            return Ok(());
        };
        let (mut some, mut bytes, mut nth) = (Vec::new(), 0, 0);
        for parent in parents {
            let size: usize = parent.iter().map(|(name, raw)| name.len() + raw.len() + 8).sum();
            if size > PARENT_BYTES {
                return Err(Error::new(
                    ErrorKind::LimitExceeded,
                    "the columns of a parent are larger than a slice may be",
                )
                .with("stream", name)
                .with("bytes", size)
                .hint("keep fewer, or smaller, columns in `parent.keep`"));
            }
            if some.len() == PARENTS || bytes + size > PARENT_BYTES {
                add(format!("{id}#{nth}"), Some(std::mem::take(&mut some)));
                (bytes, nth) = (0, nth + 1);
            }
            bytes += size;
            some.push(parent.clone());
        }
        if !some.is_empty() {
            add(format!("{id}#{nth}"), Some(some));
        }
        Ok(())
    }

    /// A window by hand, as far as it was read: what is newer, and what parents hold that nobody has read, the next run reads.
    fn interval(&self, plan: &mut Plan<Work, Position>, (start, end): (i64, i64)) -> Result<()> {
        let held = self.selected.positions.get(&cursor_id());
        let (to, known) = match held {
            Some(Position::Until { to, parents }) => (end.min(*to), parents.as_deref()),
            _ => (end, None),
        };
        if start >= to {
            return Ok(());
        }
        let (old, _) = self.split(held.map(|_| to), known);
        self.slices(plan, Shape::Window, Bounds { from: Some(start), to: Some(to) }, old.as_deref())
    }

    /// What is new since the last plan.
    async fn windows(&self, rest: &Rest, plan: &mut Plan<Work, Position>, window: &Window) -> Result<()> {
        let now = self.now(rest).await?;
        let lag = match window.safety {
            Safety::Lag(lag) => lag,
            Safety::Snapshot | Safety::Watermark | Safety::Unsafe => std::time::Duration::ZERO,
        };
        let head = head(now, lag, window.format);
        let (held, known) = match self.selected.positions.get(&cursor_id()) {
            Some(Position::Until { to, parents }) => (Some(*to), parents.as_deref()),
            Some(Position::At { .. }) => {
                return Err(Error::new(ErrorKind::CheckpointInvalid, "a stream stands at a position of another kind")
                    .with("stream", &self.def.name)
                    .hint("`ingest state reset` forgets it; the next run loads the stream again"));
            }
            None => (None, None),
        };
        let from = held.or(window.start);
        if from.is_some_and(|from| from >= head) {
            return Ok(());
        }
        let (parts, more) = windows(from, head, window.length, window.format);
        let to = parts.last().map_or(head, |(_, to)| *to);
        let (old, new) = self.split(held, known);
        for (from, to) in parts {
            self.slices(plan, Shape::Window, Bounds { from, to: Some(to) }, old.as_deref())?;
        }
        if let Some(new) = new.filter(|new| !new.is_empty()) {
            // Their records may be older than the window; nobody has read them.
            self.slices(plan, Shape::Window, Bounds { from: window.start, to: Some(to) }, Some(&new))?;
        }
        let parents = self.parents().map(|parents| self.names(parents)).transpose()?;
        let then = BTreeMap::from([(cursor_id(), Some(Position::Until { to, parents }))]);
        plan.then.insert(self.def.name.clone(), then);
        plan.more |= more;
        Ok(())
    }

    /// The parents whose lists were read by the last plan, and those that nobody has read yet.
    fn split(&self, held: Option<i64>, known: Option<&str>) -> (Option<Vec<ParentRow>>, Option<Vec<ParentRow>>) {
        let Some(parents) = self.parents() else { return (None, None) };
        let (Some(_), Some(known)) = (held, known) else { return (Some(parents.to_vec()), None) };
        let known: BTreeSet<&[u8]> = known.as_bytes().chunks(16).collect();
        let (old, new) = parents.iter().cloned().partition(|parent| known.contains(hash(parent).as_bytes()));
        (Some(old), Some(new))
    }

    fn names(&self, parents: &[ParentRow]) -> Result<String> {
        if parents.len() > KNOWN_PARENTS {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                "an incremental stream has more parents than it can remember",
            )
            .with("stream", &self.def.name)
            .with("parents", parents.len())
            .with("limit", KNOWN_PARENTS)
            .hint("read it with `mode: full`, or give the parents fewer rows by their own parameters"));
        }
        let names: BTreeSet<String> = parents.iter().map(hash).collect();
        Ok(names.into_iter().collect())
    }

    /// The time, by our clock or the server's, whichever is behind: bounds by a clock ahead of the server's lose rows. It is
    /// asked for with each plan, since a clock may be set while a process lives.
    async fn now(&self, rest: &Rest) -> Result<i64> {
        // The parents were listed a moment ago.
        if let Some(now) = rest.api.now().filter(|_| self.parents.is_some()) {
            return Ok(now);
        }
        let parent = self.parents().and_then(<[ParentRow]>::first);
        let first = ask(self.def, Bounds::default(), parent)?;
        match rest.api.request(self.def, &first, None).send().await {
            Ok(reply) => rest.api.compare_clocks(&reply),
            // The slices of the stream will tell.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.with("stream", &self.def.name)),
        }
        Ok(rest.api.now().unwrap_or_else(|| rest.clock.now_micros()))
    }
}

/// The parents of a stream.
async fn listed(rest: &Rest, def: &Def, parent: &streams::Parent) -> Result<Vec<ParentRow>> {
    let rows = sample::parents(rest, parent, rest.most_parents + 1).await?;
    if rows.len() > rest.most_parents {
        return Err(Error::new(ErrorKind::LimitExceeded, "a stream has more parents than the limit")
            .with("stream", &def.name)
            .with("limit", rest.most_parents)
            .hint("raise `limits.parents` in the manifest, or give the parent stream parameters that select fewer"));
    }
    Ok(rows)
}

/// A parent's name in a position: its columns could be personal. FNV-1a, since positions outlive versions of a library.
fn hash(parent: &ParentRow) -> String {
    let bytes = parent.iter().flat_map(|(name, raw)| [name.as_bytes(), b"=", raw.as_bytes(), b";"]).flatten();
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}
