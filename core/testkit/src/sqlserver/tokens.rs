//! Tokens of an answer (MS-TDS 2.2.7): columns, rows, errors, the end.

use super::state::{Fault, Output};
use super::value::{DAY, SECOND, Type, Value};

/// Western European, case-insensitive (`SQL_Latin1_General_CP1_CI_AS`), and the same in UTF-8.
const LATIN: [u8; 5] = [0x09, 0x04, 0xd0, 0x00, 0x34];
const UTF8: [u8; 5] = [0x09, 0x04, 0xd0, 0x04, 0x00];
/// Days from 0001-01-01 to 1900-01-01.
const TO_1900: i64 = 693_595;

/// The answer to one statement that gives rows.
pub(super) fn rows(out: &mut Vec<u8>, output: &Output) {
    out.push(0x81);
    out.extend(u16::try_from(output.columns.len()).expect("few columns").to_le_bytes());
    for column in &output.columns {
        out.extend(0_u32.to_le_bytes());
        out.extend(u16::from(column.nullable).to_le_bytes());
        type_info(out, column.ty, column.nullable, column.utf8);
        if matches!(column.ty, Type::Text | Type::NText | Type::Image) {
            out.push(1);
            us_text(out, "t");
        }
        short_text(out, &column.name);
    }
    for row in &output.rows {
        // Rows with nulls come in the form that leaves them out.
        let nulls = row.contains(&Value::Null);
        out.push(if nulls { 0xd2 } else { 0xd1 });
        if nulls {
            for eight in row.chunks(8) {
                out.push(eight.iter().enumerate().fold(0, |bits, (i, v)| bits | u8::from(*v == Value::Null) << i));
            }
        }
        for (column, cell) in output.columns.iter().zip(row) {
            if *cell != Value::Null {
                value(out, column.ty, column.nullable, column.utf8, cell);
            }
        }
    }
}

/// The end of a statement, or of the whole answer.
pub(super) fn done(out: &mut Vec<u8>, token: u8, more: bool, failed: bool, count: u64) {
    out.push(token);
    out.extend((u16::from(more) | u16::from(failed) << 1 | u16::from(count > 0) << 4).to_le_bytes());
    out.extend([0, 0]);
    out.extend(count.to_le_bytes());
}

/// An error of the server.
pub(super) fn error(out: &mut Vec<u8>, fault: &Fault) {
    let mut body = Vec::new();
    body.extend(fault.code.to_le_bytes());
    body.extend([1, fault.class]);
    us_text(&mut body, &fault.message);
    short_text(&mut body, "script");
    short_text(&mut body, "");
    body.extend(1_u32.to_le_bytes());
    out.push(0xaa);
    out.extend(u16::try_from(body.len()).expect("a short message").to_le_bytes());
    out.extend(body);
}

/// Says that the login is accepted, and the size of packets.
pub(super) fn accepted(out: &mut Vec<u8>, packet: u32, federated: bool) {
    let mut body = vec![4];
    short_text(&mut body, &packet.to_string());
    short_text(&mut body, "4096");
    out.push(0xe3);
    out.extend(u16::try_from(body.len()).expect("short").to_le_bytes());
    out.extend(body);
    let mut body = vec![1];
    body.extend(0x7400_0004_u32.to_be_bytes());
    short_text(&mut body, "script");
    body.extend([16, 0, 0, 0]);
    out.push(0xad);
    out.extend(u16::try_from(body.len()).expect("short").to_le_bytes());
    out.extend(body);
    if federated {
        out.extend([0xae, 0x02, 0, 0, 0, 0, 0xff]);
    }
    done(out, 0xfd, false, false, 0);
}

fn us_text(out: &mut Vec<u8>, text: &str) {
    let units: Vec<u16> = text.encode_utf16().collect();
    out.extend(u16::try_from(units.len()).expect("a short text").to_le_bytes());
    units.iter().for_each(|unit| out.extend(unit.to_le_bytes()));
}

fn short_text(out: &mut Vec<u8>, text: &str) {
    let units: Vec<u16> = text.encode_utf16().collect();
    out.push(u8::try_from(units.len()).expect("a short text"));
    units.iter().for_each(|unit| out.extend(unit.to_le_bytes()));
}

/// What a column is; those that are never null have types of their own.
fn type_info(out: &mut Vec<u8>, ty: Type, nullable: bool, utf8: bool) {
    let fixed = |out: &mut Vec<u8>, never: u8, or: [u8; 2]| match nullable {
        true => out.extend(or),
        false => out.push(never),
    };
    let collation = if utf8 { UTF8 } else { LATIN };
    let text = |out: &mut Vec<u8>, token: u8, bytes: u16| {
        out.push(token);
        out.extend(if bytes == 0 { u16::MAX } else { bytes }.to_le_bytes());
        out.extend(collation);
    };
    let bytes = |out: &mut Vec<u8>, token: u8, bytes: u16| {
        out.push(token);
        out.extend(if bytes == 0 { u16::MAX } else { bytes }.to_le_bytes());
    };
    match ty {
        Type::Bit => fixed(out, 0x32, [0x68, 1]),
        Type::TinyInt => fixed(out, 0x30, [0x26, 1]),
        Type::SmallInt => fixed(out, 0x34, [0x26, 2]),
        Type::Int => fixed(out, 0x38, [0x26, 4]),
        Type::BigInt => fixed(out, 0x7f, [0x26, 8]),
        Type::Real => fixed(out, 0x3b, [0x6d, 4]),
        Type::Float => fixed(out, 0x3e, [0x6d, 8]),
        Type::Money => fixed(out, 0x3c, [0x6e, 8]),
        Type::SmallMoney => fixed(out, 0x7a, [0x6e, 4]),
        Type::DateTime => fixed(out, 0x3d, [0x6f, 8]),
        Type::SmallDateTime => fixed(out, 0x3a, [0x6f, 4]),
        Type::Decimal(precision, scale) => out.extend([0x6a, 17, precision, scale]),
        Type::Date => out.push(0x28),
        Type::Time(scale) => out.extend([0x29, scale]),
        Type::DateTime2(scale) => out.extend([0x2a, scale]),
        Type::DateTimeOffset(scale) => out.extend([0x2b, scale]),
        Type::Char(length) => text(out, 0xaf, length),
        Type::VarChar(length) => text(out, 0xa7, length),
        Type::NChar(length) => text(out, 0xef, length * 2),
        Type::NVarChar(length) => text(out, 0xe7, length * 2),
        Type::Text | Type::NText => {
            out.push(if ty == Type::Text { 0x23 } else { 0x63 });
            out.extend(u32::MAX.to_le_bytes());
            out.extend(collation);
        }
        Type::Image => {
            out.push(0x22);
            out.extend(u32::MAX.to_le_bytes());
        }
        Type::Binary(length) => bytes(out, 0xad, length),
        Type::VarBinary(length) => bytes(out, 0xa5, length),
        Type::RowVersion => bytes(out, 0xad, 8),
        Type::Uuid => out.extend([0x24, 16]),
        Type::Xml => out.extend([0xf1, 0]),
        // The connector never asks for one as it is.
        Type::Variant | Type::HierarchyId | Type::Geometry | Type::Geography => text(out, 0xe7, 0),
    }
}

fn value(out: &mut Vec<u8>, ty: Type, nullable: bool, utf8: bool, value: &Value) {
    let sized = |out: &mut Vec<u8>, bytes: &[u8]| {
        if nullable {
            out.push(u8::try_from(bytes.len()).expect("a short value"));
        }
        out.extend(bytes);
    };
    let always = |out: &mut Vec<u8>, bytes: &[u8]| {
        out.push(u8::try_from(bytes.len()).expect("a short value"));
        out.extend(bytes);
    };
    match (ty, value) {
        (Type::Bit | Type::TinyInt, Value::Int(number)) => sized(out, &number.to_le_bytes()[..1]),
        (Type::SmallInt, Value::Int(number)) => sized(out, &number.to_le_bytes()[..2]),
        (Type::Int, Value::Int(number)) => sized(out, &number.to_le_bytes()[..4]),
        (Type::BigInt, Value::Int(number)) => sized(out, &number.to_le_bytes()),
        (Type::Real, Value::Float(number)) => sized(out, &(*number as f32).to_le_bytes()),
        (Type::Float, Value::Float(number)) => sized(out, &number.to_le_bytes()),
        (Type::Money, Value::Decimal(number, _)) => {
            let bytes = (*number as i64).to_le_bytes();
            sized(out, &[&bytes[4..], &bytes[..4]].concat());
        }
        (Type::SmallMoney, Value::Decimal(number, _)) => sized(out, &(*number as i32).to_le_bytes()),
        (Type::Decimal(..), Value::Decimal(number, _)) => {
            let magnitude = number.unsigned_abs().to_le_bytes();
            always(out, &[&[u8::from(*number >= 0)][..], &magnitude].concat());
        }
        (Type::Date, Value::Days(days)) => always(out, &days.to_le_bytes()[..3]),
        (Type::Time(scale), Value::OfDay(time)) => always(out, &of_day(*time, scale)),
        (Type::DateTime2(scale), Value::Ticks(at, _)) => always(out, &at_scale(*at, scale)),
        (Type::DateTimeOffset(scale), Value::Ticks(at, zone)) => {
            always(out, &[&at_scale(*at, scale)[..], &zone.to_le_bytes()].concat());
        }
        (Type::DateTime, Value::Ticks(at, _)) => {
            let days = i32::try_from(at.div_euclid(DAY) - TO_1900).expect("a day");
            let fragments = (at.rem_euclid(DAY) * 300 + SECOND / 2) / SECOND;
            sized(out, &[&days.to_le_bytes()[..], &fragments.to_le_bytes()[..4]].concat());
        }
        (Type::SmallDateTime, Value::Ticks(at, _)) => {
            let days = at.div_euclid(DAY) - TO_1900;
            let minutes = at.rem_euclid(DAY) / SECOND / 60;
            sized(out, &[&days.to_le_bytes()[..2], &minutes.to_le_bytes()[..2]].concat());
        }
        (Type::Uuid, Value::Text(text)) => always(out, &uuid(text)),
        (ty, Value::Text(text)) => string(out, ty, utf8, text),
        (ty, Value::Bytes(bytes)) => long(out, ty, bytes),
        (ty, value) => unreachable!("{value:?} is not of {ty:?}"),
    }
}

fn of_day(time: i64, scale: u8) -> Vec<u8> {
    let count = time / 10_i64.pow(7 - u32::from(scale));
    let length = match scale {
        0..=2 => 3,
        3..=4 => 4,
        _ => 5,
    };
    count.to_le_bytes()[..length].to_vec()
}

fn at_scale(at: i64, scale: u8) -> Vec<u8> {
    [&of_day(at.rem_euclid(DAY), scale)[..], &at.div_euclid(DAY).to_le_bytes()[..3]].concat()
}

/// The first three groups count from their end.
fn uuid(text: &str) -> Vec<u8> {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let mut bytes: Vec<u8> =
        (0..16).map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).expect("two digits")).collect();
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

fn string(out: &mut Vec<u8>, ty: Type, utf8: bool, text: &str) {
    let narrow = matches!(ty, Type::Char(_) | Type::VarChar(_) | Type::Text);
    let bytes: Vec<u8> = match (narrow, utf8) {
        (true, true) => text.as_bytes().to_vec(),
        // Of the characters beyond Latin 1, the sign of the Euro is all that tests need.
        (true, false) => text.chars().map(|c| if c == '€' { 0x80 } else { u8::try_from(c).unwrap_or(b'?') }).collect(),
        // A private character stands for one half of a pair, which a text of Rust cannot hold.
        (false, _) => text
            .encode_utf16()
            .map(|unit| if unit == 0xe000 { 0xd800 } else { unit })
            .flat_map(u16::to_le_bytes)
            .collect(),
    };
    long(out, ty, &bytes);
}

/// A value whose length the column limits to 8,000 bytes, or one in pieces, or one of the old large types.
fn long(out: &mut Vec<u8>, ty: Type, bytes: &[u8]) {
    let limited = match ty {
        Type::Char(n)
        | Type::VarChar(n)
        | Type::NChar(n)
        | Type::NVarChar(n)
        | Type::Binary(n)
        | Type::VarBinary(n) => n > 0,
        Type::RowVersion => true,
        _ => false,
    };
    if matches!(ty, Type::Text | Type::NText | Type::Image) {
        out.push(16);
        out.extend([0; 24]);
        out.extend(u32::try_from(bytes.len()).expect("less than 4 GiB").to_le_bytes());
        out.extend(bytes);
    } else if limited {
        out.extend(u16::try_from(bytes.len()).expect("at most 8,000 bytes").to_le_bytes());
        out.extend(bytes);
    } else {
        out.extend(0xffff_ffff_ffff_fffe_u64.to_le_bytes());
        for piece in bytes.chunks(4_000) {
            out.extend(u32::try_from(piece.len()).expect("a piece").to_le_bytes());
            out.extend(piece);
        }
        out.extend(0_u32.to_le_bytes());
    }
}
