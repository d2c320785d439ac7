//! Objects as streams: what `describe` says of them, as columns with exact types.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arrow_schema::{DataType, Field, Schema, TimeUnit};
use futures::{StreamExt, TryStreamExt};
use ingest_core::{
    CLASS, CursorColumn, Error, ErrorKind, Estimate, Mode, Result, Safety, Selection, Stream, StreamName,
};
use serde::Deserialize;

use crate::Salesforce;
use crate::client::Api;

/// Columns that say when a row was changed or made, the best first.
const CURSORS: [&str; 4] = ["SystemModstamp", "LastModifiedDate", "CreatedDate", "LoginTime"];

/// Objects that only answer to conditions of their own, or hold nothing that can be listed: not offered, and read only
/// where they are selected by name.
const APART: [&str; 27] = [
    "ActivityHistory",
    "AttachedContentDocument",
    "AttachedContentNote",
    "CombinedAttachment",
    "ContentDocumentLink",
    "ContentFolderItem",
    "ContentFolderMember",
    "DataStatistics",
    "DatacloudAddress",
    "EmailStatus",
    "EntityParticle",
    "FeedLike",
    "FieldDefinition",
    "FlowTestView",
    "FlowVariableView",
    "FlowVersionView",
    "IdeaComment",
    "LookedUpFromActivity",
    "Name",
    "OpenActivity",
    "OutgoingEmail",
    "OutgoingEmailRelation",
    "PicklistValueInfo",
    "RelationshipInfo",
    "UserEntityAccess",
    "UserFieldAccess",
    "Vote",
];

/// Endings of the names of objects that are events or compare files, not tables.
const APART_ENDINGS: [&str; 4] = ["ChangeEvent", "EventStream", "AnomalyEvent", "__e"];

/// Objects that the Bulk API does not read. The list differs by version: what is missing here is found out by asking.
const NOT_IN_BULK: [&str; 18] = [
    "AcceptedEventRelation",
    "Attachment",
    "CaseStatus",
    "ContractStatus",
    "DeclinedEventRelation",
    "EventWhoRelation",
    "KnowledgeArticle",
    "KnowledgeArticleVersion",
    "OrderStatus",
    "PartnerRole",
    "RecentlyViewed",
    "ServiceAppointmentStatus",
    "SolutionStatus",
    "TaskPriority",
    "TaskStatus",
    "TaskWhoRelation",
    "UndecidedEventRelation",
    "WorkOrderStatus",
];

/// An object as it was described.
#[derive(Debug)]
pub(crate) struct Object {
    pub name: String,
    fields: Vec<Field>,
    /// Cursors that it has, the best first.
    cursors: Vec<String>,
    /// Whether `query` leaves rows out that are archived.
    pub is_archived: bool,
    /// Whether deleted rows can be told.
    pub is_deleted: bool,
    /// Whether it can be cut by the time of its rows' making.
    pub has_created: bool,
    pub formulas: Vec<String>,
    /// The names of all its fields, also of those without a column.
    described: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Global {
    sobjects: Vec<Brief>,
}

#[derive(Deserialize)]
struct Brief {
    name: String,
    #[serde(default)]
    queryable: bool,
}

#[derive(Deserialize)]
struct Described {
    name: String,
    #[serde(default)]
    queryable: bool,
    fields: Vec<FieldDef>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FieldDef {
    name: String,
    r#type: String,
    #[serde(default)]
    soap_type: String,
    #[serde(default)]
    precision: u32,
    #[serde(default)]
    scale: i32,
    #[serde(default)]
    calculated: bool,
}

/// The objects of a selection, in the order of their names.
pub(crate) async fn selected(salesforce: &Salesforce, selection: &Selection) -> Result<Vec<Arc<Object>>> {
    let by_name = !selection.select.is_empty() && selection.select.iter().all(|name| !name.contains(['*', '?']));
    let mut names: Vec<String> = match by_name {
        true => selection.select.iter().filter(|name| selection.matches(name)).cloned().collect(),
        false => listed(&salesforce.api).await?.into_iter().filter(|name| selection.matches(name)).collect(),
    };
    names.sort();
    names.dedup();
    let calls: Vec<_> = names.iter().map(|name| one(salesforce, name, by_name)).collect();
    let at_once = usize::from(salesforce.config.concurrency);
    let objects: Vec<Option<Arc<Object>>> = futures::stream::iter(calls).buffered(at_once).try_collect().await?;
    Ok(objects.into_iter().flatten().collect())
}

/// The names of all objects that are tables.
pub(crate) async fn listed(api: &Api) -> Result<Vec<String>> {
    let global: Global = api.get("sobjects").await?.json()?;
    let objects = global.sobjects.into_iter().filter(|object| object.queryable).map(|object| object.name);
    Ok(objects.filter(|name| !is_apart(name)).collect())
}

fn is_apart(name: &str) -> bool {
    APART.contains(&name) || APART_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// An object; `None` for one that was named and is not there: that there is no such stream is said by who asked for it.
async fn one(salesforce: &Salesforce, name: &str, named: bool) -> Result<Option<Arc<Object>>> {
    match salesforce.object(name).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if named && error.kind() == ErrorKind::NotFound => Ok(None),
        // One object that the list has and the user may not see must not hide all others.
        Err(error) if !named && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            tracing::warn!(stream = name, %error, "an object is left out: it cannot be described");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Asks what an object is made of.
pub(crate) async fn describe(api: &Api, name: &str) -> Result<Object> {
    let absent = || {
        Error::new(ErrorKind::NotFound, "there is no such object, or the user may not see it")
            .with("stream", name)
            .hint("`ingest discover` lists the streams; names are those of the API: `Account`, `Invoice__c`")
    };
    if !is_name(name) {
        return Err(absent());
    }
    let reply = api.get(&format!("sobjects/{name}/describe")).await;
    let described: Described = match reply {
        Ok(reply) => reply.json().map_err(|error| error.with("stream", name))?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(absent()),
        Err(error) => return Err(error.with("stream", name)),
    };
    // Paths do not tell cases apart, names of streams do.
    if described.name != name || !described.queryable {
        return Err(absent());
    }
    Ok(Object::new(described))
}

/// Whether a text can be the name of an object or field, and so a part of a path or a query.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 128 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl Object {
    fn new(described: Described) -> Self {
        let object = described.name;
        let (mut fields, mut formulas) = (Vec::new(), Vec::new());
        for field in &described.fields {
            let Some(data_type) = data_type(field).filter(|_| is_name(&field.name)) else { continue };
            if field.calculated {
                formulas.push(field.name.clone());
            }
            let arrow = Field::new(&field.name, data_type, field.name != "Id");
            fields.push(match is_personal(&object, field) {
                true => arrow.with_metadata(HashMap::from([(CLASS.to_owned(), "pii".to_owned())])),
                false => arrow,
            });
        }
        let has = |name: &str| fields.iter().any(|field| field.name() == name);
        let is_time = |name: &str| fields.iter().any(|f| f.name() == name && *f.data_type() == timestamp());
        let cursors = CURSORS.iter().filter(|name| is_time(name)).map(|name| (*name).to_owned()).collect();
        Self {
            is_archived: has("IsArchived") && has("IsDeleted"),
            is_deleted: has("IsDeleted"),
            has_created: is_time("CreatedDate"),
            described: described.fields.iter().map(|field| field.name.clone()).collect(),
            name: object,
            cursors,
            formulas,
            fields,
        }
    }

    /// Whether the user may see a field.
    pub fn shows(&self, field: &str) -> bool {
        self.described.contains(field)
    }

    pub fn cursors(&self) -> &[String] {
        &self.cursors
    }

    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Whether it has a column.
    pub fn has(&self, column: &str) -> bool {
        self.fields.iter().any(|field| field.name() == column)
    }

    /// Whether it can publish changes: records that are edited, not their histories, shares and lists of values. Whether the org has it
    /// selected is found out by asking.
    pub fn has_changes(&self) -> bool {
        self.is_deleted
            && self.has("SystemModstamp")
            && !["History", "Share", "Feed"].iter().any(|end| self.name.ends_with(end))
    }

    pub fn is_in_bulk(&self) -> bool {
        !NOT_IN_BULK.contains(&self.name.as_str())
    }

    pub fn stream(&self, lag: Duration) -> Stream {
        let cursors = self.cursors.iter();
        let cursors: Vec<_> =
            cursors.map(|name| CursorColumn { column: name.clone(), safety: Safety::Lag(lag) }).collect();
        let mut modes = if cursors.is_empty() { vec![Mode::Full] } else { vec![Mode::Incremental, Mode::Full] };
        modes.extend(self.has_changes().then_some(Mode::Cdc));
        Stream {
            name: StreamName::from(self.name.as_str()),
            schema: Arc::new(Schema::new(self.fields.clone())),
            key: vec!["Id".into()],
            modes,
            cursors,
            group: None,
            estimate: Estimate::default(),
        }
    }
}

/// Times of Salesforce: milliseconds, in UTC.
pub(crate) fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The type of a field; `None` for what no query gives: files, and the compounds of fields that stand beside them.
fn data_type(field: &FieldDef) -> Option<DataType> {
    if field.soap_type.starts_with("urn:SearchLayout") || field.soap_type == "xsd:base64Binary" {
        return None;
    }
    Some(match field.r#type.as_str() {
        "address" | "location" | "base64" => return None,
        "boolean" => DataType::Boolean,
        "int" => DataType::Int32,
        "long" => DataType::Int64,
        "double" | "currency" | "percent" => match (u8::try_from(field.precision), i8::try_from(field.scale)) {
            (Ok(precision @ 1..=38), Ok(scale @ 0..)) if scale.unsigned_abs() <= precision => {
                DataType::Decimal128(precision, scale)
            }
            _ => DataType::Float64,
        },
        "date" => DataType::Date32,
        "datetime" => timestamp(),
        _ => DataType::Utf8,
    })
}

/// Objects whose `Name` is a person's.
const PEOPLE: [&str; 5] = ["Contact", "Lead", "User", "CampaignMember", "PersonAccount"];

fn is_personal(object: &str, field: &FieldDef) -> bool {
    let name = field.name.trim_end_matches("__c");
    let of_a_person = ["FirstName", "LastName", "MiddleName", "Birthdate", "SuppliedName", "SourceIp", "Username"];
    let of_an_address = ["Street", "City", "PostalCode", "Latitude", "Longitude"];
    matches!(field.r#type.as_str(), "email" | "phone" | "encryptedstring")
        || of_a_person.contains(&name)
        || (name == "Name" && PEOPLE.contains(&object))
        || of_an_address.iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(json: &str) -> Object {
        Object::new(serde_json::from_str(json).expect("a description"))
    }

    #[test]
    fn types_are_those_of_the_description() {
        let object = object(
            r#"{"name":"Invoice__c","queryable":true,"fields":[
            {"name":"Id","type":"id","soapType":"tns:ID","nillable":false},
            {"name":"Paid__c","type":"boolean"},
            {"name":"Count__c","type":"int","soapType":"xsd:int"},
            {"name":"Big__c","type":"long"},
            {"name":"Total__c","type":"currency","precision":18,"scale":2},
            {"name":"Share__c","type":"percent","precision":5,"scale":1},
            {"name":"Weight__c","type":"double","precision":18,"scale":0},
            {"name":"Odd__c","type":"double","precision":0,"scale":0},
            {"name":"Wide__c","type":"currency","precision":40,"scale":2},
            {"name":"Day__c","type":"date"},
            {"name":"SystemModstamp","type":"datetime"},
            {"name":"At__c","type":"time"},
            {"name":"Tags__c","type":"multipicklist"},
            {"name":"Formula__c","type":"string","calculated":true},
            {"name":"Place__c","type":"location","soapType":"urn:location"},
            {"name":"BillingAddress","type":"address","soapType":"urn:address"},
            {"name":"Body","type":"base64","soapType":"xsd:base64Binary"}]}"#,
        );
        let types: Vec<_> = object.fields.iter().map(|f| (f.name().as_str(), f.data_type().clone())).collect();
        let decimal = DataType::Decimal128;
        assert_eq!(
            types,
            [
                ("Id", DataType::Utf8),
                ("Paid__c", DataType::Boolean),
                ("Count__c", DataType::Int32),
                ("Big__c", DataType::Int64),
                ("Total__c", decimal(18, 2)),
                ("Share__c", decimal(5, 1)),
                ("Weight__c", decimal(18, 0)),
                ("Odd__c", DataType::Float64),
                ("Wide__c", DataType::Float64),
                ("Day__c", DataType::Date32),
                ("SystemModstamp", timestamp()),
                ("At__c", DataType::Utf8),
                ("Tags__c", DataType::Utf8),
                ("Formula__c", DataType::Utf8),
            ]
        );
        assert_eq!(object.formulas, ["Formula__c"]);
        assert!(!object.is_deleted && !object.has_created);
        assert_eq!(object.stream(Duration::from_secs(300)).cursors[0].column, "SystemModstamp");
    }

    #[test]
    fn an_object_without_a_time_is_read_whole() {
        let stream =
            object(r#"{"name":"X","fields":[{"name":"Id","type":"id"},{"name":"CreatedDate","type":"string"}]}"#)
                .stream(Duration::ZERO);
        assert_eq!((stream.modes, stream.cursors.len()), (vec![Mode::Full], 0));
    }

    #[test]
    fn personal_columns_carry_their_class() {
        let object = object(
            r#"{"name":"Contact","fields":[{"name":"Id","type":"id"},{"name":"Name","type":"string"},
            {"name":"Email","type":"email"},{"name":"MailingStreet","type":"textarea"},{"name":"Title","type":"string"}]}"#,
        );
        let personal: Vec<_> =
            object.fields.iter().filter(|f| f.metadata().contains_key(CLASS)).map(|f| f.name().as_str()).collect();
        assert_eq!(personal, ["Name", "Email", "MailingStreet"]);
    }

    #[test]
    fn names_that_are_not_of_the_api_reach_no_path_and_no_query() {
        for name in ["", "../limits", "Account/describe", "A b", "Ä", "Account?x"] {
            assert!(!is_name(name), "{name}");
        }
        assert!(is_name("My_Object__c") && is_apart("AccountChangeEvent") && !is_apart("Account"));
    }
}
