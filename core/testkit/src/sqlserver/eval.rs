//! Expressions and conditions over a row.

use super::parse::{Condition, Expr};
use super::state::{Fault, TableColumn};
use super::value::{Type, Value, coerce, compare, now, print};

/// The row that an expression is about.
pub(super) struct Scope<'a> {
    pub(super) columns: &'a [TableColumn],
    pub(super) row: &'a [Value],
}

fn unknown(name: &str) -> Fault {
    Fault::error(207, &format!("Invalid column name '{name}'."))
}

/// The type of an expression, whether it can be null, and whether its text is in UTF-8.
pub(super) fn type_of(expr: &Expr, columns: &[TableColumn]) -> Result<(Type, bool, bool), Fault> {
    Ok(match expr {
        Expr::Literal(ty, _) => (*ty, true, false),
        Expr::Column(name) => {
            let column = columns.iter().find(|c| c.name.eq_ignore_ascii_case(name)).ok_or_else(|| unknown(name))?;
            (column.ty, column.nullable, column.code_page() == 65001)
        }
        Expr::Convert(ty, of, _) => (*ty, type_of(of, columns)?.1, false),
        Expr::Case(_, whens, other) => match whens.first() {
            Some((_, then)) => (type_of(then, columns)?.0, true, false),
            None => type_of(other, columns)?,
        },
        Expr::Call(name, arguments) => match name.to_uppercase().as_str() {
            "MIN" | "MAX" => (
                arguments.first().map(|of| type_of(of, columns)).transpose()?.ok_or_else(|| unknown(name))?.0,
                true,
                false,
            ),
            "COUNT_BIG" => (Type::BigInt, false, false),
            "TOSTRING" => (Type::NVarChar(4_000), true, false),
            "ASBINARYZM" => (Type::VarBinary(0), true, false),
            "SYSUTCDATETIME" | "SYSDATETIME" => (Type::DateTime2(7), false, false),
            "SQL_VARIANT_PROPERTY" => (Type::NVarChar(128), true, false),
            _ => return Err(Fault::error(195, &format!("'{name}' is not a recognized function name."))),
        },
    })
}

/// The value of an expression.
pub(super) fn value_of(expr: &Expr, scope: &Scope<'_>) -> Result<Value, Fault> {
    Ok(match expr {
        Expr::Literal(_, value) => value.clone(),
        Expr::Column(name) => {
            let at =
                scope.columns.iter().position(|c| c.name.eq_ignore_ascii_case(name)).ok_or_else(|| unknown(name))?;
            scope.row[at].clone()
        }
        Expr::Convert(ty, of, style) => {
            let (value, from) = (value_of(of, scope)?, type_of(of, scope.columns)?.0);
            let value = match (value, style) {
                (Value::Any(_, value), _) if !ty.is_text() => *value,
                (value @ Value::Bytes(_), Some(1)) => Value::Text(format!("0x{}", print(&value, from))),
                (Value::Float(number), Some(3)) => Value::Text(scientific(number)),
                (value, _) => value,
            };
            coerce(value, from, *ty)?
        }
        Expr::Case(of, whens, other) => {
            let of = value_of(of, scope)?;
            for (when, then) in whens {
                if compare(&of, &value_of(when, scope)?).is_some_and(std::cmp::Ordering::is_eq) {
                    return value_of(then, scope);
                }
            }
            value_of(other, scope)?
        }
        Expr::Call(name, arguments) => {
            let first = arguments.first().map(|of| value_of(of, scope)).transpose()?.unwrap_or(Value::Null);
            match (name.to_uppercase().as_str(), first) {
                ("SYSUTCDATETIME" | "SYSDATETIME", _) => Value::Ticks(now(), 0),
                ("SQL_VARIANT_PROPERTY", Value::Any(ty, _)) => Value::Text(ty.declared().0.into()),
                ("SQL_VARIANT_PROPERTY", _) => Value::Null,
                // They are kept as what they print.
                (_, value) => value,
            }
        }
    })
}

/// As style 3 prints a floating point number: 17 digits.
fn scientific(number: f64) -> String {
    let text = format!("{number:.16e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{digits}e{}{:03}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// Whether a condition holds; what is not known does not.
pub(super) fn holds(condition: &Condition, scope: &Scope<'_>) -> Result<bool, Fault> {
    Ok(match condition {
        Condition::And(all) => {
            for one in all {
                if !holds(one, scope)? {
                    return Ok(false);
                }
            }
            true
        }
        Condition::Or(all) => {
            for one in all {
                if holds(one, scope)? {
                    return Ok(true);
                }
            }
            false
        }
        Condition::Not(one) => !holds(one, scope)?,
        Condition::IsNull(of, null) => (value_of(of, scope)? == Value::Null) == *null,
        Condition::Compare(left, operator, right) => {
            let (a, b) = (value_of(left, scope)?, value_of(right, scope)?);
            let (x, y) = (type_of(left, scope.columns)?.0, type_of(right, scope.columns)?.0);
            // A text gives way to every other type.
            let (a, b) = match (x.is_text(), y.is_text()) {
                (false, true) => (a, coerce(b, y, x)?),
                (true, false) => (coerce(a, x, y)?, b),
                _ => (a, b),
            };
            let Some(order) = compare(&a, &b) else { return Ok(false) };
            match *operator {
                "=" => order.is_eq(),
                "<>" => order.is_ne(),
                "<" => order.is_lt(),
                "<=" => order.is_le(),
                ">" => order.is_gt(),
                ">=" => order.is_ge(),
                other => return Err(Fault::error(102, other)),
            }
        }
    })
}
