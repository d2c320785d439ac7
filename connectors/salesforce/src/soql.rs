//! Queries in SOQL, made of the work of a slice: the same text whoever makes it.

use arrow_schema::DataType;
use ingest_core::{Error, Result};

use crate::state::{Part, Which, Work};
use crate::streams::timestamp;

/// The columns that a query asks for, in its order: those that are given, and those that rows are dressed by.
pub(crate) fn selected(work: &Work) -> Vec<(String, DataType)> {
    let mut columns = work.columns.clone();
    let mut add = |name: &str, data_type: DataType| {
        if !columns.iter().any(|(known, _)| known == name) {
            columns.push((name.to_owned(), data_type));
        }
    };
    add("Id", DataType::Utf8);
    if let Some(cursor) = &work.cursor {
        add(cursor, timestamp());
    }
    if work.which == Which::Deleted {
        add("IsDeleted", DataType::Boolean);
    }
    columns
}

/// The query of a job: rows in any order.
pub(crate) fn whole(work: &Work) -> Result<String> {
    Ok(format!("SELECT {} FROM {}{}", names(work), work.object, conditions(work, None)?))
}

/// The query of pages: rows by their ids, after one of them.
pub(crate) fn paged(work: &Work, after: Option<&str>) -> Result<String> {
    Ok(format!("SELECT {} FROM {}{} ORDER BY Id", names(work), work.object, conditions(work, after)?))
}

/// How many rows there are.
pub(crate) fn count(work: &Work) -> Result<String> {
    Ok(format!("SELECT COUNT() FROM {}{}", work.object, conditions(work, None)?))
}

/// Whether `queryAll` is asked.
pub(crate) fn asks_all(work: &Work) -> bool {
    work.which != Which::Live
}

fn names(work: &Work) -> String {
    selected(work).into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(",")
}

fn conditions(work: &Work, after: Option<&str>) -> Result<String> {
    let mut all = Vec::new();
    if work.which == Which::Archived {
        all.push("IsDeleted = FALSE".to_owned());
    }
    if let Some(cursor) = &work.cursor {
        window(&mut all, cursor, work.from, work.to, work.undated)?;
    }
    if let Some(Part { from, to }) = work.part {
        window(&mut all, "CreatedDate", from, to, false)?;
    }
    if let Some(filter) = &work.filter {
        all.push(format!("({filter})"));
    }
    if let Some(after) = after {
        if after.is_empty() || !after.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(Error::unexpected("an id to read on from is none"));
        }
        all.push(format!("Id > '{after}'"));
    }
    Ok(if all.is_empty() { String::new() } else { format!(" WHERE {}", all.join(" AND ")) })
}

fn window(all: &mut Vec<String>, column: &str, from: Option<i64>, to: Option<i64>, undated: bool) -> Result<()> {
    if let Some(from) = from {
        all.push(format!("{column} >= {}", literal(from)?));
    }
    match to {
        Some(to) if undated => all.push(format!("({column} < {} OR {column} = NULL)", literal(to)?)),
        Some(to) => all.push(format!("{column} < {}", literal(to)?)),
        None => {}
    }
    Ok(())
}

/// A time as SOQL writes it. Salesforce keeps milliseconds, so a bound between two of them means the later one.
pub(crate) fn literal(micros: i64) -> Result<String> {
    let millis = (micros - 1).div_euclid(1_000) + 1;
    let time =
        chrono::DateTime::from_timestamp_millis(millis).ok_or_else(|| Error::config("a time is out of range"))?;
    Ok(time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work() -> Work {
        Work {
            object: "Account".into(),
            columns: vec![("Name".into(), DataType::Utf8), ("Id".into(), DataType::Utf8)],
            cursor: Some("SystemModstamp".into()),
            from: None,
            to: None,
            undated: false,
            part: None,
            filter: None,
            which: Which::Live,
            bulk: false,
            at: 0,
            topic: None,
        }
    }

    #[test]
    fn queries_say_what_the_slice_says() {
        assert_eq!(whole(&work()).expect("SOQL"), "SELECT Name,Id,SystemModstamp FROM Account");
        let window = Work {
            from: Some(1_700_000_000_123_000),
            to: Some(1_700_000_001_000_001),
            which: Which::Deleted,
            filter: Some("Type = 'A' OR Type = 'B'".into()),
            ..work()
        };
        assert_eq!(
            paged(&window, Some("001A")).expect("SOQL"),
            "SELECT Name,Id,SystemModstamp,IsDeleted FROM Account WHERE SystemModstamp >= 2023-11-14T22:13:20.123Z AND \
             SystemModstamp < 2023-11-14T22:13:21.001Z AND (Type = 'A' OR Type = 'B') AND Id > '001A' ORDER BY Id"
        );
        let archived = Work {
            which: Which::Archived,
            to: Some(0),
            undated: true,
            cursor: Some("LastModifiedDate".into()),
            ..work()
        };
        assert_eq!(
            count(&archived).expect("SOQL"),
            "SELECT COUNT() FROM Account WHERE IsDeleted = FALSE AND \
             (LastModifiedDate < 1970-01-01T00:00:00.000Z OR LastModifiedDate = NULL)"
        );
        let part = Work { part: Some(Part { from: Some(0), to: Some(1_000) }), cursor: None, ..work() };
        assert_eq!(
            whole(&part).expect("SOQL"),
            "SELECT Name,Id FROM Account WHERE CreatedDate >= 1970-01-01T00:00:00.000Z AND \
             CreatedDate < 1970-01-01T00:00:00.001Z"
        );
    }

    #[test]
    fn what_is_no_id_does_not_become_a_part_of_a_query() {
        assert!(paged(&work(), Some("x' OR Name != '")).is_err());
    }
}
