//! The text of a condition, and what of SQL it may use.
//!
//! The parser is that of many engines; a condition is what is left of its language when there is one row, and nothing else:
//! no other rows, no tables, no clock.

use std::collections::HashMap;

use arrow_schema::{DataType, TimeUnit};
use sqlparser::ast::{
    BinaryOperator, CastKind, CeilFloorKind, DataType as Written, DateTimeField, Expr, Function as Call, FunctionArg,
    FunctionArgExpr, FunctionArguments, Ident, ObjectNamePart, TimezoneInfo, TrimWhereField, UnaryOperator, Value,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;

use crate::Fault;
use crate::functions::{Function, refused};
use crate::types::exact;

/// Bytes of a condition.
const LONGEST: usize = 8 << 10;

/// Levels of parentheses, calls and operators; `and` and `or` in a row are one.
const DEEPEST: usize = 48;

/// Bytes of the stack that a condition is read on: without optimisation the parser takes up to 150 KiB for a level.
const STACK: usize = 32 << 20;

type Result<T> = std::result::Result<T, Fault>;

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Null is a value like any other.
    Distinct,
    NotDistinct,
}

/// Arithmetic of two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

/// A part of a date or time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Year,
    Quarter,
    Month,
    Week,
    Day,
    DayOfYear,
    /// Sunday is 0.
    DayOfWeek,
    Hour,
    Minute,
    Second,
    /// Seconds since 1970 UTC, with those behind the point.
    Epoch,
}

/// A condition without types.
#[derive(Debug, Clone)]
pub enum Tree {
    /// By its place among the columns.
    Column(usize),
    Null,
    Bool(bool),
    /// As it was written.
    Number(String),
    Text(String),
    Not(Box<Tree>),
    Minus(Box<Tree>),
    All(Vec<Tree>),
    Any(Vec<Tree>),
    Compare(Comparison, Box<Tree>, Box<Tree>),
    Arithmetic(Operation, Box<Tree>, Box<Tree>),
    Concat(Box<Tree>, Box<Tree>),
    IsNull(Box<Tree>),
    /// Whether it is true, or false; never null.
    Is(Box<Tree>, bool),
    Between(Box<Tree>, Box<Tree>, Box<Tree>),
    OneOf(Box<Tree>, Vec<Tree>),
    Like {
        text: Box<Tree>,
        pattern: String,
        /// Upper and lower case are one.
        folded: bool,
    },
    Matches(Box<Tree>, String),
    Case {
        operand: Option<Box<Tree>>,
        whens: Vec<(Tree, Tree)>,
        otherwise: Option<Box<Tree>>,
    },
    Cast(Box<Tree>, DataType),
    Extract(Part, Box<Tree>),
    Call(Function, Vec<Tree>),
}

/// Reads a condition, and the columns that it names.
pub fn read(text: &str) -> Result<(Tree, Vec<String>)> {
    if text.len() > LONGEST {
        let hint = "write several checks, or `accepted_values` for a long list";
        return Err(Fault::new(format!("the condition has {} bytes, and may have {LONGEST}", text.len()), hint));
    }
    let lost =
        || Fault::new("the condition cannot be read: there is no thread for it", "is the machine out of memory?");
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || parse(text));
        thread.map_err(|_| lost())?.join().map_err(|_| lost())?
    })
}

fn parse(text: &str) -> Result<(Tree, Vec<String>)> {
    let unreadable = |error: ParserError| match error {
        ParserError::RecursionLimitExceeded => too_deep(),
        error => {
            let said = error.to_string();
            let said = said.trim_start_matches("sql parser error: ").replace('\n', " ");
            let what = format!("the condition cannot be read: {}", shortened(&said));
            Fault::new(what, "it is one expression, as in a CHECK of a database")
        }
    };
    let dialect = PostgreSqlDialect {};
    let parser = Parser::new(&dialect).with_recursion_limit(DEEPEST + 16);
    let mut parser = parser.try_with_sql(text).map_err(unreadable)?;
    let expression = parser.parse_expr().map_err(unreadable)?;
    let next = parser.peek_token();
    if next.token != Token::EOF {
        return Err(Fault::new(
            format!("the condition goes on behind its end: {}", shortened(&next.to_string())),
            "it is one expression, without a semicolon",
        ));
    }
    let mut reader = Reader::default();
    let tree = reader.tree(&expression, 0)?;
    Ok((tree, reader.columns))
}

fn too_deep() -> Fault {
    Fault::new("the condition is nested too deeply", format!("it may have {DEEPEST} levels: write several checks"))
}

fn unknown(what: impl std::fmt::Display) -> Fault {
    Fault::new(format!("a condition cannot use {}", shortened(&what.to_string())), "docs/policies.md lists what it can")
}

/// The beginning of what was written, which may be long.
fn shortened(text: &str) -> String {
    const MOST: usize = 100;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[derive(Default)]
struct Reader {
    columns: Vec<String>,
    places: HashMap<String, usize>,
}

impl Reader {
    fn column(&mut self, parts: &[Ident]) -> Tree {
        let names: Vec<&str> = parts.iter().map(|part| part.value.as_str()).collect();
        let name = names.join(".");
        let next = self.columns.len();
        let place = *self.places.entry(name.clone()).or_insert(next);
        if place == next {
            self.columns.push(name);
        }
        Tree::Column(place)
    }

    fn tree(&mut self, expression: &Expr, depth: usize) -> Result<Tree> {
        if depth > DEEPEST {
            return Err(too_deep());
        }
        let depth = depth + 1;
        let negated = |tree: Tree, negated: bool| if negated { Tree::Not(Box::new(tree)) } else { tree };
        Ok(match expression {
            Expr::Nested(inner) => self.tree(inner, depth)?,
            Expr::Identifier(name) => self.column(std::slice::from_ref(name)),
            Expr::CompoundIdentifier(parts) => self.column(parts),
            Expr::Value(value) => literal(&value.value)?,
            Expr::TypedString(typed) if !typed.uses_odbc_syntax => {
                let data_type = data_type(&typed.data_type)?;
                Tree::Cast(Box::new(literal(&typed.value.value)?), data_type)
            }
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => negated(self.tree(expr, depth)?, true),
            Expr::UnaryOp { op: UnaryOperator::Plus, expr } => self.tree(expr, depth)?,
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match self.tree(expr, depth)? {
                Tree::Number(digits) => Tree::Number(match digits.strip_prefix('-') {
                    Some(digits) => digits.to_owned(),
                    None => format!("-{digits}"),
                }),
                tree => Tree::Minus(Box::new(tree)),
            },
            Expr::BinaryOp { left, op, right } => self.binary(left, op, right, depth)?,
            Expr::IsNull(inner) => Tree::IsNull(self.boxed(inner, depth)?),
            Expr::IsNotNull(inner) => negated(Tree::IsNull(self.boxed(inner, depth)?), true),
            Expr::IsUnknown(inner) => Tree::IsNull(self.boxed(inner, depth)?),
            Expr::IsNotUnknown(inner) => negated(Tree::IsNull(self.boxed(inner, depth)?), true),
            Expr::IsTrue(inner) => Tree::Is(self.boxed(inner, depth)?, true),
            Expr::IsNotTrue(inner) => negated(Tree::Is(self.boxed(inner, depth)?, true), true),
            Expr::IsFalse(inner) => Tree::Is(self.boxed(inner, depth)?, false),
            Expr::IsNotFalse(inner) => negated(Tree::Is(self.boxed(inner, depth)?, false), true),
            Expr::IsDistinctFrom(left, right) => self.compare(Comparison::Distinct, left, right, depth)?,
            Expr::IsNotDistinctFrom(left, right) => self.compare(Comparison::NotDistinct, left, right, depth)?,
            Expr::Between { expr, negated: not, low, high } => {
                let (value, low, high) = (self.boxed(expr, depth)?, self.boxed(low, depth)?, self.boxed(high, depth)?);
                negated(Tree::Between(value, low, high), *not)
            }
            Expr::InList { expr, list, negated: not } => {
                negated(Tree::OneOf(self.boxed(expr, depth)?, self.list(list, depth)?), *not)
            }
            Expr::Like { negated: not, any: false, expr, pattern, escape_char: None } => {
                negated(self.like(expr, pattern, false, depth)?, *not)
            }
            Expr::ILike { negated: not, any: false, expr, pattern, escape_char: None } => {
                negated(self.like(expr, pattern, true, depth)?, *not)
            }
            Expr::Case { operand, conditions, else_result, .. } => {
                let operand = operand.as_ref().map(|operand| self.boxed(operand, depth)).transpose()?;
                let mut whens = Vec::with_capacity(conditions.len());
                for when in conditions {
                    whens.push((self.tree(&when.condition, depth)?, self.tree(&when.result, depth)?));
                }
                let otherwise = else_result.as_ref().map(|result| self.boxed(result, depth)).transpose()?;
                Tree::Case { operand, whens, otherwise }
            }
            // A value that cannot be cast is null whichever is written.
            Expr::Cast { kind, expr, data_type: written, array: false, format: None } => match kind {
                CastKind::Cast | CastKind::TryCast | CastKind::SafeCast | CastKind::DoubleColon => {
                    Tree::Cast(self.boxed(expr, depth)?, data_type(written)?)
                }
            },
            Expr::Extract { field, expr, .. } => Tree::Extract(part(field)?, self.boxed(expr, depth)?),
            Expr::Ceil { expr, field: CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) } => {
                Tree::Call(Function::Ceil, vec![self.tree(expr, depth)?])
            }
            Expr::Floor { expr, field: CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) } => {
                Tree::Call(Function::Floor, vec![self.tree(expr, depth)?])
            }
            Expr::Trim { trim_where, trim_what: None, trim_characters: None, expr } => {
                let function = match trim_where {
                    None | Some(TrimWhereField::Both) => Function::Trim,
                    Some(TrimWhereField::Leading) => Function::TrimStart,
                    Some(TrimWhereField::Trailing) => Function::TrimEnd,
                };
                Tree::Call(function, vec![self.tree(expr, depth)?])
            }
            Expr::Substring { expr, substring_from: Some(from), substring_for, .. } => {
                let mut arguments = vec![self.tree(expr, depth)?, self.tree(from, depth)?];
                if let Some(length) = substring_for {
                    arguments.push(self.tree(length, depth)?);
                }
                Tree::Call(Function::Substring, arguments)
            }
            Expr::Function(call) => self.call(call, depth)?,
            Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => {
                return Err(Fault::new("a condition cannot ask another table", "`references` looks a value up in one"));
            }
            other => return Err(unknown(other)),
        })
    }

    fn boxed(&mut self, expression: &Expr, depth: usize) -> Result<Box<Tree>> {
        Ok(Box::new(self.tree(expression, depth)?))
    }

    fn list(&mut self, list: &[Expr], depth: usize) -> Result<Vec<Tree>> {
        list.iter().map(|expression| self.tree(expression, depth)).collect()
    }

    fn compare(&mut self, how: Comparison, left: &Expr, right: &Expr, depth: usize) -> Result<Tree> {
        Ok(Tree::Compare(how, self.boxed(left, depth)?, self.boxed(right, depth)?))
    }

    fn like(&mut self, text: &Expr, pattern: &Expr, folded: bool, depth: usize) -> Result<Tree> {
        let text = self.boxed(text, depth)?;
        match self.tree(pattern, depth)? {
            Tree::Text(pattern) => Ok(Tree::Like { text, pattern, folded }),
            _ => Err(Fault::new("the pattern of `like` is no text", "write it in single quotes: `name like 'a%'`")),
        }
    }

    fn binary(&mut self, left: &Expr, op: &BinaryOperator, right: &Expr, depth: usize) -> Result<Tree> {
        use BinaryOperator as Op;
        let arithmetic = |reader: &mut Self, operation| {
            Ok(Tree::Arithmetic(operation, reader.boxed(left, depth)?, reader.boxed(right, depth)?))
        };
        match op {
            Op::And | Op::Or => {
                // A row of them leans to the left, as deep as it is long.
                let mut parts = vec![right];
                let mut rest = left;
                while let Expr::BinaryOp { left, op: same, right } = rest
                    && same == op
                {
                    parts.push(right);
                    rest = left;
                }
                parts.push(rest);
                let parts = parts.into_iter().rev().map(|part| self.tree(part, depth)).collect::<Result<_>>()?;
                Ok(if *op == Op::And { Tree::All(parts) } else { Tree::Any(parts) })
            }
            Op::Eq => self.compare(Comparison::Equal, left, right, depth),
            Op::NotEq => self.compare(Comparison::NotEqual, left, right, depth),
            Op::Lt => self.compare(Comparison::Less, left, right, depth),
            Op::LtEq => self.compare(Comparison::LessOrEqual, left, right, depth),
            Op::Gt => self.compare(Comparison::Greater, left, right, depth),
            Op::GtEq => self.compare(Comparison::GreaterOrEqual, left, right, depth),
            Op::Plus => arithmetic(self, Operation::Add),
            Op::Minus => arithmetic(self, Operation::Subtract),
            Op::Multiply => arithmetic(self, Operation::Multiply),
            Op::Divide => arithmetic(self, Operation::Divide),
            Op::Modulo => arithmetic(self, Operation::Modulo),
            Op::StringConcat => Ok(Tree::Concat(self.boxed(left, depth)?, self.boxed(right, depth)?)),
            Op::PGRegexMatch | Op::PGRegexNotMatch => {
                let text = self.boxed(left, depth)?;
                let Tree::Text(pattern) = self.tree(right, depth)? else {
                    return Err(Fault::new("the expression behind `~` is no text", "write it in single quotes"));
                };
                let matches = Tree::Matches(text, pattern);
                Ok(if *op == Op::PGRegexMatch { matches } else { Tree::Not(Box::new(matches)) })
            }
            other => Err(unknown(format!("the operator {other}"))),
        }
    }

    fn call(&mut self, call: &Call, depth: usize) -> Result<Tree> {
        let name = match call.name.0.as_slice() {
            [ObjectNamePart::Identifier(name)] => name.value.to_lowercase(),
            _ => return Err(unknown(format!("the function {}", call.name))),
        };
        if let Some(fault) = refused(&name) {
            return Err(fault);
        }
        let plain = call.filter.is_none()
            && call.over.is_none()
            && call.within_group.is_empty()
            && call.null_treatment.is_none()
            && matches!(call.parameters, FunctionArguments::None);
        let arguments = match &call.args {
            FunctionArguments::List(list) if plain && list.duplicate_treatment.is_none() && list.clauses.is_empty() => {
                list.args.as_slice()
            }
            _ => return Err(unknown(format!("{name} in this form"))),
        };
        let mut trees = Vec::with_capacity(arguments.len());
        for argument in arguments {
            match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => trees.push(self.tree(expression, depth)?),
                other => return Err(unknown(format!("{other} as an argument of {name}"))),
            }
        }
        let function = Function::named(&name)?;
        let (least, most) = function.arity();
        if trees.len() < least || trees.len() > most {
            let takes = if least == most { least.to_string() } else { format!("{least} or more") };
            return Err(Fault::new(
                format!("{name} has {} arguments, and takes {takes}", trees.len()),
                "docs/policies.md lists the functions",
            ));
        }
        Ok(Tree::Call(function, trees))
    }
}

fn literal(value: &Value) -> Result<Tree> {
    Ok(match value {
        Value::Number(digits, _) if exact(digits).is_some() || digits.parse::<f64>().is_ok_and(f64::is_finite) => {
            Tree::Number(digits.clone())
        }
        Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => Tree::Text(text.clone()),
        Value::Boolean(value) => Tree::Bool(*value),
        Value::Null => Tree::Null,
        other => return Err(unknown(format!("the value {other}"))),
    })
}

/// The type of a cast.
fn data_type(written: &Written) -> Result<DataType> {
    use Written as W;
    Ok(match written {
        W::Boolean | W::Bool => DataType::Boolean,
        W::SmallInt(_) | W::Int(_) | W::Integer(_) | W::BigInt(_) | W::Int2(_) | W::Int4(_) | W::Int8(_) => {
            DataType::Int64
        }
        W::Float(_) | W::Real | W::Float4 | W::Float8 | W::Double(_) | W::DoublePrecision => DataType::Float64,
        W::Text | W::Varchar(None) | W::CharacterVarying(None) | W::String(None) => DataType::Utf8,
        W::Date => DataType::Date32,
        W::Timestamp(None, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            DataType::Timestamp(TimeUnit::Microsecond, None)
        }
        W::Timestamp(None, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => {
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
        }
        W::Numeric(digits) | W::Decimal(digits) => {
            use sqlparser::ast::ExactNumberInfo as Digits;
            let (precision, scale) = match digits {
                Digits::PrecisionAndScale(precision, scale) => (*precision, *scale),
                Digits::Precision(precision) => (*precision, 0),
                Digits::None => (38, 9),
            };
            match (u8::try_from(precision), i8::try_from(scale)) {
                (Ok(p @ 1..=38), Ok(s @ 0..)) if s.unsigned_abs() <= p => DataType::Decimal128(p, s),
                _ => return Err(unknown(format!("the type {written}"))),
            }
        }
        other => return Err(unknown(format!("the type {other}"))),
    })
}

fn part(field: &DateTimeField) -> Result<Part> {
    use DateTimeField as F;
    Ok(match field {
        F::Year => Part::Year,
        F::Quarter => Part::Quarter,
        F::Month => Part::Month,
        F::Week(None) | F::IsoWeek => Part::Week,
        F::Day => Part::Day,
        F::Doy | F::DayOfYear => Part::DayOfYear,
        F::Dow | F::DayOfWeek => Part::DayOfWeek,
        F::Hour => Part::Hour,
        F::Minute => Part::Minute,
        F::Second => Part::Second,
        F::Epoch => Part::Epoch,
        other => return Err(unknown(format!("the part {other} of a time"))),
    })
}
