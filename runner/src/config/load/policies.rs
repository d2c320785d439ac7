//! Reads `policies` and `mask_key`, and looks at checks by themselves.

use ingest_core::Secret;

use super::{Loader, Policies, StreamOptions, Value, join, schema, yaml};
use crate::config::yaml::Node;
use crate::policy::Condition;

impl Loader<'_> {
    pub(super) fn policies(&mut self, node: Option<&Node>) -> Policies {
        let Some(node) = node.filter(|node| !node.is_null()) else { return Policies::default() };
        let before = self.walker.problems.len();
        let value = self.walker.walk(node, &schema::policies(), "policies");
        match serde_json::from_value(value) {
            Ok(policies) if self.walker.problems.len() == before => policies,
            _ if self.walker.problems.len() > before => Policies::default(),
            _ => {
                self.problem(&node.origin, "policies", "this section cannot be read");
                Policies::default()
            }
        }
    }

    /// The key; `None` where there is none, or nobody needs it.
    pub(super) fn mask_key(&mut self, node: Option<&Node>) -> Option<Secret> {
        let node = node.filter(|node| !node.is_null())?;
        let value = self.walker.walk(node, &schema::mask_key(), "mask_key");
        self.walker.facts.secrets.insert("mask_key".to_owned());
        let is_unresolved = matches!(&node.value, Value::Scalar(scalar) if scalar.written == yaml::Written::Nowhere);
        value.as_str().filter(|text| !text.is_empty() && !is_unresolved).map(Secret::new)
    }

    /// What is wrong with checks by themselves.
    pub(super) fn checks(&mut self, node: &Node, options: &StreamOptions, path: &str) {
        for (place, check) in options.checks.iter().flatten().enumerate() {
            let path = format!("{path}.checks.{place}");
            let entry = match node.get("checks").map(|checks| &checks.value) {
                Some(Value::List(items)) => items.get(place).unwrap_or(node),
                _ => node,
            };
            for (key, what) in check.faults() {
                let origin = entry.get(key).map_or(&entry.origin, |found| &found.origin).clone();
                let path = if key.is_empty() { path.clone() } else { join(&path, key) };
                self.problem(&origin, &path, what);
            }
            if let Some(Err(fault)) = check.sql.as_deref().map(Condition::read) {
                let origin = entry.get("sql").map_or(&entry.origin, |found| &found.origin).clone();
                self.problem(&origin, &join(&path, "sql"), fault.what).hint = Some(fault.hint);
            }
        }
    }
}
