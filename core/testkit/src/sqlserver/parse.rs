//! The part of Transact-SQL that the connector and its tests speak.

use super::lex::{Token, tokens, wrong};
use super::state::Fault;
use super::tracking::{Changes, Track};
use super::value::{Type, Value, parse_decimal};

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
    Track(Track),
    Select(Select),
}

pub(super) struct Select {
    pub(super) top: Option<usize>,
    pub(super) list: Vec<Expr>,
    pub(super) from: Option<Path>,
    /// Its changed rows instead of all.
    pub(super) tracked: Option<Changes>,
    /// Of the function that gives the rows.
    pub(super) arguments: Vec<Expr>,
    pub(super) condition: Option<Condition>,
    /// And whether it descends.
    pub(super) order: Option<(String, bool)>,
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
            self.rest();
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
        if self.words(&["ALTER", "DATABASE"]) {
            return self.track_database();
        }
        if self.words(&["ALTER", "TABLE"]) {
            let path = self.path()?;
            let on = self.word("ENABLE");
            self.rest();
            return Ok(Statement::Track(Track::Table { path, on }));
        }
        if self.words(&["TRUNCATE", "TABLE"]) {
            return Ok(Statement::Track(Track::Truncate(self.path()?)));
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

    /// Passes over what is left of the statement.
    fn rest(&mut self) -> &[Token] {
        let start = self.at;
        while self.peek().is_some_and(|token| *token != Token::Symbol(";")) {
            self.at += 1;
        }
        &self.tokens[start..self.at]
    }

    /// `… SET CHANGE_TRACKING = ON (CHANGE_RETENTION = 2 DAYS)`.
    fn track_database(&mut self) -> Result<Statement, Fault> {
        self.name()?;
        if !self.words(&["SET", "CHANGE_TRACKING"]) {
            return Err(wrong("ALTER DATABASE"));
        }
        let rest = self.rest();
        let is_word = |token: &Token, word: &str| matches!(token, Token::Word(found, _) if found == word);
        let on = !rest.iter().any(|token| is_word(token, "OFF"));
        let minutes = rest.windows(2).find_map(|pair| match pair {
            [Token::Number(number), unit] if is_word(unit, "DAYS") => number.parse().ok().map(|days: i64| days * 1_440),
            [Token::Number(number), unit] if is_word(unit, "HOURS") => number.parse().ok().map(|hours: i64| hours * 60),
            [Token::Number(number), _] => number.parse().ok(),
            _ => None,
        });
        Ok(Statement::Track(Track::Database { on, minutes }))
    }

    /// `(SELECT … FROM CHANGETABLE(CHANGES t, version) AS x) AS c LEFT JOIN t AS t ON …`, behind its parenthesis.
    fn tracked(&mut self) -> Result<(Path, Changes), Fault> {
        self.word("SELECT");
        let names = self.list(|parser| {
            let name = parser.name()?;
            Ok((name, parser.alias()?))
        })?;
        if !self.words(&["FROM", "CHANGETABLE"]) {
            return Err(wrong("FROM"));
        }
        self.expect("(")?;
        self.word("CHANGES");
        let path = self.path()?;
        self.expect(",")?;
        let Token::Number(after) = self.next()? else { return Err(wrong("CHANGES")) };
        let after = after.parse().map_err(|_| wrong(&after))?;
        self.expect(")")?;
        self.alias()?;
        self.expect(")")?;
        self.alias()?;
        if !self.words(&["LEFT", "JOIN"]) || self.path()? != path {
            return Err(wrong("JOIN"));
        }
        self.alias()?;
        if !self.word("ON") {
            return Err(wrong("ON"));
        }
        // That the keys are equal.
        self.or()?;
        Ok((path, Changes { after, names }))
    }

    fn alias(&mut self) -> Result<String, Fault> {
        if self.word("AS") { self.name() } else { Err(wrong("AS")) }
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
        let (mut from, mut tracked) = (None, None);
        if self.word("FROM") {
            if self.symbol("(") {
                let (path, changes) = self.tracked()?;
                (from, tracked) = (Some(path), Some(changes));
            } else {
                from = Some(self.path()?);
            }
        }
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
        Ok(Select { top, list, from, tracked, arguments, condition, order })
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
            if !self.symbol("(") {
                // What stands before the point is the table's name.
                expr = Expr::Column(name);
                continue;
            }
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
