//! A condition on the columns of a batch, a whole column at a time.
//!
//! What cannot be worked out (a division by zero, a sum that is too large, a text that is no number) is null: one odd row must
//! not end a load, and null is what the rest of the condition can ask for.

use std::sync::Arc;

use arrow::compute::kernels::comparison::{ilike, like};
use arrow::compute::kernels::{boolean, cmp, temporal, zip};
use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal256Type, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{
    Array, ArrayRef, BooleanArray, Datum, Decimal256Array, Float64Array, Int64Array, StringArray, UInt32Array,
};
use arrow_buffer::{BooleanBuffer, i256};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::DataType;
use ingest_core::{Error, ErrorKind, Result};
use regex::Regex;

use crate::functions::Function;
use crate::read::{Comparison, Operation, Part};

/// A step of a condition, its types settled.
#[derive(Debug, Clone)]
pub enum Node {
    Column(usize),
    /// One value for all rows.
    Scalar(ArrayRef),
    Cast(Box<Node>, DataType),
    Not(Box<Node>),
    All(Vec<Node>),
    Any(Vec<Node>),
    Is(Box<Node>, bool),
    IsNull(Box<Node>),
    Compare(Comparison, Box<Node>, Box<Node>),
    Between(Box<Node>, Box<Node>, Box<Node>),
    OneOf(Box<Node>, Vec<Node>),
    Like {
        text: Box<Node>,
        pattern: Arc<StringArray>,
        folded: bool,
    },
    Matches(Box<Node>, Regex),
    Arithmetic(Operation, Box<Node>, Box<Node>),
    Concat(Box<Node>, Box<Node>),
    Case {
        operand: Option<Box<Node>>,
        whens: Vec<(Node, Node)>,
        otherwise: Box<Node>,
    },
    Extract(Part, Box<Node>),
    Call(Function, Vec<Node>),
}

/// A column, or one value for all rows.
#[derive(Debug, Clone)]
pub struct Value {
    array: ArrayRef,
    scalar: bool,
}

impl Datum for Value {
    fn get(&self) -> (&dyn Array, bool) {
        (self.array.as_ref(), self.scalar)
    }
}

impl Value {
    pub fn is_scalar(&self) -> bool {
        self.scalar
    }

    fn of(array: impl Array + 'static, scalar: bool) -> Self {
        Self { array: Arc::new(array), scalar }
    }
}

/// The truth of a condition.
pub fn truth(value: &Value) -> Result<&BooleanArray> {
    value.array.as_boolean_opt().ok_or_else(|| Error::unexpected("a condition is neither true nor false"))
}

/// Works a step out for so many rows.
pub fn evaluate(node: &Node, columns: &[ArrayRef], rows: usize) -> Result<Value> {
    let go = |node: &Node| evaluate(node, columns, rows);
    Ok(match node {
        Node::Column(place) => {
            let array = columns.get(*place).filter(|array| array.len() == rows);
            let array = array.ok_or_else(|| {
                Error::new(ErrorKind::SchemaChanged, "a column of a condition is not there").with("place", place)
            })?;
            Value { array: Arc::clone(array), scalar: false }
        }
        Node::Scalar(array) => Value { array: Arc::clone(array), scalar: true },
        Node::Cast(inner, to) => {
            let value = go(inner)?;
            Value { array: cast_with_options(&value.array, to, &CastOptions::default())?, scalar: value.scalar }
        }
        Node::Not(inner) => {
            let value = go(inner)?;
            Value::of(boolean::not(truth(&value)?)?, value.scalar)
        }
        Node::All(parts) => joined(parts, columns, rows, boolean::and_kleene)?,
        Node::Any(parts) => joined(parts, columns, rows, boolean::or_kleene)?,
        Node::Is(inner, wanted) => {
            let value = go(inner)?;
            let found = truth(&value)?;
            let is = |row: usize| found.is_valid(row) && found.value(row) == *wanted;
            Value::of(BooleanArray::new(BooleanBuffer::collect_bool(found.len(), is), None), value.scalar)
        }
        Node::IsNull(inner) => {
            let value = go(inner)?;
            Value::of(boolean::is_null(&value.array)?, value.scalar)
        }
        Node::Compare(how, left, right) => compare(*how, &go(left)?, &go(right)?)?,
        Node::Between(value, low, high) => {
            let (value, low, high) = (go(value)?, go(low)?, go(high)?);
            let (above, below) = (cmp::gt_eq(&value, &low)?, cmp::lt_eq(&value, &high)?);
            let parts = [Value::of(above, value.scalar && low.scalar), Value::of(below, value.scalar && high.scalar)];
            join(parts, rows, boolean::and_kleene)?
        }
        Node::OneOf(value, list) => {
            let value = go(value)?;
            let mut parts = Vec::with_capacity(list.len());
            for one in list {
                parts.push(compare(Comparison::Equal, &value, &go(one)?)?);
            }
            join(parts, rows, boolean::or_kleene)?
        }
        Node::Like { text, pattern, folded } => {
            let text = go(text)?;
            let pattern = Value { array: Arc::clone(pattern) as ArrayRef, scalar: true };
            let matches = if *folded { ilike(&text, &pattern)? } else { like(&text, &pattern)? };
            Value::of(matches, text.scalar)
        }
        Node::Matches(text, regex) => {
            let text = go(text)?;
            let matches = text.array.as_string::<i32>().iter().map(|text| text.map(|text| regex.is_match(text)));
            Value::of(matches.collect::<BooleanArray>(), text.scalar)
        }
        Node::Arithmetic(operation, left, right) => arithmetic(*operation, [go(left)?, go(right)?], rows)?,
        Node::Concat(left, right) => {
            let (arrays, scalar) = aligned([go(left)?, go(right)?], rows)?;
            let (left, right) = (arrays[0].as_string::<i32>(), arrays[1].as_string::<i32>());
            let joined = left.iter().zip(right).map(|(left, right)| Some([left?, right?].concat()));
            Value::of(joined.collect::<StringArray>(), scalar)
        }
        Node::Case { operand, whens, otherwise } => {
            let operand = operand.as_ref().map(|operand| go(operand)).transpose()?;
            let mut result = go(otherwise)?;
            for (when, then) in whens.iter().rev() {
                let when = match &operand {
                    Some(operand) => compare(Comparison::Equal, operand, &go(when)?)?,
                    None => go(when)?,
                };
                result = choose(when, go(then)?, result, rows)?;
            }
            result
        }
        Node::Extract(part, inner) => extract(*part, &go(inner)?)?,
        Node::Call(function, arguments) => {
            let arguments = arguments.iter().map(go).collect::<Result<Vec<_>>>()?;
            call(*function, arguments, rows)?
        }
    })
}

type Join = fn(&BooleanArray, &BooleanArray) -> std::result::Result<BooleanArray, arrow_schema::ArrowError>;

fn joined(parts: &[Node], columns: &[ArrayRef], rows: usize, how: Join) -> Result<Value> {
    let values = parts.iter().map(|part| evaluate(part, columns, rows)).collect::<Result<Vec<_>>>()?;
    join(values, rows, how)
}

fn join(values: impl IntoIterator<Item = Value>, rows: usize, how: Join) -> Result<Value> {
    let (arrays, scalar) = aligned(values, rows)?;
    let mut arrays = arrays.iter().map(|array| array.as_boolean());
    let first = arrays.next().ok_or_else(|| Error::unexpected("a condition joins nothing"))?.clone();
    let all = arrays.try_fold(first, |all, next| how(&all, next))?;
    Ok(Value::of(all, scalar))
}

/// Values of one length: of one row where all are scalars.
fn aligned(values: impl IntoIterator<Item = Value>, rows: usize) -> Result<(Vec<ArrayRef>, bool)> {
    let values: Vec<Value> = values.into_iter().collect();
    let scalar = values.iter().all(|value| value.scalar);
    let arrays = values.into_iter().map(|value| if scalar { Ok(value.array) } else { full(value, rows) });
    Ok((arrays.collect::<Result<_>>()?, scalar))
}

fn full(value: Value, rows: usize) -> Result<ArrayRef> {
    if !value.scalar {
        return Ok(value.array);
    }
    Ok(arrow::compute::take(&value.array, &UInt32Array::from(vec![0; rows]), None)?)
}

fn compare(how: Comparison, left: &Value, right: &Value) -> Result<Value> {
    let found = match how {
        Comparison::Equal => cmp::eq(left, right),
        Comparison::NotEqual => cmp::neq(left, right),
        Comparison::Less => cmp::lt(left, right),
        Comparison::LessOrEqual => cmp::lt_eq(left, right),
        Comparison::Greater => cmp::gt(left, right),
        Comparison::GreaterOrEqual => cmp::gt_eq(left, right),
        Comparison::Distinct => cmp::distinct(left, right),
        Comparison::NotDistinct => cmp::not_distinct(left, right),
    };
    Ok(Value::of(found?, left.scalar && right.scalar))
}

/// `then` where `when` is true, else `otherwise`.
fn choose(when: Value, then: Value, otherwise: Value, rows: usize) -> Result<Value> {
    let scalar = when.scalar && then.scalar && otherwise.scalar;
    let rows = if scalar { 1 } else { rows };
    let when = full(when, rows)?;
    let (then, otherwise) = (full(then, rows)?, full(otherwise, rows)?);
    Ok(Value { array: zip::zip(when.as_boolean(), &then, &otherwise)?, scalar })
}

fn arithmetic(operation: Operation, values: [Value; 2], rows: usize) -> Result<Value> {
    let (arrays, scalar) = aligned(values, rows)?;
    let (left, right) = (&arrays[0], &arrays[1]);
    let array: ArrayRef = match left.data_type() {
        DataType::Int64 => {
            let work = |a: i64, b: i64| match operation {
                Operation::Add => a.checked_add(b),
                Operation::Subtract => a.checked_sub(b),
                Operation::Multiply => a.checked_mul(b),
                Operation::Divide => a.checked_div(b),
                Operation::Modulo => a.checked_rem(b),
            };
            let (a, b) = (left.as_primitive::<Int64Type>(), right.as_primitive::<Int64Type>());
            Arc::new(a.iter().zip(b).map(|(a, b)| work(a?, b?)).collect::<Int64Array>())
        }
        DataType::Decimal256(precision, of_left) => {
            let work = |a: i256, b: i256| match operation {
                Operation::Add => a.checked_add(b),
                Operation::Subtract => a.checked_sub(b),
                Operation::Multiply => a.checked_mul(b),
                Operation::Divide => a.checked_div(b),
                Operation::Modulo => a.checked_rem(b),
            };
            let scale = match (operation, right.data_type()) {
                (Operation::Multiply, DataType::Decimal256(_, of_right)) => of_left + of_right,
                _ => *of_left,
            };
            let (a, b) = (left.as_primitive::<Decimal256Type>(), right.as_primitive::<Decimal256Type>());
            let made: Decimal256Array = a.iter().zip(b).map(|(a, b)| work(a?, b?)).collect();
            Arc::new(made.with_precision_and_scale(*precision, scale)?)
        }
        _ => {
            let work = |a: f64, b: f64| match operation {
                Operation::Add => Some(a + b),
                Operation::Subtract => Some(a - b),
                Operation::Multiply => Some(a * b),
                Operation::Divide => (b != 0.0).then(|| a / b),
                Operation::Modulo => (b != 0.0).then(|| a % b),
            };
            let (a, b) = (left.as_primitive::<Float64Type>(), right.as_primitive::<Float64Type>());
            Arc::new(a.iter().zip(b).map(|(a, b)| work(a?, b?)).collect::<Float64Array>())
        }
    };
    Ok(Value { array, scalar })
}

fn extract(part: Part, value: &Value) -> Result<Value> {
    use temporal::DatePart as D;
    let part = match part {
        Part::Year => D::Year,
        Part::Quarter => D::Quarter,
        Part::Month => D::Month,
        Part::Week => D::Week,
        Part::Day => D::Day,
        Part::DayOfYear => D::DayOfYear,
        Part::DayOfWeek => D::DayOfWeekSunday0,
        Part::Hour => D::Hour,
        Part::Minute => D::Minute,
        Part::Second => D::Second,
        Part::Epoch => {
            let micros = value.array.as_primitive::<TimestampMicrosecondType>();
            return Ok(Value::of(micros.unary::<_, Float64Type>(|micros| micros as f64 / 1e6), value.scalar));
        }
    };
    let found = temporal::date_part(&value.array, part)?;
    Ok(Value { array: arrow_cast::cast(&found, &DataType::Int64)?, scalar: value.scalar })
}

fn call(function: Function, mut arguments: Vec<Value>, rows: usize) -> Result<Value> {
    use Function as F;
    let lacks = || Error::unexpected("a function lacks an argument");
    match function {
        F::Coalesce => {
            let mut result = arguments.pop().ok_or_else(lacks)?;
            while let Some(value) = arguments.pop() {
                let there = Value::of(boolean::is_not_null(&value.array)?, value.scalar);
                result = choose(there, value, result, rows)?;
            }
            Ok(result)
        }
        F::Greatest | F::Least => {
            let how = if function == F::Greatest { Comparison::Greater } else { Comparison::Less };
            let mut arguments = arguments.into_iter();
            let mut best = arguments.next().ok_or_else(lacks)?;
            for value in arguments {
                let missing = Value::of(boolean::is_null(&best.array)?, best.scalar);
                let better = join([missing, compare(how, &value, &best)?], rows, boolean::or_kleene)?;
                best = choose(better, value, best, rows)?;
            }
            Ok(best)
        }
        F::NullIf => {
            let (second, first) = (arguments.pop().ok_or_else(lacks)?, arguments.pop().ok_or_else(lacks)?);
            let equal = compare(Comparison::Equal, &first, &second)?;
            let null = Value { array: arrow_array::new_null_array(first.array.data_type(), 1), scalar: true };
            choose(equal, null, first, rows)
        }
        F::Abs | F::Ceil | F::Floor | F::Round => rounded(function, &arguments.pop().ok_or_else(lacks)?),
        _ => {
            let (arrays, scalar) = aligned(arguments, rows)?;
            Ok(Value { array: of_texts(function, &arrays)?, scalar })
        }
    }
}

fn rounded(function: Function, value: &Value) -> Result<Value> {
    use Function as F;
    let array: ArrayRef = match value.array.data_type() {
        DataType::Int64 if function == F::Abs => {
            let numbers = value.array.as_primitive::<Int64Type>();
            Arc::new(numbers.unary_opt::<_, Int64Type>(i64::checked_abs))
        }
        DataType::Decimal256(precision, scale) => {
            let numbers = value.array.as_primitive::<Decimal256Type>();
            let unit = i256::from_i128(10).checked_pow(u32::from(scale.unsigned_abs()));
            let unit = unit.ok_or_else(|| Error::unexpected("a decimal has too many digits"))?;
            let zero = i256::ZERO;
            let work = |number: i256| {
                let (whole, rest) = (number.checked_div(unit)?, number.checked_rem(unit)?);
                let away = if number < zero { i256::MINUS_ONE } else { i256::ONE };
                match function {
                    F::Abs => number.checked_abs(),
                    F::Ceil if rest > zero => whole.checked_add(i256::ONE),
                    F::Floor if rest < zero => whole.checked_sub(i256::ONE),
                    F::Round if rest.checked_abs()?.checked_mul(i256::from_i128(2))? >= unit => whole.checked_add(away),
                    _ => Some(whole),
                }
            };
            let scale = if function == F::Abs { *scale } else { 0 };
            let made = numbers.unary_opt::<_, Decimal256Type>(work);
            Arc::new(made.with_precision_and_scale(*precision, scale)?)
        }
        DataType::Float64 => {
            let work = match function {
                F::Abs => f64::abs,
                F::Ceil => f64::ceil,
                F::Floor => f64::floor,
                _ => f64::round,
            };
            Arc::new(value.array.as_primitive::<Float64Type>().unary::<_, Float64Type>(work))
        }
        _ => Arc::clone(&value.array),
    };
    Ok(Value { array, scalar: value.scalar })
}

fn of_texts(function: Function, arrays: &[ArrayRef]) -> Result<ArrayRef> {
    use Function as F;
    let lacks = || Error::unexpected("a function lacks an argument");
    let texts = arrays.first().ok_or_else(lacks)?.as_string::<i32>();
    let second = || arrays.get(1).ok_or_else(lacks);
    let two = |ask: fn(&str, &str) -> bool| -> Result<ArrayRef> {
        let found = texts.iter().zip(second()?.as_string::<i32>()).map(|(a, b)| Some(ask(a?, b?)));
        Ok(Arc::new(found.collect::<BooleanArray>()))
    };
    let each = |make: fn(&str) -> String| -> ArrayRef {
        Arc::new(texts.iter().map(|text| text.map(make)).collect::<StringArray>())
    };
    let trimmed = |trim: fn(&str) -> &str| -> ArrayRef {
        Arc::new(texts.iter().map(|text| text.map(trim)).collect::<StringArray>())
    };
    Ok(match function {
        F::Contains => two(|text, part| text.contains(part))?,
        F::StartsWith => two(|text, part| text.starts_with(part))?,
        F::EndsWith => two(|text, part| text.ends_with(part))?,
        F::Lower => each(str::to_lowercase),
        F::Upper => each(str::to_uppercase),
        F::TrimStart => trimmed(|text| text.trim_start_matches(' ')),
        F::TrimEnd => trimmed(|text| text.trim_end_matches(' ')),
        F::Substring => {
            let from = second()?.as_primitive::<Int64Type>();
            let length = arrays.get(2).map(|array| array.as_primitive::<Int64Type>());
            let part = |row: usize| {
                let first = from.is_valid(row).then(|| from.value(row).saturating_sub(1))?;
                let end = match length {
                    Some(length) => length.is_valid(row).then(|| first.saturating_add(length.value(row)))?,
                    None => i64::MAX,
                };
                let (first, end) = (first.max(0), end.max(0));
                let skipped = usize::try_from(first).unwrap_or(usize::MAX);
                let taken = usize::try_from(end.saturating_sub(first)).unwrap_or(0);
                texts.is_valid(row).then(|| texts.value(row).chars().skip(skipped).take(taken).collect::<String>())
            };
            Arc::new((0..texts.len()).map(part).collect::<StringArray>())
        }
        F::Length => Arc::new(texts.iter().map(|text| text.map(characters)).collect::<Int64Array>()),
        _ => trimmed(|text| text.trim_matches(' ')),
    })
}

fn characters(text: &str) -> i64 {
    let count = if text.is_ascii() { text.len() } else { text.chars().count() };
    i64::try_from(count).unwrap_or(i64::MAX)
}
