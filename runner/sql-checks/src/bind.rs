//! Fits a condition to the types of its columns: every step gets the types that it takes, or the plan fails.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BooleanArray, StringArray, new_null_array};
use arrow_cast::{CastOptions, can_cast_types, cast_with_options};
use arrow_schema::{DataType, TimeUnit};

use crate::Fault;
use crate::evaluate::Node;
use crate::functions::Function;
use crate::read::{Comparison, Operation, Part, Tree};
use crate::types::{common, decimal, exact, is_moment, is_number, of_number, scale, with_number};

type Result<T> = std::result::Result<T, Fault>;

/// Bytes that a compiled expression may take.
const REGEX_BYTES: usize = 1 << 20;

/// A step with the type that it gives.
struct Typed {
    node: Node,
    data_type: DataType,
}

/// What has a type, and what takes that of its neighbours.
enum Item {
    Typed(Typed),
    Null,
    Number(String),
    Text(String),
}

/// Fits a condition to the types of its columns.
pub fn bind(tree: &Tree, types: &[DataType]) -> Result<Node> {
    Binder { types }.boolean(tree, "the condition")
}

struct Binder<'a> {
    types: &'a [DataType],
}

fn typed(node: Node, data_type: DataType) -> Typed {
    Typed { node, data_type }
}

fn boolean(node: Node) -> Item {
    Item::Typed(typed(node, DataType::Boolean))
}

fn shown(data_type: &DataType) -> String {
    match data_type {
        DataType::Decimal256(..) => "a decimal".to_owned(),
        other => other.to_string(),
    }
}

impl Binder<'_> {
    fn item(&self, tree: &Tree) -> Result<Item> {
        Ok(match tree {
            Tree::Null => Item::Null,
            Tree::Number(written) => Item::Number(written.clone()),
            Tree::Text(text) => Item::Text(text.clone()),
            Tree::Bool(value) => boolean(Node::Scalar(Arc::new(BooleanArray::from(vec![*value])))),
            Tree::Column(place) => Item::Typed(self.column(*place)?),
            Tree::Not(inner) => boolean(Node::Not(Box::new(self.boolean(inner, "`not`")?))),
            Tree::All(parts) => boolean(Node::All(self.booleans(parts, "`and`")?)),
            Tree::Any(parts) => boolean(Node::Any(self.booleans(parts, "`or`")?)),
            Tree::Is(inner, truth) => boolean(Node::Is(Box::new(self.boolean(inner, "`is`")?), *truth)),
            Tree::IsNull(inner) => boolean(Node::IsNull(Box::new(self.settled(inner)?.node))),
            Tree::Compare(how, left, right) => boolean(self.compare(*how, left, right)?),
            Tree::Between(value, low, high) => {
                let (mut nodes, _) = self.alike(&[value, low, high], true)?;
                let (high, low) = (nodes.pop(), nodes.pop());
                match (nodes.pop(), low, high) {
                    (Some(value), Some(low), Some(high)) => {
                        boolean(Node::Between(Box::new(value), Box::new(low), Box::new(high)))
                    }
                    _ => return Err(Fault::new("`between` lacks a bound", "write `a between 1 and 2`")),
                }
            }
            Tree::OneOf(value, list) => {
                let all: Vec<&Tree> = std::iter::once(value.as_ref()).chain(list).collect();
                let (mut nodes, _) = self.alike(&all, true)?;
                let value = nodes.remove(0);
                boolean(Node::OneOf(Box::new(value), nodes))
            }
            Tree::Like { text, pattern, folded } => boolean(Node::Like {
                text: Box::new(self.text(text, "`like`")?),
                pattern: Arc::new(StringArray::from(vec![pattern.as_str()])),
                folded: *folded,
            }),
            Tree::Matches(text, pattern) => {
                let built =
                    regex::RegexBuilder::new(pattern).size_limit(REGEX_BYTES).dfa_size_limit(REGEX_BYTES).build();
                let regex = built.map_err(|_| {
                    Fault::new(
                        "the expression behind `~` cannot be read, or is too large",
                        "the check `regex` says what is wrong with one",
                    )
                })?;
                boolean(Node::Matches(Box::new(self.text(text, "`~`")?), regex))
            }
            Tree::Minus(inner) => self.arithmetic(Operation::Subtract, &Tree::Number("0".to_owned()), inner)?,
            Tree::Arithmetic(operation, left, right) => self.arithmetic(*operation, left, right)?,
            Tree::Concat(left, right) => {
                let node = Node::Concat(Box::new(self.text(left, "`||`")?), Box::new(self.text(right, "`||`")?));
                Item::Typed(typed(node, DataType::Utf8))
            }
            Tree::Case { operand, whens, otherwise } => self.case(operand.as_deref(), whens, otherwise.as_deref())?,
            Tree::Cast(inner, to) => self.cast(inner, to)?,
            Tree::Extract(part, inner) => self.extract(*part, inner)?,
            Tree::Call(function, arguments) => self.call(*function, arguments)?,
        })
    }

    fn column(&self, place: usize) -> Result<Typed> {
        let data_type = self.types.get(place).ok_or_else(|| Fault::new("a column has no type", "report this"))?;
        let node = Node::Column(place);
        Ok(match data_type {
            DataType::LargeUtf8 | DataType::Utf8View => {
                typed(Node::Cast(Box::new(node), DataType::Utf8), DataType::Utf8)
            }
            DataType::Float16 => typed(Node::Cast(Box::new(node), DataType::Float32), DataType::Float32),
            other => typed(node, other.clone()),
        })
    }

    /// An item by itself: what is written takes the type that it looks like.
    fn settled(&self, tree: &Tree) -> Result<Typed> {
        let item = self.item(tree)?;
        let data_type = match &item {
            Item::Typed(typed) => typed.data_type.clone(),
            Item::Number(written) => of_number(written),
            Item::Null | Item::Text(_) => DataType::Utf8,
        };
        Ok(typed(as_type(item, &data_type)?, data_type))
    }

    fn boolean(&self, tree: &Tree, what: &str) -> Result<Node> {
        match self.item(tree)? {
            Item::Typed(typed) if typed.data_type == DataType::Boolean => Ok(typed.node),
            item @ Item::Null => as_type(item, &DataType::Boolean),
            Item::Typed(other) => Err(Fault::new(
                format!("{what} takes true and false, and this is {}", shown(&other.data_type)),
                "compare it: `flag = 1`, `name <> ''`",
            )),
            Item::Number(_) | Item::Text(_) => {
                Err(Fault::new(format!("{what} takes true and false, and this is a value"), "compare it: `flag = 1`"))
            }
        }
    }

    fn booleans(&self, trees: &[Tree], what: &str) -> Result<Vec<Node>> {
        trees.iter().map(|tree| self.boolean(tree, what)).collect()
    }

    fn text(&self, tree: &Tree, what: &str) -> Result<Node> {
        let item = self.item(tree)?;
        match &item {
            Item::Typed(typed) if typed.data_type != DataType::Utf8 => Err(Fault::new(
                format!("{what} takes text, and this is {}", shown(&typed.data_type)),
                "write `cast(a as text)`",
            )),
            Item::Number(_) => {
                Err(Fault::new(format!("{what} takes text, and this is a number"), "put it in single quotes"))
            }
            _ => as_type(item, &DataType::Utf8),
        }
    }

    fn number(&self, tree: &Tree, what: &str) -> Result<Typed> {
        let found = self.settled(tree)?;
        if is_number(&found.data_type) || matches!(tree, Tree::Null) {
            return Ok(found);
        }
        Err(Fault::new(
            format!("{what} takes numbers, and this is {}", shown(&found.data_type)),
            "write `cast(a as bigint)`, or `extract(epoch from a)` of a time",
        ))
    }

    /// Items in the type that they have in common; `compared` = they must have an order.
    fn alike(&self, trees: &[&Tree], compared: bool) -> Result<(Vec<Node>, DataType)> {
        let items: Vec<Item> = trees.iter().map(|tree| self.item(tree)).collect::<Result<_>>()?;
        let mut found: Option<DataType> = None;
        let clash = |a: &DataType, b: String| {
            Fault::new(
                format!("{} cannot be compared with {b}", shown(a)),
                "cast one of them: `cast(a as text)`, `cast(b as decimal(10, 2))`",
            )
        };
        for item in &items {
            let Item::Typed(Typed { data_type, .. }) = item else { continue };
            found = Some(match found {
                None => data_type.clone(),
                Some(before) => common(&before, data_type).ok_or_else(|| clash(&before, shown(data_type)))?,
            });
        }
        for item in &items {
            let Item::Number(written) = item else { continue };
            found = Some(match found {
                None => of_number(written),
                Some(before) => with_number(&before, written).ok_or_else(|| clash(&before, "a number".to_owned()))?,
            });
        }
        let data_type = found.unwrap_or(DataType::Utf8);
        let unordered = data_type.is_nested()
            || matches!(
                data_type,
                DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) | DataType::Null
            );
        if compared && unordered {
            let hint = "a condition compares numbers, texts, dates, times, true and false";
            return Err(Fault::new(format!("values of type {data_type} cannot be compared"), hint));
        }
        let nodes = items.into_iter().map(|item| as_type(item, &data_type)).collect::<Result<_>>()?;
        Ok((nodes, data_type))
    }

    fn compare(&self, how: Comparison, left: &Tree, right: &Tree) -> Result<Node> {
        let (mut nodes, _) = self.alike(&[left, right], true)?;
        match (nodes.pop(), nodes.pop()) {
            (Some(right), Some(left)) => Ok(Node::Compare(how, Box::new(left), Box::new(right))),
            _ => Err(Fault::new("a comparison lacks a side", "write `a < b`")),
        }
    }

    fn arithmetic(&self, operation: Operation, left: &Tree, right: &Tree) -> Result<Item> {
        let (left, right) = (self.number(left, "arithmetic")?, self.number(right, "arithmetic")?);
        let both = common(&left.data_type, &right.data_type);
        let exact = both.as_ref().and_then(scale).filter(|_| operation != Operation::Divide);
        let (of_left, of_right, result) = match (exact, scale(&left.data_type), scale(&right.data_type)) {
            (None, ..) | (_, None, _) | (_, _, None) => (DataType::Float64, DataType::Float64, DataType::Float64),
            (Some(_), Some(0), Some(0))
                if both.as_ref().is_some_and(|both| both.is_integer() && *both != DataType::UInt64) =>
            {
                (DataType::Int64, DataType::Int64, DataType::Int64)
            }
            (Some(_), Some(a), Some(b)) if operation == Operation::Multiply => {
                let digits = a.checked_add(b).filter(|digits| *digits <= 76).ok_or_else(|| {
                    Fault::new(
                        "a product has too many digits behind its point",
                        "cast its factors: `cast(a as decimal(18, 4))`",
                    )
                })?;
                (decimal(a), decimal(b), decimal(digits))
            }
            (Some(most), ..) => (decimal(most), decimal(most), decimal(most)),
        };
        let left = as_type(Item::Typed(left), &of_left)?;
        let right = as_type(Item::Typed(right), &of_right)?;
        Ok(Item::Typed(typed(Node::Arithmetic(operation, Box::new(left), Box::new(right)), result)))
    }

    fn case(&self, operand: Option<&Tree>, whens: &[(Tree, Tree)], otherwise: Option<&Tree>) -> Result<Item> {
        let (operand, conditions) = match operand {
            Some(operand) => {
                let all: Vec<&Tree> = std::iter::once(operand).chain(whens.iter().map(|(when, _)| when)).collect();
                let (mut nodes, _) = self.alike(&all, true)?;
                (Some(Box::new(nodes.remove(0))), nodes)
            }
            None => (None, whens.iter().map(|(when, _)| self.boolean(when, "`when`")).collect::<Result<_>>()?),
        };
        let null = Tree::Null;
        let results: Vec<&Tree> = whens.iter().map(|(_, then)| then).chain([otherwise.unwrap_or(&null)]).collect();
        let (mut results, data_type) = self.alike(&results, false)?;
        let otherwise = results.pop().ok_or_else(|| Fault::new("`case` has no result", "write `else`"))?;
        let whens = conditions.into_iter().zip(results).collect();
        Ok(Item::Typed(typed(Node::Case { operand, whens, otherwise: Box::new(otherwise) }, data_type)))
    }

    fn cast(&self, inner: &Tree, to: &DataType) -> Result<Item> {
        match self.item(inner)? {
            // What is written is read now.
            item @ (Item::Null | Item::Text(_)) => Ok(Item::Typed(typed(as_type(item, to)?, to.clone()))),
            Item::Number(written) => {
                let number = as_type(Item::Number(written.clone()), &of_number(&written))?;
                Ok(Item::Typed(typed(Node::Cast(Box::new(number), to.clone()), to.clone())))
            }
            Item::Typed(found) if found.data_type.is_nested() || !can_cast_types(&found.data_type, to) => {
                let what = format!("{} cannot be cast to {}", shown(&found.data_type), shown(to));
                Err(Fault::new(what, "docs/policies.md lists the types"))
            }
            Item::Typed(found) => Ok(Item::Typed(typed(as_type(Item::Typed(found), to)?, to.clone()))),
        }
    }

    fn extract(&self, part: Part, inner: &Tree) -> Result<Item> {
        let found = self.settled(inner)?;
        if !is_moment(&found.data_type) {
            let what = format!("`extract` takes dates and times, and this is {}", shown(&found.data_type));
            return Err(Fault::new(what, "write `cast(a as timestamp)`"));
        }
        let node = as_type(Item::Typed(found), &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))?;
        let gives = if part == Part::Epoch { DataType::Float64 } else { DataType::Int64 };
        Ok(Item::Typed(typed(Node::Extract(part, Box::new(node)), gives)))
    }

    fn call(&self, function: Function, arguments: &[Tree]) -> Result<Item> {
        use Function as F;
        let texts = |what: &str| arguments.iter().map(|argument| self.text(argument, what)).collect::<Result<Vec<_>>>();
        let (nodes, gives) = match function {
            F::Coalesce | F::Greatest | F::Least | F::NullIf => {
                let all: Vec<&Tree> = arguments.iter().collect();
                self.alike(&all, function != F::Coalesce)?
            }
            F::Contains | F::EndsWith | F::StartsWith => (texts("this function")?, DataType::Boolean),
            F::Lower | F::Upper | F::Trim | F::TrimStart | F::TrimEnd => (texts("this function")?, DataType::Utf8),
            F::Length => (texts("`length`")?, DataType::Int64),
            F::Substring => {
                let (text, places) =
                    arguments.split_first().ok_or_else(|| Fault::new("`substring` lacks a text", ""))?;
                let mut nodes = vec![self.text(text, "`substring`")?];
                for place in places {
                    nodes.push(as_type(Item::Typed(self.number(place, "`substring`")?), &DataType::Int64)?);
                }
                (nodes, DataType::Utf8)
            }
            F::Abs | F::Ceil | F::Floor | F::Round => {
                let number = arguments.first().ok_or_else(|| Fault::new("a function lacks its number", ""))?;
                let number = self.number(number, "this function")?;
                let to = match scale(&number.data_type) {
                    None => DataType::Float64,
                    Some(_) if number.data_type.is_integer() && number.data_type != DataType::UInt64 => DataType::Int64,
                    Some(scale) => decimal(scale),
                };
                let gives = match (&to, function) {
                    (DataType::Decimal256(..), F::Ceil | F::Floor | F::Round) => decimal(0),
                    _ => to.clone(),
                };
                (vec![as_type(Item::Typed(number), &to)?], gives)
            }
        };
        Ok(Item::Typed(typed(Node::Call(function, nodes), gives)))
    }
}

/// An item in a type: cast, or read from what is written.
fn as_type(item: Item, data_type: &DataType) -> Result<Node> {
    let read = |written: &str| -> Result<Node> {
        let text: ArrayRef = Arc::new(StringArray::from(vec![written]));
        let options = CastOptions { safe: false, ..CastOptions::default() };
        let value = cast_with_options(&text, data_type, &options).ok().filter(|value| value.is_valid(0));
        value.map(Node::Scalar).ok_or_else(|| {
            Fault::new(
                format!("{written:?} is no value of type {}", shown(data_type)),
                "`ingest discover` shows the types of columns",
            )
        })
    };
    match item {
        Item::Typed(typed) if typed.data_type == *data_type => Ok(typed.node),
        Item::Typed(typed) => Ok(Node::Cast(Box::new(typed.node), data_type.clone())),
        Item::Null => Ok(Node::Scalar(new_null_array(data_type, 1))),
        Item::Number(written) if exact(&written).is_some_and(|(whole, _)| whole == 0) => {
            read(&written.replacen('.', "0.", 1))
        }
        Item::Number(written) => read(&written),
        Item::Text(text) => read(&text),
    }
}
