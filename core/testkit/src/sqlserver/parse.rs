//! The part of Transact-SQL that the connector and its tests speak.

use super::state::Fault;
use super::value::{Type, Value, parse_decimal};

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A word, or a name in brackets.
    Word(String, bool),
    Text(String),
    Number(String),
    Bytes(Vec<u8>),
    Symbol(&'static str),
}

#[derive(Debug, Clone)]
pub(super) enum Expr {
    Literal(Type, Value),
    Column(String),
    Convert(Type, Box<Expr>, Option<i64>),
    Call(String, Vec<Expr>),
    Case(Box<Expr>, Vec<(Expr, Expr)>, Box<Expr>),
}

#[derive(Debug, Clone)]
pub(super) enum Condition {
    Compare(Expr, &'static str, Expr),
    IsNull(Expr, bool),
    And(Vec<Condition>),
    Or(Vec<Condition>),
    Not(Box<Condition>),
}

/// `schema.table`; `dbo` where no schema is named.
pub(super) type Path = (String, String);

pub(super) struct ColumnDef {
    pub(super) name: String,
    pub(super) ty: Type,
    pub(super) nullable: bool,
    pub(super) identity: bool,
    pub(super) default: Option<Expr>,
    pub(super) collation: String,
}

pub(super) enum Statement {
    /// Nothing that the stand-in would do otherwise.
    Set,
    Table {
        path: Path,
        columns: Vec<ColumnDef>,
        key: Vec<String>,
    },
    Index {
        table: Path,
        unique: bool,
        columns: Vec<String>,
    },
    Drop(Path),
    Insert {
        table: Path,
        columns: Vec<String>,
        rows: Vec<Vec<Expr>>,
    },
    Update {
        table: Path,
        sets: Vec<(String, Expr)>,
        condition: Option<Condition>,
    },
    Delete {
        table: Path,
        condition: Option<Condition>,
    },
    Begin,
    Commit,
    Rollback,
    /// A procedure and its arguments.
    Exec(String, Vec<(String, Expr)>),
    Select(Select),
}

pub(super) struct Select {
    pub(super) top: Option<usize>,
    pub(super) list: Vec<Expr>,
    pub(super) from: Option<Path>,
    /// Of the function that gives the rows.
    pub(super) arguments: Vec<Expr>,
    pub(super) condition: Option<Condition>,
    /// And whether it descends.
    pub(super) order: Option<(String, bool)>,
}

fn wrong(near: &str) -> Fault {
    Fault::error(102, &format!("Incorrect syntax near '{near}'."))
}

/// Reads a batch.
pub(super) fn parse(sql: &str) -> Result<Vec<Statement>, Fault> {
    let mut parser = Parser { tokens: tokens(sql)?, at: 0 };
    let mut statements = Vec::new();
    while parser.peek().is_some() {
        if !parser.symbol(";") {
            statements.push(parser.statement()?);
        }
    }
    Ok(statements)
}

const SYMBOLS: [&str; 14] = ["<>", "<=", ">=", "(", ")", ",", ".", ";", "=", "<", ">", "*", "-", "+"];

fn tokens(sql: &str) -> Result<Vec<Token>, Fault> {
    let mut rest = sql;
    let mut tokens = Vec::new();
    while let Some(c) = rest.chars().next() {
        if c.is_whitespace() {
            rest = rest.trim_start();
        } else if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, rest)| rest);
        } else if c == '[' || c == '\'' || rest.starts_with("N'") {
            let close = if c == '[' { ']' } else { '\'' };
            let inner = &rest[if c == 'N' { 2 } else { 1 }..];
            let (text, after) = quoted(inner, close).ok_or_else(|| Fault::error(105, "Unclosed quotation mark"))?;
            tokens.push(if c == '[' { Token::Word(text, true) } else { Token::Text(text) });
            rest = after;
        } else if let Some(digits) = rest.strip_prefix("0x") {
            let end = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
            let byte = |i: usize| u8::from_str_radix(&digits[i..i + 2], 16).map_err(|_| wrong("0x"));
            tokens.push(Token::Bytes((0..end / 2).map(|i| byte(i * 2)).collect::<Result<_, _>>()?));
            rest = &digits[end..];
        } else if c.is_ascii_digit() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            tokens.push(Token::Number(rest[..end].to_owned()));
            rest = &rest[end..];
        } else if c.is_alphabetic() || c == '_' || c == '@' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '@').unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned(), false));
            rest = &rest[end..];
        } else {
            let symbol =
                SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol)).ok_or_else(|| wrong(&c.to_string()))?;
            tokens.push(Token::Symbol(symbol));
            rest = &rest[symbol.len()..];
        }
    }
    Ok(tokens)
}

/// A text up to its closing quote, which stands doubled inside, and what follows.
fn quoted(text: &str, close: char) -> Option<(String, &str)> {
    let mut inner = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if c != close {
            inner.push(c);
        } else if text[at + 1..].starts_with(close) {
            inner.push(c);
            chars.next();
        } else {
            return Some((inner, &text[at + 1..]));
        }
    }
    None
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Result<Token, Fault> {
        let token = self.peek().cloned().ok_or_else(|| wrong("the end"))?;
        self.at += 1;
        Ok(token)
    }

    fn symbol(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Symbol(found)) if *found == symbol);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, symbol: &str) -> Result<(), Fault> {
        if self.symbol(symbol) { Ok(()) } else { Err(wrong(&format!("{:?}, {symbol} is missing", self.peek()))) }
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Some(Token::Word(found, false)) if found.eq_ignore_ascii_case(word))
    }

    fn word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += usize::from(found);
        found
    }

    fn words(&mut self, words: &[&str]) -> bool {
        let start = self.at;
        let found = words.iter().all(|word| self.word(word));
        if !found {
            self.at = start;
        }
        found
    }

    fn name(&mut self) -> Result<String, Fault> {
        match self.next()? {
            Token::Word(name, _) => Ok(name),
            token => Err(wrong(&format!("{token:?}"))),
        }
    }

    fn path(&mut self) -> Result<Path, Fault> {
        let first = self.name()?;
        Ok(if self.symbol(".") { (first, self.name()?) } else { ("dbo".into(), first) })
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, Fault>) -> Result<Vec<T>, Fault> {
        let mut items = vec![item(self)?];
        while self.symbol(",") {
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn names(&mut self) -> Result<Vec<String>, Fault> {
        self.expect("(")?;
        let names = self.list(Self::name)?;
        self.expect(")")?;
        Ok(names)
    }

    fn statement(&mut self) -> Result<Statement, Fault> {
        if self.word("SET") {
            while self.peek().is_some_and(|token| *token != Token::Symbol(";")) {
                self.at += 1;
            }
            return Ok(Statement::Set);
        }
        if self.words(&["CREATE", "TABLE"]) {
            return self.table();
        }
        if self.words(&["CREATE", "SCHEMA"]) {
            self.name()?;
            return Ok(Statement::Set);
        }
        if self.word("CREATE") {
            let unique = self.word("UNIQUE");
            self.words(&["INDEX"]);
            self.name()?;
            self.words(&["ON"]);
            let table = self.path()?;
            return Ok(Statement::Index { table, unique, columns: self.names()? });
        }
        if self.words(&["DROP", "TABLE"]) {
            return Ok(Statement::Drop(self.path()?));
        }
        if self.words(&["BEGIN", "TRANSACTION"]) {
            return Ok(Statement::Begin);
        }
        if self.word("COMMIT") {
            return Ok(Statement::Commit);
        }
        if self.word("ROLLBACK") {
            return Ok(Statement::Rollback);
        }
        if self.words(&["INSERT", "INTO"]) {
            let (table, columns) = (self.path()?, self.names()?);
            if !self.word("VALUES") {
                return Err(wrong("INSERT"));
            }
            let row = |parser: &mut Self| {
                parser.expect("(")?;
                let row = parser.list(Self::expr)?;
                parser.expect(")")?;
                Ok(row)
            };
            return Ok(Statement::Insert { table, columns, rows: self.list(row)? });
        }
        if self.word("UPDATE") {
            let table = self.path()?;
            self.word("SET");
            let set = |parser: &mut Self| {
                let name = parser.name()?;
                parser.expect("=")?;
                Ok((name, parser.expr()?))
            };
            return Ok(Statement::Update { table, sets: self.list(set)?, condition: self.filter()? });
        }
        if self.words(&["DELETE", "FROM"]) {
            return Ok(Statement::Delete { table: self.path()?, condition: self.filter()? });
        }
        if self.word("EXEC") {
            let (_, name) = self.path()?;
            let mut arguments = Vec::new();
            while matches!(self.peek(), Some(Token::Word(word, false)) if word.starts_with('@')) {
                let argument = self.name()?;
                self.expect("=")?;
                arguments.push((argument, self.expr()?));
                self.symbol(",");
            }
            return Ok(Statement::Exec(name, arguments));
        }
        if self.word("SELECT") {
            return self.select().map(Statement::Select);
        }
        Err(wrong(&format!("{:?}", self.peek())))
    }

    fn table(&mut self) -> Result<Statement, Fault> {
        let path = self.path()?;
        self.expect("(")?;
        let (mut columns, mut key) = (Vec::new(), Vec::new());
        loop {
            if self.words(&["PRIMARY", "KEY"]) {
                key = self.names()?;
            } else {
                let (column, is_key) = self.column()?;
                if is_key {
                    key = vec![column.name.clone()];
                }
                columns.push(column);
            }
            if !self.symbol(",") {
                break;
            }
        }
        self.expect(")")?;
        for column in &mut columns {
            column.nullable &= !key.contains(&column.name);
        }
        Ok(Statement::Table { path, columns, key })
    }

    fn column(&mut self) -> Result<(ColumnDef, bool), Fault> {
        let (name, ty) = (self.name()?, self.ty()?);
        let mut column = ColumnDef {
            name,
            ty,
            nullable: ty != Type::RowVersion,
            identity: false,
            default: None,
            collation: String::new(),
        };
        let mut is_key = false;
        loop {
            if self.words(&["NOT", "NULL"]) {
                column.nullable = false;
            } else if self.word("IDENTITY") {
                (column.identity, column.nullable) = (true, false);
            } else if self.words(&["PRIMARY", "KEY"]) {
                is_key = true;
            } else if self.word("DEFAULT") {
                column.default = Some(self.expr()?);
            } else if self.word("COLLATE") {
                column.collation = self.name()?;
            } else if !self.word("NULL") {
                return Ok((column, is_key));
            }
        }
    }

    fn ty(&mut self) -> Result<Type, Fault> {
        let name = self.name()?;
        let mut arguments = Vec::new();
        if self.symbol("(") {
            arguments = self.list(|parser| match parser.next()? {
                Token::Number(number) => number.parse().map_err(|_| wrong(&number)),
                // As a length, `max` is 0 here.
                _ => Ok(0),
            })?;
            self.expect(")")?;
        }
        Type::of(&name, &arguments).ok_or_else(|| Fault::error(2715, &format!("Cannot find data type {name}.")))
    }

    fn select(&mut self) -> Result<Select, Fault> {
        let mut top = None;
        if self.word("TOP") {
            self.expect("(")?;
            if let Token::Number(number) = self.next()? {
                top = number.parse().ok();
            }
            self.expect(")")?;
        }
        let list = self.list(Self::expr)?;
        let from = if self.word("FROM") { Some(self.path()?) } else { None };
        let mut arguments = Vec::new();
        if from.is_some() && self.symbol("(") {
            arguments = self.list(Self::expr)?;
            self.expect(")")?;
        }
        let condition = self.filter()?;
        let mut order = None;
        if self.words(&["ORDER", "BY"]) {
            order = Some((self.name()?, self.word("DESC")));
            // Changes come in the order of what follows.
            while self.symbol(",") {
                self.name()?;
            }
        }
        Ok(Select { top, list, from, arguments, condition, order })
    }

    fn filter(&mut self) -> Result<Option<Condition>, Fault> {
        if self.word("WHERE") { self.or().map(Some) } else { Ok(None) }
    }

    fn or(&mut self) -> Result<Condition, Fault> {
        let mut all = vec![self.and()?];
        while self.word("OR") {
            all.push(self.and()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Condition::Or(all) })
    }

    fn and(&mut self) -> Result<Condition, Fault> {
        let mut all = vec![self.condition()?];
        while self.word("AND") {
            all.push(self.condition()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Condition::And(all) })
    }

    fn condition(&mut self) -> Result<Condition, Fault> {
        if self.word("NOT") {
            return Ok(Condition::Not(Box::new(self.condition()?)));
        }
        if self.symbol("(") {
            let inner = self.or()?;
            self.expect(")")?;
            return Ok(inner);
        }
        let left = self.expr()?;
        if self.word("IS") {
            let not = self.word("NOT");
            self.word("NULL");
            return Ok(Condition::IsNull(left, !not));
        }
        let Token::Symbol(operator) = self.next()? else { return Err(wrong("a condition")) };
        Ok(Condition::Compare(left, operator, self.expr()?))
    }

    fn expr(&mut self) -> Result<Expr, Fault> {
        let mut expr = self.term()?;
        // A method of a value: `[c].ToString()`.
        while self.symbol(".") {
            let name = self.name()?;
            self.expect("(")?;
            self.expect(")")?;
            expr = Expr::Call(name, vec![expr]);
        }
        Ok(expr)
    }

    fn term(&mut self) -> Result<Expr, Fault> {
        Ok(match self.next()? {
            Token::Text(text) => Expr::Literal(Type::NVarChar(0), Value::Text(text)),
            Token::Bytes(bytes) => Expr::Literal(Type::VarBinary(0), Value::Bytes(bytes)),
            Token::Number(number) => numeric(&number)?,
            Token::Symbol("-") => match self.next()? {
                Token::Number(number) => numeric(&format!("-{number}"))?,
                token => return Err(wrong(&format!("{token:?}"))),
            },
            Token::Symbol("*") => Expr::Literal(Type::Int, Value::Int(1)),
            Token::Word(word, false) if word.eq_ignore_ascii_case("NULL") => Expr::Literal(Type::Int, Value::Null),
            Token::Word(word, false) if word.eq_ignore_ascii_case("CASE") => self.case()?,
            Token::Word(word, false) if word.eq_ignore_ascii_case("CONVERT") && self.symbol("(") => {
                let ty = self.ty()?;
                self.expect(",")?;
                let of = self.expr()?;
                let mut style = None;
                if self.symbol(",")
                    && let Token::Number(number) = self.next()?
                {
                    style = number.parse().ok();
                }
                self.expect(")")?;
                Expr::Convert(ty, Box::new(of), style)
            }
            Token::Word(word, false) if self.symbol("(") => {
                let mut arguments = Vec::new();
                if !self.symbol(")") {
                    arguments = self.list(Self::expr)?;
                    self.expect(")")?;
                }
                Expr::Call(word, arguments)
            }
            Token::Word(name, _) => Expr::Column(name),
            token => return Err(wrong(&format!("{token:?}"))),
        })
    }

    fn case(&mut self) -> Result<Expr, Fault> {
        let of = self.expr()?;
        let mut whens = Vec::new();
        while self.word("WHEN") {
            let when = self.expr()?;
            if !self.word("THEN") {
                return Err(wrong("WHEN"));
            }
            whens.push((when, self.expr()?));
        }
        let other = if self.word("ELSE") { self.expr()? } else { Expr::Literal(Type::Int, Value::Null) };
        if self.word("END") { Ok(Expr::Case(Box::new(of), whens, Box::new(other))) } else { Err(wrong("CASE")) }
    }
}

fn numeric(text: &str) -> Result<Expr, Fault> {
    if let Ok(number) = text.parse() {
        return Ok(Expr::Literal(Type::BigInt, Value::Int(number)));
    }
    let (number, scale) = parse_decimal(text).ok_or_else(|| wrong(text))?;
    Ok(Expr::Literal(Type::Decimal(38, scale), Value::Decimal(number, scale)))
}
