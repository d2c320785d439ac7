//! The connectors that are built in: an explicit list, one line each.

use std::collections::BTreeMap;
use std::sync::Arc;

use ingest_core::{Builtin, Connector, Error, Factory, Result, nearest};

/// Connectors by name.
#[derive(Clone, Default)]
pub struct Registry {
    factories: BTreeMap<String, Arc<dyn Factory>>,
}

impl Registry {
    /// Nothing.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Everything that this build contains.
    pub fn builtin() -> Self {
        let registry = Self::empty();
        #[cfg(feature = "files")]
        let registry = registry.with::<ingest_connector_files::Files>();
        #[cfg(feature = "postgres")]
        let registry = registry.with::<ingest_connector_postgres::Postgres>();
        #[cfg(feature = "stripe")]
        let registry = registry.with::<ingest_connector_stripe::Stripe>();
        registry
    }

    /// Adds a connector; one of the same name gives way.
    #[must_use]
    pub fn with<C: Connector>(self) -> Self {
        self.with_factory(C::spec().name, Arc::new(Builtin::<C>::new()))
    }

    /// Adds a factory under a name.
    #[must_use]
    pub fn with_factory(mut self, name: impl Into<String>, factory: Arc<dyn Factory>) -> Self {
        self.factories.insert(name.into(), factory);
        self
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.factories.keys().map(String::as_str)
    }

    /// The connector of a name.
    ///
    /// # Errors
    /// `ConfigInvalid` that lists what is built in and the nearest name.
    pub fn get(&self, name: &str) -> Result<Arc<dyn Factory>> {
        self.factories.get(name).cloned().ok_or_else(|| {
            let known = self.names().collect::<Vec<_>>().join(", ");
            let hint = match nearest(name, self.names()) {
                Some(near) => format!("did you mean \"{near}\"? built in: {known}"),
                None => format!("built in: {known}"),
            };
            Error::config(format!("there is no connector \"{name}\"")).hint(hint)
        })
    }
}
