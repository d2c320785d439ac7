//! Change events of the stand-in: kept, numbered, and written in Avro.

use std::collections::{BTreeSet, VecDeque};

use chrono::NaiveDate;
use serde_json::{Map, Value, json};

use super::state::State;

/// What happened to a record.
#[derive(Debug, Clone)]
pub(super) struct Happened {
    pub number: u64,
    pub object: String,
    pub kind: &'static str,
    pub id: String,
    /// Names of the fields that an update has changed.
    pub changed: BTreeSet<String>,
    pub values: Map<String, Value>,
    /// When it was committed: milliseconds since 1970.
    pub at: i64,
}

/// The event bus.
#[derive(Debug, Default)]
pub struct Bus {
    pub(super) events: VecDeque<Happened>,
    made: u64,
    /// Whether there is a server that gives them.
    pub(super) is_open: bool,
    /// The next changes are told without their values (`GAP_UPDATE` and its like).
    pub gaps: usize,
    /// The next change is so large that records are not named.
    pub overflow: bool,
    /// Objects that the org publishes no changes of.
    pub unselected: BTreeSet<String>,
    /// Events after which all sessions end, and the stream with them; once.
    pub sessions_end_after: Option<usize>,
    /// Milliseconds after which a stream without events says so. Default: 20; the real service takes 270,000.
    pub keepalive: Option<u64>,
    /// Schemas are made anew: fields were added.
    pub schema_version: u32,
    /// Numbers of events that subscribers have asked for, in order.
    pub asked: Vec<i32>,
    /// The most events that a subscriber was owed at once.
    pub owed: i32,
    /// Subscriptions so far: the object, and whether they came from a replay id.
    pub subscriptions: Vec<(String, bool)>,
    /// How often a schema was asked for.
    pub schemas: usize,
}

impl Bus {
    /// Replay ids have gaps, and say nothing to anyone else.
    pub(super) fn replay(number: u64) -> Vec<u8> {
        (number * 7 + 3).to_be_bytes().to_vec()
    }

    pub(super) fn number(replay: &[u8]) -> Option<u64> {
        let id = u64::from_be_bytes(replay.try_into().ok()?);
        (id % 7 == 3).then_some(id / 7)
    }

    /// The last event that can be seen at a time.
    pub(super) fn last(&self, head: i64) -> u64 {
        let hidden = self.events.iter().find(|event| event.at > head);
        hidden.map_or(self.made, |event| event.number - 1)
    }

    /// Forgets all events, as after 72 hours.
    pub fn expire(&mut self) {
        self.made += 1;
        self.events.clear();
    }

    /// Whether events behind this one are still kept.
    pub(super) fn keeps(&self, number: u64) -> bool {
        number == self.made || self.events.front().is_some_and(|first| first.number <= number + 1)
    }

    pub(super) fn happened(&mut self, mut event: Happened) {
        if !self.is_open {
            return;
        }
        self.made += 1;
        event.number = self.made;
        if self.overflow {
            (self.overflow, event.kind) = (false, "GAP_OVERFLOW");
        } else if self.gaps > 0 {
            self.gaps -= 1;
            event.kind = match event.kind {
                "CREATE" => "GAP_CREATE",
                "DELETE" => "GAP_DELETE",
                _ => "GAP_UPDATE",
            };
        }
        self.events.push_back(event);
    }
}

/// How a field of an event is written.
enum Slot {
    /// A value of a field, by its type.
    Field(&'static str, &'static str),
    /// A compound field, and the one inside it.
    Compound(&'static str, &'static str),
}

/// The fields of an event, behind its header. Events carry neither when a row was changed by the system nor formulas.
fn slots(state: &State, object: &str) -> Vec<Slot> {
    let fields = state.objects.get(object).map(|object| object.fields.as_slice()).unwrap_or_default();
    let compounds: Vec<_> = fields.iter().filter(|(_, kind, _)| *kind == "address").map(|(name, ..)| *name).collect();
    let inside = |name: &str| compounds.iter().any(|outer| outer.strip_suffix("Address") == name.strip_suffix("City"));
    let mut slots = Vec::new();
    for (name, kind, more) in fields {
        let is_left_out = matches!(*name, "Id" | "SystemModstamp" | "IsDeleted" | "IsArchived")
            || matches!(*kind, "base64" | "location")
            || more["calculated"] == true
            || (name.ends_with("City") && inside(name));
        match *kind {
            _ if is_left_out => {}
            "address" => slots.push(Slot::Compound(name, "City")),
            kind => slots.push(Slot::Field(name, kind)),
        }
    }
    slots
}

fn avro_type(kind: &str) -> Value {
    match kind {
        "boolean" => json!("boolean"),
        "int" => json!("int"),
        "currency" | "percent" | "double" => json!("double"),
        "date" => json!({"type": "int", "logicalType": "date"}),
        "datetime" => json!({"type": "long", "logicalType": "timestamp-millis"}),
        _ => json!("string"),
    }
}

/// The schema of an object's events.
pub(super) fn schema(state: &State, object: &str) -> String {
    let texts = json!({"type": "array", "items": "string"});
    let kinds = ["CREATE", "UPDATE", "DELETE", "UNDELETE", "GAP_CREATE", "GAP_UPDATE", "GAP_DELETE", "GAP_OVERFLOW"];
    let header = json!({"type": "record", "name": "ChangeEventHeader", "fields": [
        {"name": "entityName", "type": "string"},
        {"name": "recordIds", "type": texts},
        {"name": "changeType", "type": {"type": "enum", "name": "ChangeType", "symbols": kinds}},
        {"name": "changeOrigin", "type": "string"},
        {"name": "transactionKey", "type": "string"},
        {"name": "sequenceNumber", "type": "int"},
        {"name": "commitTimestamp", "type": "long"},
        {"name": "commitNumber", "type": "long"},
        {"name": "commitUser", "type": "string"},
        {"name": "nulledFields", "type": texts},
        {"name": "diffFields", "type": texts},
        {"name": "changedFields", "type": texts},
    ]});
    let mut fields = vec![json!({"name": "ChangeEventHeader", "type": header})];
    for slot in slots(state, object) {
        fields.push(match slot {
            Slot::Field(name, kind) => json!({"name": name, "type": ["null", avro_type(kind)], "default": null}),
            Slot::Compound(name, inner) => {
                let inside = json!([{"name": "Street", "type": ["null", "string"]}, {"name": inner, "type": ["null", "string"]}]);
                json!({"name": name, "type": ["null", {"type": "record", "name": format!("{name}Record"), "fields": inside}]})
            }
        });
    }
    let name = object.replace("__c", "__");
    json!({"type": "record", "name": format!("{name}ChangeEvent"), "namespace": "com.sforce.eventbus", "fields": fields})
        .to_string()
}

/// An event in Avro.
pub(super) fn payload(state: &State, event: &Happened) -> Vec<u8> {
    let has_values = matches!(event.kind, "CREATE" | "UPDATE" | "UNDELETE");
    let slots = slots(state, &event.object);
    let (mut changed, mut inside, mut nulled) = (Vec::new(), Vec::new(), Vec::new());
    for (nth, slot) in slots.iter().enumerate() {
        match slot {
            Slot::Field(name, _) if event.changed.contains(*name) => {
                // A value that is gone is named apart.
                if event.values[*name].is_null() { nulled.push(nth + 1) } else { changed.push(nth + 1) }
            }
            Slot::Compound(name, inner) if event.changed.contains(&name.replace("Address", inner)) => {
                inside.push(format!("{}-{}", nth + 1, bitmap(&[1])));
            }
            _ => {}
        }
    }
    let is_update = event.kind == "UPDATE";
    let bits = |places: &[usize]| if is_update && !places.is_empty() { vec![bitmap(places)] } else { Vec::new() };
    let ids = if event.kind == "GAP_OVERFLOW" { "000000000000000AAA" } else { event.id.as_str() };
    let kinds = ["CREATE", "UPDATE", "DELETE", "UNDELETE", "GAP_CREATE", "GAP_UPDATE", "GAP_DELETE", "GAP_OVERFLOW"];
    let kind = kinds.iter().position(|kind| *kind == event.kind).expect("a kind of the schema");
    let mut out = Vec::new();
    text(&mut out, &event.object);
    texts(&mut out, &[ids.to_owned()]);
    long(&mut out, kind as i64);
    text(&mut out, "");
    text(&mut out, &format!("0000-{}", event.number));
    long(&mut out, 1);
    long(&mut out, event.at);
    long(&mut out, event.number as i64);
    text(&mut out, "005000000000001AAA");
    texts(&mut out, &bits(&nulled));
    texts(&mut out, &[]);
    let mut all = bits(&changed);
    if is_update {
        all.extend(inside);
    }
    texts(&mut out, &all);
    for slot in &slots {
        match slot {
            // What did not change comes as null in an update.
            Slot::Field(name, kind) if has_values && (!is_update || event.changed.contains(*name)) => {
                value(&mut out, kind, &event.values[*name]);
            }
            Slot::Compound(name, inner) if has_values => {
                let field = name.replace("Address", inner);
                let shown =
                    if !is_update || event.changed.contains(&field) { &event.values[&field] } else { &Value::Null };
                long(&mut out, 1);
                long(&mut out, 0);
                value(&mut out, "string", shown);
            }
            _ => long(&mut out, 0),
        }
    }
    out
}

/// A number whose bits say places.
fn bitmap(places: &[usize]) -> String {
    let mut digits = vec![0_u32; places.iter().max().map_or(0, |last| last / 4) + 1];
    places.iter().for_each(|place| digits[place / 4] |= 1 << (place % 4));
    let digits: String = digits.iter().rev().filter_map(|digit| char::from_digit(*digit, 16)).collect();
    format!("0x{digits}")
}

fn long(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn text(out: &mut Vec<u8>, text: &str) {
    long(out, text.len() as i64);
    out.extend_from_slice(text.as_bytes());
}

fn texts(out: &mut Vec<u8>, all: &[String]) {
    if !all.is_empty() {
        long(out, all.len() as i64);
        all.iter().for_each(|one| text(out, one));
    }
    long(out, 0);
}

/// A value that may be null.
fn value(out: &mut Vec<u8>, kind: &str, value: &Value) {
    if value.is_null() {
        return long(out, 0);
    }
    long(out, 1);
    match kind {
        "boolean" => out.push(u8::from(value == true)),
        "int" => long(out, value.as_i64().unwrap_or(0)),
        "currency" | "percent" | "double" => out.extend_from_slice(&value.as_f64().unwrap_or(0.0).to_le_bytes()),
        "date" => {
            let day = value.as_str().and_then(|text| text.parse::<NaiveDate>().ok()).unwrap_or_default();
            long(out, day.signed_duration_since(NaiveDate::default()).num_days());
        }
        "datetime" => long(out, value.as_i64().unwrap_or(0)),
        _ => text(out, value.as_str().unwrap_or_default()),
    }
}
