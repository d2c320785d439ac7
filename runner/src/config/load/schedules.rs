//! Looks at schedules: whether they are ever due.

use super::{Loader, join};
use crate::config::yaml::Node;
use crate::config::{Schedule, ScheduleOptions, SourceConfig};
use crate::serve::Timing;

impl Loader<'_> {
    /// What is wrong with the schedules of a source and its streams, where one takes from the other what it leaves out.
    pub(super) fn schedules(&mut self, node: &Node, source: &SourceConfig, path: &str) {
        let said = |schedule: &Option<Schedule>| schedule.as_ref().map(Schedule::options);
        let own = said(&source.schedule);
        let defaults = said(&source.defaults.schedule).map(|options| options.over(&own.clone().unwrap_or_default()));
        let whole = defaults.clone().or_else(|| own.clone()).unwrap_or_default();
        self.timing(node.get("schedule"), own, &join(path, "schedule"));
        self.timing(
            node.get("defaults").and_then(|node| node.get("schedule")),
            defaults,
            &join(path, "defaults.schedule"),
        );
        for (name, options) in &source.streams {
            let place = node.get("streams").and_then(|node| node.get(name)).and_then(|node| node.get("schedule"));
            let merged = said(&options.schedule).map(|options| options.over(&whole));
            self.timing(place, merged, &join(&join(&join(path, "streams"), name), "schedule"));
        }
    }

    fn timing(&mut self, node: Option<&Node>, options: Option<ScheduleOptions>, path: &str) {
        if let (Some(node), Some(options)) = (node, options)
            && let Err(what) = Timing::new(&options)
        {
            self.problem(&node.origin, path, what);
        }
    }
}
