//! How long the rows of a stream are kept, and by what they are put in order.

use std::collections::BTreeMap;

use arrow_schema::{DataType, Schema, TimeUnit};
use ingest_catalog::{Documents, latest_stream};
use ingest_core::columns::{EXPIRY, INGESTED_AT};
use ingest_core::{Error, Json, Region, Result, StreamName, WriteMode};

use crate::config::{Age, Config, Retention, SourceConfig};
use crate::conform::column_of;

/// The first day of the year 1: nothing in a table is older. Microseconds, and days.
const EARLIEST: (i64, i64) = (-62_135_596_800_000_000, -719_162);

/// What `ingest maintain` does with the rows of a stream.
#[derive(Debug, Clone, Default)]
pub struct Keeping {
    stream: String,
    ages: Vec<Age>,
    by: Option<String>,
    key: Vec<String>,
}

impl Keeping {
    /// What the configuration says of a stream, by the data classes that its columns had when it was last read.
    ///
    /// # Errors
    /// Whatever the lake says.
    pub async fn of(config: &Config, documents: &Documents, source: &str, stream: &StreamName) -> Result<Self> {
        let settings = config.sources.get(source).cloned().unwrap_or_else(|| SourceConfig::named(source));
        let options = settings.options_of(stream.as_str()).unwrap_or_default();
        let document = latest_stream(documents, source, &stream.table()).await?;
        let columns = document.as_ref().map(|document| document.columns.as_slice()).unwrap_or_default();
        let policy = &config.common.policies.retention;
        let by_class = || columns.iter().filter_map(|column| policy.of(column.class.as_deref()?)).collect();
        let (ages, by) = match options.retention {
            None => (by_class(), None),
            Some(Retention::Word(_)) => (Vec::new(), None),
            Some(Retention::After(age)) => (vec![age], None),
            Some(Retention::By(retention)) => (retention.after.map_or_else(by_class, |age| vec![age]), retention.by),
        };
        let keyed = matches!(options.write, Some(WriteMode::Merge | WriteMode::Insert | WriteMode::Scd2));
        let key = document.filter(|_| keyed).map(|document| document.key).unwrap_or_default();
        Ok(Self { stream: stream.to_string(), ages, by, key })
    }

    /// The time before which rows are no longer kept; `None` = all are.
    fn horizon(&self, now: i64) -> Option<i64> {
        self.ages.iter().filter_map(|age| age.before(now)).max()
    }

    /// The rows of the table that are kept no longer.
    ///
    /// # Errors
    /// `ConfigInvalid` where no column says how old a row is.
    pub fn expired(&self, schema: &Schema, now: i64) -> Result<Vec<Region>> {
        let Some(horizon) = self.horizon(now) else { return Ok(Vec::new()) };
        let has = |name: &&str| schema.column_with_name(name).is_some();
        let column = match &self.by {
            Some(name) => column_of(schema, name),
            None => [EXPIRY, INGESTED_AT].into_iter().find(has).map(str::to_owned),
        };
        let wrong = |what: &str| {
            Error::config(format!("retention: {what}"))
                .with("stream", &self.stream)
                .hint("name a column of dates or times with `retention: {after: 3y, by: COLUMN}`")
        };
        let column = column.ok_or_else(|| match &self.by {
            Some(name) => wrong(&format!("there is no column {name:?}")),
            None => wrong("the table does not say when its rows were written"),
        })?;
        Ok(vec![match schema.field_with_name(&column)?.data_type() {
            DataType::Timestamp(TimeUnit::Microsecond, _) => older(&column, EARLIEST.0, horizon),
            DataType::Date32 => older(&column, EARLIEST.1, horizon.div_euclid(86_400_000_000)),
            other => return Err(wrong(&format!("column {column:?} is {other}, and no time"))),
        }])
    }

    /// The records of the quarantine that are kept no longer.
    pub fn expired_records(&self, now: i64) -> Vec<Region> {
        self.horizon(now).map(|horizon| older("quarantined_at", EARLIEST.0, horizon)).into_iter().collect()
    }

    /// The key of a table that rows are merged into, as the table spells it; empty for others.
    pub fn stored_key(&self, schema: &Schema) -> Vec<String> {
        let key: Option<Vec<String>> = self.key.iter().map(|name| column_of(schema, name)).collect();
        key.unwrap_or_default()
    }
}

fn older(column: &str, from: i64, to: i64) -> Region {
    Region::Range { column: column.to_owned(), from: Json::from(from), to: Json::from(to), also: BTreeMap::new() }
}
