//! The objects of the stand-in.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::stand_in::Script;

/// What becomes of a bulk operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationFault {
    /// It fails with a fault of the server.
    Failed,
    /// Somebody cancels it.
    Canceled,
    /// It may not read what it was asked for.
    Denied,
}

/// All objects, and what shall go wrong.
pub struct State {
    now: Option<i64>,
    lists: BTreeMap<&'static str, BTreeMap<u64, Object>>,
    pub(super) script: Script<State>,
    pub(super) tokens: HashSet<String>,
    pub(super) operations: BTreeMap<String, Operation>,
    made: u64,
    /// Changes can be seen only so many seconds later.
    pub visible_after: i64,
    /// How often an operation is looked at before it is complete.
    pub looks: u32,
    /// What becomes of the next operations.
    pub operation_faults: VecDeque<OperationFault>,
    /// So many times somebody else's operation is under way.
    pub busy: u32,
    /// The next result lacks so many bytes at its end.
    pub cut: usize,
    /// The version that answers, whatever was asked for.
    pub version: Option<String>,
    /// Scopes of the app.
    pub scopes: Vec<&'static str>,
    /// Points that are left, and how many come back in a second.
    pub points: (f64, f64),
}

struct Object {
    value: Value,
    before: Option<Value>,
    changed: i64,
}

pub(super) struct Operation {
    pub lines: String,
    pub count: usize,
    pub looks: u32,
    pub fault: Option<OperationFault>,
}

/// A list, the type of its objects, what is compared of them, the lists inside them with the streams that these are.
struct Kind {
    list: &'static str,
    typename: &'static str,
    label: &'static str,
    inside: &'static [(&'static str, &'static str, &'static str)],
}

const KINDS: [Kind; 9] = [
    Kind {
        list: "orders",
        typename: "Order",
        label: "name",
        inside: &[
            ("lineItems", "LineItem", "order_line_items"),
            ("transactions", "OrderTransaction", "transactions"),
            ("refunds", "Refund", "refunds"),
            ("fulfillments", "Fulfillment", "fulfillments"),
        ],
    },
    Kind { list: "customers", typename: "Customer", label: "firstName", inside: &[] },
    Kind {
        list: "products",
        typename: "Product",
        label: "title",
        inside: &[("variants", "ProductVariant", "product_variants")],
    },
    Kind {
        list: "inventoryItems",
        typename: "InventoryItem",
        label: "sku",
        inside: &[("inventoryLevels", "InventoryLevel", "inventory_levels")],
    },
    Kind { list: "collections", typename: "Collection", label: "title", inside: &[] },
    Kind {
        list: "draftOrders",
        typename: "DraftOrder",
        label: "name",
        inside: &[("lineItems", "DraftOrderLineItem", "draft_order_line_items")],
    },
    Kind { list: "discountNodes", typename: "DiscountNode", label: "id", inside: &[] },
    Kind { list: "events", typename: "BasicEvent", label: "action", inside: &[] },
    Kind { list: "locations", typename: "Location", label: "name", inside: &[] },
];

fn kind(list: &str) -> &'static Kind {
    KINDS.iter().find(|kind| kind.list == list).unwrap_or_else(|| panic!("the stand-in has no list \"{list}\""))
}

impl Default for State {
    fn default() -> Self {
        Self {
            now: None,
            lists: KINDS.iter().map(|kind| (kind.list, BTreeMap::new())).collect(),
            script: Script::default(),
            tokens: HashSet::new(),
            operations: BTreeMap::new(),
            made: 0,
            visible_after: 0,
            looks: 1,
            operation_faults: VecDeque::new(),
            busy: 0,
            cut: 0,
            version: None,
            scopes: vec![
                "read_all_orders",
                "read_orders",
                "read_customers",
                "write_products",
                "read_inventory",
                "read_draft_orders",
                "read_discounts",
                "read_locations",
            ],
            points: (1_000_000.0, 100.0),
        }
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

    /// Ends all tokens that were fetched.
    pub fn end_tokens(&mut self) {
        self.tokens.clear();
    }

    /// Forgets operations and their results, as after a week.
    pub fn forget_operations(&mut self) {
        self.operations.clear();
    }

    pub(super) fn next(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    /// Adds an object, now. Gives its id.
    pub fn create(&mut self, list: &str, fields: Value) -> String {
        let now = self.now();
        self.create_at(list, fields, now)
    }

    fn create_at(&mut self, list: &str, fields: Value, at: i64) -> String {
        let kind = kind(list);
        let n = self.next();
        let id = format!("gid://shopify/{}/{n}", kind.typename);
        let mut value = json!({"__typename": kind.typename, "id": id, "legacyResourceId": n.to_string(),
            "createdAt": time(at), "updatedAt": time(at), "tags": ["a", "b \u{fc}"],
            "totalPriceSet": bag(n), "amountSpent": {"amount": format!("{n}.50"), "currencyCode": "EUR"},
            "customer": {"id": "gid://shopify/Customer/1"}, "action": "create",
            "shippingAddress": {"city": "Wien", "zip": "1010"}});
        if kind.label != "id" {
            value[kind.label] = format!("{list} {n}").into();
        }
        let fields = self.with_children(kind, fields);
        if let Some(value) = value.as_object_mut() {
            value.extend(fields);
        }
        self.lists.entry(kind.list).or_default().insert(n, Object { value, before: None, changed: at });
        id
    }

    /// Gives what belongs to an object its types and ids.
    fn with_children(&mut self, kind: &Kind, fields: Value) -> Map<String, Value> {
        let mut fields = fields.as_object().cloned().unwrap_or_default();
        for (field, typename, _) in kind.inside {
            for child in fields.get_mut(*field).and_then(Value::as_array_mut).into_iter().flatten() {
                if child.get("id").is_none() {
                    child["id"] = format!("gid://shopify/{typename}/{}", self.next()).into();
                }
                child["__typename"] = (*typename).into();
            }
        }
        fields
    }

    /// Adds `n` objects with what belongs to them, made at equal distances in `[from, to)`.
    pub fn seed(&mut self, list: &str, n: usize, from: i64, to: i64) {
        for i in 0..n {
            let share = i128::from(to - from) * i as i128 / (n.max(1) as i128);
            let mut fields = json!({});
            for (field, ..) in kind(list).inside {
                let children = (0..i % 4)
                    .map(|q| json!({"quantity": q, "price": format!("{q}.25"), "originalUnitPriceSet": bag(q as u64)}));
                fields[*field] = children.collect();
            }
            self.create_at(list, fields, from + i64::try_from(share).unwrap_or(0));
        }
    }

    fn object(&mut self, list: &str, id: &str) -> &mut Object {
        let n: u64 = id.rsplit('/').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let objects = self.lists.entry(kind(list).list).or_default();
        objects.get_mut(&n).expect("an object that exists")
    }

    /// Changes fields of an object, now.
    ///
    /// # Panics
    /// When there is no such object.
    pub fn update(&mut self, list: &str, id: &str, fields: Value) {
        let now = self.now();
        let fields = self.with_children(kind(list), fields);
        let object = self.object(list, id);
        object.before = Some(object.value.clone());
        object.changed = now;
        object.value["updatedAt"] = time(now).into();
        if let Some(value) = object.value.as_object_mut() {
            value.extend(fields);
        }
    }

    /// Deletes an object, with its event.
    ///
    /// # Panics
    /// When there is no such object.
    pub fn delete(&mut self, list: &str, id: &str) {
        let kind = kind(list);
        self.object(list, id);
        let n: u64 = id.rsplit('/').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        self.lists.entry(kind.list).or_default().remove(&n);
        let event = json!({"action": "destroy", "subjectId": id, "subjectType": kind.typename.to_uppercase()});
        self.create("events", event);
    }

    /// The objects of a list that a search finds now, in the order of their making.
    pub(super) fn found(&self, list: &str, search: &str) -> Vec<&Value> {
        let head = self.now() - self.visible_after;
        let objects = self.lists.get(list).into_iter().flat_map(|objects| objects.values());
        let visible = objects
            .filter_map(|object| if object.changed <= head { Some(&object.value) } else { object.before.as_ref() });
        visible.filter(|value| search.is_empty() || search.split(" AND ").all(|term| holds(value, term))).collect()
    }

    /// What the lake must hold of a stream, by id: what tests compare of its objects.
    pub fn truth(&self, stream: &str) -> BTreeMap<String, Map<String, Value>> {
        let mut truth = BTreeMap::new();
        for kind in &KINDS {
            let name = match kind.list {
                "inventoryItems" => "inventory_items",
                "draftOrders" => "draft_orders",
                "discountNodes" => "discounts",
                other => other,
            };
            for value in self.found(kind.list, "") {
                let id = value["id"].as_str().unwrap_or_default();
                if name == stream {
                    let row = [("id", value["id"].clone()), (kind.label, value[kind.label].clone())];
                    truth
                        .insert(id.to_owned(), row.map(|(name, value)| (name.to_owned(), value)).into_iter().collect());
                }
                for (field, ..) in kind.inside.iter().filter(|(_, _, own)| *own == stream) {
                    for child in value[*field].as_array().into_iter().flatten() {
                        let parent = format!("{}{}Id", kind.typename[..1].to_lowercase(), &kind.typename[1..]);
                        let row = Map::from_iter([("id".to_owned(), child["id"].clone()), (parent, id.into())]);
                        truth.insert(child["id"].as_str().unwrap_or_default().to_owned(), row);
                    }
                }
            }
        }
        truth
    }
}

fn bag(n: u64) -> Value {
    let money = json!({"amount": format!("{n}.10"), "currencyCode": "EUR"});
    json!({"shopMoney": money, "presentmentMoney": money})
}

fn time(seconds: i64) -> String {
    chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default().format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// One term of a search: `updated_at:>='…'`, `action:destroy`.
fn holds(value: &Value, term: &str) -> bool {
    let Some((field, wanted)) = term.trim().split_once(':') else { return false };
    let field = match field {
        "updated_at" => "updatedAt",
        "created_at" => "createdAt",
        other => other,
    };
    let have = value[field].as_str().unwrap_or_default();
    let text = |prefix: &str| wanted.strip_prefix(prefix).map(|text| text.trim_matches('\''));
    // Times of one form sort as texts.
    match (text(">="), text("<")) {
        (Some(from), _) => have >= from,
        (_, Some(to)) => have < to,
        _ => have == wanted.trim_matches('\''),
    }
}
