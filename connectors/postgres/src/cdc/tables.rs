//! Which streams a change belongs to, and what their tables look like at that place of the log.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, SchemaRef};
use ingest_core::{Error, ErrorKind, RESYNC, Result, StreamName};

use super::lost;
use super::message::{Message, Relation, Tuple, Value};
use super::rows::{Op, RowColumn, Rows};
use crate::catalog::{self, Cells, Table};
use crate::server::Server;
use crate::types::{Types, column_kind};
use crate::wire::broken;

/// A table that is followed.
pub(crate) struct Wanted {
    pub(crate) table: Arc<Table>,
    /// The columns that are wanted; `None` = all.
    pub(crate) columns: Option<Vec<String>>,
    /// The columns that tell rows apart.
    pub(crate) key: Vec<String>,
}

/// What goes out.
pub(crate) enum Emit {
    Rows(StreamName, RecordBatch),
    Schema(StreamName, SchemaRef),
}

/// The tables that are followed, and the relations of the log that belong to them.
pub(crate) struct Tables {
    server: Arc<Server>,
    streams: Vec<Followed>,
    relations: HashMap<u32, Known>,
    types: Types,
}

struct Followed {
    table: Arc<Table>,
    chosen: Option<Vec<String>>,
    key: Vec<String>,
    /// The columns of the stream's schema as it was told last.
    announced: Vec<(String, DataType)>,
    rows: Option<Rows>,
}

struct Known {
    relation: Relation,
    routes: Vec<Route>,
}

/// How rows of a relation become rows of a stream.
struct Route {
    stream: usize,
    /// For each column of the relation, which one of the rows it is.
    places: Vec<Option<usize>>,
    /// Columns of the rows that the relation does not have.
    missing: Vec<usize>,
    /// The columns of the relation that are the stream's key.
    key: Vec<usize>,
}

impl Tables {
    pub(crate) fn new(server: &Arc<Server>, tables: Vec<Wanted>) -> Self {
        let streams = tables.into_iter().map(|Wanted { table, columns: chosen, key }| {
            let is_chosen = |name: &String| chosen.as_ref().is_none_or(|chosen| chosen.contains(name));
            let columns = table.columns.iter().filter(|column| is_chosen(&column.name));
            let announced = columns.map(|column| (column.name.clone(), column.kind.data_type())).collect();
            Followed { table, announced, rows: None, chosen, key }
        });
        Self { server: Arc::clone(server), streams: streams.collect(), relations: HashMap::new(), types: Types::new() }
    }

    /// Takes what a table looks like from here on. Gives what has to go out before its next rows.
    pub(crate) async fn relation(&mut self, relation: Relation) -> Result<Vec<Emit>> {
        if self.relations.get(&relation.id).is_some_and(|known| known.relation == relation) {
            return Ok(Vec::new());
        }
        let streams = match self.relations.get(&relation.id) {
            Some(known) if (&known.relation.schema, &known.relation.name) != (&relation.schema, &relation.name) => {
                return Err(Error::new(ErrorKind::SchemaChanged, "cdc: a table was renamed")
                    .with("table", format!("{}.{}", known.relation.schema, known.relation.name))
                    .with("now", format!("{}.{}", relation.schema, relation.name))
                    .hint("name the stream by its new name, and load it again"));
            }
            Some(known) => known.routes.iter().map(|route| route.stream).collect(),
            None => self.streams_of(&relation).await?,
        };
        if !streams.is_empty() {
            self.learn_types(&relation).await?;
        }
        let mut out = Vec::new();
        for stream in &streams {
            self.reshape(*stream, &relation, &mut out).await?;
        }
        let routes = streams.iter().map(|stream| self.route(*stream, &relation)).collect::<Result<_>>()?;
        self.relations.insert(relation.id, Known { relation, routes });
        Ok(out)
    }

    /// The streams that rows of a relation belong to: its own, and those of the tables that it is a part of.
    async fn streams_of(&self, relation: &Relation) -> Result<Vec<usize>> {
        let sql = format!(
            "WITH RECURSIVE up(oid) AS (SELECT {id}::pg_catalog.oid UNION
               SELECT i.inhparent FROM up u JOIN pg_catalog.pg_inherits i ON i.inhrelid = u.oid)
             SELECT oid FROM up",
            id = relation.id
        );
        let mut lent = self.server.lend().await?;
        let rows = lent.connection.query(&sql).await?;
        lent.give_back(&self.server);
        let oids = rows.into_iter().map(|row| Cells::new(row).number()).collect::<Result<Vec<u32>>>()?;
        let is_named = |table: &Table| (&table.schema, &table.name) == (&relation.schema, &relation.name);
        if let Some(other) =
            self.streams.iter().find(|followed| is_named(&followed.table) && followed.table.oid != relation.id)
        {
            return Err(lost("the table was dropped and made again").with("stream", &other.table.stream));
        }
        let is_part = |followed: &Followed| oids.contains(&followed.table.oid);
        Ok((0..self.streams.len()).filter(|stream| is_part(&self.streams[*stream])).collect())
    }

    async fn learn_types(&mut self, relation: &Relation) -> Result<()> {
        let unknown: Vec<String> = relation
            .columns
            .iter()
            .filter(|column| !self.types.contains_key(&column.type_oid))
            .map(|column| column.type_oid.to_string())
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let mut lent = self.server.lend().await?;
        let seed = format!("SELECT pg_catalog.unnest('{{{}}}'::pg_catalog.oid[])", unknown.join(","));
        self.types.extend(catalog::types(&mut lent.connection, &seed).await?);
        lent.give_back(&self.server);
        Ok(())
    }

    /// The columns of a relation that a stream takes: which, and what they are.
    fn wanted(&self, followed: &Followed, relation: &Relation) -> Vec<(usize, RowColumn)> {
        let is_part = relation.id != followed.table.oid;
        relation
            .columns
            .iter()
            .enumerate()
            .filter(|(_, column)| followed.chosen.as_ref().is_none_or(|chosen| chosen.contains(&column.name)))
            // Children may have columns of their own.
            .filter(|(_, column)| !is_part || followed.table.column(&column.name).is_some())
            .map(|(i, column)| {
                let (kind, cast) = column_kind(&self.types, column.type_oid, column.modifier);
                (i, RowColumn { name: column.name.clone(), kind, cast, type_oid: column.type_oid, number: 0 })
            })
            .collect()
    }

    /// Makes the rows of a stream such that those of a relation fit.
    async fn reshape(&mut self, stream: usize, relation: &Relation, out: &mut Vec<Emit>) -> Result<()> {
        let followed = &self.streams[stream];
        let mut shape: Vec<RowColumn> = self.wanted(followed, relation).into_iter().map(|(_, column)| column).collect();
        let number = |announced: &[(String, DataType)], column: &RowColumn| {
            announced.iter().position(|(name, kind)| *name == column.name && *kind == column.kind.data_type())
        };
        let is_new = shape.iter().any(|column| number(&followed.announced, column).is_none());
        let announced: Vec<_> = if is_new {
            shape.iter().map(|column| (column.name.clone(), column.kind.data_type())).collect()
        } else {
            followed.announced.clone()
        };
        for column in &mut shape {
            column.number =
                number(&announced, column).ok_or_else(|| Error::unexpected("a column was just announced"))?;
        }
        shape.sort_by_key(|column| column.number);
        if !is_new && followed.rows.as_ref().is_some_and(|rows| rows.shape == shape) {
            return Ok(());
        }
        let name = followed.table.stream.clone();
        let server = Arc::clone(&self.server);
        if let Some(former) = &mut self.streams[stream].rows
            && let Some(batch) = former.finish(&server).await?
        {
            out.push(Emit::Rows(name.clone(), batch));
        }
        let rows = Rows::new(shape);
        if is_new {
            out.push(Emit::Schema(name, rows.schema()));
        }
        self.streams[stream].rows = Some(rows);
        self.streams[stream].announced = announced;
        // Partitions whose columns were told before find their places anew.
        let is_part = |(id, known): &(&u32, &Known)| {
            **id != relation.id && known.routes.iter().any(|route| route.stream == stream)
        };
        let others: Vec<u32> = self.relations.iter().filter(is_part).map(|(id, _)| *id).collect();
        for id in others {
            let Some(mut known) = self.relations.remove(&id) else { continue };
            for route in &mut known.routes {
                if route.stream == stream {
                    *route = self.route(stream, &known.relation)?;
                }
            }
            self.relations.insert(id, known);
        }
        Ok(())
    }

    fn route(&self, stream: usize, relation: &Relation) -> Result<Route> {
        let followed = &self.streams[stream];
        let rows = followed.rows.as_ref().ok_or_else(|| Error::unexpected("a relation has no rows to go to"))?;
        let mut places = vec![None; relation.columns.len()];
        for (i, column) in self.wanted(followed, relation) {
            places[i] = rows.shape.iter().position(|other| other.name == column.name && other.kind == column.kind);
        }
        let missing = (0..rows.shape.len()).filter(|place| !places.contains(&Some(*place))).collect();
        let is_key = |i: &usize| followed.key.contains(&relation.columns[*i].name);
        Ok(Route { stream, missing, key: (0..relation.columns.len()).filter(is_key).collect(), places })
    }

    /// Takes a change of rows; `nth` counts the rows of the transaction that is committed at `lsn`. Gives the bytes that it
    /// takes, about.
    pub(crate) fn change(&mut self, message: &Message<'_>, lsn: u64, nth: &mut u64) -> Result<usize> {
        let (id, old, new) = match message {
            Message::Insert { relation, new } => (*relation, None, Some(new)),
            Message::Update { relation, old, new } => (*relation, old.as_ref(), Some(new)),
            Message::Delete { relation, old } => (*relation, Some(old), None),
            _ => return Ok(0),
        };
        let known = self.relations.get(&id).ok_or_else(|| broken("a change of a table that it has not described"))?;
        let mut bytes = 0;
        for route in &known.routes {
            let rows = self.streams[route.stream]
                .rows
                .as_mut()
                .ok_or_else(|| Error::unexpected("a relation has no rows to go to"))?;
            let mut at = *nth;
            let mut push = |op, row: &Tuple<'_>, before: Option<&Tuple<'_>>| -> Result<usize> {
                at += 1;
                rows.push(op, (lsn, at), &route.places, &route.missing, row, before)
            };
            bytes += match (old, new) {
                (None, Some(new)) if matches!(message, Message::Insert { .. }) => push(Op::Insert, new, None)?,
                (None, Some(new)) => push(Op::Update, new, None)?,
                (Some(old), None) => push(Op::Delete, old, None)?,
                // Without a key, a row is known by all that it holds: the old one goes, the new one comes.
                (Some(old), Some(new)) if route.key.is_empty() => {
                    push(Op::Delete, old, None)? + push(Op::Insert, new, Some(old))?
                }
                (Some(old), Some(new)) if moves(route, old, new) => {
                    push(Op::Delete, old, None)? + push(Op::Update, new, whole(old))?
                }
                (Some(old), Some(new)) => push(Op::Update, new, whole(old))?,
                (None, None) => 0,
            };
        }
        // The same numbers in every stream of a row.
        *nth += 2;
        Ok(bytes)
    }

    /// The streams whose tables are emptied.
    pub(crate) fn truncated(&self, relations: &[u32]) -> Result<Vec<StreamName>> {
        let mut streams = Vec::new();
        for (id, known) in relations.iter().filter_map(|id| Some((id, self.relations.get(id)?))) {
            for route in &known.routes {
                let table = &self.streams[route.stream].table;
                if table.oid != *id {
                    return Err(Error::new(
                        ErrorKind::CheckpointInvalid,
                        "cdc: a part of the table was emptied by TRUNCATE, and the log does not say which rows it held",
                    )
                    .with("stream", &table.stream)
                    .with("part", format!("{}.{}", known.relation.schema, known.relation.name))
                    .hint(format!("load the stream again with `{RESYNC}`")));
                }
                streams.push(table.stream.clone());
            }
        }
        Ok(streams)
    }

    /// Everything that has come, as batches.
    pub(crate) async fn finish(&mut self) -> Result<Vec<Emit>> {
        let mut out = Vec::new();
        for followed in &mut self.streams {
            if let Some(rows) = &mut followed.rows
                && let Some(batch) =
                    rows.finish(&self.server).await.map_err(|e| e.with("stream", &followed.table.stream))?
            {
                out.push(Emit::Rows(followed.table.stream.clone(), batch));
            }
        }
        Ok(out)
    }
}

/// Whether an update gives its row another key.
fn moves(route: &Route, old: &Tuple<'_>, new: &Tuple<'_>) -> bool {
    let value = |tuple: &Tuple<'_>, i: usize| match tuple.values.get(i).copied() {
        Some(Value::Unchanged) | None => None,
        Some(Value::Null) => Some(Vec::new()),
        Some(Value::Text(bytes) | Value::Binary(bytes)) => Some(bytes.to_vec()),
    };
    // The server sends the old key alone where it has changed, or lies out of line.
    route.key.iter().any(|i| value(new, *i).is_some_and(|new| value(old, *i) != Some(new)))
}

/// An old row with all of its values.
fn whole<'a, 'b>(old: &'a Tuple<'b>) -> Option<&'a Tuple<'b>> {
    (!old.is_key).then_some(old)
}
