//! What a manifest says, as it is written. Every field is explained here; the README and the JSON Schema are made of it.

use std::collections::BTreeMap;

use ingest_core::config::{ByteSize, Span};
use ingest_core::schemars::{Schema, SchemaGenerator, json_schema};
use ingest_core::{JsonSchema, Safety, Secret};
use serde::de::{Error as _, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer};

use crate::types::ColumnType;

/// How a REST API is read. There is no code in it: `${values.NAME}`, `${secrets.NAME}` and `${parent.FIELD}` stand for
/// values, nothing else is evaluated.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct Manifest {
    /// What is read, for people: `Acme CRM`.
    pub title: String,
    /// Where the API is documented.
    pub docs: Option<String>,
    /// The base URL; paths of streams are appended to it. `${values.NAME}` may be a part of the host's name or of the path.
    /// A source on this machine or in a private network needs `endpoint` in the configuration.
    pub base_url: String,
    /// Further hosts that links to next pages may lead to; they get the credentials. A leading `*.` stands for any labels.
    pub hosts: Vec<String>,
    /// How requests prove who we are. Left out: not at all.
    pub auth: Option<Auth>,
    /// Headers of every request.
    pub headers: BTreeMap<String, String>,
    /// Query parameters of the first request of every list. Links of the server carry their own.
    pub parameters: BTreeMap<String, String>,
    /// What a source sets under its own `values`, by name: `${values.NAME}`.
    pub values: BTreeMap<String, ValueDef>,
    /// What a source sets under its own `secrets`, by name: `${secrets.NAME}`, in `auth` alone.
    pub secrets: BTreeMap<String, SecretDef>,
    /// How often the API may be asked, all streams together.
    pub rate: Option<RateDef>,
    /// What answers mean beyond the plain rules of HTTP. The first rule that fits counts.
    pub errors: Vec<ErrorRule>,
    /// How lists go on, for streams that do not say so themselves.
    pub pages: Option<Pages>,
    /// Ceilings on answers.
    pub limits: LimitsDef,
    /// The streams by name.
    pub streams: BTreeMap<String, StreamDef>,
}

/// A value that a source sets.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct ValueDef {
    /// What it means, for people.
    pub description: String,
    /// What it is where a source does not say. Left out: a source has to.
    pub default: Option<String>,
}

/// A secret that a source sets.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct SecretDef {
    /// How to get it, for people.
    pub description: String,
}

/// How requests prove who we are: exactly one of these. Secrets are written as `${secrets.NAME}`, never themselves.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct Auth {
    /// `Authorization: Bearer …` with this token.
    pub bearer: Option<Secret>,
    /// `Authorization: Basic …`.
    pub basic: Option<Basic>,
    /// Headers of the API's own with their values: `{X-Api-Key: "${secrets.key}"}`.
    #[schemars(with = "BTreeMap<String, String>")]
    pub headers: BTreeMap<String, Secret>,
    /// A query parameter. Such URLs appear in logs of servers and proxies: only where an API knows nothing better.
    pub query: Option<QueryAuth>,
    /// OAuth 2 tokens, fetched when needed and renewed before they expire.
    pub oauth: Option<OAuthDef>,
}

/// A user and a password.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct Basic {
    /// The user; some APIs put the key here. `${values.NAME}` or `${secrets.NAME}`.
    pub user: Secret,
    /// The password; empty for those.
    pub password: Secret,
}

/// A query parameter that holds a key.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct QueryAuth {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Secret,
}

/// OAuth 2.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct OAuthDef {
    /// The token endpoint: a URL, or a path (`/oauth/token`) on the host of the base URL.
    pub token_url: String,
    /// What is exchanged for a token.
    pub grant: GrantDef,
    /// The client.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: Option<Secret>,
    /// The refresh token, for `grant: refresh_token`. An API that replaces it at each use cannot be read so: nobody keeps
    /// the new one.
    pub refresh_token: Option<Secret>,
    /// Scopes to ask for.
    pub scopes: Vec<String>,
    /// Further fields of the form.
    pub parameters: BTreeMap<String, String>,
    /// Sends client and secret as fields of the form, for servers that do not take them as Basic authorisation.
    pub secret_in_form: bool,
}

/// What is exchanged for a token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(crate = "ingest_core::schemars")]
pub enum GrantDef {
    /// The client acts for itself (RFC 6749, 4.4).
    #[default]
    ClientCredentials,
    /// The client acts for a user who agreed once (RFC 6749, 6).
    RefreshToken,
}

/// How often something may be asked.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct RateDef {
    /// Requests per second, sustained.
    pub per_second: f64,
    /// Requests at once after a pause. Default: a quarter of a second's worth, at least 1.
    pub burst: Option<f64>,
}

/// What an answer means.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct ErrorRule {
    /// Statuses. Left out: every one that is not a success. A rule for a success (200) needs `body`.
    pub status: Vec<u16>,
    /// A regular expression that the body matches somewhere; of an error its first 64 KiB are looked at.
    pub body: Option<String>,
    /// A header that must be there, and the regular expression that its value matches.
    pub header: BTreeMap<String, String>,
    /// What it means.
    pub class: Option<Class>,
    /// What to do about it, for people.
    pub hint: Option<String>,
    /// The header that says how long to wait, where it is not `Retry-After`.
    pub wait: Option<Wait>,
}

/// The class of an error decides what happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(crate = "ingest_core::schemars")]
pub enum Class {
    /// Wrong or expired credentials. Exit 3.
    Unauthenticated,
    /// A missing right. Exit 3.
    PermissionDenied,
    /// What was asked for does not exist.
    NotFound,
    /// Repeated after the time that the server names.
    RateLimited,
    /// What is committed stays, the rest waits for the next run. Exit 4.
    QuotaExhausted,
    /// Repeated.
    Unavailable,
    /// The request, or the answer, is wrong. Exit 1.
    DataInvalid,
    /// A page token that is no longer valid: the list is read again from its beginning.
    Expired,
}

/// A header that says how long to wait.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct Wait {
    /// Its name.
    pub header: String,
    /// What it holds.
    pub format: WaitFormat,
}

/// What a header with a time holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(crate = "ingest_core::schemars")]
pub enum WaitFormat {
    /// Seconds from now.
    #[default]
    Seconds,
    /// Milliseconds from now.
    Milliseconds,
    /// The second since 1970 from which on it may be asked again.
    UnixS,
}

/// Ceilings on answers.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct LimitsDef {
    /// Bytes of one page, unpacked. Default: 64MiB.
    pub page_bytes: ByteSize,
    /// Bytes of one record. Default: 32MiB.
    pub record_bytes: ByteSize,
    /// Pages of one list. Default: 1,000,000.
    pub pages: u32,
    /// Parents whose children are listed, in one plan. Default: 1,000,000.
    pub parents: u32,
}

impl Default for LimitsDef {
    fn default() -> Self {
        Self { page_bytes: ByteSize(64 << 20), record_bytes: ByteSize(32 << 20), pages: 1_000_000, parents: 1_000_000 }
    }
}

/// One list of the API.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct StreamDef {
    /// What it holds, for people.
    pub description: String,
    /// The path below the base URL: `/orgs/${values.org}/repos`. Values are percent-encoded as one segment each.
    pub path: String,
    /// Query parameters of the first request, besides those of the manifest; an empty text takes one of those away.
    pub parameters: BTreeMap<String, String>,
    /// Headers, besides those of the manifest.
    pub headers: BTreeMap<String, String>,
    /// Where a page holds its records: `data.items`. Left out: the page is itself the list. `.`: the answer is one record.
    pub records: Option<String>,
    /// A page without its list, or with null in its place, is a page without records. Default: it is an error.
    pub optional: bool,
    /// The columns that name a row. They are never null: a record without them fails the stream.
    pub key: Vec<String>,
    /// The columns by name: a type (`id: int64`), or a map with more to say. Fields without a column go to
    /// `_ingest_rescued`. Left out: found in a sample.
    pub columns: BTreeMap<String, ColumnDef>,
    /// Records that are looked at to find columns that `columns` does not name; 0 = none.
    /// Default: 0 where there are `columns`, else 1,000.
    pub sample: Option<u32>,
    /// How the list goes on. Left out: as the manifest's `pages`, else it has one page.
    pub pages: Option<Pages>,
    /// How what is new is read. Left out: everything is read each time.
    pub incremental: Option<Incremental>,
    /// The stream for each of whose rows this one is listed.
    pub parent: Option<ParentDef>,
    /// A column that marks a record as deleted: `true`, or anything but null where it is not boolean. Such rows have
    /// `_ingest_op` = `D`.
    pub deleted: Option<String>,
    /// How often this stream may be asked, besides the manifest's `rate`.
    pub rate: Option<RateDef>,
}

/// A column: its type, or a map.
#[derive(Debug, Clone)]
pub struct ColumnDef(pub Column);

/// A column with more to say than its type.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct Column {
    /// Its type: string, boolean, int32, int64, float64, `decimal(18,2)`, date, timestamp (RFC 3339), `unix_s`, `unix_ms`,
    /// `unix_us` (a timestamp that the source writes as a number), json (the text of any value), `list(TYPE)`.
    pub r#type: ColumnType,
    /// The field of the record, where it has another name.
    #[serde(default)]
    pub from: Option<String>,
    /// A record without it fails the stream. Default: false, and true for keys.
    #[serde(default)]
    pub required: bool,
    /// The class of its data: pii, sensitive or restricted.
    #[serde(default)]
    pub class: Option<DataClass>,
}

/// The class of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(crate = "ingest_core::schemars")]
pub enum DataClass {
    /// Names or finds a person.
    Pii,
    /// Harms when it is known.
    Sensitive,
    /// Not for everybody.
    Restricted,
}

/// How a list goes on: at most one of `link_header`, `next_link`, `cursor`, `offset`, `number`. None of them: it has one page.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct Pages {
    /// The header `Link` with `rel="next"` leads to the next page (RFC 8288).
    pub link_header: bool,
    /// A field beside the records holds the URL of the next page: `paging.next.link`. Absent, null or empty: the end.
    pub next_link: Option<String>,
    /// A token, sent back as a parameter.
    pub cursor: Option<CursorPages>,
    /// A count of records to pass over, sent as a parameter.
    pub offset: Option<OffsetPages>,
    /// The number of the page, sent as a parameter.
    pub number: Option<NumberPages>,
    /// How many records a page shall have.
    pub size: Option<PageSize>,
    /// Which page is the last one, for lists that do not say so: see the values. Default: `empty`.
    pub ends: Ends,
    /// Records never leave this list nor change their place while it is read. It makes lists by `offset` and `number`
    /// resumable page by page; others are without it.
    pub stable: bool,
}

/// A token for the next page.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct CursorPages {
    /// The parameter that carries it.
    pub parameter: String,
    /// The field beside the records that holds it: `paging.next.after`. Absent, null or empty: the end.
    pub at: Option<String>,
    /// The field of the last record that is sent in its place: `id`.
    pub field: Option<String>,
    /// The field beside the records that says whether there is more: `has_more`.
    pub more: Option<String>,
}

/// Pages by the number of records before them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct OffsetPages {
    /// The parameter that carries it. It grows by the records that came, not by those that were asked for.
    pub parameter: String,
    /// The field beside the records that says whether there is more: `has_more`.
    pub more: Option<String>,
    /// The field beside the records that says how many records there are in all.
    pub total: Option<String>,
    /// Each page begins with the last record of the page before, and has to: a list that shifts while it is read would
    /// pass records over, and is read again instead. Default: true; without a `key`, and for lists that are `stable`,
    /// nothing is compared.
    pub overlap: bool,
}

impl Default for OffsetPages {
    fn default() -> Self {
        Self { parameter: String::new(), more: None, total: None, overlap: true }
    }
}

/// Pages by their number.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct NumberPages {
    /// The parameter that carries it.
    pub parameter: String,
    /// The number of the first page. Default: 1.
    pub first: u64,
    /// The field beside the records that says whether there is more: `has_more`.
    pub more: Option<String>,
    /// The field beside the records that says how many pages there are in all.
    pub total: Option<String>,
}

impl Default for NumberPages {
    fn default() -> Self {
        Self { parameter: String::new(), first: 1, more: None, total: None }
    }
}

/// How many records a page shall have.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct PageSize {
    /// The parameter that carries it; left out where the server decides.
    pub parameter: Option<String>,
    /// The number of records, best the most that the API allows.
    pub records: u32,
}

/// Which page is the last one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(crate = "ingest_core::schemars")]
pub enum Ends {
    /// One without records: a request more for each list, and right also where a server gives fewer records than it was
    /// asked for.
    #[default]
    Empty,
    /// One with fewer records than `size`. Only for servers that fill every page but the last one.
    Short,
}

/// How what is new is read: windows of a time, both bounds fixed before reading.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct Incremental {
    /// The column: a timestamp or a date.
    pub cursor: String,
    /// The parameter of the lower bound. Left out: the API cannot filter; everything is read, and what is older is dropped.
    pub from: Option<String>,
    /// The lower bound is exclusive (`after`): it is sent one unit lower.
    pub from_is_exclusive: bool,
    /// The parameter of the upper bound, inclusive or not. Left out: what is newer is dropped, and read by the next run.
    pub to: Option<String>,
    /// How bounds are written.
    pub format: BoundFormat,
    /// Why no row can appear below the upper bound after it was read: `lag(5m)` = the bound stays so far behind the
    /// source's clock; `watermark` = the source promises it; `unsafe` = nothing is promised.
    pub safety: Option<SafetyDef>,
    /// Windows are at most so long; a first load then needs `start`. Default: one window.
    pub window: Option<Span>,
    /// First loads read from this time on: `2024-01-01`, `2024-01-01T12:00:00Z`. Default: from the first record on.
    pub start: Option<String>,
    /// The cursor moves when a record changes (`updated_at`): new and changed records are both seen, and `incremental` is
    /// the stream's default mode. Default: false, as for `created_at`.
    pub sees_changes: bool,
    /// The list begins with the newest: reading ends with the first page that holds an older record. A list that is not
    /// in this order fails.
    pub newest_first: bool,
}

/// How bounds of a window are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(crate = "ingest_core::schemars")]
pub enum BoundFormat {
    /// `2024-01-31T12:00:00Z`.
    #[default]
    Rfc3339,
    /// `2024-01-31`: windows end at midnight UTC.
    Date,
    /// Seconds since 1970.
    UnixS,
    /// Milliseconds since 1970.
    UnixMs,
}

/// The safety of a cursor as text: `lag(60s)`, `watermark`, `unsafe`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SafetyDef(pub Safety);

/// The stream for each of whose rows another one is listed.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "ingest_core::schemars")]
#[non_exhaustive]
pub struct ParentDef {
    /// Its name. `${parent.COLUMN}` in path, parameters and headers stands for a column of its row.
    pub stream: String,
    /// Columns of the parent that each row gets: the name here, then the parent's column: `{repo: name}`.
    pub keep: BTreeMap<String, String>,
    /// What an answer 404 (or an error of class `not_found`) to a parent's first page means.
    pub missing: Missing,
}

/// What it means that the list of a parent is not found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(crate = "ingest_core::schemars")]
pub enum Missing {
    /// An error.
    #[default]
    Fail,
    /// The parent was deleted since it was listed, or has no such list: no rows. It is counted in a warning.
    Skip,
}

impl<'de> Deserialize<'de> for ColumnDef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = ColumnDef;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a type or a map with `type`")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ColumnDef, E> {
                let r#type = text.parse().map_err(E::custom)?;
                Ok(ColumnDef(Column { r#type, from: None, required: false, class: None }))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ColumnDef, A::Error> {
                Column::deserialize(MapAccessDeserializer::new(map)).map(ColumnDef)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for ColumnDef {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ColumnDef".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (text, map) = (ColumnType::json_schema(generator), Column::json_schema(generator));
        json_schema!({"anyOf": [text, map]})
    }

    fn inline_schema() -> bool {
        true
    }
}

impl<'de> Deserialize<'de> for SafetyDef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let lag = || text.strip_prefix("lag(")?.strip_suffix(')')?.trim().parse::<Span>().ok();
        match text.trim() {
            "watermark" => Ok(Self(Safety::Watermark)),
            "unsafe" => Ok(Self(Safety::Unsafe)),
            _ => lag().map(|lag| Self(Safety::Lag(lag.0))).ok_or_else(|| {
                D::Error::custom(format!("\"{text}\" is not a safety; write lag(60s), watermark or unsafe"))
            }),
        }
    }
}

impl JsonSchema for SafetyDef {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SafetyDef".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "examples": ["lag(60s)", "watermark", "unsafe"]})
    }

    fn inline_schema() -> bool {
        true
    }
}
