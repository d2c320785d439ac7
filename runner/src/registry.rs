//! The connectors: those that are built in, an explicit list, one line each; and programs that are plug-ins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use ingest_core::{Builtin, Connector, Error, Factory, Result, nearest};

use crate::plugin::{Executable, on_path};

/// Connectors by name.
#[derive(Clone, Default)]
pub struct Registry {
    factories: BTreeMap<String, Arc<dyn Factory>>,
    /// Plug-ins that were asked for, so that each is started once to say what it is.
    plugins: Arc<Mutex<BTreeMap<String, Arc<dyn Factory>>>>,
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
        #[cfg(feature = "ftp")]
        let registry = registry.with::<ingest_connector_ftp::Ftp>();
        #[cfg(feature = "mongodb")]
        let registry = registry.with::<ingest_connector_mongodb::Mongodb>();
        #[cfg(feature = "mysql")]
        let registry = registry.with::<ingest_connector_mysql::Mysql>();
        #[cfg(feature = "postgres")]
        let registry = registry.with::<ingest_connector_postgres::Postgres>();
        #[cfg(feature = "rest")]
        let registry = registry.with::<ingest_connector_rest::Rest>();
        #[cfg(feature = "salesforce")]
        let registry = registry.with::<ingest_connector_salesforce::Salesforce>();
        #[cfg(feature = "sftp")]
        let registry = registry.with::<ingest_connector_sftp::Sftp>();
        #[cfg(feature = "shopify")]
        let registry = registry.with::<ingest_connector_shopify::Shopify>();
        #[cfg(feature = "sqlserver")]
        let registry = registry.with::<ingest_connector_sqlserver::SqlServer>();
        #[cfg(feature = "stripe")]
        let registry = registry.with::<ingest_connector_stripe::Stripe>();
        #[cfg(feature = "webhooks")]
        let registry = registry.with::<ingest_connector_webhooks::Webhooks>();
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

    /// The names of what is built in and of the plug-ins on `PATH`, sorted.
    pub fn all_names(&self) -> BTreeSet<String> {
        self.names().map(str::to_owned).chain(on_path().into_keys()).collect()
    }

    /// The connector of a name: what is built in, else the plug-in `ingest-connector-<name>` on `PATH`. With a slash in
    /// it, the name is the path of a plug-in.
    ///
    /// # Errors
    /// `ConfigInvalid` that lists what is built in and the nearest name; those of [`Executable::at`].
    pub fn get(&self, name: &str) -> Result<Arc<dyn Factory>> {
        if let Some(factory) = self.factories.get(name) {
            return Ok(Arc::clone(factory));
        }
        let mut plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(factory) = plugins.get(name) {
            return Ok(Arc::clone(factory));
        }
        let found = if name.contains('/') { Some(Executable::at(name)?) } else { Executable::named(name)? };
        let found: Arc<dyn Factory> = Arc::new(found.ok_or_else(|| self.unknown(name))?);
        plugins.insert(name.to_owned(), Arc::clone(&found));
        Ok(found)
    }

    fn unknown(&self, name: &str) -> Error {
        let known = self.names().collect::<Vec<_>>().join(", ");
        let hint = match nearest(name, self.names()) {
            Some(near) => format!("did you mean `{near}`? built in: {known}"),
            None => format!("built in: {known}; a plug-in is a program ingest-connector-{name} on PATH, or a path"),
        };
        Error::config(format!("there is no connector {name:?}")).hint(hint)
    }
}
