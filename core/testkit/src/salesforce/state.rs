//! The objects of the stand-in.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::DateTime;
use serde_json::{Map, Value, json};

use super::Fault;
use super::events::{Bus, Happened};
use super::jobs::Job;
use crate::stand_in::Script;

/// What becomes of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobFault {
    /// It fails.
    Failed,
    /// Somebody aborts it.
    Aborted,
    /// It is refused because the object is none of the Bulk API.
    Refused,
}

/// All objects, and what shall go wrong.
pub struct State {
    now: Option<i64>,
    pub(super) objects: BTreeMap<String, Sobject>,
    pub(super) script: Script<State>,
    pub(super) tokens: HashSet<String>,
    pub(super) jobs: BTreeMap<String, Job>,
    pub(super) locators: BTreeMap<String, VecDeque<Value>>,
    made: u64,
    /// Rows can be seen only so many milliseconds after they were changed.
    pub visible_after: i64,
    /// The requests of the day and their limit.
    pub usage: (u64, u64),
    /// How often a job is looked at before it is complete.
    pub looks: u32,
    /// What becomes of the next jobs.
    pub job_faults: VecDeque<JobFault>,
    /// The public key that signed statements are checked by, as it stands in a certificate.
    pub key: Option<Vec<u8>>,
    /// The instance that tokens name; the server itself when left out.
    pub instance: Option<String>,
    /// Whether refresh tokens are replaced when they are used.
    pub rotates: bool,
    /// Rows a page of a query at most, below what is asked for.
    pub page_rows: usize,
    /// Pages of results say so many rows more than they have, once.
    pub cut_results: usize,
    /// The version of the API that is asked for has ended.
    pub ended: bool,
    /// Change events.
    pub bus: Bus,
}

/// One object.
#[derive(Debug, Default)]
pub(super) struct Sobject {
    /// Name and type as `describe` says them, further members of the field.
    pub fields: Vec<(&'static str, &'static str, Value)>,
    /// Fields that the user may not see.
    pub hidden: BTreeSet<String>,
    /// Whether the Bulk API reads it.
    pub bulk: bool,
    prefix: &'static str,
    rows: BTreeMap<String, Row>,
}

#[derive(Debug, Clone)]
pub(super) struct Row {
    pub values: Map<String, Value>,
    /// What could be seen before the last change became visible.
    before: Option<Map<String, Value>>,
    changed: i64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            now: None,
            objects: objects(),
            script: Script::default(),
            tokens: HashSet::new(),
            jobs: BTreeMap::new(),
            locators: BTreeMap::new(),
            made: 0,
            visible_after: 0,
            usage: (0, 1_000_000),
            looks: 1,
            job_faults: VecDeque::new(),
            key: None,
            instance: None,
            rotates: false,
            page_rows: 2_000,
            cut_results: 0,
            ended: false,
            bus: Bus::default(),
        }
    }
}

impl State {
    /// The server's time, in milliseconds since 1970.
    pub fn now(&self) -> i64 {
        self.now.unwrap_or_else(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
    }

    /// Stops the clock at a time.
    pub fn freeze(&mut self, now: i64) {
        self.now = Some(now);
    }

    /// A number that nobody had before.
    pub(super) fn next(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    /// Ends all sessions.
    pub fn end_sessions(&mut self) {
        self.tokens.clear();
    }

    /// Forgets the queries behind locators, as after two days.
    pub fn forget_queries(&mut self) {
        self.locators.clear();
    }

    /// Forgets jobs and their results, as after a week.
    pub fn forget_jobs(&mut self) {
        self.jobs.clear();
    }

    /// The next request goes wrong so.
    pub fn fail(&mut self, fault: Fault) {
        self.script.fault(fault);
    }

    /// Hides a field from the user.
    pub fn hide(&mut self, object: &str, field: &str) {
        self.sobject(object).hidden.insert(field.to_owned());
    }

    fn sobject(&mut self, object: &str) -> &mut Sobject {
        self.objects.get_mut(object).unwrap_or_else(|| panic!("the stand-in has no object \"{object}\""))
    }

    /// Adds a row, now. Gives its id.
    ///
    /// # Panics
    /// When there is no such object.
    pub fn insert(&mut self, object: &str, fields: Value) -> String {
        let now = self.now();
        self.insert_at(object, fields, now)
    }

    fn insert_at(&mut self, object: &str, fields: Value, at: i64) -> String {
        let n = self.next();
        let sobject = self.sobject(object);
        let id = format!("{}{n:012}AAA", sobject.prefix);
        let mut values = Map::new();
        for (name, kind, _) in &sobject.fields {
            values.insert((*name).to_owned(), default(name, kind, n, at, &id));
        }
        values.extend(fields.as_object().cloned().unwrap_or_default());
        sobject.rows.insert(id.clone(), Row { values: values.clone(), before: None, changed: at });
        let changed = values.keys().cloned().collect();
        self.happened(object, "CREATE", &id, changed, values, at);
        id
    }

    /// Adds `n` rows, made at equal distances in `[from, to)`.
    pub fn seed(&mut self, object: &str, n: usize, from: i64, to: i64) {
        for i in 0..n {
            let share = i128::from(to - from) * i as i128 / (n.max(1) as i128);
            self.insert_at(object, json!({}), from + i64::try_from(share).unwrap_or(0));
        }
    }

    /// Changes fields of a row, now.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn update(&mut self, object: &str, id: &str, fields: Value) {
        let now = self.now();
        let row = self.sobject(object).rows.get_mut(id).expect("a row that exists");
        row.before = Some(row.values.clone());
        row.changed = now;
        for cursor in ["SystemModstamp", "LastModifiedDate"] {
            if row.values.contains_key(cursor) {
                row.values.insert(cursor.to_owned(), now.into());
            }
        }
        let fields = fields.as_object().cloned().unwrap_or_default();
        let is_gone = fields.get("IsDeleted") == Some(&Value::Bool(true));
        let changed = fields.keys().cloned().chain(["LastModifiedDate".to_owned()]).collect();
        row.values.extend(fields);
        let values = row.values.clone();
        self.happened(object, if is_gone { "DELETE" } else { "UPDATE" }, id, changed, values, now);
    }

    fn happened(
        &mut self,
        object: &str,
        kind: &'static str,
        id: &str,
        changed: BTreeSet<String>,
        values: Map<String, Value>,
        at: i64,
    ) {
        let (object, id) = (object.to_owned(), id.to_owned());
        self.bus.happened(Happened { number: 0, object, kind, id, changed, values, at });
    }

    /// Changes fields of a row without a trace, as a formula does whose parts lie elsewhere.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn recalculate(&mut self, object: &str, id: &str, fields: Value) {
        let row = self.sobject(object).rows.get_mut(id).expect("a row that exists");
        row.values.extend(fields.as_object().cloned().unwrap_or_default());
    }

    /// The rows of an object that can be seen now, in the order of their ids.
    pub(super) fn visible(&self, object: &str) -> impl Iterator<Item = &Map<String, Value>> {
        let head = self.now() - self.visible_after;
        let rows = self.objects.get(object).into_iter().flat_map(|object| object.rows.values());
        rows.filter_map(move |row| if row.changed <= head { Some(&row.values) } else { row.before.as_ref() })
    }

    /// What the lake must hold of an object, by id, with values as the oracle writes them.
    pub fn truth(&self, object: &str) -> BTreeMap<String, Map<String, Value>> {
        let sobject = self.objects.get(object).unwrap_or_else(|| panic!("the stand-in has no object \"{object}\""));
        let mut truth = BTreeMap::new();
        for values in self.visible(object).filter(|values| values.get("IsDeleted") != Some(&Value::Bool(true))) {
            let mut row = Map::new();
            for (name, kind, more) in &sobject.fields {
                let has_column = !matches!(*kind, "address" | "location" | "base64");
                if has_column && !sobject.hidden.contains(*name) {
                    row.insert((*name).to_owned(), canonical(kind, more, &values[*name]));
                }
            }
            truth.insert(values["Id"].as_str().unwrap_or_default().to_owned(), row);
        }
        truth
    }
}

/// A time of the API: `2024-01-02T03:04:05.678` and what follows.
pub(super) fn time(millis: i64, zone: &str) -> String {
    let time = DateTime::from_timestamp_millis(millis).unwrap_or_default();
    format!("{}{zone}", time.format("%Y-%m-%dT%H:%M:%S%.3f"))
}

fn canonical(kind: &str, more: &Value, value: &Value) -> Value {
    match (kind, value) {
        ("datetime", Value::Number(millis)) => time(millis.as_i64().unwrap_or(0), "000Z").into(),
        ("currency" | "percent" | "double", Value::Number(number)) => {
            let scale = more["scale"].as_u64().unwrap_or(0) as usize;
            let text = number.to_string();
            let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
            let fraction = fraction.trim_end_matches('0');
            if scale == 0 { whole.into() } else { format!("{whole}.{fraction:0<scale$}").into() }
        }
        // An empty text and null are one.
        (_, Value::String(text)) if text.is_empty() => Value::Null,
        _ => value.clone(),
    }
}

fn default(name: &str, kind: &str, n: u64, at: i64, id: &str) -> Value {
    match (name, kind) {
        ("Id", _) => id.into(),
        ("IsDeleted" | "IsArchived", _) => false.into(),
        (_, "datetime") => at.into(),
        (_, "boolean") => n.is_multiple_of(2).into(),
        (_, "int") => n.into(),
        // Large ones are written with an exponent.
        (_, "currency") => json!(n as f64 * 1_000.0 + 0.25),
        (_, "percent") => json!((n % 1_000) as f64 / 10.0),
        (_, "double") => n.into(),
        (_, "date") => "2024-02-29".into(),
        (_, "address" | "location") => json!({"city": "Wien"}),
        (_, "base64") => "/services/data/v62.0/x/Body".into(),
        (_, "reference") if n.is_multiple_of(3) => Value::Null,
        (_, "reference") => format!("001{n:012}AAA").into(),
        ("Description", _) => format!("line 1, \"{n}\"\nline 2 \u{2116}").into(),
        _ => format!("{name} {n}").into(),
    }
}

/// Fields that every object of a kind has.
fn own(fields: &[(&'static str, &'static str)], times: &[&'static str]) -> Vec<(&'static str, &'static str, Value)> {
    let mut all = vec![("Id", "id", json!({}))];
    for (name, kind) in fields {
        let more = match *kind {
            "currency" => json!({"precision": 18, "scale": 2}),
            "percent" => json!({"precision": 5, "scale": 1}),
            "double" => json!({"precision": 18, "scale": 0}),
            "address" => json!({"soapType": "urn:address"}),
            "base64" => json!({"soapType": "xsd:base64Binary"}),
            "formula" => json!({"calculated": true}),
            _ => json!({}),
        };
        all.push((*name, if *kind == "formula" { "string" } else { *kind }, more));
    }
    all.extend(
        times.iter().map(|name| (*name, if name.starts_with("Is") { "boolean" } else { "datetime" }, json!({}))),
    );
    all
}

fn objects() -> BTreeMap<String, Sobject> {
    const STAMPS: &[&str] = &["CreatedDate", "LastModifiedDate", "SystemModstamp", "IsDeleted"];
    let object = |prefix, bulk, fields: &[(&'static str, &'static str)], times: &[&'static str]| Sobject {
        fields: own(fields, times),
        bulk,
        prefix,
        ..Sobject::default()
    };
    let account = &[
        ("Name", "string"),
        ("Description", "textarea"),
        ("AnnualRevenue", "currency"),
        ("NumberOfEmployees", "int"),
        ("BillingAddress", "address"),
        ("BillingCity", "string"),
        ("OwnerId", "reference"),
    ];
    let contact = &[("Name", "string"), ("Email", "email"), ("Birthdate", "date"), ("AccountId", "reference")];
    let invoice = &[
        ("Name", "string"),
        ("Total__c", "currency"),
        ("Tax__c", "percent"),
        ("Lines__c", "double"),
        ("Paid__c", "boolean"),
        ("File__c", "base64"),
        ("Label__c", "formula"),
    ];
    let task = &["CreatedDate", "SystemModstamp", "IsDeleted", "IsArchived"];
    BTreeMap::from([
        ("Account".to_owned(), object("001", true, account, STAMPS)),
        ("Contact".to_owned(), object("003", true, contact, STAMPS)),
        ("Invoice__c".to_owned(), object("a00", true, invoice, STAMPS)),
        ("Task".to_owned(), object("00T", true, &[("Subject", "string")], task)),
        ("AccountHistory".to_owned(), object("017", true, &[("Field", "string")], &["CreatedDate", "IsDeleted"])),
        ("TaskStatus".to_owned(), object("01J", false, &[("MasterLabel", "string")], &[])),
        ("Rate__c".to_owned(), object("a01", false, &[("Value__c", "double")], &["LastModifiedDate"])),
    ])
}
