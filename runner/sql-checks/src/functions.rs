//! The functions that a condition may call: each gives the same answer for the same row, whenever it is asked.

use ingest_core::nearest;

use crate::Fault;

/// A function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    Abs,
    Ceil,
    Coalesce,
    Contains,
    EndsWith,
    Floor,
    Greatest,
    Least,
    Length,
    Lower,
    NullIf,
    Round,
    StartsWith,
    Substring,
    Trim,
    TrimEnd,
    TrimStart,
    Upper,
}

const NAMES: [(&str, Function); 24] = [
    ("abs", Function::Abs),
    ("btrim", Function::Trim),
    ("ceil", Function::Ceil),
    ("ceiling", Function::Ceil),
    ("char_length", Function::Length),
    ("character_length", Function::Length),
    ("coalesce", Function::Coalesce),
    ("contains", Function::Contains),
    ("ends_with", Function::EndsWith),
    ("floor", Function::Floor),
    ("greatest", Function::Greatest),
    ("least", Function::Least),
    ("length", Function::Length),
    ("lower", Function::Lower),
    ("ltrim", Function::TrimStart),
    ("nullif", Function::NullIf),
    ("round", Function::Round),
    ("rtrim", Function::TrimEnd),
    ("starts_with", Function::StartsWith),
    ("substr", Function::Substring),
    ("substring", Function::Substring),
    ("trim", Function::Trim),
    ("upper", Function::Upper),
    ("ifnull", Function::Coalesce),
];

/// Functions over several rows.
const OF_ROWS: [&str; 16] = [
    "array_agg",
    "avg",
    "bool_and",
    "bool_or",
    "count",
    "first_value",
    "lag",
    "last_value",
    "lead",
    "max",
    "min",
    "rank",
    "row_number",
    "stddev",
    "string_agg",
    "sum",
];

/// Functions that do not always give one answer.
const CHANGING: [&str; 16] = [
    "clock_timestamp",
    "current_date",
    "current_time",
    "current_timestamp",
    "current_user",
    "gen_random_uuid",
    "localtime",
    "localtimestamp",
    "nextval",
    "now",
    "rand",
    "random",
    "session_user",
    "today",
    "uuid",
    "version",
];

/// Why a function cannot be called, whatever its arguments; `None` for one that can, and for one that nobody knows.
pub fn refused(name: &str) -> Option<Fault> {
    if OF_ROWS.contains(&name) {
        let hint = "a condition sees one row: `row_count`, `unique` and `volume` look at all of them";
        return Some(Fault::new(format!("{name} is about several rows"), hint));
    }
    CHANGING.contains(&name).then(|| {
        let hint = "a row that passes today must pass when it is read again; `freshness` compares with the clock";
        Fault::new(format!("{name} does not give the same answer each time"), hint)
    })
}

impl Function {
    /// The function of a name in lower case.
    ///
    /// # Errors
    /// A name that nobody knows, with one that is near.
    pub fn named(name: &str) -> Result<Self, Fault> {
        let known = NAMES.iter().find(|(known, _)| *known == name).map(|(_, function)| *function);
        known.ok_or_else(|| {
            let hint = match nearest(name, NAMES.iter().map(|(known, _)| *known)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "docs/policies.md lists the functions".to_owned(),
            };
            Fault::new(format!("there is no function {name:?}"), hint)
        })
    }

    /// The least and the most arguments.
    pub fn arity(self) -> (usize, usize) {
        match self {
            Self::Coalesce | Self::Greatest | Self::Least => (1, usize::MAX),
            Self::Contains | Self::EndsWith | Self::NullIf | Self::StartsWith => (2, 2),
            Self::Substring => (2, 3),
            _ => (1, 1),
        }
    }
}
