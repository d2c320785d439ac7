//! What a slice says, and where it has been read to.

use ingest_core::{Cursor, Seq, SliceId};
use serde::{Deserialize, Serialize};

/// What a slice says to this connector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Objects of a list.
    List(ListWork),
    /// The event feed of an account.
    Events {
        /// The connected account; `None` = the account of the key.
        account: Option<String>,
        /// The second with which the feed begins for streams that the same plan loads.
        begin: i64,
    },
}

/// The objects of a list that were created in `[from, to]`, in seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ListWork {
    /// The stream whose list is read; the slice gives it, or streams inside its objects.
    pub list: String,
    /// The connected account; `None` = the account of the key.
    pub account: Option<String>,
    /// `None` = from the first object on.
    pub from: Option<i64>,
    /// The last second.
    pub to: i64,
    /// When the reading was planned, by the server's clock: the place of the rows among events.
    pub at: i64,
}

/// Where a slice, or a stream between plans, has been read to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// A list, newest first: everything created at or after `below` is out.
    List {
        /// Seconds since 1970.
        below: i64,
        /// [`ListWork::at`].
        at: i64,
    },
    /// Everything created up to this second is in the table.
    Created {
        /// Seconds since 1970.
        through: i64,
    },
    /// The events up to a second.
    Events {
        /// Seconds since 1970.
        through: i64,
        /// How many events of that second have been seen. More than are named: the second is over.
        nth: u64,
        /// Their ids: one that turns up in the same second later is read, these are not read again.
        seen: Vec<String>,
    },
}

impl Position {
    /// The start of a feed: all events of `second` and later.
    pub(crate) fn feed_from(second: i64) -> Self {
        Self::Events { through: second.saturating_sub(1), nth: u64::MAX, seen: Vec::new() }
    }
}

impl Cursor for Position {
    fn seq(&self) -> Option<Seq> {
        match self {
            Self::List { below, at } => Some(row_seq(*at, *below)),
            Self::Created { .. } => None,
            Self::Events { through, nth, .. } => Some(event_seq(*through, *nth)),
        }
    }
}

/// The place of a row from a list that was planned at `at`: before every event of that second, since the list was read
/// after it began, and newest objects first, as they are read.
pub(crate) fn row_seq(at: i64, created: i64) -> Seq {
    Seq::of(&[number(at.saturating_sub(1)), !number(created)])
}

/// The place of the `nth` event (from 1) of a second.
pub(crate) fn event_seq(created: i64, nth: u64) -> Seq {
    Seq::of(&[number(created), nth])
}

fn number(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0)
}

/// The feed of an account.
pub(crate) fn feed_id(account: Option<&str>) -> SliceId {
    of_account("events", account)
}

/// Up to which creation time an account was read.
pub(crate) fn created_id(account: Option<&str>) -> SliceId {
    of_account("created", account)
}

/// When the youngest objects of an account were listed for the last time.
pub(crate) fn listed_id(account: Option<&str>) -> SliceId {
    of_account("listed", account)
}

fn of_account(what: &str, account: Option<&str>) -> SliceId {
    match account {
        None => SliceId::new(what),
        Some(account) => SliceId::new(format!("{what}:{account}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_list_sort_as_they_are_read_and_before_the_events_of_their_second() {
        let t0 = 1_790_000_000;
        let newest = row_seq(t0, t0);
        let oldest = row_seq(t0, 1_400_000_000);
        assert!(event_seq(t0 - 2, u64::MAX) < newest);
        assert!(newest < oldest, "the newest object is read first");
        assert!(Some(&oldest) <= Position::feed_from(t0).seq().as_ref(), "where the feed starts");
        assert!(Position::feed_from(t0).seq() < Some(event_seq(t0, 1)));
        assert!(event_seq(t0, 1) < event_seq(t0, 2) && event_seq(t0, 2) < event_seq(t0 + 1, 1));
    }

    #[test]
    fn a_position_covers_exactly_the_rows_it_names() {
        let seq = Position::List { below: 100, at: 500 }.seq();
        assert!(Some(row_seq(500, 100)) <= seq && Some(row_seq(500, 101)) <= seq);
        assert!(Some(row_seq(500, 99)) > seq);
    }

    #[test]
    fn stored_state_reads_back() {
        for text in [
            r#"{"list":{"below":100,"at":500}}"#,
            r#"{"created":{"through":100}}"#,
            r#"{"events":{"through":100,"nth":1,"seen":["evt_1"]}}"#,
        ] {
            let position: Position = serde_json::from_str(text).expect(text);
            assert_eq!(serde_json::to_string(&position).expect("JSON"), text);
        }
    }
}
