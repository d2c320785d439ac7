//! Messages of `pgoutput`, protocol versions 1 and 2 ("Logical Replication Message Formats" in the manual). Pure.

use ingest_core::Result;

use crate::wire::{Reader, broken};

/// Microseconds from 1970 to 2000.
const EPOCH: i64 = 946_684_800_000_000;

/// What a frame of the stream holds.
#[derive(Debug)]
pub(crate) enum Frame<'a> {
    /// A message of the plug-in.
    Change(&'a [u8]),
    /// How far the server has read its log; with `answer`, it wants to hear from us.
    Alive { end: u64, answer: bool },
}

/// A change, or what frames changes. Numbers of log positions are bytes since the cluster was made.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    /// A transaction that is committed at `lsn` begins.
    Begin {
        lsn: u64,
    },
    /// It ends; the next one is committed at `end` or later. `time` is that of its commit by the server's clock: microseconds
    /// since 1970.
    Commit {
        end: u64,
        time: i64,
    },
    Relation(Relation),
    Insert {
        relation: u32,
        new: Tuple<'a>,
    },
    Update {
        relation: u32,
        old: Option<Tuple<'a>>,
        new: Tuple<'a>,
    },
    Delete {
        relation: u32,
        old: Tuple<'a>,
    },
    Truncate {
        relations: Vec<u32>,
    },
    /// Changes of a transaction that is still open begin, or go on.
    StreamStart {
        xid: u32,
    },
    StreamStop,
    StreamCommit {
        xid: u32,
        lsn: u64,
        end: u64,
        time: i64,
    },
    /// A transaction, or a part of it, was rolled back.
    StreamAbort {
        xid: u32,
        part: u32,
    },
    /// Names of types, origins, messages of applications.
    Other,
}

/// What a table looks like from here on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relation {
    pub(crate) id: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) columns: Vec<RelationColumn>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RelationColumn {
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) modifier: i32,
}

/// A value of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Null,
    /// A value that lies out of line and did not change: it is not sent.
    Unchanged,
    /// The type has no binary form.
    Text(&'a [u8]),
    Binary(&'a [u8]),
}

/// The values of a row.
#[derive(Debug)]
pub(crate) struct Tuple<'a> {
    /// Of an old row: it holds its key alone, its other values are null without meaning it.
    pub(crate) is_key: bool,
    pub(crate) values: Vec<Value<'a>>,
}

/// Reads a frame.
pub(crate) fn frame(bytes: &[u8]) -> Result<Frame<'_>> {
    let mut reader = Reader(bytes);
    match reader.u8()? {
        b'w' => {
            // Where the message lies, how far the log reaches, the server's clock.
            reader.take(8 + 8 + 8)?;
            Ok(Frame::Change(reader.0))
        }
        b'k' => {
            let (end, _, answer) = (reader.u64()?, reader.i64()?, reader.u8()?);
            Ok(Frame::Alive { end, answer: answer != 0 })
        }
        _ => Err(broken("an unknown frame of replication")),
    }
}

/// Reads a message; `inside`: it lies between the start and the stop of a stream, and names its transaction.
pub(crate) fn message(body: &[u8], inside: bool) -> Result<(u32, Message<'_>)> {
    let mut reader = Reader(body);
    let tag = reader.u8()?;
    let xid = if inside && matches!(tag, b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M') { reader.u32()? } else { 0 };
    let message = match tag {
        b'B' => Message::Begin { lsn: reader.u64()? },
        b'C' => {
            // Flags, and where the commit's record lies.
            let (_, _, end) = (reader.u8()?, reader.u64()?, reader.u64()?);
            Message::Commit { end, time: time(&mut reader)? }
        }
        b'R' => Message::Relation(relation(&mut reader)?),
        b'I' => {
            let relation = reader.u32()?;
            expect(&mut reader, b'N')?;
            Message::Insert { relation, new: tuple(&mut reader, false)? }
        }
        b'U' => {
            let relation = reader.u32()?;
            let old = match reader.u8()? {
                b'N' => None,
                kind => {
                    let old = old(&mut reader, kind)?;
                    expect(&mut reader, b'N')?;
                    Some(old)
                }
            };
            Message::Update { relation, old, new: tuple(&mut reader, false)? }
        }
        b'D' => {
            let relation = reader.u32()?;
            let kind = reader.u8()?;
            Message::Delete { relation, old: old(&mut reader, kind)? }
        }
        b'T' => {
            let (count, _) = (reader.u32()?, reader.u8()?);
            // Grows with what is there, not with what is said.
            let relations = (0..count).map(|_| reader.u32()).collect::<Result<_>>()?;
            Message::Truncate { relations }
        }
        b'S' => Message::StreamStart { xid: reader.u32()? },
        b'E' => Message::StreamStop,
        b'c' => {
            let (xid, _, lsn) = (reader.u32()?, reader.u8()?, reader.u64()?);
            Message::StreamCommit { xid, lsn, end: reader.u64()?, time: time(&mut reader)? }
        }
        b'A' => Message::StreamAbort { xid: reader.u32()?, part: reader.u32()? },
        b'Y' | b'O' | b'M' => Message::Other,
        _ => return Err(broken("an unknown message of replication")),
    };
    Ok((xid, message))
}

/// A time of the protocol, which counts from 2000 on.
fn time(reader: &mut Reader<'_>) -> Result<i64> {
    Ok(reader.i64()?.saturating_add(EPOCH))
}

fn expect(reader: &mut Reader<'_>, tag: u8) -> Result<()> {
    if reader.u8()? == tag { Ok(()) } else { Err(broken("a change of another form")) }
}

fn old<'a>(reader: &mut Reader<'a>, kind: u8) -> Result<Tuple<'a>> {
    match kind {
        b'K' => tuple(reader, true),
        b'O' => tuple(reader, false),
        _ => Err(broken("a change of another form")),
    }
}

fn tuple<'a>(reader: &mut Reader<'a>, is_key: bool) -> Result<Tuple<'a>> {
    let count = reader.u16()?;
    let mut values = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        values.push(match reader.u8()? {
            b'n' => Value::Null,
            b'u' => Value::Unchanged,
            b't' => Value::Text(sized(reader)?),
            b'b' => Value::Binary(sized(reader)?),
            _ => return Err(broken("a value of another form")),
        });
    }
    Ok(Tuple { is_key, values })
}

fn sized<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8]> {
    reader.field()?.ok_or_else(|| broken("a value of negative length"))
}

fn relation(reader: &mut Reader<'_>) -> Result<Relation> {
    let id = reader.u32()?;
    let (schema, name) = (reader.text()?, reader.text()?);
    // The replica identity: the catalog knows it better.
    reader.u8()?;
    let count = reader.u16()?;
    let mut columns = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        // Whether it is part of the replica identity.
        reader.u8()?;
        columns.push(RelationColumn { name: reader.text()?, type_oid: reader.u32()?, modifier: reader.i32()? });
    }
    let schema = if schema.is_empty() { "pg_catalog".to_owned() } else { schema };
    Ok(Relation { id, schema, name, columns })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPDATE: &[u8] = b"U\0\0\x40\0K\0\x02t\0\0\0\x011nN\0\x02b\0\0\0\x012u";

    #[test]
    fn a_change_of_a_key_carries_the_old_key_and_the_new_row() {
        let (_, message) = message(UPDATE, false).expect("well formed");
        let Message::Update { relation: 0x4000, old: Some(old), new } = message else { panic!("an update") };
        assert!(old.is_key && !new.is_key);
        assert_eq!(old.values, [Value::Text(b"1"), Value::Null]);
        assert_eq!(new.values, [Value::Binary(b"2"), Value::Unchanged]);
    }

    #[test]
    fn a_commit_gives_where_the_next_transaction_may_begin() {
        let mut body = vec![b'C', 0];
        for number in [0x155_2790_u64, 0x155_27c8, 5] {
            body.extend(number.to_be_bytes());
        }
        assert!(matches!(message(&body, false), Ok((_, Message::Commit { end: 0x155_27c8, .. }))));
    }

    #[test]
    fn a_change_inside_a_stream_names_its_transaction() {
        let body = b"T\0\0\x02\xee\0\0\0\x01\0\0\0\x40\x02";
        let (xid, message) = message(body, true).expect("well formed");
        assert_eq!(xid, 0x2ee);
        assert!(matches!(message, Message::Truncate { relations } if relations == [0x4002]));
    }

    #[test]
    fn foreign_bytes_are_an_error_and_no_panic() {
        let relation = b"R\0\0\x40\x02public\0t\0d\0\x01\x01id\0\0\0\0\x17\xff\xff\xff\xff";
        for good in [UPDATE, relation] {
            assert!(message(good, false).is_ok());
            for end in 0..good.len() {
                assert!(message(&good[..end], false).is_err(), "{end}");
                for value in [0, 1, 0x7f, 0xff] {
                    let mut bytes = good.to_vec();
                    bytes[end] = value;
                    let _ = message(&bytes, false);
                    let _ = frame(&bytes);
                }
            }
        }
    }
}
