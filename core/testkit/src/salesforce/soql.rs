//! As much SOQL as a reader of whole objects writes.

use serde_json::{Map, Value};

use super::state::State;

/// A query.
#[derive(Debug)]
pub(super) struct Query {
    pub select: Select,
    pub object: String,
    condition: Option<Condition>,
    pub ordered: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Select {
    Fields(Vec<String>),
    Count,
    /// The least value of a field, under a name.
    Min(String, String),
}

#[derive(Debug)]
enum Condition {
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
    Compare(String, &'static str, Value),
    In(String, Vec<Value>),
}

/// What is wrong with a query: a code and a message.
pub(super) type Wrong = (&'static str, String);

fn malformed(at: &str) -> Wrong {
    ("MALFORMED_QUERY", format!("unexpected token: '{at}'"))
}

impl Query {
    pub fn parse(text: &str, state: &State) -> Result<Self, Wrong> {
        let mut tokens = Tokens { tokens: tokens(text)?, at: 0 };
        tokens.word("SELECT")?;
        let select = select(&mut tokens)?;
        tokens.word("FROM")?;
        let object = tokens.next()?;
        let condition = if tokens.takes("WHERE") { Some(either(&mut tokens)?) } else { None };
        let ordered = tokens.takes("ORDER");
        if ordered {
            tokens.word("BY")?;
            tokens.word("Id")?;
        }
        if let Some(rest) = tokens.peek() {
            return Err(malformed(rest));
        }
        let query = Self { select, object, condition, ordered };
        query.known(state)?;
        Ok(query)
    }

    /// Objects and fields must exist and be seen.
    fn known(&self, state: &State) -> Result<(), Wrong> {
        if matches!(self.object.as_str(), "FieldDefinition" | "Organization") {
            return Ok(());
        }
        let Some(object) = state.objects.get(&self.object) else {
            return Err(("INVALID_TYPE", format!("sObject type '{}' is not supported.", self.object)));
        };
        let mut names: Vec<&String> = match &self.select {
            Select::Fields(fields) => fields.iter().collect(),
            Select::Count => Vec::new(),
            Select::Min(field, _) => vec![field],
        };
        if let Some(condition) = &self.condition {
            condition.names(&mut names);
        }
        for name in names {
            let is_there = object.fields.iter().any(|(known, ..)| known == name);
            if !is_there || object.hidden.contains(name) {
                let message = format!("No such column '{name}' on entity '{}'. If you are", self.object);
                return Err(("INVALID_FIELD", message));
            }
        }
        Ok(())
    }

    pub fn takes(&self, row: &Map<String, Value>) -> bool {
        self.condition.as_ref().is_none_or(|condition| condition.holds(row))
    }

    /// The text that the first comparison is with.
    pub fn compared(&self) -> Option<&str> {
        match &self.condition {
            Some(Condition::Compare(_, _, value)) => value.as_str(),
            _ => None,
        }
    }
}

impl Condition {
    fn names<'a>(&'a self, names: &mut Vec<&'a String>) {
        match self {
            Self::And(a, b) | Self::Or(a, b) => {
                a.names(names);
                b.names(names);
            }
            Self::Compare(name, ..) | Self::In(name, _) => names.push(name),
        }
    }

    fn holds(&self, row: &Map<String, Value>) -> bool {
        match self {
            Self::And(a, b) => a.holds(row) && b.holds(row),
            Self::Or(a, b) => a.holds(row) || b.holds(row),
            Self::In(name, literals) => row.get(name).is_some_and(|value| literals.contains(value)),
            Self::Compare(name, operator, literal) => {
                let value = row.get(name).unwrap_or(&Value::Null);
                let order = match (value, literal) {
                    (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
                    (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
                    (a, b) if a == b => Some(std::cmp::Ordering::Equal),
                    _ => None,
                };
                match *operator {
                    "=" => order.is_some_and(std::cmp::Ordering::is_eq),
                    "!=" => !order.is_some_and(std::cmp::Ordering::is_eq),
                    "<" => order.is_some_and(std::cmp::Ordering::is_lt),
                    "<=" => order.is_some_and(std::cmp::Ordering::is_le),
                    ">" => order.is_some_and(std::cmp::Ordering::is_gt),
                    _ => order.is_some_and(std::cmp::Ordering::is_ge),
                }
            }
        }
    }
}

fn select(tokens: &mut Tokens) -> Result<Select, Wrong> {
    if tokens.takes("COUNT") {
        tokens.word("(")?;
        tokens.word(")")?;
        return Ok(Select::Count);
    }
    if tokens.takes("MIN") {
        tokens.word("(")?;
        let field = tokens.next()?;
        tokens.word(")")?;
        return Ok(Select::Min(field, tokens.next()?));
    }
    let mut fields = vec![tokens.next()?];
    while tokens.takes(",") {
        fields.push(tokens.next()?);
    }
    Ok(Select::Fields(fields))
}

fn either(tokens: &mut Tokens) -> Result<Condition, Wrong> {
    let mut left = both(tokens)?;
    while tokens.takes("OR") {
        left = Condition::Or(Box::new(left), Box::new(both(tokens)?));
    }
    Ok(left)
}

fn both(tokens: &mut Tokens) -> Result<Condition, Wrong> {
    let mut left = one(tokens)?;
    while tokens.takes("AND") {
        left = Condition::And(Box::new(left), Box::new(one(tokens)?));
    }
    Ok(left)
}

fn one(tokens: &mut Tokens) -> Result<Condition, Wrong> {
    if tokens.takes("(") {
        let inner = either(tokens)?;
        tokens.word(")")?;
        return Ok(inner);
    }
    let name = tokens.next()?;
    if tokens.takes("IN") {
        tokens.word("(")?;
        let mut literals = vec![value(&tokens.next()?)?];
        while tokens.takes(",") {
            literals.push(value(&tokens.next()?)?);
        }
        tokens.word(")")?;
        return Ok(Condition::In(name, literals));
    }
    let operator = tokens.next()?;
    let known = ["=", "!=", "<=", ">=", "<", ">"].into_iter().find(|known| *known == operator);
    let operator = known.ok_or_else(|| malformed(&operator))?;
    let literal = tokens.next()?;
    Ok(Condition::Compare(name, operator, value(&literal)?))
}

fn value(token: &str) -> Result<Value, Wrong> {
    if let Some(text) = token.strip_prefix('\'') {
        return Ok(text.into());
    }
    match token.to_ascii_uppercase().as_str() {
        "NULL" => return Ok(Value::Null),
        "TRUE" => return Ok(true.into()),
        "FALSE" => return Ok(false.into()),
        _ => {}
    }
    if let Ok(time) = chrono::DateTime::parse_from_rfc3339(token) {
        return Ok(time.timestamp_millis().into());
    }
    token.parse::<i64>().map(Value::from).map_err(|_| malformed(token))
}

struct Tokens {
    tokens: Vec<String>,
    at: usize,
}

impl Tokens {
    fn peek(&self) -> Option<&str> {
        self.tokens.get(self.at).map(String::as_str)
    }

    fn next(&mut self) -> Result<String, Wrong> {
        let token = self.peek().map(str::to_owned).ok_or_else(|| malformed("<EOF>"))?;
        self.at += 1;
        Ok(token)
    }

    fn takes(&mut self, word: &str) -> bool {
        let is_next = self.peek().is_some_and(|token| token.eq_ignore_ascii_case(word));
        self.at += usize::from(is_next);
        is_next
    }

    fn word(&mut self, word: &str) -> Result<(), Wrong> {
        if self.takes(word) { Ok(()) } else { Err(malformed(self.peek().unwrap_or("<EOF>"))) }
    }
}

/// Words, operators, and texts, which keep their first quote.
fn tokens(text: &str) -> Result<Vec<String>, Wrong> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '\'' => {
                let end = rest.get(1..).and_then(|inner| inner.find('\'')).ok_or_else(|| malformed("'"))?;
                tokens.push(rest[..=end].to_owned());
                rest = rest[end + 2..].trim_start();
                continue;
            }
            ',' | '(' | ')' => 1,
            '<' | '>' | '=' | '!' => 1 + usize::from(rest.get(1..2) == Some("=")),
            _ => rest.find([' ', ',', '(', ')', '<', '>', '=', '!', '\'']).unwrap_or(rest.len()),
        };
        tokens.push(rest[..length].to_owned());
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}
