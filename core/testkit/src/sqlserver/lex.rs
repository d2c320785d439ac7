//! A text of Transact-SQL as words, values and symbols.

use super::state::Fault;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A word, or a name in brackets.
    Word(String, bool),
    Text(String),
    Number(String),
    Bytes(Vec<u8>),
    Symbol(&'static str),
}

pub(super) fn wrong(near: &str) -> Fault {
    Fault::error(102, &format!("Incorrect syntax near '{near}'."))
}

const SYMBOLS: [&str; 14] = ["<>", "<=", ">=", "(", ")", ",", ".", ";", "=", "<", ">", "*", "-", "+"];

pub(super) fn tokens(sql: &str) -> Result<Vec<Token>, Fault> {
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
