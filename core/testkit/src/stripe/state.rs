//! The objects of the stand-in.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::RETENTION;
use super::kinds::{self, Kind};
use crate::stand_in::Script;

/// How many entries of a nested list an object shows.
const SHOWN: usize = 10;

/// All objects of all accounts, and what shall go wrong.
#[derive(Default)]
pub struct State {
    now: Option<i64>,
    accounts: BTreeMap<String, Objects>,
    pub(super) restricted: BTreeMap<String, String>,
    pub(super) script: Script<State>,
    /// Events can be seen only so many seconds after they were made.
    pub event_delay: i64,
    made: u64,
}

#[derive(Default)]
struct Objects {
    tables: HashMap<&'static str, Table>,
    deleted: HashSet<String>,
}

/// One list, newest first.
#[derive(Default)]
pub(super) struct Table {
    pub rows: BTreeMap<Place, Row>,
    places: HashMap<String, Place>,
}

/// Created, then order of making; both newest first.
pub(super) type Place = (Reverse<i64>, Reverse<u64>);

pub(super) struct Row {
    pub value: Value,
    /// As it stands in a page.
    pub text: String,
}

impl Table {
    pub fn get(&self, id: &str) -> Option<&Row> {
        self.rows.get(self.places.get(id)?)
    }

    pub fn place(&self, id: &str) -> Option<Place> {
        self.places.get(id).copied()
    }
}

impl State {
    /// The server's time, in seconds since 1970.
    pub fn now(&self) -> i64 {
        self.now.unwrap_or_else(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        })
    }

    /// Stops the clock at a time.
    pub fn freeze(&mut self, now: i64) {
        self.now = Some(now);
    }

    /// An account: `""` is the owner of the key, others are connected and made when they are first named.
    pub fn account(&mut self, id: &str) -> Account<'_> {
        if !id.is_empty() && !self.accounts.contains_key(id) {
            let now = self.now();
            Account { state: self, id: String::new() }.insert("accounts", json!({"id": id}), now);
        }
        self.accounts.entry(id.to_owned()).or_default();
        Account { state: self, id: id.to_owned() }
    }

    pub(super) fn knows(&self, account: &str) -> bool {
        account.is_empty() || self.accounts.contains_key(account)
    }

    pub(super) fn table(&self, account: &str, path: &str) -> Option<&Table> {
        self.accounts.get(account)?.tables.get(path)
    }

    pub(super) fn was_deleted(&self, account: &str, id: &str) -> bool {
        self.accounts.get(account).is_some_and(|objects| objects.deleted.contains(id))
    }

    /// The times at which events can be seen now, both ends included.
    pub(super) fn events_shown(&self) -> (i64, i64) {
        (self.now() - RETENTION, self.now() - self.event_delay)
    }
}

/// The objects of one account.
pub struct Account<'a> {
    state: &'a mut State,
    id: String,
}

impl Account<'_> {
    fn objects(&mut self) -> &mut Objects {
        self.state.accounts.entry(self.id.clone()).or_default()
    }

    /// Adds an object now, with its event. Gives its id.
    pub fn create(&mut self, path: &str, fields: Value) -> String {
        let now = self.state.now();
        let id = self.insert(path, fields, now);
        self.tell(path, &id, known(path).created, json!(null));
        id
    }

    /// Adds `n` objects without events, created at equal distances in `[from, to)`.
    pub fn seed(&mut self, path: &str, n: usize, from: i64, to: i64) {
        for i in 0..n {
            let share = i128::from(to - from) * i as i128 / (n.max(1) as i128);
            self.insert(path, json!({}), from + i64::try_from(share).unwrap_or(0));
        }
    }

    /// Changes fields of an object, with its event.
    ///
    /// # Panics
    /// When there is no such object.
    pub fn update(&mut self, path: &str, id: &str, fields: Value) {
        let previous = self.change(path, id, fields);
        self.tell(path, id, known(path).updated, previous);
    }

    /// Changes fields of an object, with an event of another type than `update` makes.
    ///
    /// # Panics
    /// When there is no such object.
    pub fn update_as(&mut self, path: &str, id: &str, kind: &str, fields: Value) {
        let previous = self.change(path, id, fields);
        self.tell(path, id, kind, previous);
    }

    fn change(&mut self, path: &str, id: &str, fields: Value) -> Value {
        let kind = known(path);
        let table = self.objects().tables.entry(kind.path).or_default();
        let row = table.places.get(id).and_then(|place| table.rows.get_mut(place)).expect("an object that exists");
        let mut previous = Map::new();
        for (name, value) in nested_lists(kind, id, fields) {
            let before = row.value.get(&name).cloned().unwrap_or(Value::Null);
            row.value[&name] = value;
            previous.insert(name, before);
        }
        row.text = render(kind, &row.value);
        Value::Object(previous)
    }

    /// Deletes an object, with its event.
    ///
    /// # Panics
    /// When there is no such object.
    pub fn delete(&mut self, path: &str, id: &str) {
        let kind = known(path);
        self.tell(path, id, kind.deleted, Value::Null);
        let objects = self.objects();
        let table = objects.tables.entry(kind.path).or_default();
        let place = table.places.remove(id).expect("an object that exists");
        table.rows.remove(&place);
        objects.deleted.insert(id.to_owned());
    }

    /// Adds an object without an event, created at a time. Gives its id.
    pub fn insert(&mut self, path: &str, fields: Value, created: i64) -> String {
        let kind = known(path);
        self.state.made += 1;
        let n = self.state.made;
        let id = fields["id"].as_str().map_or_else(|| format!("{}_{n:08}", kind.prefix), str::to_owned);
        let mut value = json!({"id": id, "object": kind.object, "livemode": false, "metadata": {}});
        value[kind.dated] = created.into();
        defaults(kind, n, created, &mut value);
        for (name, field) in nested_lists(kind, &id, fields) {
            value[name] = field;
        }
        let text = render(kind, &value);
        let place = (Reverse(created), Reverse(n));
        let objects = self.objects();
        objects.deleted.remove(&id);
        let table = objects.tables.entry(kind.path).or_default();
        if let Some(before) = table.places.insert(id.clone(), place) {
            table.rows.remove(&before);
        }
        table.rows.insert(place, Row { value, text });
        id
    }

    /// Adds the event of a change; its payload has the shape of an API version of years ago.
    fn tell(&mut self, path: &str, id: &str, kind: &str, previous: Value) {
        if kind.is_empty() {
            return;
        }
        let now = self.state.now();
        let Some(row) = self.state.table(&self.id, path).and_then(|table| table.get(id)) else { return };
        let mut data = json!({"object": aged(&row.text)});
        if !previous.is_null() {
            data["previous_attributes"] = previous;
        }
        let event = json!({
            "api_version": "2018-05-21", "data": data, "pending_webhooks": 0, "type": kind,
            "request": {"id": null, "idempotency_key": null},
        });
        self.insert("events", event, now);
    }

    /// What the lake must hold of a list, by id; of the events, those that are still kept.
    pub fn truth(&self, path: &str) -> BTreeMap<String, Value> {
        let mut truth = BTreeMap::new();
        let kept = if path == "events" { self.state.events_shown().0 } else { i64::MIN };
        let rows = self.state.table(&self.id, path).into_iter().flat_map(|table| &table.rows);
        for (_, row) in rows.filter(|((created, _), _)| created.0 >= kept) {
            truth.insert(row.value["id"].as_str().unwrap_or_default().to_owned(), row.value.clone());
        }
        truth
    }

    /// All entries of the nested list of a list's objects, by id: the lines of all invoices.
    ///
    /// # Panics
    /// When the objects of the list have no nested list.
    pub fn nested_truth(&self, path: &str) -> BTreeMap<String, Value> {
        let (field, ..) = known(path).nested.expect("a list whose objects have a nested list");
        let entries = self.truth(path).into_values().flat_map(|mut object| match object[field]["data"].take() {
            Value::Array(entries) => entries,
            _ => Vec::new(),
        });
        entries.map(|entry| (entry["id"].as_str().unwrap_or_default().to_owned(), entry)).collect()
    }
}

fn known(path: &str) -> &'static Kind {
    kinds::find(path).unwrap_or_else(|| panic!("the stand-in has no list \"{path}\""))
}

/// Fields in which the list of a kind may stand as a bare array of entries.
fn nested_lists(kind: &Kind, id: &str, fields: Value) -> Map<String, Value> {
    let Value::Object(mut fields) = fields else { return Map::new() };
    if let Some((field, path, parent)) = kind.nested
        && let Some(Value::Array(entries)) = fields.get_mut(field)
    {
        for entry in entries.iter_mut() {
            entry[parent] = id.into();
        }
        let url = format!("/v1/{}", path.replace("{}", id));
        let list = json!({"object": "list", "data": std::mem::take(entries), "has_more": false, "url": url});
        fields.insert(field.to_owned(), list);
    }
    fields
}

/// The text of an object in a page: of a nested list the first entries.
fn render(kind: &Kind, value: &Value) -> String {
    let Some((field, ..)) = kind.nested else { return value.to_string() };
    let mut value = value.clone();
    if let Some(list) = value.get_mut(field)
        && let Some(entries) = list["data"].as_array_mut()
    {
        let more = entries.len() > SHOWN;
        entries.truncate(SHOWN);
        list["has_more"] = more.into();
    }
    value.to_string()
}

/// An object as an old API version shows it: fields of today are missing, fields of then are there.
fn aged(text: &str) -> Value {
    let mut value: Value = serde_json::from_str(text).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.insert("of_an_old_version".into(), true.into());
        object.remove("status");
        object.remove("livemode");
    }
    value
}

fn defaults(kind: &Kind, n: u64, created: i64, value: &mut Value) {
    let fields = match kind.path {
        "charges" => charge(n),
        "customers" => json!({"email": format!("c{n}@example.com"), "name": format!("Customer {n}"), "balance": 0}),
        "subscriptions" => json!({"status": "active", "customer": format!("cus_{n:08}"), "start_date": created,
            "items": {"object": "list", "data": [], "has_more": false, "url": "/v1/subscription_items"}}),
        "invoices" => json!({"status": "draft", "total": n, "currency": "eur",
            "lines": {"object": "list", "data": [], "has_more": false, "url": "/v1/invoices/x/lines"}}),
        "payment_intents" | "setup_intents" => {
            json!({"status": "requires_action", "amount": n, "client_secret": format!("pi_{n}_secret_deadbeef")})
        }
        "balance_transactions" => json!({"amount": n, "net": n, "status": "pending", "exchange_rate": 1.23456,
            "available_on": created + 86_400}),
        "events" | "accounts" | "files" => json!({}),
        _ => json!({"status": "active", "amount": n, "currency": "eur"}),
    };
    if let (Some(value), Value::Object(fields)) = (value.as_object_mut(), fields) {
        value.extend(fields);
    }
}

/// A charge of about 1 kB.
fn charge(n: u64) -> Value {
    json!({
        "amount": 2000 + n, "amount_captured": 2000 + n, "amount_refunded": 0, "balance_transaction": format!("txn_{n:08}"),
        "billing_details": {"address": {"city": "Wien", "country": "AT", "line1": "Ring 1", "postal_code": "1010"},
            "email": format!("c{n}@example.com"), "name": "Jane Doe", "phone": null},
        "calculated_statement_descriptor": "EXAMPLE.COM", "captured": true, "currency": "eur",
        "customer": format!("cus_{n:08}"), "description": "Order \u{2116} 17", "disputed": false, "failure_code": null,
        "failure_message": null, "fraud_details": {}, "invoice": null, "metadata": {"order": n.to_string()},
        "outcome": {"network_status": "approved_by_network", "reason": null, "risk_level": "normal", "risk_score": 5},
        "paid": true, "payment_intent": format!("pi_{n:08}"), "payment_method": format!("pm_{n:08}"),
        "payment_method_details": {"card": {"brand": "visa", "exp_month": 8, "exp_year": 2030, "last4": "4242"},
            "type": "card"},
        "receipt_url": format!("https://pay.example.com/receipts/{n}"), "refunded": false, "status": "succeeded",
    })
}
