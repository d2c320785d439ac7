//! Single values, as the client gives them or the binlog holds them, on their way into a column.

use mysql_async::Value;

/// One value, borrowed from the row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Cell<'a> {
    Null,
    Int(i64),
    UInt(u64),
    Float(f32),
    Double(f64),
    Bytes(&'a [u8]),
    /// A whole number of the smallest unit, and the digits after the point.
    Decimal(i128, u8),
    Moment(Moment),
    /// Microseconds since 1970-01-01, UTC.
    Instant(i64),
    /// Microseconds.
    Time(i64),
}

/// A date with a time of day, which may be no day of the calendar: `0000-00-00`, `2024-02-30`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) year: u16,
    pub(crate) month: u8,
    pub(crate) day: u8,
    /// Microseconds since midnight.
    pub(crate) time: i64,
}

pub(crate) const DAY: i64 = 86_400_000_000;
pub(crate) const SECOND: i64 = 1_000_000;

impl Moment {
    /// Days since 1970-01-01; `None` where there is no such day in the years 1 to 9999.
    pub(crate) fn days(self) -> Option<i32> {
        const LENGTHS: [u8; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let leap = self.year.is_multiple_of(4) && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400));
        let length = LENGTHS.get(usize::from(self.month.checked_sub(1)?))? + u8::from(leap && self.month == 2);
        if !(1..=9999).contains(&self.year) || !(1..=length).contains(&self.day) {
            return None;
        }
        // Years that begin in March put the leap day at their end.
        let (month, year) = match self.month {
            month @ 3.. => (i32::from(month) - 3, i32::from(self.year)),
            month => (i32::from(month) + 9, i32::from(self.year) - 1),
        };
        let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let of_year = (153 * month + 2) / 5 + i32::from(self.day) - 1;
        Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
    }

    /// Microseconds since 1970-01-01; `None` as in [`Moment::days`].
    pub(crate) fn micros(self) -> Option<i64> {
        Some(i64::from(self.days()?) * DAY + self.time)
    }
}

/// A number of microseconds since 1970-01-01 as the server writes it: `2024-02-29 12:34:56.123456`.
pub(crate) fn print_micros(micros: i64) -> String {
    let (days, time) = (micros.div_euclid(DAY), micros.rem_euclid(DAY));
    format!("{} {}", print_days(days), print_time(time, true))
}

/// A number of days since 1970-01-01 as the server writes it: `2024-02-29`.
pub(crate) fn print_days(days: i64) -> String {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", era * 400 + year + carry)
}

/// A time as the server writes it; the fraction only where there is one, unless `exact`.
fn print_time(time: i64, exact: bool) -> String {
    let sign = if time < 0 { "-" } else { "" };
    let (seconds, micros) = (time.unsigned_abs() / 1_000_000, time.unsigned_abs() % 1_000_000);
    let fraction = if exact || micros > 0 { format!(".{micros:06}") } else { String::new() };
    format!("{sign}{:02}:{:02}:{:02}{fraction}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

impl<'a> From<&'a Value> for Cell<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::NULL => Self::Null,
            Value::Bytes(bytes) => Self::Bytes(bytes),
            Value::Int(number) => Self::Int(*number),
            Value::UInt(number) => Self::UInt(*number),
            Value::Float(number) => Self::Float(*number),
            Value::Double(number) => Self::Double(*number),
            Value::Date(year, month, day, hours, minutes, seconds, micros) => Self::Moment(Moment {
                year: *year,
                month: *month,
                day: *day,
                time: clock(u32::from(*hours), *minutes, *seconds, *micros),
            }),
            Value::Time(negative, days, hours, minutes, seconds, micros) => {
                let time =
                    clock(days.saturating_mul(24).saturating_add(u32::from(*hours)), *minutes, *seconds, *micros);
                Self::Time(if *negative { -time } else { time })
            }
        }
    }
}

/// Microseconds of hours, minutes, seconds and microseconds.
pub(crate) fn clock(hours: u32, minutes: u8, seconds: u8, micros: u32) -> i64 {
    (i64::from(hours) * 3_600 + i64::from(minutes) * 60 + i64::from(seconds)) * SECOND + i64::from(micros)
}

impl Cell<'_> {
    /// The value as text, for the rescue of what has no place in its column. Bytes that are no text are hexadecimal.
    pub(crate) fn print(self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Int(number) => number.to_string(),
            Self::UInt(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Double(number) => number.to_string(),
            Self::Decimal(number, scale) => print_decimal(number, usize::from(scale)),
            Self::Bytes(bytes) => std::str::from_utf8(bytes).map_or_else(|_| hex(bytes), str::to_owned),
            Self::Moment(Moment { year, month, day, time }) => {
                let date = format!("{year:04}-{month:02}-{day:02}");
                if time == 0 { date } else { format!("{date} {}", print_time(time, false)) }
            }
            Self::Instant(micros) => print_micros(micros),
            Self::Time(time) => print_time(time, false),
        }
    }

    /// How much of a batch the value takes, in bytes.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len() + 4,
            Self::Decimal(..) => 16,
            _ => 8,
        }
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A whole number of the smallest unit, with the point before so many of its digits.
fn print_decimal(number: i128, scale: usize) -> String {
    let sign = if number < 0 { "-" } else { "" };
    let digits = format!("{:0width$}", number.unsigned_abs(), width = scale + 1);
    match digits.split_at(digits.len() - scale) {
        (whole, "") => format!("{sign}{whole}"),
        (whole, fraction) => format!("{sign}{whole}.{fraction}"),
    }
}

/// A decimal as the server prints it, as a whole number of its smallest unit. `None`: it has more digits than there is
/// room for.
pub(crate) fn decimal(text: &[u8], scale: i8) -> Option<i128> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        digits => (false, digits),
    };
    let (mut number, mut fraction, mut places) = (0_i128, false, 0_i8);
    for byte in digits {
        match byte {
            b'.' if !fraction => fraction = true,
            b'0'..=b'9' => {
                number = number.checked_mul(10)?.checked_add(i128::from(byte - b'0'))?;
                places += i8::from(fraction);
                if places > scale {
                    return None;
                }
            }
            _ => return None,
        }
    }
    for _ in places..scale {
        number = number.checked_mul(10)?;
    }
    (!digits.is_empty()).then_some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(year: u16, month: u8, day: u8) -> Moment {
        Moment { year, month, day, time: 0 }
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (moment, days) in [
            (day(1970, 1, 1), Some(0)),
            (day(2024, 2, 29), Some(19_782)),
            (day(1, 1, 1), Some(-719_162)),
            (day(9999, 12, 31), Some(2_932_896)),
            (day(2023, 2, 29), None),
            (day(1900, 2, 29), None),
            (day(2000, 2, 29), Some(11_016)),
            (day(0, 0, 0), None),
            (day(0, 1, 1), None),
            (day(2024, 0, 10), None),
            (day(2024, 13, 1), None),
        ] {
            assert_eq!(moment.days(), days, "{moment:?}");
            if let Some(days) = days {
                let text = format!("{:04}-{:02}-{:02}", moment.year, moment.month, moment.day);
                assert_eq!(print_days(i64::from(days)), text);
            }
        }
    }

    #[test]
    fn decimals_keep_every_digit() {
        assert_eq!(decimal(b"-12.345", 3), Some(-12_345));
        assert_eq!(decimal(b"0.5", 3), Some(500));
        assert_eq!(decimal(b"99999999999999999999999999999999999999", 0), Some(10_i128.pow(38) - 1));
        for wrong in [&b""[..], b"-", b"1.2345", b"1e5", b"1.2.3", b"NaN"] {
            assert_eq!(decimal(wrong, 3), None, "{wrong:?}");
        }
    }

    #[test]
    fn times_beyond_a_day_are_printed_as_the_server_does() {
        assert_eq!(Cell::Time(-(clock(838, 59, 59, 0))).print(), "-838:59:59");
        assert_eq!(print_micros(-1), "1969-12-31 23:59:59.999999");
        let zero = Moment { year: 0, month: 0, day: 0, time: clock(1, 2, 3, 4) };
        assert_eq!(Cell::Moment(zero).print(), "0000-00-00 01:02:03.000004");
    }
}
