//! Types and values of the stand-in, and how one becomes another.

use std::cmp::Ordering;

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime};

use super::state::Fault;

/// 100 ns, the unit of every clock of the server.
pub(super) const SECOND: i64 = 10_000_000;
pub(super) const DAY: i64 = 86_400 * SECOND;
/// Days from 0001-01-01 to 1970-01-01.
const TO_1970: i64 = 719_162;

/// A type of a column, with its arguments; the length 0 is `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Bit,
    TinyInt,
    SmallInt,
    Int,
    BigInt,
    Real,
    Float,
    Decimal(u8, u8),
    Money,
    SmallMoney,
    Date,
    Time(u8),
    DateTime,
    SmallDateTime,
    DateTime2(u8),
    DateTimeOffset(u8),
    Char(u16),
    VarChar(u16),
    NChar(u16),
    NVarChar(u16),
    Text,
    NText,
    Image,
    Binary(u16),
    VarBinary(u16),
    Uuid,
    Xml,
    Variant,
    HierarchyId,
    Geometry,
    Geography,
    RowVersion,
}

impl Type {
    /// Reads `decimal(10, 2)`.
    pub(super) fn of(name: &str, arguments: &[u16]) -> Option<Self> {
        let first = arguments.first().copied();
        let small = |default: u8| first.map_or(default, |n| n as u8);
        let length = first.unwrap_or(1);
        Some(match name.to_lowercase().as_str() {
            "bit" => Self::Bit,
            "tinyint" => Self::TinyInt,
            "smallint" => Self::SmallInt,
            "int" => Self::Int,
            "bigint" => Self::BigInt,
            "real" => Self::Real,
            "float" => Self::Float,
            "decimal" | "numeric" => Self::Decimal(small(18), arguments.get(1).copied().unwrap_or(0) as u8),
            "money" => Self::Money,
            "smallmoney" => Self::SmallMoney,
            "date" => Self::Date,
            "time" => Self::Time(small(7)),
            "datetime" => Self::DateTime,
            "smalldatetime" => Self::SmallDateTime,
            "datetime2" => Self::DateTime2(small(7)),
            "datetimeoffset" => Self::DateTimeOffset(small(7)),
            "char" => Self::Char(length),
            "varchar" => Self::VarChar(length),
            "nchar" => Self::NChar(length),
            "nvarchar" | "sysname" => Self::NVarChar(if name.eq_ignore_ascii_case("sysname") { 128 } else { length }),
            "text" => Self::Text,
            "ntext" => Self::NText,
            "image" => Self::Image,
            "binary" => Self::Binary(length),
            "varbinary" => Self::VarBinary(length),
            "uniqueidentifier" => Self::Uuid,
            "xml" => Self::Xml,
            "sql_variant" => Self::Variant,
            "hierarchyid" => Self::HierarchyId,
            "geometry" => Self::Geometry,
            "geography" => Self::Geography,
            "rowversion" | "timestamp" => Self::RowVersion,
            _ => return None,
        })
    }

    /// What the catalog calls it, with precision and scale.
    pub(super) fn declared(self) -> (&'static str, u8, u8) {
        match self {
            Self::Bit => ("bit", 1, 0),
            Self::TinyInt => ("tinyint", 3, 0),
            Self::SmallInt => ("smallint", 5, 0),
            Self::Int => ("int", 10, 0),
            Self::BigInt => ("bigint", 19, 0),
            Self::Real => ("real", 24, 0),
            Self::Float => ("float", 53, 0),
            Self::Decimal(precision, scale) => ("decimal", precision, scale),
            Self::Money => ("money", 19, 4),
            Self::SmallMoney => ("smallmoney", 10, 4),
            Self::Date => ("date", 10, 0),
            Self::Time(scale) => ("time", 16, scale),
            Self::DateTime => ("datetime", 23, 3),
            Self::SmallDateTime => ("smalldatetime", 16, 0),
            Self::DateTime2(scale) => ("datetime2", 27, scale),
            Self::DateTimeOffset(scale) => ("datetimeoffset", 34, scale),
            Self::Char(_) => ("char", 0, 0),
            Self::VarChar(_) => ("varchar", 0, 0),
            Self::NChar(_) => ("nchar", 0, 0),
            Self::NVarChar(_) => ("nvarchar", 0, 0),
            Self::Text => ("text", 0, 0),
            Self::NText => ("ntext", 0, 0),
            Self::Image => ("image", 0, 0),
            Self::Binary(_) => ("binary", 0, 0),
            Self::VarBinary(_) => ("varbinary", 0, 0),
            Self::Uuid => ("uniqueidentifier", 0, 0),
            Self::Xml => ("xml", 0, 0),
            Self::Variant => ("sql_variant", 0, 0),
            Self::HierarchyId => ("hierarchyid", 0, 0),
            Self::Geometry => ("geometry", 0, 0),
            Self::Geography => ("geography", 0, 0),
            Self::RowVersion => ("timestamp", 0, 0),
        }
    }

    /// Whether it holds text, in a code page or in Unicode.
    pub(super) fn is_text(self) -> bool {
        matches!(self, Self::Char(_) | Self::VarChar(_) | Self::NChar(_) | Self::NVarChar(_) | Self::Text | Self::NText)
    }

    /// Whether its values have no limit of their length.
    pub(super) fn is_unbounded(self) -> bool {
        matches!(
            self,
            Self::VarChar(0)
                | Self::NVarChar(0)
                | Self::VarBinary(0)
                | Self::Text
                | Self::NText
                | Self::Image
                | Self::Xml
        )
    }

    fn scale(self) -> u8 {
        self.declared().2
    }
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Int(i64),
    Float(f64),
    /// A whole number, and how many of its digits stand after the point.
    Decimal(i128, u8),
    Text(String),
    Bytes(Vec<u8>),
    /// Days since 0001-01-01.
    Days(i64),
    /// 100 ns of the day.
    OfDay(i64),
    /// 100 ns since 0001-01-01; in UTC, with what the zone is ahead of it in minutes.
    Ticks(i64, i16),
    /// With the type that it has in a `sql_variant`.
    Any(Type, Box<Value>),
}

fn wrong(code: u32, what: &str) -> Fault {
    Fault::error(code, what)
}

/// Makes a value one of a type, as an insert or a comparison does.
pub(super) fn coerce(value: Value, from: Type, to: Type) -> Result<Value, Fault> {
    let failed = || wrong(241, "Conversion failed");
    Ok(match (to, value) {
        (_, Value::Null) => Value::Null,
        (Type::Variant, Value::Any(ty, value)) => Value::Any(ty, value),
        (Type::Variant, value) => Value::Any(from, Box::new(value)),
        (to, Value::Any(ty, value)) => coerce(*value, ty, to)?,
        (Type::Bit | Type::TinyInt | Type::SmallInt | Type::Int | Type::BigInt, value) => Value::Int(match value {
            Value::Int(number) => number,
            Value::Decimal(number, 0) => i64::try_from(number).map_err(|_| wrong(8115, "Arithmetic overflow"))?,
            Value::Text(text) => text.trim().parse().map_err(|_| wrong(245, "Conversion failed"))?,
            _ => return Err(failed()),
        }),
        (Type::Real, value) => Value::Float(f64::from(float(&value).ok_or_else(failed)? as f32)),
        (Type::Float, value) => Value::Float(float(&value).ok_or_else(failed)?),
        (Type::Decimal(..) | Type::Money | Type::SmallMoney, value) => {
            let scale = to.scale();
            let (number, had) = match value {
                Value::Int(number) => (i128::from(number), 0),
                Value::Decimal(number, scale) => (number, scale),
                Value::Text(text) => parse_decimal(&text).ok_or_else(failed)?,
                _ => return Err(failed()),
            };
            Value::Decimal(rescale(number, had, scale).ok_or_else(failed)?, scale)
        }
        (Type::Date, Value::Text(text)) => Value::Days(clock(&text).ok_or_else(failed)?.0.div_euclid(DAY)),
        (Type::Date, Value::Ticks(at, _)) => Value::Days(at.div_euclid(DAY)),
        (Type::Date, Value::Days(days)) => Value::Days(days),
        (Type::Time(_), Value::Text(text)) => Value::OfDay(time(&text).ok_or_else(failed)?),
        (Type::Time(_), Value::OfDay(time)) => Value::OfDay(time),
        (Type::DateTime | Type::SmallDateTime | Type::DateTime2(_) | Type::DateTimeOffset(_), value) => {
            let (at, zone) = match value {
                Value::Text(text) => clock(&text).ok_or_else(failed)?,
                Value::Ticks(at, zone) => (at, zone),
                Value::Days(days) => (days * DAY, 0),
                _ => return Err(failed()),
            };
            Value::Ticks(rounded(at, to), if matches!(to, Type::DateTimeOffset(_)) { zone } else { 0 })
        }
        (Type::Uuid, Value::Text(text)) => Value::Text(text.to_uppercase()),
        (Type::Char(length) | Type::NChar(length), Value::Text(text)) => {
            Value::Text(format!("{text:length$}", length = usize::from(length)))
        }
        (Type::Binary(length), Value::Bytes(mut bytes)) => {
            bytes.resize(usize::from(length), 0);
            Value::Bytes(bytes)
        }
        (
            Type::VarBinary(_) | Type::Image | Type::RowVersion | Type::Geometry | Type::Geography,
            Value::Bytes(bytes),
        ) => Value::Bytes(bytes),
        (to, value) if to.is_text() || matches!(to, Type::Xml | Type::HierarchyId | Type::Uuid) => {
            Value::Text(print(&value, from))
        }
        _ => return Err(wrong(206, "Operand type clash")),
    })
}

fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Int(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        Value::Decimal(number, scale) => Some(*number as f64 / 10_f64.powi(i32::from(*scale))),
        Value::Text(text) => text.parse().ok(),
        _ => None,
    }
}

pub(super) fn parse_decimal(text: &str) -> Option<(i128, u8)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    Some((format!("{whole}{fraction}").parse().ok()?, u8::try_from(fraction.len()).ok()?))
}

fn rescale(number: i128, had: u8, scale: u8) -> Option<i128> {
    match scale.checked_sub(had) {
        Some(more) => number.checked_mul(10_i128.pow(u32::from(more))),
        None => {
            let unit = 10_i128.pow(u32::from(had - scale));
            Some((number + number.signum() * unit / 2) / unit)
        }
    }
}

/// As the type rounds it: `datetime` to 1/300 s, `smalldatetime` to minutes, others to their digits.
fn rounded(at: i64, ty: Type) -> i64 {
    let to = |unit: i64| (at + unit / 2).div_euclid(unit) * unit;
    match ty {
        Type::DateTime => {
            let (days, of_day) = (at.div_euclid(DAY), at.rem_euclid(DAY));
            let fragments = (of_day * 300 + SECOND / 2) / SECOND;
            // The unit is no whole number of 100 ns; the protocol's count comes out of this again.
            days * DAY + (fragments * SECOND).div_euclid(300)
        }
        Type::SmallDateTime => to(60 * SECOND),
        ty => to(10_i64.pow(7 - u32::from(ty.scale().min(7)))),
    }
}

/// Reads `2024-02-29T12:34:56.1234567+02:00` and its parts; 100 ns UTC, minutes.
fn clock(text: &str) -> Option<(i64, i16)> {
    let text = text.trim().replace('T', " ");
    let (text, zone) = match text.rfind(['+', '-']).filter(|at| *at > 10) {
        Some(at) => {
            let (hours, minutes) = text[at + 1..].split_once(':')?;
            let minutes = hours.parse::<i16>().ok()? * 60 + minutes.parse::<i16>().ok()?;
            (text[..at].trim_end().to_owned(), if text[at..].starts_with('-') { -minutes } else { minutes })
        }
        None => (text, 0),
    };
    let (date, of_day) = text.split_once(' ').unwrap_or((&text, "00:00:00"));
    let date = NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
    let days = date.signed_duration_since(NaiveDate::default()).num_days() + TO_1970;
    Some((days * DAY + time(of_day)? - i64::from(zone) * 60 * SECOND, zone))
}

fn time(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let seconds =
        NaiveTime::parse_from_str(whole, "%H:%M:%S").ok()?.signed_duration_since(NaiveTime::MIN).num_seconds();
    Some(seconds * SECOND + format!("{fraction:0<7}").get(..7)?.parse::<i64>().ok()?)
}

/// A value as the server prints it, times in style 126.
pub(super) fn print(value: &Value, ty: Type) -> String {
    match value {
        Value::Null => String::new(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Decimal(number, scale) => {
            let (sign, scale) = (if *number < 0 { "-" } else { "" }, usize::from(*scale));
            let digits = format!("{:0>width$}", number.unsigned_abs(), width = scale + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
        }
        Value::Text(text) => text.clone(),
        Value::Bytes(bytes) => bytes.iter().map(|byte| format!("{byte:02X}")).collect(),
        Value::Days(days) => at(days * DAY).format("%Y-%m-%d").to_string(),
        Value::OfDay(time) => at(*time).format("%H:%M:%S").to_string() + &fraction(*time, ty.scale()),
        Value::Ticks(ticks, zone) => {
            let shown = at(*ticks + i64::from(*zone) * 60 * SECOND).format("%Y-%m-%dT%H:%M:%S").to_string();
            let text = shown + &fraction(*ticks, ty.scale());
            match ty {
                Type::DateTimeOffset(_) => {
                    let sign = if *zone < 0 { '-' } else { '+' };
                    format!("{text}{sign}{:02}:{:02}", zone.abs() / 60, zone.abs() % 60)
                }
                _ => text,
            }
        }
        Value::Any(ty, value) => print(value, *ty),
    }
}

fn fraction(ticks: i64, scale: u8) -> String {
    let digits = format!("{:07}", ticks.rem_euclid(SECOND));
    if scale == 0 { String::new() } else { format!(".{}", &digits[..usize::from(scale.min(7))]) }
}

fn at(ticks: i64) -> NaiveDateTime {
    let since_1970 = ticks - TO_1970 * DAY;
    let at = DateTime::from_timestamp(since_1970.div_euclid(SECOND), 0).unwrap_or_default();
    at.naive_utc()
}

/// Now, by the clock of this machine.
pub(super) fn now() -> i64 {
    chrono::Utc::now().timestamp_micros() * 10 + TO_1970 * DAY
}

/// How two values of one type compare; `None` where one is null.
pub(super) fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Null, _) | (_, Value::Null) => None,
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Text(a), Value::Text(b)) => Some(a.trim_end().to_lowercase().cmp(&b.trim_end().to_lowercase())),
        (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
        (Value::Days(a), Value::Days(b)) | (Value::OfDay(a), Value::OfDay(b)) => Some(a.cmp(b)),
        (Value::Ticks(a, _), Value::Ticks(b, _)) => Some(a.cmp(b)),
        (Value::Decimal(a, x), Value::Decimal(b, y)) => {
            let scale = (*x).max(*y);
            Some(rescale(*a, *x, scale)?.cmp(&rescale(*b, *y, scale)?))
        }
        (a, b) => float(a)?.partial_cmp(&float(b)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_printed_as_they_were_read() {
        for (text, ty) in [
            ("2024-02-29T12:34:56.1234567", Type::DateTime2(7)),
            ("9999-12-31T23:59:59.9999999", Type::DateTime2(7)),
            ("0001-01-01T00:00:00", Type::DateTime2(0)),
            ("2024-02-29T12:34:56.12+02:00", Type::DateTimeOffset(2)),
            ("2024-02-29", Type::Date),
            ("23:59:59.999", Type::Time(3)),
            ("-12.3450", Type::Money),
            ("-0.05", Type::Decimal(5, 2)),
        ] {
            let value = coerce(Value::Text(text.into()), Type::NVarChar(0), ty).expect("a value");
            assert_eq!(print(&value, ty), text);
        }
    }

    #[test]
    fn clocks_are_rounded_as_their_type_does() {
        let rounded = |text: &str, ty| {
            let value = coerce(Value::Text(text.into()), Type::NVarChar(0), ty).expect("a value");
            print(&value, ty)
        };
        assert_eq!(rounded("2024-01-01T00:00:30", Type::SmallDateTime), "2024-01-01T00:01:00");
        assert_eq!(rounded("2024-01-01T00:00:00.9996", Type::DateTime2(3)), "2024-01-01T00:00:01.000");
    }
}
