#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod bind;
mod evaluate;
mod functions;
mod read;
mod types;

use arrow_array::{Array, ArrayRef};
use arrow_buffer::BooleanBuffer;
use arrow_schema::DataType;
use ingest_core::{Error, Result};

use evaluate::Node;
use read::Tree;

/// Why a condition cannot be used: one line, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub hint: String,
}

impl Fault {
    fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }
}

/// A condition that was read, before any column is known.
#[derive(Debug, Clone)]
pub struct Condition {
    tree: Tree,
    columns: Vec<String>,
}

impl Condition {
    /// Reads a condition.
    ///
    /// # Errors
    /// A text that is too long, nested too deeply, no expression, or that asks for what a check on single rows cannot know:
    /// other rows, other tables, the time.
    pub fn read(text: &str) -> std::result::Result<Self, Fault> {
        let (tree, columns) = read::read(text)?;
        if columns.is_empty() {
            return Err(Fault::new(
                "the condition names no column",
                "write e.g. `amount >= 0`; texts stand in single quotes",
            ));
        }
        Ok(Self { tree, columns })
    }

    /// The columns that it names, each once: names, or paths of fields as `address.zip`.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Fits it to the types of its columns, in the order of [`Condition::columns`].
    ///
    /// # Errors
    /// An operator or function that does not take its types; a condition that is not boolean.
    pub fn bind(&self, types: &[DataType]) -> std::result::Result<Bound, Fault> {
        Ok(Bound { node: bind::bind(&self.tree, types)? })
    }
}

/// A condition for columns of certain types.
#[derive(Debug, Clone)]
pub struct Bound {
    node: Node,
}

impl Bound {
    /// The rows for which the condition is false; where it is null, it holds, as for a CHECK of a database. `columns` in the
    /// order of [`Condition::columns`], of the types that it was bound to, all of `rows` rows.
    ///
    /// # Errors
    /// `SchemaChanged` for columns of other types; `Unexpected` where a kernel fails.
    pub fn failing(&self, columns: &[ArrayRef], rows: usize) -> Result<BooleanBuffer> {
        let value = evaluate::evaluate(&self.node, columns, rows)?;
        let truth = evaluate::truth(&value)?;
        let fails = |row: usize| truth.is_valid(row) && !truth.value(row);
        if value.is_scalar() {
            return Ok(if truth.len() == 1 && fails(0) {
                BooleanBuffer::new_set(rows)
            } else {
                BooleanBuffer::new_unset(rows)
            });
        }
        if truth.len() != rows {
            return Err(Error::unexpected("a condition has another number of rows than its batch").with("rows", rows));
        }
        let wrong = !truth.values();
        Ok(match truth.nulls() {
            Some(nulls) => &wrong & nulls.inner(),
            None => wrong,
        })
    }
}

#[cfg(test)]
mod tests;
