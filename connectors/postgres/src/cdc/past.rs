//! The past of a server: which places in the log it has gone through itself.
//!
//! A server that was restored from a backup, or a replica that was promoted, goes on along a timeline of its own. Its places in the
//! log up to there are those of the timeline before; whatever that one wrote behind it never was.

use ingest_core::{Error, ErrorKind, Result};

use super::lost;
use super::state::{lsn, parse_lsn};
use crate::catalog::Cells;
use crate::wire::Connection;
use crate::work::LogPosition;

/// Where a server comes from.
pub(crate) struct Past {
    /// The server's own identifier.
    pub(crate) system: String,
    /// The timeline that it writes now.
    pub(crate) timeline: u32,
    /// Earlier timelines, each with the place at which it was left.
    left: Vec<(u32, u64)>,
}

impl Past {
    /// Asks the server; the connection must be one for replication.
    pub(crate) async fn read(connection: &mut Connection) -> Result<Self> {
        let rows = connection.query("IDENTIFY_SYSTEM").await?;
        let mut row = Cells::new(rows.into_iter().next().unwrap_or_default());
        let (system, timeline) = (row.text()?, row.number()?);
        let mut left = Vec::new();
        // The first one has no file that says so.
        if timeline > 1 {
            let rows = connection.query(&format!("TIMELINE_HISTORY {timeline}")).await?;
            let mut row = Cells::new(rows.into_iter().next().unwrap_or_default());
            let (_, content) = (row.text()?, row.text()?);
            left = history(&content)?;
        }
        Ok(Self { system, timeline, left })
    }

    /// Fails unless all that lies before a place is what this server has gone through.
    pub(crate) fn holds(&self, at: &LogPosition) -> Result<()> {
        if at.system.as_ref().is_some_and(|known| *known != self.system) {
            return Err(lost("this is another server than the one that was read last"));
        }
        let Some(timeline) = at.timeline.filter(|timeline| *timeline != self.timeline) else { return Ok(()) };
        let left = self.left.iter().find(|(known, _)| *known == timeline).map(|(_, left)| *left);
        if left.is_some_and(|left| at.lsn <= left) {
            return Ok(());
        }
        Err(lost("the server was restored from a backup, or is a replica that lacked the last changes")
            .with("position", lsn(at.lsn))
            .with("timeline", timeline)
            .with("now", self.timeline))
    }
}

/// Reads a history file: a line for each earlier timeline, with the place at which it was left.
fn history(text: &str) -> Result<Vec<(u32, u64)>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let one = |line: &str| {
        let mut words = line.split_whitespace();
        let timeline = words.next().and_then(|word| word.parse().ok());
        let left = words.next().map(parse_lsn).transpose()?;
        timeline
            .zip(left)
            .ok_or_else(|| Error::new(ErrorKind::DataInvalid, "cdc: cannot read the history of the server"))
    };
    lines.map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_behind_the_fork_are_of_another_past() {
        let text = "1\t0/3000000\tno recovery target specified\n\n2\t0/5000110\tbefore 2026-01-01\n";
        let past = Past { system: "7".into(), timeline: 3, left: history(text).expect("a history") };
        let at = |lsn, timeline| LogPosition { lsn, system: Some("7".into()), timeline };
        for (at, holds) in [
            (at(0x300_0000, Some(1)), true),
            (at(0x300_0001, Some(1)), false),
            (at(0x500_0110, Some(2)), true),
            (at(0x600_0000, Some(2)), false),
            (at(0x600_0000, Some(3)), true),
            (at(0x600_0000, Some(9)), false),
            (at(0x600_0000, None), true),
            (LogPosition { lsn: 1, system: Some("8".into()), timeline: None }, false),
        ] {
            assert_eq!(past.holds(&at).is_ok(), holds, "{at:?}");
        }
        assert!(history("1 nowhere").is_err() && history("x").is_err());
    }
}
